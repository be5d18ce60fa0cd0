//! The peers that this node has met: a table to sort and filter.

use std::cmp::Ordering;
use std::time::SystemTime;

use askama::Template;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::export::{self, Links, Table, Wanted, row};
use super::filters::{self, NONE, cell, count, ms, percent};
use super::page::Page;
use super::{State, Unread, error, overview};
use crate::db::queries::{MAX_LIMIT, PeerOrder, PeerRow, Window};
use crate::topology;

const PER_PAGE: usize = 50;

#[derive(Template)]
#[template(path = "dashboard/peers.html")]
struct PeersPage {
    page: Page,
    view: View,
}

#[derive(Default)]
struct View {
    summary: String,
    q: String,
    transports: Vec<Choice>,
    states: Vec<Choice>,
    sort: String,
    dir: &'static str,
    filtered: bool,
    problem: Option<String>,
    columns: Vec<ColumnView>,
    rows: Vec<PeerView>,
    newer: Option<String>,
    older: Option<String>,
    export: Option<Links>,
    /// How other peers reach this node.
    address: Option<String>,
    command: String,
    offline: bool,
}

struct Choice {
    value: String,
    label: String,
    selected: bool,
}

struct ColumnView {
    name: &'static str,
    href: String,
    class: &'static str,
    /// For `aria-sort`; empty when the table is not sorted by it.
    sorted: &'static str,
    sign: &'static str,
}

struct PeerView {
    id: String,
    short: String,
    connected: bool,
    agent: String,
    transports: String,
    rtt: String,
    rate: String,
    success: String,
    tried: String,
    share: String,
    /// Width of the bar of the share, 0..60.
    bar: f64,
    bytes_in: String,
    bytes_in_exact: String,
    bytes_out: String,
    failures: String,
    strikes: String,
    ago: String,
    seen_iso: String,
}

/// What the table can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Peer,
    Agent,
    Transport,
    Rtt,
    Rate,
    Success,
    Share,
    BytesIn,
    BytesOut,
    Failures,
    Strikes,
    Seen,
}

impl Column {
    /// In the order of the table: name in URLs, heading, whether a larger value comes first at the first click.
    const ALL: [(Self, &'static str, &'static str, bool); 12] = [
        (Self::Peer, "peer", "Peer", false),
        (Self::Agent, "agent", "Agent", false),
        (Self::Transport, "transport", "Transports", false),
        (Self::Rtt, "rtt", "RTT", false),
        (Self::Rate, "rate", "Best rate", true),
        (Self::Success, "success", "Success", true),
        (Self::Share, "share", "Share of bytes", true),
        (Self::BytesIn, "in", "In", true),
        (Self::BytesOut, "out", "Out", true),
        (Self::Failures, "failures", "Failures", true),
        (Self::Strikes, "strikes", "Strikes", true),
        (Self::Seen, "seen", "Last seen", true),
    ];

    fn named(name: &str) -> Option<(Self, bool)> {
        Self::ALL.iter().find(|(_, text, ..)| *text == name).map(|(column, _, _, largest)| (*column, *largest))
    }

    fn is_number(self) -> bool {
        !matches!(self, Self::Peer | Self::Agent | Self::Transport | Self::Seen)
    }
}

/// The query of the page; empty fields of the form are as if they were not there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    q: String,
    transport: String,
    state: String,
    sort: String,
    dir: String,
    page: String,
}

/// `GET /peers`
pub async fn page(Extract(state): Extract<State>, Query(asked): Query<Asked>, wanted: Wanted) -> Response {
    let now = SystemTime::now();
    let at_us = Window::last(std::time::Duration::ZERO, now).until_us;
    let node = (state.node)();
    let mut view = View {
        q: asked.q.trim().to_owned(),
        command: "tidegate serve --peer /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…".to_owned(),
        address: node.addresses.first().cloned(),
        offline: node.offline,
        filtered: !(asked.q.trim().is_empty() && asked.transport.is_empty() && asked.state.is_empty()),
        export: Some(Links::new(&link(&asked, &[("page", "")]), "peers", "Peers that match")),
        ..View::default()
    };
    let all = match read(&state).await {
        Ok(all) => all,
        Err(problem) => {
            let reason = overview::down(&problem, now);
            if wanted.format.is_some() {
                return export::unavailable(reason);
            }
            view.summary = "What this node knows of other peers.".to_owned();
            view.problem = Some(reason);
            let page = Page::new("Peers", "/peers");
            return error::html(StatusCode::SERVICE_UNAVAILABLE, &PeersPage { page, view });
        }
    };
    let total_in: u64 = all.iter().map(bytes_in).sum();
    let (column, largest_first) = Column::named(&asked.sort).unwrap_or((Column::Seen, true));
    let descending = match asked.dir.as_str() {
        "asc" => false,
        "desc" => true,
        _ => largest_first,
    };
    let mut matching: Vec<&PeerRow> = all.iter().filter(|row| matches(row, &asked, at_us)).collect();
    matching.sort_by(|a, b| compare(a, b, column, descending));
    if wanted.format.is_some() {
        return export::answer(&wanted, "peers", &[table(&matching, total_in, at_us)]);
    }
    let pages = matching.len().div_ceil(PER_PAGE).max(1);
    let at = asked.page.parse::<usize>().unwrap_or(1).clamp(1, pages);
    let from = (at - 1) * PER_PAGE;
    let turned = |to: usize| link(&asked, &[("page", if to > 1 { to.to_string() } else { String::new() }.as_str())]);
    view.newer = (at > 1).then(|| turned(at - 1));
    view.older = (at < pages).then(|| turned(at + 1));
    view.rows = matching.iter().skip(from).take(PER_PAGE).map(|row| PeerView::new(row, total_in, at_us, now)).collect();
    view.columns = columns(&asked, column, descending);
    (view.sort, view.dir) = (asked.sort.clone(), if asked.dir.is_empty() { "" } else { direction(descending) });
    view.transports = transport_choices(&all, &asked.transport);
    view.states = [("connected", "connected now"), ("delivered", "has delivered"), ("failing", "has failed")]
        .map(|(value, label)| Choice {
            value: value.to_owned(),
            label: label.to_owned(),
            selected: asked.state == value,
        })
        .into();
    view.summary = summary(&all, matching.len(), from, view.rows.len(), at_us);
    error::html(StatusCode::OK, &PeersPage { page: Page::new("Peers", "/peers"), view })
}

async fn read(state: &State) -> Result<Vec<PeerRow>, Unread> {
    Ok(state.database()?.peers(PeerOrder::LastSeen, MAX_LIMIT).await?)
}

fn summary(all: &[PeerRow], matching: usize, from: usize, shown: usize, at_us: i64) -> String {
    if all.is_empty() {
        return "Every peer that this node meets, with what it is worth.".to_owned();
    }
    let connected = all.iter().filter(|row| topology::is_connected(row, at_us)).count();
    let known = match all.len() {
        n if n >= MAX_LIMIT as usize => format!("the {} peers seen last", count(n as u64)),
        1 => "1 peer known".to_owned(),
        n => format!("{} peers known", count(n as u64)),
    };
    let part = match (shown, matching) {
        (0, _) => "none matches".to_owned(),
        (shown, matching) if shown == matching && matching == all.len() => "all shown".to_owned(),
        (shown, matching) => format!("{}–{} of {} that match shown", from + 1, from + shown, count(matching as u64)),
    };
    format!("{known}, {} connected now; {part}.", count(connected as u64))
}

fn matches(row: &PeerRow, asked: &Asked, at_us: i64) -> bool {
    let wanted = asked.q.trim().to_lowercase();
    let has = |text: Option<&str>| text.is_some_and(|text| text.to_lowercase().contains(&wanted));
    let named = wanted.is_empty() || has(Some(&row.peer_id)) || has(row.agent.as_deref()) || has(row.addrs.as_deref());
    let transport = asked.transport.is_empty() || transports(row).iter().any(|name| *name == asked.transport);
    let state = match asked.state.as_str() {
        "connected" => topology::is_connected(row, at_us),
        "delivered" => row.delivered > 0,
        "failing" => row.failures > 0 || row.strikes > 0,
        _ => true,
    };
    named && transport && state
}

/// What was not measured comes last whatever the direction; ties keep the order of their ids.
fn compare(a: &PeerRow, b: &PeerRow, column: Column, descending: bool) -> Ordering {
    let numbers = |value: fn(&PeerRow) -> Option<f64>| match (value(a), value(b)) {
        (Some(a), Some(b)) if descending => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    let texts = |a: &str, b: &str| match (a.is_empty(), b.is_empty()) {
        (false, false) if descending => b.cmp(a),
        (false, false) => a.cmp(b),
        (empty_a, empty_b) => empty_a.cmp(&empty_b),
    };
    let order = match column {
        Column::Peer => texts(&a.peer_id, &b.peer_id),
        Column::Agent => texts(a.agent.as_deref().unwrap_or_default(), b.agent.as_deref().unwrap_or_default()),
        Column::Transport => texts(&transports(a).join(" "), &transports(b).join(" ")),
        Column::Rtt => numbers(|row| row.rtt_ms),
        Column::Rate => numbers(|row| row.rate_bps),
        Column::Success => numbers(PeerRow::success),
        Column::Share | Column::BytesIn => numbers(|row| Some(row.bytes_in as f64)),
        Column::BytesOut => numbers(|row| row.bytes_out.map(|bytes| bytes as f64)),
        Column::Failures => numbers(|row| Some(row.failures as f64)),
        Column::Strikes => numbers(|row| Some(row.strikes as f64)),
        Column::Seen => numbers(|row| Some(row.last_seen as f64)),
    };
    order.then_with(|| a.peer_id.cmp(&b.peer_id))
}

/// The transport in use first, then those of the addresses.
pub(super) fn transports(row: &PeerRow) -> Vec<&'static str> {
    const NAMES: [(&str, &str); 7] = [
        ("quic", "quic"),
        ("webtransport", "webtransport"),
        ("webrtc", "webrtc"),
        ("/wss", "wss"),
        ("/tls/ws", "wss"),
        ("/ws", "ws"),
        ("http", "http"),
    ];
    let of = |text: &str| {
        let named = NAMES.iter().find(|(part, _)| text.contains(part)).map(|(_, name)| *name);
        named.or_else(|| text.contains("tcp").then_some("tcp"))
    };
    let mut all: Vec<&'static str> = row.transport.as_deref().and_then(of).into_iter().collect();
    for name in row.addrs.as_deref().unwrap_or_default().lines().filter_map(of) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn transport_choices(all: &[PeerRow], selected: &str) -> Vec<Choice> {
    let names: std::collections::BTreeSet<&str> = all.iter().flat_map(|row| transports(row)).collect();
    names
        .into_iter()
        .map(|name| Choice { value: name.to_owned(), label: name.to_owned(), selected: name == selected })
        .collect()
}

fn direction(descending: bool) -> &'static str {
    if descending { "desc" } else { "asc" }
}

fn columns(asked: &Asked, by: Column, descending: bool) -> Vec<ColumnView> {
    Column::ALL
        .iter()
        .map(|&(column, name, heading, largest_first)| {
            let current = column == by;
            // A second click turns the order around.
            let next = if current { !descending } else { largest_first };
            ColumnView {
                name: heading,
                href: link(asked, &[("sort", name), ("dir", direction(next)), ("page", "")]),
                class: if column.is_number() { "num" } else { "" },
                sorted: match (current, descending) {
                    (false, _) => "",
                    (true, true) => "descending",
                    (true, false) => "ascending",
                },
                sign: match (current, descending) {
                    (false, _) => "",
                    (true, true) => " ▼",
                    (true, false) => " ▲",
                },
            }
        })
        .collect()
}

/// The same question with some parts changed; empty parts are left out.
fn link(asked: &Asked, changed: &[(&str, &str)]) -> String {
    let parts = [
        ("q", asked.q.trim()),
        ("transport", &asked.transport),
        ("state", &asked.state),
        ("sort", &asked.sort),
        ("dir", &asked.dir),
        ("page", &asked.page),
    ];
    let query: Vec<String> = parts
        .iter()
        .map(|(name, value)| (*name, changed.iter().find(|(other, _)| other == name).map_or(*value, |(_, new)| new)))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    if query.is_empty() { "/peers".to_owned() } else { format!("/peers?{}", query.join("&")) }
}

fn bytes_in(row: &PeerRow) -> u64 {
    u64::try_from(row.bytes_in).unwrap_or_default()
}

/// Of the bytes that all known peers delivered.
pub(super) fn share(row: &PeerRow, total_in: u64) -> Option<f64> {
    (total_in > 0).then(|| bytes_in(row) as f64 / total_in as f64)
}

impl PeerView {
    fn new(row: &PeerRow, total_in: u64, at_us: i64, now: SystemTime) -> Self {
        let seen = filters::from_us(row.last_seen);
        let number = |n: i64| count(u64::try_from(n).unwrap_or_default());
        let tried = row.delivered + row.failures;
        Self {
            short: filters::short(&row.peer_id),
            id: row.peer_id.clone(),
            connected: topology::is_connected(row, at_us),
            agent: row.agent.as_deref().map_or(NONE.to_owned(), |agent| filters::tame(agent, 40)),
            transports: match transports(row) {
                all if all.is_empty() => NONE.to_owned(),
                all => all.join(", "),
            },
            rtt: cell(ms(row.rtt_ms)),
            rate: cell(filters::rate(row.rate_bps)),
            success: cell(row.success().map(percent)),
            tried: match tried {
                0 => "no attempt".to_owned(),
                n => format!("{} of {} attempts delivered", number(row.delivered), number(n)),
            },
            share: cell(share(row, total_in).map(percent)),
            bar: super::chart::px(share(row, total_in).unwrap_or_default() * 60.0),
            bytes_in: filters::bytes(bytes_in(row)).to_string(),
            bytes_in_exact: format!("{} bytes", number(row.bytes_in)),
            bytes_out: cell(row.bytes_out.map(|n| filters::bytes(u64::try_from(n).unwrap_or_default()))),
            failures: number(row.failures),
            strikes: number(row.strikes),
            ago: filters::ago(seen, now),
            seen_iso: filters::iso(seen),
        }
    }
}

fn table(rows: &[&PeerRow], total_in: u64, at_us: i64) -> Table {
    const COLUMNS: &[&str] = &[
        "peer_id",
        "connected",
        "agent",
        "transport",
        "transports",
        "rtt_ms",
        "rate_bps",
        "success",
        "share_of_bytes",
        "bytes_in",
        "bytes_out",
        "blocks_in",
        "attempts",
        "delivered",
        "failures",
        "strikes",
        "source",
        "first_seen_us",
        "last_seen_us",
    ];
    let cells = |row: &&PeerRow| {
        row![
            &row.peer_id,
            topology::is_connected(row, at_us),
            row.agent.as_ref(),
            row.transport.as_ref(),
            transports(row).join(" "),
            row.rtt_ms,
            row.rate_bps,
            row.success(),
            share(row, total_in),
            row.bytes_in,
            row.bytes_out,
            row.blocks_in,
            row.attempts,
            row.delivered,
            row.failures,
            row.strikes,
            row.source.as_ref(),
            row.first_seen,
            row.last_seen,
        ]
    };
    Table::new("peers", COLUMNS, rows.iter().map(cells).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn peer(id: &str) -> PeerRow {
        PeerRow {
            peer_id: id.to_owned(),
            agent: None,
            protocols: None,
            addrs: None,
            first_seen: 0,
            last_seen: 1_000_000,
            connected: false,
            transport: None,
            rtt_ms: None,
            rate_bps: None,
            bytes_in: 0,
            bytes_out: None,
            blocks_in: 0,
            attempts: 0,
            delivered: 0,
            failures: 0,
            strikes: 0,
            source: None,
            region_cluster: None,
        }
    }

    #[test]
    fn what_was_not_measured_is_last_in_both_directions() {
        let rows = [peer("a"), PeerRow { rtt_ms: Some(9.0), ..peer("b") }, PeerRow { rtt_ms: Some(2.0), ..peer("c") }];
        let order = |descending| {
            let mut sorted: Vec<&PeerRow> = rows.iter().collect();
            sorted.sort_by(|a, b| compare(a, b, Column::Rtt, descending));
            sorted.iter().map(|row| row.peer_id.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(order(false), ["c", "b", "a"]);
        assert_eq!(order(true), ["b", "c", "a"]);
    }

    #[test]
    fn transports_are_those_in_use_and_those_of_the_addresses() {
        let row = PeerRow {
            transport: Some("bitswap-tcp".into()),
            addrs: Some("/ip4/1.2.3.4/udp/4001/quic-v1\n/ip4/1.2.3.4/tcp/4001\n/ip4/1.2.3.4/tcp/443/tls/ws".into()),
            ..peer("a")
        };
        assert_eq!(transports(&row), ["tcp", "quic", "wss"]);
        assert!(transports(&peer("b")).is_empty());
    }

    #[test]
    fn links_keep_the_question_escape_it_and_turn_the_order() {
        let asked = Asked { q: "a&b".into(), sort: "rtt".into(), page: "3".into(), ..Asked::default() };
        assert_eq!(link(&asked, &[]), "/peers?q=a%26b&sort=rtt&page=3");
        let columns = columns(&asked, Column::Rtt, false);
        assert_eq!(columns[3].href, "/peers?q=a%26b&sort=rtt&dir=desc");
        assert_eq!((columns[3].sorted, columns[0].sorted), ("ascending", ""));
    }

    #[test]
    fn the_filter_finds_by_id_agent_address_transport_and_state() {
        let row = PeerRow {
            agent: Some("kubo/0.43".into()),
            addrs: Some("/ip4/10.0.0.1/tcp/1".into()),
            failures: 1,
            ..peer("12D3abc")
        };
        let says = |asked: Asked| matches(&row, &asked, 1_500_000);
        assert!(says(Asked { q: " KUBO ".into(), ..Asked::default() }));
        assert!(says(Asked {
            q: "10.0.0.1".into(),
            transport: "tcp".into(),
            state: "failing".into(),
            ..Asked::default()
        }));
        assert!(!says(Asked { state: "connected".into(), ..Asked::default() }));
        assert!(!says(Asked { transport: "quic".into(), ..Asked::default() }));
    }

    #[test]
    fn a_share_of_nothing_is_none() {
        assert_eq!(share(&peer("a"), 0), None);
        assert_eq!(share(&PeerRow { bytes_in: 25, ..peer("a") }, 100), Some(0.25));
    }
}
