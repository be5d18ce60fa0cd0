//! The gateway as what a listener serves: kept answers at once, everything else by the router.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use futures::future::{Either, Ready, ready};
use http::{Request, Response};
use tracing::{debug, error};

use super::Gateway;
use super::middleware::Started;
use super::warm::{self, Given};

/// Cheap to clone; clones are the same gateway.
#[derive(Clone)]
pub struct Service {
    gateway: Arc<Gateway>,
    router: Router,
}

impl Service {
    pub(super) fn new(gateway: Arc<Gateway>, router: Router) -> Self {
        Self { gateway, router }
    }
}

impl tower::Service<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, <Router as tower::Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let started = Instant::now();
        let given = std::panic::catch_unwind(AssertUnwindSafe(|| warm::give(&self.gateway, &request, started)));
        match given {
            Ok(Given::Answer(reply)) => {
                // A span for every request would cost more than the answer.
                debug!(
                    method = %request.method(),
                    path = request.uri().path(),
                    id = reply.headers().get(super::headers::REQUEST_ID).and_then(|id| id.to_str().ok()),
                    status = reply.status().as_u16(),
                    "answered from the cache"
                );
                return Either::Left(ready(Ok(reply)));
            }
            Ok(Given::Slot(slot)) => _ = request.extensions_mut().insert(slot),
            Ok(Given::Nothing) => {}
            Err(_) => error!("the cache of answers panicked; the request goes the long way"),
        }
        request.extensions_mut().insert(Started(started));
        Either::Right(self.router.call(request))
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}
