//! Extractors whose refusals are problem documents, and answers with ETags.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use multihash_codetable::{Code, MultihashDigest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::ipld::{Cid, cid};

/// `axum::extract::Query`, with a problem document when it does not fit.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let axum::extract::Query(value) = axum::extract::Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(value))
    }
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
    let hash = hex::encode(&Code::Blake3_256.digest(&body).digest()[..12]);
    let etag =
        HeaderValue::from_str(&format!("\"{hash}\"")).map_err(|_| Problem::internal("the etag cannot be written"))?;
    let has = known.0.as_ref().and_then(|value| value.to_str().ok()).is_some_and(|list| {
        list.split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
    });
    headers.insert(ETAG, etag);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if has {
        headers.remove(CONTENT_TYPE);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    Ok((headers, body).into_response())
}

/// JSON that is stale at once.
pub fn fresh(status: StatusCode, value: impl Serialize) -> Response {
    (status, [(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(value)).into_response()
}
