//! Blocks between our node and Kubo, both ways, over TCP and over QUIC.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use tempfile::TempDir;
use tidegate::blockstore::Blockstore;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::exchange::{Exchange, ExchangeEvent, Want, WantKind};
use tidegate::ipld::{Block, Cid, cid};
use tidegate::p2p::{Client, Config, Node};
use tidegate::record::Transport;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tokio::sync::mpsc;

use crate::kubo::{self, Kubo};

/// Liveness only: the slowest machine with the busiest neighbours.
pub const PATIENCE: Duration = Duration::from_secs(60);

struct Ours {
    client: Client,
    events: mpsc::Receiver<ExchangeEvent>,
    store: Arc<MemoryStore>,
    supervisor: Supervisor,
    _dir: TempDir,
}

impl Ours {
    async fn start() -> Self {
        let (dir, supervisor, store) = (tempfile::tempdir().unwrap(), Supervisor::new(), Arc::new(MemoryStore::new()));
        let client =
            Node::start(&Config::loopback(), dir.path(), store.clone(), &Metrics::new(), &supervisor).await.unwrap();
        let events = client.events().unwrap();
        Self { client, events, store, supervisor, _dir: dir }
    }

    async fn connect(&mut self, addr: Multiaddr, transport: Transport) {
        let Some(libp2p::multiaddr::Protocol::P2p(peer)) = addr.iter().last() else { panic!("no peer in {addr}") };
        self.client.connect(peer, vec![addr], true);
        loop {
            match self.next().await {
                ExchangeEvent::Connected { peer: connected, transport: by, dial, .. } if connected == peer => {
                    assert_eq!(by, transport);
                    assert!(dial.is_some());
                    return;
                }
                ExchangeEvent::ConnectFailed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }

    async fn next(&mut self) -> ExchangeEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the node runs")
    }

    /// Fetches blocks from one peer, all wanted at once.
    async fn fetch(&mut self, peer: libp2p::PeerId, cids: &[Cid]) -> HashMap<Cid, Block> {
        let mut blocks = HashMap::new();
        let mut missing: HashSet<Cid> = cids.iter().copied().collect();
        let wants: Vec<Want> = missing.iter().map(|cid| Want::new(*cid, WantKind::Block, 1)).collect();
        let mut later: Vec<Want> = wants;
        while !missing.is_empty() {
            let outstanding = missing.len() - later.len();
            if !later.is_empty() && outstanding < 512 {
                let batch = later.split_off(later.len().saturating_sub(512));
                self.client.send_wants(peer, batch).unwrap();
            }
            match self.next().await {
                ExchangeEvent::Block { block, .. } => {
                    missing.remove(block.cid());
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

pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

async fn fetches_a_file(quic: bool) {
    let Some(binary) = kubo::binary() else { return };
    let kubo = Kubo::start(&binary).await;
    let size = std::env::var("TIDEGATE_INTEROP_BYTES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000_000);
    let root = kubo.add(&noise(size, 7), &[]).await;
    let root = cid::parse(&root).unwrap();
    let cids: Vec<Cid> = kubo.refs(&root.to_string()).await.iter().map(|text| cid::parse(text).unwrap()).collect();
    assert!(cids.len() > 10);

    let mut ours = Ours::start().await;
    let (addr, transport) =
        if quic { (kubo.quic(), Transport::BitswapQuic) } else { (kubo.tcp(), Transport::BitswapTcp) };
    ours.connect(addr, transport).await;
    ours.fetch(kubo.peer, &[root]).await;
    let start = Instant::now();
    let blocks = ours.fetch(kubo.peer, &cids).await;
    let bytes: usize = blocks.values().map(Block::len).sum();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{transport:?}: {} blocks, {bytes} bytes in {seconds:.3} s: {:.0} MB/s",
        blocks.len(),
        bytes as f64 / 1e6 / seconds
    );
    assert!(bytes >= size);

    let info = ours.client.peers().into_iter().find(|info| info.peer == kubo.peer).unwrap();
    assert!(info.exchange && info.bytes_in >= bytes as u64);
    ours.stop().await;
    kubo.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_fetched_from_kubo_over_tcp() {
    fetches_a_file(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_fetched_from_kubo_over_quic() {
    fetches_a_file(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubo_says_what_it_has_and_what_it_has_not() {
    let Some(binary) = kubo::binary() else { return };
    let kubo = Kubo::start(&binary).await;
    let large = cid::parse(&kubo.add(&noise(5000, 1), &[]).await).unwrap();
    let small = cid::parse(&kubo.add(&noise(500, 2), &[]).await).unwrap();
    let absent = cid::parse("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq").unwrap();
    let mut ours = Ours::start().await;
    ours.connect(kubo.tcp(), Transport::BitswapTcp).await;
    let want = |cid| Want::new(cid, WantKind::Have, 1);
    ours.client.send_wants(kubo.peer, vec![want(large), want(small), want(absent)]).unwrap();
    let (mut have, mut have_not, mut inlined) = (None, None, None);
    while have.is_none() || have_not.is_none() || inlined.is_none() {
        match ours.next().await {
            ExchangeEvent::Have { cid, .. } => have = Some(cid),
            ExchangeEvent::DontHave { cid, .. } => have_not = Some(cid),
            ExchangeEvent::Block { block, .. } => inlined = Some(*block.cid()),
            _ => {}
        }
    }
    assert_eq!((have, have_not, inlined), (Some(large), Some(absent), Some(small)));
    ours.stop().await;
    kubo.stop().await;
}

/// Kubo adds a file; we fetch its blocks and serve them to another Kubo that knows only us.
async fn serves_a_file(quic: bool) {
    let Some(binary) = kubo::binary() else { return };
    let (giver, taker) = (Kubo::start(&binary).await, Kubo::start(&binary).await);
    let data = noise(5_000_000, 3);
    let root = giver.add(&data, &[]).await;
    let mut cids: Vec<Cid> = giver.refs(&root).await.iter().map(|text| cid::parse(text).unwrap()).collect();
    cids.push(cid::parse(&root).unwrap());

    let mut ours = Ours::start().await;
    ours.connect(giver.tcp(), Transport::BitswapTcp).await;
    let blocks = ours.fetch(giver.peer, &cids).await;
    ours.store.put(blocks.into_values().collect()).await.unwrap();
    giver.stop().await;

    let part = if quic { "/quic-v1" } else { "/tcp/" };
    let addr = ours.client.listen_addrs().into_iter().find(|addr| addr.to_string().contains(part)).unwrap();
    taker.connect(&addr).await;
    assert!(taker.cat(&root).await == data, "the file that kubo read from us differs");
    ours.stop().await;
    taker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubo_reads_a_file_from_us_over_tcp() {
    serves_a_file(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubo_reads_a_file_from_us_over_quic() {
    serves_a_file(true).await;
}
