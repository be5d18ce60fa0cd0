//! What the tiers count: exact, one set of counters for `/metrics` and for [`super::Blocks::stats`].

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use super::Tier;
use crate::telemetry::Metrics;

/// Figures of one tier since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TierStats {
    /// Blocks at rest now. `None` where the tier cannot know (the disk cache evicts whole regions).
    pub blocks: Option<u64>,
    /// Bytes at rest now: block bytes, for the disk cache the disk space it takes (sampled every 5 s while it writes).
    pub bytes: u64,
    /// Bytes it may hold; `None`: as much as the disk has.
    pub capacity: Option<u64>,
    pub hits: u64,
    pub misses: u64,
    /// Copies that did not hash to their name; each was deleted and reported as a miss.
    pub corrupt: u64,
    pub read_errors: u64,
    pub write_errors: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Label {
    tier: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// One tier's counters.
#[derive(Clone, Debug, Default)]
pub(super) struct TierMetrics {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) corrupt: Counter,
    pub(super) read_errors: Counter,
    pub(super) write_errors: Counter,
    pub(super) blocks: Gauge,
    pub(super) bytes: Gauge,
}

/// All counters of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreMetrics {
    pub(super) memory: TierMetrics,
    pub(super) store: TierMetrics,
    pub(super) disk: TierMetrics,
    /// Not written to the disk cache: the queue was full.
    pub(super) dropped_queue: Counter,
    /// Not written to the disk cache: it is out of order.
    pub(super) dropped_disk: Counter,
    pub(super) disk_available: Gauge,
    pub(super) gc_removed: Counter,
}

impl StoreMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Family::<Label, Counter>::default());
        let gauge = |name: &str, help: &str| metrics.register(name, help, Family::<Label, Gauge>::default());
        let hits = counter("store_hits", "Blocks that a tier had when it was asked, counted at look-up");
        let misses = counter("store_misses", "Blocks that a tier did not have when it was asked, counted at look-up");
        let corrupt = counter("store_corrupt", "Damaged copies found on reading or scrubbing and deleted");
        let read_errors = counter("store_read_errors", "Reads that the disk failed; treated as misses");
        let write_errors = counter(
            "store_write_errors",
            "Writes that the disk failed: batches for the store, blocks for the disk cache",
        );
        let blocks = gauge("store_blocks", "Blocks at rest in a tier (not known for the disk cache)");
        let bytes = gauge("store_bytes", "Bytes at rest in a tier; for the disk cache the space it takes, sampled");
        let tier = |tier: Tier| {
            let label = Label { tier: tier.name() };
            TierMetrics {
                hits: hits.get_or_create_owned(&label),
                misses: misses.get_or_create_owned(&label),
                corrupt: corrupt.get_or_create_owned(&label),
                read_errors: read_errors.get_or_create_owned(&label),
                write_errors: write_errors.get_or_create_owned(&label),
                blocks: blocks.get_or_create_owned(&label),
                bytes: bytes.get_or_create_owned(&label),
            }
        };
        let dropped = metrics.register(
            "store_disk_cache_dropped",
            "Fetched blocks that were not written to the disk cache, by reason",
            Family::<Reason, Counter>::default(),
        );
        Self {
            memory: tier(Tier::Memory),
            store: tier(Tier::Store),
            disk: tier(Tier::Disk),
            dropped_queue: dropped.get_or_create_owned(&Reason { reason: "queue-full" }),
            dropped_disk: dropped.get_or_create_owned(&Reason { reason: "disk" }),
            disk_available: metrics.register(
                "store_disk_cache_available",
                "1 while the disk cache can be written, 0 when it is off, full or broken",
                Gauge::default(),
            ),
            gc_removed: metrics.register("store_gc_removed", "Durable blocks that gc removed", Counter::default()),
        }
    }
}

impl TierMetrics {
    pub(super) fn looked_up(&self, hit: bool) {
        if hit {
            self.hits.inc()
        } else {
            self.misses.inc()
        };
    }

    pub(super) fn stats(&self, blocks: Option<u64>, bytes: u64, capacity: Option<u64>) -> TierStats {
        TierStats {
            blocks,
            bytes,
            capacity,
            hits: self.hits.get(),
            misses: self.misses.get(),
            corrupt: self.corrupt.get(),
            read_errors: self.read_errors.get(),
            write_errors: self.write_errors.get(),
        }
    }
}

impl Tier {
    /// The tier's name in metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Store => "store",
            Self::Disk => "disk",
        }
    }
}
