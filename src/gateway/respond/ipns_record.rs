//! `format=ipns-record`: the signed record of a name, as it is (IPIP-351).

use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, ETAG, EXPIRES};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use multihash_codetable::{Code, MultihashDigest};

use super::super::conditional::Conditional;
use super::super::error::GatewayError;
use super::super::origin::Place;
use super::super::{Gateway, format, handler, headers};
use crate::ipld::ipns::Record;
use crate::ipld::path::{ContentPath, Namespace};
use crate::names::{NameError, Reach};

/// How long a record counts whose publisher does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(60);

/// What is asked.
pub(in super::super) struct Asked<'a> {
    pub(in super::super) path: &'a ContentPath,
    pub(in super::super) place: &'a Place,
    pub(in super::super) method: &'a Method,
    pub(in super::super) uri: &'a Uri,
    pub(in super::super) headers: &'a HeaderMap,
    pub(in super::super) by_accept: bool,
}

pub(in super::super) async fn respond(
    gateway: &Gateway,
    asked: &Asked<'_>,
    reach: Reach,
) -> Result<Response<Body>, GatewayError> {
    let Namespace::Ipns(text) = &asked.path.namespace else { return Err(GatewayError::NotAName) };
    if !asked.path.segments.is_empty() {
        return Err(GatewayError::RecordPath);
    }
    let name =
        text.parse().map_err(|_| NameError::Syntax { name: text.clone() }).map_err(|_| GatewayError::NotAName)?;
    let (record, _) = gateway.state.names.record(&name, reach).await?;
    let etag = etag(&record);
    let mut out = HeaderMap::new();
    out.insert(ETAG, headers::value(&etag));
    set_age(&mut out, &record, SystemTime::now());
    let conditional = Conditional::read(asked.headers);
    if conditional.is_fresh(&etag, None) {
        let mut reply = Response::new(Body::empty());
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        *reply.headers_mut() = out;
        return Ok(reply);
    }
    out.insert(CONTENT_TYPE, HeaderValue::from_static(format::IPNS_RECORD));
    let filename = handler::parameter(asked.uri, "filename").filter(|name| !name.is_empty());
    let filename = filename.unwrap_or_else(|| format!("{name}.ipns-record"));
    out.insert(CONTENT_DISPOSITION, headers::disposition(true, &filename));
    headers::set_path(&mut out, asked.path, &[]);
    out.remove(headers::X_IPFS_ROOTS);
    if asked.by_accept {
        let query = asked.uri.query().map(|query| format!("{query}&")).unwrap_or_default();
        let location = format!("{}?{query}format=ipns-record", asked.place.asked(asked.uri.path()));
        out.insert(CONTENT_LOCATION, headers::value(&location));
    }
    out.insert(CONTENT_LENGTH, HeaderValue::from(record.bytes().len()));
    let body = if asked.method == Method::HEAD { Body::empty() } else { Body::from(record.bytes().clone()) };
    let mut reply = Response::new(body);
    *reply.headers_mut() = out;
    Ok(reply)
}

/// Of the bytes: two records of one name differ in it.
pub(in super::super) fn etag(record: &Record) -> String {
    format!("\"{}\"", hex::encode(&Code::Sha2_256.digest(record.bytes()).digest()[..16]))
}

/// `Cache-Control`: the TTL, and never beyond the end of life; `Expires` says the same for old caches.
pub(in super::super) fn set_age(out: &mut HeaderMap, record: &Record, now: SystemTime) {
    let left = record.eol().duration_since(now).unwrap_or_default();
    let age = record.ttl().unwrap_or(DEFAULT_TTL).min(left);
    out.insert(CACHE_CONTROL, headers::value(&format!("public, max-age={}", age.as_secs())));
    if let Some(at) = now.checked_add(Duration::from_secs(age.as_secs())) {
        // HTTP's dates end with the year 9999.
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        out.insert(EXPIRES, headers::value(&httpdate::fmt_http_date(at.min(last))));
    }
}
