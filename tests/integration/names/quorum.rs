//! When a search for a record ends.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::channel::mpsc::{Receiver, Sender, channel};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use tidegate::ipld::ipns::IpnsName;
use tidegate::names::{Config, Name, NameStore, NsMap, Parts, Resolver};
use tidegate::routing::{FoundRecord, NameRouter, RouterKind, RoutingError};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

use super::{MINUTE, new_key, signed};

/// Liveness only.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the test: only the quorum ends a search.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// More than a test sends.
const QUEUE: usize = 64;

/// Gives what the test sends, and never ends by itself.
struct Asked {
    kind: RouterKind,
    records: Mutex<Option<Receiver<Bytes>>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    taken: AtomicUsize,
    ended: AtomicUsize,
}

/// One query.
struct Query {
    records: Receiver<Bytes>,
    state: Arc<State>,
}

impl Stream for Query {
    type Item = Result<FoundRecord, RoutingError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.records.poll_next_unpin(context);
        next.map(|bytes| {
            self.state.taken.fetch_add(1, Ordering::SeqCst);
            Some(Ok(FoundRecord { bytes: bytes?, from: None }))
        })
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        self.state.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl NameRouter for Asked {
    fn kind(&self) -> RouterKind {
        self.kind
    }

    fn records(&self, _: &IpnsName) -> BoxStream<'static, Result<FoundRecord, RoutingError>> {
        let records = self.records.lock().unwrap().take().expect("asked once");
        Query { records, state: self.state.clone() }.boxed()
    }

    fn announce(&self, _: &IpnsName, _: Bytes) -> BoxFuture<'static, Result<(), RoutingError>> {
        Box::pin(async { Ok(()) })
    }
}

fn router(kind: RouterKind) -> (Arc<Asked>, Sender<Bytes>) {
    let (send, records) = channel(QUEUE);
    (Arc::new(Asked { kind, records: Mutex::new(Some(records)), state: Arc::default() }), send)
}

fn resolver(routers: Vec<Arc<dyn NameRouter>>, supervisor: &Supervisor) -> Resolver {
    let config = Config { timeout: NEVER, settle: NEVER, ..Config::default() };
    assert_eq!(config.quorum, 16);
    let store = NameStore::in_memory();
    let parts = Parts { config, map: NsMap::default(), store, routers, dns: None, data_dir: None };
    Resolver::new(parts, &Metrics::new(), supervisor).unwrap()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

// GATEWAY.md §3.9-3: IPNS quorum 16.
#[tokio::test]
async fn m3_9_3_a_search_ends_with_the_best_of_the_first_16_records_of_the_dht() {
    let (key, name) = new_key();
    let (dht, mut send) = router(RouterKind::Dht);
    let supervisor = Supervisor::new();
    let resolver = resolver(vec![dht.clone()], &supervisor);
    for n in 1..=40 {
        // The best is neither the first nor the last; a better one comes too late.
        let sequence = match n {
            9 => 2,
            17.. => 3,
            _ => 1,
        };
        let record = signed(&key, &format!("/ipfs/bafkqaaa/{sequence}"), sequence, MINUTE);
        send.try_send(record.bytes().clone()).unwrap();
    }
    let resolved =
        tokio::time::timeout(PATIENCE, resolver.resolve(&Name::Key(name))).await.expect("the quorum ends it");
    assert_eq!(resolved.unwrap().path.to_string(), "/ipfs/bafkqaaa/2");
    assert_eq!(dht.state.taken.load(Ordering::SeqCst), 16);
    assert_eq!(dht.state.ended.load(Ordering::SeqCst), 1, "the query goes on");
}

#[tokio::test]
async fn neither_invalid_records_nor_those_of_others_than_the_dht_make_the_quorum() {
    let (key, name) = new_key();
    let (other, _) = new_key();
    let ((dht, mut of_dht), (delegated, mut of_delegated)) = (router(RouterKind::Dht), router(RouterKind::Delegated));
    let supervisor = Supervisor::new();
    let resolver = resolver(vec![dht.clone(), delegated.clone()], &supervisor);
    let right = signed(&key, "/ipfs/bafkqaaa", 1, MINUTE).bytes().clone();
    let wrong = signed(&other, "/ipfs/bafkqaaa", 9, MINUTE).bytes().clone();
    for _ in 0..20 {
        of_dht.try_send(wrong.clone()).unwrap();
        of_delegated.try_send(right.clone()).unwrap();
    }
    for _ in 0..15 {
        of_dht.try_send(right.clone()).unwrap();
    }
    let name = Name::Key(name);
    let ask = async { tokio::time::timeout(PATIENCE, resolver.resolve(&name)).await.expect("the quorum ends it") };
    let watch = async {
        let taken = |asked: &Asked| asked.state.taken.load(Ordering::SeqCst);
        until("everything is taken", || taken(&dht) == 35 && taken(&delegated) == 20).await;
        // A search that had ended with the last of them would drop its queries before it looks again.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let ended = dht.state.ended.load(Ordering::SeqCst);
        of_dht.try_send(right.clone()).unwrap();
        ended
    };
    let (resolved, ended_before) = tokio::join!(ask, watch);
    assert_eq!(resolved.unwrap().path.to_string(), "/ipfs/bafkqaaa");
    assert_eq!(ended_before, 0, "the search ended before the 16th valid record of the DHT");
    assert_eq!((dht.state.ended.load(Ordering::SeqCst), delegated.state.ended.load(Ordering::SeqCst)), (1, 1));
}
