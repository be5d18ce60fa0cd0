//! HTTP/1.1 on streams that somebody else accepts (those of libp2p): the same deadlines, bounds of its own.

use std::sync::Arc;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{Options, Reason, Server, connection, drain, http};
use crate::supervisor::Supervisor;

/// Serves a router on streams, one request each (libp2p's HTTP specification: a stream carries one request, and the
/// answer says `Connection: close`). Cheap to clone.
///
/// Of [`Options::config`], `connections` bounds the streams of everybody together; `first_byte_timeout`,
/// `header_timeout`, `header_limit`, `stall_timeout` and `drain_timeout` hold as on a socket. A request carries no
/// [`axum::extract::ConnectInfo`]. There is neither TLS (the stream is secure) nor a tunnel.
#[derive(Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

struct Inner {
    server: Arc<Server<Router>>,
    supervisor: Supervisor,
    open: TaskTracker,
    places: Arc<Semaphore>,
}

impl Streams {
    /// After `stop` no stream is taken; see [`Streams::drained`].
    pub fn new(router: Router, options: Options, supervisor: &Supervisor, stop: CancellationToken) -> Self {
        let mut builder = http(&options.config, supervisor).http1_only();
        // Clients close their side behind the request (go-libp2p does), and that is not the end of it.
        builder.http1().keep_alive(false).half_close(true);
        let places = match options.config.connections {
            0 => Semaphore::MAX_PERMITS,
            bound => bound as usize,
        };
        let server = Server { http: builder, service: router, options, stop, hard_stop: CancellationToken::new() };
        let inner = Inner {
            server: Arc::new(server),
            supervisor: supervisor.clone(),
            open: TaskTracker::new(),
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Serves `stream` in a task of its own, or drops it when there are too many, or at a stop. `peer` is for the log;
    /// `place` is held for as long as the stream is served.
    pub fn serve<I>(&self, stream: I, peer: String, place: impl Send + 'static)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Inner { server, supervisor, open, places } = &*self.inner;
        if server.stop.is_cancelled() {
            return;
        }
        let Ok(permit) = places.clone().try_acquire_owned() else {
            server.closed(Reason::Full);
            debug!(listener = server.options.name, peer, "refused: too many streams");
            return;
        };
        let counted = server.options.stats.opened(server.options.name);
        let server = server.clone();
        supervisor.spawn_short(open.track_future(async move {
            let _held = (counted, permit, place);
            connection::run_stream(&server, stream, peer).await;
        }));
    }

    /// Counts a stream that whoever accepts them has dropped: too many of one connection.
    pub fn refused(&self) {
        self.inner.server.closed(Reason::PerConnection);
    }

    /// Waits for the stop, then lets requests under way finish for `drain_timeout`, then cuts the rest; how many.
    pub async fn drained(&self) -> usize {
        self.inner.server.stop.cancelled().await;
        drain(&self.inner.server, &self.inner.open).await
    }
}
