//! One retrieval: verdict, waterfall, providers, events.

use std::time::SystemTime;

use askama::Template;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;

use super::filters::{self, NONE, cell, count, ms, percent};
use super::page::Page;
use super::verdict::{self, Piece};
use super::waterfall::{self, Waterfall};
use super::{State, Unread, error, overview, retrievals};
use crate::db::queries::{AttemptRow, Detail, EventRow, RetrievalRow};
use crate::record::{AttemptOutcome, RetrievalId};

#[derive(Template)]
#[template(path = "dashboard/retrieval.html")]
struct RetrievalPage {
    page: Page,
    view: View,
}

struct View {
    id: i64,
    cid: String,
    short: String,
    summary: String,
    fetch_again: Option<String>,
    verdict: Vec<Piece>,
    waterfall: Option<Waterfall>,
    waterfall_empty: String,
    providers_meta: String,
    no_attempts: &'static str,
    attempts: Vec<AttemptView>,
    facts: Vec<Fact>,
    events: Vec<EventView>,
}

struct AttemptView {
    peer: String,
    short: String,
    router: String,
    transport: String,
    connect: String,
    first_byte: String,
    blocks: String,
    bytes: String,
    duplicate: String,
    rate: String,
    rtt: String,
    outcome: String,
    tone: &'static str,
    error: String,
}

struct EventView {
    at: String,
    kind: String,
    peer: String,
    block: String,
    value: String,
    detail: String,
}

struct Fact {
    name: &'static str,
    value: String,
}

/// `GET /retrievals/{id}`
pub async fn page(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<i64>() else {
        let text = format!("{} is not the id of a retrieval.", filters::tame(&id, 60));
        return error::error(
            StatusCode::NOT_FOUND,
            "Not found",
            text,
            "Ids are numbers: the header Tidegate-Retrieval of an answer has one.",
        );
    };
    match read(&state, RetrievalId(id)).await {
        Ok(Some(detail)) => {
            let view = view(&state, &detail);
            let page = Page::new(format!("Retrieval of {}", view.short), "/retrievals");
            error::html(StatusCode::OK, &RetrievalPage { page, view })
        }
        Ok(None) => {
            let next =
                "Rows are written within a second or two of the end of a retrieval and kept for 7 days by default.";
            error::error(StatusCode::NOT_FOUND, "Not found", format!("No retrieval {id} is in the database."), next)
        }
        Err(problem) => {
            let text = overview::down(&problem, SystemTime::now());
            let next = "Content is served all the same; this page comes back with the database.";
            error::error(StatusCode::SERVICE_UNAVAILABLE, "The metrics database is not available", text, next)
        }
    }
}

async fn read(state: &State, id: RetrievalId) -> Result<Option<Detail>, Unread> {
    Ok(state.database()?.retrieval(id).await?)
}

fn view(state: &State, detail: &Detail) -> View {
    let row = &detail.row;
    let total: i64 = detail.attempts.iter().map(|attempt| attempt.bytes).sum();
    let path = row.path.starts_with("/ipfs/").then(|| {
        let segments: Vec<String> = row
            .path
            .split('/')
            .map(|part| percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string())
            .collect();
        format!("{}{}", state.gateway, segments.join("/"))
    });
    View {
        id: row.id,
        cid: row.cid.clone(),
        short: filters::short(&row.cid),
        summary: summary(row),
        fetch_again: path,
        verdict: verdict::verdict(detail),
        waterfall: waterfall::waterfall(detail),
        waterfall_empty: waterfall_empty(detail).to_owned(),
        providers_meta: match detail.attempts.len() {
            0 => String::new(),
            n => format!("{} found, {} asked, {} delivered", row.providers_found, n, row.peer_count),
        },
        no_attempts: if row.network_bytes == 0 && row.providers_attempted == 0 && row.providers_found == 0 {
            "every block was here, or none was needed."
        } else {
            "providers were looked for and none could be asked."
        },
        attempts: detail.attempts.iter().map(|attempt| attempt_view(attempt, total)).collect(),
        facts: facts(row),
        events: detail.events.iter().map(event_view).collect(),
    }
}

fn summary(row: &RetrievalRow) -> String {
    let bytes = filters::bytes(u64::try_from(row.bytes).unwrap_or_default());
    let at = filters::utc(filters::from_us(row.started_at));
    let blocks = match row.blocks {
        1 => "1 block".to_owned(),
        n => format!("{} blocks", count(u64::try_from(n).unwrap_or_default())),
    };
    let simulated = match (&row.simulation_reason, row.is_simulated) {
        (Some(reason), true) => format!(" Simulated: {}.", filters::tame(reason, 80)),
        _ => String::new(),
    };
    format!(
        "{}. {bytes}, {blocks}, {}. {at}, {} policy.{simulated}",
        filters::tame(&row.path, 200),
        row.outcome.replace('_', " "),
        retrievals::policy_name(&row.policy),
    )
}

fn waterfall_empty(detail: &Detail) -> &'static str {
    if detail.events.is_empty() {
        "The trace of this retrieval was not kept: slow and failed ones keep theirs, and 1 % of the rest."
    } else {
        "The trace has no step that took time."
    }
}

fn attempt_view(attempt: &AttemptRow, total: i64) -> AttemptView {
    let outcome = attempt.outcome.parse::<AttemptOutcome>();
    let tone = match outcome {
        Ok(AttemptOutcome::Delivered) => "ok",
        Ok(AttemptOutcome::DontHave | AttemptOutcome::Cancelled) => "",
        Ok(AttemptOutcome::Unreachable | AttemptOutcome::Refused) => "warn",
        _ => "bad",
    };
    let bytes = filters::bytes(u64::try_from(attempt.bytes).unwrap_or_default());
    let part = (total > 0 && attempt.bytes > 0).then(|| format!(" ({})", percent(attempt.bytes as f64 / total as f64)));
    AttemptView {
        peer: attempt.peer_id.clone(),
        short: filters::short(&attempt.peer_id),
        router: attempt.router.to_lowercase(),
        transport: attempt.transport.clone().unwrap_or_else(|| NONE.to_owned()),
        connect: cell(ms(attempt.connect_ms)),
        first_byte: cell(ms(attempt.first_byte_ms)),
        blocks: count(u64::try_from(attempt.blocks).unwrap_or_default()),
        bytes: format!("{bytes}{}", part.unwrap_or_default()),
        duplicate: if attempt.duplicate_bytes > 0 {
            filters::bytes(attempt.duplicate_bytes as u64).to_string()
        } else {
            NONE.to_owned()
        },
        rate: cell(filters::rate(attempt.max_rate_bps)),
        rtt: cell(ms(attempt.min_rtt_ms)),
        outcome: attempt.outcome.replace('_', " "),
        tone,
        error: attempt.error_kind.as_deref().map(|kind| filters::tame(kind, 80)).unwrap_or_default(),
    }
}

fn event_view(event: &EventRow) -> EventView {
    EventView {
        at: cell(ms(Some(event.at_us as f64 / 1e3))),
        kind: event.kind.replace('_', " "),
        peer: event.peer_id.as_deref().map(filters::short).unwrap_or_default(),
        block: event.cid.as_deref().map(filters::short).unwrap_or_default(),
        value: event.value.map(|value| value.to_string()).unwrap_or_default(),
        detail: event.detail.as_deref().map(|text| filters::tame(text, 160)).unwrap_or_default(),
    }
}

fn facts(row: &RetrievalRow) -> Vec<Fact> {
    let text = |value: &Option<String>| value.as_deref().map_or(NONE.to_owned(), |v| v.replace('_', " "));
    let bytes = |n: i64| filters::bytes(u64::try_from(n).unwrap_or_default()).to_string();
    let fact = |name, value| Fact { name, value };
    let mut facts = vec![
        fact("Request to last byte", cell(ms(Some(row.load_time_ms)))),
        fact("Request to first byte", cell(ms(row.ttfb_ms))),
        fact("First want to last block", cell(ms(row.transfer_time_ms))),
        fact("Until a provider was known", cell(ms(row.routing_ms))),
        fact("First dial to first connection", cell(ms(row.connect_ms))),
        fact("Fetched from the network", bytes(row.network_bytes)),
        fact("Received twice", bytes(row.duplicate_bytes)),
        fact("Byte efficiency", cell(row.network_efficiency.map(percent))),
        fact("Optimisation score", row.optimization_score.map_or(NONE.to_owned(), |score| format!("{score:.2}"))),
        fact("Source", text(&row.source)),
        fact("Cache", text(&row.cache_state)),
        fact("HTTP status", row.http_status.map_or(NONE.to_owned(), |status| status.to_string())),
        fact("Origin", row.origin.clone()),
    ];
    if let Some(kind) = &row.error_kind {
        facts.push(fact("Error", filters::tame(kind, 120)));
    }
    if row.events_dropped > 0 {
        facts.push(fact("Events not kept", count(row.events_dropped as u64)));
    }
    facts
}
