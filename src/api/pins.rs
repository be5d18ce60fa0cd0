//! `/pins`: what `gc` keeps.

use std::time::UNIX_EPOCH;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::State;
use super::cursor;
use super::extract::{CidInPath, Query, fresh, limit};
use super::problem::Problem;
use crate::blockstore::{Blockstore, MAX_PIN_NAME, Pin, PinKind};
use crate::dag::{Follow, Walk, WalkError, WalkOptions};
use crate::ipld::{Block, Cid};
use crate::retriever::{FetchError, SessionOptions};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 500;
/// Bytes of fetched blocks that are written to the durable store at once.
const BATCH_BYTES: usize = 8 << 20;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAsked {
    /// `next_cursor` of the part before.
    cursor: Option<String>,
    /// Default 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PinList)]
pub struct List {
    items: Vec<PinView>,
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Pin)]
pub struct PinView {
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

/// Pins, by CID
#[utoipa::path(get, path = "/pins", tag = "content", params(ListAsked), responses((status = 200, body = List)))]
pub async fn list(Extract(state): Extract<State>, Query(asked): Query<ListAsked>) -> Result<Response, Problem> {
    let limit = limit(asked.limit, DEFAULT_LIMIT, MAX_LIMIT)? as usize;
    let after = match asked.cursor.as_deref() {
        Some(text) => {
            let key = cursor::read(cursor::List::Pins, text)?;
            Some(Cid::try_from(key.as_slice()).map_err(|_| Problem::parameter("cursor", "this is no cursor of pins"))?)
        }
        None => None,
    };
    let mut pins = state.blocks.pins().ls(after.as_ref(), limit + 1).await?;
    let more = pins.len() > limit;
    pins.truncate(limit);
    let next_cursor = pins.last().filter(|_| more).map(|pin| cursor::write(cursor::List::Pins, &pin.cid.to_bytes()));
    Ok(fresh(StatusCode::OK, List { items: pins.iter().map(PinView::new).collect(), next_cursor }))
}

/// One pin
#[utoipa::path(
    get, path = "/pins/{cid}", tag = "content", params(CidParam),
    responses((status = 200, body = PinView), (status = 404, description = "It is not pinned."))
)]
pub async fn one(Extract(state): Extract<State>, CidInPath(cid): CidInPath) -> Result<Response, Problem> {
    match state.blocks.pins().get(&cid).await? {
        Some(pin) => Ok(fresh(StatusCode::OK, PinView::new(&pin))),
        None => Err(Problem::not_found(format!("{cid} is not pinned"))),
    }
}

/// The CID in a path, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)]
pub struct CidParam {
    /// In any multibase, or version 0.
    #[param(min_length = 3, example = "bafkqabtimvwgy3yk")]
    cid: String,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AddAsked {
    /// `recursive` (the default): all that lies under it, too; or `direct`.
    #[param(inline, required = false)]
    mode: Mode,
    /// Shown in lists.
    #[param(max_length = 255)]
    name: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Recursive,
    Direct,
}

#[derive(Serialize, ToSchema)]
pub struct Pinned {
    cid: String,
    mode: &'static str,
    /// Distinct blocks that it keeps.
    blocks: u64,
}

/// Fetch what is missing into the durable store, then pin
///
/// Answers when the pin survives a crash.
#[utoipa::path(
    put, path = "/pins/{cid}", tag = "content", params(CidParam, AddAsked),
    responses(
        (status = 200, body = Pinned),
        (status = 404, description = "No provider has it."),
        (status = 422, description = "A block is not what its codec says."),
        (status = 502, description = "It could not be fetched."),
        (status = 504, description = "It could not be fetched in time."),
        (status = 507, description = "The store is full or read-only."),
    )
)]
pub async fn add(
    Extract(state): Extract<State>,
    CidInPath(cid): CidInPath,
    Query(asked): Query<AddAsked>,
) -> Result<Response, Problem> {
    if asked.name.as_ref().is_some_and(|name| name.len() > MAX_PIN_NAME) {
        return Err(Problem::parameter("name", format!("a pin's name has at most {MAX_PIN_NAME} bytes")));
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

/// Release a pin; its blocks go at the next `gc`
#[utoipa::path(
    delete, path = "/pins/{cid}", tag = "content", params(CidParam),
    responses((status = 204, description = "Released"), (status = 404, description = "It is not pinned."), (status = 507, description = "The store is read-only."))
)]
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
