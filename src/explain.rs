//! L4b: why is it slow, or missing? Who has a block, by which router, reached over what, what of it is here, and what a
//! fetch would cost now. Nothing is fetched for the answer.
//!
//! What was not measured is null: the estimate is the bound of RETRIEVAL.md §2.0 over the rates and round trips that the
//! ledger remembers of the peers that have the block, and there is none where it remembers none.

mod estimate;
mod local;

use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;
use utoipa::ToSchema;

use crate::blockstore::{Blocks, PinKind, StoreError, Tier};
use crate::dag::{self, ResolveError};
use crate::denylist::Judge;
use crate::exchange::ConnectError;
use crate::ipld::path::{ContentPath, Namespace};
use crate::ipld::{Block, BlockError, Cid, HashCode};
use crate::retriever::probe::{Answer, Link, Probe, ProbeError, ProbeOptions, ProbedPeer, RouterAnswer};
use crate::retriever::{FetchError, Retriever, SessionOptions};

pub use estimate::Estimate;
pub use local::MAX_LOOKED_FOR;

/// Patience, if none is given.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Providers that are dialled and asked, if no number is given.
pub const DEFAULT_PROVIDERS: usize = 20;
pub const MAX_PROVIDERS: usize = 100;

/// What is to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    pub root: Cid,
    /// Below the root; followed through local blocks only.
    pub path: Vec<String>,
    /// Whole paths under the names that led here, which denylists may name.
    pub named: Vec<ContentPath>,
    pub timeout: Duration,
    pub max_providers: usize,
}

#[derive(Debug, Error)]
pub enum ExplainError {
    #[error(transparent)]
    Busy(ProbeError),
    /// The path leads nowhere within content that is here.
    #[error(transparent)]
    Path(ResolveError),
    #[error("{cid} cannot be fetched: {error}")]
    Unsupported { cid: Cid, error: BlockError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The short answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ExplainVerdict)]
pub enum Verdict {
    /// All of it is here.
    Local,
    /// Somebody who can be reached has the block.
    Available,
    /// Providers are named, not all of them can be reached or asked, and none of the others has it.
    Unreachable,
    /// Every router and every peer has answered: nobody has it.
    Nobody,
    /// The time was over, or a router failed, before it was known.
    Unknown,
    /// A denylist names it; nobody was asked.
    Denied,
    /// It is not all here, and this server is offline.
    Offline,
}

/// Who has it, what of it is here, what a fetch would cost
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Explanation {
    /// As it was asked for.
    pub cid: String,
    pub path: String,
    /// The CID that everything below is about: the end of the path, or the first block on it that is not here.
    pub target: String,
    /// The path could not be followed to its end, because `target` is not here.
    pub path_is_cut: bool,
    pub verdict: Verdict,
    /// The verdict in a sentence.
    pub summary: String,
    pub local: Local,
    /// In the order in which the standard policy asks them.
    pub routers: Vec<RouterPart>,
    /// Those that a router named, in the order in which they were named, then connected peers that have the block.
    pub providers: Vec<ProviderPart>,
    /// Named beyond `max_providers` and not asked.
    pub providers_unasked: u64,
    /// Connected peers that were asked though nobody had named them yet.
    pub connected_asked: u64,
    pub estimate: Estimate,
    /// Every router and every peer has answered, or said that it will not, within the time.
    pub complete: bool,
    pub elapsed_ms: f64,
}

/// What of the graph is here
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ExplainLocal)]
pub struct Local {
    /// Where the block itself is: `memory`, `store` or `disk`; null: not here.
    pub tier: Option<&'static str>,
    /// `recursive` or `direct`, if this very CID is pinned.
    pub pin: Option<&'static str>,
    pub blocks_here: u64,
    /// Links from blocks that are here to blocks that are not; what is under those is not counted.
    pub blocks_missing: u64,
    /// Of the whole graph, as the block itself says; null when it is not here or does not say.
    pub bytes_total: Option<u64>,
    /// As the links to what is missing say; null when they do not, or `whole` is false.
    pub bytes_missing: Option<u64>,
    /// All that is here was looked at. Otherwise, beyond 10,000 blocks or the time, the counts are lower bounds.
    pub whole: bool,
}

/// One router's answer
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ExplainRouter)]
pub struct RouterPart {
    /// `configured`, `mdns`, `delegated` or `dht`.
    pub kind: &'static str,
    /// Its URL, or its kind.
    pub name: String,
    pub providers: u64,
    /// Null: it had not ended within the time.
    pub elapsed_ms: Option<f64>,
    pub error: Option<String>,
}

/// One provider
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ExplainProvider)]
pub struct ProviderPart {
    pub peer_id: String,
    /// Names of the routers that named it; empty for a connected peer that was asked unnamed.
    pub found_by: Vec<String>,
    pub addresses: Vec<String>,
    /// `connected` (before), `dialled`, `failed`, `pending`.
    pub connection: &'static str,
    /// `bitswap-quic`, `bitswap-tcp`, ...; null when it was not reached.
    pub transport: Option<&'static str>,
    /// The address that answered a dial.
    pub address: Option<String>,
    /// Of the dial, also of one that failed.
    pub connect_ms: Option<f64>,
    pub connect_error: Option<String>,
    /// Whether it has the block: `yes`, `no`, `unasked` (not reached, or its protocol has no such question), `silent`.
    pub has: &'static str,
    /// From the question to the answer.
    pub answer_ms: Option<f64>,
    /// The least round trip ever measured.
    pub rtt_ms: Option<f64>,
    /// The best delivery rate remembered; halves every ten minutes without a new measurement.
    pub bytes_per_second: Option<f64>,
}

/// Answers the question. Takes at most its timeout and a little more. Cancel safe: dropping the future ends the questions.
pub async fn explain(retriever: &Retriever, blocks: &Blocks, question: &Question) -> Result<Explanation, ExplainError> {
    let started = Instant::now();
    let deadline = started + question.timeout;
    let Followed { target, roots, path_is_cut } = follow(retriever, question).await?;
    let denied = is_denied(retriever, question, &target, &roots);
    let inherent = Block::inherent(&target).is_some();
    if !inherent {
        HashCode::try_from(target.hash().code()).map_err(|error| ExplainError::Unsupported { cid: target, error })?;
    }
    let options = ProbeOptions { timeout: question.timeout, max_providers: question.max_providers };
    let ask = async {
        if denied || inherent {
            return Ok(None);
        }
        match retriever.probe(&target, options).await {
            Ok(probe) => Ok(Some(probe)),
            Err(ProbeError::Offline) => Ok(None),
            Err(error) => Err(ExplainError::Busy(error)),
        }
    };
    let (found, probe) = tokio::join!(local::walk(blocks, target, deadline), ask);
    let (found, probe) = (found?, probe?);

    let verdict = if denied {
        Verdict::Denied
    } else if found.is_all_here() && !path_is_cut {
        Verdict::Local
    } else {
        probe.as_ref().map_or(Verdict::Offline, verdict)
    };
    let providers = probe.as_ref().map(|probe| probe.providers.as_slice()).unwrap_or_default();
    Ok(Explanation {
        cid: question.root.to_string(),
        path: question.path.join("/"),
        target: target.to_string(),
        path_is_cut,
        verdict,
        summary: summary(verdict, &found, probe.as_ref()),
        estimate: Estimate::of(&found, providers),
        local: Local::of(&found),
        routers: probe.as_ref().map(|probe| probe.routers.iter().map(RouterPart::of).collect()).unwrap_or_default(),
        providers: providers.iter().map(ProviderPart::of).collect(),
        providers_unasked: probe.as_ref().map_or(0, |probe| probe.unasked as u64),
        connected_asked: probe.as_ref().map_or(0, |probe| probe.connected_asked as u64),
        complete: probe.as_ref().is_none_or(|probe| probe.complete),
        elapsed_ms: ms(started.elapsed()),
    })
}

/// Where the path leads, as far as it can be followed.
struct Followed {
    target: Cid,
    /// The root and the CID of each segment, if it was followed to its end.
    roots: Vec<Cid>,
    path_is_cut: bool,
}

/// What the gateway would refuse: a CID, or a path or name that leads there.
fn is_denied(retriever: &Retriever, question: &Question, target: &Cid, roots: &[Cid]) -> bool {
    let namespace = Namespace::Ipfs(question.root);
    let asked = ContentPath { namespace, segments: question.path.clone(), trailing_slash: false };
    let mut judge = Judge::new(&retriever.denylists(), question.named.iter().cloned().chain([asked]));
    judge.passed(roots);
    retriever.denied(&question.root).or_else(|| retriever.denied(target)).is_some() || judge.verdict().is_err()
}

/// The end of the path, or the first block on the way that is not here.
async fn follow(retriever: &Retriever, question: &Question) -> Result<Followed, ExplainError> {
    let cut = |target| Ok(Followed { target, roots: Vec::new(), path_is_cut: true });
    if question.path.is_empty() {
        return Ok(Followed { target: question.root, roots: vec![question.root], path_is_cut: false });
    }
    let session = retriever.session(question.root, SessionOptions { policy: None, local_only: true });
    match dag::resolve_from(&session, question.root, &question.path).await {
        Ok(end) => Ok(Followed { target: end.cid, roots: end.roots, path_is_cut: false }),
        Err(ResolveError::Fetch(error) | ResolveError::Malformed(dag::DirectoryError::Fetch(error))) => match error {
            FetchError::NotLocal { cid } | FetchError::Denied { cid, .. } => cut(cid),
            FetchError::Unsupported { cid, error } => Err(ExplainError::Unsupported { cid, error }),
            error => Err(ExplainError::Path(ResolveError::Fetch(error))),
        },
        Err(error) => Err(ExplainError::Path(error)),
    }
}

fn verdict(probe: &Probe) -> Verdict {
    if probe.providers.iter().any(is_available) {
        Verdict::Available
    } else if !probe.complete || probe.routers.iter().any(|router| router.error.is_some()) {
        Verdict::Unknown
    } else if probe.unasked > 0 || probe.providers.iter().any(|peer| peer.answer != Answer::HasNot && !is_itself(peer))
    {
        Verdict::Unreachable
    } else {
        Verdict::Nobody
    }
}

/// Routers name this node too, for what it announced.
fn is_itself(peer: &ProbedPeer) -> bool {
    matches!(&peer.link, Link::Failed { error: ConnectError::Itself, .. })
}

/// It was reached, and it has the block.
fn is_available(peer: &ProbedPeer) -> bool {
    peer.answer == Answer::Has && peer.link.transport().is_some()
}

fn summary(verdict: Verdict, found: &local::Found, probe: Option<&Probe>) -> String {
    let named = probe.map_or(0, |probe| probe.providers.len() + probe.unasked);
    let have = probe.map_or(0, |probe| probe.providers.iter().filter(|peer| is_available(peer)).count());
    let reached = probe.map_or(0, |probe| probe.providers.iter().filter(|p| p.link.transport().is_some()).count());
    let providers = |n: usize| if n == 1 { "1 provider".to_owned() } else { format!("{n} providers") };
    match verdict {
        Verdict::Local if have > 0 => format!("All of it is here, and {} of others can be reached.", providers(have)),
        Verdict::Local => "All of it is here.".to_owned(),
        Verdict::Available if found.root.is_some() => {
            let verb = if have == 1 { "has" } else { "have" };
            format!("Part of it is here; {} can be reached and {verb} its first block.", providers(have))
        }
        Verdict::Available if have == 1 => "1 provider can be reached and has it.".to_owned(),
        Verdict::Available => format!("{have} providers can be reached and have it."),
        Verdict::Unreachable if reached == 0 => {
            format!("{} named, and none can be reached. They may be offline or behind a NAT.", providers(named))
        }
        Verdict::Unreachable => format!("{} named, {reached} reached, and none of those has it.", providers(named)),
        Verdict::Nobody if reached > 0 => format!("{} named and asked, and none has it.", providers(named)),
        Verdict::Nobody if probe.is_some_and(|probe| probe.routers.is_empty()) => {
            "No router is configured that could be asked, and no connected peer has it.".to_owned()
        }
        Verdict::Nobody => "Every router has answered and named nobody. If you publish it, check that your node is \
                            online and announces it."
            .to_owned(),
        Verdict::Unknown if probe.is_some_and(|probe| probe.routers.iter().any(|r| r.error.is_some())) => {
            "Nobody was found who has it, and not every router could be asked: see routers.".to_owned()
        }
        Verdict::Unknown => "The time was over before it was known who has it: try again with a longer one.".to_owned(),
        Verdict::Denied => "A denylist names it: it is neither fetched nor served here.".to_owned(),
        Verdict::Offline => "It is not all here, and this server is offline: nobody was asked.".to_owned(),
    }
}

impl Local {
    fn of(found: &local::Found) -> Self {
        Self {
            tier: found.root.map(|tier| match tier {
                Tier::Memory => "memory",
                Tier::Store => "store",
                Tier::Disk => "disk",
            }),
            pin: found.pin.map(|kind| match kind {
                PinKind::Recursive => "recursive",
                PinKind::Direct => "direct",
            }),
            blocks_here: found.here,
            blocks_missing: found.missing,
            bytes_total: found.total,
            bytes_missing: found.missing_bytes,
            whole: found.whole,
        }
    }
}

impl RouterPart {
    fn of(answer: &RouterAnswer) -> Self {
        Self {
            kind: answer.kind.as_str(),
            name: answer.name.clone(),
            providers: answer.providers as u64,
            elapsed_ms: answer.took.map(ms),
            error: answer.error.clone(),
        }
    }
}

impl ProviderPart {
    fn of(peer: &ProbedPeer) -> Self {
        let (connection, address, connect, error) = match &peer.link {
            Link::Connected(_) => ("connected", None, None, None),
            Link::Dialled { address, took, .. } => ("dialled", Some(address.to_string()), Some(*took), None),
            Link::Failed { error, took } => ("failed", None, Some(*took), Some(error)),
            Link::Pending => ("pending", None, None, None),
        };
        Self {
            peer_id: peer.peer.to_string(),
            found_by: peer.found_by.clone(),
            addresses: peer.addrs.iter().map(ToString::to_string).collect(),
            connection,
            transport: peer.link.transport().map(|transport| transport.as_str()),
            address,
            connect_ms: connect.map(ms),
            connect_error: error.map(ToString::to_string),
            has: match peer.answer {
                Answer::Has => "yes",
                Answer::HasNot => "no",
                Answer::Unasked => "unasked",
                Answer::None => "silent",
            },
            answer_ms: peer.answer_time.map(ms),
            rtt_ms: peer.rtt.map(ms),
            bytes_per_second: peer.rate,
        }
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
