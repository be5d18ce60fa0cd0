//! A path that a site does not have, and what its `_redirects` says about that.
//!
//! Only on an origin of the site's own: elsewhere the rules of one site would be those of every site beside it
//! (web-redirects-file specification, "Security").

use axum::body::Body;
use futures::stream::StreamExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, LOCATION};
use http::{Response, StatusCode};

use super::super::content_type::{self, SNIFF_BYTES};
use super::super::error::GatewayError;
use super::super::format::ResponseFormat;
use super::super::handler::Visit;
use super::super::headers;
use super::super::redirects::{Answer, MAX_FILE_BYTES, Redirects, RedirectsError};
use super::file;
use crate::dag::{self, FileReader, NodeKind, ResolveError, Resolved, directory};
use crate::ipld::path::ContentPath;

const FILE: &str = "_redirects";

/// Answers for a path that could not be resolved because of `error`.
pub(in super::super) async fn respond(
    visit: &mut Visit<'_>,
    error: ResolveError,
) -> Result<Response<Body>, GatewayError> {
    let is_missing = matches!(error, ResolveError::NoLink { .. } | ResolveError::NotUnixFs { .. });
    let applies = visit.ask.place.is_isolated() && visit.ask.negotiated.format == ResponseFormat::Deserialized;
    if !is_missing || !applies {
        return Err(error.into());
    }
    let rules = match rules(visit).await? {
        Some(rules) => rules,
        None => return Err(error.into()),
    };
    let path = &visit.ask.path;
    match rules.answer(&path.segments, path.trailing_slash, visit.ask.uri.query()) {
        None => Err(error.into()),
        Some(Answer::Redirect { status, location }) => {
            // Local invariant: a rule's status is one of seven, all of them valid.
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
            visit.light(status);
            let mut reply = Response::new(Body::empty());
            *reply.status_mut() = status;
            let out = reply.headers_mut();
            out.insert(LOCATION, headers::value(&location));
            out.insert(CACHE_CONTROL, headers::LISTING);
            headers::set_path(out, &visit.ask.path, &[visit.ask.root]);
            visit.ask.set_cache_control(out);
            Ok(reply)
        }
        Some(Answer::Serve { status, path }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            serve(visit, status, &path).await
        }
    }
}

/// The rules at the root of the site; `None`: it has none.
async fn rules(visit: &Visit<'_>) -> Result<Option<Redirects>, GatewayError> {
    let unreadable = |error: GatewayError| GatewayError::RedirectsFile(Box::new(error));
    let mut way = visit.ask.site().to_vec();
    way.push(FILE.to_owned());
    let found = match dag::resolve_from(&visit.session, visit.ask.root, &way).await {
        Ok(found) => found,
        Err(ResolveError::NoLink { .. } | ResolveError::NotUnixFs { .. }) => return Ok(None),
        Err(error) => return Err(unreadable(error.into())),
    };
    let found = found.fetch(&visit.session).await.map_err(|error| unreadable(error.into()))?;
    let NodeKind::File { size } = found.kind else {
        return Err(unreadable(GatewayError::NotUnixFs { cid: found.cid, codec: found.cid.codec() }));
    };
    if size > MAX_FILE_BYTES {
        return Err(RedirectsError::TooLarge.into());
    }
    let bytes = read(visit, &found, size).await.map_err(unreadable)?;
    Ok(Some(Redirects::parse(&bytes)?))
}

async fn read(visit: &Visit<'_>, file: &Resolved, size: u64) -> Result<Vec<u8>, GatewayError> {
    let mut reader = FileReader::new(visit.session.clone(), &file.block, 0..size)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// Serves the file at `to`, a path of the site: as itself, or as the page of an error.
async fn serve(visit: &mut Visit<'_>, status: StatusCode, to: &str) -> Result<Response<Body>, GatewayError> {
    let missing = || GatewayError::RedirectsTarget { to: to.to_owned() };
    // The root's own spelling does not matter here: only the segments are taken.
    let target = ContentPath::parse(&format!("/ipns/site{to}")).map_err(|_| missing())?;
    let mut way = visit.ask.site().to_vec();
    way.extend(target.segments.iter().cloned());
    // The file is another than the one that was asked for.
    visit.judge = visit.ask.judge(visit.gateway, &target.segments);
    visit.judge.verdict()?;
    let resolved = match dag::resolve_from(&visit.session, visit.ask.root, &way).await {
        Err(ResolveError::NoLink { .. } | ResolveError::NotUnixFs { .. }) => return Err(missing()),
        resolved => resolved?,
    };
    visit.judge.passed(&resolved.roots);
    visit.judge.verdict()?;
    let resolved = resolved.fetch(&visit.session).await?;
    let (block, name) = match &resolved.kind {
        NodeKind::File { .. } => (resolved.block.clone(), target.segments.last().cloned()),
        _ if resolved.is_directory() => {
            let index = directory::index_html(&visit.session, &resolved.block).await?.ok_or_else(missing)?;
            visit.judge.verdict_below(directory::INDEX)?;
            (visit.session.fetch(&index.cid).await?, Some("index.html".to_owned()))
        }
        _ => return Err(missing()),
    };
    visit.serve_as(name);
    if status == StatusCode::OK {
        return file::respond(visit, &resolved, &block).await;
    }
    // No range and no 304: those are about content that is there (RFC 9110 §13.1, §14.2).
    let size = dag::reader::file_size(&block)?;
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    out.insert(ETAG, headers::value(&headers::etag(&resolved.cid)));
    out.insert(CACHE_CONTROL, headers::IMMUTABLE);
    let mut reader = FileReader::new(visit.session.clone(), &block, 0..size)?;
    let bytes = reader.peek(SNIFF_BYTES).await?;
    let by_name = visit.name().and_then(content_type::by_name);
    let kind = by_name.unwrap_or_else(|| content_type::by_bytes(&bytes, bytes.len() as u64 == size));
    out.insert(CONTENT_TYPE, headers::value(&kind));
    Ok(visit.reply(status, out, reader, Some(size)))
}
