//! The store that the product uses: memory, durable files, disk cache and pins, as one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, Semaphore};
use tracing::{info, warn};

use super::disk_cache::DiskCache;
use super::durable::blocking;
use super::gc::{self, LinksFn};
use super::memory_cache::MemoryCache;
use super::metrics::StoreMetrics;
use super::reuse::{Reuse, ReuseCurve};
use super::scrub;
use super::{Blockstore, Config, DurableStore, GcReport, Hit, Pin, Pins, ScrubReport, StoreError, StoreStats};
use super::{Tier, TierStats};
use crate::ipld::{Block, Cid, codec};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;

/// Pins read at a time.
const PIN_PAGE: usize = 1_000;

/// All tiers and the pins. Look-up order: memory, durable store, disk cache.
pub struct Blocks {
    memory: MemoryCache,
    durable: DurableStore,
    disk: Option<DiskCache>,
    pins: Pins,
    config: Config,
    metrics: StoreMetrics,
    reuse: Reuse,
    supervisor: Supervisor,
    /// Shared by adds from their first block to their pin, exclusive to gc.
    adds: Arc<RwLock<()>>,
    /// Shared by single puts, exclusive to gc, which takes it only after `adds`: an add that gc waits for can still put.
    puts: Arc<RwLock<()>>,
    collecting: Arc<Semaphore>,
    scrubbing: Arc<Semaphore>,
    removals: AtomicU64,
}

/// While it lives, `gc` waits: hold it from the first block of an `add` until its pin.
#[derive(Debug)]
pub struct AddGuard {
    _adds: OwnedRwLockReadGuard<()>,
}

/// Figures of every tier.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = StoreStats)]
pub struct Stats {
    pub memory: TierStats,
    pub store: TierStats,
    pub disk: TierStats,
    /// The durable store is counting what a crash left uncounted; `store.blocks` and `store.bytes` are too low until then.
    pub counting: bool,
    /// There is a disk cache and it can be written.
    pub disk_available: bool,
    /// Fetched blocks that were not written to the disk cache: its queue was full, or the disk failed.
    pub disk_dropped: u64,
}

impl Blocks {
    /// Opens everything under `data_dir`. A cache that cannot be opened is left out with a log line; a store or pins that
    /// can only be read are used so. Takes under 2 s whatever is stored: counting after a crash goes on in the background.
    ///
    /// The caller holds the data directory's lock ([`super::DataDirLock`]).
    pub async fn open(
        data_dir: &Path,
        config: &Config,
        metrics: &Metrics,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, StoreError> {
        let reuse = Reuse::register(metrics);
        let metrics = StoreMetrics::register(metrics);
        let durable = DurableStore::open_with(data_dir, config.io_threads, metrics.store.clone()).await?;
        let pins = Pins::open(data_dir).await?;
        let disk = DiskCache::open(data_dir, config, &metrics, supervisor).await;
        if durable.is_counting() {
            let (counted, stop) = (durable.clone(), supervisor.token());
            supervisor.spawn("store-recount", async move {
                match counted.recount(move || stop.is_cancelled()).await {
                    Ok(()) => {
                        info!(blocks = counted.stats().blocks, "counted the durable blocks after an unclean stop")
                    }
                    Err(error) => warn!(%error, "the durable blocks could not be counted"),
                }
            });
        }
        Ok(Arc::new(Self {
            memory: MemoryCache::new(config.memory.as_usize(), metrics.memory.clone()),
            durable,
            disk,
            pins,
            config: config.clone(),
            metrics,
            reuse,
            supervisor: supervisor.clone(),
            adds: Arc::default(),
            puts: Arc::default(),
            collecting: Arc::new(Semaphore::new(1)),
            scrubbing: Arc::new(Semaphore::new(1)),
            removals: AtomicU64::new(0),
        }))
    }

    /// The block from the fastest tier that has it, verified. Blocks from disk go to memory on the way.
    ///
    /// A disk that fails to read is counted and treated as a miss: the block is fetched again. Cancel safe.
    pub async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        if let Some(block) = Block::inherent(cid) {
            return Ok(Some(Hit { block, tier: Tier::Memory }));
        }
        if let Some(block) = self.memory.get(cid) {
            return Ok(Some(Hit { block, tier: Tier::Memory }));
        }
        let hit = match self.durable.get(cid).await? {
            Some(block) => Some(Hit { block, tier: Tier::Store }),
            None => match &self.disk {
                Some(disk) => disk.get(cid).await.map(|block| Hit { block, tier: Tier::Disk }),
                None => None,
            },
        };
        if let Some(hit) = &hit {
            self.memory.insert(hit.block.clone());
        }
        Ok(hit)
    }

    /// The block if it is in memory: no waiting, no disk.
    pub fn peek(&self, cid: &Cid) -> Option<Block> {
        Block::inherent(cid).or_else(|| self.memory.peek(cid))
    }

    /// Keeps a fetched block in the caches. Returns at once: memory takes it now, the disk cache later or, when its queue
    /// is full or it is out of order, never; what it does not take is counted.
    pub fn cache(&self, block: &Block) {
        if Block::inherent(block.cid()).is_some() {
            return;
        }
        let block = block.detached();
        if let Some(disk) = &self.disk {
            disk.enqueue(block.clone());
        }
        self.memory.insert(block);
    }

    /// A request read this block: feeds [`Blocks::reuse`].
    pub fn used(&self, block: &Block) {
        if Block::inherent(block.cid()).is_none() {
            self.reuse.access(block);
        }
    }

    /// Changes with each block that [`Blockstore::remove`] takes away. Garbage collection does not count: what is in memory
    /// may outlive the durable copy.
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// What caches of other sizes would have hit of what requests read since the start.
    pub fn reuse(&self) -> ReuseCurve {
        self.reuse.curve()
    }

    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Keeps `gc` away until the guard is dropped. Waits while a collection runs.
    pub async fn hold(&self) -> AddGuard {
        AddGuard { _adds: self.adds.clone().read_owned().await }
    }

    /// Removes durable blocks that no pin reaches: [`Blocks::gc_with`] the links of every codec that we know.
    pub async fn gc(self: &Arc<Self>) -> Result<GcReport, StoreError> {
        self.gc_with(|block| codec::links(block).ok()).await
    }

    /// Removes durable blocks that no pin reaches, with `links` saying what a block links to.
    ///
    /// Waits up to `gc-wait` for running adds, and keeps new ones waiting while it runs; reads go on. Goes on when the
    /// caller leaves. Errors: [`StoreError::Busy`]; unreadable pins, before anything is removed; the disk's.
    pub async fn gc_with(self: &Arc<Self>, links: LinksFn) -> Result<GcReport, StoreError> {
        let busy = || StoreError::Busy { what: "garbage collection" };
        let turn = self.collecting.clone().try_acquire_owned().map_err(|_| busy())?;
        let adds = tokio::time::timeout(self.config.gc_wait, self.adds.clone().write_owned());
        let adds = adds.await.map_err(|_| StoreError::Busy { what: "an add" })?;
        let puts = tokio::time::timeout(self.config.gc_wait, self.puts.clone().write_owned());
        let puts = puts.await.map_err(|_| StoreError::Busy { what: "a put" })?;
        let blocks = self.clone();
        let task = self.supervisor.spawn("gc", async move {
            let locks = (turn, adds, puts);
            let pins = blocks.all_pins().await?;
            let stop = blocks.supervisor.token();
            let work = move || {
                let report = gc::collect(&blocks.durable, &pins, links, &blocks.metrics, &stop);
                drop(locks);
                report
            };
            blocking(&Arc::new(Semaphore::new(1)), work).await?
        });
        let report = task.await.ok().flatten().ok_or(StoreError::Closed)??;
        info!(
            removed = report.removed_blocks,
            bytes = report.removed_bytes,
            kept = report.kept_blocks,
            missing = report.missing_blocks,
            "collected garbage"
        );
        Ok(report)
    }

    /// Reads and verifies every durable block at `scrub-rate`. Goes on when the caller leaves.
    pub async fn scrub(&self) -> Result<ScrubReport, StoreError> {
        let turn = self.scrubbing.clone().try_acquire_owned().map_err(|_| StoreError::Busy { what: "a scrub" })?;
        let (durable, rate, stop) = (self.durable.clone(), self.config.scrub_rate.0, self.supervisor.token());
        let task = self.supervisor.spawn("scrub", async move {
            let work = move || {
                let report = scrub::scrub(&durable, rate, &stop);
                drop(turn);
                report
            };
            blocking(&Arc::new(Semaphore::new(1)), work).await?
        });
        let report = task.await.ok().flatten().ok_or(StoreError::Closed)??;
        info!(blocks = report.blocks, bytes = report.bytes, corrupt = report.corrupt_blocks, "scrubbed");
        Ok(report)
    }

    /// Why the durable store refuses writes now; `None` when it does not.
    pub fn problem(&self) -> Option<String> {
        self.durable.problem()
    }

    /// Writes what is queued and the counts, and closes. Reads of durable blocks go on; changes fail.
    pub async fn close(&self) -> Result<(), StoreError> {
        let _puts = self.puts.write().await;
        if let Some(disk) = &self.disk {
            disk.close().await;
        }
        self.pins.close().await;
        self.durable.close().await
    }

    /// Figures of every tier; the port's `stats` has those of the durable store alone.
    pub fn stats(&self) -> Stats {
        let disk = self.disk.as_ref().map(DiskCache::stats).unwrap_or_default();
        Stats {
            memory: self.memory.stats(),
            store: self.durable.tier_stats(),
            disk,
            counting: self.durable.is_counting(),
            disk_available: self.metrics.disk_available.get() == 1,
            disk_dropped: self.metrics.dropped_queue.get() + self.metrics.dropped_disk.get(),
        }
    }

    async fn all_pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins: Vec<Pin> = Vec::new();
        loop {
            let page = self.pins.ls(pins.last().map(|pin| &pin.cid), PIN_PAGE).await?;
            if page.is_empty() {
                return Ok(pins);
            }
            pins.extend(page);
        }
    }
}

#[async_trait]
impl Blockstore for Blocks {
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        Ok(self.lookup(cid).await?.map(|hit| hit.block))
    }

    /// Into the durable store. Hold an [`AddGuard`] until the blocks are pinned, or `gc` may take them.
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let _puts = self.puts.read().await;
        self.durable.put(blocks).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        if Block::inherent(cid).is_some() || self.memory.contains(cid) {
            return Ok(true);
        }
        Ok(self.durable.has(cid).await? || self.disk.as_ref().is_some_and(|disk| disk.contains(cid)))
    }

    /// From every tier, pinned or not.
    async fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        let durable = self.durable.remove(cid).await?;
        let disk = self.disk.as_ref().is_some_and(|disk| disk.remove(cid));
        let memory = self.memory.remove(cid);
        self.removals.fetch_add(1, Ordering::Release);
        Ok(durable || disk || memory)
    }

    /// Durable blocks alone; the inherent [`Blocks::stats`] has every tier.
    fn stats(&self) -> StoreStats {
        self.durable.stats()
    }
}
