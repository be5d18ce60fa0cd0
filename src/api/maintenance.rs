//! `POST /gc` and `POST /scrub`: run to the end, then report. They go on when the client leaves.

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::State;
use super::extract::fresh;
use super::problem::Problem;
use crate::ipld::{Block, Cid};

#[derive(Serialize)]
struct Report<T> {
    #[serde(flatten)]
    report: T,
    elapsed_ms: f64,
}

/// What a block links to; `None` when its bytes are not what its codec says.
fn links(block: &Block) -> Option<Vec<Cid>> {
    crate::ipld::codec::links(block).ok()
}

pub async fn gc(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let report = state.blocks.gc_with(links).await?;
    let elapsed_ms = report.elapsed.as_secs_f64() * 1e3;
    Ok(fresh(StatusCode::OK, Report { report, elapsed_ms }))
}

pub async fn scrub(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let report = state.blocks.scrub().await?;
    let elapsed_ms = report.elapsed.as_secs_f64() * 1e3;
    Ok(fresh(StatusCode::OK, Report { report, elapsed_ms }))
}
