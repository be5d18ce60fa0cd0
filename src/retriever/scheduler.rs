//! Whom to ask for what, as a state machine without I/O: inputs and a clock go in, actions come out.
//!
//! One scheduler serves the whole process: a block that several sessions want is asked for once, and a peer's window
//! is shared by all. It decides nothing by chance: order comes from sequence numbers and ordered maps.

mod assign;
mod cache;
mod discover;
mod ends;
mod events;
mod hedge;
mod peer;
mod session;
mod shadow;
mod warm;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use super::bottleneck::Bottlenecks;
use super::ledger::Ledger;
use super::step::Step;
use super::{FetchError, PeerSnapshot};
use crate::exchange::{ExchangeEvent, SendError, Want, WantKind};
use crate::ipld::{Block, Cid, Multihash};
use crate::record::{Policy, Transport};
use crate::routing::{Provider, RouterKind, RoutingEvent};

use peer::Peer;
use session::SessionState;

/// Time since the scheduler was made.
pub type Time = Duration;
type WantId = u64;

/// How large a block is believed to be when nobody said.
pub const UNKNOWN_BLOCK: u64 = 256 * 1024;
/// While something is outstanding, silence is looked for this often.
const TICK: Duration = Duration::from_millis(20);
/// While somebody only waits (for routers, for dials).
const SLOW_TICK: Duration = Duration::from_millis(200);
/// Wants of all sessions together; beyond this, blocks are not fetched ahead.
const MAX_WANTS: usize = 65_536;

/// One user request's fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One search for providers, shared by all sessions that need the same CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u64);

/// The bounds and delays that the operator may choose.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Without a byte for this long, a waiting fetch fails.
    pub timeout: Duration,
    pub max_candidates: usize,
    pub session_dials: usize,
    pub total_dials: usize,
    pub searches: usize,
    pub ledger_peers: usize,
    /// Connected peers that one session asks whether they have its content.
    pub broadcast: usize,
    /// How much may be received twice for hedging, as a share of what was received.
    pub duplicate_share: f64,
    /// Connections that are kept open without traffic; 0 keeps none.
    pub keep_warm: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            max_candidates: 128,
            session_dials: 8,
            total_dials: 64,
            searches: 32,
            ledger_peers: 4_096,
            broadcast: 32,
            duplicate_share: 0.03,
            keep_warm: 8,
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    Open {
        session: SessionId,
        root: Cid,
        policy: Policy,
    },
    Close {
        session: SessionId,
    },
    /// The session wants a block; `urgent` when a reader waits for it now.
    Want {
        session: SessionId,
        cid: Cid,
        size: Option<u64>,
        urgent: bool,
    },
    /// What is below a block that the session wants is wanted too, all of it.
    Whole {
        session: SessionId,
        cid: Cid,
    },
    Unwant {
        session: SessionId,
        cid: Cid,
    },
    /// Nobody waits for it any more, but it is still wanted ahead.
    Demote {
        session: SessionId,
        cid: Cid,
    },
    Exchange(ExchangeEvent),
    /// The exchange did not take the wants.
    Refused {
        peer: PeerId,
        cids: Vec<Cid>,
        error: SendError,
    },
    Route {
        route: RouteId,
        event: RoutingEvent,
    },
    RouteEnded {
        route: RouteId,
    },
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Action {
    Send {
        peer: PeerId,
        wants: Vec<Want>,
    },
    Cancel {
        peer: PeerId,
        cids: Vec<Cid>,
    },
    Connect {
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        trusted: bool,
    },
    /// The connections to these peers, and only these, are kept open without traffic.
    KeepWarm {
        peers: Vec<PeerId>,
    },
    StartRoute {
        route: RouteId,
        cid: Cid,
    },
    StopRoute {
        route: RouteId,
    },
    /// The block came: once for each block, with every session that wanted it.
    Deliver {
        sessions: Vec<SessionId>,
        block: Block,
    },
    Fail {
        session: SessionId,
        cid: Cid,
        error: FetchError,
    },
    /// There is no room to fetch it ahead.
    Forget {
        session: SessionId,
        cid: Cid,
    },
    Step {
        session: SessionId,
        step: Step,
    },
}

/// Exact figures since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks that were wanted and came.
    pub blocks: u64,
    /// Their payload bytes.
    pub bytes: u64,
    pub duplicate_bytes: u64,
    pub wire_bytes: u64,
    /// Wants that ended at a peer without the block: stall, disconnect, refusal, wrong block.
    pub failed: u64,
    pub hedges: u64,
    /// Blocks asked for a second time to get to know a peer.
    pub probes: u64,
    pub stalls: u64,
    pub reassigned: u64,
    pub corrupt: u64,
    pub unwanted: u64,
    pub not_found: u64,
    pub timeouts: u64,
    /// Prefetches, candidates and searches that a bound turned away.
    pub over_bound: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    tuning: Tuning,
    sessions: BTreeMap<SessionId, SessionState>,
    wants: BTreeMap<WantId, WantState>,
    index: HashMap<Multihash, WantId>,
    /// Connected peers.
    peers: BTreeMap<PeerId, Peer>,
    /// Dials under way, since when.
    dials: BTreeMap<PeerId, Time>,
    ledger: Ledger,
    known: cache::ProviderCache,
    routes: BTreeMap<RouteId, Route>,
    route_index: HashMap<Multihash, RouteId>,
    route_queue: VecDeque<RouteId>,
    routes_running: usize,
    next_id: u64,
    dirty: BTreeSet<SessionId>,
    sends: BTreeMap<PeerId, Vec<(WantId, Want)>>,
    cancels: BTreeMap<PeerId, Vec<Cid>>,
    out: Vec<Action>,
    next_tick: Option<Time>,
    /// How far the fair queue has come, in bytes.
    turn: u64,
    /// Bytes of second copies that may be asked for.
    hedge_tokens: f64,
    /// Bytes of copies that may be asked for to get to know peers.
    probe_tokens: f64,
    bottlenecks: Bottlenecks,
    warm: warm::WarmPool,
    tally: Tally,
}

/// A block that at least one session wants.
#[derive(Debug)]
struct WantState {
    cid: Cid,
    /// Believed size in bytes.
    size: u64,
    sessions: BTreeMap<SessionId, Interest>,
    /// Where it is outstanding, as question or as want.
    asked: BTreeSet<PeerId>,
    /// At how many of those the block itself was asked for.
    block_asks: usize,
    excluded: BTreeMap<PeerId, Exclusion>,
    /// All that is below it is wanted.
    whole: bool,
    /// Who was asked for it with the beginning of what is below it, and for how many bytes.
    opening: Option<(PeerId, u64)>,
    /// Bytes of its end that came.
    brought: u64,
    /// The search for this very CID, when the root's providers do not have it.
    route: Option<RouteId>,
}

#[derive(Debug, Clone, Copy)]
struct Interest {
    urgent: bool,
    /// Order in which the session wanted its blocks.
    seq: u64,
}

/// Why a peer is not asked (again) for one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exclusion {
    DontHave,
    NoAnswer,
    /// It was taken away from a silent peer; may be asked again when nobody else is left.
    Stalled,
    Refused,
}

#[derive(Debug)]
struct Route {
    cid: Cid,
    sessions: BTreeSet<SessionId>,
    found: Vec<Provider>,
    finished: Vec<(RouterKind, usize, Option<String>)>,
    state: RouteState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RouteState {
    Queued,
    Running,
    Done,
}

impl Scheduler {
    pub fn new(tuning: Tuning) -> Self {
        Self {
            ledger: Ledger::new(tuning.ledger_peers),
            tuning,
            known: cache::ProviderCache::default(),
            sessions: BTreeMap::new(),
            wants: BTreeMap::new(),
            index: HashMap::new(),
            peers: BTreeMap::new(),
            dials: BTreeMap::new(),
            routes: BTreeMap::new(),
            route_index: HashMap::new(),
            route_queue: VecDeque::new(),
            routes_running: 0,
            next_id: 1,
            dirty: BTreeSet::new(),
            sends: BTreeMap::new(),
            cancels: BTreeMap::new(),
            out: Vec::new(),
            next_tick: None,
            turn: 0,
            hedge_tokens: hedge::FIRST_HEDGES,
            probe_tokens: 0.0,
            bottlenecks: Bottlenecks::default(),
            warm: warm::WarmPool::default(),
            tally: Tally::default(),
        }
    }

    /// Takes one input in. What follows from it comes out of [`Scheduler::poll`], once for many inputs.
    pub fn on(&mut self, input: Input, now: Time) {
        match input {
            Input::Open { session, root, policy } => self.open(session, root, policy, now),
            Input::Close { session } => {
                self.close(session);
                self.choose_warm(now);
            }
            Input::Want { session, cid, size, urgent } => self.want(session, cid, size, urgent, now),
            Input::Whole { session, cid } => self.whole(session, &cid),
            Input::Unwant { session, cid } => self.unwant(session, &cid),
            Input::Demote { session, cid } => self.demote(session, &cid),
            Input::Exchange(event) => self.exchange(event, now),
            Input::Refused { peer, cids, error } => self.refused(peer, &cids, error, now),
            Input::Route { route, event } => self.routed(route, event, now),
            Input::RouteEnded { route } => self.route_ended(route, now),
        }
    }

    /// Decides, and appends what is to be done to `actions`.
    pub fn poll(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.next_tick.is_some_and(|tick| tick <= now) {
            self.next_tick = None;
            self.watch(now);
        }
        self.start_routes();
        self.pump(now);
        self.flush();
        let busy = self.peers.values().any(|peer| peer.block_wants > 0);
        let tick = if busy { TICK } else { SLOW_TICK };
        if !self.wants.is_empty() || !self.dials.is_empty() {
            let at = now + tick;
            self.next_tick = Some(self.next_tick.map_or(at, |tick| tick.min(at)));
        } else {
            self.next_tick = None;
        }
        actions.append(&mut self.out);
    }

    /// When [`Scheduler::poll`] is to be called at the latest, without any input.
    pub fn next_deadline(&self) -> Option<Time> {
        self.next_tick
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Wants, sessions and dials under way.
    pub fn load(&self) -> (usize, usize, usize) {
        (self.wants.len(), self.sessions.len(), self.dials.len())
    }

    /// Peers that are connected over this.
    pub fn connected_over(&self, transport: Transport) -> usize {
        self.peers.values().filter(|peer| peer.transport == transport).count()
    }

    /// Connected peers first, then those that are remembered.
    pub fn snapshot(&self, now: Time) -> Vec<PeerSnapshot> {
        let ids: BTreeSet<PeerId> =
            self.peers.keys().chain(self.ledger.iter().map(|(peer, _)| peer)).copied().collect();
        let mut all: Vec<PeerSnapshot> = ids.into_iter().map(|peer| self.snapshot_of(peer, now)).collect();
        all.sort_by_key(|peer| (peer.transport.is_none(), std::cmp::Reverse(peer.bytes)));
        all
    }

    pub(super) fn snapshot_of(&self, id: PeerId, now: Time) -> PeerSnapshot {
        let (live, standing) = (self.peers.get(&id), self.ledger.get(&id));
        PeerSnapshot {
            peer: id,
            transport: live.map(|peer| peer.transport),
            address: live.map(|peer| peer.address.clone()),
            connected_for: live.map(|peer| now.saturating_sub(peer.since)),
            rtt: standing.and_then(|s| s.min_rtt),
            rate: live.and_then(|peer| peer.rate.rate()),
            max_rate: standing.and_then(|s| s.max_rate(now)),
            outstanding: live.map_or(0, |peer| peer.outstanding.len()),
            outstanding_bytes: live.map_or(0, |peer| peer.outstanding_bytes),
            stalled: live.is_some_and(|peer| peer.stalled),
            bytes: standing.map_or(0, |s| s.bytes),
            blocks: standing.map_or(0, |s| s.blocks),
            failures: standing.map_or(0, |s| s.failures),
            strikes: standing.map_or(0.0, |s| s.strikes(now)),
            shares_with: self.bottlenecks.of(&id, now),
        }
    }

    /// Whether any session wants it.
    pub(super) fn is_wanted(&self, cid: &Cid) -> bool {
        self.index.contains_key(cid.hash())
    }

    /// Whether a question or a want of ours for this block is outstanding at the peer, or about to leave.
    pub(super) fn has_asked(&self, peer: &PeerId, cid: &Cid) -> bool {
        let want = self.index.get(cid.hash()).and_then(|want| self.wants.get(want));
        want.is_some_and(|want| want.asked.contains(peer))
    }

    fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn step(&mut self, session: SessionId, step: Step) {
        self.out.push(Action::Step { session, step });
    }

    /// Puts what was gathered into the order in which it must leave: take back first, then ask.
    fn flush(&mut self) {
        for (peer, cids) in std::mem::take(&mut self.cancels) {
            self.out.push(Action::Cancel { peer, cids });
        }
        for (peer, wants) in std::mem::take(&mut self.sends) {
            let mut counts: BTreeMap<(SessionId, bool), (usize, Cid)> = BTreeMap::new();
            for (id, want) in &wants {
                let sessions = self.wants.get(id).map(|state| state.sessions.keys());
                for session in sessions.into_iter().flatten() {
                    counts.entry((*session, want.kind == WantKind::Block)).or_insert((0, want.cid)).0 += 1;
                }
            }
            let transport = self.transport(&peer);
            for ((session, blocks), (wants, first)) in counts {
                let router = self.sessions.get(&session).and_then(|s| s.candidates.get(&peer)).map(|c| c.source);
                let router = router.unwrap_or(RouterKind::Connected);
                self.step(session, Step::WantSent { peer, router, transport, wants, blocks, first });
            }
            self.out.push(Action::Send { peer, wants: wants.into_iter().map(|(_, want)| want).collect() });
        }
    }

    fn transport(&self, peer: &PeerId) -> Option<Transport> {
        self.peers.get(peer).map(|peer| peer.transport)
    }

    /// What tests check after every step: each want is where it says it is, and counts agree.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        for (id, peer) in &self.peers {
            let blocks = peer.outstanding.values().filter(|asked| asked.kind == WantKind::Block);
            assert_eq!(peer.outstanding_bytes, blocks.clone().map(|asked| asked.bytes).sum::<u64>(), "bytes at {id}");
            assert_eq!(peer.block_wants, blocks.count(), "wants at {id}");
            assert!(peer.outstanding.len() <= crate::exchange::MAX_WANTS_PER_PEER);
            assert!(peer.recent.len() <= peer::MAX_RECENT);
            for want in peer.outstanding.keys() {
                assert!(self.wants[want].asked.contains(id), "want {want} does not know that {id} was asked");
            }
        }
        for (id, want) in &self.wants {
            assert!(!want.sessions.is_empty(), "want {id} of nobody");
            assert_eq!(self.index.get(want.cid.hash()), Some(id));
            let blocks = want.asked.iter().filter(|p| self.peers[p].outstanding[id].kind == WantKind::Block).count();
            assert_eq!(want.block_asks, blocks);
            for (session, interest) in &want.sessions {
                let state = &self.sessions[session];
                assert!(state.wants.contains(id));
                let queued = state.queue.contains(&(!interest.urgent, interest.seq, *id));
                assert_eq!(queued, want.block_asks == 0, "want {id} is queued exactly while nobody was asked");
            }
        }
        for (id, session) in &self.sessions {
            assert!(session.candidates.len() <= self.tuning.max_candidates);
            assert!(session.wants.iter().all(|want| self.wants[want].sessions.contains_key(id)));
            assert!(session.queue.iter().all(|(_, _, want)| session.wants.contains(want)));
            let flying = session.wants.iter().filter(|want| self.wants[want].block_asks > 0).count();
            assert_eq!(session.in_flight, flying);
        }
        assert_eq!(self.index.len(), self.wants.len());
    }
}
