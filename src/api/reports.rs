//! `GET /reports/{type}`: a report over a window of the metrics database, in one of four formats.

use std::time::SystemTime;

use axum::extract::State as Extract;
use axum::extract::rejection::PathRejection;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use multihash_codetable::{Code, MultihashDigest};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Known, Query, tagged_bytes};
use super::problem::Problem;
use super::{State, database};
use crate::report::{self, Format, MAX_RUN_BYTES, Moment, ReportType, STYLE_SHEET};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// `json` (default), `md`, `html` or `csv`.
    #[param(pattern = "^(json|md|html|csv)$")]
    format: Option<String>,
    /// RFC 3339, a date, or how long ago (`24h`, `7d`); default 7d for ipfs and p2p, else everything.
    since: Option<String>,
    /// The same; default: up to the end of this minute.
    until: Option<String>,
    /// Only this run of a test tool.
    #[param(max_length = 128)]
    run: Option<String>,
    /// `1`: as a file to save.
    #[param(minimum = 0, maximum = 1)]
    download: Option<u8>,
}

/// A report over a window of the metrics database
#[utoipa::path(
    get, path = "/reports/{type}", tag = "reports",
    params(
        ("type" = String, Path, description = "ipfs, p2p, webgpu, cross-platform, benchmark or verification"),
        Asked,
    ),
    responses(
        (status = 200, description = "The report; its JSON is docs/report.schema.json.", content(
            (serde_json::Value = "application/json"), (String = "text/markdown"), (String = "text/html"), (String = "text/csv"),
        )),
        (status = 404, description = "There is no report of this type."),
    )
)]
pub async fn one(
    Extract(state): Extract<State>,
    path: Result<axum::extract::Path<String>, PathRejection>,
    known: Known,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let kind: ReportType =
        path?.0.parse().map_err(|error: report::UnknownType| Problem::not_found(error.to_string()))?;
    let format: Format = match asked.format.as_deref() {
        None => Format::Json,
        Some(text) => {
            text.parse().map_err(|error: report::UnknownFormat| Problem::parameter("format", error.to_string()))?
        }
    };
    if asked.run.as_ref().is_some_and(|run| run.len() > MAX_RUN_BYTES) {
        return Err(Problem::parameter("run", format!("run is at most {MAX_RUN_BYTES} bytes")));
    }
    let (since, until) = (moment("since", asked.since.as_deref())?, moment("until", asked.until.as_deref())?);
    let window = report::window(kind, since, until, SystemTime::now());
    let run = asked.run.as_deref().filter(|run| !run.is_empty());
    let report = report::build(database(&state)?, kind, window, run, state.facts).await?;
    let body = report::render(&report, format).into_bytes();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if format == Format::Html {
        headers.insert(CONTENT_SECURITY_POLICY, policy()?);
    }
    if asked.download.is_some_and(|download| download > 1) {
        return Err(Problem::parameter("download", "download is 0 or 1"));
    }
    if asked.download == Some(1) {
        let name = format!("attachment; filename=\"tidegate-{kind}.{format}\"");
        let name = HeaderValue::from_str(&name).map_err(|_| Problem::internal("the file cannot be named"))?;
        headers.insert(CONTENT_DISPOSITION, name);
    }
    tagged_bytes(&known, headers, body)
}

fn moment(name: &'static str, text: Option<&str>) -> Result<Option<Moment>, Problem> {
    let text = text.filter(|text| !text.trim().is_empty());
    text.map(|text| text.parse::<Moment>().map_err(|error| Problem::parameter(name, error.to_string()))).transpose()
}

/// The page carries its own sheet: named by its hash (CSP 3), nothing else is allowed.
fn policy() -> Result<HeaderValue, Problem> {
    let hash = multibase::Base::Base64Pad.encode(Code::Sha2_256.digest(STYLE_SHEET.as_bytes()).digest());
    let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; frame-ancestors 'none'");
    HeaderValue::from_str(&policy).map_err(|_| Problem::internal("the policy cannot be written"))
}
