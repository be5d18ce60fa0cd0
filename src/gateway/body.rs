//! The body of an answer: counts what it hands over, and fails rather than end early (invariant 7).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures::stream::Stream;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::error::GatewayError;
use super::guard::Guard;
use super::metrics::Limits;

/// Chunks of content on their way to a client, with the record that is written at their end.
///
/// An error makes the server reset the connection (HTTP/1) or the stream (HTTP/2): a client can always tell.
pub(super) struct Recorded<S> {
    stream: S,
    /// Bytes that are still to come, where the length was announced.
    remaining: Option<u64>,
    deadline: Instant,
    /// Bytes that may still come, where the length was not announced and there is a limit.
    allowed: Option<u64>,
    guard: Option<Guard>,
}

#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Content(Box<GatewayError>),
    #[error("the content is not as long as was announced")]
    Length,
    #[error("the request took longer than it may")]
    TooLong,
    #[error("the content is larger than it claimed, and than may be served")]
    TooLarge,
}

impl<S> Recorded<S> {
    /// `length`: the bytes that `Content-Length` announces.
    pub(super) fn new(stream: S, length: Option<u64>, deadline: Instant, mut guard: Guard) -> Self {
        if length == Some(0) {
            guard.complete();
        }
        Self { stream, remaining: length, deadline, allowed: None, guard: Some(guard) }
    }

    pub(super) fn at_most(self, allowed: Option<u64>) -> Self {
        Self { allowed, ..self }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(mut guard) = self.guard.take() {
            guard.truncated(match &error {
                BodyError::Content(error) => error.fault().code,
                BodyError::Length => "length",
                BodyError::TooLarge => {
                    guard.counts().hit(Limits::DagSize);
                    "too_large"
                }
                BodyError::TooLong => {
                    guard.counts().hit(Limits::RequestTime);
                    "request_time"
                }
            });
            tracing::debug!(retrieval = %guard.id(), %error, "body reset");
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl<S, E> Body for Recorded<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<GatewayError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // After the end or an error nothing follows, whatever the stream would still give.
        if self.guard.is_none() || self.remaining == Some(0) {
            return Poll::Ready(None);
        }
        // A wait within is bounded by the retriever's own deadline, so looking at the clock here is enough.
        if Instant::now() >= self.deadline {
            return self.fail(BodyError::TooLong);
        }
        let chunk = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return self.fail(BodyError::Content(Box::new(error.into()))),
            None if self.remaining.is_some() => return self.fail(BodyError::Length),
            None => {
                if let Some(mut guard) = self.guard.take() {
                    guard.complete();
                }
                return Poll::Ready(None);
            }
        };
        let length = chunk.len() as u64;
        if let Some(allowed) = self.allowed {
            match allowed.checked_sub(length) {
                Some(left) => self.allowed = Some(left),
                None => return self.fail(BodyError::TooLarge),
            }
        }
        let left = match self.remaining {
            Some(remaining) => match remaining.checked_sub(length) {
                Some(left) => Some(left),
                None => return self.fail(BodyError::Length),
            },
            None => None,
        };
        self.remaining = left;
        if let Some(guard) = &mut self.guard {
            guard.handed(length);
            if left == Some(0) {
                // hyper does not poll again once the announced length is reached.
                guard.complete();
            }
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0) || self.guard.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map(SizeHint::with_exact).unwrap_or_default()
    }
}
