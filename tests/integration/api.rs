//! The admin listener through its router: the REST API, who may use it, and the pages.

mod access;
mod names;
mod rest;
mod webgpu;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use libp2p::PeerId;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::api::{self, Access, Draining};
use tidegate::blockstore::{self, Blocks};
use tidegate::dashboard::{self, NodeSnapshot};
use tidegate::db::{self, Database};
use tidegate::ipld::cid;
use tidegate::names::{Config as NamesConfig, NameStore, NsMap, Parts, Resolver};
use tidegate::record::live::Feed;
use tidegate::record::{
    Attempt, AttemptOutcome, EventKind, Origin, Outcome, Phase, Policy, RetrievalEvent, RetrievalId, RetrievalRecord,
    SessionReport, Transport,
};
use tidegate::retriever::Retriever;
use tidegate::routing::RouterKind;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tidegate::topology::Facts;
use tower::ServiceExt;

mod pages;

const TOKEN: &str = "a-token-for-tests-only";
/// `hello` as an identity CID.
const HELLO: &str = "bafkqabtimvwgy3yk";

struct Admin {
    router: Router,
    db: Option<Database>,
    blocks: Arc<Blocks>,
    draining: Draining,
    feed: Feed,
    _dir: TempDir,
    supervisor: Supervisor,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// A problem document with this status, whose members agree with each other.
    fn problem(&self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status.as_u16());
        assert!(problem["type"].as_str().unwrap().starts_with("urn:tidegate:problem:"));
        assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
        problem
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Db {
    Sqlite,
    /// The file's folder does not exist and cannot be made.
    Broken,
    Off,
}

impl Admin {
    async fn start() -> Self {
        Self::with("127.0.0.1:8090", Db::Sqlite).await
    }

    async fn with(bound: &str, database: Db) -> Self {
        Self::with_access(bound, database, |access, _, _| access).await
    }

    /// `more` adds to the access rules what a test is about.
    async fn with_access(
        bound: &str,
        database: Db,
        more: impl FnOnce(Access, &std::path::Path, &Metrics) -> Access,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (metrics, supervisor) = (Metrics::new(), Supervisor::new());
        let blocks = Blocks::open(dir.path(), &blockstore::Config::default(), &metrics, &supervisor).await.unwrap();
        let url = (database == Db::Broken).then(|| "sqlite:///dev/null/nowhere/metrics.sqlite".to_owned());
        let config = db::Config { url, ..db::Config::default() };
        let db = match database {
            Db::Off => None,
            _ => Some(Database::open(&config, dir.path(), &metrics, &supervisor).await),
        };
        let bound: SocketAddr = bound.parse().unwrap();
        let draining = Draining::default();
        let feed = Feed::new(&metrics);
        let access = Access::new(bound, Arc::new(|token| token == TOKEN), vec!["tide.example".to_owned()]);
        let access = more(access, dir.path(), &metrics);
        let state = api::State {
            blocks: blocks.clone(),
            retriever: Retriever::local(blocks.clone()),
            lab: tidegate::webgpu::Lab::new(&metrics),
            names: Resolver::new(
                Parts {
                    config: NamesConfig::default(),
                    map: NsMap::parse("fixed.example:/ipfs/bafkqaaa").unwrap(),
                    store: NameStore::open(dir.path()),
                    routers: Vec::new(),
                    dns: None,
                    data_dir: Some(dir.path().to_owned()),
                },
                &metrics,
                &supervisor,
            )
            .unwrap(),
            node: None,
            db: db.clone(),
            metrics,
            config: serde_json::json!({"gateway": "127.0.0.1:8080"}),
            facts: Facts { delegated_routers: 0, dht: false, offline: true },
            gateway: "http://127.0.0.1:8080".to_owned(),
            supervisors: vec![supervisor.clone()],
            draining: draining.clone(),
            feed: feed.clone(),
            started: Instant::now(),
            access,
        };
        let pages = dashboard::router(dashboard::State {
            db: db.clone(),
            node: Arc::new(|| NodeSnapshot {
                peers: 2,
                exchange_peers: 1,
                routers: vec!["dht".into()],
                ..NodeSnapshot::default()
            }),
            gateway: "http://127.0.0.1:8080".to_owned(),
            compare_share: 0.0,
            host: Arc::new(dashboard::Host {
                blocks: blocks.clone(),
                config: serde_json::json!({"gateway": "127.0.0.1:8080", "limits": {"drain-timeout": "30s"}}),
                data_dir: dir.path().to_owned(),
                supervisors: vec![supervisor.clone()],
                started: Instant::now(),
                started_at: std::time::SystemTime::now(),
                admin: "http://127.0.0.1:8090".to_owned(),
                peer_addrs: Arc::new(|| vec!["/ip4/127.0.0.1/tcp/4001".to_owned()]),
            }),
            facts: Facts { delegated_routers: 0, dht: false, offline: true },
            retriever: Retriever::local(blocks.clone()),
        });
        let pages = pages.merge(dashboard::reference(&api::openapi::rendered().json));
        Self { router: api::admin_router(state, pages), db, blocks, draining, feed, _dir: dir, supervisor }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
        self.send(request(Method::POST, path).header(header::CONTENT_TYPE, kind).body(body.into()).unwrap()).await
    }

    /// Hands a record over and waits until it can be read.
    async fn record(&self, record: RetrievalRecord) {
        let db = self.db.as_ref().unwrap();
        let id = record.id;
        db.sink().record(record);
        for _ in 0..400 {
            if matches!(db.retrieval(id).await, Ok(Some(_))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the record was not written within 10 s: {:?}", db.state());
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:8090")
}

/// A fetch of 300 kB from two peers, one of which stalled.
fn fetched() -> RetrievalRecord {
    let now = SystemTime::now();
    let (good, slow) = (PeerId::random(), PeerId::random());
    let event = |at: u64, kind, peer: Option<PeerId>| RetrievalEvent {
        at: Duration::from_millis(at),
        kind,
        peer,
        cid: None,
        value: None,
        detail: None,
    };
    let attempt = |peer, bytes: u64, outcome| Attempt {
        peer,
        transport: Some(Transport::BitswapTcp),
        router: RouterKind::Dht,
        connect: Some(Duration::from_millis(40)),
        first_byte: Some(Duration::from_millis(20)),
        bytes,
        blocks: bytes / 100_000,
        duplicate_bytes: 0,
        hedges: 0,
        min_rtt: Some(Duration::from_millis(11)),
        max_rate_bps: Some(5e6),
        outcome,
        error_kind: None,
    };
    let session = SessionReport {
        policy: Policy::Optimized,
        transfer_time: Some(Duration::from_millis(380)),
        routing: Some(Duration::from_millis(30)),
        connect: Some(Duration::from_millis(40)),
        first_block: Some(Duration::from_millis(100)),
        providers_found: 2,
        providers_attempted: 2,
        blocks_memory: 0,
        blocks_store: 0,
        blocks_disk: 0,
        blocks_network: 3,
        network_bytes: 300_000,
        duplicate_bytes: 0,
        received_bytes: 301_000,
        optimization_score: Some(0.8),
        attempts: vec![
            attempt(good, 200_000, AttemptOutcome::Delivered),
            attempt(slow, 100_000, AttemptOutcome::Stalled),
        ],
        events: vec![
            event(0, EventKind::RoutingStarted, None),
            event(30, EventKind::ProviderFound, Some(good)),
            event(31, EventKind::DialStarted, Some(good)),
            event(71, EventKind::Connected, Some(good)),
            event(72, EventKind::WantSent, Some(good)),
            event(72, EventKind::WantSent, Some(slow)),
            event(100, EventKind::BlockReceived, Some(slow)),
            event(110, EventKind::BlockReceived, Some(good)),
            event(290, EventKind::Stalled, Some(slow)),
            event(380, EventKind::BlockReceived, Some(good)),
        ],
        events_dropped: 0,
        phase: Phase::Fetch,
    };
    RetrievalRecord {
        id: RetrievalId::next(),
        cid: cid::parse("bafkreih27ptmkbnlfvyzbnmnawzpmsvyqlrscvbwuqpyx4zzb2mbxivpxi").unwrap(),
        path: "/ipfs/bafkreih27ptmkbnlfvyzbnmnawzpmsvyqlrscvbwuqpyx4zzb2mbxivpxi/\"><img src=x onerror=alert(1)>\u{202e}.txt".to_owned(),
        origin: Origin::Live,
        started_at: now - Duration::from_secs(6),
        finished_at: now,
        // Slow ones keep their trace.
        load_time: Duration::from_secs(6),
        ttfb: Some(Duration::from_millis(101)),
        bytes: 300_000,
        outcome: Outcome::Truncated,
        error_kind: Some("stalled".to_owned()),
        http_status: Some(200),
        session,
    }
}

struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
    /// What is inside, of `script` and `style`.
    text: String,
}

/// Every tag of a page with its attributes, and the text inside each `script` and `style`. Enough of a parser to hold
/// that nothing runs inline; quoting is that of our own templates.
fn tags(html: &str) -> Vec<Tag> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let mut quote = None;
        let end = rest
            .char_indices()
            .find(|(_, c)| match (quote, c) {
                (None, '>') => true,
                (None, '"' | '\'') => {
                    quote = Some(*c);
                    false
                }
                (Some(open), c) if open == *c => {
                    quote = None;
                    false
                }
                _ => false,
            })
            .expect("a tag ends")
            .0;
        let inside = &rest[..end];
        rest = &rest[end + 1..];
        let name_end = inside.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(inside.len());
        let name = inside[..name_end].to_ascii_lowercase();
        let mut attributes = Vec::new();
        let mut tail = inside[name_end..].trim_matches(|c: char| c.is_whitespace() || c == '/');
        while !tail.is_empty() {
            let stop = tail.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(tail.len());
            let key = tail[..stop].to_ascii_lowercase();
            tail = &tail[stop..];
            let mut value = String::new();
            if let Some(given) = tail.strip_prefix('=') {
                let open = given.chars().next().expect("a value follows");
                assert!(matches!(open, '"' | '\''), "unquoted attribute {key} in <{inside}>");
                let close = given[1..].find(open).expect("a quote closes") + 1;
                value = given[1..close].to_owned();
                tail = &given[close + 1..];
            }
            attributes.push((key, value));
            tail = tail.trim_start();
        }
        let mut text = String::new();
        if matches!(name.as_str(), "script" | "style") {
            let close = rest.find(&format!("</{name}")).expect("it is closed");
            text = rest[..close].to_owned();
        }
        found.push(Tag { name, attributes, text });
    }
    found
}

fn assert_nothing_runs_inline(path: &str, html: &str) {
    for Tag { name, attributes, text } in tags(html) {
        assert_ne!(name, "style", "{path}");
        assert!(text.trim().is_empty(), "{path}: inline {name}: {text}");
        for (key, value) in attributes {
            assert!(key != "style" && !key.starts_with("on"), "{path}: <{name} {key}={value:?}>");
            assert!(!value.trim_start().to_ascii_lowercase().starts_with("javascript:"), "{path}: {value}");
            if matches!(key.as_str(), "src" | "href") && name != "a" {
                assert!(value.starts_with("/static/"), "{path}: <{name} {key}={value:?}> is not ours");
            }
        }
    }
}

#[tokio::test]
async fn a_file_is_added_listed_as_a_pin_and_unpinned() {
    let admin = Admin::start().await;
    let added = admin.post("/api/v1/add", "application/octet-stream", "hello world\n").await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    let answer = added.json();
    // `printf 'hello world\n' | ipfs add --cid-version=1`
    assert_eq!(answer["cid"], "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4");
    assert_eq!(
        (answer["size"].as_u64(), answer["blocks"].as_u64(), answer["pinned"].as_bool()),
        (Some(12), Some(1), Some(true))
    );

    let pins = admin.get("/api/v1/pins").await.json();
    assert_eq!(pins["items"][0]["cid"], answer["cid"]);
    assert_eq!(pins["items"][0]["mode"], "recursive");
    assert_eq!(pins["next_cursor"], Value::Null);

    let path = format!("/api/v1/pins/{}", answer["cid"].as_str().unwrap());
    let remove = || request(Method::DELETE, &path).body(Body::empty()).unwrap();
    assert_eq!(admin.send(remove()).await.status, StatusCode::NO_CONTENT);
    admin.send(remove()).await.problem(StatusCode::NOT_FOUND);
    let report = admin.post("/api/v1/gc", "", Body::empty()).await.json();
    assert_eq!(report["removed_blocks"], 1);
}

#[tokio::test]
async fn multipart_entries_become_a_directory_and_names_are_checked() {
    let admin = Admin::start().await;
    let part = |name: &str, body: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{body}\r\n")
    };
    let body = format!("{}{}{}--B--\r\n", part("d/b.txt", "two"), part("d/sub/c.txt", "three"), part("d/a.txt", "one"));
    let added = admin.post("/api/v1/add", "multipart/form-data; boundary=B", body).await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.body);
    // `ipfs add -r --cid-version=1 d` of the same three files.
    let answer = added.json();
    assert_eq!((answer["size"].as_u64(), answer["entries"].as_u64()), (Some(11), Some(5)));
    let root = cid::parse(answer["cid"].as_str().unwrap()).unwrap();
    assert_eq!(root.codec(), 0x70);
    use tidegate::blockstore::Blockstore;
    assert!(admin.blocks.has(&root).await.unwrap());

    let wrong = format!("{}--B--\r\n", part("../up", "x"));
    admin.post("/api/v1/add", "multipart/form-data; boundary=B", wrong).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
    let broken = "--B\r\nContent-Disposition: form-data; filename=\"a\"\r\n\r\nno end".to_owned();
    assert!(admin.post("/api/v1/add", "multipart/form-data; boundary=B", broken).await.status.is_client_error());
    admin.post("/api/v1/add", "multipart/mixed; boundary=B", "--B--").await.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    admin.post("/api/v1/add?profile=unheard-of", "", "x").await.problem(StatusCode::BAD_REQUEST);
    admin.post("/api/v1/add?wrap=true", "", "x").await.problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_wrapped_file_has_its_name_in_a_directory() {
    let admin = Admin::start().await;
    let answer = admin.post("/api/v1/add?wrap=true&filename=hello.txt", "", "hello").await.json();
    assert_eq!((answer["entries"].as_u64(), answer["size"].as_u64()), (Some(2), Some(5)));
    let named = admin.get(&format!("/api/v1/pins/{}", answer["cid"].as_str().unwrap())).await.json();
    assert_eq!(named["name"], "hello.txt");
}

#[tokio::test]
async fn a_car_that_is_none_is_refused_and_stores_nothing_pinned() {
    let admin = Admin::start().await;
    admin.post("/api/v1/car", "application/vnd.ipld.car", "not a car").await.problem(StatusCode::UNPROCESSABLE_ENTITY);
    admin.post("/api/v1/car", "text/html", "x").await.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(admin.get("/api/v1/pins").await.json()["items"], serde_json::json!([]));
}

#[tokio::test]
async fn pins_come_in_parts_and_a_pin_of_what_nobody_has_is_refused() {
    let admin = Admin::start().await;
    for text in ["one", "two", "three"] {
        assert_eq!(admin.post("/api/v1/add", "", text).await.status, StatusCode::OK);
    }
    let first = admin.get("/api/v1/pins?limit=2").await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let second =
        admin.get(&format!("/api/v1/pins?limit=2&cursor={}", first["next_cursor"].as_str().unwrap())).await.json();
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(second["next_cursor"], Value::Null);

    let absent = "/api/v1/pins/bafkreih27ptmkbnlfvyzbnmnawzpmsvyqlrscvbwuqpyx4zzb2mbxivpxi";
    admin.send(request(Method::PUT, absent).body(Body::empty()).unwrap()).await.problem(StatusCode::NOT_FOUND);
    let identity = format!("/api/v1/pins/{HELLO}?mode=direct&name=hello");
    let pinned = admin.send(request(Method::PUT, &identity).body(Body::empty()).unwrap()).await;
    assert_eq!((pinned.status, pinned.json()["mode"].as_str()), (StatusCode::OK, Some("direct")));
    admin
        .send(request(Method::PUT, "/api/v1/pins/nonsense").body(Body::empty()).unwrap())
        .await
        .problem(StatusCode::BAD_REQUEST);
    admin.get("/api/v1/pins?limit=501").await.problem(StatusCode::BAD_REQUEST);
    admin.get("/api/v1/pins?unknown=1").await.problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_with_the_methods_that_work() {
    let admin = Admin::start().await;
    admin.get("/api/v1/nothing").await.problem(StatusCode::NOT_FOUND);
    let answer = admin.get("/api/v1/gc").await;
    answer.problem(StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header("allow"), "POST");
    let page = admin.get("/nothing%3Cscript%3E&amp;").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.body.contains("&#38;amp;") || page.body.contains("&amp;amp;"), "the path is escaped");
}

#[tokio::test]
async fn reads_have_etags_that_answer_304() {
    let admin = Admin::start().await;
    for path in ["/api/v1/id", "/api/v1/config", "/static/app.css"] {
        let first = admin.get(path).await;
        assert_eq!(first.status, StatusCode::OK);
        let etag = first.header("etag").to_owned();
        assert!(etag.starts_with('"') && etag.len() > 10, "{path}: {etag}");
        let again = request(Method::GET, path).header(header::IF_NONE_MATCH, &etag).body(Body::empty()).unwrap();
        let again = admin.send(again).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
    }
    assert_eq!(admin.get("/api/v1/config").await.json()["gateway"], "127.0.0.1:8080");
}

#[tokio::test]
async fn assets_are_compressed_once_and_kept_for_ever_under_their_hash() {
    let admin = Admin::start().await;
    let page = admin.get("/").await;
    let css = page.body.split('"').find(|part| part.starts_with("/static/app.css?v=")).unwrap().to_owned();
    let plain = admin.get(&css).await;
    assert!(plain.header("cache-control").contains("immutable"));
    assert_eq!(plain.header("content-type"), "text/css; charset=utf-8");
    assert!(admin.get("/static/app.css?v=0").await.header("cache-control").contains("no-cache"));
    for coding in ["br", "gzip"] {
        let asked = request(Method::GET, &css).header(header::ACCEPT_ENCODING, coding).body(Body::empty()).unwrap();
        let small = admin.send(asked).await;
        assert_eq!(small.header("content-encoding"), coding);
        assert!(small.header("etag") != plain.header("etag"), "each encoding has its own strong ETag");
    }
    assert_eq!(admin.get("/static/../Cargo.toml").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_loopback_listener_asks_for_no_token() {
    let admin = Admin::start().await;
    assert_eq!(admin.get("/api/v1/stats").await.status, StatusCode::OK);
    assert_eq!(admin.post("/api/v1/add", "", "x").await.status, StatusCode::OK);
}

#[tokio::test]
async fn any_other_listener_answers_nothing_without_the_token_but_health() {
    let admin = Admin::with("0.0.0.0:8090", Db::Off).await;
    let with = |method: Method, path: &str, auth: Option<&str>| {
        let mut builder = request(method, path);
        if let Some(auth) = auth {
            builder = builder.header(header::AUTHORIZATION, auth);
        }
        builder.body(Body::empty()).unwrap()
    };
    let bearer = format!("Bearer {TOKEN}");
    // "any:a-token-for-tests-only"
    let basic = "Basic YW55OmEtdG9rZW4tZm9yLXRlc3RzLW9ubHk=";
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/partials/overview"),
        (Method::GET, "/retrievals"),
        (Method::GET, "/static/app.css"),
        (Method::GET, "/api/v1/stats"),
        (Method::GET, "/metrics"),
        (Method::POST, "/api/v1/scrub"),
        (Method::GET, "/no/such/page"),
    ] {
        for wrong in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic bm90Omdvb2Q="), Some("nonsense")] {
            let answer = admin.send(with(method.clone(), path, wrong)).await;
            answer.problem(StatusCode::UNAUTHORIZED);
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
        }
        for right in [bearer.as_str(), basic] {
            let answer = admin.send(with(method.clone(), path, Some(right))).await;
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(admin.send(with(Method::GET, path, None)).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn names_of_others_are_refused_against_dns_rebinding() {
    let admin = Admin::start().await;
    let status = async |host: &str| {
        let request = Request::builder().uri("/api/v1/id").header(header::HOST, host).body(Body::empty()).unwrap();
        admin.send(request).await.status
    };
    for host in ["localhost:8090", "127.0.0.1", "[::1]:8090", "tide.example", "TIDE.example:443", "a.localhost:1"] {
        assert_eq!(status(host).await, StatusCode::OK, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "192.168.1.7:8090", "127.0.0.1.evil.example:8090"] {
        assert_eq!(status(host).await, StatusCode::FORBIDDEN, "{host}");
    }
    assert_eq!(status("").await, StatusCode::BAD_REQUEST);
    let none = admin.send(Request::builder().uri("/").body(Body::empty()).unwrap()).await;
    none.problem(StatusCode::BAD_REQUEST);
    let twice = request(Method::GET, "/").header(header::HOST, "127.0.0.1:8090").body(Body::empty()).unwrap();
    assert_eq!(admin.send(twice).await.problem(StatusCode::BAD_REQUEST)["errors"][0]["header"], "Host");
    let differs = Request::builder().uri("http://localhost/healthz").header(header::HOST, "127.0.0.1");
    admin.send(differs.body(Body::empty()).unwrap()).await.problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn changes_from_other_sites_are_refused_and_those_of_programs_and_own_pages_taken() {
    let admin = Admin::start().await;
    let status = async |name: &str, value: &str| {
        let request = request(Method::POST, "/api/v1/add?pin=false").header(name, value).body(Body::from("x")).unwrap();
        admin.send(request).await.status
    };
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:8080"),
    ] {
        assert_eq!(status(name, value).await, StatusCode::FORBIDDEN, "{name}: {value}");
    }
    for (name, value) in [("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8090"), ("x-none", "")] {
        assert_eq!(status(name, value).await, StatusCode::OK, "{name}: {value}");
    }
    let read = request(Method::GET, "/").header("sec-fetch-site", "cross-site").body(Body::empty()).unwrap();
    assert_eq!(admin.send(read).await.status, StatusCode::OK, "a link from elsewhere may be followed");
}

#[tokio::test]
async fn every_answer_has_the_security_headers_and_no_page_runs_anything_inline() {
    let admin = Admin::start().await;
    admin.record(fetched()).await;
    let id = admin.get("/api/v1/retrievals").await.json()["items"][0]["id"].as_i64().unwrap();
    let one = format!("/retrievals/{id}");
    for path in [
        "/",
        "/partials/overview",
        "/retrievals",
        "/retrievals?cid=nonsense",
        one.as_str(),
        "/retrievals/0",
        "/no",
        "/api",
        "/api/v1/no",
    ] {
        let answer = admin.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert!(answer.header("permissions-policy").contains("camera=()"), "{path}");
        if answer.header("content-type").starts_with("text/html") {
            assert_nothing_runs_inline(path, &answer.body);
            for word in ["NaN", "inf ", "None", "Some("] {
                assert!(!answer.body.replace("If-None-Match", "").contains(word), "{path} says {word}");
            }
        }
    }
}

#[tokio::test]
async fn an_empty_database_gives_pages_that_say_how_to_fill_them() {
    let admin = Admin::start().await;
    for path in ["/", "/partials/overview", "/retrievals"] {
        let answer = admin.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.body.contains("curl http://127.0.0.1:8080/ipfs/bafkqabtimvwgy3yk"), "{path}");
    }
    let overview = admin.get("/").await.body;
    assert!(overview.contains("no data") && overview.contains("Not enough data"));
    assert!(!overview.contains("0 %") && !overview.contains("0.0 %"), "no share of nothing");
    assert_eq!(admin.get("/api/v1/retrievals").await.json(), serde_json::json!({"items": [], "next_cursor": null}));
    assert_eq!(admin.get("/api/v1/p2p/analytics").await.json()["status"], "no_data");
    assert_eq!(admin.get("/api/v1/p2p/peers").await.json(), serde_json::json!({"items": [], "total": 0}));
}

#[tokio::test]
async fn a_fetch_shows_on_the_overview_in_the_list_and_in_detail() {
    let admin = Admin::start().await;
    let record = fetched();
    let id = record.id.0;
    admin.record(record).await;

    let overview = admin.get("/").await.body;
    assert!(overview.contains(&format!("/retrievals/{id}")), "the latest retrievals link to it");
    assert!(overview.contains("293 KiB"), "bytes served");

    let page = admin.get(&format!("/retrievals/{id}")).await.body;
    assert!(page.contains("Broke off after"), "the verdict");
    assert!(page.contains("190 ms"), "the time lost to the stall");
    assert!(page.contains("<svg class=\"drawing wide\""), "the waterfall");
    assert!(page.contains("&#60;img") || page.contains("&lt;img"), "the path is escaped");
    assert!(!page.contains('\u{202e}') && page.contains("\\u{202e}"), "direction characters are shown, not obeyed");

    let detail = admin.get(&format!("/api/v1/retrievals/{id}")).await.json();
    assert_eq!((detail["attempts"].as_array().unwrap().len(), detail["events"].as_array().unwrap().len()), (2, 10));
    assert_eq!(detail["attempts"][1]["outcome"], "stalled");
    assert_eq!(detail["network_bytes"], 300_000);

    for (query, n) in [
        ("outcome=truncated", 1),
        ("outcome=complete", 0),
        ("policy=optimized&limit=1", 1),
        ("cid=bafkreih27ptmkbnlfvyzbnmnawzpmsvyqlrscvbwuqpyx4zzb2mbxivpxi", 1),
    ] {
        let list = admin.get(&format!("/api/v1/retrievals?{query}")).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), n, "{query}");
    }
    for query in [
        "outcome=fine",
        "limit=0",
        "limit=501",
        "cid=nonsense",
        "cursor=x",
        "outcom=complete",
        "cursor=1",
        "limit=1&limit=1",
        "min_load_ms=NaN",
        "peer=%00",
    ] {
        admin.get(&format!("/api/v1/retrievals?{query}")).await.problem(StatusCode::BAD_REQUEST);
    }
    admin.get("/api/v1/retrievals/1").await.problem(StatusCode::NOT_FOUND);
    admin.get("/api/v1/retrievals/x").await.problem(StatusCode::BAD_REQUEST);
    assert_eq!(admin.get("/retrievals?outcome=truncated").await.body.matches("id=\"r").count(), 1);
    assert_eq!(admin.get("/retrievals?outcome=complete").await.body.matches("id=\"r").count(), 0);
}

#[tokio::test]
async fn a_database_that_is_down_is_said_and_stops_neither_pages_nor_adding() {
    let admin = Admin::with("127.0.0.1:8090", Db::Broken).await;
    let overview = admin.get("/").await;
    assert_eq!(overview.status, StatusCode::OK);
    assert!(overview.body.contains("The metrics database is not available"));
    assert!(overview.body.contains("The metrics database is down."), "it needs attention");
    let list = admin.get("/retrievals").await;
    assert_eq!(list.status, StatusCode::SERVICE_UNAVAILABLE);
    let problem = admin.get("/api/v1/retrievals").await.problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem["retry"], true);
    let ready = admin.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["database"].as_str()), (StatusCode::OK, Some("down")));
    assert_eq!(admin.post("/api/v1/add", "", "still works").await.status, StatusCode::OK);
}

#[tokio::test]
async fn without_a_database_the_pages_say_that_it_is_off() {
    let admin = Admin::with("127.0.0.1:8090", Db::Off).await;
    assert!(admin.get("/").await.body.contains("--database none"));
    admin.get("/api/v1/retrievals").await.problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(admin.get("/readyz").await.json()["database"], "off");
}

#[tokio::test]
async fn health_metrics_and_readiness_answer_and_draining_is_not_ready() {
    let admin = Admin::start().await;
    assert_eq!(admin.get("/healthz").await.body, "ok\n");
    let metrics = admin.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    assert!(metrics.body.ends_with("# EOF\n"));
    assert_eq!(admin.get("/readyz").await.status, StatusCode::OK);
    admin.draining.begin();
    let ready = admin.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["status"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("draining")));
    assert_eq!(admin.get("/healthz").await.status, StatusCode::OK, "alive while it drains");
}

#[tokio::test]
async fn a_refused_upload_is_read_to_its_end_so_that_the_client_hears_why() {
    let admin = Admin::start().await;
    for (path, kind) in [("/api/v1/car", "application/vnd.ipld.car"), ("/api/v1/add?profile=nope", "text/plain")] {
        let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = taken.clone();
        let chunks = (0..100).map(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(axum::body::Bytes::from_static(&[0xff; 1000]))
        });
        let answer = admin.post(path, kind, Body::from_stream(futures::stream::iter(chunks))).await;
        assert!(answer.status.is_client_error(), "{path}");
        assert_eq!(taken.load(std::sync::atomic::Ordering::Relaxed), 100, "{path}");
    }
}
