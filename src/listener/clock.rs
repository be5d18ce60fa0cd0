//! What a connection last did, and when: written by its I/O and its requests, read by its watchdog.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{Config, Reason};

/// Writes up to this many bytes are not progress of a response: an HTTP/2 ping or acknowledgement in a TLS record.
const CHATTER_BYTES: usize = 64;
/// The watchdog looks at least this many times within a deadline: a connection ends at most a quarter late.
const LOOKS_PER_DEADLINE: u32 = 4;
/// What the clock counts in.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Times are milliseconds since `start`, plus one, so that 0 means "not".
pub(super) struct Clock {
    start: Instant,
    /// The first byte has arrived.
    spoken: AtomicBool,
    /// Requests whose header is read and whose response is not yet finished.
    in_flight: AtomicU32,
    /// Of these, requests that wait for the server, not for the client.
    waiting_on_us: AtomicU32,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    write_blocked: AtomicBool,
    progress: AtomicU64,
    http2: AtomicBool,
    abort: AtomicBool,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            spoken: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            waiting_on_us: AtomicU32::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            write_blocked: AtomicBool::new(false),
            progress: AtomicU64::new(1),
            http2: AtomicBool::new(false),
            abort: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    pub(super) fn has_spoken(&self) -> bool {
        self.spoken.load(Relaxed)
    }

    /// The socket is to be reset, not closed, when it is dropped: what the client has is not all.
    pub(super) fn abort(&self) {
        self.abort.store(true, Relaxed);
    }

    /// A TLS handshake is done: the next byte begins a request.
    pub(super) fn handshake_done(&self) {
        self.head_since.store(0, Relaxed);
        self.idle_since.store(self.now(), Relaxed);
    }

    fn read(&self) {
        self.spoken.store(true, Relaxed);
        if !self.is_busy() && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    fn wrote(&self, bytes: usize) {
        self.write_blocked.store(false, Relaxed);
        if bytes > CHATTER_BYTES {
            self.progress.store(self.now(), Relaxed);
        }
    }

    fn write_is_blocked(&self) {
        // The stall counts from here when nothing was under way before.
        if !self.write_blocked.swap(true, Relaxed) && !self.is_busy() {
            self.progress.store(self.now(), Relaxed);
        }
    }

    /// Waits until a deadline of `config` has passed, and says which.
    pub(super) async fn watch(&self, config: &Config) -> Reason {
        loop {
            match self.look(config) {
                Ok(wait) => tokio::time::sleep(wait).await,
                Err(reason) => return reason,
            }
        }
    }

    /// The deadline that has passed, or how long to wait before the next look.
    fn look(&self, config: &Config) -> Result<Duration, Reason> {
        let now = self.now();
        // What does not run now may begin at any time: the shortest of all deadlines says when to look again.
        let all = [config.first_byte_timeout, config.header_timeout, config.idle_timeout, config.stall_timeout];
        let shortest = all.into_iter().filter(|limit| !limit.is_zero()).min();
        let mut wait = shortest.map_or(Duration::from_secs(3600), |limit| limit / LOOKS_PER_DEADLINE);
        let mut check = |since: u64, limit: Duration, reason: Reason| {
            if limit.is_zero() {
                return Ok(());
            }
            let passed = Duration::from_millis(now.saturating_sub(since));
            if passed >= limit {
                return Err(reason);
            }
            wait = wait.min((limit - passed).min(limit / LOOKS_PER_DEADLINE));
            Ok(())
        };
        if self.write_blocked.load(Relaxed) || (self.is_busy() && self.waiting_on_us.load(Relaxed) == 0) {
            check(self.progress.load(Relaxed), config.stall_timeout, Reason::Stall)?;
        }
        if self.is_busy() {
            return Ok(wait.max(SHORTEST_WAIT));
        }
        if !self.spoken.load(Relaxed) {
            check(1, config.first_byte_timeout, Reason::FirstByte)?;
        } else {
            check(self.idle_since.load(Relaxed), config.idle_timeout, Reason::Idle)?;
            let head = self.head_since.load(Relaxed);
            // On an HTTP/2 connection that has had a request, bytes may be pings: the idle deadline is enough.
            if head != 0 && !self.http2.load(Relaxed) {
                check(head, config.header_timeout, Reason::Header)?;
            }
        }
        Ok(wait.max(SHORTEST_WAIT))
    }
}

/// A request that is being answered: from its header to the end of the response's body.
pub(super) struct InFlight {
    clock: Arc<Clock>,
    waiting_on_us: bool,
}

impl InFlight {
    pub(super) fn begin(clock: Arc<Clock>, version: http::Version) -> Self {
        clock.http2.store(version == http::Version::HTTP_2, Relaxed);
        clock.head_since.store(0, Relaxed);
        clock.progress.store(clock.now(), Relaxed);
        clock.waiting_on_us.fetch_add(1, Relaxed);
        clock.in_flight.fetch_add(1, Relaxed);
        Self { clock, waiting_on_us: true }
    }

    fn waits_on_us(&mut self, on_us: bool) {
        if self.waiting_on_us != on_us {
            self.waiting_on_us = on_us;
            if on_us {
                self.clock.waiting_on_us.fetch_add(1, Relaxed);
            } else {
                self.clock.waiting_on_us.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.waits_on_us(false);
        if self.clock.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.clock.head_since.store(0, Relaxed);
            self.clock.idle_since.store(self.clock.now(), Relaxed);
        }
    }
}

/// A response body that moves the clock, and has the connection reset when it fails.
pub(super) struct Tracked<B> {
    body: B,
    in_flight: InFlight,
}

impl<B> Tracked<B> {
    pub(super) fn new(body: B, in_flight: InFlight) -> Self {
        Self { body, in_flight }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let clock = &self.in_flight.clock;
        clock.progress.store(clock.now(), Relaxed);
        if matches!(polled, Poll::Ready(Some(Err(_)))) && !clock.http2.load(Relaxed) {
            // HTTP/2 resets the stream alone; HTTP/1 has only the connection to reset (invariant 7).
            clock.abort();
        }
        self.in_flight.waits_on_us(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request body that fails when the client sends nothing for `limit` while somebody reads it.
pub(super) struct Upload<B> {
    body: B,
    limit: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Upload<B> {
    pub(super) fn new(body: B, limit: Duration) -> Self {
        Self { body, limit, deadline: None }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.deadline = None;
            return Poll::Ready(frame.map(|result| result.map_err(Into::into)));
        }
        if self.limit.is_zero() {
            return Poll::Pending;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        std::task::ready!(deadline.as_mut().poll(cx));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the client stopped sending its request");
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket or stream, with a clock.
pub(super) struct Watched<S> {
    stream: S,
    clock: Arc<Clock>,
    reset: fn(&S),
}

impl<S> Watched<S> {
    /// `reset` makes the end of `stream` a reset instead of an orderly one, where dropping it does not do that.
    pub(super) fn new(stream: S, clock: Arc<Clock>, reset: fn(&S)) -> Self {
        Self { stream, clock, reset }
    }

    fn note(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(bytes)) => self.clock.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.clock.write_is_blocked(),
        }
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        if self.clock.abort.load(Relaxed) {
            (self.reset)(&self.stream);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.clock.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
