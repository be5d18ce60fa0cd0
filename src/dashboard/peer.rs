//! One peer: who it is, what it is worth, and its part in retrievals over time.

use std::collections::BTreeSet;
use std::time::SystemTime;

use askama::Template;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;

use super::export::{self, Links, Table, Wanted, row};
use super::filters::{self, NO_DATA, NONE, Quantity, cell, count, ms, percent, rate};
use super::page::Page;
use super::plot::{self, Measured, Plot};
use super::retrievals::policy_name;
use super::{State, Unread, error, overview, peers};
use crate::db::queries::{LinkRow, MAX_LIMIT, PeerAttempt, PeerHistory, PeerOrder, PeerRow, Window};
use crate::record::AttemptOutcome;
use crate::topology;

/// Spans of time that the history is cut into.
const SPANS: usize = 24;
/// Attempts that the page lists; the export has all of the history.
const LISTED: usize = 50;

#[derive(Template)]
#[template(path = "dashboard/peer.html")]
struct PeerPage {
    page: Page,
    view: View,
}

struct View {
    id: String,
    short: String,
    summary: String,
    verdict: String,
    figures: Vec<Figure>,
    rates: Option<Plot>,
    shares: Option<Plot>,
    history_meta: String,
    spans: Vec<SpanView>,
    attempts: Vec<AttemptView>,
    attempts_meta: String,
    links: Vec<LinkView>,
    addresses: Vec<String>,
    protocols: Vec<String>,
    facts: Vec<(&'static str, String)>,
    exports: Exports,
    example: String,
}

struct Exports {
    attempts: Links,
    history: Links,
    links: Links,
}

struct Figure {
    label: &'static str,
    value: Option<Quantity>,
    note: String,
}

struct SpanView {
    from: String,
    attempts: String,
    delivered: String,
    bytes: String,
    share: String,
    rate: String,
}

struct AttemptView {
    id: i64,
    cid: String,
    cid_short: String,
    ago: String,
    at_iso: String,
    router: String,
    policy: String,
    first_byte: String,
    rtt: String,
    rate: String,
    bytes: String,
    share: String,
    outcome: String,
    tone: &'static str,
    error: String,
}

struct LinkView {
    other: String,
    other_short: String,
    own: bool,
    kind: String,
    rtt: String,
    rate: String,
    first: String,
    ago: String,
    at_iso: String,
}

/// `GET /peers/{peer_id}`
pub async fn page(Extract(state): Extract<State>, Path(id): Path<String>, wanted: Wanted) -> Response {
    let now = SystemTime::now();
    match read(&state, &id).await {
        Ok(Some((history, total_in))) => {
            if wanted.format.is_some() {
                return export::answer(&wanted, "peer", &tables(&history));
            }
            let view = view(&state, &history, total_in, now);
            let page = Page::new(format!("Peer {}", view.short), "/peers");
            error::html(StatusCode::OK, &PeerPage { page, view })
        }
        Ok(None) if (state.node)().peer_id.as_deref() == Some(id.as_str()) => {
            let next = "The Topology page shows it in the middle; /api/v1/id has its addresses.";
            let text = "This is the node itself: it keeps no record of itself as a peer.".to_owned();
            error::error(StatusCode::NOT_FOUND, "This node", text, next)
        }
        Ok(None) => {
            let text = format!("No peer {} is in the database.", filters::tame(&id, 80));
            let next =
                "Peers are written down within 10 s of a connection, and forgotten some time after the last one.";
            error::error(StatusCode::NOT_FOUND, "Not found", text, next)
        }
        Err(problem) => {
            let text = overview::down(&problem, now);
            let next = "Content is served all the same; this page comes back with the database.";
            error::error(StatusCode::SERVICE_UNAVAILABLE, "The metrics database is not available", text, next)
        }
    }
}

/// The peer, and the bytes that all known peers delivered.
async fn read(state: &State, id: &str) -> Result<Option<(PeerHistory, u64)>, Unread> {
    let db = state.database()?;
    let Some(history) = db.peer_history(id).await? else { return Ok(None) };
    let all = db.peers(PeerOrder::BytesIn, MAX_LIMIT).await?;
    Ok(Some((history, all.iter().map(|row| natural(row.bytes_in)).sum())))
}

fn natural(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// One span of the history. Sums are weighted: a stored retrieval may stand for many.
#[derive(Debug, Clone, PartialEq, Default)]
struct Span {
    from_us: i64,
    attempts: u64,
    delivered: f64,
    failed: f64,
    bytes: f64,
    /// Bytes of all peers in the same retrievals.
    all_bytes: f64,
    best_rate_bps: Option<f64>,
}

impl Span {
    fn share(&self) -> Option<f64> {
        (self.all_bytes > 0.0).then(|| (self.bytes / self.all_bytes).min(1.0))
    }

    fn success(&self) -> Option<f64> {
        let tried = self.delivered + self.failed;
        (tried > 0.0).then(|| self.delivered / tried)
    }
}

/// The attempts in equal spans from the oldest to the newest, and where they end.
fn spans(attempts: &[PeerAttempt]) -> (Vec<Span>, i64) {
    let Some(from) = attempts.iter().map(started).min() else { return (Vec::new(), 0) };
    let to = attempts.iter().map(started).max().unwrap_or(from) + 1;
    let width = ((to - from) / SPANS as i64 + 1).max(1);
    let mut spans: Vec<Span> =
        (0..SPANS).map(|n| Span { from_us: from + width * n as i64, ..Span::default() }).collect();
    let mut counted = BTreeSet::new();
    for attempt in attempts {
        let Some(span) = spans.get_mut(((started(attempt) - from) / width) as usize) else { continue };
        let weight = attempt.retrieval.as_ref().map_or(1.0, |retrieval| retrieval.sample_weight);
        span.attempts += 1;
        match outcome(attempt) {
            Ended::Delivered => span.delivered += weight,
            Ended::Failed => span.failed += weight,
            Ended::Neither => {}
        }
        if let Some(retrieval) = &attempt.retrieval {
            span.bytes += attempt.attempt.bytes as f64 * weight;
            // A peer may have several attempts in one retrieval.
            if counted.insert(retrieval.id) {
                span.all_bytes += retrieval.network_bytes as f64 * weight;
            }
        }
        span.best_rate_bps = attempt.attempt.max_rate_bps.into_iter().chain(span.best_rate_bps).reduce(f64::max);
    }
    (spans, from + width * SPANS as i64)
}

/// The id of a retrieval is the time of its start, in microseconds.
fn started(attempt: &PeerAttempt) -> i64 {
    attempt.retrieval.as_ref().map_or(attempt.attempt.result_id, |retrieval| retrieval.started_at)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Delivered,
    Failed,
    /// It did not have the block, or was not needed any more.
    Neither,
}

fn outcome(attempt: &PeerAttempt) -> Ended {
    match attempt.attempt.outcome.parse::<AttemptOutcome>() {
        Ok(AttemptOutcome::Delivered) => Ended::Delivered,
        Ok(AttemptOutcome::DontHave | AttemptOutcome::Cancelled) => Ended::Neither,
        _ => Ended::Failed,
    }
}

fn view(state: &State, history: &PeerHistory, total_in: u64, now: SystemTime) -> View {
    let row = &history.peer;
    let at_us = Window::last(std::time::Duration::ZERO, now).until_us;
    let (spans, until) = spans(&history.attempts);
    let base = format!("/peers/{}", row.peer_id);
    let lines = |text: &Option<String>| -> Vec<String> {
        text.as_deref().unwrap_or_default().lines().map(|line| filters::tame(line, 300)).collect()
    };
    let own = (state.node)().peer_id;
    let filled: Vec<&Span> = spans.iter().filter(|span| span.attempts > 0).collect();
    View {
        short: filters::short(&row.peer_id),
        id: row.peer_id.clone(),
        summary: summary(row, at_us, now),
        verdict: verdict(row, total_in),
        figures: figures(row, total_in),
        rates: rates(&history.attempts),
        shares: {
            let shares: Vec<Option<f64>> = spans.iter().map(Span::share).collect();
            spans
                .first()
                .and_then(|first| plot::bars(first.from_us, until, &shares, 1.0, |v| format!("{:.0} %", v * 100.0)))
        },
        history_meta: match history.attempts.len() {
            0 => String::new(),
            n => format!("the latest {} attempts, over {}", count(n as u64), duration(&spans, until)),
        },
        spans: filled.iter().rev().map(|span| span_view(span)).collect(),
        attempts: history.attempts.iter().take(LISTED).map(|attempt| attempt_view(attempt, now)).collect(),
        attempts_meta: match history.attempts.len() {
            0 => String::new(),
            n if n > LISTED => format!("the latest {LISTED}; the export has {}", count(n as u64)),
            n => format!("{n}, the latest first"),
        },
        links: history.links.iter().map(|link| link_view(link, &row.peer_id, own.as_deref(), now)).collect(),
        addresses: lines(&row.addrs),
        protocols: lines(&row.protocols),
        facts: facts(row),
        exports: Exports {
            attempts: Links::new(&base, "attempts", "Attempts with this peer"),
            history: Links::new(&base, "history", "History of this peer"),
            links: Links::new(&base, "links", "Links of this peer"),
        },
        example: super::example(&state.gateway),
    }
}

fn summary(row: &PeerRow, at_us: i64, now: SystemTime) -> String {
    let agent = row.agent.as_deref().map_or("agent unknown".to_owned(), |agent| filters::tame(agent, 80));
    let transport = match row.transport.as_deref() {
        Some(transport) => format!(" by {}", transport.trim_start_matches("bitswap-")),
        None => String::new(),
    };
    let seen = filters::ago(filters::from_us(row.last_seen), now);
    if topology::is_connected(row, at_us) {
        format!("{agent}, connected{transport}; seen {seen}.")
    } else {
        format!("{agent}, not connected now; last seen {seen}.")
    }
}

fn verdict(row: &PeerRow, total_in: u64) -> String {
    if row.attempts == 0 {
        return "No retrieval has asked this peer for blocks yet.".to_owned();
    }
    let attempts = match row.attempts {
        1 => "1 attempt".to_owned(),
        n => format!("{} attempts", count(natural(n))),
    };
    let bytes = filters::bytes(natural(row.bytes_in));
    let share = peers::share(row, total_in)
        .map_or(String::new(), |share| format!(", {} of what all known peers delivered", percent(share)));
    let success = match row.success() {
        Some(_) if row.failures == 0 => "none failed".to_owned(),
        Some(success) => format!("{} of those that ended in delivery or failure delivered", percent(success)),
        None => "none of them ended in delivery or failure".to_owned(),
    };
    format!("{bytes} in {attempts}{share}; {success}.")
}

fn figures(row: &PeerRow, total_in: u64) -> Vec<Figure> {
    let figure = |label, value, note: &str| Figure { label, value, note: note.to_owned() };
    vec![
        figure("Round trip", ms(row.rtt_ms), "the latest least RTT"),
        figure("Best rate", rate(row.rate_bps), "windowed maximum of deliveries"),
        Figure {
            label: "Success",
            value: row.success().map(percent),
            note: format!(
                "{} delivered, {} failed; {}",
                count(natural(row.delivered)),
                count(natural(row.failures)),
                if row.strikes == 1 {
                    "1 strike".to_owned()
                } else {
                    format!("{} strikes", count(natural(row.strikes)))
                }
            ),
        },
        Figure {
            label: "Share of bytes",
            value: peers::share(row, total_in).map(percent),
            note: "of all that known peers delivered".to_owned(),
        },
        Figure {
            label: "Delivered to us",
            value: Some(filters::bytes(natural(row.bytes_in))),
            note: format!("{} blocks", count(natural(row.blocks_in))),
        },
        figure(
            "Sent to it",
            row.bytes_out.map(|n| filters::bytes(natural(n))),
            "over the connection in use or the last one",
        ),
    ]
}

fn facts(row: &PeerRow) -> Vec<(&'static str, String)> {
    let time = |us: i64| filters::utc(filters::from_us(us));
    vec![
        ("First seen", time(row.first_seen)),
        ("Last seen", time(row.last_seen)),
        ("Found by", row.source.as_deref().map_or(NO_DATA.to_owned(), |source| filters::tame(source, 40))),
        ("Transport in use", row.transport.as_deref().map_or(NO_DATA.to_owned(), |text| filters::tame(text, 40))),
        (
            "Transports",
            match peers::transports(row) {
                all if all.is_empty() => NO_DATA.to_owned(),
                all => all.join(", "),
            },
        ),
    ]
}

fn duration(spans: &[Span], until: i64) -> String {
    let from = spans.first().map_or(until, |span| span.from_us);
    let seconds = (until - from) / 1_000_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The best rate of each attempt that delivered; those that failed stand on the floor.
fn rates(attempts: &[PeerAttempt]) -> Option<Plot> {
    let points: Vec<Measured> = attempts
        .iter()
        .filter_map(|attempt| {
            let at = filters::utc(filters::from_us(started(attempt)));
            let said = attempt.attempt.outcome.replace('_', " ");
            match (outcome(attempt), attempt.attempt.max_rate_bps) {
                (Ended::Failed, _) => {
                    let title = format!("{at}: {said}");
                    Some(Measured { at_us: started(attempt), value: 0.0, class: "fill-bad", title })
                }
                (_, Some(value)) => {
                    let title = format!("{at}: {}", cell(rate(Some(value))));
                    Some(Measured { at_us: started(attempt), value: value * 8.0 / 1e6, class: "fill-1", title })
                }
                (_, None) => None,
            }
        })
        .collect();
    let measured = points.iter().any(|point| point.class == "fill-1");
    plot::dots(&points, |mbit| if mbit > 0.0 { cell(rate(Some(mbit * 1e6 / 8.0))) } else { "0".to_owned() })
        .filter(|_| measured)
}

fn span_view(span: &Span) -> SpanView {
    SpanView {
        from: filters::utc(filters::from_us(span.from_us)),
        attempts: count(span.attempts),
        delivered: cell(span.success().map(percent)),
        bytes: filters::bytes(span.bytes as u64).to_string(),
        share: cell(span.share().map(percent)),
        rate: cell(rate(span.best_rate_bps)),
    }
}

fn attempt_view(attempt: &PeerAttempt, now: SystemTime) -> AttemptView {
    let row = &attempt.attempt;
    let at = filters::from_us(started(attempt));
    let cid = attempt.retrieval.as_ref().map(|retrieval| retrieval.cid.clone()).unwrap_or_default();
    let whole = attempt.retrieval.as_ref().map_or(0, |retrieval| natural(retrieval.network_bytes));
    AttemptView {
        id: row.result_id,
        cid_short: if cid.is_empty() { row.result_id.to_string() } else { filters::short(&cid) },
        cid,
        ago: filters::ago(at, now),
        at_iso: filters::iso(at),
        router: filters::tame(&row.router, 24),
        policy: attempt.retrieval.as_ref().map_or(NONE, |retrieval| policy_name(&retrieval.policy)).to_owned(),
        first_byte: cell(ms(row.first_byte_ms)),
        rtt: cell(ms(row.min_rtt_ms)),
        rate: cell(rate(row.max_rate_bps)),
        bytes: if row.bytes > 0 { filters::bytes(natural(row.bytes)).to_string() } else { NONE.to_owned() },
        share: cell((whole > 0 && row.bytes > 0).then(|| percent((row.bytes as f64 / whole as f64).min(1.0)))),
        outcome: row.outcome.replace('_', " "),
        tone: match outcome(attempt) {
            Ended::Delivered => "ok",
            Ended::Failed => "bad",
            Ended::Neither => "",
        },
        error: row.error_kind.as_deref().map(|kind| filters::tame(kind, 80)).unwrap_or_default(),
    }
}

fn link_view(link: &LinkRow, id: &str, own: Option<&str>, now: SystemTime) -> LinkView {
    let other = if link.a == id { &link.b } else { &link.a };
    let seen = filters::from_us(link.last_seen);
    LinkView {
        own: own == Some(other.as_str()),
        other: other.clone(),
        other_short: filters::short(other),
        kind: filters::tame(&link.kind, 20),
        rtt: cell(ms(link.rtt_ms)),
        rate: cell(rate(link.rate_bps)),
        first: filters::utc(filters::from_us(link.first_seen)),
        ago: filters::ago(seen, now),
        at_iso: filters::iso(seen),
    }
}

fn tables(history: &PeerHistory) -> Vec<Table> {
    const ATTEMPTS: &[&str] = &[
        "retrieval_id",
        "started_at_us",
        "cid",
        "policy",
        "router",
        "transport",
        "connect_ms",
        "first_byte_ms",
        "bytes",
        "blocks",
        "duplicate_bytes",
        "hedges",
        "min_rtt_ms",
        "max_rate_bps",
        "outcome",
        "error_kind",
        "retrieval_network_bytes",
        "sample_weight",
    ];
    const HISTORY: &[&str] = &[
        "from_us",
        "attempts",
        "delivered_weighted",
        "failed_weighted",
        "success",
        "bytes_weighted",
        "all_bytes_weighted",
        "share_of_bytes",
        "best_rate_bps",
    ];
    const LINKS: &[&str] = &["a", "b", "kind", "rtt_ms", "rate_bps", "observed_by", "first_seen_us", "last_seen_us"];
    let attempts = history.attempts.iter().map(|attempt| {
        let (row, retrieval) = (&attempt.attempt, attempt.retrieval.as_ref());
        row![
            row.result_id,
            started(attempt),
            retrieval.map(|retrieval| &retrieval.cid),
            retrieval.map(|retrieval| &retrieval.policy),
            &row.router,
            row.transport.as_ref(),
            row.connect_ms,
            row.first_byte_ms,
            row.bytes,
            row.blocks,
            row.duplicate_bytes,
            row.hedges,
            row.min_rtt_ms,
            row.max_rate_bps,
            &row.outcome,
            row.error_kind.as_ref(),
            retrieval.map(|retrieval| retrieval.network_bytes),
            retrieval.map(|retrieval| retrieval.sample_weight),
        ]
    });
    let (spans, _) = spans(&history.attempts);
    let history_rows = spans.iter().filter(|span| span.attempts > 0).map(|span| {
        row![
            span.from_us,
            span.attempts,
            span.delivered,
            span.failed,
            span.success(),
            span.bytes,
            span.all_bytes,
            span.share(),
            span.best_rate_bps,
        ]
    });
    let links = history.links.iter().map(|link| {
        row![
            &link.a,
            &link.b,
            &link.kind,
            link.rtt_ms,
            link.rate_bps,
            link.observed_by.as_ref(),
            link.first_seen,
            link.last_seen,
        ]
    });
    vec![
        Table::new("attempts", ATTEMPTS, attempts.collect()),
        Table::new("history", HISTORY, history_rows.collect()),
        Table::new("links", LINKS, links.collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::peers::tests::peer;
    use crate::db::queries::{AttemptRow, RetrievalBrief};

    fn attempt(at: i64, outcome: &str, bytes: i64, of: i64, weight: f64) -> PeerAttempt {
        PeerAttempt {
            attempt: AttemptRow {
                result_id: at,
                ordinal: 0,
                peer_id: "a".to_owned(),
                transport: None,
                router: "dht".to_owned(),
                connect_ms: None,
                first_byte_ms: None,
                bytes,
                blocks: 1,
                duplicate_bytes: 0,
                hedges: 0,
                min_rtt_ms: None,
                max_rate_bps: (bytes > 0).then_some(bytes as f64),
                outcome: outcome.to_owned(),
                error_kind: None,
            },
            retrieval: Some(RetrievalBrief {
                id: at,
                cid: "bafy".to_owned(),
                path: "/ipfs/bafy".to_owned(),
                outcome: "complete".to_owned(),
                policy: "optimized".to_owned(),
                network_bytes: of,
                sample_weight: weight,
                started_at: at,
            }),
        }
    }

    #[test]
    fn worked_example_of_the_share_over_time() {
        let attempts = [
            attempt(0, "delivered", 30, 100, 1.0),
            // A row that stands for nine, all of whose bytes came from this peer; and a second attempt in it.
            attempt(10, "delivered", 100, 100, 9.0),
            attempt(10, "stalled", 0, 100, 9.0),
            attempt(24_000, "dont_have", 0, 500, 1.0),
        ];
        let (spans, until) = spans(&attempts);
        assert_eq!((spans.len(), spans[0].attempts, spans[23].attempts), (SPANS, 3, 1));
        // (30 + 900) of (100 + 900) bytes; ten of nineteen.
        assert_eq!((spans[0].share(), spans[0].success()), (Some(0.93), Some(10.0 / 19.0)));
        assert_eq!((spans[23].share(), spans[23].success()), (Some(0.0), None));
        assert_eq!((spans[5].share(), spans[0].best_rate_bps), (None, Some(100.0)));
        assert!(until > 24_000);
    }

    #[test]
    fn a_single_attempt_and_none_have_a_history_without_nan() {
        let (spans, _) = spans(&[attempt(7, "delivered", 5, 5, 1.0)]);
        assert_eq!(spans[0].share(), Some(1.0));
        assert!(super::spans(&[]).0.is_empty());
        assert_eq!(rates(&[attempt(7, "stalled", 0, 5, 1.0)]), None);
    }

    #[test]
    fn the_verdict_says_what_was_measured_and_nothing_else() {
        assert_eq!(verdict(&peer("a"), 0), "No retrieval has asked this peer for blocks yet.");
        let row = PeerRow { attempts: 4, delivered: 3, failures: 1, bytes_in: 2_048, ..peer("a") };
        assert_eq!(
            verdict(&row, 4_096),
            "2.0 KiB in 4 attempts, 50.0 % of what all known peers delivered; 75.0 % of those that ended in delivery or \
             failure delivered."
        );
        let waiting = PeerRow { attempts: 1, ..peer("a") };
        assert!(verdict(&waiting, 0).ends_with("none of them ended in delivery or failure."));
    }
}
