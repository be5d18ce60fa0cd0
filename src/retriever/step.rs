//! What the scheduler says it did: each step becomes one [`RetrievalEvent`] and moves the session's figures.

use std::time::Duration;

use libp2p::PeerId;

use crate::ipld::Cid;
use crate::record::{EventKind, RetrievalEvent, Transport};
use crate::routing::RouterKind;

/// One step of one session. `end`: so many bytes of the end of a block, which another peer is sending.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    RoutingStarted { cid: Cid },
    ProviderFound { peer: PeerId, router: RouterKind, rtt: Option<Duration>, rate: Option<f64> },
    RouterFinished { router: RouterKind, providers: usize, error: Option<String> },
    DialStarted { peer: PeerId },
    Connected { peer: PeerId, transport: Transport, dial: Option<Duration> },
    DialFailed { peer: PeerId, error: String },
    WantSent { peer: PeerId, router: RouterKind, transport: Option<Transport>, wants: usize, blocks: bool, first: Cid },
    Whole { peer: PeerId, root: Cid, transport: Transport, first: Option<u64> },
    Have { peer: PeerId, cid: Cid },
    DontHave { peer: PeerId, cid: Cid },
    Block(Received),
    Duplicate { peer: PeerId, cid: Cid, bytes: u64 },
    Hedged { peer: PeerId, cid: Cid, end: Option<u64> },
    End { peer: PeerId, cid: Cid, bytes: u64 },
    Probed { peer: PeerId, cid: Cid },
    Stalled { peer: PeerId, silent: Duration },
    Reassigned { peer: PeerId, wants: usize, why: &'static str },
    Corrupt { peer: PeerId, reason: &'static str },
    Quarantined { peer: PeerId },
    Disconnected { peer: PeerId },
    SendFailed { peer: PeerId, wants: usize },
    Cancelled { peer: PeerId, wants: usize },
    LocalHit { cid: Cid, tier: &'static str },
    FirstByte,
    Failed { cid: Cid, reason: &'static str },
    Finished { blocks: u64 },
}

/// A verified block that this session wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub peer: PeerId,
    pub cid: Cid,
    /// Payload.
    pub bytes: u64,
    /// What it cost on the wire.
    pub wire: u64,
    /// Since the peer was first asked by this session; only with its first block.
    pub first_byte: Option<Duration>,
    pub rtt: Option<Duration>,
    pub rate: Option<f64>,
}

impl Step {
    /// The event of the trace. `at` is since the start of the retrieval.
    pub fn event(&self, at: Duration) -> RetrievalEvent {
        let event = |kind| RetrievalEvent { at, kind, peer: None, cid: None, value: None, detail: None };
        let of = |kind, peer: &PeerId| RetrievalEvent { peer: Some(*peer), ..event(kind) };
        let micros = |d: &Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        match self {
            Self::RoutingStarted { cid } => RetrievalEvent { cid: Some(*cid), ..event(EventKind::RoutingStarted) },
            Self::ProviderFound { peer, router, .. } => {
                RetrievalEvent { detail: Some(router.to_string()), ..of(EventKind::ProviderFound, peer) }
            }
            Self::RouterFinished { router, providers, error } => RetrievalEvent {
                value: Some(*providers as u64),
                detail: Some(match error {
                    Some(error) => format!("{router}: {error}"),
                    None => format!("{router}: providers"),
                }),
                ..event(EventKind::RouterFinished)
            },
            Self::DialStarted { peer } => of(EventKind::DialStarted, peer),
            Self::Connected { peer, transport, dial } => RetrievalEvent {
                value: dial.as_ref().map(micros),
                detail: Some(match dial {
                    Some(_) => format!("microseconds to connect over {transport}"),
                    None => format!("already, over {transport}"),
                }),
                ..of(EventKind::Connected, peer)
            },
            Self::DialFailed { peer, error } => {
                RetrievalEvent { detail: Some(error.clone()), ..of(EventKind::DialFailed, peer) }
            }
            Self::WantSent { peer, wants, blocks, first, .. } => RetrievalEvent {
                cid: Some(*first),
                value: Some(*wants as u64),
                detail: Some(if *blocks { "wants for blocks" } else { "questions whether it has it" }.to_owned()),
                ..of(EventKind::WantSent, peer)
            },
            Self::Whole { peer, root, transport, first } => RetrievalEvent {
                cid: Some(*root),
                value: *first,
                detail: Some(match first {
                    Some(_) => format!("bytes that come with it in one answer, over {transport}"),
                    None => format!("all that is below comes with it in one answer, over {transport}"),
                }),
                ..of(EventKind::Whole, peer)
            },
            Self::Have { peer, cid } => RetrievalEvent { cid: Some(*cid), ..of(EventKind::HaveReceived, peer) },
            Self::DontHave { peer, cid } => RetrievalEvent { cid: Some(*cid), ..of(EventKind::DontHave, peer) },
            Self::Block(block) => RetrievalEvent {
                cid: Some(block.cid),
                value: Some(block.bytes),
                detail: Some("bytes".to_owned()),
                ..of(EventKind::BlockReceived, &block.peer)
            },
            Self::Duplicate { peer, cid, bytes } => RetrievalEvent {
                cid: Some(*cid),
                value: Some(*bytes),
                detail: Some("bytes received again".to_owned()),
                ..of(EventKind::Duplicate, peer)
            },
            Self::Hedged { peer, cid, end } => RetrievalEvent {
                cid: Some(*cid),
                value: *end,
                detail: Some(match end {
                    Some(_) => "bytes of its end asked for here: two are done with it sooner".to_owned(),
                    None => "asked here too: it should be done sooner".to_owned(),
                }),
                ..of(EventKind::Hedged, peer)
            },
            Self::End { peer, cid, bytes } => RetrievalEvent {
                cid: Some(*cid),
                value: Some(*bytes),
                detail: Some("bytes of its end".to_owned()),
                ..of(EventKind::BlockReceived, peer)
            },
            Self::Probed { peer, cid } => RetrievalEvent {
                cid: Some(*cid),
                detail: Some("asked here too, as nothing is known of its rate".to_owned()),
                ..of(EventKind::Probed, peer)
            },
            Self::Stalled { peer, silent } => RetrievalEvent {
                value: Some(micros(silent)),
                detail: Some("microseconds without a byte".to_owned()),
                ..of(EventKind::Stalled, peer)
            },
            Self::Reassigned { peer, wants, why } => RetrievalEvent {
                value: Some(*wants as u64),
                detail: Some(format!("wants moved away: {why}")),
                ..of(EventKind::Reassigned, peer)
            },
            Self::Corrupt { peer, reason } => {
                RetrievalEvent { detail: Some((*reason).to_owned()), ..of(EventKind::Corrupt, peer) }
            }
            Self::Quarantined { peer } => of(EventKind::Quarantined, peer),
            Self::Disconnected { peer } => of(EventKind::Disconnected, peer),
            Self::SendFailed { peer, wants } => RetrievalEvent {
                value: Some(*wants as u64),
                detail: Some("wants could not be sent".to_owned()),
                ..of(EventKind::Failed, peer)
            },
            Self::Cancelled { peer, wants } => RetrievalEvent {
                value: Some(*wants as u64),
                detail: Some("wants taken back".to_owned()),
                ..of(EventKind::Cancelled, peer)
            },
            Self::LocalHit { cid, tier } => {
                RetrievalEvent { cid: Some(*cid), detail: Some((*tier).to_owned()), ..event(EventKind::LocalHit) }
            }
            Self::FirstByte => event(EventKind::FirstByte),
            Self::Failed { cid, reason } => {
                RetrievalEvent { cid: Some(*cid), detail: Some((*reason).to_owned()), ..event(EventKind::Failed) }
            }
            Self::Finished { blocks } => RetrievalEvent {
                value: Some(*blocks),
                detail: Some("blocks from the network".to_owned()),
                ..event(EventKind::Finished)
            },
        }
    }

    /// Steps of which a large file has thousands: these are thinned out first.
    pub fn is_bulk(&self) -> bool {
        matches!(
            self,
            Self::Block(_)
                | Self::WantSent { .. }
                | Self::Duplicate { .. }
                | Self::LocalHit { .. }
                | Self::DontHave { .. }
                | Self::Have { .. }
        )
    }
}
