//! JSON, CBOR, DAG-JSON and DAG-CBOR blocks, as they are (IPIP-328, IPIP-524).

use axum::body::Body;
use http::Response;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};

use super::super::error::GatewayError;
use super::super::format::CodecForm;
use super::super::handler::Visit;
use super::super::headers;
use crate::dag::Resolved;

/// Answers with the block, which `form` fits.
pub(in super::super) fn respond(
    visit: &mut Visit<'_>,
    resolved: &Resolved,
    form: CodecForm,
) -> Result<Response<Body>, GatewayError> {
    let etag = headers::etag_of_form(&resolved.cid, form.name());
    if let Some(reply) = visit.unchanged(&etag, None) {
        return Ok(reply);
    }
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    out.insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    out.insert(ETAG, headers::value(&etag));
    out.insert(CACHE_CONTROL, headers::IMMUTABLE);
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // JSON can be read in a browser, CBOR cannot.
    let attachment = visit.ask.download || form.extension() == "cbor";
    let default_name = format!("{}.{}", resolved.cid, form.extension());
    let name = visit.ask.filename.as_deref().unwrap_or(&default_name);
    out.insert(CONTENT_DISPOSITION, headers::disposition(attachment, name));
    super::bytes::respond(visit, out, resolved.block.data().clone(), &etag)
}
