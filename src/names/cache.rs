//! What was found, how long it counts, and what may still be said while it is looked up again.
//!
//! An answer is fresh for its TTL. For [`Config::max_stale`](super::Config::max_stale) longer it is stale: it is given
//! at once while a look-up runs behind it (kubo#11301). An IPNS record past its end of life is never given. Failures
//! are kept too, shortly. The clocks are parameters.

use std::collections::hash_map::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use foyer::{Cache, CacheBuilder, Event, EventListener, S3FifoConfig};
use prometheus_client::metrics::counter::Counter;

use super::{Name, NameError, Source};
use crate::ipld::ipns::Record;
use crate::ipld::path::ContentPath;

/// What the cache may take, in bytes.
const CAPACITY: usize = 16 << 20;
/// What an entry costs besides its record and its path, in bytes (generous).
const ENTRY_OVERHEAD: usize = 512;
/// How long a record counts whose publisher does not say (GATEWAY.md §3.7).
pub(super) const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// A longer TTL than this is believed only so far: a mistake must not last for ever.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// One name's answer.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: ContentPath,
    pub(super) source: Source,
    /// As the publisher or DNS gave it.
    pub(super) ttl: Duration,
    pub(super) since: Instant,
    /// Of an IPNS name.
    pub(super) record: Option<Record>,
    /// Nobody knows better (our own key, or nobody to ask): it stays fresh until its end of life.
    pub(super) settled: bool,
}

#[derive(Debug, Clone)]
enum Kept {
    Found(Arc<Found>),
    Failed { error: NameError, until: Instant },
}

/// What is known of a name.
#[derive(Debug, Clone)]
pub(super) enum Known {
    Fresh(Arc<Found>),
    /// May be given; a look-up is due.
    Stale(Arc<Found>),
    /// It failed a moment ago.
    Failed(NameError),
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    Stale,
    Gone,
}

impl Found {
    fn age(&self, now: Instant, clock: SystemTime, max_stale: Duration) -> Age {
        if self.record.as_ref().is_some_and(|record| !record.is_valid_at(clock)) {
            return Age::Gone;
        }
        if self.settled {
            return Age::Fresh;
        }
        let age = now.saturating_duration_since(self.since);
        let ttl = self.ttl.min(MAX_TTL);
        match age {
            age if age < ttl => Age::Fresh,
            age if age < ttl + max_stale => Age::Stale,
            _ => Age::Gone,
        }
    }

    /// How long the answer may be kept from now on: what is left of the TTL, and never beyond the end of life.
    pub(super) fn remaining(&self, now: Instant, clock: SystemTime) -> Duration {
        let age = if self.settled { Duration::ZERO } else { now.saturating_duration_since(self.since) };
        let left = self.ttl.min(MAX_TTL).saturating_sub(age);
        match &self.record {
            Some(record) => left.min(record.eol().duration_since(clock).unwrap_or_default()),
            None => left,
        }
    }

    fn weight(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.bytes().len() + record.value().len())
            + self.path.segments.iter().map(|segment| segment.len() + 24).sum::<usize>()
    }
}

/// Bounded by [`CAPACITY`].
pub(super) struct NameCache {
    cache: Cache<Name, Kept, RandomState>,
    max_stale: Duration,
}

struct Evictions(Counter);

impl EventListener for Evictions {
    type Key = Name;
    type Value = Kept;

    fn on_leave(&self, reason: Event, _: &Name, _: &Kept) {
        if reason == Event::Evict {
            self.0.inc();
        }
    }
}

impl NameCache {
    pub(super) fn new(max_stale: Duration, evictions: Counter) -> Self {
        let cache = CacheBuilder::new(CAPACITY)
            .with_name("names")
            .with_shards(1)
            .with_eviction_config(S3FifoConfig::default())
            .with_hash_builder(RandomState::new())
            .with_weighter(|_: &Name, kept: &Kept| match kept {
                Kept::Found(found) => ENTRY_OVERHEAD + found.weight(),
                Kept::Failed { .. } => ENTRY_OVERHEAD,
            })
            .with_event_listener(Arc::new(Evictions(evictions)))
            .build();
        Self { cache, max_stale }
    }

    pub(super) fn look(&self, name: &Name, now: Instant, clock: SystemTime) -> Known {
        let Some(entry) = self.cache.get(name) else { return Known::Nothing };
        match entry.value() {
            Kept::Found(found) => match found.age(now, clock, self.max_stale) {
                Age::Fresh => Known::Fresh(found.clone()),
                Age::Stale => Known::Stale(found.clone()),
                Age::Gone => Known::Nothing,
            },
            Kept::Failed { error, until } if now < *until => Known::Failed(error.clone()),
            Kept::Failed { .. } => Known::Nothing,
        }
    }

    /// Keeps an answer, in place of whatever was there.
    pub(super) fn keep(&self, name: Name, found: Arc<Found>) {
        self.cache.insert(name, Kept::Found(found));
    }

    /// Keeps a failure for `time`, unless something is there that may still be given.
    pub(super) fn keep_failure(&self, name: Name, error: NameError, time: Duration, now: Instant, clock: SystemTime) {
        if !matches!(self.look(&name, now, clock), Known::Fresh(_) | Known::Stale(_)) {
            self.cache.insert(name, Kept::Failed { error, until: now + time });
        }
    }

    pub(super) fn forget(&self, name: &Name) {
        self.cache.remove(name);
    }

    pub(super) fn entries(&self) -> usize {
        self.cache.entries()
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;
    use crate::ipld::ipns::Draft;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn found(ttl: Duration, since: Instant, eol: Option<SystemTime>) -> Found {
        let path = ContentPath::parse_text("/ipfs/bafkqaaa").unwrap();
        let record = eol.map(|eol| {
            let draft = Draft { value: path.clone(), sequence: 1, eol, ttl };
            Record::sign(&Keypair::generate_ed25519(), &draft).unwrap()
        });
        Found { path, source: Source::Dns, ttl, since, record, settled: false }
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let (start, clock) = (Instant::now(), SystemTime::now());
        let found = found(MINUTE, start, None);
        let second = Duration::from_secs(1);
        for (age, expected) in [
            (Duration::ZERO, Age::Fresh),
            (MINUTE - second, Age::Fresh),
            (MINUTE, Age::Stale),
            (MINUTE + HOUR - second, Age::Stale),
            (MINUTE + HOUR, Age::Gone),
        ] {
            assert_eq!(found.age(start + age, clock, HOUR), expected, "{age:?}");
        }
        assert_eq!(found.remaining(start + MINUTE / 4, clock), MINUTE - MINUTE / 4);
        assert_eq!(found.remaining(start + HOUR, clock), Duration::ZERO);
    }

    #[test]
    fn the_end_of_life_ends_everything() {
        let (start, clock) = (Instant::now(), SystemTime::now());
        let found = Found { settled: true, ..found(HOUR, start, Some(clock + MINUTE)) };
        assert_eq!(found.age(start, clock + MINUTE - Duration::from_secs(1), HOUR), Age::Fresh);
        assert_eq!(found.age(start, clock + MINUTE, HOUR), Age::Gone);
        assert_eq!(found.remaining(start, clock), MINUTE);
    }

    #[test]
    fn a_failure_is_kept_shortly_and_does_not_hide_what_may_still_be_given() {
        let (start, clock) = (Instant::now(), SystemTime::now());
        let cache = NameCache::new(HOUR, Counter::default());
        let name: Name = "a.example".parse().unwrap();
        let fail = |at| cache.keep_failure(name.clone(), NameError::Busy, MINUTE, at, clock);
        fail(start);
        assert!(matches!(cache.look(&name, start + MINUTE / 2, clock), Known::Failed(NameError::Busy)));
        assert!(matches!(cache.look(&name, start + MINUTE, clock), Known::Nothing));
        cache.keep(name.clone(), Arc::new(found(MINUTE, start, None)));
        fail(start + 2 * MINUTE);
        assert!(matches!(cache.look(&name, start + 2 * MINUTE, clock), Known::Stale(_)));
        fail(start + 2 * HOUR);
        assert!(matches!(cache.look(&name, start + 2 * HOUR, clock), Known::Failed(_)));
        cache.forget(&name);
        assert!(matches!(cache.look(&name, start, clock), Known::Nothing));
    }
}
