//! A connected peer: what is outstanding there and what it showed of itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use libp2p::Multiaddr;

use super::super::rate::RateEstimator;
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
/// Added to four round trips for a peer that began with its first block and halted.
const HALTED: Duration = Duration::from_millis(80);
const MAX_PATIENCE: Duration = Duration::from_secs(5);
/// Part of a message shorter than this is no sign of life: a dripping peer is a silent one.
const LIFE_BYTES: usize = 4 * 1024;
/// A block is late when it comes this long after half as long again as was expected.
const LATE_BY: Duration = Duration::from_millis(50);
/// What a late peer does is measured over at least this long.
const RECENT_SPAN: Duration = Duration::from_millis(200);
/// Resolution and length of the meter: 5 s.
const METER_STEP: Duration = Duration::from_millis(20);
const METER_STEPS: usize = 256;
/// Questions that outlive their block, and sessions that each is for.
const MAX_QUESTIONS: usize = 64;
/// What a connection of unknown rate is believed to bring in a round trip, in bytes: some doublings of an initial window.
const PRIOR_FLIGHT: f64 = 192.0 * 1024.0;
/// Bounds of that belief, bytes a second.
const MIN_PRIOR: f64 = 250_000.0;
const MAX_PRIOR: f64 = 12.5e6;
/// How often the exchange reports bytes of unfinished blocks.
const REPORTS: Duration = Duration::from_millis(25);
/// Blocks that a peer may be sending at once: Kubo has eight workers, and a cancel does not reach what they hold
/// (RETRIEVAL.md §2.0).
pub const SENT_AT_ONCE: usize = 8;
/// Bytes a second below which it makes no difference.
pub const MIN_RATE: f64 = 1_000.0;

/// See the module.
#[derive(Debug)]
pub struct Peer {
    pub transport: Transport,
    pub address: Multiaddr,
    pub since: Time,
    pub outstanding: BTreeMap<WantId, Asked>,
    /// Believed bytes of the blocks among them.
    pub outstanding_bytes: u64,
    /// How many of them are blocks.
    pub block_wants: usize,
    pub rate: RateEstimator,
    pub min_rtt: Option<Duration>,
    /// What the dial makes believe, until a round trip was measured.
    pub guessed_rtt: Option<Duration>,
    /// Blocks delivered on this connection.
    pub blocks: u64,
    /// and since its rate became unknown.
    pub fresh: u64,
    pub busy_since: Time,
    pub last_progress: Time,
    /// How long a silence is normal by the rate that it had at its last sign of life: what falls in a silence is no rate.
    allowed: Option<Duration>,
    /// First byte since it became busy.
    pub first_byte: Option<Time>,
    drip: usize,
    /// Bytes by the time they came, and those of messages that are not complete.
    meter: VecDeque<(Time, u64)>,
    partial: u64,
    /// Blocks that were taken back after it had begun to send them: they come before what it was asked for later.
    taken_back: HashMap<Multihash, TakenBack>,
    /// The exchange's count of what came on this connection.
    received: Option<u64>,
    /// When bytes of an unfinished block last led to a new plan.
    pub replanned: Time,
    last_bytes: Time,
    /// Since when it has had enough to do.
    pub full_since: Option<Time>,
    /// Another was quicker with a block that it was asked for, or it had fallen silent: one at a time until it delivers.
    pub lost: bool,
    /// When it was last asked for a block to find out its rate.
    pub probed: Option<Time>,
    pub stalled: bool,
    pub recent: Recent,
    /// Questions whose block came from elsewhere meanwhile: the answer still tells whether the peer is useful.
    pub questions: VecDeque<(Multihash, Question)>,
    /// The largest block that came.
    pub largest: u64,
}

#[derive(Debug)]
struct TakenBack {
    bytes: u64,
    /// How many blocks the peer had delivered then.
    blocks: u64,
}

/// A question whose block came from elsewhere meanwhile.
#[derive(Debug)]
pub struct Question {
    /// For which it was asked.
    pub sessions: Vec<SessionId>,
    /// The size of the block.
    pub bytes: u64,
}

/// One want outstanding at one peer.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub kind: WantKind,
    /// Only for the end of the block.
    pub end: bool,
    pub at: Time,
    pub bytes: u64,
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
    pub fn new(
        transport: Transport,
        address: Multiaddr,
        rate: Option<f64>,
        min_rtt: Option<Duration>,
        now: Time,
    ) -> Self {
        Self {
            transport,
            address,
            since: now,
            outstanding: BTreeMap::new(),
            outstanding_bytes: 0,
            block_wants: 0,
            rate: RateEstimator::seeded(rate),
            min_rtt,
            guessed_rtt: None,
            blocks: 0,
            fresh: 0,
            busy_since: now,
            last_progress: now,
            allowed: None,
            first_byte: None,
            drip: 0,
            meter: VecDeque::new(),
            partial: 0,
            taken_back: HashMap::new(),
            received: None,
            replanned: now,
            last_bytes: now,
            full_since: None,
            lost: false,
            probed: None,
            stalled: false,
            recent: Recent::default(),
            questions: VecDeque::new(),
            largest: UNKNOWN_BLOCK,
        }
    }

    pub fn rtt(&self) -> Duration {
        self.min_rtt.or(self.guessed_rtt).unwrap_or(UNKNOWN_RTT)
    }

    pub fn measured_rtt(&mut self, rtt: Duration) {
        self.min_rtt = Some(self.min_rtt.map_or(rtt, |known| known.min(rtt)));
    }

    /// Bytes that may be outstanding when the work is shared: twice the bandwidth-delay product and two blocks
    /// (RETRIEVAL.md T1); before the first one came two, and the last of a file, which is smaller. An estimate that the window itself limited is one
    /// window a round trip, so the window doubles until the rate stops growing.
    pub fn window(&self) -> u64 {
        let slack = 2 * self.largest;
        match self.rate.rate() {
            Some(rate) => (2.0 * rate * self.rtt().as_secs_f64()) as u64 + slack,
            None if self.lost && self.fresh == 0 => self.largest,
            None => slack + self.largest / 2 + self.fresh * self.largest,
        }
    }

    /// Bytes a second as of now: what was measured, or what comes in fact when the peer is late with something. A peer
    /// that is on time with little to do is not slow.
    pub fn rate_now(&self, now: Time) -> Option<f64> {
        let known = self.rate.rate();
        if let Some(fallen) = self.fallen(now) {
            return Some(fallen);
        }
        let late = self
            .outstanding
            .values()
            .any(|asked| asked.kind == WantKind::Block && now > asked.at + asked.expected.mul_f64(1.5) + LATE_BY);
        if !late {
            return known;
        }
        let recent = self.over(now, self.recent_span().min(now.saturating_sub(self.busy_since)));
        Some(known.map_or(recent, |rate| if recent < rate / 2.0 { recent } else { rate }))
    }

    /// What it gives now, if that is less than half of what is known although it has had enough to do for a while.
    pub fn fallen(&self, now: Time) -> Option<f64> {
        let (known, full) = (self.rate.rate()?, self.full_since?);
        let span = self.recent_span();
        if now.saturating_sub(full.max(self.busy_since + self.rtt())) < span {
            return None;
        }
        let recent = self.over(now, span);
        (recent < known / 2.0).then_some(recent)
    }

    fn recent_span(&self) -> Duration {
        let seconds = |rate: f64| Duration::from_secs_f64((2.5 * self.largest as f64 / rate).min(5.0));
        (self.rtt() * 4).max(self.rate.rate().map_or(Duration::ZERO, seconds)).max(RECENT_SPAN)
    }

    /// Bytes a second over the last `span`.
    fn over(&self, now: Time, span: Duration) -> f64 {
        let bytes: u64 =
            self.meter.iter().filter(|(at, _)| now.saturating_sub(*at) < span).map(|(_, bytes)| bytes).sum();
        (bytes as f64 / span.as_secs_f64().max(0.001)).max(MIN_RATE)
    }

    /// Notes whether as much is outstanding as its rate and round trip can use.
    pub fn loaded(&mut self, now: Time) {
        let enough = self.rate.rate().is_some_and(|rate| self.bytes_left() as f64 >= rate * self.rtt().as_secs_f64());
        if self.block_wants > 0 && enough {
            self.full_since.get_or_insert(now);
        } else {
            self.full_since = None;
        }
    }

    /// The rate to plan with: what was measured, or else what a young connection of this round trip is likely to give.
    pub fn rate_or_prior(&self, now: Time) -> f64 {
        self.rate_now(now)
            .unwrap_or_else(|| (PRIOR_FLIGHT / self.rtt().as_secs_f64().max(1e-3)).clamp(MIN_PRIOR, MAX_PRIOR))
    }

    /// Seconds until everything that is outstanding will have come, at `rate`.
    pub fn drained_after(&self, rate: f64, now: Time) -> f64 {
        if self.block_wants == 0 {
            return 0.0;
        }
        // What has come since the last report is not known yet.
        let unseen =
            if self.first_byte.is_some() { now.saturating_sub(self.last_bytes).min(REPORTS) } else { Duration::ZERO };
        self.first_byte_after(now) + (self.bytes_left() as f64 / rate - unseen.as_secs_f64()).max(0.0)
    }

    /// Seconds until the first byte of the work under way can be here.
    pub fn first_byte_after(&self, now: Time) -> f64 {
        if self.first_byte.is_some() { 0.0 } else { (self.busy_since + self.rtt()).saturating_sub(now).as_secs_f64() }
    }

    /// Believed bytes of blocks that it has still to send: outstanding ones, and those that it had begun.
    pub fn bytes_left(&self) -> u64 {
        self.sending().saturating_sub(self.partial)
    }

    /// The same with what is here of unfinished blocks.
    pub fn sending(&self) -> u64 {
        self.outstanding_bytes + self.taken_back_bytes()
    }

    pub fn taken_back_bytes(&self) -> u64 {
        self.taken_back.values().map(|block| block.bytes).sum()
    }

    /// Whether it sends the block by now: it has at most [`SENT_AT_ONCE`] in its hands. Over HTTP what is taken back ends.
    pub fn has_begun(&self, want: WantId) -> bool {
        let Some(asked) = self.outstanding.get(&want).filter(|asked| asked.kind == WantKind::Block) else {
            return false;
        };
        let earlier = |id: &WantId, other: &Asked| other.kind == WantKind::Block && (other.at, *id) < (asked.at, want);
        let before = self.outstanding.iter().filter(|(id, other)| earlier(id, other));
        self.transport != Transport::Http && before.count() + self.taken_back.len() < SENT_AT_ONCE
    }

    /// A block was taken back that it had begun.
    pub fn still_sends(&mut self, key: Multihash, bytes: u64) {
        if self.block_wants > 0 {
            self.taken_back.insert(key, TakenBack { bytes, blocks: self.blocks });
        }
    }

    /// A block came. What it was asked for after one that was taken back does not come much before that.
    pub fn came(&mut self, key: &Multihash) {
        self.taken_back.remove(key);
        let delivered = self.blocks;
        self.taken_back.retain(|_, block| block.blocks + SENT_AT_ONCE as u64 > delivered);
    }

    /// Nothing is asked of it any more.
    pub fn is_done(&mut self) {
        self.full_since = None;
        self.first_byte = None;
        self.taken_back.clear();
        self.rate.idle();
    }

    /// Bytes of unfinished blocks that are here.
    pub fn partial(&self) -> u64 {
        self.partial
    }

    /// Counts bytes as they come, those of a message's parts once only; returns the new ones.
    fn metered(&mut self, now: Time, bytes: u64, received: Option<u64>, whole: bool) -> u64 {
        let fresh = match (received, self.received) {
            (Some(total), Some(known)) => total.saturating_sub(known),
            (None, _) if whole => bytes.saturating_sub(self.partial),
            _ => bytes,
        };
        if let Some(total) = received {
            self.received = Some(self.received.map_or(total, |known| known.max(total)));
        }
        self.partial += fresh;
        if whole {
            self.partial = self.partial.saturating_sub(bytes);
        }
        if self.block_wants == 0 {
            self.partial = 0;
        }
        match self.meter.back_mut() {
            Some((at, sum)) if now.saturating_sub(*at) < METER_STEP => *sum += fresh,
            _ => self.meter.push_back((now, fresh)),
        }
        if self.meter.len() > METER_STEPS {
            self.meter.pop_front();
        }
        fresh
    }

    /// When it began to be silent, if it has work.
    pub fn silent_since(&self) -> Option<Time> {
        (self.block_wants > 0).then(|| self.last_progress.max(self.busy_since))
    }

    /// How long a silence is normal: the time of its window and some.
    pub fn patience(&self) -> Duration {
        match self.allowed {
            Some(allowed) if self.blocks > 0 => allowed,
            // Something came and then nothing: it is no disk that is slow.
            _ if self.blocks > 0 => (self.rtt() * 4 + MIN_PATIENCE).min(MAX_PATIENCE),
            _ if self.first_byte.is_some() => (self.rtt() * 4 + HALTED).min(MAX_PATIENCE),
            _ => FIRST_PATIENCE + self.rtt() * 2,
        }
    }

    pub fn still_asks(&mut self, key: Multihash, sessions: &[SessionId], bytes: u64) {
        if self.questions.len() >= MAX_QUESTIONS {
            self.questions.pop_front();
        }
        let sessions = sessions.iter().take(MAX_QUESTIONS).copied().collect();
        self.questions.push_back((key, Question { sessions, bytes }));
    }

    /// Takes an open question out.
    pub fn answered(&mut self, key: &Multihash) -> Option<Question> {
        let at = self.questions.iter().position(|(asked, _)| asked == key)?;
        self.questions.remove(at).map(|(_, question)| question)
    }

    /// Bytes came, as part of a message or (`whole`: when that block was asked for, if it was) with the end of a block;
    /// true when that is a sign of life.
    pub fn alive(&mut self, now: Time, bytes: usize, received: Option<u64>, whole: Option<Option<Time>>) -> bool {
        if self.block_wants > 0 {
            self.first_byte.get_or_insert(now);
        }
        self.last_bytes = now;
        let rtt = self.rtt();
        // With less than a round trip's worth outstanding, it is we who limit the rate.
        let bdp = self.rate.rate().unwrap_or(0.0) * rtt.as_secs_f64();
        let limited = self.block_wants <= 1 || (self.bytes_left() as f64) < bdp;
        let fresh = self.metered(now, bytes as u64, received, whole.is_some());
        self.rate.arrived(now, fresh, whole.flatten(), rtt, limited);
        self.loaded(now);
        let whole = whole.is_some();
        self.drip = self.drip.saturating_add(bytes);
        if !whole && self.drip < LIFE_BYTES {
            return false;
        }
        self.drip = 0;
        self.last_progress = now;
        self.allowed = self.rate.rate().map(|rate| {
            let block = Duration::from_secs_f64((self.largest as f64 / rate).min(60.0));
            (rtt * 2 + block * 4 + Duration::from_millis(100)).clamp(MIN_PATIENCE, MAX_PATIENCE)
        });
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

    #[doc(hidden)]
    pub fn len(&self) -> usize {
        self.order.len()
    }
}
