//! The list of retrievals.

use std::time::SystemTime;

use askama::Template;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::export::{self, Links, MAX_ROWS, Table, Wanted, row};
use super::filters::{self, NONE, cell, ms};
use super::page::Page;
use super::{State, Unread, error, overview};
use crate::db::queries::{self, RetrievalFilter, RetrievalRow};
use crate::ipld::cid;
use crate::record::{Outcome, Policy};

const PER_PAGE: u32 = 50;

#[derive(Template)]
#[template(path = "dashboard/retrievals.html")]
struct RetrievalsPage {
    page: Page,
    view: View,
}

#[derive(Template)]
#[template(path = "dashboard/partials/_retrievals.html")]
struct RetrievalsPartial {
    view: View,
}

#[derive(Default)]
struct View {
    /// Where the part that refreshes itself is; `None` for older parts of the list.
    live: Option<String>,
    summary: String,
    export: Option<Links>,
    cid: String,
    outcomes: Vec<Choice>,
    policies: Vec<Choice>,
    filtered: bool,
    problem: Option<Problem>,
    rows: Vec<RowView>,
    newest: Option<String>,
    older: Option<String>,
    example: String,
}

struct Choice {
    value: &'static str,
    label: String,
    selected: bool,
}

struct Problem {
    title: &'static str,
    text: String,
}

/// A retrieval as a row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct RowView {
    pub id: i64,
    pub short: String,
    /// What follows the CID in the path, shortened.
    pub rest: String,
    pub path: String,
    pub bytes: String,
    pub bytes_exact: String,
    pub time: String,
    pub ttfb: String,
    pub from: String,
    pub tone: &'static str,
    pub policy: String,
    pub ago: String,
    pub at_iso: String,
}

impl RowView {
    pub fn new(row: &RetrievalRow, now: SystemTime) -> Self {
        let (from, tone) = from(row);
        let finished = filters::from_us(row.test_timestamp);
        let path = filters::tame(&row.path, 300);
        let bytes = u64::try_from(row.bytes).unwrap_or_default();
        Self {
            id: row.id,
            short: filters::short(&row.cid),
            rest: filters::tame(rest(&row.path), 28),
            path,
            bytes: if bytes > 0 || row.outcome == Outcome::Complete.as_str() {
                filters::bytes(bytes).to_string()
            } else {
                NONE.to_owned()
            },
            bytes_exact: format!("{} bytes", filters::count(bytes)),
            time: cell(ms(Some(row.load_time_ms))),
            ttfb: cell(ms(row.ttfb_ms)),
            from,
            tone,
            policy: policy_name(&row.policy).to_owned(),
            ago: filters::ago(finished, now),
            at_iso: filters::iso(finished),
        }
    }
}

/// The part of a content path after `/ipfs/CID`.
fn rest(path: &str) -> &str {
    let inner = path.strip_prefix("/ipfs/").or_else(|| path.strip_prefix("/ipns/")).unwrap_or(path);
    inner.find('/').map_or("", |at| &inner[at..])
}

/// Where it came from or how it ended, and how that is coloured.
fn from(row: &RetrievalRow) -> (String, &'static str) {
    match row.outcome.parse::<Outcome>() {
        Ok(Outcome::Complete) => {}
        Ok(outcome @ (Outcome::NotFound | Outcome::ClientAborted | Outcome::Denied)) => {
            return (outcome.as_str().replace('_', " "), "warn");
        }
        _ => return (row.outcome.replace('_', " "), "bad"),
    }
    if row.peer_count > 0 {
        let plural = if row.peer_count == 1 { "peer" } else { "peers" };
        return (format!("{} {plural}", row.peer_count), "");
    }
    match row.cache_state.as_deref() {
        Some(state @ ("memory" | "disk" | "store")) => (state.to_owned(), "ok"),
        Some("miss") if row.network_bytes == 0 => ("no block needed".to_owned(), ""),
        Some(state) => (state.to_owned(), ""),
        None => ("no block needed".to_owned(), ""),
    }
}

/// The policy in the words of the pages.
pub fn policy_name(policy: &str) -> &str {
    if policy == Policy::Optimized.as_str() { "optimised" } else { policy }
}

/// The query of the page; empty fields of the form are as if they were not there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    cid: String,
    outcome: String,
    policy: String,
    cursor: Option<String>,
}

/// `GET /retrievals`
pub async fn page(Extract(state): Extract<State>, Query(asked): Query<Asked>, wanted: Wanted) -> Response {
    let now = SystemTime::now();
    if wanted.format.is_some()
        && let Ok((filter, cursor)) = filter(&asked)
    {
        return match all(&state, &filter, cursor).await {
            Ok(table) => export::answer(&wanted, "retrievals", &[table]),
            Err(error) => export::unavailable(overview::down(&error, now)),
        };
    }
    let (status, view) = read(&state, &asked, now).await;
    let page = Page::new("Retrievals", "/retrievals");
    // An older part of the list does not change: only the newest refreshes itself.
    let page = if view.live.is_some() { page.live() } else { page };
    error::html(status, &RetrievalsPage { page, view })
}

/// `GET /partials/retrievals`: what changes, without the frame.
pub async fn partial(Extract(state): Extract<State>, Query(asked): Query<Asked>) -> Response {
    // Always 200: a part that says that the database is away must be swapped in.
    let (_, view) = read(&state, &asked, SystemTime::now()).await;
    error::html(StatusCode::OK, &RetrievalsPartial { view })
}

async fn read(state: &State, asked: &Asked, now: SystemTime) -> (StatusCode, View) {
    let mut view = View {
        cid: asked.cid.trim().to_owned(),
        outcomes: choices(Outcome::ALL.iter().map(|o| (o.as_str(), o.as_str().replace('_', " "))), &asked.outcome),
        policies: choices(Policy::ALL.iter().map(|p| (p.as_str(), policy_name(p.as_str()).to_owned())), &asked.policy),
        example: super::example(&state.gateway),
        ..View::default()
    };
    view.live = asked.cursor.is_none().then(|| link("/partials/retrievals", asked, None));
    view.filtered = !(view.cid.is_empty() && asked.outcome.is_empty() && asked.policy.is_empty());
    view.export = Some(Links::new(&link("/retrievals", asked, None), "retrievals", "Retrievals that match"));
    let status = match filter(asked) {
        Err(problem) => {
            view.live = None;
            view.problem = Some(problem);
            StatusCode::BAD_REQUEST
        }
        Ok((filter, cursor)) => match list(state, &filter, cursor).await {
            Ok(found) => {
                view.rows = found.items.iter().map(|row| RowView::new(row, now)).collect();
                view.older = found.next.map(|next| link("/retrievals", asked, Some(next)));
                view.newest = cursor.map(|_| link("/retrievals", asked, None));
                StatusCode::OK
            }
            Err(error) => {
                let text = overview::down(&error, now);
                view.problem = Some(Problem { title: "The metrics database is not available.", text });
                StatusCode::SERVICE_UNAVAILABLE
            }
        },
    };
    view.summary = match (view.rows.len(), view.filtered) {
        (0, _) => "Every request for content, newest first.".to_owned(),
        (n, true) => format!("{n} shown that match, newest first."),
        (n, false) => format!("{n} shown, newest first."),
    };
    (status, view)
}

async fn list(
    state: &State,
    filter: &RetrievalFilter,
    cursor: Option<i64>,
) -> Result<queries::Page<RetrievalRow>, Unread> {
    Ok(state.database()?.retrievals(filter, cursor, PER_PAGE).await?)
}

/// What matches, page after page up to the bound of an export.
async fn all(state: &State, filter: &RetrievalFilter, mut cursor: Option<i64>) -> Result<Table, Unread> {
    let mut rows = Vec::new();
    loop {
        let left = MAX_ROWS - rows.len();
        let limit = u32::try_from(left).unwrap_or(queries::MAX_LIMIT).min(queries::MAX_LIMIT);
        let found = state.database()?.retrievals(filter, cursor, limit).await?;
        rows.extend(found.items);
        cursor = found.next;
        if cursor.is_none() || rows.len() >= MAX_ROWS {
            return Ok(Table { truncated: cursor.is_some(), ..table("retrievals", &rows) });
        }
    }
}

/// Retrievals as a table for export.
pub fn table(name: &'static str, rows: &[RetrievalRow]) -> Table {
    const COLUMNS: &[&str] = &[
        "id",
        "started_at_us",
        "finished_at_us",
        "cid",
        "path",
        "outcome",
        "error_kind",
        "phase",
        "http_status",
        "origin",
        "is_simulated",
        "policy",
        "source",
        "cache_state",
        "bytes",
        "network_bytes",
        "duplicate_bytes",
        "blocks",
        "load_time_ms",
        "ttfb_ms",
        "transfer_time_ms",
        "routing_ms",
        "connect_ms",
        "providers_found",
        "providers_attempted",
        "peer_count",
        "byte_efficiency",
        "optimization_score",
        "sample_weight",
    ];
    let cells = |row: &RetrievalRow| {
        row![
            row.id,
            row.started_at,
            row.test_timestamp,
            &row.cid,
            &row.path,
            &row.outcome,
            row.error_kind.as_ref(),
            row.phase.as_ref(),
            row.http_status,
            &row.origin,
            row.is_simulated,
            &row.policy,
            row.source.as_ref(),
            row.cache_state.as_ref(),
            row.bytes,
            row.network_bytes,
            row.duplicate_bytes,
            row.blocks,
            row.load_time_ms,
            row.ttfb_ms,
            row.transfer_time_ms,
            row.routing_ms,
            row.connect_ms,
            row.providers_found,
            row.providers_attempted,
            row.peer_count,
            row.network_efficiency,
            row.optimization_score,
            row.sample_weight
        ]
    };
    Table::new(name, COLUMNS, rows.iter().map(cells).collect())
}

fn choices(all: impl Iterator<Item = (&'static str, String)>, selected: &str) -> Vec<Choice> {
    all.map(|(value, label)| Choice { value, label, selected: value == selected }).collect()
}

fn filter(asked: &Asked) -> Result<(RetrievalFilter, Option<i64>), Problem> {
    let wrong = |text: String| Problem { title: "This filter cannot be used.", text };
    let mut filter = RetrievalFilter::default();
    let text = asked.cid.trim();
    if !text.is_empty() {
        let bare = text.strip_prefix("/ipfs/").unwrap_or(text).split('/').next().unwrap_or_default();
        let cid = cid::parse(bare).map_err(|error| wrong(format!("{error}.")))?;
        filter.cid = Some(queries::canonical_cid(&cid));
    }
    if !asked.outcome.is_empty() {
        filter.outcome = Some(asked.outcome.parse().map_err(|error| wrong(format!("{error}.")))?);
    }
    if !asked.policy.is_empty() {
        filter.policy = Some(asked.policy.parse().map_err(|error| wrong(format!("{error}.")))?);
    }
    let cursor = match asked.cursor.as_deref().unwrap_or_default() {
        "" => None,
        text => Some(text.parse().map_err(|_| wrong("The cursor is not a number.".to_owned()))?),
    };
    Ok((filter, cursor))
}

/// The same filter at another place of the list.
fn link(path: &str, asked: &Asked, cursor: Option<i64>) -> String {
    let cursor = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
    let parts =
        [("cid", asked.cid.trim()), ("outcome", &asked.outcome), ("policy", &asked.policy), ("cursor", &cursor)];
    let query: Vec<String> = parts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_keep_the_filter_and_escape_it() {
        let asked = Asked { cid: "a&b".into(), outcome: "timeout".into(), ..Asked::default() };
        assert_eq!(link("/retrievals", &asked, Some(7)), "/retrievals?cid=a%26b&outcome=timeout&cursor=7");
        assert_eq!(link("/retrievals", &Asked::default(), None), "/retrievals");
    }

    #[test]
    fn the_path_under_the_root_is_shown_apart() {
        assert_eq!(rest("/ipfs/bafy/a/b.txt"), "/a/b.txt");
        assert_eq!(rest("/ipfs/bafy"), "");
    }

    #[test]
    fn a_filter_takes_any_spelling_of_a_cid_and_refuses_nonsense() {
        let asked =
            Asked { cid: " /ipfs/QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn/x ".into(), ..Asked::default() };
        let (filter, _) = filter(&asked).ok().unwrap();
        assert!(filter.cid.unwrap().starts_with("bafybei"));
        assert!(super::filter(&Asked { cid: "nonsense".into(), ..Asked::default() }).is_err());
    }
}
