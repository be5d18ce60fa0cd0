//! CAR v1 (<https://ipld.io/specs/transport/car/carv1/>), as far as the bench needs it.

use std::io;

/// (CID, data) of each block of a CAR v1 of CIDv1 blocks.
pub fn blocks(mut bytes: &[u8]) -> io::Result<Vec<(&[u8], &[u8])>> {
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

/// Takes an unsigned LEB128 number off the front.
pub fn varint(bytes: &mut &[u8]) -> io::Result<u64> {
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
        let found = blocks(&bytes).unwrap();
        assert_eq!(found, [(&cid(7)[..], &b"seven"[..]), (&cid(9)[..], &[5; 200][..])]);
        assert!(blocks(&bytes[..bytes.len() - 1]).is_err());
        assert!(blocks(&[0xff; 12]).is_err());
    }
}
