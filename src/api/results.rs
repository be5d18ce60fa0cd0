//! `POST /results`: measurements of other test tools; `GET /tests`, `/runs`, `/hardware`, `/models`, `/content`: what is stored.
//!
//! A body is one result, a list of them, or `{"results": [...]}`. All of it is stored or nothing; each fault is named
//! by its JSON pointer (RFC 6901). A result whose `run_id` and `sequence` are known is left as it is.

mod input;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::cursor;
use super::extract::{Json, Known, Query, fresh, limit, tagged};
use super::problem::Problem;
use super::{State, database};
use crate::db::import::Imported;
use crate::db::queries::{ContentRow, HardwareRow, ModelRow, RunRow, TestFilter, TestRow, Window};
use crate::report::MAX_RUN_BYTES;

/// The longest body, in bytes.
pub const MAX_BODY: usize = 8 << 20;
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;

/// What became of a batch.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredResults)]
pub struct Stored {
    created: usize,
    /// Known before by their `run_id` and `sequence`, and left as they are.
    known: usize,
    items: Vec<Imported>,
}

/// Stores measurements of other test tools: one result, a list, or `{"results": [...]}`; all of it or nothing
#[utoipa::path(
    post, path = "/results", tag = "reports",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 200, body = Stored, description = "All of them were known by their run_id and sequence."),
        (status = 201, body = Stored, description = "Some are new."),
        (status = 413, description = "The batch is larger than 8 MiB: send several."),
        (status = 415, description = "It is not sent as JSON."),
        (status = 422, description = "Nothing was stored; `errors` has the JSON pointer of each fault."),
    )
)]
pub async fn import(
    Extract(state): Extract<State>,
    Json(json): Json<serde_json::Value, MAX_BODY>,
) -> Result<Response, Problem> {
    let db = database(&state)?;
    let batch = input::batch(json, std::time::SystemTime::now())
        .map_err(|faults| Problem::faults(faults.into_iter().map(|f| (f.pointer, f.detail)).collect()))?;
    let items = db.import(&batch).await?;
    let created = items.iter().filter(|item| item.created).count();
    let status = if created > 0 { StatusCode::CREATED } else { StatusCode::OK };
    Ok(fresh(status, Stored { created, known: items.len() - created, items }))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TestsAsked {
    /// Of this run.
    #[param(max_length = 128)]
    run_id: Option<String>,
    /// Of this type.
    #[param(max_length = 128)]
    test_type: Option<String>,
    /// `next_cursor` of the part before.
    cursor: Option<String>,
    /// Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Declares a list by its items: schema names are global.
macro_rules! list {
    ($name:ident, $item:ty) => {
        #[derive(Serialize, ToSchema)]
        pub struct $name {
            items: Vec<$item>,
            /// For `?cursor=` of the next part; null at the end.
            next_cursor: Option<String>,
        }
    };
}

list!(TestList, TestRow);
list!(RunList, RunRow);
list!(HardwareList, HardwareRow);
list!(ModelList, ModelRow);
list!(ContentList, ContentRow);

/// Results of test tools, the newest first
#[utoipa::path(get, path = "/tests", tag = "reports", params(TestsAsked), responses((status = 200, body = TestList)))]
pub async fn tests(
    Extract(state): Extract<State>,
    known: Known,
    Query(asked): Query<TestsAsked>,
) -> Result<Response, Problem> {
    for (name, text) in [("run_id", &asked.run_id), ("test_type", &asked.test_type)] {
        if text.as_ref().is_some_and(|text| text.len() > MAX_RUN_BYTES) {
            return Err(Problem::parameter(name, format!("{name} has at most {MAX_RUN_BYTES} bytes")));
        }
    }
    let limit = limit(asked.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = asked.cursor.as_deref().map(|text| cursor::read_number(cursor::List::Tests, text)).transpose()?;
    let filter = TestFilter { run_id: asked.run_id, test_type: asked.test_type };
    let page = database(&state)?.tests(&filter, cursor, limit).await?;
    let next_cursor = page.next.map(|next| cursor::write_number(cursor::List::Tests, next));
    tagged(&known, &TestList { items: page.items, next_cursor })
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LimitAsked {
    /// Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Runs of test tools, the newest first
#[utoipa::path(get, path = "/runs", tag = "reports", params(LimitAsked), responses((status = 200, body = RunList)))]
pub async fn runs(
    Extract(state): Extract<State>,
    known: Known,
    Query(asked): Query<LimitAsked>,
) -> Result<Response, Problem> {
    let ever = Window { since_us: 0, until_us: i64::MAX };
    let limit = limit(asked.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
    let items = database(&state)?.runs(ever, limit as usize).await?;
    tagged(&known, &RunList { items, next_cursor: None })
}

/// Machines and adapters that measured something, the latest first
#[utoipa::path(get, path = "/hardware", tag = "reports", responses((status = 200, body = HardwareList)))]
pub async fn hardware(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    let items = database(&state)?.hardware().await?;
    tagged(&known, &HardwareList { items, next_cursor: None })
}

/// Models that were measured, the newest first
#[utoipa::path(get, path = "/models", tag = "reports", responses((status = 200, body = ModelList)))]
pub async fn models(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    let items = database(&state)?.models(MAX_LIMIT).await?;
    tagged(&known, &ModelList { items, next_cursor: None })
}

/// Roots by their decayed requests, the hottest first
#[utoipa::path(get, path = "/content", tag = "content", params(LimitAsked), responses((status = 200, body = ContentList)))]
pub async fn content(
    Extract(state): Extract<State>,
    known: Known,
    Query(asked): Query<LimitAsked>,
) -> Result<Response, Problem> {
    let items = database(&state)?.hottest(limit(asked.limit, DEFAULT_LIMIT, MAX_LIMIT)?).await?;
    tagged(&known, &ContentList { items, next_cursor: None })
}
