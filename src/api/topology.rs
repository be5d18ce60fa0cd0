//! The network as a graph: `GET /api/v1/p2p/topology`.

use std::time::{Duration, SystemTime};

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::extract::{Query, fresh};
use super::problem::Problem;
use super::{State, database};
use crate::db::queries::Window;
use crate::topology::{self, export};

/// The window when none is asked for, and the longest, in seconds.
const DEFAULT_WINDOW_S: u64 = 3_600;
const MAX_WINDOW_S: u64 = 90 * 24 * 3_600;

/// JSON (nodes, edges, figures), GraphML, or DOT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TopologyFormat)]
pub enum Format {
    #[default]
    Json,
    Graphml,
    Dot,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// `json` (nodes, edges, figures), `graphml` or `dot`.
    #[serde(default)]
    #[param(inline, required = false)]
    format: Format,
    /// Seconds back from now. Default: 3,600.
    #[param(minimum = 1, maximum = 7_776_000)]
    window_s: Option<u64>,
}

/// The network as a graph: nodes, edges, roles, clusters and figures.
#[utoipa::path(
    get, path = "/p2p/topology", tag = "network", params(Asked),
    responses((status = 200, content(
        (topology::Network = "application/json"),
        (String = "application/graphml+xml"),
        (String = "text/vnd.graphviz")
    ), description = "the graph, in the form that was asked for"))
)]

pub async fn topology(Extract(state): Extract<State>, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let seconds = asked.window_s.unwrap_or(DEFAULT_WINDOW_S);
    if seconds == 0 || seconds > MAX_WINDOW_S {
        return Err(Problem::parameter("window_s", format!("window_s is 1 to {MAX_WINDOW_S}")));
    }
    let window = Window::last(Duration::from_secs(seconds), SystemTime::now());
    let own = state.node.as_ref().map(|node| node.peer_id().to_string());
    let network = topology::network(database(&state)?, own.as_deref(), window).await?;
    let text =
        |kind: &'static str, body: String| ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store")], body).into_response();
    Ok(match asked.format {
        Format::Json => fresh(StatusCode::OK, network),
        Format::Graphml => text("application/graphml+xml; charset=utf-8", export::graphml(&network)),
        Format::Dot => text("text/vnd.graphviz; charset=utf-8", export::dot(&network)),
    })
}
