//! The ports through which IPNS records and peers are found.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use libp2p::PeerId;

use super::{Provider, RouterKind, RoutingError};
use crate::ipld::Cid;
use crate::ipld::ipns::IpnsName;

/// A record that somebody gave: at most 10 KiB, otherwise unverified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRecord {
    pub bytes: Bytes,
    /// The DHT peer that has it.
    pub from: Option<PeerId>,
}

/// One place where IPNS records are kept.
pub trait NameRouter: Send + Sync + 'static {
    fn kind(&self) -> RouterKind;

    /// Records as they arrive; several are alike or worse than others. The end of the stream means that there are no
    /// more, dropping it ends the query, an error is the last item. No record is an empty stream.
    fn records(&self, name: &IpnsName) -> BoxStream<'static, Result<FoundRecord, RoutingError>>;

    /// Gives a record to those who keep it. Ends when they have answered.
    fn announce(&self, name: &IpnsName, record: Bytes) -> BoxFuture<'static, Result<(), RoutingError>>;

    /// Gives the best record to peers that had a worse one (entry correction). Nothing waits for it.
    fn correct(&self, _name: &IpnsName, _record: Bytes, _peers: Vec<PeerId>) {}
}

/// One place that knows where peers are.
pub trait PeerRouter: Send + Sync + 'static {
    fn kind(&self) -> RouterKind;

    /// The peer's addresses: one entry, or none when it is not known.
    fn find_peer(&self, peer: PeerId) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>>;

    /// Peers closest to a CID's hash in the DHT, nearest first; at most 20.
    fn closest_peers(&self, key: &Cid) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>>;
}
