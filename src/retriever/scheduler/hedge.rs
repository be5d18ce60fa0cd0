//! Help with what is late: a block is moved, asked for twice, or its end is asked of another.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::PeerId;

use super::super::step::Step;
use super::assign::Lane;
use super::peer::SENT_AT_ONCE;
use super::{Scheduler, SessionId, Time, WantId};
use crate::exchange::WantKind;
use crate::record::Transport;

/// Another peer takes over only if it would be done in this share of the owner's remaining time.
const WORTH_MOVING: f64 = 0.7;
/// and if it gains this much, in seconds: for less, a second copy is not worth its bytes.
const WORTH_SECONDS: f64 = 0.02;
/// Bytes of second copies that may be asked for before any were earned, and the most that can be saved up.
pub(super) const FIRST_HEDGES: f64 = 2.0 * 1024.0 * 1024.0;
const MAX_HEDGES: f64 = 16.0 * 1024.0 * 1024.0;
/// The least part of a block that is worth a request of its own, in bytes.
const LEAST_END: u64 = 32 * 1024;
/// and what it has to gain, in seconds: the owner's answer is cut off for it, which over HTTP/1.1 costs a connection that
/// knows its link (docs/verification.md: from 0.02 s on, 5 MB over D took 328 ms instead of 306).
const WORTH_AN_END: f64 = 0.15;
/// Blocks moved in one round.
const MAX_MOVES: usize = 64;

impl Lane {
    /// How much of a block it should bring, from the end, which its owner needs `left` seconds for at `rate`; and when both
    /// are done with it, which is at the same time.
    fn end_of(&self, size: u64, left: f64, rate: f64) -> Option<(u64, f64)> {
        let start = self.ready.max(self.rtt);
        let bytes = ((left - start) * rate * self.rate / (rate + self.rate)).min(size as f64);
        let done = (left - bytes / rate).max(start + bytes / self.rate);
        (bytes >= LEAST_END as f64).then_some((bytes as u64, done))
    }
}

impl Scheduler {
    /// When nothing waits to be asked for, a peer with room takes blocks over from peers that will not be done soon:
    /// what they have not begun to send is moved, what they have is asked for twice, within the budget; over HTTP, its end.
    pub(super) fn rebalance(&mut self, id: SessionId, now: Time) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.in_flight == 0 || !session.queue.is_empty() {
            return;
        }
        let able = self.able(id, now);
        let mut lanes = BTreeMap::new();
        self.lanes(&able, now, &mut lanes);
        let room: Vec<PeerId> = able
            .iter()
            .filter(|peer| lanes.get(*peer).is_some_and(|l| l.has_room(l.window / 4, false)))
            .copied()
            .collect();
        if room.is_empty() {
            return;
        }
        let mut late = self.remaining(id, now);
        late.retain(|(_, owner, ..)| room.len() > 1 || room[0] != *owner);
        late.sort_by(|a, b| b.2.total_cmp(&a.2));
        let mut moves = 0;
        // Seconds that owners have less to do, as others bring ends of their blocks.
        let mut relieved: BTreeMap<PeerId, f64> = BTreeMap::new();
        for (want, owner, left, started) in late {
            if moves >= MAX_MOVES {
                return;
            }
            let Some(state) = self.wants.get(&want) else { continue };
            if state.block_asks > 1 {
                continue;
            }
            let owned = self.peers.get(&owner).and_then(|peer| peer.outstanding.get(&want));
            let size = owned.map_or(state.size, |asked| asked.bytes);
            let (rate, rtt) =
                self.peers.get(&owner).map_or((0.0, 0.0), |p| (p.rate_or_prior(now), p.rtt().as_secs_f64()));
            let left = left - relieved.get(&owner).copied().unwrap_or_default();
            let over_http = |peer: &PeerId| self.transport(peer) == Some(Transport::Http);
            let shared = |peer: &PeerId| started && over_http(&owner) && over_http(peer);
            // One that is better and has no room now is waited for.
            let best = able
                .iter()
                .filter(|peer| **peer != owner && !state.excluded.contains_key(*peer) && !state.asked.contains(*peer))
                // Behind one bottleneck a second copy takes from the first what it needs.
                .filter(|peer| !started || !self.bottlenecks.is_shared(peer, &owner, now))
                .filter_map(|peer| {
                    let lane = lanes.get(peer)?;
                    let (bytes, eta) = match shared(peer) {
                        true => lane.end_of(size, left, rate)?,
                        false => (size, lane.done_after(size)),
                    };
                    let worth = match shared(peer) {
                        true => left - eta > WORTH_AN_END,
                        false => eta < WORTH_MOVING * left && left - eta > WORTH_SECONDS,
                    };
                    worth.then_some((eta, *peer, bytes))
                })
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let best = best.filter(|(_, peer, bytes)| lanes.get(peer).is_some_and(|lane| lane.has_room(*bytes, false)));
            let Some((eta, peer, bytes)) = best else { continue };
            let end = shared(&peer).then_some(bytes);
            // What a second copy costs is what the owner sends of its own before the transfer ends: a cancel does not reach
            // what it has begun. The transfer is taken to go on for as long again as the copy needs, and a round trip.
            let unsent = (left - 2.0 * eta - rtt).max(0.0) * rate;
            let cost = match end {
                // The owner stops where the end begins, as soon as it hears of that.
                Some(bytes) => bytes.min((rate * rtt) as u64),
                None => size.saturating_sub(unsent as u64).max(size / 16),
            };
            if started && !self.may_hedge(id, cost) {
                continue;
            }
            moves += 1;
            if let Some(lane) = lanes.get_mut(&peer) {
                lane.ready = eta;
                lane.sent += bytes;
                lane.wants += 1;
            }
            if let Some(bytes) = end {
                *relieved.entry(owner).or_default() += bytes as f64 / rate.max(1.0);
            }
            if started {
                self.hedge(id, want, peer, end, cost, now);
            } else {
                self.take_back(want, owner);
                self.tally.reassigned += 1;
                self.step(id, Step::Reassigned { peer: owner, wants: 1, why: "another peer will be done sooner" });
                self.ask_expecting(want, peer, WantKind::Block, None, Duration::from_secs_f64(eta.min(3600.0)), now);
            }
        }
    }

    /// The session's blocks under way: (want, peer, seconds until it is expected, whether the peer has begun to send it).
    fn remaining(&self, id: SessionId, now: Time) -> Vec<(WantId, PeerId, f64, bool)> {
        let Some(session) = self.sessions.get(&id) else { return Vec::new() };
        let mut all = Vec::new();
        for id in session.candidates.keys() {
            let Some(peer) = self.peers.get(id).filter(|peer| peer.block_wants > 0) else { continue };
            let rate = peer.rate_or_prior(now).max(1.0);
            let rtt = peer.rtt().as_secs_f64();
            let mut queue: Vec<(Time, WantId, u64)> = peer
                .outstanding
                .iter()
                .filter(|(_, asked)| asked.kind == WantKind::Block)
                .map(|(want, asked)| (asked.at, *want, asked.bytes))
                .collect();
            queue.sort_unstable();
            let (start, mut ahead) =
                (peer.first_byte_after(now), peer.taken_back_bytes() as f64 - peer.partial() as f64);
            for (index, (at, want, size)) in queue.into_iter().enumerate() {
                let flight = (rtt - now.saturating_sub(at).as_secs_f64()).max(0.0);
                ahead += size as f64;
                let done = flight.max(start) + ahead.max(0.0) / rate;
                if session.wants.contains(&want) {
                    all.push((want, *id, done, index < SENT_AT_ONCE));
                }
            }
        }
        all
    }

    /// What was received allows for second copies: a token bucket for the whole process.
    pub(super) fn earn(&mut self, bytes: u64) {
        self.earn_probes(bytes);
        self.hedge_tokens = (self.hedge_tokens + bytes as f64 * self.tuning.duplicate_share).min(MAX_HEDGES);
    }

    /// Duplicates are at most a share of what was received; the first may be taken in advance.
    pub(super) fn may_hedge(&self, id: SessionId, size: u64) -> bool {
        self.sessions.get(&id).is_some_and(|session| {
            let allowed = session.bytes as f64 * self.tuning.duplicate_share;
            let next = (session.hedged_bytes + size) as f64;
            let first = session.hedged_bytes == 0;
            // A few cheap ones too, while together they cost no more than one block.
            let cheap = self.tuning.duplicate_share > 0.0 && next <= session.block_size as f64;
            first || (size as f64 <= self.hedge_tokens && (cheap || next <= allowed))
        })
    }

    /// Asks another for a block that somebody was asked for, or for its end; that costs so many bytes.
    pub(super) fn hedge(&mut self, id: SessionId, want: WantId, peer: PeerId, end: Option<u64>, cost: u64, now: Time) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.hedged_bytes += cost;
        }
        self.hedge_tokens = (self.hedge_tokens - cost as f64).max(0.0);
        self.tally.hedges += 1;
        if let Some(cid) = self.wants.get(&want).map(|state| state.cid) {
            self.step(id, Step::Hedged { peer, cid, end });
        }
        self.ask_for(want, peer, WantKind::Block, end, now);
    }
}
