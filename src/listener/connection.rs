//! One connection: TLS, then HTTP/1.1 or HTTP/2, under a watchdog; after a `CONNECT`, HTTP again inside the tunnel.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::ConnectInfo;
use futures::future::Either;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tracing::debug;

use super::clock::{Clock, InFlight, Tracked, Upload, Watched};
use super::target::{self, settle};
use super::{Answers, Reason, Secure, Server};

/// Serves `stream` until the client or a deadline ends it, or the server stops.
pub(super) async fn run<S: Answers>(server: &Server<S>, stream: TcpStream, peer: SocketAddr)
where
    S::Future: Send,
{
    let clock = Arc::new(Clock::new());
    // A reset instead of an orderly end, and nothing lingers in the kernel.
    let watched = Watched::new(stream, clock.clone(), |stream| _ = stream.set_zero_linger());
    let peer = Remote::Address(peer);
    let Some(tls) = &server.options.tls else {
        return http(server, watched, &clock, peer, Secure(false)).await;
    };
    let secured = tokio::select! {
        secured = tls.acceptor.accept(watched) => secured,
        reason = clock.watch(&server.options.config) => return server.closed(reason),
        () = server.stop.cancelled() => return,
    };
    match secured {
        Ok(secured) => {
            clock.handshake_done();
            http(server, secured, &clock, peer, Secure(true)).await;
        }
        Err(error) => {
            server.closed(Reason::Tls);
            debug!(%peer, %error, "TLS handshake failed");
        }
    }
}

/// Serves one request on a stream that somebody else has accepted and secured. It has no reset of its own: a body that
/// fails is known by its missing last chunk, and therefore HTTP/1.0, whose bodies end with the stream, is refused.
pub(super) async fn run_stream<S: Answers, I>(server: &Server<S>, stream: I, peer: String)
where
    S::Future: Send,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let clock = Arc::new(Clock::new());
    let watched = Watched::new(stream, clock.clone(), |_| {});
    requests(server, watched, &clock, &Remote::Named(peer), Secure(true), None).await;
}

/// Who is at the other end.
enum Remote {
    Address(SocketAddr),
    /// For the log alone.
    Named(String),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Serves HTTP, and once more inside a tunnel if the client makes one.
async fn http<S: Answers, I>(server: &Server<S>, io: I, clock: &Arc<Clock>, peer: Remote, secure: Secure)
where
    S::Future: Send,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tunnel = Arc::new(Mutex::new(None));
    requests(server, io, clock, &peer, secure, Some(&tunnel)).await;
    let upgrade = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(upgrade) = upgrade else { return };
    match upgrade.await {
        // No tunnel within a tunnel: a connection has an end.
        Ok(inner) => requests(server, TokioIo::new(inner), clock, &peer, secure, None).await,
        Err(error) => debug!(%peer, %error, "the tunnel did not open"),
    }
}

/// Where the end of a tunnel waits for its connection to be handed over.
type Tunnel = Arc<Mutex<Option<OnUpgrade>>>;

/// Answers `CONNECT`: the tunnel ends here, in this server (GATEWAY.md §2.5).
fn open_tunnel<S>(server: &Server<S>, request: &mut Request<Incoming>, tunnel: Option<&Tunnel>) -> Response<Body> {
    let (Some(serves), Some(tunnel)) = (&server.options.tunnel_to, tunnel) else {
        return target::plain(StatusCode::METHOD_NOT_ALLOWED, "there are no tunnels here\n");
    };
    if request.version() != Version::HTTP_11 {
        return target::plain(StatusCode::NOT_IMPLEMENTED, "tunnels are for HTTP/1.1\n");
    }
    let wanted = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if !serves(wanted) {
        return target::plain(StatusCode::FORBIDDEN, "this is a gateway: tunnels lead to its own hosts only\n");
    }
    *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(hyper::upgrade::on(request));
    Response::new(Body::empty())
}

/// What a header counts as (RFC 9113 §6.5.2: names, values, 32 bytes a field), without the target.
fn list_size<B>(request: &Request<B>) -> usize {
    request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

async fn requests<S: Answers, I>(
    server: &Server<S>,
    io: I,
    clock: &Arc<Clock>,
    peer: &Remote,
    secure: Secure,
    tunnel: Option<&Tunnel>,
) where
    S::Future: Send,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stall = server.options.config.stall_timeout;
    let service = service_fn(|mut request: Request<Incoming>| {
        let in_flight = InFlight::begin(clock.clone(), request.version());
        let early = match settle(&mut request) {
            // Of HTTP/1.1, hyper keeps the bound.
            _ if request.version() == Version::HTTP_2
                && list_size(&request) > server.options.config.header_limit.as_usize() =>
            {
                server.closed(Reason::HeaderSize);
                Some(target::plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the header is too large\n"))
            }
            Err(error) => Some(error.response()),
            Ok(()) if matches!(peer, Remote::Named(_)) && request.version() != Version::HTTP_11 => {
                Some(target::plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "this is HTTP/1.1\n"))
            }
            Ok(()) if request.method() == Method::CONNECT => Some(open_tunnel(server, &mut request, tunnel)),
            Ok(()) => None,
        };
        let answer = early.map_or_else(
            || {
                let mut request = request.map(|body| match body.is_end_stream() {
                    true => Body::empty(),
                    false => Body::new(Upload::new(body, stall)),
                });
                if let Remote::Address(address) = peer {
                    request.extensions_mut().insert(ConnectInfo(*address));
                }
                request.extensions_mut().insert(secure);
                Either::Right(server.service.clone().call(request))
            },
            |early| Either::Left(std::future::ready(Ok(early))),
        );
        async move {
            answer.await.map(|response| response.map(|body| Tracked::new(body, in_flight))) as Result<_, Infallible>
        }
    });
    let mut served = pin!(server.http.serve_connection_with_upgrades(TokioIo::new(io), service));
    let mut watch = pin!(clock.watch(&server.options.config));
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    debug!(%peer, %error, "connection ended");
                    if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
                        server.closed(Reason::HeaderSize);
                    }
                }
                return;
            }
            reason = watch.as_mut() => {
                debug!(%peer, ?reason, "connection closed");
                if reason == Reason::Stall {
                    clock.abort();
                }
                return server.closed(reason);
            }
            () = server.stop.cancelled(), if !stopping => {
                stopping = true;
                if !clock.has_spoken() {
                    return;
                }
                served.as_mut().graceful_shutdown();
            }
            () = server.hard_stop.cancelled() => {
                if clock.is_busy() {
                    clock.abort();
                }
                return server.closed(Reason::Drain);
            }
        }
    }
}
