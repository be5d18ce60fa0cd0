//! What the node counts of its own; libp2p's figures stand beside them under `tidegate_libp2p_`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Metrics;

/// Bitswap's counters.
#[derive(Debug, Clone)]
pub struct BitswapMetrics {
    pub messages_sent: Counter,
    pub messages_received: Counter,
    pub bytes_sent: Counter,
    pub bytes_received: Counter,
    pub wants_sent: Counter,
    pub cancels_sent: Counter,
    pub wants_received: Counter,
    pub blocks_sent: Counter,
    pub block_bytes_sent: Counter,
    pub blocks_received: Counter,
    pub block_bytes_received: Counter,
    pub haves_sent: Counter,
    pub dont_haves_sent: Counter,
    pub unwanted: Counter,
    pub unwanted_presences: Counter,
    pub invalid: Counter,
    pub limit_wants: Counter,
    pub limit_streams: Counter,
    pub limit_buffers: Counter,
    pub outstanding: Gauge,
}

/// The event loop's counters.
#[derive(Debug, Clone)]
pub struct NodeMetrics {
    pub peers: Gauge,
    pub exchange_peers: Gauge,
    pub dials: Counter,
    pub dial_failures: Counter,
    pub refused_addresses: Counter,
    pub refused_records: Counter,
    pub address_book: Gauge,
    pub address_book_evicted: Counter,
    pub limit_commands: Counter,
    pub limit_queries: Counter,
}

impl BitswapMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(&format!("bitswap_{name}"), help, Counter::default());
        Self {
            messages_sent: counter("messages_sent", "Bitswap messages written in full"),
            messages_received: counter("messages_received", "Bitswap messages read in full"),
            bytes_sent: counter("bytes_sent", "Bytes of Bitswap messages written"),
            bytes_received: counter("bytes_received", "Bytes of Bitswap messages read"),
            wants_sent: counter("wants_sent", "Wantlist entries sent, cancels aside, when their message is begun"),
            cancels_sent: counter("cancels_sent", "Cancels sent"),
            wants_received: counter("wants_received", "Wantlist entries received, cancels aside"),
            blocks_sent: counter("blocks_sent", "Blocks queued for peers"),
            block_bytes_sent: counter("block_bytes_sent", "Payload bytes of blocks queued for peers"),
            blocks_received: counter("blocks_received", "Blocks received and hashed"),
            block_bytes_received: counter("block_bytes_received", "Payload bytes of blocks received and hashed"),
            haves_sent: counter("haves_sent", "HAVE answers queued for peers"),
            dont_haves_sent: counter("dont_haves_sent", "DONT_HAVE answers queued for peers"),
            unwanted: counter("unwanted_blocks", "Blocks received that were not wanted from that peer at that time"),
            unwanted_presences: counter("unwanted_presences", "HAVE and DONT_HAVE received that were not asked for"),
            invalid: counter("invalid_messages", "Messages refused: not protobuf, over a limit, or a bad prefix"),
            limit_wants: counter("limit_wants", "Wants of peers dropped because their queue of 1,024 was full"),
            limit_streams: counter("limit_streams", "Inbound streams dropped because a connection had 128"),
            limit_buffers: counter("limit_buffers", "Streams dropped because unfinished messages filled their budget"),
            outstanding: metrics.register(
                "bitswap_outstanding_bytes",
                "Bytes read for peers and not yet written to them, looked at twice a second",
                Gauge::<i64>::default(),
            ),
        }
    }
}

impl NodeMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(&format!("p2p_{name}"), help, Counter::default());
        let gauge = |name: &str, help: &str| metrics.register(&format!("p2p_{name}"), help, Gauge::<i64>::default());
        Self {
            peers: gauge("peers", "Peers with at least one open connection"),
            exchange_peers: gauge("exchange_peers", "Connected peers that speak Bitswap"),
            dials: counter("dials", "Dials started on behalf of the retriever and for configured peers"),
            dial_failures: counter("dial_failures", "Dials of which every address failed"),
            refused_addresses: counter(
                "refused_addresses",
                "Addresses not dialled, or not kept for others, because they are private",
            ),
            refused_records: counter("refused_records", "DHT records of others not kept because they are not valid"),
            address_book: gauge("address_book_peers", "Peers in the address book"),
            address_book_evicted: counter("address_book_evicted", "Peers dropped from a full address book"),
            limit_commands: counter("limit_commands", "Commands refused because the event loop's queue was full"),
            limit_queries: counter("limit_queries", "DHT queries refused because too many were running"),
        }
    }
}
