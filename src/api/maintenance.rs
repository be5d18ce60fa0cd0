//! `POST /gc` and `POST /scrub`: run to the end, then report. They go on when the client leaves.

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::State;
use super::extract::fresh;
use super::problem::Problem;
use crate::blockstore::{GcReport, ScrubReport};
use crate::ipld::{Block, Cid};

#[derive(Serialize, ToSchema)]
#[schema(as = GcDone)]
pub struct Collected {
    #[serde(flatten)]
    report: GcReport,
    elapsed_ms: f64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ScrubDone)]
pub struct Scrubbed {
    #[serde(flatten)]
    report: ScrubReport,
    elapsed_ms: f64,
}

/// What a block links to; `None` when its bytes are not what its codec says.
fn links(block: &Block) -> Option<Vec<Cid>> {
    crate::ipld::codec::links(block).ok()
}

/// Remove unpinned blocks from the durable store; answers when it is done
#[utoipa::path(
    post, path = "/gc", tag = "content",
    responses((status = 200, body = Collected), (status = 409, description = "One is running."), (status = 507, description = "The store is read-only."))
)]
pub async fn gc(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let report = state.blocks.gc_with(links).await?;
    let elapsed_ms = report.elapsed.as_secs_f64() * 1e3;
    Ok(fresh(StatusCode::OK, Collected { report, elapsed_ms }))
}

/// Read and verify every durable block; answers when it is done
#[utoipa::path(
    post, path = "/scrub", tag = "content",
    responses((status = 200, body = Scrubbed), (status = 409, description = "One is running."))
)]
pub async fn scrub(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let report = state.blocks.scrub().await?;
    let elapsed_ms = report.elapsed.as_secs_f64() * 1e3;
    Ok(fresh(StatusCode::OK, Scrubbed { report, elapsed_ms }))
}
