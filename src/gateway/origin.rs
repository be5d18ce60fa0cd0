//! The front of the gateway: which origin a request is for, and that origin's view of addresses.
//!
//! What is asked of an origin of its own ([`Place::Subdomain`], [`Place::DnsLink`]) is given its content path here, and
//! the handlers serve it like any other path; what they write into redirects and links goes through [`Place`] back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};

use super::error::GatewayError;
use super::handler;
use super::host::{self, HostError, Root, Route, Seen, Space};
use super::middleware::RequestInfo;
use super::{Gateway, page, waiting};
use crate::ipld::path::ContentPath;
use crate::listener::Secure;

/// Which origin a request was made to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Every root shares this origin.
    Path,
    /// `{root}.ipfs.{parent}` or `{name}.ipns.{parent}`.
    Subdomain { parent: String },
    /// A domain whose content is at `/`; with the port that the client uses.
    DnsLink { authority: String },
}

impl Place {
    /// One root alone has this origin.
    pub(super) fn is_isolated(&self) -> bool {
        *self != Self::Path
    }

    /// `path`, as it was sent, is a root of a shared origin without a slash: what stands there would rule over every root
    /// beside it.
    pub(super) fn is_top(&self, path: &str) -> bool {
        !self.is_isolated() && path.matches('/').count() == 2
    }

    /// The address of `path`, the namespace and the root left out where the origin implies them.
    pub(super) fn address(&self, path: &ContentPath) -> String {
        let whole = path.to_url_path();
        if self.is_isolated() { below_root(&whole).to_owned() } else { whole }
    }

    /// The address that the client used, given the content path that was made of it: percent-encoded, as it was sent.
    pub(super) fn asked<'a>(&self, path: &'a str) -> &'a str {
        if self.is_isolated() { below_root(path) } else { path }
    }
}

/// `/ipfs/ROOT/a` to `/a`.
fn below_root(path: &str) -> &str {
    path.match_indices('/').nth(2).map_or("/", |(at, _)| &path[at..])
}

/// The layer before the routes.
pub(super) async fn front(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    // The middleware above has put it there; without it there is nothing to answer with.
    let Some(info) = request.extensions().get::<RequestInfo>().cloned() else { return next.run(request).await };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && let Some(status) = waiting::status(&gateway.waits, request.uri().path()) {
        return status;
    }
    if reads && let Some(asset) = page::asset(request.uri().path()) {
        return asset;
    }
    let (parts, body) = request.into_parts();
    let place = match place(&gateway, &parts).await {
        Ok(place) => place,
        Err(error) => return handler::refuse_plainly(&error, &parts.method, &parts.headers, &info),
    };
    let mut request = Request::from_parts(parts, body);
    let (place, root) = match place {
        // A preflight cannot follow a redirect (Fetch §4.8), and other methods are refused where they are.
        Found::Redirect(_) if !reads => (Place::Path, None),
        Found::Redirect(location) => return handler::redirect(&location),
        Found::Here(place, root) => (place, root),
        Found::ForNow(place) => {
            // The name may lead elsewhere tomorrow, under the same key.
            if let Some(info) = request.extensions_mut().get_mut::<RequestInfo>() {
                info.slot = None;
            }
            (place, None)
        }
    };
    if let Some(root) = root {
        match with_root(request.uri(), &root) {
            Some(uri) => *request.uri_mut() = uri,
            None => {
                let error = GatewayError::Host(HostError::Syntax(root.to_string()));
                return handler::refuse_plainly(&error, request.method(), request.headers(), &info);
            }
        }
    }
    request.extensions_mut().insert(place);
    next.run(request).await
}

enum Found {
    Here(Place, Option<Root>),
    /// As long as the host's name has no DNSLink.
    ForNow(Place),
    Redirect(String),
}

async fn place(gateway: &Gateway, request: &Parts) -> Result<Found, GatewayError> {
    let seen = seen(gateway, &request.extensions, &request.headers, &request.uri);
    match host::route(&gateway.state.config.subdomain_hosts, seen)? {
        Route::Path => Ok(Found::Here(Place::Path, None)),
        Route::Redirect { location } => Ok(Found::Redirect(location)),
        Route::Subdomain { root, parent } => Ok(Found::Here(Place::Subdomain { parent }, Some(root))),
        Route::Lookup { name } if gateway.state.names.dnslink(&name).await?.is_some() => {
            let place = Place::DnsLink { authority: seen.authority.to_ascii_lowercase() };
            Ok(Found::Here(place, Some(Root::Ipns(name))))
        }
        Route::Lookup { .. } => Ok(Found::ForNow(Place::Path)),
    }
}

/// What a request says of where it belongs.
pub(super) fn seen<'a>(
    gateway: &Gateway,
    extensions: &'a http::Extensions,
    headers: &'a HeaderMap,
    uri: &'a Uri,
) -> Seen<'a> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let forwarded = peer.filter(|peer| is_trusted(gateway, *peer)).map(|_| headers);
    let secure = extensions.get::<Secure>().is_some_and(|secure| secure.0);
    let https = match forwarded.and_then(|headers| first(headers, "x-forwarded-proto")) {
        Some(proto) => proto.eq_ignore_ascii_case("https"),
        None => secure,
    };
    let authority = forwarded
        .and_then(|headers| first(headers, "x-forwarded-host"))
        .or_else(|| uri.authority().map(http::uri::Authority::as_str))
        .or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok()))
        .unwrap_or_default();
    Seen { authority, https, path: uri.path(), query: uri.query() }
}

fn is_trusted(gateway: &Gateway, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    gateway.state.config.trusted_proxies.iter().any(|net| net.contains(&peer))
}

/// The first of a list: what the proxy nearest to the client saw.
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    value.split(',').next().map(str::trim).filter(|value| !value.is_empty())
}

fn with_root(uri: &Uri, root: &Root) -> Option<Uri> {
    let space = match root.space() {
        Space::Ipfs => "ipfs",
        Space::Ipns => "ipns",
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let text = format!("/{space}/{root}{}{query}", uri.path());
    PathAndQuery::try_from(text).ok().map(Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_its_own_view_of_addresses() {
        let path = ContentPath::parse("/ipfs/bafkqaaa/ą/b/").unwrap();
        assert_eq!(Place::Path.address(&path), "/ipfs/bafkqaaa/%C4%85/b/");
        let origin = Place::Subdomain { parent: "example.com".into() };
        assert_eq!(origin.address(&path), "/%C4%85/b/");
        assert_eq!(origin.address(&ContentPath::parse("/ipfs/bafkqaaa").unwrap()), "/");
        assert_eq!(origin.asked("/ipns/a.b/%zz"), "/%zz");
    }
}
