//! The trustless gateway over libp2p: real nodes, real streams (libp2p-gateway specification; GATEWAY.md §3.1).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tempfile::TempDir;
use tidegate::app::{App, Mode};
use tidegate::blockstore::memory::MemoryStore;
use tidegate::config::Settings;
use tidegate::denylist::Denylists;
use tidegate::gateway::{self, Config, State};
use tidegate::ipld::car::{CarItem, CarReader, Limits};
use tidegate::ipld::ipns::{Draft, IpnsName, Record};
use tidegate::ipld::{Block, Cid, ContentPath};
use tidegate::listener::{self, Streams};
use tidegate::names::{NsMap, Resolver};
use tidegate::p2p::http::{HttpBody, HttpError};
use tidegate::p2p::{self, Client, Node};
use tidegate::retriever::{self, Retriever};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::denied::{Listed, rules};
use super::world::{Answer, World, noise};

/// Liveness only.
const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(200);
const MISSING: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

/// A node that serves the blocks of a world to peers.
struct Serving {
    world: World,
    lists: Denylists,
    names: Resolver,
    client: Client,
    metrics: Metrics,
    streams: Streams,
    supervisor: Supervisor,
    stop: CancellationToken,
    _dir: TempDir,
}

/// A node that asks.
struct Asking {
    client: Client,
    metrics: Metrics,
    supervisor: Supervisor,
    _dir: TempDir,
}

impl Serving {
    async fn start(config: listener::Config) -> Self {
        let (metrics, supervisor, stop) = (Metrics::new(), Supervisor::new(), CancellationToken::new());
        let (world, lists, dir) = (World::new(), Denylists::default(), tempfile::tempdir().unwrap());
        let names = Resolver::fixed(NsMap::default());
        let blocks = Arc::new(Listed { store: world.store.clone(), lists: lists.clone() });
        let fetching = retriever::Config::default();
        let state = State {
            retriever: Retriever::new(&fetching, blocks, None, Vec::new(), &metrics, &Supervisor::new()),
            names: names.clone(),
            routing: None,
            denylists: lists.clone(),
            sink: world.records.clone(),
            config: Config::default(),
            is_admin_token: Arc::new(|_| true),
        };
        let options = listener::Options {
            name: "libp2p",
            config,
            trusted_proxies: Vec::new(),
            tls: None,
            stats: listener::Stats::new(&metrics),
            tunnel_to: None,
        };
        let streams = Streams::new(gateway::trustless(state, &metrics), options, &supervisor, stop.clone());
        let store = Arc::new(MemoryStore::new());
        let client = Node::start(&p2p::Config::loopback(), dir.path(), store, &metrics, &supervisor).await.unwrap();
        client.serve_http(streams.clone());
        Self { world, lists, names, client, metrics, streams, supervisor, stop, _dir: dir }
    }

    fn addr(&self, transport: &str) -> Multiaddr {
        self.client.listen_addrs().into_iter().find(|addr| addr.to_string().contains(transport)).unwrap()
    }

    fn id(&self) -> PeerId {
        self.client.peer_id()
    }

    /// Waits until a line of the metrics is there.
    async fn counted(&self, line: &str) {
        let found = async {
            while !self.metrics.encode().lines().any(|counted| counted == line) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        assert!(found.is_ok(), "no {line} in\n{}", self.metrics.encode());
    }

    async fn closed(&self, reason: &str, times: usize) {
        let labels = format!("{{listener=\"libp2p\",reason=\"{reason}\"}} {times}");
        self.counted(&format!("tidegate_http_connections_closed_by_server_total{labels}")).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.streams.drained().await;
        self.client.shutdown().await;
        assert_eq!(self.supervisor.stop(PATIENCE).await, Vec::<&str>::new());
    }
}

impl Asking {
    async fn start() -> Self {
        let (metrics, supervisor, dir) = (Metrics::new(), Supervisor::new(), tempfile::tempdir().unwrap());
        let store = Arc::new(MemoryStore::new());
        let client = Node::start(&p2p::Config::loopback(), dir.path(), store, &metrics, &supervisor).await.unwrap();
        Self { client, metrics, supervisor, _dir: dir }
    }

    async fn open(&self, of: &Serving, request: Request<()>) -> Result<http::Response<HttpBody>, HttpError> {
        self.client.http(of.id(), vec![of.addr("/tcp/")], true, request).await
    }

    async fn ask(&self, of: &Serving, method: Method, target: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        collect(self.open(of, request.body(()).unwrap()).await.unwrap()).await
    }

    async fn get(&self, of: &Serving, target: &str) -> Answer {
        self.ask(of, Method::GET, target, &[]).await
    }

    async fn end(self) {
        self.client.shutdown().await;
        assert_eq!(self.supervisor.stop(PATIENCE).await, Vec::<&str>::new());
    }
}

async fn collect(response: http::Response<HttpBody>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time").unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// The blocks of a CAR: the reader gives only verified ones.
fn blocks_of(car: &Bytes) -> Vec<Block> {
    let mut reader = CarReader::new(Limits { header: 4096, section: 2 << 20, roots: 8 });
    reader.push(car.clone());
    let mut blocks = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        if let CarItem::Block(block) = item {
            blocks.push(block);
        }
    }
    reader.finish().unwrap();
    blocks
}

async fn a_graph_in_one_request(transport: &str) {
    let (a, b) = (Serving::start(listener::Config::default()).await, Asking::start().await);
    let data = noise(6_000_000);
    let (file, cids) = a.world.file(&data).await;
    // Not connected before: the request dials.
    let request = Request::builder().uri(format!("/ipfs/{}?format=car&dag-scope=all", file.cid)).body(()).unwrap();
    let answer = b.client.http(a.id(), vec![a.addr(transport)], true, request).await.unwrap();
    let answer = collect(answer).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/vnd.ipld.car; version=1; order=dfs; dups=n");
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(answer.header("tidegate-retrieval"), "");
    let blocks = blocks_of(&answer.body);
    assert_eq!(blocks[0].cid(), &file.cid);
    let mut got: Vec<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    let mut all = cids;
    got.sort();
    all.sort();
    assert_eq!(got, all);
    let connected = b.client.peers();
    assert!(connected[0].addrs[0].to_string().contains(transport), "{connected:?}");

    a.counted("tidegate_gateway_libp2p_requests_total{method=\"GET\",class=\"2xx\",format=\"car\"} 1").await;
    a.counted(&format!("tidegate_gateway_libp2p_response_bytes_total {}", answer.body.len())).await;
    a.counted("tidegate_http_connections_total{listener=\"libp2p\"} 1").await;
    a.counted("tidegate_http_connections_open{listener=\"libp2p\"} 0").await;
    assert!(b.metrics.encode().contains("tidegate_p2p_http_requests_total 1"));
    // What peers are given is no retrieval of ours.
    assert!(a.world.records.all().is_empty());
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_gets_a_whole_graph_in_one_request_over_tcp() {
    a_graph_in_one_request("/tcp/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_gets_a_whole_graph_in_one_request_over_quic() {
    a_graph_in_one_request("/quic-v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_is_announced_when_somebody_answers_and_names_its_gateway() {
    let (a, b) = (Serving::start(listener::Config::default()).await, Asking::start().await);
    assert_eq!(b.client.gateway_path(a.id(), vec![a.addr("/tcp/")], true).await.unwrap(), "/");
    let list = b.get(&a, "/.well-known/libp2p/protocols").await;
    assert_eq!(list.header("content-type"), "application/json");
    assert_eq!(list.text(), r#"{"/ipfs/gateway":{"path":"/"}}"#);
    let identified = async {
        while !b.client.serves_http(&a.id()) || a.client.peers().iter().any(|peer| peer.protocols.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, identified).await.expect("identify in time");
    // The one that only asks does not announce it, and refuses it.
    assert!(!a.client.serves_http(&b.client.peer_id()));
    let refused = a.client.http(b.client.peer_id(), Vec::new(), true, Request::new(())).await;
    assert!(matches!(refused, Err(HttpError::Unsupported { .. })), "{refused:?}");
    // Nobody is at the end of this address.
    let nobody = PeerId::random();
    let refused = b.client.http(nobody, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()], true, Request::new(())).await;
    assert!(matches!(refused, Err(HttpError::Connect { .. })), "{refused:?}");
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_ranges_of_cars_and_heads_are_served() {
    let (a, b) = (Serving::start(listener::Config::default()).await, Asking::start().await);
    let data = noise(900_000);
    let (file, cids) = a.world.file(&data).await;
    let (leaf, _) = a.world.file(b"leaf").await;
    let dir = a.world.directory(&[("file", file), ("leaf", leaf)]).await;

    let raw = b.get(&a, &format!("/ipfs/{}?format=raw", leaf.cid)).await;
    assert!(raw.status == StatusCode::OK && raw.body == b"leaf"[..]);
    assert_eq!(raw.header("content-type"), "application/vnd.ipld.raw");
    let accept = [("accept", "application/vnd.ipld.raw")];
    let by_accept = b.ask(&a, Method::GET, &format!("/ipfs/{}", leaf.cid), &accept).await;
    assert!(by_accept.body == b"leaf"[..]);
    let part = b.ask(&a, Method::GET, &format!("/ipfs/{}?format=raw", leaf.cid), &[("range", "bytes=1-2")]).await;
    assert!(part.status == StatusCode::PARTIAL_CONTENT && part.body == b"ea"[..]);

    // The path, the root of the file, and the one leaf that holds the byte.
    let range = b.get(&a, &format!("/ipfs/{}/file?format=car&entity-bytes=300000:300000", dir.cid)).await;
    let got: Vec<Cid> = blocks_of(&range.body).iter().map(|block| *block.cid()).collect();
    assert_eq!(got, [dir.cid, file.cid, cids[1]]);

    let head = b.ask(&a, Method::HEAD, &format!("/ipfs/{}?format=car", dir.cid), &[]).await;
    assert!(head.status == StatusCode::OK && head.body.is_empty() && !head.header("etag").is_empty());
    let fresh = [("if-none-match", head.header("etag"))];
    let unchanged = b.ask(&a, Method::GET, &format!("/ipfs/{}?format=car", dir.cid), &fresh).await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    let probe = b.get(&a, "/ipfs/bafkqaaa?format=raw").await;
    assert!(probe.status == StatusCode::OK && probe.body.is_empty());
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_verified_is_not_local_or_is_denied_gets_its_own_status() {
    let (a, b) = (Serving::start(listener::Config::default()).await, Asking::start().await);
    let (bad, _) = a.world.file(b"bad").await;
    let (good, _) = a.world.file(b"good").await;
    let dir = a.world.directory(&[("bad", bad), ("good", good)]).await;
    a.lists.replace(rules(&format!("/ipfs/{}\n", bad.cid)));
    let (good, bad, dir) = (good.cid, bad.cid, dir.cid);
    for (target, accept, status) in [
        (format!("/ipfs/{good}"), "*/*", 406),
        (format!("/ipfs/{good}"), "text/html", 406),
        (format!("/ipfs/{good}?format=tar"), "*/*", 406),
        (format!("/ipfs/{dir}/good?format=raw"), "*/*", 406),
        (format!("/ipfs/{good}"), "", 400),
        (format!("/ipfs/{dir}/none?format=car"), "*/*", 404),
        (format!("/ipfs/{MISSING}?format=raw"), "*/*", 404),
        (format!("/ipfs/{MISSING}?format=car"), "*/*", 404),
        (format!("/ipfs/{bad}?format=raw"), "*/*", 410),
        (format!("/ipfs/{bad}?format=car"), "*/*", 410),
        (format!("/ipfs/{dir}/bad?format=car"), "*/*", 410),
        ("/ipfs/nonsense?format=raw".to_owned(), "*/*", 400),
        ("/ipns/example.com?format=car".to_owned(), "*/*", 406),
        ("/".to_owned(), "*/*", 404),
        ("/routing/v1/providers/x".to_owned(), "*/*", 404),
        ("/api/v1/overview".to_owned(), "*/*", 404),
    ] {
        let headers = [("accept", accept)];
        let headers = if accept.is_empty() { &[][..] } else { &headers[..] };
        let answer = b.ask(&a, Method::GET, &target, headers).await;
        assert_eq!(answer.status.as_u16(), status, "{target} {accept:?}: {:?}", answer.body);
        let head = b.ask(&a, Method::HEAD, &target, headers).await;
        assert!(head.status.as_u16() == status && head.body.is_empty(), "HEAD {target}");
    }
    let cached = [("cache-control", "only-if-cached")];
    let answer = b.ask(&a, Method::GET, &format!("/ipfs/{MISSING}?format=raw"), &cached).await;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(b.ask(&a, Method::POST, &format!("/ipfs/{good}?format=raw"), &[]).await.status.as_u16(), 405);
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_kept_here_are_served_and_no_name_is_looked_up() {
    let (a, b) = (Serving::start(listener::Config::default()).await, Asking::start().await);
    let key = Keypair::generate_ed25519();
    let name = IpnsName::of_key(&key.public());
    let value = ContentPath::parse_text(&format!("/ipfs/{MISSING}")).unwrap();
    let eol = SystemTime::now() + Duration::from_secs(3600);
    let record = Record::sign(&key, &Draft { value, sequence: 1, eol, ttl: Duration::from_secs(60) }).unwrap();
    let target = format!("/ipns/{name}?format=ipns-record");
    let before = b.get(&a, &target).await;
    assert_eq!(before.status, StatusCode::NOT_FOUND, "{:?}", before.body);
    a.names.put(&name, record.bytes().clone()).await.unwrap();
    let after = b.get(&a, &target).await;
    assert!(after.status == StatusCode::OK && after.body == *record.bytes());
    Record::verify(&name, &after.body, SystemTime::now()).unwrap();
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_serves_sixteen_requests_at_once_and_no_more() {
    let (a, b) = (Serving::start(listener::Config::default()).await, Asking::start().await);
    let mut files = Vec::new();
    for n in 0..16usize {
        files.push(a.world.file(&noise(400_000 + n)).await);
    }
    let targets: Vec<String> = files.iter().map(|(file, _)| format!("/ipfs/{}?format=car", file.cid)).collect();
    // They share the one connection: the others wait for the first one's dial.
    for (answer, (_, cids)) in join_all(targets.iter().map(|target| b.get(&a, target))).await.iter().zip(&files) {
        assert_eq!(blocks_of(&answer.body).len(), cids.len());
    }
    a.counted("tidegate_http_connections_open{listener=\"libp2p\"} 0").await;

    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(b.client.http_stream(a.id(), Vec::new(), true).await.unwrap());
    }
    a.counted("tidegate_http_connections_open{listener=\"libp2p\"} 16").await;
    let refused = b.open(&a, Request::builder().uri(&targets[0]).body(()).unwrap()).await;
    assert!(matches!(refused, Err(HttpError::Http { .. } | HttpError::Closed { .. })), "{refused:?}");
    a.closed("PerConnection", 1).await;
    // A place that is given back can be taken.
    drop(open.pop());
    a.counted("tidegate_http_connections_open{listener=\"libp2p\"} 15").await;
    assert_eq!(b.get(&a, &targets[0]).await.status, StatusCode::OK);
    drop(open);
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_peers_together_have_a_bound() {
    let a = Serving::start(listener::Config { connections: 2, ..listener::Config::default() }).await;
    let (b, c) = (Asking::start().await, Asking::start().await);
    let mut first = b.client.http_stream(a.id(), vec![a.addr("/tcp/")], true).await.unwrap();
    let _second = b.client.http_stream(a.id(), vec![a.addr("/tcp/")], true).await.unwrap();
    a.counted("tidegate_http_connections_open{listener=\"libp2p\"} 2").await;
    let target = "/ipfs/bafkqaaa?format=raw";
    let refused = c.open(&a, Request::builder().uri(target).body(()).unwrap()).await;
    assert!(refused.is_err(), "{refused:?}");
    a.closed("Full", 1).await;
    first.shutdown().await.unwrap();
    drop(first);
    a.counted("tidegate_http_connections_open{listener=\"libp2p\"} 1").await;
    assert_eq!(c.get(&a, target).await.status, StatusCode::OK);
    for node in [b, c] {
        node.end().await;
    }
    a.end().await;
}

/// Sends bytes and gives what comes back until the end; an error of the stream is an end, too.
async fn exchange(b: &Asking, a: &Serving, sent: &str) -> String {
    let mut stream = b.client.http_stream(a.id(), vec![a.addr("/tcp/")], true).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let read = async {
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..length]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("still open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_stall_are_hung_up_on() {
    let soon = listener::Config {
        first_byte_timeout: SOON,
        header_timeout: SOON,
        stall_timeout: SOON,
        ..listener::Config::default()
    };
    let (a, b) = (Serving::start(soon).await, Asking::start().await);
    assert_eq!(exchange(&b, &a, "").await, "");
    a.closed("FirstByte", 1).await;
    assert_eq!(exchange(&b, &a, "GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nHost: x\r\nX-").await, "");
    a.closed("Header", 1).await;

    b.end().await;
    a.end().await;
}

/// `size`: far more than the windows of a stream hold.
async fn a_reader_of_nothing_is_cut_off(transport: &str, size: usize) {
    let soon = listener::Config { stall_timeout: SOON, ..listener::Config::default() };
    let (a, b) = (Serving::start(soon).await, Asking::start().await);
    let (file, _) = a.world.file(&noise(size)).await;
    let request = Request::builder().uri(format!("/ipfs/{}?format=car", file.cid)).body(()).unwrap();
    let answer = b.client.http(a.id(), vec![a.addr(transport)], true, request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    a.closed("Stall", 1).await;
    let rest = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.expect("an end");
    assert!(rest.is_err(), "a cut body ended cleanly");
    a.counted("tidegate_http_connections_open{listener=\"libp2p\"} 0").await;
    // The connection goes on.
    let request = Request::builder().uri("/ipfs/bafkqaaa?format=raw").body(()).unwrap();
    assert_eq!(b.client.http(a.id(), Vec::new(), true, request).await.unwrap().status(), StatusCode::OK);
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_is_cut_off_over_tcp() {
    a_reader_of_nothing_is_cut_off("/tcp/", 8_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_is_cut_off_over_quic() {
    a_reader_of_nothing_is_cut_off("/quic-v1", 40_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_clients_send_is_understood_and_what_is_no_http_1_1_refused() {
    // Only one of these needs a deadline to end: hyper waits for more behind the preface of HTTP/2.
    let never = Duration::ZERO;
    let config = listener::Config {
        first_byte_timeout: never,
        header_timeout: SOON * 10,
        idle_timeout: never,
        stall_timeout: never,
        ..listener::Config::default()
    };
    let (a, b) = (Serving::start(config).await, Asking::start().await);
    let (file, _) = a.world.file(b"hello").await;
    let target = format!("/ipfs/{}?format=raw", file.cid);
    // go-libp2p: no host, and its side closed behind the request.
    let mut stream = b.client.http_stream(a.id(), vec![a.addr("/tcp/")], true).await.unwrap();
    let sent = format!("GET {target} HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n");
    stream.write_all(sent.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end").unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");

    // Without it the server ends the stream itself, and of two requests it answers one.
    let keep_alive = exchange(&b, &a, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(2)).await;
    assert!(
        keep_alive.matches("HTTP/1.1 200").count() == 1 && keep_alive.contains("connection: close"),
        "{keep_alive}"
    );
    let absolute = exchange(&b, &a, &format!("GET http://x{target} HTTP/1.1\r\nHost: y\r\n\r\n")).await;
    assert!(absolute.starts_with("HTTP/1.1 200") && absolute.ends_with("hello"), "{absolute}");
    // A body of HTTP/1.0 has no end that could be told from a broken one.
    let old = exchange(&b, &a, &format!("GET {target} HTTP/1.0\r\n\r\n")).await;
    assert!(old.starts_with("HTTP/1.") && old.contains(" 505 "), "{old}");
    let tunnel = exchange(&b, &a, "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n").await;
    assert!(tunnel.starts_with("HTTP/1.1 405"), "{tunnel}");
    let h2 = exchange(&b, &a, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!h2.contains(" 200"), "{h2}");
    let garbage = exchange(&b, &a, "\0\u{1}\u{2} not http\r\n\r\n").await;
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    // The connection is none the worse for it.
    assert_eq!(b.get(&a, &target).await.status, StatusCode::OK);
    b.end().await;
    a.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_with_a_hole_ends_as_a_broken_body() {
    for transport in ["/tcp/", "/quic-v1"] {
        let (a, b) = (Serving::start(listener::Config::default()).await, Asking::start().await);
        let (file, cids) = a.world.file(&noise(3_000_000)).await;
        // The sixth leaf: the header and the first leaves are on their way by then.
        tidegate::blockstore::Blockstore::remove(&*a.world.store, &cids[5]).await.unwrap();
        let request = Request::builder().uri(format!("/ipfs/{}?format=car", file.cid)).body(()).unwrap();
        let answer = b.client.http(a.id(), vec![a.addr(transport)], true, request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let body = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.expect("an end");
        assert!(body.is_err(), "{transport}: a broken body ended cleanly");
        b.end().await;
        a.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_end_within_the_drain_and_new_ones_are_not_taken() {
    let config = listener::Config { drain_timeout: SOON, ..listener::Config::default() };
    let (a, b) = (Serving::start(config).await, Asking::start().await);
    let (file, _) = a.world.file(&noise(8_000_000)).await;
    let request = || Request::builder().uri(format!("/ipfs/{}?format=car", file.cid)).body(()).unwrap();
    let unread = b.open(&a, request()).await.unwrap();
    a.stop.cancel();
    assert_eq!(a.streams.drained().await, 1);
    a.closed("Drain", 1).await;
    assert!(b.open(&a, request()).await.is_err());
    assert!(unread.into_body().collect().await.is_err());
    b.end().await;
    a.end().await;
}

/// A server as `serve` makes it.
async fn server(dir: &TempDir, more: &str) -> App {
    let settings = format!(
        "data-dir = {:?}\ngateway = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
         bootstrap = \"none\"\nno-dht = true\nno-mdns = true\ndns = \"none\"\ndatabase = \"none\"\n{more}\n",
        dir.path()
    );
    let settings: Settings = toml::from_str(&settings).unwrap();
    App::start(settings, Mode::Server).await.unwrap()
}

fn address(app: &App) -> (PeerId, Multiaddr) {
    let addr: Multiaddr = app.peers()[0].clone();
    let Some(libp2p::multiaddr::Protocol::P2p(peer)) = addr.iter().last() else { panic!("no peer in {addr}") };
    (peer, addr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_cannot_make_a_server_fetch_and_the_option_switches_it_off() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let b = Asking::start().await;
    let origin = server(&dirs[0], "").await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let add =
        http.post(format!("{}/api/v1/add", origin.api_file().admin)).header("content-type", "application/octet-stream");
    let added = add.body(noise(500_000)).send().await.unwrap();
    let added: serde_json::Value = serde_json::from_str(&added.text().await.unwrap()).unwrap();
    let target = format!("/ipfs/{}?format=car", added["cid"].as_str().unwrap());
    let middle = server(&dirs[1], &format!("peer = [\"{}\"]", address(&origin).1)).await;
    let off = server(&dirs[2], "no-libp2p-gateway = true").await;
    let ask = async |app: &App, target: &str| {
        let (peer, addr) = address(app);
        b.client.http(peer, vec![addr], true, Request::builder().uri(target).body(()).unwrap()).await
    };

    assert_eq!(b.client.gateway_path(address(&origin).0, vec![address(&origin).1], true).await.unwrap(), "/");
    let from_origin = collect(ask(&origin, &target).await.unwrap()).await;
    assert_eq!(from_origin.status, StatusCode::OK);
    // The middle one is connected to a node that has it, and does not ask that.
    assert_eq!(ask(&middle, &target).await.unwrap().status(), StatusCode::NOT_FOUND);
    let url = format!("{}{target}", middle.api_file().gateway);
    let fetched = http.get(url).send().await.unwrap();
    assert_eq!(fetched.status(), StatusCode::OK);
    assert!(fetched.bytes().await.unwrap() == from_origin.body);
    // What its own user has fetched is here now.
    let from_middle = collect(ask(&middle, &target).await.unwrap()).await;
    assert!(from_middle.status == StatusCode::OK && from_middle.body == from_origin.body);
    let page = http.get(format!("{}/metrics", middle.api_file().admin)).send().await.unwrap().text().await.unwrap();
    for line in [
        "tidegate_gateway_libp2p_requests_total{method=\"GET\",class=\"4xx\",format=\"car\"} 1",
        "tidegate_gateway_libp2p_requests_total{method=\"GET\",class=\"2xx\",format=\"car\"} 1",
        "tidegate_gateway_requests_total{method=\"GET\",class=\"2xx\",format=\"car\"} 1",
    ] {
        assert!(page.lines().any(|counted| counted == line), "no {line} in\n{page}");
    }

    let refused = ask(&off, &target).await;
    assert!(matches!(refused, Err(HttpError::Unsupported { .. })), "{refused:?}");
    b.end().await;
    for app in [middle, origin, off] {
        app.stop().await;
    }
}
