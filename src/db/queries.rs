//! The read side: plain view structs for pages, the API and reports. Times are microseconds since the epoch, unless
//! the name says `_ms` or `_s`. A figure that nobody measured is `None`.

mod cache;
mod compare;
mod network;
mod overview;
mod retrievals;
mod series;
mod webgpu;

use std::time::{Duration, SystemTime};

use sea_orm::{DbBackend, Statement};
use serde::Serialize;

pub use self::cache::CachePoint;
pub use self::compare::{Comparison, Interval, MIN_PAIRS, SizeClass, Verdict};
pub use self::network::{
    ContentRow, HardwareRow, LinkRow, NetworkRow, PeerAttempt, PeerDetail, PeerHistory, PeerOrder, PeerRow,
};
pub use self::overview::{ByTier, CacheHits, MinutePoint, Outcomes, Overview, Peak};
pub use self::retrievals::{
    AttemptRow, Detail, EventRow, Page, RetrievalBrief, RetrievalFilter, RetrievalRow, canonical_cid,
};
pub use self::webgpu::{LabRow, LabRunRow, ModelRow};
use super::rows;

/// The most rows of one page of a list.
pub const MAX_LIMIT: u32 = 1_000;

/// A span of time; `until` is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    pub since_us: i64,
    pub until_us: i64,
}

impl Window {
    pub fn new(since: SystemTime, until: SystemTime) -> Self {
        Self { since_us: rows::micros(since), until_us: rows::micros(until).max(rows::micros(since)) }
    }

    /// The span that ends at `now`, that very moment included.
    pub fn last(span: Duration, now: SystemTime) -> Self {
        let until_us = rows::micros(now).saturating_add(1);
        Self { since_us: until_us.saturating_sub(rows::int(span.as_micros() as u64)), until_us }
    }

    pub fn seconds(&self) -> f64 {
        (self.until_us - self.since_us) as f64 / 1e6
    }
}

/// One of each statement that pages run: a test has both engines explain them.
#[doc(hidden)]
pub fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    [
        cache::statements(backend),
        compare::statements(backend),
        network::statements(backend),
        retrievals::statements(backend),
        series::statements(backend),
        webgpu::statements(backend),
    ]
    .into_iter()
    .flatten()
    .collect()
}
