//! `/names`: where they lead, the records that are kept here, and publishing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Path, Request, State as Extract};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::State;
use super::extract::fresh;
use super::problem::Problem;
use crate::ipld::ipns::{IpnsName, MAX_RECORD, Record};
use crate::ipld::path::ContentPath;
use crate::names::{Hop, Kept, Name, NameError, Publish, Published, Source};

/// Longest and shortest life of a record that is published here.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
const MIN_LIFETIME: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct ResolvedView {
    name: String,
    path: String,
    /// Seconds for which the answer counts; null when nobody says.
    ttl_s: Option<u64>,
    source: Source,
    trail: Vec<HopView>,
}

#[derive(Serialize)]
struct HopView {
    name: String,
    path: String,
    source: Source,
    ttl_s: Option<u64>,
    stale: bool,
}

impl HopView {
    fn new(hop: &Hop) -> Self {
        Self {
            name: hop.name.to_string(),
            path: hop.path.to_string(),
            source: hop.source,
            ttl_s: hop.ttl.map(|ttl| ttl.as_secs()),
            stale: hop.stale,
        }
    }
}

#[derive(Serialize)]
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

/// Where a name leads.
pub async fn one(Extract(state): Extract<State>, Path(name): Path<String>) -> Result<Response, Problem> {
    let name: Name = name.parse()?;
    let resolved = state.names.resolve(&name).await?;
    let view = ResolvedView {
        name: name.to_string(),
        path: resolved.path.to_string(),
        ttl_s: resolved.ttl.map(|ttl| ttl.as_secs()),
        source: resolved.source,
        trail: resolved.trail.iter().map(HopView::new).collect(),
    };
    Ok(fresh(StatusCode::OK, view))
}

#[derive(Serialize)]
struct List {
    items: Vec<RecordView>,
    next_cursor: Option<String>,
}

/// The records that are kept here; all of them at once (at most 10,000).
pub async fn list(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let items = state.names.kept().await?.into_iter().map(RecordView::of).collect();
    Ok(fresh(StatusCode::OK, List { items, next_cursor: None }))
}

/// Keeps a record that somebody signed. The body is the record; any content type but a form's is taken.
pub async fn put(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let name: IpnsName = name.parse().map_err(|error: crate::ipld::ipns::NameSyntaxError| Problem::bad_request(error.to_string()))?;
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// `/ipfs/CID[/path]` or `/ipns/NAME[/path]`.
    path: String,
    key: Option<String>,
    lifetime_s: Option<u64>,
    ttl_s: Option<u64>,
}

#[derive(Serialize)]
struct PublishedView {
    #[serde(flatten)]
    record: RecordView,
    announced: Vec<AnnouncedView>,
}

#[derive(Serialize)]
struct AnnouncedView {
    router: &'static str,
    error: Option<String>,
}

/// Signs, keeps and announces. A router that does not take the record is named; the record is announced again later.
pub async fn publish(Extract(state): Extract<State>, request: Request) -> Result<Response, Problem> {
    let asked = Json::<Asked>::from_request(request, &state).await;
    let Json(asked) = asked.map_err(|rejection: JsonRejection| Problem::bad_request(rejection.body_text()))?;
    if !asked.path.starts_with('/') {
        return Err(Problem::bad_request("path is /ipfs/CID[/path] or /ipns/NAME[/path]"));
    }
    let value = ContentPath::parse_text(&asked.path).map_err(NameError::from)?;
    let mut publish = Publish::new(value);
    publish.key = asked.key.filter(|key| !key.is_empty());
    if let Some(seconds) = asked.lifetime_s {
        publish.lifetime = Duration::from_secs(seconds);
    }
    if let Some(seconds) = asked.ttl_s {
        publish.ttl = Duration::from_secs(seconds);
    }
    if publish.lifetime < MIN_LIFETIME || publish.lifetime > MAX_LIFETIME {
        let (min, max) = (MIN_LIFETIME.as_secs(), MAX_LIFETIME.as_secs());
        return Err(Problem::bad_request(format!("lifetime_s is {min} to {max}")));
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
