//! L3: whom to ask, how much, when to hedge, what a peer is worth.
//!
//! A [`Session`] looks into the local tiers itself; what is not there it asks of the engine, one task that owns the
//! [`scheduler`] (a state machine without I/O) and carries out what it decides.

pub mod bottleneck;
mod engine;
pub mod ledger;
mod local;
mod metrics;
pub mod probe;
mod rate;
mod report;
pub mod scheduler;
mod session;
pub mod step;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::blockstore::{Blockstore, Hit, StoreError, Tier};
use crate::denylist::{Denied, Denylists};
use crate::exchange::Exchange;
use crate::ipld::{Block, Cid};
use crate::record::{Phase, Policy, RetrievalEvent, Transport};
use crate::routing::ContentRouter;
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use crate::units::ByteSize;

pub use scheduler::{SessionId, Tally as Totals};
pub use session::{Session, Watch};

use engine::Engine;
use metrics::RetrieverMetrics;
use scheduler::{Scheduler, Tuning};
use session::{Mailbox, Shared};
use step::Step;

/// Blocks that the standard policy asks for ahead (go-ipld-format: preloadSize).
pub const STANDARD_READ_AHEAD: usize = 10;
/// Live events that a slow reader of them may fall behind by; older ones are lost to it.
const LIVE_EVENTS: usize = 1_024;
/// How often the peers' figures are written to disk.
const LEDGER_SAVED_EVERY: Duration = Duration::from_secs(60);

/// The retriever's part of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Which policy requests use that do not choose: `optimized` or `standard`. Default: optimized.
    pub policy: Policy,
    /// Share, 0 to 1, of requests that run the other policy's `standard` for comparison. Default: 0, none.
    pub compare_share: f64,
    /// Longest wait for the first byte and between bytes before a fetch fails (504). Default: 30s. Raise it for
    /// providers that first fetch from tape; 0 fails at once what is not local.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Bytes that all sessions together may have asked for ahead of their readers. Default: 64MiB. Raise it for long
    /// fat links; a session always has room for two blocks, also at 0.
    pub reorder_budget: ByteSize,
    /// The most of that budget that one session may use. Default: 32MiB.
    pub session_read_ahead: ByteSize,
    /// Peers that one session considers. Default: 128.
    pub max_peers_per_session: usize,
    /// Connected peers that one session asks whether they have its content. Default: 32; 0 asks none but the best.
    pub broadcast: usize,
    /// Dials that one session has under way. Default: 8.
    pub max_dials_per_session: usize,
    /// Dials that all sessions have under way. Default: 64.
    pub max_dials: usize,
    /// Searches for providers that run at once; more wait their turn, so that routing never crowds out transfers.
    /// Default: 32.
    pub max_searches: usize,
    /// Peers whose figures are remembered. Default: 4096.
    pub ledger_peers: usize,
    /// Share, 0 to 1, of received bytes that may be received twice for hedging. Default: 0.03. 0 leaves one block a
    /// session.
    pub duplicate_share: f64,
    /// Peers whose connections are kept open without traffic, those that would deliver soonest. Default: 8; 0 keeps none.
    pub keep_warm: usize,
    /// Where those figures outlive the process. Default: none; the program sets a file in its data directory.
    #[serde(skip)]
    pub ledger_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let tuning = Tuning::default();
        Self {
            policy: Policy::Optimized,
            compare_share: 0.0,
            timeout: tuning.timeout,
            reorder_budget: ByteSize::mib(64),
            session_read_ahead: ByteSize::mib(32),
            max_peers_per_session: tuning.max_candidates,
            broadcast: tuning.broadcast,
            max_dials_per_session: tuning.session_dials,
            max_dials: tuning.total_dials,
            max_searches: tuning.searches,
            ledger_peers: tuning.ledger_peers,
            duplicate_share: tuning.duplicate_share,
            keep_warm: tuning.keep_warm,
            ledger_file: None,
        }
    }
}

/// Why a block could not be had.
#[derive(Debug, Clone, Error)]
pub enum FetchError {
    /// Every router has answered and nobody has it (or everybody who was said to have it has not).
    #[error("no provider has {cid} ({providers_found} found, {providers_tried} tried, in {phase})")]
    NotFound {
        cid: Cid,
        phase: Phase,
        providers_found: u32,
        providers_tried: u32,
        /// Routers that gave an error instead of an answer: with no provider found, it is not known that there is none.
        routers_failed: u32,
    },
    /// No progress for the retrieval timeout.
    #[error("no progress on {cid} for {waited:?} ({providers_found} found, {providers_tried} tried, in {phase})")]
    Timeout { cid: Cid, phase: Phase, providers_found: u32, providers_tried: u32, waited: Duration },
    /// The session is local only and the block is not here.
    #[error("{cid} is not in the local store")]
    NotLocal { cid: Cid },
    /// The CID names a hash function that is not accepted, or is malformed.
    #[error("{cid} cannot be fetched: {error}")]
    Unsupported { cid: Cid, error: crate::ipld::BlockError },
    /// A denylist names it.
    #[error("{cid} is not served here: a denylist names it")]
    Denied { cid: Cid, denied: Denied },
    /// The retriever is stopping.
    #[error("the server is stopping")]
    Stopping,
    #[error("local store: {0}")]
    Store(Arc<StoreError>),
}

/// What a request may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionOptions {
    /// `None`: the server's.
    pub policy: Option<Policy>,
    /// Ask nobody (`Cache-Control: only-if-cached`, `--offline`).
    pub local_only: bool,
}

/// A block that will be wanted soon, and how large it is believed to be.
#[derive(Debug, Clone, Copy)]
pub struct Hint {
    pub cid: Cid,
    pub size: Option<u64>,
}

/// The tiers of this machine, nearest first.
#[async_trait]
pub trait LocalBlocks: Send + Sync + 'static {
    /// The block if it is in memory. Takes no lock for long and never waits.
    fn peek(&self, cid: &Cid) -> Option<Block>;

    /// The block from memory, the durable store or the disk cache.
    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError>;

    /// Keeps a block that came from the network, if there is room. Returns at once.
    fn cache(&self, block: &Block);

    /// A request read this block, wherever it came from. Returns at once.
    fn used(&self, _: &Block) {}
    /// Whether this block is neither fetched nor handed out, wherever it comes from.
    fn denied(&self, _: &Cid) -> Option<Denied> {
        None
    }

    /// What is refused here, names and paths included.
    fn denylists(&self) -> Denylists {
        Denylists::default()
    }

    /// Changes when a block was removed on purpose, so that whoever keeps bytes of blocks lets go of them.
    fn removals(&self) -> u64 {
        0
    }
}

/// One peer as the retriever sees it now.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerSnapshot {
    pub peer: PeerId,
    /// `None` when it is not connected.
    pub transport: Option<Transport>,
    /// Of the connection, as the exchange named it.
    pub address: Option<Multiaddr>,
    pub connected_for: Option<Duration>,
    /// The smallest round trip measured.
    pub rtt: Option<Duration>,
    /// Delivery rate of this connection, windowed maximum, bytes a second.
    pub rate: Option<f64>,
    /// The highest rate remembered, decayed, bytes a second.
    pub max_rate: Option<f64>,
    /// Wants and questions outstanding.
    pub outstanding: usize,
    /// Believed bytes of the blocks among them.
    pub outstanding_bytes: u64,
    /// It has work and sends nothing.
    pub stalled: bool,
    /// Payload bytes and blocks that it delivered.
    pub bytes: u64,
    pub blocks: u64,
    pub failures: u64,
    /// Wrong blocks, halved every hour.
    pub strikes: f64,
    /// Peers that seem to be behind the same bottleneck: their rates fell together.
    pub shares_with: Vec<PeerId>,
}

/// A step of some session, for pages that follow along.
#[derive(Debug, Clone)]
pub struct LiveEvent {
    pub session: SessionId,
    pub root: Cid,
    pub event: RetrievalEvent,
}

/// Gets blocks. Cheap to clone.
#[derive(Clone)]
pub struct Retriever {
    core: Arc<Core>,
}

/// What the retriever's sessions and its engine share.
struct Core {
    blocks: Arc<dyn LocalBlocks>,
    scheduler: Mutex<Scheduler>,
    /// `None`: no network.
    mailbox: Option<Arc<Mailbox>>,
    /// What probes ask through; `None`: no network.
    hub: Option<Arc<probe::Hub>>,
    metrics: RetrieverMetrics,
    supervisor: Supervisor,
    live: broadcast::Sender<LiveEvent>,
    epoch: Instant,
    policy: Policy,
    compare_share: f64,
    budget: u64,
    read_ahead: u64,
    active: AtomicUsize,
    /// Sessions that read ahead, from whatever tier: they share the reorder budget.
    readers: AtomicUsize,
    next_session: AtomicU64,
}

impl Retriever {
    /// A retriever without a network: what is not in `store` is not found.
    pub fn local(store: Arc<dyn Blockstore>) -> Self {
        let blocks = Arc::new(StoreOnly(store));
        Self::new(&Config::default(), blocks, None, Vec::new(), &Metrics::new(), &Supervisor::new())
    }

    /// Starts the engine under `supervisor` when there is an exchange.
    pub fn new(
        config: &Config,
        blocks: Arc<dyn LocalBlocks>,
        exchange: Option<Arc<dyn Exchange>>,
        routers: Vec<Arc<dyn ContentRouter>>,
        metrics: &Metrics,
        supervisor: &Supervisor,
    ) -> Self {
        let tuning = Tuning {
            timeout: config.timeout,
            max_candidates: config.max_peers_per_session.max(1),
            session_dials: config.max_dials_per_session.max(1),
            total_dials: config.max_dials.max(1),
            searches: config.max_searches.max(1),
            ledger_peers: config.ledger_peers,
            broadcast: config.broadcast,
            duplicate_share: config.duplicate_share.clamp(0.0, 1.0),
            keep_warm: config.keep_warm,
        };
        let mailbox = exchange.is_some().then(|| Arc::new(Mailbox::default()));
        let hub = exchange.clone().map(|exchange| Arc::new(probe::Hub::new(exchange, routers.clone(), metrics)));
        let core = Arc::new(Core {
            blocks,
            scheduler: Mutex::new(Scheduler::new(tuning)),
            mailbox: mailbox.clone(),
            hub,
            metrics: RetrieverMetrics::new(metrics),
            supervisor: supervisor.clone(),
            live: broadcast::channel(LIVE_EVENTS).0,
            epoch: Instant::now(),
            policy: config.policy,
            compare_share: config.compare_share.clamp(0.0, 1.0),
            budget: config.reorder_budget.0,
            read_ahead: config.session_read_ahead.0,
            active: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            next_session: AtomicU64::new(1),
        });
        if let (Some(exchange), Some(mailbox)) = (exchange, mailbox) {
            if let Some(path) = &config.ledger_file {
                match ledger::Saved::read(path) {
                    Ok(Some(saved)) => core.scheduler().ledger_mut().restore(saved),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "what is known of peers cannot be read: starting without")
                    }
                }
                supervisor.spawn("peer-ledger", keep_ledger(core.clone(), path.clone(), supervisor.token()));
            }
            let engine = Engine::new(core.clone(), mailbox, exchange, routers, supervisor.token());
            supervisor.spawn("retriever", engine.run());
        }
        Self { core }
    }

    /// Begins a user request's fetch of what is under `root`. Costs nothing until the first block that is not local.
    pub fn session(&self, root: Cid, options: SessionOptions) -> Session {
        let compared = self.core.compare_share > 0.0 && rand::random::<f64>() < self.core.compare_share;
        let policy = options.policy.unwrap_or(if compared { Policy::Standard } else { self.core.policy });
        Session::new(self.core.clone(), root, policy, options.local_only)
    }

    /// The policy of requests that do not choose.
    pub fn policy(&self) -> Policy {
        self.core.policy
    }

    /// A request was answered with this block without a session that fetched it.
    pub fn used(&self, block: &Block) {
        self.core.blocks.used(block);
    }

    /// Changes when a block was removed from every tier on purpose.
    pub fn removals(&self) -> u64 {
        self.core.blocks.removals()
    }

    /// Owns what goes on between the requests of one reader: it ends with the sessions.
    pub fn supervisor(&self) -> &Supervisor {
        &self.core.supervisor
    }

    /// Sessions that ask the network now.
    pub fn active_sessions(&self) -> usize {
        self.core.active.load(Ordering::Relaxed)
    }

    /// Connected peers and those remembered, connected first, then by bytes delivered.
    pub fn peers(&self) -> Vec<PeerSnapshot> {
        let now = Instant::now().saturating_duration_since(self.core.epoch);
        self.core.scheduler().snapshot(now)
    }

    /// Peers that are connected over this transport now.
    pub fn connected_over(&self, transport: Transport) -> usize {
        self.core.scheduler().connected_over(transport)
    }

    /// Exact counts since the start.
    pub fn totals(&self) -> Totals {
        self.core.scheduler().tally()
    }

    /// Steps of all sessions as they happen. A reader that falls behind by 1,024 loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<LiveEvent> {
        self.core.live.subscribe()
    }
}

impl Core {
    fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, shared: &Shared, step: &Step) {
        self.note_at(shared, Instant::now(), step);
    }

    fn note_at(&self, shared: &Shared, at: Instant, step: &Step) {
        let event = shared.step(at.saturating_duration_since(shared.started), step);
        if let Some(event) = event
            && self.live.receiver_count() > 0
        {
            let _ = self.live.send(LiveEvent { session: shared.id, root: shared.root, event });
        }
    }

    fn publish(&self) {
        let scheduler = self.scheduler();
        let (tally, evicted, load) = (scheduler.tally(), scheduler.ledger().evicted(), scheduler.load());
        drop(scheduler);
        self.metrics.publish(&tally, evicted, load);
    }
}

/// Writes what is known of peers every minute and at the end, off the request path.
async fn keep_ledger(core: Arc<Core>, path: PathBuf, stop: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(LEDGER_SAVED_EVERY) => false,
        };
        let now = Instant::now().saturating_duration_since(core.epoch);
        let (saved, path) = (core.scheduler().ledger().save(now), path.clone());
        let written = tokio::task::spawn_blocking(move || saved.write(&path)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "what is known of peers cannot be saved");
        }
        if stopping {
            return;
        }
    }
}

/// A plain store as the only tier; nothing that comes from the network is kept.
struct StoreOnly(Arc<dyn Blockstore>);

#[async_trait]
impl LocalBlocks for StoreOnly {
    fn peek(&self, _: &Cid) -> Option<Block> {
        None
    }

    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        Ok(self.0.get(cid).await?.map(|block| Hit { block, tier: Tier::Store }))
    }

    fn cache(&self, _: &Block) {}
}
