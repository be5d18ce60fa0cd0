//! Content identifiers: CIDv0 and CIDv1 in every multibase, and how the product prints them.
//!
//! Source: <https://github.com/multiformats/cid>, multicodec table.

use thiserror::Error;

/// A CID whose digest may be up to 128 bytes: identity CIDs carry up to that (IPIP-512).
pub type Cid = ::cid::CidGeneric<128>;
/// A multihash with room for an identity digest of 128 bytes.
pub type Multihash = multihash::Multihash<128>;

/// The largest identity digest that is accepted, in bytes (IPIP-512).
pub const MAX_IDENTITY_DIGEST: usize = 128;

/// Multicodec numbers that occur in CIDs.
pub mod codec {
    pub const RAW: u64 = 0x55;
    pub const DAG_PB: u64 = 0x70;
    pub const DAG_CBOR: u64 = 0x71;
    pub const LIBP2P_KEY: u64 = 0x72;
    pub const DAG_JSON: u64 = 0x0129;
    pub const JSON: u64 = 0x0200;
    pub const CBOR: u64 = 0x51;
}

/// Why a text is not a CID that we accept.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CidError {
    #[error("not a CID: {0}")]
    Syntax(String),
    #[error("identity digest of {0} bytes is over the limit of {MAX_IDENTITY_DIGEST}")]
    IdentityTooLong(usize),
}

/// Parses a CIDv0 or a CIDv1 in any multibase.
pub fn parse(text: &str) -> Result<Cid, CidError> {
    let cid: Cid = text.parse().map_err(|e: ::cid::Error| CidError::Syntax(e.to_string()))?;
    check(&cid)?;
    Ok(cid)
}

/// Reads a CID that fills `bytes` exactly.
pub fn from_bytes(bytes: &[u8]) -> Result<Cid, CidError> {
    let (cid, used) = read_prefix(bytes)?;
    if used != bytes.len() {
        return Err(CidError::Syntax(format!("{} bytes after it", bytes.len() - used)));
    }
    Ok(cid)
}

/// Reads the CID at the start of `bytes`, and says how many bytes it takes.
pub fn read_prefix(bytes: &[u8]) -> Result<(Cid, usize), CidError> {
    let mut rest = bytes;
    let cid = Cid::read_bytes(&mut rest).map_err(|e| CidError::Syntax(e.to_string()))?;
    check(&cid)?;
    Ok((cid, bytes.len() - rest.len()))
}

/// Checks the limits that hold for a CID from any source.
pub fn check(cid: &Cid) -> Result<(), CidError> {
    let digest = cid.hash().digest().len();
    if cid.hash().code() == 0 && digest > MAX_IDENTITY_DIGEST {
        return Err(CidError::IdentityTooLong(digest));
    }
    Ok(())
}

/// The form in which the database and the API name a CID: version 1, base32, lower case.
pub fn canonical(cid: &Cid) -> String {
    Cid::new_v1(cid.codec(), *cid.hash()).to_string()
}
