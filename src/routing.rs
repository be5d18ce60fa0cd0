//! The port through which providers are found, and how several routers are asked at once.

use std::time::Duration;

use futures::stream::{BoxStream, SelectAll, StreamExt};
use libp2p::{Multiaddr, PeerId};
use std::sync::Arc;
use thiserror::Error;

use crate::ipld::Cid;

/// The most providers that are taken from one router for one CID (DESIGN.md §8).
pub const MAX_PROVIDERS: usize = 100;

/// Who said that a peer has the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouterKind {
    /// Given by `--peer`.
    Configured,
    /// Connected already; asked over the exchange itself.
    Connected,
    /// Remembered from an earlier retrieval.
    Cache,
    Mdns,
    Delegated,
    Dht,
}

impl RouterKind {
    /// The name in the database, the API and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Connected => "connected",
            Self::Cache => "cache",
            Self::Mdns => "mdns",
            Self::Delegated => "delegated",
            Self::Dht => "dht",
        }
    }
}

impl std::fmt::Display for RouterKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Somebody who is said to have a CID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    pub peer: PeerId,
    /// Without `/p2p` at the end. May be empty: the node may know addresses.
    pub addrs: Vec<Multiaddr>,
    /// Protocol names as the router gave them (`transport-bitswap`, ...); empty when it said nothing.
    pub transports: Vec<String>,
    pub source: RouterKind,
}

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum RoutingError {
    #[error("router did not answer within {0:?}")]
    Timeout(Duration),
    #[error("router answered {status}")]
    Status { status: u16 },
    #[error("router's answer is not understood: {0}")]
    Malformed(String),
    #[error("router could not be reached: {0}")]
    Unreachable(String),
    #[error("router is switched off")]
    Disabled,
}

/// One source of provider records.
pub trait ContentRouter: Send + Sync + 'static {
    fn kind(&self) -> RouterKind;

    /// Which of its kind it is, for people.
    fn name(&self) -> String {
        self.kind().to_string()
    }

    /// Providers as they are found. The end of the stream means that the router has nothing more to say; dropping the
    /// stream ends the query. An error is the last item.
    fn find_providers(&self, cid: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>>;
}

/// What [`find_all`] yields.
#[derive(Debug, Clone)]
pub enum RoutingEvent {
    Found(Provider),
    /// A router has said all it will say.
    Finished {
        router: RouterKind,
        providers: usize,
        error: Option<RoutingError>,
    },
}

/// Asks every router at once and merges their answers as they stream in. Ends when all have finished.
pub fn find_all(routers: &[Arc<dyn ContentRouter>], cid: &Cid) -> BoxStream<'static, RoutingEvent> {
    let mut all = SelectAll::new();
    for router in routers {
        let kind = router.kind();
        let stream = router.find_providers(cid);
        let state = (Some(stream), 0usize);
        all.push(
            futures::stream::unfold(state, move |(stream, count)| async move {
                let mut stream = stream?;
                let finished = |error| RoutingEvent::Finished { router: kind, providers: count, error };
                if count >= MAX_PROVIDERS {
                    return Some((finished(None), (None, count)));
                }
                match stream.next().await {
                    Some(Ok(provider)) => Some((RoutingEvent::Found(provider), (Some(stream), count + 1))),
                    Some(Err(error)) => Some((finished(Some(error)), (None, count))),
                    None => Some((finished(None), (None, count))),
                }
            })
            .boxed(),
        );
    }
    all.boxed()
}

mod names;

pub use names::{FoundRecord, NameRouter, PeerRouter};
