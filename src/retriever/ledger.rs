//! What is known of a peer from all earlier work with it: bounded, and forgiving with time.

mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::PeerId;

use super::scheduler::Time;

pub(super) use store::Saved;

/// A strike weighs half as much after this long.
const STRIKE_HALF_LIFE: Duration = Duration::from_secs(3600);
/// The remembered rate halves over this long without a new measurement.
const RATE_HALF_LIFE: Duration = Duration::from_secs(600);
/// Share of answers from which on a peer is presumed to have what is asked for next.
const PRESUMED: f64 = 0.75;
/// From this weight on a peer is asked only when nobody else is left.
pub const STRUCK: f64 = 0.5;

/// One peer's figures.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The smallest round trip ever measured.
    pub min_rtt: Option<Duration>,
    max_rate: f64,
    rated_at: Time,
    /// Payload bytes of wanted blocks.
    pub bytes: u64,
    pub blocks: u64,
    /// Stalls, refused sends, broken connections with work outstanding, failed dials.
    pub failures: u64,
    /// How often it had what it was asked for lately, 0 to 1: an exponential mean over about eight answers.
    hits: Option<f64>,
    strikes: f64,
    struck_at: Time,
    used_at: Time,
}

/// Figures of at most `capacity` peers; the longest unused are forgotten first.
#[derive(Debug)]
pub struct Ledger {
    peers: BTreeMap<PeerId, Standing>,
    capacity: usize,
    evicted: u64,
}

impl Standing {
    pub fn used_at(&self) -> Time {
        self.used_at
    }

    pub fn strikes(&self, now: Time) -> f64 {
        self.strikes * decay(now.saturating_sub(self.struck_at), STRIKE_HALF_LIFE)
    }

    /// Bytes a second, `None` where none was ever measured.
    pub fn max_rate(&self, now: Time) -> Option<f64> {
        let rate = self.max_rate * decay(now.saturating_sub(self.rated_at), RATE_HALF_LIFE);
        (rate > 0.0).then_some(rate)
    }

    fn rated(&mut self, rate: f64, now: Time) {
        // A rise is believed at once; a fall bit by bit, as it may be the reader that asked for little.
        let known = self.max_rate(now).unwrap_or(0.0);
        self.max_rate = if rate >= known { rate } else { known * 0.9 + rate * 0.1 };
        self.rated_at = now;
    }
}

impl Ledger {
    pub fn new(capacity: usize) -> Self {
        Self { peers: BTreeMap::new(), capacity: capacity.max(1), evicted: 0 }
    }

    pub fn get(&self, peer: &PeerId) -> Option<&Standing> {
        self.peers.get(peer)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, &Standing)> {
        self.peers.iter()
    }

    /// How many standings were forgotten for lack of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// It was asked for something and had it, or not.
    pub fn answered(&mut self, peer: PeerId, had: bool, now: Time) {
        let standing = self.entry(peer, now);
        let had = f64::from(u8::from(had));
        standing.hits = standing.hits.map_or(had * PRESUMED, |hits| hits + (had - hits) / 8.0).into();
    }

    /// Whether it had nearly everything that it was asked for lately: it may be asked for blocks before it says HAVE.
    pub fn is_presumed(&self, peer: &PeerId) -> bool {
        self.get(peer).and_then(|standing| standing.hits).is_some_and(|hits| hits >= PRESUMED)
    }

    pub fn delivered(&mut self, peer: PeerId, bytes: u64, rate: Option<f64>, now: Time) {
        let standing = self.entry(peer, now);
        standing.bytes += bytes;
        standing.blocks += 1;
        if let Some(rate) = rate {
            standing.rated(rate, now);
        }
    }

    /// A part of a block.
    pub fn brought(&mut self, peer: PeerId, bytes: u64, rate: Option<f64>, now: Time) {
        let standing = self.entry(peer, now);
        standing.bytes += bytes;
        if let Some(rate) = rate {
            standing.rated(rate, now);
        }
    }

    /// Its rate, by a block that nobody waited for.
    pub fn measured(&mut self, peer: PeerId, rate: f64, now: Time) {
        self.entry(peer, now).rated(rate, now);
    }

    pub fn rtt(&mut self, peer: PeerId, rtt: Duration, now: Time) {
        let standing = self.entry(peer, now);
        standing.min_rtt = Some(standing.min_rtt.map_or(rtt, |known| known.min(rtt)));
    }

    pub fn failed(&mut self, peer: PeerId, now: Time) {
        self.entry(peer, now).failures += 1;
    }

    /// A wrong block: weighs 1 now, and half as much with every hour.
    pub fn strike(&mut self, peer: PeerId, now: Time) {
        let standing = self.entry(peer, now);
        standing.strikes = standing.strikes(now) + 1.0;
        standing.struck_at = now;
    }

    pub fn is_struck(&self, peer: &PeerId, now: Time) -> bool {
        self.get(peer).is_some_and(|standing| standing.strikes(now) >= STRUCK)
    }

    fn entry(&mut self, peer: PeerId, now: Time) -> &mut Standing {
        if !self.peers.contains_key(&peer) && self.peers.len() >= self.capacity {
            // An unused peer that misbehaved is worth remembering longer than one of which nothing bad is known.
            let oldest = self.peers.iter().min_by(|a, b| {
                let struck = |s: &Standing| s.strikes(now) >= STRUCK;
                (struck(a.1), a.1.used_at).cmp(&(struck(b.1), b.1.used_at))
            });
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.peers.remove(&oldest);
                self.evicted += 1;
            }
        }
        let standing = self.peers.entry(peer).or_default();
        standing.used_at = now;
        standing
    }
}

fn decay(age: Duration, half_life: Duration) -> f64 {
    0.5f64.powf(age.as_secs_f64() / half_life.as_secs_f64())
}

/// The shortest time in which `bytes` can come from providers of the given (round trip, bytes a second): the T with
/// Σ max(0, T − rtt) · rate = bytes (RETRIEVAL.md §4). `None` without a provider of known rate.
pub fn bound(bytes: u64, providers: impl IntoIterator<Item = (Duration, f64)>) -> Option<Duration> {
    let mut links: Vec<(f64, f64)> =
        providers.into_iter().filter(|(_, rate)| *rate > 0.0).map(|(rtt, rate)| (rtt.as_secs_f64(), rate)).collect();
    links.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rate, mut weighted, mut best) = (0.0, 0.0, None::<f64>);
    for (rtt, r) in links {
        if best.is_some_and(|time| time <= rtt) {
            break;
        }
        rate += r;
        weighted += r * rtt;
        best = Some((bytes as f64 + weighted) / rate);
    }
    best.map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Time = Time::from_secs(3600);

    #[test]
    fn a_strike_is_forgiven_with_time() {
        let (mut ledger, peer) = (Ledger::new(8), PeerId::random());
        ledger.strike(peer, Time::ZERO);
        assert!(ledger.is_struck(&peer, Time::ZERO));
        assert!(!ledger.is_struck(&peer, HOUR * 2));
    }

    #[test]
    fn the_ledger_forgets_the_longest_unused_and_never_grows_over_its_bound() {
        let mut ledger = Ledger::new(3);
        let first = PeerId::random();
        ledger.strike(first, Time::ZERO);
        for k in 0..10 {
            ledger.rtt(PeerId::random(), Duration::from_millis(5), Time::from_secs(k));
        }
        assert_eq!(ledger.iter().count(), 3);
        assert_eq!(ledger.evicted(), 8);
        assert!(ledger.get(&first).is_some(), "a recent strike outlives unremarkable peers");
    }

    #[test]
    fn the_bound_of_unequal_links_is_that_of_the_requirement() {
        let mbit = |m: f64| m * 1e6 / 8.0 * 0.9653;
        let ms = Duration::from_millis;
        let set_d = [(ms(20), mbit(100.0)), (ms(60), mbit(50.0)), (ms(100), mbit(20.0)), (ms(150), mbit(5.0))];
        // RETRIEVAL.md §2.0: T_2 of 20 MB on D is 1,011 ms; T_1 is one round trip of the nearest peer less.
        let bound = bound(20_000_000, set_d).unwrap();
        assert!((ms(990)..ms(993)).contains(&bound), "{bound:?}");
        assert_eq!(super::bound(1, []), None);
    }
}
