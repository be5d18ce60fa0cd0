//! Depth-first walks over a graph, iterative and with bounded memory: refs, recursive pins, CARs.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::Stream;
use thiserror::Error;

use super::MAX_DEPTH;
use super::places::{self, MAX_NAMES, Place};
use super::seen::{Novelty, Seen};
use crate::denylist::{Judge, Refused};
use crate::ipld::codec::{self, CodecError};
use crate::ipld::unixfs::{self, HamtEntry, Node};
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE};
use crate::retriever::{FetchError, Hint, Session};

/// Distinct blocks that a walk remembers by default: 256 GiB of 256 KiB blocks, 34 MB of memory when full.
pub const DEFAULT_MAX_SEEN: usize = 1 << 20;
/// Links that may wait to be followed.
const MAX_PENDING: usize = 131_072;
/// What a block of unknown size is charged to the read-ahead, in bytes: Kubo's chunk.
const UNKNOWN_CHARGE: u64 = 256 << 10;
/// Links that are looked at for the read-ahead, per block visited.
const LOOK_AHEAD: usize = 1024;

#[derive(Debug, Clone, Error)]
pub enum WalkError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// An entry whose path is refused.
    #[error(transparent)]
    Denied(#[from] Refused),
    #[error("{cid} is malformed: {error}")]
    Malformed { cid: Cid, error: CodecError },
    #[error("{cid} is more than {MAX_DEPTH} blocks deep")]
    DepthLimit { cid: Cid },
    #[error("more than {MAX_PENDING} links or {MAX_NAMES} bytes of names wait to be followed at {cid}")]
    TooWide { cid: Cid },
    #[error("the graph has more than {limit} distinct blocks")]
    TooManyBlocks { limit: usize },
}

/// Which links are followed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Follow {
    /// Every link of every codec.
    #[default]
    All,
    /// Only what makes up the entity at the root (IPIP-402): the blocks of a file that overlap the range of bytes (of all, when
    /// `None`), the shards of a directory but not its entries, and nothing below other nodes.
    Entity(Option<Range<u64>>),
    /// The root alone.
    Nothing,
}

#[derive(Debug, Clone)]
pub struct WalkOptions {
    /// Each block once, however often it occurs.
    pub unique: bool,
    /// Links to follow from the root; 0 visits the root alone, `None` is no limit but [`MAX_DEPTH`].
    /// With `unique`, what lies below a block is decided where it is met first.
    pub max_depth: Option<usize>,
    /// False: raw blocks are named and not fetched.
    pub fetch_leaves: bool,
    /// Distinct blocks that are remembered; a graph of more is an error. Only with `unique`. 16 to 34 bytes each.
    pub max_seen: usize,
    pub follow: Follow,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { unique: true, max_depth: None, fetch_leaves: true, max_seen: DEFAULT_MAX_SEEN, follow: Follow::All }
    }
}

/// One step of a walk.
#[derive(Debug, Clone)]
pub struct Visit {
    pub cid: Cid,
    /// Links from the root.
    pub depth: usize,
    /// `None` for a raw block when leaves are not fetched.
    pub block: Option<Block>,
}

/// A walk in pre-order, links in the order of their block: a [`Stream`] that ends after an error.
///
/// Cancel safe: dropping it takes its wants back.
pub struct Walk {
    session: Session,
    options: WalkOptions,
    /// What is to be visited, the next one last.
    pending: Vec<Pending>,
    fetching: Option<(Pending, BoxFuture<'static, Result<Block, FetchError>>)>,
    seen: Seen,
    outstanding: u64,
    /// Stands at the root; `None`: no rule is about a path.
    judge: Option<Judge>,
    /// Bytes of the names in `pending`.
    names: usize,
    failed: bool,
}

struct Pending {
    cid: Cid,
    depth: usize,
    part: Part,
    /// Bytes, where the parent says it.
    size: Option<u64>,
    /// Bytes charged to the read-ahead; `None`: not asked for.
    charge: Option<u64>,
    /// `None`: it is not known, or of no concern.
    place: Option<Place>,
}

/// What a block is to the entity that is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Root,
    /// A part of a file that starts there.
    File {
        start: u64,
        size: u64,
    },
    Shard,
    /// Of no concern: all its links are followed.
    Any,
}

impl Walk {
    pub fn new(session: Session, root: Cid, options: WalkOptions) -> Self {
        // A walk over a range remembers up to two things of a block: that it was shown, and that it was done.
        let roles = if matches!(options.follow, Follow::Entity(Some(_))) { 2 } else { 1 };
        let seen = Seen::new(options.max_seen.saturating_mul(roles));
        let place = Some(Place::default());
        let root = Pending { cid: root, depth: 0, part: Part::Root, size: None, charge: None, place };
        Self {
            session,
            options,
            pending: vec![root],
            fetching: None,
            seen,
            outstanding: 0,
            judge: None,
            names: 0,
            failed: false,
        }
    }

    /// Asks `judge`, which stands at the root, about each entry of a directory when all links are followed.
    pub(super) fn judged(self, judge: Judge) -> Self {
        Self { judge: Some(judge).filter(Judge::has_paths), ..self }
    }

    /// Blocks that the consumer has already: they are not visited when the walk is `unique`.
    pub(super) fn mark_seen(&mut self, cid: &Cid) -> bool {
        !self.options.unique || self.seen.insert(cid) == Novelty::New
    }

    fn poll_visit(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Visit, WalkError>>> {
        loop {
            if self.failed {
                return Poll::Ready(None);
            }
            if self.fetching.is_none() {
                self.plan();
                let Some(next) = self.pending.pop() else { return Poll::Ready(None) };
                self.outstanding -= next.charge.unwrap_or(0);
                self.names -= next.place.as_ref().map_or(0, Place::size);
                if !self.options.fetch_leaves && next.cid.codec() == codec::RAW {
                    match self.admit(&next) {
                        Ok(true) => {
                            return Poll::Ready(Some(Ok(Visit { cid: next.cid, depth: next.depth, block: None })));
                        }
                        Ok(false) => continue,
                        Err(error) => return self.fail(error),
                    }
                }
                if self.is_done(&next) {
                    continue;
                }
                let (session, cid) = (self.session.clone(), next.cid);
                self.fetching = Some((next, Box::pin(async move { session.fetch(&cid).await })));
            }
            let Some((_, future)) = &mut self.fetching else { continue };
            let Poll::Ready(result) = future.as_mut().poll(cx) else { return Poll::Pending };
            let Some((next, _)) = self.fetching.take() else { continue };
            let visited = result.map_err(WalkError::from).and_then(|block| {
                let fresh = self.admit(&next)?;
                self.descend(&next, &block)?;
                Ok(fresh.then_some(Visit { cid: next.cid, depth: next.depth, block: Some(block) }))
            });
            match visited {
                Ok(Some(visit)) => return Poll::Ready(Some(Ok(visit))),
                Ok(None) => {}
                Err(error) => return self.fail(error),
            }
        }
    }

    fn fail(&mut self, error: WalkError) -> Poll<Option<Result<Visit, WalkError>>> {
        self.failed = true;
        self.pending.clear();
        (self.outstanding, self.names) = (0, 0);
        Poll::Ready(Some(Err(error)))
    }

    /// True when the block is to be shown: always, or the first time.
    fn admit(&mut self, next: &Pending) -> Result<bool, WalkError> {
        if !self.options.unique {
            return Ok(true);
        }
        match self.seen.insert(&next.cid) {
            Novelty::New => Ok(true),
            Novelty::Seen => Ok(false),
            Novelty::Full => Err(WalkError::TooManyBlocks { limit: self.options.max_seen }),
        }
    }

    /// True when everything below the block has been dealt with. A part of a file that the range cuts is not done by one
    /// visit: the same block may occur again where the range needs more of it.
    fn is_done(&mut self, next: &Pending) -> bool {
        if !self.options.unique {
            return false;
        }
        let Follow::Entity(Some(range)) = &self.options.follow else { return self.seen.contains(&next.cid) };
        match next.part {
            Part::File { start, size } if start >= range.start && start.saturating_add(size) <= range.end => {
                self.seen.insert_as(&next.cid, "done") == Novelty::Seen
            }
            _ => false,
        }
    }

    fn descend(&mut self, next: &Pending, block: &Block) -> Result<(), WalkError> {
        if self.options.max_depth.is_some_and(|limit| next.depth >= limit) {
            return Ok(());
        }
        let mut children = self.children(next, block)?;
        if children.is_empty() {
            return Ok(());
        }
        if next.depth + 1 >= MAX_DEPTH {
            return Err(WalkError::DepthLimit { cid: next.cid });
        }
        let names: usize = children.iter().flat_map(|child| &child.place).map(Place::size).sum();
        if self.pending.len() + children.len() > MAX_PENDING || self.names + names > MAX_NAMES {
            return Err(WalkError::TooWide { cid: next.cid });
        }
        self.names += names;
        children.reverse();
        self.pending.append(&mut children);
        Ok(())
    }

    fn children(&self, next: &Pending, block: &Block) -> Result<Vec<Pending>, WalkError> {
        let depth = next.depth + 1;
        let child = |cid, part, size| Pending { cid, depth, part, size, charge: None, place: None };
        let range = match &self.options.follow {
            Follow::Nothing => return Ok(Vec::new()),
            Follow::All => {
                let links = codec::links(block).map_err(|error| WalkError::Malformed { cid: next.cid, error })?;
                let places = match (&self.judge, &next.place) {
                    (Some(judge), Some(place)) => places::below(judge, place, block)?,
                    _ => HashMap::new(),
                };
                let at = |cid: Cid| Pending { place: places.get(&cid).cloned(), ..child(cid, Part::Any, None) };
                return Ok(links.into_iter().map(at).collect());
            }
            Follow::Entity(range) => range.clone().unwrap_or(0..u64::MAX),
        };
        if block.cid().codec() != codec::DAG_PB {
            return Ok(Vec::new());
        }
        Ok(match (next.part, unixfs::decode(block)) {
            (Part::Root | Part::File { .. }, Ok(Node::File(file))) => {
                let mut at = if let Part::File { start, .. } = next.part { start } else { 0 };
                at = at.saturating_add(file.data.len() as u64);
                let mut parts = Vec::new();
                for part in file.children {
                    let (start, end) = (at, at.saturating_add(part.size));
                    if start < end && start < range.end && end > range.start {
                        let known = (part.size <= MAX_BLOCK_SIZE as u64).then_some(part.size);
                        parts.push(child(part.cid, Part::File { start, size: part.size }, known));
                    }
                    at = end;
                }
                parts
            }
            (Part::Root | Part::Shard, Ok(Node::HamtShard(shard))) => {
                let shards = shard.entries.into_iter().filter_map(|entry| match entry {
                    HamtEntry::Child { cid, .. } => Some(child(cid, Part::Shard, None)),
                    HamtEntry::Value { .. } => None,
                });
                shards.collect()
            }
            _ => Vec::new(),
        })
    }

    /// Asks for what comes next, within the budget.
    fn plan(&mut self) {
        let budget = self.session.read_ahead();
        let mut hints = Vec::new();
        for next in self.pending.iter_mut().rev().take(LOOK_AHEAD) {
            if next.charge.is_some() || (!self.options.fetch_leaves && next.cid.codec() == codec::RAW) {
                continue;
            }
            let charge = next.size.unwrap_or(UNKNOWN_CHARGE);
            if self.outstanding + charge > budget {
                break;
            }
            next.charge = Some(charge);
            self.outstanding += charge;
            hints.push(Hint { cid: next.cid, size: next.size });
        }
        if !hints.is_empty() {
            self.session.prefetch(hints);
        }
    }
}

impl Stream for Walk {
    type Item = Result<Visit, WalkError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_visit(cx)
    }
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}
