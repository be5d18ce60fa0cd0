//! Bodies on real connections: what is cut can be told, what is not read is not fetched.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use tidegate::blockstore::Blockstore;
use tidegate::listener::Config;
use tidegate::record::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{World, noise};

const LEAF: usize = 262_144;
/// More leaves than any read-ahead takes at once.
const LEAVES: usize = 256;

/// A file whose last leaf is gone.
async fn with_a_hole(world: &World) -> String {
    let (file, blocks) = world.file(&noise(LEAVES * LEAF)).await;
    world.store.remove(&blocks[LEAVES - 1]).await.unwrap();
    format!("/ipfs/{}", file.cid)
}

#[tokio::test]
async fn over_http1_a_cut_body_ends_in_a_reset() {
    let world = World::new();
    let path = with_a_hole(&world).await;
    let server = world.listen(Config::default(), None).await;
    for (query, announced) in [("?filename=a.bin", true), ("?format=car", false)] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET {path}{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        let end = loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break Ok(()),
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
                Err(error) => break Err(error),
            }
        };
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{query}");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer.len() < LEAVES * LEAF);
        let head = String::from_utf8_lossy(&answer[..1000]).to_ascii_lowercase();
        assert_eq!(head.contains(&format!("content-length: {}", LEAVES * LEAF)), announced);
        assert!(!answer.ends_with(b"\r\n0\r\n\r\n"), "a chunked body must not end cleanly");
    }
    let records = world.records.all();
    assert!(records.iter().all(|record| record.outcome == Outcome::Truncated), "{records:?}");
    assert!(records.iter().all(|record| record.error_kind.as_deref() == Some("not_local")));
}

#[tokio::test]
async fn over_http2_a_cut_body_resets_its_stream_alone() {
    let world = World::new();
    let path = with_a_hole(&world).await;
    let server = world.listen(Config::default(), None).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.get(server.url(&format!("{path}?filename=a.bin"))).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    assert!(answer.bytes().await.is_err());
    assert_eq!(
        client.get(server.url("/ipfs/bafkqabtimvwgy3yk")).send().await.unwrap().text().await.unwrap(),
        "hello\n"
    );
    let connections = "tidegate_http_connections_total{listener=\"gateway\"} 1";
    assert!(world.metrics.encode().contains(connections), "the connection lives on");
}

#[tokio::test]
async fn whole_bodies_arrive_over_both_versions() {
    let world = World::new();
    let data = noise(5_000_000);
    let (file, _) = world.file(&data).await;
    let server = world.listen(Config::default(), None).await;
    let url = server.url(&format!("/ipfs/{}", file.cid));
    for client in [reqwest::Client::builder(), reqwest::Client::builder().http2_prior_knowledge()] {
        let answer = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.bytes().await.unwrap() == data);
    }
    let records = world.records.all();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.outcome == Outcome::Complete && record.bytes == 5_000_000));
}

#[tokio::test]
async fn what_a_slow_reader_does_not_take_is_not_fetched() {
    let world = World::new();
    let (file, _) = world.file(&noise(LEAVES * LEAF)).await;
    let server = world.listen(Config::default(), None).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /ipfs/{}?filename=a.bin HTTP/1.1\r\nHost: x\r\n\r\n", file.cid);
    stream.write_all(request.as_bytes()).await.unwrap();
    // Until nothing moves any more.
    let mut reads = (0, u64::MAX);
    while reads.0 != reads.1 || reads.0 == 0 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        reads = (world.store.reads.load(Ordering::Relaxed), reads.0);
    }
    assert!(
        reads.0 < LEAVES as u64 * 3 / 4,
        "{} of {LEAVES} leaves were read for a client that reads nothing",
        reads.0
    );
    drop(stream);
    let record = world.records.one().await;
    assert_eq!(record.outcome, Outcome::ClientAborted);
    assert!(record.bytes < (LEAVES * LEAF) as u64);
}

#[tokio::test]
async fn a_head_over_a_connection_has_a_length_and_no_body() {
    let world = World::new();
    let (file, _) = world.file(&noise(600_000)).await;
    let server = world.listen(Config::default(), None).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("HEAD /ipfs/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", file.cid);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.to_ascii_lowercase().contains("content-length: 600000\r\n"), "{answer}");
    assert!(answer.contains("date: ") && answer.ends_with("\r\n\r\n"));
    let record = world.records.one().await;
    assert_eq!((record.outcome, record.bytes, record.ttfb), (Outcome::Complete, 0, None));
}

#[tokio::test]
async fn a_head_of_a_car_does_not_announce_an_empty_one() {
    let world = World::new();
    let (file, _) = world.file(&noise(1000)).await;
    let server = world.listen(Config::default(), None).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("HEAD /ipfs/{}?format=car HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", file.cid);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("\r\ncontent-length:"), "{answer}");
}
