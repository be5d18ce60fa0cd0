//! `/tokens`: further tokens, each with a scope, a name and perhaps an end. The secret is shown once, when it is made.

pub mod store;

use std::time::{Duration, SystemTime};

use axum::extract::State as Extract;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::State;
use super::cursor::{self, List};
use super::extract::{Json, Query, fresh, limit};
use super::problem::Problem;
use super::scope::Scope;
use store::{MAX_NAME, Token};
pub use store::{StoreError, Tokens};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 500;
/// Shortest and longest life of a token that ends, in seconds: a minute, ten years.
const LIFE_S: std::ops::RangeInclusive<u64> = 60..=10 * 365 * 86_400;
/// Bytes of a request body.
const MAX_BODY: usize = 4 << 10;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenRequest)]
pub struct Asked {
    /// What it is for; shown in lists and in the audit log. No other token has it.
    #[schema(min_length = 1, max_length = 100, example = "build machine", pattern = "^[^\\u0000-\\u001f\\u007f]+$")]
    name: String,
    scope: Scope,
    /// Seconds until it ends; without it, it lasts until it is revoked.
    #[schema(minimum = 60, maximum = 315_360_000, example = 2_592_000)]
    expires_s: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub struct TokenView {
    #[schema(example = "8c1f0a53d2b94e77")]
    id: String,
    name: String,
    scope: Scope,
    created_us: u64,
    /// Null: it does not end by itself.
    expires_us: Option<u64>,
    /// Null: never. Kept to the minute across restarts.
    last_used_us: Option<u64>,
    expired: bool,
}

impl TokenView {
    fn new(token: &Token, now: SystemTime) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            scope: token.scope,
            created_us: token.created_us,
            expires_us: token.expires_us,
            last_used_us: token.last_used_us(),
            expired: token.has_expired(now),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = NewToken)]
pub struct Made {
    /// The token itself: 256 random bits. It is not stored and not shown again.
    #[schema(example = "tidegate_3f...")]
    token: String,
    #[serde(flatten)]
    view: TokenView,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TokenList)]
pub struct Page {
    items: Vec<TokenView>,
    next_cursor: Option<String>,
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

/// Tokens without their secrets, by id
#[utoipa::path(get, path = "/tokens", tag = "tokens", params(ListAsked), responses((status = 200, body = Page)))]
pub async fn list(Extract(state): Extract<State>, Query(asked): Query<ListAsked>) -> Result<Response, Problem> {
    let limit = limit(asked.limit, DEFAULT_LIMIT, MAX_LIMIT)? as usize;
    let after = asked.cursor.as_deref().map(|text| cursor::read(List::Tokens, text)).transpose()?;
    let now = SystemTime::now();
    let mut tokens = state.access.tokens().list();
    tokens.retain(|token| after.as_ref().is_none_or(|after| token.id.as_bytes() > after.as_slice()));
    let more = tokens.len() > limit;
    tokens.truncate(limit);
    let next_cursor = tokens.last().filter(|_| more).map(|token| cursor::write(List::Tokens, token.id.as_bytes()));
    let items = tokens.iter().map(|token| TokenView::new(token, now)).collect();
    Ok(fresh(StatusCode::OK, Page { items, next_cursor }))
}

/// Make a token; its secret is in this answer and nowhere else
#[utoipa::path(
    post, path = "/tokens", tag = "tokens", request_body = Asked,
    responses(
        (status = 201, description = "Made. Location has its address.", body = Made),
        (status = 409, description = "Another token has this name, or there are 1,000."),
        (status = 413, description = "The body has more than 4 KiB."),
        (status = 415, description = "The body is not application/json."),
        (status = 422, description = "The name is empty, too long or has control characters, the scope is none, or the life is out of bounds."),
        (status = 507, description = "The data directory cannot be written."),
    )
)]
pub async fn create(Extract(state): Extract<State>, Json(asked): Json<Asked, MAX_BODY>) -> Result<Response, Problem> {
    let name = asked.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        let detail = format!("a name has 1 to {MAX_NAME} characters, none of them a control character");
        return Err(Problem::at_pointer("/name", detail));
    }
    if asked.expires_s.is_some_and(|life| !LIFE_S.contains(&life)) {
        let detail = format!("expires_s is {} to {}", LIFE_S.start(), LIFE_S.end());
        return Err(Problem::at_pointer("/expires_s", detail));
    }
    let now = SystemTime::now();
    let life = asked.expires_s.map(Duration::from_secs);
    let (secret, token) = state.access.tokens().create(name, asked.scope, life, now).await?;
    tracing::info!(target: "tidegate::audit", id = token.id, name = token.name, scope = token.scope.as_str(), "token made");
    let location = HeaderValue::from_str(&format!("/api/v1/tokens/{}", token.id)).ok();
    let mut response = fresh(StatusCode::CREATED, Made { token: secret, view: TokenView::new(&token, now) });
    if let Some(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Revoke a token; the next request with it is refused
#[utoipa::path(
    delete, path = "/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "As the list has it", example = "8c1f0a53d2b94e77")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, description = "No token has this id."),
        (status = 507, description = "The data directory cannot be written."),
    )
)]
pub async fn revoke(
    Extract(state): Extract<State>,
    path: Result<axum::extract::Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Response, Problem> {
    let id = path?.0;
    match state.access.tokens().revoke(&id).await? {
        Some(token) => {
            tracing::info!(target: "tidegate::audit", id = token.id, name = token.name, "token revoked");
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        None => Err(Problem::not_found("no token has this id")),
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Taken { .. } | StoreError::Full => Self::exists(error.to_string()),
            StoreError::Absent => Self::unavailable(error.to_string()),
            StoreError::File { .. } => Self::storage(error.to_string()),
            StoreError::Random(_) | StoreError::Stopping => Self::internal(error.to_string()),
        }
    }
}
