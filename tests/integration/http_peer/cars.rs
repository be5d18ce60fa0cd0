//! A file from a provider in one answer, and providers whose CARs are not what they should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http::header::CONTENT_TYPE;
use tidegate::dag::FileReader;
use tidegate::http_peer::trustless::Config;
use tidegate::ipld::builder::{FileBuilder, Profile};
use tidegate::ipld::{Block, Cid, car};
use tidegate::listener;
use tidegate::record::{AttemptOutcome, EventKind, Policy};
use tidegate::retriever::{FetchError, Hint, Session, SessionOptions};

use super::rig::*;
use crate::gateway::world::{World, noise};

const MIB: usize = 1 << 20;

/// A file's blocks in the order of a CAR, root first.
pub fn file(length: usize) -> (Vec<u8>, Vec<Block>) {
    let data = noise(length);
    let mut builder = FileBuilder::new(&Profile::KUBO_V1);
    let mut leaves = builder.push(Bytes::copy_from_slice(&data));
    let (rest, built) = builder.finish();
    leaves.extend(rest);
    let root = leaves.iter().position(|block| *block.cid() == built.cid).unwrap();
    let mut blocks = vec![leaves.remove(root)];
    blocks.extend(leaves);
    (data, blocks)
}

pub fn chunks(blocks: &[Block]) -> Vec<Bytes> {
    let mut chunks = vec![car::header(&[*blocks[0].cid()])];
    chunks.extend(blocks.iter().flat_map(car::frame));
    chunks
}

pub fn of_type(body: Body) -> Response<Body> {
    Response::builder().header(CONTENT_TYPE, "application/vnd.ipld.car; version=1").body(body).unwrap()
}

pub fn as_car(blocks: &[Block]) -> Response<Body> {
    of_type(Body::from_stream(futures::stream::iter(chunks(blocks).into_iter().map(Ok::<_, std::io::Error>))))
}

pub async fn root_of(session: &Session, cid: Cid) -> Result<Block, FetchError> {
    let hint = Hint { cid, size: None };
    tokio::time::timeout(PATIENCE, session.fetch_whole(&hint)).await.expect("an answer in time")
}

/// Reads the file as the gateway does.
pub async fn read(session: &Session, cid: Cid) -> Vec<u8> {
    let root = root_of(session, cid).await.unwrap();
    let mut reader = FileReader::whole(session.clone(), &root).unwrap();
    let mut data = Vec::new();
    while let Some(chunk) = tokio::time::timeout(PATIENCE, reader.next()).await.expect("bytes in time") {
        data.extend_from_slice(&chunk.unwrap());
    }
    data
}

/// How many requests of a kind reached a server.
fn asked(server: &Server, format: &str) -> usize {
    server.asked().iter().filter(|ask| ask.method == http::Method::GET && ask.query.contains(format)).count()
}

#[tokio::test]
async fn a_file_comes_from_our_own_gateway_in_one_answer() {
    // Two levels of nodes.
    let (world, data) = (World::new(), noise(60 * MIB));
    let (built, _) = world.file(&data).await;
    let server = world.listen(listener::Config::default(), None).await;
    let seeker = Seeker::with(Config { providers: vec![http_addr(server.address)], ..Config::default() }, Vec::new());
    let session = seeker.session(&built.cid);
    assert!(read(&session, built.cid).await == data, "byte for byte");
    assert_eq!((seeker.metric("http_peer_cars_total"), seeker.metric("http_peer_requests_total")), (1.0, 1.0));
    let report = session.report();
    assert_eq!((report.duplicate_bytes, report.attempts.len()), (0, 1));
    assert_eq!(report.attempts[0].outcome, AttemptOutcome::Delivered);
}

#[tokio::test]
async fn who_reads_a_part_and_the_standard_policy_ask_for_blocks() {
    let (data, blocks) = file(3 * MIB);
    let one = blocks.clone();
    let one = Server::of_cars(&blocks, move || as_car(&one)).await;
    let seeker = Seeker::of(&[&one]);
    let session = seeker.session(blocks[0].cid());
    assert_eq!(session.fetch(blocks[0].cid()).await.unwrap(), blocks[0]);
    assert_eq!((asked(&one, "car"), asked(&one, "raw")), (0, 1));
    let options = SessionOptions { policy: Some(Policy::Standard), ..SessionOptions::default() };
    let standard = seeker.retriever.session(*blocks[0].cid(), options);
    assert!(read(&standard, *blocks[0].cid()).await == data);
    // The root has just come.
    assert_eq!((asked(&one, "car"), asked(&one, "raw")), (0, blocks.len()));
}

#[tokio::test]
async fn of_two_providers_one_sends_the_beginning_with_the_root_and_both_the_rest() {
    // Two levels of nodes.
    let (world, data) = (World::new(), noise(60 * MIB));
    let (built, cids) = world.file(&data).await;
    let (one, two) =
        (world.listen(listener::Config::default(), None).await, world.listen(listener::Config::default(), None).await);
    let providers = vec![http_addr(one.address), http_addr(two.address)];
    let seeker = Seeker::with(Config { providers, ..Config::default() }, Vec::new());
    until("both are connected", || seeker.exchange.providers().len() == 2).await;
    let session = seeker.session(&built.cid);
    assert!(read(&session, built.cid).await == data, "byte for byte");
    assert_eq!(seeker.metric("http_peer_cars_total"), 1.0);
    let report = session.report();
    assert_eq!(report.attempts.iter().filter(|a| a.outcome == AttemptOutcome::Delivered && a.blocks > 1).count(), 2);
    let events: Vec<_> = report.events.iter().filter(|event| event.kind == EventKind::Whole).collect();
    assert!(matches!(&events[..], [event] if event.value.is_some_and(|bytes| bytes <= 4 << 20)), "{events:?}");
    // The blocks of the beginning are asked for once, as part of it.
    let requests = seeker.metric("http_peer_requests_total");
    assert!(requests < (cids.len() + 4) as f64, "{requests} requests for {} blocks", cids.len());
    assert!(report.duplicate_bytes <= 3 << 20, "{}", report.duplicate_bytes);
}

#[tokio::test]
async fn who_sends_all_when_asked_for_the_beginning_is_stopped_and_not_blamed() {
    let (data, blocks) = file(30 * MIB);
    let sent = blocks.clone();
    let one = Server::of_cars(&blocks, move || as_car(&sent)).await;
    let sent = blocks.clone();
    let two = Server::of_cars(&blocks, move || as_car(&sent)).await;
    let seeker = Seeker::of(&[&one, &two]);
    until("both are connected", || seeker.exchange.providers().len() == 2).await;
    let session = seeker.session(blocks[0].cid());
    assert!(read(&session, *blocks[0].cid()).await == data);
    let asks: Vec<_> = [&one, &two].into_iter().flat_map(|server| server.asked()).collect();
    let cars: Vec<_> = asks.iter().filter(|ask| ask.query.contains("format=car")).collect();
    assert!(matches!(&cars[..], [ask] if ask.query.contains("entity-bytes=0:")), "{cars:?}");
    assert!(session.report().attempts.iter().all(|attempt| attempt.outcome == AttemptOutcome::Delivered));
}

#[tokio::test]
async fn a_provider_without_cars_is_asked_for_one_once() {
    let (data, blocks) = file(MIB);
    let server = Server::honest(&blocks).await;
    let seeker = Seeker::of(&[&server]);
    for _ in 0..2 {
        assert!(read(&seeker.session(blocks[0].cid()), *blocks[0].cid()).await == data);
    }
    assert_eq!((asked(&server, "car"), asked(&server, "raw")), (1, 10));
}

#[tokio::test]
async fn what_a_cut_car_did_not_bring_is_asked_for_block_by_block() {
    let (data, blocks) = file(3 * MIB);
    let body = chunks(&blocks[..5]).concat();
    let server = Server::of_cars(&blocks, move || of_type(cut(Bytes::from(body.clone())).into_body())).await;
    let seeker = Seeker::of(&[&server]);
    assert!(read(&seeker.session(blocks[0].cid()), *blocks[0].cid()).await == data);
    let raw = asked(&server, "raw");
    assert_eq!(asked(&server, "car"), 1);
    assert!((blocks.len() - 5..=blocks.len()).contains(&raw), "{raw} of {}", blocks.len());
}

#[tokio::test]
async fn repeated_blocks_and_any_order_are_taken() {
    let (data, mut blocks) = file(3 * MIB);
    let root = *blocks[0].cid();
    blocks[1..].reverse();
    let twice: Vec<Block> = blocks.iter().flat_map(|block| [block.clone(), block.clone()]).collect();
    // Four of the twelve leaves: more would be more than nobody wants.
    let sent = [&twice[..8], &blocks[4..]].concat();
    let server = Server::of_cars(&blocks, move || as_car(&sent)).await;
    let seeker = Seeker::of(&[&server]);
    assert!(read(&seeker.session(&root), root).await == data);
    assert_eq!(asked(&server, "car"), 1);
}

#[tokio::test]
async fn a_wrong_block_in_a_car_ends_all_that_is_asked_of_the_provider() {
    let (_, blocks) = file(3 * MIB);
    let cid = *blocks[0].cid();
    for (what, body) in wrong(&blocks) {
        let server = Server::of_cars(&blocks, move || of_type(Body::from(body.clone()))).await;
        let seeker = Seeker::of(&[&server]);
        let session = seeker.session(&cid);
        let root = root_of(&session, cid).await;
        if let Ok(root) = root {
            let mut reader = FileReader::whole(session.clone(), &root).unwrap();
            let ended = async { while let Some(Ok(_)) = reader.next().await {} };
            tokio::time::timeout(PATIENCE, ended).await.expect(what);
        }
        let report = session.report();
        assert_eq!(attempt(&report, server.id()).outcome, AttemptOutcome::Corrupt, "{what}");
        assert_eq!((asked(&server, "car"), asked(&server, "raw")), (1, 0), "{what}: nothing after the wrong block");
    }
}

/// Bodies that are no CARs of these blocks.
pub fn wrong(blocks: &[Block]) -> [(&'static str, Vec<u8>); 3] {
    let frames = chunks(blocks).concat();
    let (at, stranger) = (frames.len() / 2, super::rig::blocks(1, 1_000).remove(0));
    let flipped = [&frames[..at], &[!frames[at]], &frames[at + 1..]].concat();
    let unasked = chunks(&[&blocks[..3], &[stranger], &blocks[3..]].concat()).concat();
    [("flipped", flipped), ("unasked for", unasked), ("rootless", chunks(&blocks[1..]).concat())]
}

/// A CAR that says when nobody reads it any more.
pub fn telling(frames: Vec<Bytes>, told: &Arc<AtomicBool>) -> Response<Body> {
    let told = Told(told.clone());
    let body = futures::stream::iter(frames).map(move |chunk| {
        let _ = &told;
        Ok::<_, std::io::Error>(chunk)
    });
    of_type(Body::from_stream(body))
}

/// Says when it is dropped.
struct Told(Arc<AtomicBool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_reader_that_waits_is_sent_little_and_one_that_goes_away_ends_the_car() {
    let (_, blocks) = file(40 * MIB);
    let (all, dropped) = (chunks(&blocks), Arc::new(AtomicBool::new(false)));
    let told = dropped.clone();
    let server = Server::of_cars(&blocks, move || telling(all.clone(), &told)).await;
    let seeker = Seeker::of(&[&server]);
    let session = seeker.session(blocks[0].cid());
    let root = root_of(&session, *blocks[0].cid()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let received = seeker.metric("http_peer_received_bytes_total");
    assert!(received < 6.0 * MIB as f64, "{received} bytes for a reader that wants nothing yet");
    let mut reader = FileReader::whole(session.clone(), &root).unwrap();
    reader.next().await.unwrap().unwrap();
    assert!(!dropped.load(Ordering::SeqCst));
    drop((reader, session));
    until("the CAR is ended", || dropped.load(Ordering::SeqCst)).await;
    assert!(seeker.metric("http_peer_received_bytes_total") < 30.0 * MIB as f64);
}
