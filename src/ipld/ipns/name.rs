//! A name: the multihash of a public key, in any of the forms in which people write it.

use std::fmt;
use std::str::FromStr;

use libp2p::PeerId;
use libp2p::identity::PublicKey;
use multibase::Base;
use thiserror::Error;

use crate::ipld::cid::{self, Cid, Multihash, codec};

/// Longest text that can be a name; the longest real one (base2 aside) has some 110 characters.
const MAX_TEXT: usize = 256;
const KEY_PREFIX: &[u8] = b"/ipns/";

/// An IPNS name. Prints as the canonical form: a CIDv1 with the codec libp2p-key in base36 (`k51…`, `k2k4r8…`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpnsName(PeerId);

#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{0:?} is not an IPNS name: it is neither a libp2p-key CID nor a peer ID")]
pub struct NameSyntaxError(String);

impl IpnsName {
    pub fn of_key(key: &PublicKey) -> Self {
        Self(key.to_peer_id())
    }

    pub fn peer(&self) -> PeerId {
        self.0
    }

    /// What it is stored under in the DHT: `/ipns/` and the bytes of the multihash.
    pub fn routing_key(&self) -> Vec<u8> {
        [KEY_PREFIX, &self.0.to_bytes()].concat()
    }

    /// The name under which a DHT keeps something, when it is one of IPNS.
    pub fn from_routing_key(key: &[u8]) -> Option<Self> {
        PeerId::from_bytes(key.strip_prefix(KEY_PREFIX)?).ok().map(Self)
    }

    pub fn cid(&self) -> Cid {
        // A peer ID's digest has at most 42 bytes, and this multihash has room for 128.
        let hash = Multihash::from_bytes(&self.0.to_bytes()).unwrap_or_default();
        Cid::new_v1(codec::LIBP2P_KEY, hash)
    }

    /// The key itself, where the name holds it: Ed25519 names do, RSA names are only its hash.
    pub fn inlined_key(&self) -> Option<PublicKey> {
        let hash = self.0.as_ref();
        (hash.code() == 0).then(|| PublicKey::try_decode_protobuf(hash.digest()).ok()).flatten()
    }
}

impl From<PeerId> for IpnsName {
    fn from(peer: PeerId) -> Self {
        Self(peer)
    }
}

impl FromStr for IpnsName {
    type Err = NameSyntaxError;

    /// Reads `k51…` (base36), any other multibase, `12D3…` and `Qm…` (base58btc, without a multibase prefix), with or
    /// without `/ipns/` before it. Old CIDs with the codec dag-pb are taken for what was meant.
    fn from_str(text: &str) -> Result<Self, NameSyntaxError> {
        let wrong = || NameSyntaxError(text.chars().take(MAX_TEXT).collect());
        let bare = text.strip_prefix("/ipns/").unwrap_or(text);
        if bare.is_empty() || bare.len() > MAX_TEXT {
            return Err(wrong());
        }
        if bare.starts_with('1') || bare.starts_with("Qm") {
            return bare.parse().map(Self).map_err(|_| wrong());
        }
        let cid = cid::parse(bare).map_err(|_| wrong())?;
        if !matches!(cid.codec(), codec::LIBP2P_KEY | codec::DAG_PB) {
            return Err(wrong());
        }
        PeerId::from_bytes(&cid.hash().to_bytes()).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&multibase::encode(Base::Base36Lower, self.cid().to_bytes()))
    }
}

impl fmt::Debug for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
