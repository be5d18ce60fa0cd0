//! `POST /results`: measurements of other test tools; `GET /tests`, `/runs`, `/hardware`, `/models`, `/content`: what is stored.
//!
//! A body is one result, a list of them, or `{"results": [...]}`. All of it is stored or nothing; each fault is named
//! by its JSON pointer (RFC 6901). A result whose `run_id` and `sequence` are known is left as it is.

mod input;

use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::extract::{Known, Query, fresh, tagged};
use super::problem::Problem;
use super::{State, database};
use crate::db::import::Imported;
use crate::db::queries::{TestFilter, TestRow, Window};
use crate::report::MAX_RUN_BYTES;

/// The longest body, in bytes.
pub const MAX_BODY: usize = 8 << 20;
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;

/// One fault of the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// RFC 6901, from the body's root.
    pub pointer: String,
    pub detail: String,
}

#[derive(Serialize)]
struct Stored {
    created: usize,
    /// Known before by their `run_id` and `sequence`, and left as they are.
    known: usize,
    items: Vec<Imported>,
}

pub async fn import(Extract(state): Extract<State>, body: Result<Bytes, BytesRejection>) -> Result<Response, Problem> {
    let db = database(&state)?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::too_large(format!("a batch is at most {MAX_BODY} bytes; send several"))
        }
        _ => Problem::bad_request(rejection.body_text()),
    })?;
    let json: serde_json::Value =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request(format!("the body is no JSON: {error}")))?;
    let batch = input::batch(json, std::time::SystemTime::now()).map_err(Problem::faults)?;
    let items = db.import(&batch).await?;
    let created = items.iter().filter(|item| item.created).count();
    let status = if created > 0 { StatusCode::CREATED } else { StatusCode::OK };
    Ok(fresh(status, Stored { created, known: items.len() - created, items }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestsAsked {
    run_id: Option<String>,
    test_type: Option<String>,
    cursor: Option<i64>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct List<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(Problem::bad_request(format!("limit is 1 to {MAX_LIMIT}")));
    }
    Ok(limit)
}

/// `GET /tests`: rows of `test_results`, the newest first.
pub async fn tests(
    Extract(state): Extract<State>,
    known: Known,
    Query(asked): Query<TestsAsked>,
) -> Result<Response, Problem> {
    if [&asked.run_id, &asked.test_type].into_iter().flatten().any(|text| text.len() > MAX_RUN_BYTES) {
        return Err(Problem::bad_request(format!("run_id and test_type are at most {MAX_RUN_BYTES} bytes")));
    }
    let filter = TestFilter { run_id: asked.run_id, test_type: asked.test_type };
    let page = database(&state)?.tests(&filter, asked.cursor, limit(asked.limit)?).await?;
    tagged(&known, &List::<TestRow> { next_cursor: page.next.map(|next| next.to_string()), items: page.items })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitAsked {
    limit: Option<u32>,
}

/// `GET /runs`: tests taken together by run, the newest first.
pub async fn runs(
    Extract(state): Extract<State>,
    known: Known,
    Query(asked): Query<LimitAsked>,
) -> Result<Response, Problem> {
    let ever = Window { since_us: 0, until_us: i64::MAX };
    let items = database(&state)?.runs(ever, limit(asked.limit)? as usize).await?;
    tagged(&known, &List { items, next_cursor: None })
}

/// `GET /hardware`: machines and adapters that measured something, the latest first.
pub async fn hardware(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    let items = database(&state)?.hardware().await?;
    tagged(&known, &List { items, next_cursor: None })
}

/// `GET /models`: what was measured.
pub async fn models(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    let items = database(&state)?.models().await?;
    tagged(&known, &List { items, next_cursor: None })
}

/// `GET /content`: roots by their decayed requests, the hottest first.
pub async fn content(
    Extract(state): Extract<State>,
    known: Known,
    Query(asked): Query<LimitAsked>,
) -> Result<Response, Problem> {
    let items = database(&state)?.hottest(limit(asked.limit)?).await?;
    tagged(&known, &List { items, next_cursor: None })
}
