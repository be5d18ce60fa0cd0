//! `/explain/{cid}`: who has it, how they are reached, what of it is here, what a fetch would cost. Linkable, like ipfs-check.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::filters::{self, NO_DATA, NONE, cell, count, ms};
use super::page::Page;
use super::{State, error};
use crate::explain::{self, Explanation, ProviderPart, Question, RouterPart, Verdict};
use crate::ipld::path::{ContentPath, Namespace};
use crate::ipld::{Cid, cid};

/// Names of a path that a page shows in one piece.
const MAX_SHOWN: usize = 300;

#[derive(Template)]
#[template(path = "dashboard/explain.html")]
struct ExplainPage {
    page: Page,
    /// What the form holds.
    asked: String,
    problem: Option<String>,
    view: Option<View>,
}

struct View {
    cid: String,
    short: String,
    path: String,
    target: Option<String>,
    tone: &'static str,
    verdict: &'static str,
    summary: String,
    json: String,
    fetch: Option<String>,
    local: Vec<Fact>,
    estimate: Vec<Fact>,
    estimate_note: String,
    routers: Vec<RouterView>,
    providers: Vec<ProviderView>,
    providers_meta: String,
    no_providers: &'static str,
    took: String,
}

struct Fact {
    name: &'static str,
    value: String,
}

struct RouterView {
    name: String,
    kind: &'static str,
    providers: String,
    took: String,
    outcome: &'static str,
    tone: &'static str,
    error: String,
}

struct ProviderView {
    peer: String,
    short: String,
    found_by: String,
    connection: String,
    connection_tone: &'static str,
    transport: String,
    connect: String,
    has: &'static str,
    has_tone: &'static str,
    answer: String,
    rtt: String,
    rate: String,
    detail: String,
}

/// What a person typed, or a link holds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    cid: Option<String>,
    path: Option<String>,
    timeout_s: Option<String>,
}

/// `GET /explain`: the form. What it sends goes to the address of its own that can be linked.
pub async fn form(Query(asked): Query<Asked>) -> Response {
    let text = asked.cid.unwrap_or_default().trim().to_owned();
    if text.is_empty() {
        return html(StatusCode::OK, text, None, None);
    }
    match read(&text) {
        Ok((root, path)) => Redirect::to(&address(&root, &path)).into_response(),
        Err(problem) => html(StatusCode::BAD_REQUEST, text, Some(problem), None),
    }
}

/// `GET /explain/{cid}`
pub async fn page(Extract(state): Extract<State>, Path(text): Path<String>, Query(asked): Query<Asked>) -> Response {
    let root = match cid::parse(&text) {
        Ok(root) => root,
        Err(error) => {
            let problem = format!("{} is not a CID: {error}.", filters::tame(&text, 80));
            return html(StatusCode::BAD_REQUEST, text, Some(problem), None);
        }
    };
    let path = asked.path.as_deref().unwrap_or_default().trim_matches('/');
    let shown = if path.is_empty() { text.clone() } else { format!("{text}/{path}") };
    let path = match read(&shown) {
        Ok((_, path)) => path,
        Err(problem) => return html(StatusCode::BAD_REQUEST, shown, Some(problem), None),
    };
    let seconds = asked.timeout_s.as_deref().map_or(Some(explain::DEFAULT_TIMEOUT.as_secs()), |s| s.parse().ok());
    let Some(seconds) = seconds.filter(|s| (1..=explain::MAX_TIMEOUT.as_secs()).contains(s)) else {
        return html(StatusCode::BAD_REQUEST, shown, Some("timeout_s is 1 to 60 seconds.".to_owned()), None);
    };
    let timeout = Duration::from_secs(seconds);
    let question = Question { root, path, named: Vec::new(), timeout, max_providers: explain::DEFAULT_PROVIDERS };
    match explain::explain(&state.retriever, &state.host.blocks, &question).await {
        Ok(answer) => html(StatusCode::OK, shown, None, Some(View::of(&state, &question, &answer))),
        Err(error) => {
            let status = match &error {
                explain::ExplainError::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
                explain::ExplainError::Path(_) => StatusCode::NOT_FOUND,
                explain::ExplainError::Unsupported { .. } => StatusCode::BAD_REQUEST,
                explain::ExplainError::Store(_) => StatusCode::INSUFFICIENT_STORAGE,
            };
            html(status, shown, Some(filters::tame(&error.to_string(), MAX_SHOWN)), None)
        }
    }
}

fn html(status: StatusCode, asked: String, problem: Option<String>, view: Option<View>) -> Response {
    let title = view.as_ref().map_or_else(|| "Who has it?".to_owned(), |view| format!("Who has {}?", view.short));
    let template = ExplainPage { page: Page::new(title, "/retrievals"), asked, problem, view };
    let mut response = error::html(status, &template);
    // Each look asks anew.
    let no_store = axum::http::HeaderValue::from_static("no-store");
    response.headers_mut().insert(axum::http::header::CACHE_CONTROL, no_store);
    response
}

/// A CID, `CID/path`, `/ipfs/...` or `ipfs://...`.
fn read(text: &str) -> Result<(Cid, Vec<String>), String> {
    let path = ContentPath::parse_text(text).map_err(|error| format!("This is not understood: {error}."))?;
    match path.namespace {
        Namespace::Ipfs(root) => Ok((root, path.segments)),
        Namespace::Ipns(_) => {
            Err("This is a name: `tidegate explain` resolves names, this page takes CIDs.".to_owned())
        }
    }
}

/// Where the answer about it can be linked.
fn address(root: &Cid, path: &[String]) -> String {
    match path {
        [] => format!("/explain/{root}"),
        path => format!("/explain/{root}?path={}", utf8_percent_encode(&path.join("/"), NON_ALPHANUMERIC)),
    }
}

impl View {
    fn of(state: &State, question: &Question, answer: &Explanation) -> Self {
        let (verdict, tone) = verdict(answer.verdict);
        let content = ContentPath { segments: question.path.clone(), ..ContentPath::of(question.root) };
        let here = address(&question.root, &question.path);
        Self {
            short: filters::short(&answer.cid),
            cid: answer.cid.clone(),
            path: filters::tame(&answer.path, MAX_SHOWN),
            target: answer.path_is_cut.then(|| answer.target.clone()),
            tone,
            verdict,
            summary: answer.summary.clone(),
            json: format!("/api/v1{here}"),
            fetch: (answer.verdict != Verdict::Denied).then(|| format!("{}{}", state.gateway, content.to_url_path())),
            local: local(answer),
            estimate: estimate(answer),
            estimate_note: estimate_note(answer),
            routers: answer.routers.iter().map(RouterView::of).collect(),
            providers: answer.providers.iter().map(ProviderView::of).collect(),
            providers_meta: providers_meta(answer),
            no_providers: match answer.verdict {
                Verdict::Offline => "This server is offline: nobody was asked.",
                Verdict::Denied => "Nobody was asked: a denylist names it.",
                _ if answer.routers.is_empty() && answer.connected_asked == 0 => {
                    "There is nobody to ask: no router is configured and no peer is connected, or the block needs none."
                }
                _ => "No router named anybody, and no connected peer has it.",
            },
            took: cell(ms(Some(answer.elapsed_ms))),
        }
    }
}

/// In words, and how it is coloured.
fn verdict(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Local => ("here", "ok"),
        Verdict::Available => ("available", "ok"),
        Verdict::Unreachable => ("unreachable", "bad"),
        Verdict::Nobody => ("nobody has it", "bad"),
        Verdict::Unknown => ("not known", "warn"),
        Verdict::Denied => ("denied", "bad"),
        Verdict::Offline => ("offline", "warn"),
    }
}

fn local(answer: &Explanation) -> Vec<Fact> {
    let local = &answer.local;
    let at_least = if local.whole { "" } else { "at least " };
    let fact = |name, value: String| Fact { name, value };
    let size = |bytes: Option<u64>| bytes.map_or_else(|| NO_DATA.to_owned(), |bytes| filters::bytes(bytes).to_string());
    let mut facts = vec![fact("This block", local.tier.map_or("not here".to_owned(), |tier| format!("in {tier}")))];
    if local.tier.is_some() {
        facts.push(fact("Blocks here", format!("{at_least}{}", count(local.blocks_here))));
        facts.push(fact("Blocks missing", format!("{at_least}{}", count(local.blocks_missing))));
        facts.push(fact("Size of all", size(local.bytes_total)));
    }
    facts.push(fact("Still to fetch", size(answer.estimate.bytes)));
    facts.push(fact("Pinned", local.pin.unwrap_or("no").to_owned()));
    facts
}

fn estimate(answer: &Explanation) -> Vec<Fact> {
    let estimate = &answer.estimate;
    let known = |quantity: Option<filters::Quantity>| quantity.map_or(NO_DATA.to_owned(), |q| q.to_string());
    vec![
        Fact { name: "First byte, at best", value: known(ms(estimate.first_byte_ms)) },
        Fact { name: "All of it, at best", value: known(ms(estimate.total_ms)) },
        Fact { name: "Rate together", value: known(filters::rate(estimate.bytes_per_second)) },
        Fact { name: "Round trips, at least", value: count(u64::from(estimate.round_trips)) },
        Fact { name: "Providers that count", value: count(u64::from(estimate.providers)) },
    ]
}

fn estimate_note(answer: &Explanation) -> String {
    let estimate = &answer.estimate;
    if estimate.bytes == Some(0) {
        return "Nothing is to be fetched.".to_owned();
    }
    let mut note =
        "A bound, not a forecast: round trips and rates that were measured of the providers that have it, every \
                    link full."
            .to_owned();
    if estimate.providers_unmeasured > 0 {
        let n = estimate.providers_unmeasured;
        let (verb, s) = if n == 1 { ("has", "") } else { ("have", "s") };
        note.push_str(&format!(" {n} provider{s} {verb} no measured rate yet and could only make it faster."));
    }
    if estimate.bytes.is_none() {
        note.push_str(" How much there is to fetch is not known before its first block is here.");
    }
    note
}

fn providers_meta(answer: &Explanation) -> String {
    let mut meta = format!("{} shown", answer.providers.len());
    if answer.providers_unasked > 0 {
        meta.push_str(&format!(", {} more named and not asked", count(answer.providers_unasked)));
    }
    if answer.connected_asked > 0 {
        meta.push_str(&format!("; {} connected peers asked unnamed", count(answer.connected_asked)));
    }
    meta
}

impl RouterView {
    fn of(router: &RouterPart) -> Self {
        let (outcome, tone) = match (&router.error, router.elapsed_ms) {
            (Some(_), _) => ("failed", "bad"),
            (None, Some(_)) => ("answered", "ok"),
            (None, None) => ("no end within the time", "warn"),
        };
        Self {
            name: filters::tame(&router.name, 120),
            kind: router.kind,
            providers: count(router.providers),
            took: cell(ms(router.elapsed_ms)),
            outcome,
            tone,
            error: filters::tame(router.error.as_deref().unwrap_or_default(), 160),
        }
    }
}

impl ProviderView {
    fn of(provider: &ProviderPart) -> Self {
        let (connection, connection_tone) = match provider.connection {
            "connected" => ("connected before", "ok"),
            "dialled" => ("connected", "ok"),
            "failed" => ("not reached", "bad"),
            _ => ("no answer", "warn"),
        };
        let (has, has_tone) = match provider.has {
            "yes" => ("has it", "ok"),
            "no" => ("has it not", "bad"),
            "silent" => ("silent", "warn"),
            _ => ("not asked", ""),
        };
        let found_by = match provider.found_by.as_slice() {
            [] => "asked unnamed".to_owned(),
            names => names.join(", "),
        };
        let detail = provider.connect_error.as_deref().or(provider.address.as_deref()).unwrap_or_default();
        Self {
            short: filters::short(&provider.peer_id),
            peer: provider.peer_id.clone(),
            found_by: filters::tame(&found_by, 160),
            connection: connection.to_owned(),
            connection_tone,
            transport: provider.transport.unwrap_or(NONE).to_owned(),
            connect: cell(ms(provider.connect_ms)),
            has,
            has_tone,
            answer: cell(ms(provider.answer_ms)),
            rtt: cell(ms(provider.rtt_ms)),
            rate: cell(filters::rate(provider.bytes_per_second)),
            detail: filters::tame(detail, 200),
        }
    }
}
