//! Directories of any size, basic and sharded (HAMT), with bounded memory.
//!
//! Entries come in the order of the graph: a basic directory's is its writer's (by name, mostly), a HAMT's is by hash.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::Stream;
use thiserror::Error;

use super::seen::{Novelty, Seen};
use crate::ipld::unixfs::{self, DirEntry, HamtEntry, HamtLookup, HamtNode, Node, UnixFsError, hamt};
use crate::ipld::{Block, Cid, codec};
use crate::retriever::{FetchError, Hint, Session};

/// Levels of shards that a 64-bit hash can tell apart at the smallest fanout, 8.
const MAX_SHARD_DEPTH: usize = 21;
/// Shards of one directory that are remembered, so that none is read twice: 268 million entries at fanout 256.
const MAX_SHARDS: usize = 1 << 20;
/// Shards that may wait to be read. Depth-first, a directory of fanout 1,024 has at most 7 x 1,024 waiting.
const MAX_PENDING_SHARDS: usize = 32 << 10;
/// What a shard is charged to the read-ahead, in bytes: its size is not known before it is here.
const SHARD_CHARGE: u64 = 32 << 10;

#[derive(Debug, Clone, Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{cid} is malformed: {error}")]
    Malformed { cid: Cid, error: UnixFsError },
    #[error("{cid} is not a directory")]
    NotADirectory { cid: Cid },
    /// Each shard of a directory holds other names, so none can occur twice.
    #[error("shard {cid} occurs twice in one directory")]
    RepeatedShard { cid: Cid },
    /// A shard whose fanout is not its parent's.
    #[error("shard {cid} has another fanout than its directory")]
    FanoutMismatch { cid: Cid },
    #[error("{cid} is deeper than a 64-bit hash allows")]
    TooDeep { cid: Cid },
    #[error("the directory has more than {MAX_SHARDS} shards")]
    TooManyShards,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub cid: Cid,
    /// Bytes of the whole graph below, as the writer claims; not verified.
    pub tsize: Option<u64>,
}

/// What [`find_with`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    Found(Entry),
    Missing,
    NotADirectory,
}

/// Looks `name` up under the directory whose root is `root`; of a HAMT only the shards on the way are fetched.
pub async fn find(session: &Session, root: &Block, name: &str) -> Result<Option<Entry>, DirectoryError> {
    match find_with(session, root, name, &mut Vec::new()).await? {
        Lookup::Found(entry) => Ok(Some(entry)),
        Lookup::Missing => Ok(None),
        Lookup::NotADirectory => Err(DirectoryError::NotADirectory { cid: *root.cid() }),
    }
}

/// The name of the page that stands for a directory.
pub const INDEX: &str = "index.html";

/// The directory's `index.html`, if it has one.
pub async fn index_html(session: &Session, root: &Block) -> Result<Option<Entry>, DirectoryError> {
    find(session, root, INDEX).await
}

/// Like [`find`]; adds every block that was read, `root` first, to `way`.
pub(super) async fn find_with(
    session: &Session,
    root: &Block,
    name: &str,
    way: &mut Vec<Block>,
) -> Result<Lookup, DirectoryError> {
    way.push(root.clone());
    let mut shard = match decode(root)? {
        Some(Node::Directory(directory)) => {
            let found = directory.get(name).cloned();
            return Ok(found.map_or(Lookup::Missing, |entry| Lookup::Found(entry.into())));
        }
        Some(Node::HamtShard(shard)) => shard,
        _ => return Ok(Lookup::NotADirectory),
    };
    let fanout = shard.fanout;
    for depth in 0..=MAX_SHARD_DEPTH {
        let shard_cid = way.last().map_or(*root.cid(), |block| *block.cid());
        let lookup = shard.lookup(name, depth);
        let cid = match lookup.map_err(|error| DirectoryError::Malformed { cid: shard_cid, error })? {
            HamtLookup::Absent => return Ok(Lookup::Missing),
            HamtLookup::Found(entry) => return Ok(Lookup::Found(entry.into())),
            HamtLookup::Descend(cid) => cid,
        };
        let block = session.fetch(&cid).await?;
        shard = sub_shard(&block, fanout)?;
        way.push(block);
    }
    Err(DirectoryError::TooDeep { cid: *root.cid() })
}

/// The entries of a directory, as a [`Stream`] that ends after an error.
///
/// Cancel safe: dropping it takes its wants back.
pub struct Entries {
    session: Session,
    fanout: u32,
    ready: VecDeque<Entry>,
    /// Shards to be read, the next one last.
    shards: Vec<Shard>,
    outstanding: u64,
    fetching: Option<(Vec<u32>, Fetching)>,
    seen: Seen,
    sharded: bool,
    /// Why no entries come after those that are ready.
    error: Option<DirectoryError>,
    /// How many entries are to be known ahead of their turn.
    ahead: usize,
    /// The entries start after this name.
    after: Option<String>,
}

type Fetching = BoxFuture<'static, Result<Block, FetchError>>;

#[derive(Debug)]
struct Shard {
    cid: Cid,
    /// The indexes that lead to it from the root.
    path: Vec<u32>,
    asked: bool,
}

/// Where in a shard the entries after a name start.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// The index of the name.
    index: u32,
    /// The name lies in the shard at that index, not in this one.
    below: bool,
}

impl Start {
    fn skips(self, slot: &HamtEntry) -> bool {
        match slot {
            HamtEntry::Value { index, .. } => self.below || *index <= self.index,
            HamtEntry::Child { index, .. } => self.below && *index < self.index,
        }
    }
}

impl From<DirEntry> for Entry {
    fn from(entry: DirEntry) -> Self {
        Self { name: entry.name, cid: entry.cid, tsize: entry.tsize }
    }
}

impl Entries {
    /// The entries under `root`.
    pub fn new(session: Session, root: &Block) -> Result<Self, DirectoryError> {
        Self::starting(session, root, None)
    }

    /// The entries that come after the one named `after`. Of a HAMT only the shards on the way to that name are read
    /// again; there the name need not exist, its place does.
    pub fn after(session: Session, root: &Block, after: &str) -> Result<Self, DirectoryError> {
        Self::starting(session, root, Some(after.to_owned()))
    }

    fn starting(session: Session, root: &Block, after: Option<String>) -> Result<Self, DirectoryError> {
        let mut entries = Self {
            session,
            fanout: 0,
            ready: VecDeque::new(),
            shards: Vec::new(),
            outstanding: 0,
            fetching: None,
            seen: Seen::new(MAX_SHARDS),
            sharded: false,
            error: None,
            ahead: 0,
            after,
        };
        match decode(root)? {
            Some(Node::Directory(directory)) => {
                let start = entries
                    .after
                    .as_ref()
                    .and_then(|after| directory.entries.iter().position(|entry| entry.name == *after).map(|at| at + 1));
                entries.ready.extend(directory.entries.into_iter().skip(start.unwrap_or(0)).map(Entry::from));
            }
            Some(Node::HamtShard(shard)) => {
                entries.sharded = true;
                entries.fanout = shard.fanout;
                entries.seen.insert(root.cid());
                entries.unfold(shard, &[], root.cid())?;
            }
            _ => return Err(DirectoryError::NotADirectory { cid: *root.cid() }),
        }
        Ok(entries)
    }

    /// Has so many entries known before their turn, as far as there are, at least half of them: for who asks for what they name.
    #[must_use]
    pub(super) fn knowing(mut self, ahead: usize) -> Self {
        self.ahead = ahead;
        self
    }

    /// True for a HAMT: its entries do not come in the order of their names.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    fn unfold(&mut self, mut shard: HamtNode, path: &[u32], cid: &Cid) -> Result<(), DirectoryError> {
        shard.check_position(path).map_err(|error| DirectoryError::Malformed { cid: *cid, error })?;
        let mut below = Vec::new();
        let start = self.start(&shard, path);
        // Writers sort links; who does not gets the same order, so that a place in it can be named.
        shard.entries.sort_unstable_by_key(HamtEntry::index);
        for slot in shard.entries {
            if start.is_some_and(|start| start.skips(&slot)) {
                continue;
            }
            match slot {
                HamtEntry::Value { name, cid, tsize, .. } => self.ready.push_back(Entry { name, cid, tsize }),
                HamtEntry::Child { index, cid } => match self.seen.insert(&cid) {
                    Novelty::New => {
                        let path = path.iter().copied().chain([index]).collect();
                        below.push(Shard { cid, path, asked: false });
                    }
                    Novelty::Seen => return Err(DirectoryError::RepeatedShard { cid }),
                    Novelty::Full => return Err(DirectoryError::TooManyShards),
                },
            }
        }
        if !below.is_empty() && path.len() >= MAX_SHARD_DEPTH {
            return Err(DirectoryError::TooDeep { cid: *cid });
        }
        if self.shards.len() + below.len() > MAX_PENDING_SHARDS {
            return Err(DirectoryError::TooManyShards);
        }
        self.shards.extend(below.into_iter().rev());
        Ok(())
    }

    /// The entries that come next, as far as they are known without another shard.
    pub(super) fn known(&self) -> impl Iterator<Item = &Entry> {
        self.ready.iter()
    }

    /// Where the entries of this shard start; `None`: with the first. A shard gives its own values before its shards.
    fn start(&self, shard: &HamtNode, path: &[u32]) -> Option<Start> {
        let after = self.after.as_deref()?;
        let hash = hamt::name_hash(after);
        let slot = |depth| hamt::index_at(hash, self.fanout, depth).ok();
        let is_on_the_way = path.iter().enumerate().all(|(depth, index)| slot(depth) == Some(*index));
        if !is_on_the_way {
            return None;
        }
        let index = slot(path.len())?;
        let below = shard.entries.iter().any(|entry| matches!(entry, HamtEntry::Child { index: i, .. } if *i == index));
        Some(Start { index, below })
    }

    fn plan(&mut self) {
        let budget = self.session.read_ahead();
        let mut hints = Vec::new();
        for shard in self.shards.iter_mut().rev() {
            if shard.asked {
                continue;
            }
            if self.outstanding + SHARD_CHARGE > budget {
                break;
            }
            shard.asked = true;
            self.outstanding += SHARD_CHARGE;
            // As large as an unknown block is taken to be, a peer would be asked for few at once.
            hints.push(Hint { cid: shard.cid, size: Some(SHARD_CHARGE) });
        }
        if !hints.is_empty() {
            self.session.prefetch(hints);
        }
    }

    fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Entry, DirectoryError>>> {
        let more = loop {
            if self.ready.len() >= self.ahead.max(1) {
                break Poll::Ready(false);
            }
            let unfolded = self.poll_shard(cx);
            if unfolded != Poll::Ready(true) {
                break unfolded;
            }
        };
        if more.is_pending() && self.ready.len() < self.ahead / 2 {
            return Poll::Pending;
        }
        if let Some(entry) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(entry)));
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        more.map(|_| None)
    }

    /// Unfolds the next shard; false when there is none.
    fn poll_shard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.fetching.is_none() {
            self.plan();
            let Some(shard) = self.shards.pop() else { return Poll::Ready(false) };
            if shard.asked {
                self.outstanding -= SHARD_CHARGE;
            }
            let session = self.session.clone();
            self.fetching = Some((shard.path, Box::pin(async move { session.fetch(&shard.cid).await })));
        }
        let Some((_, future)) = &mut self.fetching else { return Poll::Ready(false) };
        let result = std::task::ready!(future.as_mut().poll(cx));
        let Some((path, _)) = self.fetching.take() else { return Poll::Ready(false) };
        let before = self.ready.len();
        let unfolded = result.map_err(DirectoryError::from).and_then(|block| {
            let shard = sub_shard(&block, self.fanout)?;
            self.unfold(shard, &path, block.cid())
        });
        if let Err(error) = unfolded {
            self.ready.truncate(before);
            self.shards.clear();
            self.error = Some(error);
        }
        Poll::Ready(true)
    }
}

impl Stream for Entries {
    type Item = Result<Entry, DirectoryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_entry(cx)
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

/// `None`: not UnixFS.
fn decode(block: &Block) -> Result<Option<Node>, DirectoryError> {
    if block.cid().codec() != codec::DAG_PB {
        return Ok(None);
    }
    match unixfs::decode(block) {
        Ok(node) => Ok(Some(node)),
        Err(UnixFsError::NoData) => Ok(None),
        Err(error) => Err(DirectoryError::Malformed { cid: *block.cid(), error }),
    }
}

fn sub_shard(block: &Block, fanout: u32) -> Result<HamtNode, DirectoryError> {
    let cid = *block.cid();
    match decode(block)? {
        Some(Node::HamtShard(shard)) if shard.fanout == fanout => Ok(shard),
        Some(Node::HamtShard(_)) => Err(DirectoryError::FanoutMismatch { cid }),
        _ => Err(DirectoryError::NotADirectory { cid }),
    }
}
