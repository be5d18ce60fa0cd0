//! An HTTP listener that is safe by default: every wait for a client has a deadline, every client a bound.
//!
//! Stock servers are not (RELIABILITY.md §3.2): partial headers and silent connections stay open for ever, and one
//! stuck reader keeps the process from stopping. Here each connection has a `clock::Clock` that its I/O and its
//! requests move, and a watchdog that reads it. Used for the gateway and for the admin listener alike.

mod clock;
mod connection;
mod limits;
mod streams;
mod target;
mod tls;
mod unsent;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use crate::units::ByteSize;
use limits::Limiter;
pub use streams::Streams;
pub use tls::{Tls, TlsError};

/// Wait after the first failed accept; doubled up to [`ACCEPT_BACKOFF_MAX`].
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// What a connection gets after the hard stop before it is left behind.
const HARD_STOP_GRACE: Duration = Duration::from_secs(1);

/// Deadlines and bounds of a listener.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// How long a connection may stay silent before its first byte. Default 15 s. 0: for ever.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// How long a client may take from the first byte of a request header (or of a TLS handshake) to its last.
    /// Default 15 s. 0: for ever.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// The largest request header that is read. Default 32KiB, at least 8KiB. Raise for clients with huge cookies.
    pub header_limit: ByteSize,
    /// How long a connection may stay open between requests. Default 75 s. 0: for ever.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a client may take no byte of a response that is ready, or send none of a request body that is waited
    /// for. Default 60 s. 0: for ever.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// How long requests under way may go on when the server stops. Default 30 s. 0: they are cut at once.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Open connections of one address (IPv6: of one /64). Loopback and trusted proxies are exempt.
    /// Default 256. 0: no bound.
    pub connections_per_ip: u32,
    /// Open connections of everybody together. Default 16,384; keep it below the limit of open files. 0: no bound.
    pub connections: u32,
    /// Requests that one HTTP/2 connection may have open. Default 250. 0 is read as 1.
    pub http2_streams: u32,
    /// How often a silent HTTP/2 client is asked whether it is still there. Default 30 s. 0: never.
    #[serde(with = "humantime_serde")]
    pub http2_keep_alive: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            first_byte_timeout: Duration::from_secs(15),
            header_timeout: Duration::from_secs(15),
            header_limit: ByteSize(32 << 10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            connections_per_ip: 256,
            connections: 16_384,
            http2_streams: 250,
            http2_keep_alive: Duration::from_secs(30),
        }
    }
}

/// One listener: what [`serve`] needs besides the service.
#[derive(Clone)]
pub struct Options {
    /// From a closed set (`gateway`, `admin`): a metric label and a log field.
    pub name: &'static str,
    pub config: Config,
    /// Peers that are exempt from [`Config::connections_per_ip`], besides loopback.
    pub trusted_proxies: Vec<IpNet>,
    pub tls: Option<Tls>,
    pub stats: Stats,
    /// Which hosts a proxy tunnel (`CONNECT`) may name. Whatever it names, it ends in this listener's service: nothing is
    /// ever forwarded. `None`: no tunnels.
    pub tunnel_to: Option<TunnelCheck>,
}

/// What answers requests: a router, or a service before one. Cloned for each request.
pub trait Answers:
    tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static
{
}

impl<S> Answers for S where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static
{
}

/// Says whether an authority (`host:port`) is served here.
pub type TunnelCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// An extension of every request: whether it came through TLS of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Secure(pub bool);

/// Counts of all listeners of the process: registered once, handed to each.
#[derive(Debug, Clone)]
pub struct Stats {
    open: Family<Listener, Gauge>,
    accepted: Family<Listener, Counter>,
    closed: Family<Closed, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    listener: &'static str,
    reason: Reason,
}

/// Why the server ended a connection, or did not let it begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Reason {
    FirstByte,
    Header,
    /// A header over [`Config::header_limit`]: answered 431.
    HeaderSize,
    Idle,
    Stall,
    Drain,
    PerIp,
    /// Too many streams of one connection.
    PerConnection,
    Full,
    Tls,
    Accept,
}

impl Stats {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            open: metrics.register("http_connections_open", "HTTP connections that are open now", Family::default()),
            accepted: metrics.register("http_connections", "HTTP connections accepted", Family::default()),
            closed: metrics.register(
                "http_connections_closed_by_server",
                "HTTP connections that the server refused or ended, by the limit that was hit; counted when it ends them",
                Family::default(),
            ),
        }
    }

    /// Counts a connection, and as open until what comes back is dropped.
    fn opened(&self, listener: &'static str) -> impl Send + use<> {
        let label = Listener { listener };
        self.accepted.get_or_create(&label).inc();
        let gauge = self.open.get_or_create_owned(&label);
        gauge.inc();
        OnDrop(Some(move || {
            gauge.dec();
        }))
    }

    fn closed(&self, listener: &'static str, reason: Reason) {
        self.closed.get_or_create(&Closed { listener, reason }).inc();
    }
}

/// Accepts connections until `stop`, then lets requests under way finish for [`Config::drain_timeout`], then cuts the
/// rest. Returns when no connection is left, and says how many had to be cut.
///
/// A request carries [`axum::extract::ConnectInfo`]`<SocketAddr>` of the peer and [`Secure`] as extensions, and exactly
/// one `Host` header, whatever form its target had: a request without, or with several, is answered 400.
pub async fn serve<S: Answers>(
    tcp: TcpListener,
    service: S,
    options: Options,
    supervisor: &Supervisor,
    stop: CancellationToken,
) -> usize
where
    S::Future: Send,
{
    let hard_stop = CancellationToken::new();
    let limiter = Limiter::new(&options.config, options.trusted_proxies.clone());
    let server = Arc::new(Server {
        http: http(&options.config, supervisor),
        service,
        options,
        stop: stop.clone(),
        hard_stop: hard_stop.clone(),
    });
    let open = TaskTracker::new();
    accept(tcp, &server, &limiter, supervisor, &open).await;
    drain(&server, &open).await
}

/// Waits for what is open, then cuts it; how many had to be cut.
async fn drain<S>(server: &Server<S>, open: &TaskTracker) -> usize {
    open.close();
    let name = server.options.name;
    let drain = server.options.config.drain_timeout;
    if tokio::time::timeout(drain, open.wait()).await.is_ok() {
        info!(listener = name, "drained");
        return 0;
    }
    let cut = open.len();
    warn!(listener = name, connections = cut, ?drain, "cutting connections that did not finish in time");
    server.hard_stop.cancel();
    let _ = tokio::time::timeout(HARD_STOP_GRACE, open.wait()).await;
    cut
}

/// What the connections of one listener share.
struct Server<S> {
    http: auto::Builder<Spawner>,
    service: S,
    options: Options,
    stop: CancellationToken,
    hard_stop: CancellationToken,
}

impl<S> Server<S> {
    fn closed(&self, reason: Reason) {
        self.options.stats.closed(self.options.name, reason);
    }
}

async fn accept<S: Answers>(
    tcp: TcpListener,
    server: &Arc<Server<S>>,
    limiter: &Limiter,
    supervisor: &Supervisor,
    open: &TaskTracker,
) where
    S::Future: Send,
{
    let name = server.options.name;
    let mut backoff = ACCEPT_BACKOFF_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.stop.cancelled() => return,
            accepted = tcp.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if belongs_to_one_connection(&error) => continue,
            Err(error) => {
                // Out of file descriptors or memory: the connection stays in the kernel's queue. Trying again at once
                // would spin; somebody has to hang up first.
                server.closed(Reason::Accept);
                warn!(listener = name, %error, ?backoff, "cannot accept");
                tokio::select! {
                    () = server.stop.cancelled() => return,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
                continue;
            }
        };
        backoff = ACCEPT_BACKOFF_MIN;
        let place = match limiter.admit(peer.ip()) {
            Ok(place) => place,
            Err(reason) => {
                server.closed(reason);
                debug!(listener = name, %peer, ?reason, "refused");
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let _ = unsent::bound(&stream);
        let counted = server.options.stats.opened(name);
        let server = server.clone();
        supervisor.spawn_short(open.track_future(async move {
            let _held = (counted, place);
            connection::run(&server, stream, peer).await;
        }));
    }
}

fn http(config: &Config, supervisor: &Supervisor) -> auto::Builder<Spawner> {
    let mut http = auto::Builder::new(Spawner(supervisor.clone()));
    let header_limit = config.header_limit.as_usize().max(8 << 10);
    // The watchdog keeps the deadlines: hyper's header timer counts the idle time before a header too. Never
    // `pipeline_flush`: with it hyper buffers a whole body, however slowly the client reads.
    http.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(header_limit);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.http2_streams.max(1))
        // Above the limit, so that what is refused is counted ([`connection`]); h2 answers 431 by itself beyond this.
        .max_header_list_size(u32::try_from(header_limit.saturating_mul(2)).unwrap_or(u32::MAX))
        .keep_alive_interval((!config.http2_keep_alive.is_zero()).then_some(config.http2_keep_alive))
        .keep_alive_timeout(config.header_timeout.max(Duration::from_secs(1)));
    http
}

/// Errors of `accept` that are about the connection that was to be accepted, not about the listener.
fn belongs_to_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Runs hyper's own tasks (HTTP/2 streams) under the supervisor.
#[derive(Clone)]
struct Spawner(Supervisor);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn_short(task);
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// The peer of a request, for handlers and layers.
pub type Peer = axum::extract::ConnectInfo<SocketAddr>;
