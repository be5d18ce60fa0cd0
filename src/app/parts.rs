//! From the settings to each module's own configuration, in one place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::token::Check;
use super::{ApiFile, api, dashboard};
use crate::blockstore::{self, Blocks};
use crate::config::Settings;
use crate::db::{self, Database};
use crate::retriever::{self, Retriever};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use crate::{gateway, listener, p2p};

/// What a server inside a command changes: loopback on free ports, no listening peer, no metrics database.
pub fn embed(settings: &mut Settings) {
    let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    settings.gateway = free;
    settings.admin = free;
    settings.tls_cert = None;
    settings.tls_key = None;
    settings.listen = Vec::new();
    settings.database = Some(NO_DATABASE.to_owned());
}

/// The value of `database` that keeps no records.
const NO_DATABASE: &str = "none";

pub fn store(settings: &Settings) -> blockstore::Config {
    blockstore::Config { memory: settings.cache_memory, disk: settings.cache_disk, ..Default::default() }
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
        dns: settings.dns,
        ..Default::default()
    }
}

pub fn retriever(settings: &Settings) -> retriever::Config {
    retriever::Config {
        timeout: settings.limits.retrieval_timeout,
        reorder_budget: settings.limits.reorder_budget,
        policy: settings.policy,
        compare_share: settings.compare_share,
        ..Default::default()
    }
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
