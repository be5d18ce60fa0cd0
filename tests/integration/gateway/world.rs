//! A gateway over a store in memory, and helpers to ask it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::blockstore::{Blockstore, StoreError, StoreStats};
use tidegate::denylist::Denylists;
use tidegate::gateway::{self, Config, State};
use tidegate::ipld::builder::{Built, DirBuilder, FileBuilder, Profile};
use tidegate::ipld::{Block, Cid};
use tidegate::listener;
use tidegate::names::{NsMap, Resolver};
use tidegate::record::{RecordSink, RetrievalRecord};
use tidegate::retriever::Retriever;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub const TOKEN: &str = "let-me-in";

pub struct World {
    pub store: Arc<Store>,
    pub records: Arc<Records>,
    pub router: Router,
    pub metrics: Metrics,
}

/// A store that counts its reads, and never answers for one block if told so.
#[derive(Default)]
pub struct Store {
    blocks: MemoryStore,
    pub reads: AtomicU64,
    pub stuck: Mutex<Option<Cid>>,
}

#[derive(Default)]
pub struct Records(Mutex<Vec<RetrievalRecord>>);

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl World {
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        Self::with_names(config, |_| Resolver::fixed(NsMap::default()))
    }

    /// With names that the test makes.
    pub fn with_names(config: Config, names: impl FnOnce(&Metrics) -> Resolver) -> Self {
        Self::over(Arc::new(Store::default()), config, names)
    }

    /// Another gateway over the same blocks.
    pub fn renamed(&self, config: Config, names: Resolver) -> Self {
        Self::over(self.store.clone(), config, |_| names)
    }

    fn over(store: Arc<Store>, config: Config, names: impl FnOnce(&Metrics) -> Resolver) -> Self {
        let records = Arc::new(Records::default());
        let metrics = Metrics::new();
        let state = State {
            retriever: Retriever::local(store.clone()),
            names: names(&metrics),
            denylists: Denylists::default(),
            routing: None,
            sink: records.clone(),
            config,
            is_admin_token: Arc::new(|token| token == TOKEN),
        };
        Self { store, records, router: gateway::router(state, &metrics), metrics }
    }

    pub async fn put(&self, blocks: Vec<Block>) {
        self.store.put(blocks).await.unwrap();
    }

    /// Adds a file as Kubo would; its blocks, leaves first, root last.
    pub async fn file(&self, data: &[u8]) -> (Built, Vec<Cid>) {
        let mut builder = FileBuilder::new(&Profile::KUBO_V1);
        let mut blocks = builder.push(Bytes::copy_from_slice(data));
        let (rest, built) = builder.finish();
        blocks.extend(rest);
        let cids = blocks.iter().map(|block| *block.cid()).collect();
        self.put(blocks).await;
        (built, cids)
    }

    pub async fn directory(&self, entries: &[(&str, Built)]) -> Built {
        let mut builder = DirBuilder::new(&Profile::KUBO_V1);
        for (name, built) in entries {
            builder.add(name, built.cid, built.tsize).unwrap();
        }
        let (blocks, built) = builder.finish().unwrap();
        self.put(blocks).await;
        built
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// The gateway behind a real listener on loopback.
    pub async fn listen(&self, config: listener::Config, tls: Option<listener::Tls>) -> Server {
        serve(self.router.clone(), config, tls, &self.metrics).await
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub ended: tokio::task::JoinHandle<Option<usize>>,
    pub supervisor: Supervisor,
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub async fn serve(router: Router, config: listener::Config, tls: Option<listener::Tls>, metrics: &Metrics) -> Server {
    serve_with(router, config, tls, None, metrics).await
}

pub async fn serve_with(
    router: Router,
    config: listener::Config,
    tls: Option<listener::Tls>,
    tunnel_to: Option<listener::TunnelCheck>,
    metrics: &Metrics,
) -> Server {
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let supervisor = Supervisor::new();
    let stop = CancellationToken::new();
    let options = listener::Options {
        name: "gateway",
        config,
        trusted_proxies: Vec::new(),
        tls,
        stats: listener::Stats::new(metrics),
        tunnel_to,
    };
    let (task, token) = (supervisor.clone(), stop.clone());
    let ended = supervisor.spawn("listener", async move { listener::serve(tcp, router, options, &task, token).await });
    Server { address, stop, ended, supervisor }
}

impl Records {
    pub fn all(&self) -> Vec<RetrievalRecord> {
        self.0.lock().unwrap().clone()
    }

    /// The one record there is, as soon as it is there.
    pub async fn one(&self) -> RetrievalRecord {
        for _ in 0..500 {
            if let [record] = &self.all()[..] {
                return record.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not one record: {:?}", self.all());
    }
}

impl RecordSink for Records {
    fn record(&self, record: RetrievalRecord) {
        self.0.lock().unwrap().push(record);
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), "application/problem+json");
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[async_trait]
impl Blockstore for Store {
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if *self.stuck.lock().unwrap() == Some(*cid) {
            std::future::pending::<()>().await;
        }
        self.blocks.get(cid).await
    }

    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        self.blocks.put(blocks).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.blocks.has(cid).await
    }

    async fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.blocks.remove(cid).await
    }

    fn stats(&self) -> StoreStats {
        self.blocks.stats()
    }
}

/// Bytes without repetition, so that no two blocks are the same.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
