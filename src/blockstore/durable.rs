//! Durable blocks: one file a block, in two levels of shards, synced before it counts as stored.
//!
//! `blocks/q/x/<multihash in base32>`, where `q` and `x` are the two characters before the last (the last one of a
//! sha2-256 name carries only two bits, which is why go-ds-flatfs leaves it out as well). Temporary files lie in
//! `blocks/tmp` and are removed at open, so a crash at any moment leaves only whole blocks.

mod counts;
mod shards;
mod write;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::metrics::{TierMetrics, TierStats};
use super::{StoreError, StoreStats};
use crate::ipld::{Block, Cid, HashCode, MAX_BLOCK_SIZE, Multihash};
use crate::telemetry::Metrics;
pub(super) use shards::{SHARDS, Stored};

/// Blocks as files. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct DurableStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    shards: shards::Shards,
    changes: counts::Changes,
    next_temp: AtomicU64,
    /// Directories whose sync failed: what lies in them is not taken for stored.
    suspect: Mutex<HashSet<PathBuf>>,
    /// Why the latest write failed.
    problem: Mutex<Option<String>>,
    threads: usize,
    readers: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    metrics: TierMetrics,
}

impl DurableStore {
    /// Opens `data_dir/blocks`, removes temporary files, and takes the counts of the last clean close.
    ///
    /// A directory that cannot be written opens too: reads go on and writes fail with the reason.
    pub async fn open(data_dir: &Path, io_threads: usize, metrics: &Metrics) -> Result<Self, StoreError> {
        Self::open_with(data_dir, io_threads, super::metrics::StoreMetrics::register(metrics).store).await
    }

    pub(super) async fn open_with(
        data_dir: &Path,
        io_threads: usize,
        metrics: TierMetrics,
    ) -> Result<Self, StoreError> {
        let root = data_dir.join("blocks");
        let threads = io_threads.max(1);
        let opened = blocking(&Arc::new(Semaphore::new(1)), {
            let root = root.clone();
            move || prepare(&root)
        })
        .await??;
        let shards = shards::Shards::new(opened);
        let inner = Inner {
            root,
            changes: counts::Changes::default(),
            next_temp: AtomicU64::new(0),
            suspect: Mutex::default(),
            problem: Mutex::default(),
            threads,
            readers: Arc::new(Semaphore::new(threads)),
            writers: Arc::new(Semaphore::new(threads)),
            metrics,
            shards,
        };
        let store = Self { inner: Arc::new(inner) };
        store.inner.publish();
        Ok(store)
    }

    /// True until the counts are exact: after a crash they are taken anew by [`DurableStore::recount`].
    pub fn is_counting(&self) -> bool {
        !self.inner.shards.counted()
    }

    /// Counts what a crash left uncounted, shard by shard, while reads and writes go on. Ends early when `stop` says so.
    pub async fn recount(&self, stop: impl Fn() -> bool + Send + 'static) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        blocking(&Arc::new(Semaphore::new(1)), move || {
            for shard in 0..SHARDS {
                if stop() {
                    return;
                }
                inner.shards.count(&inner.root, shard);
            }
            inner.publish();
        })
        .await
    }

    /// The block, verified. A damaged copy is deleted and counted, and a read that the disk fails is counted; both are
    /// `None`, so that the block is fetched again.
    pub async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if let Some(block) = Block::inherent(cid) {
            return Ok(Some(block));
        }
        if self.inner.is_empty() {
            self.inner.metrics.looked_up(false);
            return Ok(None);
        }
        let (inner, wanted) = (self.inner.clone(), *cid);
        let block = blocking(&self.inner.readers, move || inner.read(&wanted)).await?;
        self.inner.metrics.looked_up(block.is_some());
        Ok(block)
    }

    pub async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        if Block::inherent(cid).is_some() {
            return Ok(true);
        }
        if self.inner.is_empty() {
            return Ok(false);
        }
        let (inner, hash) = (self.inner.clone(), *cid.hash());
        blocking(&self.inner.readers, move || inner.size_of(&hash).is_some()).await
    }

    /// Stores blocks; when this returns `Ok` they survive a crash and a power loss.
    ///
    /// Files are written and synced in parallel, renamed, and their directories synced once. A sync that fails is fatal to
    /// the whole batch: nothing of it stays under its name. Blocks that are there with the right size are not rewritten.
    /// Cancel safe: a dropped call leaves whole blocks or none.
    pub async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let result = write::put(&self.inner, blocks).await;
        let failed = result.as_ref().err().filter(|error| !matches!(error, StoreError::Closed));
        if failed.is_some() {
            self.inner.metrics.write_errors.inc();
        }
        *self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner) = failed.map(ToString::to_string);
        result
    }

    /// Why the latest write failed; `None` once one succeeds again.
    pub fn problem(&self) -> Option<String> {
        self.inner.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub async fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        let (inner, hash) = (self.inner.clone(), *cid.hash());
        blocking(&self.inner.writers, move || inner.remove(&hash).map(|size| size.is_some())).await?
    }

    /// Writes the counts down so that the next open need not count. Every later change fails with [`StoreError::Closed`].
    pub async fn close(&self) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        blocking(&Arc::new(Semaphore::new(1)), move || {
            inner.changes.close(&inner.root, || inner.shards.counted().then(|| inner.shards.totals()))
        })
        .await?
    }

    pub fn stats(&self) -> StoreStats {
        let (blocks, bytes) = self.inner.shards.totals();
        StoreStats { blocks, bytes }
    }

    pub(super) fn tier_stats(&self) -> TierStats {
        let stats = self.stats();
        self.inner.metrics.stats(Some(stats.blocks), stats.bytes, None)
    }

    /// What lies in one shard, for `gc` and `scrub`. Blocks the thread.
    pub(super) fn list_shard(&self, shard: usize) -> Result<Vec<Stored>, StoreError> {
        shards::list(&self.inner.root, shard).map_err(|error| StoreError::at(&self.inner.root, error))
    }

    /// Like [`DurableStore::get`], uncounted and on this thread.
    pub(super) fn get_blocking(&self, cid: &Cid) -> Option<Block> {
        Block::inherent(cid).or_else(|| self.inner.read(cid))
    }

    /// Whether a file is there. Blocks the thread.
    pub(super) fn has_blocking(&self, cid: &Cid) -> bool {
        Block::inherent(cid).is_some() || self.inner.size_of(cid.hash()).is_some()
    }

    /// Deletes a block and says how large it was. Blocks the thread.
    pub(super) fn remove_blocking(&self, hash: &Multihash) -> Result<Option<u64>, StoreError> {
        self.inner.remove(hash)
    }
}

impl Inner {
    fn read(&self, cid: &Cid) -> Option<Block> {
        if HashCode::try_from(cid.hash().code()).is_err() {
            return None;
        }
        let path = shards::path(&self.root, cid.hash());
        match read_file(&path) {
            Ok(None) => None,
            Ok(Some((data, identity))) => match Block::verify(*cid, data) {
                Ok(block) => Some(block),
                Err(error) => {
                    warn!(path = %path.display(), %error, "a stored block was damaged; it is deleted");
                    self.metrics.corrupt.inc();
                    self.discard(cid.hash(), &path, identity);
                    None
                }
            },
            Err(error) => {
                warn!(path = %path.display(), %error, "a stored block could not be read");
                self.metrics.read_errors.inc();
                None
            }
        }
    }

    /// Deletes a damaged file unless another has taken its place since it was read.
    fn discard(&self, hash: &Multihash, path: &Path, (dev, ino): (u64, u64)) {
        let removed = self.changes.change(&self.root, || {
            self.shards.lock(hash, |shard| match fs::symlink_metadata(path) {
                Ok(meta) if (meta.dev(), meta.ino()) == (dev, ino) => {
                    fs::remove_file(path).inspect(|()| shard.removed(meta.len()))
                }
                _ => Ok(()),
            })
        });
        self.publish();
        if let Err(error) = removed.and_then(|done| done.map_err(|error| StoreError::at(path, error))) {
            warn!(%error, "the damaged block could not be deleted");
        }
    }

    fn size_of(&self, hash: &Multihash) -> Option<u64> {
        fs::symlink_metadata(shards::path(&self.root, hash)).ok().map(|meta| meta.len())
    }

    fn remove(&self, hash: &Multihash) -> Result<Option<u64>, StoreError> {
        let path = shards::path(&self.root, hash);
        let removed = self.changes.change(&self.root, || {
            self.shards.lock(hash, |shard| {
                let meta = match fs::symlink_metadata(&path) {
                    Ok(meta) => meta,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                };
                fs::remove_file(&path)?;
                shard.removed(meta.len());
                Ok(Some(meta.len()))
            })
        })?;
        self.publish();
        removed.map_err(|error| StoreError::at(&path, error))
    }

    /// Whether there is surely nothing on the disk, so that look-ups need not ask it.
    fn is_empty(&self) -> bool {
        self.shards.counted() && self.shards.totals().0 == 0
    }

    /// Shows the counts in the metrics.
    fn publish(&self) {
        let (blocks, bytes) = self.shards.totals();
        self.metrics.blocks.set(blocks as i64);
        self.metrics.bytes.set(bytes as i64);
    }
}

/// The bytes of a file and which file it was (device, inode); `None` when there is none.
fn read_file(path: &Path) -> io::Result<Option<(Bytes, (u64, u64))>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    // One byte more than a block may have, so that a longer file is found out without reading all of it.
    let limit = MAX_BLOCK_SIZE as u64 + 1;
    let mut data = Vec::with_capacity(meta.len().min(limit) as usize);
    Read::by_ref(&mut file).take(limit).read_to_end(&mut data)?;
    Ok(Some((Bytes::from(data), (meta.dev(), meta.ino()))))
}

/// Makes the directories, removes temporary files and reads the counts of the last clean close.
fn prepare(root: &Path) -> Result<Option<(u64, u64)>, StoreError> {
    let temp = root.join(write::TEMP);
    // No counts are needed where there was nothing.
    let fresh = !root.exists();
    if let Err(error) = fs::create_dir_all(&temp) {
        let error = StoreError::at(&temp, error);
        if !error.is_unwritable() {
            return Err(error);
        }
        warn!(%error, "blocks cannot be stored now");
    }
    let mut removed = 0;
    for entry in fs::read_dir(&temp).into_iter().flatten().flatten() {
        removed += u64::from(fs::remove_file(entry.path()).is_ok());
    }
    if removed > 0 {
        info!(removed, "removed unfinished writes of an earlier run");
    }
    Ok(if fresh { Some((0, 0)) } else { counts::read(root) })
}

/// Runs blocking work on tokio's blocking threads, at most as many at a time as the semaphore has permits.
pub(super) async fn blocking<T: Send + 'static>(
    threads: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let permit = threads.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    match done.await {
        Ok(value) => Ok(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(StoreError::Closed),
    }
}
