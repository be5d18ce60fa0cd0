//! What surrounds every handler: an id, a span, a net under panics, the headers that all answers carry, counts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt;
use http::{HeaderMap, Method, StatusCode};
use tracing::{Instrument, debug, error, info_span};

use super::error::GatewayError;
use super::metrics::Counts;
use super::waiting::Wait;
use super::warm::Slot;
use super::{headers, problem};

/// When the request came, and the id that its answer and its log lines carry.
#[derive(Debug, Clone)]
pub(super) struct RequestInfo {
    pub(super) id: String,
    pub(super) started: Instant,
    /// Of a request for which a page may be shown meanwhile.
    pub(super) wait: Option<Arc<Wait>>,
    /// Where the whole answer may be kept.
    pub(super) slot: Option<Slot>,
}

/// When the request came, on its way from the service to the first layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started(pub(super) Instant);

/// The value of the metric label `format`, on its way from the handler to the counter.
#[derive(Debug, Clone, Copy)]
pub(super) struct FormatLabel(pub(super) &'static str);

pub(super) async fn wrap(State(counts): State<Counts>, mut request: Request, next: Next) -> Response {
    let started = request.extensions().get::<Started>().map_or_else(Instant::now, |started| started.0);
    let info = RequestInfo { id: next_id(), started, wait: None, slot: request.extensions_mut().remove() };
    let method = request.method().clone();
    let span = info_span!("request", id = %info.id, %method, path = %request.uri().path());
    let accept = request.headers().get(http::header::ACCEPT).cloned();
    request.extensions_mut().insert(info.clone());

    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let mut response = answered.unwrap_or_else(|_| {
        span.in_scope(|| error!("a handler panicked"));
        panicked(&method, accept, &info)
    });

    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let out = response.headers_mut();
    if bodiless {
        // axum says that the empty body has no bytes; here that would be said of what is not sent (RFC 9110 §8.6).
        out.remove(http::header::CONTENT_LENGTH);
    }
    headers::set_common(out);
    out.insert(headers::REQUEST_ID, headers::value(&info.id));
    let format = response.extensions().get::<FormatLabel>().map_or("none", |label| label.0);
    counts.answered(&method, response.status(), format);
    span.in_scope(|| debug!(status = response.status().as_u16(), "answered"));
    response
}

fn panicked(method: &Method, accept: Option<http::HeaderValue>, info: &RequestInfo) -> Response {
    let mut headers = HeaderMap::new();
    headers.extend(accept.map(|accept| (http::header::ACCEPT, accept)));
    let error = GatewayError::Panic;
    let context = problem::Context {
        method,
        headers: &headers,
        request: &info.id,
        started: info.started,
        retrieval: None,
        plain: false,
    };
    problem::respond(&error, &error.fault(), &context)
}

/// Unique within the process, and across restarts by the clock: 16 hexadecimal digits.
pub(super) fn next_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    format!("{:012x}{:04x}", micros & 0xffff_ffff_ffff, n & 0xffff)
}
