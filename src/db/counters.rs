//! Exact counts, kept in memory and flushed by the minute. Never derived from rows, which may be sampled or dropped.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::histogram::Histogram;
use super::rows;
use crate::record::{AttemptOutcome, CacheState, Outcome, RetrievalRecord};

/// The width of a bucket of the minute table.
pub const MINUTE: Duration = Duration::from_secs(60);
/// The width of a bucket of the hour table.
pub const HOUR: Duration = Duration::from_secs(3600);
/// Minutes kept while the database is away (a day); then the oldest two are added together.
const MAX_CLOSED: usize = 1_440;
/// A request that waits longer than this for its first provider is counted in `routed_slowly`.
pub const SLOW_ROUTING: Duration = Duration::from_millis(500);

/// Declares the integer counts once: the struct, the sum, and both ways between it and a row of either table.
macro_rules! tally {
    ($($(#[$meta:meta])* $field:ident),+ $(,)?) => {
        /// What happened in some span of time. Sums of [`Tally`]s are exact.
        ///
        /// A *transfer* is a retrieval that asked the network. Bytes of a tier are body bytes of retrievals whose
        /// slowest needed tier it was.
        #[derive(Debug, Clone, Default, PartialEq, Serialize)]
        pub struct Tally {
            $($(#[$meta])* pub $field: u64,)+
            /// Bytes of the transfers that have an optimisation score, and the sum of score x bytes.
            pub score_bytes: f64,
            pub score_sum: f64,
            #[serde(skip)]
            pub ttfb: Histogram,
            #[serde(skip)]
            pub load: Histogram,
            #[serde(skip)]
            pub transfer: Histogram,
            #[serde(skip)]
            pub routing: Histogram,
        }

        impl Tally {
            pub fn merge(&mut self, other: &Self) {
                $(self.$field = self.$field.saturating_add(other.$field);)+
                self.score_bytes += other.score_bytes;
                self.score_sum += other.score_sum;
                self.ttfb.merge(&other.ttfb);
                self.load.merge(&other.load);
                self.transfer.merge(&other.transfer);
                self.routing.merge(&other.routing);
            }
        }

        tally!(@row rollup_minute $($field)+);
        tally!(@row rollup_hour $($field)+);
    };
    (@row $entity:ident $($field:ident)+) => {
        impl From<&super::entity::$entity::Model> for Tally {
            fn from(row: &super::entity::$entity::Model) -> Self {
                Self {
                    $($field: u64::try_from(row.$field).unwrap_or_default(),)+
                    score_bytes: row.score_bytes,
                    score_sum: row.score_sum,
                    ttfb: Histogram::decode(&row.ttfb_histogram),
                    load: Histogram::decode(&row.load_histogram),
                    transfer: Histogram::decode(&row.transfer_histogram),
                    routing: Histogram::decode(&row.routing_histogram),
                }
            }
        }

        impl super::entity::$entity::ActiveModel {
            /// The counts as columns; the key, the bucket and the dimension are the caller's.
            pub fn counts(tally: &Tally) -> Self {
                use sea_orm::ActiveValue::Set;
                Self {
                    $($field: Set(i64::try_from(tally.$field).unwrap_or(i64::MAX)),)+
                    score_bytes: Set(tally.score_bytes),
                    score_sum: Set(tally.score_sum),
                    ttfb_histogram: Set(tally.ttfb.encode()),
                    load_histogram: Set(tally.load.encode()),
                    transfer_histogram: Set(tally.transfer.encode()),
                    routing_histogram: Set(tally.routing.encode()),
                    ..Default::default()
                }
            }
        }
    };
}

tally! {
    requests,
    complete,
    truncated,
    client_aborted,
    not_found,
    timeout,
    denied,
    error,
    /// Requests by the slowest tier that they needed; those that needed no block are in none of the five.
    hits_memory,
    hits_disk,
    hits_store,
    /// Some blocks were local, some came from the network.
    partial,
    misses,
    /// Body bytes handed to clients.
    bytes_served,
    bytes_memory,
    bytes_disk,
    bytes_store,
    bytes_partial,
    bytes_miss,
    /// Payload bytes of blocks fetched from the network.
    bytes_network,
    duplicate_bytes,
    transfers_completed,
    transfers_failed,
    /// Transfers with a known transfer time; `transfer_bytes` and `transfer_time_us` are theirs.
    transfers_measured,
    transfer_bytes,
    transfer_time_us,
    attempts_delivered,
    /// Stalled, corrupt, refused, unreachable or broken.
    attempts_failed,
    /// The peer had not got it, or it was not needed any more: nobody's fault.
    attempts_neutral,
    /// Requests that had to look for providers, and those of them that waited over 500 ms for the first.
    routed,
    routed_slowly,
    /// Transfers with an optimisation score, their time, and the time that the providers found allowed.
    scored_transfers,
    scored_time_us,
    bound_time_us,
}

impl Tally {
    pub fn add(&mut self, record: &RetrievalRecord) {
        let session = &record.session;
        self.requests += 1;
        *match record.outcome {
            Outcome::Complete => &mut self.complete,
            Outcome::Truncated => &mut self.truncated,
            Outcome::ClientAborted => &mut self.client_aborted,
            Outcome::NotFound => &mut self.not_found,
            Outcome::Timeout => &mut self.timeout,
            Outcome::Denied => &mut self.denied,
            Outcome::Error => &mut self.error,
        } += 1;
        if let Some(state) = rows::cache_state(record) {
            let (requests, bytes) = match state {
                CacheState::Memory => (&mut self.hits_memory, &mut self.bytes_memory),
                CacheState::Disk => (&mut self.hits_disk, &mut self.bytes_disk),
                CacheState::Store => (&mut self.hits_store, &mut self.bytes_store),
                CacheState::Partial => (&mut self.partial, &mut self.bytes_partial),
                CacheState::Miss => (&mut self.misses, &mut self.bytes_miss),
            };
            *requests += 1;
            *bytes += record.bytes;
        }
        self.bytes_served += record.bytes;
        self.bytes_network += session.network_bytes;
        self.duplicate_bytes += session.duplicate_bytes;
        self.load.record(record.load_time);
        if let Some(ttfb) = record.ttfb {
            self.ttfb.record(ttfb);
        }
        if let Some(routing) = session.routing {
            self.routed += 1;
            self.routed_slowly += u64::from(routing > SLOW_ROUTING);
            self.routing.record(routing);
        }
        self.add_transfer(record);
        for attempt in &session.attempts {
            *match attempt.outcome {
                AttemptOutcome::Delivered => &mut self.attempts_delivered,
                AttemptOutcome::DontHave | AttemptOutcome::Cancelled => &mut self.attempts_neutral,
                _ => &mut self.attempts_failed,
            } += 1;
        }
    }

    fn add_transfer(&mut self, record: &RetrievalRecord) {
        let session = &record.session;
        if rows::asked_the_network(session) {
            match record.outcome {
                Outcome::Complete => self.transfers_completed += 1,
                Outcome::Truncated | Outcome::NotFound | Outcome::Timeout | Outcome::Error => {
                    self.transfers_failed += 1;
                }
                // The client's and the operator's choice says nothing of the network.
                Outcome::ClientAborted | Outcome::Denied => {}
            }
        }
        let Some(time) = session.transfer_time else { return };
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.transfer.record(time);
        if session.network_bytes > 0 {
            self.transfers_measured += 1;
            self.transfer_bytes += session.network_bytes;
            self.transfer_time_us += time_us;
        }
        if let Some(score) = session.optimization_score {
            self.scored_transfers += 1;
            self.scored_time_us += time_us;
            self.bound_time_us += (score * time_us as f64) as u64;
            self.score_bytes += session.network_bytes as f64;
            self.score_sum += score * session.network_bytes as f64;
        }
    }

    /// Requests that ended for a reason that was not the client's.
    pub fn failed(&self) -> u64 {
        self.truncated + self.not_found + self.timeout + self.denied + self.error
    }

    /// Share of requests that needed blocks and had all of them here; `None` when there was none.
    pub fn hit_ratio_requests(&self) -> Option<f64> {
        let hits = self.hits_memory + self.hits_disk + self.hits_store;
        ratio(hits, hits + self.partial + self.misses)
    }

    /// Share of body bytes that came from requests with all blocks here.
    pub fn hit_ratio_bytes(&self) -> Option<f64> {
        let hits = self.bytes_memory + self.bytes_disk + self.bytes_store;
        ratio(hits, hits + self.bytes_partial + self.bytes_miss)
    }
}

pub(crate) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// What counts are kept by. A closed set: the policy and the origin are enums.
pub type Dimension = (&'static str, &'static str);
/// Every request.
pub const ALL: Dimension = ("all", "");

/// One minute.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Microseconds since the epoch, a multiple of the width.
    pub start_us: i64,
    pub tallies: BTreeMap<Dimension, Tally>,
}

/// The open minute, and closed ones that are not in the database yet.
#[derive(Debug, Default)]
pub struct Counters {
    open: Option<Bucket>,
    closed: VecDeque<Bucket>,
}

impl Counters {
    pub fn add(&mut self, now: SystemTime, record: &RetrievalRecord) {
        self.turn(now);
        let start_us = minute_of(now);
        let bucket = self.open.get_or_insert_with(|| Bucket { start_us, tallies: BTreeMap::new() });
        for dimension in [ALL, ("policy", record.session.policy.as_str()), ("origin", record.origin.as_str())] {
            bucket.tallies.entry(dimension).or_default().add(record);
        }
    }

    /// Closes the open minute when it is over. A clock that goes back keeps the minute open.
    pub fn turn(&mut self, now: SystemTime) {
        if self.open.as_ref().is_some_and(|open| open.start_us < minute_of(now)) {
            self.close();
        }
    }

    /// Closes the open minute, over or not: at stop.
    pub fn close(&mut self) {
        self.closed.extend(self.open.take());
        if self.closed.len() > MAX_CLOSED
            && let (Some(oldest), Some(next)) = (self.closed.pop_front(), self.closed.front_mut())
        {
            for (dimension, tally) in oldest.tallies {
                next.tallies.entry(dimension).or_default().merge(&tally);
            }
        }
    }

    /// Whole minutes that are not in the database yet, the oldest first.
    pub fn closed(&self) -> impl Iterator<Item = &Bucket> {
        self.closed.iter()
    }

    /// Forgets a bucket that is in the database.
    pub fn written(&mut self, start_us: i64) {
        self.closed.retain(|bucket| bucket.start_us != start_us);
    }

    /// What is not in the database yet.
    pub fn pending(&self) -> impl Iterator<Item = &Bucket> {
        self.closed.iter().chain(&self.open)
    }
}

fn minute_of(now: SystemTime) -> i64 {
    let width = MINUTE.as_micros() as i64;
    rows::micros(now).div_euclid(width) * width
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::rows::tests::record;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(6_000 + seconds)
    }

    #[test]
    fn a_minute_closes_when_it_is_over_and_a_clock_that_goes_back_opens_no_other() {
        let mut counters = Counters::default();
        counters.add(at(59), &record(1));
        counters.add(at(0), &record(2));
        assert_eq!(counters.closed().count(), 0);
        counters.add(at(60), &record(3));
        counters.add(at(30), &record(4));
        let closed: Vec<_> = counters.closed().map(|bucket| bucket.tallies[&ALL].requests).collect();
        assert_eq!(closed, [2]);
        assert_eq!(counters.pending().map(|bucket| bucket.tallies[&ALL].requests).sum::<u64>(), 4);
    }

    #[test]
    fn a_long_outage_keeps_the_counts_and_bounds_the_minutes() {
        let mut counters = Counters::default();
        for minute in 0..3_000 {
            counters.add(at(60 * minute), &record(1));
        }
        counters.close();
        assert_eq!(counters.closed().count(), MAX_CLOSED);
        assert_eq!(counters.closed().map(|bucket| bucket.tallies[&ALL].requests).sum::<u64>(), 3_000);
    }

    #[test]
    fn a_client_that_went_away_is_no_failed_transfer() {
        let mut tally = Tally::default();
        let mut gone = record(1);
        gone.outcome = Outcome::ClientAborted;
        tally.add(&gone);
        let mut late = record(2);
        late.outcome = Outcome::Timeout;
        tally.add(&late);
        assert_eq!((tally.transfers_completed, tally.transfers_failed, tally.failed()), (0, 1, 1));
    }
}
