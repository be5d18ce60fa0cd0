//! L1: what this node does not serve: denylists in the compact format, merged, looked up by CID, path and name, and read
//! again when a file changes.
//!
//! Source: <https://specs.ipfs.tech/compact-denylist-format/> (IPIP-383). A rule is found by the hash of what it names,
//! so a list of a million lines costs one map and a look-up the same as in a list of ten.

mod judge;
mod parse;
mod watch;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use multihash_codetable::{Code, MultihashDigest};
use thiserror::Error;

use crate::ipld::Cid;
use crate::ipld::ipns::IpnsName;
use crate::ipld::path::{ContentPath, Namespace};
use parse::{Item, Scope};

pub use judge::{Judge, Refused};
pub use parse::{LineError, MAX_HEADER_BYTES, MAX_LINE_BYTES};
pub use watch::{WatchMetrics, files, watch};

/// What is refused, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Denied {
    /// The list says that the reason is a legal one: HTTP 451 instead of 410.
    pub legal: bool,
}

#[derive(Debug, Error)]
pub enum DenylistError {
    #[error("denylist {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("denylist {path}, line {line}: {error}")]
    Line { path: PathBuf, line: u64, error: LineError },
}

/// The rules of all lists. Cheap to clone; clones see the same rules.
#[derive(Debug, Clone, Default)]
pub struct Denylists {
    rules: Arc<RwLock<Arc<Rules>>>,
    generation: Arc<AtomicU64>,
}

/// The rules of one reading.
#[derive(Debug, Default)]
pub struct Rules {
    /// By [`Key`]: rules about a whole root, and double-hashed ones.
    whole: Map<Rule>,
    /// Rules about paths under a root.
    paths: Map<Vec<PathRule>>,
    /// The hash functions of double-hashed rules.
    double: Vec<Code>,
    legacy: bool,
    count: u32,
    unknown: u64,
}

/// The later rule counts (specification, "Last rule wins").
#[derive(Debug, Clone, Copy)]
struct Rule {
    number: u32,
    allow: bool,
    denied: Denied,
}

#[derive(Debug, Clone)]
struct PathRule {
    path: String,
    prefix: bool,
    rule: Rule,
}

impl Denylists {
    /// Reads `files` in their order.
    pub fn load(files: &[PathBuf]) -> Result<Self, DenylistError> {
        let lists = Self::default();
        lists.replace(Rules::read(files)?);
        Ok(lists)
    }

    /// Puts other rules in the place of those that count.
    pub fn replace(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        // After the rules: who sees this number has seen no older rules since.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Changes with each [`Denylists::replace`]. What was allowed under a number that was read *before* the question is
    /// allowed for as long as the number stays.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The rules that count now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a block is refused, wherever it occurs.
    pub fn cid(&self, cid: &Cid) -> Option<Denied> {
        let rules = self.rules();
        if rules.is_empty() { None } else { rules.cid(cid, "") }
    }
}

impl Rules {
    pub fn read(files: &[PathBuf]) -> Result<Self, DenylistError> {
        let mut rules = Self::default();
        for path in files {
            let file = std::fs::File::open(path).map_err(|error| DenylistError::Read { path: path.clone(), error })?;
            parse::read(std::io::BufReader::with_capacity(1 << 20, file), |item| rules.add(item)).map_err(|error| {
                match error {
                    parse::ReadError::Io(error) => DenylistError::Read { path: path.clone(), error },
                    parse::ReadError::Line { line, error } => DenylistError::Line { path: path.clone(), line, error },
                }
            })?;
        }
        Ok(rules)
    }

    /// Rules read, without comments and unknown lines.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a rule may be about a path below a CID. Of double-hashed ones nobody can tell.
    fn has_paths(&self) -> bool {
        !self.paths.is_empty() || !self.double.is_empty() || self.legacy
    }

    /// Lines of a form that is not known here: they are passed over, as the specification asks.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    fn add(&mut self, item: Option<Item>) {
        let Some(Item { scopes, allow, legal }) = item else {
            self.unknown += 1;
            return;
        };
        self.count = self.count.saturating_add(1);
        let rule = Rule { number: self.count, allow, denied: Denied { legal } };
        for scope in scopes {
            match scope {
                Scope::Whole(key) => {
                    self.whole.insert(key.0, rule);
                }
                Scope::Path { root, path, prefix } => {
                    self.paths.entry(root.0).or_default().push(PathRule { path, prefix, rule });
                }
                Scope::Double { key, code } => {
                    if !self.double.contains(&code) {
                        self.double.push(code);
                    }
                    self.whole.insert(key.0, rule);
                }
                Scope::Legacy(key) => {
                    self.legacy = true;
                    self.whole.insert(key.0, rule);
                }
            }
        }
    }

    /// Whether a path is refused, by its root or as a whole.
    fn path(&self, path: &ContentPath) -> Option<Denied> {
        let below = path.segments.join("/");
        match &path.namespace {
            Namespace::Ipfs(cid) => self.cid(cid, &below),
            Namespace::Ipns(name) => match name.parse::<IpnsName>() {
                Ok(key) => self.look(Key::of_name(&key.to_string()), &below, |hashed| {
                    hashed.double(&base58(&key.cid()));
                    hashed.legacy(&key.to_string());
                }),
                Err(_) => {
                    let name = name.trim_end_matches('.').to_ascii_lowercase();
                    self.look(Key::of_name(&name), &below, |hashed| {
                        hashed.double(&name);
                        hashed.legacy(&name);
                    })
                }
            },
        }
    }

    fn cid(&self, cid: &Cid, below: &str) -> Option<Denied> {
        self.look(Key::of_cid(cid), below, |hashed| {
            if !self.double.is_empty() {
                hashed.double(&base58(cid));
            }
            if self.legacy {
                hashed.legacy(&Cid::new_v1(cid.codec(), *cid.hash()).to_string());
            }
        })
    }

    /// Of all rules that fit the last one.
    fn look(&self, root: Key, below: &str, hash: impl FnOnce(&mut Hashed<'_>)) -> Option<Denied> {
        let mut last = self.whole.get(&root.0).copied();
        if !below.is_empty()
            && let Some(rules) = self.paths.get(&root.0)
        {
            for path in rules {
                let fits = if path.prefix { below.starts_with(&path.path) } else { below == path.path };
                later(&mut last, fits.then_some(path.rule));
            }
        }
        if self.legacy || !self.double.is_empty() {
            let mut hashed = Hashed { rules: self, below, last };
            hash(&mut hashed);
            last = hashed.last;
        }
        last.filter(|rule| !rule.allow).map(|rule| rule.denied)
    }
}

fn later(last: &mut Option<Rule>, other: Option<Rule>) {
    if other.is_some_and(|other| last.is_none_or(|last| other.number > last.number)) {
        *last = other;
    }
}

/// Look-ups of double-hashed rules.
struct Hashed<'a> {
    rules: &'a Rules,
    below: &'a str,
    last: Option<Rule>,
}

impl Hashed<'_> {
    /// `HASH(root)` and `HASH(root/path)`.
    fn double(&mut self, root: &str) {
        for code in &self.rules.double {
            let mut look = |text: &str| {
                let digest = code.digest(text.as_bytes());
                later(&mut self.last, self.rules.whole.get(&Key::of_double(&digest.to_bytes()).0).copied());
            };
            look(root);
            if !self.below.is_empty() {
                look(&format!("{root}/{}", self.below));
            }
        }
    }

    /// `SHA256(root/)` and `SHA256(root/path)`.
    fn legacy(&mut self, root: &str) {
        if !self.rules.legacy {
            return;
        }
        let mut look = |text: &str| {
            let digest = Code::Sha2_256.digest(text.as_bytes());
            later(&mut self.last, self.rules.whole.get(&Key::of_legacy(digest.digest()).0).copied());
        };
        look(&format!("{root}/"));
        if !self.below.is_empty() {
            look(&format!("{root}/{}", self.below));
        }
    }
}

/// The multihash alone, in base58: a CIDv0 of whatever codec.
fn base58(cid: &Cid) -> String {
    multibase::Base::Base58Btc.encode(cid.hash().to_bytes())
}

/// 128 bits of a SHA-256 over kind and content: no two things share one, by accident or on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(u128);

impl Key {
    fn new(kind: u8, bytes: &[u8]) -> Self {
        let mut text = Vec::with_capacity(bytes.len() + 1);
        text.push(kind);
        text.extend_from_slice(bytes);
        let digest = Code::Sha2_256.digest(&text);
        let mut key = [0; 16];
        key.copy_from_slice(&digest.digest()[..16]);
        Self(u128::from_le_bytes(key))
    }

    /// Of the multihash: codec, version and base do not matter.
    fn of_cid(cid: &Cid) -> Self {
        Self::new(b'c', &cid.hash().to_bytes())
    }

    fn of_name(name: &str) -> Self {
        Self::new(b'n', name.as_bytes())
    }

    fn of_double(multihash: &[u8]) -> Self {
        Self::new(b'd', multihash)
    }

    fn of_legacy(digest: &[u8]) -> Self {
        Self::new(b'l', digest)
    }
}

type Map<V> = HashMap<u128, V, BuildHasherDefault<TakeBits>>;

/// Keys are hashes already.
#[derive(Debug, Default)]
struct TakeBits(u64);

impl Hasher for TakeBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests;
