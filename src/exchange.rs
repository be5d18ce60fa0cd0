//! The port through which blocks are asked of peers. Bitswap is one implementation, trustless HTTP another.
//!
//! An exchange is a mechanism: it sends exactly the wants it is given to exactly the peer it is told, and reports
//! what comes back. Whom to ask for what, and when to give up, is decided above (`retriever`).

pub mod address;
pub mod car;

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::ipld::{Block, Cid};
use crate::record::Transport;

/// The most wants that may be outstanding at one peer (GATEWAY.md §3.8; Kubo's servers keep 1,024).
pub const MAX_WANTS_PER_PEER: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WantKind {
    /// "Have you got it?" The answer is Have or DontHave (or the block, when it is small).
    Have,
    /// "Send it."
    Block,
}

/// One entry of a wantlist. DONT_HAVE is always asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    pub cid: Cid,
    pub kind: WantKind,
    /// Larger is more urgent.
    pub priority: i32,
    pub below: Below,
    /// Only about so many of its last bytes: another peer is sending it from its beginning. Of exchanges that can ask for a
    /// part of a block.
    pub end: Option<u64>,
}

impl Want {
    /// One block, and nothing else.
    pub fn new(cid: Cid, kind: WantKind, priority: i32) -> Self {
        Self { cid, kind, priority, below: Below::Nothing, end: None }
    }
}

/// What of all that is below a block is wanted of the same peer: one that can send it in one answer may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    Nothing,
    /// The first bytes of the file: others are asked for the rest as soon as it is known.
    First(u64),
    /// Nobody else can be asked for it.
    All,
}

/// What an exchange reports. Bytes carry the time at which they came from the network, not that at which the consumer
/// took the event from its queue: a rate measured at the queue is that of the queue.
#[derive(Debug, Clone)]
pub enum ExchangeEvent {
    /// A peer that speaks this exchange is connected (again). `dial` is null when it dialled us or was connected before.
    Connected {
        peer: PeerId,
        transport: Transport,
        address: Multiaddr,
        dial: Option<Duration>,
    },
    /// Every address failed, or the peer does not speak this exchange.
    ConnectFailed {
        peer: PeerId,
        error: ConnectError,
    },
    /// The last connection is gone. Wants outstanding there are forgotten.
    Disconnected {
        peer: PeerId,
    },
    /// A verified block, whether it was asked for or not. `wire_bytes` is what it cost on the wire.
    Block {
        peer: PeerId,
        block: Block,
        wire_bytes: usize,
        arrival: Arrival,
    },
    /// The end of a block that was asked for alone. The block itself is told of when the other peer has sent the rest.
    End {
        peer: PeerId,
        cid: Cid,
        bytes: usize,
        arrival: Arrival,
    },
    /// Bytes that are no block of any hash that we accept, or a message that breaks the protocol.
    Invalid {
        peer: PeerId,
        reason: &'static str,
    },
    /// An answer has begun that brings what was wanted below a block, over this transport.
    Whole {
        peer: PeerId,
        root: Cid,
        transport: Transport,
    },
    Have {
        peer: PeerId,
        cid: Cid,
    },
    DontHave {
        peer: PeerId,
        cid: Cid,
    },
    /// Bytes of a message that is still arriving: proof of life between blocks. At most every 25 ms a peer.
    Progress {
        peer: PeerId,
        bytes: usize,
        arrival: Arrival,
    },
    /// A measured round trip (ping, QUIC, identify).
    Rtt {
        peer: PeerId,
        rtt: Duration,
    },
    /// The wants could not be delivered (stream refused or reset); they are forgotten.
    SendFailed {
        peer: PeerId,
        cids: Vec<Cid>,
    },
}

/// When bytes came, and how many had come from that peer by then.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub at: Instant,
    /// Bytes read from the peer since it connected, parts of unfinished messages included: two blocks that come side by
    /// side count as they come. `None`: the exchange counts whole blocks only.
    pub received: Option<u64>,
}

impl ExchangeEvent {
    /// When the bytes of the event came, if it is about bytes.
    pub fn arrived(&self) -> Option<Instant> {
        match self {
            Self::Block { arrival, .. } | Self::End { arrival, .. } | Self::Progress { arrival, .. } => {
                Some(arrival.at)
            }
            _ => None,
        }
    }
}

impl Arrival {
    /// Now, from an exchange that counts whole blocks only.
    pub fn now() -> Self {
        Self { at: Instant::now(), received: None }
    }
}

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ConnectError {
    #[error("no address is known for the peer")]
    NoAddress,
    #[error("it is this node itself")]
    Itself,
    #[error("the address is private and not allowed by --allow-private")]
    PrivateAddress,
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("connection limit reached")]
    LimitReached,
    #[error("the peer speaks neither bitswap nor the trustless gateway protocol")]
    Unsupported,
    #[error("dial failed: {0}")]
    Dial(String),
    #[error("the node is offline")]
    Offline,
}

#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum SendError {
    #[error("the peer is not connected")]
    NotConnected,
    #[error("the exchange's queue is full")]
    Overloaded,
}

/// See the module. All calls return at once; results arrive as [`ExchangeEvent`]s.
pub trait Exchange: Send + Sync + 'static {
    /// Adds wants to the peer's wantlist, or upgrades Have to Block. At most [`MAX_WANTS_PER_PEER`] are outstanding.
    fn send_wants(&self, peer: PeerId, wants: Vec<Want>) -> Result<(), SendError>;

    /// Takes wants back; bytes that already travel may still arrive.
    fn cancel(&self, peer: PeerId, cids: Vec<Cid>);

    /// Dials a peer, with `addrs` beside those already known. `trusted` addresses (configured, mDNS) may be private.
    fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>, trusted: bool);

    /// Keeps the connections to these peers, and to no others of earlier calls, open without traffic. An exchange without
    /// lasting connections has nothing to do.
    fn keep_warm(&self, _peers: &[PeerId]) {}

    /// Peers that are connected and speak this exchange.
    fn connected(&self) -> Vec<(PeerId, Transport)>;

    /// The event stream. There is one consumer: the second call returns `None`. When the consumer is slow, the
    /// exchange stops reading from the network (back-pressure), it does not drop.
    fn events(&self) -> Option<mpsc::Receiver<ExchangeEvent>>;
}
