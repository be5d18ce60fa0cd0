//! The disk tier: foyer's block engine under `DATA_DIR/cache`, written behind a bounded queue at the disk's own pace.
//!
//! foyer drops entries silently when its submit queue or its buffer is full. So one task writes in batches that fit its
//! buffer and waits for each to be on the disk; what does not fit our own queue meanwhile is dropped here, and counted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCachePolicy, Load, RecoverMode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::metrics::{StoreMetrics, TierStats};
use super::{Config, StoreError};
use crate::ipld::{Block, Cid};
use crate::supervisor::Supervisor;

/// foyer's flush buffer, in bytes; it holds two of them.
const FLUSH_BUFFER: usize = 8 << 20;
/// Written and waited for at a time, in bytes on disk. With the largest block on top it still fits the flush buffer.
const BATCH: usize = 4 << 20;
/// Entries on disk are aligned to this, in bytes.
const PAGE: usize = 4096;
/// The smallest disk cache, in bytes: four regions of the smallest size.
const MIN_CAPACITY: usize = 16 << 20;
/// A region (foyer's "block") is the unit of eviction and holds whole entries, in bytes.
const MIN_REGION: usize = 4 << 20;
const MAX_REGION: usize = 64 << 20;
/// Regions are files that stay open; larger caches get larger regions.
const MAX_REGIONS: usize = 512;
/// Blocks that may wait to be written, whatever their size.
const QUEUE_BLOCKS: usize = 4096;
/// How long writing rests after a batch of which nothing reached the disk.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// How often the space on disk is measured, at most.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How long `close` waits for what is queued.
const CLOSE_GRACE: Duration = Duration::from_secs(10);

type Store = HybridCache<Vec<u8>, Bytes>;

/// The cache of fetched blocks on disk.
pub(super) struct DiskCache {
    store: Store,
    queue: Mutex<Option<mpsc::Sender<Block>>>,
    writer: Mutex<Option<JoinHandle<Option<()>>>>,
    shared: Arc<Shared>,
    queue_limit: usize,
    capacity: usize,
}

struct Shared {
    directory: PathBuf,
    queued: AtomicUsize,
    used: AtomicU64,
    metrics: StoreMetrics,
}

impl DiskCache {
    /// Opens the cache, or says in the log and the gauge why there is none.
    pub(super) async fn open(
        data_dir: &Path,
        config: &Config,
        metrics: &StoreMetrics,
        supervisor: &Supervisor,
    ) -> Option<Self> {
        let directory = data_dir.join("cache");
        metrics.disk_available.set(0);
        if config.disk.0 == 0 {
            remove_files(&directory);
            return None;
        }
        let capacity = config.disk.as_usize().max(MIN_CAPACITY);
        let region = (capacity / 32).clamp(MIN_REGION, MAX_REGION).max(capacity / MAX_REGIONS) / PAGE * PAGE;
        let store = match prepare(&directory, capacity, region) {
            Ok(()) => open_store(&directory, capacity, region).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let store = match store {
            Ok(store) => store,
            Err(error) => {
                warn!(%error, "the disk cache cannot be used; going on with memory only");
                return None;
            }
        };
        metrics.disk_available.set(1);
        let used = AtomicU64::new(0);
        let shared = Arc::new(Shared { directory, queued: AtomicUsize::new(0), used, metrics: metrics.clone() });
        let (queue, waiting) = mpsc::channel(QUEUE_BLOCKS);
        let writing = write_loop(store.clone(), waiting, shared.clone(), supervisor.token());
        let writer = supervisor.spawn("disk-cache-writer", writing);
        Some(Self {
            store,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
            shared,
            queue_limit: config.disk_queue.as_usize(),
            capacity,
        })
    }

    /// Hands a block to the writer unless the queue is full or the block is there. Its bytes must be its own.
    pub(super) fn enqueue(&self, block: Block) {
        let size = block.len() + PAGE;
        if self.store.storage().may_contains(&key(block.cid())) {
            return;
        }
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = queue.as_ref() else { return };
        let queued = self.shared.queued.fetch_add(size, Ordering::AcqRel);
        if queued + size > self.queue_limit || queue.try_send(block).is_err() {
            self.shared.queued.fetch_sub(size, Ordering::AcqRel);
            self.shared.metrics.dropped_queue.inc();
        }
    }

    /// The block, verified. A damaged copy is deleted, counted, and `None`.
    pub(super) async fn get(&self, cid: &Cid) -> Option<Block> {
        let block = self.load(cid).await;
        self.shared.metrics.disk.looked_up(block.is_some());
        block
    }

    async fn load(&self, cid: &Cid) -> Option<Block> {
        let (key, storage, metrics) = (key(cid), self.store.storage(), &self.shared.metrics.disk);
        if !storage.may_contains(&key) {
            return None;
        }
        let data = match storage.load(&key).await {
            Ok(Load::Entry { value, .. }) => value,
            Ok(Load::Piece { piece, .. }) => piece.value().clone(),
            Ok(Load::Miss) => {
                // foyer forgets entries whose own checksum fails.
                if !storage.may_contains(&key) {
                    metrics.corrupt.inc();
                }
                return None;
            }
            Ok(Load::Throttled) => return None,
            Err(error) => {
                warn!(%error, "the disk cache could not be read");
                metrics.read_errors.inc();
                return None;
            }
        };
        let wanted = *cid;
        match tokio::task::spawn_blocking(move || Block::verify(wanted, data)).await {
            Ok(Ok(block)) => Some(block),
            Ok(Err(error)) => {
                warn!(%error, "a block in the disk cache was damaged; it is deleted");
                metrics.corrupt.inc();
                storage.delete(&key);
                None
            }
            Err(_) => None,
        }
    }

    /// Whether the cache says that it has the block; rarely wrong, when two keys share a 64-bit hash.
    pub(super) fn contains(&self, cid: &Cid) -> bool {
        self.store.storage().may_contains(&key(cid))
    }

    pub(super) fn remove(&self, cid: &Cid) -> bool {
        let key = key(cid);
        let there = self.store.storage().may_contains(&key);
        if there {
            self.store.storage().delete(&key);
        }
        there
    }

    /// Writes what is queued and closes the files.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && tokio::time::timeout(CLOSE_GRACE, writer).await.is_err()
        {
            warn!("the disk cache took too long to write; what was queued is lost to it");
        }
        if let Err(error) = self.store.close().await {
            warn!(%error, "the disk cache did not close cleanly");
        }
    }

    pub(super) fn stats(&self) -> TierStats {
        let used = self.shared.used.load(Ordering::Relaxed);
        self.shared.metrics.disk.stats(None, used, Some(self.capacity as u64))
    }
}

async fn open_store(directory: &Path, capacity: usize, region: usize) -> foyer::Result<Store> {
    let device = FsDeviceBuilder::new(directory).with_capacity(capacity).build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(region)
        .with_buffer_pool_size(FLUSH_BUFFER)
        .with_submit_queue_size_threshold(2 * FLUSH_BUFFER)
        .with_recover_concurrency(4);
    // The memory tier is our own: here, entries live in memory only until they are written.
    HybridCache::builder()
        .with_name("disk-cache")
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .with_flush_on_close(false)
        .memory(1)
        .with_shards(1)
        .storage()
        .with_engine_config(engine)
        .with_recover_mode(RecoverMode::Quiet)
        .build()
        .await
}

/// Makes the directory; files of another layout (capacity or region size) would be read as garbage, so they go.
fn prepare(directory: &Path, capacity: usize, region: usize) -> Result<(), StoreError> {
    let file = directory.join("layout");
    let layout = format!("tidegate-cache-1 {capacity} {region}\n");
    // foyer 0.22 asks for the directory's free space even when it is told the capacity, and panics without a directory.
    let made = fs::create_dir_all(directory).and_then(|()| {
        if fs::read_to_string(&file).is_ok_and(|text| text == layout) {
            return Ok(());
        }
        remove_files(directory);
        fs::write(&file, &layout)
    });
    made.map_err(|error| StoreError::at(directory, error))
}

fn remove_files(directory: &Path) {
    let mut removed = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with("foyer-") || name == "layout");
        removed += u64::from(ours && fs::remove_file(entry.path()).is_ok());
    }
    if removed > 0 {
        info!(removed, "removed the files of a disk cache of another size");
    }
}

async fn write_loop(store: Store, mut waiting: mpsc::Receiver<Block>, shared: Arc<Shared>, stop: CancellationToken) {
    let mut resting: Option<Instant> = None;
    let mut measured: Option<Instant> = None;
    let mut batch = Vec::new();
    loop {
        if measured.is_none_or(|at| at.elapsed() > MEASURE_EVERY) {
            measured = Some(Instant::now());
            measure(&shared).await;
        }
        let first = tokio::select! {
            biased;
            first = waiting.recv() => first,
            // What is queued is written even so: `recv` goes first.
            () = stop.cancelled() => break,
        };
        let Some(first) = first else { break };
        let mut size = entry_size(&first);
        batch.push(first);
        while size < BATCH
            && let Ok(block) = waiting.try_recv()
        {
            size += entry_size(&block);
            batch.push(block);
        }
        let metrics = &shared.metrics;
        if resting.is_some_and(|until| Instant::now() < until) {
            metrics.dropped_disk.inc_by(batch.len() as u64);
        } else {
            let written = write(&store, &batch).await;
            metrics.disk.write_errors.inc_by((batch.len() - written) as u64);
            resting = (written == 0).then(|| Instant::now() + REST_AFTER_FAILURE);
            let available = i64::from(resting.is_none());
            if metrics.disk_available.set(available) != available {
                match available {
                    0 => warn!("the disk cache cannot be written; it rests between attempts"),
                    _ => info!("the disk cache can be written again"),
                }
            }
        }
        let left: usize = batch.drain(..).map(|block| block.len() + PAGE).sum();
        shared.queued.fetch_sub(left, Ordering::AcqRel);
    }
}

/// Writes a batch and says how many of its blocks are on the disk.
async fn write(store: &Store, batch: &[Block]) -> usize {
    for block in batch {
        let _ = store.storage_writer(key(block.cid())).force().insert(block.data().clone());
    }
    store.storage().wait().await;
    batch.iter().filter(|block| store.storage().may_contains(&key(block.cid()))).count()
}

/// The space that the cache's sparse files take.
async fn measure(shared: &Arc<Shared>) {
    let directory = shared.directory.clone();
    let sum = move || -> u64 {
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
    };
    if let Ok(used) = tokio::task::spawn_blocking(sum).await {
        shared.used.store(used, Ordering::Relaxed);
        shared.metrics.disk.bytes.set(used as i64);
    }
}

fn key(cid: &Cid) -> Vec<u8> {
    cid.hash().to_bytes()
}

fn entry_size(block: &Block) -> usize {
    (key(block.cid()).estimated_size() + block.data().estimated_size()).next_multiple_of(PAGE) + PAGE
}
