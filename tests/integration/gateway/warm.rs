//! The cache of whole answers: what it gives cannot be told from what is made anew (RETRIEVAL.md T17).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tidegate::blockstore::{Blockstore, Hit, StoreError, Tier};
use tidegate::denylist::{Denied, Denylists, Rules};
use tidegate::gateway::host::Hosts;
use tidegate::gateway::{self, Config, State};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::names::{NsMap, Resolver};
use tidegate::record::{CacheState, Outcome, Policy, Source};
use tidegate::retriever::{self, LocalBlocks, Retriever};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tidegate::units::ByteSize;
use tower::ServiceExt;

use super::world::{Answer, Store, TOKEN, World, noise};

/// A store whose blocks are all in memory, as a server's are that were read before.
struct Resident {
    store: Arc<Store>,
    lists: Denylists,
    removals: Arc<AtomicU64>,
}

#[async_trait]
impl LocalBlocks for Resident {
    fn peek(&self, cid: &Cid) -> Option<Block> {
        self.store.get(cid).now_or_never()?.ok()?
    }

    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        Ok(self.store.get(cid).await?.map(|block| Hit { block, tier: Tier::Memory }))
    }

    fn cache(&self, _: &Block) {}

    fn denied(&self, cid: &Cid) -> Option<Denied> {
        self.lists.cid(cid)
    }

    fn removals(&self) -> u64 {
        self.removals.load(Ordering::Relaxed)
    }
}

struct Warm {
    world: World,
    lists: Denylists,
    removals: Arc<AtomicU64>,
}

impl Warm {
    fn new() -> Self {
        Self::with(Config { subdomain_hosts: Hosts::parse(&["example.com"]).unwrap(), ..Config::default() })
    }

    fn with(config: Config) -> Self {
        Self::over(World::new(), config, "")
    }

    /// A gateway over the same blocks.
    fn over(world: World, config: Config, map: &str) -> Self {
        let (lists, removals) = (Denylists::default(), Arc::new(AtomicU64::new(0)));
        let blocks = Resident { store: world.store.clone(), lists: lists.clone(), removals: removals.clone() };
        let metrics = Metrics::new();
        let records = Arc::new(super::world::Records::default());
        let state = State {
            retriever: Retriever::new(
                &retriever::Config::default(),
                Arc::new(blocks),
                None,
                Vec::new(),
                &metrics,
                &Supervisor::new(),
            ),
            names: Resolver::fixed(NsMap::parse(map).unwrap()),
            routing: None,
            denylists: lists.clone(),
            sink: records.clone(),
            config,
            is_admin_token: Arc::new(|token| token == TOKEN),
        };
        let world = World { router: gateway::router(state, &metrics), metrics, records, store: world.store };
        Self { world, lists, removals }
    }

    /// The same without a cache of answers.
    fn cold(&self) -> Self {
        let config = Config {
            answer_cache: ByteSize(0),
            subdomain_hosts: Hosts::parse(&["example.com"]).unwrap(),
            ..Config::default()
        };
        let world = World { store: self.world.store.clone(), ..World::new() };
        Self::over(world, config, "")
    }

    fn count(&self, name: &str) -> u64 {
        let text = self.world.metrics.encode();
        let name = format!("tidegate_gateway_answer_cache_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no {name}"));
        line.parse().unwrap()
    }

    fn hits(&self) -> u64 {
        self.count("hits_total")
    }

    async fn get(&self, path: &str) -> Answer {
        self.world.get(path).await
    }
}

/// The headers without what differs from request to request, sorted; the steps of `Server-Timing` without their times.
fn headers(answer: &Answer) -> Vec<(String, String)> {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| {
            let text = value.to_str().unwrap();
            let value = match name.as_str() {
                "x-request-id" => format!("{} digits", text.len()),
                "tidegate-retrieval" => text.parse::<u64>().map(|_| "a number".to_owned()).unwrap(),
                "server-timing" => regex::Regex::new(r"dur=\d+\.\d{3}").unwrap().replace_all(text, "dur").into_owned(),
                // The boundary is drawn for each answer.
                "content-type" if text.starts_with("multipart/") => "multipart".to_owned(),
                _ => text.to_owned(),
            };
            (name.as_str().to_owned(), value)
        })
        .collect();
    headers.sort();
    headers
}

fn rules(lines: &str) -> Rules {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.deny");
    std::fs::write(&path, lines).unwrap();
    Rules::read(&[path]).unwrap()
}

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

#[tokio::test]
async fn a_kept_answer_cannot_be_told_from_a_new_one() {
    let warm = Warm::new();
    let (text, _) = warm.world.file(b"plain words, no name\n").await;
    // Two blocks.
    let (large, _) = warm.world.file(&noise((1 << 20) + 50_000)).await;
    let (page, _) = warm.world.file(b"<!doctype html><title>x</title>").await;
    let site = warm.world.directory(&[("index.html", page), ("a b.txt", text)]).await;
    let dir = warm.world.directory(&[("large.bin", large), ("site", site), ("text", text)]).await;
    let json = Block::encode(codec::JSON, HashCode::Sha2_256, Bytes::from_static(b"{\"a\":[1,2]}")).unwrap();
    let cbor = Block::encode(codec::DAG_CBOR, HashCode::Sha2_256, Bytes::from_static(&[0xa1, 0x61, b'a', 1])).unwrap();
    let (json_cid, cbor_cid) = (*json.cid(), *cbor.cid());
    warm.world.put(vec![json, cbor]).await;
    let cold = warm.cold();

    let (site_host, text_host) =
        (format!("{}.ipfs.example.com", site.cid), format!("{}.ipfs.example.com:80", text.cid));
    let etag = |cid: &Cid| format!("\"{cid}\"");
    let listing = cold.get(&format!("/ipfs/{}/", dir.cid)).await;
    let programs = [("accept", "application/json")];
    let programs = cold.world.ask("GET", &format!("/ipfs/{}/", dir.cid), &programs).await;
    let targets = [
        ("127.0.0.1", format!("/ipfs/{}", text.cid), etag(&text.cid)),
        ("127.0.0.1", format!("/ipfs/{}?filename=a.css&download=true", text.cid), etag(&text.cid)),
        ("127.0.0.1", format!("/ipfs/{}?format=raw", text.cid), format!("\"{}.raw\"", text.cid)),
        ("127.0.0.1:8080", format!("/ipfs/{}", large.cid), etag(&large.cid)),
        ("127.0.0.1", format!("/ipfs/{}/large.bin", dir.cid), etag(&large.cid)),
        ("127.0.0.1", format!("/ipfs/{}/site/", dir.cid), etag(&site.cid)),
        ("127.0.0.1", format!("/ipfs/{}/", dir.cid), listing.header("etag").to_owned()),
        ("127.0.0.1", format!("/ipfs/{}/", dir.cid), programs.header("etag").to_owned()),
        ("127.0.0.1", format!("/ipfs/{}/?sort=size&order=desc", dir.cid), "\"nothing\"".into()),
        ("127.0.0.1", format!("/ipfs/{json_cid}"), format!("\"{json_cid}.json\"")),
        ("127.0.0.1", format!("/ipfs/{cbor_cid}"), format!("\"{cbor_cid}.dag-cbor\"")),
        ("localhost.example", format!("/ipfs/{}/text", dir.cid), etag(&text.cid)),
        (&site_host, "/".into(), etag(&site.cid)),
        (&site_host, "/a%20b.txt".into(), etag(&text.cid)),
        (&text_host, "/".into(), etag(&text.cid)),
    ];
    let accepts = [None, Some("*/*"), Some(BROWSER), Some("application/json"), Some("application/vnd.ipld.raw")];
    let mut compared = 0;
    for (host, path, etag) in &targets {
        for accept in accepts {
            let base: Vec<(&str, &str)> = [("host", *host)].into_iter().chain(accept.map(|a| ("accept", a))).collect();
            for _ in 0..2 {
                warm.world.ask("GET", path, &base).await;
            }
            let more: [&[(&str, &str)]; 14] = [
                &[],
                &[("range", "bytes=0-4")],
                &[("range", "bytes=3-")],
                &[("range", "bytes=-7")],
                &[("range", "bytes=1048570-1048590")],
                &[("range", "bytes=1048576-2097151")],
                &[("range", "bytes=0-1,4-5")],
                &[("range", "bytes=99999999-")],
                &[("range", "bytes=0-4"), ("if-range", etag)],
                &[("range", "bytes=0-4"), ("if-range", "\"other\"")],
                &[("if-none-match", etag)],
                &[("if-none-match", "*")],
                &[("if-none-match", "\"other\"")],
                &[("cache-control", "only-if-cached")],
            ];
            for more in more {
                for method in ["GET", "HEAD"] {
                    let asked: Vec<_> = base.iter().chain(more).copied().collect();
                    let (kept, new) = (warm.world.ask(method, path, &asked), cold.world.ask(method, path, &asked));
                    let (kept, new) = (kept.await, new.await);
                    let what = format!("{method} {host}{path} {asked:?}");
                    assert_eq!(kept.status, new.status, "{what}");
                    compared += 1;
                    if new.status.is_client_error() {
                        // Never kept, and says how long it took.
                        continue;
                    }
                    assert_eq!(headers(&kept), headers(&new), "{what}");
                    let multipart = kept.header("content-type").starts_with("multipart/");
                    assert!(multipart || kept.body == new.body, "{what}: bodies differ");
                    assert_eq!(kept.body.len(), new.body.len(), "{what}");
                }
            }
        }
    }
    // That many come from the cache: the test compares what it says.
    let hits = warm.hits();
    assert!(hits > compared / 2, "{hits} hits in {compared} comparisons");
    assert_eq!(cold.hits(), 0);
}

#[tokio::test]
async fn a_kept_answer_goes_over_a_real_connection_as_it_was_first() {
    let warm = Warm::new();
    let data = noise((5 << 20) + 17);
    let (file, _) = warm.world.file(&data).await;
    let server = warm.world.listen(Default::default(), None).await;
    let client = reqwest::Client::new();
    let url = server.url(&format!("/ipfs/{}", file.cid));
    for _ in 0..3 {
        let response = client.get(&url).send().await.unwrap();
        assert_eq!(response.content_length(), Some(data.len() as u64));
        assert_eq!(response.bytes().await.unwrap(), data);
    }
    let part = client.get(&url).header("range", "bytes=1000000-4000000").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), data[1_000_000..=4_000_000]);
    assert_eq!(warm.hits(), 3);
    server.stop.cancel();
}

#[tokio::test]
async fn a_denylist_holds_for_kept_answers_from_the_moment_it_counts() {
    let warm = Warm::new();
    let (file, leaves) = warm.world.file(&noise(3 << 20)).await;
    let (other, _) = warm.world.file(b"other").await;
    let dir = warm.world.directory(&[("f", file), ("o", other)]).await;
    let (root, below) = (format!("/ipfs/{}", file.cid), format!("/ipfs/{}/f", dir.cid));
    let own = [("host", &*format!("{}.ipfs.example.com", dir.cid))];
    let statuses = || async {
        let mut statuses = vec![warm.get(&root).await.status, warm.get(&below).await.status];
        statuses.push(warm.world.ask("GET", "/f", &own).await.status);
        statuses.push(warm.world.ask("HEAD", &below, &[]).await.status);
        let etag = format!("\"{}\"", file.cid);
        statuses.push(warm.world.ask("GET", &root, &[("if-none-match", &etag)]).await.status);
        statuses
    };
    statuses().await;
    let before = warm.hits();
    assert_eq!(statuses().await.iter().map(|status| status.as_u16()).collect::<Vec<_>>(), [200, 200, 200, 200, 304]);
    assert_eq!(warm.hits() - before, 5);
    warm.lists.replace(rules(&format!("/ipfs/{}\n", file.cid)));
    assert!(statuses().await.iter().all(|status| *status == StatusCode::GONE));
    // A block of the file alone: the file is never whole again. Its first megabyte is still sent.
    warm.lists.replace(rules(&format!("/ipfs/{}\n", leaves[0])));
    assert_eq!(warm.get(&below).await.status, StatusCode::GONE);
    // Taken back: as before, from the store and then kept again.
    warm.lists.replace(rules(&format!("/ipfs/{}\n", other.cid)));
    statuses().await;
    let before = warm.hits();
    statuses().await;
    assert_eq!(warm.hits() - before, 5);
    assert!(warm.count("stale_total") >= 3);
}

#[tokio::test]
async fn a_removed_block_takes_the_answers_with_it() {
    let warm = Warm::new();
    let (file, _) = warm.world.file(b"to be removed").await;
    let path = format!("/ipfs/{}", file.cid);
    for _ in 0..3 {
        assert_eq!(warm.get(&path).await.status, StatusCode::OK);
    }
    assert_eq!(warm.hits(), 2);
    warm.world.store.remove(&file.cid).await.unwrap();
    warm.removals.fetch_add(1, Ordering::Relaxed);
    assert_eq!(warm.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn first_requests_at_once_keep_one_answer() {
    let warm = Arc::new(Warm::new());
    let (file, _) = warm.world.file(&noise(3 << 20)).await;
    let path = format!("/ipfs/{}", file.cid);
    let supervisor = Supervisor::new();
    let asks = (0..64).map(|_| {
        let (warm, path) = (warm.clone(), path.clone());
        supervisor.spawn_short(async move { warm.get(&path).await.body.len() })
    });
    for length in futures::future::join_all(asks).await {
        assert_eq!(length.unwrap(), 3 << 20);
    }
    assert_eq!(warm.count("filled_total"), 1);
    assert_eq!(warm.count("entries"), 1);
}

#[tokio::test]
async fn memory_is_bounded_by_what_is_alive_not_by_what_is_cached() {
    let budget = 8 << 20;
    let warm = Warm::with(Config { answer_cache: ByteSize(budget), ..Config::default() });
    let mut slow = Vec::new();
    for n in 0..12 {
        let (file, _) = warm.world.file(&noise((2 << 20) + n)).await;
        let path = format!("/ipfs/{}", file.cid);
        warm.get(&path).await;
        // A client that takes nothing of its body: what it reads stays alive though it is evicted.
        let request = Request::get(&path).body(Body::empty()).unwrap();
        slow.push(warm.world.router.clone().oneshot(request).await.unwrap());
        assert!(warm.count("bytes") <= budget, "cached");
        assert!(warm.count("alive_bytes") <= budget + budget / 2, "alive");
    }
    let skipped = |reason: &str| {
        let text = warm.world.metrics.encode();
        let name = format!("tidegate_gateway_answer_cache_skipped_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    assert!(warm.count("evicted_total") > 0 && skipped("Alive") > 0);
    // Everybody gets everything, whatever was kept.
    for response in slow {
        assert!(response.into_body().collect().await.unwrap().to_bytes().len() >= 2 << 20);
    }
    // With the readers gone, only what is cached is alive.
    assert_eq!(warm.count("alive_bytes"), warm.count("bytes"));
    let (large, _) = warm.world.file(&noise(5 << 20)).await;
    let before = warm.count("filled_total");
    assert_eq!(warm.get(&format!("/ipfs/{}", large.cid)).await.body.len(), 5 << 20);
    assert_eq!((warm.count("filled_total"), skipped("Size")), (before, 1), "more than half of the budget");
}

#[tokio::test]
async fn what_a_name_leads_to_is_never_kept() {
    let world = World::new();
    let (file, _) = world.file(b"today").await;
    let dir = world.directory(&[("f", file)]).await;
    let config = Config { subdomain_hosts: Hosts::parse(&["example.com"]).unwrap(), ..Config::default() };
    let warm = Warm::over(world, config, &format!("site.example.org:/ipfs/{}", dir.cid));
    for _ in 0..3 {
        for (host, path) in [
            ("127.0.0.1", "/ipns/site.example.org/f"),
            ("site.example.org", "/f"),
            ("site-example-org.ipns.example.com", "/f"),
            // A name that may get a DNSLink.
            ("elsewhere.example.org", &format!("/ipfs/{}", file.cid)),
        ] {
            let answer = warm.world.ask("GET", path, &[("host", host)]).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "today"), "{host}{path}");
        }
    }
    assert_eq!((warm.count("filled_total"), warm.hits()), (0, 0));
}

#[tokio::test]
async fn the_host_and_the_scheme_are_part_of_what_was_asked() {
    let warm = Warm::new();
    let (file, _) = warm.world.file(b"x").await;
    let path = format!("/ipfs/{}", file.cid);
    for _ in 0..2 {
        assert_eq!(warm.world.ask("GET", &path, &[("host", "127.0.0.1")]).await.status, StatusCode::OK);
        let elsewhere = warm.world.ask("GET", &path, &[("host", "example.com")]).await;
        assert_eq!(elsewhere.status, StatusCode::MOVED_PERMANENTLY);
        assert_eq!(elsewhere.header("location"), format!("http://{}.ipfs.example.com/", file.cid));
        let script = warm.world.ask("GET", &path, &[("service-worker", "script")]).await;
        assert_eq!(script.status, StatusCode::BAD_REQUEST);
        assert_eq!(
            warm.get(&format!("{path}?format=car")).await.header("content-type").split(';').next().unwrap(),
            "application/vnd.ipld.car"
        );
    }
    assert_eq!(warm.hits(), 1);
}

#[tokio::test]
async fn every_kept_answer_has_its_record_and_its_place_among_the_requests() {
    let warm = Warm::new();
    let (file, _) = warm.world.file(&noise(2 << 20)).await;
    let path = format!("/ipfs/{}", file.cid);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(warm.get(&path).await.header("tidegate-retrieval").to_owned());
    }
    let part = warm.world.ask("GET", &path, &[("range", "bytes=0-99")]).await;
    ids.push(part.header("tidegate-retrieval").to_owned());
    warm.world.ask("GET", &path, &[("if-none-match", "*")]).await;
    let records = warm.world.records.all();
    assert_eq!(records.iter().map(|record| record.id.to_string()).collect::<Vec<_>>(), ids);
    let (first, kept) = (&records[0], &records[2]);
    assert_eq!(kept.session.cache_state(), CacheState::Memory);
    assert_eq!(kept.session.source(), Source::Cache);
    assert_eq!(kept.session.blocks_memory, first.session.blocks_memory);
    assert_eq!(kept.session.policy, first.session.policy);
    assert_eq!((kept.cid, &kept.path, kept.outcome), (first.cid, &first.path, Outcome::Complete));
    assert_eq!((kept.bytes, kept.http_status), (2 << 20, Some(200)));
    assert_eq!((records[3].bytes, records[3].http_status), (100, Some(206)));
    assert!(kept.ttfb.is_some_and(|ttfb| ttfb <= kept.load_time));
    let kinds = |events: &[tidegate::record::RetrievalEvent]| events.iter().map(|event| event.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&kept.session.events), kinds(&first.session.events));
    let text = warm.world.metrics.encode();
    assert!(text.contains("tidegate_gateway_requests_total{method=\"GET\",class=\"2xx\",format=\"deserialized\"} 4"));
    assert!(text.contains("tidegate_gateway_requests_total{method=\"GET\",class=\"3xx\",format=\"deserialized\"} 1"));
    assert!(text.contains(&format!("tidegate_gateway_response_bytes_total {}", 3 * (2 << 20) + 100)));
    assert!(text.contains("tidegate_gateway_requests_in_flight 0"));

    // A client that leaves.
    let request = Request::get(&path).body(Body::empty()).unwrap();
    let mut body = warm.world.router.clone().oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(warm.world.metrics.encode().contains("tidegate_gateway_requests_in_flight 1"));
    drop(body);
    let last = warm.world.records.all().pop().unwrap();
    assert_eq!(last.outcome, Outcome::ClientAborted);
    assert!(last.bytes > 0 && last.bytes < 2 << 20);
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_though_its_answer_is_kept() {
    let warm = Warm::with(Config { concurrent_requests: 1, ..Config::default() });
    let (file, _) = warm.world.file(&noise(2 << 20)).await;
    let path = format!("/ipfs/{}", file.cid);
    warm.get(&path).await;
    let request = Request::get(&path).body(Body::empty()).unwrap();
    let open = warm.world.router.clone().oneshot(request).await.unwrap();
    assert_eq!(warm.hits(), 1);
    let refused = warm.get(&path).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(!refused.header("retry-after").is_empty());
    drop(open);
    assert_eq!(warm.get(&path).await.status, StatusCode::OK);
}

#[tokio::test]
async fn who_may_choose_the_policy_gets_it() {
    let warm = Warm::new();
    let (file, _) = warm.world.file(b"x").await;
    let path = format!("/ipfs/{}?policy=standard", file.cid);
    for _ in 0..2 {
        warm.get(&path).await;
    }
    let token = format!("Bearer {TOKEN}");
    assert_eq!(warm.world.ask("GET", &path, &[("authorization", &token)]).await.status, StatusCode::OK);
    let policies: Vec<_> = warm.world.records.all().iter().map(|record| record.session.policy).collect();
    assert_eq!(policies, [Policy::Optimized, Policy::Optimized, Policy::Standard]);
}

#[tokio::test]
async fn a_body_ends_when_the_request_has_lasted_as_long_as_it_may() {
    let warm = Warm::with(Config { request_timeout: std::time::Duration::from_secs(2), ..Config::default() });
    let (file, _) = warm.world.file(&noise(3 << 20)).await;
    let path = format!("/ipfs/{}", file.cid);
    warm.get(&path).await;
    let request = Request::get(&path).body(Body::empty()).unwrap();
    let mut body = warm.world.router.clone().oneshot(request).await.unwrap().into_body();
    assert_eq!(warm.hits(), 1);
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_050)).await;
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
    drop(body);
    let last = warm.world.records.all().pop().unwrap();
    assert_eq!((last.outcome, last.error_kind.as_deref()), (Outcome::Truncated, Some("request_time")));
}
