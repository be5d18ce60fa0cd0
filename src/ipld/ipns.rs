//! IPNS: names that are public keys, and the signed records that say where a name points now.
//!
//! Source: <https://specs.ipfs.tech/ipns/ipns-record/> (2025-02-28); V2-only records: IPIP-428. A record is believed only
//! for its `signatureV2`; the fields of V1 are looked at for one thing, that they do not contradict what is signed.

mod name;
mod record;

pub use name::{IpnsName, NameSyntaxError};
pub use record::{Draft, MAX_RECORD, Record, RecordError, SignError};

#[cfg(test)]
mod tests;
