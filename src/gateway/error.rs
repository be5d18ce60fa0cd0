//! What went wrong, whose doing it was, and the status that says so. Status codes of errors are decided here alone.
//!
//! Nobody has it: 404 when every router has answered and named nobody (the content is known not to be retrievable now),
//! 502 when a router failed, so that this is not known, or when providers were named and none of them delivered, 504 when no answer came in time. A path that leads nowhere
//! within content that is here is a 404 for ever; the others carry `Retry-After` (path-gateway specification,
//! "recursive and non-recursive").

use http::StatusCode;
use thiserror::Error;

use super::format::FormatError;
use super::host::HostError;
use super::redirects::RedirectsError;
use crate::blockstore::StoreError;
use crate::dag::archive::ArchiveError;
use crate::dag::{CarError, DirectoryError, ReadError, ResolveError, WalkError};
use crate::denylist::{Denied, Refused};
use crate::ipld::path::PathError;
use crate::ipld::unixfs::UnixFsError;
use crate::ipld::{Cid, codec};
use crate::names::{NameError, NameStoreError};
use crate::record::{Outcome, Phase};
use crate::retriever::FetchError;

/// Seconds after which a client may try again, by what was wrong.
const RETRY_BUSY: u32 = 10;
const RETRY_UPSTREAM: u32 = 15;
const RETRY_NOBODY: u32 = 60;
const RETRY_STOPPING: u32 = 5;

#[derive(Debug, Error)]
pub enum GatewayError {
    #[error("invalid path {path:?}: {error}")]
    Path { path: String, error: PathError },
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Host(#[from] HostError),
    /// The site's `_redirects` cannot be followed.
    #[error(transparent)]
    Redirects(#[from] RedirectsError),
    #[error("could not read _redirects: {0}")]
    RedirectsFile(Box<GatewayError>),
    #[error("_redirects serves {to:?} for this path, and that is not a file of the site")]
    RedirectsTarget { to: String },
    #[error(transparent)]
    Denied(#[from] Refused),
    #[error("there is nothing at this address; content is under /ipfs/ and /ipns/")]
    NoRoute,
    #[error("only GET, HEAD and OPTIONS are answered here")]
    Method,
    #[error("too many requests are being answered at this moment")]
    Busy,
    /// `Cache-Control: only-if-cached`, and it is not.
    #[error("{cid} is not held here, and the request says only-if-cached")]
    NotCached { cid: Cid },
    /// Peers are given nothing that they cannot verify.
    #[error(
        "peers are served what they can verify: /ipfs/CID as format=raw, any path as format=car, /ipns/KEY as format=ipns-record"
    )]
    NotVerifiable,
    /// The same, and the request names no form at all (trustless-gateway specification, "Accept").
    #[error("the request names no format: ask with Accept, or with format=raw, format=car or format=ipns-record")]
    NoFormat,
    /// Peers are given what is here.
    #[error("no record of {name} is held here")]
    NoRecord { name: String },
    #[error("no byte of the range lies within the {size} bytes of the content")]
    Range { size: u64 },
    #[error(
        "parts of files over {limit} bytes are not served here, and this one has {size}: ask for all of it, or for its blocks"
    )]
    RangeTooLarge { size: u64, limit: u64 },
    #[error("{cid} is over the {limit} bytes that are served {form} here: {advice}")]
    TooLarge { cid: Cid, limit: u64, form: &'static str, advice: &'static str },
    /// A block that has no plain form here.
    #[error("{cid} is neither a file nor a directory (codec {codec:#x}): ask for it with format=raw or format=car")]
    NotUnixFs { cid: Cid, codec: u64 },
    /// A block of one codec that is asked for as another (IPIP-524).
    #[error(
        "{cid} (codec {codec:#x}) is not {wanted}, and nothing is converted here: ask without a format, or with format=raw"
    )]
    Mismatch { cid: Cid, codec: u64, wanted: &'static str },
    /// A browser asks for the script of a service worker that would rule every site of this origin.
    #[error(
        "a service worker cannot be registered at a content root: its scope would be other people's content; use the root's own origin"
    )]
    ServiceWorker,
    /// dag-pb that says it is UnixFS and is not.
    #[error("{cid} is damaged: {error}")]
    Malformed { cid: Cid, error: UnixFsError },
    #[error("no byte of the answer was ready after {seconds} s")]
    Slow { seconds: u64 },
    #[error("the server failed while it made the answer")]
    Panic,
    #[error("the page could not be made: {0}")]
    Template(#[from] askama::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("records are of IPNS keys: ask for /ipns/KEY?format=ipns-record")]
    NotAName,
    #[error("a record is of a whole name: ask for it without a path")]
    RecordPath,
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Car(#[from] CarError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// What an error amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub status: StatusCode,
    /// A word from a closed set: `code` of the JSON answer, `error_kind` of the record.
    pub code: &'static str,
    pub outcome: Outcome,
    /// Seconds; `None`: trying again does not help.
    pub retry_after: Option<u32>,
    pub cid: Option<Cid>,
    /// The path segment that leads nowhere.
    pub segment: Option<String>,
    pub phase: Option<Phase>,
    /// Providers found and tried, where the network was asked.
    pub providers: Option<(u32, u32)>,
}

impl Fault {
    fn new(status: StatusCode, code: &'static str) -> Self {
        Self {
            status,
            code,
            outcome: Outcome::Error,
            retry_after: None,
            cid: None,
            segment: None,
            phase: None,
            providers: None,
        }
    }

    fn of(self, cid: &Cid) -> Self {
        Self { cid: Some(*cid), ..self }
    }

    fn retry(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    fn ended(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    fn at(self, phase: Phase) -> Self {
        Self { phase: Some(phase), ..self }
    }
}

impl GatewayError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Path { .. } => Fault::new(StatusCode::BAD_REQUEST, "bad_path"),
            Self::Host(HostError::Path { .. }) => Fault::new(StatusCode::BAD_REQUEST, "bad_path"),
            Self::Host(_) => Fault::new(StatusCode::BAD_REQUEST, "bad_host"),
            Self::Redirects(_) => Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "bad_redirects"),
            Self::RedirectsFile(error) => {
                let Fault { retry_after, phase, providers, .. } = error.fault();
                let fault = Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "bad_redirects");
                Fault { retry_after, phase, providers, ..fault }
            }
            Self::RedirectsTarget { .. } => {
                Fault::new(StatusCode::NOT_FOUND, "no_link").ended(Outcome::NotFound).at(Phase::Resolve)
            }
            Self::Denied(Refused { denied, .. }) => refused(*denied),
            Self::Format(FormatError::Parameter { .. }) => Fault::new(StatusCode::BAD_REQUEST, "bad_parameter"),
            Self::Format(_) => Fault::new(StatusCode::NOT_ACCEPTABLE, "bad_format"),
            Self::NoRoute => Fault::new(StatusCode::NOT_FOUND, "no_route"),
            Self::Method => Fault::new(StatusCode::METHOD_NOT_ALLOWED, "bad_method"),
            Self::Busy => Fault::new(StatusCode::TOO_MANY_REQUESTS, "busy").retry(RETRY_BUSY),
            Self::NotCached { cid } => {
                Fault::new(StatusCode::PRECONDITION_FAILED, "not_cached").of(cid).ended(Outcome::NotFound)
            }
            Self::NotVerifiable => Fault::new(StatusCode::NOT_ACCEPTABLE, "not_verifiable"),
            Self::NoFormat => Fault::new(StatusCode::BAD_REQUEST, "no_format"),
            Self::NoRecord { .. } => {
                Fault::new(StatusCode::NOT_FOUND, "not_local").ended(Outcome::NotFound).at(Phase::Resolve)
            }
            Self::Range { .. } => Fault::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range"),
            Self::RangeTooLarge { .. } => Fault::new(StatusCode::NOT_IMPLEMENTED, "range_too_large"),
            Self::TooLarge { cid, .. } => Fault::new(StatusCode::GONE, "too_large").of(cid),
            Self::NotUnixFs { cid, .. } => Fault::new(StatusCode::NOT_ACCEPTABLE, "not_unixfs").of(cid),
            Self::Mismatch { cid, .. } => Fault::new(StatusCode::NOT_ACCEPTABLE, "codec_mismatch").of(cid),
            Self::ServiceWorker => Fault::new(StatusCode::BAD_REQUEST, "service_worker"),
            Self::Malformed { cid, .. } => malformed().of(cid),
            Self::Slow { .. } => {
                Fault::new(StatusCode::GATEWAY_TIMEOUT, "timeout").ended(Outcome::Timeout).retry(RETRY_UPSTREAM)
            }
            Self::Panic | Self::Template(_) => Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::Name(error) => name(error),
            Self::NotAName | Self::RecordPath => Fault::new(StatusCode::BAD_REQUEST, "bad_path"),
            Self::Resolve(error) => resolve(error),
            Self::Read(error) => read(error),
            Self::Directory(error) => directory(error),
            Self::Car(CarError::Walk(error)) => walk(error),
            Self::Archive(error) => archive(error),
            Self::Fetch(error) => fetch(error),
        }
    }
}

fn archive(error: &ArchiveError) -> Fault {
    match error {
        ArchiveError::Denied(Refused { denied, .. }) => refused(*denied),
        ArchiveError::Fetch(error) => fetch(error),
        ArchiveError::Read(error) => read(error),
        ArchiveError::Directory(error) => directory(error),
        ArchiveError::NotUnixFs { cid } => Fault::new(StatusCode::NOT_ACCEPTABLE, "not_unixfs").of(cid),
        ArchiveError::Name(_)
        | ArchiveError::Escape { .. }
        | ArchiveError::BehindSymlink { .. }
        | ArchiveError::SymlinkTarget { .. }
        | ArchiveError::PathTooLong { .. }
        | ArchiveError::TooLarge
        | ArchiveError::TooDeep { .. } => Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "no_archive").at(Phase::Verify),
    }
}

/// DNS knows that there is no link; that a key has no record is never known for certain, somebody may hold one.
pub(super) fn name(error: &NameError) -> Fault {
    let (status, outcome, retry) = match error {
        NameError::Syntax { .. } | NameError::Path(_) | NameError::Recursion { .. } | NameError::KeyName(_) => {
            (StatusCode::BAD_REQUEST, Outcome::Error, None)
        }
        NameError::NoLink { .. } => (StatusCode::NOT_FOUND, Outcome::NotFound, Some(RETRY_NOBODY)),
        NameError::NotFound { .. } => (StatusCode::BAD_GATEWAY, Outcome::NotFound, Some(RETRY_NOBODY)),
        NameError::Invalid { .. } | NameError::BadLink { .. } => {
            (StatusCode::BAD_GATEWAY, Outcome::Error, Some(RETRY_NOBODY))
        }
        NameError::Dns { .. } | NameError::Unreachable { .. } => {
            (StatusCode::BAD_GATEWAY, Outcome::Error, Some(RETRY_UPSTREAM))
        }
        NameError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, Outcome::Timeout, Some(RETRY_UPSTREAM)),
        NameError::Disabled { .. } => (StatusCode::BAD_GATEWAY, Outcome::Error, None),
        NameError::NotLocal { .. } => (StatusCode::PRECONDITION_FAILED, Outcome::NotFound, None),
        NameError::Busy => (StatusCode::SERVICE_UNAVAILABLE, Outcome::Error, Some(RETRY_BUSY)),
        NameError::Older { .. } => (StatusCode::CONFLICT, Outcome::Error, None),
        NameError::Store(error) if matches!(**error, NameStoreError::Full { .. }) => {
            (StatusCode::INSUFFICIENT_STORAGE, Outcome::Error, None)
        }
        NameError::Lost { .. } | NameError::Store(_) | NameError::Sign(_) | NameError::Key { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, Outcome::Error, None)
        }
    };
    Fault { retry_after: retry, ..Fault::new(status, error.kind()).ended(outcome).at(Phase::Resolve) }
}

fn resolve(error: &ResolveError) -> Fault {
    let not_found = || Fault::new(StatusCode::NOT_FOUND, "no_link").ended(Outcome::NotFound).at(Phase::Resolve);
    match error {
        ResolveError::NoLink { segment, cid, .. } => Fault { segment: Some(segment.clone()), ..not_found().of(cid) },
        ResolveError::NotUnixFs { segment, cid, .. } => {
            let fault = match cid.codec() {
                codec::RAW | codec::DAG_PB => not_found(),
                // A path through other codecs is a thing that the specification knows and this server does not do.
                _ => Fault::new(StatusCode::NOT_IMPLEMENTED, "codec_path").at(Phase::Resolve),
            };
            Fault { segment: Some(segment.clone()), ..fault.of(cid) }
        }
        ResolveError::NotALink { segment, cid } => Fault {
            segment: Some(segment.clone()),
            ..Fault::new(StatusCode::NOT_IMPLEMENTED, "not_a_link").of(cid).at(Phase::Resolve)
        },
        ResolveError::BadCodec { cid, .. } => malformed().of(cid),
        ResolveError::Fetch(error) => fetch(error),
        ResolveError::Malformed(error) => directory(error),
        ResolveError::NotACid { .. } => Fault::new(StatusCode::BAD_REQUEST, "bad_path"),
        ResolveError::DepthLimit => malformed(),
    }
}

/// 410, or 451 where the list says that the law is the reason (path-gateway specification).
pub(super) fn refused(denied: Denied) -> Fault {
    match denied.legal {
        true => Fault::new(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, "denied_legal"),
        false => Fault::new(StatusCode::GONE, "denied"),
    }
}

fn read(error: &ReadError) -> Fault {
    match error {
        ReadError::Fetch(error) => fetch(error),
        ReadError::Malformed { cid, .. }
        | ReadError::NotAFile { cid }
        | ReadError::SizeMismatch { cid, .. }
        | ReadError::DepthLimit { cid }
        | ReadError::TooWide { cid } => malformed().of(cid),
    }
}

fn directory(error: &DirectoryError) -> Fault {
    match error {
        DirectoryError::Fetch(error) => fetch(error),
        _ => malformed(),
    }
}

fn walk(error: &WalkError) -> Fault {
    match error {
        WalkError::Denied(Refused { denied, .. }) => refused(*denied),
        WalkError::Fetch(error) => fetch(error),
        _ => malformed(),
    }
}

/// The content itself is wrong: what came is what its CID says, so nobody else has it better, and a retry is in vain.
fn malformed() -> Fault {
    Fault::new(StatusCode::BAD_GATEWAY, "malformed").at(Phase::Verify)
}

fn fetch(error: &FetchError) -> Fault {
    match error {
        FetchError::NotFound { cid, phase, providers_found, providers_tried, routers_failed } => {
            let fault = match providers_found {
                0 if *routers_failed > 0 => Fault::new(StatusCode::BAD_GATEWAY, "routers_failed").retry(RETRY_UPSTREAM),
                0 => Fault::new(StatusCode::NOT_FOUND, "no_provider").retry(RETRY_NOBODY),
                _ => Fault::new(StatusCode::BAD_GATEWAY, "providers_failed").retry(RETRY_UPSTREAM),
            };
            let providers = Some((*providers_found, *providers_tried));
            Fault { providers, ..fault.of(cid).ended(Outcome::NotFound).at(*phase) }
        }
        FetchError::Timeout { cid, phase, providers_found, providers_tried, .. } => {
            let fault = Fault::new(StatusCode::GATEWAY_TIMEOUT, "timeout").retry(RETRY_UPSTREAM);
            let providers = Some((*providers_found, *providers_tried));
            Fault { providers, ..fault.of(cid).ended(Outcome::Timeout).at(*phase) }
        }
        FetchError::NotLocal { cid } => {
            Fault::new(StatusCode::NOT_FOUND, "not_local").of(cid).ended(Outcome::NotFound).at(Phase::Fetch)
        }
        FetchError::Denied { cid, denied } => refused(*denied).of(cid),
        FetchError::Unsupported { cid, .. } => Fault::new(StatusCode::BAD_REQUEST, "unsupported_cid").of(cid),
        FetchError::Stopping => Fault::new(StatusCode::SERVICE_UNAVAILABLE, "stopping").retry(RETRY_STOPPING),
        FetchError::Store(error) => match &**error {
            StoreError::Full { .. } | StoreError::ReadOnly { .. } => {
                Fault::new(StatusCode::INSUFFICIENT_STORAGE, "store_full")
            }
            _ => Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "store"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(error: FetchError) -> (u16, Outcome, bool) {
        let fault = GatewayError::from(error).fault();
        (fault.status.as_u16(), fault.outcome, fault.retry_after.is_some())
    }

    #[test]
    fn nobody_somebody_and_no_answer_are_told_apart() {
        let cid: Cid = "bafkqaaa".parse().unwrap();
        let not_found = |found, routers_failed| FetchError::NotFound {
            cid,
            phase: Phase::Route,
            providers_found: found,
            providers_tried: found,
            routers_failed,
        };
        assert_eq!(status(not_found(0, 0)), (404, Outcome::NotFound, true));
        assert_eq!(status(not_found(0, 1)), (502, Outcome::NotFound, true));
        assert_eq!(status(not_found(3, 0)), (502, Outcome::NotFound, true));
        let timeout = FetchError::Timeout {
            cid,
            phase: Phase::Dial,
            providers_found: 1,
            providers_tried: 1,
            waited: std::time::Duration::from_secs(30),
        };
        assert_eq!(status(timeout), (504, Outcome::Timeout, true));
        assert_eq!(status(FetchError::Stopping).0, 503);
        let full = StoreError::Full { path: "/".into() };
        assert_eq!(status(FetchError::Store(full.into())), (507, Outcome::Error, false));
    }
}
