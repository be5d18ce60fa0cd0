//! The trustless gateway over libp2p between Kubo and us: curl through Kubo's tunnel to our server, and our client at
//! Kubo's server.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use libp2p::Multiaddr;
use serde_json::json;
use tempfile::TempDir;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::blockstore::{Blockstore, Hit, StoreError};
use tidegate::dag::FileReader;
use tidegate::denylist::Denylists;
use tidegate::exchange::Exchange;
use tidegate::gateway::{self, State};
use tidegate::ipld::builder::{FileBuilder, Profile};
use tidegate::ipld::car::{CarItem, CarReader, Limits};
use tidegate::ipld::{Block, Cid, cid};
use tidegate::listener::{self, Streams};
use tidegate::names::{NsMap, Resolver};
use tidegate::p2p::http::HttpError;
use tidegate::p2p::{Client, Config, Node};
use tidegate::record::NoRecords;
use tidegate::retriever::{self, Hint, LocalBlocks, Retriever, SessionOptions};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::bitswap::{PATIENCE, noise};
use crate::kubo::{self, Kubo};

struct Ours {
    client: Client,
    supervisor: Supervisor,
    metrics: Metrics,
    _dir: TempDir,
}

impl Ours {
    /// A node; with `serve` it answers for the blocks of a store.
    async fn start(serve: Option<Arc<MemoryStore>>) -> Self {
        let (dir, supervisor, metrics) = (tempfile::tempdir().unwrap(), Supervisor::new(), Metrics::new());
        let empty = Arc::new(MemoryStore::new());
        let client = Node::start(&Config::loopback(), dir.path(), empty, &metrics, &supervisor).await.unwrap();
        if let Some(store) = serve {
            let state = State {
                retriever: Retriever::local(store),
                names: Resolver::fixed(NsMap::default()),
                routing: None,
                denylists: Denylists::default(),
                sink: Arc::new(NoRecords),
                config: gateway::Config::default(),
                is_admin_token: Arc::new(|_| false),
            };
            let options = listener::Options {
                name: "libp2p",
                config: listener::Config::default(),
                trusted_proxies: Vec::new(),
                tls: None,
                stats: listener::Stats::new(&metrics),
                tunnel_to: None,
            };
            let router = gateway::trustless(state, &metrics);
            client.serve_http(Streams::new(router, options, &supervisor, CancellationToken::new()));
        }
        Self { client, supervisor, metrics, _dir: dir }
    }

    fn addr(&self, transport: &str) -> Multiaddr {
        self.client.listen_addrs().into_iter().find(|addr| addr.to_string().contains(transport)).unwrap()
    }

    async fn stop(self) {
        self.client.shutdown().await;
        assert_eq!(self.supervisor.stop(PATIENCE).await, Vec::<&str>::new());
    }
}

/// Status and body.
async fn curl(tunnel: SocketAddr, target: &str, args: &[&str]) -> (u16, Vec<u8>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--write-out", "%{http_code}"]);
    command.arg("--output").arg(file.path()).args(args).arg(format!("http://{tunnel}{target}"));
    let output = command.output().await.expect("curl runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let status = String::from_utf8(output.stdout).unwrap();
    (status.trim().parse().unwrap(), std::fs::read(file.path()).unwrap())
}

fn blocks_of(car: Vec<u8>) -> Vec<Block> {
    let mut reader = CarReader::new(Limits { header: 4096, section: 2 << 20, roots: 8 });
    reader.push(Bytes::from(car));
    let mut blocks = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        if let CarItem::Block(block) = item {
            blocks.push(block);
        }
    }
    reader.finish().unwrap();
    blocks
}

async fn curl_reaches_us(quic: bool) {
    let Some(binary) = required() else { return };
    let kubo = Kubo::start_with(&binary, |config| {
        config["Experimental"] = json!({ "Libp2pStreamMounting": true });
    })
    .await;
    let store = Arc::new(MemoryStore::new());
    let data = noise(3_000_000, 11);
    let mut builder = FileBuilder::new(&Profile::KUBO_V1);
    let mut blocks = builder.push(Bytes::copy_from_slice(&data));
    let (rest, built) = builder.finish();
    blocks.extend(rest);
    let all: HashSet<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    let first = blocks[0].clone();
    store.put(blocks).await.unwrap();
    let ours = Ours::start(Some(store)).await;
    kubo.connect(&ours.addr(if quic { "/quic-v1" } else { "/tcp/" })).await;
    let tunnel = kubo.forward("/http/1.1", &ours.client.peer_id()).await;

    let raw = curl(tunnel, &format!("/ipfs/{}?format=raw", first.cid()), &[]).await;
    assert!(raw.0 == 200 && raw.1 == first.data()[..]);
    let accept = ["--header", "Accept: application/vnd.ipld.car"];
    let (status, car) = curl(tunnel, &format!("/ipfs/{}", built.cid), &accept).await;
    assert_eq!(status, 200);
    let got: HashSet<Cid> = blocks_of(car.clone()).iter().map(|block| *block.cid()).collect();
    assert_eq!(got, all);
    // Kubo makes the file of it.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), car).unwrap();
    kubo.run(["dag", "import", "--pin-roots=false", &file.path().to_string_lossy()]).await;
    assert!(kubo.cat(&built.cid.to_string()).await == data);

    assert_eq!(curl(tunnel, &format!("/ipfs/{}", built.cid), &[]).await.0, 406);
    assert_eq!(
        curl(tunnel, "/ipfs/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy?format=raw", &[]).await.0,
        404
    );
    let head = curl(tunnel, &format!("/ipfs/{}?format=car", built.cid), &["--head"]).await;
    assert_eq!(head.0, 200);
    let list = curl(tunnel, "/.well-known/libp2p/protocols", &[]).await;
    assert_eq!(list.1, br#"{"/ipfs/gateway":{"path":"/"}}"#);
    assert!(
        ours.metrics
            .encode()
            .contains("tidegate_gateway_libp2p_requests_total{method=\"GET\",class=\"2xx\",format=\"car\"} 1")
    );
    // Kubo's identify knows it.
    let peers = kubo.run(["id", &ours.client.peer_id().to_string()]).await;
    assert!(peers.contains("/http/1.1"), "{peers}");
    ours.stop().await;
    kubo.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_through_kubos_tunnel_gets_blocks_and_cars_of_us_over_tcp() {
    curl_reaches_us(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_through_kubos_tunnel_gets_blocks_and_cars_of_us_over_quic() {
    curl_reaches_us(true).await;
}

async fn we_reach_kubo(quic: bool) {
    let Some(binary) = required() else { return };
    let kubo = Kubo::start_with(&binary, |config| {
        config["Experimental"] = json!({ "GatewayOverLibp2p": true });
    })
    .await;
    let data = noise(5_000_000, 12);
    let root = cid::parse(&kubo.add(&data, &[]).await).unwrap();
    let mut all: HashSet<String> = kubo.refs(&root.to_string()).await.into_iter().collect();
    all.insert(root.to_string());
    let ours = Ours::start(None).await;
    let addr = if quic { kubo.quic() } else { kubo.tcp() };
    let path = ours.client.gateway_path(kubo.peer, vec![addr.clone()], true).await.unwrap();
    assert_eq!(path, "/");
    let get = async |target: String| {
        let request = Request::builder().uri(format!("{path}{target}")).body(()).unwrap();
        let (parts, body) = ours.client.http(kubo.peer, vec![addr.clone()], true, request).await.unwrap().into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time").unwrap();
        (parts.status, body.to_bytes())
    };
    let start = std::time::Instant::now();
    let (status, car) = get(format!("ipfs/{root}?format=car&dag-scope=all")).await;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "CAR of {} bytes in one request in {seconds:.3} s: {:.0} MB/s",
        car.len(),
        car.len() as f64 / 1e6 / seconds
    );
    assert_eq!(status, StatusCode::OK);
    let got: HashSet<String> = blocks_of(car.to_vec()).iter().map(|block| block.cid().to_string()).collect();
    assert_eq!(got, all);
    let (status, _) = get("ipfs/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy?format=raw".into()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    ours.stop().await;
    kubo.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_gets_a_graph_of_kubos_gateway_in_one_request_over_tcp() {
    we_reach_kubo(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_gets_a_graph_of_kubos_gateway_in_one_request_over_quic() {
    we_reach_kubo(true).await;
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_from_kubos_gateway_in_one_answer() {
    let Some(binary) = required() else { return };
    let kubo = Kubo::start_with(&binary, |config| {
        config["Experimental"] = json!({ "GatewayOverLibp2p": true });
    })
    .await;
    let (metrics, supervisor, dir) = (Metrics::new(), Supervisor::new(), tempfile::tempdir().unwrap());
    let config = Config { peers: vec![kubo.quic()], ..Config::loopback() };
    let store = Arc::new(MemoryStore::new());
    let client = Node::start(&config, dir.path(), store, &metrics, &supervisor).await.unwrap();
    let exchange: Option<Arc<dyn Exchange>> = Some(Arc::new(client.clone()));
    let (config, local) = (retriever::Config::default(), Arc::new(Nothing));
    let retriever = Retriever::new(&config, local, exchange, client.routers(), &metrics, &supervisor);
    // With the first one it is asked where its gateway is.
    for (number, length) in [(20, 700_000), (21, 30_000_000)] {
        let until = async {
            while !client.serves_http(&kubo.peer)
                || (number == 21 && !metrics.encode().contains("p2p_http_requests_total 1"))
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        tokio::time::timeout(PATIENCE, until).await.expect("Kubo says what it speaks");
        let data = noise(length, number);
        let root = cid::parse(&kubo.add(&data, &[]).await).unwrap();
        let session = retriever.session(root, SessionOptions::default());
        let block = session.fetch_whole(&Hint { cid: root, size: None }).await.unwrap();
        let mut reader = FileReader::whole(session.clone(), &block).unwrap();
        let mut got = Vec::new();
        while let Some(chunk) = tokio::time::timeout(PATIENCE, reader.next()).await.expect("bytes in time") {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == data, "byte for byte");
        let cars = if number == 21 { 1 } else { 0 };
        let text = metrics.encode();
        assert!(text.contains(&format!("tidegate_p2p_http_cars_total {cars}\n")), "{text}");
    }
    client.shutdown().await;
    kubo.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubo_without_it_says_so() {
    let Some(binary) = required() else { return };
    let (kubo, ours) = (Kubo::start(&binary).await, Ours::start(None).await);
    let refused = ours.client.gateway_path(kubo.peer, vec![kubo.tcp()], true).await;
    assert!(matches!(refused, Err(HttpError::Unsupported { .. })), "{refused:?}");
    ours.stop().await;
    kubo.stop().await;
}

/// The binary; in CI there must be one.
fn required() -> Option<std::path::PathBuf> {
    let binary = kubo::binary();
    assert!(binary.is_some() || std::env::var("CI").as_deref() != Ok("true"), "CI requires Kubo");
    binary
}
