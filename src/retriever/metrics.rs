//! What the retriever counts: exact, and each bound with a count of hitting it.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::scheduler::Tally;
use crate::telemetry::Metrics;

#[derive(Debug, Clone)]
pub(super) struct RetrieverMetrics {
    pub(super) hints_dropped: Counter,
    pub(super) store_errors: Counter,
    pub(super) refused: Counter,
    sessions: Gauge,
    wants: Gauge,
    dials: Gauge,
    tally: Vec<(Counter, Read)>,
    evicted: Counter,
}

/// One counter of the scheduler's tally: name, help, and where it stands.
type Row = (&'static str, &'static str, Read);
type Read = fn(&Tally) -> u64;

const TALLY: [Row; 14] = [
    ("retriever_blocks", "Blocks that were wanted and came from a peer, verified", |t| t.blocks),
    ("retriever_block_bytes", "Payload bytes of those blocks", |t| t.bytes),
    ("retriever_wire_bytes", "Bytes on the wire of all blocks that came, wanted or not", |t| t.wire_bytes),
    ("retriever_duplicate_bytes", "Payload bytes of blocks that came again", |t| t.duplicate_bytes),
    (
        "retriever_wants_failed",
        "Wants that ended at a peer without the block: stall, disconnect, refusal, wrong block",
        |t| t.failed,
    ),
    ("retriever_probes", "Blocks asked for a second time because nothing was known of the peer's rate", |t| t.probes),
    ("retriever_hedges", "Blocks asked for at a second peer while the first still had them to send", |t| t.hedges),
    ("retriever_stalls", "Times a peer with work was found silent", |t| t.stalls),
    ("retriever_reassigned", "Wants moved from one peer to another", |t| t.reassigned),
    ("retriever_corrupt", "Times a peer was quarantined for a wrong block or a broken message", |t| t.corrupt),
    ("retriever_unwanted_blocks", "Verified blocks from a peer that was not asked for them", |t| t.unwanted),
    ("retriever_not_found", "Blocks given up because nobody has them", |t| t.not_found),
    ("retriever_timeouts", "Blocks given up for lack of progress", |t| t.timeouts),
    ("retriever_over_bound", "Prefetches, candidates, providers and wants that a bound turned away", |t| t.over_bound),
];

impl RetrieverMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let tally = TALLY.map(|(name, help, value)| (metrics.register(name, help, Counter::default()), value));
        Self {
            hints_dropped: metrics.register(
                "retriever_hints_dropped",
                "Prefetch calls cut short because the session's read-ahead was used up",
                Counter::default(),
            ),
            store_errors: metrics.register(
                "retriever_store_errors",
                "Local look-ups that failed and went on to the network",
                Counter::default(),
            ),
            refused: metrics.register(
                "retriever_sends_refused",
                "Times the exchange's queue to a peer was full",
                Counter::default(),
            ),
            sessions: metrics.register("retriever_sessions", "Sessions that ask the network now", Gauge::default()),
            wants: metrics.register("retriever_wants", "Blocks wanted from the network now", Gauge::default()),
            dials: metrics.register("retriever_dials", "Dials under way", Gauge::default()),
            tally: tally.into(),
            evicted: metrics.register(
                "retriever_ledger_evicted",
                "Peers forgotten because the ledger was full",
                Counter::default(),
            ),
        }
    }

    pub(super) fn publish(&self, tally: &Tally, evicted: u64, (wants, sessions, dials): (usize, usize, usize)) {
        for (counter, value) in &self.tally {
            raise(counter, value(tally));
        }
        raise(&self.evicted, evicted);
        self.wants.set(wants as i64);
        self.sessions.set(sessions as i64);
        self.dials.set(dials as i64);
    }
}

/// Brings a counter to a total that only grows and that only one task publishes.
fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
