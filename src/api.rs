//! The REST API of the admin listener, `/metrics`, `/healthz` and `/readyz` (DATA.md §5).
//!
//! One file per resource. Errors are RFC 9457 problem documents. Lists have `items` and `next_cursor`. Times are
//! microseconds since the epoch (`_us`, or as the tables name them), durations carry their unit in the name.
//!
//! | method and path | does |
//! |---|---|
//! | `POST /api/v1/add` | stores a file (raw body) or a tree (multipart, relative names), pins it |
//! | `POST /api/v1/car` | stores the blocks of a CAR, pins its roots |
//! | `GET /api/v1/pins`, `PUT` and `DELETE /api/v1/pins/{cid}` | pins |
//! | `POST /api/v1/gc`, `POST /api/v1/scrub` | run and report |
//! | `GET /api/v1/id`, `/stats`, `/config` | this server |
//! | `GET /api/v1/retrievals`, `/retrievals/{id}` | what was fetched, and how |
//! | `GET /api/v1/p2p/analytics`, `/p2p/peers`, `/p2p/insights` | the network; what stands out in it |
//! | `GET /api/v1/reports/{type}` | a report as md, html, json or csv |
//! | `POST /api/v1/results` | stores measurements of other test tools |
//! | `GET /api/v1/tests`, `/runs`, `/hardware`, `/models`, `/content` | what was measured, on what, and what is asked for |

pub mod access;
mod add;
mod extract;
mod health;
mod maintenance;
mod node;
mod pins;
pub mod problem;
mod reports;
mod results;
mod retrievals;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::ALLOW;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

pub use access::{Access, TokenCheck};

use crate::blockstore::Blocks;
use crate::db::Database;
use crate::p2p;
use crate::retriever::Retriever;
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use crate::topology::Facts;
use problem::Problem;

/// What the handlers use.
#[derive(Clone)]
pub struct State {
    pub blocks: Arc<Blocks>,
    pub retriever: Retriever,
    /// `None`: offline.
    pub node: Option<p2p::Client>,
    /// `None`: no records are kept (`--database none`).
    pub db: Option<Database>,
    pub metrics: Metrics,
    /// The configuration in force, secrets taken out.
    pub config: serde_json::Value,
    /// What the configuration says about routers, for recommendations.
    pub facts: Facts,
    /// Where people reach the gateway: `http://127.0.0.1:8080`.
    pub gateway: String,
    pub supervisors: Vec<Supervisor>,
    pub draining: Draining,
    pub started: Instant,
    pub access: Access,
}

/// Whether the server is about to stop: `/readyz` says so from [`Draining::begin`] on.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The API alone, protected by [`State::access`].
pub fn router(state: State) -> Router {
    admin_router(state, Router::new().fallback(|| async { Problem::not_found("the API is under /api/v1") }))
}

/// The whole admin listener: the API beside `pages` (the dashboard), all of it behind one [`Access`].
pub fn admin_router(state: State, pages: Router) -> Router {
    let access = state.access.clone();
    let v1 = Router::new()
        .route("/add", post(add::add))
        .route("/car", post(add::car))
        .route("/pins", get(pins::list))
        .route("/pins/{cid}", get(pins::one).put(pins::add).delete(pins::remove))
        .route("/gc", post(maintenance::gc))
        .route("/scrub", post(maintenance::scrub))
        .route("/id", get(node::id))
        .route("/stats", get(node::stats))
        .route("/config", get(node::config))
        .route("/retrievals", get(retrievals::list))
        .route("/retrievals/{id}", get(retrievals::one))
        .route("/p2p/analytics", get(node::analytics))
        .route("/p2p/peers", get(node::peers))
        .route("/p2p/insights", get(node::insights))
        .route("/reports/{type}", get(reports::one))
        .route("/results", post(results::import).layer(DefaultBodyLimit::max(results::MAX_BODY)))
        .route("/tests", get(results::tests))
        .route("/runs", get(results::runs))
        .route("/hardware", get(results::hardware))
        .route("/models", get(results::models))
        .route("/content", get(results::content))
        .fallback(|request: Request| async move {
            Problem::not_found(format!("the API has no resource {}", request.uri().path()))
        })
        .layer(middleware::from_fn(method_problem));
    Router::new()
        .nest("/api/v1", v1)
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(state)
        .merge(pages)
        .layer(middleware::from_fn_with_state(access, access::guard))
}

/// axum's own 405 has no body: it becomes a problem document that keeps the Allow header.
async fn method_problem(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status() != axum::http::StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let problem = Problem::method_not_allowed();
    match response.headers().get(ALLOW) {
        Some(allow) => problem.with_allow(allow.clone()).into_response(),
        None => problem.into_response(),
    }
}

/// The database, or the problem that says why there is none.
fn database(state: &State) -> Result<&Database, Problem> {
    state.db.as_ref().ok_or_else(|| Problem::unavailable("this server keeps no records (--database none)"))
}
