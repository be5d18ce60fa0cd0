//! The protobuf wire format, read by hand: no declared length is believed before it is checked against what is there.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use bytes::{BufMut, Bytes};
use thiserror::Error;

/// Why bytes are not a protobuf message.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    #[error("varint is longer than 64 bits or cut off")]
    Varint,
    #[error("field is cut off")]
    Truncated,
    #[error("wire type {0} is not supported")]
    WireType(u8),
    #[error("field number 0 or over 2^29-1")]
    FieldNumber,
}

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the fields of one message, in the order in which they lie.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; `None` at the end of the message.
    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n)).ok_or(WireError::FieldNumber)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(WireError::WireType(other as u8)),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let (value, used) = read_varint(self.rest).ok_or(WireError::Varint)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// The varint at the start of `bytes` and its length; `None` if it is cut off or over 64 bits.
pub fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// The number of bytes that `value` takes as a varint: 1 to 10.
pub const fn varint_len(value: u64) -> usize {
    if value == 0 { 1 } else { (64 - value.leading_zeros() as usize).div_ceil(7) }
}

pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub fn put_varint_field(out: &mut impl BufMut, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

pub fn put_bytes_field(out: &mut impl BufMut, number: u32, value: &[u8]) {
    put_varint(out, (u64::from(number) << 3) | 2);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

/// `part` of `whole` without a copy. `part` must lie in `whole`; an empty part is empty anywhere.
pub fn share(whole: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { whole.slice_ref(part) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_varint_over_64_bits_or_cut_off_is_refused() {
        assert_eq!(read_varint(&[0xff; 9]), None);
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), None);
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Some((u64::MAX, 10)));
        assert_eq!(read_varint(&[]), None);
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        let mut message = vec![0x0a];
        put_varint(&mut message, u64::MAX);
        assert_eq!(Fields::new(&message).next(), Err(WireError::Truncated));
        assert_eq!(Fields::new(&[0x00, 0x00]).next(), Err(WireError::FieldNumber));
        assert_eq!(Fields::new(&[0x0b]).next(), Err(WireError::WireType(3)));
    }

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_len(value));
            prop_assert_eq!(read_varint(&bytes), Some((value, bytes.len())));
        }
    }
}
