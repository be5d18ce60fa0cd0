//! A file as its bytes, whole or in part.

use std::ops::Range;
use std::time::SystemTime;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, LAST_MODIFIED,
};
use http::{Response, StatusCode};

use super::super::content_type::{self, SNIFF_BYTES};
use super::super::error::GatewayError;
use super::super::handler::Visit;
use super::super::headers;
use super::super::range::{ByteRange, Selection};
use super::multipart::Multipart;
use crate::dag::{FileReader, NodeKind, ReadError, Resolved};
use crate::ipld::Block;
use crate::retriever::{Session, SessionOptions};

/// Answers with the file that `block` is the root of. `resolved` is what the address names: the file itself, or the
/// directory whose index page it is, which gives validators and roots.
pub(in super::super) async fn respond(
    visit: &mut Visit<'_>,
    resolved: &Resolved,
    block: &Block,
) -> Result<Response<Body>, GatewayError> {
    let etag = headers::etag(&resolved.cid);
    let modified = resolved.mtime.and_then(|mtime| headers::modified(mtime.secs));
    if let Some(reply) = visit.unchanged(&etag, modified) {
        return Ok(reply);
    }
    let is_index = resolved.is_directory();
    let name = match (&visit.ask.filename, is_index) {
        (Some(name), _) => Some(name.clone()),
        (None, true) => Some("index.html".to_owned()),
        (None, false) => visit.name().map(str::to_owned),
    };
    let by_name = name.as_deref().and_then(content_type::by_name);
    let size = crate::dag::reader::file_size(block)?;
    let mut out = HeaderMap::with_capacity(24);
    common(visit, resolved, &etag, modified, &mut out);

    visit.check_deserialized(resolved.cid, size)?;
    if visit.ask.is_head() {
        let kind = match by_name {
            Some(kind) => Some(kind),
            None => sniff_here(visit, block).await,
        };
        // RFC 9110 §9.3.2: a HEAD may leave out what only making the content would tell.
        if let Some(kind) = kind {
            set_type(visit, &kind, &mut out);
        }
        return Ok(visit.reply(StatusCode::OK, out, no_body(), Some(size)));
    }

    let selection = ByteRange::read(&visit.ask.headers, &etag).select(size);
    if matches!(selection, Selection::Part(_) | Selection::Parts(_)) {
        visit.check_range(size)?;
    }
    let (status, range, parts) = match selection {
        Selection::Whole => (StatusCode::OK, 0..size, None),
        Selection::Part(range) => {
            out.insert(CONTENT_RANGE, headers::content_range(&range, size));
            (StatusCode::PARTIAL_CONTENT, range, None)
        }
        Selection::Parts(ranges) => (StatusCode::PARTIAL_CONTENT, ranges[0].clone(), Some(ranges)),
        Selection::Unsatisfiable => return Err(GatewayError::Range { size }),
    };
    // One reader for the type and the body: what lies behind the first block is asked for at once, not after it.
    let mut reader = FileReader::new(visit.session.clone(), block, range.clone())?;
    let kind = match by_name {
        Some(kind) => kind,
        // The type is that of the file, so it is read from its beginning, not from the part.
        None if range.start > 0 => sniff_here(visit, block).await.unwrap_or_else(|| "application/octet-stream".into()),
        None if range.end >= (SNIFF_BYTES as u64).min(size) => {
            let bytes = if size > 0 { reader.peek(SNIFF_BYTES).await? } else { Bytes::new() };
            let bytes = bytes.slice(..bytes.len().min(SNIFF_BYTES));
            content_type::by_bytes(&bytes, bytes.len() as u64 == size)
        }
        None => {
            let mut start = FileReader::new(visit.session.clone(), block, 0..(SNIFF_BYTES as u64).min(size))?;
            let bytes = start.peek(SNIFF_BYTES).await?;
            content_type::by_bytes(&bytes, bytes.len() as u64 == size)
        }
    };
    set_type(visit, &kind, &mut out);
    let length = range.end - range.start;
    // The status is chosen when the first bytes are here (DESIGN.md §6, step 9).
    if length > 0 {
        let start = reader.peek(1).await?;
        if kind.starts_with("text/html") && range.start == 0 {
            visit.reads_page(&start);
        }
    }
    match parts {
        None => Ok(visit.reply(status, out, reader, Some(length))),
        Some(ranges) => {
            let parts = Multipart::new(&kind, size, ranges);
            out.insert(CONTENT_TYPE, headers::value(&parts.content_type()));
            let length = parts.length();
            let stream = several(parts, reader, visit.session.clone(), block.clone());
            Ok(visit.reply(status, out, stream.boxed(), Some(length)))
        }
    }
}

/// The parts one after another; `first` reads the first of them, the others are asked for when their turn comes.
fn several(
    parts: Multipart,
    first: FileReader,
    session: Session,
    block: Block,
) -> impl Stream<Item = Result<Bytes, ReadError>> + Send {
    let tail = parts.tail();
    let frames: Vec<(Bytes, Range<u64>)> =
        parts.ranges().iter().enumerate().map(|(index, range)| (parts.head(index, range), range.clone())).collect();
    let mut first = Some(first);
    let parts = futures::stream::iter(frames).flat_map(move |(head, range)| {
        let reader = first.take().map_or_else(|| FileReader::new(session.clone(), &block, range), Ok);
        let body = match reader {
            Ok(reader) => reader.left_stream(),
            Err(error) => futures::stream::iter([Err(error)]).right_stream(),
        };
        futures::stream::iter([Ok(head)]).chain(body)
    });
    parts.chain(futures::stream::iter([Ok(tail)]))
}

/// A symlink's target, as text: it is not followed (path-gateway specification).
pub(in super::super) fn symlink(visit: &mut Visit<'_>, resolved: &Resolved) -> Result<Response<Body>, GatewayError> {
    let NodeKind::Symlink { target } = &resolved.kind else {
        return Err(GatewayError::NotUnixFs { cid: resolved.cid, codec: resolved.cid.codec() });
    };
    let etag = headers::etag(&resolved.cid);
    let modified = resolved.mtime.and_then(|mtime| headers::modified(mtime.secs));
    if let Some(reply) = visit.unchanged(&etag, modified) {
        return Ok(reply);
    }
    let mut out = HeaderMap::with_capacity(24);
    common(visit, resolved, &etag, modified, &mut out);
    out.remove(ACCEPT_RANGES);
    out.insert(CONTENT_TYPE, HeaderValue::from_static("inode/symlink"));
    let target: Vec<u8> = target.clone().into();
    Ok(visit.reply_bytes(StatusCode::OK, out, target.into()))
}

fn common(visit: &Visit<'_>, resolved: &Resolved, etag: &str, modified: Option<SystemTime>, out: &mut HeaderMap) {
    headers::set_path(out, &visit.ask.path, &resolved.roots);
    out.insert(ETAG, headers::value(etag));
    out.insert(CACHE_CONTROL, headers::IMMUTABLE);
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(modified) = modified {
        out.insert(LAST_MODIFIED, headers::value(&httpdate::fmt_http_date(modified)));
    }
    if visit.ask.download || visit.ask.filename.is_some() {
        let cid = resolved.cid.to_string();
        out.insert(CONTENT_DISPOSITION, headers::disposition(visit.ask.download, visit.ask.name().unwrap_or(&cid)));
    }
}

fn set_type(visit: &Visit<'_>, kind: &str, out: &mut HeaderMap) {
    out.insert(CONTENT_TYPE, headers::value(kind));
    if visit.gateway.state.config.sandbox && content_type::is_active(kind) {
        out.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups"));
    }
}

/// The type by the first bytes if they are here already: the network is not asked for them.
async fn sniff_here(visit: &Visit<'_>, block: &Block) -> Option<String> {
    let here = SessionOptions { policy: None, local_only: true };
    let session = visit.gateway.state.retriever.session(*block.cid(), here);
    let mut start = FileReader::new(session, block, 0..SNIFF_BYTES as u64).ok()?;
    let bytes = start.peek(SNIFF_BYTES).await.ok()?;
    // As many as a whole answer looks at, so that all answers for a file agree.
    let bytes = bytes.slice(..bytes.len().min(SNIFF_BYTES));
    Some(content_type::by_bytes(&bytes, bytes.len() as u64 == start.size()))
}

fn no_body() -> futures::stream::Empty<Result<bytes::Bytes, GatewayError>> {
    futures::stream::empty()
}
