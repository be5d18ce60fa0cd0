//! An error as an answer: a page for people, RFC 9457 JSON for programs.

use std::time::Instant;

use askama::Template;
use axum::body::Body;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, Method, Response};
use serde::Serialize;

use super::error::{Fault, GatewayError};
use super::headers;
use super::page::{self, ErrorPage};
use crate::record::{Phase, RetrievalId, SessionReport};
use crate::units::visible;

/// What is known of the request besides the error.
pub(super) struct Context<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) request: &'a str,
    pub(super) started: Instant,
    pub(super) retrieval: Option<(RetrievalId, SessionReport)>,
    /// A host that browsers use: who names no media type gets plain text.
    pub(super) plain: bool,
}

/// `application/problem+json`.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    providers_found: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    providers_tried: Option<u32>,
    elapsed_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u32>,
    request: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retrieval: Option<String>,
}

/// The answer for `error`. It is never stored by a cache, but for what depends on nothing but content and configuration.
pub(super) fn respond(error: &GatewayError, fault: &Fault, context: &Context<'_>) -> Response<Body> {
    let report = context.retrieval.as_ref().map(|(_, report)| report);
    let (found, tried) = match (fault.providers, report) {
        (Some((found, tried)), _) => (Some(found), Some(tried)),
        (None, Some(report)) => (Some(report.providers_found), Some(report.providers_attempted)),
        (None, None) => (None, None),
    };
    let detail = error.to_string();
    let problem = Problem {
        r#type: "about:blank",
        title: fault.status.canonical_reason().unwrap_or("Error"),
        status: fault.status.as_u16(),
        detail: &detail,
        code: fault.code,
        phase: fault.phase.or(report.map(|report| report.phase)),
        cid: fault.cid.map(|cid| cid.to_string()),
        segment: fault.segment.as_deref(),
        providers_found: found,
        providers_tried: tried,
        elapsed_ms: u64::try_from(context.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        retry_after: fault.retry_after,
        request: context.request,
        retrieval: context.retrieval.as_ref().map(|(id, _)| id.to_string()),
    };
    let html = wants_html(context.headers).then(|| html(fault, &problem)).flatten();
    let is_html = html.is_some();
    let is_plain = !is_html && context.plain && !context.headers.contains_key(ACCEPT);
    let html = html.or_else(|| is_plain.then(|| plain(&problem)));
    // A struct of plain fields always has a JSON form.
    let text = html.unwrap_or_else(|| serde_json::to_string(&problem).unwrap_or_default());

    let length = text.len();
    let body = if context.method == Method::HEAD { Body::empty() } else { Body::from(text) };
    let mut response = Response::new(body);
    *response.status_mut() = fault.status;
    let out = response.headers_mut();
    if is_html {
        page::set_headers(out);
    } else if is_plain {
        out.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    } else {
        out.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    }
    out.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let cache = match error {
        // What is too large stays so; only the limit may change.
        GatewayError::TooLarge { .. } => headers::TOO_LARGE,
        _ => headers::NO_STORE,
    };
    out.insert(CACHE_CONTROL, cache);
    out.insert(VARY, HeaderValue::from_static("Accept"));
    if let Some(seconds) = fault.retry_after {
        out.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    match error {
        GatewayError::Range { size } => {
            out.insert(CONTENT_RANGE, headers::value(&format!("bytes */{size}")));
        }
        GatewayError::Method => {
            out.insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        }
        _ => {}
    }
    response
}

/// The same facts, a line each.
fn plain(problem: &Problem<'_>) -> String {
    let mut text = format!("{} {}: {}\n", problem.status, problem.title, problem.detail);
    let mut fact = |name: &str, value: Option<String>| {
        text.extend(value.map(|value| format!("{name}: {value}\n")));
    };
    fact("phase", problem.phase.map(|phase| phase.to_string()));
    fact("providers found", problem.providers_found.map(|n| n.to_string()));
    fact("retry after", problem.retry_after.map(|seconds| format!("{seconds} s")));
    fact("request", Some(problem.request.to_owned()));
    text
}

fn html(fault: &Fault, problem: &Problem<'_>) -> Option<String> {
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact("Step", problem.phase.map(|phase| phase.to_string()));
    fact("CID", problem.cid.clone());
    fact("Path segment", problem.segment.map(visible));
    fact("Providers found", problem.providers_found.map(|n| n.to_string()));
    fact("Providers tried", problem.providers_tried.map(|n| n.to_string()));
    fact("Time", Some(format!("{} ms", problem.elapsed_ms)));
    fact("Request", Some(problem.request.to_owned()));
    fact("Retrieval", problem.retrieval.clone());
    let advice = match fault.code {
        "no_provider" | "not_local" => {
            "Nobody is known to have this content now. If you publish it, check that your node is online and announces it; then try again."
        }
        "providers_failed" | "timeout" => {
            "Providers are known, or may be, and did not deliver in time. Trying again soon often helps: what has arrived is kept."
        }
        "routers_failed" => {
            "Nobody could be found, and not every router could be asked: it may be there all the same. Trying again soon often helps."
        }
        "no_link" => "The content is there, but it has nothing by this name. Names are case-sensitive.",
        "bad_path" => "Check the address: it reads /ipfs/ followed by a CID and, optionally, a path.",
        "codec_mismatch" | "not_unixfs" => "Leave the format out, or ask for format=raw: the block as it is.",
        "no_archive" => {
            "The names in this directory are not safe to unpack, or there are too many of them. Its files can be had one by one, and all of it with format=car."
        }
        "not_a_link" => "The path leads into a block of structured data. Open the block itself and look there.",
        "bad_name" => "Check the address: after /ipns/ stands an IPNS key (k51…) or a DNS name.",
        "name_not_found" => {
            "The name may be new or its publisher offline. Who publishes it should check that its node republishes."
        }
        "no_dnslink" => "Who runs this domain can add a TXT record that begins with dnslink= at _dnslink under it.",
        "name_invalid" => "Only the publisher of this name can mend it, by publishing it anew.",
        "name_timeout" | "name_unreachable" => "Trying again soon often helps.",
        "busy" | "stopping" => "Please try again in a few seconds.",
        "malformed" => {
            "The content itself is damaged: its bytes are what the CID says. Only its publisher can mend it."
        }
        _ => "",
    };
    let rendered = ErrorPage { status: fault.status, detail: problem.detail, facts: &facts, advice }.render();
    rendered.inspect_err(|error| tracing::error!(%error, "error page")).ok()
}

/// Only who says `text/html` by name gets a page: `*/*` is what programs send.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |media| {
            let mut pieces = media.split(';').map(str::trim);
            let html = pieces.next().is_some_and(|essence| essence.eq_ignore_ascii_case("text/html"));
            html && !pieces.any(|piece| matches!(piece, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        },
    )
}
