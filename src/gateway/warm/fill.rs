//! From an answer that is being given to one that is kept.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::Stream;
use http::header::HeaderMap;

use super::super::headers;
use super::{ENTRY_OVERHEAD, Entry, Held, MAX_BLOCKS, MAX_UNANNOUNCED, Reason, Slot, Warm};
use crate::ipld::{Block, Cid};

/// What is known of an answer besides its body.
pub(in super::super) struct Facts<'a> {
    /// With `Content-Length`, where the length is known.
    pub(in super::super) headers: &'a HeaderMap,
    pub(in super::super) modified: Option<SystemTime>,
    pub(in super::super) length: Option<u64>,
    /// Who names the validator is answered before a retrieval begins.
    pub(in super::super) known_at_once: bool,
    pub(in super::super) root: Cid,
    pub(in super::super) path: String,
    pub(in super::super) format: &'static str,
}

/// A body whose beginning may have been read.
pub(in super::super) struct Begun<S, E> {
    read: VecDeque<Bytes>,
    error: Option<E>,
    ended: bool,
    rest: S,
    /// While what was read ahead waits.
    held: Option<Held>,
    /// The same once it is kept.
    _kept: Option<Arc<Entry>>,
}

impl Warm {
    /// Reads `body` as far as it is in memory already, and keeps the answer when that is all of it. Waits for nothing.
    /// Returns the same body.
    ///
    /// `reads` tells, when the body has been read, which blocks it was made of; `None`: not all came from memory.
    pub(in super::super) fn keep<S, E>(
        &self,
        slot: &Slot,
        facts: &Facts<'_>,
        body: S,
        reads: impl FnOnce() -> Option<Vec<Block>>,
    ) -> Begun<S, E>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        if facts.length.is_some_and(|length| length > self.largest) {
            self.skip(Reason::Size);
            return Begun::untouched(body);
        }
        let _turn = match self.filling.try_lock() {
            Ok(turn) => turn,
            // It guards nothing that could be left half done.
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.skip(Reason::Busy);
                return Begun::untouched(body);
            }
        };
        if self.has(slot) {
            return Begun::untouched(body);
        }
        let bound = facts.length.unwrap_or(MAX_UNANNOUNCED.min(self.largest));
        let Some(held) = self.hold(bound) else {
            self.skip(Reason::Alive);
            return Begun::untouched(body);
        };
        let mut begun = Begun::read(body, bound, held);
        let length = begun.read.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        if !begun.ended || begun.error.is_some() || facts.length.is_some_and(|announced| announced != length) {
            return begun;
        }
        if let (Some(reads), Some(held)) = (reads(), begun.held.take()) {
            begun._kept = self.put(slot, facts, &begun.read, (length, held), reads);
        }
        begun
    }

    /// `held`: for the bytes of the body.
    fn put(
        &self,
        slot: &Slot,
        facts: &Facts<'_>,
        body: &VecDeque<Bytes>,
        (length, mut held): (u64, Held),
        reads: Vec<Block>,
    ) -> Option<Arc<Entry>> {
        let cache = self.cache.as_ref()?;
        let etag = facts.headers.get(http::header::ETAG)?.to_str().ok()?;
        let weight = bytes_behind(body, &reads) + (ENTRY_OVERHEAD + slot.key.len()) as u64;
        if weight > self.largest || reads.len() > MAX_BLOCKS || body.len() > MAX_BLOCKS {
            self.skip(Reason::Size);
            return None;
        }
        held.shrink(weight);
        if weight > held.bytes {
            let Some(more) = self.hold(weight - held.bytes) else {
                self.skip(Reason::Alive);
                return None;
            };
            held.add(more);
        }
        let entry = Arc::new(Entry {
            headers: template(facts.headers),
            etag: etag.to_owned(),
            modified: facts.modified,
            body: body.iter().cloned().collect(),
            length,
            announced: facts.length.is_some(),
            known_at_once: facts.known_at_once,
            root: facts.root,
            path: facts.path.clone(),
            format: facts.format,
            reads,
            epoch: slot.epoch,
            held,
        });
        cache.insert((*slot.key).into(), entry.clone());
        self.metrics.filled.inc();
        self.measure();
        Some(entry)
    }
}

/// The header block with a place for everything that differs from request to request, so that no copy of it grows.
fn template(headers: &HeaderMap) -> HeaderMap {
    let mut out = headers.clone();
    for name in [headers::SERVER_TIMING, headers::RETRIEVAL] {
        out.insert(name, headers::value(""));
    }
    headers::set_common(&mut out);
    out.insert(headers::REQUEST_ID, headers::value(""));
    out
}

/// Bytes that stay alive with the body and the blocks: chunks that are parts of the blocks count once.
fn bytes_behind(body: &VecDeque<Bytes>, reads: &[Block]) -> u64 {
    let mut spans: Vec<(usize, usize)> =
        reads.iter().map(|block| (block.data().as_ptr() as usize, block.len())).collect();
    spans.sort_unstable();
    let within = |chunk: &Bytes| {
        let start = chunk.as_ptr() as usize;
        let before = spans.partition_point(|(from, _)| *from <= start);
        before > 0 && start + chunk.len() <= spans[before - 1].0 + spans[before - 1].1
    };
    let own = body.iter().filter(|chunk| !within(chunk)).map(|chunk| chunk.len() as u64).sum::<u64>();
    // A block that is read twice is the same allocation.
    spans.dedup();
    own + spans.iter().map(|(_, length)| *length as u64).sum::<u64>()
}

impl<S, E> Begun<S, E> {
    pub(in super::super) fn untouched(rest: S) -> Self {
        Self { read: VecDeque::new(), error: None, ended: false, rest, held: None, _kept: None }
    }
}

impl<S, E> Begun<S, E>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    /// Reads what is ready, up to `bound` bytes and the chunk that passes it.
    fn read(mut rest: S, bound: u64, held: Held) -> Self {
        let mut read = VecDeque::new();
        let (mut bytes, mut error, mut ended) = (0, None, false);
        let mut cx = Context::from_waker(Waker::noop());
        while bytes <= bound && read.len() <= MAX_BLOCKS {
            match Pin::new(&mut rest).poll_next(&mut cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    bytes += chunk.len() as u64;
                    read.push_back(chunk);
                }
                Poll::Ready(Some(Err(failure))) => {
                    error = Some(failure);
                    break;
                }
                Poll::Ready(None) => {
                    ended = true;
                    break;
                }
                // Whoever polls next registers its own waker.
                Poll::Pending => break,
            }
        }
        Self { read, error, ended, rest, held: Some(held), _kept: None }
    }
}

impl<S, E> Stream for Begun<S, E>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Unpin,
{
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(chunk) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        if let Some(error) = self.error.take() {
            self.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.rest).poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use futures::stream;

    use super::*;
    use crate::ipld::{HashCode, codec};

    type Chunk = Result<Bytes, &'static str>;

    fn held(warm: &Warm) -> Held {
        warm.hold(100).unwrap()
    }

    fn warm() -> Warm {
        Warm::new(crate::units::ByteSize(1_000), &crate::telemetry::Metrics::new())
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_nothing_is_lost() {
        let chunks =
            |texts: &[&'static str]| texts.iter().map(|text| Ok(Bytes::from_static(text.as_bytes()))).collect();
        let whole: Vec<Chunk> = chunks(&["a", "b", "c"]);
        let begun = Begun::read(stream::iter(whole.clone()), 10, held(&warm()));
        assert!(begun.ended && begun.collect::<Vec<_>>().await == whole);
        // The bound is passed.
        let begun = Begun::read(stream::iter(whole.clone()), 1, held(&warm()));
        assert!(!begun.ended && begun.collect::<Vec<_>>().await == whole);
        // Something is not here yet.
        let slow = stream::iter(whole.clone()).chain(stream::once(async {
            tokio::task::yield_now().await;
            Ok(Bytes::from_static(b"d"))
        }));
        let begun = Begun::read(Box::pin(slow), 10, held(&warm()));
        assert!(!begun.ended && begun.read.len() == 3);
        assert_eq!(begun.collect::<Vec<_>>().await.len(), 4);
        // It fails.
        let failing: Vec<Chunk> = chunks(&["a"]).into_iter().chain([Err("broken")]).collect();
        let begun = Begun::read(stream::iter(failing.clone()), 10, held(&warm()));
        assert!(!begun.ended && begun.collect::<Vec<_>>().await == failing);
    }

    #[test]
    fn bytes_that_body_and_blocks_share_count_once() {
        let block = |n: u8| Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(vec![n; 100])).unwrap();
        let (one, two) = (block(1), block(2));
        let body = VecDeque::from([one.data().slice(3..), Bytes::from(vec![0; 7])]);
        assert_eq!(bytes_behind(&body, &[one.clone(), two, one]), 207);
        assert_eq!(bytes_behind(&body, &[]), 104);
    }
}
