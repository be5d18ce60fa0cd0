//! What holds on both engines.

use std::path::Path;
use std::time::{Duration, SystemTime};

use libp2p::PeerId;
use sea_orm::ConnectionTrait;
use tidegate::db::Config;
use tidegate::db::observe::{LinkKind, LinkObservation, NetworkSnapshot, PeerObservation};
use tidegate::db::queries::{PeerOrder, RetrievalFilter, Window};
use tidegate::record::{
    Attempt, AttemptOutcome, CacheState, EventKind, Outcome, Policy, RetrievalEvent, RetrievalId, RetrievalRecord,
    Transport,
};
use tidegate::routing::RouterKind;

use super::{Fixture, connect, eventually, number, record};

fn attempt(peer: PeerId, outcome: AttemptOutcome, bytes: u64) -> Attempt {
    Attempt {
        peer,
        transport: Some(Transport::BitswapQuic),
        router: RouterKind::Delegated,
        connect: Some(Duration::from_millis(7)),
        first_byte: (bytes > 0).then_some(Duration::from_millis(21)),
        bytes,
        blocks: bytes.div_ceil(5_000),
        duplicate_bytes: 0,
        hedges: 1,
        min_rtt: Some(Duration::from_millis(3)),
        max_rate_bps: Some(2.5e6),
        outcome,
        error_kind: None,
    }
}

/// Records of every outcome, tier and policy, by the number.
fn varied(n: u64, peers: &[PeerId]) -> RetrievalRecord {
    let mut record = record();
    record.load_time = Duration::from_micros(1_000 + n * 777 % 900_000);
    record.ttfb = Some(record.load_time / 2);
    record.bytes = 100 + n * 31;
    let session = &mut record.session;
    session.network_bytes = record.bytes;
    session.policy = if n.is_multiple_of(5) { Policy::Standard } else { Policy::Optimized };
    match n % 4 {
        0 => {}
        1 => session.blocks_memory = 2,
        2 => session.blocks_disk = 2,
        _ => session.blocks_store = 2,
    }
    if !n.is_multiple_of(4) {
        (session.blocks_network, session.network_bytes, session.transfer_time) = (0, 0, None);
        (session.routing, session.connect, session.optimization_score) = (None, None, None);
        (session.providers_found, session.providers_attempted) = (0, 0);
    } else {
        let other = if n.is_multiple_of(8) { AttemptOutcome::Stalled } else { AttemptOutcome::DontHave };
        session.attempts.push(attempt(peers[0], AttemptOutcome::Delivered, record.bytes));
        session.attempts.push(attempt(peers[1], other, 0));
    }
    if n.is_multiple_of(40) {
        record.outcome = [Outcome::Timeout, Outcome::NotFound, Outcome::Truncated][n as usize / 40 % 3];
    }
    record
}

pub async fn two_thousand_records(config: &Config, dir: &Path, url: &str) {
    let fixture = Fixture::open(config, dir).await;
    assert!(fixture.db.state().is_up(), "{:?}", fixture.db.state());
    let peers = [PeerId::random(), PeerId::random()];
    let records: Vec<_> = (0..2_000).map(|n| varied(n, &peers)).collect();
    let sink = fixture.db.sink();
    records.iter().cloned().for_each(|record| sink.record(record));

    // Counts are there at once, before any row is.
    let window = || Window::last(Duration::from_secs(3_600), SystemTime::now());
    assert_eq!(fixture.db.overview(window()).await.unwrap().requests, 2_000);
    eventually("2,000 rows", async || fixture.metric("tidegate_db_records_written_total ") == 2_000.0).await;

    let overview = fixture.db.overview(window()).await.unwrap();
    let count = |f: &dyn Fn(&RetrievalRecord) -> bool| records.iter().filter(|r| f(r)).count() as u64;
    let bytes = |f: &dyn Fn(&RetrievalRecord) -> bool| records.iter().filter(|r| f(r)).map(|r| r.bytes).sum::<u64>();
    assert_eq!(overview.bytes_served, bytes(&|_| true));
    assert_eq!(overview.bytes_fetched, records.iter().map(|r| r.session.network_bytes).sum::<u64>());
    assert_eq!(overview.outcomes.complete, count(&|r| r.outcome == Outcome::Complete));
    assert_eq!(overview.outcomes.timeout, count(&|r| r.outcome == Outcome::Timeout));
    assert_eq!(overview.failed, count(&|r| r.outcome != Outcome::Complete));
    assert_eq!((overview.cache.requests.memory, overview.cache.requests.disk), (500, 500));
    assert_eq!((overview.cache.requests.store, overview.cache.requests.miss), (500, 500));
    assert_eq!(overview.cache.bytes.disk, bytes(&|r| r.session.cache_state() == CacheState::Disk));
    assert_eq!(overview.cache.hit_ratio_requests, Some(0.75));
    let mut times: Vec<f64> = records.iter().map(|r| r.load_time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let (p50, p95) = (overview.load_p50_ms.unwrap(), overview.load_p95_ms.unwrap());
    assert!((p50 - times[999]).abs() / times[999] < 1.0 / 16.0, "{p50} and {}", times[999]);
    assert!((p95 - times[1_899]).abs() / times[1_899] < 1.0 / 16.0, "{p95} and {}", times[1_899]);
    assert_eq!(overview.minutes.iter().map(|minute| minute.requests).sum::<u64>(), 2_000);
    assert_eq!(fixture.db.known_content_items(window()).await.unwrap(), 1);
    assert_eq!(
        fixture.db.hottest(1).await.unwrap()[0].requests_total,
        count(&|r| r.outcome == Outcome::Complete) as i64
    );

    // The same figures by SQL of the test's own.
    let sql = connect(url).await;
    assert_eq!(number(&sql, "SELECT COUNT(*) FROM ipfs_acceleration_results").await, 2_000);
    assert_eq!(
        number(&sql, "SELECT CAST(SUM(bytes) AS BIGINT) FROM ipfs_acceleration_results").await as u64,
        overview.bytes_served
    );
    let failed = "SELECT COUNT(*) FROM ipfs_acceleration_results WHERE outcome NOT IN ('complete', 'client_aborted')";
    assert_eq!(number(&sql, failed).await as u64, overview.failed);
    assert_eq!(number(&sql, "SELECT COUNT(*) FROM retrieval_attempts").await, 1_000);
    assert_eq!(number(&sql, "SELECT COUNT(DISTINCT hardware_id) FROM ipfs_acceleration_results").await, 1);

    // A list by cursor gives each row once, the newest first.
    let filter = RetrievalFilter { policy: Some(Policy::Standard), ..Default::default() };
    let (mut ids, mut cursor) = (Vec::new(), None);
    loop {
        let page = fixture.db.retrievals(&filter, cursor, 150).await.unwrap();
        ids.extend(page.items.iter().map(|row| row.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let standard = records.iter().rev().filter(|r| r.session.policy == Policy::Standard);
    assert_eq!(ids, standard.map(|r| r.id.0).collect::<Vec<_>>());
    let by_peer = RetrievalFilter { peer: Some(peers[1].to_base58()), ..Default::default() };
    assert_eq!(fixture.db.retrievals(&by_peer, None, 1_000).await.unwrap().items.len(), 500);

    // Peers add up.
    let peer = fixture.db.peer(&peers[0].to_base58()).await.unwrap().unwrap();
    assert_eq!(peer.peer.bytes_in as u64, bytes(&|r| !r.session.attempts.is_empty()));
    assert_eq!((peer.peer.attempts, peer.peer.delivered, peer.latest_attempts.len()), (500, 500, 100));
    let stalled =
        fixture.db.peers(PeerOrder::BytesIn, 10).await.unwrap().into_iter().find(|p| p.bytes_in == 0).unwrap();
    assert_eq!((stalled.failures, stalled.success()), (250, Some(0.0)));

    // Counts that are written and counts that are not add up to the same after the stop.
    fixture.close().await;
    assert_eq!(
        number(&sql, "SELECT CAST(SUM(requests) AS BIGINT) FROM rollups_minute WHERE dimension = 'all'").await,
        2_000
    );
    let again = Fixture::open(config, dir).await;
    let mut after = again.db.overview(window()).await.unwrap();
    after.window = overview.window;
    after.covered_s = overview.covered_s;
    after.requests_per_second = overview.requests_per_second;
    after.minutes = overview.minutes.clone();
    assert_eq!(after, overview);
    again.close().await;
}

pub async fn what_was_not_measured_is_null(config: &Config, dir: &Path, url: &str) {
    let fixture = Fixture::open(config, dir).await;
    let mut nothing = record();
    nothing.outcome = Outcome::NotFound;
    nothing.ttfb = None;
    nothing.path = "/ipfs/a\0b".to_owned();
    let session = &mut nothing.session;
    (session.transfer_time, session.routing, session.connect) = (None, None, None);
    (session.blocks_network, session.network_bytes, session.optimization_score) = (0, 0, None);
    session.attempts.push(Attempt {
        connect: None,
        min_rtt: None,
        max_rate_bps: None,
        transport: None,
        ..attempt(PeerId::random(), AttemptOutcome::Unreachable, 0)
    });
    session.events.push(RetrievalEvent {
        at: Duration::from_millis(3),
        kind: EventKind::Failed,
        peer: None,
        cid: None,
        value: None,
        detail: Some("nobody has it".to_owned()),
    });
    let id = nothing.id;
    fixture.db.sink().record(nothing);
    eventually("the row", async || fixture.db.retrieval(id).await.unwrap().is_some()).await;
    let detail = fixture.db.retrieval(id).await.unwrap().unwrap();
    assert_eq!(detail.row.path, "/ipfs/a\u{fffd}b");
    assert_eq!((detail.row.source, detail.row.transfer_time_ms, detail.row.ttfb_ms), (None, None, None));
    assert_eq!(
        (detail.row.routing_ms, detail.row.optimization_score, detail.row.network_efficiency),
        (None, None, None)
    );
    assert_eq!((detail.attempts[0].connect_ms, detail.attempts[0].max_rate_bps), (None, None));
    assert_eq!((detail.events.len(), detail.events[0].kind.as_str()), (1, "failed"));
    assert_eq!(fixture.db.retrieval(RetrievalId(1)).await.unwrap(), None);
    let window = Window::last(Duration::from_secs(60), SystemTime::now());
    let overview = fixture.db.overview(window).await.unwrap();
    assert_eq!((overview.ttfb_p50_ms, overview.transfer_p50_ms), (None, None));
    assert!(overview.comparison.iter().all(|class| class.verdict.is_none()), "not enough data");
    fixture.close().await;
    let sql = connect(url).await;
    let null = "SELECT COUNT(*) FROM ipfs_acceleration_results WHERE source IS NULL AND transfer_time_ms IS NULL";
    assert_eq!(number(&sql, null).await, 1);
}

pub async fn peers_links_and_snapshots(config: &Config, dir: &Path) {
    let fixture = Fixture::open(config, dir).await;
    let db = &fixture.db;
    let seen = |id: &str, rtt_ms| PeerObservation {
        peer_id: id.to_owned(),
        connected: true,
        agent: Some("kubo/0.43.0".to_owned()),
        protocols: vec!["/ipfs/bitswap/1.2.0".to_owned(), "/ipfs/id/1.0.0".to_owned()],
        rtt_ms,
        ..Default::default()
    };
    db.observe_peers(vec![seen("a", Some(4.0)), seen("b", None)]);
    eventually("both peers", async || db.peers(PeerOrder::LastSeen, 9).await.unwrap().len() == 2).await;
    // `a` is away now, and nothing is known of its round trip: what was known stays.
    db.observe_peers(vec![seen("b", Some(9.0))]);
    let link = |a: &str, b: &str| LinkObservation {
        a: a.to_owned(),
        b: b.to_owned(),
        kind: LinkKind::Routing,
        rtt_ms: None,
        rate_bps: None,
        observed_by: None,
    };
    db.observe_links(vec![link("b", "a"), link("a", "b"), link("b", "c")]);
    db.write_network_snapshot(NetworkSnapshot {
        ipfs_result_id: None,
        at: SystemTime::now(),
        window_s: 60.0,
        peer_count: 2,
        known_content_items: Some(0),
        transfers_completed: 0,
        transfers_failed: 0,
        bytes_transferred: 0,
        average_transfer_speed: None,
        network_efficiency: None,
        network_density: Some(0.5),
        average_connections: None,
        optimization_score: None,
        optimization_rating: "unknown".to_owned(),
        network_health: "unknown".to_owned(),
        diameter: None,
        components: None,
        clustering: None,
        median_rtt_ms: None,
        p95_rtt_ms: None,
        median_rate_bps: None,
        cache_hit_ratio: None,
    });
    let window = || Window::last(Duration::from_secs(600), SystemTime::now());
    eventually("the snapshot", async || db.network_history(window()).await.unwrap().len() == 1).await;
    let a = db.peer("a").await.unwrap().unwrap().peer;
    let b = db.peer("b").await.unwrap().unwrap().peer;
    assert_eq!((a.connected, a.rtt_ms, b.connected, b.rtt_ms), (false, Some(4.0), true, Some(9.0)));
    assert_eq!(b.protocols.as_deref(), Some("/ipfs/bitswap/1.2.0\n/ipfs/id/1.0.0"));
    let links = db.links(window()).await.unwrap();
    let pairs: std::collections::BTreeSet<_> = links.iter().map(|l| (l.a.as_str(), l.b.as_str())).collect();
    assert_eq!(pairs, [("a", "b"), ("b", "c")].into());
    let overview = db.overview(window()).await.unwrap();
    assert_eq!(overview.peers_connected, 1);
    assert_eq!(overview.network.unwrap().network_density, Some(0.5));
    assert_eq!(db.hardware().await.unwrap().len(), 1);
    fixture.close().await;
}

pub async fn a_refused_record(config: &Config, dir: &Path, url: &str) {
    let fixture = Fixture::open(config, dir).await;
    let sql = connect(url).await;
    sql.execute_unprepared("CREATE UNIQUE INDEX ux_test_path ON ipfs_acceleration_results (path)").await.unwrap();
    for path in ["/ipfs/1", "/ipfs/2", "/ipfs/2", "/ipfs/3"] {
        fixture.db.sink().record(RetrievalRecord { path: path.to_owned(), ..record() });
    }
    let refused = r#"tidegate_db_records_dropped_total{reason="refused"} "#;
    eventually("the refusal", async || fixture.metric(refused) == 1.0).await;
    assert_eq!(number(&sql, "SELECT COUNT(*) FROM ipfs_acceleration_results").await, 3);
    assert!(fixture.db.state().is_up());
    fixture.close().await;
}

struct TwoPeers;

#[async_trait::async_trait]
impl tidegate::topology::NetworkSource for TwoPeers {
    async fn observe(&self) -> tidegate::topology::Observed {
        let peer = |id: &str, connected| PeerObservation { peer_id: id.to_owned(), connected, ..Default::default() };
        tidegate::topology::Observed { peers: vec![peer("a", true), peer("b", true)], links: Vec::new() }
    }
}

/// From a node and its retrievals to the analytics that the API answers.
pub async fn analytics_of_live_traffic(config: &Config, dir: &Path) {
    let fixture = Fixture::open(config, dir).await;
    tidegate::topology::watch(
        fixture.db.clone(),
        std::sync::Arc::new(TwoPeers),
        Default::default(),
        &fixture.supervisor,
    );
    let peer = PeerId::random();
    for n in 0..10 {
        let mut record = record();
        record.session.attempts.push(attempt(peer, AttemptOutcome::Delivered, 10_000));
        if n == 0 {
            record.outcome = Outcome::Timeout;
        }
        fixture.db.sink().record(record);
    }
    let window = || Window::last(Duration::from_secs(600), SystemTime::now());
    let facts = tidegate::topology::Facts::default();
    let now = async || tidegate::topology::current(&fixture.db, facts, window()).await.unwrap();
    eventually("both peers", async || now().await.peer_count == 2).await;
    eventually("the rows", async || now().await.known_peers == 3).await;
    let got = now().await;
    assert_eq!((got.status, got.known_content_items), ("ok", 1));
    assert_eq!((got.transfers_completed, got.transfers_failed, got.bytes_transferred), (9, 1, 100_000));
    // 10 transfers of 10,000 bytes in 80 ms each; the bound is half of the time.
    assert_eq!((got.average_transfer_speed, got.optimization_score), (Some(125_000.0), Some(0.5)));
    assert_eq!((got.speed_rating.as_str(), got.optimization_rating.as_str()), ("fair", "fair"));
    assert_eq!((got.network_efficiency, got.network_health.as_str()), (Some(0.9), "unknown"));
    fixture.close().await;
}
