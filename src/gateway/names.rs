//! What a name stands for now: the port through which the gateway asks.

use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::ipld::path::ContentPath;

/// Resolves IPNS names and DNSLinks, recursively, down to an immutable path.
#[async_trait]
pub trait Names: Send + Sync {
    /// What `/ipns/{name}` stands for. `local_only`: no network, as far as that can be had.
    async fn resolve(&self, name: &str, local_only: bool) -> Result<Named, NameError>;

    /// Whether the host `name` has a DNSLink. An error is not a no: the answer is not known.
    async fn has_dnslink(&self, name: &str) -> Result<bool, NameError>;
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Of the namespace `/ipfs`.
    pub path: ContentPath,
    /// How long that may be relied on; `None`: not known.
    pub ttl: Option<Duration>,
}

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum NameError {
    /// Everybody who could know has answered, and nobody knows it.
    #[error("nothing is published under {name}")]
    NotFound { name: String },
    /// HTTP 412, with `only-if-cached`.
    #[error("what {name} stands for is not held here")]
    NotLocal { name: String },
    #[error("{name} is neither an IPNS key nor a domain name")]
    Invalid { name: String },
    /// There is a record and it does not hold: an invalid signature, or past its end.
    #[error("the record of {name} is not valid: {reason}")]
    BadRecord { name: String, reason: String },
    #[error("{name} leads through more than {limit} names")]
    TooDeep { name: String, limit: u32 },
    #[error("what {name} stands for could not be found out in time")]
    Timeout { name: String },
    #[error("what {name} stands for could not be found out: {reason}")]
    Failed { name: String, reason: String },
}

/// No names at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNames;

#[async_trait]
impl Names for NoNames {
    async fn resolve(&self, name: &str, _: bool) -> Result<Named, NameError> {
        Err(NameError::NotFound { name: name.to_owned() })
    }

    async fn has_dnslink(&self, _: &str) -> Result<bool, NameError> {
        Ok(false)
    }
}
