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
    /// No block can ever match it.
    #[error("digest of {found} bytes where hash function {code:#x} gives {expected}")]
    DigestLength { code: u64, found: usize, expected: usize },
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
    match digest_length(cid.hash().code()) {
        Some(expected) if expected != digest => {
            Err(CidError::DigestLength { code: cid.hash().code(), found: digest, expected })
        }
        _ => Ok(()),
    }
}

/// Bytes that an accepted hash function gives; `None` for identity and for those that are refused elsewhere.
fn digest_length(code: u64) -> Option<usize> {
    Some(match code {
        0x12 | 0x16 | 0x1e | 0xb220 => 32,
        0x13 | 0x14 => 64,
        0x15 => 48,
        0x17 => 28,
        _ => return None,
    })
}

/// The form in which the database and the API name a CID: version 1, base32, lower case.
pub fn canonical(cid: &Cid) -> String {
    Cid::new_v1(cid.codec(), *cid.hash()).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_digest_that_no_block_can_match_is_refused_at_once() {
        for length in [16, 31, 33, 40] {
            let cid = super::Cid::new_v1(0x55, super::Multihash::wrap(0x12, &vec![7; length]).unwrap());
            assert!(matches!(super::parse(&cid.to_string()), Err(super::CidError::DigestLength { .. })), "{length}");
        }
    }

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH")]
    #[case("bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y")]
    fn version_0_and_1_of_one_hash_are_one_name_in_the_database(#[case] text: &str) {
        let cid = parse(text).unwrap();
        assert_eq!(canonical(&cid), "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y");
        assert_eq!(cid.to_string(), text);
    }

    #[test]
    fn every_multibase_is_read() {
        use multibase::Base::*;
        let cid = parse("bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y").unwrap();
        for base in [
            Base2,
            Base8,
            Base10,
            Base16Lower,
            Base16Upper,
            Base32Lower,
            Base32Upper,
            Base32PadLower,
            Base32PadUpper,
            Base32HexLower,
            Base32HexUpper,
            Base32Z,
            Base36Lower,
            Base36Upper,
            Base58Flickr,
            Base58Btc,
            Base64,
            Base64Pad,
            Base64Url,
            Base64UrlPad,
        ] {
            assert_eq!(parse(&multibase::encode(base, cid.to_bytes())), Ok(cid), "{base:?}");
        }
    }

    // RUSTSEC-2020-0068: a multihash whose declared length is not what is there.
    #[rstest]
    #[case(&[])]
    #[case(&[0x01])]
    #[case(&[0x01, 0x55, 0x12, 0x20])]
    #[case(&[0x01, 0x55, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])]
    #[case(&[0x12, 0x20, 0x00])]
    #[case(&[0x02, 0x55, 0x00, 0x00])]
    #[case(&[0x01, 0x55, 0x00, 0x00, 0x00])]
    fn bytes_that_are_cut_off_or_too_many_are_refused(#[case] bytes: &[u8]) {
        assert!(from_bytes(bytes).is_err());
    }

    proptest! {
        #[test]
        fn cids_round_trip(codec: u64, code in 0u64..1 << 40, digest in prop::collection::vec(any::<u8>(), 0..=128)) {
            let cid = Cid::new_v1(codec, Multihash::wrap(code, &digest).unwrap());
            prop_assert_eq!(parse(&cid.to_string()), Ok(cid));
            prop_assert_eq!(from_bytes(&cid.to_bytes()), Ok(cid));
            let mut longer = cid.to_bytes();
            longer.push(0);
            prop_assert!(from_bytes(&longer).is_err());
            prop_assert_eq!(read_prefix(&longer), Ok((cid, longer.len() - 1)));
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&text);
            let _ = from_bytes(&bytes);
        }
    }
}
