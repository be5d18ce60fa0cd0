//! `GET /retrievals` and `GET /retrievals/{id}`.

use axum::extract::State as Extract;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::extract::{Known, Query, fresh, tagged};
use super::problem::Problem;
use super::{State, database};
use crate::db::queries::{RetrievalFilter, RetrievalRow, canonical_cid};
use crate::ipld::cid;
use crate::record::{CacheState, Origin, Outcome, Policy, RetrievalId, Source};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;

/// The query of the list; unknown names are errors, so that a misspelt filter does not show everything.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    outcome: Option<Outcome>,
    source: Option<Source>,
    policy: Option<Policy>,
    origin: Option<Origin>,
    cache_state: Option<CacheState>,
    cid: Option<String>,
    peer: Option<String>,
    since_us: Option<i64>,
    until_us: Option<i64>,
    min_load_ms: Option<f64>,
    cursor: Option<i64>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct List {
    items: Vec<RetrievalRow>,
    /// For `?cursor=` of the next part; null at the end. A text, as every cursor is.
    next_cursor: Option<String>,
}

pub async fn list(Extract(state): Extract<State>, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(Problem::bad_request(format!("limit is 1 to {MAX_LIMIT}")));
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
    let page = database(&state)?.retrievals(&filter, asked.cursor, limit).await?;
    let next_cursor = page.next.map(|next| next.to_string());
    Ok(fresh(StatusCode::OK, List { items: page.items, next_cursor }))
}

/// A finished retrieval does not change, so its ETag is worth having.
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
