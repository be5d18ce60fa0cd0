//! DAG-CBOR, as far as links need it: a cursor over heads, and a walk that keeps its own stack.
//!
//! Source: <https://ipld.io/specs/codecs/dag-cbor/spec/>, RFC 8949. Map order and shortest forms are not insisted on.

use super::{CodecError, MAX_NESTING, push};
use crate::ipld::cid::{self, Cid};

/// The only tag that DAG-CBOR knows: a CID as a byte string after a zero byte.
const LINK_TAG: u64 = 42;

/// The start of one CBOR item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    Unsigned(u64),
    Negative(u64),
    /// Byte string of that many bytes, which follow.
    Bytes(u64),
    /// Text of that many bytes, which follow.
    Text(u64),
    /// That many items follow.
    List(u64),
    /// That many pairs follow.
    Map(u64),
    Tag(u64),
    /// `false`, `true`, `null`, `undefined` or a float; its bytes are passed.
    Simple,
}

/// A position in CBOR bytes.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn head(&mut self) -> Result<Head, CodecError> {
        let first = self.take(1)?[0];
        let info = first & 0x1f;
        let value = match info {
            0..=23 => u64::from(info),
            24 => self.big_endian(1)?,
            25 => self.big_endian(2)?,
            26 => self.big_endian(4)?,
            27 => self.big_endian(8)?,
            31 => return Err(CodecError::Cbor("indefinite lengths are not allowed")),
            _ => return Err(CodecError::Cbor("reserved additional information")),
        };
        Ok(match first >> 5 {
            0 => Head::Unsigned(value),
            1 => Head::Negative(value),
            2 => Head::Bytes(value),
            3 => Head::Text(value),
            4 => Head::List(value),
            5 => Head::Map(value),
            6 => Head::Tag(value),
            _ if info >= 25 || (20..=23).contains(&info) => Head::Simple,
            _ => return Err(CodecError::Cbor("simple value is not known")),
        })
    }

    /// The `length` bytes that follow; a declared length is believed only as far as there are bytes.
    pub fn bytes(&mut self, length: u64) -> Result<&'a [u8], CodecError> {
        self.take(usize::try_from(length).map_err(|_| CodecError::Truncated)?)
    }

    pub fn text(&mut self, length: u64) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes(length)?).map_err(|_| CodecError::Cbor("text is not UTF-8"))
    }

    /// The CID after a link tag.
    pub fn link(&mut self) -> Result<Cid, CodecError> {
        let Head::Bytes(length) = self.head()? else {
            return Err(CodecError::Cbor("link tag without a byte string"));
        };
        match self.bytes(length)? {
            [0, cid @ ..] => Ok(cid::from_bytes(cid)?),
            _ => Err(CodecError::Cbor("link without its zero byte")),
        }
    }

    /// Passes one whole item, and hands each link in it to `on_link`.
    pub fn item(&mut self, mut on_link: impl FnMut(Cid) -> Result<(), CodecError>) -> Result<(), CodecError> {
        // What is still to come in each open list or map: items left, and whether they are a map's.
        let mut open: Vec<(u64, bool)> = Vec::new();
        loop {
            if let Some((left, true)) = open.last()
                && left % 2 == 0
            {
                let Head::Text(length) = self.head()? else {
                    return Err(CodecError::Cbor("map key is not text"));
                };
                self.text(length)?;
                close_one(&mut open);
            }
            let mut opened = None;
            match self.head()? {
                Head::Unsigned(_) | Head::Negative(_) | Head::Simple => {}
                Head::Bytes(length) => drop(self.bytes(length)?),
                Head::Text(length) => drop(self.text(length)?),
                Head::Tag(LINK_TAG) => on_link(self.link()?)?,
                Head::Tag(_) => return Err(CodecError::Cbor("tag is not the link tag")),
                Head::List(items) => opened = Some((items, false)),
                Head::Map(pairs) => opened = Some((pairs.checked_mul(2).ok_or(CodecError::Truncated)?, true)),
            }
            // This item counts as one of its parent's from here on; what it opened is kept above it.
            close_one(&mut open);
            if let Some(opened) = opened {
                if open.len() == MAX_NESTING {
                    return Err(CodecError::TooDeep);
                }
                if opened.0 > self.rest.len() as u64 {
                    return Err(CodecError::Truncated);
                }
                open.push(opened);
            }
            while open.last().is_some_and(|(left, _)| *left == 0) {
                open.pop();
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    fn big_endian(&mut self, length: usize) -> Result<u64, CodecError> {
        Ok(self.take(length)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The links of one DAG-CBOR block.
pub(super) fn links(bytes: &[u8]) -> Result<Vec<Cid>, CodecError> {
    let mut cursor = Cursor::new(bytes);
    let mut links = Vec::new();
    cursor.item(|cid| push(&mut links, cid))?;
    match cursor.remaining() {
        0 => Ok(links),
        more => Err(CodecError::TrailingBytes(more)),
    }
}

fn close_one(open: &mut [(u64, bool)]) {
    if let Some((left, _)) = open.last_mut() {
        *left -= 1;
    }
}
