//! Whole answers in memory: the header block and the bytes of what is asked for again and again (RETRIEVAL.md §3, T17).
//!
//! Only what its address fixes for ever is kept: the 200 of a GET under `/ipfs/` or on an origin of a CID, once all of its
//! blocks are in the memory tier (so its first request never fills it, its second does: who comes once leaves nothing
//! behind). HEAD, 304 and single ranges are derived from it ([`answer`]). The bytes are those of the blocks, shared, not
//! copied; S3-FIFO decides what stays.
//!
//! An answer is as good as a new one or it is not given:
//! - its key holds everything that the answer varies by ([`Slot::key`]);
//! - its [`Epoch`] was read before anything was looked at; another denylist or a removed block makes it stale, so a
//!   decision of the denylists never outlives them. What is being sent when that happens is sent to its end;
//! - garbage collection and unpinning leave it, as they leave the memory tier: its bytes are verified, and nobody asked
//!   for them to be gone.
//!
//! Memory is bounded by what is *alive*, not by what is in the cache: an answer that was evicted while slow clients still
//! read it counts until the last of them is done ([`Held`]).

mod answer;
mod fill;
mod visit;

use std::collections::hash_map::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::body::Body;
use bytes::Bytes;
use foyer::{Cache, CacheBuilder, Event, EventListener, S3FifoConfig};
use http::{HeaderMap, Request};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Gateway;
use super::format::{CodecForm, Negotiated, ResponseFormat};
use super::listing;
use super::origin;
use crate::ipld::{Block, Cid};
use crate::telemetry::Metrics;
use crate::units::ByteSize;

pub(super) use answer::{Given, give};

/// Longer keys are not looked up: host, path and query together, in bytes.
const MAX_KEY: usize = 2_048;
/// Blocks of one answer.
pub(super) const MAX_BLOCKS: usize = 1_024;
/// The largest body of a length that is not known beforehand (listings), in bytes.
const MAX_UNANNOUNCED: u64 = 1 << 20;
/// What an answer costs besides its bytes and its key: headers, the records of blocks and of the cache (generous).
const ENTRY_OVERHEAD: usize = 6 << 10;
/// No answer takes more than this share of the budget.
const LARGEST_SHARE: u64 = 2;

type Key = Box<[u8]>;

/// What decisions an answer was made under. Equal epochs: the same decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch {
    denylists: u64,
    removals: u64,
}

/// The place in the cache of an answer that is not there.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    key: Arc<[u8]>,
    epoch: Epoch,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Entry {
    /// Of the 200 to a GET, with placeholders for what differs from request to request.
    headers: HeaderMap,
    etag: String,
    modified: Option<SystemTime>,
    body: Vec<Bytes>,
    length: u64,
    /// `Content-Length` says so; else the body is sent in chunks.
    announced: bool,
    /// Who names `etag` is answered before a retrieval begins.
    known_at_once: bool,
    pub(super) root: Cid,
    pub(super) path: String,
    format: &'static str,
    /// What a request without this cache would read, in that order.
    pub(super) reads: Vec<Block>,
    epoch: Epoch,
    held: Held,
}

/// Bytes that count as alive until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    bytes: u64,
    alive: Arc<Alive>,
}

#[derive(Debug)]
struct Alive {
    bytes: AtomicU64,
    gauge: Gauge,
}

/// The cache.
pub(super) struct Warm {
    /// `None`: nothing is kept.
    cache: Option<Cache<Key, Arc<Entry>, RandomState>>,
    largest: u64,
    /// Bytes that may be alive.
    limit: u64,
    alive: Arc<Alive>,
    /// Who fills: one at a time, and nobody waits.
    filling: Mutex<()>,
    metrics: WarmMetrics,
}

#[derive(Debug, Clone, Default)]
struct WarmMetrics {
    hits: Counter,
    misses: Counter,
    stale: Counter,
    filled: Counter,
    evicted: Counter,
    skipped: Family<Skipped, Counter>,
    entries: Gauge,
    bytes: Gauge,
    alive: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Skipped {
    reason: Reason,
}

/// Why an answer was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Reason {
    /// More bytes or blocks than one answer may have.
    Size,
    /// Too many bytes are alive.
    Alive,
    /// Another answer was being kept at that moment.
    Busy,
}

impl Warm {
    /// Keeps nothing and counts nothing.
    pub(super) fn off() -> Self {
        Self::with(ByteSize(0), WarmMetrics::default())
    }

    /// `budget` in bytes; 0 keeps nothing.
    pub(super) fn new(budget: ByteSize, metrics: &Metrics) -> Self {
        Self::with(budget, WarmMetrics::register(metrics))
    }

    fn with(budget: ByteSize, metrics: WarmMetrics) -> Self {
        let cache = (budget.0 > 0).then(|| {
            // One shard: an answer may be half of the budget.
            CacheBuilder::new(budget.as_usize())
                .with_name("answers")
                .with_shards(1)
                .with_eviction_config(S3FifoConfig::default())
                .with_hash_builder(RandomState::new())
                .with_weighter(|_: &Key, entry: &Arc<Entry>| usize::try_from(entry.held.bytes).unwrap_or(usize::MAX))
                .with_event_listener(Arc::new(Leaving(metrics.clone())))
                .build()
        });
        let largest = budget.0 / LARGEST_SHARE;
        let alive = Arc::new(Alive { bytes: AtomicU64::new(0), gauge: metrics.alive.clone() });
        Self { cache, largest, limit: budget.0 + largest, alive, filling: Mutex::new(()), metrics }
    }

    /// The most bytes of blocks that an answer may have, to be kept.
    pub(super) fn largest(&self) -> usize {
        usize::try_from(self.largest).unwrap_or(usize::MAX)
    }

    fn get(&self, key: &[u8], epoch: Epoch) -> Option<Arc<Entry>> {
        let entry = self.cache.as_ref()?.get(key)?.value().clone();
        if entry.epoch == epoch {
            return Some(entry);
        }
        self.metrics.stale.inc();
        self.cache.as_ref()?.remove(key);
        self.measure();
        None
    }

    /// Counts `bytes` as alive if there is room for them.
    fn hold(&self, bytes: u64) -> Option<Held> {
        let room = |alive: u64| alive.checked_add(bytes).filter(|alive| *alive <= self.limit);
        self.alive.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        self.alive.gauge.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
        Some(Held { bytes, alive: self.alive.clone() })
    }

    fn skip(&self, reason: Reason) {
        self.metrics.skipped.get_or_create(&Skipped { reason }).inc();
    }

    fn measure(&self) {
        if let Some(cache) = &self.cache {
            self.metrics.entries.set(cache.entries() as i64);
            self.metrics.bytes.set(cache.usage() as i64);
        }
    }
}

impl Slot {
    /// Everything that the answer to a GET depends on besides what is in the store and the epoch; `None`: it depends on
    /// something else, or an answer to it is never kept.
    ///
    /// Where a request belongs is a pure function of scheme, host and path unless a name must be looked up
    /// ([`super::host::route`]), so these stand for it; an address needs no host. The query is taken as it is written.
    /// `Accept` counts as what is made of it.
    fn key(gateway: &Gateway, request: &Request<Body>) -> Option<Vec<u8>> {
        let (headers, uri) = (request.headers(), request.uri());
        let target = uri.path_and_query()?.as_str();
        // `Service-Worker` and `?policy=` are for the handler to judge.
        let special = headers.contains_key("service-worker")
            || (headers.contains_key(http::header::AUTHORIZATION) && target.contains("policy="));
        if special {
            return None;
        }
        let mut accepts = headers.get_all(http::header::ACCEPT).iter();
        let anything = match (accepts.next(), accepts.next()) {
            (None, _) => true,
            (Some(one), None) => one == "*/*",
            _ => false,
        };
        let (negotiated, json) = match anything && uri.query().is_none() {
            true => (ANYTHING, false),
            false => (ResponseFormat::negotiate(uri.query(), headers).ok()?, listing::wants_json(headers)),
        };
        let form = match negotiated.format {
            ResponseFormat::Deserialized => 0,
            ResponseFormat::Raw => 1,
            ResponseFormat::Codec(CodecForm::Json) => 2,
            ResponseFormat::Codec(CodecForm::Cbor) => 3,
            ResponseFormat::Codec(CodecForm::DagJson) => 4,
            ResponseFormat::Codec(CodecForm::DagCbor) => 5,
            ResponseFormat::Car(_) | ResponseFormat::Tar | ResponseFormat::Zip | ResponseFormat::IpnsRecord => {
                return None;
            }
        };
        let seen = origin::seen(gateway, request.extensions(), headers, uri);
        let host = if is_address(seen.authority) { "" } else { seen.authority };
        if host.is_empty() && !target.starts_with("/ipfs/") {
            return None;
        }
        if host.len() + target.len() > MAX_KEY {
            return None;
        }
        let bit = u8::from;
        let flags = bit(negotiated.by_accept) | bit(negotiated.html) << 1 | bit(json) << 2 | bit(seen.https) << 3;
        let mut key = Vec::with_capacity(host.len() + target.len() + 3);
        key.extend_from_slice(&[form, flags]);
        key.extend_from_slice(host.as_bytes());
        // No host has it, and no path begins with it.
        key.push(0);
        key.extend_from_slice(target.as_bytes());
        Some(key)
    }
}

/// What a request without a query negotiates that accepts anything.
const ANYTHING: Negotiated = Negotiated { format: ResponseFormat::Deserialized, by_accept: false, html: false };

/// `127.0.0.1`, `127.0.0.1:8080`, `[::1]:80`: a host that is an address, or none at all. Only what is certainly one:
/// anything else counts as a name.
fn is_address(authority: &str) -> bool {
    authority.is_empty()
        || authority.parse::<std::net::SocketAddr>().is_ok()
        || authority.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv4())
}

impl Epoch {
    fn now(gateway: &Gateway) -> Self {
        Self { denylists: gateway.state.denylists.generation(), removals: gateway.state.retriever.removals() }
    }
}

impl Held {
    /// Less is alive than was thought.
    fn shrink(&mut self, bytes: u64) {
        let over = self.bytes.saturating_sub(bytes);
        self.bytes -= over;
        self.alive.less(over);
    }

    fn add(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.alive.less(self.bytes);
    }
}

impl Alive {
    fn less(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.gauge.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Counts what S3-FIFO lets go.
struct Leaving(WarmMetrics);

impl EventListener for Leaving {
    type Key = Key;
    type Value = Arc<Entry>;

    fn on_leave(&self, reason: Event, _: &Key, _: &Arc<Entry>) {
        if reason == Event::Evict {
            self.0.evicted.inc();
        }
    }
}

impl WarmMetrics {
    fn register(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        let gauge = |name, help| metrics.register(name, help, Gauge::default());
        Self {
            hits: counter("gateway_answer_cache_hits", "Requests answered from the cache of whole answers"),
            misses: counter(
                "gateway_answer_cache_misses",
                "Requests of a kind that the cache of whole answers keeps, whose answer it did not have",
            ),
            stale: counter(
                "gateway_answer_cache_stale",
                "Whole answers dropped at a look-up because a denylist changed or a block was removed since",
            ),
            filled: counter("gateway_answer_cache_filled", "Answers put into the cache of whole answers"),
            evicted: counter("gateway_answer_cache_evicted", "Whole answers that made room for others"),
            skipped: metrics.register(
                "gateway_answer_cache_skipped",
                "Answers that were not kept whole: too large, too many bytes alive, or another was being kept",
                Family::default(),
            ),
            entries: gauge("gateway_answer_cache_entries", "Whole answers kept now"),
            bytes: gauge("gateway_answer_cache_bytes", "Bytes of the whole answers kept now, shared blocks included"),
            alive: gauge(
                "gateway_answer_cache_alive_bytes",
                "Bytes of whole answers that are kept, being gathered, or still read by clients after their eviction",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certainly_an_address_needs_no_host() {
        for host in ["", "127.0.0.1", "127.0.0.1:8080", "[::1]:8080"] {
            assert!(is_address(host), "{host}");
        }
        for host in ["localhost", "localhost:8080", "a.example", "127.0.0.1.example.com", "::1", "127.1", "1", "0x7f.1"]
        {
            assert!(!is_address(host), "{host}");
        }
    }

    #[test]
    fn bytes_are_alive_until_the_last_holder_is_gone() {
        let warm = Warm::new(ByteSize(1_000), &Metrics::new());
        let mut first = warm.hold(900).unwrap();
        assert!(warm.hold(601).is_none());
        first.add(warm.hold(600).unwrap());
        first.shrink(1_000);
        let second = warm.hold(500).unwrap();
        assert!(warm.hold(1).is_none());
        drop(first);
        assert_eq!(warm.alive.bytes.load(Ordering::Relaxed), 500);
        assert!(warm.hold(1_000).is_some());
        drop(second);
        assert_eq!((warm.alive.bytes.load(Ordering::Relaxed), warm.metrics.alive.get()), (0, 0));
    }
}
