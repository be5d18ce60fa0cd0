use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libp2p::identity::Keypair;
use proptest::prelude::*;

use super::*;
use crate::ipld::path::ContentPath;
use crate::ipld::wire;

const VALUE: &str = "/ipfs/bafkqabtimvwgy3yk";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn draft() -> Draft {
    Draft {
        value: ContentPath::parse_text(VALUE).unwrap(),
        sequence: 7,
        eol: now() + Duration::from_secs(3600),
        ttl: Duration::from_secs(1800),
    }
}

fn key() -> Keypair {
    Keypair::ed25519_from_bytes([7; 32]).unwrap()
}

fn verify(record: &[u8]) -> Result<Record, RecordError> {
    Record::verify(&IpnsName::of_key(&key().public()), &Bytes::copy_from_slice(record), now())
}

/// A record over these CBOR bytes, signed by [`key`], with fields of V1 before it.
fn over(data: &[u8], v1: &[u8]) -> Vec<u8> {
    let signature = key().sign(&[b"ipns-signature:", data].concat()).unwrap();
    let mut bytes = v1.to_vec();
    wire::put_bytes_field(&mut bytes, 8, &signature);
    wire::put_bytes_field(&mut bytes, 9, data);
    bytes
}

/// The signed data of [`draft`].
fn data() -> Vec<u8> {
    let record = Record::sign(&key(), &draft()).unwrap();
    let mut fields = wire::Fields::new(record.bytes());
    while let Ok(Some((number, value))) = fields.next() {
        if let (9, wire::Value::Bytes(data)) = (number, value) {
            return data.to_vec();
        }
    }
    panic!("no data");
}

#[test]
fn a_record_that_we_sign_is_v2_only_and_says_what_was_asked() {
    let made = Record::sign(&key(), &draft()).unwrap();
    let read = verify(made.bytes()).unwrap();
    assert_eq!(read, made);
    assert_eq!((read.value(), read.sequence(), read.ttl()), (VALUE, 7, Some(Duration::from_secs(1800))));
    assert_eq!(read.eol(), draft().eol);
    assert!(!read.has_v1());
}

#[test]
fn every_changed_byte_is_noticed() {
    let made = Record::sign(&key(), &draft()).unwrap();
    for at in 0..made.bytes().len() {
        let mut bytes = made.bytes().to_vec();
        bytes[at] ^= 0x20;
        assert!(verify(&bytes).is_err(), "byte {at}");
    }
}

#[test]
fn a_record_of_another_name_is_refused() {
    let made = Record::sign(&Keypair::generate_ed25519(), &draft()).unwrap();
    assert_eq!(verify(made.bytes()), Err(RecordError::Signature));
    let mut with_key = Vec::new();
    wire::put_bytes_field(&mut with_key, 7, &Keypair::generate_ed25519().public().encode_protobuf());
    with_key.extend_from_slice(made.bytes());
    assert_eq!(verify(&with_key), Err(RecordError::WrongKey));
}

#[test]
fn other_kinds_of_key_are_refused() {
    let key = Keypair::generate_secp256k1();
    assert!(matches!(Record::sign(&key, &draft()), Err(SignError::KeyType(_))));
    let name = IpnsName::of_key(&key.public());
    let record = Bytes::from(over(&data(), &[]));
    assert!(matches!(Record::read(&name, &record), Err(RecordError::KeyType(_))));
}

#[test]
fn a_record_ends_at_its_end_of_life() {
    let name = IpnsName::of_key(&key().public());
    let made = Record::sign(&key(), &draft()).unwrap();
    let at = |time| Record::verify(&name, made.bytes(), time);
    assert!(at(draft().eol - Duration::from_nanos(1)).is_ok());
    assert!(matches!(at(draft().eol), Err(RecordError::Expired(_))));
    let far = Draft { eol: now() + Duration::from_secs(u64::from(u32::MAX) * 100), ..draft() };
    let far = Record::sign(&key(), &far).unwrap();
    assert_eq!(verify(far.bytes()).unwrap(), far);
}

#[test]
fn size_is_looked_at_before_anything_else() {
    let zeros = vec![0; MAX_RECORD + 1];
    assert_eq!(verify(&zeros), Err(RecordError::TooLarge(MAX_RECORD + 1)));
    let long = ContentPath::parse_text(&format!("{VALUE}/{}", "a".repeat(8000))).unwrap();
    assert!(Record::sign(&key(), &Draft { value: long, ..draft() }).is_ok());
}

#[test]
fn what_is_not_there_is_named() {
    assert_eq!(verify(&[]), Err(RecordError::NoSignature));
    let mut only_v1 = Vec::new();
    wire::put_bytes_field(&mut only_v1, 1, VALUE.as_bytes());
    wire::put_bytes_field(&mut only_v1, 2, &[1; 64]);
    assert_eq!(verify(&only_v1), Err(RecordError::NoSignature));
    let mut no_data = Vec::new();
    wire::put_bytes_field(&mut no_data, 8, &[1; 64]);
    assert_eq!(verify(&no_data), Err(RecordError::NoData));
    let mut empty = no_data.clone();
    wire::put_bytes_field(&mut empty, 9, &[]);
    assert_eq!(verify(&empty), Err(RecordError::NoData));
    assert_eq!(verify(&over(&[0xa0], &[])), Err(RecordError::Missing("Value")));
}

#[test]
fn fields_of_v1_must_equal_what_is_signed() {
    let mut agree = Vec::new();
    wire::put_bytes_field(&mut agree, 1, VALUE.as_bytes());
    wire::put_bytes_field(&mut agree, 2, b"never looked at");
    wire::put_varint_field(&mut agree, 3, 0);
    wire::put_bytes_field(&mut agree, 4, b"2027-01-15T09:00:00.000000000Z");
    wire::put_varint_field(&mut agree, 5, 7);
    wire::put_varint_field(&mut agree, 6, 1_800_000_000_000);
    let read = verify(&over(&data(), &agree)).unwrap();
    assert!(read.has_v1());

    let with = |number, value: &[u8]| {
        let mut v1 = agree.clone();
        wire::put_bytes_field(&mut v1, number, value);
        verify(&over(&data(), &v1))
    };
    assert_eq!(with(1, b"/ipfs/bafkqaaa"), Err(RecordError::V1Differs("value")));
    assert_eq!(with(4, b"2028-01-15T09:00:00Z"), Err(RecordError::V1Differs("validity")));
    for (number, field) in [(3, "validityType"), (5, "sequence"), (6, "ttl")] {
        let mut v1 = agree.clone();
        wire::put_varint_field(&mut v1, number, 99);
        assert_eq!(verify(&over(&data(), &v1)), Err(RecordError::V1Differs(field)));
    }
    // A lone V1 value promises a whole V1 record.
    let mut partial = Vec::new();
    wire::put_bytes_field(&mut partial, 1, VALUE.as_bytes());
    assert_eq!(verify(&over(&data(), &partial)), Err(RecordError::V1Differs("validity")));
}

#[test]
fn unknown_keys_are_passed_over_and_known_ones_may_not_repeat() {
    let mut more = data();
    more[0] = 0xa6;
    more.extend(b"\x61x\x82\x01\x02");
    assert!(verify(&over(&more, &[])).is_ok());
    let mut twice = data();
    twice[0] = 0xa6;
    twice.extend(b"\x63TTL\x01");
    assert_eq!(verify(&over(&twice, &[])), Err(RecordError::Twice("TTL")));
    let mut trailing = data();
    trailing.push(0);
    assert!(matches!(verify(&over(&trailing, &[])), Err(RecordError::Cbor(_))));
}

#[test]
fn a_value_is_a_whole_path() {
    for value in ["bafkqaaa", "", "/ipfs/", "/http/x", "/ipfs/not-a-cid"] {
        let mut data = vec![0xa5];
        data.extend(b"\x63TTL\x01\x65Value");
        data.push(0x40 | value.len() as u8);
        data.extend(value.as_bytes());
        data.extend(b"\x68Sequence\x01\x68Validity\x54");
        data.extend(b"2027-01-15T09:00:00Z");
        data.extend(b"\x6cValidityType\x00");
        assert!(matches!(verify(&over(&data, &[])), Err(RecordError::Value(_))), "{value:?}");
    }
}

#[test]
fn the_better_record_has_the_higher_sequence_then_the_longer_life() {
    let make = |sequence, seconds| {
        let eol = now() + Duration::from_secs(seconds);
        Record::sign(&key(), &Draft { sequence, eol, ..draft() }).unwrap()
    };
    assert!(make(2, 10).rank(&make(1, 99)).is_gt());
    assert!(make(2, 99).rank(&make(2, 10)).is_gt());
    assert!(make(2, 10).rank(&make(2, 10)).is_eq());
}

#[test]
fn every_form_of_a_name_is_one_name() {
    let canonical = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";
    let name: IpnsName = "12D3KooWRBy97UB99e3J6hiPesre1MZeuNQvfan4gBziswrRJsNK".parse().unwrap();
    assert_eq!(name.to_string(), canonical);
    assert_eq!(canonical.parse(), Ok(name));
    assert_eq!(format!("/ipns/{canonical}").parse(), Ok(name));
    assert_eq!(name.cid().to_string().parse(), Ok(name));
    assert_eq!(IpnsName::from_routing_key(&name.routing_key()), Some(name));

    let rsa: IpnsName = "QmcJM7PRfkSbcM5cf1QugM5R37TLRKyJGgBEhXjLTB8uA2".parse().unwrap();
    assert_eq!(rsa.to_string(), "k2k4r8ol4m8kkcqz509c1rcjwunebj02gcnm5excpx842u736nja8ger");
    let old = crate::ipld::Cid::new_v1(0x70, *rsa.cid().hash()).to_string();
    assert_eq!(old.parse(), Ok(rsa));
    for wrong in ["", "example.org", "bafkqaaa", "12D3", "Qm", "/ipfs/bafkqaaa", &"k".repeat(300)] {
        assert!(wrong.parse::<IpnsName>().is_err(), "{wrong}");
    }
}

/// The suite's records; they are not part of this repository.
fn fixtures() -> Option<PathBuf> {
    let given = std::env::var_os("TIDEGATE_FIXTURES").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"));
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("SKIPPED: no fixtures at {} (set TIDEGATE_FIXTURES)", dir.display());
    None
}

#[test]
fn the_suites_records_are_accepted_and_refused_as_it_says() {
    let Some(dir) = fixtures() else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(stem) = file.strip_suffix(".ipns-record") else { continue };
        seen += 1;
        let name: IpnsName = stem.split('_').next().unwrap().parse().unwrap();
        let bytes = Bytes::from(std::fs::read(&path).unwrap());
        let verdict = Record::verify(&name, &bytes, now());
        match &verdict {
            Err(RecordError::NoSignature) => assert!(stem.contains("_v1_"), "{file}"),
            Err(RecordError::V1Differs("value")) => assert!(stem.contains("broken-v1-value"), "{file}"),
            Err(RecordError::Signature) => assert!(stem.contains("broken-signature-v2"), "{file}"),
            Err(error) => panic!("{file}: {error}"),
            Ok(record) => {
                let broken = ["_v1_", "broken-v1-value", "broken-signature-v2"];
                assert!(!broken.iter().any(|part| stem.contains(part)), "{file} was accepted");
                assert_eq!(record.has_v1(), !stem.contains("_v2_"), "{file}");
            }
        }
    }
    assert_eq!(seen, 12);
}

proptest! {
    #[test]
    fn records_round_trip(sequence: u64, ttl: u64, seconds in 1u64..4_000_000_000, nanos in 0u32..1_000_000_000, segments in prop::collection::vec("[^/\0]{1,8}", 0..4)) {
        prop_assume!(segments.iter().all(|segment| segment != "." && segment != ".."));
        let mut value = draft().value;
        value.segments = segments;
        let draft = Draft { value, sequence, eol: SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos), ttl: Duration::from_nanos(ttl) };
        let made = Record::sign(&key(), &draft).unwrap();
        let read = Record::read(made.name(), made.bytes()).unwrap();
        prop_assert_eq!(&read, &made);
        prop_assert_eq!((read.sequence(), read.eol(), read.ttl()), (sequence, draft.eol, Some(draft.ttl)));
        prop_assert_eq!(read.path().unwrap(), draft.value);
    }

    // Mirrors fuzz_targets/ipns.rs.
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,80}") {
        let _ = verify(&bytes);
        let _ = text.parse::<IpnsName>();
        // What is signed is not believed to be well formed either.
        if let Ok(read) = verify(&over(&bytes, &[])) {
            prop_assert!(read.path().is_ok());
        }
    }
}
