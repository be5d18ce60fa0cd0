//! Extractors whose refusals are problem documents, and answers with ETags.

use std::collections::HashSet;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http_body::Body as _;
use multihash_codetable::{Code, MultihashDigest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::ipld::{Cid, cid};

/// The largest JSON body that [`Json`] takes unless a handler names another limit, in bytes.
pub const JSON_LIMIT: usize = 1 << 20;
/// The largest answer that gets an ETag from [`tag_reads`], in bytes: a longer one is not held in memory for it.
const TAG_LIMIT: u64 = 4 << 20;
/// The longest query string, in bytes.
const MAX_QUERY: usize = 8 << 10;

/// The query of a request. Refused with 400 and the parameter's name: unknown names (where the type denies them), names
/// given twice, values that are no UTF-8, hold a NUL or do not fit.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let names = query_names(parts.uri.query().unwrap_or_default())?;
        axum::extract::Query::<T>::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            // The reason starts with the parameter's name, or has it as the first word in backquotes.
            let named = detail.split_once(": ").map(|(name, _)| name).filter(|name| names.contains(*name));
            let quoted = detail.split('`').nth(1).filter(|_| detail.contains("field `"));
            match named.or(quoted) {
                Some(name) => Problem::parameter(name, detail.to_owned()),
                None => Problem::bad_request(detail.to_owned()),
            }
        })
    }
}

/// The names in a query; every pair is checked on the way.
fn query_names(query: &str) -> Result<HashSet<String>, Problem> {
    if query.len() > MAX_QUERY {
        return Err(Problem::bad_request(format!("a query has at most {MAX_QUERY} bytes")));
    }
    let mut names = HashSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text =
            |part: &str| percent_encoding::percent_decode_str(part).decode_utf8().map(|text| text.replace('+', " "));
        let Ok(name) = text(name) else { return Err(Problem::bad_request("a parameter's name is not UTF-8")) };
        match text(value) {
            Err(_) => return Err(Problem::parameter(name, "the value is not UTF-8")),
            Ok(value) if value.contains('\0') => return Err(Problem::parameter(name, "the value holds a NUL")),
            Ok(_) => {}
        }
        if !names.insert(name.clone()) {
            return Err(Problem::parameter(name, "the parameter is given twice"));
        }
    }
    Ok(names)
}

/// A JSON body of at most `LIMIT` bytes: 415 for another content type, 413 beyond the limit, 400 when it is no JSON, 422
/// with a JSON pointer when it is and does not fit.
pub struct Json<T, const LIMIT: usize = JSON_LIMIT>(pub T);

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for Json<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
            return Err(Problem::media_type("send Content-Type: application/json"));
        }
        let too_large = || Problem::too_large(format!("the body has at most {LIMIT} bytes"));
        if request.body().size_hint().lower() > LIMIT as u64 {
            return Err(too_large());
        }
        let mut chunks = request.into_body().into_data_stream();
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
            if body.len() + chunk.len() > LIMIT {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let mut reader = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| json_problem(&error))?;
        reader.end().map_err(|error| Problem::bad_request(format!("the body is not one JSON value: {error}")))?;
        Ok(Self(value))
    }
}

fn json_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    use serde_path_to_error::Segment;
    if !error.inner().is_data() {
        return Problem::bad_request(format!("the body is not JSON: {}", error.inner()));
    }
    let pointer: String = error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    Problem::at_pointer(pointer, error.inner().to_string())
}

/// The CID in the path.
pub struct CidInPath(pub Cid);

impl<S: Send + Sync> FromRequestParts<S> for CidInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = <axum::extract::Path<String> as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        cid::parse(&path.0).map(Self).map_err(|error| Problem::bad_cid(&error))
    }
}

/// `limit` of a list, within 1..=`max`; `default` when it is not given.
pub fn limit(asked: Option<u32>, default: u32, max: u32) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(default);
    if limit == 0 || limit > max {
        return Err(Problem::parameter("limit", format!("limit is 1 to {max}")));
    }
    Ok(limit)
}

/// `If-None-Match`, if it was sent.
pub struct Known(Option<HeaderValue>);

impl<S: Send + Sync> FromRequestParts<S> for Known {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.headers.get(IF_NONE_MATCH).cloned()))
    }
}

/// JSON with a strong ETag of its bytes; 304 when the client has them.
pub fn tagged(known: &Known, value: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value)
        .map_err(|error| Problem::internal(format!("the answer cannot be written: {error}")))?;
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    tagged_bytes(known, HeaderMap::from_iter([json]), body)
}

/// A body with a strong ETag of its bytes; 304 when the client has them.
pub fn tagged_bytes(known: &Known, mut headers: HeaderMap, body: Vec<u8>) -> Result<Response, Problem> {
    let etag = etag(&body);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let known = has(known.0.as_ref(), &etag);
    headers.insert(ETAG, etag);
    if known {
        headers.remove(CONTENT_TYPE);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    Ok((headers, body).into_response())
}

/// JSON that is not kept by caches. A GET's answer gets its ETag from [`tag_reads`].
pub fn fresh(status: StatusCode, value: impl Serialize) -> Response {
    (status, [(CACHE_CONTROL, HeaderValue::from_static("no-store"))], axum::Json(value)).into_response()
}

/// The layer that gives every bounded JSON answer of a read its strong ETag, and 304 to a client that has it. An answer that
/// says `no-store` keeps saying so: a program may still compare.
pub(super) async fn tag_reads(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let known = request.headers().get(IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let bounded = response.body().size_hint().exact().is_some_and(|size| size <= TAG_LIMIT);
    if response.status() != StatusCode::OK || !json || !bounded || response.headers().contains_key(ETAG) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, TAG_LIMIT as usize).await else {
        return Problem::internal("the answer could not be read").into_response();
    };
    let etag = etag(&body);
    let has = has(known.as_ref(), &etag);
    parts.headers.insert(ETAG, etag);
    parts.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    if has {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(CONTENT_TYPE);
        parts.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(parts, axum::body::Body::empty());
    }
    Response::from_parts(parts, body.into())
}

/// 96 bits of BLAKE3: equal tags mean equal bytes.
fn etag(body: &[u8]) -> HeaderValue {
    let hash = hex::encode(&Code::Blake3_256.digest(body).digest()[..12]);
    // Local invariant: quotes and hex digits are a header value.
    HeaderValue::from_str(&format!("\"{hash}\"")).expect("quoted hex")
}

fn has(known: Option<&HeaderValue>, etag: &HeaderValue) -> bool {
    known.and_then(|value| value.to_str().ok()).is_some_and(|list| {
        list.split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Asked {
        limit: Option<u32>,
        name: Option<String>,
    }

    async fn query(text: &str) -> Result<Asked, serde_json::Value> {
        let (mut parts, ()) = axum::http::Request::builder().uri(format!("/x?{text}")).body(()).unwrap().into_parts();
        match Query::<Asked>::from_request_parts(&mut parts, &()).await {
            Ok(query) => Ok(query.0),
            Err(problem) => {
                let body = axum::body::to_bytes(problem.into_response().into_body(), 10_000).await.unwrap();
                Err(serde_json::from_slice(&body).unwrap())
            }
        }
    }

    #[tokio::test]
    async fn a_query_is_read_whole_or_refused_with_the_parameter() {
        let asked = query("limit=3&name=a+b%20c").await.unwrap();
        assert_eq!((asked.limit, asked.name.as_deref()), (Some(3), Some("a b c")));
        for (text, parameter) in [
            ("limit=x", "limit"),
            ("limit=-1", "limit"),
            ("limit=1&limit=2", "limit"),
            ("lim%69t=1&limit=2", "limit"),
            ("name=%ff", "name"),
            ("name=a%00", "name"),
            ("nmae=x", "nmae"),
        ] {
            let problem = query(text).await.unwrap_err();
            assert_eq!(problem["errors"][0]["parameter"], parameter, "{text}: {problem}");
            assert_eq!(problem["status"], 400);
        }
        assert!(query("%ff=1").await.is_err());
        assert!(query(&format!("name={}", "x".repeat(9_000))).await.is_err());
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        #[allow(dead_code)]
        items: Vec<Item>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        #[allow(dead_code)]
        #[serde(rename = "a/b")]
        value: u8,
    }

    async fn json(kind: &str, body: impl Into<axum::body::Body>) -> Result<(), (u16, Option<String>)> {
        let request = Request::builder().header(CONTENT_TYPE, kind).body(body.into()).unwrap();
        let Err(problem) = Json::<Shape, 64>::from_request(request, &()).await else { return Ok(()) };
        let status = problem.status().as_u16();
        let body = axum::body::to_bytes(problem.into_response().into_body(), 10_000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        Err((status, body["errors"][0]["pointer"].as_str().map(str::to_owned)))
    }

    #[tokio::test]
    async fn a_json_body_is_refused_for_its_type_its_length_its_syntax_and_its_shape() {
        let right = "application/json; charset=utf-8";
        assert!(json(right, r#"{"items":[{"a/b":1}]}"#).await.is_ok());
        assert_eq!(json("text/plain", "{}").await, Err((415, None)));
        assert_eq!(json("", "{}").await, Err((415, None)));
        assert_eq!(json(right, " ".repeat(65)).await, Err((413, None)));
        let chunks =
            futures::stream::iter((0..10).map(|_| Ok::<_, std::io::Error>(axum::body::Bytes::from(" ".repeat(10)))));
        assert_eq!(json(right, axum::body::Body::from_stream(chunks)).await, Err((413, None)), "of unknown length");
        for body in ["", "{", "{} x", "\u{0}", r#"{"items":[]} {}"#] {
            let (status, _) = json(right, body.to_owned()).await.unwrap_err();
            assert!(status == 400 || body == "{} x", "{body}: {status}");
        }
        assert_eq!(json(right, vec![0xff_u8]).await, Err((400, None)));
        assert_eq!(json(right, r#"{"items":[{"a/b":1},{"a/b":300}]}"#).await, Err((422, Some("/items/1/a~1b".into()))));
        assert_eq!(json(right, r#"{"items":1}"#).await, Err((422, Some("/items".into()))));
    }
}
