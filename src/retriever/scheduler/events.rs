//! What peers say, taken in.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use super::super::step::{Received, Step};
use super::peer::Peer;
use super::session::{Has, Link};
use super::{Action, Exclusion, Scheduler, SessionId, Time, WantId};
use crate::exchange::{ConnectError, ExchangeEvent, SendError, WantKind};
use crate::ipld::{Block, Cid};
use crate::record::Transport;
use crate::routing::RouterKind;

/// A peer that drops out is dialled again this often by one session.
pub(super) const MAX_DIALS: u8 = 2;
/// Added to two round trips: silence after which a peer that loses its block counts as stalled.
const SILENT: Duration = Duration::from_millis(50);
/// How often the bytes of an unfinished block lead to a new plan.
const REPLAN_EVERY: Duration = Duration::from_millis(40);

impl Scheduler {
    pub(super) fn exchange(&mut self, event: ExchangeEvent, now: Time) {
        match event {
            ExchangeEvent::Connected { peer, transport, address, dial } => {
                self.connected(peer, transport, address, dial, now);
            }
            ExchangeEvent::ConnectFailed { peer, error } => self.connect_failed(peer, &error, now),
            ExchangeEvent::Disconnected { peer } => self.disconnected(peer, now),
            ExchangeEvent::Block { peer, block, wire_bytes, arrival } => {
                self.block(peer, block, wire_bytes as u64, arrival.received, now);
            }
            ExchangeEvent::End { peer, cid, bytes, arrival } => {
                self.end(peer, &cid, bytes as u64, arrival.received, now);
            }
            ExchangeEvent::Whole { peer, root, transport } => {
                let Some(want) = self.index.get(root.hash()).copied() else { return };
                let opening = self.wants.get(&want).and_then(|state| state.opening).filter(|(id, _)| *id == peer);
                for id in self.sessions_of(want) {
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.opening = opening;
                    }
                    self.step(id, Step::Whole { peer, root, transport, first: opening.map(|(_, bytes)| bytes) });
                }
            }
            ExchangeEvent::Invalid { peer, reason } => self.corrupt(peer, reason, now),
            ExchangeEvent::Have { peer, cid } => self.have(peer, &cid, now),
            ExchangeEvent::DontHave { peer, cid } => self.dont_have(peer, &cid, now),
            ExchangeEvent::Progress { peer, bytes, arrival } => {
                if self.peers.get_mut(&peer).is_some_and(|live| live.alive(now, bytes, arrival.received, None)) {
                    self.revive(peer);
                    self.replan(peer, now);
                }
            }
            ExchangeEvent::Rtt { peer, rtt } => {
                self.ledger.rtt(peer, rtt, now);
                if let Some(live) = self.peers.get_mut(&peer) {
                    live.measured_rtt(rtt);
                }
            }
            ExchangeEvent::SendFailed { peer, cids } => self.send_failed(peer, &cids, now),
        }
    }

    fn connected(&mut self, id: PeerId, transport: Transport, address: Multiaddr, dial: Option<Duration>, now: Time) {
        self.dials.remove(&id);
        let standing = self.ledger.get(&id);
        let (rate, rtt) = (standing.and_then(|s| s.max_rate(now)), standing.and_then(|s| s.min_rtt));
        // Until a ping has answered: the handshake and Bitswap's negotiation take two round trips over QUIC, four or
        // more over TCP; HTTP without TLS takes two, with its probe.
        let trips = if matches!(transport, Transport::BitswapQuic | Transport::Http) { 2 } else { 4 };
        let guess = dial.filter(|_| rtt.is_none()).map(|dial| dial / trips);
        match self.peers.get_mut(&id) {
            // A second connection, or a better transport for the same peer.
            Some(peer) => (peer.transport, peer.address) = (transport, address),
            None => {
                let mut peer = Peer::new(transport, address, rate, rtt, now);
                peer.guessed_rtt = guess;
                self.peers.insert(id, peer);
            }
        }
        let mut curious = Vec::new();
        for (session, state) in &mut self.sessions {
            match state.candidates.get_mut(&id) {
                Some(candidate) => {
                    candidate.link = Link::Connected;
                    self.dirty.insert(*session);
                    self.out.push(Action::Step {
                        session: *session,
                        step: Step::Connected { peer: id, transport, dial: dial.filter(|_| candidate.dials > 0) },
                    });
                }
                // Nobody named it, and it may have the content all the same. Who needs nothing more does not ask.
                None if !state.queue.is_empty() && state.probes < self.tuning.broadcast => curious.push(*session),
                None => {}
            }
        }
        for session in curious {
            self.candidate(session, id, Vec::new(), RouterKind::Connected, Has::Unknown);
        }
    }

    fn connect_failed(&mut self, id: PeerId, error: &ConnectError, now: Time) {
        self.dials.remove(&id);
        self.ledger.failed(id, now);
        if self.peers.contains_key(&id) {
            return;
        }
        self.all_dirty_with(id);
        for (session, state) in &mut self.sessions {
            if let Some(candidate) = state.candidates.get_mut(&id) {
                candidate.link = Link::Failed;
                let step = Step::DialFailed { peer: id, error: error_kind(error).to_owned() };
                self.out.push(Action::Step { session: *session, step });
            }
        }
    }

    fn disconnected(&mut self, id: PeerId, now: Time) {
        let Some(peer) = self.peers.get(&id) else { return };
        let wants: Vec<WantId> = peer.outstanding.keys().copied().collect();
        if peer.block_wants > 0 {
            self.ledger.failed(id, now);
            self.tally.failed += peer.block_wants as u64;
        }
        self.all_dirty_with(id);
        for (session, state) in &mut self.sessions {
            if let Some(candidate) = state.candidates.get_mut(&id) {
                candidate.link = if candidate.dials < MAX_DIALS { Link::Known } else { Link::Failed };
                candidate.probed = false;
                self.out.push(Action::Step { session: *session, step: Step::Disconnected { peer: id } });
            }
        }
        for want in &wants {
            self.unask(*want, id);
        }
        self.cancels.remove(&id);
        self.sends.remove(&id);
        self.peers.remove(&id);
    }

    fn have(&mut self, id: PeerId, cid: &Cid, now: Time) {
        if let Some(question) = self.peers.get_mut(&id).and_then(|peer| peer.answered(cid.hash())) {
            self.ledger.answered(id, true, now);
            self.probe_stranger(id, cid, &question, now);
            return self.has(id, cid, question.sessions);
        }
        let Some(want) = self.index.get(cid.hash()).copied() else { return };
        let Some(peer) = self.peers.get(&id) else { return };
        // Only an answer to a question counts: HAVEs nobody asked for would let a peer talk itself into every session.
        let Some(asked) = peer.outstanding.get(&want).copied() else { return };
        self.responded(id, now.saturating_sub(asked.at), now);
        self.ledger.answered(id, true, now);
        if asked.kind == WantKind::Have {
            self.unask(want, id);
        }
        self.has(id, cid, self.sessions_of(want));
    }

    fn has(&mut self, id: PeerId, cid: &Cid, sessions: Vec<SessionId>) {
        for session in sessions {
            if let Some(candidate) = self.sessions.get_mut(&session).and_then(|s| s.candidates.get_mut(&id)) {
                candidate.has = Has::Proven;
                self.step(session, Step::Have { peer: id, cid: *cid });
                self.dirty.insert(session);
            }
        }
    }

    fn dont_have(&mut self, id: PeerId, cid: &Cid, now: Time) {
        if let Some(question) = self.peers.get_mut(&id).and_then(|peer| peer.answered(cid.hash())) {
            self.ledger.answered(id, false, now);
            for session in question.sessions {
                if let Some(candidate) = self.sessions.get_mut(&session).and_then(|s| s.candidates.get_mut(&id)) {
                    candidate.missed();
                }
            }
            return;
        }
        let Some(want) = self.index.get(cid.hash()).copied() else { return };
        let Some(asked) = self.unask(want, id) else { return };
        self.responded(id, now.saturating_sub(asked.at), now);
        self.ledger.answered(id, false, now);
        self.exclude(want, id, Exclusion::DontHave);
        if let Some(peer) = self.peers.get_mut(&id) {
            // An answer is life, but no byte of what is still outstanding.
            peer.last_progress = now;
        }
        for session in self.sessions_of(want) {
            if let Some(candidate) = self.sessions.get_mut(&session).and_then(|s| s.candidates.get_mut(&id)) {
                candidate.missed();
            }
            self.step(session, Step::DontHave { peer: id, cid: *cid });
            self.dirty.insert(session);
        }
    }

    fn block(&mut self, id: PeerId, block: Block, wire: u64, received: Option<u64>, now: Time) {
        let (key, bytes) = (*block.cid().hash(), block.len() as u64);
        self.tally.wire_bytes += wire;
        self.revive(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let asked = self.index.get(&key).and_then(|want| peer.outstanding.get(want)).copied();
        // Of a peer that is asked for nothing, what comes is its probe.
        let probed = peer.probed.filter(|_| peer.block_wants == 0 && peer.rate.rate().is_none());
        let since = asked.map(|asked| asked.at).or(probed);
        peer.alive(now, wire as usize, received, Some(since));
        peer.came(&key);
        let first_byte = peer.first_byte;
        let Some(want) = self.index.get(&key).copied() else {
            return self.unwanted(id, &block, now);
        };
        if asked.is_none() && peer.recent.get(&key).is_none() && peer.block_wants == 0 {
            // Wanted by us, though not from this peer: it verified, so it is welcome.
            self.tally.unwanted += 1;
        }
        peer.blocks += 1;
        peer.fresh += 1;
        peer.largest = peer.largest.max(bytes);
        let (rate, min_rtt) = (peer.rate.rate(), peer.min_rtt);
        let (own, again) = self.own_share(want, bytes, wire);
        if again > 0 {
            self.tally.duplicate_bytes += again;
            for session in self.sessions_of(want) {
                self.step(session, Step::Duplicate { peer: id, cid: *block.cid(), bytes: again });
            }
        }
        self.ledger.delivered(id, own, rate, now);
        self.ledger.answered(id, true, now);
        if let Some(asked) = asked.filter(|a| a.bytes < 16 * 1024 || bytes < 16 * 1024) {
            // A small block's way is nearly a round trip: an upper bound where no ping has answered yet.
            self.responded(id, now.saturating_sub(asked.at), now);
        }
        self.tally.blocks += 1;
        self.tally.bytes += bytes;
        self.earn(bytes);
        self.complete(want, id, block, (own, wire - again), first_byte, rate, min_rtt, now);
    }

    #[allow(clippy::too_many_arguments)]
    fn complete(
        &mut self,
        want: WantId,
        from: PeerId,
        block: Block,
        (own, wire): (u64, u64),
        first_byte: Option<Time>,
        rate: Option<f64>,
        rtt: Option<Duration>,
        now: Time,
    ) {
        self.unask(want, from);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.recent.add(*block.cid().hash(), self.wants.get(&want).and_then(|w| w.sessions.keys().next().copied()));
        }
        let others: Vec<PeerId> = self.wants.get(&want).map(|s| s.asked.iter().copied().collect()).unwrap_or_default();
        let sessions = self.sessions_of(want);
        for other in others {
            let asked = self.peers.get(&other).and_then(|p| p.outstanding.get(&want)).copied();
            let was_block = asked.map(|asked| asked.kind);
            if was_block == Some(WantKind::Have) {
                // It stays on the wire: a HAVE makes the peer useful for what follows.
                let unsent = self.sends.get(&other).is_some_and(|sends| sends.iter().any(|(id, _)| *id == want));
                if !unsent {
                    self.unask(want, other);
                    if let Some(peer) = self.peers.get_mut(&other) {
                        peer.still_asks(*block.cid().hash(), &sessions, block.len() as u64);
                    }
                    continue;
                }
            }
            // It lost because it had fallen silent: the record says so, though nothing waits for it any more.
            let silent = self.peers.get(&other).and_then(|peer| {
                let silent = now.saturating_sub(peer.silent_since()?);
                (!peer.stalled && silent >= peer.rtt() * 2 + SILENT).then_some(silent)
            });
            if let Some(silent) = silent.filter(|_| was_block == Some(WantKind::Block)) {
                for session in &sessions {
                    self.step(*session, Step::Stalled { peer: other, silent });
                }
            }
            self.take_back(want, other);
            if was_block == Some(WantKind::Block) {
                if let Some(peer) = self.peers.get_mut(&other) {
                    peer.lost |= asked.is_some_and(|asked| !asked.end);
                }
                for session in &sessions {
                    self.step(*session, Step::Cancelled { peer: other, wants: 1 });
                }
            }
        }
        let bytes = block.len() as u64;
        for id in &sessions {
            let Some(state) = self.sessions.get_mut(id) else { continue };
            state.last_progress = now;
            state.blocks += 1;
            state.bytes += bytes;
            state.block_size = state.block_size.max(bytes);
            let mut since_asked = None;
            if let Some(candidate) = state.candidates.get_mut(&from) {
                candidate.has = Has::Proven;
                candidate.misses = 0;
                if !candidate.delivered {
                    candidate.delivered = true;
                    let asked = candidate.asked_at.unwrap_or(now);
                    since_asked = Some(first_byte.filter(|t| *t >= asked).unwrap_or(now).saturating_sub(asked));
                }
            }
            let cid = *block.cid();
            let received = Received { peer: from, cid, bytes: own, wire, first_byte: since_asked, rtt, rate };
            self.step(*id, Step::Block(received));
        }
        for id in &sessions {
            self.uninterested(*id, want);
        }
        self.feed(from);
        self.out.push(Action::Deliver { sessions, block });
    }

    /// A verified block that nobody wants now. Late copies are no fault; anything else is how a flipped byte looks
    /// in Bitswap 1.1 and later, where the receiver computes the CID (RETRIEVAL.md T14).
    fn unwanted(&mut self, id: PeerId, block: &Block, now: Time) {
        let bytes = block.len() as u64;
        // A small block instead of a HAVE (Kubo: up to 1,024 bytes): the answer to the question, not a copy.
        if let Some(question) = self.peers.get_mut(&id).and_then(|peer| peer.answered(block.cid().hash())) {
            self.ledger.answered(id, true, now);
            return self.has(id, block.cid(), question.sessions);
        }
        let Some(peer) = self.peers.get(&id) else { return };
        match peer.recent.get(block.cid().hash()) {
            Some(session) => {
                self.tally.duplicate_bytes += bytes;
                let rate = peer.rate.rate();
                self.ledger.answered(id, true, now);
                if let Some(rate) = rate {
                    self.ledger.measured(id, rate, now);
                }
                if let Some(session) = session.filter(|s| self.sessions.contains_key(s)) {
                    // Another was quicker, but it has the content.
                    self.has(id, block.cid(), vec![session]);
                    self.step(session, Step::Duplicate { peer: id, cid: *block.cid(), bytes });
                }
            }
            None if peer.block_wants > 0 => self.corrupt(id, "a block that nobody wants", now),
            None => self.tally.unwanted += 1,
        }
    }

    /// Nothing more is asked of the peer by any session that runs now; what was outstanding is asked elsewhere at once.
    fn corrupt(&mut self, id: PeerId, reason: &'static str, now: Time) {
        self.tally.corrupt += 1;
        self.ledger.strike(id, now);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.rate = super::super::rate::RateEstimator::default();
        let wants: Vec<WantId> = peer.outstanding.keys().copied().collect();
        self.tally.failed += peer.block_wants as u64;
        for (session, state) in &mut self.sessions {
            let Some(candidate) = state.candidates.get_mut(&id) else { continue };
            if candidate.quarantined {
                continue;
            }
            candidate.quarantined = true;
            self.dirty.insert(*session);
            if candidate.asked_at.is_some() || candidate.probed {
                self.out.push(Action::Step { session: *session, step: Step::Corrupt { peer: id, reason } });
                self.out.push(Action::Step { session: *session, step: Step::Quarantined { peer: id } });
                let moved = state.wants.iter().filter(|want| wants.contains(want)).count();
                if moved > 0 {
                    let step = Step::Reassigned { peer: id, wants: moved, why: "wrong block" };
                    self.out.push(Action::Step { session: *session, step });
                }
            }
        }
        for want in wants {
            self.take_back(want, id);
        }
    }

    fn send_failed(&mut self, id: PeerId, cids: &[Cid], now: Time) {
        let mut lost = std::collections::BTreeMap::<SessionId, usize>::new();
        for cid in cids {
            let Some(want) = self.index.get(cid.hash()).copied() else { continue };
            if let Some(asked) = self.unask(want, id) {
                self.tally.failed += u64::from(asked.kind == WantKind::Block);
                self.exclude(want, id, Exclusion::Refused);
                for session in self.sessions_of(want) {
                    *lost.entry(session).or_default() += 1;
                }
            }
        }
        if !lost.is_empty() {
            self.ledger.failed(id, now);
        }
        for (session, wants) in lost {
            self.step(session, Step::SendFailed { peer: id, wants });
            self.dirty.insert(session);
        }
    }

    pub(super) fn refused(&mut self, id: PeerId, cids: &[Cid], error: SendError, now: Time) {
        match error {
            SendError::NotConnected => {
                self.send_failed(id, cids, now);
                self.disconnected(id, now);
            }
            SendError::Overloaded => self.send_failed(id, cids, now),
        }
    }

    /// A question was answered after `took`: no round trip is longer than that.
    fn responded(&mut self, id: PeerId, took: Duration, now: Time) {
        let took = took.max(Duration::from_micros(50));
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.min_rtt.or(peer.guessed_rtt).is_none_or(|rtt| took < rtt)
        {
            peer.min_rtt = Some(took);
            self.ledger.rtt(id, took, now);
        }
    }

    pub(super) fn sessions_of(&self, want: WantId) -> Vec<SessionId> {
        self.wants.get(&want).map(|state| state.sessions.keys().copied().collect()).unwrap_or_default()
    }

    fn all_dirty_with(&mut self, peer: PeerId) {
        let with = self.sessions.iter().filter(|(_, state)| state.candidates.contains_key(&peer));
        self.dirty.extend(with.map(|(session, _)| *session));
    }

    /// New evidence of a peer's rate: the sessions that wait for something of it decide anew, at most every
    /// [`REPLAN_EVERY`].
    fn replan(&mut self, id: PeerId, now: Time) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.block_wants > 0) else { return };
        if now.saturating_sub(peer.replanned) >= REPLAN_EVERY {
            peer.replanned = now;
            self.feed(id);
        }
    }

    /// The peer has room again: whoever waits for room may have work for it.
    fn feed(&mut self, peer: PeerId) {
        let hungry = self
            .sessions
            .iter()
            .filter(|(_, s)| (!s.queue.is_empty() || s.in_flight > 0) && s.candidates.contains_key(&peer));
        self.dirty.extend(hungry.map(|(session, _)| *session));
    }
}

/// The closed set of reasons that go into rows.
fn error_kind(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::NoAddress => "no_address",
        ConnectError::Itself => "itself",
        ConnectError::PrivateAddress => "private_address",
        ConnectError::Timeout(_) => "timeout",
        ConnectError::LimitReached => "limit_reached",
        ConnectError::Unsupported => "unsupported",
        ConnectError::Dial(_) => "dial_failed",
        ConnectError::Offline => "offline",
    }
}
