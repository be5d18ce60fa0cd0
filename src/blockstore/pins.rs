//! Pins: what `gc` must keep, in redb, durable when a call returns.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use redb::{TableDefinition, TableError};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::{error, warn};

use super::StoreError;
use super::blocks::AddGuard;
use super::durable::blocking;
use crate::ipld::Cid;

/// The longest name of a pin, in bytes.
pub const MAX_PIN_NAME: usize = 255;
/// redb's page cache, in bytes (its default is 1 GiB; a pin takes some 100 bytes).
const CACHE: usize = 4 << 20;
/// Most pins in one page of [`Pins::ls`].
const MAX_PAGE: usize = 10_000;

/// CIDv1 bytes to (kind, name, milliseconds since 1970).
const PINS: TableDefinition<&[u8], (u8, Option<&str>, u64)> = TableDefinition::new("pins-1");

/// How much of a DAG a pin keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinKind {
    /// The block and everything under it.
    Recursive,
    /// The block alone.
    Direct,
}

/// A pinned CID. CIDv0 and its CIDv1 are one pin, listed as CIDv1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub cid: Cid,
    pub kind: PinKind,
    /// At most [`MAX_PIN_NAME`] bytes; longer ones are cut at a character.
    pub name: Option<String>,
    pub created: Option<SystemTime>,
}

/// The pins of a data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pins {
    inner: Arc<Inner>,
    thread: Arc<Semaphore>,
}

struct Inner {
    path: PathBuf,
    database: Mutex<State>,
}

enum State {
    Open(Database),
    /// The file system cannot be written.
    ReadOnly(ReadOnlyDatabase),
    /// There is no file and none can be made: no pins, and none can be added.
    Absent,
    /// Must be opened (again): at start, and after an I/O error, when redb wants to be reopened.
    Shut,
    Closed,
}

impl Pin {
    pub fn new(cid: Cid, kind: PinKind) -> Self {
        Self { cid, kind, name: None, created: None }
    }
}

impl Pins {
    /// Opens `data_dir/pins.redb`. A file that cannot be opened now is an error of each later call, not of this one,
    /// except when another process has it.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let inner = Inner { path: data_dir.join("pins.redb"), database: Mutex::new(State::Shut) };
        // One thread: redb has one writer, and calls are short.
        let pins = Self { inner: Arc::new(inner), thread: Arc::new(Semaphore::new(1)) };
        match pins.count().await {
            Err(error @ StoreError::Locked { .. }) => Err(error),
            Err(error) => {
                error!(%error, "pins cannot be read; nothing can be pinned or collected until they can");
                Ok(pins)
            }
            Ok(_) => Ok(pins),
        }
    }

    /// Adds pins in one transaction; they survive a crash when this returns `Ok`.
    ///
    /// The guard is the one under which the blocks were put: without it, `gc` could take them before they are pinned.
    /// A recursive pin stays recursive when a direct one is added; otherwise the newer pin replaces the older.
    pub async fn add(&self, _guard: &AddGuard, pins: Vec<Pin>) -> Result<(), StoreError> {
        self.write(move |table| {
            for pin in &pins {
                let key = key(&pin.cid);
                let recursive =
                    table.get(key.as_slice())?.is_some_and(|old| old.value().0 == u8::from(PinKind::Recursive));
                if recursive && pin.kind == PinKind::Direct {
                    continue;
                }
                let name = pin.name.as_deref().map(|name| &name[..name.floor_char_boundary(MAX_PIN_NAME)]);
                let created =
                    pin.created.unwrap_or_else(SystemTime::now).duration_since(UNIX_EPOCH).unwrap_or_default();
                table.insert(key.as_slice(), (u8::from(pin.kind), name, created.as_millis() as u64))?;
            }
            Ok(())
        })
        .await
    }

    /// Removes a pin and says what it was.
    pub async fn rm(&self, cid: &Cid) -> Result<Option<PinKind>, StoreError> {
        let key = key(cid);
        self.write(move |table| Ok(table.remove(key.as_slice())?.map(|old| kind(old.value().0)))).await
    }

    /// The pin of exactly this CID; blocks under a recursive pin have none of their own.
    pub async fn get(&self, cid: &Cid) -> Result<Option<Pin>, StoreError> {
        let key = key(cid);
        self.read(None, move |table| Ok(table.get(key.as_slice())?.and_then(|value| decode(&key, value.value())))).await
    }

    /// Whether this CID itself is pinned.
    pub async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.get(cid).await?.is_some())
    }

    /// Up to `limit` pins (at most 10,000) in the order of their bytes, after `after`. An empty page is the end.
    pub async fn ls(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Pin>, StoreError> {
        let after = after.map(key);
        self.read(Vec::new(), move |table| page(table, after.as_deref(), limit)).await
    }

    pub async fn count(&self) -> Result<u64, StoreError> {
        self.read(0, |table| table.len()).await
    }

    /// Closes the file; every later call fails with [`StoreError::Closed`].
    pub async fn close(&self) {
        let inner = self.inner.clone();
        let closing = move || drop(std::mem::replace(&mut *inner.lock(), State::Closed));
        let _ = blocking(&self.thread, closing).await;
    }

    async fn read<T: Send + 'static>(
        &self,
        empty: T,
        work: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], Value>) -> Result<T, redb::StorageError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        blocking(&self.thread, move || {
            let mut state = inner.lock();
            inner.reopen(&mut state, false)?;
            let transaction = match &*state {
                State::Open(database) => database.begin_read(),
                State::ReadOnly(database) => database.begin_read(),
                State::Absent => return Ok(empty),
                State::Shut | State::Closed => return Err(StoreError::Closed),
            };
            let result = transaction.map_err(redb::Error::from).and_then(|transaction| read(&transaction, empty, work));
            inner.settle(&mut state, result)
        })
        .await?
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut redb::Table<'_, &'static [u8], Value>) -> Result<T, redb::StorageError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        blocking(&self.thread, move || {
            let mut state = inner.lock();
            inner.reopen(&mut state, true)?;
            let State::Open(database) = &*state else { return Err(StoreError::Closed) };
            let write = || -> Result<T, redb::Error> {
                let mut transaction = database.begin_write()?;
                // Opening after a crash must not walk the whole file.
                transaction.set_quick_repair(true);
                let done = work(&mut transaction.open_table(PINS)?)?;
                // `Durability::Immediate` is the default: synced when `commit` returns.
                transaction.commit()?;
                Ok(done)
            };
            let result = write();
            inner.settle(&mut state, result)
        })
        .await?
    }
}

type Value = (u8, Option<&'static str>, u64);

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pins").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what is shut, and for writing also what could only be read before.
    fn reopen(&self, state: &mut State, write: bool) -> Result<(), StoreError> {
        match state {
            State::Closed => return Err(StoreError::Closed),
            State::Open(_) => return Ok(()),
            State::ReadOnly(_) | State::Absent if !write => return Ok(()),
            _ => *state = State::Shut,
        }
        let error = match self.open() {
            Ok(database) => {
                *state = State::Open(database);
                return Ok(());
            }
            Err(error) => self.store_error(error),
        };
        if write || !error.is_unwritable() {
            return Err(error);
        }
        *state = match self.path.exists() {
            true => State::ReadOnly(ReadOnlyDatabase::open(&self.path).map_err(|e| self.store_error(e.into()))?),
            false => State::Absent,
        };
        warn!(%error, "pins can be read but not changed");
        Ok(())
    }

    /// A new file is made under another name, so that a crash while it is made leaves none that cannot be opened.
    fn open(&self) -> Result<Database, redb::Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        if !self.path.exists() {
            let new = self.path.with_extension("redb.new");
            let made = (|| -> Result<(), redb::Error> {
                let _ = fs::remove_file(&new);
                let database = builder.create(&new)?;
                let transaction = database.begin_write()?;
                drop(transaction.open_table(PINS)?);
                transaction.commit()?;
                drop(database);
                fs::rename(&new, &self.path)?;
                File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()?;
                Ok(())
            })();
            if made.is_err() {
                let _ = fs::remove_file(&new);
            }
            made?;
        }
        Ok(builder.open(&self.path)?)
    }

    /// After an I/O error redb refuses everything until it is opened anew.
    fn settle<T>(&self, state: &mut State, result: Result<T, redb::Error>) -> Result<T, StoreError> {
        result.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                *state = State::Shut;
            }
            self.store_error(error)
        })
    }

    fn store_error(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(error) => StoreError::at(&self.path, error),
            redb::Error::DatabaseAlreadyOpen => StoreError::Locked { path: self.path.display().to_string() },
            other => StoreError::Pins(other.to_string()),
        }
    }
}

fn read<T>(
    transaction: &ReadTransaction,
    empty: T,
    work: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], Value>) -> Result<T, redb::StorageError>,
) -> Result<T, redb::Error> {
    match transaction.open_table(PINS) {
        Ok(table) => Ok(work(&table)?),
        Err(TableError::TableDoesNotExist(_)) => Ok(empty),
        Err(error) => Err(error.into()),
    }
}

fn page(
    table: &redb::ReadOnlyTable<&'static [u8], Value>,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Pin>, redb::StorageError> {
    use std::ops::Bound::{Excluded, Unbounded};
    let range = table.range::<&[u8]>((after.map_or(Unbounded, Excluded), Unbounded))?;
    let mut pins = Vec::new();
    for row in range.take(limit.min(MAX_PAGE)) {
        let (key, value) = row?;
        pins.extend(decode(key.value(), value.value()));
    }
    Ok(pins)
}

fn decode(key: &[u8], (number, name, created): (u8, Option<&str>, u64)) -> Option<Pin> {
    Some(Pin {
        cid: Cid::try_from(key).ok()?,
        kind: kind(number),
        name: name.map(str::to_owned),
        created: Some(UNIX_EPOCH + Duration::from_millis(created)),
    })
}

fn key(cid: &Cid) -> Vec<u8> {
    Cid::new_v1(cid.codec(), *cid.hash()).to_bytes()
}

impl From<PinKind> for u8 {
    fn from(kind: PinKind) -> u8 {
        match kind {
            PinKind::Direct => 1,
            PinKind::Recursive => 2,
        }
    }
}

/// Unknown kinds keep as much as possible.
fn kind(number: u8) -> PinKind {
    if number == 1 { PinKind::Direct } else { PinKind::Recursive }
}
