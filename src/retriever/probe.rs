//! Who has a block, without fetching it: routers are asked, peers dialled and asked "have you got it?" over the exchange.
//!
//! A probe stands beside the scheduler: it sends its own questions and listens in on what the exchange reports. It never
//! asks for a block (a peer may answer with the block itself, Kubo with small ones, HTTP providers without HEAD with any: it is
//! dropped), and takes back what is unanswered when it ends, however it ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll, StreamExt};
use libp2p::{Multiaddr, PeerId};
use prometheus_client::metrics::counter::Counter;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Retriever;
use crate::denylist::{Denied, Denylists};
use crate::exchange::{ConnectError, Exchange, ExchangeEvent, Want, WantKind};
use crate::ipld::{Cid, Multihash};
use crate::record::Transport;
use crate::routing::{self, ContentRouter, MAX_PROVIDERS, Provider, RouterKind, RoutingEvent};
use crate::telemetry::Metrics;

/// Probes that run at once.
pub const MAX_PROBES: usize = 8;
/// Connected peers that nobody named and that are asked all the same.
const MAX_CONNECTED: usize = 32;
/// Reports of the exchange that may wait for one probe; later ones are lost to it and counted.
const QUEUE: usize = 1_024;
/// A clock that did not move between question and answer says nothing shorter than this.
const SHORTEST: Duration = Duration::from_micros(50);
/// Blocks that late answers may still bring.
const MAX_RECENT: usize = 64;
/// Questions of a probe come after everything that somebody waits for.
const PRIORITY: i32 = 0;

/// Bounds of one probe.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOptions {
    pub timeout: Duration,
    /// Providers that are dialled and asked; more are counted.
    pub max_providers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProbeError {
    #[error("{MAX_PROBES} checks run already: try again in a few seconds")]
    Busy,
    #[error("the server is offline: nobody can be asked")]
    Offline,
}

/// What a probe found out.
#[derive(Debug, Clone)]
pub struct Probe {
    pub routers: Vec<RouterAnswer>,
    /// Those named by a router in the order in which they were named, then connected peers that have it.
    pub providers: Vec<ProbedPeer>,
    /// Named beyond [`ProbeOptions::max_providers`], and not asked.
    pub unasked: usize,
    /// Connected peers that nobody named and that were asked.
    pub connected_asked: usize,
    pub took: Duration,
    /// Every router and every peer has answered, or said that it will not.
    pub complete: bool,
}

/// One router's part.
#[derive(Debug, Clone)]
pub struct RouterAnswer {
    pub kind: RouterKind,
    pub name: String,
    pub providers: usize,
    /// `None`: it had not ended when the time was over.
    pub took: Option<Duration>,
    pub error: Option<String>,
}

/// One peer's part.
#[derive(Debug, Clone)]
pub struct ProbedPeer {
    pub peer: PeerId,
    /// Names of the routers that named it; empty for a connected peer that was asked unnamed.
    pub found_by: Vec<String>,
    pub addrs: Vec<Multiaddr>,
    pub link: Link,
    pub answer: Answer,
    /// From the question to the answer.
    pub answer_time: Option<Duration>,
    /// The smallest round trip ever measured.
    pub rtt: Option<Duration>,
    /// The highest delivery rate remembered, decayed, bytes a second.
    pub rate: Option<f64>,
}

/// How a peer was reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Link {
    /// It was connected before.
    Connected(Transport),
    /// It was dialled for this; `address` is the one that answered.
    Dialled {
        transport: Transport,
        address: Multiaddr,
        took: Duration,
    },
    Failed {
        error: ConnectError,
        took: Duration,
    },
    /// Neither connected nor refused within the time.
    Pending,
}

/// What it said of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Has,
    HasNot,
    /// It could not be asked: not reached, or its protocol has no such question.
    Unasked,
    /// It was asked and said nothing within the time.
    None,
}

impl Link {
    pub fn transport(&self) -> Option<Transport> {
        match self {
            Self::Connected(transport) | Self::Dialled { transport, .. } => Some(*transport),
            Self::Failed { .. } | Self::Pending => None,
        }
    }

    fn is_settled(&self) -> bool {
        *self != Self::Pending
    }
}

/// What probes need of the engine, and what it tells them.
pub(super) struct Hub {
    exchange: Arc<dyn Exchange>,
    routers: Vec<Arc<dyn ContentRouter>>,
    taps: Mutex<BTreeMap<u64, (Multihash, mpsc::Sender<Seen>)>>,
    /// The engine looks at this alone while nobody probes.
    running: AtomicUsize,
    next: AtomicU64,
    /// What the latest probes asked for, oldest first; looked at once there was one.
    recent: Mutex<VecDeque<Multihash>>,
    ever: AtomicBool,
    lost: Counter,
    refused: Counter,
}

/// What the exchange reported, as far as a probe is concerned.
#[derive(Debug, Clone)]
enum Seen {
    Connected { peer: PeerId, transport: Transport, address: Multiaddr },
    ConnectFailed { peer: PeerId, error: ConnectError },
    Disconnected { peer: PeerId },
    Said { peer: PeerId, answer: Answer },
}

impl Hub {
    pub(super) fn new(exchange: Arc<dyn Exchange>, routers: Vec<Arc<dyn ContentRouter>>, metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        Self {
            exchange,
            routers,
            taps: Mutex::default(),
            running: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            recent: Mutex::default(),
            ever: AtomicBool::new(false),
            lost: counter("retriever_probe_reports_lost", "Reports of the exchange that a probe was too slow to take"),
            refused: counter("retriever_probes_refused", "Probes refused because too many ran"),
        }
    }

    /// From the engine: every event of the exchange, before the scheduler takes it.
    pub(super) fn saw(&self, event: &ExchangeEvent) {
        if self.running.load(Ordering::Acquire) == 0 {
            return;
        }
        let said = |peer: &PeerId, answer| Seen::Said { peer: *peer, answer };
        let (about, seen) = match event {
            ExchangeEvent::Connected { peer, transport, address, .. } => {
                (None, Seen::Connected { peer: *peer, transport: *transport, address: address.clone() })
            }
            ExchangeEvent::ConnectFailed { peer, error } => {
                (None, Seen::ConnectFailed { peer: *peer, error: error.clone() })
            }
            ExchangeEvent::Disconnected { peer } => (None, Seen::Disconnected { peer: *peer }),
            ExchangeEvent::Have { peer, cid } => (Some(*cid.hash()), said(peer, Answer::Has)),
            ExchangeEvent::DontHave { peer, cid } => (Some(*cid.hash()), said(peer, Answer::HasNot)),
            ExchangeEvent::Block { peer, block, .. } => (Some(*block.cid().hash()), said(peer, Answer::Has)),
            ExchangeEvent::SendFailed { peer, cids } => {
                for cid in cids {
                    self.tell(Some(*cid.hash()), &said(peer, Answer::Unasked));
                }
                return;
            }
            ExchangeEvent::Whole { .. }
            | ExchangeEvent::End { .. }
            | ExchangeEvent::Invalid { .. }
            | ExchangeEvent::Progress { .. }
            | ExchangeEvent::Rtt { .. } => return,
        };
        self.tell(about, &seen);
    }

    /// A block that answers a question of ours, now or a moment ago (Kubo sends small ones instead of HAVE). It is nothing to
    /// hold against the peer if nobody else wants it.
    pub(super) fn has_asked_for(&self, block: &Cid) -> bool {
        self.ever.load(Ordering::Acquire) && lock(&self.recent).contains(block.hash())
    }

    fn tell(&self, about: Option<Multihash>, seen: &Seen) {
        for (key, tap) in lock(&self.taps).values() {
            if about.is_none_or(|about| about == *key) && tap.try_send(seen.clone()).is_err() {
                self.lost.inc();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A probe's ear and its questions; dropping it takes them back.
struct Asking<'a> {
    retriever: &'a Retriever,
    hub: &'a Hub,
    cid: Cid,
    id: u64,
    unanswered: BTreeSet<PeerId>,
}

impl<'a> Asking<'a> {
    fn begin(retriever: &'a Retriever, hub: &'a Hub, cid: Cid) -> Result<(Self, mpsc::Receiver<Seen>), ProbeError> {
        let room = |n: usize| (n < MAX_PROBES).then_some(n + 1);
        if hub.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            hub.refused.inc();
            return Err(ProbeError::Busy);
        }
        let (tap, seen) = mpsc::channel(QUEUE);
        let id = hub.next.fetch_add(1, Ordering::Relaxed);
        lock(&hub.taps).insert(id, (*cid.hash(), tap));
        let mut recent = lock(&hub.recent);
        recent.push_back(*cid.hash());
        if recent.len() > MAX_RECENT {
            recent.pop_front();
        }
        drop(recent);
        hub.ever.store(true, Ordering::Release);
        Ok((Self { retriever, hub, cid, id, unanswered: BTreeSet::new() }, seen))
    }

    fn ask(&mut self, peer: PeerId) -> bool {
        let want = Want::new(self.cid, WantKind::Have, PRIORITY);
        let sent = self.hub.exchange.send_wants(peer, vec![want]).is_ok();
        if sent {
            self.unanswered.insert(peer);
        }
        sent
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.hub.taps).remove(&self.id);
        self.hub.running.fetch_sub(1, Ordering::AcqRel);
        if self.unanswered.is_empty() {
            return;
        }
        // Under the scheduler's lock: what it has asked of that peer meanwhile is not taken back with our question.
        let scheduler = self.retriever.core.scheduler();
        for peer in std::mem::take(&mut self.unanswered) {
            if !scheduler.has_asked(&peer, &self.cid) {
                self.hub.exchange.cancel(peer, vec![self.cid]);
            }
        }
    }
}

/// One peer while the probe runs.
struct Part {
    peer: PeerId,
    found_by: Vec<String>,
    addrs: Vec<Multiaddr>,
    link: Link,
    since: Instant,
    asked: Option<Instant>,
    answer: Option<(Answer, Option<Duration>)>,
}

impl Retriever {
    /// Whether this block is refused here.
    pub fn denied(&self, cid: &Cid) -> Option<Denied> {
        self.core.blocks.denied(cid)
    }

    /// What is refused here, names and paths included.
    pub fn denylists(&self) -> Denylists {
        self.core.blocks.denylists()
    }

    /// Asks who has the block. See the module. Cancel safe: dropping the future ends the probe.
    pub async fn probe(&self, cid: &Cid, options: ProbeOptions) -> Result<Probe, ProbeError> {
        let hub = self.core.hub.as_deref().ok_or(ProbeError::Offline)?;
        let started = Instant::now();
        let deadline = started + options.timeout;
        let (mut asking, mut seen) = Asking::begin(self, hub, *cid)?;
        let mut routers: Vec<RouterAnswer> = Vec::new();
        let mut routes: SelectAll<BoxStream<'static, (usize, RoutingEvent)>> = SelectAll::new();
        for (at, router) in hub.routers.iter().enumerate() {
            let (kind, name) = (router.kind(), router.name());
            routers.push(RouterAnswer { kind, name, providers: 0, took: None, error: None });
            let events = routing::find_all(std::slice::from_ref(router), cid);
            routes.push(events.map(move |event| (at, event)).boxed());
        }
        let mut parts = Parts { most: options.max_providers, parts: Vec::new(), unasked: BTreeSet::new() };
        for (peer, transport) in hub.exchange.connected().into_iter().take(MAX_CONNECTED) {
            parts.connected(&mut asking, peer, transport);
        }
        let connected_asked = parts.parts.len();

        let is_complete = |routers: &[RouterAnswer], parts: &Parts| {
            routers.iter().all(|router| router.took.is_some()) && parts.parts.iter().all(Part::is_settled)
        };
        while !is_complete(&routers, &parts) {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => break,
                Some(seen) = seen.recv() => parts.saw(&mut asking, seen),
                Some((at, event)) = routes.next(), if !routes.is_empty() => match event {
                    RoutingEvent::Found(provider) => {
                        routers[at].providers += 1;
                        parts.found(&mut asking, provider, routers[at].name.clone());
                    }
                    RoutingEvent::Finished { error, .. } => {
                        routers[at].took = Some(started.elapsed());
                        routers[at].error = error.map(|error| error.to_string());
                    }
                },
            }
        }
        let complete = is_complete(&routers, &parts);
        drop(asking);
        let (unasked, mut providers) = (parts.unasked.len(), parts.finish());
        let now = Instant::now().saturating_duration_since(self.core.epoch);
        let mut scheduler = self.core.scheduler();
        for part in &mut providers {
            if let Some(took) = part.answer_time {
                // No round trip is longer than a question and its answer.
                scheduler.ledger_mut().rtt(part.peer, took.max(SHORTEST), now);
            }
            let standing = scheduler.snapshot_of(part.peer, now);
            (part.rtt, part.rate) = (standing.rtt, standing.rate.or(standing.max_rate));
        }
        drop(scheduler);
        Ok(Probe { routers, providers, unasked, connected_asked, took: started.elapsed(), complete })
    }
}

/// The peers of one probe, in the order in which it came to know them.
struct Parts {
    most: usize,
    parts: Vec<Part>,
    unasked: BTreeSet<PeerId>,
}

impl Parts {
    /// A peer that is connected already and that nobody named yet.
    fn connected(&mut self, asking: &mut Asking<'_>, peer: PeerId, transport: Transport) {
        let mut part = Part::new(peer, Link::Connected(transport));
        part.ask(asking);
        self.parts.push(part);
    }

    fn found(&mut self, asking: &mut Asking<'_>, provider: Provider, router: String) {
        let Provider { peer, addrs, source, .. } = provider;
        if let Some(part) = self.parts.iter_mut().find(|part| part.peer == peer) {
            part.addrs.extend(addrs.into_iter().filter(|addr| !part.addrs.contains(addr)).collect::<Vec<_>>());
            if !part.found_by.contains(&router) {
                part.found_by.push(router);
            }
            return;
        }
        if self.parts.iter().filter(|part| !part.found_by.is_empty()).count() >= self.most {
            if self.unasked.len() < MAX_PROVIDERS {
                self.unasked.insert(peer);
            }
            return;
        }
        let trusted = matches!(source, RouterKind::Configured | RouterKind::Mdns);
        asking.hub.exchange.connect(peer, addrs.clone(), trusted);
        let mut part = Part::new(peer, Link::Pending);
        (part.found_by, part.addrs) = (vec![router], addrs);
        self.parts.push(part);
    }

    fn saw(&mut self, asking: &mut Asking<'_>, seen: Seen) {
        let peer = match &seen {
            Seen::Connected { peer, .. }
            | Seen::ConnectFailed { peer, .. }
            | Seen::Disconnected { peer }
            | Seen::Said { peer, .. } => *peer,
        };
        let Some(part) = self.parts.iter_mut().find(|part| part.peer == peer) else { return };
        let took = part.since.elapsed();
        match seen {
            Seen::Connected { transport, address, .. } if part.link == Link::Pending => {
                part.link = Link::Dialled { transport, address, took };
                part.ask(asking);
            }
            Seen::ConnectFailed { error, .. } if part.link == Link::Pending => {
                part.link = Link::Failed { error, took };
            }
            Seen::Disconnected { .. } if part.asked.is_some() && part.answer.is_none() => {
                part.answer = Some((Answer::None, None));
                asking.unanswered.remove(&peer);
            }
            Seen::Said { answer, .. } if part.answer.is_none() => {
                let time = part.asked.map(|asked| asked.elapsed()).filter(|_| answer != Answer::Unasked);
                part.answer = Some((answer, time));
                asking.unanswered.remove(&peer);
            }
            _ => {}
        }
    }

    /// Connected peers that nobody named are of interest only if they have it.
    fn finish(self) -> Vec<ProbedPeer> {
        let peers = self.parts.into_iter().map(Part::finish);
        let (named, others): (Vec<_>, Vec<_>) = peers.partition(|peer| !peer.found_by.is_empty());
        named.into_iter().chain(others.into_iter().filter(|peer| peer.answer == Answer::Has)).collect()
    }
}

impl Part {
    fn new(peer: PeerId, link: Link) -> Self {
        let (found_by, addrs) = (Vec::new(), Vec::new());
        Self { peer, found_by, addrs, link, since: Instant::now(), asked: None, answer: None }
    }

    fn ask(&mut self, asking: &mut Asking<'_>) {
        if asking.ask(self.peer) {
            self.asked = Some(Instant::now());
        } else {
            self.answer = Some((Answer::Unasked, None));
        }
    }

    fn is_settled(&self) -> bool {
        self.link.is_settled() && (self.answer.is_some() || self.asked.is_none())
    }

    fn finish(self) -> ProbedPeer {
        let (answer, answer_time) = match (self.answer, self.asked) {
            (Some(answer), _) => answer,
            (None, Some(_)) => (Answer::None, None),
            (None, None) => (Answer::Unasked, None),
        };
        let Self { peer, found_by, addrs, link, .. } = self;
        ProbedPeer { peer, found_by, addrs, link, answer, answer_time, rtt: None, rate: None }
    }
}
