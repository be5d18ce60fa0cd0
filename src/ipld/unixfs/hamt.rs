//! HAMT-sharded directories: one node of the trie.
//!
//! Source: <https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory>. A name's hash is the first 64 bits of
//! murmur3-x64-128, seed 0, in big-endian order; each level takes log2(fanout) bits from the top.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Data, DirEntry, Mtime, UnixFsError};
use crate::ipld::Cid;
use crate::ipld::dag_pb::PbNode;

/// The multicodec of murmur3-x64-64, the only hash function of UnixFS HAMTs.
pub const MURMUR3_X64_64: u64 = 0x22;
pub const MIN_FANOUT: u32 = 8;
/// The largest fanout that is read (UnixFS specification).
pub const MAX_FANOUT: u32 = 1024;

/// One node of the trie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HamtNode {
    /// A power of two from [`MIN_FANOUT`] to [`MAX_FANOUT`].
    pub fanout: u32,
    /// At most one for each index.
    pub entries: Vec<HamtEntry>,
    pub mode: Option<u32>,
    pub mtime: Option<Mtime>,
}

/// What is at one index of a [`HamtNode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HamtEntry {
    /// A node one level deeper.
    Child { index: u32, cid: Cid },
    /// A directory entry.
    Value { index: u32, name: String, cid: Cid, tsize: Option<u64> },
}

/// Where a name leads from one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HamtLookup {
    Found(DirEntry),
    /// Look it up in this node, at `depth + 1`.
    Descend(Cid),
    Absent,
}

impl HamtNode {
    pub(super) fn new(node: PbNode, data: Data) -> Result<Self, UnixFsError> {
        let declared = data.fanout.unwrap_or(0);
        let fanout = u32::try_from(declared)
            .ok()
            .filter(|n| n.is_power_of_two() && (MIN_FANOUT..=MAX_FANOUT).contains(n))
            .ok_or(UnixFsError::Fanout(declared))?;
        let hash = data.hash_type.unwrap_or(0);
        if hash != MURMUR3_X64_64 {
            return Err(UnixFsError::HamtHash(hash));
        }
        let bits = bits_set(&data.data.unwrap_or_default(), fanout)?;
        let width = prefix_width(fanout);
        let mut entries = Vec::with_capacity(node.links.len().min(fanout as usize));
        let mut seen = BTreeSet::new();
        for link in node.links {
            let name = link.name.unwrap_or_default();
            let (prefix, rest) = name.split_at_checked(width).ok_or(UnixFsError::HamtPrefix)?;
            let index = parse_prefix(prefix).filter(|index| *index < fanout).ok_or(UnixFsError::HamtPrefix)?;
            if !bits.contains(&index) || !seen.insert(index) {
                return Err(UnixFsError::BitfieldMismatch);
            }
            entries.push(match rest {
                "" => HamtEntry::Child { index, cid: link.cid },
                rest => HamtEntry::Value { index, name: rest.to_owned(), cid: link.cid, tsize: link.tsize },
            });
        }
        if seen.len() != bits.len() {
            return Err(UnixFsError::BitfieldMismatch);
        }
        Ok(Self { fanout, entries, mode: data.mode, mtime: data.mtime })
    }

    /// Looks `name` up in this node, which lies `depth` levels under the root (the root's is 0).
    ///
    /// Fails with [`UnixFsError::HamtDepth`] where the hash has no bits left: no name can be that deep.
    pub fn lookup(&self, name: &str, depth: usize) -> Result<HamtLookup, UnixFsError> {
        let wanted = index_at(name_hash(name), self.fanout, depth)?;
        let found = self.entries.iter().find(|entry| entry.index() == wanted);
        Ok(match found {
            Some(HamtEntry::Child { cid, .. }) => HamtLookup::Descend(*cid),
            Some(HamtEntry::Value { name: stored, cid, tsize, .. }) if stored == name => {
                HamtLookup::Found(DirEntry { name: stored.clone(), cid: *cid, tsize: *tsize })
            }
            _ => HamtLookup::Absent,
        })
    }

    /// Checks that every value lies where its name hashes to, given the indexes that led from the root to this node.
    /// A listing of checked nodes has no name twice and no name that a lookup would not find.
    pub fn check_position(&self, path: &[u32]) -> Result<(), UnixFsError> {
        for entry in &self.entries {
            let HamtEntry::Value { index, name, .. } = entry else { continue };
            let hash = name_hash(name);
            for (depth, wanted) in path.iter().chain([index]).enumerate() {
                if index_at(hash, self.fanout, depth)? != *wanted {
                    return Err(UnixFsError::HamtPosition(name.clone()));
                }
            }
        }
        Ok(())
    }
}

impl HamtEntry {
    pub fn index(&self) -> u32 {
        match self {
            Self::Child { index, .. } | Self::Value { index, .. } => *index,
        }
    }

    pub fn cid(&self) -> &Cid {
        match self {
            Self::Child { cid, .. } | Self::Value { cid, .. } => cid,
        }
    }
}

/// The hash of an entry's name: the first half of murmur3-x64-128 with seed 0.
pub fn name_hash(name: &str) -> u64 {
    // Local invariant: reading from memory does not fail. The crate's low half is the algorithm's first word.
    murmur3::murmur3_x64_128(&mut name.as_bytes(), 0).expect("memory can be read") as u64
}

/// The index that a name of that hash has in a node `depth` levels under the root.
pub fn index_at(hash: u64, fanout: u32, depth: usize) -> Result<u32, UnixFsError> {
    let bits = fanout.trailing_zeros() as usize;
    let end = depth.checked_add(1).and_then(|levels| levels.checked_mul(bits)).ok_or(UnixFsError::HamtDepth)?;
    let shift = 64usize.checked_sub(end).ok_or(UnixFsError::HamtDepth)?;
    Ok((hash >> shift) as u32 & (fanout - 1))
}

/// How many hexadecimal digits an index has in a link's name.
pub const fn prefix_width(fanout: u32) -> usize {
    (32 - (fanout - 1).leading_zeros() as usize).div_ceil(4)
}

/// The bit field of the given indexes, big-endian, without leading zero bytes, as Kubo writes it.
pub fn bitfield(indexes: impl Iterator<Item = u32>, fanout: u32) -> Bytes {
    let mut bytes = vec![0u8; (fanout / 8) as usize];
    let last = bytes.len() - 1;
    for index in indexes {
        bytes[last - (index / 8) as usize] |= 1 << (index % 8);
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Bytes::from(bytes).slice(zeros..)
}

fn bits_set(field: &[u8], fanout: u32) -> Result<BTreeSet<u32>, UnixFsError> {
    if field.len() > (fanout / 8) as usize {
        return Err(UnixFsError::BitfieldLength { bytes: field.len(), fanout });
    }
    let bits =
        field.iter().rev().enumerate().flat_map(|(at, byte)| {
            (0..8u32).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at as u32 * 8 + bit)
        });
    Ok(bits.collect())
}

fn parse_prefix(prefix: &str) -> Option<u32> {
    prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')).then(|| u32::from_str_radix(prefix, 16).ok())?
}
