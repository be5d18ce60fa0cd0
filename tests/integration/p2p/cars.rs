//! Whole files over the gateway of a libp2p peer, and peers whose CARs are not what they should be: real nodes, QUIC.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use libp2p::{Multiaddr, PeerId};
use tempfile::TempDir;
use tidegate::blockstore::Blockstore;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::dag::FileReader;
use tidegate::denylist::Denylists;
use tidegate::exchange::Exchange;
use tidegate::gateway;
use tidegate::ipld::{Block, Cid};
use tidegate::listener::{self, Streams};
use tidegate::names::{NsMap, Resolver};
use tidegate::p2p::{Client, Config, Node};
use tidegate::record::{AttemptOutcome, Policy, Transport};
use tidegate::retriever::{self, Retriever, Session, SessionOptions};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::gateway::world::World;
use crate::http_peer::cars::{as_car, chunks, file, of_type, read, root_of, telling, wrong};
use crate::http_peer::rig::{Nothing, attempt, cut, status};

/// Liveness only.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

/// A node that serves blocks over Bitswap, and CARs in its own manner.
struct Provider {
    client: Client,
    _streams: Streams,
    _supervisor: Supervisor,
    _dir: TempDir,
}

impl Provider {
    /// Our gateway for peers over the same blocks.
    async fn honest(blocks: &[Block]) -> Self {
        let metrics = Metrics::new();
        let world = World::new();
        world.put(blocks.to_vec()).await;
        let state = gateway::State {
            retriever: Retriever::local(world.store.clone()),
            names: Resolver::fixed(NsMap::default()),
            routing: None,
            denylists: Denylists::default(),
            sink: world.records.clone(),
            config: gateway::Config::default(),
            is_admin_token: Arc::new(|_| false),
        };
        Self::start(blocks, gateway::trustless(state, &metrics), &metrics).await
    }

    /// One that answers requests for CARs with what `car` makes, and says how often it was asked for one.
    async fn of_cars(
        blocks: &[Block],
        car: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> (Self, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let seen = asked.clone();
        let handle = move |request: Request| {
            let (car, seen) = (car.clone(), seen.clone());
            async move {
                if request.uri().path() == "/.well-known/libp2p/protocols" {
                    return Response::new(Body::from(r#"{"/ipfs/gateway":{"path":"/at"}}"#));
                }
                assert!(request.uri().to_string().starts_with("/at/ipfs/"), "{}", request.uri());
                seen.fetch_add(1, Ordering::SeqCst);
                car()
            }
        };
        (Self::start(blocks, Router::new().fallback(handle), &Metrics::new()).await, asked)
    }

    async fn start(blocks: &[Block], router: Router, metrics: &Metrics) -> Self {
        let (supervisor, dir, store) = (Supervisor::new(), tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        store.put(blocks.to_vec()).await.unwrap();
        let options = listener::Options {
            name: "libp2p",
            config: listener::Config::default(),
            trusted_proxies: Vec::new(),
            tls: None,
            stats: listener::Stats::new(metrics),
            tunnel_to: None,
        };
        let streams = Streams::new(router, options, &supervisor, CancellationToken::new());
        let client = Node::start(&Config::loopback(), dir.path(), store, metrics, &supervisor).await.unwrap();
        client.serve_http(streams.clone());
        Self { client, _streams: streams, _supervisor: supervisor, _dir: dir }
    }

    fn id(&self) -> PeerId {
        self.client.peer_id()
    }

    fn addr(&self, part: &str) -> Multiaddr {
        self.client.listen_addrs().into_iter().find(|addr| addr.to_string().contains(part)).unwrap()
    }
}

/// A retriever whose configured peers are these.
struct Seeker {
    client: Client,
    retriever: Retriever,
    metrics: Metrics,
    _supervisor: Supervisor,
    _dir: TempDir,
}

impl Seeker {
    /// Connected, and it knows where their gateways are.
    async fn of(providers: &[&Provider], transport: &str) -> Self {
        let (metrics, supervisor, dir) = (Metrics::new(), Supervisor::new(), tempfile::tempdir().unwrap());
        let config = Config { peers: providers.iter().map(|p| p.addr(transport)).collect(), ..Config::loopback() };
        let store = Arc::new(MemoryStore::new());
        let client = Node::start(&config, dir.path(), store, &metrics, &supervisor).await.unwrap();
        let retriever = Retriever::new(
            &retriever::Config::default(),
            Arc::new(Nothing),
            Some(Arc::new(client.clone())),
            client.routers(),
            &metrics,
            &supervisor,
        );
        let seeker = Self { client, retriever, metrics, _supervisor: supervisor, _dir: dir };
        seeker
            .until("everybody is connected and has said what it speaks", || {
                let connected = seeker.client.connected().len() == providers.len();
                connected && providers.iter().all(|p| seeker.client.serves_http(&p.id()))
            })
            .await;
        seeker
    }

    /// The first file of a peer comes over Bitswap, while it is asked where its gateway is.
    async fn learn(&self, first: &Block) {
        let session = self.session(first.cid());
        root_of(&session, *first.cid()).await.unwrap();
        self.until("the gateway is known", || self.metric("p2p_http_requests_total") >= 1.0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    fn session(&self, root: &Cid) -> Session {
        self.retriever.session(*root, SessionOptions::default())
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|line| line.starts_with(&format!("tidegate_{name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let wait = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

/// Two files: the first to get to know the peer.
fn files(length: usize) -> (Block, Vec<u8>, Vec<Block>) {
    let (_, first) = file(300_000);
    let (data, blocks) = file(length);
    (first[0].clone(), data, blocks)
}

async fn a_file_comes_in_one_answer(transport: &str, cars: f64) {
    // Two levels of nodes.
    let (first, data, blocks) = files(60 * MIB);
    let all: Vec<Block> = std::iter::once(&first).chain(&blocks).cloned().collect();
    let provider = Provider::honest(&all).await;
    let seeker = Seeker::of(&[&provider], transport).await;
    if cars > 0.0 {
        seeker.learn(&first).await;
    }
    let session = seeker.session(blocks[0].cid());
    assert!(read(&session, *blocks[0].cid()).await == data, "byte for byte");
    assert_eq!(seeker.metric("p2p_http_cars_total"), cars);
    let report = session.report();
    assert_eq!((report.duplicate_bytes, report.attempts.len()), (0, 1));
    assert_eq!(report.attempts[0].outcome, AttemptOutcome::Delivered);
    assert_eq!(report.attempts[0].bytes, blocks.iter().map(Block::len).sum::<usize>() as u64);
    let by_car = seeker.metric("p2p_http_car_blocks_total");
    let over_bitswap = seeker.metric("bitswap_blocks_received_total");
    let expected = if cars > 0.0 { (blocks.len() as f64, 1.0) } else { (0.0, blocks.len() as f64) };
    assert_eq!((by_car, over_bitswap), expected);
    let transport = if cars > 0.0 { Transport::HttpLibp2p } else { Transport::BitswapTcp };
    assert_eq!(report.attempts[0].transport, Some(transport));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_from_a_peer_over_quic_in_one_answer() {
    a_file_comes_in_one_answer("/quic-v1", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_blocks_are_asked_for() {
    a_file_comes_in_one_answer("/tcp/", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_a_part_who_has_two_providers_and_the_standard_policy_ask_for_blocks() {
    let (first, data, blocks) = files(3 * MIB);
    let all: Vec<Block> = std::iter::once(&first).chain(&blocks).cloned().collect();
    let root = *blocks[0].cid();
    let (one, two) = (Provider::honest(&all).await, Provider::honest(&all).await);
    let seeker = Seeker::of(&[&one], "/quic-v1").await;
    seeker.learn(&first).await;
    assert_eq!(seeker.session(&root).fetch(&root).await.unwrap(), blocks[0]);
    let options = SessionOptions { policy: Some(Policy::Standard), ..SessionOptions::default() };
    assert!(read(&seeker.retriever.session(root, options), root).await == data);
    assert_eq!(seeker.metric("p2p_http_cars_total"), 0.0);
    let seeker = Seeker::of(&[&one, &two], "/quic-v1").await;
    // Of two that are equally near neither is asked for what is below, nor where its gateway is: which it is, the round trips
    // on loopback decide.
    root_of(&seeker.session(first.cid()), *first.cid()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..2 {
        let session = seeker.session(&root);
        assert!(read(&session, root).await == data);
        assert!(session.report().duplicate_bytes <= 1 << 20, "{}", session.report().duplicate_bytes);
    }
    // The beginning of a file, from one that is known to have a gateway; never all of it.
    let cars = seeker.metric("p2p_http_car_blocks_total");
    assert!(cars <= 2.0 * blocks.len() as f64 / 2.0, "{cars}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_or_refused_car_did_not_bring_comes_over_bitswap() {
    let (first, data, blocks) = files(3 * MIB);
    let all: Vec<Block> = std::iter::once(&first).chain(&blocks).cloned().collect();
    let part = Bytes::from(chunks(&blocks[..5]).concat());
    let (cut_off, ended, whole) = (part.clone(), part.clone(), blocks.clone());
    type Answer = Arc<dyn Fn() -> Response<Body> + Send + Sync>;
    let cases: [(&str, Answer, usize, usize); 5] = [
        ("cut", Arc::new(move || of_type(cut(cut_off.clone()).into_body())), 2, 1),
        ("ended", Arc::new(move || of_type(Body::from(ended.clone()))), 2, 1),
        ("whole", Arc::new(move || as_car(&whole)), 2, blocks.len()),
        ("no CAR", Arc::new(|| status(StatusCode::NOT_ACCEPTABLE)), 1, 0),
        ("busy", Arc::new(|| status(StatusCode::TOO_MANY_REQUESTS)), 2, 0),
    ];
    for (what, answer, asks, from_car) in cases {
        let (provider, asked) = Provider::of_cars(&all, move || answer()).await;
        let seeker = Seeker::of(&[&provider], "/quic-v1").await;
        seeker.learn(&first).await;
        for _ in 0..2 {
            assert!(read(&seeker.session(blocks[0].cid()), *blocks[0].cid()).await == data, "{what}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), asks, "{what}");
        let over_bitswap = seeker.metric("bitswap_blocks_received_total");
        assert!(over_bitswap <= (1 + 2 * (blocks.len() - from_car)) as f64, "{what}: {over_bitswap}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_block_in_a_car_ends_all_that_is_asked_of_the_peer() {
    let (first, _, blocks) = files(3 * MIB);
    let all: Vec<Block> = std::iter::once(&first).chain(&blocks).cloned().collect();
    let cid = *blocks[0].cid();
    for (what, body) in wrong(&blocks) {
        let (provider, asked) = Provider::of_cars(&all, move || of_type(Body::from(body.clone()))).await;
        let seeker = Seeker::of(&[&provider], "/quic-v1").await;
        seeker.learn(&first).await;
        let before = seeker.metric("bitswap_blocks_received_total");
        let session = seeker.session(&cid);
        if let Ok(root) = root_of(&session, cid).await {
            let mut reader = FileReader::whole(session.clone(), &root).unwrap();
            let ended = async { while let Some(Ok(_)) = reader.next().await {} };
            tokio::time::timeout(PATIENCE, ended).await.expect(what);
        }
        assert_eq!(attempt(&session.report(), provider.id()).outcome, AttemptOutcome::Corrupt, "{what}");
        let asked = asked.load(Ordering::SeqCst);
        let over_bitswap = seeker.metric("bitswap_blocks_received_total") - before;
        assert_eq!((asked, over_bitswap), (1, 0.0), "{what}: nothing after the wrong block");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_is_sent_little_and_one_that_goes_away_ends_the_car() {
    let (first, _, blocks) = files(40 * MIB);
    let all: Vec<Block> = std::iter::once(&first).chain(&blocks).cloned().collect();
    let (frames, dropped) = (chunks(&blocks), Arc::new(AtomicBool::new(false)));
    let told = dropped.clone();
    let (provider, _) = Provider::of_cars(&all, move || telling(frames.clone(), &told)).await;
    let seeker = Seeker::of(&[&provider], "/quic-v1").await;
    seeker.learn(&first).await;
    let session = seeker.session(blocks[0].cid());
    let root = root_of(&session, *blocks[0].cid()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let received = seeker.metric("p2p_http_car_bytes_total");
    assert!(received < 6.0 * MIB as f64, "{received} bytes for a reader that wants nothing yet");
    let mut reader = FileReader::whole(session.clone(), &root).unwrap();
    reader.next().await.unwrap().unwrap();
    assert!(!dropped.load(Ordering::SeqCst));
    drop((reader, session));
    seeker.until("the CAR is ended", || dropped.load(Ordering::SeqCst)).await;
}
