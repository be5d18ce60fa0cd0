//! A page that shows a block of structured data: its values by their paths, its links as links.

use askama::Template;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, HeaderMap};
use http::{Response, StatusCode};
use ipld_core::ipld::Ipld;

use super::super::error::GatewayError;
use super::super::handler::{Ask, Visit};
use super::super::{headers, page};
use crate::dag::Resolved;
use crate::ipld::dag_pb::PbNode;
use crate::ipld::path::encode_segment;
use crate::ipld::{Block, Cid, codec};
use crate::units::{ByteSize, visible};

/// The largest block whose values are shown, in bytes: decoded, a block may take some fifty times its size.
const MAX_SHOWN: usize = 256 << 10;
const MAX_ROWS: usize = 2000;
/// Characters of one value that are shown.
const MAX_VALUE: usize = 400;

#[derive(Template)]
#[template(path = "gateway/dag.html")]
struct Page<'a> {
    title: &'a str,
    cid: &'a str,
    codec: &'a str,
    size: String,
    downloads: Vec<(&'static str, String)>,
    problem: Option<String>,
    rows: Vec<Row>,
    more: bool,
}

struct Row {
    path: String,
    kind: &'static str,
    value: String,
    href: Option<String>,
}

/// Whether there is something to show of that codec.
pub(in super::super) fn can_show(code: u64) -> bool {
    name(code).is_some()
}

/// Whether a request for a block of that codec, in its own form, means the page.
pub(in super::super) fn is_meant(code: u64, ask: &Ask) -> bool {
    ask.negotiated.html && matches!(code, codec::DAG_CBOR | codec::DAG_JSON | codec::CBOR | codec::JSON)
}

fn name(code: u64) -> Option<&'static str> {
    match code {
        codec::DAG_CBOR => Some("dag-cbor"),
        codec::DAG_JSON => Some("dag-json"),
        codec::DAG_PB => Some("dag-pb"),
        codec::CBOR => Some("cbor"),
        codec::JSON => Some("json"),
        _ => None,
    }
}

/// The validator: the look and the content.
pub(in super::super) fn etag(cid: &Cid) -> String {
    format!("\"DagIndex-{}_CID-{cid}\"", *page::DAG_HASH)
}

pub(in super::super) fn respond(visit: &mut Visit<'_>, resolved: &Resolved) -> Result<Response<Body>, GatewayError> {
    let etag = etag(&resolved.cid);
    if let Some(reply) = visit.unchanged(&etag, None) {
        return Ok(reply);
    }
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    page::set_headers(&mut out);
    out.insert(ETAG, headers::value(&etag));
    out.insert(CACHE_CONTROL, headers::LISTING);
    let html = render(visit, resolved)?;
    Ok(visit.reply_bytes(StatusCode::OK, out, Bytes::from(html)))
}

fn render(visit: &Visit<'_>, resolved: &Resolved) -> Result<String, askama::Error> {
    let block = &resolved.block;
    let form = name(resolved.cid.codec()).unwrap_or("raw");
    let own = (form != "dag-pb").then(|| (form, format!("?format={form}")));
    let downloads = own.into_iter().chain([("Block", "?format=raw".to_owned()), ("CAR", "?format=car".to_owned())]);
    let (rows, more, problem) = match values(block) {
        Ok((rows, more)) => (rows, more, None),
        Err(problem) => (Vec::new(), false, Some(problem)),
    };
    let page = Page {
        title: &visible(&visit.ask.path.to_string()),
        cid: &resolved.cid.to_string(),
        codec: form,
        size: ByteSize(block.len() as u64).human(),
        downloads: downloads.collect(),
        problem,
        rows,
        more,
    };
    page.render()
}

/// The values by their paths, and whether there are more; else why there are none.
fn values(block: &Block) -> Result<(Vec<Row>, bool), String> {
    if block.len() > MAX_SHOWN {
        return Err("This block is too large to be shown as a page.".to_owned());
    }
    let unsound = |error: String| format!("This block is not what its codec says: {error}.");
    // Bounds the nesting before anything is decoded.
    let _ = codec::links(block).map_err(|error| unsound(error.to_string()))?;
    let value = match block.cid().codec() {
        codec::DAG_CBOR => serde_ipld_dagcbor::from_slice(block.data()).map_err(|error| unsound(error.to_string()))?,
        codec::DAG_JSON => serde_ipld_dagjson::from_slice(block.data()).map_err(|error| unsound(error.to_string()))?,
        codec::JSON => {
            let value: serde_json::Value =
                serde_json::from_slice(block.data()).map_err(|error| unsound(error.to_string()))?;
            Ipld::String(format!("{value:#}"))
        }
        codec::DAG_PB => return links_of(block).map_err(unsound),
        _ => return Err("This codec has no page. Ask for the block itself.".to_owned()),
    };
    let mut rows = Vec::new();
    // What is still to be shown, the next one last.
    let mut pending = vec![(String::new(), value)];
    while let Some((path, value)) = pending.pop() {
        if rows.len() == MAX_ROWS {
            return Ok((rows, true));
        }
        let at = |name: &str| format!("{path}/{name}");
        match value {
            Ipld::Map(map) if !map.is_empty() => {
                pending.extend(map.into_iter().rev().map(|(key, value)| (at(&key), value)));
            }
            Ipld::List(items) if !items.is_empty() => {
                pending.extend(items.into_iter().enumerate().rev().map(|(index, item)| (at(&index.to_string()), item)));
            }
            value => rows.push(row(path, value)),
        }
    }
    Ok((rows, false))
}

fn row(path: String, value: Ipld) -> Row {
    let mut href = None;
    let (kind, text) = match value {
        Ipld::Null => ("null", "null".to_owned()),
        Ipld::Bool(value) => ("boolean", value.to_string()),
        Ipld::Integer(value) => ("integer", value.to_string()),
        Ipld::Float(value) => ("float", value.to_string()),
        Ipld::String(value) => ("text", value),
        Ipld::Bytes(value) => ("bytes", format!("{} B: {}", value.len(), hex::encode(&value[..value.len().min(64)]))),
        Ipld::List(_) => ("list", "[]".to_owned()),
        Ipld::Map(_) => ("map", "{}".to_owned()),
        Ipld::Link(cid) => {
            href = Some(format!("/ipfs/{cid}"));
            ("link", cid.to_string())
        }
    };
    let cut = text.char_indices().nth(MAX_VALUE).map(|(at, _)| at);
    let shown = visible(&text[..cut.unwrap_or(text.len())]);
    let value = if cut.is_some() { format!("{shown}…") } else { shown };
    let path = if path.is_empty() { "/".to_owned() } else { visible(&path) };
    Row { path, kind, value, href }
}

fn links_of(block: &Block) -> Result<(Vec<Row>, bool), String> {
    let node = PbNode::decode(block.data()).map_err(|error| error.to_string())?;
    let more = node.links.len() > MAX_ROWS;
    let mut rows = Vec::new();
    if let Some(data) = &node.data {
        rows.push(row("/Data".to_owned(), Ipld::Bytes(data.to_vec())));
    }
    for (index, link) in node.links.into_iter().take(MAX_ROWS).enumerate() {
        rows.push(Row {
            path: format!("/Links/{index}"),
            kind: "link",
            value: link.cid.to_string(),
            href: Some(format!("/ipfs/{}", encode_segment(&link.cid.to_string()))),
        });
    }
    Ok((rows, more))
}
