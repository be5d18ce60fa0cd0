//! The composition root: what is built from what, in which order it starts, and in which it stops.
//!
//! Start: data directory and its lock, metrics, blocks, node, routers, retriever, database, listeners, the `api` file,
//! the ready line. Stop (DESIGN.md §6): stop accepting and let requests in flight end, cancel sessions, close the node,
//! drain the recorder, close the database, flush the cache, remove the `api` file, release the lock.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::blockstore::{Blocks, DataDirLock, StoreError};
use crate::config::{ConfigError, Settings};
use crate::db::Database;
use crate::denylist::{self, DenylistError, Denylists};
use crate::http_peer::delegated::{DelegatedMetrics, DelegatedRouter, RouterUrlError};
use crate::http_peer::trustless::HttpError;
use crate::listener::{self, Tls, TlsError};
use crate::names;
use crate::record::live::Feed;
use crate::record::{NoRecords, RecordSink};
use crate::retriever::Retriever;
use crate::routing::{ContentRouter, NameRouter, PeerRouter};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use crate::topology;
use crate::{api, gateway, p2p};

mod api_file;
mod denied;
mod observer;
mod parts;
mod token;

pub use api_file::ApiFile;

use token::AdminToken;

/// How long a stage of the stop may take before it is left behind.
const STOP_STAGE: Duration = Duration::from_secs(5);

/// Who runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `tidegate serve`.
    Server,
    /// Inside another command, for as long as that runs: loopback on free ports, no metrics database, no listening peer.
    Embedded,
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{path}: {error}")]
    DataDir { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the node did not start: {0}")]
    Node(#[from] p2p::NodeError),
    #[error(transparent)]
    Router(#[from] RouterUrlError),
    #[error(transparent)]
    HttpPeer(#[from] HttpError),
    #[error(transparent)]
    Denylist(#[from] DenylistError),
    #[error("--subdomain-host: {0}")]
    SubdomainHost(#[from] gateway::host::HostsError),
    #[error(transparent)]
    Names(#[from] names::StartError),
    #[error("resolver: {0}")]
    Dns(std::io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{name} cannot listen on {address}: {error}")]
    Bind { name: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("admin token file {path}: {error}")]
    Token { path: PathBuf, error: std::io::Error },
}

/// A running server.
pub struct App {
    api: ApiFile,
    peers: Vec<Multiaddr>,
    data_dir: PathBuf,
    stop: CancellationToken,
    draining: api::Draining,
    feed: Feed,
    listeners: Vec<tokio::task::JoinHandle<Option<usize>>>,
    /// By stage of the stop: listeners, retriever, node, database, store.
    stages: Stages,
    node: Option<p2p::Client>,
    database: Option<Database>,
    blocks: Arc<Blocks>,
    retriever: Retriever,
    sink: Arc<dyn RecordSink>,
    facts: topology::Facts,
    _lock: DataDirLock,
}

/// One supervisor for each stage of the stop, so that a stage ends before the next begins.
#[derive(Default)]
struct Stages {
    listeners: Supervisor,
    retriever: Supervisor,
    node: Supervisor,
    database: Supervisor,
    store: Supervisor,
}

impl App {
    pub async fn start(mut settings: Settings, mode: Mode) -> Result<Self, StartError> {
        if mode == Mode::Embedded {
            parts::embed(&mut settings);
        }
        let data_dir = settings.data_dir()?;
        std::fs::create_dir_all(&data_dir).map_err(|error| StartError::DataDir { path: data_dir.clone(), error })?;
        let lock = DataDirLock::acquire(&data_dir)?;
        let metrics = Metrics::new();
        let stages = Stages::default();

        let blocks = Blocks::open(&data_dir, &parts::store(&settings), &metrics, &stages.store).await?;
        let denylists = Denylists::load(&denylist::files(&settings.denylist)?)?;
        denylist::watch(&denylists, settings.denylist.clone(), &metrics, &stages.store);
        let allowed = Arc::new(denied::Allowed { blocks: blocks.clone(), denylists: denylists.clone() });
        let node = if settings.offline {
            None
        } else {
            let serve = allowed.clone();
            Some(p2p::Node::start(&parts::node(&settings), &data_dir, serve, &metrics, &stages.node).await?)
        };
        let routers = Routers::new(&settings, node.as_ref(), &metrics)?;
        let http = match &node {
            Some(node) => Some(parts::http_peers(&settings, node, &metrics, &stages.node)?),
            None => None,
        };
        let retriever = Retriever::new(
            &parts::retriever(&settings, &data_dir),
            allowed.clone(),
            parts::exchange(node.as_ref(), http.as_ref()),
            parts::content_routers(&settings, &routers),
            &metrics,
            &stages.retriever,
        );
        let names = parts::names(&settings, &data_dir, routers.names.clone())?;
        let names = names::Resolver::new(names, &metrics, &stages.retriever)?;

        let database = match parts::database(&settings) {
            Some(config) => Some(Database::open(&config, &data_dir, &metrics, &stages.database).await),
            None => None,
        };
        let sink: Arc<dyn RecordSink> = match &database {
            Some(database) => database.sink(),
            None => Arc::new(NoRecords),
        };
        let feed = Feed::new(&metrics);
        let sink = feed.tee(sink);
        if let (Some(database), Some(node)) = (&database, &node) {
            let source = observer::Observer { node: node.clone(), retriever: retriever.clone() };
            topology::watch(database.clone(), Arc::new(source), parts::facts(&settings), &stages.database);
        }

        let token = AdminToken::load(settings.admin_token_file.as_deref())?;
        let gateway_tcp = bind("gateway", settings.gateway).await?;
        let admin_tcp = bind("admin", settings.admin).await?;
        let tls = match (&settings.tls_cert, &settings.tls_key) {
            (Some(cert), Some(key)) => Some(Tls::from_files(cert, key)?),
            _ => None,
        };
        let api = ApiFile::new(&gateway_tcp, &admin_tcp, tls.is_some(), &token);

        let draining = api::Draining::default();
        let state = gateway::State {
            retriever: retriever.clone(),
            names: names.clone(),
            routing: settings.routing_v1.then(|| parts::routing_v1(&routers, allowed, node.as_ref())),
            denylists,
            sink: sink.clone(),
            config: parts::gateway(&settings)?,
            is_admin_token: token.check(),
        };
        let stop = CancellationToken::new();
        let stats = listener::Stats::new(&metrics);
        let mut listeners = Vec::new();
        if let Some(node) = node.as_ref().filter(|_| !settings.no_libp2p_gateway) {
            let router = gateway::trustless(state.clone(), &metrics);
            let options = parts::streams(&settings, &stats);
            let streams = listener::Streams::new(router, options, &stages.listeners, stop.clone());
            node.serve_http(streams.clone());
            listeners.push(stages.listeners.spawn("libp2p gateway", async move { streams.drained().await }));
        }
        let gateway_service = gateway::service(state, &metrics);
        let admin = parts::Admin {
            settings: &settings,
            bound: settings.admin,
            gateway: api.gateway.clone(),
            admin: api.admin.clone(),
            data_dir: data_dir.clone(),
            token: token.check(),
            tokens: tokens(&data_dir),
            blocks: blocks.clone(),
            retriever: retriever.clone(),
            names,
            node: node.clone(),
            database: database.clone(),
            metrics: metrics.clone(),
            supervisors: stages.all(),
            draining: draining.clone(),
            feed: feed.clone(),
        };
        let admin_router = admin.router();

        let tunnels = parts::tunnels(&settings)?;
        let options = |name, tunnel_to| listener::Options {
            name,
            config: parts::listener(&settings),
            trusted_proxies: settings.trusted_proxy.clone(),
            tls: tls.clone(),
            stats: stats.clone(),
            tunnel_to,
        };
        let (supervisor, token) = (stages.listeners.clone(), stop.clone());
        let gateway = options("gateway", Some(tunnels));
        let gateway = async move { listener::serve(gateway_tcp, gateway_service, gateway, &supervisor, token).await };
        let (supervisor, token) = (stages.listeners.clone(), stop.clone());
        let admin = options("admin", None);
        let admin = async move { listener::serve(admin_tcp, admin_router, admin, &supervisor, token).await };
        listeners.extend([stages.listeners.spawn("gateway", gateway), stages.listeners.spawn("admin", admin)]);

        if let Err(error) = api.write(&data_dir) {
            warn!(%error, "the api file cannot be written: other commands will not find this server");
        }
        let peers = node.as_ref().map(p2p::Client::listen_addrs).unwrap_or_default();
        info!(gateway = api.gateway, admin = api.admin, data_dir = %data_dir.display(), "started");
        Ok(Self {
            api,
            peers,
            data_dir,
            stop,
            draining,
            feed,
            listeners,
            stages,
            node,
            database,
            blocks,
            retriever,
            sink,
            facts: parts::facts(&settings),
            _lock: lock,
        })
    }

    /// The one line that `serve` prints on stdout (DESIGN.md §8).
    pub fn ready_line(&self) -> String {
        let mut line = format!("ready gateway={} admin={}", self.api.gateway, self.api.admin);
        for peer in &self.peers {
            line.push_str(&format!(" peer={peer}"));
        }
        line
    }

    pub fn api_file(&self) -> &ApiFile {
        &self.api
    }

    /// The addresses under which other peers reach this node, with `/p2p/ID` at the end.
    pub fn peers(&self) -> &[Multiaddr] {
        &self.peers
    }

    pub(crate) fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    pub(crate) fn retriever(&self) -> &Retriever {
        &self.retriever
    }

    pub(crate) fn sink(&self) -> Arc<dyn RecordSink> {
        self.sink.clone()
    }

    /// `None`: no records are kept.
    pub(crate) fn database(&self) -> Option<&Database> {
        self.database.as_ref()
    }

    pub(crate) fn facts(&self) -> topology::Facts {
        self.facts
    }

    /// Stops in the order that the module names. Ends by itself: every stage has a deadline.
    pub async fn stop(self) {
        self.draining.begin();
        // Streams of live events never end by themselves.
        self.feed.close();
        self.stop.cancel();
        for listener in self.listeners {
            // The listener holds its own drain deadline.
            let _ = listener.await;
        }
        for (name, stage) in [("retriever", &self.stages.retriever), ("listeners", &self.stages.listeners)] {
            report(name, stage.stop(STOP_STAGE).await);
        }
        if let Some(node) = &self.node {
            node.shutdown().await;
        }
        report("node", self.stages.node.stop(STOP_STAGE).await);
        if let Some(database) = &self.database {
            database.close(STOP_STAGE).await;
        }
        report("database", self.stages.database.stop(STOP_STAGE).await);
        if let Err(error) = self.blocks.close().await {
            warn!(%error, "the store did not close cleanly");
        }
        report("store", self.stages.store.stop(STOP_STAGE).await);
        ApiFile::remove(&self.data_dir);
        info!("stopped");
    }
}

impl Stages {
    fn all(&self) -> Vec<Supervisor> {
        let Self { listeners, retriever, node, database, store } = self;
        [listeners, retriever, node, database, store].into_iter().cloned().collect()
    }
}

/// Tokens that cannot be read grant nothing; the server runs without them.
fn tokens(data_dir: &std::path::Path) -> api::Tokens {
    api::Tokens::open(data_dir).unwrap_or_else(|error| {
        warn!(%error, "stored tokens cannot be read: none of them is accepted, and none can be made");
        api::Tokens::none()
    })
}

fn report(stage: &str, left: Vec<&'static str>) {
    if !left.is_empty() {
        warn!(stage, ?left, "tasks did not end in time");
    }
}

async fn bind(name: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Bind { name, address, error })
}

/// Everything that knows who has what, where names lead, and where peers are.
struct Routers {
    /// In the order in which the standard policy asks them: configured peers, local network, delegated, DHT.
    content: Vec<Arc<dyn ContentRouter>>,
    names: Vec<Arc<dyn NameRouter>>,
    peers: Vec<Arc<dyn PeerRouter>>,
}

impl Routers {
    fn new(settings: &Settings, node: Option<&p2p::Client>, metrics: &Metrics) -> Result<Self, StartError> {
        let mut routers = Self {
            content: node.map(p2p::Client::routers).unwrap_or_default(),
            names: node.map(p2p::Client::name_routers).unwrap_or_default(),
            peers: node.map(p2p::Client::peer_routers).unwrap_or_default(),
        };
        if !settings.offline {
            let counters = DelegatedMetrics::new(metrics);
            for url in &settings.router {
                let router = Arc::new(DelegatedRouter::new(url, counters.clone())?);
                routers.content.push(router.clone());
                routers.names.push(router.clone());
                routers.peers.push(router);
            }
        }
        routers.content.sort_by_key(|router| router.kind());
        Ok(routers)
    }
}
