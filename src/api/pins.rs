//! `/pins`: what `gc` keeps.

use std::time::UNIX_EPOCH;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::State;
use super::extract::{CidInPath, Query, fresh};
use super::problem::Problem;
use crate::blockstore::{Blockstore, MAX_PIN_NAME, Pin, PinKind};
use crate::dag::{Follow, Walk, WalkError, WalkOptions};
use crate::ipld::{Block, Cid, cid};
use crate::retriever::{FetchError, SessionOptions};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 500;
/// Bytes of fetched blocks that are written to the durable store at once.
const BATCH_BYTES: usize = 8 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListAsked {
    /// The last CID of the part before.
    cursor: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct List {
    items: Vec<PinView>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct PinView {
    cid: String,
    mode: &'static str,
    name: Option<String>,
    created_us: Option<u64>,
}

impl PinView {
    fn new(pin: &Pin) -> Self {
        let created_us = pin
            .created
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .map(|since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        Self { cid: pin.cid.to_string(), mode: mode(pin.kind), name: pin.name.clone(), created_us }
    }
}

fn mode(kind: PinKind) -> &'static str {
    match kind {
        PinKind::Recursive => "recursive",
        PinKind::Direct => "direct",
    }
}

pub async fn list(Extract(state): Extract<State>, Query(asked): Query<ListAsked>) -> Result<Response, Problem> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(Problem::bad_request(format!("limit is 1 to {MAX_LIMIT}")));
    }
    let after = match asked.cursor.as_deref() {
        Some(text) => Some(cid::parse(text).map_err(|error| Problem::bad_cid(&error))?),
        None => None,
    };
    let mut pins = state.blocks.pins().ls(after.as_ref(), limit + 1).await?;
    let more = pins.len() > limit;
    pins.truncate(limit);
    let next_cursor = pins.last().filter(|_| more).map(|pin| pin.cid.to_string());
    Ok(fresh(StatusCode::OK, List { items: pins.iter().map(PinView::new).collect(), next_cursor }))
}

pub async fn one(Extract(state): Extract<State>, CidInPath(cid): CidInPath) -> Result<Response, Problem> {
    match state.blocks.pins().get(&cid).await? {
        Some(pin) => Ok(fresh(StatusCode::OK, PinView::new(&pin))),
        None => Err(Problem::not_found(format!("{cid} is not pinned"))),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddAsked {
    /// `recursive` (the default) or `direct`.
    mode: Mode,
    name: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Recursive,
    Direct,
}

#[derive(Serialize)]
struct Pinned {
    cid: String,
    mode: &'static str,
    /// Distinct blocks that it keeps.
    blocks: u64,
}

/// Fetches what is missing into the durable store, then pins. Answers when the pin survives a crash.
pub async fn add(
    Extract(state): Extract<State>,
    CidInPath(cid): CidInPath,
    Query(asked): Query<AddAsked>,
) -> Result<Response, Problem> {
    if asked.name.as_ref().is_some_and(|name| name.len() > MAX_PIN_NAME) {
        return Err(Problem::bad_request(format!("a pin's name has at most {MAX_PIN_NAME} bytes")));
    }
    let kind = match asked.mode {
        Mode::Recursive => PinKind::Recursive,
        Mode::Direct => PinKind::Direct,
    };
    let guard = state.blocks.hold().await;
    let session = state.retriever.session(cid, SessionOptions::default());
    let mut stored = Batch { state: &state, blocks: Vec::new(), bytes: 0 };
    let mut seen = 0;
    if kind == PinKind::Direct {
        stored.add(session.fetch(&cid).await.map_err(|error| fetch_problem(&error))?).await?;
        seen = 1;
    } else {
        let options = WalkOptions { unique: true, fetch_leaves: true, follow: Follow::All, ..WalkOptions::default() };
        let mut walk = Walk::new(session, cid, options);
        while let Some(visit) = walk.next().await {
            seen += 1;
            if let Some(block) = visit.map_err(|error| walk_problem(&error))?.block {
                stored.add(block).await?;
            }
        }
    }
    stored.flush().await?;
    state.blocks.pins().add(&guard, vec![Pin { name: asked.name, ..Pin::new(cid, kind) }]).await?;
    Ok(fresh(StatusCode::OK, Pinned { cid: cid.to_string(), mode: mode(kind), blocks: seen }))
}

pub async fn remove(Extract(state): Extract<State>, CidInPath(cid): CidInPath) -> Result<Response, Problem> {
    match state.blocks.pins().rm(&cid).await? {
        Some(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        None => Err(Problem::not_found(format!("{cid} is not pinned"))),
    }
}

/// Blocks on their way to the durable store. `put` leaves out what is there.
struct Batch<'a> {
    state: &'a State,
    blocks: Vec<Block>,
    bytes: usize,
}

impl Batch<'_> {
    async fn add(&mut self, block: Block) -> Result<(), Problem> {
        if Block::inherent(block.cid()).is_some() {
            return Ok(());
        }
        self.bytes += block.len();
        self.blocks.push(block);
        if self.bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Problem> {
        self.bytes = 0;
        Ok(self.state.blocks.put(std::mem::take(&mut self.blocks)).await?)
    }
}

fn walk_problem(error: &WalkError) -> Problem {
    match error {
        WalkError::Fetch(error) => fetch_problem(error),
        other => Problem::unprocessable(other.to_string()),
    }
}

fn fetch_problem(error: &FetchError) -> Problem {
    let detail = error.to_string();
    match error {
        FetchError::NotFound { .. } | FetchError::NotLocal { .. } => Problem::not_found(detail),
        FetchError::Timeout { .. } => Problem::upstream(StatusCode::GATEWAY_TIMEOUT, detail),
        FetchError::Unsupported { .. } | FetchError::Denied { .. } => Problem::bad_request(detail),
        FetchError::Stopping => Problem::unavailable(detail),
        FetchError::Store(_) => Problem::internal(detail),
    }
}

/// For other handlers that pin what they stored.
pub fn recursive(cid: Cid, name: Option<String>) -> Pin {
    Pin { name, ..Pin::new(cid, PinKind::Recursive) }
}
