//! The Bitswap streams of one connection: many inbound ones, each read for many messages, and at most one outbound.
//!
//! libp2p-stream is no replacement: it drops inbound streams when eight open at once, and Kubo opens one for each
//! block (RETRIEVAL.md §2.0).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
};

use super::Shared;
use super::message::{PROTOCOLS, Version};
use super::peer::Peer;
use super::stream::{self, Budget};

/// Inbound streams of one connection that are read at once. Kubo has at most eight blocks under way.
const MAX_INBOUND: usize = 128;
/// Failures of the outbound stream in a row, without a message between them, before the connection is given up.
const MAX_FAILURES: usize = 3;
/// How long the negotiation of the outbound stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Handler {
    peer: Arc<Peer>,
    shared: Arc<Shared>,
    inbound: FuturesUnordered<BoxFuture<'static, ()>>,
    outbound: Outbound,
    buffers: Budget,
    failures: usize,
    events: VecDeque<ToBehaviour>,
}

enum Outbound {
    /// Another connection of the peer is in use, or this one turned out to be of no use.
    Idle,
    Wanted,
    Opening,
    Open(BoxFuture<'static, usize>),
}

/// What the behaviour tells a handler.
#[derive(Debug, Clone, Copy)]
pub enum FromBehaviour {
    /// This connection is the one that the peer is written to.
    Use,
}

/// What a handler tells the behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToBehaviour {
    /// The outbound stream stands.
    Ready(Version),
    /// The peer speaks no Bitswap.
    Unsupported,
    /// The outbound stream fails again and again.
    Failed,
}

/// Offers every version, best first, and yields the stream as it is.
#[derive(Debug, Clone, Copy)]
pub struct Protocols;

impl Handler {
    pub fn new(peer: Arc<Peer>, shared: Arc<Shared>) -> Self {
        Self {
            peer,
            shared,
            inbound: FuturesUnordered::new(),
            outbound: Outbound::Idle,
            buffers: Budget::default(),
            failures: 0,
            events: VecDeque::new(),
        }
    }

    fn failed(&mut self) {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            self.outbound = Outbound::Idle;
            self.events.push_back(ToBehaviour::Failed);
        } else {
            self.peer.resend();
            self.outbound = Outbound::Wanted;
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = FromBehaviour;
    type ToBehaviour = ToBehaviour;
    type InboundProtocol = Protocols;
    type OutboundProtocol = Protocols;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Protocols> {
        SubstreamProtocol::new(Protocols, ())
    }

    /// Streams do not count (they live as long as the connection); what is under way does.
    fn connection_keep_alive(&self) -> bool {
        self.peer.is_busy()
    }

    fn on_behaviour_event(&mut self, FromBehaviour::Use: FromBehaviour) {
        if matches!(self.outbound, Outbound::Idle) {
            self.failures = 0;
            self.outbound = Outbound::Wanted;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Protocols, (), ToBehaviour>> {
        while let Poll::Ready(Some(())) = self.inbound.poll_next_unpin(cx) {}
        if let Outbound::Open(writer) = &mut self.outbound
            && let Poll::Ready(messages) = writer.poll_unpin(cx)
        {
            if messages > 0 {
                self.failures = 0;
            }
            self.failed();
        }
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if matches!(self.outbound, Outbound::Wanted) {
            self.outbound = Outbound::Opening;
            let protocol = SubstreamProtocol::new(Protocols, ()).with_timeout(OPEN_TIMEOUT);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Protocols, Protocols>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (mut stream, _), .. }) => {
                if self.inbound.len() >= MAX_INBOUND {
                    self.shared.metrics.limit_streams.inc();
                    return;
                }
                stream.ignore_for_keep_alive();
                let reader = stream::read(stream, self.buffers.clone(), self.peer.clone(), self.shared.clone());
                self.inbound.push(reader.boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (mut stream, version),
                ..
            }) => {
                stream.ignore_for_keep_alive();
                let writer = stream::write(stream, version, self.peer.clone(), self.shared.clone());
                self.outbound = Outbound::Open(writer.boxed());
                if !self.peer.ready.swap(true, Ordering::AcqRel) {
                    self.events.push_back(ToBehaviour::Ready(version));
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                error: StreamUpgradeError::NegotiationFailed,
                ..
            }) => {
                self.outbound = Outbound::Idle;
                self.events.push_back(ToBehaviour::Unsupported);
            }
            ConnectionEvent::DialUpgradeError(_) => self.failed(),
            _ => {}
        }
    }
}

impl UpgradeInfo for Protocols {
    type Info = Named;
    type InfoIter = std::iter::Map<std::array::IntoIter<Version, 4>, fn(Version) -> Named>;

    fn protocol_info(&self) -> Self::InfoIter {
        PROTOCOLS.into_iter().map(|version| Named(version, version.name()))
    }
}

/// A protocol and its name.
#[derive(Debug, Clone)]
pub struct Named(Version, StreamProtocol);

impl AsRef<str> for Named {
    fn as_ref(&self) -> &str {
        self.1.as_ref()
    }
}

impl InboundUpgrade<Stream> for Protocols {
    type Output = (Stream, Version);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, Named(version, _): Named) -> Self::Future {
        ready(Ok((stream, version)))
    }
}

impl OutboundUpgrade<Stream> for Protocols {
    type Output = (Stream, Version);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, Named(version, _): Named) -> Self::Future {
        ready(Ok((stream, version)))
    }
}
