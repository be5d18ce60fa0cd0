//! Bitswap 1.2.0 messages (<https://specs.ipfs.tech/bitswap-protocol/>) and CAR v1, as far as an adversary needs them.

use std::io;

use prost::Message as _;

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

/// Takes an unsigned LEB128 number off the front.
fn varint(bytes: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(io::Error::other("a number longer than 63 bits"))
}

/// (CID, data) of each block of a CAR v1 of CIDv1 blocks.
pub fn car(mut bytes: &[u8]) -> io::Result<Vec<(&[u8], &[u8])>> {
    fn section<'a>(bytes: &mut &'a [u8]) -> io::Result<&'a [u8]> {
        let length = usize::try_from(varint(bytes)?).map_err(io::Error::other)?;
        let (section, rest) = bytes.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        *bytes = rest;
        Ok(section)
    }
    section(&mut bytes)?;
    let mut blocks = Vec::new();
    while !bytes.is_empty() {
        let block = section(&mut bytes)?;
        let mut rest = block;
        let mut last = 0;
        for _ in 0..4 {
            last = varint(&mut rest)?;
        }
        let hash = usize::try_from(last).map_err(io::Error::other)?;
        let cid = block.len() - rest.len() + hash;
        blocks.push(block.split_at_checked(cid).ok_or(io::ErrorKind::UnexpectedEof)?);
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_of_a_car_are_told_apart_and_a_cut_one_is_an_error() {
        let mut bytes = vec![2, 0xa0, 0xa0];
        let cid = |fill: u8| [&[1, 0x55, 0x12, 32][..], &[fill; 32]].concat();
        for (fill, data) in [(7, &b"seven"[..]), (9, &[5; 200][..])] {
            let section = [cid(fill), data.to_vec()].concat();
            let length = section.len();
            if length < 128 {
                bytes.push(length as u8);
            } else {
                bytes.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
            }
            bytes.extend(section);
        }
        let blocks = car(&bytes).unwrap();
        assert_eq!(blocks, [(&cid(7)[..], &b"seven"[..]), (&cid(9)[..], &[5; 200][..])]);
        assert!(car(&bytes[..bytes.len() - 1]).is_err());
        assert!(car(&[0xff; 12]).is_err());
    }

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
