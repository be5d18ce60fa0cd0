//! Directories: one block while they are small, a HAMT above the profile's threshold.

use std::collections::BTreeMap;

use super::{BuildError, Built, Estimate, Profile};
use crate::ipld::Block;
use crate::ipld::cid::Cid;
use crate::ipld::dag_pb::{PbLink, PbNode};
use crate::ipld::unixfs::hamt::{MURMUR3_X64_64, bitfield, index_at, name_hash, prefix_width};
use crate::ipld::unixfs::{Data, DataType};

/// Builds one directory. Holds its entries until the end: about 250 bytes and the name for each.
#[derive(Debug)]
pub struct DirBuilder {
    profile: Profile,
    /// Sorted by the bytes of the name, as Kubo sorts links.
    entries: BTreeMap<String, (Cid, u64)>,
    /// What the profile's estimate says of the entries so far, in bytes.
    estimate: usize,
}

/// An entry on its way into a HAMT.
#[derive(Debug, Clone)]
struct Leaf {
    hash: u64,
    name: String,
    cid: Cid,
    tsize: u64,
}

impl DirBuilder {
    pub fn new(profile: &Profile) -> Self {
        let empty = match profile.estimate {
            Estimate::Links => 0,
            Estimate::Block => basic_node(Vec::new()).encoded_len(),
        };
        Self { profile: *profile, entries: BTreeMap::new(), estimate: empty }
    }

    /// Adds an entry. `tsize` is the [`Built::tsize`] of what it names.
    pub fn add(&mut self, name: &str, cid: Cid, tsize: u64) -> Result<(), BuildError> {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(BuildError::Name(name.to_owned()));
        }
        if self.entries.contains_key(name) {
            return Err(BuildError::DuplicateName(name.to_owned()));
        }
        self.estimate += match self.profile.estimate {
            Estimate::Links => name.len() + cid.encoded_len(),
            Estimate::Block => link(name.to_owned(), cid, tsize).encoded_len(),
        };
        self.entries.insert(name.to_owned(), (cid, tsize));
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the directory is over the profile's threshold now, so that it will be a HAMT.
    pub fn is_sharded(&self) -> bool {
        self.estimate > self.profile.shard_threshold
    }

    /// Ends the directory and returns its blocks, the root last.
    ///
    /// Fails where a node would be over the block limit (very long names), and where names were made to collide in all
    /// 64 bits of their hash.
    pub fn finish(self) -> Result<(Vec<Block>, Built), BuildError> {
        let mut blocks = Vec::new();
        let (cid, tsize) = if self.is_sharded() {
            let mut leaves: Vec<Leaf> = self
                .entries
                .into_iter()
                .map(|(name, (cid, tsize))| Leaf { hash: name_hash(&name), name, cid, tsize })
                .collect();
            leaves.sort_by_key(|leaf| leaf.hash);
            shard(&self.profile, &leaves, 0, &mut blocks)?
        } else {
            let links = self.entries.into_iter().map(|(name, (cid, tsize))| link(name, cid, tsize)).collect();
            emit(&self.profile, &basic_node(links), &mut blocks)?
        };
        Ok((blocks, Built { cid, file_size: 0, tsize }))
    }
}

fn basic_node(links: Vec<PbLink>) -> PbNode {
    PbNode { links, data: Some(Data::new(DataType::Directory).encode()) }
}

fn link(name: String, cid: Cid, tsize: u64) -> PbLink {
    PbLink { cid, name: Some(name), tsize: Some(tsize) }
}

/// Builds the node of `leaves` (sorted by hash) at `depth`, and what is under it. Recurses once for each level; the hash
/// has bits for 8 levels of fanout 256.
fn shard(profile: &Profile, leaves: &[Leaf], depth: usize, blocks: &mut Vec<Block>) -> Result<(Cid, u64), BuildError> {
    let width = prefix_width(profile.fanout);
    let mut indexes = Vec::new();
    let mut links = Vec::new();
    let mut rest = leaves;
    while let Some(first) = rest.first() {
        let index = index_at(first.hash, profile.fanout, depth)?;
        // Sorted by hash, and equal in all bits above this level: those of one index lie together, indexes ascend.
        let mut count = 0;
        while count < rest.len() && index_at(rest[count].hash, profile.fanout, depth)? == index {
            count += 1;
        }
        let (here, later) = rest.split_at(count);
        rest = later;
        indexes.push(index);
        links.push(match here {
            [leaf] => link(format!("{index:0width$X}{}", leaf.name), leaf.cid, leaf.tsize),
            several => {
                let (cid, tsize) = shard(profile, several, depth + 1, blocks)?;
                link(format!("{index:0width$X}"), cid, tsize)
            }
        });
    }
    let mut data = Data::new(DataType::HamtShard);
    data.data = Some(bitfield(indexes.into_iter(), profile.fanout));
    data.hash_type = Some(MURMUR3_X64_64);
    data.fanout = Some(u64::from(profile.fanout));
    emit(profile, &PbNode { links, data: Some(data.encode()) }, blocks)
}

/// Encodes a node, and returns its CID and cumulative size.
fn emit(profile: &Profile, node: &PbNode, blocks: &mut Vec<Block>) -> Result<(Cid, u64), BuildError> {
    let block = profile.pb_block(node)?;
    let linked = node.links.iter().filter_map(|link| link.tsize).try_fold(block.len() as u64, u64::checked_add);
    let cid = *block.cid();
    blocks.push(block);
    Ok((cid, linked.ok_or(BuildError::SizeOverflow)?))
}
