//! A block: bytes that hash to their CID. Invariant 1: nothing else can be a [`Block`].

use std::fmt;

use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest};
use thiserror::Error;

use super::cid::{Cid, CidError, MAX_IDENTITY_DIGEST, Multihash, check};

/// The largest block that is sent, received or stored, in bytes (Bitswap specification, "block sizes").
pub const MAX_BLOCK_SIZE: usize = 2 * 1024 * 1024;

/// The sha2-256 of no bytes.
const EMPTY_SHA2_256: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Bytes together with the CID they were verified against.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    data: Bytes,
}

/// The hash functions that are accepted; weaker ones (sha1, murmur3, md5) are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashCode {
    Identity,
    Sha2_256,
    Sha2_512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
    Blake2b256,
    Blake3,
}

/// Why bytes are not the block of a CID.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BlockError {
    #[error("bytes do not hash to {cid}")]
    Mismatch { cid: String },
    #[error("hash function {code:#x} is not accepted")]
    UnsupportedHash { code: u64 },
    #[error("block of {size} bytes is over the limit of {MAX_BLOCK_SIZE}")]
    TooLarge { size: usize },
    #[error(transparent)]
    Cid(#[from] CidError),
}

impl Block {
    /// Hashes `data` and returns the block if the hash is the one in `cid`.
    pub fn verify(cid: Cid, data: Bytes) -> Result<Self, BlockError> {
        check(&cid)?;
        let hash = HashCode::try_from(cid.hash().code())?;
        let same = match hash {
            HashCode::Identity => cid.hash().digest() == &data[..],
            _ => hash.digest(&data)?.digest() == cid.hash().digest(),
        };
        if same && data.len() <= MAX_BLOCK_SIZE {
            Ok(Self { cid, data })
        } else if data.len() > MAX_BLOCK_SIZE {
            Err(BlockError::TooLarge { size: data.len() })
        } else {
            Err(BlockError::Mismatch { cid: cid.to_string() })
        }
    }

    /// Hashes `data` and returns it under the CIDv1 that follows.
    pub fn encode(codec: u64, hash: HashCode, data: Bytes) -> Result<Self, BlockError> {
        if data.len() > MAX_BLOCK_SIZE {
            return Err(BlockError::TooLarge { size: data.len() });
        }
        Ok(Self { cid: Cid::new_v1(codec, hash.digest(&data)?), data })
    }

    /// The block that a CID alone determines: that of an identity CID, and the empty block. `None` for any other CID.
    ///
    /// Nobody need be asked for the empty block, and nobody can be: Kubo's Bitswap server takes its size of 0 for absence.
    pub fn inherent(cid: &Cid) -> Option<Self> {
        let hash = cid.hash();
        let data = match hash.code() {
            0x00 => Bytes::copy_from_slice(hash.digest()),
            0x12 if hash.digest() == EMPTY_SHA2_256 => Bytes::new(),
            0x12 => return None,
            _ => Bytes::new(),
        };
        Self::verify(*cid, data).ok()
    }

    /// The same bytes under another CID with the same multihash (CIDv0 against v1, another codec).
    pub fn with_cid(&self, cid: Cid) -> Option<Self> {
        (cid.hash() == self.cid.hash()).then(|| Self { cid, data: self.data.clone() })
    }

    /// The block with its bytes in a buffer of their own, so that nothing larger stays alive with them.
    pub fn detached(&self) -> Self {
        Self { cid: self.cid, data: Bytes::copy_from_slice(&self.data) }
    }

    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    pub fn data(&self) -> &Bytes {
        &self.data
    }

    pub fn len(&self) -> usize {
        self.data.len()
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn into_data(self) -> Bytes {
        self.data
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({}, {} bytes)", self.cid, self.data.len())
    }
}

impl HashCode {
    /// The multihash of `data`. Identity refuses more than [`MAX_IDENTITY_DIGEST`] bytes.
    pub fn digest(self, data: &[u8]) -> Result<Multihash, BlockError> {
        let code = match self {
            Self::Identity => {
                return Multihash::wrap(0, data)
                    .map_err(|_| BlockError::Cid(CidError::IdentityTooLong(data.len().max(MAX_IDENTITY_DIGEST + 1))));
            }
            Self::Sha2_256 => Code::Sha2_256,
            Self::Sha2_512 => Code::Sha2_512,
            Self::Sha3_224 => Code::Sha3_224,
            Self::Sha3_256 => Code::Sha3_256,
            Self::Sha3_384 => Code::Sha3_384,
            Self::Sha3_512 => Code::Sha3_512,
            Self::Blake2b256 => Code::Blake2b256,
            Self::Blake3 => Code::Blake3_256,
        };
        let hash = code.digest(data);
        // Local invariant: the table's digests are at most 64 bytes, and there is room for 128.
        Ok(Multihash::wrap(hash.code(), hash.digest()).expect("a digest of at most 64 bytes fits in 128"))
    }
}

impl From<HashCode> for u64 {
    fn from(hash: HashCode) -> u64 {
        match hash {
            HashCode::Identity => 0x00,
            HashCode::Sha2_256 => 0x12,
            HashCode::Sha2_512 => 0x13,
            HashCode::Sha3_512 => 0x14,
            HashCode::Sha3_384 => 0x15,
            HashCode::Sha3_256 => 0x16,
            HashCode::Sha3_224 => 0x17,
            HashCode::Blake3 => 0x1e,
            HashCode::Blake2b256 => 0xb220,
        }
    }
}

impl TryFrom<u64> for HashCode {
    type Error = BlockError;

    fn try_from(code: u64) -> Result<Self, BlockError> {
        Ok(match code {
            0x00 => Self::Identity,
            0x12 => Self::Sha2_256,
            0x13 => Self::Sha2_512,
            0x14 => Self::Sha3_512,
            0x15 => Self::Sha3_384,
            0x16 => Self::Sha3_256,
            0x17 => Self::Sha3_224,
            0x1e => Self::Blake3,
            0xb220 => Self::Blake2b256,
            code => return Err(BlockError::UnsupportedHash { code }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_not_a_block() {
        let block = Block::encode(0x55, HashCode::Sha2_256, Bytes::from_static(b"hello")).unwrap();
        assert_eq!(block.cid().to_string(), "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq");
        assert!(Block::verify(*block.cid(), Bytes::from_static(b"hello")).is_ok());
        assert!(matches!(Block::verify(*block.cid(), Bytes::from_static(b"hellp")), Err(BlockError::Mismatch { .. })));
    }

    #[test]
    fn an_identity_cid_carries_its_own_block() {
        let cid = crate::ipld::cid::parse("bafkqabtimvwgy3yk").unwrap();
        assert_eq!(Block::inherent(&cid).unwrap().data(), &Bytes::from_static(b"hello\n"));
    }

    #[test]
    fn the_empty_block_needs_no_peer_whatever_its_hash() {
        for hash in [HashCode::Sha2_256, HashCode::Sha2_512, HashCode::Sha3_256, HashCode::Blake2b256, HashCode::Blake3]
        {
            let empty = Block::encode(0x55, hash, Bytes::new()).unwrap();
            assert_eq!(Block::inherent(empty.cid()), Some(empty.clone()), "{hash:?}");
            let other = Block::encode(0x55, hash, Bytes::from_static(b"x")).unwrap();
            assert_eq!(Block::inherent(other.cid()), None, "{hash:?}");
        }
    }

    #[test]
    fn every_accepted_hash_verifies_its_own_digest() {
        for hash in [
            HashCode::Identity,
            HashCode::Sha2_256,
            HashCode::Sha2_512,
            HashCode::Sha3_224,
            HashCode::Sha3_256,
            HashCode::Sha3_384,
            HashCode::Sha3_512,
            HashCode::Blake2b256,
            HashCode::Blake3,
        ] {
            let block = Block::encode(0x55, hash, Bytes::from_static(b"tide")).unwrap();
            assert_eq!(HashCode::try_from(block.cid().hash().code()).unwrap(), hash);
            assert!(Block::verify(*block.cid(), Bytes::from_static(b"tide")).is_ok());
        }
    }

    #[test]
    fn weak_hashes_are_refused() {
        assert!(matches!(HashCode::try_from(0x11), Err(BlockError::UnsupportedHash { code: 0x11 })));
    }
}
