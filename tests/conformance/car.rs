//! A CARv1 reader for the checks: strict, and with nothing of the server's in it.

use multihash_codetable::{Code, MultihashDigest};

/// The CIDs of the blocks in their order; every block is hashed. An error where go-car's reader has one.
pub fn blocks(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut rest = bytes;
    let header = section(&mut rest)?.ok_or("no header")?;
    // {"roots": [CID, ...], "version": 1}
    if !header.starts_with(&[0xa2, 0x65]) || !header.ends_with(b"gversion\x01") {
        return Err(format!("the header is not that of version 1: {}", hex::encode(header)));
    }
    match header.get(7) {
        Some(0x81..=0x97) => {}
        _ => return Err("the header has no root, which go-car refuses".to_owned()),
    }
    let mut found = Vec::new();
    while let Some(section) = section(&mut rest)? {
        let mut data = section;
        let cid = cid::Cid::read_bytes(&mut data).map_err(|error| format!("block {}: {error}", found.len()))?;
        let code = Code::try_from(cid.hash().code()).map_err(|_| format!("{cid}: hash of another kind, or none"))?;
        if code.digest(data) != *cid.hash() {
            return Err(format!("{cid}: the block's bytes hash to something else"));
        }
        found.push(cid.to_string());
    }
    Ok(found)
}

fn section<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (length, after) = unsigned_varint::decode::usize(rest).map_err(|error| format!("length: {error}"))?;
    let (section, after) = after.split_at_checked(length).ok_or("cut off within a section")?;
    *rest = after;
    Ok(Some(section))
}
