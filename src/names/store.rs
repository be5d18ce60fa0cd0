//! Records that were put here or published here: `names.redb` in the data directory, durable when a call returns.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use libp2p::PeerId;
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableError};
use thiserror::Error;

use crate::ipld::ipns::{IpnsName, Record};

const FILE: &str = "names.redb";
/// Names that are kept; at 10 KiB each that is 100 MiB.
pub const MAX_NAMES: u64 = 10_000;
/// redb's page cache, in bytes.
const CACHE: usize = 1 << 20;

/// A name's bytes to (record, key's name if it is ours to sign, milliseconds since 1970, lifetime in seconds).
type Row = (&'static [u8], Option<&'static str>, u64, u64);
const NAMES: TableDefinition<&[u8], Row> = TableDefinition::new("names-1");

#[derive(Debug, Error)]
pub enum NameStoreError {
    #[error("names cannot be kept: {0}")]
    Database(#[from] redb::Error),
    /// The file was not opened at the start; the log says why.
    #[error("names cannot be kept: {0}")]
    Unavailable(String),
    #[error("{most} names are kept here already, none of which has expired")]
    Full { most: u64 },
    #[error("the server is stopping")]
    Stopping,
}

/// A record that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub record: Record,
    /// Whose key signs it anew before it expires; `None` for records that others signed.
    pub own: Option<Own>,
    /// When it was put, or last announced.
    pub updated: SystemTime,
}

/// What is needed to sign a name anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The name of the key: empty for the node's own.
    pub key: String,
    pub lifetime: Duration,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct NameStore {
    database: Result<Arc<Database>, String>,
    most: u64,
}

impl NameStore {
    /// Opens the file, or makes it. One that cannot be opened is said in the log: names are resolved without it.
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let opened = Database::builder().set_cache_size(CACHE).create(&path).map_err(redb::Error::from);
        let opened = opened.and_then(|database| prepare(&database).map(|()| database));
        let database = opened.map(Arc::new).map_err(|error| {
            tracing::error!(path = %path.display(), %error, "names cannot be kept");
            error.to_string()
        });
        Self { database, most: MAX_NAMES }
    }

    /// A store that ends with the process.
    pub fn in_memory() -> Self {
        let opened = Database::builder().create_with_backend(InMemoryBackend::new()).map_err(redb::Error::from);
        let opened = opened.and_then(|database| prepare(&database).map(|()| database));
        Self { database: opened.map(Arc::new).map_err(|error| error.to_string()), most: MAX_NAMES }
    }

    /// The record of a name, whether or not it has expired.
    pub async fn get(&self, name: IpnsName) -> Result<Option<Kept>, NameStoreError> {
        self.run(move |database| {
            let Some(table) = open_table(database)? else { return Ok(None) };
            let row = table.get(&*name.peer().to_bytes())?;
            Ok(row.and_then(|row| decode(name, row.value())))
        })
        .await
    }

    /// Keeps a record in place of the one before. Where there is no room, those that have expired at `now` make it.
    pub async fn put(&self, kept: Kept, now: SystemTime) -> Result<(), NameStoreError> {
        let most = self.most;
        let full = self
            .run(move |database| {
                let mut transaction = database.begin_write()?;
                transaction.set_quick_repair(true);
                let full = {
                    let mut table = transaction.open_table(NAMES)?;
                    let key = kept.record.name().peer().to_bytes();
                    let is_new = table.get(&*key)?.is_none();
                    if is_new && table.len()? >= most {
                        table.retain(|key, value| {
                            name_of(key)
                                .and_then(|name| decode(name, value))
                                .is_some_and(|kept| kept.record.is_valid_at(now))
                        })?;
                    }
                    let full = is_new && table.len()? >= most;
                    if !full {
                        let (own, lifetime) = match &kept.own {
                            Some(own) => (Some(own.key.as_str()), own.lifetime.as_secs()),
                            None => (None, 0),
                        };
                        table.insert(&*key, (&**kept.record.bytes(), own, millis(kept.updated), lifetime))?;
                    }
                    full
                };
                transaction.commit()?;
                Ok(full)
            })
            .await?;
        if full { Err(NameStoreError::Full { most }) } else { Ok(()) }
    }

    /// Every record, in the order of the names' bytes.
    pub async fn all(&self) -> Result<Vec<Kept>, NameStoreError> {
        self.run(|database| {
            let Some(table) = open_table(database)? else { return Ok(Vec::new()) };
            let mut all = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                all.extend(name_of(key.value()).and_then(|name| decode(name, value.value())));
            }
            Ok(all)
        })
        .await
    }

    /// How many there are; `None` when that cannot be told.
    pub async fn count(&self) -> Option<u64> {
        let counted = self.run(|database| match open_table(database)? {
            Some(table) => Ok(table.len()?),
            None => Ok(0),
        });
        counted.await.ok()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, NameStoreError> {
        let database = self.database.clone().map_err(NameStoreError::Unavailable)?;
        let done = tokio::task::spawn_blocking(move || work(&database)).await;
        Ok(done.map_err(|_| NameStoreError::Stopping)??)
    }
}

fn prepare(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    drop(transaction.open_table(NAMES)?);
    transaction.commit()?;
    Ok(())
}

type Table = redb::ReadOnlyTable<&'static [u8], (&'static [u8], Option<&'static str>, u64, u64)>;

fn open_table(database: &Database) -> Result<Option<Table>, redb::Error> {
    match database.begin_read()?.open_table(NAMES) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn name_of(key: &[u8]) -> Option<IpnsName> {
    PeerId::from_bytes(key).ok().map(IpnsName::from)
}

/// What is on disk is verified like everything else; what does not pass is as good as not there.
fn decode(name: IpnsName, (record, own, updated, lifetime): (&[u8], Option<&str>, u64, u64)) -> Option<Kept> {
    let record = Record::read(&name, &Bytes::copy_from_slice(record)).ok()?;
    let own = own.map(|key| Own { key: key.to_owned(), lifetime: Duration::from_secs(lifetime) });
    Some(Kept { record, own, updated: UNIX_EPOCH + Duration::from_millis(updated) })
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;
    use crate::ipld::ipns::Draft;
    use crate::ipld::path::ContentPath;

    fn kept(key: &Keypair, sequence: u64) -> Kept {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let value = ContentPath::parse_text("/ipfs/bafkqaaa").unwrap();
        let ttl = Duration::from_secs(60);
        let draft = Draft { value, sequence, eol: now + Duration::from_secs(3600), ttl };
        let own = Own { key: "blog".into(), lifetime: Duration::from_secs(3600) };
        Kept { record: Record::sign(key, &draft).unwrap(), own: Some(own), updated: now }
    }

    #[tokio::test]
    async fn records_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let key = Keypair::generate_ed25519();
        let name = IpnsName::of_key(&key.public());
        let store = NameStore::open(dir.path());
        assert_eq!(store.get(name).await.unwrap(), None);
        let now = SystemTime::now();
        store.put(kept(&key, 1), now).await.unwrap();
        store.put(kept(&key, 2), now).await.unwrap();
        drop(store);
        let store = NameStore::open(dir.path());
        assert_eq!(store.get(name).await.unwrap(), Some(kept(&key, 2)));
        assert_eq!(store.all().await.unwrap(), [kept(&key, 2)]);
        assert_eq!(store.count().await, Some(1));
    }

    #[tokio::test]
    async fn names_beyond_the_bound_are_refused_until_others_expire() {
        let store = NameStore { most: 2, ..NameStore::in_memory() };
        let keys: Vec<Keypair> = (0..3).map(|_| Keypair::generate_ed25519()).collect();
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        store.put(kept(&keys[0], 1), now).await.unwrap();
        store.put(kept(&keys[1], 1), now).await.unwrap();
        let put = store.put(kept(&keys[2], 1), now).await;
        assert!(matches!(put, Err(NameStoreError::Full { most: 2 })), "{put:?}");
        store.put(kept(&keys[0], 2), now).await.expect("one that is kept may change");
        store.put(kept(&keys[2], 1), now + Duration::from_secs(7200)).await.expect("the others have expired");
        assert_eq!(store.count().await, Some(1));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_an_error_of_each_call() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"not a database").unwrap();
        let store = NameStore::open(dir.path());
        let put = store.put(kept(&Keypair::generate_ed25519(), 1), SystemTime::now()).await;
        assert!(matches!(put, Err(NameStoreError::Unavailable(_))), "{put:?}");
    }
}
