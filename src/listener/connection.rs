//! One connection: TLS, then HTTP/1.1 or HTTP/2, under a watchdog.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::Service;
use tracing::debug;

use super::clock::{Clock, InFlight, Tracked, Upload, Watched};
use super::{Reason, Server};

/// Serves `stream` until the client or a deadline ends it, or the server stops.
pub(super) async fn run(server: &Server, stream: TcpStream, peer: SocketAddr) {
    let clock = Arc::new(Clock::new());
    let watched = Watched::new(stream, clock.clone());
    let Some(tls) = &server.options.tls else {
        return http(server, watched, clock, peer).await;
    };
    let secured = tokio::select! {
        secured = tls.acceptor.accept(watched) => secured,
        reason = clock.watch(&server.options.config) => return server.closed(reason),
        () = server.stop.cancelled() => return,
    };
    match secured {
        Ok(secured) => {
            clock.handshake_done();
            http(server, secured, clock, peer).await;
        }
        Err(error) => {
            server.closed(Reason::Tls);
            debug!(%peer, %error, "TLS handshake failed");
        }
    }
}

async fn http<I>(server: &Server, io: I, clock: Arc<Clock>, peer: SocketAddr)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stall = server.options.config.stall_timeout;
    let service = service_fn(|request: Request<Incoming>| {
        let in_flight = InFlight::begin(clock.clone(), request.version());
        let mut request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(Upload::new(body, stall)),
        });
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = server.router.clone().call(request);
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
