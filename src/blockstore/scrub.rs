//! Scrubbing: read and verify every durable block at a bounded rate.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::StoreError;
use super::durable::{DurableStore, SHARDS};
use crate::ipld::{Cid, cid::canonical, codec};

/// Damaged blocks that a report names; the count goes on.
const CORRUPT_NAMED: usize = 1_000;
/// How long the thread sleeps before it looks whether it should stop.
const NAP: Duration = Duration::from_millis(100);

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ScrubReport {
    pub blocks: u64,
    pub bytes: u64,
    /// Damaged blocks: deleted, so that they are fetched again.
    pub corrupt_blocks: u64,
    /// The first 1,000 of them, as raw CIDs (a file's name is its multihash, which knows no codec).
    pub corrupt: Vec<String>,
    /// Blocks that are there and could not be read.
    pub unreadable_blocks: u64,
    /// The server stopped before the end.
    pub interrupted: bool,
    /// Left out of JSON, where durations carry their unit in the name.
    #[serde(skip)]
    pub elapsed: Duration,
}

/// Blocks the thread. `rate` in bytes a second; 0: no limit.
pub(super) fn scrub(store: &DurableStore, rate: u64, stop: &CancellationToken) -> Result<ScrubReport, StoreError> {
    let started = Instant::now();
    let mut report = ScrubReport::default();
    for shard in 0..SHARDS {
        for stored in store.list_shard(shard)? {
            if stop.is_cancelled() {
                report.interrupted = true;
                report.elapsed = started.elapsed();
                return Ok(report);
            }
            let cid = Cid::new_v1(codec::RAW, stored.hash);
            if store.get_blocking(&cid).is_none() {
                // It is still there when the disk could not read or not delete it.
                if store.has_blocking(&cid) {
                    report.unreadable_blocks += 1;
                } else {
                    report.corrupt_blocks += 1;
                    if report.corrupt.len() < CORRUPT_NAMED {
                        report.corrupt.push(canonical(&cid));
                    }
                }
            }
            report.blocks += 1;
            report.bytes += stored.size;
            pace(started, report.bytes, rate, stop);
        }
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Sleeps until `bytes` at `rate` are due.
fn pace(started: Instant, bytes: u64, rate: u64, stop: &CancellationToken) {
    if rate == 0 {
        return;
    }
    let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
    while let Some(ahead) = due.checked_sub(started.elapsed())
        && !ahead.is_zero()
        && !stop.is_cancelled()
    {
        thread::sleep(ahead.min(NAP));
    }
}
