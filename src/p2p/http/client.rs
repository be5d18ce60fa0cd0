//! One request to a peer, over a stream of its own.
//!
//! Nothing here is believed: whoever asks verifies each block, and bounds what it reads of a body.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use libp2p::swarm::Stream;
use libp2p::{Multiaddr, PeerId};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use super::{GATEWAY, PROTOCOL, WELL_KNOWN};
use crate::exchange::ConnectError;
use crate::p2p::Client;
use crate::p2p::event_loop::Command;

/// From the request to the last byte of the answer's header. Behind it the peer may have to read many blocks.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest header that is read of an answer, in bytes; and how much of a body is read ahead of its reader.
const MAX_BUFFER: usize = 64 * 1024;
/// The largest list of protocols that is read (go-libp2p: 8 KiB).
const MAX_PROTOCOLS: usize = 8 * 1024;

/// The body of an answer, as it comes. Dropping it ends the stream.
pub type HttpBody = Incoming;

/// A libp2p stream with tokio's traits.
pub type HttpStream = Compat<Stream>;

/// A stream that was opened for a request before there was one: negotiated, so the answer is a round trip away. Peers
/// close what is not used (ours after 15 s).
#[derive(Debug)]
pub struct Opened {
    peer: PeerId,
    sender: http1::SendRequest<Empty<Bytes>>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    #[error("{peer} cannot be asked over {PROTOCOL}: {error}")]
    Connect { peer: PeerId, error: ConnectError },
    #[error("{peer} does not speak {PROTOCOL}")]
    Unsupported { peer: PeerId },
    #[error("the connection to {peer} ended before the request was sent")]
    Closed { peer: PeerId },
    #[error("{peer} did not answer over {PROTOCOL}: {error}")]
    Http { peer: PeerId, error: hyper::Error },
    #[error("{peer} did not answer over {PROTOCOL} within {HEAD_TIMEOUT:?}")]
    Timeout { peer: PeerId },
    /// The list of protocols is missing, too long, no list, or without `/ipfs/gateway`.
    #[error("{peer} names no {GATEWAY} among the protocols that it serves over HTTP")]
    NoGateway { peer: PeerId },
}

/// One entry of [`WELL_KNOWN`].
#[derive(Deserialize)]
struct Mount {
    path: String,
}

impl Client {
    /// Answers the HTTP requests of peers by `streams` and announces that from now on. Of several calls the first counts.
    pub fn serve_http(&self, streams: crate::listener::Streams) {
        self.inner.http.serve(streams);
        // Connections that stand already announce it as soon as they are polled, at the latest with their next ping.
    }

    /// Whether a connected peer has said (by identify) that it serves HTTP.
    pub fn serves_http(&self, peer: &PeerId) -> bool {
        self.view(|view| {
            let info = view.peers.get(peer);
            info.is_some_and(|info| info.protocols.iter().any(|protocol| protocol == PROTOCOL.as_ref()))
        })
    }

    /// Sends a request without a body and gives the answer as soon as its header is here. A peer that is not connected
    /// is dialled, at `addrs` and at what else is known of it; `trusted` as in [`crate::exchange::Exchange::connect`].
    ///
    /// The URI of `request` is a path with a query. Nothing is retried and no redirect followed; the body has no
    /// deadline but the caller's. Cancel safe: dropping it ends the stream.
    pub async fn http(
        &self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        trusted: bool,
        request: Request<()>,
    ) -> Result<Response<HttpBody>, HttpError> {
        let metrics = &self.inner.http.metrics;
        metrics.requests.inc();
        let asked = async { self.http_open(peer, addrs, trusted).await?.send(request).await };
        let asked = tokio::time::timeout(HEAD_TIMEOUT, asked).await;
        asked.unwrap_or(Err(HttpError::Timeout { peer })).inspect_err(|_| _ = metrics.failures.inc())
    }

    /// As [`Client::http`], over a stream that is open.
    pub async fn http_over(&self, stream: Opened, request: Request<()>) -> Result<Response<HttpBody>, HttpError> {
        let (metrics, peer) = (&self.inner.http.metrics, stream.peer);
        metrics.requests.inc();
        let asked = tokio::time::timeout(HEAD_TIMEOUT, stream.send(request)).await;
        asked.unwrap_or(Err(HttpError::Timeout { peer })).inspect_err(|_| _ = metrics.failures.inc())
    }

    /// A stream of the peer's for HTTP, as it is: for tunnels. It has no deadline but that of its opening.
    pub async fn http_stream(
        &self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        trusted: bool,
    ) -> Result<HttpStream, HttpError> {
        let (reply, stream) = oneshot::channel();
        if !self.send(Command::OpenHttp { peer, addrs, trusted, reply }) {
            let error =
                if self.inner.commands.is_closed() { ConnectError::Offline } else { ConnectError::LimitReached };
            return Err(HttpError::Connect { peer, error });
        }
        let stream = stream.await.map_err(|_| HttpError::Closed { peer })?;
        stream.map(FuturesAsyncReadCompatExt::compat).map_err(|error| match error {
            ConnectError::Unsupported => HttpError::Unsupported { peer },
            error => HttpError::Connect { peer, error },
        })
    }

    /// Under which path the peer serves the IPFS gateway, with a slash at its end. Costs a request: remember it.
    pub async fn gateway_path(&self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool) -> Result<String, HttpError> {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static(WELL_KNOWN);
        let answer = self.http(peer, addrs, trusted, request).await?;
        let none = || HttpError::NoGateway { peer };
        if !answer.status().is_success() {
            return Err(none());
        }
        let body = tokio::time::timeout(HEAD_TIMEOUT, Limited::new(answer.into_body(), MAX_PROTOCOLS).collect()).await;
        let body = body.map_err(|_| HttpError::Timeout { peer })?.map_err(|_| none())?;
        mount(&body.to_bytes()).ok_or_else(none)
    }

    /// Opens a stream for one request; the peer is dialled as by [`Client::http`]. It has no deadline but that of its opening.
    pub async fn http_open(&self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool) -> Result<Opened, HttpError> {
        let stream = self.http_stream(peer, addrs, trusted).await?;
        let mut http = http1::Builder::new();
        http.max_buf_size(MAX_BUFFER);
        let shaken = http.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| HttpError::Http { peer, error })?;
        // Ends with the body, or when nobody reads that any more.
        self.inner.http.supervisor.spawn_short(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "HTTP stream ended");
            }
        });
        Ok(Opened { peer, sender })
    }
}

impl Opened {
    /// Whether the peer has not closed it, as far as is known here.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    async fn send(mut self, mut request: Request<()>) -> Result<Response<HttpBody>, HttpError> {
        let headers = request.headers_mut();
        // The peer has no other name; HTTP/1.1 wants one.
        headers.entry(HOST).or_insert_with(|| HeaderValue::from_static("libp2p"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let answer = self.sender.send_request(request.map(|()| Empty::<Bytes>::new())).await;
        answer.map_err(|error| HttpError::Http { peer: self.peer, error })
    }
}

/// The gateway's path in a list of protocols.
fn mount(list: &[u8]) -> Option<String> {
    let mut list: std::collections::HashMap<String, serde_json::Value> = serde_json::from_slice(list).ok()?;
    let Mount { mut path } = serde_json::from_value(list.remove(GATEWAY)?).ok()?;
    if !path.ends_with('/') {
        path.push('/');
    }
    // It becomes the beginning of a request's target.
    (path.starts_with('/') && path.parse::<Uri>().is_ok_and(|uri| uri.query().is_none())).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_path_is_read_from_a_list_of_protocols() {
        let mount = |text: &str| mount(text.as_bytes());
        assert_eq!(mount(r#"{"/ipfs/gateway":{"path":"/"}}"#).unwrap(), "/");
        assert_eq!(mount(r#"{"/kad":{"path":"/k"},"/ipfs/gateway":{"path":"/g","x":1}}"#).unwrap(), "/g/");
        for bad in ["", "[]", "{}", r#"{"/ipfs/gateway":{}}"#, r#"{"/ipfs/gateway":{"path":"g"}}"#] {
            assert_eq!(mount(bad), None, "{bad}");
        }
        assert_eq!(mount("{\"/ipfs/gateway\":{\"path\":\"/a b\"}}"), None);
        assert_eq!(mount(r#"{"/ipfs/gateway":{"path":"/a?b"}}"#), None);
    }
}
