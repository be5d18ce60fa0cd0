//! Commands that act on the server through its REST API.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::Value;

use super::connection::{Connection, Network};
use super::error::{printable, say};
use super::{CliError, Common};

/// `id`, `stats`: what the API says, for people or as JSON.
pub async fn show(common: &Common, what: &str) -> Result<(), CliError> {
    let connection = Connection::open(common, Network::Local).await?;
    let value: Result<Value, CliError> = connection.json(connection.api(Method::GET, what)).await;
    connection.close().await;
    print_value(common, &value?)
}

/// `gc`, `scrub`: start it, wait, print its report.
pub async fn post_report(common: &Common, what: &str) -> Result<(), CliError> {
    let connection = Connection::open(common, Network::Local).await?;
    let value: Result<Value, CliError> = connection.json(connection.api(Method::POST, what)).await;
    connection.close().await;
    print_value(common, &value?)
}

pub async fn peers(common: &Common) -> Result<(), CliError> {
    let connection = Connection::open(common, Network::Local).await?;
    let value: Result<Value, CliError> = connection.json(connection.api(Method::GET, "p2p/peers")).await;
    connection.close().await;
    let value = value?;
    if common.json {
        return say(value);
    }
    let peers = value.get("items").or_else(|| value.get("peers")).and_then(Value::as_array);
    let peers = peers.map(Vec::as_slice).unwrap_or_default();
    if peers.is_empty() {
        eprintln!("no peer is connected; a running server finds them (`tidegate serve --peer MULTIADDR`)");
    }
    for peer in peers {
        let text = |name: &str| peer.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let rtt = peer.get("rtt_ms").and_then(Value::as_f64).map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        say(format_args!("{}  {}  {}  {}", text("peer_id"), text("transport"), rtt, printable(&text("agent"))))?;
    }
    Ok(())
}

pub async fn pin_add(common: &Common, cid: &str, direct: bool) -> Result<(), CliError> {
    let cid = crate::ipld::cid::parse(cid).map_err(CliError::usage)?;
    let connection = Connection::open(common, Network::Peers).await?;
    let path = if direct { format!("pins/{cid}?mode=direct") } else { format!("pins/{cid}") };
    let answer = connection.send(connection.api(Method::PUT, &path)).await;
    connection.close().await;
    answer?;
    if common.json { say(serde_json::json!({ "cid": cid.to_string() })) } else { say(cid) }
}

pub async fn pin_rm(common: &Common, cid: &str) -> Result<(), CliError> {
    let cid = crate::ipld::cid::parse(cid).map_err(CliError::usage)?;
    let connection = Connection::open(common, Network::Local).await?;
    let answer = connection.send(connection.api(Method::DELETE, &format!("pins/{cid}"))).await;
    connection.close().await;
    answer?;
    if common.json { say(serde_json::json!({ "cid": cid.to_string() })) } else { say(cid) }
}

pub async fn pin_ls(common: &Common) -> Result<(), CliError> {
    let connection = Connection::open(common, Network::Local).await?;
    let result = pin_pages(common, &connection).await;
    connection.close().await;
    result
}

async fn pin_pages(common: &Common, connection: &Connection) -> Result<(), CliError> {
    let mut cursor: Option<String> = None;
    loop {
        let query = cursor.as_ref().map(|cursor| format!("pins?cursor={cursor}")).unwrap_or_else(|| "pins".to_owned());
        let page: Value = connection.json(connection.api(Method::GET, &query)).await?;
        for pin in page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
            if common.json {
                say(pin)?;
                continue;
            }
            let text = |name: &str| pin.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            say(format_args!("{} {}  {}", text("cid"), text("mode"), printable(&text("name"))))?;
        }
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            return Ok(());
        }
    }
}

pub async fn car_import(common: &Common, files: Vec<PathBuf>) -> Result<(), CliError> {
    let connection = Connection::open(common, Network::Local).await?;
    let result = import_each(common, &connection, files).await;
    connection.close().await;
    result
}

async fn import_each(common: &Common, connection: &Connection, files: Vec<PathBuf>) -> Result<(), CliError> {
    for path in files {
        let file = tokio::fs::File::open(&path).await.map_err(|error| CliError::file(&path, &error))?;
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, 256 * 1024));
        let request = connection.api(Method::POST, "car").header("Content-Type", "application/vnd.ipld.car").body(body);
        let report: Value = connection
            .json(request)
            .await
            .map_err(|error| CliError { message: format!("{}: {}", path.display(), error.message), ..error })?;
        // A partial CAR may name a root that it does not hold: imported, but not kept by a pin.
        for root in report.get("missing").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
            let root = root.as_str().unwrap_or_default();
            eprintln!("warning: {}: root {root} is not in the file and is not pinned", path.display());
        }
        if common.json {
            say(report)?;
            continue;
        }
        for root in report.get("roots").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
            say(root.as_str().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// One `name: value` a line; JSON when asked.
fn print_value(common: &Common, value: &Value) -> Result<(), CliError> {
    if common.json {
        return say(value);
    }
    let mut lines = Vec::new();
    flatten(String::new(), value, &mut lines);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, text) in lines {
        say(format_args!("{name:width$}  {}", printable(&text)))?;
    }
    Ok(())
}

/// Nested names joined by dots, at any depth (the server's own answer: depth is bounded by serde_json's parser).
fn flatten(prefix: String, value: &Value, lines: &mut Vec<(String, String)>) {
    let join = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| flatten(join(name), value, lines)),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let texts: Vec<String> = items.iter().map(scalar).collect();
            lines.push((prefix, texts.join(" ")));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(join(&at.to_string()), value, lines));
        }
        other => lines.push((prefix, scalar(other))),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
