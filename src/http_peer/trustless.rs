//! HTTP providers as an [`Exchange`]: one `GET /ipfs/{cid}?format=raw` for each block, or one CAR of a whole file, verified
//! on arrival.
//!
//! Source: <https://specs.ipfs.tech/http-gateways/trustless-gateway/>, with its section on peer-to-peer use. A provider is
//! asked for what it holds (`Cache-Control: only-if-cached`), never to fetch for us: two gateways that name each other would
//! otherwise wait for each other. Its peer ID is [`Endpoint::id`], derived from its address.
//!
//! The parts: `dial` finds out where the provider is, whether it may be asked and how it speaks; `peer` is what is wanted
//! of one provider and what is under way there; `request` is one question and its answer, `joint` a block that two providers
//! bring together, `car` a file in one answer.

mod car;
mod dial;
mod joint;
mod metrics;
mod peer;
mod request;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use ipnet::IpNet;
use libp2p::{Multiaddr, PeerId};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::joint::Joints;
use self::metrics::HttpMetrics;
use self::peer::Peer;
use super::endpoint::{Endpoint, EndpointError};
use super::guard::Guard;
use crate::exchange::car::hand_over;
use crate::exchange::{ConnectError, Exchange, ExchangeEvent, SendError, Want};
use crate::ipld::Cid;
use crate::record::Transport;
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;

/// Providers that are connected or dialled at once.
const MAX_PEERS: usize = 128;
/// Providers whose addresses are remembered beyond that.
const MAX_KNOWN: usize = 1_024;
/// Addresses kept of one provider.
const MAX_ADDRESSES: usize = 8;
/// Events that may wait for the consumer, where the queue is the exchange's own.
const EVENT_QUEUE: usize = 1_024;
/// Bodies that may be in memory at once, in KiB, over all providers.
const BODY_BUDGET: usize = 64 * 1024;
/// How often idle providers are looked after.
const ROUND: Duration = Duration::from_secs(5);
/// A configured provider is greeted after this much silence, so that a connection stays open and its round trip is known;
/// servers close idle ones after 60 to 75 seconds.
const GREET_AFTER: Duration = Duration::from_secs(25);
/// A provider that routers named and nobody uses is left after this long.
const IDLE: Duration = Duration::from_secs(120);
/// A dial waits this long at most for a provider that asked for a pause; else it fails.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A configured provider that cannot be reached is tried again after this long, doubling up to the other.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What the operator chooses about HTTP providers.
#[derive(Default)]
pub struct Config {
    /// Providers that are kept connected and asked for everything; they may be private and speak plain HTTP.
    pub providers: Vec<Multiaddr>,
    /// Private ranges that routing results may name. Default: none.
    pub allow_private: Vec<IpNet>,
    /// For names of providers. Default: none, names are not resolved.
    pub dns: Option<(ResolverConfig, ResolverOpts)>,
    /// Certificates trusted beside the system's. Default: none.
    pub roots: Vec<reqwest::Certificate>,
}

#[derive(Debug, Error)]
pub enum HttpError {
    #[error("--peer {address}: {error}")]
    Address { address: Multiaddr, error: EndpointError },
    #[error("resolver of HTTP providers: {0}")]
    Resolver(#[from] NetError),
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct HttpExchange {
    inner: Arc<Inner>,
}

struct Inner {
    guard: Guard,
    roots: Vec<reqwest::Certificate>,
    supervisor: Supervisor,
    metrics: HttpMetrics,
    events: mpsc::Sender<ExchangeEvent>,
    receiver: Mutex<Option<mpsc::Receiver<ExchangeEvent>>>,
    budget: Arc<Semaphore>,
    joints: Joints,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    connected: HashMap<PeerId, Arc<Peer>>,
    dialing: HashSet<PeerId>,
    /// Those of the connected ones that are greeted, like configured ones, so that they stay so.
    warm: HashSet<PeerId>,
    /// With when it was last touched, as a count.
    known: HashMap<PeerId, (u64, Known)>,
    touches: u64,
    /// Providers that asked for a pause, until when. Only of those in `known`.
    pauses: HashMap<PeerId, Instant>,
}

/// How a provider is reached, when it is dialled again without its addresses.
#[derive(Clone, Default)]
struct Known {
    endpoints: Vec<(Endpoint, Multiaddr)>,
    trusted: bool,
}

/// What is known of a connected provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderInfo {
    pub peer: PeerId,
    pub address: Multiaddr,
    /// `h2`, `http/1.1`.
    pub protocol: &'static str,
    /// Bytes of bodies.
    pub received: u64,
    /// The latest round trip of a greeting.
    pub rtt: Option<Duration>,
}

impl HttpExchange {
    /// Starts keeping the configured providers. `events` is the queue that the consumer reads, where another exchange has
    /// one; without it there is a queue of its own.
    pub fn start(
        config: Config,
        events: Option<mpsc::Sender<ExchangeEvent>>,
        metrics: &Metrics,
        supervisor: &Supervisor,
    ) -> Result<Self, HttpError> {
        let mut configured = Vec::new();
        for address in &config.providers {
            let endpoint =
                Endpoint::parse(address).map_err(|error| HttpError::Address { address: address.clone(), error })?;
            configured.push((endpoint.id(), address.clone()));
        }
        let (events, receiver) = match events {
            Some(events) => (events, None),
            None => {
                let (events, receiver) = mpsc::channel(EVENT_QUEUE);
                (events, Some(receiver))
            }
        };
        let inner = Arc::new(Inner {
            guard: Guard::new(config.allow_private, config.dns)?,
            roots: config.roots,
            supervisor: supervisor.clone(),
            metrics: HttpMetrics::register(metrics),
            events,
            receiver: Mutex::new(receiver),
            budget: Arc::new(Semaphore::new(BODY_BUDGET)),
            joints: Joints::default(),
            table: Mutex::default(),
        });
        supervisor.spawn("http-peers", keep(inner.clone(), configured, supervisor.token()));
        Ok(Self { inner })
    }

    /// Whether the peer is an HTTP provider that this exchange was told of.
    pub fn serves(&self, peer: &PeerId) -> bool {
        let table = self.inner.table();
        table.known.contains_key(peer) || table.connected.contains_key(peer)
    }

    /// Providers that are connected.
    pub fn providers(&self) -> Vec<ProviderInfo> {
        let peers: Vec<Arc<Peer>> = self.inner.table().connected.values().cloned().collect();
        peers.iter().map(|peer| peer.info()).collect()
    }
}

impl Exchange for HttpExchange {
    fn send_wants(&self, peer: PeerId, wants: Vec<Want>) -> Result<(), SendError> {
        let peer = self.inner.table().connected.get(&peer).cloned().ok_or(SendError::NotConnected)?;
        let sent = peer.want(wants);
        if matches!(sent, Err(SendError::Overloaded)) {
            self.inner.metrics.overloaded.inc();
        }
        peer::pump(&self.inner, &peer);
        let held = sent?;
        if !held.is_empty() {
            let inner = self.inner.clone();
            self.inner.supervisor.spawn_short(async move {
                for received in held {
                    hand_over(&car::Provider { inner: &inner, peer: &peer }, received).await;
                }
            });
        }
        Ok(())
    }

    fn cancel(&self, peer: PeerId, cids: Vec<Cid>) {
        let peer = self.inner.table().connected.get(&peer).cloned();
        if let Some(peer) = peer {
            let ended = peer.cancel(&cids);
            self.inner.metrics.cancelled.inc_by(ended);
            peer::pump(&self.inner, &peer);
        }
    }

    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool) {
        self.inner.connect(peer, &addrs, trusted);
    }

    fn keep_warm(&self, peers: &[PeerId]) {
        let mut table = self.inner.table();
        table.warm = peers.iter().filter(|peer| table.connected.contains_key(*peer)).copied().collect();
    }

    fn connected(&self) -> Vec<(PeerId, Transport)> {
        self.inner.table().connected.keys().map(|peer| (*peer, Transport::Http)).collect()
    }

    fn events(&self) -> Option<mpsc::Receiver<ExchangeEvent>> {
        self.inner.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an event over and waits while the consumer is behind: whoever calls stops reading meanwhile.
    async fn emit(&self, event: ExchangeEvent) {
        let _ = self.events.send(event).await;
    }

    fn connect(self: &Arc<Self>, id: PeerId, addrs: &[Multiaddr], trusted: bool) {
        let mut table = self.table();
        if let Some(peer) = table.connected.get(&id).cloned() {
            drop(table);
            let inner = self.clone();
            self.supervisor.spawn_short(async move { inner.emit(peer.connected(None)).await });
            return;
        }
        let known = table.remember(id, addrs, trusted);
        let refused = if known.endpoints.is_empty() {
            Some(ConnectError::NoAddress)
        } else if table.dialing.contains(&id) {
            // The dial under way will tell.
            return;
        } else if table.connected.len() + table.dialing.len() >= MAX_PEERS {
            Some(ConnectError::LimitReached)
        } else {
            table.dialing.insert(id);
            None
        };
        let pause = table.pauses.get(&id).map(|until| until.saturating_duration_since(Instant::now()));
        drop(table);
        let inner = self.clone();
        self.supervisor.spawn_short(async move {
            let dialled = match (refused, pause.unwrap_or_default()) {
                (Some(error), _) => {
                    if error == ConnectError::LimitReached {
                        inner.metrics.limit_peers.inc();
                    }
                    return inner.emit(ExchangeEvent::ConnectFailed { peer: id, error }).await;
                }
                (None, pause) if pause > LONGEST_WAIT => {
                    Err(ConnectError::Dial(format!("the server asked for a pause of {} s more", pause.as_secs())))
                }
                (None, pause) => {
                    tokio::time::sleep(pause).await;
                    inner.metrics.dials.inc();
                    dial::dial(&inner, id, &known).await
                }
            };
            inner.dialled(id, dialled).await;
        });
    }

    async fn dialled(self: &Arc<Self>, id: PeerId, dialled: Result<(Peer, Duration), ConnectError>) {
        match dialled {
            Ok((peer, took)) => {
                let peer = Arc::new(peer);
                {
                    let mut table = self.table();
                    table.dialing.remove(&id);
                    table.pauses.remove(&id);
                    table.connected.insert(id, peer.clone());
                    self.metrics.peers.set(table.connected.len() as i64);
                }
                self.emit(peer.connected(Some(took))).await;
                // The connection stands: this is a round trip and nothing else.
                self.greet(&peer).await;
            }
            Err(error) => {
                self.metrics.dial_failures.inc();
                self.table().dialing.remove(&id);
                self.emit(ExchangeEvent::ConnectFailed { peer: id, error }).await;
            }
        }
    }

    /// Measures a round trip. What cannot be reached any more is left.
    async fn greet(self: &Arc<Self>, peer: &Arc<Peer>) {
        match dial::greet(peer).await {
            Ok(rtt) => {
                peer.greeted(rtt);
                self.emit(ExchangeEvent::Rtt { peer: peer.id, rtt }).await;
            }
            Err(error) => {
                tracing::debug!(address = %peer.address, %error, "HTTP provider does not answer");
                self.leave(peer).await;
            }
        }
    }

    /// Ends all that is under way at a provider; it has to be dialled again.
    async fn leave(&self, peer: &Arc<Peer>) {
        let own = {
            let mut table = self.table();
            let own = table.connected.get(&peer.id).is_some_and(|known| Arc::ptr_eq(known, peer));
            if own {
                table.connected.remove(&peer.id);
                table.warm.remove(&peer.id);
                self.metrics.peers.set(table.connected.len() as i64);
            }
            own
        };
        if own {
            peer.close();
            self.emit(ExchangeEvent::Disconnected { peer: peer.id }).await;
        }
    }

    /// It asked not to be asked for this long.
    fn pause(&self, peer: PeerId, pause: Duration) {
        let mut table = self.table();
        if table.known.contains_key(&peer) {
            table.pauses.insert(peer, Instant::now() + pause);
        }
    }
}

impl Table {
    /// Connected providers, and whether they are to stay so.
    fn kept(&self, configured: &[(PeerId, Multiaddr)]) -> Vec<(Arc<Peer>, bool)> {
        let kept = |id: &PeerId| self.warm.contains(id) || configured.iter().any(|(known, _)| known == id);
        self.connected.iter().map(|(id, peer)| (peer.clone(), kept(id))).collect()
    }

    /// Adds what is new and returns all that is known. Addresses of other providers are passed over: the name must follow
    /// from the address.
    fn remember(&mut self, id: PeerId, addrs: &[Multiaddr], trusted: bool) -> Known {
        let mut known = self.known.remove(&id).map(|(_, known)| known).unwrap_or_default();
        known.trusted |= trusted;
        for addr in addrs {
            let Ok(endpoint) = Endpoint::parse(addr) else { continue };
            let new = known.endpoints.iter().all(|(have, _)| *have != endpoint);
            if endpoint.id() == id && new && known.endpoints.len() < MAX_ADDRESSES {
                known.endpoints.push((endpoint, addr.clone()));
            }
        }
        if !known.endpoints.is_empty() {
            self.touches += 1;
            self.known.insert(id, (self.touches, known.clone()));
            if self.known.len() > MAX_KNOWN {
                // Linear in MAX_KNOWN, and only when a new provider appears while that many are known.
                let oldest = self.known.iter().min_by_key(|(_, (touched, _))| *touched).map(|(id, _)| *id);
                if let Some(oldest) = oldest {
                    self.known.remove(&oldest);
                    self.pauses.remove(&oldest);
                }
            }
        }
        known
    }
}

/// Keeps configured providers connected, measures idle ones, and leaves those that nobody uses.
async fn keep(inner: Arc<Inner>, configured: Vec<(PeerId, Multiaddr)>, stop: CancellationToken) {
    let mut due: HashMap<PeerId, (Instant, Duration)> = HashMap::new();
    loop {
        let now = Instant::now();
        for (id, addr) in &configured {
            let table = inner.table();
            let standing = table.connected.contains_key(id) || table.dialing.contains(id);
            drop(table);
            let (at, pause) = due.entry(*id).or_insert((now, FIRST_RETRY));
            if standing {
                *pause = FIRST_RETRY;
            } else if *at <= now {
                *at = now + *pause;
                *pause = (*pause * 2).min(LAST_RETRY);
                inner.connect(*id, std::slice::from_ref(addr), true);
            }
        }
        let peers = inner.table().kept(&configured);
        for (peer, kept) in peers {
            let idle = peer.idle();
            let inner = inner.clone();
            if kept && idle.is_some_and(|idle| idle >= GREET_AFTER) {
                inner.supervisor.clone().spawn_short(async move { inner.greet(&peer).await });
            } else if !kept && idle.is_some_and(|idle| idle >= IDLE) {
                inner.supervisor.clone().spawn_short(async move { inner.leave(&peer).await });
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
    let peers: Vec<Arc<Peer>> = inner.table().connected.drain().map(|(_, peer)| peer).collect();
    peers.iter().for_each(|peer| peer.close());
}
