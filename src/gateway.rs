//! The HTTP gateway: `/ipfs/{cid}[/path]` and `/ipns/{name}[/path]` as files, directory pages, raw blocks and CARs.
//!
//! The way of a request is DESIGN.md §6. One file per form of answer under `respond`; what a request asks for is
//! parsed once ([`mod@format`], [`range`], [`conditional`]); the status of every error is decided in [`error`].

mod body;
pub mod conditional;
pub mod content_type;
pub mod error;
mod folders;
pub mod format;
mod guard;
mod handler;
pub mod headers;
pub mod host;
mod links;
mod listing;
mod metrics;
mod middleware;
mod names;
mod origin;
mod page;
mod problem;
pub mod range;
pub mod redirects;
mod respond;
mod routing_v1;
mod service;
mod size;
mod trustless;
mod waiting;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::denylist::Denylists;
use crate::names::{Reach, Resolver};
use crate::record::RecordSink;
use crate::retriever::Retriever;
use crate::telemetry::Metrics;
use crate::units::ByteSize;
use folders::Folders;
use metrics::Counts;
use waiting::Waits;
use warm::Warm;

pub use routing_v1::{OwnAddresses, Routing};
pub use service::Service;
pub use trustless::trustless;

/// Limits of the gateway.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Requests for content that are answered at once; more get 429. Default 4,096. Lower it where memory is scarce:
    /// each holds up to its read-ahead. 0: nothing is answered.
    pub concurrent_requests: u32,
    /// How long a request may take until its first byte of content is ready; then it gets 504. Default 30 s. Keep it
    /// at or above the retriever's own timeout, whose answers say more. 0: no limit.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// How long a request may take in all; then its body is reset. Default 1 h. 0: no limit.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// The largest file, in bytes, of which a part may be asked for; of larger ones 501. Default 0: no limit. Set it (to 5 GiB
    /// and less) in front of a cache that answers a range of a large file with all of it.
    pub range_file_size: u64,
    /// The largest file or archive, in bytes, that is served as such; larger ones get 410 and can be had as blocks or CARs.
    /// Default 0: no limit.
    pub deserialized_size: u64,
    /// The largest graph, in bytes, that is served in any form but block by block; larger ones get 410. Default 0: no limit.
    pub dag_size: u64,
    /// A browser that waits longer for a page than this gets one that shows what happens and turns into the content.
    /// Default 2 s. Programs never get it. 0: nobody does.
    #[serde(with = "humantime_serde")]
    pub waiting_page: Duration,
    /// Ask for the style sheets, scripts and pictures that a page names while the page is still being read. Default false: a
    /// page may name much that nobody looks at. True where most requests are for web sites.
    pub prefetch_links: bool,
    /// Serve what a browser would run (HTML, SVG) with `Content-Security-Policy: sandbox`: every path shares the
    /// gateway's origin. Default false, because it breaks sites that store things; true where the gateway's host name
    /// has other uses.
    pub sandbox: bool,
    /// Hosts that send each root to an origin of its own, `{cid}.ipfs.HOST`. Default `localhost`.
    pub subdomain_hosts: host::Hosts,
    /// Memory for whole answers that are asked for again and again, the blocks that they share with the memory tier included.
    /// Default 32 MiB. Raise it when `gateway_answer_cache_evicted` grows. One answer takes up to half of it. 0: every answer
    /// is made anew.
    pub answer_cache: ByteSize,
    /// Proxies whose `X-Forwarded-Proto` and `X-Forwarded-Host` count. Default none.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrent_requests: 4096,
            first_byte_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(3600),
            range_file_size: 0,
            deserialized_size: 0,
            dag_size: 0,
            waiting_page: Duration::from_secs(2),
            prefetch_links: false,
            sandbox: false,
            answer_cache: ByteSize::mib(32),
            // Local invariant: the name is a host name.
            subdomain_hosts: host::Hosts::parse(&["localhost"]).unwrap_or_default(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// Says whether a text is an admin token.
pub type TokenCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the gateway is made of.
#[derive(Clone)]
pub struct State {
    pub retriever: Retriever,
    pub names: Resolver,
    /// What `/routing/v1` answers from; `None`: it does not.
    pub routing: Option<Routing>,
    /// What is refused.
    pub denylists: Denylists,
    pub sink: Arc<dyn RecordSink>,
    pub config: Config,
    /// Who presents such a token as a bearer may choose `?policy=`.
    pub is_admin_token: TokenCheck,
}

/// The gateway as a router: [`service`], for where a router is wanted.
pub fn router(state: State, metrics: &Metrics) -> Router {
    Router::new().fallback_service(service(state, metrics))
}

/// The gateway. Registers its metrics: build it once a process, and clone it for further listeners.
pub fn service(state: State, metrics: &Metrics) -> Service {
    let counts = Counts::new(metrics);
    let gateway = Arc::new(Gateway {
        permits: Arc::new(Semaphore::new(state.config.concurrent_requests as usize)),
        waits: Waits::new(state.config.waiting_page, counts.clone(), state.retriever.supervisor().clone()),
        counts: counts.clone(),
        warm: Warm::new(state.config.answer_cache, metrics),
        folders: Folders::new(metrics),
        reach: Reach::Network,
        state,
    });
    let routing = gateway.state.routing.is_some().then(routing_v1::router).unwrap_or_default();
    let routes = Router::new()
        .merge(routing)
        .route("/", any(handler::home))
        .route("/ipfs", any(handler::open))
        .route("/ipfs/", any(handler::open))
        .route("/ipfs/{*path}", any(waiting::content))
        .route("/ipns", any(handler::open))
        .route("/ipns/", any(handler::open))
        .route("/ipns/{*path}", any(waiting::content))
        .fallback(handler::nothing)
        .with_state(gateway.clone());
    // The front gives requests of other origins their content path: it comes before the routes are tried.
    let front = axum::middleware::from_fn_with_state(gateway.clone(), origin::front);
    let router = Router::new()
        .fallback_service(tower::Layer::layer(&front, routes))
        .layer(axum::middleware::from_fn_with_state(counts, middleware::wrap));
    Service::new(gateway, router)
}

/// The router's state.
struct Gateway {
    state: State,
    permits: Arc<Semaphore>,
    counts: Counts,
    warm: Warm,
    folders: Folders,
    /// Whether the network is asked for what is not here.
    reach: Reach,
    waits: Arc<Waits>,
}
