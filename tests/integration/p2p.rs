//! Two of our nodes, and hostile peers, over real loopback connections.

mod cars;
mod hostile;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use tempfile::TempDir;
use tidegate::blockstore::Blockstore;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::exchange::{ConnectError, Exchange, ExchangeEvent, MAX_WANTS_PER_PEER, SendError, Want, WantKind};
use tidegate::ipld::{Block, Cid, HashCode, MAX_BLOCK_SIZE, codec};
use tidegate::p2p::{Client, Config, Node, NodeError};
use tidegate::record::Transport;
use tidegate::routing::RouterKind;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tokio::sync::mpsc;

/// Liveness only.
const PATIENCE: Duration = Duration::from_secs(60);

struct TestNode {
    client: Client,
    events: mpsc::Receiver<ExchangeEvent>,
    store: Arc<MemoryStore>,
    metrics: Metrics,
    supervisor: Supervisor,
    dir: TempDir,
}

impl TestNode {
    async fn start() -> Self {
        Self::start_with(Config::loopback()).await
    }

    async fn start_with(config: Config) -> Self {
        let (dir, supervisor, store) = (tempfile::tempdir().unwrap(), Supervisor::new(), Arc::new(MemoryStore::new()));
        let metrics = Metrics::new();
        let client = Node::start(&config, dir.path(), store.clone(), &metrics, &supervisor).await.unwrap();
        let events = client.events().unwrap();
        Self { client, events, store, metrics, supervisor, dir }
    }

    fn id(&self) -> PeerId {
        self.client.peer_id()
    }

    fn addr(&self, part: &str) -> Multiaddr {
        self.client.listen_addrs().into_iter().find(|addr| addr.to_string().contains(part)).unwrap()
    }

    async fn next(&mut self) -> ExchangeEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the node runs")
    }

    async fn until<T>(&mut self, mut found: impl FnMut(ExchangeEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = found(self.next().await) {
                return found;
            }
        }
    }

    async fn connect(&mut self, to: &TestNode, part: &str) -> Transport {
        self.client.connect(to.id(), vec![to.addr(part)], true);
        let peer = to.id();
        self.until(|event| match event {
            ExchangeEvent::Connected { peer: connected, transport, .. } if connected == peer => Some(transport),
            ExchangeEvent::ConnectFailed { error, .. } => panic!("{error}"),
            _ => None,
        })
        .await
    }

    async fn connected_by(&mut self, peer: PeerId) {
        self.until(|event| matches!(event, ExchangeEvent::Connected { peer: p, .. } if p == peer).then_some(())).await;
    }

    /// Wants all at once (within the limit) and waits for all of them.
    async fn fetch(&mut self, peer: PeerId, cids: &[Cid]) -> HashMap<Cid, Block> {
        self.client.send_wants(peer, wants(cids, WantKind::Block)).unwrap();
        let mut missing: HashSet<Cid> = cids.iter().copied().collect();
        let mut blocks = HashMap::new();
        while !missing.is_empty() {
            match self.next().await {
                ExchangeEvent::Block { block, peer: from, .. } => {
                    assert_eq!(from, peer);
                    assert!(missing.remove(block.cid()), "a block came twice or unasked");
                    blocks.insert(*block.cid(), block);
                }
                ExchangeEvent::Progress { .. } | ExchangeEvent::Rtt { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        blocks
    }

    async fn stop(self) {
        self.client.shutdown().await;
        assert_eq!(self.supervisor.stop(Duration::from_secs(10)).await, Vec::<&str>::new());
    }
}

fn block(n: usize, size: usize) -> Block {
    let mut data = vec![n as u8; size.max(8)];
    data[..8].copy_from_slice(&n.to_le_bytes());
    Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(data)).unwrap()
}

fn wants(cids: &[Cid], kind: WantKind) -> Vec<Want> {
    cids.iter().map(|cid| Want::new(*cid, kind, 1)).collect()
}

async fn exchange_both_ways(part: &str, expected: Transport) {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    let of_a: Vec<Block> = (0..1000).map(|n| block(n, 10_000)).collect();
    let of_b: Vec<Block> = (1000..1003).map(|n| block(n, MAX_BLOCK_SIZE)).chain([block(2000, 1)]).collect();
    a.store.put(of_a.clone()).await.unwrap();
    b.store.put(of_b.clone()).await.unwrap();
    assert_eq!(a.connect(&b, part).await, expected);
    b.connected_by(a.id()).await;
    assert_eq!(a.client.connected(), vec![(b.id(), expected)]);

    let cids = |blocks: &[Block]| blocks.iter().map(|block| *block.cid()).collect::<Vec<_>>();
    let (a_id, b_id) = (a.id(), b.id());
    let (wanted_of_a, wanted_of_b) = (cids(&of_a), cids(&of_b));
    let (from_b, from_a) = tokio::join!(a.fetch(b_id, &wanted_of_b), b.fetch(a_id, &wanted_of_a));
    assert!(of_a.iter().all(|block| from_a[block.cid()] == *block));
    assert!(of_b.iter().all(|block| from_b[block.cid()] == *block));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_exchange_blocks_both_ways_over_tcp() {
    exchange_both_ways("/tcp/", Transport::BitswapTcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_exchange_blocks_both_ways_over_quic() {
    exchange_both_ways("/quic-v1", Transport::BitswapQuic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_says_what_it_has_and_small_blocks_come_at_once() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    let (large, small, absent) = (block(1, 5000), block(2, 1000), block(3, 10));
    b.store.put(vec![large.clone(), small.clone()]).await.unwrap();
    a.connect(&b, "/tcp/").await;
    let all = [*large.cid(), *small.cid(), *absent.cid()];
    a.client.send_wants(b.id(), wants(&all, WantKind::Have)).unwrap();
    let (mut have, mut have_not, mut came) = (None, None, None);
    while have.is_none() || have_not.is_none() || came.is_none() {
        match a.next().await {
            ExchangeEvent::Have { cid, .. } => have = Some(cid),
            ExchangeEvent::DontHave { cid, .. } => have_not = Some(cid),
            ExchangeEvent::Block { block, .. } => came = Some(*block.cid()),
            _ => {}
        }
    }
    assert_eq!((have, came, have_not), (Some(all[0]), Some(all[1]), Some(all[2])));

    a.client.send_wants(b.id(), wants(&[*absent.cid()], WantKind::Block)).unwrap();
    let refused = a.until(|event| if let ExchangeEvent::DontHave { cid, .. } = event { Some(cid) } else { None }).await;
    assert_eq!(refused, *absent.cid());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wants_are_bounded_and_room_comes_back_with_a_cancel() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    let nobody = PeerId::random();
    assert_eq!(a.client.send_wants(nobody, vec![]), Err(SendError::NotConnected));
    a.connect(&b, "/tcp/").await;
    let many: Vec<Cid> = (0..=MAX_WANTS_PER_PEER).map(|n| *block(n, 8).cid()).collect();
    assert_eq!(a.client.send_wants(b.id(), wants(&many, WantKind::Block)), Err(SendError::Overloaded));
    // All are taken in one batch or none: after a cancel in the same breath the list is empty again.
    for _ in 0..3 {
        a.client.send_wants(b.id(), wants(&many[1..], WantKind::Block)).unwrap();
        a.client.cancel(b.id(), many[1..].to_vec());
    }
    // And the exchange goes on working.
    let late = block(99_999, 70_000);
    b.store.put(vec![late.clone()]).await.unwrap();
    a.client.send_wants(b.id(), wants(&[*late.cid()], WantKind::Block)).unwrap();
    let came = a.until(|event| if let ExchangeEvent::Block { block, .. } = event { Some(block) } else { None }).await;
    assert_eq!(came, late);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_comes_late_is_told_who_is_connected() {
    let mut a = TestNode::start().await;
    let (dir, supervisor) = (tempfile::tempdir().unwrap(), Supervisor::new());
    let store = Arc::new(MemoryStore::new());
    let client = Node::start(&Config::loopback(), dir.path(), store, &Metrics::new(), &supervisor).await.unwrap();
    let addr = client.listen_addrs().into_iter().find(|addr| addr.to_string().contains("/tcp/")).unwrap();
    a.client.connect(client.peer_id(), vec![addr], true);
    a.connected_by(client.peer_id()).await;
    while client.connected().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut events = client.events().unwrap();
    assert!(client.events().is_none(), "there is one consumer");
    let first = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(ExchangeEvent::Connected { peer, dial, .. }) = events.recv().await {
                return (peer, dial);
            }
        }
    });
    assert_eq!(first.await.unwrap(), (a.id(), None));
    client.shutdown().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_show_who_they_are_and_how_far() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    a.connect(&b, "/quic-v1").await;
    let id = b.id();
    a.until(|event| matches!(event, ExchangeEvent::Rtt { peer, .. } if peer == id).then_some(())).await;
    let info = loop {
        let info = a.client.peers().into_iter().find(|info| info.peer == id).unwrap();
        if info.agent.is_some() && info.rtt.is_some() {
            break info;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(info.agent.unwrap().starts_with("tidegate/"));
    assert!(info.protocols.contains(&"/ipfs/bitswap/1.2.0".to_owned()));
    assert!(!info.protocols.iter().any(|name| name.contains("/kad/")), "a client does not advertise the DHT");
    assert_eq!(info.transport, Transport::BitswapQuic);
    a.client.disconnect(id);
    a.until(|event| matches!(event, ExchangeEvent::Disconnected { peer } if peer == id).then_some(())).await;
    assert_eq!(a.client.send_wants(id, vec![]), Err(SendError::NotConnected));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_connect_is_reported_with_its_reason() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    let mut failure = async |peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool| {
        a.client.connect(peer, addrs, trusted);
        a.until(|event| match event {
            ExchangeEvent::ConnectFailed { peer: failed, error } if failed == peer => Some(error),
            ExchangeEvent::Connected { .. } => panic!("connected"),
            _ => None,
        })
        .await
    };
    assert_eq!(failure(PeerId::random(), vec![], false).await, ConnectError::NoAddress);
    // What routing says about the inside of our network is not believed.
    assert_eq!(failure(b.id(), vec![b.addr("/tcp/")], false).await, ConnectError::PrivateAddress);
    let closed = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    assert!(matches!(failure(PeerId::random(), vec![closed], true).await, ConnectError::Dial(_)));
    // Somebody else answers there.
    assert!(matches!(failure(PeerId::random(), vec![b.addr("/tcp/")], true).await, ConnectError::Dial(_)));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowed_ranges_may_be_named_by_routing() {
    let b = TestNode::start().await;
    let config = Config { allow_private: vec!["127.0.0.0/8".parse().unwrap()], ..Config::loopback() };
    let mut a = TestNode::start_with(config).await;
    a.client.connect(b.id(), vec![b.addr("/tcp/")], false);
    a.connected_by(b.id()).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offline_node_listens_nowhere_and_dials_nobody() {
    let b = TestNode::start().await;
    let mut a = TestNode::start_with(Config { offline: true, ..Config::loopback() }).await;
    assert!(a.client.listen_addrs().is_empty());
    a.client.connect(b.id(), vec![b.addr("/tcp/")], true);
    let error =
        a.until(|event| if let ExchangeEvent::ConnectFailed { error, .. } = event { Some(error) } else { None });
    assert_eq!(error.await, ConnectError::Offline);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_kept_warm_outlives_one_that_is_idle() {
    let (b, c) = (TestNode::start().await, TestNode::start().await);
    let mut a = TestNode::start_with(Config { idle_timeout: Duration::from_millis(500), ..Config::loopback() }).await;
    a.connect(&b, "/tcp/").await;
    a.client.keep_warm(&[b.id()]);
    a.connect(&c, "/tcp/").await;
    let disconnected = |event| if let ExchangeEvent::Disconnected { peer } = event { Some(peer) } else { None };
    assert_eq!(a.until(disconnected).await, c.id(), "the later of the two, as it is not kept");
    a.client.keep_warm(&[]);
    assert_eq!(a.until(disconnected).await, b.id(), "and the other one when it is kept no longer");
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_peers_are_dialled_again_after_a_loss() {
    let b = TestNode::start().await;
    let config = Config { peers: vec![b.addr("/tcp/")], ..Config::loopback() };
    let mut a = TestNode::start_with(config).await;
    assert_eq!(a.client.routers().iter().map(|router| router.kind()).collect::<Vec<_>>(), [RouterKind::Configured]);
    a.connected_by(b.id()).await;
    a.client.disconnect(b.id());
    let id = b.id();
    a.until(|event| matches!(event, ExchangeEvent::Disconnected { peer } if peer == id).then_some(())).await;
    a.connected_by(b.id()).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_survives_a_restart_and_an_address_in_use_is_an_error() {
    let a = TestNode::start().await;
    let key = a.dir.path().join("identity.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let (id, taken) = (a.id(), a.addr("/tcp/"));
    let store = Arc::new(MemoryStore::new());
    let supervisor = Supervisor::new();

    let mut taken = taken;
    taken.pop();
    let config = Config { listen: vec![taken], ..Config::loopback() };
    let other = tempfile::tempdir().unwrap();
    let refused = Node::start(&config, other.path(), store.clone(), &Metrics::new(), &supervisor).await;
    assert!(matches!(refused, Err(NodeError::Listen { .. })));

    a.client.shutdown().await;
    let again = Node::start(&Config::loopback(), a.dir.path(), store, &Metrics::new(), &supervisor).await.unwrap();
    assert_eq!(again.peer_id(), id);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_consumer_slows_its_peers_and_loses_nothing() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    // More events than the queue holds.
    let blocks: Vec<Block> = (0..3000).map(|n| block(n, 100)).collect();
    b.store.put(blocks.clone()).await.unwrap();
    a.connect(&b, "/tcp/").await;
    let cids: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    let mut came = HashSet::new();
    for part in cids.chunks(1000) {
        // Nobody reads until there is no room for more wants.
        while a.client.send_wants(b.id(), wants(part, WantKind::Block)).is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if let Ok(ExchangeEvent::Block { block, .. }) = a.events.try_recv() {
                came.insert(*block.cid());
            }
        }
    }
    while came.len() < cids.len() {
        if let ExchangeEvent::Block { block, .. } = a.next().await {
            came.insert(*block.cid());
        }
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_has_the_nodes_figures_and_libp2ps() {
    let (mut a, b) = (TestNode::start().await, TestNode::start().await);
    let one = block(1, 1000);
    b.store.put(vec![one.clone()]).await.unwrap();
    a.connect(&b, "/tcp/").await;
    a.fetch(b.id(), &[*one.cid()]).await;
    let text = a.metrics.encode();
    assert!(text.contains("tidegate_bitswap_blocks_received_total 1\n"), "{text}");
    assert!(text.contains("tidegate_bitswap_wants_sent_total 1\n"));
    assert!(text.contains("tidegate_libp2p_swarm_connections_established"));
    assert!(text.contains("tidegate_libp2p_bandwidth_bytes_total"));
    a.stop().await;
    b.stop().await;
}
