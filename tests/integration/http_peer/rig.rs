//! HTTP providers that behave as they are told, and a retriever that asks them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderMap, Method, Response, StatusCode};
use libp2p::{Multiaddr, PeerId};
use tidegate::blockstore::{Hit, StoreError};
use tidegate::exchange::Exchange;
use tidegate::http_peer::endpoint::Endpoint;
use tidegate::http_peer::merged::{ConfiguredHttp, WithHttp};
use tidegate::http_peer::trustless::{Config, HttpExchange};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::record::{Attempt, SessionReport};
use tidegate::retriever::{FetchError, Hint, LocalBlocks, Retriever, Session, SessionOptions};
use tidegate::routing::{ContentRouter, Provider, RouterKind, RoutingError};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

/// Liveness only.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a provider answers to a request for a block that is not the probe: given the how-manieth such request it is.
pub type Manner = Arc<dyn Fn(usize, &Method, Option<Block>) -> Response<Body> + Send + Sync>;

/// The same to a request for a CAR.
pub type Cars = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

/// The same to any request, by its headers.
pub type ByHeaders = Arc<dyn Fn(&HeaderMap, Option<Block>) -> Response<Body> + Send + Sync>;

/// One question that reached a provider.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Instant,
    pub method: Method,
    pub headers: HeaderMap,
    pub query: String,
}

pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    pub async fn honest(blocks: &[Block]) -> Self {
        Self::start(blocks, |_, _, block| answer(block)).await
    }

    pub async fn start(
        blocks: &[Block],
        manner: impl Fn(usize, &Method, Option<Block>) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(blocks, manner, None, None).await
    }

    /// An honest one of single blocks that answers requests for CARs with what `car` makes.
    pub async fn of_cars(blocks: &[Block], car: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::start_with(blocks, |_, _, block| answer(block), Some(Arc::new(car)), None).await
    }

    /// One that answers by the headers of what it is asked.
    pub async fn by_headers(
        blocks: &[Block],
        manner: impl Fn(&HeaderMap, Option<Block>) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(blocks, |_, _, block| answer(block), None, Some(Arc::new(manner))).await
    }

    async fn start_with(
        blocks: &[Block],
        manner: impl Fn(usize, &Method, Option<Block>) -> Response<Body> + Send + Sync + 'static,
        cars: Option<Cars>,
        by_headers: Option<ByHeaders>,
    ) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let blocks: HashMap<String, Block> = blocks.iter().map(|b| (b.cid().to_string(), b.clone())).collect();
        let (asked, manner): (Arc<Mutex<Vec<Asked>>>, Manner) = (Arc::default(), Arc::new(manner));
        let (seen, count) = (asked.clone(), Arc::new(AtomicUsize::new(0)));
        let handle = move |request: Request| {
            let (blocks, manner, seen, count) = (blocks.clone(), manner.clone(), seen.clone(), count.clone());
            let (cars, by_headers) = (cars.clone(), by_headers.clone());
            async move {
                let path = request.uri().path().to_owned();
                let cid = path.trim_start_matches("/ipfs/").to_owned();
                if cid == "bafkqaaa" {
                    return Response::new(Body::empty());
                }
                let (at, method, headers) = (Instant::now(), request.method().clone(), request.headers().clone());
                let query = request.uri().query().unwrap_or_default().to_owned();
                let car = cars.filter(|_| query.contains("format=car"));
                let by_headers = by_headers.map(|manner| manner(&headers, blocks.get(&cid).cloned()));
                seen.lock().unwrap().push(Asked { at, method, headers, query });
                if let Some(answer) = by_headers {
                    return answer;
                }
                if let Some(car) = car {
                    return car();
                }
                manner(count.fetch_add(1, Ordering::SeqCst), request.method(), blocks.get(&cid).cloned())
            }
        };
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let router = Router::new().fallback(handle);
        #[allow(clippy::disallowed_methods)] // a test has no supervisor
        let serving = tokio::spawn(async move { axum::serve(tcp, router).await.unwrap() });
        Self { address, asked, serving }
    }

    pub fn addr(&self) -> Multiaddr {
        http_addr(self.address)
    }

    pub fn id(&self) -> PeerId {
        Endpoint::parse(&self.addr()).unwrap().id()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

pub fn http_addr(address: SocketAddr) -> Multiaddr {
    format!("/ip4/{}/tcp/{}/http", address.ip(), address.port()).parse().unwrap()
}

pub fn answer(block: Option<Block>) -> Response<Body> {
    match block {
        Some(block) => Response::new(Body::from(block.into_data())),
        None => status(StatusCode::NOT_FOUND),
    }
}

pub fn status(status: StatusCode) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

/// A body that ends in an error after these bytes: the connection or the stream is reset.
pub fn cut(first: Bytes) -> Response<Body> {
    let parts = [Ok(first), Err(std::io::Error::other("on purpose"))];
    Response::new(Body::from_stream(futures::stream::iter(parts)))
}

/// A link: bytes a second, and whose turn it is where several answers share it.
#[derive(Clone)]
pub struct Link(pub f64, pub Option<Arc<tokio::sync::Mutex<()>>>);

/// These bytes of a block, or all of it, over a link.
pub fn part(headers: &HeaderMap, block: Option<Block>, rate: f64) -> Response<Body> {
    part_over(headers, block, &Link(rate, None))
}

pub fn part_over(headers: &HeaderMap, block: Option<Block>, link: &Link) -> Response<Body> {
    let Some(block) = block else { return status(StatusCode::NOT_FOUND) };
    let size = block.len();
    let asked = headers.get("range").map(|range| range.to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned());
    let Some(asked) = asked else { return paced(block.into_data(), StatusCode::OK, None, link) };
    let range = match asked.split_once('-').unwrap() {
        ("", last) => size - last.parse::<usize>().unwrap().min(size)..size,
        (first, last) => first.parse().unwrap()..last.parse::<usize>().unwrap() + 1,
    };
    let says = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    paced(block.into_data().slice(range), StatusCode::PARTIAL_CONTENT, Some(says), link)
}

fn paced(data: Bytes, status: StatusCode, says: Option<String>, link: &Link) -> Response<Body> {
    const PIECE: usize = 8 * 1024;
    let length = data.len();
    let pieces: Vec<Bytes> = (0..length).step_by(PIECE).map(|at| data.slice(at..(at + PIECE).min(length))).collect();
    let link = link.clone();
    let body = futures::stream::iter(pieces).then(move |piece| {
        let Link(rate, turn) = link.clone();
        async move {
            let _turn = match &turn {
                Some(turn) => Some(turn.lock().await),
                None => None,
            };
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate)).await;
            Ok::<_, std::io::Error>(piece)
        }
    });
    let mut answer = Response::builder().status(status).header("content-length", length);
    if let Some(says) = says {
        answer = answer.header("content-range", says);
    }
    answer.body(Body::from_stream(body)).unwrap()
}

/// A body of one byte every 50 ms, for ever.
pub fn drip() -> Response<Body> {
    let bytes = futures::stream::repeat(()).then(|()| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
    });
    Response::new(Body::from_stream(bytes))
}

/// No tier of this machine has anything.
pub struct Nothing;

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

/// A router that names these for every CID.
pub struct Names(pub Vec<Provider>);

impl ContentRouter for Names {
    fn kind(&self) -> RouterKind {
        RouterKind::Delegated
    }

    fn find_providers(&self, _: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        futures::stream::iter(self.0.clone()).map(Ok).boxed()
    }
}

/// A retriever over HTTP alone.
pub struct Seeker {
    pub retriever: Retriever,
    pub exchange: HttpExchange,
    pub metrics: Metrics,
    _supervisor: Supervisor,
}

impl Seeker {
    /// With these providers configured.
    pub fn of(servers: &[&Server]) -> Self {
        Self::with(
            Config { providers: servers.iter().map(|server| server.addr()).collect(), ..Config::default() },
            Vec::new(),
        )
    }

    pub fn with(config: Config, named: Vec<Provider>) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let (metrics, supervisor) = (Metrics::new(), Supervisor::new());
        let configured = ConfiguredHttp(config.providers.clone());
        let exchange = HttpExchange::start(config, None, &metrics, &supervisor).unwrap();
        let routers: Vec<Arc<dyn ContentRouter>> =
            vec![Arc::new(configured), Arc::new(WithHttp(Arc::new(Names(named))))];
        let retriever = Retriever::new(
            &tidegate::retriever::Config::default(),
            Arc::new(Nothing),
            Some(Arc::new(exchange.clone()) as Arc<dyn Exchange>),
            routers,
            &metrics,
            &supervisor,
        );
        Self { retriever, exchange, metrics, _supervisor: supervisor }
    }

    pub fn session(&self, root: &Cid) -> Session {
        self.retriever.session(*root, SessionOptions::default())
    }

    pub async fn fetch(&self, cid: &Cid) -> (Result<Block, FetchError>, SessionReport) {
        let session = self.session(cid);
        let answer = tokio::time::timeout(PATIENCE, session.fetch(cid)).await.expect("an answer in time");
        (answer, session.report())
    }

    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|line| line.starts_with(&format!("tidegate_{name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// Reads all in order, everything asked for ahead.
pub async fn read_all(session: &Session, blocks: &[Block]) -> Vec<Block> {
    session.prefetch(blocks.iter().map(|b| Hint { cid: *b.cid(), size: Some(b.len() as u64) }));
    let mut read = Vec::new();
    for block in blocks {
        let fetched = tokio::time::timeout(PATIENCE, session.fetch(block.cid())).await.expect("an answer in time");
        read.push(fetched.unwrap());
    }
    read
}

pub fn attempt(report: &SessionReport, peer: PeerId) -> &Attempt {
    report.attempts.iter().find(|a| a.peer == peer).unwrap_or_else(|| panic!("no attempt: {:?}", report.attempts))
}

/// Blocks that differ, of this size.
pub fn blocks(count: usize, size: usize) -> Vec<Block> {
    (0..count)
        .map(|n| {
            let mut data = vec![n as u8; size];
            data[..8].copy_from_slice(&(n as u64).to_le_bytes());
            Block::encode(codec::RAW, HashCode::Sha2_256, data.into()).unwrap()
        })
        .collect()
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
