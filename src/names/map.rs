//! `IPFS_NS_MAP`: names that the operator fixes, as other gateways read the variable:
//! `example.org:/ipfs/bafy…,k51…:/ipns/other.example`.

use std::collections::HashMap;

use thiserror::Error;

use super::Name;
use crate::ipld::path::{ContentPath, PathError};

/// The environment variable.
pub const VARIABLE: &str = "IPFS_NS_MAP";

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum MapError {
    #[error("{VARIABLE}: {entry:?} is not NAME:/ipfs/… or NAME:/ipns/…")]
    Entry { entry: String },
    #[error("{VARIABLE}: {name}: {error}")]
    Path { name: String, error: PathError },
}

/// Fixed names. They beat every other source.
#[derive(Debug, Clone, Default)]
pub struct NsMap {
    paths: HashMap<Name, ContentPath>,
}

impl NsMap {
    pub fn parse(text: &str) -> Result<Self, MapError> {
        let mut paths = HashMap::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = || MapError::Entry { entry: entry.to_owned() };
            let (name, path) = entry.split_once(':').ok_or_else(wrong)?;
            let name: Name = name.trim().parse().map_err(|_| wrong())?;
            let path = path.trim();
            if !path.starts_with('/') {
                return Err(wrong());
            }
            let path =
                ContentPath::parse_text(path).map_err(|error| MapError::Path { name: name.to_string(), error })?;
            paths.insert(name, path);
        }
        Ok(Self { paths })
    }

    /// What the environment says; nothing when it is silent.
    pub fn from_environment() -> Result<Self, MapError> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(&text),
            Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Err(std::env::VarError::NotUnicode(text)) => {
                Err(MapError::Entry { entry: text.to_string_lossy().into_owned() })
            }
        }
    }

    pub fn get(&self, name: &Name) -> Option<&ContentPath> {
        self.paths.get(name)
    }

    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_whatever_form_a_key_has() {
        let map = NsMap::parse(
            "a.example:/ipfs/bafkqaaa/x, 12D3KooWRBy97UB99e3J6hiPesre1MZeuNQvfan4gBziswrRJsNK:/ipns/A.example,",
        )
        .unwrap();
        assert_eq!(map.len(), 2);
        let get = |name: &str| map.get(&name.parse().unwrap()).map(ToString::to_string);
        assert_eq!(get("A.EXAMPLE").as_deref(), Some("/ipfs/bafkqaaa/x"));
        let key = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";
        assert_eq!(get(key).as_deref(), Some("/ipns/A.example"));
        assert_eq!(get("b.example"), None);
    }

    #[test]
    fn a_wrong_entry_is_named() {
        for text in ["a.example", "a.example:bafkqaaa", "127.0.0.1:/ipfs/bafkqaaa"] {
            assert_eq!(NsMap::parse(text).err(), Some(MapError::Entry { entry: text.into() }));
        }
        assert!(matches!(NsMap::parse("a.example:/ipfs/x"), Err(MapError::Path { .. })));
    }
}
