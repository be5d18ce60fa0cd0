//! Ends of blocks: what two peers bring together is put down to each of them.

use libp2p::PeerId;

use super::super::step::Step;
use super::session::Has;
use super::{Scheduler, Time, WantId};
use crate::exchange::WantKind;
use crate::ipld::Cid;

impl Scheduler {
    /// A peer has sent the end of a block, as it was asked to. Whether that was of use shows when the block is whole.
    pub(super) fn end(&mut self, id: PeerId, cid: &Cid, bytes: u64, received: Option<u64>, now: Time) {
        self.tally.wire_bytes += bytes;
        self.revive(id);
        let want = self.index.get(cid.hash()).copied();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let asked = want.and_then(|want| peer.outstanding.get(&want)).filter(|asked| asked.end).copied();
        peer.alive(now, bytes as usize, received, Some(asked.map(|asked| asked.at)));
        let rate = peer.rate.rate();
        let (Some(want), Some(_)) = (want, asked) else {
            // The owner was quicker.
            let session = peer.recent.get(cid.hash()).flatten();
            self.tally.duplicate_bytes += bytes;
            if let Some(session) = session.filter(|session| self.sessions.contains_key(session)) {
                self.step(session, Step::Duplicate { peer: id, cid: *cid, bytes });
            }
            return;
        };
        self.unask(want, id);
        self.ledger.brought(id, bytes, rate, now);
        let Some(state) = self.wants.get_mut(&want) else { return };
        let asked = |peer: &PeerId| self.peers.get(peer).and_then(|live| live.outstanding.get(&want));
        let owner = state.asked.iter().copied().find(|peer| asked(peer).is_some_and(|a| a.kind == WantKind::Block));
        state.brought += bytes;
        if let Some(live) = owner.and_then(|owner| self.peers.get_mut(&owner))
            && let Some(asked) = live.outstanding.get_mut(&want)
        {
            let less = bytes.min(asked.bytes);
            asked.bytes -= less;
            live.outstanding_bytes -= less;
        }
        for session in self.sessions_of(want) {
            if let Some(state) = self.sessions.get_mut(&session) {
                state.last_progress = now;
                if let Some(candidate) = state.candidates.get_mut(&id) {
                    (candidate.has, candidate.misses, candidate.delivered) = (Has::Proven, 0, true);
                }
            }
            self.step(session, Step::End { peer: id, cid: *cid, bytes });
            self.dirty.insert(session);
        }
    }

    /// How many bytes of a block are put down to who sent it, and how many of those that it sent had come before.
    pub(super) fn own_share(&mut self, want: WantId, size: u64, wire: u64) -> (u64, u64) {
        let brought = self.wants.get_mut(&want).map_or(0, |state| std::mem::take(&mut state.brought));
        if brought == 0 {
            return (size, 0);
        }
        (size.saturating_sub(brought), (brought + wire).saturating_sub(size).min(wire))
    }
}
