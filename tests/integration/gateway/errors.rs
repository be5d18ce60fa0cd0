//! What cannot be answered, and how that is said.

use std::time::Duration;

use http::StatusCode;
use tidegate::gateway::Config;
use tidegate::ipld::{Block, HashCode, codec};
use tidegate::record::Outcome;

use super::world::{World, noise};

const MISSING: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

#[tokio::test]
async fn programs_get_a_problem_that_names_what_is_missing() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let dir = world.directory(&[("here", file)]).await;
    let answer = world.get(&format!("/ipfs/{}/there", dir.cid)).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let problem = answer.json();
    assert_eq!(problem["status"], 404);
    assert_eq!(problem["code"], "no_link");
    assert_eq!(problem["segment"], "there");
    assert_eq!(problem["cid"], dir.cid.to_string());
    assert_eq!(problem["phase"], "resolve");
    assert_eq!(problem["request"], answer.header("x-request-id"));
    assert_eq!(problem["retrieval"], answer.header("tidegate-retrieval"));
    assert_eq!(answer.header("cache-control"), "no-store");
    let record = world.records.one().await;
    assert_eq!((record.outcome, record.http_status), (Outcome::NotFound, Some(404)));
    assert_eq!(record.error_kind.as_deref(), Some("no_link"));
}

#[tokio::test]
async fn people_get_a_page() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let dir = world.directory(&[("here", file)]).await;
    let headers = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let answer = world.ask("GET", &format!("/ipfs/{}/%3Cscript%3E", dir.cid), &headers).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert!(answer.text().contains("404 Not Found") && answer.text().contains(&dir.cid.to_string()));
    assert!(!answer.text().contains("<script"));
    assert!(answer.header("content-security-policy").contains("default-src 'none'"));
}

#[tokio::test]
async fn each_wrong_request_has_its_status() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let file = file.cid;
    let encode = |codec, bytes: &'static [u8]| Block::encode(codec, HashCode::Sha2_256, bytes.into()).unwrap();
    // The empty map in dag-cbor; dag-pb whose UnixFS data has a type that does not exist.
    let blocks = vec![encode(codec::DAG_CBOR, b"\xa0"), encode(codec::DAG_PB, b"\x0a\x02\x08\x63")];
    let (map, damaged) = (*blocks[0].cid(), *blocks[1].cid());
    world.put(blocks).await;
    for (path, status, code) in [
        ("/ipfs/not-a-cid".to_owned(), 400, "bad_path"),
        (format!("/ipfs/{file}/%ff"), 400, "bad_path"),
        (format!("/ipfs/{file}/a%2Fb"), 400, "bad_path"),
        (format!("/ipfs/{file}?format=zip"), 406, "bad_format"),
        (format!("/ipfs/{file}?format=car&car-version=2"), 406, "bad_format"),
        (format!("/ipfs/{file}?format=car&dag-scope=x"), 400, "bad_parameter"),
        (format!("/ipfs/{file}/below"), 404, "no_link"),
        (format!("/ipfs/{MISSING}"), 404, "not_local"),
        ("/ipns/example.org".to_owned(), 502, "name_disabled"),
        ("/other".to_owned(), 404, "no_route"),
        (format!("/ipfs/{map}"), 406, "not_unixfs"),
        (format!("/ipfs/{map}/below"), 501, "codec_path"),
        (format!("/ipfs/{damaged}"), 502, "malformed"),
    ] {
        let answer = world.get(&path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.json()["code"], code, "{path}");
        assert!(!answer.header("cache-control").contains("immutable"));
    }
    let answer = world.ask("POST", &format!("/ipfs/{file}"), &[]).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header("allow"), "GET, HEAD, OPTIONS");
    assert_eq!(
        world.get("/ipfs/not-a-cid").await.json()["detail"].as_str().unwrap().split(':').next(),
        Some("invalid path \"/ipfs/not-a-cid\"")
    );
}

#[tokio::test]
async fn scripts_of_other_origins_may_ask() {
    let world = World::new();
    for method in ["OPTIONS", "GET"] {
        let answer = world.ask(method, "/ipfs/bafkqabtimvwgy3yk/", &[]).await;
        assert!(answer.status.is_success());
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("access-control-allow-methods"), "GET, HEAD, OPTIONS");
        for (list, names) in [
            ("access-control-allow-headers", "Content-Type, Range, User-Agent, X-Requested-With"),
            (
                "access-control-expose-headers",
                "Content-Range, Content-Length, X-Ipfs-Path, X-Ipfs-Roots, X-Chunked-Output, X-Stream-Output",
            ),
        ] {
            let said: Vec<_> = answer.header(list).split(", ").collect();
            assert!(names.split(", ").all(|name| said.contains(&name)), "{list}: {said:?}");
        }
    }
}

#[tokio::test]
async fn only_if_cached_says_412_and_not_404() {
    use tidegate::blockstore::Blockstore;
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let (large, blocks) = world.file(&noise(600_000)).await;
    world.store.remove(&blocks[0]).await.unwrap();
    let headers = [("cache-control", "only-if-cached")];
    for method in ["GET", "HEAD"] {
        assert_eq!(world.ask(method, &format!("/ipfs/{}", file.cid), &headers).await.status, StatusCode::OK);
        let missing = world.ask(method, &format!("/ipfs/{MISSING}"), &headers).await;
        assert_eq!(missing.status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(missing.header("cache-control"), "no-store");
    }
    let answer = world.ask("GET", &format!("/ipfs/{}", large.cid), &headers).await;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn the_one_request_too_many_is_told_to_come_back() {
    use axum::body::Body;
    use tower::ServiceExt;
    let world = World::with(Config { concurrent_requests: 1, ..Config::default() });
    let (file, _) = world.file(&noise(600_000)).await;
    let path = format!("/ipfs/{}", file.cid);
    let request = http::Request::get(&path).body(Body::empty()).unwrap();
    let held = world.router.clone().oneshot(request).await.unwrap();
    let answer = world.get(&path).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json()["code"], "busy");
    drop(held);
    assert_eq!(world.get(&path).await.status, StatusCode::OK);
    assert!(world.metrics.encode().contains("tidegate_gateway_limits_hit_total{limit=\"ConcurrentRequests\"} 1"));
    let outcomes: Vec<_> = world.records.all().iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [Outcome::ClientAborted, Outcome::Complete]);
}

#[tokio::test]
async fn what_does_not_come_in_time_is_a_504_with_a_retry_hint() {
    let world = World::with(Config { first_byte_timeout: Duration::from_millis(1), ..Config::default() });
    let (file, blocks) = world.file(&noise(600_000)).await;
    *world.store.stuck.lock().unwrap() = Some(blocks[0]);
    let answer = world.get(&format!("/ipfs/{}", file.cid)).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
    assert_eq!(world.records.one().await.outcome, Outcome::Timeout);
}

#[tokio::test]
async fn the_front_page_leads_to_content() {
    let world = World::new();
    let page = world.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text().contains("<form") && page.text().contains("name=\"uri\""));
    for (text, to) in [
        ("ipfs%3A%2F%2Fbafkqaaa%2Fa%20b", "/ipfs/bafkqaaa/a%20b"),
        ("bafkqaaa", "/ipfs/bafkqaaa"),
        ("/ipfs/bafkqaaa/", "/ipfs/bafkqaaa/"),
    ] {
        let answer = world.get(&format!("/ipfs/?uri={text}")).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::MOVED_PERMANENTLY, to), "{text}");
    }
    assert_eq!(world.get("/ipfs/?uri=https%3A%2F%2Fexample.org").await.status, StatusCode::BAD_REQUEST);
}
