//! A session's figures, derived from its steps alone.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::PeerId;

use super::ledger;
use super::step::Step;
use crate::blockstore::Tier;
use crate::ipld::Cid;
use crate::record::{
    Attempt, AttemptOutcome, MAX_ATTEMPTS, MAX_EVENTS, Phase, Policy, RetrievalEvent, SessionReport, Transport,
};
use crate::routing::RouterKind;

/// Bulk steps may fill this many places of the trace one by one; then every [`THINNED`]th is kept.
const BULK_EVENTS: usize = MAX_EVENTS / 2;
const THINNED: u64 = 32;
/// Places that bulk steps never take.
const RESERVED_EVENTS: usize = MAX_EVENTS / 4;

/// Grows with every step; [`Report::finish`] turns it into a [`SessionReport`] at any moment.
#[derive(Debug)]
pub struct Report {
    policy: Policy,
    first_want: Option<Duration>,
    last_block: Option<Duration>,
    first_block: Option<Duration>,
    routing_started: Option<Duration>,
    routing: Option<Duration>,
    dial_started: Option<Duration>,
    connect: Option<Duration>,
    memory: u64,
    store: u64,
    disk: u64,
    network: u64,
    network_bytes: u64,
    duplicate_bytes: u64,
    received_bytes: u64,
    peers: BTreeMap<PeerId, Part>,
    peers_dropped: u64,
    events: Vec<RetrievalEvent>,
    bulk: u64,
    events_dropped: u64,
    phase: Phase,
}

/// One provider's part, as far as it got.
#[derive(Debug)]
struct Part {
    router: RouterKind,
    transport: Option<Transport>,
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    bytes: u64,
    blocks: u64,
    duplicate_bytes: u64,
    hedges: u32,
    rtt: Option<Duration>,
    rate: Option<f64>,
    /// Somebody said that it has the content, or it said so itself.
    provider: bool,
    dialled: bool,
    asked: bool,
    dont_have: bool,
    stalled: bool,
    corrupt: bool,
    unreachable: Option<String>,
    broken: Option<&'static str>,
}

impl Report {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            first_want: None,
            last_block: None,
            first_block: None,
            routing_started: None,
            routing: None,
            dial_started: None,
            connect: None,
            memory: 0,
            store: 0,
            disk: 0,
            network: 0,
            network_bytes: 0,
            duplicate_bytes: 0,
            received_bytes: 0,
            peers: BTreeMap::new(),
            peers_dropped: 0,
            events: Vec::new(),
            bulk: 0,
            events_dropped: 0,
            phase: Phase::Resolve,
        }
    }

    /// A block was found in a local tier.
    pub fn local(&mut self, at: Duration, tier: Tier, cid: &Cid) {
        self.first_block.get_or_insert(at);
        let (count, tier) = match tier {
            Tier::Memory => (&mut self.memory, "memory"),
            Tier::Store => (&mut self.store, "store"),
            Tier::Disk => (&mut self.disk, "disk"),
        };
        *count += 1;
        // The first of each tier tells the story; the counts tell the rest, and the warm path stays cheap.
        if *count == 1 {
            self.step(at, &Step::LocalHit { cid: *cid, tier });
        }
    }

    /// Takes one step in. Returns its event when it belongs in the trace.
    pub fn step(&mut self, at: Duration, step: &Step) -> Option<RetrievalEvent> {
        match step {
            Step::RoutingStarted { .. } => {
                self.routing_started.get_or_insert(at);
                self.reached(Phase::Route);
            }
            Step::ProviderFound { peer, router, rtt, rate } => {
                self.routed(at);
                if let Some(part) = self.part(*peer, *router) {
                    (part.router, part.provider) = (*router, true);
                    part.rtt = part.rtt.or(*rtt);
                    part.rate = part.rate.or(*rate);
                }
            }
            Step::RouterFinished { .. } | Step::LocalHit { .. } | Step::FirstByte | Step::Finished { .. } => {}
            Step::DialStarted { peer } => {
                self.dial_started.get_or_insert(at);
                self.reached(Phase::Dial);
                self.with(peer, |part| part.dialled = true);
            }
            Step::Connected { peer, transport, dial } => {
                if let (Some(started), None) = (self.dial_started, self.connect) {
                    self.connect = Some(at.saturating_sub(started));
                }
                self.with(peer, |part| {
                    part.transport = Some(*transport);
                    part.connect = part.connect.or(*dial);
                    part.unreachable = None;
                });
            }
            Step::DialFailed { peer, error } => self.with(peer, |part| part.unreachable = Some(error.clone())),
            Step::WantSent { peer, router, transport, blocks, .. } => {
                self.first_want.get_or_insert(at);
                // To ask a connected peer of which nothing is known belongs to the search until it says yes.
                if *router != RouterKind::Connected {
                    self.reached(Phase::Fetch);
                }
                if let Some(part) = self.part(*peer, *router) {
                    part.asked |= blocks;
                    part.transport = part.transport.or(*transport);
                }
            }
            Step::Whole { peer, transport, .. } => self.with(peer, |part| part.transport = Some(*transport)),
            Step::Have { peer, .. } => {
                self.routed(at);
                self.reached(Phase::Fetch);
                self.with(peer, |part| part.provider = true);
            }
            Step::DontHave { peer, .. } => self.with(peer, |part| part.dont_have = true),
            Step::Block(block) => {
                self.routed(at);
                self.reached(Phase::Fetch);
                self.first_block.get_or_insert(at);
                self.last_block = Some(at);
                self.network += 1;
                self.network_bytes += block.bytes;
                self.received_bytes += block.wire;
                if let Some(part) = self.part(block.peer, RouterKind::Connected) {
                    part.provider = true;
                    part.stalled = false;
                    part.broken = None;
                    part.bytes += block.bytes;
                    part.blocks += 1;
                    part.first_byte = part.first_byte.or(block.first_byte);
                    part.rtt = block.rtt.or(part.rtt);
                    part.rate = block.rate.or(part.rate);
                }
            }
            Step::End { peer, bytes, .. } => {
                self.reached(Phase::Fetch);
                self.network_bytes += bytes;
                self.received_bytes += bytes;
                self.with(peer, |part| {
                    (part.provider, part.stalled, part.broken) = (true, false, None);
                    part.bytes += bytes;
                });
            }
            Step::Duplicate { peer, bytes, .. } => {
                self.duplicate_bytes += bytes;
                self.received_bytes += bytes;
                self.with(peer, |part| part.duplicate_bytes += bytes);
            }
            Step::Hedged { peer, .. } => self.with(peer, |part| part.hedges += 1),
            Step::Stalled { peer, .. } => self.with(peer, |part| part.stalled = true),
            Step::Corrupt { peer, .. } => self.with(peer, |part| part.corrupt = true),
            Step::Disconnected { peer } => self.with(peer, |part| part.broken = Some("disconnected")),
            Step::SendFailed { peer, .. } => self.with(peer, |part| part.broken = Some("send_failed")),
            Step::Probed { peer, .. } => self.with(peer, |part| part.asked = true),
            Step::Reassigned { .. } | Step::Quarantined { .. } | Step::Cancelled { .. } | Step::Failed { .. } => {}
        }
        self.keep(at, step)
    }

    pub fn finish(&self) -> SessionReport {
        let attempts: Vec<Attempt> =
            self.peers.iter().filter(|(_, part)| part.is_attempt()).map(|(peer, part)| part.attempt(*peer)).collect();
        let transfer_time = match (self.first_want, self.last_block) {
            (Some(first), Some(last)) => Some(last.saturating_sub(first)),
            _ => None,
        };
        SessionReport {
            policy: self.policy,
            transfer_time,
            routing: self.routing,
            connect: self.connect,
            first_block: self.first_block,
            providers_found: count(self.peers.values().filter(|part| part.provider)),
            providers_attempted: attempts.len() as u32,
            blocks_memory: self.memory,
            blocks_store: self.store,
            blocks_disk: self.disk,
            blocks_network: self.network,
            network_bytes: self.network_bytes,
            duplicate_bytes: self.duplicate_bytes,
            received_bytes: self.received_bytes,
            optimization_score: transfer_time.and_then(|time| self.score(time)),
            attempts,
            events: self.events.clone(),
            events_dropped: self.events_dropped + self.peers_dropped,
            phase: self.phase,
        }
    }

    /// The bound that the providers found allow, by what is known of them, over the time it took (DATA.md §2).
    fn score(&self, took: Duration) -> Option<f64> {
        let known = self.peers.values().filter(|part| part.provider && part.unreachable.is_none() && !part.corrupt);
        let links = known.filter_map(|part| Some((part.rtt?, part.rate?)));
        let bound = ledger::bound(self.network_bytes, links)?;
        (self.network_bytes > 0 && took > Duration::ZERO).then(|| (bound.as_secs_f64() / took.as_secs_f64()).min(1.0))
    }

    fn routed(&mut self, at: Duration) {
        if let (Some(started), None) = (self.routing_started, self.routing) {
            self.routing = Some(at.saturating_sub(started));
        }
    }

    fn reached(&mut self, phase: Phase) {
        let order = |phase| Phase::ALL.iter().position(|p| *p == phase);
        if order(phase) > order(self.phase) {
            self.phase = phase;
        }
    }

    fn part(&mut self, peer: PeerId, router: RouterKind) -> Option<&mut Part> {
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_ATTEMPTS {
            self.peers_dropped += 1;
            return None;
        }
        Some(self.peers.entry(peer).or_insert_with(|| Part::new(router)))
    }

    fn with(&mut self, peer: &PeerId, change: impl FnOnce(&mut Part)) {
        if let Some(part) = self.peers.get_mut(peer) {
            change(part);
        }
    }

    fn keep(&mut self, at: Duration, step: &Step) -> Option<RetrievalEvent> {
        let bulk = step.is_bulk();
        self.bulk += u64::from(bulk);
        let thinned = bulk && self.events.len() >= BULK_EVENTS && !self.bulk.is_multiple_of(THINNED);
        let room = MAX_EVENTS - if bulk { RESERVED_EVENTS } else { 0 };
        if thinned || self.events.len() >= room {
            self.events_dropped += 1;
            return None;
        }
        let event = step.event(at);
        self.events.push(event.clone());
        Some(event)
    }
}

impl Part {
    fn new(router: RouterKind) -> Self {
        Self {
            router,
            transport: None,
            connect: None,
            first_byte: None,
            bytes: 0,
            blocks: 0,
            duplicate_bytes: 0,
            hedges: 0,
            rtt: None,
            rate: None,
            provider: false,
            dialled: false,
            asked: false,
            dont_have: false,
            stalled: false,
            corrupt: false,
            unreachable: None,
            broken: None,
        }
    }

    /// A peer that was only asked whether it has something, and had not, is no provider of this retrieval.
    fn is_attempt(&self) -> bool {
        self.asked || self.dialled || self.blocks > 0 || self.corrupt
    }

    fn attempt(&self, peer: PeerId) -> Attempt {
        let (outcome, error_kind) = match self {
            Self { corrupt: true, .. } => (AttemptOutcome::Corrupt, Some("wrong block".to_owned())),
            Self { stalled: true, blocks: 0, bytes: 0, .. } => (AttemptOutcome::Stalled, Some("no bytes".to_owned())),
            Self { stalled: true, .. } => (AttemptOutcome::Stalled, Some("no more bytes".to_owned())),
            Self { blocks: 1.., .. } | Self { bytes: 1.., .. } => {
                (AttemptOutcome::Delivered, self.broken.map(str::to_owned))
            }
            Self { unreachable: Some(error), .. } => (AttemptOutcome::Unreachable, Some(error.clone())),
            Self { broken: Some(kind), .. } => (AttemptOutcome::Error, Some((*kind).to_owned())),
            Self { dont_have: true, .. } => (AttemptOutcome::DontHave, None),
            _ => (AttemptOutcome::Cancelled, None),
        };
        Attempt {
            peer,
            transport: self.transport,
            router: self.router,
            connect: self.connect,
            first_byte: self.first_byte,
            bytes: self.bytes,
            blocks: self.blocks,
            duplicate_bytes: self.duplicate_bytes,
            hedges: self.hedges,
            min_rtt: self.rtt,
            max_rate_bps: self.rate,
            outcome,
            error_kind,
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
