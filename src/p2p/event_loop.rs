//! The one owner of the Swarm (invariant 2). Commands in, events out; it waits for nobody: what the consumer of
//! events does not take yet stands in a bounded queue, and while that is full the Swarm is not polled.

mod entries;
mod http;
mod records;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::kad::{self, QueryId};
use libp2p::metrics::Recorder;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, TransportError, autonat, identify, mdns, ping};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::NodeError;
use super::address::{AddressBook, MAX_ADDRESSES, Policy, ip_of, is_public, peer_of, transport_of, without_peer};
use super::behaviour::{Behaviour, BehaviourEvent, KAD_PROTOCOL, KAD_TIMEOUT};
use super::bitswap::{self, Shared};
use super::client::View;
use super::configured::Configured;
use super::http::Reply;
use super::metrics::NodeMetrics;
use super::routers::{MAX_MDNS_PEERS, PeerTable};
use super::view;
use crate::exchange::{ConnectError, ExchangeEvent};
use crate::ipld::Cid;
use crate::routing::{MAX_PROVIDERS, Provider, RouterKind, RoutingError};

pub use records::RecordCommand;
use records::RecordQuery;

/// Events that wait for the consumer before the Swarm is no longer polled.
const MAX_PENDING_EVENTS: usize = 1024;
/// DHT queries on behalf of the retriever at once.
const MAX_QUERIES: usize = 64;
/// Dials that the exchange waits for at once.
const MAX_DIALS: usize = 512;
/// How often backoffs, abandoned queries and gauges are looked after.
const TICK: Duration = Duration::from_millis(500);
/// How long a listener may take to name its address.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What clients ask of the loop.
#[derive(Debug)]
pub enum Command {
    Connect { peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool },
    Disconnect { peer: PeerId },
    OpenHttp { peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool, reply: Reply },
    FindProviders { cid: Cid, reply: mpsc::Sender<Result<Provider, RoutingError>> },
    Records(RecordCommand),
    Shutdown,
}

/// Addresses of QUIC after which sockets are looked for again.
const MAX_WIDENED: usize = 16;

/// What the loop is made of.
pub struct Parts {
    pub swarm: Swarm<Behaviour>,
    pub commands: mpsc::Receiver<Command>,
    pub shared: Arc<Shared>,
    pub view: Arc<RwLock<View>>,
    pub policy: Policy,
    pub configured: Vec<(PeerId, Vec<Multiaddr>)>,
    pub mdns: PeerTable,
    pub metrics: NodeMetrics,
    pub libp2p_metrics: libp2p::metrics::Metrics,
    pub offline: bool,
    pub dial_timeout: Duration,
}

/// See the module.
pub struct EventLoop {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    view: Arc<RwLock<View>>,
    policy: Policy,
    configured: Configured,
    mdns: PeerTable,
    metrics: NodeMetrics,
    libp2p_metrics: libp2p::metrics::Metrics,
    offline: bool,
    dial_timeout: Duration,
    book: AddressBook,
    /// Peers that the exchange waits for, and when their dial began; `None`: it was under way already, and the time that
    /// it takes is not known.
    dials: HashMap<PeerId, Option<Instant>>,
    queries: HashMap<QueryId, Query>,
    /// At most [`MAX_QUERIES`], like the others.
    record_queries: HashMap<QueryId, RecordQuery>,
    events: VecDeque<ExchangeEvent>,
    /// QUIC addresses after which the sockets were given room: those that we listen on, and the first that were dialled.
    widened: Vec<Multiaddr>,
}

struct Query {
    reply: mpsc::Sender<Result<Provider, RoutingError>>,
    found: HashSet<PeerId>,
}

impl EventLoop {
    pub fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let mut book = AddressBook::default();
        for (peer, addrs) in &parts.configured {
            parts.policy.trust(*peer);
            addrs.iter().for_each(|addr| _ = book.add(*peer, addr.clone()));
        }
        Self {
            configured: Configured::new(parts.configured.into_iter().map(|(peer, _)| peer), now),
            swarm: parts.swarm,
            commands: parts.commands,
            shared: parts.shared,
            view: parts.view,
            policy: parts.policy,
            mdns: parts.mdns,
            metrics: parts.metrics,
            libp2p_metrics: parts.libp2p_metrics,
            offline: parts.offline,
            dial_timeout: parts.dial_timeout,
            book,
            dials: HashMap::new(),
            queries: HashMap::new(),
            record_queries: HashMap::new(),
            widened: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Binds every address and waits until each listener has named one.
    pub async fn listen(&mut self, addrs: &[Multiaddr]) -> Result<(), NodeError> {
        let mut waiting = HashMap::new();
        for addr in addrs {
            free(addr).map_err(|error| NodeError::Listen { address: addr.clone(), reason: error.to_string() })?;
            match self.swarm.listen_on(addr.clone()) {
                Ok(id) => _ = waiting.insert(id, addr.clone()),
                // A machine without IPv6 is no reason not to start.
                Err(error) if matches!(addr.iter().next(), Some(Protocol::Ip6(_))) && addrs.len() > 1 => {
                    warn!(%addr, %error, "cannot listen on IPv6");
                }
                Err(error) => return Err(listen_error(addr, error)),
            }
        }
        let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
        while let Some(address) = waiting.values().next().cloned() {
            let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await else {
                return Err(NodeError::ListenTimeout { address });
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => _ = waiting.remove(listener_id),
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    if let Some(address) = waiting.remove(listener_id) {
                        let reason = reason.as_ref().err().map_or_else(|| "closed".to_owned(), ToString::to_string);
                        return Err(NodeError::Listen { address, reason });
                    }
                }
                _ => {}
            }
            self.on_swarm(event);
        }
        Ok(())
    }

    /// Starts the DHT's walk from these peers.
    pub fn bootstrap(&mut self, addrs: &[Multiaddr]) {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        for addr in addrs {
            match peer_of(addr) {
                Some(peer) => {
                    if !self.policy.permits(addr, Some(&peer)) {
                        warn!(%addr, "a bootstrap address is private: allow its range with --allow-private");
                    }
                    _ = kad.add_address(&peer, without_peer(addr.clone()));
                }
                None => warn!(%addr, "a bootstrap address must end in /p2p/ID"),
            }
        }
        if !addrs.is_empty()
            && let Err(error) = kad.bootstrap()
        {
            warn!(%error, "DHT cannot be joined");
        }
    }

    /// Runs until the token is cancelled or a client says so.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let events = self.shared.sender().clone();
        let shared = self.shared.clone();
        loop {
            if !shared.is_attached() {
                self.events.clear();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                permit = events.reserve(), if !self.events.is_empty() => {
                    if let (Ok(permit), Some(event)) = (permit, self.events.pop_front()) {
                        permit.send(event);
                    }
                }
                () = shared.announce.notified() => self.announce(),
                command = self.commands.recv(), if self.events.len() < MAX_PENDING_EVENTS => match command {
                    Some(Command::Shutdown) | None => break,
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some(), if self.events.len() < MAX_PENDING_EVENTS => self.on_swarm(event),
                _ = tick.tick() => self.on_tick(Instant::now()),
            }
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        // The goodbyes need polling to leave; what has not left soon is cut off.
        let drain = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), drain).await;
    }

    /// Tells a consumer that has just come who is connected.
    fn announce(&mut self) {
        for (peer, endpoint) in self.swarm.behaviour().bitswap.ready() {
            self.events.push_back(connected(peer, endpoint, None));
        }
    }

    /// A socket that was not there before: one that listens, or the one that is dialled from.
    fn widen(&mut self, address: &Multiaddr) {
        let quic = address.iter().any(|part| matches!(part, libp2p::multiaddr::Protocol::QuicV1));
        if !quic || self.widened.contains(address) || self.widened.len() >= MAX_WIDENED {
            return;
        }
        self.widened.push(address.clone());
        match super::udp::widen() {
            Ok(bytes) => debug!(?bytes, "room for datagrams"),
            Err(error) => debug!(%error, "room for datagrams stays as it is"),
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { peer, addrs, trusted } => self.connect(peer, addrs, trusted),
            Command::Disconnect { peer } => _ = self.swarm.disconnect_peer_id(peer),
            Command::OpenHttp { peer, addrs, trusted, reply } => self.open_http(peer, addrs, trusted, reply),
            Command::FindProviders { cid, reply } => self.find_providers(&cid, reply),
            Command::Records(command) => self.on_record_command(command),
            Command::Shutdown => {}
        }
    }

    fn connect(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool) {
        match self.swarm.behaviour().bitswap.state(&peer) {
            Some(Ok(endpoint)) => {
                let event = connected(peer, endpoint, None);
                return self.events.push_back(event);
            }
            Some(Err(true)) => return self.connect_failed(peer, ConnectError::Unsupported),
            // The negotiation under way will tell.
            Some(Err(false)) => {
                self.dials.entry(peer).or_default();
                return;
            }
            None => {}
        }
        if self.offline || peer == *self.swarm.local_peer_id() {
            return self.connect_failed(peer, if self.offline { ConnectError::Offline } else { ConnectError::Itself });
        }
        if let Err(error) = self.learn(peer, addrs, trusted) {
            return self.connect_failed(peer, error);
        }
        if self.dials.len() >= MAX_DIALS && !self.dials.contains_key(&peer) {
            return self.connect_failed(peer, ConnectError::LimitReached);
        }
        self.dials.entry(peer).or_default();
        self.dial(peer);
    }

    /// Puts those of `addrs` that may be dialled into the book.
    fn learn(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool) -> Result<(), ConnectError> {
        if trusted {
            self.policy.trust(peer);
        }
        let (permitted, refused): (Vec<_>, Vec<_>) =
            addrs.into_iter().partition(|addr| self.policy.permits(addr, Some(&peer)));
        self.metrics.refused_addresses.inc_by(refused.len() as u64);
        // Backwards: the newest address of the book is tried first, and routers put the best one first.
        permitted.into_iter().take(MAX_ADDRESSES).rev().for_each(|addr| self.remember(peer, addr));
        // Nothing is dialled when there is nothing but what was refused; the transport would refuse it again.
        let nothing_else = self.book.get(&peer).next().is_none() && self.dht_addresses(&peer).is_empty();
        if !refused.is_empty() && nothing_else { Err(ConnectError::PrivateAddress) } else { Ok(()) }
    }

    /// Those of [`EventLoop::dht_claims`] that may be dialled.
    fn dht_addresses(&mut self, peer: &PeerId) -> Vec<Multiaddr> {
        let mut addrs = self.dht_claims(peer);
        addrs.retain(|addr| self.policy.permits(addr, Some(peer)));
        addrs
    }

    /// The addresses that the DHT knows of a peer: of its routing table, and of the queries that are running, which
    /// alone know the addresses of providers (`FoundProviders` carries none; DEPENDENCIES.md §1). The permitted ones
    /// come first; the others are kept so that a refusal can be named as one.
    fn dht_claims(&mut self, peer: &PeerId) -> Vec<Multiaddr> {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return Vec::new() };
        // The identifier is not used by the implementation; no connection has it.
        let nobody = ConnectionId::new_unchecked(usize::MAX);
        let mut addrs =
            kad.handle_pending_outbound_connection(nobody, Some(*peer), &[], Endpoint::Dialer).unwrap_or_default();
        addrs.sort_by_key(|addr| !self.policy.permits(addr, Some(peer)));
        addrs.truncate(MAX_ADDRESSES);
        addrs
    }

    fn dial(&mut self, peer: PeerId) {
        let addrs: Vec<Multiaddr> = self.book.get(&peer).cloned().collect();
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addrs)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.metrics.dials.inc();
                if let Some(since) = self.dials.get_mut(&peer) {
                    *since = Some(Instant::now());
                }
            }
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.dial_failed(peer, &error),
        }
    }

    fn dial_failed(&mut self, peer: PeerId, error: &DialError) {
        self.metrics.dial_failures.inc();
        self.configured.failed(&peer, Instant::now());
        if self.dials.contains_key(&peer) {
            self.connect_failed(peer, connect_error(error, self.dial_timeout));
        }
    }

    fn connect_failed(&mut self, peer: PeerId, error: ConnectError) {
        self.dials.remove(&peer);
        self.events.push_back(ExchangeEvent::ConnectFailed { peer, error });
    }

    fn remember(&mut self, peer: PeerId, addr: Multiaddr) {
        if self.book.add(peer, addr) {
            self.metrics.address_book_evicted.inc();
        }
    }

    fn find_providers(&mut self, cid: &Cid, reply: mpsc::Sender<Result<Provider, RoutingError>>) {
        if self.queries.len() >= MAX_QUERIES {
            self.metrics.limit_queries.inc();
            let _ = reply.try_send(Err(RoutingError::Unreachable("too many DHT queries".to_owned())));
            return;
        }
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            let _ = reply.try_send(Err(RoutingError::Disabled));
            return;
        };
        let id = kad.get_providers(cid.hash().to_bytes().into());
        self.queries.insert(id, Query { reply, found: HashSet::new() });
    }

    fn on_tick(&mut self, now: Instant) {
        let abandoned: Vec<QueryId> =
            self.queries.iter().filter(|(_, query)| query.reply.is_closed()).map(|(id, _)| *id).collect();
        abandoned.iter().for_each(|id| self.finish_query(id));
        self.drop_abandoned_records();
        if !self.offline {
            for peer in self.configured.due(now) {
                self.dial(peer);
            }
        }
        let routing =
            self.swarm.behaviour_mut().kad.as_mut().map_or(0, |kad| kad.kbuckets().map(|b| b.num_entries()).sum());
        self.view.write().unwrap_or_else(PoisonError::into_inner).routing_peers = routing;
        self.metrics.peers.set(self.swarm.network_info().num_peers() as i64);
        self.metrics.exchange_peers.set(self.swarm.behaviour().bitswap.ready().count() as i64);
        self.metrics.address_book.set(self.book.len() as i64);
        self.shared.metrics.outstanding.set(self.shared.server.outstanding() as i64);
    }

    fn finish_query(&mut self, id: &QueryId) {
        self.queries.remove(id);
        if let Some(mut query) = self.swarm.behaviour_mut().kad.as_mut().and_then(|kad| kad.query_mut(id)) {
            query.finish();
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        self.libp2p_metrics.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                self.configured.connected(&peer_id);
                if self.configured.contains(&peer_id)
                    && let Some(peer) = self.shared.peer(&peer_id)
                {
                    peer.keep.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                if let ConnectedPoint::Dialer { address, .. } = &endpoint {
                    self.remember(peer_id, address.clone());
                    self.widen(address);
                }
                view::opened(&mut self.write_view(), peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, endpoint, num_established, .. } => {
                if num_established == 0 {
                    self.configured.disconnected(&peer_id, Instant::now());
                }
                view::closed(&mut self.write_view(), peer_id, &endpoint, num_established);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                debug!(%peer, %error, "dial failed");
                if let DialError::Transport(failed) = &error {
                    for (addr, _) in failed {
                        if !self.configured.contains(&peer) {
                            self.book.remove(&peer, &without_peer(addr.clone()));
                        }
                    }
                }
                if !self.swarm.is_connected(&peer) {
                    self.dial_failed(peer, &error);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                info!(%address, "listening");
                self.widen(&address);
                let address = self.named(address);
                self.write_view().listen.push(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let address = self.named(address);
                self.write_view().listen.retain(|known| *known != address);
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                let address = self.named(address);
                let mut view = self.write_view();
                if !view.external.contains(&address) && view.external.len() < MAX_ADDRESSES {
                    view.external.push(address);
                }
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                let address = self.named(address);
                self.write_view().external.retain(|known| *known != address);
            }
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Bitswap(event) => self.on_bitswap(event),
            BehaviourEvent::Ping(event) => {
                self.libp2p_metrics.record(&event);
                if let ping::Event { peer, result: Ok(rtt), .. } = event {
                    if let Some(info) = self.write_view().peers.get_mut(&peer) {
                        info.rtt = Some(rtt);
                    }
                    self.events.push_back(ExchangeEvent::Rtt { peer, rtt });
                }
            }
            BehaviourEvent::Identify(event) => {
                self.libp2p_metrics.record(&event);
                if let identify::Event::Received { peer_id, info, .. } = event {
                    self.identified(peer_id, info);
                }
            }
            BehaviourEvent::Kad(event) => {
                self.libp2p_metrics.record(&event);
                self.on_kad(event);
            }
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Dcutr(event) => self.libp2p_metrics.record(&event),
            BehaviourEvent::Autonat(autonat::v2::client::Event { tested_addr, result, .. }) => match result {
                Ok(()) => info!(address = %tested_addr, "reachable from outside"),
                Err(error) => debug!(address = %tested_addr, %error, "not reachable from outside"),
            },
            BehaviourEvent::Upnp(event) => info!(?event, "UPnP"),
            BehaviourEvent::Relay(event) => debug!(?event, "relay"),
            BehaviourEvent::Http(never) => match never {},
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Memory(never) => match never {},
        }
    }

    fn on_bitswap(&mut self, event: bitswap::behaviour::Event) {
        match event {
            bitswap::behaviour::Event::Ready { peer, endpoint } => {
                let dial = self.dials.remove(&peer).flatten().map(|since| since.elapsed());
                self.events.push_back(connected(peer, &endpoint, dial.filter(|_| endpoint.is_dialer())));
            }
            bitswap::behaviour::Event::Unsupported { peer } => {
                if self.dials.contains_key(&peer) {
                    self.connect_failed(peer, ConnectError::Unsupported);
                }
            }
            bitswap::behaviour::Event::Gone { peer } => self.events.push_back(ExchangeEvent::Disconnected { peer }),
            bitswap::behaviour::Event::Lost { peer } => {
                if self.dials.contains_key(&peer) {
                    self.connect_failed(peer, ConnectError::Dial("connection was closed at once".to_owned()));
                }
            }
            bitswap::behaviour::Event::SendFailed { peer, cids } => {
                self.events.push_back(ExchangeEvent::SendFailed { peer, cids });
            }
        }
    }

    fn identified(&mut self, peer: PeerId, info: identify::Info) {
        let public_only = !self.policy.is_trusted(&peer);
        let addrs: Vec<Multiaddr> = info
            .listen_addrs
            .into_iter()
            .take(MAX_ADDRESSES)
            .filter(|addr| !public_only || (self.policy.permits(addr, Some(&peer)) && ip_of(addr).is_some()))
            .collect();
        let serves_dht = info.protocols.contains(&KAD_PROTOCOL);
        for addr in addrs {
            if serves_dht && let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                kad.add_address(&peer, addr.clone());
            }
            self.remember(peer, addr);
        }
        view::identified(&mut self.write_view(), peer, &info.agent_version, &info.protocols);
    }

    fn on_kad(&mut self, event: kad::Event) {
        let Some(kad::Event::OutboundQueryProgressed {
            id, result: kad::QueryResult::GetProviders(result), step, ..
        }) = self.on_record_event(event)
        else {
            return;
        };
        let Some(mut query) = self.queries.remove(&id) else { return };
        let mut done = step.last;
        match result {
            Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) => {
                for peer in providers {
                    if peer == *self.swarm.local_peer_id() || !query.found.insert(peer) {
                        continue;
                    }
                    let addrs = self.dht_claims(&peer).into_iter().map(without_peer).collect();
                    let provider = Provider { peer, addrs, transports: Vec::new(), source: RouterKind::Dht };
                    done |= query.reply.try_send(Ok(provider)).is_err();
                }
                done |= query.found.len() >= MAX_PROVIDERS;
            }
            Ok(kad::GetProvidersOk::FinishedWithNoAdditionalRecord { .. }) => {}
            Err(kad::GetProvidersError::Timeout { .. }) => {
                // What was found before stands; that nothing was is the reader's to know.
                if query.found.is_empty() {
                    let _ = query.reply.try_send(Err(RoutingError::Timeout(KAD_TIMEOUT)));
                }
            }
        }
        if done {
            self.finish_query(&id);
        } else {
            self.queries.insert(id, query);
        }
    }

    fn on_mdns(&mut self, event: mdns::Event) {
        let mut table = self.mdns.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, addr) in found {
                    if table.len() >= MAX_MDNS_PEERS && !table.contains_key(&peer) {
                        continue;
                    }
                    let addrs = table.entry(peer).or_default();
                    let addr = without_peer(addr);
                    // A multicast answer may name anything: only what is local is believed.
                    let local = ip_of(&addr).is_some_and(|ip| !is_public(ip));
                    if local && !addrs.contains(&addr) && addrs.len() < MAX_ADDRESSES {
                        addrs.push(addr);
                    }
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, addr) in gone {
                    let addr = without_peer(addr);
                    if let Some(addrs) = table.get_mut(&peer) {
                        addrs.retain(|known| *known != addr);
                        if addrs.is_empty() {
                            table.remove(&peer);
                        }
                    }
                }
            }
        }
    }

    fn named(&self, address: Multiaddr) -> Multiaddr {
        without_peer(address).with(Protocol::P2p(*self.swarm.local_peer_id()))
    }

    fn write_view(&self) -> std::sync::RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connected(peer: PeerId, endpoint: &ConnectedPoint, dial: Option<Duration>) -> ExchangeEvent {
    let address = endpoint.get_remote_address().clone();
    ExchangeEvent::Connected { peer, transport: transport_of(&address), address, dial }
}

fn connect_error(error: &DialError, timeout: Duration) -> ConnectError {
    match error {
        DialError::NoAddresses => ConnectError::NoAddress,
        DialError::Denied { .. } => ConnectError::LimitReached,
        DialError::Transport(failed) => {
            let kind = |error: &TransportError<std::io::Error>| match error {
                TransportError::Other(error) => io_kind(error),
                TransportError::MultiaddrNotSupported(_) => None,
            };
            let all = |wanted| !failed.is_empty() && failed.iter().all(|(_, error)| kind(error) == Some(wanted));
            if all(std::io::ErrorKind::PermissionDenied) {
                ConnectError::PrivateAddress
            } else if all(std::io::ErrorKind::TimedOut) {
                ConnectError::Timeout(timeout)
            } else {
                let text = |(addr, error): &(Multiaddr, _)| format!("{}: {}", without_peer(addr.clone()), cause(error));
                let texts: Vec<String> = failed.iter().map(text).collect();
                ConnectError::Dial(texts.join("; "))
            }
        }
        other => ConnectError::Dial(other.to_string()),
    }
}

/// The innermost reason that says something: transports wrap errors in one another, some of them without words.
fn cause(error: &TransportError<std::io::Error>) -> String {
    let TransportError::Other(error) = error else { return error.to_string() };
    let mut text = error.to_string();
    let mut source: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = source {
        let deeper = error.to_string();
        if !deeper.is_empty() {
            text = deeper;
        }
        source = error.source();
    }
    text
}

/// The kind of the innermost I/O error: transports wrap them in one another.
fn io_kind(error: &std::io::Error) -> Option<std::io::ErrorKind> {
    let mut kind = error.kind();
    let mut source: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            kind = io.kind();
        }
        if error.is::<super::transport::PrivateAddress>() {
            return Some(std::io::ErrorKind::PermissionDenied);
        }
        source = error.source();
    }
    Some(kind)
}

/// libp2p binds TCP with SO_REUSEPORT, so a second node on the same port would take half of the first one's
/// connections instead of failing. A plain bind tells. (`[::]` is left out: it would meet our own IPv4 listener.)
fn free(addr: &Multiaddr) -> std::io::Result<()> {
    let mut parts = addr.iter();
    let ip: std::net::IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) if !ip.is_unspecified() => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => match std::net::TcpListener::bind((ip, port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn listen_error(addr: &Multiaddr, error: TransportError<std::io::Error>) -> NodeError {
    NodeError::Listen { address: addr.clone(), reason: error.to_string() }
}
