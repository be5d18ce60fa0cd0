//! UnixFS version 1: files, directories, HAMT shards and symlinks, as typed values.
//!
//! Source: <https://specs.ipfs.tech/unixfs/>. What a block claims is checked here, so that readers may rely on it:
//! as many block sizes as links, a file size that is the sum of its parts, unique names, an honest HAMT bit field.

mod data;
pub mod hamt;

use std::collections::HashSet;

use bytes::Bytes;
use thiserror::Error;

pub use data::{Data, DataType};
pub use hamt::{HamtEntry, HamtLookup, HamtNode};

use super::Block;
use super::cid::{Cid, codec};
use super::dag_pb::{DagPbError, PbNode};
use super::wire::WireError;

/// What a block is, as UnixFS reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File(FileNode),
    Directory(DirNode),
    HamtShard(HamtNode),
    Symlink(SymlinkNode),
}

/// A file, or a part of one: its bytes are `data` and then those of the children, in order. A raw block has data only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNode {
    /// Bytes that lie in this block; shares the block's memory.
    pub data: Bytes,
    pub children: Vec<FileChild>,
    /// Bytes of the whole file: `data.len()` plus the children's sizes (checked).
    pub size: u64,
    pub mode: Option<u32>,
    pub mtime: Option<Mtime>,
}

/// A child of a [`FileNode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileChild {
    pub cid: Cid,
    /// The bytes of file under `cid`, as the parent claims. The child's own size must equal it.
    pub size: u64,
}

/// A directory whose entries all lie in one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirNode {
    /// In the order of the block; names are unique.
    pub entries: Vec<DirEntry>,
    pub mode: Option<u32>,
    pub mtime: Option<Mtime>,
}

/// An entry of a directory, basic or HAMT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// As it was written: it may hold `/`, `..`, control characters. Whoever shows it or makes a file of it must care.
    pub name: String,
    pub cid: Cid,
    /// The cumulative size that the directory's maker claims, in bytes.
    pub tsize: Option<u64>,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymlinkNode {
    pub target: String,
    pub mode: Option<u32>,
    pub mtime: Option<Mtime>,
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// Why a block is not a UnixFS node.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum UnixFsError {
    #[error("codec {0:#x} is neither dag-pb nor raw")]
    Codec(u64),
    #[error(transparent)]
    DagPb(#[from] DagPbError),
    #[error("dag-pb node without UnixFS data")]
    NoData,
    #[error("UnixFS data: {0}")]
    Wire(#[from] WireError),
    #[error("UnixFS field {0} has the wrong wire type or occurs twice")]
    Field(u32),
    #[error("UnixFS node without a type")]
    NoType,
    #[error("UnixFS type {0} is not known")]
    UnknownType(u64),
    #[error("{links} links but {sizes} block sizes")]
    BlockSizes { links: usize, sizes: usize },
    #[error("the file's parts have names")]
    NamedChunk,
    #[error("the file's parts are together over 2^64 bytes")]
    SizeOverflow,
    #[error("the file claims {claimed} bytes but its parts have {computed}")]
    FileSize { claimed: u64, computed: u64 },
    #[error("directory has two entries named {0:?}")]
    DuplicateName(String),
    #[error("symlink with children")]
    SymlinkChildren,
    #[error("symlink target is not UTF-8")]
    SymlinkTarget,
    #[error("modification time is not valid")]
    Mtime,
    #[error("HAMT fanout {0} is not a power of two from 8 to 1024")]
    Fanout(u64),
    #[error("HAMT hash function {0:#x} is not murmur3-x64-64")]
    HamtHash(u64),
    #[error("HAMT bit field of {bytes} bytes is over the fanout of {fanout}")]
    BitfieldLength { bytes: usize, fanout: u32 },
    #[error("HAMT bit field does not match the links")]
    BitfieldMismatch,
    #[error("HAMT link name does not start with the index in hexadecimal")]
    HamtPrefix,
    #[error("HAMT is deeper than its hash has bits")]
    HamtDepth,
    #[error("HAMT entry {0:?} lies where its name does not hash to")]
    HamtPosition(String),
}

/// Reads a block of codec raw (a file of just its bytes) or dag-pb.
pub fn decode(block: &Block) -> Result<Node, UnixFsError> {
    match block.cid().codec() {
        codec::RAW => Ok(Node::File(FileNode::raw(block.data().clone()))),
        codec::DAG_PB => decode_pb(PbNode::decode(block.data())?),
        other => Err(UnixFsError::Codec(other)),
    }
}

/// Reads a dag-pb node as UnixFS.
pub fn decode_pb(node: PbNode) -> Result<Node, UnixFsError> {
    let data = Data::decode(node.data.as_ref().ok_or(UnixFsError::NoData)?)?;
    match data.kind {
        DataType::Raw | DataType::File => FileNode::new(node, data).map(Node::File),
        DataType::Directory => DirNode::new(node, data).map(Node::Directory),
        DataType::HamtShard => HamtNode::new(node, data).map(Node::HamtShard),
        DataType::Symlink => SymlinkNode::new(node, data).map(Node::Symlink),
        DataType::Metadata => Err(UnixFsError::UnknownType(DataType::Metadata as u64)),
    }
}

impl FileNode {
    /// The file that a block of codec raw is.
    pub fn raw(data: Bytes) -> Self {
        let size = data.len() as u64;
        Self { data, children: Vec::new(), size, mode: None, mtime: None }
    }

    fn new(node: PbNode, data: Data) -> Result<Self, UnixFsError> {
        if node.links.len() != data.blocksizes.len() {
            return Err(UnixFsError::BlockSizes { links: node.links.len(), sizes: data.blocksizes.len() });
        }
        if node.links.iter().any(|link| link.name.as_ref().is_some_and(|name| !name.is_empty())) {
            return Err(UnixFsError::NamedChunk);
        }
        let content = data.data.unwrap_or_default();
        let computed = data
            .blocksizes
            .iter()
            .try_fold(content.len() as u64, |sum, size| sum.checked_add(*size))
            .ok_or(UnixFsError::SizeOverflow)?;
        if let Some(claimed) = data.filesize.filter(|claimed| *claimed != computed) {
            return Err(UnixFsError::FileSize { claimed, computed });
        }
        let children =
            node.links.iter().zip(&data.blocksizes).map(|(link, &size)| FileChild { cid: link.cid, size }).collect();
        Ok(Self { data: content, children, size: computed, mode: data.mode, mtime: data.mtime })
    }
}

impl DirNode {
    fn new(node: PbNode, data: Data) -> Result<Self, UnixFsError> {
        let entries: Vec<DirEntry> = node
            .links
            .into_iter()
            .map(|link| DirEntry { name: link.name.unwrap_or_default(), cid: link.cid, tsize: link.tsize })
            .collect();
        let mut seen = HashSet::with_capacity(entries.len());
        if let Some(twice) = entries.iter().find(|entry| !seen.insert(entry.name.as_str())) {
            return Err(UnixFsError::DuplicateName(twice.name.clone()));
        }
        Ok(Self { entries, mode: data.mode, mtime: data.mtime })
    }

    /// The entry of that name.
    pub fn get(&self, name: &str) -> Option<&DirEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl SymlinkNode {
    fn new(node: PbNode, data: Data) -> Result<Self, UnixFsError> {
        if !node.links.is_empty() {
            return Err(UnixFsError::SymlinkChildren);
        }
        let target = std::str::from_utf8(data.data.as_deref().unwrap_or_default())
            .map_err(|_| UnixFsError::SymlinkTarget)?
            .to_owned();
        Ok(Self { target, mode: data.mode, mtime: data.mtime })
    }
}

#[cfg(test)]
mod tests;
