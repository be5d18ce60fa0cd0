//! Bitswap 1.2.0 messages (<https://specs.ipfs.tech/bitswap-protocol/>), as far as an adversary needs them.

use std::io;

use prost::Message as _;

use crate::car::varint;

/// The longest message that is read.
pub const MAX_MESSAGE: usize = 4 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    #[prost(message, optional, tag = "1")]
    pub wantlist: Option<Wantlist>,
    #[prost(message, repeated, tag = "3")]
    pub payload: Vec<Payload>,
    #[prost(message, repeated, tag = "4")]
    pub presences: Vec<Presence>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Wantlist {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    #[prost(bool, tag = "2")]
    pub full: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    pub cid: Vec<u8>,
    #[prost(int32, tag = "2")]
    pub priority: i32,
    #[prost(bool, tag = "3")]
    pub cancel: bool,
    /// 0: the block, 1: whether it is there.
    #[prost(int32, tag = "4")]
    pub want_type: i32,
    #[prost(bool, tag = "5")]
    pub send_dont_have: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    pub prefix: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Presence {
    #[prost(bytes = "vec", tag = "1")]
    pub cid: Vec<u8>,
    /// 0: HAVE, 1: DONT_HAVE.
    #[prost(int32, tag = "2")]
    pub kind: i32,
}

impl Message {
    pub fn presence(cid: &[u8], have: bool) -> Self {
        let presence = Presence { cid: cid.to_vec(), kind: i32::from(!have) };
        Self { presences: vec![presence], ..Self::default() }
    }

    pub fn block(cid: &[u8], data: Vec<u8>) -> io::Result<Self> {
        let payload = Payload { prefix: prefix(cid)?.to_vec(), data };
        Ok(Self { payload: vec![payload], ..Self::default() })
    }

    /// With its length in front.
    pub fn frame(&self) -> Vec<u8> {
        self.encode_length_delimited_to_vec()
    }
}

/// Version, codec, hash function and hash length: all of a CIDv1 but the hash.
fn prefix(cid: &[u8]) -> io::Result<&[u8]> {
    let mut rest = cid;
    for _ in 0..4 {
        varint(&mut rest)?;
    }
    Ok(&cid[..cid.len() - rest.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_other_programs_read() {
        let cid = [&[1, 0x55, 0x12, 32][..], &[3; 32]].concat();
        let frame = Message::block(&cid, b"abc".to_vec()).unwrap().frame();
        // Field 3 of 11 bytes: prefix (field 1, 4 bytes), data (field 2, 3 bytes).
        assert_eq!(frame, [13, 0x1a, 11, 0x0a, 4, 1, 0x55, 0x12, 32, 0x12, 3, b'a', b'b', b'c']);
        let presence = Message::presence(&cid, false);
        assert_eq!(Message::decode_length_delimited(&presence.frame()[..]).unwrap(), presence);
        assert_eq!(presence.presences[0].kind, 1);
    }
}
