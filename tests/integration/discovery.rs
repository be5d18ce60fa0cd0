//! Whole fetches whose provider is known to a delegated router or to the DHT alone, over real loopback connections.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore as Records;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, SwarmBuilder, kad, noise, tcp, yamux};
use tempfile::TempDir;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::blockstore::{Blockstore, Hit, StoreError};
use tidegate::http_peer::delegated::{DelegatedMetrics, DelegatedRouter};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::p2p::behaviour::KAD_PROTOCOL;
use tidegate::p2p::{Bootstrap, Client, Config, Node, identity};
use tidegate::record::{Attempt, AttemptOutcome, EventKind, Phase, SessionReport};
use tidegate::retriever::{FetchError, LocalBlocks, Retriever, SessionOptions};
use tidegate::routing::RouterKind;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// Liveness only.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any fetch may take: whoever waits for it has failed.
const SLOW: Duration = Duration::from_secs(300);
/// Where the seekers and the DHT live, and what the seekers may dial.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
/// Where nobody may dial who was not allowed to.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// No tier of this machine has anything.
struct Nothing;

#[async_trait]
impl LocalBlocks for Nothing {
    fn peek(&self, _: &Cid) -> Option<Block> {
        None
    }

    async fn lookup(&self, _: &Cid) -> Result<Option<Hit>, StoreError> {
        Ok(None)
    }

    fn cache(&self, _: &Block) {}
}

struct Running {
    client: Client,
    store: Arc<MemoryStore>,
    supervisor: Supervisor,
    metrics: Metrics,
    dir: TempDir,
}

/// A node with a retriever over it, the way the program composes them.
struct Seeker {
    node: Running,
    retriever: Retriever,
}

impl Running {
    async fn start(config: Config) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let (dir, supervisor, store) = (tempfile::tempdir().unwrap(), Supervisor::new(), Arc::new(MemoryStore::new()));
        let metrics = Metrics::new();
        let client = Node::start(&config, dir.path(), store.clone(), &metrics, &supervisor).await.unwrap();
        Self { client, store, supervisor, metrics, dir }
    }

    /// A node that has the block, and nobody knows.
    async fn provider(ip: Ipv4Addr, block: &Block) -> Self {
        let node = Self::start(at(ip)).await;
        node.store.put(vec![block.clone()]).await.unwrap();
        node
    }

    /// Hands on what lives on this machine.
    async fn dht_server() -> Self {
        Self::dht_server_that_permits("127.0.0.0/8").await
    }

    async fn dht_server_that_permits(range: &str) -> Self {
        let allow_private = vec![range.parse().unwrap()];
        Self::start(Config { dht: true, dht_server: true, allow_private, ..at(HERE) }).await
    }

    fn id(&self) -> PeerId {
        self.client.peer_id()
    }

    /// Its TCP address, with `/p2p`.
    fn addr(&self) -> Multiaddr {
        self.client.listen_addrs().into_iter().find(|addr| addr.to_string().contains("/tcp/")).unwrap()
    }

    fn key(&self) -> Keypair {
        identity::load_or_create(self.dir.path()).unwrap()
    }

    async fn stop(self) {
        self.client.shutdown().await;
        assert_eq!(self.supervisor.stop(Duration::from_secs(10)).await, Vec::<&str>::new());
    }
}

impl Seeker {
    /// Asks the node's own routers and those of these URLs.
    async fn start(config: Config, urls: &[String]) -> Self {
        let node = Running::start(config).await;
        let metrics = DelegatedMetrics::new(&node.metrics);
        let mut routers = node.client.routers();
        for url in urls {
            let router = DelegatedRouter::with_timeout(url, SLOW, metrics.clone()).unwrap();
            routers.push(Arc::new(router));
        }
        let exchange = Arc::new(node.client.clone());
        let config = tidegate::retriever::Config::default();
        let retriever =
            Retriever::new(&config, Arc::new(Nothing), Some(exchange), routers, &node.metrics, &node.supervisor);
        Self { node, retriever }
    }

    async fn fetch(&self, cid: &Cid) -> (Result<Block, FetchError>, SessionReport) {
        let session = self.retriever.session(*cid, SessionOptions::default());
        let answer = tokio::time::timeout(PATIENCE, session.fetch(cid)).await.expect("an answer in time");
        (answer, session.report())
    }

    async fn stop(self) {
        self.node.stop().await;
    }
}

fn at(ip: Ipv4Addr) -> Config {
    let listen = [format!("/ip4/{ip}/tcp/0"), format!("/ip4/{ip}/udp/0/quic-v1")];
    Config { listen: listen.iter().map(|addr| addr.parse().unwrap()).collect(), ..Config::loopback() }
}

/// Routing may name what is here, and nothing else that is private.
fn seeker() -> Config {
    Config { allow_private: vec!["127.0.0.1/32".parse().unwrap()], ..at(HERE) }
}

fn seeker_in(dht: &Running) -> Config {
    Config { dht: true, bootstrap: Bootstrap::List(vec![dht.addr()]), ..seeker() }
}

fn block(n: u8) -> Block {
    Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(vec![n; 100_000])).unwrap()
}

/// A router whose answer about this CID is this.
async fn router(cid: &Cid, answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    let about = path(format!("/routing/v1/providers/{cid}"));
    Mock::given(method("GET")).and(about).respond_with(answer).mount(&server).await;
    server
}

fn names(kind: &str, peer: PeerId, addrs: &[Multiaddr]) -> ResponseTemplate {
    let addrs = addrs.iter().map(|addr| format!("\"{addr}\"")).collect::<Vec<_>>().join(",");
    let record = format!(r#"{{"Schema":"peer","ID":"{peer}","Addrs":[{addrs}],"Protocols":["transport-bitswap"]}}"#);
    let body = if kind == JSON { format!(r#"{{"Providers":[{record}]}}"#) } else { format!("{record}\n") };
    ResponseTemplate::new(200).set_body_raw(body, kind)
}

fn nobody() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(r#"{"Providers":[]}"#, JSON)
}

/// Tells the DHT, in the provider's name, that it has the CID at these addresses; returns when the DHT knows.
async fn announce(dht: &Running, provider: &Running, addrs: &[Multiaddr], cid: &Cid) {
    let asker = Running::start(seeker_in(dht)).await;
    let known = async {
        loop {
            let mut answers = asker.client.routers().remove(0).find_providers(cid);
            while let Some(answer) = answers.next().await {
                if answer.is_ok_and(|found| found.peer == provider.id() && found.source == RouterKind::Dht) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    announce_until(known, dht, provider, addrs, cid).await;
    asker.stop().await;
}

async fn announce_until(
    known: impl Future<Output = ()>,
    dht: &Running,
    provider: &Running,
    addrs: &[Multiaddr],
    cid: &Cid,
) {
    let behaviour = |key: &Keypair| {
        let me = key.public().to_peer_id();
        let mut kad = kad::Behaviour::with_config(me, Records::new(me), kad::Config::new(KAD_PROTOCOL));
        kad.set_mode(Some(kad::Mode::Client));
        kad
    };
    let mut swarm = SwarmBuilder::with_existing_identity(provider.key())
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(behaviour)
        .unwrap()
        .build();
    let mut server = dht.addr();
    server.pop();
    swarm.behaviour_mut().add_address(&dht.id(), server);
    addrs.iter().for_each(|addr| swarm.add_external_address(addr.clone()));
    swarm.behaviour_mut().start_providing(cid.hash().to_bytes().into()).unwrap();

    let announcing = async {
        loop {
            if let SwarmEvent::OutgoingConnectionError { error, .. } = swarm.select_next_some().await {
                panic!("{error}");
            }
        }
    };
    let told = async {
        tokio::select! { () = known => {}, () = announcing => {} }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the DHT learns of the provider");
}

fn attempt(report: &SessionReport, peer: PeerId) -> &Attempt {
    report.attempts.iter().find(|attempt| attempt.peer == peer).expect("the provider was tried")
}

/// The routers that had said all they had to say.
fn finished(report: &SessionReport) -> Vec<String> {
    let ends = report.events.iter().filter(|event| event.kind == EventKind::RouterFinished);
    ends.filter_map(|event| Some(event.detail.as_deref()?.split(':').next()?.to_owned())).collect()
}

async fn found_by_a_router(kind: &str) {
    let block = block(1);
    let provider = Running::provider(HERE, &block).await;
    let server = router(block.cid(), names(kind, provider.id(), &[provider.addr()])).await;
    let seeker = Seeker::start(seeker(), &[server.uri()]).await;
    let (answer, report) = seeker.fetch(block.cid()).await;
    assert_eq!(answer.unwrap(), block);
    let attempt = attempt(&report, provider.id());
    assert_eq!(
        (attempt.router, attempt.outcome, attempt.blocks),
        (RouterKind::Delegated, AttemptOutcome::Delivered, 1)
    );
    assert!(attempt.connect.is_some() && report.routing.is_some());
    seeker.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_a_router_names_in_json_delivers() {
    found_by_a_router(JSON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_a_router_names_in_ndjson_delivers() {
    found_by_a_router(NDJSON).await;
}

/// The fetch ended because the only provider lives where we may not dial.
fn refused(answer: Result<Block, FetchError>, report: &SessionReport, provider: &Running, by: RouterKind) {
    let error = answer.unwrap_err();
    assert!(matches!(error, FetchError::NotFound { phase: Phase::Dial, providers_found: 1, .. }), "{error}");
    let attempt = attempt(report, provider.id());
    assert_eq!((attempt.router, attempt.outcome), (by, AttemptOutcome::Unreachable));
    assert_eq!(attempt.error_kind.as_deref(), Some("private_address"));
    assert_eq!(report.phase, Phase::Dial);
    assert!(provider.client.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_address_that_a_router_names_is_refused_at_once_and_said_so() {
    let block = block(2);
    let provider = Running::provider(ELSEWHERE, &block).await;
    let all = provider.client.listen_addrs();
    assert_eq!(all.len(), 2);
    let server = router(block.cid(), names(NDJSON, provider.id(), &all)).await;
    let seeker = Seeker::start(seeker(), &[server.uri()]).await;
    let (answer, report) = seeker.fetch(block.cid()).await;
    refused(answer, &report, &provider, RouterKind::Delegated);
    seeker.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_may_be_dialled_is_dialled_although_others_may_not() {
    let block = block(3);
    let provider = Running::provider(HERE, &block).await;
    // What a node behind a home router announces: its inside first.
    let inside = ["/ip4/10.0.0.7/tcp/4001", "/ip4/192.168.1.7/udp/4001/quic-v1", "/ip6/::1/tcp/4001"];
    let addrs: Vec<Multiaddr> = inside.iter().map(|addr| addr.parse().unwrap()).chain([provider.addr()]).collect();
    let server = router(block.cid(), names(JSON, provider.id(), &addrs)).await;
    let seeker = Seeker::start(seeker(), &[server.uri()]).await;
    let (answer, _) = seeker.fetch(block.cid()).await;
    assert_eq!(answer.unwrap(), block);
    seeker.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_only_the_dht_knows_delivers() {
    let block = block(4);
    let (dht, provider) = (Running::dht_server().await, Running::provider(HERE, &block).await);
    announce(&dht, &provider, &[provider.addr()], block.cid()).await;
    let seeker = Seeker::start(seeker_in(&dht), &[]).await;
    let (answer, report) = seeker.fetch(block.cid()).await;
    assert_eq!(answer.unwrap(), block);
    let attempt = attempt(&report, provider.id());
    assert_eq!((attempt.router, attempt.outcome), (RouterKind::Dht, AttemptOutcome::Delivered));
    for node in [seeker.node, provider, dht] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_address_that_the_dht_names_is_refused_at_once_and_said_so() {
    let block = block(5);
    let (dht, provider) = (Running::dht_server().await, Running::provider(ELSEWHERE, &block).await);
    announce(&dht, &provider, &provider.client.listen_addrs(), block.cid()).await;
    let seeker = Seeker::start(seeker_in(&dht), &[]).await;
    let (answer, report) = seeker.fetch(block.cid()).await;
    refused(answer, &report, &provider, RouterKind::Dht);
    for node in [seeker.node, provider, dht] {
        node.stop().await;
    }
}

// GATEWAY.md §3.9-2: what is private is dropped when it is announced. The seeker could dial it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_9_2_a_dht_server_hands_no_private_address_on() {
    let block = block(8);
    let dht = Running::dht_server_that_permits("127.0.0.1/32").await;
    let provider = Running::provider(ELSEWHERE, &block).await;
    let private = provider.client.listen_addrs();
    let refused = async {
        let line = format!("tidegate_p2p_refused_addresses_total {}", private.len());
        while !dht.metrics.encode().contains(&line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    announce_until(refused, &dht, &provider, &private, block.cid()).await;
    let allow_private = vec!["127.0.0.0/8".parse().unwrap()];
    let seeker = Seeker::start(Config { allow_private, ..seeker_in(&dht) }, &[]).await;
    let (answer, report) = seeker.fetch(block.cid()).await;
    assert!(matches!(answer.unwrap_err(), FetchError::NotFound { .. }));
    assert!(report.attempts.iter().all(|attempt| attempt.peer != provider.id()), "{:?}", report.attempts);
    for node in [seeker.node, provider, dht] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_does_not_answer_costs_nothing_while_another_does() {
    let block = block(6);
    let (dht, provider) = (Running::dht_server().await, Running::provider(HERE, &block).await);
    announce(&dht, &provider, &[provider.addr()], block.cid()).await;
    let slow = router(block.cid(), nobody().set_delay(SLOW)).await;
    // Nobody listens at port 1.
    let urls = [slow.uri(), "http://127.0.0.1:1".to_owned()];
    let seeker = Seeker::start(seeker_in(&dht), &urls).await;
    let (answer, report) = seeker.fetch(block.cid()).await;
    assert_eq!(answer.unwrap(), block);
    assert_eq!(attempt(&report, provider.id()).router, RouterKind::Dht);
    let delegated = finished(&report).iter().filter(|router| *router == "delegated").count();
    assert!(delegated <= 1, "the slow router was waited for");
    assert_eq!(slow.received_requests().await.unwrap().len(), 1, "it was asked all the same");
    for node in [seeker.node, provider, dht] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_is_not_found_as_soon_as_every_router_has_said_so() {
    let (first, second) = (block(7), block(70));
    let dht = Running::dht_server().await;
    let servers = [router(first.cid(), nobody()).await, router(second.cid(), nobody()).await];
    let seeker = Seeker::start(seeker_in(&dht), &servers.each_ref().map(|server| server.uri())).await;
    // Twice: first while the DHT is being joined, then with its server connected and asked over Bitswap too.
    for block in [&first, &second] {
        let (answer, report) = seeker.fetch(block.cid()).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, FetchError::NotFound { phase: Phase::Route, providers_found: 0, .. }), "{error}");
        assert_eq!((report.phase, report.providers_found), (Phase::Route, 0));
        let mut routers = finished(&report);
        routers.sort();
        routers.dedup();
        assert_eq!(routers, ["delegated", "dht"]);
        // The DHT's server speaks Bitswap too: asked when it was connected in time, and counted as no provider.
        assert!(report.attempts.iter().all(|attempt| attempt.router == RouterKind::Connected));
    }
    // Within the negative cache's time no router is asked again.
    let (answer, report) = seeker.fetch(second.cid()).await;
    assert!(matches!(answer.unwrap_err(), FetchError::NotFound { .. }));
    assert!(finished(&report).is_empty(), "a router was asked again");
    seeker.stop().await;
    dht.stop().await;
}

// GATEWAY.md §3.2-2: answered from what is here, fast, and nobody is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_2_2_only_if_cached_asks_no_router_and_no_peer() {
    let block = block(8);
    let provider = Running::provider(HERE, &block).await;
    let server = router(block.cid(), names(JSON, provider.id(), &[provider.addr()])).await;
    let seeker = Seeker::start(seeker(), &[server.uri()]).await;
    let state = tidegate::gateway::State {
        retriever: seeker.retriever.clone(),
        names: tidegate::names::Resolver::fixed(tidegate::names::NsMap::default()),
        routing: None,
        denylists: tidegate::denylist::Denylists::default(),
        sink: Arc::new(tidegate::record::NoRecords),
        config: tidegate::gateway::Config::default(),
        is_admin_token: Arc::new(|_| false),
    };
    let gateway = tidegate::gateway::router(state, &Metrics::new());
    let ask = async |method: &str, header: Option<&str>| {
        let mut request = http::Request::builder().method(method).uri(format!("/ipfs/{}", block.cid()));
        if let Some(value) = header {
            request = request.header("cache-control", value);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        tower::ServiceExt::oneshot(gateway.clone(), request).await.unwrap().status().as_u16()
    };
    for method in ["HEAD", "GET"] {
        assert_eq!(ask(method, Some("only-if-cached")).await, 412, "{method}");
    }
    assert_eq!(server.received_requests().await.unwrap().len(), 0, "a router was asked");
    assert!(provider.client.peers().is_empty(), "the provider was dialled");
    // The same without the header is found by the same router: the silence above was meant.
    assert_eq!(ask("GET", None).await, 200);
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
    seeker.stop().await;
    provider.stop().await;
}
