//! The retriever's engine over exchanges that live in this process.

mod folders;
mod links;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use libp2p::{Multiaddr, PeerId};
use tidegate::blockstore::{Hit, StoreError, Tier};
use tidegate::dag::Resolved;
use tidegate::dag::archive::{Archive, ArchiveKind};
use tidegate::denylist::{Denylists, Judge};
use tidegate::exchange::{Arrival, ConnectError, Exchange, ExchangeEvent, SendError, Want, WantKind};
use tidegate::ipld::builder::{DirBuilder, Profile};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::record::{AttemptOutcome, CacheState, EventKind, Phase, Policy, Source, Transport};
use tidegate::retriever::probe::{Answer, Link, ProbeOptions};
use tidegate::retriever::{Config, FetchError, Hint, LocalBlocks, Retriever, SessionOptions};
use tidegate::routing::{ContentRouter, Provider, RouterKind, RoutingError};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tidegate::units::ByteSize;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How a peer behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Answers nothing.
    Silent,
    /// Sends this many blocks, then nothing more.
    StallsAfter(usize),
    /// Sends other bytes than those asked for.
    Corrupt,
    /// Answers a question with the block itself, as Kubo does when it is small.
    Eager,
    /// Cannot be dialled.
    Dead,
}

struct FakePeer {
    manner: Manner,
    rtt: Duration,
    /// Bytes a second.
    rate: f64,
    blocks: HashMap<Cid, Block>,
    connected: bool,
    free_at: Instant,
    sent: usize,
    cancelled: HashSet<Cid>,
}

#[derive(Default)]
struct NetState {
    peers: HashMap<PeerId, FakePeer>,
    wants: Vec<(PeerId, Want)>,
    cancels: Vec<(PeerId, Cid)>,
    dials: Vec<(PeerId, bool)>,
}

/// Peers in this process, as an exchange.
#[derive(Clone)]
struct Net {
    state: Arc<Mutex<NetState>>,
    events: mpsc::Sender<ExchangeEvent>,
    receiver: Arc<Mutex<Option<mpsc::Receiver<ExchangeEvent>>>>,
    supervisor: Supervisor,
}

impl Net {
    fn new(supervisor: &Supervisor) -> Self {
        let (events, receiver) = mpsc::channel(1024);
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        Self { state: Arc::default(), events, receiver, supervisor: supervisor.clone() }
    }

    fn peer(&self, manner: Manner, connected: bool, rtt_ms: u64, mbit: f64, blocks: &[Block]) -> PeerId {
        let id = PeerId::random();
        let blocks = blocks.iter().map(|block| (*block.cid(), block.clone())).collect();
        let peer = FakePeer {
            manner,
            rtt: Duration::from_millis(rtt_ms),
            rate: mbit * 1e6 / 8.0,
            blocks,
            connected,
            free_at: Instant::now(),
            sent: 0,
            cancelled: HashSet::new(),
        };
        self.state.lock().unwrap().peers.insert(id, peer);
        id
    }

    fn wants_for(&self, cid: &Cid, kind: WantKind) -> usize {
        let state = self.state.lock().unwrap();
        state.wants.iter().filter(|(_, want)| want.cid == *cid && want.kind == kind).count()
    }

    fn asked(&self, peer: PeerId) -> usize {
        self.state.lock().unwrap().wants.iter().filter(|(to, want)| *to == peer && want.kind == WantKind::Block).count()
    }

    fn cancels(&self) -> usize {
        self.state.lock().unwrap().cancels.len()
    }

    fn later(&self, at: Instant, event: ExchangeEvent) {
        let (events, state) = (self.events.clone(), self.state.clone());
        self.supervisor.spawn_short(async move {
            tokio::time::sleep_until(at).await;
            if let ExchangeEvent::Block { peer, block, .. } = &event
                && state.lock().unwrap().peers.get(peer).is_none_or(|p| p.cancelled.contains(block.cid()))
            {
                return;
            }
            let _ = events.send(event).await;
        });
    }
}

impl Exchange for Net {
    fn send_wants(&self, peer: PeerId, wants: Vec<Want>) -> Result<(), SendError> {
        let mut state = self.state.lock().unwrap();
        state.wants.extend(wants.iter().map(|want| (peer, *want)));
        let fake = state.peers.get_mut(&peer).filter(|fake| fake.connected).ok_or(SendError::NotConnected)?;
        for want in wants {
            fake.cancelled.remove(&want.cid);
            let answer = Instant::now() + fake.rtt;
            let cid = want.cid;
            let block = fake.blocks.get(&cid).cloned();
            match (fake.manner, want.kind, block) {
                (Manner::Silent | Manner::Dead, ..) => {}
                (_, _, None) => self.later(answer, ExchangeEvent::DontHave { peer, cid }),
                (Manner::Eager, WantKind::Have, Some(block)) => {
                    let (wire_bytes, arrival) = (block.len(), Arrival::now());
                    self.later(answer, ExchangeEvent::Block { peer, block, wire_bytes, arrival });
                }
                (_, WantKind::Have, Some(_)) => self.later(answer, ExchangeEvent::Have { peer, cid }),
                (manner, WantKind::Block, Some(block)) => {
                    fake.sent += 1;
                    if matches!(manner, Manner::StallsAfter(blocks) if fake.sent > blocks) {
                        continue;
                    }
                    let block = if manner == Manner::Corrupt { flipped(&block) } else { block };
                    let size = block.len();
                    fake.free_at = fake.free_at.max(answer) + Duration::from_secs_f64(size as f64 / fake.rate);
                    self.later(
                        fake.free_at,
                        ExchangeEvent::Block {
                            peer,
                            block,
                            wire_bytes: size + 40,
                            arrival: Arrival { at: fake.free_at, received: None },
                        },
                    );
                }
            }
        }
        Ok(())
    }

    fn cancel(&self, peer: PeerId, cids: Vec<Cid>) {
        let mut state = self.state.lock().unwrap();
        state.cancels.extend(cids.iter().map(|cid| (peer, *cid)));
        if let Some(fake) = state.peers.get_mut(&peer) {
            fake.cancelled.extend(cids);
        }
    }

    fn connect(&self, peer: PeerId, _: Vec<Multiaddr>, trusted: bool) {
        let mut state = self.state.lock().unwrap();
        state.dials.push((peer, trusted));
        let Some(fake) = state.peers.get_mut(&peer).filter(|fake| fake.manner != Manner::Dead) else {
            let error = ConnectError::Dial("refused".to_owned());
            return self
                .later(Instant::now() + Duration::from_millis(20), ExchangeEvent::ConnectFailed { peer, error });
        };
        fake.connected = true;
        let dial = fake.rtt * 2;
        let (transport, address) = (Transport::BitswapQuic, Multiaddr::empty());
        self.later(Instant::now() + dial, ExchangeEvent::Connected { peer, transport, address, dial: Some(dial) });
    }

    fn connected(&self) -> Vec<(PeerId, Transport)> {
        let state = self.state.lock().unwrap();
        let connected = state.peers.iter().filter(|(_, peer)| peer.connected);
        connected.map(|(id, _)| (*id, Transport::BitswapTcp)).collect()
    }

    fn events(&self) -> Option<mpsc::Receiver<ExchangeEvent>> {
        self.receiver.lock().unwrap().take()
    }
}

/// A block of the same size that hashes to something else: what a flipped byte looks like in Bitswap.
fn flipped(block: &Block) -> Block {
    let mut data = block.data().to_vec();
    data[0] ^= 1;
    Block::encode(block.cid().codec(), HashCode::Sha2_256, Bytes::from(data)).unwrap()
}

/// A router that names the same peers for every CID.
struct Names(Vec<PeerId>, RouterKind, Duration);

impl ContentRouter for Names {
    fn kind(&self) -> RouterKind {
        self.1
    }

    fn find_providers(&self, _: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        let (source, after) = (self.1, self.2);
        let providers: Vec<_> =
            self.0.iter().map(|peer| Ok(Provider { peer: *peer, addrs: vec![], transports: vec![], source })).collect();
        futures::stream::once(tokio::time::sleep(after))
            .flat_map(move |()| futures::stream::iter(providers.clone()))
            .boxed()
    }
}

/// Memory as the only tier, with counts of who asked it.
#[derive(Default)]
struct Memory {
    blocks: Mutex<HashMap<Cid, Block>>,
    lookups: AtomicUsize,
}

#[async_trait]
impl LocalBlocks for Memory {
    fn peek(&self, cid: &Cid) -> Option<Block> {
        self.blocks.lock().unwrap().get(cid).cloned()
    }

    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        Ok(self.peek(cid).map(|block| Hit { block, tier: Tier::Memory }))
    }

    fn cache(&self, block: &Block) {
        self.blocks.lock().unwrap().insert(*block.cid(), block.clone());
    }
}

fn blocks(count: usize, size: usize) -> Vec<Block> {
    let block = |k: usize| {
        let mut data = vec![k as u8; size];
        data[..8].copy_from_slice(&(k as u64 + 1).to_be_bytes());
        Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(data)).unwrap()
    };
    (0..count).map(block).collect()
}

struct World {
    net: Net,
    memory: Arc<Memory>,
    supervisor: Supervisor,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        let supervisor = Supervisor::new();
        Self { net: Net::new(&supervisor), memory: Arc::default(), supervisor, metrics: Metrics::new() }
    }

    fn retriever(&self, config: &Config, routers: Vec<Arc<dyn ContentRouter>>) -> Retriever {
        let exchange: Arc<dyn Exchange> = Arc::new(self.net.clone());
        Retriever::new(config, self.memory.clone(), Some(exchange), routers, &self.metrics, &self.supervisor)
    }
}

/// Reads blocks in order as a file reader would: hints ahead, then fetch.
async fn read_all(session: &tidegate::retriever::Session, blocks: &[Block]) -> Vec<Block> {
    let (mut got, mut hinted, mut ahead) = (Vec::new(), 0, 0u64);
    for block in blocks {
        while hinted < blocks.len() && (ahead == 0 || ahead + blocks[hinted].len() as u64 <= session.read_ahead()) {
            ahead += blocks[hinted].len() as u64;
            session.prefetch([Hint { cid: *blocks[hinted].cid(), size: Some(blocks[hinted].len() as u64) }]);
            hinted += 1;
        }
        got.push(session.fetch(block.cid()).await.unwrap());
        ahead -= block.len() as u64;
    }
    got
}

#[tokio::test]
async fn a_thousand_requests_for_one_cold_block_are_one_upstream_fetch() {
    let (world, blocks) = (World::new(), blocks(1, 200_000));
    world.net.peer(Manner::Honest, true, 20, 100.0, &blocks);
    let retriever = world.retriever(&Config::default(), vec![]);
    let cid = *blocks[0].cid();
    let fetches = (0..1_000).map(|_| {
        let session = retriever.session(cid, SessionOptions::default());
        async move { session.fetch(&cid).await.map(|block| block.len()) }
    });
    let all = futures::future::join_all(fetches).await;
    assert!(all.iter().all(|size| *size.as_ref().unwrap() == 200_000));
    assert_eq!(world.net.wants_for(&cid, WantKind::Block), 1);
    assert_eq!(retriever.totals().blocks, 1);
}

#[tokio::test]
async fn a_dropped_fetch_takes_its_want_back_unless_somebody_else_waits() {
    let (world, blocks) = (World::new(), blocks(1, 200_000));
    world.net.peer(Manner::Silent, true, 20, 100.0, &blocks);
    let retriever = world.retriever(&Config::default(), vec![]);
    let cid = *blocks[0].cid();
    let (one, two) =
        (retriever.session(cid, SessionOptions::default()), retriever.session(cid, SessionOptions::default()));
    let waited = Duration::from_millis(500);
    let (first, second) = tokio::join!(
        tokio::time::timeout(waited, one.fetch(&cid)),
        tokio::time::timeout(waited * 2, async {
            let fetch = two.fetch(&cid);
            tokio::pin!(fetch);
            assert!(tokio::time::timeout(waited + Duration::from_millis(100), &mut fetch).await.is_err());
            assert_eq!(world.net.cancels(), 0, "the second still waits");
            fetch.await
        })
    );
    assert!(first.is_err() && second.is_err());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.net.cancels(), 1);
    drop((one, two));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(retriever.active_sessions(), 0);
}

#[tokio::test]
async fn what_nobody_has_fails_at_once_and_says_who_was_asked() {
    let (world, missing) = (World::new(), blocks(1, 1_000));
    for _ in 0..3 {
        world.net.peer(Manner::Honest, true, 30, 100.0, &[]);
    }
    let dead = world.net.peer(Manner::Dead, false, 30, 100.0, &[]);
    let router = Names(vec![dead], RouterKind::Delegated, Duration::from_millis(40));
    let retriever = world.retriever(&Config::default(), vec![Arc::new(router)]);
    let cid = *missing[0].cid();
    let session = retriever.session(cid, SessionOptions::default());
    let started = Instant::now();
    let error = session.fetch(&cid).await.unwrap_err();
    assert!(matches!(error, FetchError::NotFound { providers_found: 1, providers_tried: 4, .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let report = session.report();
    assert_eq!(report.network_bytes, 0);
    assert!(report.attempts.iter().any(|a| a.peer == dead && a.outcome == AttemptOutcome::Unreachable));
}

#[tokio::test]
async fn no_router_and_no_peer_is_not_found_without_waiting() {
    let world = World::new();
    let retriever = world.retriever(&Config::default(), vec![]);
    let cid = *blocks(1, 10)[0].cid();
    let error = retriever.session(cid, SessionOptions::default()).fetch(&cid).await.unwrap_err();
    assert!(matches!(error, FetchError::NotFound { phase: Phase::Route, .. }), "{error}");
}

#[tokio::test]
async fn a_provider_that_says_nothing_times_out_with_the_phase() {
    let (world, blocks) = (World::new(), blocks(1, 1_000));
    let silent = world.net.peer(Manner::Silent, false, 30, 100.0, &blocks);
    let router = Names(vec![silent], RouterKind::Dht, Duration::from_millis(10));
    let config = Config { timeout: Duration::from_secs(3), ..Config::default() };
    let retriever = world.retriever(&config, vec![Arc::new(router)]);
    let cid = *blocks[0].cid();
    let session = retriever.session(cid, SessionOptions::default());
    let started = Instant::now();
    let error = session.fetch(&cid).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout { phase: Phase::Fetch, providers_found: 1, .. }), "{error}");
    let waited = started.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&waited), "{waited:?}");
    assert_eq!(session.report().attempts[0].outcome, AttemptOutcome::Stalled);
}

#[tokio::test]
async fn a_router_that_never_ends_times_out_in_the_routing_phase() {
    let world = World::new();
    let router = Names(vec![], RouterKind::Dht, Duration::from_secs(3_600));
    let config = Config { timeout: Duration::from_millis(300), ..Config::default() };
    let retriever = world.retriever(&config, vec![Arc::new(router)]);
    let cid = *blocks(1, 10)[0].cid();
    let error = retriever.session(cid, SessionOptions::default()).fetch(&cid).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout { phase: Phase::Route, .. }), "{error}");
}

#[tokio::test]
async fn a_provider_that_stops_midway_leaves_a_row_with_its_bytes_and_the_file_completes() {
    let (world, blocks) = (World::new(), blocks(40, 262_144));
    world.net.peer(Manner::Honest, true, 40, 50.0, &blocks);
    let stalls = world.net.peer(Manner::StallsAfter(6), true, 30, 50.0, &blocks);
    let retriever = world.retriever(&Config::default(), vec![]);
    let session = retriever.session(*blocks[0].cid(), SessionOptions::default());
    let started = Instant::now();
    session.fetch(blocks[0].cid()).await.unwrap();
    let got = read_all(&session, &blocks[1..]).await;
    assert_eq!(got, blocks[1..]);
    let report = session.report();
    let row = report.attempts.iter().find(|a| a.peer == stalls).unwrap();
    assert_eq!(row.outcome, AttemptOutcome::Stalled, "{row:?}");
    assert_eq!(row.bytes, row.blocks * 262_144);
    assert!(row.blocks > 0 && row.blocks <= 6);
    assert!(report.events.iter().any(|e| e.kind == EventKind::Stalled && e.peer == Some(stalls)));
    // One peer alone needs 1.7 s for it; the stall may cost its window and the patience.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(report.blocks_network, 40);
    assert_eq!(report.network_bytes, 40 * 262_144);
    assert!(report.optimization_score.is_some_and(|score| score > 0.2 && score <= 1.0));
    // 50 Mbit/s, told in bytes a second, as the ledger does.
    let honest = report.attempts.iter().find(|a| a.outcome == AttemptOutcome::Delivered).unwrap();
    assert!((3e6..12e6).contains(&honest.max_rate_bps.unwrap()), "{honest:?}");
    let known = retriever.peers().into_iter().find(|known| known.peer == honest.peer).unwrap();
    let ratio = known.max_rate.unwrap() / honest.max_rate_bps.unwrap();
    assert!((0.8..1.25).contains(&ratio), "the ledger's rate is {ratio} times the attempt's");
}

#[tokio::test]
async fn nothing_is_asked_of_a_peer_after_its_first_wrong_block() {
    let (world, blocks) = (World::new(), blocks(40, 262_144));
    world.net.peer(Manner::Honest, true, 60, 50.0, &blocks);
    let corrupt = world.net.peer(Manner::Corrupt, true, 10, 200.0, &blocks);
    let retriever = world.retriever(&Config::default(), vec![]);
    let session = retriever.session(*blocks[0].cid(), SessionOptions::default());
    session.fetch(blocks[0].cid()).await.unwrap();
    let before = world.net.asked(corrupt);
    assert_eq!(read_all(&session, &blocks).await, blocks);
    assert_eq!(world.net.asked(corrupt), before, "the root was wrong already");
    let report = session.report();
    assert_eq!(report.attempts.iter().find(|a| a.peer == corrupt).unwrap().outcome, AttemptOutcome::Corrupt);
    assert!(retriever.peers().iter().any(|p| p.peer == corrupt && p.strikes > 0.9));
}

#[tokio::test]
async fn the_small_files_of_an_archive_are_asked_for_together() {
    let (world, leaves) = (World::new(), blocks(100, 20_480));
    let mut folder = DirBuilder::new(&Profile::default());
    for (n, leaf) in leaves.iter().enumerate() {
        folder.add(&format!("{n:03}"), *leaf.cid(), leaf.len() as u64).unwrap();
    }
    let (mut all, built) = folder.finish().unwrap();
    all.extend(leaves);
    let peer = world.net.peer(Manner::Honest, true, 50, 100.0, &all);
    let retriever = world.retriever(&Config::default(), vec![]);
    let session = retriever.session(built.cid, SessionOptions::default());
    let root = Resolved::of_block(session.fetch(&built.cid).await.unwrap());
    let judge = Judge::new(&Denylists::default(), []);
    let mut archive = Archive::new(session, &root, ArchiveKind::Tar, judge);
    let mut bytes = 0;
    while bytes < 20_480 {
        bytes += archive.next().await.unwrap().unwrap().len();
    }
    let asked = world.net.asked(peer);
    assert!(asked > 50, "{asked} blocks were asked for when the first file was there");
    while let Some(chunk) = archive.next().await {
        bytes += chunk.unwrap().len();
    }
    assert!(bytes > 100 * 20_480);
    assert_eq!(world.net.asked(peer), 101, "each once");
}

#[tokio::test]
async fn blocks_that_are_larger_than_was_claimed_are_not_held_beyond_the_read_ahead() {
    let (world, blocks) = (World::new(), blocks(16, 262_144));
    let peer = world.net.peer(Manner::Honest, true, 5, 800.0, &blocks);
    let config = Config { session_read_ahead: ByteSize::mib(1), ..Config::default() };
    let retriever = world.retriever(&config, vec![]);
    let session = retriever.session(*blocks[0].cid(), SessionOptions::default());
    session.fetch(blocks[0].cid()).await.unwrap();
    session.prefetch(blocks[1..].iter().map(|block| Hint { cid: *block.cid(), size: Some(1) }));
    session.caught_up().await;
    assert_eq!(world.net.asked(peer), 16);
    assert!(session.held() <= 1 << 20, "{} bytes", session.held());
    // All of them are in the cache.
    for block in &blocks {
        assert_eq!(session.fetch(block.cid()).await.unwrap(), *block);
    }
    assert_eq!(world.net.asked(peer), 16);
}

#[tokio::test]
async fn the_standard_policy_asks_one_provider_ten_blocks_ahead() {
    let (world, blocks) = (World::new(), blocks(60, 262_144));
    let all: Vec<PeerId> = (0..3).map(|_| world.net.peer(Manner::Honest, false, 50, 100.0, &blocks)).collect();
    let router = Names(all.clone(), RouterKind::Delegated, Duration::from_millis(10));
    let retriever = world.retriever(&Config::default(), vec![Arc::new(router)]);
    let options = SessionOptions { policy: Some(Policy::Standard), local_only: false };
    let session = retriever.session(*blocks[0].cid(), options);
    session.fetch(blocks[0].cid()).await.unwrap();
    session.prefetch(blocks[1..].iter().map(|b| Hint { cid: *b.cid(), size: Some(262_144) }));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(all.iter().map(|peer| world.net.asked(*peer)).max(), Some(11), "the root and ten ahead");
    assert_eq!(read_all(&session, &blocks[1..]).await, blocks[1..]);
    assert_eq!(all.iter().filter(|peer| world.net.asked(**peer) > 0).count(), 1, "one provider");
    let report = session.report();
    assert_eq!(
        (report.policy, report.source(), report.cache_state()),
        (Policy::Standard, Source::Ipfs, CacheState::Miss)
    );
}

#[tokio::test]
async fn what_is_in_memory_is_served_without_the_engine() {
    let (world, blocks) = (World::new(), blocks(50, 1_000));
    world.net.peer(Manner::Honest, true, 20, 100.0, &blocks);
    blocks.iter().for_each(|block| world.memory.cache(block));
    let retriever = world.retriever(&Config::default(), vec![]);
    let session = retriever.session(*blocks[0].cid(), SessionOptions::default());
    assert_eq!(read_all(&session, &blocks).await, blocks);
    assert_eq!(retriever.active_sessions(), 0);
    assert_eq!(world.memory.lookups.load(Ordering::Relaxed), 0);
    assert!(world.net.state.lock().unwrap().wants.is_empty());
    let report = session.report();
    assert_eq!((report.blocks_memory, report.cache_state(), report.transfer_time), (50, CacheState::Memory, None));
}

#[tokio::test]
async fn providers_are_dialled_as_routers_name_them_and_the_row_says_which_router() {
    let (world, blocks) = (World::new(), blocks(8, 100_000));
    let dead = world.net.peer(Manner::Dead, false, 30, 100.0, &[]);
    let good = world.net.peer(Manner::Honest, false, 30, 100.0, &blocks);
    let fast = Names(vec![dead, good], RouterKind::Delegated, Duration::from_millis(30));
    let slow = Names(vec![], RouterKind::Dht, Duration::from_secs(20));
    let retriever = world.retriever(&Config::default(), vec![Arc::new(slow), Arc::new(fast)]);
    let session = retriever.session(*blocks[0].cid(), SessionOptions::default());
    let started = Instant::now();
    assert_eq!(read_all(&session, &blocks).await, blocks);
    assert!(started.elapsed() < Duration::from_secs(10), "the slow router costs nothing: {:?}", started.elapsed());
    let report = session.report();
    let row = report.attempts.iter().find(|a| a.peer == good).unwrap();
    assert_eq!((row.router, row.outcome), (RouterKind::Delegated, AttemptOutcome::Delivered));
    assert_eq!(row.connect, Some(Duration::from_millis(60)), "as the exchange measured it");
    assert!(report.routing.unwrap() >= Duration::from_millis(30));
    assert!(report.connect.is_some() && row.first_byte.is_some());
    assert!(world.net.state.lock().unwrap().dials.iter().all(|(_, trusted)| !trusted));
}

#[tokio::test]
async fn a_local_only_session_asks_nobody() {
    let (world, blocks) = (World::new(), blocks(1, 1_000));
    world.net.peer(Manner::Honest, true, 20, 100.0, &blocks);
    let retriever = world.retriever(&Config::default(), vec![]);
    let session = retriever.session(*blocks[0].cid(), SessionOptions { policy: None, local_only: true });
    session.prefetch([Hint { cid: *blocks[0].cid(), size: None }]);
    assert!(matches!(session.fetch(blocks[0].cid()).await, Err(FetchError::NotLocal { .. })));
    assert!(world.net.state.lock().unwrap().wants.is_empty());
}

#[tokio::test]
async fn stopping_ends_every_wait() {
    let (world, blocks) = (World::new(), blocks(1, 1_000));
    world.net.peer(Manner::Silent, true, 20, 100.0, &blocks);
    let retriever = world.retriever(&Config::default(), vec![]);
    let cid = *blocks[0].cid();
    let session = retriever.session(cid, SessionOptions::default());
    let (fetched, left) = tokio::join!(session.fetch(&cid), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.supervisor.stop(Duration::from_secs(5)).await
    });
    assert!(matches!(fetched, Err(FetchError::Stopping)));
    assert!(left.is_empty(), "{left:?}");
    assert!(matches!(session.fetch(&cid).await, Err(FetchError::Stopping)));
}

#[tokio::test]
async fn every_bound_has_its_metric() {
    let world = World::new();
    let _retriever = world.retriever(&Config::default(), vec![]);
    let text = world.metrics.encode();
    for name in ["over_bound", "hints_dropped", "ledger_evicted", "sends_refused", "duplicate_bytes", "sessions"] {
        assert!(text.contains(&format!("tidegate_retriever_{name}")), "{name}");
    }
}

#[tokio::test]
async fn sessions_that_read_local_blocks_ahead_share_the_reorder_budget() {
    let world = World::new();
    let blocks = blocks(1, 1000);
    let config = Config::default();
    let retriever = world.retriever(&config, Vec::new());
    world.memory.cache(&blocks[0]);
    let session = || {
        let session = retriever.session(*blocks[0].cid(), SessionOptions::default());
        session.prefetch([Hint { cid: *blocks[0].cid(), size: Some(1000) }]);
        session
    };
    let mut sessions: Vec<_> = (0..16).map(|_| session()).collect();
    assert!(sessions.iter().all(|session| session.read_ahead() <= config.reorder_budget.0 / 16));
    sessions.truncate(1);
    assert_eq!(sessions[0].read_ahead(), config.session_read_ahead.0);
}

const PROBE: ProbeOptions = ProbeOptions { timeout: Duration::from_secs(20), max_providers: 20 };

#[tokio::test]
async fn a_probe_asks_everybody_and_fetches_nothing() {
    let (world, blocks) = (World::new(), blocks(1, 200_000));
    let [near, other, silent] = [
        world.net.peer(Manner::Honest, true, 20, 100.0, &blocks),
        world.net.peer(Manner::Honest, false, 20, 100.0, &[]),
        world.net.peer(Manner::Silent, false, 20, 100.0, &blocks),
    ];
    let dead = world.net.peer(Manner::Dead, false, 20, 100.0, &blocks);
    let router = Names(vec![other, silent, dead], RouterKind::Delegated, Duration::from_millis(40));
    let retriever = world.retriever(&Config::default(), vec![Arc::new(router)]);
    let cid = *blocks[0].cid();
    let probe = retriever.probe(&cid, ProbeOptions { timeout: Duration::from_secs(1), ..PROBE }).await.unwrap();
    let answers: Vec<_> = probe.providers.iter().map(|peer| (peer.peer, peer.answer)).collect();
    // In the order in which they were named; then the connected one that nobody named and that has it.
    let expected = [(other, Answer::HasNot), (silent, Answer::None), (dead, Answer::Unasked), (near, Answer::Has)];
    assert_eq!(answers, expected);
    assert!(matches!(probe.providers[0].link, Link::Dialled { .. }));
    assert!(matches!(probe.providers[2].link, Link::Failed { .. }));
    assert!(!probe.complete, "the silent one has said nothing");
    assert_eq!(world.net.wants_for(&cid, WantKind::Block), 0);
    assert_eq!(world.net.cancels(), 1, "what the silent one was asked is taken back");
    assert_eq!((retriever.totals().blocks, world.memory.blocks.lock().unwrap().len()), (0, 0));
}

#[tokio::test]
async fn a_small_block_instead_of_an_answer_to_a_probe_is_no_fault_of_the_peer() {
    let (world, blocks) = (World::new(), blocks(2, 200_000));
    let small = Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from_static(b"small")).unwrap();
    // 200 kB at 1 Mbit/s: it is still sending when the probe's answer comes.
    let peer = world.net.peer(Manner::Eager, true, 20, 1.0, &[&blocks[..], std::slice::from_ref(&small)].concat());
    let retriever = world.retriever(&Config::default(), vec![]);
    let session = retriever.session(*blocks[0].cid(), SessionOptions::default());
    let probe = async {
        while world.net.asked(peer) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        retriever.probe(small.cid(), PROBE).await.unwrap()
    };
    let (block, probe) = tokio::join!(session.fetch(blocks[0].cid()), probe);
    assert_eq!(block.unwrap(), blocks[0]);
    assert_eq!((probe.providers[0].peer, probe.providers[0].answer), (peer, Answer::Has));
    assert_eq!(retriever.totals().corrupt, 0);
    assert!(retriever.peers()[0].strikes == 0.0);
}

#[tokio::test]
async fn a_probe_that_is_dropped_takes_back_its_question_and_not_what_a_session_wants() {
    let (world, blocks) = (World::new(), blocks(1, 200_000));
    world.net.peer(Manner::Silent, true, 20, 100.0, &blocks);
    let retriever = world.retriever(&Config::default(), vec![]);
    let cid = *blocks[0].cid();
    let session = retriever.session(cid, SessionOptions::default());
    let brief = Duration::from_millis(300);
    let (fetched, ()) = tokio::join!(tokio::time::timeout(brief * 3, session.fetch(&cid)), async {
        tokio::time::sleep(brief).await;
        assert!(tokio::time::timeout(brief, retriever.probe(&cid, PROBE)).await.is_err());
        assert_eq!(world.net.cancels(), 0, "the session still wants it");
    });
    assert!(fetched.is_err());
    drop(session);
    tokio::time::sleep(brief).await;
    let before = world.net.cancels();
    assert!(tokio::time::timeout(brief, retriever.probe(&cid, PROBE)).await.is_err());
    assert_eq!(world.net.cancels(), before + 1);
}
