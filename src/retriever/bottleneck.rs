//! Peers behind one bottleneck: their rates fall together (RETRIEVAL.md T16).
//!
//! RFC 8382 finds flows that share a bottleneck by delays that vary together; what we see of a peer is the rate of its
//! blocks. A rate that falls to less than half while the peer has enough to do is an event; of two peers that both had
//! enough to do, either both fall within a short time, or one falls alone. Counts halve within ten minutes, as routes and
//! loads change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use libp2p::PeerId;

use super::scheduler::Time;

/// Falls within this time are one event: a fall is seen after some round trips, and of a slow peer after some blocks.
const TOGETHER: Duration = Duration::from_secs(2);
/// Common falls before anything is concluded; one is chance.
const ENOUGH: f64 = 2.0;
/// and so many for each time that only one of the two fell.
const OFTEN: f64 = 3.0;
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Falls that wait for what others do, and pairs that are kept in mind.
const MAX_FALLS: usize = 64;
const MAX_PAIRS: usize = 1_024;

/// See the module. A function of who fell when.
#[derive(Debug, Default)]
pub struct Bottlenecks {
    falls: VecDeque<Fall>,
    pairs: BTreeMap<(PeerId, PeerId), Evidence>,
}

#[derive(Debug)]
struct Fall {
    peer: PeerId,
    at: Time,
    /// Others that had enough to do.
    beside: Vec<PeerId>,
    judged: bool,
}

#[derive(Debug, Clone, Copy)]
struct Evidence {
    together: f64,
    alone: f64,
    at: Time,
}

impl Evidence {
    fn at(self, now: Time) -> Self {
        let left = 0.5f64.powf(now.saturating_sub(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64());
        Self { together: self.together * left, alone: self.alone * left, at: now }
    }

    fn is_shared(self, now: Time) -> bool {
        // Rounded, so that two events count as two for as long as they are fresh.
        let Self { together, alone, .. } = self.at(now);
        together > ENOUGH - 0.5 && together >= OFTEN * alone
    }
}

impl Bottlenecks {
    /// The rate of `peer` fell while `beside` had enough to do as well.
    pub fn fell(&mut self, peer: PeerId, beside: Vec<PeerId>, now: Time) {
        self.judge(now);
        // A rate falls in steps, as the time over which it is measured leaves the good times behind.
        if self.falls.iter().any(|fall| fall.peer == peer && now.saturating_sub(fall.at) < TOGETHER) {
            return;
        }
        if self.falls.len() >= MAX_FALLS {
            self.falls.pop_front();
        }
        self.falls.push_back(Fall { peer, at: now, beside, judged: false });
    }

    /// Decides about falls whose time is over.
    pub fn judge(&mut self, now: Time) {
        for index in 0..self.falls.len() {
            let fall = &self.falls[index];
            if fall.judged || now.saturating_sub(fall.at) < TOGETHER {
                continue;
            }
            let (peer, at) = (fall.peer, fall.at);
            let near = |other: &Fall| other.at.abs_diff(at) < TOGETHER && other.peer != peer;
            let fallen: BTreeSet<PeerId> = self.falls.iter().filter(|f| near(f)).map(|f| f.peer).collect();
            for other in fall.beside.clone() {
                // A common fall is seen from both sides.
                let (together, alone) = if fallen.contains(&other) { (0.5, 0.0) } else { (0.0, 1.0) };
                self.count(peer, other, together, alone, now);
            }
            self.falls[index].judged = true;
        }
        // Those that are judged are kept for as long as a later one may look back at them.
        while self.falls.front().is_some_and(|f| f.judged && now.saturating_sub(f.at) >= TOGETHER * 3) {
            self.falls.pop_front();
        }
    }

    fn count(&mut self, a: PeerId, b: PeerId, together: f64, alone: f64, now: Time) {
        let key = pair(a, b);
        let old = self.pairs.get(&key).map(|known| known.at(now));
        let old = old.unwrap_or(Evidence { together: 0.0, alone: 0.0, at: now });
        let evidence = Evidence { together: old.together + together, alone: old.alone + alone, at: now };
        self.pairs.insert(key, evidence);
        if self.pairs.len() > MAX_PAIRS {
            // Linear in MAX_PAIRS, and only when a new pair appears while that many are known.
            let oldest = self.pairs.iter().min_by_key(|(_, evidence)| evidence.at).map(|(key, _)| *key);
            oldest.and_then(|key| self.pairs.remove(&key));
        }
    }

    /// Whether what one of the two gains the other probably loses.
    pub fn is_shared(&self, a: &PeerId, b: &PeerId, now: Time) -> bool {
        self.pairs.get(&pair(*a, *b)).is_some_and(|evidence| evidence.is_shared(now))
    }

    /// The others behind the bottleneck of a peer.
    pub fn of(&self, peer: &PeerId, now: Time) -> Vec<PeerId> {
        let shared = self.pairs.iter().filter(|(_, evidence)| evidence.is_shared(now));
        shared.filter_map(|((a, b), _)| if a == peer { Some(*b) } else { (b == peer).then_some(*a) }).collect()
    }
}

fn pair(a: PeerId, b: PeerId) -> (PeerId, PeerId) {
    if a < b { (a, b) } else { (b, a) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> [PeerId; 3] {
        [0; 3].map(|_| PeerId::random())
    }

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn peers_that_fall_together_twice_share_a_bottleneck_and_others_do_not() {
        let [a, b, c] = peers();
        let mut known = Bottlenecks::default();
        for start in [0, 60_000] {
            assert!(!known.is_shared(&a, &b, ms(start)), "once is chance");
            known.fell(a, vec![b, c], ms(start));
            known.fell(b, vec![a, c], ms(start + 900));
            known.judge(ms(start + 5_000));
        }
        let now = ms(66_000);
        assert!(known.is_shared(&a, &b, now) && known.is_shared(&b, &a, now));
        assert!(!known.is_shared(&a, &c, now) && !known.is_shared(&b, &c, now));
        assert_eq!((known.of(&a, now), known.of(&b, now), known.of(&c, now)), (vec![b], vec![a], vec![]));
        // An hour later it is no longer known.
        assert!(!known.is_shared(&a, &b, now + Duration::from_secs(3_600)));
    }

    #[test]
    fn who_falls_alone_now_and_then_shares_nothing() {
        let [a, b, _] = peers();
        let mut known = Bottlenecks::default();
        for (n, together) in [true, false, true, false, true].into_iter().enumerate() {
            let start = n as u64 * 10_000;
            known.fell(a, vec![b], ms(start));
            if together {
                known.fell(b, vec![a], ms(start + 100));
            }
            known.judge(ms(start + 5_000));
        }
        assert!(!known.is_shared(&a, &b, ms(60_000)));
    }

    #[test]
    fn who_had_little_to_do_says_nothing() {
        let [a, b, _] = peers();
        let mut known = Bottlenecks::default();
        for n in 0..5 {
            known.fell(a, vec![], ms(n * 10_000));
            known.fell(b, vec![], ms(n * 10_000));
        }
        known.judge(ms(100_000));
        assert!(known.of(&a, ms(100_000)).is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut known = Bottlenecks::default();
        for n in 0..200 {
            known.fell(PeerId::random(), (0..20).map(|_| PeerId::random()).collect(), ms(n * 3_000));
            assert!(known.falls.len() <= MAX_FALLS && known.pairs.len() <= MAX_PAIRS);
        }
        known.judge(ms(10_000_000));
        assert!(known.falls.is_empty());
    }
}
