//! When configured peers are dialled: at once, and again after a loss with a growing pause.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The peers that are kept connected. Deterministic: the pauses of different peers differ by a share of their
/// length that follows from the peer's name, so that they do not all come at once.
#[derive(Debug)]
pub struct Configured {
    peers: HashMap<PeerId, State>,
}

#[derive(Debug)]
enum State {
    Connected,
    Waiting { until: Instant, failures: u32 },
}

impl Configured {
    pub fn new(peers: impl Iterator<Item = PeerId>, now: Instant) -> Self {
        Self { peers: peers.map(|peer| (peer, State::Waiting { until: now, failures: 0 })).collect() }
    }

    pub fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Those to dial now. Each is named again only after a further pause, whatever becomes of the dial.
    pub fn due(&mut self, now: Instant) -> Vec<PeerId> {
        let mut due = Vec::new();
        for (peer, state) in &mut self.peers {
            if let State::Waiting { until, failures } = state
                && *until <= now
            {
                *until = now + pause(peer, *failures);
                due.push(*peer);
            }
        }
        due
    }

    pub fn connected(&mut self, peer: &PeerId) {
        if let Some(state) = self.peers.get_mut(peer) {
            *state = State::Connected;
        }
    }

    pub fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(state) = self.peers.get_mut(peer) {
            *state = State::Waiting { until: now + pause(peer, 0), failures: 0 };
        }
    }

    pub fn failed(&mut self, peer: &PeerId, now: Instant) {
        if let Some(State::Waiting { until, failures }) = self.peers.get_mut(peer) {
            *failures += 1;
            *until = now + pause(peer, *failures - 1);
        }
    }
}

fn pause(peer: &PeerId, failures: u32) -> Duration {
    let base = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
    let share = peer.to_bytes().last().copied().unwrap_or(0);
    base.mul_f64(0.75 + f64::from(share) / 255.0 * 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_peer_is_dialled_again_with_growing_pauses_and_a_bound() {
        let (peer, start) = (PeerId::random(), Instant::now());
        let mut configured = Configured::new([peer].into_iter(), start);
        assert_eq!(configured.due(start), vec![peer]);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            configured.failed(&peer, start);
            let State::Waiting { until, .. } = configured.peers[&peer] else { panic!() };
            assert!(until - start >= last && until - start <= LONGEST_PAUSE.mul_f64(1.25));
            last = until - start;
        }
        assert!(last >= LONGEST_PAUSE.mul_f64(0.75));
        configured.connected(&peer);
        assert!(configured.due(start + Duration::from_secs(3600)).is_empty());
        configured.disconnected(&peer, start);
        assert!(configured.due(start).is_empty());
        assert_eq!(configured.due(start + Duration::from_secs(2)), vec![peer]);
    }
}
