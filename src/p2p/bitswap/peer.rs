//! What we share with one peer: our wants at it, its wants at us, and what waits to be written to it.
//!
//! Everything here is bounded: [`MAX_WANTS_PER_PEER`] in either direction, and a window of bytes that were read from
//! the store and not yet written. It lives as long as the peer is connected.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::Notify;

use super::message::{MAX_MESSAGE_SIZE, Outgoing, Version};
use crate::exchange::{Arrival, MAX_WANTS_PER_PEER, SendError, Want, WantKind};
use crate::ipld::{Block, Cid};
use crate::p2p::cars::Cars;

/// Wants in one message: the first of a long list leaves before the last is packed (RETRIEVAL.md T9).
const WANTS_PER_MESSAGE: usize = 256;
/// Block bytes in a message once a transfer runs.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// Block bytes in the first message of a transfer: the receiver can use nothing before the whole message is there.
const FIRST_MESSAGE_BYTES: usize = 128 * 1024;
/// Room in a message for what is not block bytes.
const MESSAGE_OVERHEAD: usize = 64 * 1024;
/// What a presence counts for in the outstanding window, in bytes: its CID, framing, and our bookkeeping.
const PRESENCE_BYTES: usize = 256;
/// How often a large message that is still arriving is reported.
const PROGRESS_EVERY: Duration = Duration::from_millis(25);

/// See the module.
#[derive(Debug)]
pub struct Peer {
    pub id: PeerId,
    state: Mutex<State>,
    /// Rung when there is something to write. One writer listens: that of the connection in use.
    pub wake: Notify,
    /// The outbound stream was negotiated: the peer speaks Bitswap.
    pub ready: AtomicBool,
    /// The connection is kept open without traffic.
    pub keep: AtomicBool,
    /// The same, for as long as the retriever thinks it worth it.
    pub warm: AtomicBool,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    /// Bytes read so far, those of unfinished messages included.
    received: AtomicU64,
    progress: Mutex<Progress>,
    /// What of it comes otherwise than over Bitswap.
    pub cars: Cars,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    wants: HashMap<Cid, OurWant>,
    unsent: VecDeque<Cid>,
    cancels: HashSet<Cid>,
    /// The next wantlist replaces what the peer holds.
    full: bool,

    asked: BTreeMap<(Reverse<i32>, u64), Cid>,
    asked_by_cid: HashMap<Cid, TheirWant>,
    sequence: u64,
    scheduled: bool,

    replies: VecDeque<Reply>,
    outstanding: usize,
    next_message: usize,
}

#[derive(Debug, Clone, Copy)]
struct OurWant {
    kind: WantKind,
    priority: i32,
    sent: bool,
    /// The peer may hold it: it was sent, or an earlier want of the same block was and its cancel was not.
    held: bool,
}

/// A want of the peer that waits to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TheirWant {
    pub cid: Cid,
    pub kind: WantKind,
    pub priority: i32,
    pub send_dont_have: bool,
    sequence: u64,
}

/// An answer that waits to be written.
#[derive(Debug, Clone)]
pub enum Reply {
    Block(Block),
    Presence(Cid, bool),
}

#[derive(Debug)]
struct Progress {
    last: Instant,
    bytes: usize,
}

impl Peer {
    pub fn new(id: PeerId) -> Self {
        Self {
            id,
            state: Mutex::default(),
            wake: Notify::new(),
            ready: AtomicBool::new(false),
            keep: AtomicBool::new(false),
            warm: AtomicBool::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            received: AtomicU64::new(0),
            progress: Mutex::new(Progress { last: Instant::now(), bytes: 0 }),
            cars: Cars::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Our wants.

    /// Adds wants or upgrades them; all or none.
    pub fn want(&self, wants: &[Want]) -> Result<(), SendError> {
        if !self.ready.load(Ordering::Acquire) {
            return Err(SendError::NotConnected);
        }
        let mut state = self.lock();
        if state.closed {
            return Err(SendError::NotConnected);
        }
        let new = wants.iter().filter(|want| !state.wants.contains_key(&want.cid)).count();
        if state.wants.len() + new > MAX_WANTS_PER_PEER {
            return Err(SendError::Overloaded);
        }
        let mut order: Vec<&Want> = wants.iter().collect();
        order.sort_by_key(|want| Reverse(want.priority));
        for want in order {
            let uncancelled = state.cancels.remove(&want.cid);
            let old = state.wants.get(&want.cid).copied();
            if old.is_some_and(|old| old.kind == WantKind::Block || old.kind == want.kind) {
                continue;
            }
            let held = uncancelled || old.is_some_and(|old| old.held);
            state.wants.insert(want.cid, OurWant { kind: want.kind, priority: want.priority, sent: false, held });
            if old.is_none_or(|old| old.sent) {
                state.unsent.push_back(want.cid);
            }
        }
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes wants back; those that were sent are cancelled at the peer.
    pub fn cancel(&self, cids: &[Cid]) {
        let mut state = self.lock();
        let mut unsent = false;
        for cid in cids {
            let Some(want) = state.wants.remove(cid) else { continue };
            unsent |= !want.sent;
            if want.held {
                state.cancels.insert(*cid);
            }
        }
        if unsent {
            let State { unsent, wants, .. } = &mut *state;
            unsent.retain(|cid| wants.contains_key(cid));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// A block arrived. True when we wanted it from this peer.
    pub fn arrived(&self, cid: &Cid) -> bool {
        self.lock().wants.remove(cid).is_some()
    }

    /// A presence arrived. True when we had asked. A HAVE leaves a want for the block in place.
    pub fn presence(&self, cid: &Cid, have: bool) -> bool {
        let mut state = self.lock();
        match state.wants.get(cid) {
            None => false,
            Some(want) if have && want.kind == WantKind::Block => true,
            Some(_) => {
                state.wants.remove(cid);
                true
            }
        }
    }

    pub fn outstanding_wants(&self) -> usize {
        self.lock().wants.len()
    }

    /// A new stream: what the peer knows of us is uncertain, so the whole list goes again.
    pub fn resend(&self) {
        let mut state = self.lock();
        if state.wants.values().all(|want| !want.held) && state.cancels.is_empty() {
            return;
        }
        state.full = true;
        state.cancels.clear();
        let mut all: Vec<(i32, Cid)> = state.wants.iter().map(|(cid, want)| (want.priority, *cid)).collect();
        all.sort_by_key(|(priority, _)| Reverse(*priority));
        state.wants.values_mut().for_each(|want| (want.sent, want.held) = (false, false));
        state.unsent = all.into_iter().map(|(_, cid)| cid).collect();
        drop(state);
        self.wake.notify_one();
    }

    /// The wants cannot be delivered: forgets and returns them.
    pub fn forget_wants(&self) -> Vec<Cid> {
        let mut state = self.lock();
        state.unsent.clear();
        state.cancels.clear();
        state.full = false;
        state.wants.drain().map(|(cid, _)| cid).collect()
    }

    // Its wants.

    /// Notes wants of the peer. Returns how many were refused because its queue is full.
    pub fn ask(&self, wants: impl IntoIterator<Item = (Cid, WantKind, i32, bool)>) -> usize {
        let mut state = self.lock();
        let mut refused = 0;
        if state.closed {
            return 0;
        }
        for (cid, kind, priority, send_dont_have) in wants {
            if let Some(old) = state.asked_by_cid.remove(&cid) {
                state.asked.remove(&(Reverse(old.priority), old.sequence));
            }
            if state.asked_by_cid.len() >= MAX_WANTS_PER_PEER {
                refused += 1;
                continue;
            }
            state.sequence += 1;
            let sequence = state.sequence;
            state.asked.insert((Reverse(priority), sequence), cid);
            state.asked_by_cid.insert(cid, TheirWant { cid, kind, priority, send_dont_have, sequence });
        }
        refused
    }

    /// The peer took a want back, also from what waits to be written. Returns the bytes that are no longer outstanding.
    pub fn unask(&self, cid: &Cid) -> usize {
        let mut state = self.lock();
        if let Some(old) = state.asked_by_cid.remove(cid) {
            state.asked.remove(&(Reverse(old.priority), old.sequence));
        }
        let before = state.outstanding;
        let mut replies = std::mem::take(&mut state.replies);
        replies.retain(|reply| match reply {
            Reply::Block(block) if block.cid() == cid => {
                state.outstanding -= reply.cost();
                false
            }
            _ => true,
        });
        state.replies = replies;
        before - state.outstanding
    }

    /// The peer sends its whole list anew.
    pub fn unask_all(&self) {
        let mut state = self.lock();
        state.asked.clear();
        state.asked_by_cid.clear();
    }

    /// True when the server should take this peer into its round: it has unanswered wants, room in its window, and is
    /// not in the round already.
    pub fn try_schedule(&self, window: usize) -> bool {
        let mut state = self.lock();
        let go = !state.closed && !state.scheduled && !state.asked.is_empty() && state.outstanding < window;
        state.scheduled |= go;
        go
    }

    /// The most urgent wants, up to `most`.
    pub fn take_asked(&self, most: usize) -> Vec<TheirWant> {
        let mut state = self.lock();
        let mut batch = Vec::with_capacity(most);
        while batch.len() < most {
            let Some((_, cid)) = state.asked.pop_first() else { break };
            batch.extend(state.asked_by_cid.remove(&cid));
        }
        batch
    }

    /// Queues an answer. Returns the bytes that are outstanding by it: zero once the peer is gone.
    pub fn reply(&self, reply: Reply) -> usize {
        let mut state = self.lock();
        if state.closed {
            return 0;
        }
        let cost = reply.cost();
        state.outstanding += cost;
        state.replies.push_back(reply);
        drop(state);
        self.wake.notify_one();
        cost
    }

    /// The server's turn with this peer is over.
    pub fn end_turn(&self) {
        self.lock().scheduled = false;
    }

    pub fn asked(&self) -> usize {
        self.lock().asked.len()
    }

    // The writer.

    /// The next message: cancels, then wants, presences and the blocks that are ready. `None` when there is nothing.
    /// With it comes what it frees of the window once it is written, and the wants that this protocol cannot express.
    pub fn take_message(&self, version: Version) -> Option<(Outgoing, usize, Vec<Cid>)> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut message = Outgoing {
            full: std::mem::take(&mut state.full),
            cancels: state.cancels.drain().collect(),
            ..Outgoing::default()
        };
        let mut inexpressible = Vec::new();
        while message.wants.len() < WANTS_PER_MESSAGE {
            let Some(cid) = state.unsent.pop_front() else { break };
            let Some(want) = state.wants.get_mut(&cid) else { continue };
            if want.kind == WantKind::Have && version < Version::V1_2 {
                if want.held {
                    message.cancels.push(cid);
                }
                state.wants.remove(&cid);
                inexpressible.push(cid);
                continue;
            }
            (want.sent, want.held) = (true, true);
            message.wants.push((cid, want.kind, want.priority));
        }
        let (mut cost, mut bytes) = (0, 0);
        let target = state.next_message.clamp(FIRST_MESSAGE_BYTES, MESSAGE_BYTES);
        while let Some(reply) = state.replies.front() {
            let size = reply.size();
            let first = bytes == 0 && message.presences.is_empty();
            if !first && (bytes >= target || bytes + size > MAX_MESSAGE_SIZE - MESSAGE_OVERHEAD) {
                break;
            }
            bytes += size;
            cost += reply.cost();
            match state.replies.pop_front() {
                Some(Reply::Block(block)) => message.blocks.push(block),
                Some(Reply::Presence(cid, have)) => message.presences.push((cid, have)),
                None => break,
            }
        }
        state.next_message = if state.replies.is_empty() { 0 } else { target * 2 };
        let left = state.outstanding - cost;
        message.pending_bytes = i32::try_from(left).unwrap_or(i32::MAX);
        (!message.is_empty() || !inexpressible.is_empty()).then_some((message, cost, inexpressible))
    }

    /// A message was written, or lost with its stream: its share of the window is free again. Returns what was freed,
    /// which is zero when the peer was closed meanwhile (then everything was freed at once).
    pub fn written(&self, cost: usize) -> usize {
        let mut state = self.lock();
        if state.closed {
            return 0;
        }
        state.outstanding -= cost;
        cost
    }

    /// Whether the connection is in use.
    pub fn is_busy(&self) -> bool {
        let state = self.lock();
        self.keep.load(Ordering::Relaxed)
            || self.warm.load(Ordering::Relaxed)
            || !state.wants.is_empty()
            || !state.asked.is_empty()
            || state.scheduled
            || state.outstanding > 0
    }

    /// The last connection is gone: drops everything. Returns the bytes that were outstanding.
    pub fn close(&self) -> usize {
        self.cars.close();
        let mut state = self.lock();
        self.ready.store(false, Ordering::Release);
        let outstanding = state.outstanding;
        *state = State { closed: true, ..State::default() };
        outstanding
    }

    /// Counts bytes as they are read.
    pub fn read(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        crate::p2p::bulk::came(bytes);
    }

    /// What was read by now.
    pub fn arrival(&self) -> Arrival {
        Arrival { at: tokio::time::Instant::now(), received: Some(self.received.load(Ordering::Relaxed)) }
    }

    /// Counts bytes of a message that is still arriving; the sum since the last report when it is time for another.
    pub fn progress(&self, bytes: usize, now: Instant) -> Option<usize> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.bytes += bytes;
        if now.saturating_duration_since(progress.last) < PROGRESS_EVERY {
            return None;
        }
        progress.last = now;
        Some(std::mem::take(&mut progress.bytes))
    }
}

impl Reply {
    fn size(&self) -> usize {
        match self {
            Self::Block(block) => block.len() + 32,
            Self::Presence(cid, _) => cid.encoded_len() + 8,
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Block(block) => block.len() + PRESENCE_BYTES,
            Self::Presence(..) => PRESENCE_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ipld::{HashCode, codec};

    fn block(n: usize, size: usize) -> Block {
        let mut data = vec![0; size.max(8)];
        data[..8].copy_from_slice(&n.to_le_bytes());
        Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(data)).unwrap()
    }

    fn ready() -> Peer {
        let peer = Peer::new(PeerId::random());
        peer.ready.store(true, Ordering::Release);
        peer
    }

    fn want(n: usize, kind: WantKind, priority: i32) -> Want {
        Want::new(*block(n, 8).cid(), kind, priority)
    }

    #[test]
    fn the_most_urgent_want_is_written_first_and_the_rest_in_batches() {
        let peer = ready();
        let wants: Vec<Want> = (0..600).map(|n| want(n, WantKind::Block, n as i32)).collect();
        peer.want(&wants).unwrap();
        let (first, _, _) = peer.take_message(Version::V1_2).unwrap();
        assert_eq!(first.wants.len(), WANTS_PER_MESSAGE);
        assert_eq!(first.wants[0].0, wants[599].cid);
        assert!(!first.full);
        assert_eq!(peer.take_message(Version::V1_2).unwrap().0.wants.len(), WANTS_PER_MESSAGE);
        assert_eq!(peer.take_message(Version::V1_2).unwrap().0.wants.len(), 600 - 2 * WANTS_PER_MESSAGE);
        assert!(peer.take_message(Version::V1_2).is_none());
    }

    #[test]
    fn a_peer_never_holds_more_than_the_limit_of_our_wants() {
        let peer = ready();
        let wants: Vec<Want> = (0..MAX_WANTS_PER_PEER).map(|n| want(n, WantKind::Block, 0)).collect();
        peer.want(&wants).unwrap();
        peer.want(&wants[..10]).unwrap();
        assert_eq!(peer.want(&[want(MAX_WANTS_PER_PEER, WantKind::Block, 0)]), Err(SendError::Overloaded));
        assert!(peer.arrived(&wants[3].cid));
        peer.want(&[want(MAX_WANTS_PER_PEER, WantKind::Block, 0)]).unwrap();
    }

    #[test]
    fn a_want_that_was_not_written_is_taken_back_silently() {
        let peer = ready();
        peer.want(&[want(1, WantKind::Block, 0), want(2, WantKind::Block, 0)]).unwrap();
        peer.cancel(&[want(1, WantKind::Block, 0).cid]);
        let (message, _, _) = peer.take_message(Version::V1_2).unwrap();
        assert_eq!((message.wants.len(), message.cancels.len()), (1, 0));
        peer.cancel(&[want(2, WantKind::Block, 0).cid]);
        let (message, _, _) = peer.take_message(Version::V1_2).unwrap();
        assert_eq!((message.wants.len(), message.cancels.len()), (0, 1));
    }

    #[test]
    fn a_want_that_was_renewed_before_its_cancel_left_is_still_cancelled_at_the_peer() {
        let (have, wanted) = (want(1, WantKind::Have, 0), want(1, WantKind::Block, 0));
        let (renewed, upgraded) = (ready(), ready());
        renewed.want(&[wanted]).unwrap();
        upgraded.want(&[have]).unwrap();
        for peer in [&renewed, &upgraded] {
            assert_eq!(peer.take_message(Version::V1_2).unwrap().0.wants.len(), 1);
        }
        renewed.cancel(&[wanted.cid]);
        for peer in [&renewed, &upgraded] {
            peer.want(&[wanted]).unwrap();
            peer.cancel(&[wanted.cid]);
            let (message, ..) = peer.take_message(Version::V1_2).unwrap();
            assert_eq!((message.cancels, message.wants.len()), (vec![wanted.cid], 0));
        }
    }

    #[test]
    fn a_block_that_an_old_peer_holds_as_a_want_is_cancelled_when_only_its_presence_is_wanted() {
        let peer = ready();
        let wanted = want(1, WantKind::Block, 0);
        peer.want(&[wanted]).unwrap();
        peer.take_message(Version::V1_0).unwrap();
        peer.cancel(&[wanted.cid]);
        peer.want(&[want(1, WantKind::Have, 0)]).unwrap();
        let (message, _, inexpressible) = peer.take_message(Version::V1_0).unwrap();
        assert_eq!((message.cancels, inexpressible), (vec![wanted.cid], vec![wanted.cid]));
    }

    #[test]
    fn after_a_lost_stream_the_whole_list_goes_again() {
        let peer = ready();
        peer.want(&[want(1, WantKind::Block, 0), want(2, WantKind::Have, 5)]).unwrap();
        peer.take_message(Version::V1_2).unwrap();
        peer.resend();
        let (message, _, _) = peer.take_message(Version::V1_2).unwrap();
        assert!(message.full);
        assert_eq!(message.wants.len(), 2);
    }

    #[test]
    fn an_old_peer_is_not_asked_whether_it_has_a_block() {
        let peer = ready();
        peer.want(&[want(1, WantKind::Have, 0), want(2, WantKind::Block, 0)]).unwrap();
        let (message, _, inexpressible) = peer.take_message(Version::V1_1).unwrap();
        assert_eq!(message.wants.len(), 1);
        assert_eq!(inexpressible, vec![want(1, WantKind::Have, 0).cid]);
    }

    #[test]
    fn messages_start_small_grow_and_stay_under_the_limit() {
        let peer = ready();
        for n in 0..40 {
            peer.reply(Reply::Block(block(n, 256 * 1024)));
        }
        let mut sizes = Vec::new();
        while let Some((message, cost, _)) = peer.take_message(Version::V1_2) {
            sizes.push(message.blocks.len());
            assert!(message.encode(Version::V1_2).iter().map(Bytes::len).sum::<usize>() <= MAX_MESSAGE_SIZE);
            peer.written(cost);
        }
        assert_eq!(sizes[..3], [1, 1, 2]);
        assert_eq!(sizes.iter().sum::<usize>(), 40);
        assert!(sizes.iter().all(|n| *n <= 4));
        assert!(!peer.is_busy());
    }

    #[test]
    fn the_largest_blocks_go_one_by_one() {
        let peer = ready();
        peer.reply(Reply::Block(block(1, 2 << 20)));
        peer.reply(Reply::Block(block(2, 2 << 20)));
        assert_eq!(peer.take_message(Version::V1_2).unwrap().0.blocks.len(), 1);
        assert_eq!(peer.take_message(Version::V1_2).unwrap().0.blocks.len(), 1);
    }

    #[test]
    fn a_million_wants_occupy_the_limit_and_closing_releases_them() {
        // CVE-2023-25568 and kin (RELIABILITY.md §3.4 row 8).
        let peer = ready();
        let mut refused = 0;
        for n in 0..1_000_000u64 {
            let digest = crate::ipld::Multihash::wrap(0x12, &[n.to_le_bytes(); 4].concat()).unwrap();
            refused += peer.ask([(Cid::new_v1(codec::RAW, digest), WantKind::Block, 0, true)]);
        }
        assert_eq!(refused, 1_000_000 - MAX_WANTS_PER_PEER);
        assert_eq!(peer.asked(), MAX_WANTS_PER_PEER);
        peer.close();
        assert_eq!(peer.asked(), 0);
        assert_eq!(peer.lock().asked_by_cid.capacity(), 0);
        assert_eq!(peer.reply(Reply::Presence(*block(1, 8).cid(), true)), 0);
    }

    #[test]
    fn progress_is_reported_at_most_every_twenty_five_milliseconds() {
        let peer = ready();
        let start = Instant::now() + Duration::from_secs(1);
        assert_eq!(peer.progress(10, start), Some(10));
        assert_eq!(peer.progress(10, start + Duration::from_millis(24)), None);
        assert_eq!(peer.progress(10, start + Duration::from_millis(25)), Some(20));
    }
}
