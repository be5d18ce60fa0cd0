//! The memory tier: verified blocks under a byte budget, shared without copying.

use std::collections::hash_map::RandomState;

use foyer::{Cache, CacheBuilder, S3FifoConfig};

use super::metrics::{TierMetrics, TierStats};
use crate::ipld::{Block, Cid, Multihash};

/// What an entry costs besides its bytes: the key, the CID and the cache's own records, in bytes (generous).
const ENTRY_OVERHEAD: usize = 512;
/// A shard must hold several blocks of the largest size.
const MIN_SHARD: usize = 16 << 20;
const MAX_SHARDS: usize = 8;

/// Keyed hashing, because peers choose the digests. S3-FIFO, because one long file must not push out what is hot.
#[derive(Debug)]
pub(super) struct MemoryCache {
    cache: Option<Cache<Multihash, Block, RandomState>>,
    metrics: TierMetrics,
}

impl MemoryCache {
    /// `capacity` in bytes; 0 keeps nothing.
    pub(super) fn new(capacity: usize, metrics: TierMetrics) -> Self {
        let cache = (capacity > 0).then(|| {
            CacheBuilder::new(capacity)
                .with_name("blocks")
                .with_shards((capacity / MIN_SHARD).clamp(1, MAX_SHARDS))
                .with_eviction_config(S3FifoConfig::default())
                .with_hash_builder(RandomState::new())
                .with_weighter(|_: &Multihash, block: &Block| block.len() + ENTRY_OVERHEAD)
                .build()
        });
        Self { cache, metrics }
    }

    /// Counts a hit; a miss is counted by [`MemoryCache::get`] only, so that a peek before a look-up is not counted twice.
    pub(super) fn peek(&self, cid: &Cid) -> Option<Block> {
        let entry = self.cache.as_ref()?.get(cid.hash())?;
        let block = entry.value().with_cid(*cid)?;
        self.metrics.hits.inc();
        Some(block)
    }

    pub(super) fn get(&self, cid: &Cid) -> Option<Block> {
        let block = self.peek(cid);
        if block.is_none() {
            self.metrics.misses.inc();
        }
        block
    }

    pub(super) fn contains(&self, cid: &Cid) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.contains(cid.hash()))
    }

    /// Keeps a block. Its bytes must be its own ([`Block::detached`]): a fetched block is often a slice of a network
    /// message of up to 4 MiB, and a cache of slices would keep whole messages alive outside its budget.
    pub(super) fn insert(&self, block: Block) {
        if let Some(cache) = &self.cache {
            cache.insert(*block.cid().hash(), block);
            self.metrics.blocks.set(cache.entries() as i64);
            self.metrics.bytes.set(self.bytes() as i64);
        }
    }

    pub(super) fn remove(&self, cid: &Cid) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.remove(cid.hash()).is_some())
    }

    pub(super) fn stats(&self) -> TierStats {
        let blocks = self.cache.as_ref().map_or(0, |cache| cache.entries() as u64);
        let capacity = self.cache.as_ref().map_or(0, |cache| cache.capacity() as u64);
        self.metrics.stats(Some(blocks), self.bytes(), Some(capacity))
    }

    fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| cache.usage().saturating_sub(cache.entries() * ENTRY_OVERHEAD) as u64)
    }
}
