//! A bounded set of blocks that were met before.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::ipld::Cid;

/// Remembers multihashes as 128-bit keyed digests: 16 bytes each instead of 144. The keys are random in each set, so
/// nobody can make two blocks collide in it.
#[derive(Debug)]
pub(super) struct Seen {
    keys: (RandomState, RandomState),
    digests: HashSet<u128>,
    limit: usize,
}

/// What [`Seen::insert`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    New,
    Seen,
    /// New, but there is no room to remember it.
    Full,
}

impl Seen {
    pub(super) fn new(limit: usize) -> Self {
        Self { keys: (RandomState::new(), RandomState::new()), digests: HashSet::new(), limit }
    }

    pub(super) fn insert(&mut self, cid: &Cid) -> Novelty {
        self.insert_as(cid, "block")
    }

    /// Remembers the block in one of several roles, each a set of its own under the common limit.
    pub(super) fn insert_as(&mut self, cid: &Cid, role: &'static str) -> Novelty {
        let digest = self.digest(cid, role);
        if self.digests.contains(&digest) {
            Novelty::Seen
        } else if self.digests.len() >= self.limit {
            Novelty::Full
        } else {
            self.digests.insert(digest);
            Novelty::New
        }
    }

    pub(super) fn contains(&self, cid: &Cid) -> bool {
        self.digests.contains(&self.digest(cid, "block"))
    }

    fn digest(&self, cid: &Cid, role: &'static str) -> u128 {
        let hash = (role, cid.hash().code(), cid.hash().digest());
        u128::from(self.keys.0.hash_one(hash)) << 64 | u128::from(self.keys.1.hash_one(hash))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ipld::{Block, HashCode, codec};

    fn cid(n: u8) -> Cid {
        *Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::copy_from_slice(&[n])).unwrap().cid()
    }

    #[test]
    fn a_full_set_still_knows_what_it_has() {
        let mut seen = Seen::new(2);
        assert_eq!((seen.insert(&cid(1)), seen.insert(&cid(2))), (Novelty::New, Novelty::New));
        assert_eq!((seen.insert(&cid(1)), seen.insert(&cid(3))), (Novelty::Seen, Novelty::Full));
        assert_eq!(seen.insert_as(&cid(1), "other"), Novelty::Full);
    }
}
