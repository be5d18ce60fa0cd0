//! L3: whom to ask, how much, when to hedge, what a peer is worth.

use std::sync::Arc;

use thiserror::Error;

use crate::blockstore::Blockstore;
use crate::ipld::{Block, Cid};
use crate::record::{Phase, Policy, SessionReport};

/// Why a block could not be had.
#[derive(Debug, Clone, Error)]
pub enum FetchError {
    /// Every router has answered and nobody has it (or everybody who was said to have it has not).
    #[error("no provider has {cid} ({providers_found} found, {providers_tried} tried, in {phase})")]
    NotFound { cid: Cid, phase: Phase, providers_found: u32, providers_tried: u32 },
    /// No progress for the retrieval timeout.
    #[error("no progress on {cid} for {waited:?} ({providers_found} found, {providers_tried} tried, in {phase})")]
    Timeout { cid: Cid, phase: Phase, providers_found: u32, providers_tried: u32, waited: std::time::Duration },
    /// The session is local only and the block is not here.
    #[error("{cid} is not in the local store")]
    NotLocal { cid: Cid },
    /// The CID names a hash function that is not accepted, or is malformed.
    #[error("{cid} cannot be fetched: {error}")]
    Unsupported { cid: Cid, error: crate::ipld::BlockError },
    /// The retriever is stopping.
    #[error("the server is stopping")]
    Stopping,
    #[error("local store: {0}")]
    Store(Arc<crate::blockstore::StoreError>),
}

/// What a request may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionOptions {
    /// `None`: the server's.
    pub policy: Option<Policy>,
    /// Ask nobody (`Cache-Control: only-if-cached`, `--offline`).
    pub local_only: bool,
}

/// A block that will be wanted soon, and how large it is believed to be.
#[derive(Debug, Clone, Copy)]
pub struct Hint {
    pub cid: Cid,
    pub size: Option<u64>,
}

/// Gets blocks. Cheap to clone.
#[derive(Clone)]
pub struct Retriever {
    store: Arc<dyn Blockstore>,
}

impl Retriever {
    /// A retriever without a network: what is not in `store` is not found.
    pub fn local(store: Arc<dyn Blockstore>) -> Self {
        Self { store }
    }

    pub fn session(&self, _root: Cid, _options: SessionOptions) -> Session {
        Session { store: self.store.clone() }
    }
}

/// One user request's fetch. Cheap to clone; the session ends when the last clone is dropped, and takes its wants back.
#[derive(Clone)]
pub struct Session {
    store: Arc<dyn Blockstore>,
}

impl Session {
    /// The block, from the nearest tier or the network; joins a fetch of the same CID that is under way.
    ///
    /// Cancel safe: dropping the future takes the want back unless somebody else waits for it.
    pub async fn fetch(&self, cid: &Cid) -> Result<Block, FetchError> {
        if let Some(block) = Block::from_identity(cid) {
            return Ok(block);
        }
        let found = self.store.get(cid).await.map_err(|error| FetchError::Store(Arc::new(error)))?;
        found.ok_or(FetchError::NotLocal { cid: *cid })
    }

    /// Asks for blocks ahead of the reader, in this order of urgency. Does nothing for those that are local or asked
    /// for already. The caller keeps within [`Session::read_ahead`]. Fetched blocks wait in the session for `fetch`.
    pub fn prefetch(&self, _hints: impl IntoIterator<Item = Hint>) {}

    /// Bytes that the reader may have asked for and not yet consumed: this session's share of the process-wide reorder
    /// budget, at least two blocks.
    pub fn read_ahead(&self) -> u64 {
        4 << 20
    }

    /// What has been measured so far.
    pub fn report(&self) -> SessionReport {
        // A local session asks nobody: there is nothing of the network to report.
        SessionReport {
            policy: Policy::Optimized,
            transfer_time: None,
            routing: None,
            connect: None,
            first_block: None,
            providers_found: 0,
            providers_attempted: 0,
            blocks_memory: 0,
            blocks_store: 0,
            blocks_disk: 0,
            blocks_network: 0,
            network_bytes: 0,
            duplicate_bytes: 0,
            received_bytes: 0,
            optimization_score: None,
            attempts: Vec::new(),
            events: Vec::new(),
            events_dropped: 0,
            phase: Phase::Fetch,
        }
    }
}
