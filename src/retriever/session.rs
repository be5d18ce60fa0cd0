//! The caller's side of a session: local tiers first, then a slot that the engine fills.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::report::Report;
use super::scheduler::{SessionId, UNKNOWN_BLOCK};
use super::step::Step;
use super::{Core, FetchError, Hint};
use crate::blockstore::{Hit, Tier};
use crate::ipld::{Block, Cid, HashCode, MAX_BLOCK_SIZE, Multihash};
use crate::record::{Policy, RetrievalEvent, SessionReport};

/// Blocks that one session may have asked for ahead or that wait in it.
const MAX_AHEAD: usize = 4_096;
/// Local look-ups that one prefetch has under way.
const LOOKUPS: usize = 8;
/// Blocks from the network that a session recognises when it reads them again from a local tier.
const MAX_FETCHED: usize = 16_384;

type Answer = Result<Block, FetchError>;

/// What a session asks of the engine.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Want {
        cid: Cid,
        size: Option<u64>,
        urgent: bool,
    },
    /// What is below it is wanted too.
    Whole {
        cid: Cid,
    },
    Unwant {
        cid: Cid,
    },
    Demote {
        cid: Cid,
    },
}

/// Sessions that have commands for the engine: each at most once, so it is bounded by the sessions.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: Mutex<Post>,
    pub(super) notify: Notify,
}

#[derive(Debug, Default)]
struct Post {
    sessions: Vec<Arc<Shared>>,
    stopped: bool,
}

/// What the session's handles and the engine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: SessionId,
    pub(super) root: Cid,
    pub(super) policy: Policy,
    pub(super) started: Instant,
    /// Whether the engine knows of it: the warm path never needs to look into the slots.
    networked: AtomicBool,
    largest: AtomicU64,
    /// A slot changed.
    changed: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slots: HashMap<Multihash, Slot>,
    /// Blocks that wait for the reader, oldest first; may name some that are gone.
    ready: VecDeque<Multihash>,
    /// Believed bytes of all slots that were asked for ahead, and bytes of those that are here.
    ahead: u64,
    /// What that may be, as it was when a block was last asked for ahead.
    most_ahead: u64,
    fetched: HashSet<u64>,
    commands: Vec<Command>,
    posted: bool,
    closed: bool,
    next_waiter: u64,
    report: Report,
}

#[derive(Debug)]
struct Slot {
    stage: Stage,
    waiters: Vec<(u64, oneshot::Sender<Answer>)>,
    /// Kept without a waiter; counts towards `ahead` with this many bytes.
    prefetched: Option<u64>,
}

#[derive(Debug)]
enum Stage {
    /// The local tiers are being asked.
    Looking,
    Wanted,
    Ready(Block),
}

/// What [`Shared::take_commands`] hands over.
pub(super) struct Taken {
    pub(super) commands: Vec<Command>,
    pub(super) closed: bool,
}

/// One user request's fetch. Cheap to clone; the session ends when the last clone is dropped, and takes its wants back.
#[derive(Clone)]
pub struct Session {
    handle: Arc<Handle>,
}

/// A session's figures while it runs and after; does not keep it running.
#[derive(Debug, Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

impl Watch {
    pub fn report(&self) -> SessionReport {
        self.shared.lock().report.finish()
    }
}

struct Handle {
    core: Arc<Core>,
    shared: Arc<Shared>,
    local_only: bool,
    /// Whether it is one of the [`Core::readers`].
    reads_ahead: AtomicBool,
    /// Set while somebody wants to know what was read; `None` within: it was more than that.
    reads: OnceLock<Reads>,
}

/// The blocks that a session handed out, in order, within bounds.
struct Reads {
    most: usize,
    most_bytes: usize,
    /// With the sum of their bytes.
    blocks: Mutex<Option<(Vec<Block>, usize)>>,
}

/// Takes the want back when the future that waits is dropped.
struct Waiting<'a> {
    handle: &'a Handle,
    cid: Cid,
    waiter: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Session {
    pub(super) fn new(core: Arc<Core>, root: Cid, policy: Policy, local_only: bool) -> Self {
        let shared = Shared {
            id: SessionId(core.next_session.fetch_add(1, Ordering::Relaxed)),
            root,
            policy,
            started: Instant::now(),
            networked: AtomicBool::new(false),
            largest: AtomicU64::new(UNKNOWN_BLOCK),
            changed: Notify::new(),
            state: Mutex::new(State {
                slots: HashMap::new(),
                ready: VecDeque::new(),
                ahead: 0,
                most_ahead: 0,
                fetched: HashSet::new(),
                commands: Vec::new(),
                posted: false,
                closed: false,
                next_waiter: 0,
                report: Report::new(policy),
            }),
        };
        let reads_ahead = AtomicBool::new(false);
        let reads = OnceLock::new();
        Self { handle: Arc::new(Handle { core, shared: Arc::new(shared), local_only, reads_ahead, reads }) }
    }

    /// From now on the blocks that are read are remembered for [`Session::take_reads`], up to `most` of them with up to
    /// `most_bytes` together.
    pub fn remember_reads(&self, most: usize, most_bytes: usize) {
        let _ = self.handle.reads.set(Reads { most, most_bytes, blocks: Mutex::new(Some(Default::default())) });
    }

    /// The blocks that were read since [`Session::remember_reads`], in order, and the end of remembering; `None`: they
    /// were not remembered, or were more than its bounds.
    pub fn take_reads(&self) -> Option<Vec<Block>> {
        self.handle.reads.get()?.lock().take().map(|(blocks, _)| blocks)
    }

    /// The block, from the nearest tier or the network; joins a fetch of the same CID that is under way.
    ///
    /// Cancel safe: dropping the future takes the want back unless somebody else waits for it.
    pub async fn fetch(&self, cid: &Cid) -> Result<Block, FetchError> {
        self.fetch_sized(&Hint { cid: *cid, size: None }).await
    }

    /// As [`Session::fetch`], of a block about whose size something is known: many small ones then fill a peer's window
    /// as what they are.
    pub async fn fetch_sized(&self, hint: &Hint) -> Result<Block, FetchError> {
        let block = self.obtain(hint, false).await?;
        Ok(self.used(block))
    }

    /// As [`Session::fetch_sized`], of a block of which all that is below is going to be read: a peer that can send it in one
    /// answer may.
    pub async fn fetch_whole(&self, hint: &Hint) -> Result<Block, FetchError> {
        let block = self.obtain(hint, true).await?;
        Ok(self.used(block))
    }

    fn used(&self, block: Block) -> Block {
        self.handle.core.blocks.used(&block);
        if let Some(reads) = self.handle.reads.get() {
            reads.note(&block);
        }
        block
    }

    async fn obtain(&self, hint: &Hint, whole: bool) -> Result<Block, FetchError> {
        let cid = &hint.cid;
        let Handle { core, shared, .. } = &*self.handle;
        if let Some(denied) = core.blocks.denied(cid) {
            return Err(FetchError::Denied { cid: *cid, denied });
        }
        if let Some(block) = Block::inherent(cid) {
            return Ok(block);
        }
        HashCode::try_from(cid.hash().code()).map_err(|error| FetchError::Unsupported { cid: *cid, error })?;
        if let Some(block) = shared.take_ready(cid) {
            return Ok(block);
        }
        if let Some(block) = core.blocks.peek(cid) {
            shared.local(cid, Tier::Memory);
            return Ok(block);
        }
        if let Some(joined) = self.handle.join(hint) {
            return joined.wait().await;
        }
        let looked = core.blocks.lookup(cid).await;
        if let Ok(Some(Hit { block, tier })) = looked {
            shared.local(cid, tier);
            return Ok(block);
        }
        if self.handle.local_only || core.mailbox.is_none() {
            looked.map_err(|error| FetchError::Store(Arc::new(error)))?;
            return Err(FetchError::NotLocal { cid: *cid });
        }
        if let Err(error) = looked {
            // A broken disk does not keep the network from answering.
            core.metrics.store_errors.inc();
            tracing::warn!(%error, "local store");
        }
        self.handle.want(hint, whole)?.wait().await
    }

    /// Asks for blocks ahead of the reader, in this order of urgency. Does nothing for those that are local or asked
    /// for already. The caller keeps within [`Session::read_ahead`]; what is over it is left out. Fetched blocks wait
    /// in the session for `fetch`.
    pub fn prefetch(&self, hints: impl IntoIterator<Item = Hint>) {
        let Handle { core, shared, local_only, reads_ahead, .. } = &*self.handle;
        if *local_only || core.mailbox.is_none() {
            return;
        }
        // What comes from the disk waits in memory like what comes from the network, so it shares the same budget.
        if !reads_ahead.swap(true, Ordering::Relaxed) {
            core.readers.fetch_add(1, Ordering::Relaxed);
        }
        let read_ahead = self.read_ahead();
        let mut missing = Vec::new();
        for hint in hints {
            let cid = hint.cid;
            let acceptable = cid.hash().code() != 0 && HashCode::try_from(cid.hash().code()).is_ok();
            if !acceptable || core.blocks.peek(&cid).is_some() || core.blocks.denied(&cid).is_some() {
                continue;
            }
            let size = hint.size.unwrap_or_else(|| shared.block_size()).min(MAX_BLOCK_SIZE as u64);
            match shared.reserve(&cid, size, read_ahead) {
                Reserved::Yes => missing.push(Hint { cid, size: Some(size) }),
                Reserved::Already => {}
                Reserved::Full => {
                    core.metrics.hints_dropped.inc();
                    break;
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        let (core, shared) = (core.clone(), Arc::downgrade(&self.handle));
        let supervisor = core.supervisor.clone();
        supervisor.spawn_short(async move {
            let blocks = core.blocks.clone();
            let looked = futures::stream::iter(missing).map(|hint| {
                let blocks = blocks.clone();
                async move { (hint, blocks.lookup(&hint.cid).await) }
            });
            let mut looked = std::pin::pin!(looked.buffered(LOOKUPS));
            while let Some((hint, found)) = looked.next().await {
                let Some(handle) = shared.upgrade() else { return };
                match found {
                    Ok(Some(hit)) => handle.shared.found(hit),
                    _ => handle.wanted(&hint),
                }
            }
        });
    }

    /// Bytes that the reader may have asked for and not yet consumed: this session's share of the process-wide reorder
    /// budget, at least two blocks.
    pub fn read_ahead(&self) -> u64 {
        let Handle { core, shared, .. } = &*self.handle;
        let block = shared.block_size();
        let sharing = core.active.load(Ordering::Relaxed).max(core.readers.load(Ordering::Relaxed)).max(1);
        let share = core.budget / sharing as u64;
        let most = match shared.policy {
            Policy::Optimized => core.read_ahead,
            Policy::Standard => block * super::STANDARD_READ_AHEAD as u64,
        };
        share.min(most).max(2 * block)
    }

    /// Ends when all that was asked for ahead is here, or was given up.
    pub async fn caught_up(&self) {
        let shared = &self.handle.shared;
        loop {
            let mut changed = std::pin::pin!(shared.changed.notified());
            changed.as_mut().enable();
            if shared.lock().slots.values().all(|slot| matches!(slot.stage, Stage::Ready(_))) {
                return;
            }
            changed.await;
        }
    }

    /// Believed bytes of what was asked for ahead and not read.
    #[doc(hidden)]
    pub fn held(&self) -> u64 {
        self.handle.shared.lock().ahead
    }

    /// Whether anything was not here.
    pub fn is_networked(&self) -> bool {
        self.handle.shared.networked.load(Ordering::Acquire)
    }

    /// What has been measured so far.
    pub fn report(&self) -> SessionReport {
        self.handle.shared.lock().report.finish()
    }

    /// For who follows along.
    pub fn watch(&self) -> Watch {
        Watch { shared: self.handle.shared.clone() }
    }

    /// Unique in the process.
    pub fn id(&self) -> SessionId {
        self.handle.shared.id
    }

    pub fn root(&self) -> &Cid {
        &self.handle.shared.root
    }

    pub fn policy(&self) -> Policy {
        self.handle.shared.policy
    }

    /// Notes in the trace that the first byte of the answer went to the client.
    pub fn first_byte(&self) {
        self.handle.core.note(&self.handle.shared, &Step::FirstByte);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id()).field("root", self.root()).finish_non_exhaustive()
    }
}

impl Handle {
    /// Waits for a block that the session asked for already.
    fn join(&self, hint: &Hint) -> Option<Waiting<'_>> {
        if !self.shared.networked.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.shared.lock();
        if !state.slots.contains_key(hint.cid.hash()) {
            return None;
        }
        let waiting = self.enlist(&mut state, hint);
        let posted = self.post(&mut state);
        // A waiter that is dropped takes the lock.
        drop(state);
        posted.ok().map(|()| waiting)
    }

    fn want(&self, hint: &Hint, whole: bool) -> Result<Waiting<'_>, FetchError> {
        let mut state = self.shared.lock();
        self.shared.networked.store(true, Ordering::Release);
        let waiting = self.enlist(&mut state, hint);
        if whole {
            state.commands.push(Command::Whole { cid: hint.cid });
        }
        let posted = self.post(&mut state);
        // A waiter that is dropped takes the lock.
        drop(state);
        posted.map(|()| waiting)
    }

    /// Adds a waiter to the block's slot, and tells the engine that somebody waits.
    fn enlist(&self, state: &mut State, hint: &Hint) -> Waiting<'_> {
        let cid = hint.cid;
        let (sender, answer) = oneshot::channel();
        let waiter = state.next_waiter;
        state.next_waiter += 1;
        let slot = state.slots.entry(*cid.hash()).or_insert(Slot {
            stage: Stage::Wanted,
            waiters: Vec::new(),
            prefetched: None,
        });
        match &slot.stage {
            Stage::Ready(block) => {
                let _ = sender.send(Ok(block.clone()));
            }
            // The look-up finds the waiter when it ends.
            Stage::Looking => slot.waiters.push((waiter, sender)),
            Stage::Wanted => {
                let first = slot.waiters.is_empty();
                let size = slot.prefetched.or(hint.size);
                slot.waiters.push((waiter, sender));
                if first {
                    state.commands.push(Command::Want { cid, size, urgent: true });
                }
            }
        }
        Waiting { handle: self, cid, waiter, answer }
    }

    /// The local tiers do not have a block that was to be fetched ahead.
    fn wanted(&self, hint: &Hint) {
        let mut state = self.shared.lock();
        let Some(slot) = state.slots.get_mut(hint.cid.hash()).filter(|slot| matches!(slot.stage, Stage::Looking))
        else {
            return;
        };
        slot.stage = Stage::Wanted;
        let urgent = !slot.waiters.is_empty();
        state.commands.push(Command::Want { cid: hint.cid, size: hint.size, urgent });
        if let Err(error) = self.post(&mut state) {
            state.fail(hint.cid.hash(), &error);
        }
    }

    fn post(&self, state: &mut State) -> Result<(), FetchError> {
        let mailbox = self.core.mailbox.as_ref().ok_or(FetchError::Stopping)?;
        if !state.posted && !state.commands.is_empty() {
            state.posted = true;
            if !mailbox.post(self.shared.clone()) {
                state.posted = false;
                state.commands.clear();
                return Err(FetchError::Stopping);
            }
        }
        Ok(())
    }

    fn forgo(&self, cid: &Cid, waiter: u64) {
        let mut state = self.shared.lock();
        let Some(slot) = state.slots.get_mut(cid.hash()) else { return };
        slot.waiters.retain(|(id, _)| *id != waiter);
        if !slot.waiters.is_empty() || !matches!(slot.stage, Stage::Wanted) {
            return;
        }
        let ahead = slot.prefetched.is_some();
        if !ahead {
            state.slots.remove(cid.hash());
        }
        // A want that the engine has not seen yet need never be seen.
        let same = |c: &Command| matches!(c, Command::Want { cid: c, urgent: true, .. } if c.hash() == cid.hash());
        let unseen = state.commands.iter().position(same);
        match (ahead, unseen) {
            (false, Some(at)) => {
                state.commands.remove(at);
            }
            (false, None) => state.commands.push(Command::Unwant { cid: *cid }),
            (true, _) => state.commands.push(Command::Demote { cid: *cid }),
        }
        let _ = self.post(&mut state);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if *self.reads_ahead.get_mut() {
            self.core.readers.fetch_sub(1, Ordering::Relaxed);
        }
        let mut state = self.shared.lock();
        state.closed = true;
        state.slots.clear();
        state.ready.clear();
        if self.shared.networked.load(Ordering::Acquire)
            && !state.posted
            && let Some(mailbox) = &self.core.mailbox
        {
            state.posted = mailbox.post(self.shared.clone());
        }
    }
}

impl Reads {
    fn lock(&self) -> MutexGuard<'_, Option<(Vec<Block>, usize)>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, block: &Block) {
        let mut read = self.lock();
        match &mut *read {
            Some((blocks, bytes)) if blocks.len() < self.most && *bytes + block.len() <= self.most_bytes => {
                *bytes += block.len();
                blocks.push(block.clone());
            }
            // Too many: what was remembered is of no use, and is let go.
            _ => *read = None,
        }
    }
}

impl Waiting<'_> {
    async fn wait(mut self) -> Answer {
        let answer = (&mut self.answer).await.unwrap_or(Err(FetchError::Stopping));
        // Another session may have asked for the same bytes under another CID.
        answer.and_then(|block| block.with_cid(self.cid).ok_or(FetchError::Stopping))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.handle.forgo(&self.cid, self.waiter);
    }
}

enum Reserved {
    Yes,
    Already,
    Full,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block_size(&self) -> u64 {
        self.largest.load(Ordering::Relaxed)
    }

    fn take_ready(&self, cid: &Cid) -> Option<Block> {
        if !self.networked.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        let Stage::Ready(block) = &state.slots.get(cid.hash())?.stage else { return None };
        let block = block.with_cid(*cid);
        state.remove(cid.hash());
        block
    }

    fn local(&self, cid: &Cid, tier: Tier) {
        let at = self.started.elapsed();
        let mut state = self.lock();
        if state.fetched.contains(&short(cid.hash())) {
            return;
        }
        state.report.local(at, tier, cid);
    }

    fn reserve(&self, cid: &Cid, size: u64, read_ahead: u64) -> Reserved {
        let mut state = self.lock();
        if state.slots.contains_key(cid.hash()) {
            return Reserved::Already;
        }
        self.networked.store(true, Ordering::Release);
        while state.ahead + size > read_ahead || state.slots.len() >= MAX_AHEAD {
            // A reader that jumped leaves blocks behind: they are in the cache, and make room.
            let Some(oldest) = state.ready.pop_front() else {
                return if state.ahead == 0 { break } else { Reserved::Full };
            };
            if state.slots.get(&oldest).is_some_and(|slot| matches!(slot.stage, Stage::Ready(_))) {
                state.remove(&oldest);
            }
        }
        let slot = Slot { stage: Stage::Looking, waiters: Vec::new(), prefetched: Some(size) };
        state.slots.insert(*cid.hash(), slot);
        state.ahead += size;
        state.most_ahead = read_ahead;
        Reserved::Yes
    }

    /// A block that was to be fetched ahead was local after all.
    fn found(&self, hit: Hit) {
        let at = self.started.elapsed();
        let mut state = self.lock();
        if state.slots.contains_key(hit.block.cid().hash()) {
            state.report.local(at, hit.tier, hit.block.cid());
            state.fetched.insert(short(hit.block.cid().hash()));
            state.deliver(&hit.block);
        }
        self.changed.notify_waiters();
    }

    /// From the engine: a block from the network.
    pub(super) fn deliver(&self, block: &Block) {
        self.largest.fetch_max(block.len() as u64, Ordering::Relaxed);
        let mut state = self.lock();
        if state.fetched.len() < MAX_FETCHED {
            state.fetched.insert(short(block.cid().hash()));
        }
        state.deliver(block);
        self.changed.notify_waiters();
    }

    /// From the engine: a block that had just come when it was asked for.
    pub(super) fn deliver_late(&self, block: &Block) {
        self.local(block.cid(), Tier::Memory);
        self.lock().deliver(block);
        self.changed.notify_waiters();
    }

    pub(super) fn fail(&self, cid: &Cid, error: &FetchError) {
        self.lock().fail(cid.hash(), error);
        self.changed.notify_waiters();
    }

    /// From the engine: there was no room to fetch it ahead. A reader that came to wait meanwhile asks again.
    pub(super) fn forget(&self, cid: &Cid) -> bool {
        let mut state = self.lock();
        let waited = state.slots.get(cid.hash()).is_some_and(|slot| !slot.waiters.is_empty());
        if !waited {
            state.remove(cid.hash());
        }
        self.changed.notify_waiters();
        waited
    }

    pub(super) fn step(&self, at: Duration, step: &Step) -> Option<RetrievalEvent> {
        self.lock().report.step(at, step)
    }

    pub(super) fn take_commands(&self) -> Taken {
        let mut state = self.lock();
        state.posted = false;
        Taken { commands: std::mem::take(&mut state.commands), closed: state.closed }
    }

    pub(super) fn stop(&self) {
        let mut state = self.lock();
        let keys: Vec<Multihash> = state.slots.keys().copied().collect();
        for key in keys {
            state.fail(&key, &FetchError::Stopping);
        }
        self.changed.notify_waiters();
    }
}

impl State {
    fn deliver(&mut self, block: &Block) {
        let key = *block.cid().hash();
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let mut taken = false;
        for (_, waiter) in slot.waiters.drain(..) {
            taken |= waiter.send(Ok(block.clone())).is_ok();
        }
        let Some(believed) = slot.prefetched.filter(|_| !taken) else {
            self.remove(&key);
            return;
        };
        let size = block.len() as u64;
        // Who lies about sizes does not fill the memory: what is over the bound is in the cache, and no more here.
        if size > believed && self.ahead - believed + size > self.most_ahead {
            self.remove(&key);
            return;
        }
        slot.prefetched = Some(size);
        slot.stage = Stage::Ready(block.clone());
        self.ahead = self.ahead - believed + size;
        self.ready.push_back(key);
        if self.ready.len() > 2 * MAX_AHEAD {
            let slots = &self.slots;
            self.ready.retain(|key| slots.contains_key(key));
        }
    }

    fn fail(&mut self, key: &Multihash, error: &FetchError) {
        if let Some(slot) = self.remove(key) {
            for (_, waiter) in slot.waiters {
                let _ = waiter.send(Err(error.clone()));
            }
        }
    }

    fn remove(&mut self, key: &Multihash) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.ahead -= slot.prefetched.unwrap_or(0);
        Some(slot)
    }
}

impl Mailbox {
    /// False when the engine has stopped.
    fn post(&self, session: Arc<Shared>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.stopped {
            return false;
        }
        waiting.sessions.push(session);
        drop(waiting);
        self.notify.notify_one();
        true
    }

    pub(super) fn take(&self) -> Vec<Arc<Shared>> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner).sessions)
    }

    /// Takes what is left and accepts no more.
    pub(super) fn stop(&self) -> Vec<Arc<Shared>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.stopped = true;
        std::mem::take(&mut waiting.sessions)
    }
}

/// Enough of a digest to tell a session's blocks apart.
fn short(key: &Multihash) -> u64 {
    let digest = key.digest();
    digest.iter().rev().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
