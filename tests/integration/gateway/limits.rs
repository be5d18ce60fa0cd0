//! Each limit of the gateway with the status that it gives and the count of hitting it; the others are in `transport` (the
//! listener's), `errors` (concurrency, first byte) and `waiting`. docs/configuration.md has the table.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;
use tidegate::gateway::Config;
use tidegate::ipld::dag_pb::{PbLink, PbNode};
use tidegate::ipld::{Block, HashCode, codec};
use tidegate::units::ByteSize;
use tower::ServiceExt;

use super::world::{World, noise};
use crate::test_app::TestApp;

const LIMIT: u64 = 1_000_000;

async fn hits(app: &TestApp, limit: &str) -> u64 {
    let (metrics, name) = (app.metrics().await, format!("tidegate_gateway_limits_hit_total{{limit=\"{limit}\"}} "));
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |n| n.parse().unwrap())
}

#[tokio::test]
async fn parts_of_a_file_over_the_limit_are_501_and_the_whole_is_not() {
    let app = TestApp::start(|settings| settings.limits.range_file_size = ByteSize(LIMIT)).await;
    let (small, large) = (app.add(noise(LIMIT as usize)).await, app.add(noise(LIMIT as usize + 1)).await);
    for (path, range, status) in [
        (format!("/ipfs/{small}"), "bytes=0-9", StatusCode::PARTIAL_CONTENT),
        (format!("/ipfs/{large}"), "bytes=0-9", StatusCode::NOT_IMPLEMENTED),
        (format!("/ipfs/{large}"), "bytes=0-9,20-29", StatusCode::NOT_IMPLEMENTED),
        // What is no range, or is not there, is what it always was; a block is no large file.
        (format!("/ipfs/{large}"), "lines=0-9", StatusCode::OK),
        (format!("/ipfs/{large}"), "bytes=1000001-", StatusCode::RANGE_NOT_SATISFIABLE),
        (format!("/ipfs/{large}?format=raw"), "bytes=0-9", StatusCode::PARTIAL_CONTENT),
    ] {
        let answer = app.gateway(&path).header("range", range).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path} {range}");
        if status == StatusCode::NOT_IMPLEMENTED {
            assert_eq!(answer.headers()["cache-control"], "no-store");
            assert_eq!(answer.json::<Value>().await.unwrap()["code"], "range_too_large");
        }
    }
    assert_eq!(hits(&app, "RangeFileSize").await, 2);
    app.stop().await;
}

#[tokio::test]
async fn what_is_too_large_to_be_served_as_files_is_410_and_its_blocks_are_not() {
    let app = TestApp::start(|settings| settings.limits.deserialized_size = ByteSize(LIMIT)).await;
    let (small, large) = (app.add(noise(LIMIT as usize)).await, app.add(noise(LIMIT as usize + 1)).await);
    for (path, status) in [
        (format!("/ipfs/{small}"), StatusCode::OK),
        (format!("/ipfs/{large}"), StatusCode::GONE),
        (format!("/ipfs/{large}?format=tar"), StatusCode::GONE),
        (format!("/ipfs/{large}?format=zip"), StatusCode::GONE),
        (format!("/ipfs/{large}?format=raw"), StatusCode::OK),
        (format!("/ipfs/{large}?format=car"), StatusCode::OK),
    ] {
        let answer = app.gateway(&path).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        if status == StatusCode::GONE {
            let cache = answer.headers()["cache-control"].to_str().unwrap();
            assert!(cache.contains("max-age=") && !cache.contains("immutable"), "{cache}");
            assert!(!answer.headers().contains_key("retry-after"), "waiting does not make it smaller");
            assert_eq!(answer.json::<Value>().await.unwrap()["code"], "too_large", "{path}");
        } else {
            assert!(answer.bytes().await.is_ok(), "{path}");
        }
    }
    let head = app.http.head(app.gateway(&format!("/ipfs/{large}")).build().unwrap().url().clone());
    assert_eq!(head.send().await.unwrap().status(), StatusCode::GONE);
    assert_eq!(hits(&app, "DeserializedSize").await, 4);
    app.stop().await;
}

#[tokio::test]
async fn a_graph_over_the_limit_is_410_in_every_form_but_block_by_block() {
    let app = TestApp::start(|settings| settings.limits.dag_size = ByteSize(LIMIT)).await;
    let large = app.add(noise(LIMIT as usize + 1)).await;
    for (query, status) in [
        ("", StatusCode::GONE),
        ("?format=tar", StatusCode::GONE),
        ("?format=car", StatusCode::GONE),
        ("?format=car&dag-scope=entity", StatusCode::GONE),
        ("?format=car&dag-scope=block", StatusCode::OK),
        ("?format=raw", StatusCode::OK),
    ] {
        let answer = app.gateway(&format!("/ipfs/{large}{query}")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{query}");
    }
    assert_eq!(hits(&app, "DagSize").await, 4);
    app.stop().await;
}

#[tokio::test]
async fn a_graph_that_claims_to_be_smaller_than_it_is_is_cut_off_by_a_reset() {
    let world = World::with(Config { dag_size: 100_000, ..Config::default() });
    let leaf = |n: usize| Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(noise(900_000 + n))).unwrap();
    let leaves = [leaf(1), leaf(2), leaf(3)];
    let links = leaves.iter().map(|leaf| PbLink { cid: *leaf.cid(), name: Some(String::new()), tsize: Some(1) });
    let node = PbNode { links: links.collect(), data: None };
    let root = Block::encode(codec::DAG_PB, HashCode::Sha2_256, node.encode()).unwrap();
    let path = format!("/ipfs/{}?format=car", root.cid());
    world.put(leaves.into_iter().chain([root]).collect()).await;
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let answer = world.router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.into_body().collect().await.is_err(), "it ends cleanly");
    assert_eq!(world.records.one().await.error_kind.as_deref(), Some("too_large"));
    assert!(world.metrics.encode().contains("tidegate_gateway_limits_hit_total{limit=\"DagSize\"} 1"));
}

#[tokio::test]
async fn a_request_that_takes_longer_than_it_may_is_reset() {
    let app = TestApp::start(|settings| settings.limits.request_timeout = Duration::from_millis(500)).await;
    // More than the buffers between the two ends hold.
    let large = app.add(noise(64 << 20)).await;
    let answer = app.gateway(&format!("/ipfs/{large}")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body = answer.bytes_stream();
    assert!(body.next().await.unwrap().is_ok());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut cut = false;
    while let Some(chunk) = body.next().await {
        cut |= chunk.is_err();
    }
    assert!(cut, "all of it came");
    assert_eq!(hits(&app, "RequestTime").await, 1);
    app.stop().await;
}

/// DESIGN.md §8, the bounds of the formats: a request that is beyond one is the client's mistake, and says which.
#[tokio::test]
async fn addresses_beyond_the_bounds_of_the_formats_are_400_and_those_within_are_not() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let identity = |n: usize| {
        let hash = tidegate::ipld::Multihash::wrap(0, &vec![7; n]).ok()?;
        Some(tidegate::ipld::Cid::new_v1(codec::RAW, hash).to_string())
    };
    let root = format!("/ipfs/{}/", file.cid);
    let bytes = |n: usize| format!("{root}{}", "a".repeat(n - root.len()));
    // The CID of 129 bytes cannot even be made with our types: by hand.
    let raw = [&[1u8, 0x55, 0, 0x81, 1][..], &[7; 129]].concat();
    let over = format!("/ipfs/{}", multibase::encode(multibase::Base::Base32Lower, raw));
    for (path, status) in [
        (bytes(8 * 1024), 404),
        (bytes(8 * 1024 + 1), 400),
        (format!("{root}{}", "a/".repeat(1024)), 404),
        (format!("{root}{}", "a/".repeat(1025)), 400),
        (format!("/ipfs/{}", identity(128).unwrap()), 200),
        (over, 400),
    ] {
        let answer = world.get(&path).await;
        assert_eq!(answer.status.as_u16(), status, "{} bytes: {}…", path.len(), &path[..80]);
        if status == 400 {
            assert_eq!(answer.json()["code"], "bad_path");
        }
    }
}

#[test]
fn a_block_over_two_mebibytes_is_none() {
    let block = |n: usize| Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(vec![0; n]));
    assert!(block(2 << 20).is_ok());
    assert!(block((2 << 20) + 1).is_err());
}
