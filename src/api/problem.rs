//! Errors of the API as RFC 9457 problem documents. Status codes are decided here and nowhere else.

use std::borrow::Cow;

use axum::extract::rejection::PathRejection;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::blockstore::StoreError;
use crate::db::DbError;
use crate::names::NameError;

/// `type` is this plus the problem's name; it is a name, not a page.
const TYPE_PREFIX: &str = "urn:tidegate:problem:";
const CONTENT_TYPE_PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// What a client is told to wait when the trouble may pass, in whole seconds.
const RETRY_SECONDS: u32 = 5;

/// Whose side an error is on, so that a client knows whether to mend its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Client,
    Server,
}

/// One problem. `Display` of the source goes to `detail`.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
    retry: bool,
    places: Vec<Place>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Document {
    /// `urn:tidegate:problem:` and the problem's name, which does not change between releases.
    #[schema(example = "urn:tidegate:problem:bad-parameter")]
    r#type: String,
    #[schema(example = "A parameter is not what it should be")]
    title: &'static str,
    #[schema(minimum = 400, maximum = 599, example = 400)]
    status: u16,
    /// What happened and what to do next, for people.
    #[schema(example = "limit is 1 to 500")]
    detail: Cow<'static, str>,
    side: Side,
    /// Whether the same request may work later; then Retry-After says when.
    retry: bool,
    /// Where in the request the trouble is; absent when it is the whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Place>,
}

/// A place in a request. One of `parameter`, `pointer` and `header` is there.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = ProblemPlace)]
pub struct Place {
    detail: String,
    /// Of the query or the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// JSON pointer (RFC 6901) into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'static str>,
}

impl Problem {
    fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, name, title, detail: detail.into(), retry: false, places: Vec::new(), headers: Vec::new() }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request is not understood", detail)
    }

    /// A parameter of the query or the path.
    pub fn parameter(name: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        let place = Place { detail: detail.clone().into_owned(), parameter: Some(name.into()), ..Place::default() };
        let title = "A parameter is not what it should be";
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "bad-parameter", title, detail);
        problem.places.push(place);
        problem
    }

    /// A place in a JSON body that reads as JSON and says something else than it should; `pointer` is an RFC 6901 one.
    pub fn at_pointer(pointer: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::unprocessable(detail);
        problem.places.push(Place {
            detail: problem.detail.clone().into_owned(),
            pointer: Some(pointer.into()),
            ..Place::default()
        });
        problem
    }

    pub fn header(name: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::bad_request(detail);
        problem.places.push(Place {
            detail: problem.detail.clone().into_owned(),
            header: Some(name),
            ..Place::default()
        });
        problem
    }

    pub fn bad_cid(error: &crate::ipld::cid::CidError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-cid", "Not a CID", error.to_string())
    }

    pub fn unauthorized(detail: &'static str) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A token is needed", detail);
        // Basic too: a browser can then ask for the token (any user name, the token as password).
        for scheme in ["Bearer realm=\"tidegate\"", "Basic realm=\"tidegate\", charset=\"UTF-8\""] {
            problem.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(scheme)));
        }
        problem
    }

    /// RFC 9112 §3.2: a request without Host, or with several, is answered 400.
    pub fn no_host() -> Self {
        Self::header("Host", "a request has one Host header, and it agrees with the request line")
    }

    pub fn host(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "host-not-allowed", "This Host is not allowed", detail)
    }

    pub fn cross_site() -> Self {
        let detail = "changes are taken from this origin's own pages and from programs, not from other sites";
        Self::new(StatusCode::FORBIDDEN, "cross-site", "Cross-site request", detail)
    }

    /// The token is known and may not do this.
    pub fn scope(needed: &'static str, challenge: HeaderValue) -> Self {
        let detail = format!("this needs a token of scope {needed} or admin; the one given has another");
        let title = "The token does not reach so far";
        let mut problem = Self::new(StatusCode::FORBIDDEN, "insufficient-scope", title, detail);
        problem.headers.push((WWW_AUTHENTICATE, challenge));
        problem
    }

    /// `seconds` until the next request is taken, rounded up.
    pub fn too_many(detail: impl Into<Cow<'static, str>>, seconds: u64) -> Self {
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests", detail);
        problem.retry = true;
        problem.headers.push((RETRY_AFTER, HeaderValue::from(seconds.max(1))));
        problem
    }

    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub fn method_not_allowed() -> Self {
        let detail = "the resource does not take this method; the Allow header has those that it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail)
    }

    pub fn media_type(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "This content type is not taken",
            detail,
        )
    }

    pub fn unprocessable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", "The body is not what it should be", detail)
    }

    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "This cannot be done now", detail).retryable()
    }

    /// What is to be made is there already.
    pub fn exists(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "already-exists", "It is there already", detail)
    }

    pub fn storage(detail: impl Into<Cow<'static, str>>) -> Self {
        let title = "The data directory cannot be written";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "insufficient-storage", title, detail)
    }

    pub fn upstream(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let title = if status == StatusCode::GATEWAY_TIMEOUT { "Timed out" } else { "Could not be fetched" };
        Self::new(status, "fetch-failed", title, detail).retryable()
    }

    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail).retryable()
    }

    pub fn internal(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Our fault", detail)
    }

    fn retryable(mut self) -> Self {
        self.retry = true;
        self.headers.push((RETRY_AFTER, HeaderValue::from(RETRY_SECONDS)));
        self
    }

    pub fn with_allow(mut self, allow: HeaderValue) -> Self {
        self.headers.push((ALLOW, allow));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let side = if self.status.is_client_error() { Side::Client } else { Side::Server };
        let body = Document {
            r#type: format!("{TYPE_PREFIX}{}", self.name),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail,
            side,
            retry: self.retry,
            errors: self.places,
        };
        let text = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, text).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, CONTENT_TYPE_PROBLEM);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Full { .. } | StoreError::ReadOnly { .. } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "insufficient-storage",
                "The local store cannot be written",
                error.to_string(),
            ),
            StoreError::Busy { .. } => Self::conflict(error.to_string()),
            StoreError::Closed | StoreError::Locked { .. } => Self::unavailable(error.to_string()),
            StoreError::Io { .. } | StoreError::Pins(_) => {
                tracing::error!(%error, "local store");
                Self::internal(error.to_string())
            }
        }
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        let detail = error.to_string();
        match &error {
            NameError::Syntax { .. } | NameError::Path(_) | NameError::Recursion { .. } | NameError::KeyName(_) => {
                Self::bad_request(detail)
            }
            NameError::NotFound { .. } | NameError::NoLink { .. } | NameError::NotLocal { .. } => {
                Self::not_found(detail)
            }
            NameError::Timeout { .. } => Self::upstream(StatusCode::GATEWAY_TIMEOUT, detail),
            NameError::Invalid { .. }
            | NameError::BadLink { .. }
            | NameError::Dns { .. }
            | NameError::Unreachable { .. } => Self::upstream(StatusCode::BAD_GATEWAY, detail),
            NameError::Older { .. } => Self::conflict(detail),
            NameError::Disabled { .. } | NameError::Busy => Self::unavailable(detail),
            NameError::Sign(_) => Self::unprocessable(detail),
            NameError::Store(_) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "insufficient-storage",
                "The local store cannot be written",
                detail,
            ),
            NameError::Lost { .. } | NameError::Key { .. } => Self::internal(detail),
        }
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}
