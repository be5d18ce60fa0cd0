//! What the gateway itself costs on the warm path (RETRIEVAL.md T17), without a network: the parts that a request that is
//! not kept goes through first, and a whole answer from the cache.
//!
//! Times are of this thread's processor, not of the clock on the wall: other programs on the machine do not count.
//!
//! `cargo bench --bench warm_path`. The gate: path, negotiation and headers together under 3 µs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::blockstore::{Blockstore, Hit, StoreError, Tier};
use tidegate::denylist::Denylists;
use tidegate::gateway::conditional::Conditional;
use tidegate::gateway::format::ResponseFormat;
use tidegate::gateway::host::{self, Hosts, Seen};
use tidegate::gateway::range::ByteRange;
use tidegate::gateway::{self, Config, State, headers};
use tidegate::ipld::path::ContentPath;
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::names::{NsMap, Resolver};
use tidegate::record::NoRecords;
use tidegate::retriever::{self, LocalBlocks, Retriever};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tower::Service;

/// What this thread has used of a processor.
struct ProcessorTime;

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes one timespec, which lives on this stack.
        let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
        assert_eq!(done, 0, "this system does not count a thread's time");
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

/// Path, negotiation and headers of one request: from its parts to the header block of its answer.
fn parse_negotiate_headers(hosts: &Hosts, authority: &str, path: &str, asked: &HeaderMap) -> HeaderMap {
    let seen = Seen { authority, https: false, path, query: None };
    let _ = black_box(host::route(hosts, seen));
    // Local invariant: the path is the benchmark's own.
    let content = ContentPath::parse(path).expect("a path");
    let negotiated = ResponseFormat::negotiate(None, asked).expect("a format");
    let conditional = Conditional::read(asked);
    let cid = *content.cid().expect("a CID");
    let etag = headers::etag(&cid);
    black_box((negotiated, conditional, ByteRange::read(asked, &etag)));
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &content, &[cid]);
    out.insert(ETAG, headers::value(&etag));
    out.insert(CACHE_CONTROL, headers::IMMUTABLE);
    out.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers::set_common(&mut out);
    out
}

/// Blocks that are all in memory.
struct Resident(MemoryStore);

#[async_trait]
impl LocalBlocks for Resident {
    fn peek(&self, cid: &Cid) -> Option<Block> {
        self.0.get(cid).now_or_never()?.ok()?
    }

    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        Ok(self.0.get(cid).await?.map(|block| Hit { block, tier: Tier::Memory }))
    }

    fn cache(&self, _: &Block) {}
}

fn gateway(answer_cache: u64, block: &Block) -> gateway::Service {
    let metrics = Metrics::new();
    let store = MemoryStore::new();
    store.put(vec![block.clone()]).now_or_never().expect("no wait").expect("memory");
    let retriever = Retriever::new(
        &retriever::Config::default(),
        Arc::new(Resident(store)),
        None,
        Vec::new(),
        &metrics,
        &Supervisor::new(),
    );
    let state = State {
        retriever,
        names: Resolver::fixed(NsMap::default()),
        routing: None,
        denylists: Denylists::default(),
        sink: Arc::new(NoRecords),
        config: Config { answer_cache: tidegate::units::ByteSize(answer_cache), ..Config::default() },
        is_admin_token: Arc::new(|_| false),
    };
    gateway::service(state, &metrics)
}

fn ask(runtime: &tokio::runtime::Runtime, gateway: &gateway::Service, path: &str) -> usize {
    runtime.block_on(async {
        let request = Request::get(path).header(HOST, "127.0.0.1:8080").body(Body::empty()).expect("a request");
        let response = gateway.clone().call(request).await.expect("infallible");
        response.into_body().collect().await.expect("a body").to_bytes().len()
    })
}

fn benchmarks(c: &mut Criterion<ProcessorTime>) {
    let hosts = Hosts::parse(&["localhost"]).expect("a host");
    let block = Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(vec![b'x'; 1_000])).expect("a block");
    let cid = *block.cid();
    let path = format!("/ipfs/{cid}/docs/index.html");
    let mut browser = HeaderMap::new();
    browser.insert(ACCEPT, HeaderValue::from_static(BROWSER));
    let plain = HeaderMap::new();

    let mut group = c.benchmark_group("path, negotiation, headers");
    group.bench_function("no Accept", |b| b.iter(|| parse_negotiate_headers(&hosts, "127.0.0.1:8080", &path, &plain)));
    group.bench_function("browser", |b| b.iter(|| parse_negotiate_headers(&hosts, "127.0.0.1:8080", &path, &browser)));
    group.finish();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("1 KB, request to last byte, without a connection");
    let path = format!("/ipfs/{cid}");
    for (name, budget) in [("kept", 32 << 20), ("made anew", 0)] {
        let gateway = gateway(budget, &block);
        ask(&runtime, &gateway, &path);
        group.bench_function(name, |b| b.iter(|| ask(&runtime, &gateway, &path)));
    }
    group.finish();
}

criterion_group! {
    name = all;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = benchmarks
}
criterion_main!(all);
