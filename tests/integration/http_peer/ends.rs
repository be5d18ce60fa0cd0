//! Blocks that two providers bring together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Response, StatusCode};
use tidegate::exchange::{Exchange, ExchangeEvent, Want, WantKind};
use tidegate::http_peer::trustless::{Config, HttpExchange};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::record::AttemptOutcome;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tokio::sync::mpsc;

use super::rig::*;

const SIZE: usize = 1 << 20;
/// Bytes a second: a block takes four seconds.
const SLOW: f64 = 262_144.0;
const QUICK: f64 = 50e6;

/// An exchange that is asked directly: `slow` for all of a block, and then `other` for its end.
struct Two {
    exchange: HttpExchange,
    events: mpsc::Receiver<ExchangeEvent>,
    _supervisor: Supervisor,
}

impl Two {
    async fn of(slow: &Server, other: &Server, cid: &Cid, end: u64) -> Self {
        let supervisor = Supervisor::new();
        let exchange = HttpExchange::start(Config::default(), None, &Metrics::new(), &supervisor).unwrap();
        let mut two = Self { events: exchange.events().unwrap(), exchange, _supervisor: supervisor };
        for server in [slow, other] {
            two.exchange.connect(server.id(), vec![server.addr()], true);
            while !matches!(two.next().await, ExchangeEvent::Connected { .. }) {}
        }
        let want = Want::new(*cid, WantKind::Block, 1);
        two.exchange.send_wants(slow.id(), vec![want]).unwrap();
        // It has begun to send.
        while !matches!(two.any().await, ExchangeEvent::Progress { .. }) {}
        two.exchange.send_wants(other.id(), vec![Want { end: Some(end), ..want }]).unwrap();
        two
    }

    async fn any(&mut self) -> ExchangeEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("something happens").unwrap()
    }

    /// The next event that is not about parts of bodies or round trips.
    async fn next(&mut self) -> ExchangeEvent {
        loop {
            let event = self.any().await;
            if !matches!(event, ExchangeEvent::Progress { .. } | ExchangeEvent::Rtt { .. }) {
                return event;
            }
        }
    }
}

fn ranges(server: &Server) -> Vec<String> {
    let range = |asked: &Asked| asked.headers.get("range").map(|range| range.to_str().unwrap().to_owned());
    server.asked().iter().filter_map(range).collect()
}

/// What a server has in place of a block whose byte `at` it has wrong.
fn flipped(block: &Block, at: usize) -> Block {
    let mut data = block.data().to_vec();
    data[at] ^= 1;
    Block::encode(codec::RAW, HashCode::Sha2_256, data.into()).unwrap()
}

#[tokio::test]
async fn one_sends_the_beginning_and_another_the_end() {
    let blocks = blocks(1, SIZE);
    let slow = Server::by_headers(&blocks, |headers, block| part(headers, block, SLOW)).await;
    let quick = Server::by_headers(&blocks, |headers, block| part(headers, block, QUICK)).await;
    let mut two = Two::of(&slow, &quick, blocks[0].cid(), 1_000_000).await;
    let ExchangeEvent::End { peer, cid, bytes, .. } = two.next().await else { panic!("the end is told of first") };
    assert_eq!((peer, cid), (quick.id(), *blocks[0].cid()));
    let ExchangeEvent::Block { peer, block, wire_bytes, .. } = two.next().await else { panic!("then the block") };
    assert!(peer == slow.id() && block == blocks[0], "who sends the beginning brings the block");
    assert!(wire_bytes + bytes >= SIZE && wire_bytes < SIZE / 2, "{wire_bytes} and {bytes}");
    assert_eq!(ranges(&quick), [format!("bytes={}-{}", SIZE - bytes, SIZE - 1)]);
    assert_eq!((slow.asked().len(), quick.asked().len()), (1, 1));
}

#[tokio::test]
async fn who_sends_a_wrong_end_is_found_out_and_the_other_is_not_blamed() {
    let blocks = blocks(1, SIZE);
    let slow = Server::by_headers(&blocks, |headers, block| part(headers, block, QUICK / 50.0)).await;
    let liar =
        |headers: &HeaderMap, block: Option<Block>| part(headers, block.map(|block| flipped(&block, SIZE - 1)), QUICK);
    let liar = Server::by_headers(&blocks, liar).await;
    let mut two = Two::of(&slow, &liar, blocks[0].cid(), 500_000).await;
    assert!(matches!(two.next().await, ExchangeEvent::End { .. }));
    let ExchangeEvent::Invalid { peer, .. } = two.next().await else { panic!("the liar is told of") };
    assert_eq!(peer, liar.id());
    let ExchangeEvent::Block { peer, block, wire_bytes, .. } = two.next().await else { panic!("the block comes") };
    assert!(peer == slow.id() && block == blocks[0]);
    assert_eq!(wire_bytes, SIZE, "all of it from there");
    assert_eq!(slow.asked().len(), 2, "once more, alone");
}

#[tokio::test]
async fn who_sends_a_wrong_beginning_is_found_out_and_the_other_is_not_blamed() {
    let blocks = blocks(1, SIZE);
    let liar =
        |headers: &HeaderMap, block: Option<Block>| part(headers, block.map(|block| flipped(&block, 0)), QUICK / 50.0);
    let liar = Server::by_headers(&blocks, liar).await;
    let quick = Server::by_headers(&blocks, |headers, block| part(headers, block, QUICK)).await;
    let mut two = Two::of(&liar, &quick, blocks[0].cid(), 500_000).await;
    assert!(matches!(two.next().await, ExchangeEvent::End { .. }));
    let ExchangeEvent::Invalid { peer, .. } = two.next().await else { panic!("the liar is told of") };
    assert_eq!(peer, liar.id());
    // The other is asked for all of it, as a scheduler would.
    let want = Want::new(*blocks[0].cid(), WantKind::Block, 1);
    two.exchange.send_wants(quick.id(), vec![want]).unwrap();
    let ExchangeEvent::Block { peer, block, .. } = two.next().await else { panic!("the block comes") };
    assert!(peer == quick.id() && block == blocks[0]);
}

#[tokio::test]
async fn who_sends_all_instead_of_the_end_brings_the_block() {
    let blocks = blocks(1, SIZE);
    let slow = Server::by_headers(&blocks, |headers, block| part(headers, block, SLOW)).await;
    let whole = Server::honest(&blocks).await;
    let mut two = Two::of(&slow, &whole, blocks[0].cid(), 500_000).await;
    let ExchangeEvent::Block { peer, block, wire_bytes, .. } = two.next().await else { panic!("the block comes") };
    assert!(peer == whole.id() && block == blocks[0] && wire_bytes == SIZE);
    assert_eq!(ranges(&whole).len(), 1, "it was asked for a part");
}

#[tokio::test]
async fn another_part_than_was_asked_for_is_no_answer() {
    let blocks = blocks(1, SIZE);
    let slow = Server::by_headers(&blocks, |headers, block| part(headers, block, SLOW)).await;
    for says in ["bytes 0-9/1048576", "bytes 1048566-1048575/1048577", "none"] {
        let other = move |_: &HeaderMap, _: Option<Block>| {
            let answer = Response::builder().status(StatusCode::PARTIAL_CONTENT).header("content-range", says);
            answer.body(Body::from(vec![0; 10])).unwrap()
        };
        let other = Server::by_headers(&blocks, other).await;
        let mut two = Two::of(&slow, &other, blocks[0].cid(), 500_000).await;
        let ExchangeEvent::SendFailed { peer, cids } = two.next().await else { panic!("{says}") };
        assert_eq!((peer, cids), (other.id(), vec![*blocks[0].cid()]), "{says}");
    }
}

#[tokio::test]
async fn an_end_without_its_beginning_is_nobodys() {
    let blocks = blocks(1, SIZE);
    let slow = Server::by_headers(&blocks, |headers, block| part(headers, block, SLOW)).await;
    let quick = Server::by_headers(&blocks, |headers, block| part(headers, block, 2e6)).await;
    let mut two = Two::of(&slow, &quick, blocks[0].cid(), 500_000).await;
    until("the end is asked for", || !quick.asked().is_empty()).await;
    two.exchange.cancel(slow.id(), vec![*blocks[0].cid()]);
    assert!(matches!(two.next().await, ExchangeEvent::End { .. }), "what was asked for came");
    // Nobody sends the block now: who is asked for its end is asked for all of it.
    let want = Want { end: Some(500_000), ..Want::new(*blocks[0].cid(), WantKind::Block, 1) };
    two.exchange.send_wants(quick.id(), vec![want]).unwrap();
    let ExchangeEvent::Block { peer, block, .. } = two.next().await else { panic!("the block comes") };
    assert!(peer == quick.id() && block == blocks[0]);
    assert_eq!(ranges(&quick).len(), 1);
}

#[tokio::test]
async fn the_last_block_of_a_file_is_shared_and_every_byte_put_down_to_who_sent_it() {
    // Half a second for each block and an odd number of them: at the end one provider has nothing to do.
    let blocks = blocks(7, SIZE);
    let serve = || {
        let link = Link(2.0 * SIZE as f64, Some(Arc::default()));
        Server::by_headers(&blocks, move |headers, block| part_over(headers, block, &link))
    };
    let (a, b) = (serve().await, serve().await);
    let seeker = Seeker::of(&[&a, &b]);
    let session = seeker.session(blocks[0].cid());
    assert_eq!(read_all(&session, &blocks).await, blocks);
    // Its last event may be on its way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let report = session.report();
    let asked: Vec<String> = [&a, &b].into_iter().flat_map(ranges).collect();
    let told = || {
        (
            report.attempts.clone(),
            report.events.iter().map(|event| (event.at, event.kind, event.peer, event.value)).collect::<Vec<_>>(),
        )
    };
    assert!(!asked.is_empty() && seeker.metric("http_peer_block_ends_total") >= 1.0, "{asked:?} {:#?}", told());
    assert_eq!(report.network_bytes, 7 * SIZE as u64);
    assert_eq!(report.attempts.iter().map(|attempt| attempt.bytes).sum::<u64>(), 7 * SIZE as u64);
    assert!(report.attempts.iter().all(|attempt| attempt.outcome == AttemptOutcome::Delivered));
    assert!(report.attempts.iter().any(|attempt| attempt.hedges > 0));
}
