//! `/ipns/NAME/…`: what the name stands for now, and for how long an answer under it may be kept.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use tokio::sync::OwnedSemaphorePermit;

use super::error::GatewayError;
use super::format::ResponseFormat;
use super::metrics::Limits;
use super::middleware::{FormatLabel, RequestInfo};
use super::origin::Place;
use super::{Gateway, handler, headers, respond};
use crate::ipld::ipns::IpnsName;
use crate::ipld::path::{ContentPath, Namespace};
use crate::names::{NameError, Reach, Resolved};

/// How long a listing may be shown while it is looked up again (GATEWAY.md §5).
const STALE_LISTING: &str = ", stale-while-revalidate=2678400";

/// A request's path once its name is resolved.
pub(super) struct Target {
    /// An `/ipfs/` path.
    pub(super) path: ContentPath,
    /// Where the site begins, by every path that leads there.
    pub(super) starts: Vec<ContentPath>,
    pub(super) mutable: Mutable,
    /// The request's place among the concurrent ones.
    pub(super) permit: OwnedSemaphorePermit,
}

/// Marks an answer that another publication changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mutable {
    /// What is left of the TTLs of the names; `None`: not known.
    ttl: Option<Duration>,
}

impl Mutable {
    pub(super) fn of(resolved: &Resolved) -> Self {
        Self { ttl: resolved.ttl }
    }

    /// Puts what holds for a name in the place of what holds for its content: never immutable, and nothing at all when
    /// nobody said how long the name counts.
    pub(super) fn set_cache_control(&self, out: &mut HeaderMap) {
        let listing = out.get(CACHE_CONTROL) == Some(&headers::LISTING);
        match self.ttl {
            Some(ttl) => {
                let stale = if listing { STALE_LISTING } else { "" };
                out.insert(CACHE_CONTROL, headers::value(&format!("public, max-age={}{stale}", ttl.as_secs())));
            }
            None => _ = out.remove(CACHE_CONTROL),
        }
    }
}

/// What stands before the content of an `/ipns/` address: the canonical form of the name, the record itself if that is
/// asked for, the name's resolution. An `Err` is the whole answer.
pub(super) async fn enter(
    gateway: &Arc<Gateway>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    info: &RequestInfo,
    place: &Place,
) -> Result<Target, Response<Body>> {
    let refuse = |error: &GatewayError| handler::refuse_at(place, error, method, headers, info);
    let path = ContentPath::parse(uri.path())
        .map_err(|error| refuse(&GatewayError::Path { path: uri.path().to_owned(), error }))?;
    let negotiated = ResponseFormat::negotiate(uri.query(), headers).map_err(|error| refuse(&error.into()))?;
    if let Some(canonical) = canonical(&path) {
        return Err(moved(&canonical, uri));
    }
    let Ok(permit) = gateway.permits.clone().try_acquire_owned() else {
        gateway.counts.hit(Limits::ConcurrentRequests);
        return Err(refuse(&GatewayError::Busy));
    };
    let only_if_cached = handler::only_if_cached(headers);
    let reach = if only_if_cached { Reach::Local } else { gateway.reach };
    let limit = gateway.state.config.first_byte_timeout;
    let limit = if limit.is_zero() { handler::NO_LIMIT } else { limit };
    if negotiated.format == ResponseFormat::IpnsRecord {
        let asked =
            respond::ipns_record::Asked { path: &path, place, method, uri, headers, by_accept: negotiated.by_accept };
        let answered = tokio::time::timeout(limit, respond::ipns_record::respond(gateway, &asked, reach)).await;
        let mut reply = answered.unwrap_or(Err(GatewayError::Slow { seconds: limit.as_secs() })).unwrap_or_else(
            |error| match error {
                GatewayError::Name(NameError::NotLocal { name }) if !only_if_cached => {
                    refuse(&GatewayError::NoRecord { name })
                }
                error => refuse(&error),
            },
        );
        reply.extensions_mut().insert(FormatLabel(negotiated.format.name()));
        return Err(reply);
    }
    match tokio::time::timeout(limit, gateway.state.names.resolve_path(&path, reach)).await {
        Ok(Ok(resolved)) => {
            Ok(Target { mutable: Mutable::of(&resolved), starts: resolved.starts(&path), path: resolved.path, permit })
        }
        Ok(Err(error)) => Err(refuse(&error.into())),
        Err(_) => {
            gateway.counts.hit(Limits::FirstByte);
            Err(refuse(&GatewayError::Slow { seconds: limit.as_secs() }))
        }
    }
}

/// The path with its key in base36, when it is written in another form.
fn canonical(path: &ContentPath) -> Option<ContentPath> {
    let Namespace::Ipns(text) = &path.namespace else { return None };
    let canonical = text.parse::<IpnsName>().ok()?.to_string();
    (canonical != *text).then(|| ContentPath { namespace: Namespace::Ipns(canonical), ..path.clone() })
}

/// 302, the query kept: which form is canonical is ours to change.
fn moved(to: &ContentPath, uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::FOUND;
    let location: HeaderValue = headers::value(&format!("{}{query}", to.to_url_path()));
    reply.headers_mut().insert(http::header::LOCATION, location);
    reply
}
