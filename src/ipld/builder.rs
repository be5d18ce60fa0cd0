//! The UnixFS writer: bytes and names in, blocks out, the same blocks as Kubo makes.
//!
//! Sources: <https://specs.ipfs.tech/unixfs/>, IPIP-499 (profiles). Sans-IO: each call returns the blocks that are
//! complete, children before their parents, so that what is stored at any moment has no dangling root.

mod directory;
mod file;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;

pub use directory::DirBuilder;
pub use file::FileBuilder;

use super::cid::{Cid, codec};
use super::dag_pb::PbNode;
use super::unixfs::{Data, DataType, UnixFsError};
use super::{Block, BlockError, HashCode};

/// How files and directories are cut into blocks. The same input with the same profile has the same CID everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    name: &'static str,
    cid_version: CidVersion,
    raw_leaves: bool,
    /// Bytes of file in one leaf.
    chunk_size: usize,
    /// Links in one node of a file.
    width: usize,
    /// A directory whose estimated size is over this many bytes is sharded.
    shard_threshold: usize,
    estimate: Estimate,
    /// Indexes of one HAMT node.
    fanout: u32,
}

/// What a build ended in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    pub cid: Cid,
    /// Bytes of file; 0 for directories and symlinks.
    pub file_size: u64,
    /// Bytes of all blocks of the graph, repeated ones repeated: what a link's `Tsize` says.
    pub tsize: u64,
}

/// Why a directory or symlink cannot be built.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BuildError {
    #[error("entry name {0:?} is empty, `.`, `..`, or holds `/` or NUL")]
    Name(String),
    #[error("two entries are named {0:?}")]
    DuplicateName(String),
    #[error("node does not fit in a block: {0}")]
    Block(#[from] BlockError),
    #[error(transparent)]
    UnixFs(#[from] UnixFsError),
    #[error("sizes add up to over 2^64 bytes")]
    SizeOverflow,
}

/// A profile name that is not known.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("profile {0:?} is not known: use kubo-v1, unixfs-v1-2025 or unixfs-v0-2015")]
pub struct UnknownProfile(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CidVersion {
    V0,
    V1,
}

/// How the size of a directory's single block is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Estimate {
    /// The lengths of names and CIDs, nothing else.
    Links,
    /// The length of the block that it would be.
    Block,
}

impl Profile {
    /// What Kubo 0.43 writes with `ipfs add --cid-version=1`.
    pub const KUBO_V1: Self = Self {
        name: "kubo-v1",
        cid_version: CidVersion::V1,
        raw_leaves: true,
        chunk_size: 256 * 1024,
        width: 174,
        shard_threshold: 256 * 1024,
        estimate: Estimate::Links,
        fanout: 256,
    };
    /// IPIP-499 `unixfs-v0-2015`: CIDv0, leaves in dag-pb.
    pub const UNIXFS_V0_2015: Self =
        Self { name: "unixfs-v0-2015", cid_version: CidVersion::V0, raw_leaves: false, ..Self::KUBO_V1 };
    /// IPIP-499 `unixfs-v1-2025`: 1 MiB leaves, 1,024 links, directories sharded by the true size of their block.
    pub const UNIXFS_V1_2025: Self = Self {
        name: "unixfs-v1-2025",
        chunk_size: 1024 * 1024,
        width: 1024,
        estimate: Estimate::Block,
        ..Self::KUBO_V1
    };
    /// Every profile, the default first.
    pub const ALL: [Self; 3] = [Self::KUBO_V1, Self::UNIXFS_V1_2025, Self::UNIXFS_V0_2015];

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes of file in one leaf block.
    pub fn chunk_size(&self) -> usize {
        self.chunk_size
    }

    fn pb_block(&self, node: &PbNode) -> Result<Block, BlockError> {
        let block = Block::encode(codec::DAG_PB, HashCode::Sha2_256, node.encode())?;
        match self.cid_version {
            CidVersion::V1 => Ok(block),
            CidVersion::V0 => {
                // Local invariant: the digest was made with SHA-256 just now, the one hash that CIDv0 has.
                let cid = Cid::new_v0(*block.cid().hash()).expect("a SHA-256 digest has a CIDv0");
                Ok(block.with_cid(cid).expect("the multihash is the same"))
            }
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::KUBO_V1
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL.into_iter().find(|profile| profile.name == name).ok_or_else(|| UnknownProfile(name.to_owned()))
    }
}

/// The node of a symbolic link.
pub fn symlink(profile: &Profile, target: &str) -> Result<(Block, Built), BuildError> {
    let mut data = Data::new(DataType::Symlink);
    data.data = Some(Bytes::copy_from_slice(target.as_bytes()));
    let block = profile.pb_block(&PbNode { links: Vec::new(), data: Some(data.encode()) })?;
    let built = Built { cid: *block.cid(), file_size: 0, tsize: block.len() as u64 };
    Ok((block, built))
}

#[cfg(test)]
mod tests;
