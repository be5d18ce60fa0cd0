//! What the database part counts of itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropReason {
    pub reason: &'static str,
}

/// The queue was full.
pub const OVERFLOW: DropReason = DropReason { reason: "overflow" };
/// The database refuses this very record.
pub const REFUSED: DropReason = DropReason { reason: "refused" };
/// The server stopped before the record could be written.
pub const STOPPED: DropReason = DropReason { reason: "stopped" };

#[derive(Debug, Clone)]
pub struct DbMetrics {
    pub up: Gauge,
    pub queued: Gauge,
    pub written: Counter,
    pub dropped: Family<DropReason, Counter>,
    pub sampled_out: Counter,
    pub events_dropped: Counter,
    pub notes_dropped: Counter,
    pub failures: Counter,
    pub retired: Counter,
    pub content_overflow: Counter<u64, AtomicU64>,
}

impl DbMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            up: metrics.register("db_up", "1 while the metrics database can be written, else 0", Gauge::default()),
            queued: metrics.register("db_queued", "Retrievals that wait for the metrics database", Gauge::default()),
            written: counter("db_records_written", "Retrievals committed to the metrics database"),
            dropped: metrics.register(
                "db_records_dropped",
                "Retrievals whose row was lost, by reason; they are in the counts all the same",
                Family::default(),
            ),
            sampled_out: counter(
                "db_records_sampled_out",
                "Cache hits left out because of the rate; others stand for them",
            ),
            events_dropped: counter(
                "db_events_dropped",
                "Trace events left out of kept traces because of their bounds",
            ),
            notes_dropped: counter(
                "db_notes_dropped",
                "Snapshots and peer observations lost because their queue was full",
            ),
            failures: counter("db_failures", "Attempts to connect or to write that failed"),
            retired: counter("db_rows_retired", "Rows deleted because they were older than the configured time"),
            content_overflow: counter("db_content_overflow", "Distinct roots of one minute beyond the kept number"),
        }
    }
}
