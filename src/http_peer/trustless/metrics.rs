//! What is counted of HTTP providers: exact, and each bound with a count of hitting it.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Metrics;

#[derive(Debug, Clone)]
pub(super) struct HttpMetrics {
    pub(super) peers: Gauge,
    pub(super) dials: Counter,
    pub(super) dial_failures: Counter,
    pub(super) requests: Counter,
    pub(super) cars: Counter,
    pub(super) blocks: Counter,
    pub(super) ends: Counter,
    pub(super) received: Counter,
    pub(super) wrong: Counter,
    pub(super) busy: Counter,
    pub(super) broken: Counter,
    pub(super) refused: Counter,
    pub(super) cancelled: Counter,
    pub(super) overloaded: Counter,
    pub(super) limit_peers: Counter,
    pub(super) limit_bodies: Counter,
}

impl HttpMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        Self {
            peers: metrics.register("http_peers", "HTTP providers that are connected now", Gauge::default()),
            dials: counter("http_peer_dials", "Times an HTTP provider was resolved, connected to and probed"),
            dial_failures: counter("http_peer_dial_failures", "Dials of HTTP providers that failed"),
            requests: counter("http_peer_requests", "Requests for blocks and CARs sent to HTTP providers"),
            cars: counter("http_peer_cars", "Answers of HTTP providers that were CARs of whole files"),
            blocks: counter("http_peer_blocks", "Blocks from HTTP providers that were verified"),
            ends: counter(
                "http_peer_block_ends",
                "Ends of blocks from HTTP providers whose beginning another was sending",
            ),
            received: counter("http_peer_received_bytes", "Bytes of bodies read from HTTP providers"),
            wrong: counter(
                "http_peer_wrong",
                "Answers of HTTP providers whose bytes are not the block that was asked for",
            ),
            busy: counter("http_peer_busy", "Answers 429 and 503 of HTTP providers"),
            broken: counter("http_peer_broken", "Requests to HTTP providers whose connection failed"),
            refused: counter(
                "http_peer_refused",
                "Answers of HTTP providers with a status that is no answer, redirects among them",
            ),
            cancelled: counter("http_peer_cancelled", "Requests to HTTP providers that were taken back under way"),
            overloaded: counter("http_peer_limit_wants", "Wants that an HTTP provider's queue turned away"),
            limit_peers: counter("http_peer_limit_peers", "HTTP providers not dialled because too many are connected"),
            limit_bodies: counter("http_peer_limit_bodies", "Bodies that waited for others to leave memory"),
        }
    }
}
