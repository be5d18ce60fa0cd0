//! Run tokens: one submission a token, so that results are posted by a page or command that this server started.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::telemetry::Metrics;

/// How long a run may take: a full run on a software adapter needs about a minute.
pub const TOKEN_LIFE: Duration = Duration::from_secs(900);
/// Tokens that are out at the same time; a further one ends the oldest.
pub const MAX_TOKENS: usize = 128;
/// Tokens and submissions a minute, each.
const PER_MINUTE: std::num::NonZeroU32 = std::num::NonZeroU32::new(30).unwrap(); // 30 is not 0
/// Random bytes of a token.
const TOKEN_BYTES: usize = 16;

/// What a page needs to post its results once.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = LabToken)]
pub struct RunToken {
    pub token: String,
    pub expires_in_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("this run token is unknown, used or expired; take a new one with POST /api/v1/webgpu/runs")]
    Unknown,
    #[error("more than {PER_MINUTE} runs a minute; wait and try again")]
    TooMany,
}

/// The lab's state in the server. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

struct Inner {
    tokens: Mutex<Vec<Issued>>,
    issuing: DefaultDirectRateLimiter,
    posting: DefaultDirectRateLimiter,
    evicted: Counter,
    refused: Counter,
    accepted: Counter,
}

struct Issued {
    token: String,
    until: Instant,
}

impl Lab {
    pub fn new(metrics: &Metrics) -> Self {
        let inner = Inner {
            tokens: Mutex::default(),
            issuing: RateLimiter::direct(Quota::per_minute(PER_MINUTE)),
            posting: RateLimiter::direct(Quota::per_minute(PER_MINUTE)),
            evicted: Counter::default(),
            refused: Counter::default(),
            accepted: Counter::default(),
        };
        metrics.register(
            "webgpu_tokens_evicted",
            "Run tokens ended early because too many were out",
            inner.evicted.clone(),
        );
        metrics.register(
            "webgpu_submissions_refused",
            "Lab results refused: token, rate or plausibility",
            inner.refused.clone(),
        );
        metrics.register("webgpu_submissions_accepted", "Lab results stored", inner.accepted.clone());
        Self { inner: Arc::new(inner) }
    }

    /// A new token, from the operating system's randomness.
    pub fn issue(&self, now: Instant) -> Result<RunToken, TokenError> {
        self.inner.issuing.check().map_err(|_| TokenError::TooMany)?;
        let token = hex::encode(rand::random::<[u8; TOKEN_BYTES]>());
        let mut tokens = self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|issued| issued.until > now);
        if tokens.len() >= MAX_TOKENS {
            tokens.remove(0);
            self.inner.evicted.inc();
        }
        tokens.push(Issued { token: token.clone(), until: now + TOKEN_LIFE });
        Ok(RunToken { token, expires_in_s: TOKEN_LIFE.as_secs() })
    }

    /// Takes a token back. It is used up, whatever becomes of the submission: what is implausible does not get a
    /// second guess.
    pub fn redeem(&self, token: &str, now: Instant) -> Result<(), TokenError> {
        self.inner.posting.check().map_err(|_| TokenError::TooMany)?;
        let mut tokens = self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |issued: &Issued| bool::from(issued.token.as_bytes().ct_eq(token.as_bytes()));
        let at = tokens.iter().position(|issued| issued.until > now && same(issued)).ok_or(TokenError::Unknown)?;
        tokens.remove(at);
        Ok(())
    }

    pub fn refused(&self) {
        self.inner.refused.inc();
    }

    pub fn accepted(&self) {
        self.inner.accepted.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_once_and_not_after_its_time() {
        let lab = Lab::new(&Metrics::new());
        let now = Instant::now();
        let token = lab.issue(now).unwrap().token;
        assert_eq!(token.len(), 32);
        assert_eq!(lab.redeem("nonsense", now), Err(TokenError::Unknown));
        assert_eq!(lab.redeem(&token, now), Ok(()));
        assert_eq!(lab.redeem(&token, now), Err(TokenError::Unknown));
        let late = lab.issue(now).unwrap().token;
        assert_eq!(lab.redeem(&late, now + TOKEN_LIFE), Err(TokenError::Unknown));
    }

    #[test]
    fn tokens_are_given_and_taken_at_a_bounded_rate() {
        let lab = Lab::new(&Metrics::new());
        let now = Instant::now();
        let given = (0..100).filter(|_| lab.issue(now).is_ok()).count();
        assert!((30..=31).contains(&given), "{given}");
        let tried = (0..100).filter(|_| lab.redeem("x", now) == Err(TokenError::Unknown)).count();
        assert!((30..=31).contains(&tried), "{tried}");
    }
}
