//! Peers with a rate, a round trip and a manner, around one scheduler, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tidegate::exchange::{Arrival, ConnectError, ExchangeEvent, Want, WantKind};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::record::{Policy, Transport};
use tidegate::retriever::scheduler::{Action, Input, RouteId, Scheduler, SessionId, Time, Tuning};
use tidegate::retriever::step::Step;
use tidegate::routing::{Provider, RouterKind, RoutingEvent};

/// Payload share of a link: RETRIEVAL.md §2.0.
pub const GOODPUT: f64 = 0.9653;
/// What a peer sends of one block before it goes on with the next, in bytes.
const PIECE: usize = 16 * 1024;
/// The first flight of a new connection, in bytes: quic-go's 32 packets.
pub const FIRST_FLIGHT: f64 = 40_000.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Manner {
    Honest,
    /// Never answers a dial.
    Dead,
    /// Sends so many bytes, then nothing.
    Staller(u64),
    /// Says HAVE, then DONT_HAVE.
    Liar,
    /// Every tenth block has a flipped byte.
    Corrupt,
    /// Falls to this many Mbit/s after so many bytes.
    Degrader(u64, f64),
}

#[derive(Debug)]
pub struct SimPeer {
    pub id: PeerId,
    pub manner: Manner,
    pub rtt: Duration,
    pub mbit: f64,
    pub connected: bool,
    /// Blocks that it sends at once, sharing its link; they cannot be cancelled. Kubo: eight.
    pub parallel: usize,
    /// Bytes a round trip that a new connection is allowed; doubles with every round trip. Infinite: warm.
    pub flight: f64,
    /// Until then its link is stalled: what is sent to it waits.
    pub asleep: Time,
    /// Over HTTP: all at once, sharing its link; what is cancelled ends, and the end of a block can be asked for alone.
    pub http: bool,
    queue: Vec<Want>,
    sending: VecDeque<Sending>,
    /// Bytes that came of blocks that are not whole.
    partial: HashMap<Cid, usize>,
    busy: bool,
    received: u64,
    reported: Time,
    unreported: usize,
    pub sent: u64,
    pub blocks: u64,
    /// When its last byte came.
    pub last: Time,
    pub asked: usize,
    /// Wants that were sent to it after it had sent its first wrong block and the block had arrived.
    pub asked_after_wrong: usize,
    wrong_arrived: bool,
}

/// A block being sent, or the end of one, and how many bytes are still to go.
#[derive(Debug)]
struct Sending {
    block: Block,
    left: usize,
    end: Option<usize>,
}

/// Bytes of a block that come, and what is complete with them: the block, or so much of its end.
#[derive(Debug)]
struct Piece {
    bytes: usize,
    last: bool,
    block: Block,
    end: Option<usize>,
}

#[derive(Debug)]
enum Happening {
    Input(Box<Input>),
    /// Wants reach the peer.
    Arrive(usize, Vec<Want>),
    Cancelled(usize, Vec<Cid>),
    /// The peer's link is free.
    Free(usize),
    Bytes(usize, Box<Piece>),
    Join(usize),
}

pub struct World {
    pub scheduler: Scheduler,
    pub peers: Vec<SimPeer>,
    pub now: Time,
    pub rng: SmallRng,
    pub content: HashMap<Cid, Block>,
    happenings: BinaryHeap<Reverse<(Time, u64)>>,
    what: HashMap<u64, Happening>,
    next: u64,
    pub delivered: BTreeMap<(SessionId, Cid), Time>,
    pub twice: usize,
    /// Bytes of ends of blocks that others are sending.
    ends: HashMap<Cid, usize>,
    pub failed: Vec<(SessionId, Cid)>,
    pub steps: Vec<(Time, SessionId, Step)>,
    /// What routers answer: providers, after this long.
    pub routed: Vec<(Duration, usize)>,
    /// Whose connections are kept open without traffic.
    pub warm: Vec<PeerId>,
    pub check: bool,
}

pub fn file(count: usize, size: usize, seed: u64) -> Vec<Block> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let block = |_| {
        let mut data = vec![0u8; size];
        data[..16].copy_from_slice(&rng.random::<u128>().to_be_bytes());
        Block::encode(codec::RAW, HashCode::Blake3, Bytes::from(data)).unwrap()
    };
    (0..count).map(block).collect()
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            scheduler: Scheduler::new(Tuning::default()),
            peers: Vec::new(),
            now: Time::ZERO,
            rng: SmallRng::seed_from_u64(seed),
            content: HashMap::new(),
            happenings: BinaryHeap::new(),
            what: HashMap::new(),
            next: 0,
            delivered: BTreeMap::new(),
            twice: 0,
            ends: HashMap::new(),
            failed: Vec::new(),
            steps: Vec::new(),
            routed: Vec::new(),
            warm: Vec::new(),
            check: false,
        }
    }

    pub fn peer(&mut self, manner: Manner, mbit: f64, rtt_ms: u64, connected: bool) -> usize {
        let mut seed = [0u8; 32];
        self.rng.fill(&mut seed);
        let key = libp2p::identity::Keypair::ed25519_from_bytes(seed).unwrap();
        let peer = SimPeer {
            id: key.public().to_peer_id(),
            manner,
            rtt: Duration::from_millis(rtt_ms),
            mbit,
            connected: false,
            parallel: 1,
            flight: f64::INFINITY,
            asleep: Time::ZERO,
            http: false,
            queue: Vec::new(),
            sending: VecDeque::new(),
            partial: HashMap::new(),
            busy: false,
            received: 0,
            reported: Time::ZERO,
            unreported: 0,
            sent: 0,
            blocks: 0,
            last: Time::ZERO,
            asked: 0,
            asked_after_wrong: 0,
            wrong_arrived: false,
        };
        self.peers.push(peer);
        let index = self.peers.len() - 1;
        if connected {
            self.connect(index);
        }
        index
    }

    /// A peer that serves as Kubo does: eight blocks at once.
    pub fn kubo(&mut self, mbit: f64, rtt_ms: u64, connected: bool) -> usize {
        let index = self.peer(Manner::Honest, mbit, rtt_ms, connected);
        self.peers[index].parallel = 8;
        index
    }

    /// A provider over HTTP.
    pub fn http(&mut self, mbit: f64, rtt_ms: u64) -> usize {
        let index = self.peer(Manner::Honest, mbit, rtt_ms, false);
        (self.peers[index].http, self.peers[index].parallel) = (true, 64);
        self.connect(index);
        index
    }

    /// The peer connects by itself after a time.
    pub fn join_after(&mut self, index: usize, after: Duration) {
        self.schedule(after, Happening::Join(index));
    }

    fn connect(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        peer.connected = true;
        let (id, rtt) = (peer.id, peer.rtt);
        let transport = if peer.http { Transport::Http } else { Transport::BitswapQuic };
        let address = Multiaddr::empty();
        let dial = peer.flight.is_finite().then_some(rtt * 2);
        self.on(Input::Exchange(ExchangeEvent::Connected { peer: id, transport, address, dial }));
        if dial.is_none() {
            self.on(Input::Exchange(ExchangeEvent::Rtt { peer: id, rtt }));
        }
    }

    pub fn add(&mut self, blocks: &[Block]) {
        self.content.extend(blocks.iter().map(|block| (*block.cid(), block.clone())));
    }

    pub fn on(&mut self, input: Input) {
        self.scheduler.on(input, self.now);
        if self.check {
            self.scheduler.check_invariants();
        }
    }

    pub fn open(&mut self, session: u64, root: &Block, policy: Policy) -> SessionId {
        let session = SessionId(session);
        self.on(Input::Open { session, root: *root.cid(), policy });
        session
    }

    fn schedule(&mut self, after: Duration, what: Happening) {
        let id = self.next;
        self.next += 1;
        self.what.insert(id, what);
        self.happenings.push(Reverse((self.now + after, id)));
    }

    /// Fetches a file as a reader does: the root, then all leaves ahead, the first unread one urgent.
    pub fn download(&mut self, session: SessionId, blocks: &[Block], limit: Duration) -> Option<Duration> {
        let start = self.now;
        let want = |block: &Block, urgent| {
            // Of a root nobody has said how large it is.
            let size = if block.cid() == blocks[0].cid() { 262_144 } else { block.len() as u64 };
            Input::Want { session, cid: *block.cid(), size: Some(size), urgent }
        };
        self.on(want(&blocks[0], true));
        let mut hinted = false;
        let mut next = 0;
        while next < blocks.len() {
            if self.delivered.contains_key(&(session, *blocks[next].cid())) {
                next += 1;
                if !hinted {
                    hinted = true;
                    for block in &blocks[1..] {
                        self.on(want(block, false));
                    }
                }
                if let Some(block) = blocks.get(next)
                    && !self.delivered.contains_key(&(session, *block.cid()))
                {
                    self.on(want(block, true));
                }
                continue;
            }
            if self.now - start > limit || !self.turn() {
                return None;
            }
        }
        Some(self.now - start)
    }

    /// One round: decide, then let the next thing happen. False when nothing ever will.
    pub fn turn(&mut self) -> bool {
        let acted = self.decide();
        let happening = self.happenings.peek().map(|Reverse((at, _))| *at);
        let deadline = self.scheduler.next_deadline();
        let next = match (happening, deadline) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => return acted,
        };
        self.now = self.now.max(next);
        while self.happenings.peek().is_some_and(|Reverse((at, _))| *at <= self.now) {
            let Some(Reverse((_, id))) = self.happenings.pop() else { break };
            if let Some(what) = self.what.remove(&id) {
                self.happen(what);
            }
        }
        // As in the engine: what came is handed over before the reader can ask for anything else.
        self.decide();
        true
    }

    fn decide(&mut self) -> bool {
        let mut actions = Vec::new();
        self.scheduler.poll(self.now, &mut actions);
        if self.check {
            self.scheduler.check_invariants();
        }
        let acted = !actions.is_empty();
        for action in actions {
            self.act(action);
        }
        acted
    }

    fn index(&self, id: &PeerId) -> usize {
        self.peers.iter().position(|peer| peer.id == *id).unwrap()
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { peer, mut wants } => {
                let index = self.index(&peer);
                for want in &mut wants {
                    want.end = want.end.and_then(|end| self.claim(index, &want.cid, end));
                }
                let peer = &mut self.peers[index];
                peer.asked += wants.len();
                if peer.wrong_arrived {
                    peer.asked_after_wrong += wants.len();
                }
                let half = peer.rtt / 2 + peer.asleep.saturating_sub(self.now);
                self.schedule(half, Happening::Arrive(index, wants));
            }
            Action::Cancel { peer, cids } => {
                let index = self.index(&peer);
                let half = self.peers[index].rtt / 2 + self.peers[index].asleep.saturating_sub(self.now);
                self.schedule(half, Happening::Cancelled(index, cids));
            }
            Action::Connect { peer, .. } => {
                let index = self.index(&peer);
                if self.peers[index].manner == Manner::Dead {
                    let error = ConnectError::Timeout(Duration::from_secs(5));
                    let event = Input::Exchange(ExchangeEvent::ConnectFailed { peer, error });
                    self.schedule(Duration::from_secs(5), Happening::Input(Box::new(event)));
                } else {
                    let dial = self.peers[index].rtt * 2;
                    self.schedule(dial, Happening::Join(index));
                }
            }
            Action::KeepWarm { peers } => self.warm = peers,
            Action::StartRoute { route, .. } => self.route(route),
            Action::Deliver { sessions, block } => {
                for session in sessions {
                    let old = self.delivered.insert((session, *block.cid()), self.now);
                    self.twice += usize::from(old.is_some());
                }
            }
            Action::Fail { session, cid, .. } => self.failed.push((session, cid)),
            Action::Step { session, step } => self.steps.push((self.now, session, step)),
            Action::StopRoute { .. } | Action::Forget { .. } => {}
        }
    }

    fn route(&mut self, route: RouteId) {
        let mut last = Duration::ZERO;
        for (after, index) in self.routed.clone() {
            let provider = Provider {
                peer: self.peers[index].id,
                addrs: vec![],
                transports: vec![],
                source: RouterKind::Delegated,
            };
            last = last.max(after);
            let input = Input::Route { route, event: RoutingEvent::Found(provider) };
            self.schedule(after, Happening::Input(Box::new(input)));
        }
        self.schedule(last, Happening::Input(Box::new(Input::RouteEnded { route })));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Input(input) => self.on(*input),
            Happening::Arrive(index, wants) => {
                let half = self.peers[index].rtt / 2;
                for want in wants {
                    let peer = &mut self.peers[index];
                    let (id, cid) = (peer.id, want.cid);
                    let event = match (want.kind, self.content.contains_key(&cid)) {
                        (_, false) => ExchangeEvent::DontHave { peer: id, cid },
                        // A small block comes instead of a HAVE.
                        (WantKind::Have, true) if self.content[&cid].len() <= 1_024 => {
                            peer.received += self.content[&cid].len() as u64;
                            let arrival = Arrival { at: tokio::time::Instant::now(), received: None };
                            let block = self.content[&cid].clone();
                            ExchangeEvent::Block { peer: id, wire_bytes: block.len(), block, arrival }
                        }
                        (WantKind::Have, true) => ExchangeEvent::Have { peer: id, cid },
                        (WantKind::Block, true) if peer.manner == Manner::Liar => {
                            ExchangeEvent::DontHave { peer: id, cid }
                        }
                        (WantKind::Block, true) => {
                            peer.queue.push(want);
                            continue;
                        }
                    };
                    self.schedule(half, Happening::Input(Box::new(Input::Exchange(event))));
                }
                self.serve(index);
            }
            Happening::Cancelled(index, cids) => {
                let peer = &mut self.peers[index];
                peer.queue.retain(|want| !cids.contains(&want.cid));
                if peer.http {
                    peer.sending.retain(|sending| !cids.contains(sending.block.cid()));
                }
            }
            Happening::Free(index) => {
                self.peers[index].busy = false;
                self.serve(index);
            }
            Happening::Join(index) => self.connect(index),
            Happening::Bytes(index, piece) => self.arrive(index, *piece),
        }
    }

    /// The peer sends its most urgent blocks, a piece of each in turn.
    fn serve(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if matches!(peer.manner, Manner::Staller(bytes) if peer.sent >= bytes) {
            return;
        }
        while peer.sending.len() < peer.parallel && !peer.queue.is_empty() {
            let at = (0..peer.queue.len()).max_by_key(|k| (peer.queue[*k].priority, Reverse(*k))).unwrap();
            let want = peer.queue.remove(at);
            let mut block = self.content[&want.cid].clone();
            peer.blocks += 1;
            if peer.manner == Manner::Corrupt && peer.blocks.is_multiple_of(10) {
                let mut data = block.data().to_vec();
                data[20] ^= 1;
                block = Block::encode(codec::RAW, HashCode::Blake3, Bytes::from(data)).unwrap();
            }
            let end = want.end.map(|end| end as usize);
            peer.sending.push_back(Sending { left: end.unwrap_or(block.len()), block, end });
        }
        if peer.busy {
            return;
        }
        let Some(sending) = peer.sending.pop_front() else { return };
        let mbit = match peer.manner {
            Manner::Degrader(bytes, mbit) if peer.sent >= bytes => mbit,
            _ => peer.mbit,
        };
        let piece = sending.left.min(PIECE);
        let rate = (mbit * 1e6 * GOODPUT / 8.0).min(peer.flight / peer.rtt.as_secs_f64());
        let takes = Duration::from_secs_f64(piece as f64 / rate);
        // Slow start: what is acknowledged is added to the window.
        peer.flight += piece as f64;
        peer.sent += piece as u64;
        peer.busy = true;
        let last = sending.left == piece;
        let came = Piece { bytes: piece, last, block: sending.block.clone(), end: sending.end };
        if !last {
            peer.sending.push_back(Sending { left: sending.left - piece, ..sending });
        }
        let half = peer.rtt / 2;
        self.schedule(takes + half, Happening::Bytes(index, Box::new(came)));
        self.schedule(takes, Happening::Free(index));
    }

    /// Bytes reach us: blocks as they end, and proof of life between them, as the exchange gives it.
    fn arrive(&mut self, index: usize, piece: Piece) {
        let now = self.now;
        let Piece { bytes, last, block, end } = piece;
        let cid = *block.cid();
        let peer = &mut self.peers[index];
        peer.received += bytes as u64;
        peer.last = now;
        peer.unreported += bytes;
        let (id, arrival) = (peer.id, Arrival { at: tokio::time::Instant::now(), received: Some(peer.received) });
        if end.is_none() {
            *peer.partial.entry(cid).or_default() += bytes;
        }
        let event = match end {
            Some(end) if last => ExchangeEvent::End { peer: id, cid, bytes: end, arrival },
            None if last => {
                peer.partial.remove(&cid);
                let wire_bytes = block.len();
                let wrong = !self.content.contains_key(block.cid());
                self.peers[index].wrong_arrived |= wrong;
                ExchangeEvent::Block { peer: id, block, wire_bytes, arrival }
            }
            _ if now - peer.reported >= Duration::from_millis(25) => {
                peer.reported = now;
                ExchangeEvent::Progress { peer: id, bytes: std::mem::take(&mut peer.unreported), arrival }
            }
            _ => return self.join(&cid),
        };
        if let ExchangeEvent::End { bytes, .. } = &event {
            *self.ends.entry(cid).or_default() += bytes;
        }
        self.on(Input::Exchange(event));
        self.join(&cid);
    }

    /// How much of its end a peer can be asked for of a block that another is sending.
    fn claim(&self, index: usize, cid: &Cid, end: u64) -> Option<u64> {
        let others = self.peers.iter().enumerate().filter(|(other, _)| *other != index);
        let front = others.filter_map(|(_, peer)| peer.partial.get(cid)).max().copied().unwrap_or_default();
        let left = self.content[cid].len().saturating_sub(front + self.ends.get(cid).copied().unwrap_or_default());
        (left > 0).then_some(end.min(left as u64))
    }

    /// A block of which others have sent the end is whole when the rest is here.
    fn join(&mut self, cid: &Cid) {
        let (Some(end), Some(block)) = (self.ends.get(cid).copied(), self.content.get(cid).cloned()) else { return };
        let whole = |peer: &SimPeer| peer.partial.get(cid).is_some_and(|front| front + end >= block.len());
        let Some(owner) = self.peers.iter_mut().find(|peer| whole(peer)) else { return };
        let wire_bytes = owner.partial.remove(cid).unwrap_or_default();
        owner.sending.retain(|sending| sending.block.cid() != cid);
        let arrival = Arrival { at: tokio::time::Instant::now(), received: Some(owner.received) };
        let event = ExchangeEvent::Block { peer: owner.id, block, wire_bytes, arrival };
        self.ends.remove(cid);
        self.on(Input::Exchange(event));
    }

    /// Payload bytes that came from all peers together.
    pub fn received(&self) -> u64 {
        self.peers.iter().map(|peer| peer.received).sum()
    }

    /// Lets what is under way come, for at most so long.
    pub fn settle(&mut self, most: Duration) {
        let end = self.now + most;
        while self.happenings.peek().is_some_and(|Reverse((at, _))| *at <= end) && self.turn() {}
        self.now = self.now.max(end);
    }

    pub fn duplicate_share(&self) -> f64 {
        let tally = self.scheduler.tally();
        tally.duplicate_bytes as f64 / tally.bytes.max(1) as f64
    }

    pub fn done(&self, session: SessionId) -> BTreeSet<Cid> {
        self.delivered.keys().filter(|(s, _)| *s == session).map(|(_, cid)| *cid).collect()
    }
}

/// T_k of RETRIEVAL.md §2.0 for `bytes` over links of (Mbit/s, RTT ms), after `levels` round trips.
pub fn bound(bytes: u64, links: &[(f64, u64)], levels: u32) -> Duration {
    let nearest = links.iter().map(|(_, rtt)| *rtt).min().unwrap();
    let links = links.iter().map(|(mbit, rtt)| (Duration::from_millis(*rtt), mbit * 1e6 / 8.0 * GOODPUT));
    tidegate::retriever::ledger::bound(bytes, links).unwrap() + Duration::from_millis(nearest) * (levels - 1)
}
