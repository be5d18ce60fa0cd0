//! Who may use the admin listener: the Host allowlist, the token, and the check of where a change comes from.
//!
//! Sources: RELIABILITY.md §3.7; Fetch Metadata (W3C) and the `Origin` header (RFC 6454) against CSRF; the Host
//! allowlist against DNS rebinding. All of it is one layer around the merged router, so that no page is forgotten.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// Answered without a token on any listener: orchestrators have none, and they say no more than a state.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// `default-src 'none'` and what the pages need; no inline script or style, no other origin (RELIABILITY.md §3.7).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const PERMISSIONS: &str = "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), \
                           payment=(), usb=(), browsing-topics=()";

/// Says in constant time whether a text is an admin token.
pub type TokenCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The rules of one admin listener.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    loopback: bool,
    is_admin_token: TokenCheck,
    hosts: Vec<String>,
}

impl Access {
    /// `bound` is the listener's address; `hosts` are further names, without a port, under which people reach it (a
    /// reverse proxy's name).
    ///
    /// On a loopback listener tokens are not asked for. On any other, every path but `/healthz` and `/readyz` needs one.
    pub fn new(bound: SocketAddr, is_admin_token: TokenCheck, hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).collect();
        Self { inner: Arc::new(Inner { loopback: bound.ip().to_canonical().is_loopback(), is_admin_token, hosts }) }
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        self.check_host(request.uri(), request.headers())?;
        if !self.inner.loopback && !OPEN_PATHS.contains(&request.uri().path()) {
            self.check_token(request.headers())?;
        }
        if is_change(request.method()) {
            check_origin(request.uri(), request.headers())?;
        }
        Ok(())
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(host) = authority(uri, headers) else { return Err(Problem::host("the request names no host")) };
        let name = host_name(host);
        let allowed = match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            // An address cannot be rebound by DNS. Behind loopback only loopback's own are expected.
            Ok(ip) => !self.inner.loopback || ip.to_canonical().is_loopback(),
            Err(_) => name == "localhost" || name.ends_with(".localhost"),
        };
        if allowed || self.inner.hosts.contains(&name) {
            return Ok(());
        }
        let detail =
            "the name in the Host header is not one of this listener's; add it to the admin hosts if it is yours";
        Err(Problem::host(detail))
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(given) = credentials(headers) else {
            return Err(Problem::unauthorized(
                "send Authorization: Bearer TOKEN (DATA_DIR/api or --admin-token-file has it)",
            ));
        };
        if (self.inner.is_admin_token)(&given) {
            Ok(())
        } else {
            Err(Problem::unauthorized("this is not the admin token"))
        }
    }
}

/// The layer: checks first, then the answer with the security headers on it, whatever it is.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let mut response = match access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(X_FRAME_OPTIONS, "DENY");
    set(REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("permissions-policy"), PERMISSIONS);
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    response
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// The authority that the client asked for: of the request line (HTTP/2, absolute form), else the one Host header.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    if let Some(authority) = uri.authority() {
        return Some(authority.as_str());
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    }
}

/// Without port and final dot, in lower case: `localhost`, `[::1]`.
fn host_name(authority: &str) -> String {
    let bare = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let name = match bare.rfind(']') {
        Some(end) => &bare[..=end],
        None => bare.split(':').next().unwrap_or_default(),
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// `Bearer TOKEN`, or `Basic` with the token as password, which is what a browser can ask a person for.
fn credentials(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = multibase::Base::Base64Pad.decode(rest.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        return String::from_utf8(decoded[colon + 1..].to_vec()).ok();
    }
    None
}

/// Programs send neither header; a browser's cross-site request shows itself by one or the other.
fn check_origin(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(site) = headers.get("sec-fetch-site") {
        return if site == "same-origin" || site == "none" { Ok(()) } else { Err(Problem::cross_site()) };
    }
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let same = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")))
        .zip(authority(uri, headers))
        .is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host));
    if same { Ok(()) } else { Err(Problem::cross_site()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_lose_port_dot_and_case() {
        assert_eq!(host_name("LocalHost.:8090"), "localhost");
        assert_eq!(host_name("[::1]:8090"), "[::1]");
        assert_eq!(host_name("127.0.0.1"), "127.0.0.1");
        assert_eq!(host_name("user@evil.example:80"), "evil.example");
    }

    #[test]
    fn a_browser_may_give_the_token_as_a_password() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic YW55OnMzY3JldDpi"));
        assert_eq!(credentials(&headers).unwrap(), "s3cret:b");
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer abc"));
        assert_eq!(credentials(&headers).unwrap(), "abc");
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Digest abc"));
        assert_eq!(credentials(&headers), None);
    }
}
