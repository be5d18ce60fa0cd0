//! What happens now, for people who watch: a bounded broadcast of retrievals that begin and end.
//!
//! Nobody is waited for: a watcher that falls behind by more than [`QUEUE`] is told so and leaves (the channel drops the
//! oldest), and without watchers nothing is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{Outcome, RecordSink, RetrievalId, RetrievalRecord};
use crate::telemetry::Metrics;

/// Moments that a watcher may be behind.
pub const QUEUE: usize = 1_024;
/// Watchers at a time.
pub const MAX_WATCHERS: usize = 64;

/// A retrieval began or ended.
#[derive(Debug, Clone)]
pub enum Moment {
    Started(Arc<Begun>),
    Finished(Arc<RetrievalRecord>),
}

/// What is known of a retrieval when it begins.
#[derive(Debug, Clone)]
pub struct Begun {
    pub id: RetrievalId,
    pub cid: crate::ipld::Cid,
    pub path: String,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    pub started: u64,
    pub finished: u64,
    /// All but complete and client-aborted ones.
    pub failed: u64,
    /// Body bytes handed to clients.
    pub bytes: u64,
    /// Payload bytes of blocks from the network.
    pub network_bytes: u64,
}

/// Cheap to clone; clones share the broadcast.
#[derive(Clone)]
pub struct Feed {
    inner: Arc<Inner>,
}

struct Inner {
    moments: broadcast::Sender<Moment>,
    closed: CancellationToken,
    watchers: AtomicUsize,
    started: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    network_bytes: AtomicU64,
    watching: Gauge,
    refused: Counter,
    lagged: Counter,
}

/// A place among the watchers; dropping it frees the place.
pub struct Watcher {
    feed: Feed,
    pub moments: broadcast::Receiver<Moment>,
}

impl Feed {
    pub fn new(metrics: &Metrics) -> Self {
        let inner = Inner {
            moments: broadcast::channel(QUEUE).0,
            closed: CancellationToken::new(),
            watchers: AtomicUsize::new(0),
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            network_bytes: AtomicU64::new(0),
            watching: metrics.register("live_watchers", "Streams of live events that are open", Gauge::default()),
            refused: metrics.register(
                "live_watchers_refused",
                "Streams of live events that were refused because there were too many",
                Counter::default(),
            ),
            lagged: metrics.register(
                "live_watchers_lagged",
                "Streams of live events that were ended because their reader was too slow",
                Counter::default(),
            ),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A place among the watchers; `None` when there are [`MAX_WATCHERS`], which is counted.
    pub fn watch(&self) -> Option<Watcher> {
        let room = |n: usize| (n < MAX_WATCHERS).then_some(n + 1);
        if self.inner.watchers.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            self.inner.refused.inc();
            return None;
        }
        self.inner.watching.inc();
        Some(Watcher { feed: self.clone(), moments: self.inner.moments.subscribe() })
    }

    pub fn totals(&self) -> Totals {
        let inner = &self.inner;
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Totals {
            started: read(&inner.started),
            finished: read(&inner.finished),
            failed: read(&inner.failed),
            bytes: read(&inner.bytes),
            network_bytes: read(&inner.network_bytes),
        }
    }

    /// A watcher was too slow and is let go.
    pub fn lagged(&self) {
        self.inner.lagged.inc();
    }

    /// Ends every stream: the server stops.
    pub fn close(&self) {
        self.inner.closed.cancel();
    }

    pub fn closed(&self) -> CancellationToken {
        self.inner.closed.clone()
    }

    /// The sink that tells the watchers and hands everything on to `next`.
    pub fn tee(&self, next: Arc<dyn RecordSink>) -> Arc<dyn RecordSink> {
        Arc::new(Tee { feed: self.clone(), next })
    }

    fn tell(&self, moment: impl FnOnce() -> Moment) {
        if self.inner.moments.receiver_count() > 0 {
            // An error says that the last watcher has just left.
            let _ = self.inner.moments.send(moment());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.feed.inner.watchers.fetch_sub(1, Ordering::AcqRel);
        self.feed.inner.watching.dec();
    }
}

struct Tee {
    feed: Feed,
    next: Arc<dyn RecordSink>,
}

impl RecordSink for Tee {
    fn started(&self, begun: Begun) {
        self.feed.inner.started.fetch_add(1, Ordering::Relaxed);
        self.feed.tell(|| Moment::Started(Arc::new(begun.clone())));
        self.next.started(begun);
    }

    fn record(&self, record: RetrievalRecord) {
        let inner = &self.feed.inner;
        inner.finished.fetch_add(1, Ordering::Relaxed);
        let failed = !matches!(record.outcome, Outcome::Complete | Outcome::ClientAborted);
        inner.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
        inner.bytes.fetch_add(record.bytes, Ordering::Relaxed);
        inner.network_bytes.fetch_add(record.session.network_bytes, Ordering::Relaxed);
        self.feed.tell(|| {
            let mut told = record.clone();
            // The trace is in the database; here it would only be weight.
            told.session.events = Vec::new();
            Moment::Finished(Arc::new(told))
        });
        self.next.record(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NoRecords;

    #[tokio::test]
    async fn watchers_have_a_bound_and_their_places_are_freed() {
        let feed = Feed::new(&Metrics::new());
        let mut watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| feed.watch().unwrap()).collect();
        assert!(feed.watch().is_none());
        assert_eq!(feed.inner.refused.get(), 1);
        watchers.pop();
        assert!(feed.watch().is_some());
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_and_nobody_waits_for_it() {
        let feed = Feed::new(&Metrics::new());
        let mut slow = feed.watch().unwrap();
        let sink = feed.tee(Arc::new(NoRecords));
        for id in 0..QUEUE as i64 + 10 {
            sink.started(Begun { id: RetrievalId(id), cid: crate::ipld::Cid::default(), path: String::new() });
        }
        assert_eq!(feed.totals().started, QUEUE as u64 + 10);
        assert!(matches!(slow.moments.recv().await, Err(broadcast::error::RecvError::Lagged(10))));
    }
}
