//! The record: read and verified in one step, so that an unverified one cannot be had.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libp2p::identity::{KeyType, Keypair, PublicKey};
use thiserror::Error;

use super::IpnsName;
use crate::ipld::codec::CodecError;
use crate::ipld::codec::cbor::{Cursor, Head};
use crate::ipld::path::{ContentPath, PathError};
use crate::ipld::wire::{self, Fields, Value, WireError};

/// The largest record, in bytes; longer ones are not even parsed.
pub const MAX_RECORD: usize = 10 * 1024;
/// What is signed begins with this.
const SIGNATURE_PREFIX: &[u8] = b"ipns-signature:";
/// `ValidityType`: the record is valid until the time in `Validity` (end of life).
const EOL: u64 = 0;
/// The last second that the text form of a time can say (end of the year 9999).
const LAST_SECOND: u64 = 253_402_300_799;

// Field numbers of `IpnsEntry`.
const VALUE: u32 = 1;
const SIGNATURE_V1: u32 = 2;
const VALIDITY_TYPE: u32 = 3;
const VALIDITY: u32 = 4;
const SEQUENCE: u32 = 5;
const TTL: u32 = 6;
const PUBLIC_KEY: u32 = 7;
const SIGNATURE_V2: u32 = 8;
const DATA: u32 = 9;

/// A record whose signature is that of its name. Whether it is still valid depends on the clock: [`Record::verify`]
/// looks, [`Record::is_valid_at`] says it again later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    name: IpnsName,
    value: String,
    eol: SystemTime,
    sequence: u64,
    ttl: Option<Duration>,
    has_v1: bool,
    bytes: Bytes,
}

/// What a new record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Where the name points: an `/ipfs/` or `/ipns/` path.
    pub value: ContentPath,
    /// Higher than that of every record before it.
    pub sequence: u64,
    /// The record is valid until then; at most the end of the year 9999, later times are brought down to it.
    pub eol: SystemTime,
    /// How long others may keep the answer before they look again.
    pub ttl: Duration,
}

/// Why bytes are not a valid record of a name.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("record of {0} bytes is over the limit of {MAX_RECORD}")]
    TooLarge(usize),
    #[error("record is not a protobuf message: {0}")]
    Wire(#[from] WireError),
    #[error("field {0} of the record has the wrong type")]
    FieldType(u32),
    #[error("record has no signatureV2: V1 signatures are not accepted")]
    NoSignature,
    #[error("record has no data")]
    NoData,
    #[error("record holds no public key, and the name does not hold it either")]
    NoKey,
    #[error("public key of the record cannot be read")]
    MalformedKey,
    #[error("public key of the record is not that of the name")]
    WrongKey,
    #[error("keys of type {0} are not accepted: Ed25519 and RSA are")]
    KeyType(&'static str),
    #[error("signatureV2 is not valid")]
    Signature,
    #[error("signed data is not CBOR: {0}")]
    Cbor(#[from] CodecError),
    #[error("signed data lacks {0}")]
    Missing(&'static str),
    #[error("signed data has {0} twice")]
    Twice(&'static str),
    #[error("{0} in the signed data has the wrong type")]
    Type(&'static str),
    #[error("validity type {0} is not known")]
    ValidityType(u64),
    #[error("validity is not a time of the form 2026-01-02T03:04:05.000000006Z")]
    Time,
    #[error("V1 field {0} differs from what is signed")]
    V1Differs(&'static str),
    #[error("value is not a path: {0}")]
    Value(#[from] PathError),
    #[error("value is not UTF-8")]
    ValueUtf8,
    #[error("record expired at {0}")]
    Expired(String),
}

/// Why a record cannot be made.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SignError {
    #[error("keys of type {0} do not sign records here: Ed25519 and RSA do")]
    KeyType(&'static str),
    #[error("key does not sign: {0}")]
    Key(String),
    #[error("record would have {0} bytes, over the limit of {MAX_RECORD}")]
    TooLarge(usize),
    #[error("end of life lies before 1970")]
    Time,
}

impl Record {
    /// Reads a record of `name` and checks everything but its end of life.
    pub fn read(name: &IpnsName, bytes: &Bytes) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLarge(bytes.len()));
        }
        let entry = Entry::read(bytes)?;
        let signature = entry.signature_v2.filter(|signature| !signature.is_empty()).ok_or(RecordError::NoSignature)?;
        let data = entry.data.filter(|data| !data.is_empty()).ok_or(RecordError::NoData)?;
        let key = entry.key(name)?;
        if !key.verify(&[SIGNATURE_PREFIX, data].concat(), signature) {
            return Err(RecordError::Signature);
        }
        let signed = Signed::read(data)?;
        entry.agrees_with(&signed)?;
        if signed.validity_type != EOL {
            return Err(RecordError::ValidityType(signed.validity_type));
        }
        let value = std::str::from_utf8(signed.value).map_err(|_| RecordError::ValueUtf8)?;
        path_of(value)?;
        let time = std::str::from_utf8(signed.validity).map_err(|_| RecordError::Time)?;
        Ok(Self {
            name: *name,
            value: value.to_owned(),
            eol: humantime::parse_rfc3339(time).map_err(|_| RecordError::Time)?,
            sequence: signed.sequence,
            ttl: signed.ttl.map(Duration::from_nanos),
            has_v1: entry.signature_v1.is_some() || entry.value.is_some(),
            bytes: bytes.clone(),
        })
    }

    /// [`Record::read`], and the record must not have expired at `now`.
    pub fn verify(name: &IpnsName, bytes: &Bytes, now: SystemTime) -> Result<Self, RecordError> {
        let record = Self::read(name, bytes)?;
        if record.is_valid_at(now) { Ok(record) } else { Err(RecordError::Expired(time_text(record.eol))) }
    }

    /// Makes a V2-only record (IPIP-428). An RSA key travels in it; an Ed25519 key stands in the name.
    pub fn sign(key: &Keypair, draft: &Draft) -> Result<Self, SignError> {
        accepted(key.key_type()).map_err(SignError::KeyType)?;
        let since = draft.eol.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| SignError::Time)?;
        let eol = match since.as_secs() > LAST_SECOND {
            true => SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND),
            false => draft.eol,
        };
        let (value, ttl) = (draft.value.to_string(), u64::try_from(draft.ttl.as_nanos()).unwrap_or(u64::MAX));
        let data = signed_data(&value, &time_text(eol), draft.sequence, ttl);
        let signature =
            key.sign(&[SIGNATURE_PREFIX, &data].concat()).map_err(|error| SignError::Key(error.to_string()))?;
        let name = IpnsName::of_key(&key.public());
        let mut bytes = Vec::new();
        if name.inlined_key().is_none() {
            wire::put_bytes_field(&mut bytes, PUBLIC_KEY, &key.public().encode_protobuf());
        }
        wire::put_bytes_field(&mut bytes, SIGNATURE_V2, &signature);
        wire::put_bytes_field(&mut bytes, DATA, &data);
        if bytes.len() > MAX_RECORD {
            return Err(SignError::TooLarge(bytes.len()));
        }
        let (ttl, bytes) = (Some(Duration::from_nanos(ttl)), bytes.into());
        Ok(Self { name, value, eol, sequence: draft.sequence, ttl, has_v1: false, bytes })
    }

    pub fn name(&self) -> &IpnsName {
        &self.name
    }

    /// Where the name points, as it is written there.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Where the name points.
    pub fn path(&self) -> Result<ContentPath, RecordError> {
        path_of(&self.value)
    }

    /// The end of its life.
    pub fn eol(&self) -> SystemTime {
        self.eol
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How long an answer may be kept, as the publisher wishes; `None` if it does not say.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// Whether it carries the fields of V1 too.
    pub fn has_v1(&self) -> bool {
        self.has_v1
    }

    /// As it travels.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now < self.eol
    }

    /// Which of two records of one name counts: the higher sequence, then the longer life, then the greater bytes, so
    /// that everybody chooses alike.
    pub fn rank(&self, other: &Self) -> Ordering {
        (self.sequence, self.eol, &self.bytes).cmp(&(other.sequence, other.eol, &other.bytes))
    }
}

/// The other kinds by name.
fn accepted(kind: KeyType) -> Result<(), &'static str> {
    match kind {
        KeyType::Ed25519 | KeyType::RSA => Ok(()),
        KeyType::Secp256k1 => Err("secp256k1"),
        KeyType::Ecdsa => Err("ECDSA"),
    }
}

/// A value is a whole path: what lacks its namespace is not guessed at.
fn path_of(value: &str) -> Result<ContentPath, RecordError> {
    if !value.starts_with('/') {
        return Err(PathError::Namespace.into());
    }
    Ok(ContentPath::parse_text(value)?)
}

/// Such times lie between 1970 and 9999, so they have a text form.
fn time_text(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = since.min(Duration::from_secs(LAST_SECOND));
    humantime::format_rfc3339_nanos(SystemTime::UNIX_EPOCH + since).to_string()
}

/// The fields of `IpnsEntry`. Of a field that is there twice the last counts, as protobuf has it.
#[derive(Default)]
struct Entry<'a> {
    value: Option<&'a [u8]>,
    signature_v1: Option<&'a [u8]>,
    validity_type: Option<u64>,
    validity: Option<&'a [u8]>,
    sequence: Option<u64>,
    ttl: Option<u64>,
    public_key: Option<&'a [u8]>,
    signature_v2: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut entry = Self::default();
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next()? {
            let slot = match number {
                VALUE => &mut entry.value,
                SIGNATURE_V1 => &mut entry.signature_v1,
                VALIDITY => &mut entry.validity,
                PUBLIC_KEY => &mut entry.public_key,
                SIGNATURE_V2 => &mut entry.signature_v2,
                DATA => &mut entry.data,
                VALIDITY_TYPE | SEQUENCE | TTL => {
                    let Value::Varint(value) = value else { return Err(RecordError::FieldType(number)) };
                    match number {
                        VALIDITY_TYPE => entry.validity_type = Some(value),
                        SEQUENCE => entry.sequence = Some(value),
                        _ => entry.ttl = Some(value),
                    }
                    continue;
                }
                _ => continue,
            };
            let Value::Bytes(bytes) = value else { return Err(RecordError::FieldType(number)) };
            *slot = Some(bytes);
        }
        Ok(entry)
    }

    /// The key that must have signed: the record's, which must be the name's, else the one within the name.
    fn key(&self, name: &IpnsName) -> Result<PublicKey, RecordError> {
        let key = match self.public_key.filter(|key| !key.is_empty()) {
            Some(bytes) => {
                let key = PublicKey::try_decode_protobuf(bytes).map_err(|_| RecordError::MalformedKey)?;
                if IpnsName::of_key(&key) != *name {
                    return Err(RecordError::WrongKey);
                }
                key
            }
            None => name.inlined_key().ok_or(RecordError::NoKey)?,
        };
        accepted(key.key_type()).map_err(RecordError::KeyType)?;
        Ok(key)
    }

    /// Who reads only V1 must not be told something else. Where V1 is there at all, an absent field says 0 or nothing.
    fn agrees_with(&self, signed: &Signed<'_>) -> Result<(), RecordError> {
        let whole = self.signature_v1.is_some() || self.value.is_some();
        let bytes = |mine: Option<&[u8]>, theirs: &[u8]| match mine {
            Some(mine) => mine == theirs,
            None => !whole || theirs.is_empty(),
        };
        let number = |mine: Option<u64>, theirs: u64| match mine {
            Some(mine) => mine == theirs,
            None => !whole || theirs == 0,
        };
        let differs = |field| Err(RecordError::V1Differs(field));
        if !bytes(self.value, signed.value) {
            return differs("value");
        }
        if !bytes(self.validity, signed.validity) {
            return differs("validity");
        }
        if !number(self.validity_type, signed.validity_type) {
            return differs("validityType");
        }
        if !number(self.sequence, signed.sequence) {
            return differs("sequence");
        }
        if !number(self.ttl, signed.ttl.unwrap_or(0)) {
            return differs("ttl");
        }
        Ok(())
    }
}

/// What the CBOR of `data` says. Unknown keys are passed over.
struct Signed<'a> {
    value: &'a [u8],
    validity: &'a [u8],
    validity_type: u64,
    sequence: u64,
    ttl: Option<u64>,
}

impl<'a> Signed<'a> {
    fn read(data: &'a [u8]) -> Result<Self, RecordError> {
        let mut cursor = Cursor::new(data);
        let Head::Map(pairs) = cursor.head()? else { return Err(RecordError::Type("the whole")) };
        let (mut value, mut validity, mut validity_type, mut sequence, mut ttl) = (None, None, None, None, None);
        for _ in 0..pairs {
            let Head::Text(length) = cursor.head()? else { return Err(RecordError::Type("a key")) };
            match cursor.text(length)? {
                "Value" => once(&mut value, "Value", byte_string(&mut cursor, "Value")?)?,
                "Validity" => once(&mut validity, "Validity", byte_string(&mut cursor, "Validity")?)?,
                "ValidityType" => once(&mut validity_type, "ValidityType", unsigned(&mut cursor, "ValidityType")?)?,
                "Sequence" => once(&mut sequence, "Sequence", unsigned(&mut cursor, "Sequence")?)?,
                "TTL" => once(&mut ttl, "TTL", unsigned(&mut cursor, "TTL")?)?,
                _ => cursor.item(|_| Ok(()))?,
            }
        }
        if cursor.remaining() > 0 {
            return Err(CodecError::TrailingBytes(cursor.remaining()).into());
        }
        Ok(Self {
            value: value.ok_or(RecordError::Missing("Value"))?,
            validity: validity.ok_or(RecordError::Missing("Validity"))?,
            validity_type: validity_type.ok_or(RecordError::Missing("ValidityType"))?,
            sequence: sequence.ok_or(RecordError::Missing("Sequence"))?,
            ttl,
        })
    }
}

fn once<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), RecordError> {
    match slot.replace(value) {
        Some(_) => Err(RecordError::Twice(key)),
        None => Ok(()),
    }
}

fn byte_string<'a>(cursor: &mut Cursor<'a>, key: &'static str) -> Result<&'a [u8], RecordError> {
    match cursor.head()? {
        Head::Bytes(length) => Ok(cursor.bytes(length)?),
        _ => Err(RecordError::Type(key)),
    }
}

fn unsigned(cursor: &mut Cursor<'_>, key: &'static str) -> Result<u64, RecordError> {
    match cursor.head()? {
        Head::Unsigned(value) => Ok(value),
        _ => Err(RecordError::Type(key)),
    }
}

/// The DAG-CBOR of a record, its keys in DAG-CBOR's order: by length, then by bytes.
fn signed_data(value: &str, validity: &str, sequence: u64, ttl: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + value.len());
    put_head(&mut out, 5, 5);
    put_key(&mut out, "TTL");
    put_head(&mut out, 0, ttl);
    put_key(&mut out, "Value");
    put_bytes(&mut out, 2, value.as_bytes());
    put_key(&mut out, "Sequence");
    put_head(&mut out, 0, sequence);
    put_key(&mut out, "Validity");
    put_bytes(&mut out, 2, validity.as_bytes());
    put_key(&mut out, "ValidityType");
    put_head(&mut out, 0, EOL);
    out
}

fn put_key(out: &mut Vec<u8>, key: &str) {
    put_bytes(out, 3, key.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    put_head(out, major, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The shortest head of a CBOR item (RFC 8949 §4.2.1).
fn put_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..=23 => out.push(major | value as u8),
        24..=0xff => out.extend([major | 24, value as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend((value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend((value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(value.to_be_bytes());
        }
    }
}
