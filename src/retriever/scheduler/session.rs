//! A session's side: what it wants, in which order, and who may have it.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::{Multiaddr, PeerId};

use super::super::step::Step;
use super::{
    Action, Exclusion, Interest, MAX_WANTS, RouteId, Scheduler, SessionId, Time, UNKNOWN_BLOCK, WantId, WantState,
};
use crate::exchange::WantKind;
use crate::ipld::{Cid, MAX_BLOCK_SIZE};
use crate::record::{Phase, Policy};
use crate::routing::RouterKind;

/// See the module.
#[derive(Debug)]
pub struct SessionState {
    pub root: Cid,
    pub policy: Policy,
    pub candidates: BTreeMap<PeerId, Candidate>,
    pub wants: BTreeSet<WantId>,
    /// Wants that nobody was asked for yet, most urgent first: (not urgent, sequence, want).
    pub queue: BTreeSet<(bool, u64, WantId)>,
    /// Wants whose block was asked for.
    pub in_flight: usize,
    /// Where it stands in the fair queue, in bytes.
    pub turn: u64,
    /// Readers that wait, since when.
    pub waiting: BTreeMap<WantId, Time>,
    pub route: Option<RouteId>,
    pub last_progress: Time,
    next_seq: u64,
    next_order: u32,
    /// Connected peers that were asked whether they have it.
    pub probes: usize,
    pub blocks: u64,
    pub bytes: u64,
    pub hedged_bytes: u64,
    /// Who is sending the beginning of the file, and how many bytes of it nobody has been asked for yet.
    pub opening: Option<(PeerId, u64)>,
    /// The largest block that came: what an unknown one is believed to be.
    pub block_size: u64,
}

/// Somebody who may have the session's content.
#[derive(Debug)]
pub struct Candidate {
    pub source: RouterKind,
    pub addrs: Vec<Multiaddr>,
    pub link: Link,
    pub has: Has,
    pub quarantined: bool,
    /// When this session first asked it for a block.
    pub asked_at: Option<Time>,
    pub delivered: bool,
    pub probed: bool,
    pub dials: u8,
    /// DONT_HAVEs since the last block.
    pub misses: u32,
    /// Order of arrival: what the standard policy goes by, after the router.
    pub order: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Not dialled yet (or may be dialled again).
    Known,
    Dialing,
    Connected,
    Failed,
}

/// Whether it has the session's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Has {
    Unknown,
    /// A router said so.
    Claimed,
    /// It said HAVE, or sent a block. A peer with the root is presumed to have what is under it (RETRIEVAL.md T10).
    Proven,
}

/// Claims are no longer believed after so many DONT_HAVEs in a row (boxo prunes after 16).
const MAX_MISSES: u32 = 16;

impl Candidate {
    pub fn usable(&self) -> bool {
        self.link == Link::Connected && !self.quarantined
    }

    /// It delivered, somebody said that it has the content, or the operator or the local network named it.
    fn is_provider(&self) -> bool {
        self.delivered || self.has >= Has::Claimed || self.source != RouterKind::Connected
    }

    pub fn missed(&mut self) {
        self.misses += 1;
        if self.misses >= MAX_MISSES {
            self.has = Has::Unknown;
        }
    }
}

impl SessionState {
    /// A block of the file's beginning was asked for.
    pub fn opened(&mut self, bytes: u64) {
        let left = self.opening.map(|(peer, left)| (peer, left.saturating_sub(bytes)));
        self.opening = left.filter(|(_, left)| *left > 0);
    }

    /// How far it got: what an error names. To ask connected peers of which nothing is known is to look for providers.
    pub fn phase(&self) -> Phase {
        let mut providers = self.candidates.values().filter(|c| c.is_provider()).peekable();
        if providers.peek().is_none() {
            Phase::Route
        } else if providers.any(|c| c.link == Link::Connected || c.asked_at.is_some()) {
            Phase::Fetch
        } else {
            Phase::Dial
        }
    }

    pub fn found(&self) -> u32 {
        u32::try_from(self.candidates.values().filter(|c| c.is_provider()).count()).unwrap_or(u32::MAX)
    }

    pub fn tried(&self) -> u32 {
        let tried = |c: &&Candidate| c.asked_at.is_some() || c.probed || c.dials > 0;
        u32::try_from(self.candidates.values().filter(tried).count()).unwrap_or(u32::MAX)
    }
}

impl Scheduler {
    pub(super) fn open(&mut self, id: SessionId, root: Cid, policy: Policy, now: Time) {
        let session = SessionState {
            root,
            policy,
            candidates: BTreeMap::new(),
            wants: BTreeSet::new(),
            queue: BTreeSet::new(),
            in_flight: 0,
            turn: 0,
            waiting: BTreeMap::new(),
            route: None,
            last_progress: now,
            next_seq: 0,
            next_order: 0,
            probes: 0,
            blocks: 0,
            bytes: 0,
            hedged_bytes: 0,
            opening: None,
            block_size: UNKNOWN_BLOCK,
        };
        if self.sessions.contains_key(&id) {
            return;
        }
        self.sessions.insert(id, session);
        // The best known first: the bound on candidates then leaves out the unknown and the bad.
        let mut connected: Vec<PeerId> = self.peers.keys().copied().collect();
        connected.sort_by_key(|peer| self.rank(peer, now));
        for peer in connected.into_iter().take(self.tuning.broadcast) {
            self.candidate(id, peer, Vec::new(), RouterKind::Connected, Has::Unknown);
        }
        let route = self.search(id, root, now);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.route = Some(route);
        }
        self.dirty.insert(id);
    }

    pub(super) fn close(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let (wants, blocks) = (session.wants.clone(), session.blocks);
        for want in wants {
            self.uninterested(id, want);
        }
        let routes: Vec<RouteId> =
            self.routes.iter().filter(|(_, route)| route.sessions.contains(&id)).map(|(route, _)| *route).collect();
        for route in routes {
            self.leave(id, route);
        }
        self.step(id, Step::Finished { blocks });
        self.sessions.remove(&id);
        self.dirty.remove(&id);
    }

    pub(super) fn want(&mut self, id: SessionId, cid: Cid, size: Option<u64>, urgent: bool, now: Time) {
        let full = self.wants.len() >= MAX_WANTS;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let known = self.index.get(cid.hash()).copied();
        if known.is_none() && full && !urgent {
            self.tally.over_bound += 1;
            self.out.push(Action::Forget { session: id, cid });
            return;
        }
        let seq = session.next_seq;
        session.next_seq += 1;
        let size = size.unwrap_or(session.block_size).clamp(1, MAX_BLOCK_SIZE as u64);
        let want = known.unwrap_or_else(|| {
            let want = self.next_id;
            self.next_id += 1;
            self.index.insert(*cid.hash(), want);
            let state = WantState {
                cid,
                size,
                sessions: BTreeMap::new(),
                asked: BTreeSet::new(),
                block_asks: 0,
                excluded: BTreeMap::new(),
                whole: false,
                opening: None,
                brought: 0,
                route: None,
            };
            self.wants.insert(want, state);
            want
        });
        let Some(state) = self.wants.get_mut(&want) else { return };
        let queued = state.block_asks == 0;
        let old = state.sessions.get(&id).copied();
        let new = Interest { urgent: urgent || old.is_some_and(|i| i.urgent), seq: old.map_or(seq, |i| i.seq) };
        state.sessions.insert(id, new);
        if let Some(old) = old {
            session.queue.remove(&(!old.urgent, old.seq, want));
        } else {
            session.wants.insert(want);
            session.in_flight += usize::from(!queued);
        }
        if queued {
            session.queue.insert((!new.urgent, new.seq, want));
        }
        if urgent {
            session.waiting.entry(want).or_insert(now);
        }
        self.dirty.insert(id);
    }

    pub(super) fn whole(&mut self, id: SessionId, cid: &Cid) {
        // What others do is to ask block by block.
        let optimized = self.sessions.get(&id).is_some_and(|session| session.policy == Policy::Optimized);
        let want = self.index.get(cid.hash()).and_then(|want| self.wants.get_mut(want));
        if let Some(state) = want.filter(|state| optimized && state.sessions.contains_key(&id)) {
            state.whole = true;
        }
    }

    pub(super) fn unwant(&mut self, id: SessionId, cid: &Cid) {
        if let Some(want) = self.index.get(cid.hash()).copied() {
            self.uninterested(id, want);
        }
    }

    pub(super) fn demote(&mut self, id: SessionId, cid: &Cid) {
        let Some(want) = self.index.get(cid.hash()).copied() else { return };
        let (Some(session), Some(state)) = (self.sessions.get_mut(&id), self.wants.get_mut(&want)) else { return };
        let Some(interest) = state.sessions.get_mut(&id) else { return };
        session.waiting.remove(&want);
        if session.queue.remove(&(!interest.urgent, interest.seq, want)) {
            session.queue.insert((true, interest.seq, want));
        }
        interest.urgent = false;
    }

    /// One session does not want it any more; the last one takes it back from the peers.
    pub(super) fn uninterested(&mut self, id: SessionId, want: WantId) {
        let Some(state) = self.wants.get_mut(&want) else { return };
        let Some(interest) = state.sessions.remove(&id) else { return };
        let flying = state.block_asks > 0;
        let last = state.sessions.is_empty();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.wants.remove(&want);
            session.waiting.remove(&want);
            session.queue.remove(&(!interest.urgent, interest.seq, want));
            session.in_flight -= usize::from(flying);
        }
        if last {
            let asked: Vec<PeerId> =
                self.wants.get(&want).map(|s| s.asked.iter().copied().collect()).unwrap_or_default();
            for peer in asked {
                self.take_back(want, peer);
                self.step(id, Step::Cancelled { peer, wants: 1 });
            }
            if let Some(state) = self.wants.remove(&want) {
                self.index.remove(state.cid.hash());
            }
        }
    }

    /// Notes that a peer may have the session's content. What is known already is only ever improved.
    pub(super) fn candidate(
        &mut self,
        id: SessionId,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        source: RouterKind,
        has: Has,
    ) {
        let connected = self.peers.contains_key(&peer);
        let dialing = self.dials.contains_key(&peer);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.candidates.len() >= self.tuning.max_candidates && !session.candidates.contains_key(&peer) {
            self.tally.over_bound += 1;
            return;
        }
        let order = session.next_order;
        session.next_order += 1;
        let link = match (connected, dialing) {
            (true, _) => Link::Connected,
            (_, true) => Link::Dialing,
            _ => Link::Known,
        };
        let candidate = session.candidates.entry(peer).or_insert(Candidate {
            source,
            addrs: Vec::new(),
            link,
            has,
            quarantined: false,
            asked_at: None,
            delivered: false,
            probed: false,
            dials: 0,
            misses: 0,
            order,
        });
        candidate.source = match candidate.source {
            RouterKind::Connected => source,
            known => known.min(source),
        };
        candidate.has = candidate.has.max(has);
        for addr in addrs {
            if candidate.addrs.len() < 16 && !candidate.addrs.contains(&addr) {
                candidate.addrs.push(addr);
            }
        }
        self.dirty.insert(id);
    }

    /// Ends a want at a peer, on the wire too. The want goes back to the queue if nobody else was asked.
    pub(super) fn take_back(&mut self, want: WantId, peer: PeerId) {
        let begun = self.peers.get(&peer).is_some_and(|live| live.has_begun(want));
        let Some(asked) = self.unask(want, peer) else { return };
        let Some(state) = self.wants.get(&want) else { return };
        let cid = state.cid;
        let unsent = self.sends.get_mut(&peer).is_some_and(|sends| {
            let before = sends.len();
            sends.retain(|(id, _)| *id != want);
            sends.len() < before
        });
        if unsent {
            if self.sends.get(&peer).is_some_and(Vec::is_empty) {
                self.sends.remove(&peer);
            }
        } else {
            if let Some(live) = self.peers.get_mut(&peer).filter(|_| begun) {
                live.still_sends(*cid.hash(), asked.bytes);
            }
            self.cancels.entry(peer).or_default().push(cid);
        }
    }

    /// Ends a want at a peer in the books.
    pub(super) fn unask(&mut self, want: WantId, peer: PeerId) -> Option<super::peer::Asked> {
        let state = self.wants.get_mut(&want)?;
        let live = self.peers.get_mut(&peer)?;
        let asked = live.outstanding.remove(&want)?;
        state.asked.remove(&peer);
        live.recent.add(*state.cid.hash(), state.sessions.keys().next().copied());
        if asked.kind == WantKind::Block {
            live.outstanding_bytes -= asked.bytes;
            live.block_wants -= 1;
            if live.block_wants == 0 {
                live.is_done();
            }
            state.block_asks -= 1;
            if state.block_asks == 0 {
                for (id, interest) in &state.sessions {
                    if let Some(session) = self.sessions.get_mut(id) {
                        session.in_flight -= 1;
                        session.queue.insert((!interest.urgent, interest.seq, want));
                        self.dirty.insert(*id);
                    }
                }
            }
        }
        Some(asked)
    }

    pub(super) fn exclude(&mut self, want: WantId, peer: PeerId, why: Exclusion) {
        if let Some(state) = self.wants.get_mut(&want) {
            state.excluded.insert(peer, why);
        }
    }
}
