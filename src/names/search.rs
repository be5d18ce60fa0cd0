//! Looking for a record: everybody is asked at once, the best valid one counts.
//!
//! The answer is given when a quorum of the DHT has spoken, when everybody has, or shortly after the first valid record
//! ([`Config::settle`](super::Config::settle)); the search then goes on behind it, and a better record takes its place
//! in the cache. Peers that had a worse one are given the best (entry correction).

use std::time::{Instant, SystemTime};

use futures::StreamExt;
use futures::stream::SelectAll;
use libp2p::PeerId;
use tokio::sync::watch;

use super::{FAILURE, Name, NameError, Outcome, Resolver, Source};
use crate::ipld::ipns::{IpnsName, Record, RecordError};
use crate::routing::{RouterKind, RoutingError};

/// Peers that one search corrects at most.
const MAX_CORRECTED: usize = 20;

/// What has come so far.
#[derive(Default)]
struct Harvest {
    best: Option<(Record, Source)>,
    from_dht: usize,
    /// Who gave which record, of the DHT's peers.
    holders: Vec<(PeerId, Record)>,
    invalid: Option<RecordError>,
    failed: Option<RoutingError>,
}

impl Harvest {
    /// Takes a record; whether it is valid.
    fn take(&mut self, record: Record, source: Source, from: Option<PeerId>) {
        self.from_dht += usize::from(source == Source::Dht);
        if let Some(peer) = from.filter(|_| self.holders.len() < 4 * MAX_CORRECTED) {
            self.holders.push((peer, record.clone()));
        }
        if self.best.as_ref().is_none_or(|(best, _)| record.rank(best).is_gt()) {
            self.best = Some((record, source));
        }
    }

    /// Peers that have a record which is worse than the best.
    fn outdated(&self) -> Vec<PeerId> {
        let Some((best, _)) = &self.best else { return Vec::new() };
        let worse = self.holders.iter().filter(|(_, record)| record.rank(best).is_lt());
        worse.map(|(peer, _)| *peer).take(MAX_CORRECTED).collect()
    }

    fn error(self, name: &IpnsName, timed_out: bool, after: std::time::Duration) -> NameError {
        let name = name.to_string();
        match (self.invalid, self.failed) {
            (Some(error), _) => NameError::Invalid { name, error },
            _ if timed_out => NameError::Timeout { name, after },
            (None, Some(RoutingError::Timeout(after))) => NameError::Timeout { name, after },
            (None, Some(error)) => NameError::Unreachable { name, reason: error.to_string() },
            (None, None) => NameError::NotFound { name },
        }
    }
}

impl Resolver {
    /// Searches, keeps what is found, and tells who waits: once early, and the cache again when it is better.
    pub(super) async fn search(&self, name: &IpnsName, waiting: &watch::Sender<Outcome>) {
        let config = &self.inner.config;
        let mut records = SelectAll::new();
        for router in &self.inner.routers {
            let kind = router.kind();
            records.push(router.records(name).map(move |item| (kind, item)).boxed());
        }
        let mut harvest = Harvest::default();
        if let Ok(Some(kept)) = self.inner.store.get(*name).await
            && kept.record.is_valid_at(SystemTime::now())
        {
            harvest.best = Some((kept.record, Source::Local));
        }
        let deadline = tokio::time::Instant::now() + config.timeout;
        let mut settled: Option<tokio::time::Instant> = None;
        let mut told = false;
        let mut timed_out = false;
        loop {
            let wake = settled.filter(|_| !told).unwrap_or(deadline);
            tokio::select! {
                item = records.next() => match item {
                    None => break,
                    Some((kind, Ok(found))) => match Record::verify(name, &found.bytes, SystemTime::now()) {
                        Ok(record) => {
                            self.inner.metrics.records.inc();
                            harvest.take(record, Source::of(kind), found.from);
                            settled.get_or_insert_with(|| tokio::time::Instant::now() + config.settle);
                            if harvest.from_dht >= config.quorum {
                                break;
                            }
                        }
                        Err(error) => {
                            self.inner.metrics.invalid.inc();
                            tracing::debug!(%name, router = %kind, %error, "record refused");
                            harvest.invalid.get_or_insert(error);
                        }
                    },
                    Some((kind, Err(error))) => {
                        tracing::debug!(%name, router = %kind, %error, "router failed");
                        harvest.failed.get_or_insert(error);
                    }
                },
                () = tokio::time::sleep_until(wake) => {
                    if wake == deadline {
                        timed_out = true;
                        break;
                    }
                    told = true;
                    self.tell(&harvest, waiting);
                }
            }
        }
        // Ends the queries that are still running.
        drop(records);
        if harvest.best.is_some() {
            self.tell(&harvest, waiting);
            self.correct(name, &harvest);
        } else {
            let error = harvest.error(name, timed_out, config.timeout);
            self.fail(Name::Key(*name), error.clone(), FAILURE);
            waiting.send_replace(Some(Err(error)));
        }
    }

    fn tell(&self, harvest: &Harvest, waiting: &watch::Sender<Outcome>) {
        let Some((record, source)) = harvest.best.clone() else { return };
        let name = Name::Key(*record.name());
        let outcome = self.found(record, source, false);
        if let Ok(found) = &outcome {
            // A publication may have come in between: it stays.
            let newer = match self.inner.cache.look(&name, Instant::now(), SystemTime::now()) {
                super::Known::Fresh(known) | super::Known::Stale(known) => {
                    known.settled
                        || known.record.as_ref().zip(found.record.as_ref()).is_some_and(|(a, b)| a.rank(b).is_gt())
                }
                _ => false,
            };
            if !newer {
                self.inner.cache.keep(name, found.clone());
            }
        }
        waiting.send_replace(Some(outcome));
    }

    fn correct(&self, name: &IpnsName, harvest: &Harvest) {
        let (outdated, Some((best, _))) = (harvest.outdated(), &harvest.best) else { return };
        if outdated.is_empty() {
            return;
        }
        self.inner.metrics.corrections.inc_by(outdated.len() as u64);
        for router in self.inner.routers.iter().filter(|router| router.kind() == RouterKind::Dht) {
            router.correct(name, best.bytes().clone(), outdated.clone());
        }
    }
}
