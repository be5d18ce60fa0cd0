//! The one task that owns the scheduler's inputs and carries out its actions.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{BoxStream, SelectAll, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Core;
use super::scheduler::{Action, Input, RouteId, SessionId, Time};
use super::session::{Command, Mailbox, Shared};
use super::step::Step;
use crate::exchange::{Exchange, ExchangeEvent, SendError};
use crate::ipld::{Block, Multihash};
use crate::routing::{self, ContentRouter, RoutingEvent};

/// Events taken in before the scheduler decides again.
const BATCH: usize = 64;
/// Blocks that came a moment ago, for sessions that looked into the cache a moment too early.
const RECENT_BYTES: usize = 8 << 20;

pub(super) struct Engine {
    pub(super) core: Arc<Core>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) exchange: Arc<dyn Exchange>,
    pub(super) routers: Vec<Arc<dyn ContentRouter>>,
    pub(super) stop: CancellationToken,
    sessions: BTreeMap<SessionId, Arc<Shared>>,
    routes: SelectAll<BoxStream<'static, (RouteId, Option<RoutingEvent>)>>,
    route_stops: HashMap<RouteId, CancellationToken>,
    recent: Recent,
}

#[derive(Default)]
struct Recent {
    blocks: HashMap<Multihash, Block>,
    order: VecDeque<Multihash>,
    bytes: usize,
}

enum Woken {
    Stop,
    Mail,
    Exchange(Option<ExchangeEvent>),
    Route(RouteId, Option<RoutingEvent>),
    Tick,
}

impl Engine {
    pub(super) fn new(
        core: Arc<Core>,
        mailbox: Arc<Mailbox>,
        exchange: Arc<dyn Exchange>,
        routers: Vec<Arc<dyn ContentRouter>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            core,
            mailbox,
            exchange,
            routers,
            stop,
            sessions: BTreeMap::new(),
            routes: SelectAll::new(),
            route_stops: HashMap::new(),
            recent: Recent::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut events = self.exchange.events();
        if events.is_none() {
            tracing::error!("the exchange's events have another consumer: nothing can be fetched");
        }
        let now = self.now();
        for (peer, transport) in self.exchange.connected() {
            let address = libp2p::Multiaddr::empty();
            self.on(Input::Exchange(ExchangeEvent::Connected { peer, transport, address, dial: None }), now);
        }
        let mut actions = Vec::new();
        loop {
            match self.wait(&mut events).await {
                Woken::Stop => break,
                Woken::Mail => self.mail(),
                Woken::Exchange(Some(event)) => {
                    self.came(event);
                    self.drain(&mut events);
                }
                Woken::Exchange(None) => events = None,
                Woken::Route(route, event) => self.route(route, event),
                Woken::Tick => {}
            }
            let now = self.now();
            self.core.scheduler().poll(now, &mut actions);
            // Refused sends are inputs again: few rounds, since a refusing peer is not asked for the same again.
            for _ in 0..4 {
                if actions.is_empty() {
                    break;
                }
                if self.carry_out(&mut actions, now) {
                    self.core.scheduler().poll(now, &mut actions);
                }
            }
            self.core.publish();
        }
        for session in self.sessions.values().chain(&self.mailbox.stop()) {
            session.stop();
        }
    }

    async fn wait(&mut self, events: &mut Option<mpsc::Receiver<ExchangeEvent>>) -> Woken {
        let deadline = self.core.scheduler().next_deadline();
        let tick = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(self.core.epoch + at).await,
                None => std::future::pending().await,
            }
        };
        let event = async {
            match events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Woken::Stop,
            () = self.mailbox.notify.notified() => Woken::Mail,
            event = event => Woken::Exchange(event),
            Some((route, event)) = self.routes.next(), if !self.routes.is_empty() => Woken::Route(route, event),
            () = tick => Woken::Tick,
        }
    }

    fn drain(&mut self, events: &mut Option<mpsc::Receiver<ExchangeEvent>>) {
        let Some(events) = events else { return };
        for _ in 0..BATCH {
            let Ok(event) = events.try_recv() else { return };
            self.came(event);
        }
    }

    /// Bytes count from when they came from the network, not from when the engine has time for them.
    fn came(&self, event: ExchangeEvent) {
        let now = self.now();
        if let Some(hub) = &self.core.hub {
            hub.saw(&event);
            if let ExchangeEvent::Block { block, .. } = &event
                && hub.has_asked_for(block.cid())
                && !self.core.scheduler().is_wanted(block.cid())
            {
                return;
            }
        }
        let at = event.arrived().map_or(now, |at| at.saturating_duration_since(self.core.epoch).min(now));
        self.on(Input::Exchange(event), at);
    }

    fn mail(&mut self) {
        let now = self.now();
        for shared in self.mailbox.take() {
            let id = shared.id;
            let taken = shared.take_commands();
            if taken.closed {
                if self.sessions.remove(&id).is_some() {
                    self.on(Input::Close { session: id }, now);
                    self.core.active.fetch_sub(1, Ordering::Relaxed);
                }
                if self.sessions.is_empty() {
                    self.recent = Recent::default();
                }
                continue;
            }
            for command in taken.commands {
                self.command(&shared, command, now);
            }
        }
    }

    fn command(&mut self, shared: &Arc<Shared>, command: Command, now: Time) {
        let session = shared.id;
        match command {
            Command::Want { cid, size, urgent } => {
                // It may have come between the session's look at the cache and now.
                let late = self.recent.blocks.get(cid.hash()).cloned().or_else(|| self.core.blocks.peek(&cid));
                if let Some(block) = late.and_then(|block| block.with_cid(cid)) {
                    shared.deliver_late(&block);
                    return;
                }
                if let Entry::Vacant(entry) = self.sessions.entry(session) {
                    entry.insert(shared.clone());
                    self.core.active.fetch_add(1, Ordering::Relaxed);
                    let (root, policy) = (shared.root, shared.policy);
                    self.on(Input::Open { session, root, policy }, now);
                }
                self.on(Input::Want { session, cid, size, urgent }, now);
            }
            Command::Whole { cid } => self.on(Input::Whole { session, cid }, now),
            Command::Unwant { cid } => self.on(Input::Unwant { session, cid }, now),
            Command::Demote { cid } => self.on(Input::Demote { session, cid }, now),
        }
    }

    fn route(&mut self, route: RouteId, event: Option<RoutingEvent>) {
        let now = self.now();
        match event {
            Some(event) => self.on(Input::Route { route, event }, now),
            None => {
                self.route_stops.remove(&route);
                self.on(Input::RouteEnded { route }, now);
            }
        }
    }

    /// True when something went back in.
    fn carry_out(&mut self, actions: &mut Vec<Action>, now: Time) -> bool {
        let mut again = false;
        for action in actions.drain(..) {
            match action {
                Action::Send { peer, wants } => {
                    let cids: Vec<_> = wants.iter().map(|want| want.cid).collect();
                    if let Err(error) = self.exchange.send_wants(peer, wants) {
                        if error == SendError::Overloaded {
                            self.core.metrics.refused.inc();
                        }
                        self.on(Input::Refused { peer, cids, error }, now);
                        again = true;
                    }
                }
                Action::Cancel { peer, cids } => self.exchange.cancel(peer, cids),
                Action::Connect { peer, addrs, trusted } => self.exchange.connect(peer, addrs, trusted),
                Action::KeepWarm { peers } => self.exchange.keep_warm(&peers),
                Action::StartRoute { route, cid } => {
                    let stop = CancellationToken::new();
                    self.route_stops.insert(route, stop.clone());
                    let stream = routing::find_all(&self.routers, &cid).map(move |event| (route, Some(event)));
                    let end = futures::stream::once(async move { (route, None) });
                    self.routes.push(stream.chain(end).take_until(stop.cancelled_owned()).boxed());
                }
                Action::StopRoute { route } => {
                    if let Some(stop) = self.route_stops.remove(&route) {
                        stop.cancel();
                    }
                }
                Action::Deliver { sessions, block } => {
                    // The cache first: whoever misses it from now on is told by the want that follows.
                    self.core.blocks.cache(&block);
                    self.recent.add(&block);
                    for session in sessions.iter().filter_map(|id| self.sessions.get(id)) {
                        session.deliver(&block);
                    }
                }
                Action::Fail { session, cid, error } => {
                    if let Some(shared) = self.sessions.get(&session) {
                        shared.fail(&cid, &error);
                    }
                }
                Action::Forget { session, cid } => {
                    if self.sessions.get(&session).is_some_and(|shared| shared.forget(&cid)) {
                        self.on(Input::Want { session, cid, size: None, urgent: true }, now);
                        again = true;
                    }
                }
                Action::Step { session, step } => {
                    if let Some(shared) = self.sessions.get(&session) {
                        self.core.note_at(shared, self.core.epoch + now, &step);
                    } else if !matches!(step, Step::Cancelled { .. } | Step::Finished { .. }) {
                        tracing::trace!(?session, ?step, "session has ended");
                    }
                }
            }
        }
        again
    }

    fn on(&self, input: Input, now: Time) {
        self.core.scheduler().on(input, now);
    }

    fn now(&self) -> Time {
        Instant::now().saturating_duration_since(self.core.epoch)
    }
}

impl Recent {
    fn add(&mut self, block: &Block) {
        let key = *block.cid().hash();
        if self.blocks.insert(key, block.clone()).is_none() {
            self.order.push_back(key);
            self.bytes += block.len();
        }
        while self.bytes > RECENT_BYTES {
            let Some(oldest) = self.order.pop_front().and_then(|key| self.blocks.remove(&key)) else { return };
            self.bytes -= oldest.len();
        }
    }
}
