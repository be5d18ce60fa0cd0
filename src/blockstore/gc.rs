//! Garbage collection of durable blocks: mark from the pins, then remove the rest.
//!
//! It removes files one by one and touches nothing else, so a crash at any point leaves a store with some garbage left.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::durable::{DurableStore, SHARDS};
use super::metrics::StoreMetrics;
use super::{Pin, PinKind, StoreError};
use crate::ipld::{Block, Cid, HashCode, Multihash, codec};

/// Missing CIDs that a report names; the count goes on.
const MISSING_NAMED: usize = 1_000;

/// The CIDs that a block names; `None` when its bytes are not what its codec says.
pub type Links = Option<Vec<Cid>>;
/// How gc finds the links of a block.
pub type LinksFn = fn(&Block) -> Links;

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct GcReport {
    pub pins: u64,
    /// Distinct blocks that pins reach.
    pub pinned_blocks: u64,
    pub removed_blocks: u64,
    pub removed_bytes: u64,
    pub kept_blocks: u64,
    pub kept_bytes: u64,
    /// Blocks that pins reach and the store does not have; what lies under them is unknown.
    pub missing_blocks: u64,
    /// The first 1,000 of them.
    pub missing: Vec<String>,
    /// Pinned blocks that could not be decoded, so that links under them are unknown.
    pub undecodable_blocks: u64,
    /// The server stopped before the end; what remains is for the next run.
    pub interrupted: bool,
    /// Left out of JSON, where durations carry their unit in the name.
    #[serde(skip)]
    pub elapsed: Duration,
}

/// What to keep. A block of 34-byte names takes some 40 to 80 bytes here.
#[derive(Default)]
struct Marks {
    keep: HashSet<[u8; 32]>,
    /// Blocks whose links were taken, by codec: the same bytes may be named as raw and as dag-pb.
    walked: HashSet<([u8; 32], u64)>,
}

/// Blocks the thread. The caller holds the locks that keep adds and puts away.
pub(super) fn collect(
    store: &DurableStore,
    pins: &[Pin],
    links: LinksFn,
    metrics: &StoreMetrics,
    stop: &CancellationToken,
) -> Result<GcReport, StoreError> {
    let started = Instant::now();
    let mut report = GcReport { pins: pins.len() as u64, ..GcReport::default() };
    let marks = mark(store, pins, links, &mut report, stop);
    report.pinned_blocks = marks.keep.len() as u64;
    for shard in 0..SHARDS {
        if stop.is_cancelled() {
            report.interrupted = true;
        }
        if report.interrupted {
            break;
        }
        for stored in store.list_shard(shard)? {
            if marks.keep.contains(&short(&stored.hash)) {
                report.kept_blocks += 1;
                report.kept_bytes += stored.size;
            } else if let Some(size) = store.remove_blocking(&stored.hash)? {
                report.removed_blocks += 1;
                report.removed_bytes += size;
                metrics.gc_removed.inc();
            }
        }
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

fn mark(store: &DurableStore, pins: &[Pin], links: LinksFn, report: &mut GcReport, stop: &CancellationToken) -> Marks {
    let mut marks = Marks::default();
    let mut todo: Vec<Cid> = Vec::new();
    for pin in pins {
        if pin.kind == PinKind::Direct {
            let new = marks.keep.insert(short(pin.cid.hash()));
            if new && !store.has_blocking(&pin.cid) {
                missing(report, &pin.cid);
            }
            continue;
        }
        reach(&mut marks, &mut todo, pin.cid);
        // Iterative and marked when found, so the stack holds each block once however the DAG is shaped.
        while let Some(cid) = todo.pop() {
            if stop.is_cancelled() {
                report.interrupted = true;
                return marks;
            }
            if cid.codec() == codec::RAW {
                if !store.has_blocking(&cid) {
                    missing(report, &cid);
                }
                continue;
            }
            let Some(block) = store.get_blocking(&cid) else {
                missing(report, &cid);
                continue;
            };
            match links(&block) {
                Some(found) => found.into_iter().for_each(|cid| reach(&mut marks, &mut todo, cid)),
                None => {
                    warn!(%cid, "a pinned block cannot be decoded; what it links to is not kept by it");
                    report.undecodable_blocks += 1;
                }
            }
        }
    }
    marks
}

fn reach(marks: &mut Marks, todo: &mut Vec<Cid>, cid: Cid) {
    let name = short(cid.hash());
    let new = marks.keep.insert(name);
    let walk = match cid.codec() {
        codec::RAW => new,
        other => marks.walked.insert((name, other)),
    };
    if walk {
        todo.push(cid);
    }
}

fn missing(report: &mut GcReport, cid: &Cid) {
    report.missing_blocks += 1;
    if report.missing.len() < MISSING_NAMED {
        report.missing.push(crate::ipld::cid::canonical(cid));
    }
}

/// Stands for a multihash: its digest where that is a hash of 28 to 32 bytes, else a hash of the whole of it.
///
/// An identity digest is chosen freely: cut or taken as it is, it could pose as another block that was walked already,
/// and what hangs under that block would be lost.
fn short(hash: &Multihash) -> [u8; 32] {
    let mut digest = hash.digest();
    let whole;
    if hash.code() == u64::from(HashCode::Identity) || digest.len() > 32 {
        // blake3 takes any length; only identity refuses.
        whole = HashCode::Blake3.digest(&hash.to_bytes()).unwrap_or(*hash);
        digest = whole.digest();
    }
    let mut short = [0; 32];
    let length = digest.len().min(32);
    short[..length].copy_from_slice(&digest[..length]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_digest_cannot_pose_as_another_block() {
        let block = HashCode::Sha2_256.digest(b"tide").unwrap();
        let posing = HashCode::Identity.digest(block.digest()).unwrap();
        assert_ne!(short(&block), short(&posing));
        let (long, longer) =
            (HashCode::Identity.digest(&[7; 40]).unwrap(), HashCode::Identity.digest(&[7; 41]).unwrap());
        assert_ne!(short(&long), short(&longer));
    }
}
