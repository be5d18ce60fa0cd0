//! `/metrics`, `/healthz`, `/readyz`.

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::State;
use super::extract::fresh;
use crate::db::DbState;
use crate::record::Transport;
use crate::telemetry::METRICS_CONTENT_TYPE;

/// Figures for Prometheus, as OpenMetrics text
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, description = "OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text"))
)]
pub async fn metrics(Extract(state): Extract<State>) -> Response {
    ([(CONTENT_TYPE, METRICS_CONTENT_TYPE), (CACHE_CONTROL, "no-store")], state.metrics.encode()).into_response()
}

/// The process answers
#[utoipa::path(
    get, path = "/healthz", tag = "health",
    responses((status = 200, description = "`ok`", body = String, content_type = "text/plain"))
)]
pub async fn healthz() -> Response {
    ([(CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

#[derive(Serialize, ToSchema)]
#[schema(as = Readiness)]
pub struct Ready {
    /// `ready`, `degraded` (content is served, something else is not well) or `draining`.
    status: &'static str,
    database: &'static str,
    node: &'static str,
}

/// Whether content can be served
///
/// 200 while content can be served, 503 from the moment the server is told to stop. A database that is down does not
/// make it unready: fetches do not need it (DESIGN.md §4.3).
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, body = Ready), (status = 503, description = "The server is stopping.", body = Ready))
)]
pub async fn readyz(Extract(state): Extract<State>) -> Response {
    let database = match state.db.as_ref().map(|db| db.state()) {
        None => "off",
        Some(DbState::Up { .. }) => "up",
        Some(DbState::Down { .. }) => "down",
    };
    let node = match &state.node {
        None => "offline",
        Some(node) if node.peers().is_empty() && state.retriever.connected_over(Transport::Http) == 0 => "no peers",
        Some(_) => "connected",
    };
    let draining = state.draining.has_begun();
    let status = match (draining, database, node) {
        (true, ..) => "draining",
        (_, "down", _) | (.., "no peers") => "degraded",
        _ => "ready",
    };
    let code = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    fresh(code, Ready { status, database, node })
}
