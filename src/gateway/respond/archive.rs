//! `format=tar` and `format=zip`: a file or a directory as one archive.

use axum::body::Body;
use bytes::Bytes;
use futures::stream::StreamExt;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::super::error::GatewayError;
use super::super::handler::Visit;
use super::super::{format, headers, size};
use crate::dag::archive::{Archive, ArchiveError, ArchiveKind};
use crate::dag::{NodeKind, Resolved};
use crate::ipld::Cid;

/// Bytes that are made before the status is chosen: a small archive that cannot be made is an error and not half a file.
const BEFORE_STATUS: usize = 64 << 10;

/// Weak: the bytes around the content are ours, and another release may write them otherwise.
pub(in super::super) fn etag(cid: &Cid, kind: ArchiveKind) -> String {
    match kind {
        ArchiveKind::Tar => format!("W/\"{cid}.x-tar\""),
        ArchiveKind::Zip => format!("W/\"{cid}.zip\""),
    }
}

pub(in super::super) async fn respond(
    visit: &mut Visit<'_>,
    resolved: &Resolved,
    kind: ArchiveKind,
) -> Result<Response<Body>, GatewayError> {
    if let NodeKind::Other { codec, .. } = resolved.kind {
        return Err(GatewayError::NotUnixFs { cid: resolved.cid, codec });
    }
    let etag = etag(&resolved.cid, kind);
    if let Some(reply) = visit.unchanged(&etag, None) {
        return Ok(reply);
    }
    visit.check_deserialized(resolved.cid, size::claimed(resolved))?;
    let (media, extension) = match kind {
        ArchiveKind::Tar => (format::TAR, "tar"),
        ArchiveKind::Zip => (format::ZIP, "zip"),
    };
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    out.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    out.insert(ETAG, headers::value(&etag));
    out.insert(CACHE_CONTROL, headers::IMMUTABLE);
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    let default_name = format!("{}.{extension}", resolved.cid);
    let name = visit.ask.filename.as_deref().unwrap_or(&default_name);
    out.insert(CONTENT_DISPOSITION, headers::disposition(true, name));
    if visit.ask.is_head() {
        return Ok(visit.reply(StatusCode::OK, out, futures::stream::empty::<Result<Bytes, ArchiveError>>(), None));
    }
    let mut archive = Archive::new(visit.session.clone(), resolved, kind, visit.judge.clone());
    let (mut first, mut bytes) = (Vec::new(), 0);
    while bytes < BEFORE_STATUS {
        let Some(chunk) = archive.next().await.transpose()? else { break };
        bytes += chunk.len();
        first.push(Ok(chunk));
    }
    let most = visit.most(true);
    Ok(visit.reply_at_most(StatusCode::OK, out, futures::stream::iter(first).chain(archive), most))
}
