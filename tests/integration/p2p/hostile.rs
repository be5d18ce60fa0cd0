//! Peers that break the protocol or the bounds (RELIABILITY.md §3.4 rows 8, 9, 18 and §3.6).

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, UpgradeInfo, upgrade::DeniedUpgrade, upgrade::OutboundUpgrade};
use libp2p::swarm::behaviour::FromSwarm;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, NetworkBehaviour, NotifyHandler, Stream,
    StreamProtocol, SubstreamProtocol, SwarmEvent, THandlerInEvent, ToSwarm, handler::ConnectionEvent,
};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};
use tidegate::exchange::{ExchangeEvent, WantKind};
use tidegate::ipld::{Cid, Multihash, codec};
use tidegate::p2p::bitswap::message::{MAX_MESSAGE_SIZE, Outgoing, Version};

use super::{PATIENCE, TestNode, block, wants};
use tidegate::exchange::Exchange;

/// Writes bytes on new Bitswap streams and never reads one.
#[derive(Default)]
struct Hostile {
    queue: VecDeque<ToSwarm<(), Bytes>>,
}

/// One stream for each thing to say; the streams stay open.
#[derive(Default)]
struct HostileHandler {
    queue: VecDeque<Bytes>,
    open: Vec<Stream>,
}

struct Raw(Bytes);

impl UpgradeInfo for Raw {
    type Info = StreamProtocol;
    type InfoIter = std::iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(Version::V1_2.name())
    }
}

impl OutboundUpgrade<Stream> for Raw {
    type Output = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn upgrade_outbound(self, mut stream: Stream, _: StreamProtocol) -> Self::Future {
        async move {
            // The other side may cut the stream off in the middle: that is what the tests are about.
            if stream.write_all(&self.0).await.is_ok() {
                let _ = stream.flush().await;
            }
            Ok(stream)
        }
        .boxed()
    }
}

impl ConnectionHandler for HostileHandler {
    type FromBehaviour = Bytes;
    type ToBehaviour = ();
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = Raw;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, bytes: Bytes) {
        self.queue.push_back(bytes);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Raw, (), ()>> {
        match self.queue.pop_front() {
            Some(bytes) => {
                let protocol = SubstreamProtocol::new(Raw(bytes), ()).with_timeout(PATIENCE);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            None => Poll::Pending,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, DeniedUpgrade, Raw>) {
        if let ConnectionEvent::FullyNegotiatedOutbound(opened) = event {
            self.open.push(opened.protocol);
        }
    }
}

impl NetworkBehaviour for Hostile {
    type ConnectionHandler = HostileHandler;
    type ToSwarm = ();

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<HostileHandler, ConnectionDenied> {
        Ok(HostileHandler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<HostileHandler, ConnectionDenied> {
        Ok(HostileHandler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, (): ()) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<(), THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A hostile swarm that is connected to the node and about to say these things.
async fn attack(node: &TestNode, says: Vec<Bytes>) -> Swarm<Hostile> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| Hostile::default())
        .unwrap()
        .build();
    swarm.dial(node.addr("/tcp/")).unwrap();
    loop {
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            let tell = |event| ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event };
            swarm.behaviour_mut().queue.extend(says.into_iter().map(tell));
            return swarm;
        }
    }
}

fn framed(message: &Outgoing) -> Bytes {
    message.encode(Version::V1_2).concat().into()
}

async fn until<T>(node: &mut TestNode, swarm: &mut Swarm<Hostile>, found: impl FnMut(ExchangeEvent) -> Option<T>) -> T {
    let run = async {
        loop {
            swarm.select_next_some().await;
        }
    };
    tokio::select! {
        never = run => never,
        found = node.until(found) => found,
    }
}

fn counter(node: &TestNode, name: &str) -> u64 {
    let text = node.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("tidegate_bitswap_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

async fn settle(node: &TestNode, swarm: &mut Swarm<Hostile>, mut done: impl FnMut(&TestNode) -> bool) {
    let wait = async {
        while !done(node) {
            let _ = tokio::time::timeout(Duration::from_millis(10), swarm.select_next_some()).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the node comes to rest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_break_the_protocol_are_refused_while_they_are_read() {
    let mut node = TestNode::start().await;
    let mut large = vec![0; 4];
    large.splice(.., [0x81, 0x80, 0x80, 0x02]);
    let cases: [(Bytes, &str); 4] = [
        (large.into(), "message over 4 MiB"),
        (Bytes::from_static(&[3, 0xff, 0xff, 0xff]), "message is not protobuf"),
        (Bytes::from_static(&[7, 0x1a, 5, 0x0a, 1, 1, 0x12, 0]), "block prefix is malformed"),
        (oversize_block(), "block over 2 MiB"),
    ];
    for (bytes, expected) in cases {
        let mut swarm = attack(&node, vec![bytes]).await;
        let from = *swarm.local_peer_id();
        let reason = until(&mut node, &mut swarm, |event| match event {
            ExchangeEvent::Invalid { peer, reason } if peer == from => Some(reason),
            _ => None,
        })
        .await;
        assert_eq!(reason, expected);
    }
    assert_eq!(counter(&node, "invalid_messages_total"), 4);
    node.stop().await;
}

fn oversize_block() -> Bytes {
    let data = vec![0u8; 2 * 1024 * 1024 + 1];
    let mut payload = vec![0x0a, 4, 1, 0x55, 0x12, 32, 0x12];
    prost::encoding::encode_varint(data.len() as u64, &mut payload);
    payload.extend(data);
    let mut message = vec![0x1a];
    prost::encoding::encode_varint(payload.len() as u64, &mut message);
    message.extend(payload);
    let mut frame = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut frame);
    frame.extend(message);
    frame.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_wants_of_a_peer_that_never_reads_are_bounded_and_released() {
    let node = TestNode::start().await;
    let messages = (0..13u64).map(|part| {
        let wants = (0..80_000u64).map(|n| {
            let digest = Multihash::wrap(0x12, &[(part << 32 | n).to_le_bytes(); 4].concat()).unwrap();
            (Cid::new_v1(codec::RAW, digest), WantKind::Block, 1)
        });
        let frame = framed(&Outgoing { wants: wants.collect(), ..Outgoing::default() });
        assert!(frame.len() <= MAX_MESSAGE_SIZE);
        frame
    });
    // One stream carries them all: side by side they would exceed what a connection may have unfinished.
    let mut swarm = attack(&node, vec![messages.collect::<Vec<Bytes>>().concat().into()]).await;
    settle(&node, &mut swarm, |node| counter(node, "wants_received_total") == 13 * 80_000).await;
    assert!(counter(&node, "limit_wants_total") > 900_000, "{}", counter(&node, "limit_wants_total"));
    drop(swarm);
    let gone = async {
        while !node.client.peers().is_empty() || counter(&node, "outstanding_bytes") > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("nothing is left of the peer");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_nobody_wanted_are_verified_counted_and_named_by_their_own_hash() {
    let mut node = TestNode::start().await;
    let unasked = block(7, 3000);
    let absent = *block(8, 10).cid();
    let message = Outgoing { blocks: vec![unasked.clone()], presences: vec![(absent, true)], ..Outgoing::default() };
    let mut swarm = attack(&node, vec![framed(&Outgoing::default()), framed(&message)]).await;
    let came = until(&mut node, &mut swarm, |event| match event {
        ExchangeEvent::Block { block, .. } => Some(block),
        ExchangeEvent::Have { .. } => panic!("nobody asked"),
        _ => None,
    });
    assert_eq!(came.await, unasked);
    assert_eq!(counter(&node, "unwanted_blocks_total"), 1);
    assert_eq!(counter(&node, "unwanted_presences_total"), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_bitswap_is_not_connected_for_the_exchange() {
    // It opens Bitswap streams and accepts none.
    let mut node = TestNode::start().await;
    let mut swarm = attack(&node, vec![]).await;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let peer = *swarm.local_peer_id();
    settle(&node, &mut swarm, |node| node.client.peers().iter().any(|info| info.peer == peer)).await;
    node.client.connect(peer, vec![], true);
    let failed = until(&mut node, &mut swarm, |event| match event {
        ExchangeEvent::ConnectFailed { peer: failed, error } if failed == peer => Some(error),
        ExchangeEvent::Connected { .. } => panic!("connected"),
        _ => None,
    });
    assert_eq!(failed.await, tidegate::exchange::ConnectError::Unsupported);
    assert!(node.client.connected().is_empty());
    assert!(node.client.send_wants(peer, wants(&[*block(1, 8).cid()], WantKind::Block)).is_err());
    node.stop().await;
}
