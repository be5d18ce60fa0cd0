//! The WebGPU lab: `POST /webgpu/runs` gives a one-time token, `POST /webgpu/results` takes what was measured with it,
//! `GET /webgpu/summary` tells what is stored.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::State as Extract;
use axum::http::header::USER_AGENT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use multihash_codetable::{Code, MultihashDigest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Json, Known, fresh, tagged};
use super::problem::Problem;
use super::{State, database};
use crate::db::LabReceipt;
use crate::webgpu::{self, Context, MAX_BODY_BYTES, RunToken, Submission, Summary, TokenError};

/// Bytes of the User-Agent's hash: enough to tell browsers apart, not to find one again.
const AGENT_HASH_BYTES: usize = 8;

/// One run with the token that it was given.
#[derive(Deserialize, ToSchema)]
#[schema(as = LabResults)]
#[serde(deny_unknown_fields)]
pub struct Posted {
    /// Of `POST /webgpu/runs`; good for one run.
    token: String,
    run: Submission,
}

#[derive(Serialize, ToSchema)]
#[schema(as = LabStored)]
pub struct Stored {
    submission_id: String,
    #[serde(flatten)]
    receipt: LabReceipt,
    /// The adapter is an emulation on the CPU.
    is_simulated: bool,
}

/// A token for one run of the lab
#[utoipa::path(post, path = "/webgpu/runs", tag = "webgpu", responses((status = 201, body = RunToken)))]
pub async fn begin(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let token = state.lab.issue(Instant::now()).map_err(refusal)?;
    Ok(fresh(StatusCode::CREATED, token))
}

/// Stores one run of the lab
///
/// The token is used up by any run that is understood, a refused one too: what is implausible gets no second guess.
#[utoipa::path(post, path = "/webgpu/results", tag = "webgpu", request_body = Posted, responses(
    (status = 201, body = Stored),
    (status = 409, description = "The token is unknown, used or expired."),
    (status = 413, description = "More than 128 KiB."),
    (status = 415, description = "Not application/json."),
    (status = 422, description = "The run is not understood, or not plausible; `detail` says where."),
))]
pub async fn results(
    Extract(state): Extract<State>,
    headers: HeaderMap,
    Json(posted): Json<Posted, MAX_BODY_BYTES>,
) -> Result<Response, Problem> {
    let stored = store(&state, &headers, posted).await;
    match &stored {
        Ok(_) => state.lab.accepted(),
        Err(problem) if problem.status().is_client_error() => state.lab.refused(),
        Err(_) => {}
    }
    stored.map(|stored| fresh(StatusCode::CREATED, stored))
}

async fn store(state: &State, headers: &HeaderMap, Posted { token, run }: Posted) -> Result<Stored, Problem> {
    let db = database(state)?;
    state.lab.redeem(&token, Instant::now()).map_err(refusal)?;
    run.check().map_err(|error| Problem::unprocessable(format!("the run is not plausible: {error}")))?;
    let is_simulated = run.adapter.as_ref().is_some_and(webgpu::Adapter::is_software);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let context = Context {
        now_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
        submission_id: hex::encode(rand::random::<[u8; 16]>()),
        user_agent_hash: headers.get(USER_AGENT).map(|agent| hash(agent.as_bytes())),
    };
    let receipt = db.write_lab_run(run.into_run(&context)).await?;
    Ok(Stored { submission_id: context.submission_id, receipt, is_simulated })
}

/// Stored runs by browser, version and adapter
#[utoipa::path(get, path = "/webgpu/summary", tag = "webgpu", responses((status = 200, body = Summary)))]
pub async fn summary(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    tagged(&known, &webgpu::load(database(&state)?, SystemTime::now()).await?)
}

fn refusal(error: TokenError) -> Problem {
    match error {
        TokenError::Unknown => Problem::conflict(error.to_string()),
        TokenError::TooMany => Problem::too_many(error.to_string(), 2),
    }
}

fn hash(agent: &[u8]) -> String {
    hex::encode(&Code::Blake3_256.digest(agent).digest()[..AGENT_HASH_BYTES])
}
