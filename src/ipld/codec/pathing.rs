//! A path through the value of one DAG-CBOR or DAG-JSON block, up to the first link.
//!
//! Source: path-gateway specification, "Content path resolution": keys of maps, decimal indexes of lists. No value is built:
//! a hostile block costs one pass.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::cbor::{Cursor, Head};
use super::{CodecError, cbor, json};
use crate::ipld::Block;
use crate::ipld::cid::{self, Cid, codec};

/// Where a path leads within a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// After `used` segments there is a link.
    Link { cid: Cid, used: usize },
    /// The segment at this index leads nowhere.
    Missing { index: usize },
    /// All segments were used and a value within the block was reached, which has no CID.
    Value,
}

/// Follows `segments` from the root of `block`; `None` when its codec has no paths.
pub fn follow(block: &Block, segments: &[String]) -> Result<Option<Step>, CodecError> {
    match block.cid().codec() {
        codec::DAG_CBOR => {
            // The whole block must be sound, not only what is passed on the way.
            cbor::links(block.data())?;
            through_cbor(block.data(), segments).map(Some)
        }
        codec::DAG_JSON => {
            json::links(block.data())?;
            through_json(block.data(), segments).map(Some)
        }
        _ => Ok(None),
    }
}

fn index_of(segment: &str) -> Option<u64> {
    let canonical = segment == "0" || !segment.starts_with(['0', '+']);
    segment.parse().ok().filter(|_| canonical)
}

fn through_cbor(bytes: &[u8], segments: &[String]) -> Result<Step, CodecError> {
    let mut cursor = Cursor::new(bytes);
    let pass = |cursor: &mut Cursor<'_>| cursor.item(|_| Ok(()));
    for (index, segment) in segments.iter().enumerate() {
        let mut found = false;
        match cursor.head()? {
            Head::Tag(_) => return Ok(Step::Link { cid: cursor.link()?, used: index }),
            Head::Map(pairs) => {
                for _ in 0..pairs {
                    let Head::Text(length) = cursor.head()? else {
                        return Err(CodecError::Cbor("map key is not text"));
                    };
                    if cursor.text(length)? == segment {
                        found = true;
                        break;
                    }
                    pass(&mut cursor)?;
                }
            }
            Head::List(items) => {
                if let Some(wanted) = index_of(segment).filter(|wanted| *wanted < items) {
                    for _ in 0..wanted {
                        pass(&mut cursor)?;
                    }
                    found = true;
                }
            }
            _ => {}
        }
        if !found {
            return Ok(Step::Missing { index });
        }
    }
    match cursor.head()? {
        Head::Tag(_) => Ok(Step::Link { cid: cursor.link()?, used: segments.len() }),
        _ => Ok(Step::Value),
    }
}

fn through_json(bytes: &[u8], segments: &[String]) -> Result<Step, CodecError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Follow { segments, index: 0 };
    seed.deserialize(&mut deserializer).map_err(|error| CodecError::Json(error.to_string()))
}

/// Takes one JSON value and follows what is left of the path through it.
#[derive(Clone, Copy)]
struct Follow<'a> {
    segments: &'a [String],
    index: usize,
}

impl Follow<'_> {
    fn scalar<E>(self) -> Result<Step, E> {
        let ended = self.index == self.segments.len();
        Ok(if ended { Step::Value } else { Step::Missing { index: self.index } })
    }
}

impl<'de> DeserializeSeed<'de> for Follow<'_> {
    type Value = Step;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Step, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Follow<'_> {
    type Value = Step;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a DAG-JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Step, E> {
        self.scalar()
    }

    fn visit_i64<E>(self, _: i64) -> Result<Step, E> {
        self.scalar()
    }

    fn visit_u64<E>(self, _: u64) -> Result<Step, E> {
        self.scalar()
    }

    fn visit_f64<E>(self, _: f64) -> Result<Step, E> {
        self.scalar()
    }

    fn visit_str<E>(self, _: &str) -> Result<Step, E> {
        self.scalar()
    }

    fn visit_unit<E>(self) -> Result<Step, E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Step, A::Error> {
        let Some(segment) = self.segments.get(self.index) else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Step::Value);
        };
        let (wanted, mut at, mut step) = (index_of(segment), 0, Step::Missing { index: self.index });
        loop {
            if Some(at) == wanted {
                match list.next_element_seed(Self { index: self.index + 1, ..self })? {
                    Some(found) => step = found,
                    None => return Ok(step),
                }
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(step);
            }
            at += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Step, A::Error> {
        let wanted = self.segments.get(self.index);
        let mut step = if wanted.is_none() { Step::Value } else { Step::Missing { index: self.index } };
        while let Some(key) = map.next_key::<String>()? {
            if key == "/" {
                // The pass before this one has seen that it is alone in its map, and holds a link or bytes.
                step = match map.next_value::<LinkOrBytes>()? {
                    LinkOrBytes::Link(text) => {
                        Step::Link { cid: cid::parse(&text).map_err(A::Error::custom)?, used: self.index }
                    }
                    LinkOrBytes::Bytes => self.scalar()?,
                };
            } else if Some(&key) == wanted {
                step = map.next_value_seed(Self { index: self.index + 1, ..self })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(step)
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum LinkOrBytes {
    Link(String),
    Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipld::HashCode;

    const LINK: &str = "bafkqaaa";

    fn json(text: &str) -> Block {
        Block::encode(codec::DAG_JSON, HashCode::Sha2_256, text.as_bytes().to_vec().into()).unwrap()
    }

    fn cbor(hex: &str) -> Block {
        Block::encode(codec::DAG_CBOR, HashCode::Sha2_256, hex::decode(hex).unwrap().into()).unwrap()
    }

    fn go(block: &Block, path: &str) -> Step {
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        follow(block, &segments).unwrap().unwrap()
    }

    #[test]
    fn paths_lead_to_links_values_and_nowhere() {
        let link = cid::parse(LINK).unwrap();
        // {"a": [1, {"b": link(bafkqaaa)}], "c": "x"} in both codecs
        let as_json = json(r#"{"a":[1,{"b":{"/":"bafkqaaa"}}],"c":"x","d":{"/":{"bytes":"AAA"}}}"#);
        let as_cbor = cbor("a261618201a16162d82a450001550000616361 78".replace(' ', "").as_str());
        for block in [&as_json, &as_cbor] {
            for (path, expected) in [
                ("a/1/b", Step::Link { cid: link, used: 3 }),
                ("a/1/b/more/of/it", Step::Link { cid: link, used: 3 }),
                ("a", Step::Value),
                ("a/0", Step::Value),
                ("a/2", Step::Missing { index: 1 }),
                ("a/01", Step::Missing { index: 1 }),
                ("a/-1", Step::Missing { index: 1 }),
                ("a/x", Step::Missing { index: 1 }),
                ("z", Step::Missing { index: 0 }),
                ("c/y", Step::Missing { index: 1 }),
                ("c", Step::Value),
            ] {
                assert_eq!(go(block, path), expected, "{path} in {}", block.cid());
            }
        }
        assert_eq!(go(&as_json, "d"), Step::Value);
        assert_eq!(go(&as_json, "d/bytes"), Step::Missing { index: 1 });
    }

    #[test]
    fn a_block_that_is_not_sound_is_an_error_wherever_the_path_leads() {
        let segments = ["a".to_owned()];
        assert!(follow(&json(r#"{"a":1,"b":{"/":5}}"#), &segments).is_err());
        assert!(follow(&json(r#"{"a":1"#), &segments).is_err());
        assert!(follow(&cbor("a161610100"), &segments).is_err());
        assert_eq!(
            follow(&Block::encode(codec::CBOR, HashCode::Sha2_256, vec![0xa0].into()).unwrap(), &segments),
            Ok(None)
        );
    }
}
