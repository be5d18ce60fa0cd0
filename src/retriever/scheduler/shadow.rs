//! Getting to know peers that nobody has measured: one that has a block is asked for it although another has brought it
//! (RETRIEVAL.md T13).
//!
//! Where every file is one block, the peer that is known to be good is asked each time, and what one that came later could
//! do would never be found out. A probe delays nothing and is paid for out of a share of what was received; its copy
//! counts as received twice.

use std::time::Duration;

use libp2p::PeerId;

use super::super::step::Step;
use super::peer::Question;
use super::{Action, Scheduler, Time};
use crate::exchange::{Want, WantKind};
use crate::ipld::Cid;

/// What may be spent, as a share of what was received: with the hedges' share it stays within 5 %.
const SHARE: f64 = 0.02;
/// and what can be saved up, in bytes.
const MOST: f64 = 2.0 * 1024.0 * 1024.0;
/// Smaller blocks say nothing about a link.
const SMALLEST: u64 = 64 * 1024;
/// A peer is probed again after this long, if that gave no figure.
const AGAIN: Duration = Duration::from_secs(60);

impl Scheduler {
    pub(super) fn earn_probes(&mut self, bytes: u64) {
        if self.tuning.duplicate_share > 0.0 {
            self.probe_tokens = (self.probe_tokens + bytes as f64 * SHARE).min(MOST);
        }
    }

    /// The peer says that it has a block that another has brought meanwhile.
    pub(super) fn probe_stranger(&mut self, id: PeerId, cid: &Cid, question: &Question, now: Time) {
        let known = self.ledger.get(&id).and_then(|standing| standing.max_rate(now)).is_some();
        let affordable = question.bytes >= SMALLEST && question.bytes as f64 <= self.probe_tokens;
        if known || !affordable || self.ledger.is_struck(&id, now) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let idle = peer.rate.rate().is_none() && peer.outstanding.is_empty() && !peer.stalled;
        if !idle || peer.probed.is_some_and(|at| now.saturating_sub(at) < AGAIN) {
            return;
        }
        peer.probed = Some(now);
        peer.rate.busy();
        peer.recent.add(*cid.hash(), question.sessions.first().copied());
        self.probe_tokens -= question.bytes as f64;
        self.tally.probes += 1;
        for session in question.sessions.iter().filter(|session| self.sessions.contains_key(session)) {
            self.out.push(Action::Step { session: *session, step: Step::Probed { peer: id, cid: *cid } });
        }
        let want = Want::new(*cid, WantKind::Block, 0);
        self.out.push(Action::Send { peer: id, wants: vec![want] });
    }
}
