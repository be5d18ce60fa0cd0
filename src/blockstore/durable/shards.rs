//! Names, the 1,024 shards, and their exact counts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use multibase::Base;
use tracing::warn;

use crate::ipld::{HashCode, Multihash};

/// Two characters of base32.
pub(crate) const SHARDS: usize = 32 * 32;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A block that lies in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) hash: Multihash,
    pub(crate) size: u64,
}

/// A lock for each shard, and the sums of those that are counted.
///
/// Files change and are counted under their shard's lock, so a count that runs beside writes misses nothing and counts
/// nothing twice: a change in a shard that is not counted yet is left to the count.
#[derive(Debug)]
pub(super) struct Shards {
    locks: Box<[Mutex<bool>]>,
    left: AtomicUsize,
    blocks: AtomicU64,
    bytes: AtomicU64,
}

/// A locked shard.
pub(super) struct Locked<'a> {
    shards: &'a Shards,
    counted: bool,
}

impl Shards {
    /// With the counts of a clean close, or `None` when everything must be counted.
    pub(super) fn new(known: Option<(u64, u64)>) -> Self {
        let (blocks, bytes) = known.unwrap_or_default();
        Self {
            locks: (0..SHARDS).map(|_| Mutex::new(known.is_some())).collect(),
            left: AtomicUsize::new(if known.is_some() { 0 } else { SHARDS }),
            blocks: AtomicU64::new(blocks),
            bytes: AtomicU64::new(bytes),
        }
    }

    pub(super) fn counted(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// Blocks and bytes that are counted.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.blocks.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }

    pub(super) fn lock<T>(&self, hash: &Multihash, work: impl FnOnce(&Locked<'_>) -> T) -> T {
        let (first, second) = characters(&name(hash));
        let shard = position(first) * 32 + position(second);
        let counted = self.locks[shard].lock().unwrap_or_else(PoisonError::into_inner);
        work(&Locked { shards: self, counted: *counted })
    }

    /// Counts a shard unless it is counted.
    pub(super) fn count(&self, root: &Path, shard: usize) {
        let mut counted = self.locks[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if *counted {
            return;
        }
        match list(root, shard) {
            Ok(files) => {
                self.blocks.fetch_add(files.len() as u64, Ordering::AcqRel);
                self.bytes.fetch_add(files.iter().map(|file| file.size).sum(), Ordering::AcqRel);
                *counted = true;
                self.left.fetch_sub(1, Ordering::AcqRel);
            }
            Err(error) => warn!(%error, shard, "a shard could not be counted"),
        }
    }
}

impl Locked<'_> {
    /// A file came under its name; `old` is the size of the one it replaced.
    pub(super) fn stored(&self, size: u64, old: Option<u64>) {
        if self.counted {
            self.shards.bytes.fetch_add(size, Ordering::AcqRel);
            match old {
                Some(old) => self.shards.bytes.fetch_sub(old, Ordering::AcqRel),
                None => self.shards.blocks.fetch_add(1, Ordering::AcqRel),
            };
        }
    }

    pub(super) fn removed(&self, size: u64) {
        if self.counted {
            self.shards.bytes.fetch_sub(size, Ordering::AcqRel);
            self.shards.blocks.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The file of a block.
pub(super) fn path(root: &Path, hash: &Multihash) -> PathBuf {
    let name = name(hash);
    let (first, second) = characters(&name);
    let mut path = root.join((first as char).to_string());
    path.push((second as char).to_string());
    path.push(name);
    path
}

/// What lies in a shard; files with other names are not ours and are left out.
pub(super) fn list(root: &Path, shard: usize) -> io::Result<Vec<Stored>> {
    let (first, second) = (ALPHABET[shard / 32 % 32] as char, ALPHABET[shard % 32] as char);
    let directory = match fs::read_dir(root.join(first.to_string()).join(second.to_string())) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in directory {
        let entry = entry?;
        let Some(hash) = entry.file_name().to_str().and_then(parse) else { continue };
        match entry.metadata() {
            Ok(meta) => files.push(Stored { hash, size: meta.len() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

fn name(hash: &Multihash) -> String {
    Base::Base32Lower.encode(hash.to_bytes())
}

fn parse(text: &str) -> Option<Multihash> {
    let hash = Multihash::from_bytes(&Base::Base32Lower.decode(text).ok()?).ok()?;
    (HashCode::try_from(hash.code()).is_ok() && name(&hash) == text).then_some(hash)
}

/// The two characters before the last; a multihash has at least two bytes, so its name at least four characters.
fn characters(name: &str) -> (u8, u8) {
    match name.as_bytes() {
        [.., first, second, _] => (*first, *second),
        _ => (b'a', b'a'),
    }
}

fn position(character: u8) -> usize {
    ALPHABET.iter().position(|&c| c == character).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lies_in_the_shard_that_lists_it() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..200u32 {
            let hash = HashCode::Sha2_256.digest(&n.to_le_bytes()).unwrap();
            let file = path(root.path(), &hash);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, [0; 3]).unwrap();
        }
        fs::write(root.path().join("a").join("stray"), "not ours").unwrap_or_default();
        let shards = Shards::new(None);
        (0..SHARDS).for_each(|shard| shards.count(root.path(), shard));
        assert!(shards.counted());
        assert_eq!(shards.totals(), (200, 600));
    }
}
