//! A UnixFS file, or a range of it, as a stream of bytes in order.
//!
//! Only subtrees that overlap the range are touched. What lies ahead of the consumer is asked for within
//! [`Session::read_ahead`] bytes and across subtrees (RETRIEVAL.md §3, T1); while the consumer does not poll, nothing
//! further is asked for. Claimed sizes place the range, and each one is checked against what arrives: a file that
//! contradicts itself ends in an error, never in wrong bytes (RELIABILITY.md §3.6).

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use thiserror::Error;

use super::MAX_DEPTH;
use crate::ipld::unixfs::{self, FileNode, Node, UnixFsError};
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE, codec};
use crate::retriever::{FetchError, Hint, Session};

/// Parts of a file that may wait to be read. One node of 2 MiB has at most about 45,000 links; a file of 1 TiB in
/// Kubo's layout never has more than 700 waiting.
const MAX_PENDING: usize = 131_072;
/// dag-pb nodes that are fetched ahead at once so that their children can be asked for.
const MAX_NODE_FETCHES: usize = 8;
/// How far behind the read-ahead the next inner node is looked for, in parts.
const NODE_SEARCH: usize = 512;
/// What an inner node is charged to the read-ahead before its size is known, in bytes.
const INNER_NODE_CHARGE: u64 = 32 << 10;

/// Why a file cannot be read (further).
#[derive(Debug, Clone, Error)]
pub enum ReadError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{cid} is not part of a file: {error}")]
    Malformed { cid: Cid, error: UnixFsError },
    /// A directory, a symlink or another codec where a part of a file belongs.
    #[error("{cid} is not a file")]
    NotAFile { cid: Cid },
    #[error("{cid} has {actual} bytes, and its parent says {claimed}")]
    SizeMismatch { cid: Cid, claimed: u64, actual: u64 },
    #[error("{cid} is more than {MAX_DEPTH} nodes deep")]
    DepthLimit { cid: Cid },
    #[error("{cid} has too many links: more than {MAX_PENDING} parts would wait")]
    TooWide { cid: Cid },
}

/// Reads a file. A [`Stream`] of non-empty chunks; it ends after an error.
///
/// Cancel safe: dropping it takes its wants back.
pub struct FileReader {
    session: Session,
    /// Parts in file order that overlap the range; the front is read next.
    parts: VecDeque<Part>,
    range: Range<u64>,
    size: u64,
    /// Next offset to be handed out.
    position: u64,
    fetches: FuturesUnordered<BoxFuture<'static, (u64, Result<Block, FetchError>)>>,
    next_id: u64,
    /// Parts before this index have been asked for, or need not be.
    planned: usize,
    /// Bytes asked for or held, and not yet handed out.
    outstanding: u64,
    peeked: VecDeque<Bytes>,
    failed: bool,
}

struct Part {
    id: u64,
    /// Where it starts in the file, and how many bytes the parent says it has.
    start: u64,
    size: u64,
    depth: usize,
    /// This part's share of `outstanding`.
    charge: u64,
    state: State,
}

enum State {
    /// Not asked for; `Asked` means hinted; `Fetching` means that a future in `fetches` will bring it.
    Idle(Cid),
    Asked(Cid),
    Fetching(Cid),
    Data(Bytes),
    Failed(ReadError),
}

impl FileReader {
    /// Reads `range` of the file whose root is `root` (a raw block or a UnixFS file). The range is cut to the file's size.
    pub fn new(session: Session, root: &Block, range: Range<u64>) -> Result<Self, ReadError> {
        let file = file_node(root)?;
        let size = file.size;
        let end = range.end.min(size);
        let range = range.start.min(end)..end;
        let mut reader = Self {
            session,
            parts: VecDeque::new(),
            position: range.start,
            range,
            size,
            fetches: FuturesUnordered::new(),
            next_id: 0,
            planned: 0,
            outstanding: 0,
            peeked: VecDeque::new(),
            failed: false,
        };
        let parts = reader.expand(file, 0, 1);
        reader.parts.extend(parts);
        Ok(reader)
    }

    /// The whole file.
    pub fn whole(session: Session, root: &Block) -> Result<Self, ReadError> {
        Self::new(session, root, 0..u64::MAX)
    }

    /// Bytes of the file, not of the range.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The range that is read, cut to the file.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Bytes asked for or held that the consumer has not taken yet: at most [`Session::read_ahead`], or the next block.
    pub fn outstanding(&self) -> u64 {
        self.outstanding + self.peeked.iter().map(|chunk| chunk.len() as u64).sum::<u64>()
    }

    /// The first bytes of what remains to be read, at least `n` unless the range is shorter: for content sniffing, and
    /// for knowing that the fetch works before a status is chosen. They are still read afterwards.
    ///
    /// Cancel safe: nothing is lost.
    pub async fn peek(&mut self, n: usize) -> Result<Bytes, ReadError> {
        let mut have: usize = self.peeked.iter().map(Bytes::len).sum();
        while have < n || self.peeked.is_empty() {
            match std::future::poll_fn(|cx| self.poll_chunk(cx)).await {
                Some(Ok(chunk)) => {
                    have += chunk.len();
                    self.peeked.push_back(chunk);
                }
                Some(Err(error)) if self.peeked.is_empty() => return Err(error),
                Some(Err(error)) => {
                    // The bytes before the failure are good; the failure is told when they have been read.
                    self.fail_later(error);
                    break;
                }
                None => break,
            }
        }
        if self.peeked.len() == 1 {
            return Ok(self.peeked[0].clone());
        }
        let mut joined = BytesMut::with_capacity(have);
        self.peeked.iter().for_each(|chunk| joined.extend_from_slice(chunk));
        Ok(joined.freeze())
    }

    fn fail_later(&mut self, error: ReadError) {
        self.failed = false;
        self.parts.clear();
        let id = self.take_id();
        let state = State::Failed(error);
        self.parts.push_back(Part { id, start: self.position, size: 0, depth: 0, charge: 0, state });
        self.planned = 1;
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        loop {
            if self.failed {
                return Poll::Ready(None);
            }
            self.plan();
            let mut arrived = false;
            while let Poll::Ready(Some((id, result))) = self.fetches.poll_next_unpin(cx) {
                self.arrived(id, result);
                arrived = true;
            }
            let Some(front) = self.parts.front() else { return Poll::Ready(None) };
            match &front.state {
                State::Data(data) => {
                    let data = data.clone();
                    let start = front.start;
                    self.pop();
                    let from = self.range.start.saturating_sub(start).min(data.len() as u64) as usize;
                    let to = self.range.end.saturating_sub(start).min(data.len() as u64) as usize;
                    if from < to {
                        self.position = start + to as u64;
                        return Poll::Ready(Some(Ok(data.slice(from..to))));
                    }
                }
                State::Failed(error) => {
                    let error = error.clone();
                    self.failed = true;
                    self.parts.clear();
                    self.fetches.clear();
                    self.outstanding = 0;
                    return Poll::Ready(Some(Err(error)));
                }
                _ if arrived => {}
                _ => return Poll::Pending,
            }
        }
    }

    fn pop(&mut self) {
        if let Some(part) = self.parts.pop_front() {
            self.outstanding -= part.charge;
            self.planned = self.planned.saturating_sub(1);
        }
    }

    /// Asks for what lies ahead, within the budget, in file order.
    fn plan(&mut self) {
        let budget = self.session.read_ahead();
        let mut hints = Vec::new();
        while let Some(part) = self.parts.get_mut(self.planned) {
            if let State::Idle(cid) = part.state {
                // The next block is always asked for, however small the budget.
                let charge = if part.is_inner() { INNER_NODE_CHARGE } else { part.size };
                if self.planned > 0
                    && self.outstanding.saturating_add(charge) > budget.saturating_sub(INNER_NODE_CHARGE)
                {
                    break;
                }
                hints.push(part.ask(cid, charge));
                self.outstanding += charge;
            }
            self.planned += 1;
        }
        // One inner node behind the read-ahead, so that its children are known before their turn comes.
        let mut behind = None;
        for index in self.planned..self.parts.len().min(self.planned + NODE_SEARCH) {
            let part = &mut self.parts[index];
            if !part.is_inner() {
                continue;
            }
            if let State::Idle(cid) = part.state
                && self.outstanding + INNER_NODE_CHARGE <= budget
            {
                hints.push(part.ask(cid, INNER_NODE_CHARGE));
                self.outstanding += INNER_NODE_CHARGE;
                behind = Some(index);
            }
            break;
        }
        if !hints.is_empty() {
            self.session.prefetch(hints);
        }
        // The front is awaited; nodes that may have children are too, so that those can be asked for in time.
        for index in (0..self.planned).chain(behind) {
            if index > 0 && self.fetches.len() >= MAX_NODE_FETCHES {
                break;
            }
            let part = &mut self.parts[index];
            let State::Asked(cid) = part.state else { continue };
            if index == 0 || cid.codec() != codec::RAW {
                part.state = State::Fetching(cid);
                let (session, id) = (self.session.clone(), part.id);
                self.fetches.push(Box::pin(async move { (id, session.fetch(&cid).await) }));
            }
        }
    }

    fn arrived(&mut self, id: u64, result: Result<Block, FetchError>) {
        let Some(index) = self.parts.iter().position(|part| part.id == id) else { return };
        let (start, size, depth) = (self.parts[index].start, self.parts[index].size, self.parts[index].depth);
        let checked = result.map_err(ReadError::from).and_then(|block| check(&block, size, depth));
        let file = match checked {
            Ok(file) if self.parts.len() + file.children.len() > MAX_PENDING => {
                let State::Fetching(cid) = self.parts[index].state else { return };
                Err(ReadError::TooWide { cid })
            }
            other => other,
        };
        let part = &mut self.parts[index];
        match file {
            Err(error) => part.state = State::Failed(error),
            Ok(file) if file.children.is_empty() => {
                self.outstanding = self.outstanding - part.charge + file.data.len() as u64;
                part.charge = file.data.len() as u64;
                part.state = State::Data(file.data);
            }
            Ok(file) => {
                self.outstanding -= part.charge;
                let children = self.expand(file, start, depth + 1);
                let rest = self.parts.split_off(index + 1);
                self.parts.pop_back();
                self.parts.extend(children);
                self.parts.extend(rest);
                // Everything from here on may hold parts that were not asked for.
                self.planned = self.planned.min(index);
            }
        }
    }

    /// The parts of a node that overlap the range. Inline data comes before the children.
    fn expand(&mut self, file: FileNode, start: u64, depth: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = start;
        if !file.data.is_empty() {
            let size = file.data.len() as u64;
            if self.overlaps(at, size) {
                let (id, state) = (self.take_id(), State::Data(file.data));
                self.outstanding += size;
                parts.push(Part { id, start: at, size, depth, charge: size, state });
            }
            at = at.saturating_add(size);
        }
        for child in file.children {
            if self.overlaps(at, child.size) {
                let (id, state) = (self.take_id(), State::Idle(child.cid));
                parts.push(Part { id, start: at, size: child.size, depth, charge: 0, state });
            }
            at = at.saturating_add(child.size);
        }
        parts
    }

    fn overlaps(&self, start: u64, size: u64) -> bool {
        size > 0 && start < self.range.end && start.saturating_add(size) > self.range.start
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Part {
    /// True when it must have children: it claims more than a block can hold.
    fn is_inner(&self) -> bool {
        match &self.state {
            State::Idle(cid) | State::Asked(cid) | State::Fetching(cid) => {
                cid.codec() != codec::RAW && self.size > MAX_BLOCK_SIZE as u64
            }
            State::Data(_) | State::Failed(_) => false,
        }
    }

    fn ask(&mut self, cid: Cid, charge: u64) -> Hint {
        let size = (!self.is_inner()).then_some(self.size);
        self.charge = charge;
        self.state = State::Asked(cid);
        Hint { cid, size }
    }
}

impl Stream for FileReader {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.peeked.pop_front() {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None => self.poll_chunk(cx),
        }
    }
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileReader")
            .field("range", &self.range)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// The size in bytes of the file whose root is `root`, from its own node (no fetch).
pub fn file_size(root: &Block) -> Result<u64, ReadError> {
    Ok(file_node(root)?.size)
}

fn check(block: &Block, claimed: u64, depth: usize) -> Result<FileNode, ReadError> {
    let cid = *block.cid();
    let file = file_node(block)?;
    if file.size != claimed {
        return Err(ReadError::SizeMismatch { cid, claimed, actual: file.size });
    }
    if !file.children.is_empty() && depth >= MAX_DEPTH {
        return Err(ReadError::DepthLimit { cid });
    }
    Ok(file)
}

/// The block as a part of a file. [`unixfs::decode`] has checked that its size is the sum of its parts.
pub(super) fn file_node(block: &Block) -> Result<FileNode, ReadError> {
    let cid = *block.cid();
    match cid.codec() {
        codec::RAW | codec::DAG_PB => match unixfs::decode(block) {
            Ok(Node::File(file)) => Ok(file),
            Ok(_) => Err(ReadError::NotAFile { cid }),
            Err(error) => Err(ReadError::Malformed { cid, error }),
        },
        _ => Err(ReadError::NotAFile { cid }),
    }
}
