//! Connections that are kept open without traffic: those of the peers that would deliver soonest. A transfer over a new
//! connection pays for dialling and for windows that are still small (RETRIEVAL.md T12: 258 ms against 59 ms for 100 KB).

use std::collections::BTreeSet;
use std::time::Duration;

use libp2p::PeerId;

use super::{Action, Scheduler, Time, UNKNOWN_BLOCK};

/// The pool is chosen anew at most this often, at the end of a retrieval or when a peer is lost.
const CHOSEN_EVERY: Duration = Duration::from_secs(1);
/// Who has delivered nothing for this long is not kept.
const USEFUL_FOR: Duration = Duration::from_secs(3600);

/// Who is kept, and when that was decided.
#[derive(Debug, Default)]
pub(super) struct WarmPool {
    peers: BTreeSet<PeerId>,
    chosen: Option<Time>,
}

impl Scheduler {
    /// Chooses the pool: connected, clean, with a measured rate, by the time that one block of theirs takes.
    pub(super) fn choose_warm(&mut self, now: Time) {
        if self.tuning.keep_warm == 0 || self.warm.chosen.is_some_and(|at| now < at + CHOSEN_EVERY) {
            return;
        }
        self.warm.chosen = Some(now);
        let mut worth: Vec<(f64, PeerId)> = self
            .peers
            .iter()
            .filter(|(id, peer)| !peer.stalled && !self.ledger.is_struck(id, now))
            .filter_map(|(id, peer)| {
                let standing = self.ledger.get(id).filter(|standing| standing.blocks > 0)?;
                let rate = peer.rate.rate().or_else(|| standing.max_rate(now)).filter(|rate| *rate > 0.0)?;
                let fresh = now.saturating_sub(standing.used_at()) < USEFUL_FOR;
                fresh.then(|| (peer.rtt().as_secs_f64() + UNKNOWN_BLOCK as f64 / rate, *id))
            })
            .collect();
        worth.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let chosen: BTreeSet<PeerId> = worth.into_iter().take(self.tuning.keep_warm).map(|(_, id)| id).collect();
        if chosen != self.warm.peers {
            self.out.push(Action::KeepWarm { peers: chosen.iter().copied().collect() });
            self.warm.peers = chosen;
        }
    }
}
