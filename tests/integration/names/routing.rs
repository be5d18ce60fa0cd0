//! The server of Delegated Routing V1, asked by our own client and by hand.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use libp2p::PeerId;
use tidegate::blockstore::Blockstore;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::gateway::{self, Routing, State};
use tidegate::http_peer::delegated::{DelegatedMetrics, DelegatedRouter};
use tidegate::ipld::{Block, Cid, HashCode};
use tidegate::listener;
use tidegate::record::NoRecords;
use tidegate::retriever::Retriever;
use tidegate::routing::{ContentRouter, NameRouter, PeerRouter, Provider, RouterKind, RoutingError};
use tidegate::telemetry::Metrics;
use tower::ServiceExt;

use super::{MINUTE, Options, World, new_key, signed};
use crate::gateway::world;

const CID: &str = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq";

/// Knows these providers, and these peers.
struct Known(Vec<Provider>);

#[async_trait]
impl ContentRouter for Known {
    fn kind(&self) -> RouterKind {
        RouterKind::Dht
    }

    fn find_providers(&self, _: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        futures::stream::iter(self.0.clone()).map(Ok).boxed()
    }
}

impl PeerRouter for Known {
    fn kind(&self) -> RouterKind {
        RouterKind::Dht
    }

    fn find_peer(&self, peer: PeerId) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>> {
        let found = self.0.iter().filter(|known| known.peer == peer).cloned().collect();
        Box::pin(async move { Ok(found) })
    }

    fn closest_peers(&self, _: &Cid) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>> {
        let found = self.0.clone();
        Box::pin(async move { Ok(found) })
    }
}

fn provider(addr: &str, protocols: &[&str]) -> Provider {
    Provider {
        peer: PeerId::random(),
        addrs: vec![addr.parse().unwrap()],
        transports: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
        source: RouterKind::Dht,
    }
}

struct Server {
    router: axum::Router,
    names: World,
    metrics: Metrics,
    blocks: Arc<MemoryStore>,
}

impl Server {
    fn new(known: Vec<Provider>) -> Self {
        let names = World::new(Options::default());
        let (metrics, blocks) = (Metrics::new(), Arc::new(MemoryStore::default()));
        let known = Arc::new(Known(known));
        let us = PeerId::random();
        let routing = Routing {
            content: vec![known.clone()],
            peers: vec![known],
            blocks: blocks.clone(),
            own: Some(Arc::new(move || (us, vec![format!("/ip4/192.0.2.9/tcp/4001/p2p/{us}").parse().unwrap()]))),
        };
        let state = State {
            retriever: Retriever::local(blocks.clone()),
            names: names.resolver.clone(),
            routing: Some(routing),
            denylists: tidegate::denylist::Denylists::default(),
            sink: Arc::new(NoRecords),
            config: gateway::Config::default(),
            is_admin_token: Arc::new(|_| false),
        };
        Self { router: gateway::router(state, &metrics), names, metrics, blocks }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/routing/v1{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            bytes: body,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], Bytes::new()).await
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
    bytes: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

#[tokio::test]
async fn providers_come_as_json_and_as_ndjson_only_where_it_is_asked_for() {
    let known = vec![
        provider("/ip4/192.0.2.1/tcp/4001", &["transport-bitswap"]),
        provider("/ip4/192.0.2.2/udp/1/quic-v1", &[]),
    ];
    let server = Server::new(known.clone());
    let answer = server.get(&format!("/providers/{CID}")).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    assert_eq!((answer.header("vary"), answer.header("access-control-allow-origin")), ("Accept", "*"));
    assert!(answer.header("cache-control").starts_with("public, max-age=300, stale-while-revalidate=172800"));
    assert!(!answer.header("last-modified").is_empty());
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let first = &json["Providers"][0];
    assert_eq!((first["Schema"].as_str(), first["ID"].as_str()), (Some("peer"), Some(&*known[0].peer.to_string())));
    assert_eq!(first["Addrs"][0], "/ip4/192.0.2.1/tcp/4001");
    assert_eq!(json["Providers"].as_array().unwrap().len(), 2);

    let lines =
        server.ask("GET", &format!("/providers/{CID}"), &[("accept", "application/x-ndjson")], Bytes::new()).await;
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    assert_eq!(lines.body.lines().count(), 2);
    let any = server.ask("GET", &format!("/providers/{CID}"), &[("accept", "*/*")], Bytes::new()).await;
    assert_eq!(any.header("content-type"), "application/json");
    let filtered = server.get(&format!("/providers/{CID}?filter-addrs=quic-v1&filter-protocols=unknown")).await;
    assert!(filtered.body.contains("192.0.2.2") && !filtered.body.contains("192.0.2.1"));
}

#[tokio::test]
async fn nobody_is_200_with_an_empty_list_that_is_kept_shortly() {
    let server = Server::new(Vec::new());
    for accept in ["application/json", "application/x-ndjson"] {
        let answer = server.ask("GET", &format!("/providers/{CID}"), &[("accept", accept)], Bytes::new()).await;
        assert_eq!(answer.status.as_u16(), 200);
        assert!(answer.header("cache-control").starts_with("public, max-age=15,"));
    }
    assert_eq!(server.get(&format!("/providers/{CID}")).await.body, r#"{"Providers":[]}"#);
    assert_eq!(server.get(&format!("/peers/{}", PeerId::random())).await.body, r#"{"Peers":[]}"#);
    assert_eq!(server.get(&format!("/dht/closest/peers/{CID}")).await.status.as_u16(), 404);
}

#[tokio::test]
async fn at_most_100_results_and_what_is_here_is_ours() {
    let server = Server::new((0..150).map(|_| provider("/ip4/192.0.2.1/tcp/1", &[])).collect());
    let block = Block::encode(0x55, HashCode::Sha2_256, Bytes::from_static(b"ours")).unwrap();
    let cid = *block.cid();
    server.blocks.put(vec![block]).await.unwrap();
    let answer = server.get(&format!("/providers/{cid}")).await;
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(json["Providers"].as_array().unwrap().len(), 100);
    assert_eq!(json["Providers"][0]["Addrs"][0], "/ip4/192.0.2.9/tcp/4001");
    let closest = server.get(&format!("/dht/closest/peers/{CID}")).await;
    let json: serde_json::Value = serde_json::from_str(&closest.body).unwrap();
    assert_eq!(json["Peers"].as_array().unwrap().len(), 20);
}

// GATEWAY.md §3.7-8: by XOR of the hashes of the keys, the nearest first.
#[tokio::test]
async fn m3_7_8_the_closest_peers_come_nearest_first() {
    let known: Vec<_> = (0..60).map(|_| provider("/ip4/192.0.2.1/tcp/1", &[])).collect();
    let server = Server::new(known.clone());
    let hash = |bytes: &[u8]| HashCode::Sha2_256.digest(bytes).unwrap().digest().to_vec();
    for key in [CID.to_owned(), known[0].peer.to_string()] {
        let answer = server.get(&format!("/dht/closest/peers/{key}")).await;
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let got: Vec<PeerId> = json["Peers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|peer| peer["ID"].as_str().unwrap().parse().unwrap())
            .collect();
        // The key of a CID is its multihash, that of a peer its ID.
        let own = key.parse::<Cid>().map(|cid| cid.hash().to_bytes()).unwrap_or_else(|_| known[0].peer.to_bytes());
        let distance =
            |peer: &PeerId| -> Vec<u8> { hash(&own).iter().zip(hash(&peer.to_bytes())).map(|(a, b)| a ^ b).collect() };
        let mut expected: Vec<PeerId> = known.iter().map(|provider| provider.peer).collect();
        expected.sort_by_key(&distance);
        expected.truncate(20);
        assert_eq!(got, expected, "{key}");
    }
}

#[tokio::test]
async fn what_is_not_understood_has_its_status() {
    let server = Server::new(Vec::new());
    let status = async |method: &str, path: &str| server.ask(method, path, &[], Bytes::new()).await.status.as_u16();
    assert_eq!(status("GET", "/providers/nonsense").await, 422);
    assert_eq!(status("GET", "/peers/nonsense").await, 422);
    assert_eq!(status("GET", "/ipns/nonsense").await, 422);
    assert_eq!(status("GET", "/nonsense").await, 400);
    assert_eq!(status("POST", &format!("/providers/{CID}")).await, 501);
    let preflight = server.ask("OPTIONS", &format!("/providers/{CID}"), &[], Bytes::new()).await;
    assert_eq!((preflight.status.as_u16(), preflight.header("access-control-allow-methods")), (204, "GET, OPTIONS"));
    let off = world::World::new();
    assert_eq!(off.get(&format!("/routing/v1/providers/{CID}")).await.status.as_u16(), 404);
}

#[tokio::test]
async fn records_are_put_and_served_with_their_age() {
    let server = Server::new(Vec::new());
    let (key, name) = new_key();
    let record = signed(&key, "/ipfs/bafkqaaa", 1, 10 * MINUTE);
    let path = format!("/ipns/{name}");
    let none = server.get(&path).await;
    assert_eq!((none.status.as_u16(), none.header("content-type")), (200, "text/plain; charset=utf-8"));

    let put =
        async |kind: &str, body: Bytes| server.ask("PUT", &path, &[("content-type", kind)], body).await.status.as_u16();
    assert_eq!(put("application/json", record.bytes().clone()).await, 406);
    assert_eq!(put(super::RECORD, Bytes::from_static(b"garbage")).await, 400);
    assert_eq!(put(super::RECORD, Bytes::from(vec![0; 10_241])).await, 413);
    assert_eq!(put(super::RECORD, record.bytes().clone()).await, 200);
    assert_eq!(server.names.resolver.kept().await.unwrap().len(), 1);

    let got = server.get(&path).await;
    assert_eq!((got.status.as_u16(), &got.bytes), (200, record.bytes()));
    assert_eq!((got.header("content-type"), got.header("cache-control")), (super::RECORD, "public, max-age=600"));
    assert!(!got.header("expires").is_empty());
    let etag = got.header("etag").to_owned();
    let again = server.ask("GET", &path, &[("if-none-match", &etag)], Bytes::new()).await;
    assert_eq!(again.status.as_u16(), 304);
    let html = server.ask("GET", &path, &[("accept", "text/html")], Bytes::new()).await;
    assert_eq!(html.status.as_u16(), 406);
}

#[tokio::test]
async fn our_client_and_our_server_understand_each_other() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let known = vec![provider("/ip4/192.0.2.1/tcp/4001", &["transport-bitswap"])];
    let server = Server::new(known.clone());
    let listening = world::serve(server.router.clone(), listener::Config::default(), None, &server.metrics).await;
    let client = DelegatedRouter::new(&listening.url(""), DelegatedMetrics::new(&Metrics::new())).unwrap();
    let cid: Cid = CID.parse().unwrap();
    let found: Vec<_> = client.find_providers(&cid).collect().await;
    let expected = Provider { source: RouterKind::Delegated, ..known[0].clone() };
    assert_eq!(found, [Ok(expected.clone())]);
    assert_eq!(client.find_peer(known[0].peer).await.unwrap(), std::slice::from_ref(&expected));
    assert_eq!(client.closest_peers(&cid).await.unwrap(), [expected]);

    let (key, name) = new_key();
    let record = signed(&key, "/ipfs/bafkqaaa", 1, MINUTE);
    assert!(client.records(&name).collect::<Vec<_>>().await.is_empty());
    client.announce(&name, record.bytes().clone()).await.unwrap();
    let found: Vec<_> = client.records(&name).collect().await;
    assert_eq!(found.len(), 1);
    assert_eq!(&found[0].as_ref().unwrap().bytes, record.bytes());
    listening.stop.cancel();
}
