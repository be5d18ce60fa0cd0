//! The figures of the Overview page: exact counts, and the comparison of policies from paired rows.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::compare::Comparison;
use super::series::Series;
use super::{NetworkRow, Window};
use crate::db::counters::{ALL, MINUTE, Tally, ratio};
use crate::db::{Database, DbError, rows};

/// How far back the small series go.
const SERIES: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    pub window: Window,
    /// The part of the window in which this database has counts: from its first request on. Rates are over it.
    pub covered_s: f64,
    pub requests: u64,
    pub requests_per_second: Option<f64>,
    /// The busiest minute of the last hour.
    pub peak: Option<Peak>,
    pub ttfb_p50_ms: Option<f64>,
    pub ttfb_p95_ms: Option<f64>,
    pub load_p50_ms: Option<f64>,
    pub load_p95_ms: Option<f64>,
    pub bytes_served: u64,
    /// Payload bytes of blocks from the network.
    pub bytes_fetched: u64,
    pub duplicate_bytes: u64,
    pub cache: CacheHits,
    pub outcomes: Outcomes,
    /// All but complete and client-aborted ones.
    pub failed: u64,
    pub failed_ratio: Option<f64>,
    /// Requests that had to look for providers, and those that waited over 500 ms for the first.
    pub routed: u64,
    pub routed_slowly: u64,
    pub routing_p50_ms: Option<f64>,
    pub transfer_p50_ms: Option<f64>,
    pub transfers_completed: u64,
    pub transfers_failed: u64,
    pub transfer_bytes: u64,
    /// One for each size class, live traffic only.
    pub comparison: Vec<Comparison>,
    /// The last hour by the minute, empty minutes included; the last is not over.
    pub minutes: Vec<MinutePoint>,
    pub peers_connected: u64,
    /// The newest snapshot of the network, of the last hour.
    pub network: Option<NetworkRow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peak {
    pub requests_per_second: f64,
    pub at_us: i64,
}

/// Hits by the slowest tier that a request needed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct CacheHits {
    pub requests: ByTier,
    /// Body bytes.
    pub bytes: ByTier,
    /// memory + disk + store over all five; `None` when no request needed a block.
    pub hit_ratio_requests: Option<f64>,
    pub hit_ratio_bytes: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ByTier {
    pub memory: u64,
    pub disk: u64,
    pub store: u64,
    pub partial: u64,
    pub miss: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Outcomes {
    pub complete: u64,
    pub truncated: u64,
    pub client_aborted: u64,
    pub not_found: u64,
    pub timeout: u64,
    pub denied: u64,
    pub error: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MinutePoint {
    pub start_us: i64,
    pub requests: u64,
    pub ttfb_p50_ms: Option<f64>,
    pub ttfb_p95_ms: Option<f64>,
    pub bytes_served: u64,
    pub bytes_fetched: u64,
    pub hit_ratio: Option<f64>,
    pub failed: u64,
    /// Peers at the last snapshot of the minute.
    pub peers: Option<i64>,
}

impl Database {
    /// Everything that the Overview page shows of the database.
    pub async fn overview(&self, window: Window) -> Result<Overview, DbError> {
        let (total, first) = self.total(window, ALL).await?;
        let hour = Window { since_us: window.until_us - SERIES.as_micros() as i64, until_us: window.until_us };
        let minutes = self.series(hour, ALL).await?;
        let network = self.network_history(hour).await?;
        let minutes = points(&minutes, &network, hour);
        let covered_s =
            first.map_or(0.0, |first| (window.until_us - first.max(window.since_us)).max(0) as f64 / 1e6).max(0.0);
        Ok(Overview {
            window,
            covered_s,
            requests: total.requests,
            requests_per_second: (covered_s >= 1.0).then(|| total.requests as f64 / covered_s),
            peak: peak(&minutes),
            ttfb_p50_ms: total.ttfb.quantile_ms(0.5),
            ttfb_p95_ms: total.ttfb.quantile_ms(0.95),
            load_p50_ms: total.load.quantile_ms(0.5),
            load_p95_ms: total.load.quantile_ms(0.95),
            bytes_served: total.bytes_served,
            bytes_fetched: total.bytes_network,
            duplicate_bytes: total.duplicate_bytes,
            cache: CacheHits::of(&total),
            outcomes: Outcomes::of(&total),
            failed: total.failed(),
            failed_ratio: ratio(total.failed(), total.requests),
            routed: total.routed,
            routed_slowly: total.routed_slowly,
            routing_p50_ms: total.routing.quantile_ms(0.5),
            transfer_p50_ms: total.transfer.quantile_ms(0.5),
            transfers_completed: total.transfers_completed,
            transfers_failed: total.transfers_failed,
            transfer_bytes: total.transfer_bytes,
            comparison: self.comparison(window).await?,
            minutes,
            peers_connected: self.peers_connected().await?,
            network: network.into_iter().next_back(),
        })
    }

    /// Counts of the last hour by the minute, for a small series.
    pub async fn last_hour(&self, now: SystemTime) -> Result<Vec<MinutePoint>, DbError> {
        let hour = Window::last(SERIES, now);
        Ok(points(&self.series(hour, ALL).await?, &self.network_history(hour).await?, hour))
    }
}

impl CacheHits {
    pub(super) fn of(t: &Tally) -> Self {
        Self {
            requests: ByTier {
                memory: t.hits_memory,
                disk: t.hits_disk,
                store: t.hits_store,
                partial: t.partial,
                miss: t.misses,
            },
            bytes: ByTier {
                memory: t.bytes_memory,
                disk: t.bytes_disk,
                store: t.bytes_store,
                partial: t.bytes_partial,
                miss: t.bytes_miss,
            },
            hit_ratio_requests: t.hit_ratio_requests(),
            hit_ratio_bytes: t.hit_ratio_bytes(),
        }
    }
}

impl Outcomes {
    fn of(t: &Tally) -> Self {
        Self {
            complete: t.complete,
            truncated: t.truncated,
            client_aborted: t.client_aborted,
            not_found: t.not_found,
            timeout: t.timeout,
            denied: t.denied,
            error: t.error,
        }
    }
}

fn peak(minutes: &[MinutePoint]) -> Option<Peak> {
    let busiest = minutes.iter().filter(|minute| minute.requests > 0).max_by_key(|minute| minute.requests)?;
    Some(Peak { requests_per_second: busiest.requests as f64 / MINUTE.as_secs_f64(), at_us: busiest.start_us })
}

fn points(series: &Series, network: &[NetworkRow], hour: Window) -> Vec<MinutePoint> {
    let width = rows::int(MINUTE.as_micros() as u64);
    let last = (hour.until_us - 1).div_euclid(width) * width;
    let nothing = Tally::default();
    (0..60)
        .map(|n| {
            let start_us = last - (59 - n) * width;
            let tally = series.get(&start_us).unwrap_or(&nothing);
            let within = |row: &&NetworkRow| (start_us..start_us + width).contains(&row.test_timestamp);
            MinutePoint {
                start_us,
                requests: tally.requests,
                ttfb_p50_ms: tally.ttfb.quantile_ms(0.5),
                ttfb_p95_ms: tally.ttfb.quantile_ms(0.95),
                bytes_served: tally.bytes_served,
                bytes_fetched: tally.bytes_network,
                hit_ratio: tally.hit_ratio_requests(),
                failed: tally.failed(),
                peers: network.iter().rev().find(within).map(|row| row.peer_count),
            }
        })
        .collect()
}
