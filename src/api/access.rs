//! Who may use the admin listener: the Host allowlist, the token, and the check of where a change comes from.
//!
//! Sources: RELIABILITY.md §3.7; Fetch Metadata (W3C) and the `Origin` header (RFC 6454) against CSRF; the Host
//! allowlist against DNS rebinding. All of it is one layer around the merged router, so that no page is forgotten.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;

use super::problem::Problem;
use super::rate::RateLimits;
use super::scope::{self, Scope, is_change};
use super::tokens::Tokens;
use super::tokens::store::Token;

/// Answered without a token on any listener: orchestrators have none, and they say no more than a state.
pub(super) const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Entries of X-Forwarded-For that are read, from the right.
const MAX_HOPS: usize = 16;

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

#[derive(Clone)]
struct Inner {
    loopback: bool,
    is_admin_token: TokenCheck,
    hosts: Vec<String>,
    tokens: Tokens,
    rates: Option<RateLimits>,
    proxies: Vec<IpNet>,
}

/// Who asks, for the audit log.
enum Caller {
    /// Nobody was asked: a loopback listener, or a path that is open.
    Open,
    /// The token of this start or the lasting one.
    Admin,
    Token(Arc<Token>),
}

impl Access {
    /// `bound` is the listener's address; `hosts` are further names, without a port, under which people reach it (a
    /// reverse proxy's name).
    ///
    /// On a loopback listener tokens are not asked for; the scope of a known one holds even so. On any other, every path
    /// but `/healthz` and `/readyz` needs one.
    pub fn new(bound: SocketAddr, is_admin_token: TokenCheck, hosts: Vec<String>) -> Self {
        let hosts = hosts.into_iter().map(|host| host_name(&host)).collect();
        let loopback = bound.ip().to_canonical().is_loopback();
        let (tokens, rates, proxies) = (Tokens::none(), None, Vec::new());
        Self { inner: Arc::new(Inner { loopback, is_admin_token, hosts, tokens, rates, proxies }) }
    }

    /// With stored tokens.
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { inner: Arc::new(Inner { tokens, ..(*self.inner).clone() }) }
    }

    /// With rate limits; `proxies` are those whose `X-Forwarded-For` counts.
    pub fn with_rates(self, rates: RateLimits, proxies: Vec<IpNet>) -> Self {
        Self { inner: Arc::new(Inner { rates: Some(rates), proxies, ..(*self.inner).clone() }) }
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.inner.tokens
    }

    fn check(&self, request: &Request) -> Result<Caller, Problem> {
        let (method, path) = (request.method(), request.uri().path());
        self.check_host(request.uri(), request.headers())?;
        if OPEN_PATHS.contains(&path) && !is_change(method) {
            return Ok(Caller::Open);
        }
        let budget = scope::budget(method, path);
        if let (Some(rates), Some(address)) = (&self.inner.rates, self.client(request)) {
            rates.check_address(address, budget)?;
        }
        if is_change(method) {
            check_origin(request.uri(), request.headers())?;
        }
        let caller = self.caller(request.headers())?;
        if let Caller::Token(token) = &caller {
            let needed = scope::needed(method, path);
            if !token.scope.grants(needed) {
                return Err(Problem::scope(needed.as_str(), scope_challenge(needed)));
            }
            if let Some(rates) = &self.inner.rates {
                rates.check_token(token.key(), budget)?;
            }
        }
        Ok(caller)
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let host = authority(uri, headers).ok_or_else(Problem::no_host)?;
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
            "the name in the Host header is not one of this listener's; --admin-host NAME adds it if it is yours";
        Err(Problem::host(detail))
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(given) = credentials(headers) else {
            if self.inner.loopback {
                return Ok(Caller::Open);
            }
            return Err(Problem::unauthorized(
                "send Authorization: Bearer TOKEN (DATA_DIR/api or --admin-token-file has it, `tidegate token create` makes one)",
            ));
        };
        if (self.inner.is_admin_token)(&given) {
            return Ok(Caller::Admin);
        }
        match self.inner.tokens.identify(&given, SystemTime::now()) {
            Some(token) => Ok(Caller::Token(token)),
            // Credentials may be meant for the proxy in front.
            None if self.inner.loopback => Ok(Caller::Open),
            None => Err(Problem::unauthorized("this is no token of this server; it may have expired or been revoked")),
        }
    }

    /// The client's address: the connection's, or what trusted proxies say, read from the right (RFC 7239 §5.2 names the
    /// order). `None` where there is no connection (in tests).
    fn client(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>()?.0.ip().to_canonical();
        let trusted = |ip: &IpAddr| self.inner.proxies.iter().any(|net| net.contains(ip));
        if !trusted(&peer) {
            return Some(peer);
        }
        let lists = request.headers().get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
        let mut client = peer;
        for hop in hops.into_iter().rev().take(MAX_HOPS) {
            let Ok(ip) = hop.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else { break };
            client = ip.to_canonical();
            if !trusted(&client) {
                break;
            }
        }
        Some(client)
    }
}

/// RFC 6750 §3.1.
fn scope_challenge(needed: Scope) -> HeaderValue {
    HeaderValue::from_static(match needed {
        Scope::Read => "Bearer realm=\"tidegate\", error=\"insufficient_scope\", scope=\"read\"",
        Scope::Write => "Bearer realm=\"tidegate\", error=\"insufficient_scope\", scope=\"write\"",
        Scope::Results => "Bearer realm=\"tidegate\", error=\"insufficient_scope\", scope=\"results\"",
        Scope::Admin => "Bearer realm=\"tidegate\", error=\"insufficient_scope\", scope=\"admin\"",
    })
}

/// One line for each change and each refused credential: who, what, how it ended.
fn audit(caller: Result<&Caller, ()>, method: &Method, path: &str, status: StatusCode) {
    let (name, id) = match caller {
        Err(()) => {
            tracing::warn!(target: "tidegate::audit", %method, path, status = status.as_u16(), "refused");
            return;
        }
        Ok(Caller::Open) => ("open", ""),
        Ok(Caller::Admin) => ("admin", ""),
        Ok(Caller::Token(token)) => (token.name.as_str(), token.id.as_str()),
    };
    if is_change(method) {
        tracing::info!(target: "tidegate::audit", caller = name, token = id, %method, path, status = status.as_u16(), "change");
    }
}

/// The layer: checks first, then the answer with the security headers on it, whatever it is.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match access.check(&request) {
        Ok(caller) => {
            if let Caller::Token(token) = &caller {
                access.inner.tokens.note_use(token).await;
            }
            let response = next.run(request).await;
            audit(Ok(&caller), &method, &path, response.status());
            response
        }
        Err(problem) => {
            if matches!(problem.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                audit(Err(()), &method, &path, problem.status());
            }
            problem.into_response()
        }
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

/// The authority that the client asked for. `None`: none was named, several, or the request line (HTTP/2, absolute form)
/// and the Host header name different ones.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return None,
        (Some(host), None) => Some(host.to_str().ok().filter(|host| !host.is_empty())?),
        (None, None) => None,
    };
    match (uri.authority().map(|authority| authority.as_str()), host) {
        (Some(line), Some(host)) if !line.eq_ignore_ascii_case(host) => None,
        (Some(line), _) => Some(line),
        (None, host) => host,
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
