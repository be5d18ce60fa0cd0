//! CAR files: a reader that is pushed bytes and gives verified blocks, and the parts of a writer.
//!
//! Sources: <https://ipld.io/specs/transport/car/carv1/>, <https://ipld.io/specs/transport/car/carv2/>. Version 1 is
//! read and written; of version 2 the payload is read and the index passed over. Every declared length is checked
//! against its limit before any memory is taken for it (GHSA-9x4h-8wgm-8xfg, GHSA-f2gr-7299-487h).

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::cid::{Cid, CidError};
use super::codec::CodecError;
use super::codec::cbor::{Cursor, Head};
use super::wire::{put_varint, read_varint};
use super::{Block, BlockError, MAX_BLOCK_SIZE, cid};

const MAX_HEADER_BYTES: usize = 1024 * 1024;
const MAX_ROOTS: usize = 10_000;
/// The longest CID: version and codec as varints, an identity multihash of 128 bytes, with room to spare.
const MAX_CID_BYTES: usize = 160;
/// What may lie between the header of a CARv2 and its payload, in bytes.
const MAX_PADDING_BYTES: u64 = 1024 * 1024;
/// The 11 bytes that a CARv2 starts with: a CARv1 header of version 2 without roots.
const V2_PRAGMA_LEN: u64 = 11;
const V2_HEADER_LEN: u64 = 40;

/// What a reader takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the CARv1 header.
    pub header: usize,
    /// Bytes of one section: a CID and its block.
    pub section: usize,
    pub roots: usize,
}

/// One thing that a CAR holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CarItem {
    /// Comes first, once. The roots need not be among the blocks.
    Header {
        roots: Vec<Cid>,
    },
    Block(Block),
}

/// Why bytes are not a CAR. After an error the reader gives nothing more.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CarError {
    #[error("header of {size} bytes is over the limit of {limit}")]
    HeaderTooLarge { size: u64, limit: usize },
    #[error("section of {size} bytes is over the limit of {limit}")]
    SectionTooLarge { size: u64, limit: usize },
    #[error("more than {0} roots")]
    TooManyRoots(usize),
    #[error("length is not a varint")]
    Varint,
    #[error("header or section of no bytes")]
    Empty,
    #[error("header: {0}")]
    HeaderCbor(#[from] CodecError),
    #[error("header: {0}")]
    Header(&'static str),
    #[error("CAR version {0} is not known")]
    Version(u64),
    #[error("CARv2 offsets do not fit together")]
    Offsets,
    #[error("section's CID: {0}")]
    Cid(#[from] CidError),
    #[error("section {index}: {error}")]
    Block { index: u64, error: BlockError },
    #[error("CAR ends in the middle of a header or section")]
    Truncated,
    #[error("CAR failed before")]
    Failed,
}

/// Reads a CAR as it comes. Push what arrived, then call [`CarReader::next`] until it gives `None`; at the end of the
/// input call [`CarReader::finish`].
///
/// Holds at most what was pushed and not yet read: one section if the caller reads between pushes.
#[derive(Debug)]
pub struct CarReader {
    limits: Limits,
    buffer: BytesMut,
    state: State,
    /// Bytes of payload that are still to come; `None` where the payload ends with the input (CARv1).
    payload_left: Option<u64>,
    sections: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The header of version 1, or the pragma of version 2.
    Start,
    V2Header,
    /// Bytes to pass before the payload.
    Padding(u64),
    /// The header of the payload of a CARv2.
    InnerHeader,
    Sections,
    /// The payload of a CARv2 is over; the rest is index.
    Index,
    Failed,
}

impl CarReader {
    pub fn new(limits: Limits) -> Self {
        Self { limits, buffer: BytesMut::new(), state: State::Start, payload_left: None, sections: 0 }
    }

    /// Takes the next bytes of the input.
    pub fn push(&mut self, bytes: Bytes) {
        if !matches!(self.state, State::Index | State::Failed) {
            self.buffer.extend_from_slice(&bytes);
        }
    }

    /// The next item; `None` when more bytes are needed, or nothing more can come.
    #[allow(clippy::should_implement_trait)] // it is fallible, and `None` is not the end
    pub fn next(&mut self) -> Result<Option<CarItem>, CarError> {
        let result = self.step();
        if result.is_err() {
            self.state = State::Failed;
            self.buffer = BytesMut::new();
        }
        result
    }

    /// Says whether the input may end here: after a header or a whole section, and in a CARv2 after the payload.
    pub fn finish(&self) -> Result<(), CarError> {
        match self.state {
            State::Index => Ok(()),
            State::Sections if self.buffer.is_empty() && self.payload_left.is_none_or(|left| left == 0) => Ok(()),
            State::Failed => Err(CarError::Failed),
            _ => Err(CarError::Truncated),
        }
    }

    fn step(&mut self) -> Result<Option<CarItem>, CarError> {
        loop {
            match self.state {
                State::Failed => return Err(CarError::Failed),
                State::Index => return Ok(None),
                State::Start | State::InnerHeader => {
                    let Some(frame) = self.header_frame()? else { return Ok(None) };
                    let header = Header::decode(&frame, self.limits.roots)?;
                    match (header.version, self.state) {
                        (1, _) => {
                            self.state = State::Sections;
                            return Ok(Some(CarItem::Header {
                                roots: header.roots.ok_or(CarError::Header("no roots"))?,
                            }));
                        }
                        (2, State::Start) if frame.len() as u64 == V2_PRAGMA_LEN - 1 => self.state = State::V2Header,
                        (2, _) => return Err(CarError::Header("not the pragma of version 2")),
                        (other, _) => return Err(CarError::Version(other)),
                    }
                }
                State::V2Header => {
                    if !self.read_v2_header()? {
                        return Ok(None);
                    }
                }
                State::Padding(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                    self.buffer.advance(here);
                    match left - here as u64 {
                        0 => self.state = State::InnerHeader,
                        left => {
                            self.state = State::Padding(left);
                            return Ok(None);
                        }
                    }
                }
                State::Sections => {
                    if self.payload_left == Some(0) {
                        self.state = State::Index;
                        self.buffer = BytesMut::new();
                        return Ok(None);
                    }
                    return Ok(self.section()?.map(CarItem::Block));
                }
            }
        }
    }

    fn header_frame(&mut self) -> Result<Option<Vec<u8>>, CarError> {
        let limit = self.limits.header;
        self.frame(limit, |size| CarError::HeaderTooLarge { size, limit })
            .map(|frame| frame.map(|frame| frame.to_vec()))
    }

    fn section(&mut self) -> Result<Option<Block>, CarError> {
        let limit = self.limits.section;
        let Some(frame) = self.frame(limit, |size| CarError::SectionTooLarge { size, limit })? else {
            return Ok(None);
        };
        let (cid, used) = cid::read_prefix(&frame)?;
        let index = self.sections;
        self.sections += 1;
        // A copy of its own: a block that is kept must not keep the whole read buffer in memory.
        let data = Bytes::copy_from_slice(&frame[used..]);
        Block::verify(cid, data).map(Some).map_err(|error| CarError::Block { index, error })
    }

    /// The next length-prefixed part, once all of it is here.
    fn frame(&mut self, limit: usize, over: impl Fn(u64) -> CarError) -> Result<Option<BytesMut>, CarError> {
        let Some((size, used)) = read_varint(&self.buffer) else {
            return if self.buffer.len() < 10 { self.need_more() } else { Err(CarError::Varint) };
        };
        if size == 0 {
            return Err(CarError::Empty);
        }
        let length = usize::try_from(size).ok().filter(|length| *length <= limit).ok_or_else(|| over(size))?;
        let whole = used + length;
        if self.payload_left.is_some_and(|left| left < whole as u64) {
            return Err(CarError::Offsets);
        }
        if self.buffer.len() < whole {
            return self.need_more();
        }
        if let Some(left) = &mut self.payload_left {
            *left -= whole as u64;
        }
        self.buffer.advance(used);
        Ok(Some(self.buffer.split_to(length)))
    }

    /// Waits, unless the payload of a CARv2 cannot hold what is wanted.
    fn need_more(&self) -> Result<Option<BytesMut>, CarError> {
        match self.payload_left {
            Some(left) if self.buffer.len() as u64 >= left => Err(CarError::Offsets),
            _ => Ok(None),
        }
    }

    fn read_v2_header(&mut self) -> Result<bool, CarError> {
        if self.buffer.len() < V2_HEADER_LEN as usize {
            return Ok(false);
        }
        self.buffer.advance(16); // characteristics: whether the index is complete; the index is not read
        let (data, size, index) = (self.buffer.get_u64_le(), self.buffer.get_u64_le(), self.buffer.get_u64_le());
        let start = V2_PRAGMA_LEN + V2_HEADER_LEN;
        let padding = data.checked_sub(start).filter(|padding| *padding <= MAX_PADDING_BYTES);
        let end = data.checked_add(size).ok_or(CarError::Offsets)?;
        if size == 0 || (index != 0 && index < end) {
            return Err(CarError::Offsets);
        }
        self.state = State::Padding(padding.ok_or(CarError::Offsets)?);
        self.payload_left = Some(size);
        Ok(true)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { header: MAX_HEADER_BYTES, section: MAX_BLOCK_SIZE + MAX_CID_BYTES, roots: MAX_ROOTS }
    }
}

struct Header {
    version: u64,
    roots: Option<Vec<Cid>>,
}

impl Header {
    fn decode(bytes: &[u8], max_roots: usize) -> Result<Self, CarError> {
        let mut cursor = Cursor::new(bytes);
        let Head::Map(pairs) = cursor.head()? else {
            return Err(CarError::Header("not a map"));
        };
        let mut version = None;
        let mut roots = None;
        for _ in 0..pairs {
            let Head::Text(length) = cursor.head()? else {
                return Err(CarError::Header("map key is not text"));
            };
            match cursor.text(length)? {
                "version" => match (cursor.head()?, version) {
                    (Head::Unsigned(value), None) => version = Some(value),
                    _ => return Err(CarError::Header("version is not one number")),
                },
                "roots" if roots.is_none() => roots = Some(read_roots(&mut cursor, max_roots)?),
                "roots" => return Err(CarError::Header("roots occur twice")),
                _ => cursor.item(|_| Ok(()))?,
            }
        }
        if cursor.remaining() > 0 {
            return Err(CarError::Header("bytes after the map"));
        }
        Ok(Self { version: version.ok_or(CarError::Header("no version"))?, roots })
    }
}

fn read_roots(cursor: &mut Cursor<'_>, max: usize) -> Result<Vec<Cid>, CarError> {
    let Head::List(count) = cursor.head()? else {
        return Err(CarError::Header("roots are not a list"));
    };
    if count > max as u64 {
        return Err(CarError::TooManyRoots(max));
    }
    let mut roots = Vec::new();
    for _ in 0..count {
        match cursor.head()? {
            Head::Tag(42) => roots.push(cursor.link()?),
            _ => return Err(CarError::Header("root is not a link")),
        }
    }
    Ok(roots)
}

/// The header of a CARv1, with its length prefix.
pub fn header(roots: &[Cid]) -> Bytes {
    let mut body = Vec::new();
    body.push(0xa2);
    put_text(&mut body, "roots");
    put_head(&mut body, 4, roots.len() as u64);
    for root in roots {
        let bytes = root.to_bytes();
        put_head(&mut body, 6, 42);
        put_head(&mut body, 2, bytes.len() as u64 + 1);
        body.push(0);
        body.extend_from_slice(&bytes);
    }
    put_text(&mut body, "version");
    body.push(1);
    let mut out = BytesMut::with_capacity(body.len() + 3);
    put_varint(&mut out, body.len() as u64);
    out.extend_from_slice(&body);
    out.freeze()
}

/// One section of a CARv1 in two parts, to be written one after the other: length and CID, then the block's own bytes
/// (not copied).
pub fn frame(block: &Block) -> [Bytes; 2] {
    let cid = block.cid().to_bytes();
    let mut prefix = BytesMut::with_capacity(cid.len() + 5);
    put_varint(&mut prefix, (cid.len() + block.len()) as u64);
    prefix.extend_from_slice(&cid);
    [prefix.freeze(), block.data().clone()]
}

/// A CBOR head of the shortest form, as DAG-CBOR wants.
fn put_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..=23 => out.push(major | value as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_head(out, 3, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;
