//! The record of a retrieval: begun with the session, handed over when the last byte is sent or nobody wants more.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::error::Fault;
use super::metrics::Counts;
use crate::ipld::Cid;
use crate::record::live::Begun;
use crate::record::{Origin, Outcome, RecordSink, RetrievalId, RetrievalRecord, SessionReport};
use crate::retriever::Session;

/// Writes the record on drop, whatever the end was. Holds the request's place among the concurrent ones until then.
pub(super) struct Guard {
    inner: Box<Inner>,
}

struct Inner {
    id: RetrievalId,
    cid: Cid,
    path: String,
    started: Instant,
    started_at: SystemTime,
    work: Work,
    sink: Arc<dyn RecordSink>,
    counts: Counts,
    _permit: OwnedSemaphorePermit,
    status: Option<StatusCode>,
    ttfb: Option<std::time::Duration>,
    bytes: u64,
    outcome: Option<Outcome>,
    error_kind: Option<&'static str>,
    /// No content was looked at for this answer: no record, unless the network was asked.
    light: bool,
}

/// Where the content comes from.
pub(super) enum Work {
    Session(Session),
    /// The cache of whole answers, whose report is known from the beginning.
    Kept(SessionReport),
}

/// What a record starts with.
pub(super) struct Start {
    pub(super) cid: Cid,
    pub(super) path: String,
    pub(super) started: Instant,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Guard {
    pub(super) fn new(start: Start, work: Work, sink: Arc<dyn RecordSink>, counts: Counts) -> Self {
        counts.in_flight.inc();
        let Start { cid, path, started, permit } = start;
        let id = RetrievalId::next();
        sink.started(Begun { id, cid, path: path.clone() });
        let inner = Inner {
            id,
            cid,
            path,
            started,
            started_at: SystemTime::now().checked_sub(started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH),
            work,
            sink,
            counts,
            _permit: permit,
            status: None,
            ttfb: None,
            bytes: 0,
            outcome: None,
            error_kind: None,
            light: false,
        };
        Self { inner: Box::new(inner) }
    }

    pub(super) fn id(&self) -> RetrievalId {
        self.inner.id
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    pub(super) fn report(&self) -> SessionReport {
        match &self.inner.work {
            Work::Session(session) => session.report(),
            Work::Kept(report) => report.clone(),
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.inner.started
    }

    pub(super) fn status(&mut self, status: StatusCode) {
        self.inner.status = Some(status);
    }

    /// Bytes are handed to the client.
    pub(super) fn handed(&mut self, bytes: u64) {
        if self.inner.ttfb.is_none() {
            self.inner.ttfb = Some(self.inner.started.elapsed());
        }
        self.inner.bytes += bytes;
    }

    /// All that was to be sent is handed over.
    pub(super) fn complete(&mut self) {
        self.inner.outcome.get_or_insert(Outcome::Complete);
    }

    /// The answer ended before its end.
    pub(super) fn truncated(&mut self, error_kind: &'static str) {
        self.inner.outcome.get_or_insert(Outcome::Truncated);
        self.inner.error_kind.get_or_insert(error_kind);
    }

    /// The answer is an error.
    pub(super) fn failed(&mut self, fault: &Fault) {
        self.inner.status = Some(fault.status);
        self.inner.outcome.get_or_insert(fault.outcome);
        self.inner.error_kind.get_or_insert(fault.code);
    }

    /// The answer is a 304 or a redirect.
    pub(super) fn light(&mut self, status: StatusCode) {
        self.inner.light = true;
        self.inner.status = Some(status);
        self.complete();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let inner = &mut *self.inner;
        inner.counts.in_flight.dec();
        inner.counts.bytes.inc_by(inner.bytes);
        if let Some(ttfb) = inner.ttfb {
            inner.counts.ttfb.observe(ttfb.as_secs_f64());
        }
        if std::thread::panicking() {
            inner.outcome = Some(Outcome::Error);
            inner.error_kind = Some("internal");
        }
        let session = match &mut inner.work {
            Work::Session(session) => session.report(),
            // Nobody asks for it again.
            Work::Kept(report) => SessionReport { events: std::mem::take(&mut report.events), ..report.clone() },
        };
        if inner.light && session.blocks_network == 0 {
            return;
        }
        let load_time = inner.started.elapsed();
        inner.sink.record(RetrievalRecord {
            id: inner.id,
            cid: inner.cid,
            path: std::mem::take(&mut inner.path),
            origin: Origin::Live,
            started_at: inner.started_at,
            finished_at: inner.started_at + load_time,
            load_time,
            ttfb: inner.ttfb,
            bytes: inner.bytes,
            outcome: inner.outcome.unwrap_or(Outcome::ClientAborted),
            error_kind: inner.error_kind.map(str::to_owned),
            http_status: inner.status.map(|status| status.as_u16()),
            session,
        });
    }
}
