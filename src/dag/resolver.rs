//! From a content path to the node it names.
//!
//! Only what the path needs is fetched: one block a segment, and of a HAMT directory the shards on the way to the name.
//! Symlinks are not followed.

use thiserror::Error;

use super::MAX_DEPTH;
use super::directory::{self, Lookup};
use crate::ipld::codec::CodecError;
use crate::ipld::codec::pathing::{self, Step};
use crate::ipld::path::ContentPath;
use crate::ipld::unixfs::{self, Mtime, Node, UnixFsError};
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE, codec};
use crate::retriever::{FetchError, Hint, Session};

/// Why a path leads nowhere. `index` counts segments from 0.
#[derive(Debug, Clone, Error)]
pub enum ResolveError {
    /// The node is there and has no such link: HTTP 404, exit 3.
    #[error("no link named {segment:?} under {cid}")]
    NoLink { segment: String, cid: Cid, index: usize },
    /// A path goes on below something that has no named links.
    #[error("{cid} is not a directory, so it has no {segment:?}")]
    NotUnixFs { segment: String, cid: Cid, index: usize },
    /// The path ends at a value within a block, which has no CID: HTTP 501 (path-gateway specification).
    #[error("{segment:?} under {cid} is not a link but a value within that block; ask for the block itself")]
    NotALink { segment: String, cid: Cid },
    /// A dag-cbor or dag-json block that is not what its codec says.
    #[error("{cid} is malformed: {error}")]
    BadCodec { cid: Cid, error: CodecError },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Malformed(directory::DirectoryError),
    /// An IPNS path, which must be resolved to a CID first.
    #[error("{name} is a name and not a CID")]
    NotACid { name: String },
    #[error("the path is more than {MAX_DEPTH} blocks deep")]
    DepthLimit,
}

/// What a path ends at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A raw block or a UnixFS file, with its size in bytes.
    File {
        size: u64,
    },
    Directory,
    /// A sharded directory.
    HamtDirectory,
    /// A symlink, with its target as it is written there.
    Symlink {
        target: String,
    },
    /// A block of another codec, or dag-pb that is not (valid) UnixFS, with the reason: it can be served as a block only.
    Other {
        codec: u64,
        problem: Option<UnixFsError>,
    },
}

/// A path that was walked.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub cid: Cid,
    pub block: Block,
    pub kind: NodeKind,
    /// The root, then the CID of each segment (X-Ipfs-Roots; without HAMT shards on the way).
    pub roots: Vec<Cid>,
    /// Every block on the way from the root, without the last, HAMT shards included: what a CAR starts with.
    pub path_blocks: Vec<Block>,
    /// UnixFS 1.5: permission bits (at most 0o7777) and modification time.
    pub mode: Option<u32>,
    pub mtime: Option<Mtime>,
}

/// A path whose last node has not been fetched.
#[derive(Debug, Clone)]
pub struct ResolvedCid {
    pub cid: Cid,
    pub roots: Vec<Cid>,
    pub path_blocks: Vec<Block>,
    /// What the link that leads to it says of all that is below it, in bytes.
    tsize: Option<u64>,
}

/// Walks `path` and fetches the node at its end.
pub async fn resolve(session: &Session, path: &ContentPath) -> Result<Resolved, ResolveError> {
    resolve_cid(session, path).await?.fetch(session).await
}

/// Walks `path` without fetching its end: enough for an ETag.
pub async fn resolve_cid(session: &Session, path: &ContentPath) -> Result<ResolvedCid, ResolveError> {
    let root = *path.cid().ok_or_else(|| ResolveError::NotACid { name: path.root() })?;
    resolve_from(session, root, &path.segments).await
}

/// Walks `segments` from `root` without fetching their end.
pub async fn resolve_from(session: &Session, root: Cid, segments: &[String]) -> Result<ResolvedCid, ResolveError> {
    let mut resolved = ResolvedCid::new(root);
    let mut index = 0;
    while let Some(segment) = segments.get(index) {
        let block = session.fetch_sized(&resolved.hint()).await?;
        resolved.tsize = None;
        if let Some(step) = through_value(&block, &segments[index..], index)? {
            if resolved.path_blocks.len() >= MAX_DEPTH {
                return Err(ResolveError::DepthLimit);
            }
            resolved.path_blocks.push(block);
            resolved.cid = step.0;
            resolved.roots.push(step.0);
            index += step.1;
            continue;
        }
        let mut way = Vec::new();
        let found = directory::find_with(session, &block, segment, &mut way).await;
        if resolved.path_blocks.len() + way.len() >= MAX_DEPTH {
            return Err(ResolveError::DepthLimit);
        }
        let (segment, cid) = (segment.clone(), *block.cid());
        (resolved.cid, resolved.tsize) = match found {
            Ok(Lookup::Found(entry)) => (entry.cid, entry.tsize),
            Ok(Lookup::Missing) => return Err(ResolveError::NoLink { segment, cid, index }),
            Ok(Lookup::NotADirectory) => return Err(ResolveError::NotUnixFs { segment, cid, index }),
            Err(directory::DirectoryError::Fetch(error)) => return Err(error.into()),
            Err(error) => return Err(ResolveError::Malformed(error)),
        };
        resolved.roots.push(resolved.cid);
        resolved.path_blocks.append(&mut way);
        index += 1;
    }
    Ok(resolved)
}

/// The link that `segments` lead to within a dag-cbor or dag-json block, and how many of them it took; `None` for other
/// codecs. `before`: segments of the path that lead to the block.
fn through_value(block: &Block, segments: &[String], before: usize) -> Result<Option<(Cid, usize)>, ResolveError> {
    let cid = *block.cid();
    let step = pathing::follow(block, segments).map_err(|error| ResolveError::BadCodec { cid, error })?;
    match step {
        None => Ok(None),
        Some(Step::Link { cid, used }) => Ok(Some((cid, used))),
        Some(Step::Missing { index }) => {
            let segment = segments.get(index).cloned().unwrap_or_default();
            Err(ResolveError::NoLink { segment, cid, index: before + index })
        }
        Some(Step::Value) => Err(ResolveError::NotALink { segment: segments.join("/"), cid }),
    }
}

impl ResolvedCid {
    fn new(root: Cid) -> Self {
        Self { cid: root, roots: vec![root], path_blocks: Vec::new(), tsize: None }
    }

    /// No block is larger than all below it. A lie makes a bad plan and nothing worse; of more than one block it says nothing.
    fn hint(&self) -> Hint {
        Hint { cid: self.cid, size: self.tsize.filter(|size| *size <= MAX_BLOCK_SIZE as u64) }
    }

    /// Fetches the node at the end and says what it is.
    pub async fn fetch(self, session: &Session) -> Result<Resolved, ResolveError> {
        let block = session.fetch_sized(&self.hint()).await?;
        Ok(self.with_block(block))
    }

    /// The same where all that is below the end is going to be read.
    pub async fn fetch_whole(self, session: &Session) -> Result<Resolved, ResolveError> {
        let block = session.fetch_whole(&self.hint()).await?;
        Ok(self.with_block(block))
    }

    fn with_block(self, block: Block) -> Resolved {
        let Self { cid, roots, path_blocks, .. } = self;
        let (mut mode, mut mtime) = (None, None);
        let kind = match cid.codec() {
            codec::RAW => NodeKind::File { size: block.len() as u64 },
            codec::DAG_PB => match unixfs::decode(&block) {
                Ok(Node::File(file)) => {
                    (mode, mtime) = (file.mode, file.mtime);
                    NodeKind::File { size: file.size }
                }
                Ok(Node::Directory(node)) => {
                    (mode, mtime) = (node.mode, node.mtime);
                    NodeKind::Directory
                }
                Ok(Node::HamtShard(node)) => {
                    (mode, mtime) = (node.mode, node.mtime);
                    NodeKind::HamtDirectory
                }
                Ok(Node::Symlink(link)) => {
                    (mode, mtime) = (link.mode, link.mtime);
                    NodeKind::Symlink { target: link.target }
                }
                Err(error) => NodeKind::Other { codec: codec::DAG_PB, problem: Some(error) },
            },
            codec => NodeKind::Other { codec, problem: None },
        };
        Resolved { cid, block, kind, roots, path_blocks, mode, mtime }
    }
}

impl Resolved {
    /// The node of a single block: no path.
    pub fn of_block(block: Block) -> Self {
        ResolvedCid::new(*block.cid()).with_block(block)
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.kind, NodeKind::Directory | NodeKind::HamtDirectory)
    }
}
