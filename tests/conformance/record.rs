//! Whether bytes are a valid IPNS record (IPNS specification §"Record verification"), without the server's own code.

use ipld_core::ipld::Ipld;
use libp2p::identity::PublicKey;

const MAX_RECORD: usize = 10 * 1024;

#[derive(Default)]
struct Record<'a> {
    value: &'a [u8],
    public_key: &'a [u8],
    signature_v2: &'a [u8],
    data: &'a [u8],
}

/// Checks that `bytes` are a record that `name` (a CID with the libp2p-key codec) signed.
pub fn check(name: &str, bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > MAX_RECORD {
        return Err(format!("{} bytes are more than a record has", bytes.len()));
    }
    let record = read(bytes)?;
    let cid: cid::CidGeneric<128> = name.parse().map_err(|error| format!("{name}: {error}"))?;
    let hash = cid.hash();
    let key = match (hash.code(), record.public_key) {
        (0, _) => hash.digest(),
        (0x12, []) => return Err("no public key where the name is only its hash".to_owned()),
        (0x12, key) => key,
        (code, _) => return Err(format!("name with hash {code:#x}")),
    };
    let key = PublicKey::try_decode_protobuf(key).map_err(|error| format!("public key: {error}"))?;
    let id = key.to_peer_id();
    if id.to_bytes() != hash.to_bytes() {
        return Err("the key is not that of the name".to_owned());
    }
    let signed = [b"ipns-signature:", record.data].concat();
    if !key.verify(&signed, record.signature_v2) {
        return Err("signatureV2 does not match".to_owned());
    }
    let data: Ipld = serde_ipld_dagcbor::from_slice(record.data).map_err(|error| format!("data: {error}"))?;
    let Ipld::Map(fields) = data else { return Err("data is not a map".to_owned()) };
    let Some(Ipld::Bytes(value)) = fields.get("Value") else { return Err("no Value".to_owned()) };
    if !record.value.is_empty() && record.value != value {
        return Err("value and Value differ".to_owned());
    }
    let Some(Ipld::Bytes(validity)) = fields.get("Validity") else { return Err("no Validity".to_owned()) };
    let validity = String::from_utf8_lossy(validity).into_owned();
    let until = humantime::parse_rfc3339(&validity).map_err(|error| format!("Validity {validity:?}: {error}"))?;
    if until < std::time::SystemTime::now() {
        return Err(format!("expired at {validity}"));
    }
    Ok(())
}

/// The fields of the protobuf message `IpnsEntry` that are looked at.
fn read(mut bytes: &[u8]) -> Result<Record<'_>, String> {
    let mut record = Record::default();
    while !bytes.is_empty() {
        let (key, rest) = unsigned_varint::decode::u64(bytes).map_err(|error| format!("field: {error}"))?;
        let (number, rest) = unsigned_varint::decode::usize(rest).map_err(|error| format!("field: {error}"))?;
        bytes = rest;
        match key & 7 {
            0 => continue,
            2 => {}
            wire => return Err(format!("wire type {wire}")),
        }
        let (value, rest) = bytes.split_at_checked(number).ok_or("cut off")?;
        bytes = rest;
        match key >> 3 {
            1 => record.value = value,
            7 => record.public_key = value,
            8 => record.signature_v2 = value,
            9 => record.data = value,
            _ => {}
        }
    }
    if record.signature_v2.is_empty() || record.data.is_empty() {
        return Err("no signatureV2 or no data".to_owned());
    }
    Ok(record)
}
