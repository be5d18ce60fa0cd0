//! A directory: its `index.html`, or a page that lists it.
//!
//! The page is written as the entries come, some at a time, so that a directory of any size costs the same memory. No
//! child is fetched: sizes are those that the directory states.

use std::fmt::Write as _;

use askama::Template;
use axum::body::Body;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::header::{CACHE_CONTROL, ETAG, HeaderMap};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::error::GatewayError;
use super::super::handler::Visit;
use super::super::{headers, page};
use super::file;
use crate::dag::{Entries, Entry, Resolved, directory};
use crate::ipld::Cid;
use crate::units::ByteSize;

/// Entries that are written at once.
const ROWS_PER_CHUNK: usize = 256;
/// What stays as it is in a link: what every other gateway leaves, so that addresses are the same everywhere.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

#[derive(Template)]
#[template(path = "gateway/listing.html")]
struct Head<'a> {
    title: &'a str,
    crumbs: &'a [Crumb],
    cid: &'a str,
    parent: Option<&'a str>,
}

struct Crumb {
    href: String,
    name: String,
}

#[derive(Template)]
#[template(path = "gateway/listing_rows.html")]
struct Rows {
    rows: Vec<Row>,
}

struct Row {
    href: String,
    name: String,
    cid: String,
    cid_href: String,
    bytes: Option<u64>,
    size: String,
}

#[derive(Template)]
#[template(path = "gateway/listing_end.html")]
struct End {
    count: u64,
}

/// The validator of a listing: the look and the content.
pub(in super::super) fn etag(cid: &Cid) -> String {
    format!("\"DirIndex-{}_CID-{cid}\"", *page::LISTING_HASH)
}

pub(in super::super) async fn respond(
    visit: &mut Visit<'_>,
    resolved: &Resolved,
) -> Result<Response<Body>, GatewayError> {
    if !visit.ask.path.trailing_slash {
        return Ok(visit.add_slash());
    }
    if let Some(index) = directory::index_html(&visit.session, &resolved.block).await? {
        let etag = headers::etag(&resolved.cid);
        if let Some(reply) = visit.unchanged(&etag, None) {
            return Ok(reply);
        }
        let block = visit.session.fetch(&index.cid).await?;
        return file::respond(visit, resolved, &block).await;
    }
    let etag = etag(&resolved.cid);
    if let Some(reply) = visit.unchanged(&etag, None) {
        return Ok(reply);
    }
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    page::set_headers(&mut out);
    out.insert(ETAG, headers::value(&etag));
    out.insert(CACHE_CONTROL, headers::LISTING);
    if visit.ask.is_head() {
        return Ok(visit.reply(StatusCode::OK, out, futures::stream::empty::<Result<_, GatewayError>>(), None));
    }
    let entries = Entries::new(visit.session.clone(), &resolved.block)?;
    let base = base(visit);
    let mut rest = rows(entries, base.clone()).boxed();
    // The first rows before the status: a HAMT whose shards cannot be had is an error, not half a page.
    let first = rest.next().await.transpose()?;
    let head = head(visit, resolved, &base)?;
    let start = futures::stream::iter([Ok(Bytes::from(head))].into_iter().chain(first.map(Ok)));
    let stream: BoxStream<'static, Result<Bytes, GatewayError>> = start.chain(rest).boxed();
    Ok(visit.reply(StatusCode::OK, out, stream, None))
}

/// The address of the directory, without the slash at its end.
fn base(visit: &Visit<'_>) -> String {
    let mut base = format!("/ipfs/{}", visit.ask.root);
    for segment in &visit.ask.path.segments {
        let _ = write!(base, "/{}", utf8_percent_encode(segment, SEGMENT));
    }
    base
}

fn head(visit: &Visit<'_>, resolved: &Resolved, base: &str) -> Result<String, GatewayError> {
    let root = visit.ask.root.to_string();
    let mut crumbs = vec![Crumb { href: format!("/ipfs/{root}"), name: root }];
    for segment in &visit.ask.path.segments {
        let above = crumbs.last().map(|crumb| crumb.href.as_str()).unwrap_or_default();
        let href = format!("{above}/{}", utf8_percent_encode(segment, SEGMENT));
        crumbs.push(Crumb { href, name: page::visible(segment) });
    }
    let parent = (!visit.ask.path.segments.is_empty()).then(|| format!("{base}/.."));
    let title = page::visible(&visit.ask.path.to_string());
    let cid = resolved.cid.to_string();
    Ok(Head { title: &title, crumbs: &crumbs, cid: &cid, parent: parent.as_deref() }.render()?)
}

/// Chunks of rows, then the end of the page.
fn rows(entries: Entries, base: String) -> impl futures::Stream<Item = Result<Bytes, GatewayError>> + Send {
    let start = Some((entries.ready_chunks(ROWS_PER_CHUNK), base, 0u64));
    futures::stream::try_unfold(start, |state| async move {
        let Some((mut entries, base, mut count)) = state else { return Ok(None) };
        let Some(chunk) = entries.next().await else {
            let end = End { count }.render()?;
            return Ok(Some((Bytes::from(end), None)));
        };
        let rows = chunk.into_iter().map(|entry| Ok(row(&base, entry?))).collect::<Result<Vec<_>, GatewayError>>()?;
        count += rows.len() as u64;
        let html = Rows { rows }.render()?;
        Ok(Some((Bytes::from(html), Some((entries, base, count)))))
    })
}

fn row(base: &str, entry: Entry) -> Row {
    let escaped = utf8_percent_encode(&entry.name, SEGMENT).to_string();
    // The name within the query is escaped once for the path that it is part of, and once for the query.
    let filename = utf8_percent_encode(&escaped, SEGMENT).to_string();
    Row {
        href: format!("{base}/{escaped}"),
        name: page::visible(&entry.name),
        cid: entry.cid.to_string(),
        cid_href: format!("/ipfs/{}?filename={filename}", entry.cid),
        bytes: entry.tsize,
        size: entry.tsize.map(|size| ByteSize(size).human()).unwrap_or_default(),
    }
}
