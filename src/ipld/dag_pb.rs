//! DAG-PB: the protobuf node with links that UnixFS is built on.
//!
//! Source: <https://ipld.io/specs/codecs/dag-pb/spec/>. As that specification's decoder: links may lie before or after
//! the data (both are found in the wild), but neither may lie between the other's parts; unknown fields, wrong wire
//! types and fields out of order in a link are refused.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::cid::{Cid, CidError};
use super::wire::{Fields, Value, WireError, put_bytes_field, put_varint, put_varint_field, share, varint_len};
use super::{Block, MAX_BLOCK_SIZE, cid};

/// The most links that one node may have. A block of 2 MiB has room for about 52,000 links of a SHA-256 CID each; what
/// has more is made of tiny identity links to cost memory.
pub const MAX_LINKS: usize = 65_536;

/// A DAG-PB node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PbNode {
    pub links: Vec<PbLink>,
    /// Absent and empty are different things.
    pub data: Option<Bytes>,
}

/// A link of a [`PbNode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PbLink {
    pub cid: Cid,
    pub name: Option<String>,
    /// The cumulative size of the linked graph in bytes, as its maker claims. Wrong ones exist; nothing may rely on it.
    pub tsize: Option<u64>,
}

/// Why bytes are not a DAG-PB node.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DagPbError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("node of {0} bytes is over the limit of {MAX_BLOCK_SIZE}")]
    TooLarge(usize),
    #[error("node has more than {MAX_LINKS} links")]
    TooManyLinks,
    #[error("unknown field {0} in a node")]
    NodeField(u32),
    #[error("unknown field {0} in a link")]
    LinkField(u32),
    #[error("field {0} has the wrong wire type")]
    WrongType(u32),
    #[error("data occurs twice")]
    DuplicateData,
    #[error("links lie on both sides of the data")]
    SplitLinks,
    #[error("the fields of a link are repeated or out of order")]
    LinkOrder,
    #[error("link without a CID")]
    MissingHash,
    #[error("link name is not UTF-8")]
    Name,
    #[error("link to what is not a CID: {0}")]
    Cid(#[from] CidError),
}

impl PbNode {
    /// Reads a node; its data shares the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, DagPbError> {
        if bytes.len() > MAX_BLOCK_SIZE {
            return Err(DagPbError::TooLarge(bytes.len()));
        }
        let mut fields = Fields::new(bytes);
        let mut node = Self::default();
        let mut links_ended = false;
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(data)) => {
                    if node.data.is_some() {
                        return Err(DagPbError::DuplicateData);
                    }
                    node.data = Some(share(bytes, data));
                    links_ended = !node.links.is_empty();
                }
                (2, Value::Bytes(link)) => {
                    if links_ended {
                        return Err(DagPbError::SplitLinks);
                    }
                    if node.links.len() == MAX_LINKS {
                        return Err(DagPbError::TooManyLinks);
                    }
                    node.links.push(PbLink::decode(link)?);
                }
                (1 | 2, _) => return Err(DagPbError::WrongType(number)),
                _ => return Err(DagPbError::NodeField(number)),
            }
        }
        Ok(node)
    }

    /// The canonical bytes: links first, in the order given (the caller sorts where the format above wants it), then data.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        for link in &self.links {
            put_varint(&mut out, (2 << 3) | 2);
            put_varint(&mut out, link.body_len() as u64);
            link.encode_into(&mut out);
        }
        if let Some(data) = &self.data {
            put_bytes_field(&mut out, 1, data);
        }
        out.freeze()
    }

    /// The length of [`PbNode::encode`], without encoding.
    pub fn encoded_len(&self) -> usize {
        let data = self.data.as_ref().map_or(0, |data| bytes_field_len(data.len()));
        self.links.iter().map(PbLink::encoded_len).sum::<usize>() + data
    }
}

impl PbLink {
    fn decode(message: &[u8]) -> Result<Self, DagPbError> {
        let mut fields = Fields::new(message);
        let mut hash = None;
        let mut name = None;
        let mut tsize = None;
        let mut last = 0;
        while let Some((number, value)) = fields.next()? {
            if (1..=3).contains(&number) && number <= last {
                return Err(DagPbError::LinkOrder);
            }
            last = number;
            match (number, value) {
                (1, Value::Bytes(bytes)) => hash = Some(cid::from_bytes(bytes)?),
                (2, Value::Bytes(bytes)) => {
                    name = Some(std::str::from_utf8(bytes).map_err(|_| DagPbError::Name)?.to_owned());
                }
                (3, Value::Varint(size)) => tsize = Some(size),
                (1..=3, _) => return Err(DagPbError::WrongType(number)),
                _ => return Err(DagPbError::LinkField(number)),
            }
        }
        Ok(Self { cid: hash.ok_or(DagPbError::MissingHash)?, name, tsize })
    }

    fn encode_into(&self, out: &mut BytesMut) {
        put_varint(out, (1 << 3) | 2);
        put_varint(out, self.cid.encoded_len() as u64);
        // Local invariant: writing into memory that grows does not fail.
        self.cid.write_bytes((&mut *out).writer()).expect("memory takes every byte");
        if let Some(name) = &self.name {
            put_bytes_field(out, 2, name.as_bytes());
        }
        if let Some(tsize) = self.tsize {
            put_varint_field(out, 3, tsize);
        }
    }

    fn body_len(&self) -> usize {
        bytes_field_len(self.cid.encoded_len())
            + self.name.as_ref().map_or(0, |name| bytes_field_len(name.len()))
            + self.tsize.map_or(0, |tsize| 1 + varint_len(tsize))
    }

    /// How many bytes this link adds to its node's block.
    pub fn encoded_len(&self) -> usize {
        bytes_field_len(self.body_len())
    }
}

impl TryFrom<&Block> for PbNode {
    type Error = DagPbError;

    fn try_from(block: &Block) -> Result<Self, DagPbError> {
        Self::decode(block.data())
    }
}

const fn bytes_field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipld::{HashCode, cid::codec};

    fn leaf(text: &'static [u8]) -> Cid {
        *Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from_static(text)).unwrap().cid()
    }

    fn any_cid() -> impl Strategy<Value = Cid> {
        (
            prop_oneof![Just(codec::RAW), Just(codec::DAG_PB), Just(codec::DAG_CBOR)],
            prop::collection::vec(any::<u8>(), 0..128),
        )
            .prop_map(|(codec, digest)| Cid::new_v1(codec, crate::ipld::Multihash::wrap(0, &digest).unwrap()))
    }

    prop_compose! {
        fn any_node()(
            links in prop::collection::vec((any_cid(), prop::option::of(".{0,12}"), prop::option::of(any::<u64>())), 0..8),
            data in prop::option::of(prop::collection::vec(any::<u8>(), 0..64)),
        ) -> PbNode {
            PbNode {
                links: links.into_iter().map(|(cid, name, tsize)| PbLink { cid, name, tsize }).collect(),
                data: data.map(Bytes::from),
            }
        }
    }

    proptest! {
        #[test]
        fn nodes_round_trip(node in any_node()) {
            let bytes = node.encode();
            prop_assert_eq!(bytes.len(), node.encoded_len());
            prop_assert_eq!(PbNode::decode(&bytes).unwrap(), node);
        }

        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = PbNode::decode(&Bytes::from(bytes));
        }

        #[test]
        fn a_damaged_node_decodes_or_fails_without_panic(node in any_node(), at: prop::sample::Index, byte: u8) {
            let mut bytes = node.encode().to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = PbNode::decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn links_may_follow_the_data_but_not_surround_it() {
        let link = PbLink { cid: leaf(b"a"), name: None, tsize: None };
        let links = PbNode { links: vec![link.clone()], data: None }.encode();
        let data = PbNode { links: vec![], data: Some(Bytes::from_static(b"x")) }.encode();
        let joined = |parts: &[&Bytes]| Bytes::from(parts.iter().flat_map(|p| p.to_vec()).collect::<Vec<u8>>());
        let expected = PbNode { links: vec![link], data: Some(Bytes::from_static(b"x")) };
        assert_eq!(PbNode::decode(&joined(&[&links, &data])).unwrap(), expected);
        assert_eq!(PbNode::decode(&joined(&[&data, &links])).unwrap(), expected);
        assert_eq!(PbNode::decode(&joined(&[&links, &data, &links])), Err(DagPbError::SplitLinks));
        assert_eq!(PbNode::decode(&joined(&[&data, &links, &data])), Err(DagPbError::DuplicateData));
    }

    // The cases of the DAG-PB specification's table of bad forms, and of CVE-2022-2584 (a node that cannot be walked).
    #[test]
    fn malformed_nodes_are_refused() {
        let cases: [(&str, DagPbError); 9] = [
            ("0000", DagPbError::Wire(WireError::FieldNumber)),
            ("0800", DagPbError::WrongType(1)),
            ("1200", DagPbError::MissingHash),
            ("12020a00", DagPbError::Cid(CidError::Syntax(String::new()))),
            ("120418001800", DagPbError::LinkOrder),
            ("12021202", DagPbError::Wire(WireError::Truncated)),
            ("1a00", DagPbError::NodeField(3)),
            ("12022200", DagPbError::LinkField(4)),
            ("12031201ff", DagPbError::Name),
        ];
        for (text, expected) in cases {
            let got = PbNode::decode(&Bytes::from(hex::decode(text).unwrap())).unwrap_err();
            assert_eq!(std::mem::discriminant(&got), std::mem::discriminant(&expected), "{text}: {got}");
        }
    }

    #[test]
    fn a_cid_with_bytes_after_it_is_refused() {
        let mut message = leaf(b"a").to_bytes();
        message.push(0);
        let mut link = Vec::new();
        put_bytes_field(&mut link, 1, &message);
        let mut node = Vec::new();
        put_bytes_field(&mut node, 2, &link);
        assert!(matches!(PbNode::decode(&node.into()), Err(DagPbError::Cid(_))));
    }

    #[test]
    fn too_many_links_are_refused() {
        let link =
            PbLink { cid: Cid::new_v1(codec::RAW, HashCode::Identity.digest(b"").unwrap()), name: None, tsize: None };
        let bytes = PbNode { links: vec![link; MAX_LINKS + 1], data: None }.encode();
        assert!(bytes.len() < MAX_BLOCK_SIZE);
        assert_eq!(PbNode::decode(&bytes), Err(DagPbError::TooManyLinks));
    }

    #[test]
    fn the_data_shares_the_blocks_memory() {
        let bytes = PbNode { links: vec![], data: Some(Bytes::from(vec![7u8; 100])) }.encode();
        let data = PbNode::decode(&bytes).unwrap().data.unwrap();
        assert_eq!(data.as_ptr(), bytes[bytes.len() - 100..].as_ptr());
    }
}
