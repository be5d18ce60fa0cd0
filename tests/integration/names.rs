//! Names: DNSLink against a DNS server of the test's own, records from delegated routers, publishing, the gateway's
//! `/ipns`, and the server of Delegated Routing V1.

mod dht;
mod dns;
mod doh;
mod gateway;
mod quorum;
mod routing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libp2p::identity::Keypair;
use tidegate::http_peer::delegated::{DelegatedMetrics, DelegatedRouter};
use tidegate::ipld::ContentPath;
use tidegate::ipld::ipns::{Draft, IpnsName, Record};
use tidegate::names::{Config, Name, NameError, NameStore, NsMap, Parts, Publish, Reach, Resolver, Source};
use tidegate::p2p;
use tidegate::routing::NameRouter;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const RECORD: &str = "application/vnd.ipfs.ipns-record";

/// A resolver, and what keeps it alive.
struct World {
    resolver: Resolver,
    metrics: Metrics,
    dir: tempfile::TempDir,
    supervisor: Supervisor,
}

#[derive(Default)]
struct Options<'a> {
    map: &'a str,
    routers: Vec<&'a MockServer>,
    /// The address of one more.
    silent: Option<String>,
    dns: Option<std::net::SocketAddr>,
    config: Config,
}

impl World {
    fn new(options: Options<'_>) -> Self {
        Self::at(tempfile::tempdir().unwrap(), options)
    }

    fn at(dir: tempfile::TempDir, options: Options<'_>) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let (metrics, supervisor) = (Metrics::new(), Supervisor::new());
        let counters = DelegatedMetrics::new(&metrics);
        let urls = options.routers.iter().map(|server| server.uri()).chain(options.silent);
        let routers = urls.map(|url| {
            let router = DelegatedRouter::new(&url, counters.clone()).unwrap();
            Arc::new(router) as Arc<dyn NameRouter>
        });
        let dns = options.dns.map_or(p2p::Dns::None, p2p::Dns::Server);
        let parts = Parts {
            config: options.config,
            map: NsMap::parse(options.map).unwrap(),
            store: NameStore::open(dir.path()),
            routers: routers.collect(),
            dns: p2p::resolver::config(&dns).unwrap(),
            data_dir: Some(dir.path().to_owned()),
        };
        let resolver = Resolver::new(parts, &metrics, &supervisor).unwrap();
        Self { resolver, metrics, dir, supervisor }
    }

    async fn path(&self, text: &str) -> Result<String, NameError> {
        let path = ContentPath::parse(text).unwrap();
        self.resolver.resolve_path(&path, Reach::Network).await.map(|resolved| resolved.path.to_string())
    }
}

fn value(text: &str) -> ContentPath {
    ContentPath::parse_text(text).unwrap()
}

fn signed(key: &Keypair, to: &str, sequence: u64, ttl: Duration) -> Record {
    let eol = SystemTime::now() + Duration::from_secs(3600);
    Record::sign(key, &Draft { value: value(to), sequence, eol, ttl }).unwrap()
}

/// A delegated router that has one record.
async fn router_with(record: &Record) -> MockServer {
    let server = MockServer::start().await;
    give(&server, record).await;
    server
}

async fn give(server: &MockServer, record: &Record) {
    server.reset().await;
    Mock::given(method("GET"))
        .and(path(format!("/routing/v1/ipns/{}", record.name())))
        .respond_with(ResponseTemplate::new(200).set_body_raw(record.bytes().to_vec(), RECORD))
        .mount(server)
        .await;
}

fn new_key() -> (Keypair, IpnsName) {
    let key = Keypair::generate_ed25519();
    let name = IpnsName::of_key(&key.public());
    (key, name)
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fixed_names_beat_everything_and_paths_are_put_together() {
    let world =
        World::new(Options { map: "a.example:/ipns/b.example/x,b.example:/ipfs/bafkqaaa/y", ..Options::default() });
    assert_eq!(world.path("/ipns/A.example/z/").await.unwrap(), "/ipfs/bafkqaaa/y/x/z/");
    let resolved = world.resolver.resolve(&"a.example".parse().unwrap()).await.unwrap();
    assert_eq!((resolved.ttl, resolved.source, resolved.trail.len()), (None, Source::Map, 2));
    assert!(matches!(world.path("/ipns/c.example").await, Err(NameError::Disabled { .. })));
    assert!(matches!(world.path("/ipns/not-a-name").await, Err(NameError::Syntax { .. })));
    assert_eq!(world.resolver.dnslink("c.example").await.unwrap(), None);
    assert_eq!(world.resolver.dnslink("127.0.0.1").await.unwrap(), None);
}

#[tokio::test]
async fn thirty_two_names_are_followed_and_a_loop_is_an_error_of_its_own() {
    let chain = |n: usize| {
        let mut map: Vec<String> = (1..n).map(|i| format!("n{i}.example:/ipns/n{}.example", i + 1)).collect();
        map.push(format!("n{n}.example:/ipfs/bafkqaaa"));
        map.join(",")
    };
    let world = World::new(Options { map: &chain(32), ..Options::default() });
    assert_eq!(world.path("/ipns/n1.example").await.unwrap(), "/ipfs/bafkqaaa");
    let world = World::new(Options { map: &chain(33), ..Options::default() });
    assert!(
        matches!(world.path("/ipns/n1.example").await, Err(NameError::Recursion { first }) if first == "n1.example")
    );
    let world =
        World::new(Options { map: "a.example:/ipns/b.example,b.example:/ipns/a.example", ..Options::default() });
    assert!(matches!(world.path("/ipns/a.example").await, Err(NameError::Recursion { .. })));
}

#[tokio::test]
async fn of_several_routers_the_best_record_counts() {
    let (key, name) = new_key();
    let old = router_with(&signed(&key, "/ipfs/bafkqaaa/old", 1, MINUTE)).await;
    let new = router_with(&signed(&key, "/ipfs/bafkqaaa/new", 2, MINUTE)).await;
    let world = World::new(Options { routers: vec![&old, &new], ..Options::default() });
    let resolved = world.resolver.resolve(&Name::Key(name)).await.unwrap();
    assert_eq!(resolved.path.to_string(), "/ipfs/bafkqaaa/new");
    assert_eq!(resolved.source, Source::Delegated);
    assert!(resolved.ttl.unwrap() <= MINUTE && resolved.ttl.unwrap() > MINUTE / 2);
    assert!(!resolved.trail[0].stale);
}

#[tokio::test]
async fn no_record_an_invalid_record_and_a_broken_router_are_told_apart() {
    let (key, name) = new_key();
    let empty = MockServer::start().await;
    let world = World::new(Options { routers: vec![&empty], ..Options::default() });
    let failed = world.resolver.resolve(&Name::Key(name)).await;
    assert!(matches!(failed, Err(NameError::NotFound { .. })), "{failed:?}");

    let (other, _) = new_key();
    let wrong = MockServer::start().await;
    let foreign = signed(&other, "/ipfs/bafkqaaa", 9, MINUTE);
    Mock::given(path(format!("/routing/v1/ipns/{name}")))
        .respond_with(ResponseTemplate::new(200).set_body_raw(foreign.bytes().to_vec(), RECORD))
        .mount(&wrong)
        .await;
    let world = World::new(Options { routers: vec![&wrong], ..Options::default() });
    let failed = world.resolver.resolve(&Name::Key(name)).await;
    assert!(matches!(failed, Err(NameError::Invalid { .. })), "{failed:?}");

    // A wrong one beside a right one does not matter.
    let right = router_with(&signed(&key, "/ipfs/bafkqaaa", 1, MINUTE)).await;
    let world = World::new(Options { routers: vec![&wrong, &right], ..Options::default() });
    assert!(world.resolver.resolve(&Name::Key(name)).await.is_ok());

    let broken = MockServer::start().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(500)).mount(&broken).await;
    let world = World::new(Options { routers: vec![&broken], ..Options::default() });
    let failed = world.resolver.resolve(&Name::Key(name)).await;
    assert!(matches!(failed, Err(NameError::Unreachable { .. })), "{failed:?}");
}

#[tokio::test]
async fn a_stale_answer_is_given_at_once_while_it_is_looked_up_again() {
    let (key, name) = new_key();
    let ttl = Duration::from_millis(200);
    let server = router_with(&signed(&key, "/ipfs/bafkqaaa/1", 1, ttl)).await;
    let world = World::new(Options { routers: vec![&server], ..Options::default() });
    let name = Name::Key(name);
    let ask = || async { world.resolver.resolve(&name).await.unwrap() };
    assert_eq!(ask().await.path.to_string(), "/ipfs/bafkqaaa/1");
    give(&server, &signed(&key, "/ipfs/bafkqaaa/2", 2, MINUTE)).await;
    tokio::time::sleep(ttl).await;
    let stale = ask().await;
    assert_eq!(stale.path.to_string(), "/ipfs/bafkqaaa/1");
    assert!(stale.trail[0].stale && stale.ttl == Some(Duration::ZERO));
    for _ in 0..200 {
        if ask().await.path.to_string() == "/ipfs/bafkqaaa/2" {
            let text = world.metrics.encode();
            assert!(text.contains("tidegate_names_stale_answers_total"), "{text}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the new record did not come");
}

#[tokio::test]
async fn look_ups_under_way_have_a_bound() {
    // Connections wait in its backlog, and nobody answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let world = World::new(Options { silent: Some(url), ..Options::default() });
    let names: Vec<Name> = (0..257).map(|_| Name::Key(new_key().1)).collect();
    let short = Duration::from_millis(500);
    let ask = |name| tokio::time::timeout(short, world.resolver.resolve(name));
    let all = futures::future::join_all(names.iter().map(ask)).await;
    let refused = all.iter().filter(|end| matches!(end, Ok(Err(NameError::Busy)))).count();
    assert_eq!(refused, 1, "256 wait, and one is told to come back");
    assert!(world.metrics.encode().contains("names_limit_look_ups_total 1"));
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_look_up() {
    let (key, name) = new_key();
    let record = signed(&key, "/ipfs/bafkqaaa", 1, MINUTE);
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_raw(record.bytes().to_vec(), RECORD);
    let answer = answer.set_delay(Duration::from_millis(300));
    Mock::given(method("GET")).respond_with(answer).expect(1).mount(&server).await;
    let world = World::new(Options { routers: vec![&server], ..Options::default() });
    let name = Name::Key(name);
    let all = futures::future::join_all((0..50).map(|_| world.resolver.resolve(&name))).await;
    assert!(all.iter().all(Result::is_ok));
    server.verify().await;
}

#[tokio::test]
async fn what_was_put_survives_a_restart_and_older_ones_are_refused() {
    let (key, name) = new_key();
    let world = World::new(Options::default());
    let record = signed(&key, "/ipfs/bafkqaaa/kept", 5, MINUTE);
    world.resolver.put(&name, record.bytes().clone()).await.unwrap();
    let older = signed(&key, "/ipfs/bafkqaaa/older", 4, MINUTE);
    let refused = world.resolver.put(&name, older.bytes().clone()).await;
    assert!(matches!(refused, Err(NameError::Older { given: 4, have: 5 })), "{refused:?}");
    let garbage = world.resolver.put(&name, Bytes::from_static(b"garbage")).await;
    assert!(matches!(garbage, Err(NameError::Invalid { .. })));

    let World { resolver, dir, supervisor, .. } = world;
    drop(resolver);
    assert!(supervisor.stop(Duration::from_secs(5)).await.is_empty());
    // A thread that was asked for something may hold the file for a moment longer.
    let file = dir.path().join("names.redb");
    let opened = async {
        while redb::Database::open(&file).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), opened).await.expect("the file is let go");
    let world = World::at(dir, Options::default());
    let path = value(&format!("/ipns/{name}/a"));
    let resolved = world.resolver.resolve_path(&path, Reach::Local).await.unwrap();
    assert_eq!((resolved.path.to_string().as_str(), resolved.source), ("/ipfs/bafkqaaa/kept/a", Source::Local));
    // Nobody knows better, so its TTL does not run out.
    assert_eq!(resolved.ttl, Some(MINUTE));
}

#[tokio::test]
async fn publishing_counts_up_keeps_and_announces() {
    let server = MockServer::start().await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(200)).expect(3).mount(&server).await;
    let world = World::new(Options { routers: vec![&server], ..Options::default() });
    let publish = |to: &str| Publish { key: Some("blog".into()), ..Publish::new(value(to)) };
    let first = world.resolver.publish(&publish("/ipfs/bafkqaaa/1")).await.unwrap();
    assert!(first.announced.iter().all(|announced| announced.error.is_none()) && first.announced.len() == 1);
    let same = world.resolver.publish(&publish("/ipfs/bafkqaaa/1")).await.unwrap();
    let second = world.resolver.publish(&publish("/ipfs/bafkqaaa/2")).await.unwrap();
    let (a, b, c) = (first.record, same.record, second.record);
    assert_eq!((a.name(), b.name()), (c.name(), c.name()));
    assert_eq!((a.sequence(), b.sequence(), c.sequence()), (1, 1, 2));
    assert!(b.eol() > a.eol() && !c.has_v1());
    server.verify().await;
    assert_eq!(world.path(&format!("/ipns/{}", c.name())).await.unwrap(), "/ipfs/bafkqaaa/2");
    let wrong = Publish { key: Some("../blog".into()), ..Publish::new(value("/ipfs/bafkqaaa")) };
    assert!(matches!(world.resolver.publish(&wrong).await, Err(NameError::KeyName(_))));
}

#[tokio::test]
async fn a_published_name_is_signed_anew_before_it_expires() {
    let server = MockServer::start().await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let world = World::new(Options { routers: vec![&server], ..Options::default() });
    let first = world.resolver.publish(&Publish::new(value("/ipfs/bafkqaaa/1"))).await.unwrap().record;
    let (theirs, name) = new_key();
    world.resolver.put(&name, signed(&theirs, "/ipfs/bafkqaaa", 1, MINUTE).bytes().clone()).await.unwrap();

    let now = SystemTime::now();
    assert_eq!(world.resolver.republish_due(now).await.unwrap(), 0);
    // The other's record has expired by then, and we cannot sign for it.
    let later = now + Duration::from_secs(5 * 3600);
    assert_eq!(world.resolver.republish_due(later).await.unwrap(), 1);
    let kept = world.resolver.kept().await.unwrap();
    let renewed = kept.iter().find(|kept| kept.record.name() == first.name()).unwrap();
    assert_eq!(renewed.record.sequence(), first.sequence());
    assert!(renewed.record.eol() > first.eol() + Duration::from_secs(4 * 3600));
    // To the millisecond, as it is stored.
    assert!(later.duration_since(renewed.updated).is_ok_and(|late| late < Duration::from_millis(1)));
    assert_eq!(world.resolver.republish_due(later).await.unwrap(), 0);
}
