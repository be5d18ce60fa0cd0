//! `GET /cache`: what the tiers hold and had, and what caches of other sizes would have hit.

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::State;
use super::extract::fresh;
use crate::blockstore::Stats;
use crate::blockstore::reuse::{HitRatio, MIN_SAMPLED};

#[derive(Serialize, ToSchema)]
pub struct Cache {
    tiers: Stats,
    reuse: Reuse,
}

/// The reuse-distance curve, estimated from a sample of the blocks that requests read since the start.
#[derive(Serialize, ToSchema)]
struct Reuse {
    /// Block reads of requests and their bytes, exact.
    accesses: u64,
    bytes: u64,
    sampled_accesses: u64,
    sampled_blocks: u64,
    /// The share of blocks that is followed, 0..=1.
    sample_rate: f64,
    /// Sampled reads under which the curve is empty: not enough data.
    min_sampled: u64,
    /// What a least-recently-used cache of a size would have hit; empty with too little data.
    curve: Vec<Point>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReusePoint)]
struct Point {
    cache_bytes: u64,
    #[serde(flatten)]
    ratio: HitRatio,
}

/// Sizes of the curve: two to a doubling, from 1 MiB to 1 TiB.
fn sizes() -> impl Iterator<Item = u64> {
    (0..=40).map(|at| ((1_u64 << 20) as f64 * (f64::from(at) / 2.0).exp2()) as u64)
}

/// What the cache tiers hold and had, and what caches of other sizes would have hit
#[utoipa::path(get, path = "/cache", tag = "content", responses((status = 200, body = Cache)))]
pub async fn cache(Extract(state): Extract<State>) -> Response {
    let curve = state.blocks.reuse();
    let points = sizes().filter_map(|cache_bytes| Some(Point { cache_bytes, ratio: curve.hit_ratio(cache_bytes)? }));
    let reuse = Reuse {
        accesses: curve.accesses,
        bytes: curve.bytes,
        sampled_accesses: curve.sampled_accesses,
        sampled_blocks: curve.sampled_blocks,
        sample_rate: curve.sample_rate,
        min_sampled: MIN_SAMPLED,
        curve: points.collect(),
    };
    fresh(StatusCode::OK, Cache { tiers: state.blocks.stats(), reuse })
}
