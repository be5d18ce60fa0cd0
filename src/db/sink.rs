//! The request path's side: counts at once, decides what to keep, and hands it over without waiting.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::observe::Note;
use super::{Shared, events, metrics};
use crate::record::{AttemptOutcome, Outcome, RecordSink, RetrievalId, RetrievalRecord, Source};

/// Attempts and events that may wait for the database, of all queued records together (about 200 bytes each).
/// Beyond it traces are left out, beyond twice of it whole records.
const MAX_QUEUED_PARTS: usize = 200_000;
/// A retrieval that took longer is slow: its trace is always kept.
const SLOW: Duration = Duration::from_secs(1);
/// Under so many results a second every trace is kept, so that a new server shows a waterfall at once.
const QUIET_PER_SECOND: u32 = 10;
/// One trace in so many is kept of the others.
const TRACE_ONE_IN: u64 = 100;

/// A record on its way to the writer.
pub(crate) struct Queued {
    pub record: RetrievalRecord,
    /// How many retrievals this row stands for.
    pub weight: u32,
    /// Attempts and events, for the bound.
    pub parts: usize,
}

pub(crate) struct Sink {
    shared: Arc<Shared>,
    records: mpsc::Sender<Queued>,
    notes: mpsc::Sender<Note>,
    rate: Mutex<Rate>,
    queued_parts: AtomicUsize,
}

impl Sink {
    pub fn new(shared: Arc<Shared>, records: mpsc::Sender<Queued>, notes: mpsc::Sender<Note>) -> Self {
        Self { shared, records, notes, rate: Mutex::default(), queued_parts: AtomicUsize::new(0) }
    }

    /// Hands over a snapshot or an observation; a full queue is counted.
    pub fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.shared.metrics.notes_dropped.inc();
        }
    }

    /// The writer is done with parts.
    pub fn released(&self, parts: usize) {
        self.queued_parts.fetch_sub(parts, Ordering::Relaxed);
    }

    pub fn queued(&self) -> usize {
        self.records.max_capacity() - self.records.capacity()
    }
}

impl RecordSink for Sink {
    fn record(&self, mut record: RetrievalRecord) {
        let now = SystemTime::now();
        self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner).add(now, &record);
        if record.outcome == Outcome::Complete {
            let kept = self.shared.content.lock().unwrap_or_else(PoisonError::into_inner).count(record.cid, now);
            self.shared.metrics.content_overflow.inc_by(u64::from(!kept));
        }
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner).count(now);
        let Some(weight) = sample(&record, rate, self.shared.config.sample_above) else {
            self.shared.metrics.sampled_out.inc();
            return;
        };
        let queued = self.queued_parts.load(Ordering::Relaxed);
        let dropped = &self.shared.metrics.events_dropped;
        if !keep_trace(&record, rate) {
            record.session.events = Vec::new();
        } else if queued > MAX_QUEUED_PARTS {
            dropped.inc_by(record.session.events.len() as u64);
            record.session.events_dropped += record.session.events.len() as u64;
            record.session.events = Vec::new();
        } else {
            dropped.inc_by(events::bound(&mut record.session));
        }
        let parts = record.session.events.len() + record.session.attempts.len();
        if queued > 2 * MAX_QUEUED_PARTS {
            self.shared.metrics.dropped.get_or_create(&metrics::OVERFLOW).inc();
            return;
        }
        self.queued_parts.fetch_add(parts, Ordering::Relaxed);
        if let Err(error) = self.records.try_send(Queued { record, weight, parts }) {
            self.released(parts);
            let reason = match error {
                mpsc::error::TrySendError::Full(_) => &metrics::OVERFLOW,
                mpsc::error::TrySendError::Closed(_) => &metrics::STOPPED,
            };
            self.shared.metrics.dropped.get_or_create(reason).inc();
        }
    }
}

/// Results in this second and the one before.
#[derive(Debug, Default)]
struct Rate {
    second: u64,
    current: u32,
    previous: u32,
}

impl Rate {
    /// Counts one result; the rate now, the greater of the last whole second's and this one's so far.
    fn count(&mut self, now: SystemTime) -> u32 {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second {
            self.previous = if second == self.second + 1 { self.current } else { 0 };
            self.current = 0;
            self.second = second;
        }
        self.current = self.current.saturating_add(1);
        self.current.max(self.previous)
    }
}

/// How many retrievals the row stands for, or `None` when another stands for it. Only complete cache hits are sampled:
/// each is kept with probability 1/k and weight k, so that weighted sums stay unbiased.
fn sample(record: &RetrievalRecord, rate: u32, above: u32) -> Option<u32> {
    let hit = record.outcome == Outcome::Complete && record.session.source() == Source::Cache;
    if !hit || above == 0 || rate <= above {
        return Some(1);
    }
    let one_in = rate.div_ceil(above);
    spread(record.id).is_multiple_of(u64::from(one_in)).then_some(one_in)
}

fn keep_trace(record: &RetrievalRecord, rate: u32) -> bool {
    let bad = !matches!(record.outcome, Outcome::Complete | Outcome::ClientAborted);
    // Only the trace tells what a peer that fell silent or sent wrong bytes has cost.
    let hurt = |outcome| matches!(outcome, AttemptOutcome::Stalled | AttemptOutcome::Corrupt);
    let hurt = record.session.attempts.iter().any(|attempt| hurt(attempt.outcome));
    bad || hurt || record.load_time > SLOW || rate < QUIET_PER_SECOND || spread(record.id).is_multiple_of(TRACE_ONE_IN)
}

/// A hash of the id that is the same in every run.
fn spread(id: RetrievalId) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::rows::tests::record;
    use crate::record::Attempt;
    use crate::routing::RouterKind;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn the_rate_is_that_of_the_last_two_seconds() {
        let mut rate = Rate::default();
        (0..20).for_each(|_| {
            rate.count(at(100));
        });
        assert_eq!(rate.count(at(101)), 20);
        assert_eq!(rate.count(at(105)), 1);
    }

    #[test]
    fn sampled_cache_hits_add_up_to_all_of_them_and_transfers_are_never_sampled() {
        let hits: u32 = (0..20_000)
            .filter_map(|id| {
                let mut hit = record(id);
                hit.session.transfer_time = None;
                hit.session.blocks_network = 0;
                hit.session.blocks_memory = 1;
                sample(&hit, 2_000, 500)
            })
            .sum();
        assert!((18_000..22_000).contains(&hits), "{hits} stand for 20,000");
        assert!((0..1_000).all(|id| sample(&record(id), 2_000, 500) == Some(1)));
    }

    #[test]
    fn traces_are_kept_when_quiet_or_slow_or_failed_and_one_in_a_hundred_else() {
        let busy = 100;
        let kept = (0..20_000).filter(|id| keep_trace(&record(*id), busy)).count();
        assert!((120..300).contains(&kept), "{kept} of 20,000");
        let mut slow = record(1);
        slow.load_time = Duration::from_millis(1_001);
        let mut failed = record(1);
        failed.outcome = Outcome::Timeout;
        assert!(keep_trace(&slow, busy) && keep_trace(&failed, busy) && keep_trace(&record(1), 9));
        for outcome in [AttemptOutcome::Stalled, AttemptOutcome::Corrupt] {
            let mut hurt = record(1);
            let attempt = Attempt {
                peer: libp2p::PeerId::random(),
                transport: None,
                router: RouterKind::Dht,
                connect: None,
                first_byte: None,
                bytes: 1,
                blocks: 1,
                duplicate_bytes: 0,
                hedges: 0,
                min_rtt: None,
                max_rate_bps: None,
                outcome,
                error_kind: None,
            };
            hurt.session.attempts.push(attempt);
            assert!(!keep_trace(&record(1), busy) && keep_trace(&hurt, busy), "{outcome}");
        }
    }
}
