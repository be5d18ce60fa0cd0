//! The WebGPU lab: `POST /webgpu/runs` gives a one-time token, `POST /webgpu/results` takes what was measured with it,
//! `GET /webgpu/summary` tells what is stored.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, to_bytes};
use axum::extract::State as Extract;
use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use multihash_codetable::{Code, MultihashDigest};
use serde::{Deserialize, Serialize};

use super::extract::{Known, fresh, tagged};
use super::problem::Problem;
use super::{State, database};
use crate::db::LabReceipt;
use crate::webgpu::{self, Context, MAX_BODY_BYTES, Submission, TokenError};

/// Bytes of the User-Agent's hash: enough to tell browsers apart, not to find one again.
const AGENT_HASH_BYTES: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted {
    token: String,
    run: serde_json::Value,
}

#[derive(Serialize)]
struct Stored {
    submission_id: String,
    #[serde(flatten)]
    receipt: LabReceipt,
    /// The adapter is an emulation on the CPU.
    is_simulated: bool,
}

/// A token for one run.
pub async fn begin(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let token = state.lab.issue(Instant::now()).map_err(refusal)?;
    Ok(fresh(StatusCode::CREATED, token))
}

/// Stores one run. The token is used up by any answer but 413, 415 and a body that is no JSON.
pub async fn results(Extract(state): Extract<State>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let stored = store(&state, &headers, body).await;
    match &stored {
        Ok(_) => state.lab.accepted(),
        Err(problem) if problem.status().is_client_error() => state.lab.refused(),
        Err(_) => {}
    }
    stored.map(|stored| fresh(StatusCode::CREATED, stored))
}

async fn store(state: &State, headers: &HeaderMap, body: Body) -> Result<Stored, Problem> {
    let json = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(';').next().is_some_and(|mime| mime.trim().eq_ignore_ascii_case("application/json"))
    });
    if !json {
        return Err(Problem::media_type("results are application/json"));
    }
    let bytes = to_bytes(body, MAX_BODY_BYTES)
        .await
        .map_err(|_| Problem::too_large(format!("results are at most {MAX_BODY_BYTES} bytes")))?;
    let posted: Posted = serde_json::from_slice(&bytes)
        .map_err(|error| Problem::unprocessable(format!("expected {{\"token\", \"run\"}}: {error}")))?;
    let db = database(state)?;
    state.lab.redeem(&posted.token, Instant::now()).map_err(refusal)?;
    let run: Submission = serde_json::from_value(posted.run)
        .map_err(|error| Problem::unprocessable(format!("the run is not understood: {error}")))?;
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

pub async fn summary(Extract(state): Extract<State>, known: Known) -> Result<Response, Problem> {
    tagged(&known, &webgpu::load(database(&state)?, SystemTime::now()).await?)
}

fn refusal(error: TokenError) -> Problem {
    match error {
        TokenError::Unknown => Problem::conflict(error.to_string()),
        TokenError::TooMany => Problem::too_many(error.to_string()),
    }
}

fn hash(agent: &[u8]) -> String {
    hex::encode(&Code::Blake3_256.digest(agent).digest()[..AGENT_HASH_BYTES])
}
