//! From a kept answer to a reply: at once, in the caller's own task.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, ETAG, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE, VARY,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};

use super::super::body::BodyError;
use super::super::conditional::Conditional;
use super::super::guard::{Guard, Start, Work};
use super::super::handler::{self, NO_LIMIT};
use super::super::metrics::Limits;
use super::super::middleware::next_id;
use super::super::range::{ByteRange, Selection};
use super::super::{Gateway, headers};
use super::{Entry, Epoch, Slot, Warm};
use crate::record::{CacheState, EventKind, Phase, RetrievalEvent, RetrievalId, SessionReport};

/// What the cache says to a request.
pub(in super::super) enum Given {
    Answer(Response<Body>),
    /// An answer to it may be kept.
    Slot(Slot),
    Nothing,
}

/// Looks for the answer to `request`, which came at `started`.
pub(in super::super) fn give(gateway: &Arc<Gateway>, request: &Request<Body>, started: Instant) -> Given {
    let warm = &gateway.warm;
    if warm.cache.is_none() || !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Given::Nothing;
    }
    // Before anything is looked at.
    let epoch = Epoch::now(gateway);
    let Some(key) = Slot::key(gateway, request) else { return Given::Nothing };
    let Some(entry) = warm.get(&key, epoch) else {
        warm.metrics.misses.inc();
        return Given::Slot(Slot { key: key.into(), epoch });
    };
    match reply(gateway, entry, request, started) {
        Some(reply) => {
            warm.metrics.hits.inc();
            Given::Answer(reply)
        }
        None => Given::Nothing,
    }
}

/// `None`: the handler knows better what to say.
fn reply(
    gateway: &Arc<Gateway>,
    entry: Arc<Entry>,
    request: &Request<Body>,
    started: Instant,
) -> Option<Response<Body>> {
    let asked = request.headers();
    let is_head = *request.method() == Method::HEAD;
    if asked.contains_key(IF_NONE_MATCH) || asked.contains_key(IF_MODIFIED_SINCE) {
        return not_modified(gateway, &entry, request.method(), &Conditional::read(asked));
    }
    let range = match asked.contains_key(RANGE) && !is_head {
        false => None,
        true if !entry.headers.contains_key(ACCEPT_RANGES) => return None,
        true => match ByteRange::read(asked, &entry.etag).select(entry.length) {
            Selection::Whole => None,
            // A limit on the files of which parts may be asked for is the handler's to name.
            Selection::Part(_) if gateway.state.config.range_file_size != 0 => return None,
            Selection::Part(range) => Some(range),
            Selection::Parts(_) | Selection::Unsatisfiable => return None,
        },
    };
    let permit = gateway.permits.clone().try_acquire_owned().ok()?;
    let found = started.elapsed();
    let start = Start { cid: entry.root, path: entry.path.clone(), started, permit };
    let work = Work::Kept(report(gateway, &entry, found));
    let mut guard = Guard::new(start, work, gateway.state.sink.clone(), gateway.counts.clone());
    for block in &entry.reads {
        gateway.state.retriever.used(block);
    }
    let mut out = entry.headers.clone();
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let range = match range {
        Some(range) => {
            out.insert(CONTENT_RANGE, headers::content_range(&range, entry.length));
            out.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
            range
        }
        None => 0..entry.length,
    };
    guard.status(status);
    out.insert(headers::SERVER_TIMING, timing(found, started.elapsed()));
    out.insert(headers::RETRIEVAL, HeaderValue::from(guard.id().0));
    set_request_id(&mut out);
    let format = entry.format;
    let body = match is_head {
        true => {
            guard.complete();
            handler::no_body(entry.announced)
        }
        false => {
            let limit = gateway.state.config.request_timeout;
            let deadline = started + if limit.is_zero() { NO_LIMIT } else { limit };
            Body::new(Kept::new(entry, range.start, range.end - range.start, deadline, guard))
        }
    };
    gateway.counts.answered(request.method(), status, format);
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    *reply.headers_mut() = out;
    Some(reply)
}

/// 304, when the client has what would be sent.
fn not_modified(
    gateway: &Gateway,
    entry: &Entry,
    method: &Method,
    conditional: &Conditional,
) -> Option<Response<Body>> {
    if !conditional.is_fresh(&entry.etag, entry.modified) {
        // It may have another form of the same content that counts as well.
        return None;
    }
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    let out = reply.headers_mut();
    for name in [ETAG, CACHE_CONTROL, CONTENT_LOCATION, VARY] {
        out.extend(entry.headers.get(&name).cloned().map(|value| (name, value)));
    }
    if !(entry.known_at_once && conditional.has(&entry.etag)) {
        out.insert(headers::RETRIEVAL, HeaderValue::from(RetrievalId::next().0));
    }
    headers::set_common(out);
    set_request_id(out);
    gateway.counts.answered(method, StatusCode::NOT_MODIFIED, entry.format);
    Some(reply)
}

fn set_request_id(out: &mut HeaderMap) {
    out.insert(headers::REQUEST_ID, headers::value(&next_id()));
}

/// As a session that found every block in memory reports it.
fn report(gateway: &Gateway, entry: &Entry, found: Duration) -> SessionReport {
    let first = RetrievalEvent {
        at: found,
        kind: EventKind::LocalHit,
        peer: None,
        cid: Some(entry.root),
        value: None,
        detail: Some(CacheState::Memory.as_str().to_owned()),
    };
    SessionReport {
        policy: gateway.state.retriever.policy(),
        transfer_time: None,
        routing: None,
        connect: None,
        first_block: Some(found),
        providers_found: 0,
        providers_attempted: 0,
        blocks_memory: entry.reads.len() as u64,
        blocks_store: 0,
        blocks_disk: 0,
        blocks_network: 0,
        network_bytes: 0,
        duplicate_bytes: 0,
        received_bytes: 0,
        optimization_score: None,
        attempts: Vec::new(),
        events: vec![first],
        events_dropped: 0,
        phase: Phase::Resolve,
    }
}

/// The steps that an answer from memory has.
fn timing(found: Duration, total: Duration) -> HeaderValue {
    let steps = [("resolve", Some(found)), ("fetch", Some(found)), ("ttfb", Some(total)), ("total", Some(total))];
    headers::server_timing(steps, Some(CacheState::Memory))
}

/// A part of a kept body on its way to a client, with the record that is written at its end.
struct Kept {
    entry: Arc<Entry>,
    index: usize,
    /// Bytes of `entry.body[index]` that are not sent.
    skip: usize,
    remaining: u64,
    deadline: Instant,
    guard: Option<Guard>,
}

impl Kept {
    fn new(entry: Arc<Entry>, start: u64, length: u64, deadline: Instant, mut guard: Guard) -> Self {
        let (mut index, mut before) = (0, start);
        while let Some(chunk) = entry.body.get(index).filter(|chunk| chunk.len() as u64 <= before) {
            before -= chunk.len() as u64;
            index += 1;
        }
        if length == 0 {
            guard.complete();
        }
        // Less than the chunk's length, which is a `usize`.
        Self { entry, index, skip: before as usize, remaining: length, deadline, guard: Some(guard) }
    }

    fn next(&mut self) -> Option<Bytes> {
        let chunk = self.entry.body.get(self.index)?;
        let end =
            usize::try_from(self.remaining).map_or(chunk.len(), |left| chunk.len().min(self.skip.saturating_add(left)));
        let bytes = chunk.slice(self.skip..end);
        self.index += 1;
        self.skip = 0;
        self.remaining -= bytes.len() as u64;
        Some(bytes)
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.guard.is_none() || self.remaining == 0 {
            return Poll::Ready(None);
        }
        if Instant::now() >= self.deadline {
            if let Some(mut guard) = self.guard.take() {
                guard.counts().hit(Limits::RequestTime);
                guard.truncated("request_time");
            }
            return Poll::Ready(Some(Err(BodyError::TooLong)));
        }
        // Local invariant: the chunks are as long as the entry's length says, which bounds `remaining`.
        let Some(bytes) = self.next() else { return Poll::Ready(Some(Err(BodyError::Length))) };
        let done = self.remaining == 0;
        if let Some(guard) = &mut self.guard {
            guard.handed(bytes.len() as u64);
            if done {
                // hyper does not poll again once the announced length is reached.
                guard.complete();
            }
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0 || self.guard.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.entry.announced { SizeHint::with_exact(self.remaining) } else { SizeHint::default() }
    }
}

impl Warm {
    /// Whether an answer is there, made under `epoch`.
    pub(super) fn has(&self, slot: &Slot) -> bool {
        self.cache
            .as_ref()
            .and_then(|cache| cache.get(&*slot.key))
            .is_some_and(|entry| entry.value().epoch == slot.epoch)
    }
}
