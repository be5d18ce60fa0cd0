//! What is counted of names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Source;
use crate::telemetry::Metrics;

#[derive(Debug, Clone)]
pub(super) struct NameMetrics {
    answers: Family<SourceLabel, Counter>,
    failures: Family<KindLabel, Counter>,
    pub(super) stale: Counter,
    pub(super) refreshes: Counter,
    pub(super) records: Counter,
    pub(super) invalid: Counter,
    pub(super) corrections: Counter,
    pub(super) announced: Counter,
    pub(super) announce_failures: Counter,
    pub(super) evicted: Counter,
    pub(super) limit_look_ups: Counter,
    pub(super) limit_kept: Counter,
    pub(super) limit_announces: Counter,
    pub(super) limit_recursion: Counter,
    pub(super) cached: Gauge,
    pub(super) kept: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl NameMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        let gauge = |name, help| metrics.register(name, help, Gauge::default());
        Self {
            answers: metrics.register(
                "names_answers",
                "Names answered, by where the answer came from",
                Family::default(),
            ),
            failures: metrics.register("names_failures", "Look-ups of names that ended in an error", Family::default()),
            stale: counter("names_stale_answers", "Answers past their TTL, given while they were looked up again"),
            refreshes: counter("names_refreshes", "Look-ups started behind a stale answer"),
            records: counter("names_records", "IPNS records received and found valid"),
            invalid: counter("names_invalid_records", "IPNS records received and refused"),
            corrections: counter("names_corrections", "Peers that were given a better record than they had"),
            announced: counter("names_announced", "IPNS records that a router took"),
            announce_failures: counter("names_announce_failures", "IPNS records that a router did not take"),
            evicted: counter("names_cache_evicted", "Names that left the cache for want of room"),
            limit_kept: counter("names_limit_kept", "Records refused because as many names as may be are kept already"),
            limit_look_ups: counter("names_limit_look_ups", "Look-ups refused because too many were under way"),
            limit_announces: counter("names_limit_announces", "Announcements left out because too many were under way"),
            limit_recursion: counter("names_limit_recursion", "Names that led through too many names"),
            cached: gauge("names_cached", "Names in the cache"),
            kept: gauge("names_kept", "IPNS records in the local store"),
        }
    }

    pub(super) fn answered(&self, source: Source) {
        self.answers.get_or_create(&SourceLabel { source: source.as_str() }).inc();
    }

    pub(super) fn failed(&self, kind: &'static str) {
        self.failures.get_or_create(&KindLabel { kind }).inc();
    }
}
