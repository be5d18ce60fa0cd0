//! What a cache of another size would have hit: an estimate of the miss-ratio curve of an LRU cache from the blocks
//! that requests read, in one pass and in bounded memory.
//!
//! SHARDS with a fixed sample size (Waldspurger, Park, Garthwaite, Ahmad: "Efficient MRC Construction with SHARDS",
//! FAST '15): an access is sampled when the hash of its block is under a threshold, so that all accesses of a block are
//! sampled or none; when more than the bound of blocks are sampled, the threshold falls to the largest hash and that
//! block goes. Distances between two accesses of a block, in bytes of the distinct blocks between, are scaled up by the
//! rate, and so are the counts; what sampling lost or gained in counts goes into the first bucket (SHARDS-adj, §3.2).
//!
//! [`Sampler`] is pure: the same accesses give the same curve. [`Reuse`] shares one among threads.

use std::collections::hash_map::RandomState;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use crate::ipld::{Block, Multihash};
use crate::telemetry::Metrics;

/// Distinct blocks that are followed at a time: some 400 KiB. Mean errors are under 2 points with it (tests).
pub const SAMPLED_BLOCKS: usize = 8_192;
/// Sampled accesses under which nothing is said.
pub const MIN_SAMPLED: u64 = 500;
/// Buckets of distances: this many to a doubling, from [`SMALLEST`] bytes on.
const PER_OCTAVE: f64 = 8.0;
const SMALLEST: f64 = 1_024.0;
/// Distances of up to 2^(10 + BUCKETS/8) bytes, 1 PiB, are told apart.
const BUCKETS: usize = 320;
/// Slots of time in the tree for each followed block; when they are used up, the blocks are numbered anew.
const SLOTS_PER_BLOCK: usize = 4;

/// The estimator. Accesses are named by 64-bit hashes that must be evenly spread.
#[derive(Debug)]
pub struct Sampler {
    capacity: usize,
    /// Hashes from here on are not sampled.
    threshold: u64,
    followed: HashMap<u64, Followed, RandomState>,
    /// The followed hashes, the largest on top.
    largest: BinaryHeap<u64>,
    /// Bytes by the time slot of the last access.
    tree: Fenwick,
    next_slot: usize,
    /// Accesses by distance, and their bytes, as estimates for all accesses.
    accesses_at: Vec<f64>,
    bytes_at: Vec<f64>,
    /// Accesses whose block was not seen before, likewise.
    first_accesses: f64,
    first_bytes: f64,
    sampled: u64,
    evicted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    slot: usize,
    bytes: u64,
}

/// An estimate of what an LRU cache of any size would have hit.
#[derive(Debug, Clone, PartialEq)]
pub struct ReuseCurve {
    /// All accesses and their bytes, exact.
    pub accesses: u64,
    pub bytes: u64,
    pub sampled_accesses: u64,
    /// Blocks that are followed now.
    pub sampled_blocks: u64,
    /// The share of blocks that is followed, 0..=1.
    pub sample_rate: f64,
    /// Running sums over the buckets of distance.
    hits: Vec<f64>,
    hit_bytes: Vec<f64>,
    total: f64,
    total_bytes: f64,
}

/// Shares of accesses and of bytes, 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub struct HitRatio {
    pub by_requests: f64,
    pub by_bytes: f64,
}

impl Sampler {
    /// Follows at most `capacity` distinct blocks, at least one.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            capacity,
            threshold: u64::MAX,
            followed: HashMap::with_capacity_and_hasher(capacity + 1, RandomState::new()),
            largest: BinaryHeap::with_capacity(capacity + 1),
            tree: Fenwick::new(capacity * SLOTS_PER_BLOCK),
            next_slot: 0,
            accesses_at: vec![0.0; BUCKETS],
            bytes_at: vec![0.0; BUCKETS],
            first_accesses: 0.0,
            first_bytes: 0.0,
            sampled: 0,
            evicted: 0,
        }
    }

    /// Hashes under it are sampled.
    pub fn threshold(&self) -> u64 {
        self.threshold
    }

    fn rate(&self) -> f64 {
        self.threshold as f64 / u64::MAX as f64
    }

    /// One access to a block of so many bytes.
    pub fn access(&mut self, hash: u64, bytes: u64) {
        if hash >= self.threshold {
            return;
        }
        self.sampled += 1;
        // Weighting each access by its rate is the same as rescaling all earlier ones when the rate falls (§3.2).
        let weight = 1.0 / self.rate();
        if self.next_slot == self.tree.len() {
            self.renumber();
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        match self.followed.insert(hash, Followed { slot, bytes }) {
            Some(before) => {
                self.tree.subtract(before.slot, before.bytes);
                let between = self.tree.total() - self.tree.sum_to(before.slot);
                let distance = between as f64 * weight + bytes as f64;
                let bucket = bucket_of(distance);
                self.accesses_at[bucket] += weight;
                self.bytes_at[bucket] += weight * bytes as f64;
            }
            None => {
                self.first_accesses += weight;
                self.first_bytes += weight * bytes as f64;
                self.largest.push(hash);
            }
        }
        self.tree.add(slot, bytes);
        if self.followed.len() > self.capacity {
            self.lower();
        }
    }

    /// Drops the block with the largest hash, and with it all that hash alike or larger from now on.
    fn lower(&mut self) {
        let Some(hash) = self.largest.pop() else { return };
        self.threshold = hash.max(1);
        self.evicted += 1;
        if let Some(gone) = self.followed.remove(&hash) {
            self.tree.subtract(gone.slot, gone.bytes);
        }
    }

    /// Gives the followed blocks the first slots, in the order of their last accesses.
    fn renumber(&mut self) {
        let mut order: Vec<(usize, u64)> = self.followed.iter().map(|(hash, block)| (block.slot, *hash)).collect();
        order.sort_unstable();
        self.tree.clear();
        for (slot, (_, hash)) in order.iter().enumerate() {
            if let Some(block) = self.followed.get_mut(hash) {
                block.slot = slot;
                self.tree.add(slot, block.bytes);
            }
        }
        self.next_slot = order.len();
    }

    /// The curve, given how many accesses and bytes there were in all, sampled or not.
    pub fn curve(&self, accesses: u64, bytes: u64) -> ReuseCurve {
        let running = |values: &[f64], first: f64, all: u64| {
            let mut values = values.to_vec();
            let estimated: f64 = values.iter().sum::<f64>() + first;
            values[0] += all as f64 - estimated;
            let mut sum = 0.0;
            for value in &mut values {
                sum += *value;
                *value = sum;
            }
            values
        };
        ReuseCurve {
            accesses,
            bytes,
            sampled_accesses: self.sampled,
            sampled_blocks: self.followed.len() as u64,
            sample_rate: self.rate(),
            hits: running(&self.accesses_at, self.first_accesses, accesses),
            hit_bytes: running(&self.bytes_at, self.first_bytes, bytes),
            total: accesses as f64,
            total_bytes: bytes as f64,
        }
    }
}

impl ReuseCurve {
    /// Whether enough was seen to say anything.
    pub fn has_enough(&self) -> bool {
        self.sampled_accesses >= MIN_SAMPLED && self.total_bytes > 0.0
    }

    /// What an LRU cache of `capacity` bytes would have hit since the start; `None` with too little data.
    pub fn hit_ratio(&self, capacity: u64) -> Option<HitRatio> {
        if !self.has_enough() {
            return None;
        }
        let at = |sums: &[f64], total: f64| {
            let position = ((capacity as f64 / SMALLEST).log2() * PER_OCTAVE).max(0.0);
            let bucket = (position as usize).min(BUCKETS - 1);
            let below = if bucket == 0 { 0.0 } else { sums[bucket - 1] };
            // Between the bounds of a bucket, in proportion.
            let share = (position - bucket as f64).clamp(0.0, 1.0);
            ((below + (sums[bucket] - below) * share) / total).clamp(0.0, 1.0)
        };
        if capacity == 0 {
            return Some(HitRatio { by_requests: 0.0, by_bytes: 0.0 });
        }
        Some(HitRatio { by_requests: at(&self.hits, self.total), by_bytes: at(&self.hit_bytes, self.total_bytes) })
    }

    /// The smallest size, in bytes, from which on a larger cache would hit no more than half a per cent of requests more.
    pub fn saturation(&self) -> Option<u64> {
        let most = *self.hits.last()?;
        let enough = |sum: &f64| most - *sum <= 0.005 * self.total;
        let bucket = self.hits.iter().position(enough).filter(|_| self.has_enough())?;
        Some((SMALLEST * ((bucket as f64 + 1.0) / PER_OCTAVE).exp2()) as u64)
    }
}

fn bucket_of(distance: f64) -> usize {
    (((distance / SMALLEST).log2() * PER_OCTAVE).max(0.0) as usize).min(BUCKETS - 1)
}

/// Prefix sums with updates in O(log n) (Fenwick 1994).
#[derive(Debug)]
struct Fenwick {
    sums: Vec<u64>,
    total: u64,
}

impl Fenwick {
    fn new(len: usize) -> Self {
        Self { sums: vec![0; len + 1], total: 0 }
    }

    fn len(&self) -> usize {
        self.sums.len() - 1
    }

    fn clear(&mut self) {
        self.sums.fill(0);
        self.total = 0;
    }

    fn total(&self) -> u64 {
        self.total
    }

    fn add(&mut self, at: usize, value: u64) {
        self.total += value;
        let mut i = at + 1;
        while i < self.sums.len() {
            self.sums[i] += value;
            i += i & i.wrapping_neg();
        }
    }

    fn subtract(&mut self, at: usize, value: u64) {
        self.total -= value;
        let mut i = at + 1;
        while i < self.sums.len() {
            self.sums[i] -= value;
            i += i & i.wrapping_neg();
        }
    }

    /// The sum of the slots 0..=at.
    fn sum_to(&self, at: usize) -> u64 {
        let mut sum = 0;
        let mut i = at + 1;
        while i > 0 {
            sum += self.sums[i];
            i -= i & i.wrapping_neg();
        }
        sum
    }
}

/// One [`Sampler`] for all requests. Most accesses of a large working set touch two atomics and no lock.
#[derive(Debug)]
pub struct Reuse {
    /// Keyed, because peers choose the digests.
    hasher: RandomState,
    threshold: AtomicU64,
    accesses: AtomicU64,
    bytes: AtomicU64,
    sampler: Mutex<Sampler>,
    sampled: Counter,
    followed: Gauge,
    evicted: Counter,
}

impl Reuse {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            hasher: RandomState::new(),
            threshold: AtomicU64::new(u64::MAX),
            accesses: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            sampler: Mutex::new(Sampler::new(SAMPLED_BLOCKS)),
            sampled: metrics.register(
                "reuse_sampled",
                "Block reads of requests that went into the reuse curve",
                Counter::default(),
            ),
            followed: metrics.register(
                "reuse_blocks",
                "Distinct blocks that the reuse curve follows now",
                Gauge::default(),
            ),
            evicted: metrics.register(
                "reuse_evicted",
                "Blocks that the reuse curve stopped following because of its bound; the sampling rate falls with each",
                Counter::default(),
            ),
        }
    }

    /// A request read this block, wherever it came from.
    pub fn access(&self, block: &Block) {
        self.read(block.cid().hash(), block.len() as u64);
    }

    fn read(&self, hash: &Multihash, bytes: u64) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let hash = self.hasher.hash_one(hash);
        if hash >= self.threshold.load(Ordering::Relaxed) {
            return;
        }
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        let evicted = sampler.evicted;
        sampler.access(hash, bytes);
        self.sampled.inc();
        self.evicted.inc_by(sampler.evicted - evicted);
        self.followed.set(sampler.followed.len() as i64);
        self.threshold.store(sampler.threshold(), Ordering::Relaxed);
    }

    /// The curve as of now.
    pub fn curve(&self) -> ReuseCurve {
        let sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.curve(self.accesses.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
#[path = "reuse_tests.rs"]
mod tests;
