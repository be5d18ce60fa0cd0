//! What is remembered of a retrieval: the vocabulary that the retriever, the gateway, the database and the pages share.
//!
//! Everything here was measured. A figure that was not is `None`, never a default.

pub mod live;

use std::time::{Duration, SystemTime};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use crate::ipld::Cid;
use crate::routing::RouterKind;

/// Events kept of one retrieval; further ones are counted, not kept.
pub const MAX_EVENTS: usize = 2_000;
/// Attempts (providers) kept of one retrieval.
pub const MAX_ATTEMPTS: usize = 256;

/// Defines a closed set of values with the names they have in the database, the API and metric labels.
macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, Type};
                // The derive does not see names that come through a macro.
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some([$($text),+])).into()
            }
        }
        impl utoipa::ToSchema for $name {}
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
        impl std::str::FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text { $($text => Ok(Self::$variant),)+ other => Err(UnknownName { name: other.to_owned(), expected: &[$($text),+] }) }
            }
        }
    };
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{name:?} is none of {expected:?}")]
pub struct UnknownName {
    pub name: String,
    pub expected: &'static [&'static str],
}

names! {
    /// How a retrieval chooses whom to ask.
    Policy {
        /// Measures, asks several at once, moves work away from slow peers.
        Optimized => "optimized",
        /// Router order, one provider at a time, a read-ahead of 10, no hedging: what others do.
        Standard => "standard",
    }
}

names! {
    /// Where the bytes came from.
    Source { Cache => "cache", P2p => "p2p", Http => "http", Mixed => "mixed", Ipfs => "ipfs" }
}

names! {
    /// How a retrieval ended.
    Outcome {
        Complete => "complete",
        Truncated => "truncated",
        ClientAborted => "client_aborted",
        NotFound => "not_found",
        Timeout => "timeout",
        Denied => "denied",
        Error => "error",
    }
}

names! {
    /// Which tier held the blocks of a retrieval: the slowest one that was needed; `partial` = some came from the network.
    CacheState { Memory => "memory", Disk => "disk", Store => "store", Miss => "miss", Partial => "partial" }
}

names! {
    /// One provider's part in a retrieval.
    AttemptOutcome {
        Delivered => "delivered",
        DontHave => "dont_have",
        Stalled => "stalled",
        Corrupt => "corrupt",
        Refused => "refused",
        Unreachable => "unreachable",
        Cancelled => "cancelled",
        Error => "error",
    }
}

names! {
    Transport {
        BitswapQuic => "bitswap-quic",
        BitswapTcp => "bitswap-tcp",
        Http => "http",
        HttpLibp2p => "http-libp2p",
    }
}

names! {
    /// Where a measurement was taken.
    Origin { Live => "live", Bench => "bench", Browser => "browser", Native => "native", Imported => "imported" }
}

names! {
    /// How far a retrieval got: what an error page names.
    Phase { Resolve => "resolve", Route => "route", Dial => "dial", Fetch => "fetch", Verify => "verify", Serve => "serve" }
}

names! {
    /// The name of a [`RetrievalEvent`] in the trace.
    EventKind {
        Started => "started",
        /// A block was found in a local tier.
        LocalHit => "local_hit",
        RoutingStarted => "routing_started",
        ProviderFound => "provider_found",
        RouterFinished => "router_finished",
        DialStarted => "dial_started",
        Connected => "connected",
        DialFailed => "dial_failed",
        WantSent => "want_sent",
        Whole => "whole",
        HaveReceived => "have",
        DontHave => "dont_have",
        BlockReceived => "block",
        Duplicate => "duplicate",
        Hedged => "hedged",
        Probed => "probed",
        Stalled => "stalled",
        Reassigned => "reassigned",
        Corrupt => "corrupt",
        Quarantined => "quarantined",
        Disconnected => "disconnected",
        Cancelled => "cancelled",
        FirstByte => "first_byte",
        Failed => "failed",
        Finished => "finished",
    }
}

/// One step of a retrieval. Counters, traces, rows and live pages all derive from these.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievalEvent {
    /// Since the start of the retrieval.
    pub at: Duration,
    pub kind: EventKind,
    pub peer: Option<PeerId>,
    pub cid: Option<Cid>,
    /// Bytes, a count, or whatever number the kind is about; its meaning stands in `detail`.
    pub value: Option<u64>,
    /// A short reason in words, from a closed set of templates; no content of peers.
    pub detail: Option<String>,
}

/// One provider's part in one retrieval: a row of `retrieval_attempts`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub peer: PeerId,
    pub transport: Option<Transport>,
    pub router: RouterKind,
    pub connect: Option<Duration>,
    /// First want sent to first byte received.
    pub first_byte: Option<Duration>,
    pub bytes: u64,
    pub blocks: u64,
    pub duplicate_bytes: u64,
    pub hedges: u32,
    pub min_rtt: Option<Duration>,
    /// The best delivery rate, in bytes a second, as everywhere.
    pub max_rate_bps: Option<f64>,
    pub outcome: AttemptOutcome,
    pub error_kind: Option<String>,
}

/// What the retriever knows of one session when it ends.
#[derive(Debug, Clone)]
pub struct SessionReport {
    pub policy: Policy,
    /// First want sent to last block verified; `None` when nothing was asked of the network.
    pub transfer_time: Option<Duration>,
    /// Time until the first provider was known; `None` when nobody had to be looked for.
    pub routing: Option<Duration>,
    /// Time from the first dial to the first connection; `None` when no dial was needed.
    pub connect: Option<Duration>,
    /// Time from the session's start to the first verified block.
    pub first_block: Option<Duration>,
    pub providers_found: u32,
    pub providers_attempted: u32,
    /// Blocks and bytes by where they came from.
    pub blocks_memory: u64,
    pub blocks_store: u64,
    pub blocks_disk: u64,
    pub blocks_network: u64,
    /// Payload bytes of blocks fetched from the network for this session.
    pub network_bytes: u64,
    pub duplicate_bytes: u64,
    /// Bytes of the whole messages these blocks came in, when known.
    pub received_bytes: u64,
    /// bound / transfer_time, 0..1 (DATA.md §2); `None` where no rate was ever measured.
    pub optimization_score: Option<f64>,
    pub attempts: Vec<Attempt>,
    pub events: Vec<RetrievalEvent>,
    pub events_dropped: u64,
    pub phase: Phase,
}

/// One finished retrieval: a row of `ipfs_acceleration_results` with its attempts and events.
#[derive(Debug, Clone)]
pub struct RetrievalRecord {
    /// The id under `/api/v1/retrievals/{id}` and in the `Tidegate-Retrieval` header.
    pub id: RetrievalId,
    pub cid: Cid,
    /// The content path as asked for, percent-decoded.
    pub path: String,
    pub origin: Origin,
    pub started_at: SystemTime,
    pub finished_at: SystemTime,
    /// Request accepted to last byte sent.
    pub load_time: Duration,
    /// Request accepted to first body byte handed to the client.
    pub ttfb: Option<Duration>,
    /// Body bytes handed to the client.
    pub bytes: u64,
    pub outcome: Outcome,
    pub error_kind: Option<String>,
    pub http_status: Option<u16>,
    pub session: SessionReport,
}

/// A key that is known before the row exists: 63 bits, microseconds of the start and a counter, so ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RetrievalId(pub i64);

impl RetrievalId {
    /// A fresh id. Unique within a process; across restarts by the clock.
    pub fn next() -> Self {
        use std::sync::atomic::{AtomicI64, Ordering};
        static LAST: AtomicI64 = AtomicI64::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX - 1);
        // The greater of the clock and one more than the last: monotonic even when the clock goes back.
        let last =
            LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last.saturating_add(1))));
        let last = last.unwrap_or_else(|current| current);
        Self(now.max(last.saturating_add(1)))
    }
}

impl std::fmt::Display for RetrievalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl SessionReport {
    /// The state that `cache_state` names.
    pub fn cache_state(&self) -> CacheState {
        let local = self.blocks_memory + self.blocks_store + self.blocks_disk;
        match (self.blocks_network, local) {
            (0, 0) => CacheState::Miss,
            (0, _) if self.blocks_disk > 0 => CacheState::Disk,
            (0, _) if self.blocks_store > 0 => CacheState::Store,
            (0, _) => CacheState::Memory,
            (_, 0) => CacheState::Miss,
            _ => CacheState::Partial,
        }
    }

    /// Where the bytes came from; see [`Source`].
    pub fn source(&self) -> Source {
        if self.blocks_network == 0 {
            return if self.transfer_time.is_none() { Source::Cache } else { Source::P2p };
        }
        if self.policy == Policy::Standard {
            return Source::Ipfs;
        }
        let by = |http: bool| {
            self.attempts
                .iter()
                .any(|a| a.blocks > 0 && matches!(a.transport, Some(Transport::Http | Transport::HttpLibp2p)) == http)
        };
        match (by(false), by(true)) {
            (true, true) => Source::Mixed,
            (false, true) => Source::Http,
            _ => Source::P2p,
        }
    }

    /// Useful bytes / bytes received; `None` when nothing was received.
    pub fn byte_efficiency(&self) -> Option<f64> {
        let received = self.network_bytes + self.duplicate_bytes;
        (received > 0).then(|| self.network_bytes as f64 / received as f64)
    }

    /// Providers that delivered at least one block.
    pub fn peer_count(&self) -> u32 {
        self.attempts.iter().filter(|a| a.blocks > 0).count() as u32
    }
}

/// Where finished retrievals go. Never blocks, never fails: what cannot be kept is counted and dropped (invariant 3).
pub trait RecordSink: Send + Sync + 'static {
    /// A retrieval begins. Called before its record, if there is one.
    fn started(&self, _: live::Begun) {}

    fn record(&self, record: RetrievalRecord);
}

/// A sink that keeps nothing: for commands that work without a database, and tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRecords;

impl RecordSink for NoRecords {
    fn record(&self, _: RetrievalRecord) {}
}
