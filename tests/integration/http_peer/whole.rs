//! Whole programs: our own gateway as the provider, Bitswap beside it, and the rows that follow.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidegate::app::{App, Mode};
use tidegate::blockstore::Blockstore;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::config::Settings;
use tidegate::exchange::Exchange;
use tidegate::http_peer::merged::{ConfiguredHttp, Merged};
use tidegate::http_peer::trustless::{Config, HttpExchange};
use tidegate::listener;
use tidegate::p2p::{self, Node};
use tidegate::record::Source;
use tidegate::retriever::{Retriever, SessionOptions};
use tidegate::routing::ContentRouter;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

use super::rig::*;
use crate::gateway::world::{World, noise};

struct Program {
    app: App,
    http: reqwest::Client,
    _dir: TempDir,
}

impl Program {
    async fn start(peers: &[String]) -> Self {
        Self::start_at(0, peers).await
    }

    async fn start_at(port: u16, peers: &[String]) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let peers = serde_json::to_string(peers).unwrap();
        let settings = format!(
            "data-dir = {:?}\ngateway = \"127.0.0.1:{port}\"\nadmin = \"127.0.0.1:0\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
             peer = {peers}\nbootstrap = \"none\"\nno-dht = true\nno-mdns = true\ndns = \"none\"\ncache-disk = \"0\"\n",
            dir.path()
        );
        let settings: Settings = toml::from_str(&settings).unwrap();
        let app = App::start(settings, Mode::Server).await.unwrap();
        Self { app, http: reqwest::Client::builder().no_proxy().build().unwrap(), _dir: dir }
    }

    /// Its gateway as others name it.
    fn http_addr(&self) -> String {
        let url: url::Url = self.app.api_file().gateway.parse().unwrap();
        format!("/ip4/127.0.0.1/tcp/{}/http", url.port().unwrap())
    }

    async fn add(&self, data: &[u8]) -> String {
        let url = format!("{}/api/v1/add", self.app.api_file().admin);
        let request = self.http.post(url).header("content-type", "application/octet-stream").body(data.to_vec());
        let answer: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
        answer["cid"].as_str().unwrap().to_owned()
    }

    async fn json(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.app.api_file().admin);
        let text = self.http.get(url).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"))
    }
}

#[tokio::test]
async fn a_file_comes_through_our_own_gateway_as_provider_and_its_row_says_http() {
    let provider = Program::start(&[]).await;
    let data = noise(5_000_000);
    let cid = provider.add(&data).await;
    let ours = Program::start(&[provider.http_addr()]).await;
    let url = format!("{}/ipfs/{cid}", ours.app.api_file().gateway);
    let answer = ours.http.get(url).send().await.unwrap();
    let id = answer.headers()["tidegate-retrieval"].to_str().unwrap().to_owned();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.unwrap() == data, "byte for byte");

    let row = loop {
        let row = ours.json(&format!("/api/v1/retrievals/{id}")).await;
        if row["outcome"] == "complete" {
            break row;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(row["source"], "http", "{row}");
    let attempts = row["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{row}");
    assert_eq!((&attempts[0]["transport"], &attempts[0]["outcome"]), (&"http".into(), &"delivered".into()), "{row}");
    assert!(attempts[0]["bytes"].as_u64().unwrap() > 5_000_000);
    assert_eq!(row["duplicate_bytes"], 0);
    let peers = ours.json("/api/v1/p2p/peers").await;
    let peer = &peers["items"][0];
    assert_eq!(
        (&peers["total"], &peer["transport"], &peer["addrs"][0]),
        (&1.into(), &"http".into(), &provider.http_addr().into())
    );
    assert_eq!(ours.json("/readyz").await["node"], "connected");
    // Pages know it too.
    let peer = attempts[0]["peer_id"].as_str().unwrap().to_owned();
    let page = |path: String| {
        let url = format!("{}{path}", ours.app.api_file().admin);
        let request = ours.http.get(url);
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    for path in [format!("/retrievals/{id}"), "/peers".to_owned(), format!("/peers/{peer}"), "/topology".to_owned()] {
        let (status, text) = page(path.clone()).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
    let (_, text) = page(format!("/retrievals/{id}")).await;
    assert!(text.contains(&peer[..8]) || text.contains(&peer), "the row names the provider");
    ours.app.stop().await;
    provider.app.stop().await;
}

#[tokio::test]
async fn two_gateways_that_name_each_other_do_not_wait_for_each_other() {
    // The second is told of the first, and the first of an address that the second will have.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let first = Program::start(&[format!("/ip4/127.0.0.1/tcp/{port}/http")]).await;
    let second = Program::start_at(port, &[first.http_addr()]).await;
    until_connected(&first).await;
    until_connected(&second).await;
    let cid = blocks(1, 1_000)[0].cid().to_string();
    let url = format!("{}/ipfs/{cid}?format=raw", first.app.api_file().gateway);
    let answer =
        tokio::time::timeout(PATIENCE, first.http.get(url).send()).await.expect("no waiting in a circle").unwrap();
    assert_eq!(answer.status(), 502, "nobody has it");
    first.app.stop().await;
    second.app.stop().await;
}

async fn until_connected(program: &Program) {
    let metrics = format!("{}/metrics", program.app.api_file().admin);
    loop {
        let text = program.http.get(&metrics).send().await.unwrap().text().await.unwrap();
        if text.contains("tidegate_http_peers 1") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn over_tls_one_http2_connection_carries_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let world = World::new();
    let data = noise(3_000_000);
    let (file, cids) = world.file(&data).await;
    let server = world.listen(listener::Config::default(), Some(listener::Tls::from_files(&cert, &key).unwrap())).await;
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let addr = format!("/ip4/127.0.0.1/tcp/{}/tls/http", server.address.port());
    let config = Config { providers: vec![addr.parse().unwrap()], roots: vec![root], ..Config::default() };
    let seeker = Seeker::with(config, Vec::new());
    let mut wanted = Vec::new();
    for cid in &cids {
        wanted.push(world.store.get(cid).await.unwrap().unwrap());
    }
    let session = seeker.session(&file.cid);
    assert_eq!(read_all(&session, &wanted).await, wanted);
    assert_eq!(seeker.exchange.providers()[0].protocol, "h2");
    assert!(world.metrics.encode().contains("tidegate_http_connections_total{listener=\"gateway\"} 1"));
    // A certificate that nobody vouches for is no provider.
    let config = Config { providers: vec![addr.parse().unwrap()], ..Config::default() };
    let (answer, report) = Seeker::with(config, Vec::new()).fetch(&file.cid).await;
    assert!(answer.is_err());
    assert_eq!(report.attempts[0].error_kind.as_deref(), Some("dial_failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bitswap_and_http_provide_for_one_reader() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let wanted = blocks(120, 200_000);
    // Each lacks what the other has, so that neither can be quick enough to do without the other.
    let server = Server::honest(&wanted[..80]).await;
    let (theirs, ours) = (Supervisor::new(), Supervisor::new());
    let (dirs, metrics) = ([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], Metrics::new());
    let store = Arc::new(MemoryStore::new());
    store.put(wanted[40..].to_vec()).await.unwrap();
    let peer = Node::start(&p2p::Config::loopback(), dirs[0].path(), store, &Metrics::new(), &theirs).await.unwrap();
    let config = p2p::Config { peers: peer.listen_addrs(), ..p2p::Config::loopback() };
    let empty = Arc::new(MemoryStore::new());
    let node = Node::start(&config, dirs[1].path(), empty, &metrics, &ours).await.unwrap();
    let http = Config { providers: vec![server.addr()], ..Config::default() };
    let configured = ConfiguredHttp(http.providers.clone());
    let http = HttpExchange::start(http, Some(node.event_queue()), &metrics, &ours).unwrap();
    let exchange = Merged { bitswap: Arc::new(node.clone()), http };
    let mut routers = node.routers();
    routers.push(Arc::new(configured) as Arc<dyn ContentRouter>);
    let config = tidegate::retriever::Config::default();
    let exchange: Arc<dyn Exchange> = Arc::new(exchange);
    let retriever = Retriever::new(&config, Arc::new(Nothing), Some(exchange.clone()), routers, &metrics, &ours);
    until("both are connected", || exchange.connected().len() == 2).await;

    let session = retriever.session(*wanted[0].cid(), SessionOptions::default());
    assert_eq!(read_all(&session, &wanted).await, wanted);
    let report = session.report();
    assert_eq!(report.source(), Source::Mixed, "{:?}", report.attempts);
    assert!(attempt(&report, peer.peer_id()).blocks > 0 && attempt(&report, server.id()).blocks > 0);
    assert_eq!(report.blocks_network, 120);
    node.shutdown().await;
    peer.shutdown().await;
    assert!(ours.stop(Duration::from_secs(10)).await.is_empty());
    assert!(theirs.stop(Duration::from_secs(10)).await.is_empty());
}
