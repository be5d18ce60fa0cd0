//! The Bitswap wire format: varint-framed protobuf, decoded without copying and without believing any length.
//!
//! Source: <https://specs.ipfs.tech/bitswap-protocol/> (1.0, 1.1, 1.2). An incoming frame is walked field by field
//! ([`Items`]), so a message of a million empty entries costs no memory beyond its own bytes; payloads are slices of
//! the frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use libp2p::StreamProtocol;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use thiserror::Error;

use crate::exchange::WantKind;
use crate::ipld::{Block, BlockError, Cid, HashCode, MAX_BLOCK_SIZE, codec};

/// The largest message that is read or written, in bytes, without its length prefix (specification; DESIGN.md §8).
pub const MAX_MESSAGE_SIZE: usize = 4 * 1024 * 1024;

/// Protocols in order of preference.
pub const PROTOCOLS: [Version; 4] = [Version::V1_2, Version::V1_1, Version::V1_0, Version::Unversioned];

/// What a stream was negotiated as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Unversioned,
    V1_0,
    V1_1,
    V1_2,
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum MessageError {
    #[error("message is not protobuf")]
    Malformed,
    #[error("message is over the limit")]
    MessageTooLarge,
    #[error("block is over the limit")]
    BlockTooLarge,
    #[error("block prefix is malformed")]
    BadPrefix,
    #[error("block's hash function is not accepted")]
    UnsupportedHash,
}

/// One thing that a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Entries follow; `full` replaces all earlier wants.
    Wantlist {
        full: bool,
    },
    Want {
        cid: Cid,
        kind: WantKind,
        priority: i32,
        send_dont_have: bool,
    },
    Cancel {
        cid: Cid,
    },
    /// A payload, not yet hashed. `prefix` is `None` in 1.0 messages (CIDv0 is meant).
    Block {
        prefix: Option<Bytes>,
        data: Bytes,
    },
    Have {
        cid: Cid,
    },
    DontHave {
        cid: Cid,
    },
    /// An entry whose CID we cannot represent: skipped, not an offence.
    Unknown,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    block: Bytes,
    #[prost(int32, tag = "2")]
    priority: i32,
    #[prost(bool, tag = "3")]
    cancel: bool,
    #[prost(int32, tag = "4")]
    want_type: i32,
    #[prost(bool, tag = "5")]
    send_dont_have: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    prefix: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Presence {
    #[prost(bytes = "bytes", tag = "1")]
    cid: Bytes,
    #[prost(int32, tag = "2")]
    kind: i32,
}

const WANTLIST: u32 = 1;
const BLOCKS: u32 = 2;
const PAYLOAD: u32 = 3;
const PRESENCES: u32 = 4;
const PENDING_BYTES: u32 = 5;
const WANTLIST_ENTRIES: u32 = 1;
const WANTLIST_FULL: u32 = 2;
const PAYLOAD_PREFIX: u32 = 1;
const PAYLOAD_DATA: u32 = 2;

/// Walks a frame. After an error nothing more is yielded.
#[derive(Debug)]
pub struct Items {
    rest: Bytes,
    wantlist: Bytes,
    failed: bool,
}

impl Items {
    /// `frame` is one message without its length prefix.
    pub fn new(frame: Bytes) -> Self {
        Self { rest: frame, wantlist: Bytes::new(), failed: false }
    }

    fn step(&mut self) -> Result<Option<Item>, MessageError> {
        while self.wantlist.has_remaining() {
            if let Some(bytes) = field(&mut self.wantlist, WANTLIST_ENTRIES)? {
                return entry(bytes).map(Some);
            }
        }
        while self.rest.has_remaining() {
            let (tag, wire) = decode_key(&mut self.rest).map_err(|_| MessageError::Malformed)?;
            match (tag, wire) {
                (WANTLIST, WireType::LengthDelimited) => {
                    self.wantlist = delimited(&mut self.rest)?;
                    return Ok(Some(Item::Wantlist { full: is_full(self.wantlist.clone())? }));
                }
                (BLOCKS, WireType::LengthDelimited) => {
                    return block(None, delimited(&mut self.rest)?).map(Some);
                }
                (PAYLOAD, WireType::LengthDelimited) => {
                    let payload = Payload::decode(delimited(&mut self.rest)?).map_err(|_| MessageError::Malformed)?;
                    return block(Some(payload.prefix), payload.data).map(Some);
                }
                (PRESENCES, WireType::LengthDelimited) => {
                    let presence = Presence::decode(delimited(&mut self.rest)?).map_err(|_| MessageError::Malformed)?;
                    return Ok(Some(match (Cid::try_from(&presence.cid[..]), presence.kind) {
                        (Ok(cid), 0) => Item::Have { cid },
                        (Ok(cid), 1) => Item::DontHave { cid },
                        _ => Item::Unknown,
                    }));
                }
                _ => skip_field(wire, tag, &mut self.rest, DecodeContext::default())
                    .map_err(|_| MessageError::Malformed)?,
            }
        }
        Ok(None)
    }
}

impl Iterator for Items {
    type Item = Result<Item, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

/// Hashes a payload and names it by the CID that its prefix describes (1.1: version, codec, hash, digest length).
/// The bytes are detached from the frame when they are a small part of it, so that a cached block does not hold on to
/// megabytes of neighbours.
pub fn verify(prefix: Option<&Bytes>, data: Bytes, frame_len: usize) -> Result<Block, MessageError> {
    let data = if data.len() * 2 < frame_len { Bytes::copy_from_slice(&data) } else { data };
    let Some(prefix) = prefix else {
        return encode_block(0, codec::DAG_PB, u64::from(HashCode::Sha2_256), 32, data);
    };
    let mut fields = [0u64; 4];
    let mut rest = &prefix[..];
    for field in &mut fields {
        *field = decode_varint(&mut rest).map_err(|_| MessageError::BadPrefix)?;
    }
    let [version, codec, hash, length] = fields;
    encode_block(version, codec, hash, length, data)
}

fn encode_block(version: u64, codec: u64, hash: u64, length: u64, data: Bytes) -> Result<Block, MessageError> {
    let code = HashCode::try_from(hash).map_err(|_| MessageError::UnsupportedHash)?;
    let block = Block::encode(codec, code, data).map_err(|error| match error {
        BlockError::TooLarge { .. } => MessageError::BlockTooLarge,
        _ => MessageError::BadPrefix,
    })?;
    let digest = *block.cid().hash();
    if u64::from(digest.size()) != length {
        return Err(MessageError::BadPrefix);
    }
    match version {
        0 => Cid::new_v0(digest).ok().and_then(|cid| block.with_cid(cid)).ok_or(MessageError::BadPrefix),
        1 => Ok(block),
        _ => Err(MessageError::BadPrefix),
    }
}

fn block(prefix: Option<Bytes>, data: Bytes) -> Result<Item, MessageError> {
    if data.len() > MAX_BLOCK_SIZE {
        return Err(MessageError::BlockTooLarge);
    }
    Ok(Item::Block { prefix, data })
}

fn entry(bytes: Bytes) -> Result<Item, MessageError> {
    let entry = Entry::decode(bytes).map_err(|_| MessageError::Malformed)?;
    let Ok(cid) = Cid::try_from(&entry.block[..]) else { return Ok(Item::Unknown) };
    Ok(match (entry.cancel, entry.want_type) {
        (true, _) => Item::Cancel { cid },
        (false, 0) => {
            Item::Want { cid, kind: WantKind::Block, priority: entry.priority, send_dont_have: entry.send_dont_have }
        }
        (false, 1) => {
            Item::Want { cid, kind: WantKind::Have, priority: entry.priority, send_dont_have: entry.send_dont_have }
        }
        _ => Item::Unknown,
    })
}

/// The next field: its bytes when it is the wanted length-delimited one, `None` when another was skipped.
fn field(from: &mut Bytes, wanted: u32) -> Result<Option<Bytes>, MessageError> {
    let (tag, wire) = decode_key(from).map_err(|_| MessageError::Malformed)?;
    if tag == wanted && wire == WireType::LengthDelimited {
        return delimited(from).map(Some);
    }
    skip_field(wire, tag, from, DecodeContext::default()).map_err(|_| MessageError::Malformed)?;
    Ok(None)
}

fn delimited(from: &mut Bytes) -> Result<Bytes, MessageError> {
    let length = decode_varint(from).map_err(|_| MessageError::Malformed)?;
    let length = usize::try_from(length).map_err(|_| MessageError::Malformed)?;
    if length > from.remaining() {
        return Err(MessageError::Malformed);
    }
    Ok(from.split_to(length))
}

/// `full` may stand behind the entries, and decides what they mean.
fn is_full(mut wantlist: Bytes) -> Result<bool, MessageError> {
    let mut full = false;
    while wantlist.has_remaining() {
        let (tag, wire) = decode_key(&mut wantlist).map_err(|_| MessageError::Malformed)?;
        if tag == WANTLIST_FULL && wire == WireType::Varint {
            full = decode_varint(&mut wantlist).map_err(|_| MessageError::Malformed)? != 0;
        } else {
            skip_field(wire, tag, &mut wantlist, DecodeContext::default()).map_err(|_| MessageError::Malformed)?;
        }
    }
    Ok(full)
}

/// A message of ours before it is written.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// Replace what the peer holds of our wants.
    pub full: bool,
    pub cancels: Vec<Cid>,
    pub wants: Vec<(Cid, WantKind, i32)>,
    pub presences: Vec<(Cid, bool)>,
    pub blocks: Vec<Block>,
    /// Bytes of blocks that wait behind this message.
    pub pending_bytes: i32,
}

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        !self.full
            && self.cancels.is_empty()
            && self.wants.is_empty()
            && self.presences.is_empty()
            && self.blocks.is_empty()
    }

    /// The frame as pieces to write one after another; payloads are not copied. The caller keeps the sum within
    /// [`MAX_MESSAGE_SIZE`].
    pub fn encode(&self, version: Version) -> Vec<Bytes> {
        let mut head = BytesMut::new();
        self.encode_wantlist(&mut head);
        if version >= Version::V1_2 {
            for (cid, have) in &self.presences {
                let presence = Presence { cid: cid.to_bytes().into(), kind: i32::from(!have) };
                put_message(PRESENCES, &presence, &mut head);
            }
            if self.pending_bytes > 0 {
                encode_key(PENDING_BYTES, WireType::Varint, &mut head);
                encode_varint(self.pending_bytes as u64, &mut head);
            }
        }
        let mut pieces = Vec::with_capacity(2 + self.blocks.len() * 2);
        pieces.push(Bytes::new()); // the length prefix, when it is known
        for block in &self.blocks {
            if version >= Version::V1_1 {
                let prefix = prefix_of(block.cid());
                encode_key(PAYLOAD, WireType::LengthDelimited, &mut head);
                encode_varint(payload_len(&prefix, block.len()) as u64, &mut head);
                encode_key(PAYLOAD_PREFIX, WireType::LengthDelimited, &mut head);
                encode_varint(prefix.len() as u64, &mut head);
                head.put_slice(&prefix);
                encode_key(PAYLOAD_DATA, WireType::LengthDelimited, &mut head);
            } else {
                encode_key(BLOCKS, WireType::LengthDelimited, &mut head);
            }
            encode_varint(block.len() as u64, &mut head);
            pieces.push(head.split().freeze());
            pieces.push(block.data().clone());
        }
        if !head.is_empty() {
            pieces.push(head.split().freeze());
        }
        let total: usize = pieces.iter().map(Bytes::len).sum();
        encode_varint(total as u64, &mut head);
        pieces[0] = head.freeze();
        pieces
    }

    fn encode_wantlist(&self, head: &mut BytesMut) {
        if !self.full && self.cancels.is_empty() && self.wants.is_empty() {
            return;
        }
        let mut list = BytesMut::new();
        for cid in &self.cancels {
            let entry = Entry { block: cid.to_bytes().into(), cancel: true, ..Entry::default() };
            put_message(WANTLIST_ENTRIES, &entry, &mut list);
        }
        for (cid, kind, priority) in &self.wants {
            let entry = Entry {
                block: cid.to_bytes().into(),
                priority: *priority,
                cancel: false,
                want_type: i32::from(*kind == WantKind::Have),
                send_dont_have: true,
            };
            put_message(WANTLIST_ENTRIES, &entry, &mut list);
        }
        if self.full {
            encode_key(WANTLIST_FULL, WireType::Varint, &mut list);
            encode_varint(1, &mut list);
        }
        encode_key(WANTLIST, WireType::LengthDelimited, head);
        encode_varint(list.len() as u64, head);
        head.extend_from_slice(&list);
    }
}

impl Version {
    pub fn name(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::Unversioned => "/ipfs/bitswap",
            Self::V1_0 => "/ipfs/bitswap/1.0.0",
            Self::V1_1 => "/ipfs/bitswap/1.1.0",
            Self::V1_2 => "/ipfs/bitswap/1.2.0",
        })
    }
}

fn put_message<M: prost::Message>(tag: u32, message: &M, into: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, into);
    encode_varint(message.encoded_len() as u64, into);
    // Local invariant: a BytesMut grows as it is written, so encoding cannot run out of room.
    message.encode(into).expect("a growing buffer has room");
}

fn prefix_of(cid: &Cid) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(16);
    encode_varint(u64::from(cid.version()), &mut prefix);
    encode_varint(cid.codec(), &mut prefix);
    encode_varint(cid.hash().code(), &mut prefix);
    encode_varint(u64::from(cid.hash().size()), &mut prefix);
    prefix
}

fn payload_len(prefix: &[u8], data: usize) -> usize {
    let field = |len: usize| 1 + prost::encoding::encoded_len_varint(len as u64) + len;
    field(prefix.len()) + field(data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(data: &[u8]) -> Block {
        Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::copy_from_slice(data)).unwrap()
    }

    fn joined(message: &Outgoing, version: Version) -> Bytes {
        let pieces = message.encode(version);
        let mut all = BytesMut::new();
        pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        let mut all = all.freeze();
        let length = decode_varint(&mut all).unwrap();
        assert_eq!(length as usize, all.len());
        all
    }

    fn items(frame: Bytes) -> Result<Vec<Item>, MessageError> {
        Items::new(frame).collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(
            datas in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            wants in proptest::collection::vec((any::<u64>(), any::<bool>(), any::<i32>()), 0..20),
            full in any::<bool>(),
        ) {
            let blocks: Vec<Block> = datas.iter().map(|data| block(data)).collect();
            let wants: Vec<_> = wants
                .into_iter()
                .map(|(seed, have, priority)| {
                    (*block(&seed.to_le_bytes()).cid(), if have { WantKind::Have } else { WantKind::Block }, priority)
                })
                .collect();
            let message = Outgoing {
                full,
                cancels: blocks.iter().map(|b| *b.cid()).collect(),
                wants: wants.clone(),
                presences: blocks.iter().enumerate().map(|(i, b)| (*b.cid(), i % 2 == 0)).collect(),
                blocks: blocks.clone(),
                pending_bytes: 7,
            };
            let read = items(joined(&message, Version::V1_2)).unwrap();
            let mut expected = Vec::new();
            if full || !wants.is_empty() || !blocks.is_empty() {
                expected.push(Item::Wantlist { full });
            }
            expected.extend(blocks.iter().map(|b| Item::Cancel { cid: *b.cid() }));
            expected.extend(wants.iter().map(|(cid, kind, priority)| Item::Want {
                cid: *cid, kind: *kind, priority: *priority, send_dont_have: true,
            }));
            expected.extend(blocks.iter().enumerate().map(|(i, b)| {
                if i % 2 == 0 { Item::Have { cid: *b.cid() } } else { Item::DontHave { cid: *b.cid() } }
            }));
            expected.extend(blocks.iter().map(|b| Item::Block {
                prefix: Some(prefix_of(b.cid()).into()), data: b.data().clone(),
            }));
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for item in Items::new(bytes.into()).flatten() {
                if let Item::Block { prefix, data } = item {
                    let _ = verify(prefix.as_ref(), data, 0);
                }
            }
        }

        #[test]
        fn a_cut_message_is_an_error_or_a_shorter_message(cut in 0usize..600) {
            let message = Outgoing { blocks: vec![block(&[1; 200]), block(&[2; 300])], ..Outgoing::default() };
            let frame = joined(&message, Version::V1_2);
            let _ = items(frame.slice(..cut.min(frame.len())));
        }
    }

    #[test]
    fn payloads_are_slices_of_the_frame() {
        let message = Outgoing { blocks: vec![block(&[7; 4096])], ..Outgoing::default() };
        let frame = joined(&message, Version::V1_2);
        let inside = frame.as_ptr() as usize..frame.as_ptr() as usize + frame.len();
        let Item::Block { prefix, data } = items(frame.clone()).unwrap().remove(0) else { panic!() };
        assert!(inside.contains(&(data.as_ptr() as usize)));
        assert_eq!(verify(prefix.as_ref(), data, frame.len()).unwrap(), message.blocks[0]);
    }

    #[test]
    fn a_message_without_a_wantlist_is_read() {
        // boxo#961
        assert_eq!(items(Bytes::new()).unwrap(), vec![]);
        let only_presence = Outgoing { presences: vec![(*block(b"x").cid(), false)], ..Outgoing::default() };
        assert_eq!(items(joined(&only_presence, Version::V1_2)).unwrap().len(), 1);
    }

    #[test]
    fn blocks_of_the_first_protocol_are_cidv0() {
        let message = Outgoing { blocks: vec![block(b"old")], ..Outgoing::default() };
        let Item::Block { prefix: None, data } = items(joined(&message, Version::V1_0)).unwrap().remove(0) else {
            panic!()
        };
        assert_eq!(verify(None, data, 0).unwrap().cid().version(), cid::Version::V0);
    }

    #[test]
    fn prefixes_that_name_no_accepted_hash_are_refused() {
        let refused = |prefix: &[u8]| verify(Some(&Bytes::copy_from_slice(prefix)), Bytes::from_static(b"x"), 0);
        assert_eq!(refused(&[1, 0x55, 0x11, 20]), Err(MessageError::UnsupportedHash));
        assert_eq!(refused(&[1, 0x55, 0x12, 31]), Err(MessageError::BadPrefix));
        assert_eq!(refused(&[9, 0x55, 0x12, 32]), Err(MessageError::BadPrefix));
        assert_eq!(refused(&[1, 0x55]), Err(MessageError::BadPrefix));
        assert_eq!(refused(&[0, 0x55, 0x12, 32]).unwrap().cid().codec(), codec::DAG_PB);
    }

    #[test]
    fn a_block_over_two_mebibytes_is_refused_before_it_is_hashed() {
        let mut frame = BytesMut::new();
        let payload =
            Payload { prefix: Bytes::from_static(&[1, 0x55, 0x12, 32]), data: vec![0; MAX_BLOCK_SIZE + 1].into() };
        put_message(PAYLOAD, &payload, &mut frame);
        assert_eq!(items(frame.freeze()), Err(MessageError::BlockTooLarge));
    }
}
