//! Pages for people: one small sheet of style, scripts that only add conveniences, nothing from elsewhere.

use std::sync::LazyLock;

use askama::Template;
use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::headers;
use crate::ipld::HashCode;

/// The style of every page, within the page: a gateway's origin has no address of its own for a sheet.
pub(super) const CSS: &str = include_str!("../../templates/gateway/gateway.css");
/// Our own addresses, which content of the same origin does not get: RFC 8615 keeps `/.well-known/` for such uses.
const OWN: &str = "/.well-known/tidegate/";
pub(super) const LISTING_SCRIPT: &str = "/.well-known/tidegate/listing-1.js";
pub(super) const PROTOCOL_SCRIPT: &str = "/.well-known/tidegate/protocol-1.js";
pub(super) const WAITING_SCRIPT: &str = "/.well-known/tidegate/waiting-1.js";
/// Followed by the id of a wait.
pub(super) const WAITING_STATUS: &str = "/.well-known/tidegate/waiting/";
const LISTING_TEMPLATES: &str = concat!(
    include_str!("../../templates/gateway/gateway.css"),
    include_str!("../../templates/gateway/base_gateway.html"),
    include_str!("../../templates/gateway/listing.html"),
    include_str!("../../templates/gateway/listing_rows.html"),
    include_str!("../../templates/gateway/listing_end.html"),
    include_str!("../../templates/gateway/listing.js"),
);

/// Names the look of listings in their validator: another release with other templates has another.
pub(super) static LISTING_HASH: LazyLock<String> = LazyLock::new(|| hex::encode(&sha256(LISTING_TEMPLATES)[..8]));

const DAG_TEMPLATES: &str = concat!(
    include_str!("../../templates/gateway/gateway.css"),
    include_str!("../../templates/gateway/base_gateway.html"),
    include_str!("../../templates/gateway/dag.html"),
);

/// The same for pages of structured data.
pub(super) static DAG_HASH: LazyLock<String> = LazyLock::new(|| hex::encode(&sha256(DAG_TEMPLATES)[..8]));

/// Nothing runs and nothing is loaded; only the one style block applies.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy("'none'", "'none'"));
/// The same for pages with a script, which comes from their own origin.
static SCRIPT_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy("'self'", "'none'"));
/// The same for a script that asks its own origin how things stand.
static WAITING_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy("'self'", "'self'"));

fn policy(script: &str, connect: &str) -> HeaderValue {
    let style = multibase::Base::Base64Pad.encode(sha256(CSS));
    headers::value(&format!(
        "default-src 'none'; script-src {script}; connect-src {connect}; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'"
    ))
}

#[derive(Template)]
#[template(path = "gateway/home.html")]
pub(super) struct Home;

#[derive(Template)]
#[template(path = "gateway/error.html")]
pub(super) struct ErrorPage<'a> {
    pub(super) status: StatusCode,
    pub(super) detail: &'a str,
    /// Names and values of what is known.
    pub(super) facts: &'a [(&'static str, String)],
    pub(super) advice: &'a str,
}

/// Headers of every page.
pub(super) fn set_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
}

/// Headers of a page with a script of ours.
pub(super) fn set_script_headers(headers: &mut HeaderMap) {
    set_headers(headers);
    headers.insert(CONTENT_SECURITY_POLICY, SCRIPT_POLICY.clone());
}

/// Headers of the page that is shown instead of content that is not there yet.
pub(super) fn set_waiting_headers(headers: &mut HeaderMap) {
    set_headers(headers);
    headers.insert(CONTENT_SECURITY_POLICY, WAITING_POLICY.clone());
}

/// What is at an address of our own; `None`: the address is not ours.
pub(super) fn asset(path: &str) -> Option<Response<Body>> {
    if !path.starts_with(OWN) {
        return None;
    }
    let text = match path {
        LISTING_SCRIPT => include_str!("../../templates/gateway/listing.js"),
        WAITING_SCRIPT => include_str!("../../templates/gateway/waiting.js"),
        PROTOCOL_SCRIPT => include_str!("../../templates/gateway/protocol.js"),
        _ => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Some(response);
        }
    };
    let mut response = Response::new(Body::from(text));
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    out.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    Some(response)
}

pub(super) fn home() -> Result<Response<Body>, askama::Error> {
    let mut response = Response::new(Body::from(Home.render()?));
    set_script_headers(response.headers_mut());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn sha256(text: &str) -> Vec<u8> {
    // sha2-256 takes any number of bytes: there is no error to have.
    HashCode::Sha2_256.digest(text.as_bytes()).map(|hash| hash.digest().to_vec()).unwrap_or_else(|_| vec![0; 32])
}
