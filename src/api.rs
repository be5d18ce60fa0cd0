//! The REST API of the admin listener, `/metrics`, `/healthz` and `/readyz` (DATA.md §5).
//!
//! One file per resource. Errors are RFC 9457 problem documents. Lists have `items` and `next_cursor`. Times are
//! microseconds since the epoch (`_us`, or as the tables name them), durations carry their unit in the name.
//!
//! The OpenAPI document (`/api/v1/openapi.json`, `docs/openapi.json`, the page `/api`) is made from the handlers.
//!
//! # How to add a resource
//!
//! 1. A file `src/api/NAME.rs` with the handlers. Above each:
//!    `#[utoipa::path(get, path = "/name/{id}", tag = "one of openapi::TAGS", params(Asked, ("id" = i64, Path, description
//!    = "...")), responses((status = 200, body = Answer), (status = 404, description = "when")))]`. The first line of the
//!    doc comment is the summary. 4xx and 5xx need only status and description: schema, the statuses that every operation
//!    may give (400, 401, 403, 429, 500, 503), 304, ETag, operation id and the token's scope are added by
//!    [`openapi`]. Bodies that are not JSON: `content_type = "..."`.
//! 2. `#[derive(Serialize, ToSchema)]` on answers, `#[derive(Deserialize, IntoParams)]` with
//!    `#[into_params(parameter_in = Query)]`, `#[serde(default, deny_unknown_fields)]` on queries, `#[derive(Deserialize,
//!    ToSchema)]` on JSON bodies. Bounds are written twice, in `#[param(minimum, maximum)]` or `#[schema(...)]` and in the
//!    check. Schema names are global: `#[schema(as = NameList)]` where `List` would clash.
//! 3. Extract with `extract::{Query, Json, CidInPath}` (their refusals are problems that name the parameter or the JSON
//!    pointer), bound lists with `extract::limit` and `cursor::{read, write}`, answer with `extract::fresh`; every bounded
//!    JSON answer of a GET gets its ETag by itself. Errors are [`problem::Problem`]s.
//! 4. One line `.routes(routes!(name::list, name::create))` in [`routes`], all handlers of one path in one call.
//! 5. `scope.rs`: which token scope and which budget, if not read for GET and write for the rest.
//! 6. `TIDEGATE_WRITE_OPENAPI=1 cargo test --lib the_committed_document_is_that_of_the_code`, and look at the diff.

pub mod access;
mod add;
mod cache;
mod cursor;
mod events;
mod explain;
mod extract;
mod health;
mod maintenance;
mod names;
mod node;
pub mod openapi;
mod pins;
pub mod problem;
mod rate;
mod reports;
mod results;
mod retrievals;
mod scope;
mod tokens;
mod topology;
mod webgpu;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use access::{Access, TokenCheck};
pub use rate::{RateLimits, Rates};
pub use scope::Scope;
pub use tokens::{StoreError as TokenStoreError, Tokens};

use crate::blockstore::Blocks;
use crate::db::Database;
use crate::names::Resolver;
use crate::p2p;
use crate::record::live::Feed;
use crate::retriever::Retriever;
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use crate::topology::Facts;
use crate::webgpu::Lab;
use problem::Problem;

/// What the handlers use.
#[derive(Clone)]
pub struct State {
    pub blocks: Arc<Blocks>,
    pub retriever: Retriever,
    pub names: Resolver,
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
    /// What happens now, for `/events`.
    pub feed: Feed,
    pub started: Instant,
    pub access: Access,
    /// Run tokens of the WebGPU lab.
    pub lab: Lab,
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

/// Every route with its description.
fn routes() -> OpenApiRouter<State> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(add::add))
        .routes(routes!(add::car))
        .routes(routes!(pins::list))
        .routes(routes!(pins::one, pins::add, pins::remove))
        .routes(routes!(maintenance::gc))
        .routes(routes!(maintenance::scrub))
        .routes(routes!(cache::cache))
        .routes(routes!(events::events))
        .routes(routes!(explain::explain))
        .routes(routes!(node::id))
        .routes(routes!(node::stats))
        .routes(routes!(node::config))
        .routes(routes!(retrievals::list))
        .routes(routes!(retrievals::one))
        .routes(routes!(node::analytics))
        .routes(routes!(node::peers))
        .routes(routes!(node::insights))
        .routes(routes!(reports::one))
        .routes(routes!(results::import))
        .routes(routes!(results::tests))
        .routes(routes!(results::runs))
        .routes(routes!(results::hardware))
        .routes(routes!(results::models))
        .routes(routes!(results::content))
        .routes(routes!(topology::topology))
        .routes(routes!(names::list, names::publish))
        .routes(routes!(names::one, names::put))
        .routes(routes!(webgpu::begin))
        .routes(routes!(webgpu::results))
        .routes(routes!(webgpu::summary))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(openapi::serve))
        .fallback(|request: Request| async move { openapi::no_resource(request.uri().path()) });
    OpenApiRouter::with_openapi(openapi::base())
        .nest("/api/v1", v1)
        .routes(routes!(health::metrics))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .layer(middleware::from_fn(method_problem))
        .layer(middleware::from_fn(extract::tag_reads))
}

/// The whole admin listener: the API beside `pages` (the dashboard), all of it behind one [`Access`].
pub fn admin_router(state: State, pages: Router) -> Router {
    let access = state.access.clone();
    let (api, _) = routes().split_for_parts();
    api.with_state(state)
        .merge(pages)
        .layer(CatchPanicLayer::custom(|panic| {
            tracing::error!(panic = panic_text(&panic), "a handler of the admin listener panicked");
            Problem::internal("the request met an error of ours; the log has it").into_response()
        }))
        .layer(middleware::from_fn_with_state(access, access::guard))
}

fn panic_text(panic: &Box<dyn std::any::Any + Send>) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
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
