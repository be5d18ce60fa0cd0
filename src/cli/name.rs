//! `tidegate name`: put, publish, resolve.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueHint};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::connection::{Connection, Network};
use super::error::{printable, say};
use super::{CliError, Common};
use crate::ipld::ipns::{IpnsName, MAX_RECORD, Record};
use crate::ipld::path::ContentPath;
use crate::names::Name;

#[derive(Debug, Subcommand)]
pub enum NameCommand {
    /// Keep an IPNS record that somebody signed, and announce it
    Put {
        /// IPNS key: k51..., 12D3... or Qm...
        name: String,
        /// File with the record; - reads standard input
        #[arg(value_hint = ValueHint::FilePath)]
        record: PathBuf,
    },
    /// Sign a record that points this node's name to a path; it is renewed while the server runs
    Publish {
        /// /ipfs/CID[/path] or /ipns/NAME[/path]
        path: String,
        /// Key to sign with, made at its first use [default: the node's own]
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
        /// How long the record is valid
        #[arg(long, value_name = "DUR", default_value = "48h", value_parser = humantime::parse_duration)]
        lifetime: Duration,
        /// How long others may keep the answer
        #[arg(long, value_name = "DUR", default_value = "5m", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Show where a name leads
    Resolve {
        /// IPNS key, DNS name, or /ipns/NAME[/path]
        name: String,
        /// Give up after this long (30s, 2m)
        #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
}

pub async fn run(common: &Common, command: NameCommand) -> Result<(), CliError> {
    match command {
        NameCommand::Put { name, record } => put(common, &name, record).await,
        NameCommand::Publish { path, key, lifetime, ttl } => publish(common, &path, key, lifetime, ttl).await,
        NameCommand::Resolve { name, timeout } => resolve(common, &name, timeout).await,
    }
}

async fn put(common: &Common, name: &str, path: PathBuf) -> Result<(), CliError> {
    let name: IpnsName = name.parse().map_err(CliError::usage)?;
    let bytes = read(&path).await?;
    // Refused here already, so that no server needs to run to learn why.
    let record = Record::verify(&name, &bytes.clone().into(), std::time::SystemTime::now())
        .map_err(|error| CliError::failed(format!("{}: {error}", path.display())).hint(format!("nothing was kept for {name}")))?;
    let connection = Connection::open(common, Network::Peers).await?;
    let request = connection.api(Method::PUT, &format!("names/{name}"));
    let answer = connection.send(request.header(CONTENT_TYPE, RECORD).body(bytes)).await;
    connection.close().await;
    answer?;
    if common.json {
        return say(json!({ "name": name.to_string(), "value": record.value(), "sequence": record.sequence() }));
    }
    say(format_args!("{name} -> {}", printable(record.value())))
}

const RECORD: &str = "application/vnd.ipfs.ipns-record";

/// At most one byte more than a record may have: enough to be refused for its size.
async fn read(path: &PathBuf) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let limit = MAX_RECORD as u64 + 1;
    let read = if path.as_os_str() == "-" {
        tokio::io::stdin().take(limit).read_to_end(&mut bytes).await
    } else {
        match tokio::fs::File::open(path).await {
            Ok(file) => file.take(limit).read_to_end(&mut bytes).await,
            Err(error) => Err(error),
        }
    };
    read.map_err(|error| CliError::file(path, &error))?;
    Ok(bytes)
}

async fn publish(
    common: &Common,
    path: &str,
    key: Option<String>,
    lifetime: Duration,
    ttl: Duration,
) -> Result<(), CliError> {
    let value = ContentPath::parse_text(path).map_err(|error| {
        CliError::usage(error).hint("write /ipfs/CID[/path] or /ipns/NAME[/path]")
    })?;
    let connection = Connection::open(common, Network::Peers).await?;
    let body = json!({
        "path": value.to_string(),
        "key": key,
        "lifetime_s": lifetime.as_secs(),
        "ttl_s": ttl.as_secs(),
    });
    let request = connection.api(Method::POST, "names").header(CONTENT_TYPE, "application/json");
    let answer: Result<Value, CliError> = connection.json(request.body(body.to_string())).await;
    connection.close().await;
    let answer = answer?;
    for router in answer.get("announced").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
        if let Some(error) = router.get("error").and_then(Value::as_str) {
            let router = router.get("router").and_then(Value::as_str).unwrap_or("router");
            eprintln!("warning: {router}: {}; the record is kept and announced again later", printable(error));
        }
    }
    if common.json {
        return say(answer);
    }
    let name = answer.get("name").and_then(Value::as_str).unwrap_or_default();
    say(format_args!("{name} -> {}", printable(&value.to_string())))
}

async fn resolve(common: &Common, name: &str, timeout: Option<Duration>) -> Result<(), CliError> {
    let bare = name.strip_prefix("ipns://").or_else(|| name.strip_prefix("/ipns/")).unwrap_or(name);
    let (root, rest) = bare.split_once('/').unwrap_or((bare, ""));
    let root: Name = root.parse().map_err(CliError::usage)?;
    let connection = Connection::open(common, Network::Peers).await?;
    let mut request = connection.api(Method::GET, &format!("names/{}", utf8_percent_encode(&root.to_string(), NON_ALPHANUMERIC)));
    if let Some(timeout) = timeout {
        request = request.timeout(timeout);
    }
    let answer: Result<Value, CliError> = connection.json(request).await;
    connection.close().await;
    let answer = answer?;
    if common.json {
        return say(answer);
    }
    let path = answer.get("path").and_then(Value::as_str).unwrap_or_default();
    let rest = rest.trim_matches('/');
    let end = if rest.is_empty() { String::new() } else { format!("/{rest}") };
    say(format_args!("{}{}", printable(path), printable(&end)))
}
