//! `GET /explain/{cid}`: why is it slow, or missing? Who has it, reached how, and what a fetch would cost; nothing is fetched.

use std::time::Duration;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::State;
use super::extract::{CidInPath, Query, fresh};
use super::problem::Problem;
use crate::explain::{self, ExplainError, Explanation, Question};
use crate::ipld::path::{ContentPath, Namespace};
use crate::names::Name;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// Names below the CID, joined by slashes, at most 8 KiB. Followed through blocks that are here; the first that is not is explained.
    // No maxLength: who tests the document by a longer one meets the limit of the whole head (431) first.
    #[param(example = "docs/readme.md")]
    path: Option<String>,
    /// The name that led to the CID and to the beginning of the path: what denylists say of it, and of the names that it leads through, counts too.
    #[param(example = "docs.example.org")]
    name: Option<String>,
    /// Patience in seconds, with routers and with peers. 10 if it is not given.
    #[param(minimum = 1, maximum = 60)]
    timeout_s: Option<u64>,
    /// Providers that are dialled and asked. 20 if it is not given.
    #[param(minimum = 1, maximum = 100)]
    max_providers: Option<usize>,
}

/// Who has a CID, by which router, reached how, what of it is here, and what a fetch would cost now
///
/// Routers are asked, providers dialled and asked whether they have the block; no content is fetched. `verdict` is the short
/// answer; a CID that nobody has is a 200 that says so.
#[utoipa::path(
    get, path = "/explain/{cid}", tag = "network",
    params(("cid" = String, Path, description = "A CID of any version"), Asked),
    responses(
        (status = 200, body = Explanation),
        (status = 404, description = "The path leads nowhere within content that is here, or nobody knows the name."),
    )
)]
pub async fn explain(
    Extract(state): Extract<State>,
    CidInPath(root): CidInPath,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let name = asked.name.clone();
    let mut question = asked.question(root)?;
    if let Some(name) = name {
        question.named = named(&state, &name, &question).await?;
    }
    let answer = explain::explain(&state.retriever, &state.blocks, &question).await?;
    Ok(fresh(StatusCode::OK, answer))
}

impl Asked {
    fn question(self, root: crate::ipld::Cid) -> Result<Question, Problem> {
        let seconds = self.timeout_s.unwrap_or(explain::DEFAULT_TIMEOUT.as_secs());
        if !(1..=explain::MAX_TIMEOUT.as_secs()).contains(&seconds) {
            return Err(Problem::parameter("timeout_s", "timeout_s is 1 to 60"));
        }
        let max_providers = self.max_providers.unwrap_or(explain::DEFAULT_PROVIDERS);
        if !(1..=explain::MAX_PROVIDERS).contains(&max_providers) {
            return Err(Problem::parameter("max_providers", "max_providers is 1 to 100"));
        }
        let path = match self.path.as_deref().unwrap_or_default().trim_matches('/') {
            "" => Vec::new(),
            path => ContentPath::parse_text(&format!("/ipfs/{root}/{path}"))
                .map(|path| path.segments)
                .map_err(|error| Problem::parameter("path", error.to_string()))?,
        };
        Ok(Question { root, path, named: Vec::new(), timeout: Duration::from_secs(seconds), max_providers })
    }
}

/// What is asked for, under every name on the way of `name`.
async fn named(state: &State, name: &str, question: &Question) -> Result<Vec<ContentPath>, Problem> {
    let name: Name = name.parse()?;
    let resolved = state.names.resolve(&name).await?;
    let below = match resolved.path.cid() {
        Some(root) if *root == question.root => question.path.strip_prefix(&*resolved.path.segments),
        _ => None,
    };
    let below = below.ok_or_else(|| Problem::parameter("name", format!("{name} leads to {}", resolved.path)))?;
    let asked =
        ContentPath { namespace: Namespace::Ipns(name.to_string()), segments: Vec::new(), trailing_slash: false };
    let mut paths = resolved.starts(&asked);
    paths.iter_mut().for_each(|path| path.segments.extend_from_slice(below));
    Ok(paths)
}

impl From<ExplainError> for Problem {
    fn from(error: ExplainError) -> Self {
        match error {
            ExplainError::Busy(error) => Self::too_many(error.to_string(), RETRY_BUSY),
            ExplainError::Path(error) => Self::not_found(error.to_string()),
            ExplainError::Unsupported { .. } => Self::parameter("cid", error.to_string()),
            ExplainError::Store(error) => error.into(),
        }
    }
}

/// Seconds: a check takes ten, if its routers and peers are slow.
const RETRY_BUSY: u64 = 5;
