//! `GET /retrievals` and `GET /retrievals/{id}`.

use axum::extract::State as Extract;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::cursor;
use super::extract::{Known, Query, fresh, limit, tagged};
use super::problem::Problem;
use super::{State, database};
use crate::db::queries::{RetrievalFilter, RetrievalRow, canonical_cid};
use crate::ipld::cid;
use crate::record::{CacheState, Origin, Outcome, Policy, RetrievalId, Source};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;
/// Bytes of a peer id as text.
const MAX_PEER_TEXT: usize = 200;

/// The query of the list; unknown names are errors, so that a misspelt filter does not show everything.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// How it ended.
    #[param(inline)]
    outcome: Option<Outcome>,
    /// Where the bytes came from.
    #[param(inline)]
    source: Option<Source>,
    /// How it chose whom to ask.
    #[param(inline)]
    policy: Option<Policy>,
    /// Who or what caused it.
    #[param(inline)]
    origin: Option<Origin>,
    /// Which tier had it.
    #[param(inline)]
    cache_state: Option<CacheState>,
    /// Of this root.
    cid: Option<String>,
    /// In which this peer had a part; base58.
    #[param(max_length = 200)]
    peer: Option<String>,
    /// Started at or after; microseconds since the epoch.
    since_us: Option<i64>,
    /// Started before; microseconds since the epoch.
    until_us: Option<i64>,
    /// At least so long from the request to the last byte.
    #[param(minimum = 0)]
    min_load_ms: Option<f64>,
    /// `next_cursor` of the part before.
    cursor: Option<String>,
    /// Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RetrievalList)]
pub struct List {
    items: Vec<RetrievalRow>,
    /// For `?cursor=` of the next part; null at the end. A text, as every cursor is.
    next_cursor: Option<String>,
}

/// Retrievals, the newest first
#[utoipa::path(get, path = "/retrievals", tag = "retrievals", params(Asked), responses((status = 200, body = List)))]
pub async fn list(Extract(state): Extract<State>, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let limit = limit(asked.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = asked.cursor.as_deref().map(|text| cursor::read_number(cursor::List::Retrievals, text)).transpose()?;
    if asked.min_load_ms.is_some_and(|ms| !ms.is_finite() || ms < 0.0) {
        return Err(Problem::parameter("min_load_ms", "min_load_ms is a number of milliseconds, 0 or more"));
    }
    if asked.peer.as_ref().is_some_and(|peer| peer.len() > MAX_PEER_TEXT) {
        return Err(Problem::parameter("peer", format!("peer has at most {MAX_PEER_TEXT} bytes")));
    }
    let cid = match asked.cid.as_deref() {
        Some(text) => Some(canonical_cid(&cid::parse(text).map_err(|error| Problem::bad_cid(&error))?)),
        None => None,
    };
    let filter = RetrievalFilter {
        outcome: asked.outcome,
        source: asked.source,
        policy: asked.policy,
        origin: asked.origin,
        cache_state: asked.cache_state,
        cid,
        peer: asked.peer,
        since_us: asked.since_us,
        until_us: asked.until_us,
        min_load_ms: asked.min_load_ms,
    };
    let page = database(&state)?.retrievals(&filter, cursor, limit).await?;
    let next_cursor = page.next.map(|next| cursor::write_number(cursor::List::Retrievals, next));
    Ok(fresh(StatusCode::OK, List { items: page.items, next_cursor }))
}

/// One retrieval with its attempts and, if they were kept, its events
#[utoipa::path(
    get, path = "/retrievals/{id}", tag = "retrievals",
    params(("id" = i64, Path, description = "As in the gateway's Tidegate-Retrieval header")),
    responses(
        (status = 200, body = crate::db::queries::Detail),
        (status = 404, description = "There is none, or its row is not written yet (it is within seconds)."),
    )
)]
pub async fn one(
    Extract(state): Extract<State>,
    path: Result<axum::extract::Path<i64>, PathRejection>,
    known: Known,
) -> Result<Response, Problem> {
    let id = path?.0;
    match database(&state)?.retrieval(RetrievalId(id)).await? {
        Some(detail) => tagged(&known, &detail),
        None => Err(Problem::not_found(format!(
            "no retrieval {id} is in the database (yet: rows are written within seconds)"
        ))),
    }
}
