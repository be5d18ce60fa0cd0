//! `/names`: where they lead, the records that are kept here, and publishing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Request, State as Extract};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::State;
use super::cursor;
use super::extract::{Json, Query, fresh, limit};
use super::openapi::Binary;
use super::problem::Problem;
use crate::ipld::ipns::{IpnsName, MAX_RECORD, NameSyntaxError, Record};
use crate::ipld::path::ContentPath;
use crate::names::{Hop, Kept, Name, NameError, Publish, Published, Source};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 500;
/// Longest and shortest life of a record that is published here.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NameSource)]
enum SourceView {
    Map,
    Local,
    Delegated,
    Dht,
    Dns,
}

impl From<Source> for SourceView {
    fn from(source: Source) -> Self {
        match source {
            Source::Map => Self::Map,
            Source::Local => Self::Local,
            Source::Delegated => Self::Delegated,
            Source::Dht => Self::Dht,
            Source::Dns => Self::Dns,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = ResolvedName)]
struct ResolvedView {
    name: String,
    /// An `/ipfs/` path.
    path: String,
    /// Seconds for which the answer counts; null when nobody says.
    ttl_s: Option<u64>,
    source: SourceView,
    /// Every name on the way.
    trail: Vec<HopView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = NameHop)]
struct HopView {
    name: String,
    path: String,
    source: SourceView,
    ttl_s: Option<u64>,
    /// Past its TTL, and being looked up again.
    stale: bool,
}

impl HopView {
    fn new(hop: &Hop) -> Self {
        Self {
            name: hop.name.to_string(),
            path: hop.path.to_string(),
            source: hop.source.into(),
            ttl_s: hop.ttl.map(|ttl| ttl.as_secs()),
            stale: hop.stale,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = NameRecord)]
struct RecordView {
    name: String,
    path: String,
    sequence: u64,
    ttl_s: Option<u64>,
    eol_us: u64,
    expired: bool,
    /// The key that signs it anew; null for records that others signed. The node's own key is "".
    key: Option<String>,
    updated_us: Option<u64>,
}

impl RecordView {
    fn new(record: &Record) -> Self {
        Self {
            name: record.name().to_string(),
            path: record.value().to_owned(),
            sequence: record.sequence(),
            ttl_s: record.ttl().map(|ttl| ttl.as_secs()),
            eol_us: micros(record.eol()),
            expired: !record.is_valid_at(SystemTime::now()),
            key: None,
            updated_us: None,
        }
    }

    fn of(kept: Kept) -> Self {
        let key = kept.own.map(|own| own.key);
        Self { key, updated_us: Some(micros(kept.updated)), ..Self::new(&kept.record) }
    }
}

/// Where a name leads
#[utoipa::path(
    get, path = "/names/{name}", tag = "names", params(("name" = String, Path, description = "An IPNS key in any form, or a DNS name")),
    responses(
        (status = 200, body = ResolvedView),
        (status = 404, description = "Nobody has a record of it, or DNS has no link."),
        (status = 502, description = "What was found is not valid, or nobody could be asked."),
        (status = 504, description = "Nobody answered in time."),
    )
)]
pub async fn one(Extract(state): Extract<State>, Path(name): Path<String>) -> Result<Response, Problem> {
    let name: Name = name.parse()?;
    let resolved = state.names.resolve(&name).await?;
    let view = ResolvedView {
        name: name.to_string(),
        path: resolved.path.to_string(),
        ttl_s: resolved.ttl.map(|ttl| ttl.as_secs()),
        source: resolved.source.into(),
        trail: resolved.trail.iter().map(HopView::new).collect(),
    };
    Ok(fresh(StatusCode::OK, view))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAsked {
    /// `next_cursor` of the part before.
    cursor: Option<String>,
    /// Default 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = NameList)]
struct List {
    items: Vec<RecordView>,
    next_cursor: Option<String>,
}

/// The records that are kept here
///
/// Put or published, expired or not, in the order of the names' bytes.
#[utoipa::path(get, path = "/names", tag = "names", params(ListAsked), responses((status = 200, body = List)))]
pub async fn list(Extract(state): Extract<State>, Query(asked): Query<ListAsked>) -> Result<Response, Problem> {
    let limit = limit(asked.limit, DEFAULT_LIMIT, MAX_LIMIT)? as usize;
    let after = asked.cursor.as_deref().map(|text| cursor::read(cursor::List::Names, text)).transpose()?;
    let key = |kept: &Kept| kept.record.name().peer().to_bytes();
    let mut kept = state.names.kept().await?;
    kept.retain(|kept| after.as_ref().is_none_or(|after| key(kept) > *after));
    let more = kept.len() > limit;
    kept.truncate(limit);
    let next_cursor = kept.last().filter(|_| more).map(|last| cursor::write(cursor::List::Names, &key(last)));
    Ok(fresh(StatusCode::OK, List { items: kept.into_iter().map(RecordView::of).collect(), next_cursor }))
}

/// Keep a record that somebody signed
///
/// It must be valid and no older than the one that is here. Routers are told behind the answer.
#[utoipa::path(
    put, path = "/names/{name}", tag = "names", params(("name" = String, Path, description = "An IPNS key in any form, or a DNS name")),
    request_body(content = Binary, content_type = "application/vnd.ipfs.ipns-record", description = "At most 10 KiB"),
    responses(
        (status = 200, body = RecordView),
        (status = 409, description = "A newer record is here."),
        (status = 413, description = "The body is over 10 KiB."),
        (status = 415, description = "The body is a form."),
        (status = 422, description = "The record is not valid, or of another name."),
        (status = 507, description = "The store is full or cannot be written."),
    )
)]
pub async fn put(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let name: IpnsName = name.parse().map_err(|error: NameSyntaxError| Problem::bad_request(error.to_string()))?;
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("multipart/") || kind.starts_with("application/x-www-form-urlencoded") {
        return Err(Problem::media_type("the body is the record itself (application/vnd.ipfs.ipns-record)"));
    }
    let too_large = || Problem::too_large(format!("a record has at most {MAX_RECORD} bytes"));
    let bytes = axum::body::to_bytes(request.into_body(), MAX_RECORD).await.map_err(|_| too_large())?;
    match state.names.put(&name, bytes).await {
        Ok(record) => Ok(fresh(StatusCode::OK, RecordView::new(&record))),
        Err(error @ NameError::Invalid { .. }) => Err(Problem::unprocessable(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NamePublish)]
pub struct Asked {
    /// `/ipfs/CID[/path]` or `/ipns/NAME[/path]`.
    #[schema(example = "/ipfs/bafkqabtimvwgy3yk")]
    path: String,
    /// A key of this server, made at its first use: 1 to 64 of a-z, 0-9, `-` and `_`. Default: the node's own.
    key: Option<String>,
    /// How long the record is valid, in seconds. Default: 48 hours.
    #[schema(minimum = 60, maximum = 315360000)]
    lifetime_s: Option<u64>,
    /// How long others may keep the answer, in seconds; no longer than `lifetime_s`. Default: 5 minutes.
    #[schema(maximum = 315360000)]
    ttl_s: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PublishedName)]
struct PublishedView {
    #[serde(flatten)]
    record: RecordView,
    announced: Vec<AnnouncedView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AnnouncedName)]
struct AnnouncedView {
    router: &'static str,
    /// Null: the router took it.
    error: Option<String>,
}

/// Sign, keep and announce a record
///
/// A router that does not take it is named; the record is announced again later, and signed anew before it expires.
#[utoipa::path(
    post, path = "/names", tag = "names", request_body = Asked,
    responses(
        (status = 200, body = PublishedView),
        (status = 413, description = "The body is too large."),
        (status = 415, description = "The body is not JSON."),
        (status = 422, description = "The body does not fit."),
        (status = 507, description = "The store is full or cannot be written."),
    )
)]
pub async fn publish(Extract(state): Extract<State>, Json(asked): Json<Asked>) -> Result<Response, Problem> {
    if !asked.path.starts_with('/') {
        return Err(Problem::at_pointer("/path", "path is /ipfs/CID[/path] or /ipns/NAME[/path]"));
    }
    let value =
        ContentPath::parse_text(&asked.path).map_err(|error| Problem::at_pointer("/path", error.to_string()))?;
    let mut publish = Publish::new(value);
    publish.key = asked.key.filter(|key| !key.is_empty());
    if let Some(seconds) = asked.lifetime_s {
        publish.lifetime = Duration::from_secs(seconds);
    }
    if let Some(seconds) = asked.ttl_s {
        if seconds > MAX_LIFETIME.as_secs() {
            return Err(Problem::at_pointer("/ttl_s", format!("ttl_s is at most {}", MAX_LIFETIME.as_secs())));
        }
        publish.ttl = Duration::from_secs(seconds);
    }
    if publish.lifetime < MIN_LIFETIME || publish.lifetime > MAX_LIFETIME {
        let (min, max) = (MIN_LIFETIME.as_secs(), MAX_LIFETIME.as_secs());
        return Err(Problem::at_pointer("/lifetime_s", format!("lifetime_s is {min} to {max}")));
    }
    let Published { record, announced } = state.names.publish(&publish).await?;
    let announced = announced
        .into_iter()
        .map(|announced| AnnouncedView { router: announced.router.as_str(), error: announced.error })
        .collect();
    let record = RecordView { key: Some(publish.key.unwrap_or_default()), ..RecordView::new(&record) };
    Ok(fresh(StatusCode::OK, PublishedView { record, announced }))
}

fn micros(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}
