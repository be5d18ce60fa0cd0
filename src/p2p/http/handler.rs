//! The HTTP streams of one connection: inbound ones go to the server, outbound ones to who asked for them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
};
use tokio::sync::Semaphore;

use super::{PROTOCOL, Reply, Shared};
use crate::exchange::ConnectError;

/// Requests of one connection that are answered at once; a peer may hold four connections. Several, because a client
/// stripes ranges; not many, because each may read a whole graph.
const MAX_INBOUND: usize = 16;
/// Streams of one connection that are being opened at once.
const MAX_OPENING: usize = 64;
/// How long the negotiation of an outbound stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Handler {
    peer: PeerId,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    wanted: VecDeque<Reply>,
    opening: usize,
    waker: Option<Waker>,
}

/// Yields the stream as it is; is not there while it is off.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    on: bool,
}

impl Handler {
    pub fn new(peer: PeerId, shared: Arc<Shared>) -> Self {
        let places = Arc::new(Semaphore::new(MAX_INBOUND));
        Self { peer, shared, places, wanted: VecDeque::new(), opening: 0, waker: None }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Reply;
    type ToBehaviour = Infallible;
    type InboundProtocol = Http;
    type OutboundProtocol = Http;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Http> {
        SubstreamProtocol::new(Http { on: self.shared.is_serving() }, ())
    }

    fn connection_keep_alive(&self) -> bool {
        !self.wanted.is_empty() || self.opening > 0
    }

    fn on_behaviour_event(&mut self, reply: Reply) {
        if self.wanted.len() + self.opening >= MAX_OPENING {
            self.shared.metrics.limit_opening.inc();
            let _ = reply.send(Err(ConnectError::LimitReached));
            return;
        }
        self.wanted.push_back(reply);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Http, Reply, Infallible>> {
        while let Some(reply) = self.wanted.pop_front() {
            if reply.is_closed() {
                continue;
            }
            self.opening += 1;
            let protocol = SubstreamProtocol::new(Http { on: true }, reply).with_timeout(OPEN_TIMEOUT);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Http, Http, (), Reply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                match self.places.clone().try_acquire_owned() {
                    Ok(place) => self.shared.accept(stream, self.peer, place),
                    Err(_) => self.shared.refuse(),
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: reply }) => {
                self.opening -= 1;
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                self.opening -= 1;
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => ConnectError::Unsupported,
                    StreamUpgradeError::Timeout => ConnectError::Timeout(OPEN_TIMEOUT),
                    StreamUpgradeError::Io(error) => ConnectError::Dial(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = reply.send(Err(error));
            }
            _ => {}
        }
    }
}

impl UpgradeInfo for Http {
    type Info = StreamProtocol;
    type InfoIter = std::option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.on.then_some(PROTOCOL).into_iter()
    }
}

impl InboundUpgrade<Stream> for Http {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

impl OutboundUpgrade<Stream> for Http {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}
