#![no_main]

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use libp2p::identity::Keypair;
use tidegate_fuzz::ipld::ipns::{IpnsName, Record};

/// The bytes as a whole record, and as the signed data of one whose signature is good: the fuzzer cannot sign.
fuzz_target!(|data: &[u8]| {
    let Ok(key) = Keypair::ed25519_from_bytes([7; 32]) else { return };
    let name = IpnsName::of_key(&key.public());
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let _ = Record::verify(&name, &Bytes::copy_from_slice(data), now);

    let Ok(signature) = key.sign(&[b"ipns-signature:", data].concat()) else { return };
    let mut record = vec![0x42, signature.len() as u8];
    record.extend(signature);
    record.push(0x4a);
    let mut length = data.len();
    while length >= 0x80 {
        record.push(length as u8 | 0x80);
        length >>= 7;
    }
    record.push(length as u8);
    record.extend_from_slice(data);
    if let Ok(read) = Record::verify(&name, &record.into(), now) {
        assert!(read.is_valid_at(now) && read.path().is_ok());
    }
});
