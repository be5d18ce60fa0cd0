//! Tokens at rest: `DATA_DIR/tokens.redb`, made when the first token is.
//!
//! Of a token only its SHA-256 is kept. A slow password hash would add nothing: the secret has 256 random bits, so there is
//! no dictionary to try, and a fast hash keeps a request with a wrong token cheap. Comparison is in constant time over
//! all tokens, so that timing says neither whether nor which one nearly matched.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use multihash_codetable::{Code, MultihashDigest};
use rand::TryRng;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::api::scope::Scope;

/// Tokens of one server. A request is compared with each.
const MAX_TOKENS: usize = 1_000;
/// Characters of a name.
pub const MAX_NAME: usize = 100;
/// So that a leaked one is recognised by those who look for them.
const PREFIX: &str = "tidegate_";
/// How often a token's last use is written to disk, at most.
const WRITE_USE: Duration = Duration::from_secs(60);
const FILE: &str = "tokens.redb";
/// redb's page cache, in bytes.
const CACHE: usize = 1 << 20;

/// Id to the JSON of [`Row`].
const TOKENS: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens-1");

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("a token named {name:?} exists; revoke it or choose another name")]
    Taken { name: String },
    #[error("there are {MAX_TOKENS} tokens; revoke some")]
    Full,
    #[error("this server keeps no tokens of its own")]
    Absent,
    #[error("{path}: {error}")]
    File { path: PathBuf, error: Box<redb::Error> },
    #[error("no random bytes: {0}")]
    Random(rand::rngs::SysError),
    #[error("the server is stopping")]
    Stopping,
}

/// A token without its secret.
#[derive(Debug)]
pub struct Token {
    /// 64 random bits in hex.
    pub id: String,
    pub name: String,
    pub scope: Scope,
    pub created_us: u64,
    pub expires_us: Option<u64>,
    hash: [u8; 32],
    /// Microseconds; 0: never.
    last_used_us: AtomicU64,
    written_use_us: AtomicU64,
}

/// What is on disk.
#[derive(Serialize, Deserialize)]
struct Row {
    name: String,
    scope: Scope,
    hash: String,
    created_us: u64,
    expires_us: Option<u64>,
    last_used_us: u64,
}

impl Token {
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires_us.is_some_and(|end| end <= micros(now))
    }

    pub fn last_used_us(&self) -> Option<u64> {
        Some(self.last_used_us.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// For tables keyed by token.
    pub fn key(&self) -> u64 {
        u64::from_str_radix(&self.id, 16).unwrap_or_default()
    }

    fn row(&self) -> Row {
        Row {
            name: self.name.clone(),
            scope: self.scope,
            hash: hex::encode(self.hash),
            created_us: self.created_us,
            expires_us: self.expires_us,
            last_used_us: self.last_used_us.load(Ordering::Relaxed),
        }
    }

    /// `None` for a row that makes no sense: such a token grants nothing.
    fn from_row(id: &str, row: &[u8]) -> Option<Self> {
        let row: Row = serde_json::from_slice(row).ok()?;
        let mut hash = [0; 32];
        hex::decode_to_slice(&row.hash, &mut hash).ok()?;
        Some(Self {
            id: id.to_owned(),
            name: row.name,
            scope: row.scope,
            created_us: row.created_us,
            expires_us: row.expires_us,
            hash,
            last_used_us: row.last_used_us.into(),
            written_use_us: row.last_used_us.into(),
        })
    }
}

/// The tokens of a data directory. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None`: none are kept.
    path: Option<PathBuf>,
    database: Mutex<Option<Database>>,
    /// By id. Writers hold `database` too.
    list: RwLock<Vec<Arc<Token>>>,
}

impl Tokens {
    /// Reads the tokens of a data directory. The caller holds the directory's lock.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        let (mut database, mut list) = (None, Vec::new());
        if path.exists() {
            let opened = open(&path)?;
            list = read(&opened).map_err(|error| file_error(&path, error))?;
            database = Some(opened);
        }
        let inner = Inner { path: Some(path), database: Mutex::new(database), list: RwLock::new(list) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Without a place to keep any.
    pub fn none() -> Self {
        let inner = Inner { path: None, database: Mutex::new(None), list: RwLock::new(Vec::new()) };
        Self { inner: Arc::new(inner) }
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<Arc<Token>> {
        self.inner.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The token with this secret, if there is one and it has not expired. Notes the use.
    pub fn identify(&self, secret: &str, now: SystemTime) -> Option<Arc<Token>> {
        let given = hash(secret);
        let list = self.inner.list.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for token in list.iter() {
            if bool::from(token.hash.ct_eq(&given)) {
                found = Some(token.clone());
            }
        }
        let token = found.filter(|token| !token.has_expired(now))?;
        token.last_used_us.store(micros(now), Ordering::Relaxed);
        Some(token)
    }

    /// Writes a token's last use down, at most once a minute. Its loss in a crash harms nobody, so nothing is synced.
    pub async fn note_use(&self, token: &Arc<Token>) {
        let last = token.last_used_us.load(Ordering::Relaxed);
        let written = token.written_use_us.load(Ordering::Relaxed);
        if last.saturating_sub(written) < WRITE_USE.as_micros() as u64 {
            return;
        }
        token.written_use_us.store(last, Ordering::Relaxed);
        let (inner, token) = (self.inner.clone(), token.clone());
        let written = tokio::task::spawn_blocking(move || inner.write_use(&token)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(%error, "a token's last use was not written");
        }
    }

    /// A new token and its secret. It is durable when this returns.
    pub async fn create(
        &self,
        name: &str,
        scope: Scope,
        life: Option<Duration>,
        now: SystemTime,
    ) -> Result<(String, Arc<Token>), StoreError> {
        let mut bytes = [0_u8; 40];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(StoreError::Random)?;
        let secret = format!("{PREFIX}{}", hex::encode(&bytes[..32]));
        let created_us = micros(now);
        let token = Arc::new(Token {
            id: hex::encode(&bytes[32..]),
            name: name.to_owned(),
            scope,
            created_us,
            expires_us: life.map(|life| created_us.saturating_add(life.as_micros() as u64)),
            hash: hash(&secret),
            last_used_us: 0.into(),
            written_use_us: 0.into(),
        });
        let (inner, made) = (self.inner.clone(), token.clone());
        tokio::task::spawn_blocking(move || inner.insert(made)).await.map_err(|_| StoreError::Stopping)??;
        Ok((secret, token))
    }

    /// The token that was revoked; `None`: there is none with this id.
    pub async fn revoke(&self, id: &str) -> Result<Option<Arc<Token>>, StoreError> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        tokio::task::spawn_blocking(move || inner.remove(&id)).await.map_err(|_| StoreError::Stopping)?
    }
}

impl Inner {
    fn insert(&self, token: Arc<Token>) -> Result<(), StoreError> {
        let path = self.path.as_ref().ok_or(StoreError::Absent)?;
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
            if list.iter().any(|known| known.name == token.name) {
                return Err(StoreError::Taken { name: token.name.clone() });
            }
            if list.len() >= MAX_TOKENS {
                return Err(StoreError::Full);
            }
        }
        let database = match database.as_mut() {
            Some(database) => database,
            None => database.insert(open(path)?),
        };
        write(database, &token, redb::Durability::Immediate).map_err(|error| file_error(path, error))?;
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.push(token);
        list.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(())
    }

    fn remove(&self, id: &str) -> Result<Option<Arc<Token>>, StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(path), Some(database)) = (&self.path, database.as_ref()) else { return Ok(None) };
        let known = |list: &[Arc<Token>]| list.iter().position(|token| token.id == id);
        if known(&self.list.read().unwrap_or_else(PoisonError::into_inner)).is_none() {
            return Ok(None);
        }
        delete(database, id).map_err(|error| file_error(path, error))?;
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        Ok(known(&list).map(|at| list.remove(at)))
    }

    fn write_use(&self, token: &Arc<Token>) -> Result<(), StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(path), Some(database)) = (&self.path, database.as_ref()) else { return Ok(()) };
        // It may have been revoked meanwhile: then it must not come back.
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        if !list.iter().any(|known| known.id == token.id) {
            return Ok(());
        }
        drop(list);
        write(database, token, redb::Durability::None).map_err(|error| file_error(path, error))
    }
}

/// Mode 0600 from its first byte on: it holds no secret, but names and times are nobody else's business.
fn open(path: &Path) -> Result<Database, StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(file_error(path, redb::Error::Io(error)));
        }
    }
    Database::builder().set_cache_size(CACHE).create(path).map_err(|error| file_error(path, error.into()))
}

fn read(database: &Database) -> Result<Vec<Arc<Token>>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(TOKENS) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut list = Vec::new();
    for entry in table.iter()? {
        let (id, row) = entry?;
        match Token::from_row(id.value(), row.value()) {
            Some(token) => list.push(Arc::new(token)),
            None => tracing::warn!(id = id.value(), "a stored token is not understood and grants nothing"),
        }
    }
    Ok(list)
}

fn write(database: &Database, token: &Token, durability: redb::Durability) -> Result<(), redb::Error> {
    let row = serde_json::to_vec(&token.row()).map_err(|error| redb::Error::Io(error.into()))?;
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    transaction.open_table(TOKENS)?.insert(token.id.as_str(), row.as_slice())?;
    Ok(transaction.commit()?)
}

fn delete(database: &Database, id: &str) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(TOKENS)?.remove(id)?;
    Ok(transaction.commit()?)
}

fn file_error(path: &Path, error: redb::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), error: Box::new(error) }
}

fn hash(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    // Local invariant: a SHA-256 digest has 32 bytes.
    hash.copy_from_slice(Code::Sha2_256.digest(secret.as_bytes()).digest());
    hash
}

fn micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_outlives_a_restart_and_its_secret_is_not_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let secret = {
            let tokens = Tokens::open(dir.path()).unwrap();
            assert!(!dir.path().join(FILE).exists(), "no token, no file");
            tokens.create("ci", Scope::Results, None, now).await.unwrap().0
        };
        let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        let bare = secret.strip_prefix(PREFIX).unwrap();
        assert!(!bytes.windows(bare.len()).any(|part| part == bare.as_bytes()));
        let raw = hex::decode(bare).unwrap();
        assert!(!bytes.windows(raw.len()).any(|part| part == raw));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);

        let tokens = Tokens::open(dir.path()).unwrap();
        let known = tokens.identify(&secret, now).unwrap();
        assert_eq!((known.name.as_str(), known.scope), ("ci", Scope::Results));
        assert!(tokens.identify(&secret[..secret.len() - 1], now).is_none());
        assert!(tokens.identify(bare, now).is_none() && tokens.identify("", now).is_none());
    }

    #[tokio::test]
    async fn a_token_ends_when_its_time_is_over_or_it_is_revoked_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let minute = Duration::from_secs(60);
        let (short, _) = tokens.create("short", Scope::Read, Some(minute), now).await.unwrap();
        assert!(tokens.identify(&short, now + minute - Duration::from_millis(1)).is_some());
        assert!(tokens.identify(&short, now + minute).is_none());
        let (long, token) = tokens.create("long", Scope::Admin, None, now).await.unwrap();
        assert!(matches!(tokens.create("long", Scope::Read, None, now).await, Err(StoreError::Taken { .. })));
        assert!(tokens.identify(&long, now).is_some());
        assert!(tokens.revoke(&token.id).await.unwrap().is_some());
        assert!(tokens.identify(&long, now).is_none());
        assert!(tokens.revoke(&token.id).await.unwrap().is_none());
        tokens.note_use(&token).await;
        drop(tokens);
        let again = Tokens::open(dir.path()).unwrap();
        assert_eq!(again.list().iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["short"]);
    }

    #[tokio::test]
    async fn the_last_use_is_known_at_once_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        {
            let tokens = Tokens::open(dir.path()).unwrap();
            let (secret, token) = tokens.create("t", Scope::Read, None, now).await.unwrap();
            assert_eq!(token.last_used_us(), None);
            tokens.identify(&secret, now).unwrap();
            tokens.note_use(&token).await;
        }
        assert_eq!(Tokens::open(dir.path()).unwrap().list()[0].last_used_us(), Some(micros(now)));
    }

    #[tokio::test]
    async fn without_a_place_none_are_made() {
        let none = Tokens::none();
        assert!(matches!(none.create("x", Scope::Read, None, SystemTime::now()).await, Err(StoreError::Absent)));
        assert!(none.identify("x", SystemTime::now()).is_none());
    }
}
