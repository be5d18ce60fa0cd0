//! `tidegate explain CID[/path]`: why is it slow, or missing?

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::Value;

use super::connection::{Connection, Network};
use super::error::{printable, say};
use super::{CliError, Common, ContentArgs, Exit};
use crate::explain;
use crate::ipld::path::{ContentPath, Namespace};
use crate::units::ByteSize;

pub async fn explain(common: &Common, args: ContentArgs) -> Result<(), CliError> {
    let path = ContentPath::parse_text(&args.path)
        .map_err(|error| CliError::usage(error).hint("write CID[/path], for example bafybei.../readme.md"))?;
    let timeout = args.timeout.unwrap_or(explain::DEFAULT_TIMEOUT);
    if timeout > explain::MAX_TIMEOUT {
        let longest = humantime::format_duration(explain::MAX_TIMEOUT);
        return Err(CliError::usage(format!("--timeout is at most {longest} here")));
    }
    let connection = Connection::open(common, Network::Peers).await?;
    let answer = ask(&connection, path, timeout).await;
    connection.close().await;
    let answer = answer?;
    if common.json {
        say(&answer)?;
    } else {
        print(&answer)?;
    }
    match text(&answer, "verdict") {
        "local" | "available" => Ok(()),
        verdict => {
            let exit = match verdict {
                "denied" => Exit::Refused,
                "unknown" => Exit::TimedOut,
                _ => Exit::NotFound,
            };
            Err(CliError::new(exit, text(&answer, "summary")))
        }
    }
}

async fn ask(connection: &Connection, path: ContentPath, timeout: Duration) -> Result<Value, CliError> {
    let mut named = String::new();
    let path = match &path.namespace {
        Namespace::Ipfs(_) => path,
        Namespace::Ipns(name) => {
            let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
            let resolved: Value = connection.json(connection.api(Method::GET, &format!("names/{name}"))).await?;
            let mut to = ContentPath::parse_text(text(&resolved, "path")).map_err(CliError::failed)?;
            to.segments.extend(path.segments);
            named = format!("&name={name}");
            to
        }
    };
    let root = path.cid().ok_or_else(|| CliError::failed("the name leads to no CID"))?;
    let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    let mut query = format!("explain/{root}?timeout_s={}", seconds.max(1));
    query.push_str(&named);
    if !path.segments.is_empty() {
        query.push_str(&format!("&path={}", utf8_percent_encode(&path.segments.join("/"), NON_ALPHANUMERIC)));
    }
    connection.json(connection.api(Method::GET, &query)).await
}

/// One line a fact; what is not known is left out or said.
fn print(answer: &Value) -> Result<(), CliError> {
    say(format_args!("{}", text(answer, "target")))?;
    if answer["path_is_cut"] == true {
        say("           (the first block on the path that is not here)")?;
    }
    say(format_args!("verdict    {}: {}", text(answer, "verdict"), text(answer, "summary")))?;
    say(format_args!("local      {}", local(&answer["local"])))?;
    for router in list(&answer["routers"]) {
        let outcome = match (router["elapsed_ms"].as_f64(), router["error"].as_str()) {
            (_, Some(error)) => printable(error),
            (Some(ms), None) => format!("{} named, in {ms:.0} ms", router["providers"]),
            (None, None) => format!("{} named, and no end within the time", router["providers"]),
        };
        let name = match text(router, "kind") {
            kind if kind == text(router, "name") => kind.to_owned(),
            kind => format!("{kind} {}", text(router, "name")),
        };
        say(format_args!("router     {}: {outcome}", printable(&name)))?;
    }
    for provider in list(&answer["providers"]) {
        say(format_args!("provider   {}  {}", text(provider, "peer_id"), printable(&of_provider(provider))))?;
    }
    if let Some(more @ 1..) = answer["providers_unasked"].as_u64() {
        say(format_args!("           and {more} more that were named and not asked"))?;
    }
    say(format_args!("estimate   {}", estimate(&answer["estimate"])))
}

fn local(local: &Value) -> String {
    let at_least = if local["whole"] == true { "" } else { "at least " };
    let mut said = match local["tier"].as_str() {
        None => return "not here".to_owned(),
        Some(tier) => format!("in {tier}, {at_least}{} blocks here", local["blocks_here"]),
    };
    if let Some(missing @ 1..) = local["blocks_missing"].as_u64() {
        said.push_str(&format!(", {at_least}{missing} missing"));
    }
    if let Some(bytes @ 1..) = local["bytes_missing"].as_u64() {
        said.push_str(&format!(" ({})", ByteSize(bytes).human()));
    }
    if let Some(pin) = local["pin"].as_str() {
        said.push_str(&format!(", pinned ({pin})"));
    }
    said
}

fn of_provider(provider: &Value) -> String {
    let ms = |name: &str| provider[name].as_f64();
    let mut said = vec![match text(provider, "has") {
        "yes" => "has it".to_owned(),
        "no" => "does not have it".to_owned(),
        "silent" => "said nothing when asked".to_owned(),
        _ => "was not asked".to_owned(),
    }];
    if let Some(transport) = provider["transport"].as_str() {
        said.push(transport.to_owned());
    }
    match (text(provider, "connection"), ms("connect_ms"), provider["connect_error"].as_str()) {
        ("connected", ..) => said.push("connected before".to_owned()),
        ("dialled", Some(took), _) => said.push(format!("connected in {took:.0} ms")),
        ("failed", _, Some(error)) => said.push(format!("not reached: {error}")),
        ("pending", ..) => said.push("no connection within the time".to_owned()),
        _ => {}
    }
    said.extend(ms("answer_ms").map(|took| format!("answered in {took:.1} ms")));
    said.extend(ms("rtt_ms").map(|rtt| format!("RTT {rtt:.1} ms")));
    said.extend(ms("bytes_per_second").map(|rate| format!("{:.1} Mbit/s", rate * 8.0 / 1e6)));
    let found: Vec<&str> = list(&provider["found_by"]).iter().filter_map(Value::as_str).collect();
    if !found.is_empty() {
        said.push(format!("found by {}", found.join(" and ")));
    }
    said.join(", ")
}

fn estimate(estimate: &Value) -> String {
    if estimate["bytes"] == 0 {
        return "nothing to fetch".to_owned();
    }
    let mut said = Vec::new();
    said.extend(estimate["first_byte_ms"].as_f64().map(|ms| format!("first byte in {ms:.1} ms at best")));
    said.extend(estimate["bytes_per_second"].as_f64().map(|rate| format!("{:.1} Mbit/s together", rate * 8.0 / 1e6)));
    if let (Some(bytes), Some(ms)) = (estimate["bytes"].as_u64(), estimate["total_ms"].as_f64()) {
        said.push(format!("all of {} in {ms:.0} ms at best", ByteSize(bytes).human()));
    } else if estimate["bytes"].is_null() {
        said.push("size not known without fetching".to_owned());
    }
    if estimate["bytes_per_second"].is_null() {
        said.push("no data on rates".to_owned());
    }
    said.join(", ")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
