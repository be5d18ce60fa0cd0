//! The pages of peers and of the topology, and the topology as JSON, GraphML and DOT, over rows of a database.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use libp2p::PeerId;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::api;
use tidegate::blockstore::{self, Blocks};
use tidegate::dashboard::{self, NodeSnapshot};
use tidegate::db::observe::{LinkKind, LinkObservation, PeerObservation};
use tidegate::db::{self, Database};
use tidegate::ipld::cid;
use tidegate::names::{NsMap, Resolver};
use tidegate::record::live::Feed;
use tidegate::record::{
    Attempt, AttemptOutcome, Origin, Outcome, Phase, Policy, RetrievalId, RetrievalRecord, SessionReport, Transport,
};
use tidegate::retriever::Retriever;
use tidegate::routing::RouterKind;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tidegate::topology::Facts;
use tower::ServiceExt;

struct World {
    router: Router,
    db: Option<Database>,
    own: String,
    _dir: TempDir,
    _supervisor: Supervisor,
}

impl World {
    async fn start(with_database: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (metrics, supervisor) = (Metrics::new(), Supervisor::new());
        let blocks = Blocks::open(dir.path(), &blockstore::Config::default(), &metrics, &supervisor).await.unwrap();
        let db = match with_database {
            true => Some(Database::open(&db::Config::default(), dir.path(), &metrics, &supervisor).await),
            false => None,
        };
        let own = PeerId::random().to_base58();
        let node = NodeSnapshot {
            peer_id: Some(own.clone()),
            addresses: vec![format!("/ip4/127.0.0.1/tcp/4001/p2p/{own}")],
            ..NodeSnapshot::default()
        };
        let pages = dashboard::router(dashboard::State {
            db: db.clone(),
            node: Arc::new(move || node.clone()),
            gateway: "http://127.0.0.1:8080".to_owned(),
            compare_share: 0.0,
            facts: Facts::default(),
            retriever: Retriever::local(blocks.clone()),
            host: Arc::new(dashboard::Host {
                blocks: blocks.clone(),
                config: serde_json::json!({}),
                data_dir: dir.path().to_owned(),
                supervisors: Vec::new(),
                started: Instant::now(),
                started_at: SystemTime::now(),
                admin: "http://127.0.0.1:8090".to_owned(),
                peer_addrs: Arc::new(Vec::new),
            }),
        });
        let state = api::State {
            blocks: blocks.clone(),
            retriever: Retriever::local(blocks),
            lab: tidegate::webgpu::Lab::new(&metrics),
            names: Resolver::fixed(NsMap::default()),
            feed: Feed::new(&metrics),
            node: None,
            db: db.clone(),
            metrics,
            config: serde_json::json!({}),
            facts: Facts::default(),
            gateway: "http://127.0.0.1:8080".to_owned(),
            supervisors: Vec::new(),
            draining: api::Draining::default(),
            started: Instant::now(),
            access: api::Access::new("127.0.0.1:8090".parse().unwrap(), Arc::new(|_| false), Vec::new()),
        };
        Self { router: api::admin_router(state, pages), db, own, _dir: dir, _supervisor: supervisor }
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header("host", "127.0.0.1:8090").body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn page(&self, path: &str) -> String {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        for word in ["NaN", "inf ", "None", "Some(", "Infinity", "style=", "onclick"] {
            assert!(!body.contains(word), "{path} says {word}");
        }
        body
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.1).unwrap()
    }

    fn db(&self) -> &Database {
        self.db.as_ref().unwrap()
    }

    async fn eventually(&self, what: &str, path: &str, holds: impl Fn(&Value) -> bool) {
        for _ in 0..200 {
            if holds(&self.json(path).await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {}", self.json(path).await);
    }
}

fn observed(peer: &PeerId, agent: &str, rtt_ms: Option<f64>) -> PeerObservation {
    PeerObservation {
        peer_id: peer.to_base58(),
        connected: true,
        agent: Some(agent.to_owned()),
        protocols: vec!["/ipfs/bitswap/1.2.0".to_owned()],
        addrs: vec!["/ip4/192.0.2.7/udp/4001/quic-v1".to_owned()],
        transport: Some("tcp".to_owned()),
        rtt_ms,
        bytes_out: Some(77),
        ..PeerObservation::default()
    }
}

fn link(a: &str, b: &str, kind: LinkKind) -> LinkObservation {
    LinkObservation { a: a.to_owned(), b: b.to_owned(), kind, rtt_ms: Some(2.0), rate_bps: None, observed_by: None }
}

fn fetched(from: PeerId, bytes: u64, of: u64) -> RetrievalRecord {
    let now = SystemTime::now();
    let part = |peer, bytes, outcome| Attempt {
        peer,
        transport: Some(Transport::BitswapQuic),
        router: RouterKind::Dht,
        connect: None,
        first_byte: Some(Duration::from_millis(9)),
        bytes,
        blocks: 1,
        duplicate_bytes: 0,
        hedges: 0,
        min_rtt: Some(Duration::from_millis(4)),
        max_rate_bps: (bytes > 0).then_some(5e6),
        outcome,
        error_kind: None,
    };
    let session = SessionReport {
        policy: Policy::Optimized,
        transfer_time: Some(Duration::from_millis(20)),
        routing: None,
        connect: None,
        first_block: Some(Duration::from_millis(10)),
        providers_found: 2,
        providers_attempted: 2,
        blocks_memory: 0,
        blocks_store: 0,
        blocks_disk: 0,
        blocks_network: 1,
        network_bytes: of,
        duplicate_bytes: 0,
        received_bytes: of,
        optimization_score: None,
        attempts: vec![
            part(from, bytes, AttemptOutcome::Delivered),
            part(PeerId::random(), 0, AttemptOutcome::Stalled),
        ],
        events: Vec::new(),
        events_dropped: 0,
        phase: Phase::Fetch,
    };
    RetrievalRecord {
        id: RetrievalId::next(),
        cid: cid::parse("bafkqabtimvwgy3yk").unwrap(),
        path: "/ipfs/bafkqabtimvwgy3yk".to_owned(),
        origin: Origin::Live,
        started_at: now,
        finished_at: now,
        load_time: Duration::from_millis(30),
        ttfb: Some(Duration::from_millis(10)),
        bytes: of,
        outcome: Outcome::Complete,
        error_kind: None,
        http_status: Some(200),
        session,
    }
}

/// own - near, own - far, far - behind: as the database holds it.
async fn filled() -> (World, PeerId, PeerId, PeerId) {
    let world = World::start(true).await;
    let (near, far, behind) = (PeerId::random(), PeerId::random(), PeerId::random());
    world.db().observe_peers(vec![
        observed(&near, "kubo/0.43.0", Some(1.0)),
        observed(&far, "=helia\"<script>alert(1)</script>", Some(120.0)),
    ]);
    world.db().observe_links(vec![
        link(&world.own, &near.to_base58(), LinkKind::Connected),
        link(&world.own, &far.to_base58(), LinkKind::Connected),
        link(&far.to_base58(), &behind.to_base58(), LinkKind::Routing),
    ]);
    world.db().sink().record(fetched(near, 750_000, 1_000_000));
    let peers = "/peers?format=json&state=delivered";
    world.eventually("deliveries", peers, |found| found["rows"].as_array().is_some_and(|rows| rows.len() == 1)).await;
    // Last: the page keeps a reading for some seconds.
    let edges = "/topology?format=json&table=edges";
    world.eventually("links", edges, |found| found["rows"].as_array().is_some_and(|rows| rows.len() == 3)).await;
    (world, near, far, behind)
}

#[tokio::test]
async fn empty_pages_say_how_to_fill_them_and_without_a_database_why_they_are_empty() {
    let world = World::start(true).await;
    for path in ["/peers", "/topology", "/peers?q=x&sort=rtt&dir=asc&page=9"] {
        let page = world.page(path).await;
        assert!(page.contains("tidegate serve --peer") || path.contains("q=x"), "{path}");
    }
    let (status, missing) = world.get("/peers/12D3KooWnobody").await;
    assert!(status == StatusCode::NOT_FOUND && missing.contains("12D3KooWnobody"));
    assert!(world.get(&format!("/peers/{}", world.own)).await.1.contains("the node itself"));
    let graph = world.json("/api/v1/p2p/topology").await;
    assert_eq!((graph["nodes"].as_array().unwrap().len(), graph["with_own"]["diameter"].is_null()), (0, true));

    let off = World::start(false).await;
    for path in ["/peers", "/topology", "/peers/x", "/peers?format=csv", "/topology?format=json"] {
        let (status, body) = off.get(path).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(body.contains("--database none"), "{path}");
    }
    assert_eq!(off.get("/api/v1/p2p/topology").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn peers_are_listed_sorted_filtered_and_exported_as_measured() {
    let (world, near, far, _) = filled().await;
    let page = world.page("/peers?sort=rtt").await;
    let place = |id: &PeerId| page.find(&format!("id=\"peer-{id}\"")).unwrap();
    assert!(place(&near) < place(&far), "the nearer first");
    assert!(page.contains("aria-sort=\"ascending\"") && page.contains("sort=rtt&#38;dir=desc"), "{page}");
    assert!(!page.contains("<script>alert"), "an agent is text");
    let filtered = world.page("/peers?q=KUBO").await;
    assert!(filtered.contains(&near.to_base58()) && !filtered.contains(&far.to_base58()));
    assert!(world.page("/peers?q=nobody").await.contains("No peer matches this filter"));

    let rows = world.json("/peers?sort=in&format=json").await["rows"].clone();
    let first = &rows[0];
    assert_eq!((first["peer_id"].as_str(), first["bytes_in"].as_u64()), (Some(&*near.to_base58()), Some(750_000)));
    assert_eq!((first["share_of_bytes"].as_f64(), first["success"].as_f64()), (Some(1.0), Some(1.0)));
    // The peer that stalled was never seen otherwise: nothing is known of it, and null is not zero.
    let stalled = rows.as_array().unwrap().iter().find(|row| row["failures"] == 1).unwrap();
    assert_eq!(
        (&stalled["agent"], &stalled["bytes_out"], stalled["success"].as_f64()),
        (&Value::Null, &Value::Null, Some(0.0))
    );
    let csv = world.get("/peers?q=helia&format=csv").await.1;
    assert!(csv.contains("\"'=helia\"\"<script>"), "a formula is disarmed: {csv}");
}

#[tokio::test]
async fn one_peer_has_its_figures_its_history_and_links_to_its_retrievals() {
    let (world, near, far, _) = filled().await;
    let page = world.page(&format!("/peers/{near}")).await;
    for said in
        ["kubo/0.43.0", "732 KiB", "75.0 %", "40 Mbit/s", "/ipfs/bitswap/1.2.0", "192.0.2.7", "class=\"drawing plot\""]
    {
        assert!(page.contains(said), "{said}");
    }
    let rows = world.json(&format!("/peers/{near}?format=json")).await["rows"].clone();
    let id = rows[0]["retrieval_id"].as_i64().unwrap();
    assert!(page.contains(&format!("href=\"/retrievals/{id}\"")));
    assert!(world.page(&format!("/retrievals/{id}")).await.contains(&format!("href=\"/peers/{near}\"")));
    let history = world.json(&format!("/peers/{near}?format=json&table=history")).await["rows"].clone();
    assert_eq!((history[0]["share_of_bytes"].as_f64(), history[0]["attempts"].as_u64()), (Some(0.75), Some(1)));
    let untried = world.page(&format!("/peers/{far}")).await;
    assert!(untried.contains("No retrieval has asked this peer") && !untried.contains("<script>alert"));
}

#[tokio::test]
async fn the_topology_is_drawn_told_and_exported_with_the_same_figures() {
    let (world, near, far, behind) = filled().await;
    let page = world.page("/topology").await;
    // The stalled peer is known too, without a link.
    assert_eq!(page.matches("<a class=\"peer ").count(), 4);
    assert_eq!(page.matches("class=\"edge").count() - page.matches("class=\"edge among\" x1=\"0\"").count(), 3);
    assert_eq!(page.matches("<circle class=\"cutring\" r=\"").count(), 2, "one peer, and the legend");
    assert!(page.contains("One peer is the only way to others"));
    assert!(page.contains("data-own") && page.contains("cluster A") && page.contains("cluster B"));
    assert_eq!(page, world.page("/topology").await, "the same network, the same picture");
    assert!(world.page("/topology?q=kubo&window=24h").await.contains(" dim\""));

    let graph = world.json("/api/v1/p2p/topology").await;
    let figures = world.json("/topology?format=json&table=figures").await["rows"].clone();
    assert_eq!((figures[0]["graph"].as_str(), figures[0]["edges"].as_u64()), (Some("as_drawn"), Some(3)));
    // The API of this test has no node, so nobody is left out there; the page knows which peer is its own.
    assert_eq!(graph["with_own"]["edges"], 3);
    assert_eq!((figures[0]["components"].as_u64(), figures[0]["diameter"].as_u64()), (Some(2), Some(3)));
    assert_eq!((figures[1]["edges"].as_u64(), figures[1]["components"].as_u64()), (Some(1), Some(3)));
    assert_eq!(figures[0]["cut_peers"], 1);

    let dot = world.get("/api/v1/p2p/topology?format=dot").await.1;
    let xml = world.get("/api/v1/p2p/topology?format=graphml").await.1;
    for id in [near, far, behind] {
        assert!(dot.contains(&format!("\"{id}\" [")) && xml.contains(&format!("<node id=\"{id}\">")), "{id}");
    }
    assert!(xml.contains("&lt;script&gt;") && !xml.contains("<script"));
    for wrong in ["format=png", "window_s=0", "windows=3"] {
        assert_eq!(world.get(&format!("/api/v1/p2p/topology?{wrong}")).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(world.get("/topology?format=csv&table=nope").await.0, StatusCode::NOT_FOUND);
}
