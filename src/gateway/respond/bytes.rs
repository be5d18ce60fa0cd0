//! An answer whose whole body is here already: HEAD, ranges, several ranges.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode};

use super::super::error::GatewayError;
use super::super::handler::Visit;
use super::super::headers;
use super::super::range::{ByteRange, Selection};
use super::multipart::Multipart;

/// Answers with `data` or the parts of it that are asked for; `out` says the rest, its type included.
pub(in super::super) fn respond(
    visit: &mut Visit<'_>,
    mut out: HeaderMap,
    data: Bytes,
    etag: &str,
) -> Result<Response<Body>, GatewayError> {
    let size = data.len() as u64;
    if visit.ask.is_head() {
        return Ok(visit.reply_bytes(StatusCode::OK, out, data));
    }
    // A block is at most 2 MiB, so its offsets fit.
    let slice = |from: u64, to: u64| data.slice(from as usize..to as usize);
    match ByteRange::read(&visit.ask.headers, etag).select(size) {
        Selection::Whole => Ok(visit.reply_bytes(StatusCode::OK, out, data)),
        Selection::Part(range) => {
            out.insert(CONTENT_RANGE, headers::content_range(&range, size));
            Ok(visit.reply_bytes(StatusCode::PARTIAL_CONTENT, out, slice(range.start, range.end)))
        }
        Selection::Parts(ranges) => {
            let of = out.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/octet-stream");
            let parts = Multipart::new(of, size, ranges);
            out.insert(CONTENT_TYPE, headers::value(&parts.content_type()));
            let mut body = Vec::with_capacity(usize::try_from(parts.length()).unwrap_or_default());
            for (index, range) in parts.ranges().iter().enumerate() {
                body.extend_from_slice(&parts.head(index, range));
                body.extend_from_slice(&slice(range.start, range.end));
            }
            body.extend_from_slice(&parts.tail());
            Ok(visit.reply_bytes(StatusCode::PARTIAL_CONTENT, out, body.into()))
        }
        Selection::Unsatisfiable => Err(GatewayError::Range { size }),
    }
}
