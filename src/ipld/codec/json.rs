//! DAG-JSON, as far as links need it: a pass over the text that builds no values.
//!
//! Source: <https://ipld.io/specs/codecs/dag-json/spec/>. serde_json refuses more than 128 levels before it recurses.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{CodecError, push};
use crate::ipld::cid::{self, Cid};

/// The key that DAG-JSON keeps for links and bytes.
const RESERVED: &str = "/";

/// The links of one DAG-JSON block.
pub(super) fn links(bytes: &[u8]) -> Result<Vec<Cid>, CodecError> {
    let mut found = Found { links: Vec::new(), error: None };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let result = Walk(&mut found).deserialize(&mut json).and_then(|()| json.end());
    match (found.error, result) {
        (Some(error), _) => Err(error),
        (None, Err(error)) if error.to_string().starts_with("recursion limit") => Err(CodecError::TooDeep),
        (None, Err(error)) => Err(CodecError::Json(error.to_string())),
        (None, Ok(())) => Ok(found.links),
    }
}

struct Found {
    links: Vec<Cid>,
    /// Serde's error holds text only; the typed one waits here.
    error: Option<CodecError>,
}

impl Found {
    fn add<E: Error>(&mut self, text: &str) -> Result<(), E> {
        let added = cid::parse(text).map_err(CodecError::from).and_then(|cid| push(&mut self.links, cid));
        added.map_err(|error| {
            let text = E::custom(&error);
            self.error = Some(error);
            text
        })
    }
}

/// Walks any value.
struct Walk<'a>(&'a mut Found);

/// Walks the value under the reserved key: text is a link, a map holds bytes.
struct Reserved<'a>(&'a mut Found);

/// Takes a map key, and says whether it is the reserved one.
struct Key;

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a DAG-JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Walk(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut first = true;
        while let Some(reserved) = map.next_key_seed(Key)? {
            match (reserved, first) {
                (true, true) => {
                    map.next_value_seed(Reserved(&mut *self.0))?;
                    return match map.next_key::<IgnoredAny>()? {
                        None => Ok(()),
                        Some(_) => Err(A::Error::custom("a map with the key \"/\" has another key")),
                    };
                }
                (true, false) => return Err(A::Error::custom("a map with the key \"/\" has another key")),
                (false, _) => map.next_value_seed(Walk(&mut *self.0))?,
            }
            first = false;
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reserved<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reserved<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a link or bytes under the key \"/\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.add(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let entry = map.next_entry::<String, String>()?;
        let more = map.next_key::<IgnoredAny>()?.is_some();
        match entry {
            Some((key, _)) if key == "bytes" && !more => Ok(()),
            _ => Err(A::Error::custom("the key \"/\" holds neither a link nor bytes")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Key {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map key")
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(text == RESERVED)
    }
}
