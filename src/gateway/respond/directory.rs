//! A directory: its `index.html`, or a page that lists it.
//!
//! The page is written as the entries come, some at a time, so that a directory of any size costs the same memory. No
//! child is fetched: sizes are those that the directory states. A sharded directory is read from the place where the
//! page begins, and no further than it ends; only who asks for another order has up to [`SORTABLE`] entries gathered.

use std::fmt::Write as _;

use askama::Template;
use axum::body::Body;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, VARY};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::super::error::GatewayError;
use super::super::handler::Visit;
use super::super::listing::{PAGE, SORTABLE, SORTABLE_BYTES, Sort, View, is_json};
use super::super::origin::Place;
use super::super::{headers, page};
use super::file;
use crate::dag::{DirectoryError, Entries, Entry, Resolved, directory};
use crate::ipld::Cid;
use crate::ipld::path::Namespace;
use crate::units::{ByteSize, visible};

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
    space: &'a str,
    crumbs: &'a [Crumb],
    cid: &'a str,
    parent: Option<&'a str>,
    columns: &'a [Column],
    note: Option<String>,
}

struct Crumb {
    href: String,
    name: String,
}

struct Column {
    name: &'static str,
    class: &'static str,
    href: String,
    /// `aria-sort`.
    sorted: &'static str,
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
    /// The CID's link leads to another site.
    elsewhere: bool,
    bytes: Option<u64>,
    size: String,
}

#[derive(Template)]
#[template(path = "gateway/listing_end.html")]
struct End {
    shown: u64,
    first: u64,
    summary: String,
    links: Vec<Link>,
}

struct Link {
    href: String,
    name: String,
    rel: &'static str,
}

/// An entry for programs.
#[derive(Serialize)]
struct JsonEntry<'a> {
    name: &'a str,
    cid: String,
    /// Bytes of everything below, as the directory states it.
    size: Option<u64>,
    href: String,
}

/// One page of entries.
struct Part {
    entries: BoxStream<'static, Result<Entry, DirectoryError>>,
    order: Order,
    /// The number of the first entry.
    first: u64,
    view: View,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// All entries are known, `total` of them.
    Sorted { sort: Sort, total: usize },
    /// As they are stored, all known: too many to sort.
    Stored { total: usize },
    /// As they are stored; how many there are is not known.
    Open,
}

/// How this origin writes links.
#[derive(Clone)]
struct Links {
    place: Place,
    /// The address of the directory, without the slash at its end.
    base: String,
}

/// The validator of a listing: the look and the content.
pub(in super::super) fn etag(cid: &Cid) -> String {
    format!("\"DirIndex-{}_CID-{cid}\"", *page::LISTING_HASH)
}

fn json_etag(cid: &Cid) -> String {
    format!("\"DirIndex-json1_CID-{cid}\"")
}

pub(in super::super) async fn respond(
    visit: &mut Visit<'_>,
    resolved: &Resolved,
) -> Result<Response<Body>, GatewayError> {
    if !visit.ask.path.trailing_slash {
        return Ok(visit.add_slash());
    }
    let json = is_json(visit.ask);
    if !json && let Some(index) = directory::index_html(&visit.session, &resolved.block).await? {
        visit.judge.verdict_below(directory::INDEX)?;
        let etag = headers::etag(&resolved.cid);
        if let Some(reply) = visit.unchanged(&etag, None) {
            return Ok(reply);
        }
        let block = visit.session.fetch(&index.cid).await?;
        return file::respond(visit, resolved, &block).await;
    }
    let etag = if json { json_etag(&resolved.cid) } else { etag(&resolved.cid) };
    if let Some(reply) = visit.unchanged(&etag, None) {
        return Ok(reply);
    }
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    if json {
        out.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    } else {
        page::set_script_headers(&mut out);
    }
    out.insert(ETAG, headers::value(&etag));
    out.insert(VARY, HeaderValue::from_static("Accept"));
    out.insert(CACHE_CONTROL, headers::LISTING);
    if visit.ask.is_head() {
        return Ok(visit.reply(StatusCode::OK, out, futures::stream::empty::<Result<_, GatewayError>>(), None));
    }
    let part = part(visit, resolved).await?;
    let links = Links::new(visit);
    let head = if json { json_head(visit, resolved, &part)? } else { head(visit, resolved, &links, &part)? };
    let mut rest = chunks(part, links, json).boxed();
    // The first rows before the status: a HAMT whose shards cannot be had is an error, not half a page.
    let first = rest.next().await.transpose()?;
    let start = futures::stream::iter([Ok(Bytes::from(head))].into_iter().chain(first.map(Ok)));
    let stream: BoxStream<'static, Result<Bytes, GatewayError>> = start.chain(rest).boxed();
    Ok(visit.reply(StatusCode::OK, out, stream, None))
}

/// Finds the entries of the page that is asked for.
async fn part(visit: &Visit<'_>, resolved: &Resolved) -> Result<Part, GatewayError> {
    let view = View::read(visit.ask.uri.query());
    let entries = Entries::new(visit.session.clone(), &resolved.block)?;
    let gathered = match (entries.is_sharded(), view.sort) {
        // All of it is in the block that is here.
        (false, _) => Some(entries.try_collect::<Vec<_>>().await?),
        (true, Some(_)) => gather(entries).await?,
        (true, None) => None,
    };
    let Some(mut all) = gathered else {
        let entries = match &view.after {
            Some(after) => Entries::after(visit.session.clone(), &resolved.block, after)?,
            None => Entries::new(visit.session.clone(), &resolved.block)?,
        };
        let first = if view.after.is_some() { view.first } else { 1 };
        return Ok(Part { entries: entries.boxed(), order: Order::Open, first, view });
    };
    let total = all.len();
    let order = if total > SORTABLE {
        Order::Stored { total }
    } else {
        let sort = view.sort.unwrap_or(Sort::Name);
        view.apply(sort, &mut all);
        Order::Sorted { sort, total }
    };
    let start = (view.page - 1).saturating_mul(PAGE).min(total);
    let entries = futures::stream::iter(all.into_iter().skip(start).take(PAGE).map(Ok)).boxed();
    Ok(Part { entries, order, first: start as u64 + 1, view })
}

/// All entries; `None`: too many to sort.
async fn gather(mut entries: Entries) -> Result<Option<Vec<Entry>>, DirectoryError> {
    let mut all = Vec::new();
    let mut bytes = 0;
    while let Some(entry) = entries.try_next().await? {
        bytes += entry.name.len();
        if all.len() == SORTABLE || bytes > SORTABLE_BYTES {
            return Ok(None);
        }
        all.push(entry);
    }
    Ok(Some(all))
}

impl Links {
    fn new(visit: &Visit<'_>) -> Self {
        let ask = visit.ask;
        let mut base =
            if ask.place.is_isolated() { String::new() } else { format!("/{}/{}", space(visit), root(visit)) };
        for segment in &ask.path.segments {
            let _ = write!(base, "/{}", utf8_percent_encode(segment, SEGMENT));
        }
        Self { place: ask.place.clone(), base }
    }

    /// The address of the root, as others would write it.
    fn root(&self, visit: &Visit<'_>) -> String {
        let root = format!("/{}/{}", space(visit), root(visit));
        match &self.place {
            Place::Path => root,
            Place::Subdomain { parent } => format!("//{parent}{root}"),
            Place::DnsLink { authority } => format!("//{authority}/"),
        }
    }

    fn cid(&self, cid: &Cid, escaped_name: &str) -> String {
        // The name within the query is escaped once for the path that it is part of, and once for the query.
        let filename = utf8_percent_encode(escaped_name, SEGMENT);
        match &self.place {
            Place::Path => format!("/ipfs/{cid}?filename={filename}"),
            Place::Subdomain { parent } => format!("//{parent}/ipfs/{cid}?filename={filename}"),
            // The domain serves its own content only.
            Place::DnsLink { .. } => format!("https://cid.ipfs.tech/#{cid}"),
        }
    }

    fn entry(&self, name: &str) -> (String, String) {
        let escaped = utf8_percent_encode(name, SEGMENT).to_string();
        (format!("{}/{escaped}", self.base), escaped)
    }

    fn row(&self, entry: Entry) -> Row {
        let (href, escaped) = self.entry(&entry.name);
        Row {
            href,
            name: visible(&entry.name),
            cid: entry.cid.to_string(),
            cid_href: self.cid(&entry.cid, &escaped),
            elsewhere: matches!(self.place, Place::DnsLink { .. }),
            bytes: entry.tsize,
            size: entry.tsize.map(|size| ByteSize(size).human()).unwrap_or_default(),
        }
    }
}

fn space(visit: &Visit<'_>) -> &'static str {
    match visit.ask.path.namespace {
        Namespace::Ipfs(_) => "ipfs",
        Namespace::Ipns(_) => "ipns",
    }
}

fn root(visit: &Visit<'_>) -> String {
    utf8_percent_encode(&visit.ask.path.root(), SEGMENT).to_string()
}

fn head(visit: &Visit<'_>, resolved: &Resolved, links: &Links, part: &Part) -> Result<String, GatewayError> {
    let path = &visit.ask.path;
    let mut crumbs = vec![Crumb { href: links.root(visit), name: visible(&path.root()) }];
    for segment in &path.segments {
        let above = crumbs.last().map(|crumb| crumb.href.trim_end_matches('/')).unwrap_or_default();
        let href = format!("{above}/{}", utf8_percent_encode(segment, SEGMENT));
        crumbs.push(Crumb { href, name: visible(segment) });
    }
    let parent = (!path.segments.is_empty()).then(|| format!("{}/..", links.base));
    let title = visible(&path.to_string());
    let cid = resolved.cid.to_string();
    let head = Head {
        title: &title,
        space: space(visit),
        crumbs: &crumbs,
        cid: &cid,
        parent: parent.as_deref(),
        columns: &columns(part),
        note: note(part),
    };
    Ok(head.render()?)
}

fn columns(part: &Part) -> [Column; 3] {
    let sorted = match part.order {
        Order::Sorted { sort, .. } => Some(sort),
        _ => None,
    };
    [(Sort::Name, "Name", ""), (Sort::Cid, "CID", "h"), (Sort::Size, "Size", "n")].map(|(sort, name, class)| Column {
        name,
        class,
        href: part.view.sort_href(sort, sorted),
        sorted: match (sorted == Some(sort), part.view.descending) {
            (false, _) => "",
            (true, false) => "ascending",
            (true, true) => "descending",
        },
    })
}

/// What people should know of the order, where it is not the one that they would expect.
fn note(part: &Part) -> Option<String> {
    let asked = part.view.sort.is_some();
    match part.order {
        Order::Sorted { .. } => None,
        Order::Open if !asked => {
            Some("This directory is sharded: its entries are shown in the order in which they are stored.".into())
        }
        _ => Some(format!(
            "This directory has more than {SORTABLE} entries, too many to sort: they are shown in the order in which they are stored."
        )),
    }
}

fn json_head(visit: &Visit<'_>, resolved: &Resolved, part: &Part) -> Result<String, GatewayError> {
    let (order, total) = match part.order {
        Order::Sorted { sort, total } => (sort.as_str(), Some(total)),
        Order::Stored { total } => ("stored", Some(total)),
        Order::Open => ("stored", None),
    };
    let head = serde_json::json!({
        "path": visit.ask.path.to_string(),
        "cid": resolved.cid.to_string(),
        "order": order,
        "descending": part.view.descending && order != "stored",
        "total": total,
        "first": part.first,
    });
    // The entries follow as they come.
    let mut text = head.to_string();
    text.pop();
    text.push_str(",\"entries\":[");
    Ok(text)
}

/// A page under way.
struct Writing {
    part: Part,
    links: Links,
    json: bool,
    shown: u64,
    last: Option<String>,
}

/// Chunks of rows, then the end of the page.
fn chunks(part: Part, links: Links, json: bool) -> impl futures::Stream<Item = Result<Bytes, GatewayError>> + Send {
    let start = Some(Writing { part, links, json, shown: 0, last: None });
    futures::stream::try_unfold(start, |state| async move {
        let Some(mut writing) = state else { return Ok(None) };
        let room = PAGE.saturating_sub(writing.shown as usize).min(ROWS_PER_CHUNK);
        let mut chunk = Vec::new();
        while chunk.len() < room {
            // What is here is written; what is not is waited for only when there is nothing to write.
            let next = match chunk.is_empty() {
                true => writing.part.entries.next().await,
                false => match futures::FutureExt::now_or_never(writing.part.entries.next()) {
                    Some(next) => next,
                    None => break,
                },
            };
            match next {
                Some(entry) => chunk.push(entry?),
                None => break,
            }
        }
        if chunk.is_empty() {
            let end = writing.end().await?;
            return Ok(Some((Bytes::from(end), None)));
        }
        let text = writing.rows(chunk)?;
        Ok::<_, GatewayError>(Some((Bytes::from(text), Some(writing))))
    })
}

impl Writing {
    fn rows(&mut self, entries: Vec<Entry>) -> Result<String, GatewayError> {
        self.last = entries.last().map(|entry| entry.name.clone());
        let before = self.shown;
        self.shown += entries.len() as u64;
        if !self.json {
            let rows = entries.into_iter().map(|entry| self.links.row(entry)).collect();
            return Ok(Rows { rows }.render()?);
        }
        let mut text = String::new();
        for (index, entry) in entries.iter().enumerate() {
            text.push_str(if before == 0 && index == 0 { "\n" } else { ",\n" });
            let (href, _) = self.links.entry(&entry.name);
            let shown = JsonEntry { name: &entry.name, cid: entry.cid.to_string(), size: entry.tsize, href };
            // A struct of plain fields always has a JSON form.
            text.push_str(&serde_json::to_string(&shown).unwrap_or_default());
        }
        Ok(text)
    }

    async fn end(&mut self) -> Result<String, GatewayError> {
        let Part { order, first, view, .. } = &self.part;
        let (first, last) = (*first, *first + self.shown.saturating_sub(1));
        let mut links = Vec::new();
        let mut link = |name: &str, rel, href| links.push(Link { href, name: name.to_owned(), rel });
        let mut next = None;
        let total = match order {
            Order::Sorted { total, .. } | Order::Stored { total } => {
                let pages = total.div_ceil(PAGE);
                if view.page > 1 {
                    link("First page", "", view.page_href(1));
                    link("Previous page", "prev", view.page_href((view.page - 1).min(pages.max(1))));
                }
                next = (view.page < pages).then(|| view.page_href(view.page + 1));
                Some(*total as u64)
            }
            Order::Open => {
                if view.after.is_some() {
                    link("First page", "", "?".to_owned());
                }
                None
            }
        };
        let mut is_whole = total.is_some_and(|total| total == self.shown);
        if *order == Order::Open {
            let more = self.shown as usize >= PAGE && self.part.entries.next().await.transpose()?.is_some();
            next = self.last.as_ref().filter(|_| more).map(|name| self.part.view.after_href(name, last + 1));
            is_whole = !more && first == 1;
        }
        if self.json {
            // A text always has a JSON form.
            let next = serde_json::to_string(&next).unwrap_or_default();
            return Ok(format!("\n],\"next\":{next}}}\n"));
        }
        let is_last = next.is_none();
        if let Some(href) = next {
            links.push(Link { href, name: "Next page".to_owned(), rel: "next" });
        }
        let summary = match (is_whole, total) {
            (true, _) if self.shown == 1 => "1 entry.".to_owned(),
            (true, _) => format!("{} entries.", self.shown),
            (false, _) if self.shown == 0 => "There are no entries on this page.".to_owned(),
            (false, Some(total)) => format!("Entries {first} to {last} of {total}."),
            (false, None) if is_last => format!("Entries {first} to {last}, the last."),
            (false, None) => format!("Entries {first} to {last}; there are more."),
        };
        Ok(End { shown: self.shown, first, summary, links }.render()?)
    }
}
