//! HTTP/1.1 over libp2p streams (<https://github.com/libp2p/specs/tree/master/http>): requests of peers go to whoever
//! the composition root hands over by [`super::Client::serve_http`], and [`client`] asks other peers.
//!
//! The protocol is announced from the moment that somebody answers requests; before, and without it, we only ask.
//! libp2p-stream is no replacement: it drops inbound streams while its one consumer is busy (DEPENDENCIES.md §1).

pub mod behaviour;
pub mod client;
pub mod handler;

use std::sync::{Arc, OnceLock};

use libp2p::swarm::Stream;
use libp2p::{PeerId, StreamProtocol};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::exchange::ConnectError;
use crate::listener::Streams;
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;

pub use client::{HttpBody, HttpError, HttpStream, Opened};

/// One stream carries one request.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/http/1.1");
/// The name of the IPFS gateway among the protocols that a peer serves over HTTP.
pub const GATEWAY: &str = "/ipfs/gateway";
/// Where a peer says under which path it serves which protocol.
pub const WELL_KNOWN: &str = "/.well-known/libp2p/protocols";

/// CARs under way at once, over all peers: each may keep [`car::MEMORY`](crate::exchange::car::MEMORY).
const MAX_CARS: usize = 16;

/// Who waits for a stream.
pub type Reply = oneshot::Sender<Result<Stream, ConnectError>>;

/// What the handlers of all connections share.
pub struct Shared {
    serve: OnceLock<Streams>,
    pub(super) supervisor: Supervisor,
    pub(super) metrics: HttpMetrics,
    /// CARs that may be under way at once, over all peers.
    pub(super) cars: Arc<Semaphore>,
}

/// Counters of the asking side and of the bounds; what is served is counted by the listener and by the gateway.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    pub requests: Counter,
    pub failures: Counter,
    pub cars: Counter,
    pub car_blocks: Counter,
    pub car_bytes: Counter,
    pub limit_opening: Counter,
    pub limit_cars: Counter,
}

impl HttpMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(&format!("p2p_http_{name}"), help, Counter::default());
        Self {
            requests: counter("requests", "HTTP requests to peers over libp2p, counted when they begin"),
            failures: counter("failures", "HTTP requests to peers over libp2p that got no answer"),
            cars: counter("cars", "Answers of peers over libp2p that were CARs of whole files"),
            car_blocks: counter("car_blocks", "Blocks from CARs of peers over libp2p that were verified"),
            car_bytes: counter("car_bytes", "Bytes of CARs read from peers over libp2p"),
            limit_opening: counter(
                "limit_opening",
                "HTTP requests to peers refused because too many waited for a connection or a stream",
            ),
            limit_cars: counter("limit_cars", "Files asked of a peer by blocks because too many CARs were under way"),
        }
    }
}

impl Shared {
    pub fn new(metrics: HttpMetrics, supervisor: &Supervisor) -> Arc<Self> {
        let cars = Arc::new(Semaphore::new(MAX_CARS));
        Arc::new(Self { serve: OnceLock::new(), supervisor: supervisor.clone(), metrics, cars })
    }

    /// The first one stays.
    pub(super) fn serve(&self, streams: Streams) {
        let _ = self.serve.set(streams);
    }

    fn is_serving(&self) -> bool {
        self.serve.get().is_some()
    }

    fn accept(&self, stream: Stream, peer: PeerId, place: OwnedSemaphorePermit) {
        if let Some(streams) = self.serve.get() {
            streams.serve(stream.compat(), peer.to_string(), place);
        }
    }

    fn refuse(&self) {
        if let Some(streams) = self.serve.get() {
            streams.refused();
        }
    }
}
