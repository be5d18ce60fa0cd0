//! Errors of the API as RFC 9457 problem documents. Status codes are decided here and nowhere else.

use std::borrow::Cow;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::results::Fault;
use crate::blockstore::StoreError;
use crate::db::DbError;

/// `type` is this plus the problem's name; it is a name, not a page.
const TYPE_PREFIX: &str = "urn:tidegate:problem:";
const CONTENT_TYPE_PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// What a client is told to wait when the trouble may pass, in whole seconds.
const RETRY_SECONDS: u32 = 5;

/// Whose side an error is on, so that a client knows whether to mend its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    /// Of a body with several faults, each with its JSON pointer.
    faults: Vec<Fault>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    side: Side,
    retry: bool,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
}

impl Problem {
    fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, name, title, detail: detail.into(), retry: false, faults: Vec::new(), headers: Vec::new() }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request is not understood", detail)
    }

    pub fn bad_cid(error: &crate::ipld::cid::CidError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-cid", "Not a CID", error.to_string())
    }

    pub fn unauthorized(detail: &'static str) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "The admin token is needed", detail);
        // Basic too: a browser can then ask for the token (any user name, the token as password).
        for scheme in ["Bearer realm=\"tidegate\"", "Basic realm=\"tidegate\", charset=\"UTF-8\""] {
            problem.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(scheme)));
        }
        problem
    }

    pub fn host(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "host-not-allowed", "This Host is not allowed", detail)
    }

    pub fn cross_site() -> Self {
        let detail = "changes are taken from this origin's own pages and from programs, not from other sites";
        Self::new(StatusCode::FORBIDDEN, "cross-site", "Cross-site request", detail)
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

    /// Nothing of a batch was taken: `errors` has what is wrong with it (RFC 9457 §3.2, as in its example).
    pub fn faults(faults: Vec<Fault>) -> Self {
        let n = faults.len();
        let detail =
            format!("nothing was stored: {n} {} wrong; see errors", if n == 1 { "thing is" } else { "things are" });
        Self { faults, ..Self::unprocessable(detail) }
    }

    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "This cannot be done now", detail).retryable()
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
        let body = Body {
            r#type: format!("{TYPE_PREFIX}{}", self.name),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            side,
            retry: self.retry,
            errors: &self.faults,
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

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}
