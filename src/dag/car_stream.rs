//! A graph as a CARv1, streamed (trustless gateway specification; IPIP-402 for scopes and ranges, IPIP-412 for order and
//! duplicates). The order is always depth-first.
//!
//! The blocks of the path come first, then the entity. Identity CIDs are never written: their readers have them already.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::Stream;
use thiserror::Error;

use super::resolver::{NodeKind, Resolved};
use super::walk::{DEFAULT_MAX_SEEN, Follow, Walk, WalkError, WalkOptions};
use crate::denylist::Judge;
use crate::ipld::{Block, HashCode, car};
use crate::retriever::Session;

/// How much of the graph is sent (`dag-scope`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DagScope {
    /// The block at the end of the path.
    Block,
    /// The file, or the directory without its entries' content.
    Entity,
    #[default]
    All,
}

/// A range of a file's bytes (`entity-bytes=from:to`), both ends inclusive; negative values count from the end, and a
/// `to` of `None` is the end (`*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteWindow {
    pub from: i64,
    pub to: Option<i64>,
}

/// What a request may choose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CarParams {
    pub scope: DagScope,
    /// Implies [`DagScope::Entity`]; without meaning for anything but files.
    pub bytes: Option<ByteWindow>,
    /// `dups=y`: every occurrence of a block. Otherwise each once.
    pub dups: bool,
    /// Distinct blocks that are remembered without `dups`; more of them end the stream with an error.
    pub max_seen: usize,
}

impl Default for CarParams {
    fn default() -> Self {
        Self { scope: DagScope::All, bytes: None, dups: false, max_seen: DEFAULT_MAX_SEEN }
    }
}

impl ByteWindow {
    /// The bytes of a file of `size` bytes; empty when the window lies outside.
    pub fn resolve(&self, size: u64) -> Range<u64> {
        let place = |at: i64| match at {
            at if at < 0 => size.checked_sub(at.unsigned_abs()),
            at => Some(at.unsigned_abs()),
        };
        let from = place(self.from).unwrap_or(0).min(size);
        let to = match self.to {
            None => size,
            Some(to) => place(to).map_or(0, |to| to.saturating_add(1)).min(size),
        };
        from..to.max(from)
    }
}

#[derive(Debug, Clone, Error)]
pub enum CarError {
    #[error(transparent)]
    Walk(#[from] WalkError),
}

/// The bytes of a CAR, as a [`Stream`] that ends after an error. The chunks have no meaning.
///
/// Cancel safe: dropping it takes its wants back.
#[derive(Debug)]
pub struct CarStream {
    ready: VecDeque<Bytes>,
    path: VecDeque<Block>,
    walk: Walk,
    blocks: u64,
}

impl CarStream {
    /// The CAR of what `resolved` names; its root is the CID at the end of the path.
    pub fn new(session: Session, resolved: &Resolved, params: &CarParams) -> Self {
        let follow = match (params.scope, params.bytes, &resolved.kind) {
            (DagScope::Block, None, _) => Follow::Nothing,
            (DagScope::All, None, _) => Follow::All,
            (_, Some(window), NodeKind::File { size }) => match window.resolve(*size) {
                range if range.is_empty() => Follow::Nothing,
                range => Follow::Entity(Some(range)),
            },
            _ => Follow::Entity(None),
        };
        let options = WalkOptions { unique: !params.dups, max_seen: params.max_seen, follow, ..WalkOptions::default() };
        let mut walk = Walk::new(session, resolved.cid, options);
        let path = resolved.path_blocks.iter().filter(|block| walk.mark_seen(block.cid())).cloned().collect();
        Self { ready: VecDeque::from([car::header(&[resolved.cid])]), path, walk, blocks: 0 }
    }

    /// Blocks written so far.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Asks `judge`, which stands at the end of the path, about each entry that the walk meets.
    pub fn judged(self, judge: Judge) -> Self {
        Self { walk: self.walk.judged(judge), ..self }
    }

    fn write(&mut self, block: &Block) {
        if block.cid().hash().code() != u64::from(HashCode::Identity) {
            self.ready.extend(car::frame(block));
            self.blocks += 1;
        }
    }
}

impl Stream for CarStream {
    type Item = Result<Bytes, CarError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            if let Some(block) = self.path.pop_front() {
                self.write(&block);
                continue;
            }
            match Pin::new(&mut self.walk).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(Some(Ok(visit))) => {
                    if let Some(block) = visit.block {
                        self.write(&block);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_cut_to_the_file() {
        let window = |from, to| ByteWindow { from, to }.resolve(1000);
        assert_eq!(window(0, None), 0..1000);
        assert_eq!(window(512, Some(1023)), 512..1000);
        assert_eq!(window(512, Some(-256)), 512..745);
        assert_eq!(window(-5, None), 995..1000);
        assert_eq!(window(-9999, Some(-3)), 0..998);
        assert_eq!(window(0, Some(0)), 0..1);
        assert!(window(2000, None).is_empty() && window(5, Some(2)).is_empty() && window(0, Some(-5000)).is_empty());
        assert_eq!(window(i64::MIN, Some(i64::MAX)), 0..1000);
    }
}
