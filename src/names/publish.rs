//! Publishing: signing, keeping, announcing, and doing so again before a record expires.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libp2p::identity::Keypair;
use tokio_util::sync::CancellationToken;

use super::store::{Kept, NameStoreError, Own};
use super::{Name, NameError, Resolver, Source};
use crate::ipld::ipns::{Draft, IpnsName, Record};
use crate::ipld::path::ContentPath;
use crate::p2p::identity;
use crate::routing::RouterKind;

/// How long a published record is valid if nothing else is said: what Kubo takes, and what the DHT keeps.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(48 * 3600);
/// How long others may keep the answer if nothing else is said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// How long routers may take to accept a record.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked whether a record is due.
const TICK: Duration = Duration::from_secs(300);
const MAX_KEY_NAME: usize = 64;

/// What is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub value: ContentPath,
    /// The name of a key in the data directory, made at its first use; `None`: the node's own.
    pub key: Option<String>,
    pub lifetime: Duration,
    pub ttl: Duration,
}

impl Publish {
    pub fn new(value: ContentPath) -> Self {
        Self { value, key: None, lifetime: DEFAULT_LIFETIME, ttl: DEFAULT_TTL }
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub record: Record,
    /// By router; empty when there is none to tell.
    pub announced: Vec<Announced>,
}

/// Whether one router took a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    pub router: RouterKind,
    /// What went wrong; `None`: it was taken.
    pub error: Option<String>,
}

impl Resolver {
    /// Keeps a record that somebody signed, if it is valid and no worse than the one that is here, and announces it
    /// behind the answer. Durable when it returns.
    pub async fn put(&self, name: &IpnsName, bytes: Bytes) -> Result<Record, NameError> {
        let now = SystemTime::now();
        let record =
            Record::verify(name, &bytes, now).map_err(|error| NameError::Invalid { name: name.to_string(), error })?;
        let _one = self.inner.publishing.lock().await;
        let before = self.inner.store.get(*name).await?.filter(|kept| kept.record.is_valid_at(now));
        if let Some(kept) = &before
            && record.rank(&kept.record).is_lt()
        {
            return Err(NameError::Older { given: record.sequence(), have: kept.record.sequence() });
        }
        let own = before.and_then(|kept| kept.own);
        self.keep(Kept { record: record.clone(), own, updated: now }).await?;
        self.announce_behind(record.clone());
        Ok(record)
    }

    /// Signs and keeps a record, then announces it. The record is kept even when nobody takes it: the republisher
    /// tries again.
    pub async fn publish(&self, publish: &Publish) -> Result<Published, NameError> {
        let key = self.key(publish.key.as_deref()).await?;
        let name = IpnsName::of_key(&key.public());
        let record = {
            let _one = self.inner.publishing.lock().await;
            let now = SystemTime::now();
            let sequence = match self.last(&name).await? {
                // The same value again is the same statement, valid for longer.
                Some(last) if last.path().is_ok_and(|path| path == publish.value) => last.sequence(),
                Some(last) => last.sequence().saturating_add(1),
                None => 1,
            };
            let (eol, ttl) = (now + publish.lifetime, publish.ttl.min(publish.lifetime));
            let record = Record::sign(&key, &Draft { value: publish.value.clone(), sequence, eol, ttl })?;
            let own = Own { key: publish.key.clone().unwrap_or_default(), lifetime: publish.lifetime };
            self.keep(Kept { record: record.clone(), own: Some(own), updated: now }).await?;
            record
        };
        let announced = self.announce(&record).await;
        Ok(Published { record, announced })
    }

    /// The last record of one of our names: the one kept here, else what the network has (a key that was used elsewhere).
    async fn last(&self, name: &IpnsName) -> Result<Option<Record>, NameError> {
        if let Some(kept) = self.inner.store.get(*name).await? {
            return Ok(Some(kept.record));
        }
        match self.record(name, super::Reach::Network).await {
            Ok((record, _)) => Ok(Some(record)),
            Err(error) => {
                tracing::debug!(%name, %error, "no record of this name before");
                Ok(None)
            }
        }
    }

    async fn keep(&self, kept: Kept) -> Result<(), NameError> {
        let name = Name::Key(*kept.record.name());
        let settled = kept.own.is_some() || self.inner.routers.is_empty();
        let found = self.found(kept.record.clone(), Source::Local, settled)?;
        let put = self.inner.store.put(kept, SystemTime::now()).await;
        if matches!(put, Err(NameStoreError::Full { .. })) {
            self.inner.metrics.limit_kept.inc();
        }
        put?;
        self.inner.cache.keep(name, found);
        if let Some(count) = self.inner.store.count().await {
            self.inner.metrics.kept.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    /// Gives the record to every router at once.
    async fn announce(&self, record: &Record) -> Vec<Announced> {
        let each = self.inner.routers.iter().map(|router| {
            let (kind, announcing) = (router.kind(), router.announce(record.name(), record.bytes().clone()));
            async move {
                let error = match tokio::time::timeout(ANNOUNCE_TIMEOUT, announcing).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("no answer within {ANNOUNCE_TIMEOUT:?}")),
                };
                match &error {
                    None => self.inner.metrics.announced.inc(),
                    Some(_) => self.inner.metrics.announce_failures.inc(),
                };
                Announced { router: kind, error }
            }
        });
        futures::future::join_all(each).await
    }

    fn announce_behind(&self, record: Record) {
        if self.inner.routers.is_empty() {
            return;
        }
        let Ok(permit) = self.inner.announces.clone().try_acquire_owned() else {
            self.inner.metrics.limit_announces.inc();
            return;
        };
        let resolver = self.clone();
        self.inner.supervisor.spawn_short(async move {
            let _permit = permit;
            resolver.announce(&record).await;
        });
    }

    /// The key by name, made where there is none.
    async fn key(&self, name: Option<&str>) -> Result<Keypair, NameError> {
        let shown = name.unwrap_or_default().to_owned();
        let failed = |reason: String| NameError::Key { name: shown.clone(), reason };
        let Some(data_dir) = &self.inner.data_dir else { return Err(failed("there is no data directory".to_owned())) };
        let dir = match name {
            None | Some("") => data_dir.clone(),
            Some(name) => {
                let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
                if name.len() > MAX_KEY_NAME || !name.bytes().all(fits) {
                    return Err(NameError::KeyName(name.chars().take(MAX_KEY_NAME).collect()));
                }
                data_dir.join("keys").join(name)
            }
        };
        let loaded = tokio::task::spawn_blocking(move || identity::load_or_create(&dir)).await;
        loaded.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    /// Announces what was announced long ago; what is ours is signed anew, so that it does not expire. How many were due.
    pub async fn republish_due(&self, now: SystemTime) -> Result<usize, NameError> {
        let mut due = 0;
        for kept in self.inner.store.all().await? {
            let age = now.duration_since(kept.updated).unwrap_or_default();
            let record = match &kept.own {
                // A short life needs the new signature in time: at its half.
                Some(own) if age >= self.inner.config.republish.min(own.lifetime / 2) => {
                    match self.sign_anew(kept.record.name(), own.clone(), now).await {
                        Ok(record) => record,
                        Err(error) => {
                            tracing::warn!(name = %kept.record.name(), %error, "a name cannot be published again");
                            continue;
                        }
                    }
                }
                None if age >= self.inner.config.republish && kept.record.is_valid_at(now) => {
                    self.inner.store.put(Kept { updated: now, ..kept.clone() }, now).await?;
                    kept.record
                }
                _ => continue,
            };
            due += 1;
            for announced in self.announce(&record).await {
                if let Some(error) = announced.error {
                    tracing::debug!(name = %record.name(), router = %announced.router, error, "not announced");
                }
            }
        }
        Ok(due)
    }

    /// The same statement with a later end of life.
    async fn sign_anew(&self, name: &IpnsName, own: Own, now: SystemTime) -> Result<Record, NameError> {
        let key = self.key(Some(&own.key)).await?;
        let _one = self.inner.publishing.lock().await;
        // It may have been published anew in between.
        let lost = || NameError::Lost { name: name.to_string() };
        let last = self.inner.store.get(*name).await?.ok_or_else(lost)?.record;
        let value = last.path().map_err(|error| NameError::Invalid { name: name.to_string(), error })?;
        let ttl = last.ttl().unwrap_or(DEFAULT_TTL);
        let draft = Draft { value, sequence: last.sequence(), eol: now + own.lifetime, ttl };
        let record = Record::sign(&key, &draft)?;
        if record.name() != name {
            return Err(NameError::Key {
                name: own.key,
                reason: "it is another key than the one that signed".to_owned(),
            });
        }
        self.keep(Kept { record: record.clone(), own: Some(own), updated: now }).await?;
        Ok(record)
    }
}

/// The worker.
pub(super) async fn republish(resolver: Resolver, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            done = resolver.republish_due(SystemTime::now()) => match done {
                Ok(0) => {}
                Ok(due) => tracing::info!(due, "names published again"),
                Err(error) => tracing::debug!(%error, "kept names cannot be read"),
            },
        }
    }
}
