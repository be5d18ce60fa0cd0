//! The protobuf message in a UnixFS node's data field.

use bytes::{Bytes, BytesMut};

use super::{Mtime, UnixFsError};
use crate::ipld::wire::{Fields, Value, put_bytes_field, put_varint, put_varint_field, read_varint, share};

/// The bits of `mode` that mean something: permissions, set-user, set-group, sticky.
const MODE_MASK: u32 = 0o7777;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// What kind of node it is; the numbers are the format's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    Raw = 0,
    Directory = 1,
    File = 2,
    Metadata = 3,
    Symlink = 4,
    HamtShard = 5,
}

/// The message as it lies in the block, before it is checked against the links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    pub kind: DataType,
    pub data: Option<Bytes>,
    pub filesize: Option<u64>,
    pub blocksizes: Vec<u64>,
    pub hash_type: Option<u64>,
    pub fanout: Option<u64>,
    pub mode: Option<u32>,
    pub mtime: Option<Mtime>,
}

impl Data {
    pub fn new(kind: DataType) -> Self {
        Self {
            kind,
            data: None,
            filesize: None,
            blocksizes: Vec::new(),
            hash_type: None,
            fanout: None,
            mode: None,
            mtime: None,
        }
    }

    /// Reads the message; its data shares the memory of `message`. Unknown fields are passed over, as protobuf wants.
    pub fn decode(message: &Bytes) -> Result<Self, UnixFsError> {
        let mut fields = Fields::new(message);
        let mut kind = None;
        let mut out = Self::new(DataType::Raw);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Varint(value)) => once(&mut kind, DataType::try_from(value)?, number)?,
                (2, Value::Bytes(bytes)) => once(&mut out.data, share(message, bytes), number)?,
                (3, Value::Varint(value)) => once(&mut out.filesize, value, number)?,
                (4, Value::Varint(value)) => out.blocksizes.push(value),
                (4, Value::Bytes(packed)) => unpack(packed, &mut out.blocksizes)?,
                (5, Value::Varint(value)) => once(&mut out.hash_type, value, number)?,
                (6, Value::Varint(value)) => once(&mut out.fanout, value, number)?,
                (7, Value::Varint(value)) => once(&mut out.mode, value as u32 & MODE_MASK, number)?,
                (8, Value::Bytes(bytes)) => once(&mut out.mtime, decode_mtime(bytes)?, number)?,
                (1..=8, _) => return Err(UnixFsError::Field(number)),
                _ => {}
            }
        }
        out.kind = kind.ok_or(UnixFsError::NoType)?;
        Ok(out)
    }

    /// The message, fields in ascending order and block sizes not packed, as every implementation writes it.
    pub fn encode(&self) -> Bytes {
        let mut out =
            BytesMut::with_capacity(self.data.as_ref().map_or(0, Bytes::len) + self.blocksizes.len() * 5 + 32);
        put_varint_field(&mut out, 1, self.kind as u64);
        if let Some(data) = &self.data {
            put_bytes_field(&mut out, 2, data);
        }
        if let Some(size) = self.filesize {
            put_varint_field(&mut out, 3, size);
        }
        for size in &self.blocksizes {
            put_varint_field(&mut out, 4, *size);
        }
        if let Some(hash) = self.hash_type {
            put_varint_field(&mut out, 5, hash);
        }
        if let Some(fanout) = self.fanout {
            put_varint_field(&mut out, 6, fanout);
        }
        if let Some(mode) = self.mode {
            put_varint_field(&mut out, 7, u64::from(mode));
        }
        if let Some(mtime) = self.mtime {
            let mut message = Vec::with_capacity(16);
            put_varint_field(&mut message, 1, mtime.secs as u64);
            if mtime.nanos > 0 {
                put_varint(&mut message, (2 << 3) | 5);
                message.extend_from_slice(&mtime.nanos.to_le_bytes());
            }
            put_bytes_field(&mut out, 8, &message);
        }
        out.freeze()
    }
}

impl TryFrom<u64> for DataType {
    type Error = UnixFsError;

    fn try_from(value: u64) -> Result<Self, UnixFsError> {
        Ok(match value {
            0 => Self::Raw,
            1 => Self::Directory,
            2 => Self::File,
            3 => Self::Metadata,
            4 => Self::Symlink,
            5 => Self::HamtShard,
            other => return Err(UnixFsError::UnknownType(other)),
        })
    }
}

fn once<T>(slot: &mut Option<T>, value: T, number: u32) -> Result<(), UnixFsError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(UnixFsError::Field(number)),
    }
}

fn unpack(mut packed: &[u8], into: &mut Vec<u64>) -> Result<(), UnixFsError> {
    while !packed.is_empty() {
        let (value, used) = read_varint(packed).ok_or(UnixFsError::Field(4))?;
        into.push(value);
        packed = &packed[used..];
    }
    Ok(())
}

fn decode_mtime(message: &[u8]) -> Result<Mtime, UnixFsError> {
    let mut fields = Fields::new(message);
    let mut secs = None;
    let mut nanos = None;
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Varint(value)) => once(&mut secs, value as i64, 8)?,
            (2, Value::Fixed32(value)) => once(&mut nanos, value, 8)?,
            (1 | 2, _) => return Err(UnixFsError::Mtime),
            _ => {}
        }
    }
    let nanos = nanos.unwrap_or(0);
    if nanos >= NANOS_PER_SECOND {
        return Err(UnixFsError::Mtime);
    }
    Ok(Mtime { secs: secs.ok_or(UnixFsError::Mtime)?, nanos })
}
