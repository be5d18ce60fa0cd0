//! Why a name does not lead anywhere.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::MAX_RECURSION;
use super::store::NameStoreError;
use crate::ipld::ipns::{RecordError, SignError};
use crate::ipld::path::PathError;

/// Cheap to clone: many may wait for one look-up.
#[derive(Debug, Clone, Error)]
pub enum NameError {
    #[error("{name:?} is neither an IPNS key nor a DNS name")]
    Syntax { name: String },
    #[error(transparent)]
    Path(#[from] PathError),
    /// Everybody who could know has answered, and has no record.
    #[error("no IPNS record of {name} was found; its publisher may be offline, or its last record has expired")]
    NotFound { name: String },
    /// DNS answered, and there is no such link.
    #[error("{host} has no DNSLink: there is no TXT record dnslink=/ipfs/… at _dnslink.{host}")]
    NoLink { host: String },
    /// Records came, and none of them is valid.
    #[error("the IPNS record of {name} is not valid: {error}")]
    Invalid { name: String, error: RecordError },
    #[error("the DNSLink of {host} is not a content path: {error}")]
    BadLink { host: String, error: PathError },
    #[error("DNS did not answer for {host}: {reason}")]
    Dns { host: String, reason: String },
    #[error("{name} was not resolved within {after:?}")]
    Timeout { name: String, after: Duration },
    #[error("nobody who could know {name} could be asked: {reason}")]
    Unreachable { name: String, reason: String },
    #[error("{first} leads through more than {MAX_RECURSION} names: it is a loop, or as good as one")]
    Recursion { first: String },
    #[error("{name} cannot be looked up here: {reason}")]
    Disabled { name: String, reason: &'static str },
    /// Only what is here was wanted.
    #[error("{name} is not known here, and the network was not to be asked")]
    NotLocal { name: String },
    #[error("too many names are being looked up at this moment")]
    Busy,
    #[error("the look-up of {name} ended without an answer")]
    Lost { name: String },
    #[error(transparent)]
    Store(Arc<NameStoreError>),
    #[error("the record is older than the one that is here (sequence {given} against {have})")]
    Older { given: u64, have: u64 },
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("key {0:?}: a key's name is 1 to 64 of a-z, 0-9, - and _")]
    KeyName(String),
    #[error("key {name:?} cannot be read: {reason}")]
    Key { name: String, reason: String },
}

impl NameError {
    /// A word from a closed set: the metric's label, and `code` of HTTP answers.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Syntax { .. } | Self::Path(_) | Self::KeyName(_) => "bad_name",
            Self::NotFound { .. } => "name_not_found",
            Self::NoLink { .. } => "no_dnslink",
            Self::Invalid { .. } | Self::BadLink { .. } => "name_invalid",
            Self::Dns { .. } | Self::Unreachable { .. } => "name_unreachable",
            Self::Timeout { .. } => "name_timeout",
            Self::Recursion { .. } => "name_recursion",
            Self::Disabled { .. } => "name_disabled",
            Self::NotLocal { .. } => "not_cached",
            Self::Busy => "busy",
            Self::Older { .. } => "name_older",
            Self::Store(error) if matches!(**error, NameStoreError::Full { .. }) => "names_full",
            Self::Lost { .. } | Self::Store(_) | Self::Sign(_) | Self::Key { .. } => "name_internal",
        }
    }
}

impl From<NameStoreError> for NameError {
    fn from(error: NameStoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
