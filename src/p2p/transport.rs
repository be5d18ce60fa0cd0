//! TCP (Noise or TLS, yamux) and QUIC, names resolved before them, circuits beside them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt, TryFutureExt};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent, timeout::TransportTimeout};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport, dns, metrics, noise, quic, relay, tcp, tls, yamux};
use thiserror::Error;

use super::address::{Policy, peer_of};
use super::config::Config;
use super::resolver;
use crate::telemetry::Metrics;

type Muxed = (PeerId, StreamMuxerBox);

/// Refuses to dial what the policy does not permit. It stands behind the resolver, so it sees addresses, not names.
struct Gate<T> {
    inner: T,
    policy: Policy,
}

/// Noise first, TLS second: about the same speed here, and Noise costs less processor (DEPENDENCIES.md §1).
#[derive(Clone)]
struct Security {
    noise: noise::Config,
    tls: tls::Config,
}

#[derive(Debug, Error)]
pub enum BuildError {
    #[error("noise: {0}")]
    Noise(#[from] noise::Error),
    #[error("tls: {0}")]
    Tls(#[from] tls::certificate::GenError),
    #[error("resolver: {0}")]
    Dns(#[from] io::Error),
}

/// A dial that the gate refused.
#[derive(Debug, Error)]
#[error("private address refused")]
pub struct PrivateAddress;

/// The node's transport, and the relay client that belongs to it.
pub fn build(
    key: &Keypair,
    config: &Config,
    policy: &Policy,
    telemetry: &Metrics,
) -> Result<(Boxed<Muxed>, relay::client::Behaviour), BuildError> {
    let security = Security { noise: noise::Config::new(key)?, tls: tls::Config::new(key)? };
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(security.clone())
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic =
        quic::tokio::Transport::new(quic::Config::new(key)).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let direct = tcp.or_transport(quic).map(|either, _| either.into_inner()).boxed();
    let gated = Gate { inner: direct, policy: policy.clone() };
    let named = match resolver::config(&config.dns)? {
        Some((servers, options)) => dns::tokio::Transport::custom(gated, servers, options).boxed(),
        None => gated.boxed(),
    };
    let (circuits, relay) = relay::client::new(key.public().to_peer_id());
    let circuits = circuits
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let all = circuits.or_transport(named).map(|either, _| either.into_inner());
    let timed = limit(all, config.dial_timeout);
    let counted = telemetry.with(|registry| metrics::BandwidthTransport::new(timed, registry));
    Ok((counted.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed(), relay))
}

fn limit<T: Transport>(transport: T, timeout: Duration) -> TransportTimeout<T> {
    TransportTimeout::new(transport, timeout)
}

impl<T> Transport for Gate<T>
where
    T: Transport<Output = Muxed, Error = io::Error> + Unpin,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    type Output = Muxed;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        if !self.policy.permits(&addr, peer_of(&addr).as_ref()) {
            return Err(TransportError::Other(io::Error::new(io::ErrorKind::PermissionDenied, PrivateAddress)));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

const NOISE: &str = "/noise";
const TLS: &str = "/tls/1.0.0";

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::array::IntoIter<&'static str, 2>;

    fn protocol_info(&self) -> Self::InfoIter {
        [NOISE, TLS].into_iter()
    }
}

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: futures::AsyncRead + futures::AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, Either<noise::Output<C>, tls::TlsStream<C>>);
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Output, io::Error>>;

    fn upgrade_inbound(self, socket: C, info: &'static str) -> Self::Future {
        if info == NOISE {
            let upgrade = self.noise.upgrade_inbound(socket, info);
            upgrade.map_ok(|(peer, stream)| (peer, Either::Left(stream))).map_err(io::Error::other).boxed()
        } else {
            let upgrade = self.tls.upgrade_inbound(socket, info);
            upgrade.map_ok(|(peer, stream)| (peer, Either::Right(stream))).map_err(io::Error::other).boxed()
        }
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: futures::AsyncRead + futures::AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, Either<noise::Output<C>, tls::TlsStream<C>>);
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Output, io::Error>>;

    fn upgrade_outbound(self, socket: C, info: &'static str) -> Self::Future {
        if info == NOISE {
            let upgrade = self.noise.upgrade_outbound(socket, info);
            upgrade.map_ok(|(peer, stream)| (peer, Either::Left(stream))).map_err(io::Error::other).boxed()
        } else {
            let upgrade = self.tls.upgrade_outbound(socket, info);
            upgrade.map_ok(|(peer, stream)| (peer, Either::Right(stream))).map_err(io::Error::other).boxed()
        }
    }
}
