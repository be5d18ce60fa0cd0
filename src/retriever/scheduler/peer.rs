//! A connected peer: what is outstanding there and what it showed of itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::super::rate::{Mark, RateEstimator};
use super::{SessionId, Time, UNKNOWN_BLOCK, WantId};
use crate::exchange::WantKind;
use crate::ipld::Multihash;
use crate::record::Transport;

/// Wants that ended at a peer and whose block may still come: twice the wants that it may have.
pub const MAX_RECENT: usize = 2 * crate::exchange::MAX_WANTS_PER_PEER;
/// The round trip assumed before one was measured.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
/// The least silence that counts as a stall: below it, a busy disk or a lost packet looks the same.
const MIN_PATIENCE: Duration = Duration::from_millis(300);
/// Silence before the first block of a connection: the provider may have to fetch it from a disk or compute it.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
const MAX_PATIENCE: Duration = Duration::from_secs(5);
/// Part of a message shorter than this is no sign of life: a dripping peer is a silent one.
const LIFE_BYTES: usize = 4 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Peer {
    pub transport: Transport,
    pub outstanding: BTreeMap<WantId, Asked>,
    /// Believed bytes of the blocks among them.
    pub outstanding_bytes: u64,
    /// How many of them are blocks.
    pub block_wants: usize,
    pub rate: RateEstimator,
    pub min_rtt: Option<Duration>,
    /// Blocks delivered on this connection.
    pub blocks: u64,
    pub busy_since: Time,
    pub last_progress: Time,
    /// First byte since it became busy.
    pub first_byte: Option<Time>,
    drip: usize,
    pub stalled: bool,
    pub recent: Recent,
    /// The largest block that came.
    pub largest: u64,
}

/// One want outstanding at one peer.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub kind: WantKind,
    pub at: Time,
    pub bytes: u64,
    pub mark: Mark,
    pub hedge: bool,
    /// When it was expected, when it was asked.
    pub expected: Duration,
}

/// The last wants that ended at a peer, with the session to which a late copy is charged.
#[derive(Debug, Default)]
pub struct Recent {
    order: VecDeque<Multihash>,
    known: HashMap<Multihash, Option<SessionId>>,
}

impl Peer {
    pub fn new(transport: Transport, rate: Option<f64>, min_rtt: Option<Duration>, now: Time) -> Self {
        Self {
            transport,
            outstanding: BTreeMap::new(),
            outstanding_bytes: 0,
            block_wants: 0,
            rate: RateEstimator::seeded(rate),
            min_rtt,
            blocks: 0,
            busy_since: now,
            last_progress: now,
            first_byte: None,
            drip: 0,
            stalled: false,
            recent: Recent::default(),
            largest: UNKNOWN_BLOCK,
        }
    }

    pub fn rtt(&self) -> Duration {
        self.min_rtt.unwrap_or(UNKNOWN_RTT)
    }

    /// Bytes that may be outstanding when the work is shared: twice the bandwidth-delay product and two blocks
    /// (RETRIEVAL.md T1), three blocks before the first one came. An estimate that the window itself limited is one
    /// window a round trip, so the window doubles until the rate stops growing.
    pub fn window(&self) -> u64 {
        let slack = 2 * self.largest;
        match self.rate.rate() {
            Some(rate) => (2.0 * rate * self.rtt().as_secs_f64()) as u64 + slack,
            None => slack + self.largest + self.blocks * self.largest,
        }
    }

    /// Bytes a second as of now: what was measured, or less when the peer is late.
    pub fn rate_now(&self, now: Time) -> Option<f64> {
        let rate = self.rate.rate()?;
        if self.block_wants == 0 {
            return Some(rate);
        }
        let silent = now.saturating_sub(self.last_progress.max(self.busy_since + self.rtt())).as_secs_f64();
        let block = self.largest as f64;
        Some(if silent > 3.0 * block / rate + self.rtt().as_secs_f64() { rate.min(block / silent) } else { rate })
    }

    /// When it began to be silent, if it has work.
    pub fn silent_since(&self) -> Option<Time> {
        (self.block_wants > 0).then(|| self.last_progress.max(self.busy_since))
    }

    /// How long a silence is normal: the time of its window and some.
    pub fn patience(&self) -> Duration {
        match self.rate.rate() {
            Some(rate) if self.blocks > 0 => {
                let block = Duration::from_secs_f64((self.largest as f64 / rate).min(60.0));
                (self.rtt() * 2 + block * 4 + Duration::from_millis(100)).clamp(MIN_PATIENCE, MAX_PATIENCE)
            }
            _ if self.blocks > 0 => (self.rtt() * 4 + MIN_PATIENCE).min(MAX_PATIENCE),
            _ => FIRST_PATIENCE + self.rtt() * 2,
        }
    }

    /// Bytes came; true when that is a sign of life.
    pub fn alive(&mut self, now: Time, bytes: usize, whole: bool) -> bool {
        if self.block_wants > 0 {
            self.first_byte.get_or_insert(now);
        }
        self.drip = self.drip.saturating_add(bytes);
        if !whole && self.drip < LIFE_BYTES {
            return false;
        }
        self.drip = 0;
        self.last_progress = now;
        true
    }
}

impl Recent {
    pub fn add(&mut self, key: Multihash, session: Option<SessionId>) {
        if self.known.insert(key, session).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > MAX_RECENT {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Whether the block may rightly come, and whose it was.
    pub fn get(&self, key: &Multihash) -> Option<Option<SessionId>> {
        self.known.get(key).copied()
    }

    #[cfg(any(test, feature = "test-util"))]
    pub fn len(&self) -> usize {
        self.order.len()
    }
}
