//! From the settings to each module's own configuration, in one place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::token::Check;
use super::{Routers, StartError};
use crate::blockstore::{self, Blocks, Blockstore};
use crate::config::Settings;
use crate::db::{self, Database};
use crate::exchange::Exchange;
use crate::exchange::address::is_http;
use crate::gateway::host::{Hosts, HostsError};
use crate::http_peer::merged::{ConfiguredHttp, Merged, WithHttp};
use crate::http_peer::trustless::{self, HttpExchange};
use crate::record::Transport;
use crate::record::live::Feed;
use crate::retriever::{self, Retriever};
use crate::routing::{ContentRouter, NameRouter, RouterKind};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use crate::topology::Facts;
use crate::units::ByteSize;
use crate::{api, dashboard, gateway, listener, names, p2p};

/// What a server inside a command changes: loopback on free ports, no listening peer, nothing for peers over HTTP, no
/// metrics database.
pub fn embed(settings: &mut Settings) {
    let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    settings.gateway = free;
    settings.admin = free;
    settings.tls_cert = None;
    settings.tls_key = None;
    settings.listen = Vec::new();
    settings.no_libp2p_gateway = true;
    settings.database = Some(NO_DATABASE.to_owned());
}

/// The value of `database` that keeps no records.
const NO_DATABASE: &str = "none";

/// One part in so many of the memory for content holds whole answers, the rest blocks.
const ANSWERS_SHARE: u64 = 4;

fn answers(settings: &Settings) -> ByteSize {
    ByteSize(settings.cache_memory.0 / ANSWERS_SHARE)
}

pub fn store(settings: &Settings) -> blockstore::Config {
    let memory = ByteSize(settings.cache_memory.0 - answers(settings).0);
    blockstore::Config { memory, disk: settings.cache_disk, ..Default::default() }
}

pub fn node(settings: &Settings) -> p2p::Config {
    p2p::Config {
        listen: settings.listen.clone(),
        peers: settings.peer.clone(),
        bootstrap: settings.bootstrap.clone(),
        dht: !settings.no_dht,
        dht_server: settings.dht_server,
        mdns: !settings.no_mdns,
        upnp: settings.upnp,
        offline: settings.offline,
        allow_private: settings.allow_private.clone(),
        dns: settings.dns.clone(),
        ..Default::default()
    }
}

pub fn retriever(settings: &Settings, data_dir: &Path) -> retriever::Config {
    retriever::Config {
        timeout: settings.limits.retrieval_timeout,
        reorder_budget: settings.limits.reorder_budget,
        policy: settings.policy,
        compare_share: settings.compare_share,
        ledger_file: Some(data_dir.join("peers.json")),
        ..Default::default()
    }
}

/// HTTP providers, whose events go into the node's queue. They end with the node.
pub fn http_peers(
    settings: &Settings,
    node: &p2p::Client,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<HttpExchange, StartError> {
    let config = trustless::Config {
        providers: configured_http(settings),
        allow_private: settings.allow_private.clone(),
        dns: p2p::resolver::config(&settings.dns).map_err(StartError::Dns)?,
        ..Default::default()
    };
    Ok(HttpExchange::start(config, Some(node.event_queue()), metrics, supervisor)?)
}

/// What the retriever asks through: Bitswap and HTTP. `None`: no network.
pub fn exchange(node: Option<&p2p::Client>, http: Option<&HttpExchange>) -> Option<Arc<dyn Exchange>> {
    let (node, http) = (node?.clone(), http?.clone());
    Some(Arc::new(Merged { bitswap: Arc::new(node), http }))
}

/// The routers as the retriever asks them: their records name HTTP providers too.
pub fn content_routers(settings: &Settings, routers: &Routers) -> Vec<Arc<dyn ContentRouter>> {
    let mut all: Vec<Arc<dyn ContentRouter>> = Vec::new();
    let http = configured_http(settings);
    if !http.is_empty() && !settings.offline {
        all.push(Arc::new(ConfiguredHttp(http)));
    }
    all.extend(routers.content.iter().map(|router| match router.kind() {
        RouterKind::Delegated | RouterKind::Dht => Arc::new(WithHttp(router.clone())) as Arc<dyn ContentRouter>,
        _ => router.clone(),
    }));
    all.sort_by_key(|router| router.kind());
    all
}

fn configured_http(settings: &Settings) -> Vec<libp2p::Multiaddr> {
    settings.peer.iter().filter(|addr| is_http(addr)).cloned().collect()
}

pub fn database(settings: &Settings) -> Option<db::Config> {
    if settings.database.as_deref() == Some(NO_DATABASE) {
        return None;
    }
    Some(db::Config { url: settings.database.clone(), ..Default::default() })
}

pub fn listener(settings: &Settings) -> listener::Config {
    let limits = &settings.limits;
    listener::Config {
        first_byte_timeout: limits.first_byte_timeout,
        header_timeout: limits.header_timeout,
        header_limit: limits.header_size,
        idle_timeout: limits.idle_timeout,
        stall_timeout: limits.write_stall_timeout,
        drain_timeout: limits.drain_timeout,
        connections_per_ip: u32::try_from(limits.connections_per_ip).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

/// HTTP over libp2p: the listener's deadlines, bounds of its own.
pub fn streams(settings: &Settings, stats: &listener::Stats) -> listener::Options {
    // At least one: 0 would be no bound, and `no-libp2p-gateway` switches it off.
    let bound = u32::try_from(settings.limits.libp2p_requests).unwrap_or(u32::MAX).max(1);
    listener::Options {
        name: "libp2p",
        config: listener::Config { connections: bound, ..listener(settings) },
        trusted_proxies: Vec::new(),
        tls: None,
        stats: stats.clone(),
        tunnel_to: None,
    }
}

pub fn gateway(settings: &Settings) -> Result<gateway::Config, HostsError> {
    Ok(gateway::Config {
        concurrent_requests: u32::try_from(settings.limits.concurrent_requests).unwrap_or(u32::MAX),
        first_byte_timeout: settings.limits.retrieval_timeout,
        request_timeout: settings.limits.request_timeout,
        waiting_page: settings.waiting_page,
        prefetch_links: settings.prefetch_links,
        range_file_size: settings.limits.range_file_size.0,
        deserialized_size: settings.limits.deserialized_size.0,
        dag_size: settings.limits.dag_size.0,
        subdomain_hosts: Hosts::parse(&settings.subdomain_host)?,
        trusted_proxies: settings.trusted_proxy.clone(),
        answer_cache: answers(settings),
        ..Default::default()
    })
}

/// Where a proxy tunnel to the gateway may lead: to hosts that the gateway serves.
pub fn tunnels(settings: &Settings) -> Result<listener::TunnelCheck, HostsError> {
    let hosts = Hosts::parse(&settings.subdomain_host)?;
    Ok(Arc::new(move |authority: &str| hosts.serves(authority)))
}

/// What names are resolved with. Looks up the name of a DNS-over-HTTPS server, if that is the resolver.
pub fn names(
    settings: &Settings,
    data_dir: &Path,
    routers: Vec<Arc<dyn NameRouter>>,
) -> Result<names::Parts, StartError> {
    let dns = if settings.offline { None } else { p2p::resolver::config(&settings.dns).map_err(StartError::Dns)? };
    Ok(names::Parts {
        config: names::Config { timeout: settings.limits.retrieval_timeout, ..Default::default() },
        map: names::NsMap::from_environment().map_err(names::StartError::from)?,
        store: names::NameStore::open(data_dir),
        routers,
        dns,
        data_dir: Some(data_dir.to_owned()),
    })
}

/// What `/routing/v1` answers from. Configured peers and those of the local network are asked for everything by the
/// retriever; nobody said that they have it, so they are not named to others.
pub fn routing_v1(routers: &Routers, blocks: Arc<dyn Blockstore>, node: Option<&p2p::Client>) -> gateway::Routing {
    let known = |kind| matches!(kind, RouterKind::Delegated | RouterKind::Dht);
    let own = node.cloned().map(|node| {
        let own: gateway::OwnAddresses = Arc::new(move || {
            let addrs = node.external_addrs().into_iter().chain(node.listen_addrs());
            (node.peer_id(), addrs.collect())
        });
        own
    });
    gateway::Routing {
        content: routers.content.iter().filter(|router| known(router.kind())).cloned().collect(),
        peers: routers.peers.clone(),
        blocks,
        own,
    }
}

/// What the configuration says about routers, for recommendations.
pub fn facts(settings: &Settings) -> Facts {
    Facts { delegated_routers: settings.router.len(), dht: !settings.no_dht, offline: settings.offline }
}

/// What the admin listener is made of.
pub struct Admin<'a> {
    pub settings: &'a Settings,
    pub bound: SocketAddr,
    pub gateway: String,
    pub admin: String,
    pub data_dir: PathBuf,
    pub token: Check,
    pub tokens: api::Tokens,
    pub blocks: Arc<Blocks>,
    pub retriever: Retriever,
    pub names: names::Resolver,
    pub node: Option<p2p::Client>,
    pub database: Option<Database>,
    pub metrics: Metrics,
    pub supervisors: Vec<Supervisor>,
    pub draining: api::Draining,
    pub feed: Feed,
}

impl Admin<'_> {
    pub fn router(&self) -> axum::Router {
        let pages =
            dashboard::router(self.dashboard_state()).merge(dashboard::reference(&api::openapi::rendered().json));
        api::admin_router(self.api_state(), pages)
    }

    fn api_state(&self) -> api::State {
        api::State {
            blocks: self.blocks.clone(),
            retriever: self.retriever.clone(),
            names: self.names.clone(),
            node: self.node.clone(),
            db: self.database.clone(),
            metrics: self.metrics.clone(),
            config: self.settings.redacted(),
            facts: facts(self.settings),
            gateway: self.gateway.clone(),
            supervisors: self.supervisors.clone(),
            draining: self.draining.clone(),
            feed: self.feed.clone(),
            started: Instant::now(),
            access: self.access(),
            lab: crate::webgpu::Lab::new(&self.metrics),
        }
    }

    fn host(&self) -> dashboard::Host {
        let node = self.node.clone();
        dashboard::Host {
            blocks: self.blocks.clone(),
            config: self.settings.redacted(),
            data_dir: self.data_dir.clone(),
            supervisors: self.supervisors.clone(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            admin: self.admin.clone(),
            peer_addrs: Arc::new(move || {
                let addrs = node.as_ref().map(p2p::Client::listen_addrs).unwrap_or_default();
                addrs.iter().map(ToString::to_string).collect()
            }),
        }
    }

    fn access(&self) -> api::Access {
        let limits = &self.settings.limits;
        let rates = api::Rates {
            reads: limits.api_reads_per_second,
            changes: limits.api_changes_per_second,
            expensive: limits.api_expensive_per_second,
        };
        api::Access::new(self.bound, self.token.clone(), self.settings.admin_host.clone())
            .with_tokens(self.tokens.clone())
            .with_rates(api::RateLimits::new(rates, &self.metrics), self.settings.trusted_proxy.clone())
    }

    fn dashboard_state(&self) -> dashboard::State {
        let (node, blocks, offline) = (self.node.clone(), self.blocks.clone(), self.settings.offline);
        let delegated = self.settings.router.len();
        let retriever = self.retriever.clone();
        let http = move || retriever.connected_over(Transport::Http);
        let snapshot = move || snapshot(node.as_ref(), &blocks, delegated, offline, http());
        dashboard::State {
            db: self.database.clone(),
            node: Arc::new(snapshot),
            facts: facts(self.settings),
            gateway: self.gateway.clone(),
            compare_share: self.settings.compare_share,
            host: Arc::new(self.host()),
            retriever: self.retriever.clone(),
        }
    }
}

fn snapshot(
    node: Option<&p2p::Client>,
    blocks: &Blocks,
    delegated: usize,
    offline: bool,
    http: usize,
) -> dashboard::NodeSnapshot {
    let peers = node.map(p2p::Client::peers).unwrap_or_default();
    let mut routers: Vec<String> =
        node.map(p2p::Client::routers).unwrap_or_default().iter().map(|router| router.kind().to_string()).collect();
    routers.extend((delegated > 0).then(|| RouterKind::Delegated.to_string()));
    dashboard::NodeSnapshot {
        peer_id: node.map(|node| node.peer_id().to_string()),
        addresses: node.map(p2p::Client::listen_addrs).unwrap_or_default().iter().map(ToString::to_string).collect(),
        peers: peers.len() + http,
        exchange_peers: peers.iter().filter(|peer| peer.exchange).count() + http,
        routers,
        warnings: node.map(p2p::Client::warnings).unwrap_or_default(),
        offline,
        store_problem: blocks.problem(),
    }
}
