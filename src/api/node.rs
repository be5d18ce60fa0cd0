//! This server and its peers: `/id`, `/stats`, `/config`, `/p2p/peers`, `/p2p/analytics`.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Known, Query, fresh, limit, tagged};
use super::problem::Problem;
use super::{State, database};
use crate::blockstore;
use crate::db::DbState;
use crate::db::queries::{MAX_LIMIT, PeerOrder, Window};
use crate::p2p::Direction;
use crate::record::Transport;
use crate::retriever::PeerSnapshot;
use crate::topology::{self, insight};

/// Peers in one answer.
const MAX_PEERS: u32 = 500;
/// Peers among the heavy hitters.
const HEAVY_HITTERS: usize = 20;
/// The window of analytics when none is asked for, and the longest, in seconds.
const DEFAULT_WINDOW_S: u64 = 24 * 3600;
const MAX_WINDOW_S: u64 = 90 * 24 * 3600;

#[derive(Serialize, ToSchema)]
#[schema(as = NodeId)]
pub struct Id {
    peer_id: Option<String>,
    /// With `/p2p/ID` at the end.
    addresses: Vec<String>,
    /// Those under which others reached this node.
    external_addresses: Vec<String>,
    gateway: String,
    version: &'static str,
    offline: bool,
}

/// The node's identity and addresses
#[utoipa::path(get, path = "/id", tag = "node", responses((status = 200, body = Id)))]
pub async fn id(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    let node = state.node.as_ref();
    let texts = |addrs: Vec<libp2p::Multiaddr>| addrs.iter().map(ToString::to_string).collect();
    let id = Id {
        peer_id: node.map(|node| node.peer_id().to_string()),
        addresses: node.map(|node| texts(node.listen_addrs())).unwrap_or_default(),
        external_addresses: node.map(|node| texts(node.external_addrs())).unwrap_or_default(),
        gateway: state.gateway.clone(),
        version: env!("CARGO_PKG_VERSION"),
        offline: node.is_none(),
    };
    tagged(&known, &id)
}

/// The settings in force, by their names of the configuration file, secrets taken out
#[utoipa::path(get, path = "/config", tag = "node", responses((status = 200, body = HashMap<String, serde_json::Value>)))]
pub async fn config(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    tagged(&known, &state.config)
}

#[derive(Serialize, ToSchema)]
pub struct Stats {
    uptime_s: f64,
    version: &'static str,
    store: blockstore::Stats,
    retriever: RetrieverStats,
    peers: Peers,
    database: Option<DatabaseState>,
    /// By name; tasks that run now, ended, panicked.
    #[schema(value_type = BTreeMap<String, Worker>)]
    workers: BTreeMap<&'static str, Worker>,
}

#[derive(Serialize, ToSchema)]
struct DatabaseState {
    state: &'static str,
    since_us: u64,
    backend: Option<&'static str>,
    /// Why it is down.
    reason: Option<String>,
}

impl From<DbState> for DatabaseState {
    fn from(state: DbState) -> Self {
        match state {
            DbState::Up { since, backend } => {
                Self { state: "up", since_us: micros(since), backend: Some(backend), reason: None }
            }
            DbState::Down { reason, since } => {
                Self { state: "down", since_us: micros(since), backend: None, reason: Some(reason) }
            }
        }
    }
}

fn micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[derive(Serialize, ToSchema)]
struct RetrieverStats {
    active_sessions: usize,
    blocks: u64,
    bytes: u64,
    duplicate_bytes: u64,
    wire_bytes: u64,
    failed: u64,
    hedges: u64,
    stalls: u64,
    reassigned: u64,
    corrupt: u64,
    not_found: u64,
    timeouts: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PeerCounts)]
struct Peers {
    connected: usize,
    exchange: usize,
    dht_routing: usize,
}

#[derive(Serialize, Default, ToSchema)]
struct Worker {
    running: usize,
    ended: u64,
    panicked: u64,
}

/// Store, cache, transfer and task figures since the start
#[utoipa::path(get, path = "/stats", tag = "node", responses((status = 200, body = Stats)))]
pub async fn stats(Extract(state): Extract<State>) -> Response {
    let totals = state.retriever.totals();
    let peers = state.node.as_ref().map(|node| (node.peers(), node.dht_routing_peers())).unwrap_or_default();
    let http = state.retriever.connected_over(Transport::Http);
    let mut workers: BTreeMap<&'static str, Worker> = BTreeMap::new();
    for (name, worker) in state.supervisors.iter().flat_map(|supervisor| supervisor.workers()) {
        let sum = workers.entry(name).or_default();
        sum.running += worker.running;
        sum.ended += worker.ended;
        sum.panicked += worker.panicked;
    }
    let stats = Stats {
        uptime_s: state.started.elapsed().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
        store: state.blocks.stats(),
        retriever: RetrieverStats {
            active_sessions: state.retriever.active_sessions(),
            blocks: totals.blocks,
            bytes: totals.bytes,
            duplicate_bytes: totals.duplicate_bytes,
            wire_bytes: totals.wire_bytes,
            failed: totals.failed,
            hedges: totals.hedges,
            stalls: totals.stalls,
            reassigned: totals.reassigned,
            corrupt: totals.corrupt,
            not_found: totals.not_found,
            timeouts: totals.timeouts,
        },
        peers: Peers {
            connected: peers.0.len() + http,
            exchange: peers.0.iter().filter(|peer| peer.exchange).count() + http,
            dht_routing: peers.1,
        },
        database: state.db.as_ref().map(|db| DatabaseState::from(db.state())),
        workers,
    };
    fresh(StatusCode::OK, stats)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PeersAsked {
    /// Default 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub struct PeerList {
    /// Connected peers, those that delivered most first.
    items: Vec<PeerView>,
    /// All of them, shown or not.
    total: usize,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ConnectedPeer)]
struct PeerView {
    peer_id: String,
    agent: Option<String>,
    transport: &'static str,
    direction: &'static str,
    addrs: Vec<String>,
    protocols: Vec<String>,
    /// Speaks Bitswap.
    exchange: bool,
    connected_since_us: u64,
    rtt_ms: Option<f64>,
    /// Bytes a second, the windowed maximum.
    rate_bps: Option<f64>,
    /// Of Bitswap messages.
    bytes_in: u64,
    bytes_out: u64,
    /// Delivered for retrievals.
    blocks: u64,
    block_bytes: u64,
    failures: u64,
    strikes: f64,
    outstanding: usize,
    /// Peers that seem to be behind the same bottleneck: their rates fell together, more than once.
    shares_with: Vec<String>,
}

/// Connected peers, those that delivered most first
#[utoipa::path(get, path = "/p2p/peers", tag = "network", params(PeersAsked), responses((status = 200, body = PeerList)))]
pub async fn peers(Extract(state): Extract<State>, Query(asked): Query<PeersAsked>) -> Result<Response, Problem> {
    let limit = limit(asked.limit, MAX_PEERS, MAX_PEERS)? as usize;
    let connected = state.node.as_ref().map(|node| node.peers()).unwrap_or_default();
    let ledger: HashMap<_, PeerSnapshot> =
        state.retriever.peers().into_iter().map(|snapshot| (snapshot.peer, snapshot)).collect();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut items: Vec<PeerView> = connected
        .into_iter()
        .map(|peer| {
            let known = ledger.get(&peer.peer);
            PeerView {
                peer_id: peer.peer.to_string(),
                agent: peer.agent,
                transport: peer.transport.as_str(),
                direction: match peer.direction {
                    Direction::Inbound => "inbound",
                    Direction::Outbound => "outbound",
                },
                addrs: peer.addrs.iter().map(ToString::to_string).collect(),
                protocols: peer.protocols,
                exchange: peer.exchange,
                connected_since_us: micros(peer.connected_since),
                rtt_ms: known.and_then(|known| known.rtt).or(peer.rtt).map(ms),
                rate_bps: known.and_then(|known| known.rate.or(known.max_rate)),
                bytes_in: peer.bytes_in,
                bytes_out: peer.bytes_out,
                blocks: known.map_or(0, |known| known.blocks),
                block_bytes: known.map_or(0, |known| known.bytes),
                failures: known.map_or(0, |known| known.failures),
                strikes: known.map_or(0.0, |known| known.strikes),
                outstanding: known.map_or(0, |known| known.outstanding),
                shares_with: known.map(shares_with).unwrap_or_default(),
            }
        })
        .collect();
    items.extend(ledger.values().filter(|peer| peer.transport == Some(Transport::Http)).map(http_provider));
    let total = items.len();
    items.sort_by(|a, b| b.block_bytes.cmp(&a.block_bytes).then_with(|| a.peer_id.cmp(&b.peer_id)));
    items.truncate(limit);
    Ok(fresh(StatusCode::OK, PeerList { items, total }))
}

/// An HTTP provider has no libp2p connection: what is known of it is what the retriever measured.
fn http_provider(known: &PeerSnapshot) -> PeerView {
    PeerView {
        peer_id: known.peer.to_string(),
        agent: None,
        transport: Transport::Http.as_str(),
        direction: "outbound",
        addrs: known.address.iter().map(ToString::to_string).collect(),
        protocols: Vec::new(),
        exchange: false,
        connected_since_us: micros(SystemTime::now() - known.connected_for.unwrap_or_default()),
        rtt_ms: known.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        rate_bps: known.rate.or(known.max_rate),
        bytes_in: 0,
        bytes_out: 0,
        blocks: known.blocks,
        block_bytes: known.bytes,
        failures: known.failures,
        strikes: known.strikes,
        outstanding: known.outstanding,
        shares_with: shares_with(known),
    }
}

fn shares_with(known: &PeerSnapshot) -> Vec<String> {
    known.shares_with.iter().map(ToString::to_string).collect()
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AnalyticsAsked {
    /// Seconds back from now; default 86,400.
    #[param(minimum = 1, maximum = 7_776_000)]
    window_s: Option<u64>,
}

/// The network as this node measured it over a window
#[utoipa::path(
    get, path = "/p2p/analytics", tag = "network", params(AnalyticsAsked),
    responses((status = 200, body = topology::Analytics))
)]
pub async fn analytics(
    Extract(state): Extract<State>,
    Query(asked): Query<AnalyticsAsked>,
) -> Result<Response, Problem> {
    let seconds = asked.window_s.unwrap_or(DEFAULT_WINDOW_S);
    if seconds == 0 || seconds > MAX_WINDOW_S {
        return Err(Problem::parameter("window_s", format!("window_s is 1 to {MAX_WINDOW_S}")));
    }
    let window = Window::last(Duration::from_secs(seconds), SystemTime::now());
    Ok(fresh(StatusCode::OK, topology::current(database(&state)?, state.facts, window).await?))
}

#[derive(Serialize, ToSchema)]
pub struct Insights {
    window: Window,
    /// `null`: fewer than 30 minutes (hours, in windows over 48 h) with a request.
    anomalies: Option<Vec<insight::Anomaly>>,
    /// Against the window before, as long.
    changes: Vec<insight::Change>,
    /// Peers by the bytes that they have delivered.
    heavy_hitters: Vec<insight::HeavyHitter>,
}

/// Moments that stand out, what changed, and the peers that delivered most
#[utoipa::path(
    get, path = "/p2p/insights", tag = "network", params(AnalyticsAsked),
    responses((status = 200, body = Insights))
)]
pub async fn insights(
    Extract(state): Extract<State>,
    Query(asked): Query<AnalyticsAsked>,
) -> Result<Response, Problem> {
    let seconds = asked.window_s.unwrap_or(DEFAULT_WINDOW_S);
    if seconds == 0 || seconds > MAX_WINDOW_S {
        return Err(Problem::parameter("window_s", format!("window_s is 1 to {MAX_WINDOW_S}")));
    }
    let db = database(&state)?;
    let window = Window::last(Duration::from_secs(seconds), SystemTime::now());
    let length = window.until_us - window.since_us;
    let before = Window { since_us: window.since_us - length, until_us: window.since_us };
    let (now, then) = (db.buckets(window).await?, db.buckets(before).await?);
    let peers = db.peers(PeerOrder::BytesIn, MAX_LIMIT).await?;
    let amounts = peers.into_iter().map(|peer| (peer.peer_id, peer.bytes_in as f64));
    let insights = Insights {
        window,
        anomalies: insight::anomalies(&now),
        changes: insight::changes(&then, &now),
        heavy_hitters: insight::heavy_hitters(amounts, HEAVY_HITTERS),
    };
    Ok(fresh(StatusCode::OK, insights))
}
