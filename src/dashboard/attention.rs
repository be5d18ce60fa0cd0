//! "Needs attention": each entry names a cause, a figure and an action, and goes when the cause does.

use super::NodeSnapshot;
use super::filters::{count, percent};
use crate::db::DbState;
use crate::db::queries::Overview;

/// Under this many routed requests the share of slow ones says nothing.
const MIN_ROUTED: u64 = 20;
/// The share of requests that waited over 500 ms for a provider from which a person should know.
const SLOW_ROUTING_SHARE: f64 = 0.25;
/// Under this many requests the share of failures says nothing.
const MIN_REQUESTS: u64 = 20;
const FAILED_SHARE: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Serious,
    Warning,
    Notice,
    Fine,
}

impl Level {
    pub fn class(&self) -> &'static str {
        match self {
            Self::Serious => "bad",
            Self::Warning => "warn",
            Self::Notice => "",
            Self::Fine => "ok",
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Serious => "serious",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Fine => "fine",
        }
    }

    pub fn sign(&self) -> &'static str {
        match self {
            Self::Serious | Self::Warning => "!",
            Self::Notice => "i",
            Self::Fine => "✓",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub level: Level,
    pub title: String,
    pub text: String,
    /// A command that mends it.
    pub command: Option<String>,
}

/// The most serious first. `overview` is `None` while the database is away.
pub fn needs(database: Option<&DbState>, node: &NodeSnapshot, overview: Option<&Overview>) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut add = |level, title: String, text: &str, command: Option<&str>| {
        needs.push(Need { level, title, text: text.to_owned(), command: command.map(str::to_owned) });
    };
    if let Some(DbState::Down { reason, .. }) = database {
        let text = format!(
            "{} Content is served all the same; records wait up to a bound, then are counted and dropped.",
            database_advice(reason)
        );
        add(Level::Serious, "The metrics database is down.".to_owned(), &text, None);
    }
    if let Some(problem) = &node.store_problem {
        let text = format!("{problem}. Reads and fetches go on; adding and pinning fail until there is room.");
        add(Level::Serious, "The local store cannot be written.".to_owned(), &text, Some("tidegate gc"));
    }
    if node.offline {
        add(
            Level::Notice,
            "Running offline.".to_owned(),
            "Only local content is served. Start without --offline to fetch from peers.",
            None,
        );
    } else {
        if node.peers == 0 {
            let text = "Nothing that is not here already can be fetched. Name a peer with --peer, or check that --bootstrap is not none and outgoing connections are allowed.";
            add(Level::Serious, "No peer is connected.".to_owned(), text, None);
        } else if node.exchange_peers == 0 {
            let title = format!("None of {} connected peers speaks Bitswap yet.", count(node.peers as u64));
            add(
                Level::Warning,
                title,
                "Blocks come from peers that speak it, or from HTTP providers. Name one with --peer.",
                None,
            );
        }
        if node.routers.is_empty() {
            let text = "Only connected peers are asked who has a CID. Leave the DHT on, or name a delegated router with --router URL.";
            add(Level::Warning, "No source of providers is configured.".to_owned(), text, None);
        }
    }
    for warning in &node.warnings {
        let (title, text, command) = explain(warning);
        add(Level::Warning, title, &text, command.as_deref());
    }
    if let Some(seen) = overview {
        if seen.routed >= MIN_ROUTED && seen.routed_slowly as f64 >= SLOW_ROUTING_SHARE * seen.routed as f64 {
            let share = percent(seen.routed_slowly as f64 / seen.routed as f64);
            let title = format!("{share} of {} cold requests waited over 500 ms for providers.", count(seen.routed));
            let text = if node.routers.iter().any(|router| router == "delegated") {
                "The routers answer slowly from here. Another delegated router beside them helps: the first answer wins."
            } else {
                "No delegated router is configured. Name one with --router URL: it is asked beside the others, and the first answer wins."
            };
            add(Level::Warning, title, text, None);
        }
        let failed = seen.outcomes.timeout + seen.outcomes.error + seen.outcomes.truncated;
        if seen.requests >= MIN_REQUESTS && failed as f64 > FAILED_SHARE * seen.requests as f64 {
            let share = percent(failed as f64 / seen.requests as f64);
            let title = format!("{share} of {} requests timed out, broke off or failed.", count(seen.requests));
            add(Level::Serious, title, "The list of retrievals, filtered by outcome, names the phase of each.", None);
        }
    }
    if needs.is_empty() {
        needs.push(Need {
            level: Level::Fine,
            title: "Nothing.".to_owned(),
            text: "Peers are connected, providers can be found, and the database answers.".to_owned(),
            command: None,
        });
    }
    needs.sort_by_key(|need| need.level);
    needs
}

/// The reason in words, and what helps. The database is tried again by itself in each case.
pub fn database_advice(reason: &str) -> String {
    let lower = reason.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let next = if has(&["disk is full", "disk full", "no space", "53100", "max_page_count"]) {
        "It is full: free space on its disk, or shorten how long rows are kept. It is tried again every few seconds and goes on by itself."
    } else if has(&["locked", "busy"]) {
        "Another process holds its lock: end that one, or wait. It is tried again every few seconds and goes on by itself."
    } else if has(&["readonly", "read-only", "permission", "unable to open"]) {
        "Its file or folder cannot be opened or written: check that it is there and who owns it. It is tried again every few seconds and goes on by itself."
    } else if has(&["refused", "connect", "timed out", "no connection", "shutting down", "terminating"]) {
        "The database server does not answer: start it, or mend the URL of --database. It is tried again every few seconds and goes on by itself."
    } else {
        "It is tried again every few seconds and goes on by itself: check the path or URL of --database and the disk."
    };
    format!("{}. {next}", super::filters::tame(reason.trim_end_matches('.'), 300))
}

/// Splits a warning of the node into a headline, the rest and its command. The receive buffer's is worded for pages.
fn explain(warning: &str) -> (String, String, Option<String>) {
    if let Some(rest) = warning.strip_prefix("net.core.rmem_default is ") {
        let number = rest.split(' ').next().and_then(|text| text.parse::<u64>().ok());
        if let Some(bytes) = number {
            let command =
                warning.rsplit_once("(sysctl").map(|(_, tail)| format!("sysctl{}", tail.trim_end_matches(')')));
            let size = crate::units::ByteSize(bytes).human();
            let text = "QUIC from distant peers is slowed by it: packets are dropped before they are read.";
            return (format!("The UDP receive buffer is {size}."), text.to_owned(), command);
        }
    }
    match warning.split_once(": ") {
        Some((title, rest)) => (format!("{}.", title.trim_end_matches('.')), rest.to_owned(), None),
        None => (warning.to_owned(), String::new(), None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn up() -> DbState {
        DbState::Up { since: SystemTime::UNIX_EPOCH, backend: "sqlite" }
    }

    fn healthy() -> NodeSnapshot {
        NodeSnapshot { peers: 3, exchange_peers: 2, routers: vec!["dht".into()], ..NodeSnapshot::default() }
    }

    #[test]
    fn a_healthy_node_needs_nothing_and_says_so() {
        let needs = needs(Some(&up()), &healthy(), None);
        assert_eq!(needs.len(), 1);
        assert_eq!(needs[0].level, Level::Fine);
    }

    #[test]
    fn causes_are_named_most_serious_first() {
        let down = DbState::Down { reason: "no such file".into(), since: SystemTime::UNIX_EPOCH };
        let node = NodeSnapshot {
            warnings: vec![
                "net.core.rmem_default is 212992 bytes, which slows QUIC from distant peers: set it to 4194304 (sysctl -w net.core.rmem_default=4194304)".into(),
            ],
            ..NodeSnapshot::default()
        };
        let needs = needs(Some(&down), &node, None);
        let titles: Vec<&str> = needs.iter().map(|need| need.title.as_str()).collect();
        assert_eq!(titles[..2], ["The metrics database is down.", "No peer is connected."]);
        let buffer = needs.iter().find(|need| need.title.contains("receive buffer")).unwrap();
        assert_eq!(buffer.title, "The UDP receive buffer is 208 KiB.");
        assert_eq!(buffer.command.as_deref(), Some("sysctl -w net.core.rmem_default=4194304"));
    }

    #[test]
    fn an_offline_node_is_not_told_to_find_peers() {
        let node = NodeSnapshot { offline: true, ..NodeSnapshot::default() };
        assert!(needs(Some(&up()), &node, None).iter().all(|need| need.level == Level::Notice));
    }
}
