//! Earliest completion first: which peer is asked for which block, and when one waits rather than ask a slow peer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use libp2p::PeerId;

use super::peer::Asked;
use super::session::{Has, Link};
use super::{Exclusion, Scheduler, SessionId, Time, WantId};
use crate::exchange::{Below, MAX_WANTS_PER_PEER, Want, WantKind};
use crate::record::{Policy, Transport};
use crate::routing::RouterKind;

/// Wants looked at for one session in one round.
const MAX_PLAN: usize = 1_024;
/// Wants that wait for a peer with a full window before planning stops.
const MAX_HELD: usize = 256;
/// Blocks that the standard policy asks for ahead (go-ipld-format: preloadSize).
pub const STANDARD_READ_AHEAD: usize = 10;
/// Blocks of one session that are looked for among connected peers at once.
const MAX_DISCOVERIES: usize = 16;
/// The window of the only peer that has the content, in windows of one among others and at least in blocks.
const ALONE: u64 = 4;
const ALONE_BLOCKS: u64 = 24;
/// Peers are as near as another up to this many of its round trips.
const AS_NEAR: f64 = 1.25;
/// The most of a file's beginning that is asked for before its root is known, in bytes.
const MAX_FIRST: u64 = 4 << 20;
/// Kept free at each peer, for what becomes urgent.
const SPARE_WANTS: usize = 16;

/// What a session wants, most urgent first, and who can serve it.
type Plan = (std::vec::IntoIter<(bool, u64, WantId)>, Vec<PeerId>);

/// A peer as the plan sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    pub(super) rtt: f64,
    pub(super) rate: f64,
    pub(super) window: u64,
    /// What is outstanding.
    pub(super) sent: u64,
    pub(super) wants: usize,
    /// Seconds until all that is outstanding and planned has come.
    pub(super) ready: f64,
}

impl Lane {
    pub(super) fn done_after(&self, size: u64) -> f64 {
        self.ready.max(self.rtt) + size as f64 / self.rate
    }

    pub(super) fn has_room(&self, size: u64, alone: bool) -> bool {
        // The only peer is asked for more than it needs, so that no round trip is lost when it turns out to be faster.
        let window = if alone { (self.window * ALONE).max(ALONE_BLOCKS * size) } else { self.window };
        self.wants + SPARE_WANTS < MAX_WANTS_PER_PEER && (self.sent == 0 || self.sent + size <= window)
    }
}

impl Scheduler {
    /// Gives work to peers, for all sessions that something changed for.
    pub(super) fn pump(&mut self, now: Time) {
        let dirty: Vec<SessionId> = std::mem::take(&mut self.dirty).into_iter().collect();
        let mut optimized = Vec::new();
        for id in dirty {
            let Some(session) = self.sessions.get(&id) else { continue };
            match session.policy {
                Policy::Optimized => {
                    self.dial(id, now);
                    optimized.push(id);
                }
                Policy::Standard => {
                    self.dial(id, now);
                    self.assign_standard(id, now);
                    self.give_up(id, now);
                }
            }
        }
        self.assign(&optimized, now);
        for id in optimized {
            self.probe(id, now);
            self.rebalance(id, now);
            self.give_up(id, now);
        }
        // What gave_up or moved has touched is looked at on the next input or tick.
    }

    fn assign(&mut self, sessions: &[SessionId], now: Time) {
        let mut lanes: BTreeMap<PeerId, Lane> = BTreeMap::new();
        let mut plans: BTreeMap<SessionId, Plan> = BTreeMap::new();
        let mut heap = BinaryHeap::new();
        for id in sessions {
            let Some(session) = self.sessions.get(id) else { continue };
            if session.queue.is_empty() {
                continue;
            }
            let able = self.able(*id, now);
            self.lanes(&able, now, &mut lanes);
            let queue: Vec<_> = session.queue.iter().take(MAX_PLAN).copied().collect();
            // Only who had nothing under way starts where the others are; who waits keeps its place.
            let turn = if session.in_flight == 0 { session.turn.max(self.turn) } else { session.turn };
            heap.push(Reverse((queue.first().is_none_or(|q| q.0), turn, *id)));
            plans.insert(*id, (queue.into_iter(), able));
        }
        let (mut held, mut discoveries) = (BTreeMap::<SessionId, usize>::new(), BTreeMap::<SessionId, usize>::new());
        // Start-time fair queueing (Goyal et al. 1996): each session's turn comes after as many bytes as it was given;
        // one that comes late starts where the others are. A waiting reader goes before all.
        while let Some(Reverse((_, turn, id))) = heap.pop() {
            let Some((queue, able)) = plans.get_mut(&id) else { continue };
            let Some((_, _, want)) = queue.next() else { continue };
            let next_class = queue.as_slice().first().is_none_or(|q| q.0);
            let able = able.clone();
            let Some(state) = self.wants.get(&want) else { continue };
            if state.block_asks > 0 {
                heap.push(Reverse((next_class, turn, id)));
                continue;
            }
            let size = state.size;
            let open = |peer: &&PeerId| !state.excluded.contains_key(*peer);
            let sure = |peer: &&PeerId| {
                self.sessions.get(&id).and_then(|s| s.candidates.get(*peer)).is_some_and(|c| c.has > Has::Unknown)
            };
            let mut free: Vec<PeerId> = able.iter().filter(open).copied().collect();
            if state.sessions.get(&id).is_some_and(|interest| interest.urgent) && free.iter().any(|peer| sure(&peer)) {
                free.retain(|peer| sure(&peer));
            }
            // Of the beginning of a file that somebody is sending already nobody else is asked for anything.
            let opening = self.sessions.get(&id).and_then(|s| s.opening).map(|(peer, _)| peer);
            let opening = opening.filter(|peer| free.contains(peer));
            let best = free
                .iter()
                .filter(|peer| opening.is_none_or(|opening| **peer == opening))
                .filter_map(|peer| Some((lanes.get(peer)?.done_after(size), *peer)))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            let Some((eta, peer)) = best else {
                let tried = discoveries.entry(id).or_default();
                *tried += 1;
                if *tried <= MAX_DISCOVERIES {
                    self.discover(id, want, now);
                    heap.push(Reverse((next_class, turn, id)));
                }
                continue;
            };
            let Some(lane) = lanes.get_mut(&peer) else { continue };
            lane.ready = lane.done_after(size);
            if opening.is_some() || lane.has_room(size, free.len() == 1) {
                lane.sent += size;
                lane.wants += 1;
                self.turn = self.turn.max(turn);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.turn = turn + size;
                    session.opened(size);
                }
                self.ask_expecting(want, peer, WantKind::Block, None, Duration::from_secs_f64(eta.min(3600.0)), now);
            } else {
                let held = held.entry(id).or_default();
                *held += 1;
                if *held >= MAX_HELD {
                    continue;
                }
            }
            heap.push(Reverse((next_class, turn + size, id)));
        }
    }

    /// Peers that have the session's content and answer: those with a clean record, or else those without.
    pub(super) fn able(&self, id: SessionId, now: Time) -> Vec<PeerId> {
        let Some(session) = self.sessions.get(&id) else { return Vec::new() };
        // Once somebody has the content, those that had everything lately are not waited for to say that they do: a
        // wrong guess costs a DONT_HAVE, waiting costs a round trip of every transfer.
        let proven = session.candidates.values().any(|c| c.has == Has::Proven);
        let able: Vec<PeerId> = session
            .candidates
            .iter()
            .filter(|(peer, c)| {
                let has = c.has > Has::Unknown || (proven && c.misses == 0 && self.ledger.is_presumed(peer));
                c.usable() && has && self.peers.get(peer).is_some_and(|p| !p.stalled)
            })
            .map(|(peer, _)| *peer)
            .collect();
        let clean: Vec<PeerId> = able.iter().filter(|peer| !self.ledger.is_struck(peer, now)).copied().collect();
        if clean.is_empty() { able } else { clean }
    }

    pub(super) fn lanes(&self, able: &[PeerId], now: Time, lanes: &mut BTreeMap<PeerId, Lane>) {
        for id in able {
            let Some(peer) = self.peers.get(id) else { continue };
            let rate = peer.rate_or_prior(now).max(1.0);
            lanes.entry(*id).or_insert(Lane {
                rtt: peer.rtt().as_secs_f64(),
                rate,
                window: peer.window(),
                sent: peer.sending(),
                wants: peer.outstanding.len(),
                ready: peer.drained_after(rate, now),
            });
        }
    }

    /// Nobody is known to have this block: ask the likeliest peer for it and the others whether they have it; when
    /// all have been asked, go back to those that fell silent.
    fn discover(&mut self, id: SessionId, want: WantId, now: Time) {
        let (Some(session), Some(state)) = (self.sessions.get(&id), self.wants.get(&want)) else { return };
        let mut open: Vec<(bool, (bool, RouterKind, Duration), PeerId)> = session
            .candidates
            .iter()
            .filter(|(peer, c)| {
                c.usable() && !state.excluded.contains_key(*peer) && self.peers.get(peer).is_some_and(|p| !p.stalled)
            })
            .map(|(peer, c)| {
                (state.asked.contains(peer), (self.ledger.is_struck(peer, now), c.source, self.rtt_of(peer)), *peer)
            })
            .collect();
        open.sort_by_key(|a| a.1);
        if let Some((_, _, best)) = open.first().copied() {
            self.ask(want, best, WantKind::Block, now);
            let rest: Vec<PeerId> =
                open[1..].iter().filter(|o| !o.0).map(|o| o.2).take(self.tuning.broadcast).collect();
            for peer in rest {
                self.inquire(id, want, peer, now);
            }
            return;
        }
        let last_resort = session
            .candidates
            .iter()
            .filter(|(peer, c)| {
                let retry = matches!(state.excluded.get(*peer), None | Some(Exclusion::Stalled));
                c.usable() && retry && !state.asked.contains(*peer)
            })
            .map(|(peer, _)| (self.rtt_of(peer), *peer))
            .min();
        if let Some((_, peer)) = last_resort {
            self.ask(want, peer, WantKind::Block, now);
        }
    }

    pub(super) fn ask(&mut self, want: WantId, peer: PeerId, kind: WantKind, now: Time) {
        self.ask_for(want, peer, kind, None, now);
    }

    /// Asks for all of a block, or for its end.
    pub(super) fn ask_for(&mut self, want: WantId, peer: PeerId, kind: WantKind, end: Option<u64>, now: Time) {
        let size = end.unwrap_or_else(|| self.wants.get(&want).map_or(0, |state| state.size)) as f64;
        let expected = self.peers.get(&peer).map_or(Duration::ZERO, |p| {
            let rate = p.rate_or_prior(now).max(1.0);
            let ready = p.drained_after(rate, now).max(p.rtt().as_secs_f64());
            Duration::from_secs_f64((ready + size / rate).min(3600.0))
        });
        self.ask_expecting(want, peer, kind, end, expected, now);
    }

    pub(super) fn ask_expecting(
        &mut self,
        want: WantId,
        id: PeerId,
        kind: WantKind,
        end: Option<u64>,
        expected: Duration,
        now: Time,
    ) {
        let (Some(state), Some(peer)) = (self.wants.get_mut(&want), self.peers.get_mut(&id)) else { return };
        match peer.outstanding.get(&want) {
            Some(old) if old.kind == WantKind::Block => return,
            None if peer.outstanding.len() >= MAX_WANTS_PER_PEER => {
                self.tally.over_bound += 1;
                return;
            }
            _ => {}
        }
        if kind == WantKind::Block && peer.block_wants == 0 {
            peer.busy_since = now;
            peer.first_byte = None;
            peer.rate.busy();
        }
        let bytes = if kind == WantKind::Block { end.unwrap_or(state.size) } else { 0 };
        let asked = Asked { kind, end: end.is_some(), at: now, bytes, expected };
        peer.outstanding.insert(want, asked);
        state.asked.insert(id);
        // Larger is more urgent. Sequence numbers of one session never reach a quarter of the range in practice; if
        // they do, order among its latest blocks is lost, nothing else.
        let first = state.sessions.values().map(|i| (!i.urgent, i.seq)).min().unwrap_or((true, 0));
        let base: i32 = if first.0 { 1 << 29 } else { 1 << 30 };
        let priority = base - i32::try_from(first.1).unwrap_or(i32::MAX).min(1 << 28);
        if kind == WantKind::Block {
            peer.outstanding_bytes += bytes;
            peer.block_wants += 1;
            peer.loaded(now);
            state.block_asks += 1;
            for (session, interest) in &state.sessions {
                let Some(session) = self.sessions.get_mut(session) else { continue };
                if state.block_asks == 1 {
                    session.queue.remove(&(!interest.urgent, interest.seq, want));
                    session.in_flight += 1;
                }
                if let Some(candidate) = session.candidates.get_mut(&id) {
                    candidate.asked_at.get_or_insert(now);
                }
            }
        }
        let (cid, whole) = (state.cid, state.whole && kind == WantKind::Block && end.is_none());
        let sessions = if whole { self.sessions_of(want) } else { Vec::new() };
        let below = match whole {
            false => Below::Nothing,
            true if !sessions.iter().any(|session| self.has_others(*session, id)) => Below::All,
            true if sessions.iter().any(|session| self.has_others_as_near(*session, id)) => Below::Nothing,
            true => Below::First(self.first_flight(id, now)),
        };
        if let (Below::First(bytes), Some(state)) = (below, self.wants.get_mut(&want)) {
            state.opening = Some((id, bytes));
        }
        let sends = self.sends.entry(id).or_default();
        sends.retain(|(sent, _)| *sent != want);
        sends.push((want, Want { cid, kind, priority, below, end }));
    }

    /// What a peer brings before blocks can come that were asked for when the root was here: a round trip's worth.
    fn first_flight(&self, id: PeerId, now: Time) -> u64 {
        let bytes = self.peers.get(&id).map_or(0.0, |peer| peer.rate_or_prior(now) * peer.rtt().as_secs_f64());
        (bytes as u64).clamp(1, MAX_FIRST)
    }

    /// Whether another peer than `id` may come to be asked for what is below. Over HTTP an answer with everything saves a
    /// request for each block, so there a peer that is connected over Bitswap and said nothing yet does not count: it is one
    /// of many, and most have nothing. Over libp2p the beginning of a file saves as much time as all of it.
    fn has_others(&self, session: SessionId, id: PeerId) -> bool {
        let others = self.sessions.get(&session).map(|session| &session.candidates).into_iter().flatten();
        let over_http = self.transport(&id) == Some(Transport::Http);
        others.into_iter().any(|(peer, c)| {
            let counts = !over_http || self.transport(peer) == Some(Transport::Http) || c.has > Has::Unknown;
            *peer != id && c.usable() && counts
        })
    }

    /// Whether the root may come from somebody else before it: a small one comes over Bitswap instead of a HAVE, and what
    /// was on its way behind it would come in vain.
    fn has_others_as_near(&self, session: SessionId, id: PeerId) -> bool {
        let others = self.sessions.get(&session).map(|session| &session.candidates).into_iter().flatten();
        let own = self.rtt_of(&id);
        others.into_iter().any(|(peer, c)| {
            let over_bitswap = self.transport(peer) != Some(Transport::Http);
            *peer != id && c.usable() && over_bitswap && self.rtt_of(peer) < own.mul_f64(AS_NEAR)
        })
    }

    /// What others do: one provider, in the routers' order, ten blocks ahead; the next one when it fails.
    fn assign_standard(&mut self, id: SessionId, now: Time) {
        loop {
            let Some(session) = self.sessions.get(&id) else { return };
            if session.in_flight >= STANDARD_READ_AHEAD {
                return;
            }
            let queue: Vec<WantId> = session.queue.iter().take(STANDARD_READ_AHEAD).map(|q| q.2).collect();
            let next = queue.into_iter().find_map(|want| Some((want, self.standard_peer(id, want)?)));
            let Some((want, peer)) = next else { return };
            self.ask(want, peer, WantKind::Block, now);
            if self.wants.get(&want).is_none_or(|state| state.block_asks == 0) {
                return;
            }
        }
    }

    fn standard_peer(&self, id: SessionId, want: WantId) -> Option<PeerId> {
        let (session, state) = (self.sessions.get(&id)?, self.wants.get(&want)?);
        let able = session.candidates.iter().filter(|(peer, c)| c.usable() && !state.excluded.contains_key(*peer));
        let open = able.filter(|(peer, _)| self.peers.get(peer).is_some_and(|p| !p.stalled));
        open.min_by_key(|(_, c)| (!c.delivered, c.source, c.order)).map(|(peer, _)| *peer).or_else(|| {
            let resort = session
                .candidates
                .iter()
                .filter(|(peer, c)| c.usable() && matches!(state.excluded.get(*peer), None | Some(Exclusion::Stalled)));
            resort.min_by_key(|(_, c)| (c.source, c.order)).map(|(peer, _)| *peer)
        })
    }

    /// A provider that can be asked for the session's next block, so that no other need be dialled.
    pub(super) fn standard_provider(&self, id: SessionId) -> Option<PeerId> {
        let session = self.sessions.get(&id)?;
        let Some((_, _, want)) = session.queue.first().copied() else {
            return session.candidates.iter().find(|(_, c)| c.link == Link::Connected).map(|(peer, _)| *peer);
        };
        let state = self.wants.get(&want)?;
        let able = session.candidates.iter().filter(|(peer, c)| c.usable() && !state.excluded.contains_key(*peer));
        able.map(|(peer, _)| *peer).next()
    }

    fn rtt_of(&self, peer: &PeerId) -> Duration {
        self.peers.get(peer).map_or(Duration::MAX, super::peer::Peer::rtt)
    }

    /// Better first: clean, has delivered before, near.
    pub(super) fn rank(&self, peer: &PeerId, now: Time) -> (bool, bool, Duration) {
        let delivered = self.ledger.get(peer).is_some_and(|s| s.blocks > 0);
        (self.ledger.is_struck(peer, now), !delivered, self.rtt_of(peer))
    }
}
