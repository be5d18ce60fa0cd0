//! Answers the wants of peers from the blockstore: fairly, with bounds, and off the event loop.
//!
//! Peers with unanswered wants and room in their window stand in one round; a worker takes the peer at the head,
//! answers a small batch, and puts it back at the tail. A peer that does not read fills its own window and drops out
//! of the round until it reads again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use libp2p::PeerId;
use tokio::sync::Notify;
use tracing::warn;

use super::Shared;
use super::peer::{Peer, Reply, TheirWant};
use crate::blockstore::Blockstore;
use crate::exchange::WantKind;
use crate::ipld::Cid;
use crate::supervisor::Supervisor;

/// Workers that read the blockstore for peers.
const WORKERS: usize = 8;
/// Wants answered in one turn of a peer, read at the same time.
const BATCH: usize = 4;
/// Bytes read for one peer and not yet written to it (RETRIEVAL.md T11: boxo's 1 MiB binds beyond 80 Mbit/s at 100 ms).
const WINDOW: usize = 4 * 1024 * 1024;
/// The same when all peers together hold [`CROWDED`]: one block each.
const SMALL_WINDOW: usize = 256 * 1024;
/// Outstanding bytes over all peers from which windows shrink.
const CROWDED: usize = 64 * 1024 * 1024;
/// A want-have for a block of at most this many bytes is answered with the block (boxo's `MaxBlockSizeReplaceHasWithBlock`).
const INLINE_BYTES: usize = 1024;

/// See the module.
pub struct Server {
    store: Arc<dyn Blockstore>,
    round: Mutex<VecDeque<Arc<Peer>>>,
    work: Notify,
    outstanding: AtomicUsize,
}

/// A change of a peer's wantlist as it comes off the wire.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Full,
    Want(Cid, WantKind, i32, bool),
    Cancel(Cid),
}

impl Server {
    pub fn new(store: Arc<dyn Blockstore>) -> Self {
        Self { store, round: Mutex::default(), work: Notify::new(), outstanding: AtomicUsize::new(0) }
    }

    /// Starts the workers. They end with the supervisor.
    pub fn start(shared: &Arc<Shared>, supervisor: &Supervisor) {
        for _ in 0..WORKERS {
            let (shared, token) = (shared.clone(), supervisor.token());
            supervisor.spawn("bitswap-server", async move {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = work(&shared) => {}
                }
            });
        }
    }

    /// Applies changes in order.
    pub fn receive(&self, peer: &Arc<Peer>, changes: Vec<Change>, shared: &Shared) {
        let mut refused = 0;
        for change in changes {
            match change {
                Change::Full => peer.unask_all(),
                Change::Cancel(cid) => self.released(peer.unask(&cid)),
                Change::Want(cid, kind, priority, dont_have) => {
                    shared.metrics.wants_received.inc();
                    refused += peer.ask([(cid, kind, priority, dont_have)]);
                }
            }
        }
        if refused > 0 {
            shared.metrics.limit_wants.inc_by(refused as u64);
        }
        self.schedule(peer);
    }

    /// Takes the peer into the round if it has work and room.
    pub fn schedule(&self, peer: &Arc<Peer>) {
        if peer.try_schedule(self.window()) {
            self.round.lock().unwrap_or_else(PoisonError::into_inner).push_back(peer.clone());
            self.work.notify_one();
        }
    }

    /// Bytes were written or dropped.
    pub fn released(&self, bytes: usize) {
        self.outstanding.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes read for peers and not yet written.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    fn window(&self) -> usize {
        if self.outstanding() < CROWDED { WINDOW } else { SMALL_WINDOW }
    }

    fn next(&self) -> Option<Arc<Peer>> {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = round.pop_front();
        if !round.is_empty() {
            self.work.notify_one();
        }
        peer
    }

    async fn turn(&self, peer: &Arc<Peer>, shared: &Shared) {
        let batch = peer.take_asked(BATCH);
        let mut answers = futures::stream::iter(batch).map(|want| self.answer(peer.id, want)).buffered(BATCH);
        while let Some(reply) = answers.next().await {
            let Some(reply) = reply else { continue };
            match &reply {
                Reply::Block(block) => {
                    shared.metrics.blocks_sent.inc();
                    shared.metrics.block_bytes_sent.inc_by(block.len() as u64);
                }
                Reply::Presence(_, true) => _ = shared.metrics.haves_sent.inc(),
                Reply::Presence(_, false) => _ = shared.metrics.dont_haves_sent.inc(),
            }
            self.outstanding.fetch_add(peer.reply(reply), Ordering::Relaxed);
        }
        peer.end_turn();
        self.schedule(peer);
    }

    async fn answer(&self, peer: PeerId, want: TheirWant) -> Option<Reply> {
        let dont_have = want.send_dont_have.then_some(Reply::Presence(want.cid, false));
        let found = match self.store.get(&want.cid).await {
            Ok(found) => found,
            Err(error) => {
                // Our fault: to the peer it is as if we had not got it.
                warn!(%peer, %error, "block cannot be read for a peer");
                None
            }
        };
        match found {
            None => dont_have,
            Some(block) if want.kind == WantKind::Have && block.len() > INLINE_BYTES => {
                Some(Reply::Presence(want.cid, true))
            }
            Some(block) => Some(Reply::Block(block)),
        }
    }
}

async fn work(shared: &Shared) {
    loop {
        match shared.server.next() {
            Some(peer) => shared.server.turn(&peer, shared).await,
            None => shared.server.work.notified().await,
        }
    }
}
