//! `format=raw`: the block that the path ends at, as it is.

use axum::body::Body;
use http::Response;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};

use super::super::error::GatewayError;
use super::super::handler::Visit;
use super::super::{format, headers};
use crate::dag::Resolved;

pub(in super::super) fn respond(visit: &mut Visit<'_>, resolved: Resolved) -> Result<Response<Body>, GatewayError> {
    let etag = headers::etag_of_form(&resolved.cid, "raw");
    if let Some(reply) = visit.unchanged(&etag, None) {
        return Ok(reply);
    }
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    out.insert(CONTENT_TYPE, HeaderValue::from_static(format::RAW));
    out.insert(ETAG, headers::value(&etag));
    out.insert(CACHE_CONTROL, headers::IMMUTABLE);
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let default_name = format!("{}.bin", resolved.cid);
    let name = visit.ask.filename.as_deref().unwrap_or(&default_name);
    out.insert(CONTENT_DISPOSITION, headers::disposition(true, name));
    super::bytes::respond(visit, out, resolved.block.into_data(), &etag)
}
