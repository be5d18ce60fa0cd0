//! Tidegate as a library: one object that adds, gets, loads checkpoints and reports on its network.
//!
//! [`Accelerator::start`] runs the same server as `tidegate serve`, inside your process: gateway, dashboard and metrics
//! database included, so that what a program did can be looked at. Every figure returned was measured.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tidegate::{Accelerator, config::Settings};
//! let accelerator = Accelerator::start(Settings::default()).await?;
//! let added = accelerator.add_file("weights.safetensors").await?;
//! let fetched = accelerator.get_file(&added.cid.to_string(), "copy.safetensors", true).await?;
//! println!("{} bytes in {:?} from {}", fetched.bytes, fetched.load_time, fetched.source);
//! accelerator.stop().await;
//! # Ok(()) }
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;

use crate::app::{App, Mode, StartError};
use crate::blockstore::{Pin, PinKind, StoreError};
use crate::checkpoint::{self, Checkpoint, CheckpointError, Device};
use crate::config::Settings;
use crate::dag::export::{self, ExportError, Exported};
use crate::dag::import::{self, AddOptions, ImportError};
use crate::dag::{ResolveError, Resolved, resolver};
use crate::db::DbError;
use crate::db::queries::Window;
use crate::ipld::Cid;
use crate::ipld::path::{ContentPath, PathError};
use crate::record::{
    CacheState, Origin, Outcome, Policy, RecordSink, RetrievalId, RetrievalRecord, SessionReport, Source,
};
use crate::retriever::{FetchError, Session, SessionOptions};
use crate::topology::{self, Analytics};

/// The window of [`Accelerator::get_p2p_network_analytics`].
const ANALYTICS_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// A running node with the operations of the product. Dropping it without [`Accelerator::stop`] leaves the stop to the
/// operating system: what was acknowledged is safe, records of the last second may be lost.
pub struct Accelerator {
    app: App,
}

/// What [`Accelerator::add_file`] stored and pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedFile {
    pub cid: Cid,
    /// Bytes of file content.
    pub size: u64,
    /// Blocks written, repeated ones repeated.
    pub blocks: u64,
}

/// How a retrieval went. `None` is what was not measured or does not apply; see DATA.md §2 for the definitions.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// Its id under `/api/v1/retrievals`.
    pub id: RetrievalId,
    pub cid: Cid,
    pub policy: Policy,
    pub source: Source,
    pub cache_state: CacheState,
    /// Asked to last byte written.
    pub load_time: Duration,
    /// Asked to first block.
    pub ttfb: Option<Duration>,
    /// First want sent to last block verified; `None` when nothing was asked of the network.
    pub transfer_time: Option<Duration>,
    /// Until the first provider was known, and until the first was connected.
    pub routing_time: Option<Duration>,
    pub connect_time: Option<Duration>,
    /// Providers that delivered a block.
    pub peer_count: u32,
    /// Payload bytes that came from the network.
    pub network_bytes: u64,
    /// Useful bytes / bytes received.
    pub network_efficiency: Option<f64>,
    /// Bound / transfer time, 0..1.
    pub optimization_score: Option<f64>,
}

/// What [`Accelerator::get_file`] wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchedFile {
    pub files: u64,
    /// Bytes of content at the output, those of an earlier unfinished try included.
    pub bytes: u64,
    pub transfer: Transfer,
}

impl std::ops::Deref for FetchedFile {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        &self.transfer
    }
}

/// A checkpoint on its device, and how it came there.
#[derive(Debug, Clone)]
pub struct DispatchedCheckpoint {
    pub checkpoint: Checkpoint,
    pub transfer: Transfer,
}

#[derive(Debug, Error)]
pub enum AccelerateError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("adding: {0}")]
    Import(#[from] ImportError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("resolving: {0}")]
    Resolve(#[from] ResolveError),
    #[error("fetching: {0}")]
    Export(#[from] ExportError),
    #[error("loading the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("this node keeps no records (database = \"none\")")]
    NoDatabase,
    #[error(transparent)]
    Database(#[from] DbError),
}

impl Accelerator {
    /// Starts a server as `settings` say; everything that [`App::start`] refuses is an error here.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        Ok(Self { app: App::start(settings, Mode::Server).await? })
    }

    /// The server underneath: addresses of its listeners, and its stop.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Adds a file or, with all it holds, a folder; durable and pinned when this returns. An interrupted add leaves
    /// unpinned blocks, which the next garbage collection removes.
    pub async fn add_file(&self, path: impl AsRef<Path>) -> Result<AddedFile, AccelerateError> {
        let path = path.as_ref();
        let blocks = self.app.blocks();
        let options = AddOptions { recursive: true, ..AddOptions::default() };
        let guard = blocks.hold().await;
        let added = import::add_path(blocks.as_ref(), &guard, path, &options, &mut import::quiet).await?;
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let pin = Pin { name, ..Pin::new(added.cid, PinKind::Recursive) };
        blocks.pins().add(&guard, vec![pin]).await?;
        Ok(AddedFile { cid: added.cid, size: added.size, blocks: added.blocks })
    }

    /// Writes what `path` (`CID`, `CID/path` or `/ipfs/CID/path`) names to `output`; a directory becomes a folder.
    ///
    /// `use_p2p` chooses the optimised policy; `false` is the standard one, for comparison. Bytes are verified before
    /// they are written; a file appears under its name when it is whole. Dropped midway, a later call resumes.
    pub async fn get_file(
        &self,
        path: &str,
        output: impl AsRef<Path>,
        use_p2p: bool,
    ) -> Result<FetchedFile, AccelerateError> {
        let output = output.as_ref();
        let (mut retrieval, resolved) = self.begin(path, use_p2p).await?;
        let exported = export::export(&retrieval.session, &resolved, output, &mut |_, done| {
            retrieval.bytes.store(done.bytes - done.resumed, std::sync::atomic::Ordering::Relaxed);
        })
        .await;
        let Exported { files, bytes, .. } = match exported {
            Ok(exported) => exported,
            Err(error) => return Err(retrieval.fail(export_fault(&error), error.into())),
        };
        Ok(FetchedFile { files, bytes, transfer: retrieval.complete() })
    }

    /// Loads the safetensors checkpoint that `path` names (a file, or a directory with or without
    /// `model.safetensors.index.json`) to `device`: `"cpu"` in this form. Shards are fetched side by side.
    pub async fn load_checkpoint_and_dispatch(
        &self,
        path: &str,
        device: &str,
        use_p2p: bool,
    ) -> Result<DispatchedCheckpoint, AccelerateError> {
        let device: Device = device.parse()?;
        let (mut retrieval, resolved) = self.begin(path, use_p2p).await?;
        let loaded = checkpoint::load(&retrieval.session, &resolved, device, checkpoint::Options::default()).await;
        let checkpoint = match loaded {
            Ok(checkpoint) => checkpoint,
            Err(error) => return Err(retrieval.fail(checkpoint_fault(&error), error.into())),
        };
        let bytes = checkpoint.shards.iter().map(|shard| shard.bytes).sum();
        retrieval.bytes.store(bytes, std::sync::atomic::Ordering::Relaxed);
        Ok(DispatchedCheckpoint { checkpoint, transfer: retrieval.complete() })
    }

    /// What the network looked like over the last 24 hours (DATA.md §3), from this node's records.
    pub async fn get_p2p_network_analytics(&self) -> Result<Analytics, AccelerateError> {
        let database = self.app.database().ok_or(AccelerateError::NoDatabase)?;
        let window = Window::last(ANALYTICS_WINDOW, SystemTime::now());
        Ok(topology::current(database, self.app.facts(), window).await?)
    }

    /// Stops in order; everything acknowledged is kept, records are drained into the database.
    pub async fn stop(self) {
        self.app.stop().await;
    }

    async fn begin(&self, path: &str, use_p2p: bool) -> Result<(Retrieval, Resolved), AccelerateError> {
        let path = ContentPath::parse_text(path)?;
        let root = *path.cid().ok_or_else(|| ResolveError::NotACid { name: path.root() })?;
        let policy = if use_p2p { Policy::Optimized } else { Policy::Standard };
        let options = SessionOptions { policy: Some(policy), ..SessionOptions::default() };
        let session = self.app.retriever().session(root, options);
        let mut retrieval = Retrieval::new(session, path.to_url_path(), self.app.sink());
        match resolver::resolve(&retrieval.session, &path).await {
            Ok(resolved) => Ok((retrieval, resolved)),
            Err(error) => Err(retrieval.fail(resolve_fault(&error), error.into())),
        }
    }
}

/// One retrieval under way. Recorded when it ends, also when it is dropped.
struct Retrieval {
    id: RetrievalId,
    session: Session,
    path: String,
    sink: Arc<dyn RecordSink>,
    started: Instant,
    started_at: SystemTime,
    bytes: std::sync::atomic::AtomicU64,
    ended: Option<(Outcome, Option<&'static str>)>,
}

impl Retrieval {
    fn new(session: Session, path: String, sink: Arc<dyn RecordSink>) -> Self {
        Self {
            id: RetrievalId::next(),
            session,
            path,
            sink,
            started: Instant::now(),
            started_at: SystemTime::now(),
            bytes: std::sync::atomic::AtomicU64::new(0),
            ended: None,
        }
    }

    fn complete(&mut self) -> Transfer {
        self.ended = Some((Outcome::Complete, None));
        let report = self.session.report();
        Transfer {
            id: self.id,
            cid: *self.session.root(),
            policy: report.policy,
            source: report.source(),
            cache_state: report.cache_state(),
            load_time: self.started.elapsed(),
            ttfb: report.first_block,
            transfer_time: report.transfer_time,
            routing_time: report.routing,
            connect_time: report.connect,
            peer_count: report.peer_count(),
            network_bytes: report.network_bytes,
            network_efficiency: report.byte_efficiency(),
            optimization_score: report.optimization_score,
        }
    }

    fn fail(&mut self, (outcome, kind): (Outcome, &'static str), error: AccelerateError) -> AccelerateError {
        self.ended = Some((outcome, Some(kind)));
        error
    }
}

impl Drop for Retrieval {
    fn drop(&mut self) {
        let session: SessionReport = self.session.report();
        let load_time = self.started.elapsed();
        // Dropped without an end: the caller went away.
        let (outcome, error_kind) = self.ended.unwrap_or((Outcome::ClientAborted, None));
        self.sink.record(RetrievalRecord {
            id: self.id,
            cid: *self.session.root(),
            path: std::mem::take(&mut self.path),
            origin: Origin::Live,
            started_at: self.started_at,
            finished_at: self.started_at + load_time,
            load_time,
            ttfb: session.first_block,
            bytes: *self.bytes.get_mut(),
            outcome,
            error_kind: error_kind.map(str::to_owned),
            http_status: None,
            session,
        });
    }
}

fn fetch_fault(error: &FetchError) -> (Outcome, &'static str) {
    match error {
        FetchError::NotFound { .. } | FetchError::NotLocal { .. } => (Outcome::NotFound, "not_found"),
        FetchError::Timeout { .. } => (Outcome::Timeout, "timeout"),
        FetchError::Unsupported { .. } => (Outcome::Error, "unsupported"),
        FetchError::Denied { .. } => (Outcome::Error, "denied"),
        FetchError::Stopping => (Outcome::Error, "stopping"),
        FetchError::Store(_) => (Outcome::Error, "store"),
    }
}

fn resolve_fault(error: &ResolveError) -> (Outcome, &'static str) {
    match error {
        ResolveError::Fetch(error) => fetch_fault(error),
        ResolveError::NoLink { .. } | ResolveError::NotUnixFs { .. } => (Outcome::NotFound, "no_link"),
        _ => (Outcome::Error, "malformed"),
    }
}

fn export_fault(error: &ExportError) -> (Outcome, &'static str) {
    match error {
        ExportError::Fetch(error) => fetch_fault(error),
        ExportError::Write { .. } => (Outcome::Error, "write"),
        ExportError::Read(_) => (Outcome::Truncated, "read"),
        _ => (Outcome::Error, "malformed"),
    }
}

fn checkpoint_fault(error: &CheckpointError) -> (Outcome, &'static str) {
    match error {
        CheckpointError::Fetch(error) => fetch_fault(error),
        CheckpointError::Resolve(error) => resolve_fault(error),
        CheckpointError::Read(_) | CheckpointError::Short { .. } => (Outcome::Truncated, "read"),
        _ => (Outcome::Error, "malformed"),
    }
}
