//! From an address to a provider that answers: resolve, judge, connect, probe.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::{Either, select};
use http::header::ACCEPT;
use http::{Method, StatusCode, Version};
use libp2p::PeerId;
use reqwest::Client;
use tokio::time::Instant;
use url::Url;

use super::peer::{H1_FLIGHTS, Peer};
use super::request::RAW;
use super::{Inner, Known};
use crate::exchange::ConnectError;
use crate::exchange::car::ONLY_IF_CACHED;
use crate::http_peer::endpoint::Endpoint;

/// How long resolving, connecting and probing one address may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 receive windows: at 100 ms, 16 MiB are 1.3 Gbit/s a stream (RETRIEVAL.md T18).
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// No byte for this long ends a request (trustless gateway specification, peer-to-peer use).
const NO_BYTES: Duration = Duration::from_secs(30);
/// An HTTP/2 connection with requests under way answers a ping this often, within this time.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
const ALIVE_WITHIN: Duration = Duration::from_secs(10);
/// Below the 60 to 75 seconds after which servers close what is idle.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// What HTTP/2 is given, beyond the time that HTTP/1.1 took, to show that the server speaks it without TLS.
const H2C_GRACE: Duration = Duration::from_millis(50);
/// The empty block, by its identity CID: every trustless gateway has it.
const PROBE: &str = "ipfs/bafkqaaa?format=raw";

/// Tries the provider's addresses in order. Returns it with the time that the successful one took.
pub(super) async fn dial(inner: &Inner, id: PeerId, known: &Known) -> Result<(Peer, Duration), ConnectError> {
    let mut last = ConnectError::NoAddress;
    for (endpoint, address) in &known.endpoints {
        match tokio::time::timeout(DIAL_TIMEOUT, one(inner, endpoint, known.trusted)).await {
            Ok(Ok(found)) => {
                let took = found.took;
                return Ok((Peer::new(id, address.clone(), found), took));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::Timeout(DIAL_TIMEOUT),
        }
    }
    Err(last)
}

/// How a provider speaks.
pub(super) struct Found {
    pub(super) client: Client,
    pub(super) base: Url,
    pub(super) h2: bool,
    /// Whether HEAD is answered.
    pub(super) heads: bool,
    took: Duration,
}

async fn one(inner: &Inner, endpoint: &Endpoint, trusted: bool) -> Result<Found, ConnectError> {
    let addrs = inner.guard.addresses(endpoint, trusted).await?;
    let base = endpoint.url().map_err(|error| ConnectError::Dial(error.to_string()))?;
    if endpoint.secure {
        return probe(client(inner, endpoint, &addrs, false).await?, &base, trusted).await;
    }
    // Whether a server speaks HTTP/2 without TLS cannot be asked, only tried: both at once, and HTTP/2 if it can.
    let started = Instant::now();
    let (h2, h1) = (client(inner, endpoint, &addrs, true).await?, client(inner, endpoint, &addrs, false).await?);
    let (h2, h1) = (std::pin::pin!(probe(h2, &base, trusted)), std::pin::pin!(probe(h1, &base, trusted)));
    match select(h2, h1).await {
        Either::Left((Ok(found), _)) => Ok(found),
        Either::Left((Err(_), h1)) => h1.await,
        Either::Right((found, h2)) => match tokio::time::timeout(started.elapsed() + H2C_GRACE, h2).await {
            Ok(Ok(better)) => Ok(better),
            _ => found,
        },
    }
}

/// A client that connects to these addresses alone: nothing resolves the name again.
async fn client(inner: &Inner, endpoint: &Endpoint, addrs: &[SocketAddr], h2c: bool) -> Result<Client, ConnectError> {
    let mut builder = Client::builder()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(DIAL_TIMEOUT)
        .read_timeout(NO_BYTES)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(H1_FLIGHTS)
        // Without it, a connection whose other end has vanished would be given request after request.
        .http2_keep_alive_interval(ALIVE_EVERY)
        .http2_keep_alive_timeout(ALIVE_WITHIN)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW);
    if let Some(name) = endpoint.name() {
        builder = builder.resolve_to_addrs(name, addrs);
    }
    if h2c {
        builder = builder.http2_prior_knowledge();
    }
    let failed = |error: String| ConnectError::Dial(error);
    if !endpoint.secure {
        // Without TLS there is no need to read the system's certificates.
        builder = builder.tls_certs_only([]);
        return builder.build().map_err(|error| failed(error.to_string()));
    }
    if !inner.roots.is_empty() {
        builder = builder.tls_certs_merge(inner.roots.clone());
    }
    let built = tokio::task::spawn_blocking(move || builder.build()).await;
    built.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

async fn probe(client: Client, base: &Url, trusted: bool) -> Result<Found, ConnectError> {
    let started = Instant::now();
    let url = base.join(PROBE).map_err(|error| ConnectError::Dial(error.to_string()))?;
    let mut heads = true;
    let mut answer = hello(&client, Method::HEAD, &url).await?;
    if matches!(answer.0, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::BAD_REQUEST) {
        heads = false;
        answer = hello(&client, Method::GET, &url).await?;
    }
    let (status, version) = answer;
    // A plain file server that the operator named may lack the empty block; of others it is the sign that they take part.
    let absent = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    if status != StatusCode::OK && !(trusted && absent) {
        return Err(ConnectError::Unsupported);
    }
    Ok(Found { client, base: base.clone(), h2: version == Version::HTTP_2, heads, took: started.elapsed() })
}

async fn hello(client: &Client, method: Method, url: &Url) -> Result<(StatusCode, Version), ConnectError> {
    let request = client.request(method, url.clone()).header(ACCEPT, RAW).header(ONLY_IF_CACHED.0, ONLY_IF_CACHED.1);
    let response = request.send().await.map_err(|error| ConnectError::Dial(cause(&error)))?;
    Ok((response.status(), response.version()))
}

/// One round trip over a connection that stands.
pub(super) async fn greet(peer: &Peer) -> Result<Duration, ConnectError> {
    let url = peer.base.join(PROBE).map_err(|error| ConnectError::Dial(error.to_string()))?;
    let method = if peer.heads { Method::HEAD } else { Method::GET };
    let started = Instant::now();
    let answer = tokio::time::timeout(DIAL_TIMEOUT, hello(&peer.client, method, &url)).await;
    answer.map_err(|_| ConnectError::Timeout(DIAL_TIMEOUT))??;
    Ok(started.elapsed())
}

/// The innermost cause: "connection refused" says more than "error sending request".
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
