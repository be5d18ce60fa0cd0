//! One retriever and servers of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER};
use http::{Method, Response, StatusCode};
use tidegate::exchange::{Exchange, ExchangeEvent, SendError, Want, WantKind};
use tidegate::http_peer::trustless::{Config, HttpExchange};
use tidegate::record::{AttemptOutcome, EventKind, Source, Transport};
use tidegate::retriever::FetchError;
use tidegate::routing::{Provider, RouterKind};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

use super::rig::*;

const MIB: usize = 1024 * 1024;

fn named(server: &Server) -> Provider {
    Provider {
        peer: libp2p::PeerId::random(),
        addrs: vec![server.addr()],
        transports: vec!["transport-ipfs-gateway-http".to_owned()],
        source: RouterKind::Delegated,
    }
}

fn busy(pause: &str) -> Response<Body> {
    let response = Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header(RETRY_AFTER, pause);
    response.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn blocks_come_over_http_and_the_record_says_so() {
    let blocks = blocks(40, 100_000);
    let server = Server::honest(&blocks).await;
    let seeker = Seeker::of(&[&server]);
    let session = seeker.session(blocks[0].cid());
    assert_eq!(read_all(&session, &blocks).await, blocks);
    let report = session.report();
    assert_eq!(report.source(), Source::Http);
    let row = attempt(&report, server.id());
    assert_eq!((row.transport, row.outcome), (Some(Transport::Http), AttemptOutcome::Delivered));
    assert_eq!((row.blocks, row.bytes), (40, 4_000_000));
    assert!(row.min_rtt.is_some() && row.first_byte.is_some());
    assert_eq!(report.received_bytes, 4_000_000);
    // Each block once, as a trustless client asks: raw, and only for what is held there.
    let asked = server.asked();
    assert_eq!(asked.iter().filter(|ask| ask.method == Method::GET).count(), 40);
    for ask in asked {
        assert_eq!(ask.headers["accept"], "application/vnd.ipld.raw");
        assert_eq!(ask.headers["cache-control"], "only-if-cached");
    }
    let [provider] = &seeker.exchange.providers()[..] else { panic!("one provider") };
    assert_eq!((provider.protocol, provider.received), ("h2", 4_000_000));
}

#[tokio::test]
async fn after_a_wrong_body_nothing_more_is_asked_there() {
    let blocks = blocks(60, 50_000);
    let first = AtomicBool::new(true);
    let wrong = Server::start(&blocks, move |_, method, block| match *method {
        Method::HEAD => answer(block),
        _ if first.swap(false, Ordering::SeqCst) => Response::new(Body::from(vec![7; 50_000])),
        // What was under way with the wrong one stays so.
        _ => drip(),
    })
    .await;
    let honest = Server::honest(&blocks).await;
    let seeker = Seeker::of(&[&wrong, &honest]);
    let session = seeker.session(blocks[0].cid());
    assert_eq!(read_all(&session, &blocks).await, blocks);
    let row = session.report();
    assert_eq!(attempt(&row, wrong.id()).outcome, AttemptOutcome::Corrupt);
    assert_eq!((attempt(&row, wrong.id()).blocks, attempt(&row, honest.id()).blocks), (0, 60));
    let kinds: Vec<EventKind> = row.events.iter().filter(|e| e.peer == Some(wrong.id())).map(|e| e.kind).collect();
    let quarantined = kinds.iter().position(|kind| *kind == EventKind::Quarantined).expect("a quarantine");
    assert!(!kinds[quarantined..].contains(&EventKind::WantSent), "{kinds:?}");
    // Nor by the next session, while somebody else has it.
    let before = wrong.asked().iter().filter(|ask| ask.method == Method::GET).count();
    assert_eq!(read_all(&seeker.session(blocks[0].cid()), &blocks).await, blocks);
    assert_eq!(wrong.asked().iter().filter(|ask| ask.method == Method::GET).count(), before);
    assert_eq!(seeker.metric("http_peer_wrong_total"), 1.0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let blocks = blocks(1, 1_000);
    let elsewhere = Server::honest(&blocks).await;
    let to = format!("http://{}/ipfs/{}?format=raw", elsewhere.address, blocks[0].cid());
    let server = Server::start(&blocks, move |_, _, _| {
        Response::builder().status(StatusCode::FOUND).header(LOCATION, &to).body(Body::empty()).unwrap()
    })
    .await;
    let (answer, report) = Seeker::of(&[&server]).fetch(blocks[0].cid()).await;
    assert!(matches!(answer, Err(FetchError::NotFound { .. })), "{answer:?}");
    assert_eq!(attempt(&report, server.id()).error_kind.as_deref(), Some("send_failed"));
    assert!(!server.asked().is_empty() && elsewhere.asked().is_empty());
}

#[tokio::test]
async fn a_body_over_the_size_of_a_block_is_read_to_the_limit_and_no_further() {
    let blocks = blocks(2, 1_000);
    for declared in [true, false] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let server = Server::start(&blocks, move |_, method, block| {
            if method == Method::HEAD {
                return answer(block);
            }
            if declared {
                return Response::new(Body::from(vec![1; 3 * MIB]));
            }
            let count = count.clone();
            let endless = futures::stream::repeat_with(move || {
                count.fetch_add(64 * 1024, Ordering::SeqCst);
                Ok::<_, std::io::Error>(Bytes::from(vec![1; 64 * 1024]))
            });
            Response::new(Body::from_stream(endless))
        })
        .await;
        let seeker = Seeker::of(&[&server]);
        let (answer, report) = seeker.fetch(blocks[0].cid()).await;
        assert!(matches!(answer, Err(FetchError::NotFound { .. })), "{answer:?}");
        assert_eq!(attempt(&report, server.id()).outcome, AttemptOutcome::Corrupt);
        assert!(seeker.metric("http_peer_received_bytes_total") <= (2 * MIB) as f64);
        let before = sent.load(Ordering::SeqCst);
        // The window of a stream is what may travel before the reset arrives.
        assert!(before < 40 * MIB, "{before}");
    }
}

#[tokio::test]
async fn a_body_that_drips_holds_nobody_up() {
    let blocks = blocks(30, 100_000);
    let slow = Server::start(&blocks, |_, method, block| if method == Method::HEAD { answer(block) } else { drip() });
    let slow = slow.await;
    let honest = Server::honest(&blocks).await;
    let seeker = Seeker::of(&[&slow, &honest]);
    let session = seeker.session(blocks[0].cid());
    assert_eq!(read_all(&session, &blocks).await, blocks);
    let report = session.report();
    assert_eq!(attempt(&report, slow.id()).blocks, 0);
    assert_ne!(attempt(&report, slow.id()).outcome, AttemptOutcome::Delivered);
    drop(session);
    // Nothing goes on behind the reader's back.
    until("every request has ended", || {
        seeker.exchange.providers().len() == 2 && seeker.metric("http_peer_cancelled_total") > 0.0
    })
    .await;
}

#[tokio::test]
async fn a_short_pause_is_kept_and_then_the_block_is_asked_for_again() {
    let blocks = blocks(8, 10_000);
    let server = Server::start(&blocks, |n, _, block| if n == 0 { busy("1") } else { answer(block) }).await;
    let seeker = Seeker::of(&[&server]);
    let session = seeker.session(blocks[0].cid());
    assert_eq!(session.fetch(blocks[0].cid()).await.unwrap(), blocks[0]);
    let asked = server.asked();
    assert!(asked[1].at - asked[0].at >= Duration::from_millis(950), "{:?}", asked[1].at - asked[0].at);
    assert_eq!(read_all(&session, &blocks).await, blocks);
    assert_eq!(seeker.metric("http_peer_busy_total"), 1.0);
}

#[tokio::test]
async fn a_long_pause_sends_the_reader_to_others_at_once() {
    let blocks = blocks(20, 10_000);
    let server =
        Server::start(&blocks, |_, method, block| if method == Method::HEAD { answer(block) } else { busy("3600") })
            .await;
    let alone = Seeker::of(&[&server]);
    let (answer, _) = alone.fetch(blocks[0].cid()).await;
    assert!(matches!(answer, Err(FetchError::NotFound { .. })), "it is no provider for now: {answer:?}");
    // It said an hour: it is not asked again.
    let before = server.asked().len();
    let (answer, report) = alone.fetch(blocks[1].cid()).await;
    assert!(matches!(answer, Err(FetchError::NotFound { .. })), "{answer:?}");
    assert_eq!(attempt(&report, server.id()).outcome, AttemptOutcome::Unreachable);
    assert_eq!(server.asked().len(), before);
    let honest = Server::honest(&blocks).await;
    let seeker = Seeker::of(&[&server, &honest]);
    let session = seeker.session(blocks[0].cid());
    assert_eq!(read_all(&session, &blocks).await, blocks);
    assert_eq!(attempt(&session.report(), honest.id()).blocks, 20);
}

#[tokio::test]
async fn what_a_provider_does_not_have_is_an_answer_whatever_the_status() {
    let blocks = blocks(1, 1_000);
    for code in [404, 410, 451, 412, 504] {
        let server = Server::start(&[], move |_, _, _| status(StatusCode::from_u16(code).unwrap())).await;
        let (answer, report) = Seeker::of(&[&server]).fetch(blocks[0].cid()).await;
        assert!(matches!(answer, Err(FetchError::NotFound { providers_tried: 1, .. })), "{code}: {answer:?}");
        assert_eq!(attempt(&report, server.id()).outcome, AttemptOutcome::DontHave, "{code}");
    }
}

#[tokio::test]
async fn a_cut_body_is_asked_for_again_once() {
    let blocks = blocks(1, 100_000);
    let once = AtomicBool::new(true);
    let half = blocks[0].data().slice(..50_000);
    let (first, second) = (half.clone(), half);
    let server = Server::start(&blocks, move |_, method, block| {
        let first_get = method == Method::GET && once.swap(false, Ordering::SeqCst);
        if first_get { cut(first.clone()) } else { answer(block) }
    })
    .await;
    let (answer, _) = Seeker::of(&[&server]).fetch(blocks[0].cid()).await;
    assert_eq!(answer.unwrap(), blocks[0]);
    // Never a block, never a wait without end.
    let always = Server::start(&blocks, move |_, _, _| cut(second.clone())).await;
    let (answer, report) = Seeker::of(&[&always]).fetch(blocks[0].cid()).await;
    assert!(matches!(answer, Err(FetchError::NotFound { .. })), "{answer:?}");
    assert_ne!(attempt(&report, always.id()).outcome, AttemptOutcome::Delivered);
    assert!(always.asked().len() <= 6, "{}", always.asked().len());
}

#[tokio::test]
async fn a_router_may_not_name_a_private_provider_unless_its_range_is_allowed() {
    let blocks = blocks(1, 1_000);
    let server = Server::honest(&blocks).await;
    let refused = Seeker::with(Config::default(), vec![named(&server)]);
    let (answer, report) = refused.fetch(blocks[0].cid()).await;
    assert!(matches!(answer, Err(FetchError::NotFound { .. })), "{answer:?}");
    let row = attempt(&report, server.id());
    assert_eq!((row.outcome, row.error_kind.as_deref()), (AttemptOutcome::Unreachable, Some("private_address")));
    assert!(server.asked().is_empty());

    let allow_private = vec!["127.0.0.1/32".parse().unwrap()];
    let allowed = Seeker::with(Config { allow_private, ..Config::default() }, vec![named(&server)]);
    let (answer, report) = allowed.fetch(blocks[0].cid()).await;
    assert_eq!(answer.unwrap(), blocks[0]);
    assert_eq!(attempt(&report, server.id()).router, RouterKind::Delegated);
    assert_eq!(report.source(), Source::Http);
}

#[tokio::test]
async fn a_server_that_is_no_gateway_is_not_asked_for_blocks() {
    let blocks = blocks(1, 1_000);
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    #[allow(clippy::disallowed_methods)] // a test has no supervisor
    let serving = tokio::spawn(async move {
        let router = axum::Router::new().fallback(|| async { (StatusCode::FORBIDDEN, "go away") });
        axum::serve(tcp, router).await.unwrap();
    });
    let config = Config { providers: vec![http_addr(address)], ..Config::default() };
    let (answer, report) = Seeker::with(config, Vec::new()).fetch(blocks[0].cid()).await;
    assert!(matches!(answer, Err(FetchError::NotFound { .. })), "{answer:?}");
    assert_eq!(report.attempts[0].error_kind.as_deref(), Some("unsupported"));
    serving.abort();
}

#[tokio::test]
async fn a_want_that_is_taken_back_ends_its_request_on_the_wire() {
    struct Ends(Arc<AtomicUsize>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let blocks = blocks(1, 1_000);
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let server = Server::start(&blocks, move |_, _, _| {
        let guard = Ends(count.clone());
        let stream = futures::stream::unfold(guard, |guard| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), guard))
        });
        Response::new(Body::from_stream(stream))
    })
    .await;
    let (metrics, supervisor) = (Metrics::new(), Supervisor::new());
    let exchange = HttpExchange::start(Config::default(), None, &metrics, &supervisor).unwrap();
    let mut events = exchange.events().unwrap();
    assert!(exchange.events().is_none(), "one consumer");
    let (peer, cid) = (server.id(), *blocks[0].cid());
    let want = Want::new(cid, WantKind::Block, 1);
    assert_eq!(exchange.send_wants(peer, vec![want]), Err(SendError::NotConnected));
    exchange.connect(peer, vec![server.addr()], true);
    let first = events.recv().await.unwrap();
    assert!(matches!(first, ExchangeEvent::Connected { transport: Transport::Http, dial: Some(_), .. }), "{first:?}");
    assert!(matches!(events.recv().await.unwrap(), ExchangeEvent::Rtt { .. }));
    exchange.send_wants(peer, vec![want]).unwrap();
    until("the request is under way", || !server.asked().is_empty()).await;
    exchange.cancel(peer, vec![cid]);
    until("the server's stream is reset", || ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(exchange.connected(), [(peer, Transport::Http)], "the connection lives on");
    assert!(supervisor.stop(Duration::from_secs(5)).await.is_empty());
}
