//! The pages of the admin listener: server-rendered, useful without scripts, no page with a figure that nobody measured.
//!
//! One file per page. Handlers read one thing below and return a template over view structs (invariant 8). Protection
//! (Host, token, Origin, security headers) is put around the merged admin router by `api::admin_router`.

pub mod assets;
mod attention;
mod chart;
mod content;
mod error;
mod explain;
mod export;
pub mod filters;
mod network_map;
mod overview;
mod page;
mod peer;
mod peers;
mod plot;
mod reference;
mod reports;
mod retrieval;
mod retrievals;
mod series;
mod system;
mod topology;
mod verdict;
mod waterfall;
mod webgpu;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

pub use reference::reference;
pub use system::Host;

use crate::db::{Database, DbError};
use crate::retriever::Retriever;
use crate::topology::Facts;

/// What the pages read.
#[derive(Clone)]
pub struct State {
    /// `None`: no records are kept (`--database none`).
    pub db: Option<Database>,
    /// The node as it is at this moment; called once a page, must not wait.
    pub node: Arc<dyn Fn() -> NodeSnapshot + Send + Sync>,
    /// Where people reach the gateway, without a slash at the end: `http://127.0.0.1:8080`.
    pub gateway: String,
    /// `--compare-share`: the share of cold retrievals that run the standard policy, 0..=1.
    pub compare_share: f64,
    /// The process and its machine.
    pub host: Arc<Host>,
    /// What the configuration says about routers, for recommendations.
    pub facts: Facts,
    /// Who has what, asked anew for each page that says so.
    pub retriever: Retriever,
}

/// What pages show of the node without asking the database.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeSnapshot {
    /// Of this node; `None` when it is offline.
    pub peer_id: Option<String>,
    /// Where other peers reach it, with `/p2p/ID` at the end.
    pub addresses: Vec<String>,
    /// Connected peers, and those of them that speak Bitswap.
    pub peers: usize,
    pub exchange_peers: usize,
    /// Names of the sources of providers in use (`dht`, `mdns`, `delegated`, `configured`).
    pub routers: Vec<String>,
    /// What an operator should know about this machine, one sentence each.
    pub warnings: Vec<String>,
    /// `--offline`.
    pub offline: bool,
    /// The durable store or its disk refuses writes; the reason in words.
    pub store_problem: Option<String>,
}

/// The pages, their partials and `/static/`.
pub fn router(state: State) -> Router {
    assets::prepare();
    Router::new()
        .route("/", get(overview::page))
        .route("/partials/overview", get(overview::partial))
        .route("/retrievals", get(retrievals::page))
        .route("/retrievals/{id}", get(retrieval::page))
        .route("/peers", get(peers::page))
        .route("/peers/{peer_id}", get(peer::page))
        .route("/topology", get(topology::page).layer(axum::Extension(topology::Readings::default())))
        .route("/partials/retrievals", get(retrievals::partial))
        .route("/content", get(content::page))
        .route("/system", get(system::page))
        .route("/webgpu", get(webgpu::page))
        .route("/reports", get(reports::page))
        .route("/explain", get(explain::form))
        .route("/explain/{cid}", get(explain::page))
        .route("/static/{*path}", get(assets::serve))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .with_state(state)
}

/// Why a read of the database gave nothing.
enum Unread {
    /// `--database none`.
    Off,
    Failed(DbError),
}

impl State {
    fn database(&self) -> Result<&Database, Unread> {
        self.db.as_ref().ok_or(Unread::Off)
    }
}

impl From<DbError> for Unread {
    fn from(error: DbError) -> Self {
        Self::Failed(error)
    }
}

/// The command that fills an empty page: an identity CID, which needs no peer.
fn example(gateway: &str) -> String {
    format!("curl {gateway}/ipfs/bafkqabtimvwgy3yk")
}

#[cfg(test)]
mod verdict_tests;
