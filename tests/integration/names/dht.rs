//! Records in a DHT of our own nodes on loopback.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::Multiaddr;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::ipld::ipns::{Draft, IpnsName, Record};
use tidegate::names::{Config, Name, NameStore, NsMap, Parts, Resolver, Source};
use tidegate::p2p::{self, Bootstrap, Client, Node};
use tidegate::routing::NameRouter;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

use super::{MINUTE, new_key, signed, value};

/// Liveness only.
const PATIENCE: Duration = Duration::from_secs(60);

struct Peer {
    client: Client,
    supervisor: Supervisor,
    dir: tempfile::TempDir,
    metrics: Metrics,
}

impl Peer {
    async fn start(server: bool, bootstrap: Vec<Multiaddr>) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let (dir, supervisor, metrics) = (tempfile::tempdir().unwrap(), Supervisor::new(), Metrics::new());
        let config = p2p::Config {
            dht: true,
            dht_server: server,
            bootstrap: Bootstrap::List(bootstrap),
            allow_private: vec!["127.0.0.1/32".parse().unwrap()],
            ..p2p::Config::loopback()
        };
        let store = Arc::new(MemoryStore::new());
        let client = Node::start(&config, dir.path(), store, &metrics, &supervisor).await.unwrap();
        Self { client, supervisor, dir, metrics }
    }

    fn addr(&self) -> Multiaddr {
        self.client.listen_addrs().into_iter().find(|addr| addr.to_string().contains("/tcp/")).unwrap()
    }

    fn dht(&self) -> Arc<dyn NameRouter> {
        self.client.name_routers().remove(0)
    }

    async fn records(&self, name: &IpnsName) -> Vec<Record> {
        let found = tokio::time::timeout(PATIENCE, self.dht().records(name).collect::<Vec<_>>()).await.unwrap();
        found.into_iter().map(|found| Record::read(name, &found.unwrap().bytes).unwrap()).collect()
    }

    async fn stop(self) {
        self.client.shutdown().await;
        self.supervisor.stop(Duration::from_secs(10)).await;
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !done().await {
        assert!(tokio::time::Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_name_is_published_to_the_dht_and_found_by_another_node() {
    let first = Peer::start(true, Vec::new()).await;
    let second = Peer::start(true, vec![first.addr()]).await;
    let third = Peer::start(false, vec![first.addr(), second.addr()]).await;
    until("both servers in the table", async || third.client.dht_routing_peers() == 2).await;
    let (key, name) = new_key();
    let old = signed(&key, "/ipfs/bafkqaaa/old", 1, MINUTE);
    let new = signed(&key, "/ipfs/bafkqaaa/new", 2, MINUTE);

    // What is not valid for its name is not kept by a server.
    let (_, other) = new_key();
    let _ = third.dht().announce(&other, old.bytes().clone()).await;
    assert!(third.records(&other).await.is_empty());
    assert!(third.dht().announce(&name, Bytes::from_static(b"garbage")).await.is_ok());
    assert!(third.records(&name).await.is_empty());

    third.dht().announce(&name, new.bytes().clone()).await.unwrap();
    // The servers take a record and refuse to go back.
    third.dht().announce(&name, old.bytes().clone()).await.unwrap();
    let found = third.records(&name).await;
    assert!(!found.is_empty() && found.iter().all(|record| *record == new), "{found:?}");

    let fourth = Peer::start(false, vec![first.addr()]).await;
    until("the DHT in the table", async || fourth.client.dht_routing_peers() >= 1).await;
    let parts = Parts {
        config: Config::default(),
        map: NsMap::default(),
        store: NameStore::open(fourth.dir.path()),
        routers: fourth.client.name_routers(),
        dns: None,
        data_dir: Some(fourth.dir.path().to_owned()),
    };
    let resolver = Resolver::new(parts, &fourth.metrics, &fourth.supervisor).unwrap();
    let resolved = resolver.resolve(&Name::Key(name)).await.unwrap();
    assert_eq!((resolved.path.to_string().as_str(), resolved.source), ("/ipfs/bafkqaaa/new", Source::Dht));
    for peer in [fourth, third, second, first] {
        peer.stop().await;
    }
}

#[tokio::test]
async fn a_peer_with_an_older_record_is_given_the_newer_one() {
    let (first, second) = (Peer::start(true, Vec::new()).await, Peer::start(true, Vec::new()).await);
    let (key, name) = new_key();
    let make = |sequence| {
        let eol = SystemTime::now() + MINUTE;
        Record::sign(&key, &Draft { value: value("/ipfs/bafkqaaa"), sequence, eol, ttl: MINUTE }).unwrap()
    };
    let (old, new) = (make(1), make(2));
    // Each server gets its own record, through a client that knows it alone.
    for (server, record) in [(&first, &old), (&second, &new)] {
        let client = Peer::start(false, vec![server.addr()]).await;
        until("the server in the table", async || client.client.dht_routing_peers() == 1).await;
        client.dht().announce(&name, record.bytes().clone()).await.unwrap();
        client.stop().await;
    }
    let seeker = Peer::start(false, vec![first.addr(), second.addr()]).await;
    until("both servers in the table", async || seeker.client.dht_routing_peers() == 2).await;
    let parts = Parts {
        config: Config::default(),
        map: NsMap::default(),
        store: NameStore::in_memory(),
        routers: seeker.client.name_routers(),
        dns: None,
        data_dir: None,
    };
    let resolver = Resolver::new(parts, &seeker.metrics, &seeker.supervisor).unwrap();
    resolver.resolve(&Name::Key(name)).await.unwrap();
    until("the correction", async || seeker.records(&name).await == [new.clone(), new.clone()]).await;
    for peer in [seeker, second, first] {
        peer.stop().await;
    }
}

// GATEWAY.md §3.9-1: who only asks does not say that it answers.
#[tokio::test]
async fn m3_9_1_a_client_of_the_dht_does_not_advertise_it_and_a_server_does() {
    const KAD: &str = "/ipfs/kad/1.0.0";
    let server = Peer::start(true, Vec::new()).await;
    let client = Peer::start(false, vec![server.addr()]).await;
    until("the server in the table", async || client.client.dht_routing_peers() == 1).await;
    // What each has heard the other say, when it has said anything.
    let said = async |of: &Peer| loop {
        if let Some(peer) = of.client.peers().into_iter().find(|peer| !peer.protocols.is_empty()) {
            break peer.protocols;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let of_client = tokio::time::timeout(PATIENCE, said(&server)).await.unwrap();
    let of_server = tokio::time::timeout(PATIENCE, said(&client)).await.unwrap();
    assert!(of_client.iter().any(|name| name.starts_with("/ipfs/bitswap/")), "{of_client:?}");
    assert!(!of_client.iter().any(|name| name == KAD), "{of_client:?}");
    assert!(of_server.iter().any(|name| name == KAD), "{of_server:?}");
    client.stop().await;
    server.stop().await;
}
