//! One provider: what is wanted of it, most urgent first, and the requests that are under way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use reqwest::Client;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use url::Url;

use super::car;
use super::dial::Found;
use super::request::{self, Answer, Brought};
use super::{Inner, ProviderInfo, joint};
use crate::exchange::car::{Car, Claim, Received, may_answer};
use crate::exchange::{Arrival, Below, ExchangeEvent, MAX_WANTS_PER_PEER, SendError, Want, WantKind};
use crate::ipld::Cid;
use crate::record::Transport;

/// Requests under way at a provider that speaks HTTP/1.1: each has a connection of its own.
pub(super) const H1_FLIGHTS: usize = 16;
/// and at one that speaks HTTP/2, on one connection. Servers allow 100 and more (RFC 9113 §6.5.2); a lower limit of theirs
/// is kept by the HTTP/2 implementation.
const H2_FLIGHTS: usize = 64;
/// How often a request whose connection failed is sent again.
const RETRIES: u8 = 1;
/// A provider that asks for a pause up to this long keeps its wants; for a longer one it is left.
const SHORT_PAUSE: Duration = Duration::from_secs(2);
/// Pauses in a row, without an answer between them, before it is left.
const MAX_PAUSES: u32 = 5;
/// Failed connections in a row before it is left.
const MAX_BROKEN: u32 = 4;
/// After a wrong body nothing is asked for this long: by then the consumer has taken its wants back.
const AFTER_WRONG: Duration = Duration::from_secs(1);
/// Bytes of unfinished blocks are reported at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(25);

type Key = (Reverse<i32>, u64);

/// See the module.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) address: Multiaddr,
    pub(super) client: Client,
    pub(super) base: Url,
    pub(super) heads: bool,
    h2: bool,
    /// Whether it is worth asking it for CARs.
    cars: AtomicBool,
    /// Bytes of bodies since it was connected.
    received: AtomicU64,
    state: Mutex<State>,
}

pub(super) struct State {
    waiting: BTreeMap<Key, Waiting>,
    keys: HashMap<Cid, Key>,
    flying: HashMap<Cid, Flight>,
    car: Option<Car>,
    limit: usize,
    next: u64,
    paused_until: Option<Instant>,
    pauses: u32,
    broken: u32,
    closed: bool,
    used: Instant,
    rtt: Option<Duration>,
    /// Bytes that no event has told of yet, and when the last one did.
    unreported: usize,
    reported: Instant,
}

#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) want: Want,
    pub(super) failures: u8,
}

struct Flight {
    number: u64,
    kind: WantKind,
    abort: AbortHandle,
}

impl Peer {
    pub(super) fn new(id: PeerId, address: Multiaddr, found: Found) -> Self {
        let now = Instant::now();
        let state = State {
            waiting: BTreeMap::new(),
            keys: HashMap::new(),
            flying: HashMap::new(),
            car: None,
            limit: if found.h2 { H2_FLIGHTS } else { H1_FLIGHTS },
            next: 0,
            paused_until: None,
            pauses: 0,
            broken: 0,
            closed: false,
            used: now,
            rtt: None,
            unreported: 0,
            reported: now,
        };
        Self {
            id,
            address,
            client: found.client,
            base: found.base,
            heads: found.heads,
            h2: found.h2,
            cars: AtomicBool::new(true),
            received: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    pub(super) fn connected(&self, dial: Option<Duration>) -> ExchangeEvent {
        ExchangeEvent::Connected { peer: self.id, transport: Transport::Http, address: self.address.clone(), dial }
    }

    pub(super) fn info(&self) -> ProviderInfo {
        ProviderInfo {
            peer: self.id,
            address: self.address.clone(),
            protocol: if self.h2 { "h2" } else { "http/1.1" },
            received: self.received.load(Ordering::Relaxed),
            rtt: self.state().rtt,
        }
    }

    /// Adds wants; a question becomes a request for the block when that is asked for. Returns what is here already.
    pub(super) fn want(&self, wants: Vec<Want>) -> Result<Vec<Received>, SendError> {
        let mut state = self.state();
        if state.closed {
            return Err(SendError::NotConnected);
        }
        state.used = Instant::now();
        let new = wants.iter().filter(|w| !state.has(&w.cid));
        let attached = state.car.as_ref().map_or(0, Car::attached);
        if state.waiting.len() + state.flying.len() + attached + new.count() > MAX_WANTS_PER_PEER {
            return Err(SendError::Overloaded);
        }
        let mut held = Vec::new();
        for want in wants {
            match state.car.as_mut().map_or(Claim::None, |car| car.claim(&want)) {
                Claim::Held(received) => {
                    held.push(*received);
                    continue;
                }
                Claim::Attached => continue,
                Claim::None => {}
            }
            match state.flying.get(&want.cid).map(|flight| flight.kind) {
                Some(WantKind::Block) => continue,
                Some(WantKind::Have) if want.kind == WantKind::Have => continue,
                Some(WantKind::Have) => {
                    if let Some(flight) = state.flying.remove(&want.cid) {
                        flight.abort.abort();
                    }
                }
                None => {}
            }
            let failures = state.take(&want.cid).map_or(0, |old| old.failures);
            state.put(Waiting { want, failures });
        }
        Ok(held)
    }

    /// Takes wants back, and ends their requests on the wire. Returns how many were under way.
    pub(super) fn cancel(&self, cids: &[Cid]) -> u64 {
        let mut state = self.state();
        let (mut ended, mut released) = (0, false);
        for cid in cids {
            state.take(cid);
            if let Some(flight) = state.flying.remove(cid) {
                flight.abort.abort();
                ended += 1;
            }
            released |= state.car.as_mut().is_some_and(|car| car.release(cid));
        }
        if released && let Some(car) = state.car.take_if(|car| car.attached() == 0) {
            car.end();
            ended += 1;
        }
        ended
    }

    /// Forgets all wants and ends their requests.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.clear();
    }

    /// For how long nothing was wanted; `None` while something is.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.state();
        (state.waiting.is_empty() && state.flying.is_empty() && state.car.is_none()).then(|| state.used.elapsed())
    }

    pub(super) fn greeted(&self, rtt: Duration) {
        let mut state = self.state();
        state.rtt = Some(rtt);
        // Who is greeted is not used: the next greeting is due after another silence.
        state.used = Instant::now();
    }

    /// Counts bytes that came. Returns what is to be reported, when that is due.
    pub(super) fn count(&self, bytes: usize, now: Instant) -> (Arrival, Option<usize>) {
        let received = self.received.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let mut state = self.state();
        state.unreported += bytes;
        let due = now.saturating_duration_since(state.reported) >= REPORT_EVERY;
        let report = due.then(|| std::mem::take(&mut state.unreported));
        if due {
            state.reported = now;
        }
        (Arrival { at: now, received: Some(received) }, report)
    }

    /// Ends a request's own entry. False when it was taken back meanwhile: its answer is nobody's.
    pub(super) fn landed(&self, cid: &Cid, number: u64) -> bool {
        let mut state = self.state();
        let own = state.is_flying(cid, number);
        if own {
            state.flying.remove(cid);
            state.used = Instant::now();
        }
        own
    }

    pub(super) fn gives_no_cars(&self) {
        self.cars.store(false, Ordering::Relaxed);
    }

    /// It is of use: what went wrong before counts no more.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        (state.pauses, state.broken) = (0, 0);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn put(&mut self, waiting: Waiting) {
        let key = (Reverse(waiting.want.priority), self.next);
        self.next += 1;
        self.keys.insert(waiting.want.cid, key);
        self.waiting.insert(key, waiting);
    }

    fn take(&mut self, cid: &Cid) -> Option<Waiting> {
        let key = self.keys.remove(cid)?;
        self.waiting.remove(&key)
    }

    fn pop(&mut self) -> Option<Waiting> {
        let (_, waiting) = self.waiting.pop_first()?;
        self.keys.remove(&waiting.want.cid);
        Some(waiting)
    }

    /// Whether the want is one of those that stand.
    fn has(&self, cid: &Cid) -> bool {
        let waits = self.car.as_ref().is_some_and(|car| car.waits_for(cid));
        waits || self.keys.contains_key(cid) || self.flying.contains_key(cid)
    }

    pub(super) fn is_flying(&self, cid: &Cid, number: u64) -> bool {
        self.flying.get(cid).is_some_and(|flight| flight.number == number)
    }

    pub(super) fn car(&mut self, number: u64) -> Option<&mut Car> {
        self.car.as_mut().filter(|car| car.number == number)
    }

    pub(super) fn take_car(&mut self, number: u64) -> Option<Car> {
        self.used = Instant::now();
        self.car.take_if(|car| car.number == number)
    }

    fn clear(&mut self) {
        if let Some(car) = self.car.take() {
            car.end();
        }
        self.waiting.clear();
        self.keys.clear();
        self.flying.drain().for_each(|(_, flight)| flight.abort.abort());
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }
}

/// Starts requests while there is room.
pub(super) fn pump(inner: &Arc<Inner>, peer: &Arc<Peer>) {
    let mut state = peer.state();
    if state.closed || state.is_paused(Instant::now()) {
        return;
    }
    while state.flying.len() < state.limit {
        let Some(waiting) = state.pop() else { return };
        let number = state.next;
        state.next += 1;
        inner.metrics.requests.inc();
        if may_answer(&waiting.want) && state.car.is_none() && peer.cars.load(Ordering::Relaxed) {
            let flying = inner.supervisor.spawn_short(car::fly(inner.clone(), peer.clone(), waiting, number));
            state.car = Some(Car::new(number, waiting.want, flying.abort_handle()));
            continue;
        }
        let flying = inner.supervisor.spawn_short(fly(inner.clone(), peer.clone(), waiting, number));
        let abort = flying.abort_handle();
        state.flying.insert(waiting.want.cid, Flight { number, kind: waiting.want.kind, abort });
    }
}

/// One request and what follows from its answer. The event is handed over before the next request starts: a consumer that
/// is behind is not given more.
async fn fly(inner: Arc<Inner>, peer: Arc<Peer>, waiting: Waiting, number: u64) {
    let mut answer = request::ask(&inner, &peer, &waiting.want).await;
    if let Answer::Doubtful(ends) = answer {
        // Whose bytes are wrong shows when one has sent all of them.
        answer = request::ask_alone(&inner, &peer, &waiting.want).await;
        if let Answer::Block(received) = &answer {
            for liar in joint::liars(&ends, received.block.data()) {
                let liar = inner.table().connected.get(&liar).cloned();
                if let Some(liar) = liar {
                    wrong(inner.clone(), liar, waiting.want.cid, "bytes that the block has not").await;
                }
            }
        }
    }
    if peer.landed(&waiting.want.cid, number) {
        settle(inner, peer, waiting, answer).await;
    }
}

pub(super) async fn settle(inner: Arc<Inner>, peer: Arc<Peer>, waiting: Waiting, answer: Answer) {
    let (id, cid) = (peer.id, waiting.want.cid);
    if matches!(answer, Answer::Block(_) | Answer::End(_) | Answer::Have | Answer::DontHave) {
        peer.answered();
    }
    match answer {
        Answer::Block(received) => {
            let Received { block, wire_bytes, arrival } = *received;
            inner.metrics.blocks.inc();
            inner.emit(ExchangeEvent::Block { peer: id, block, wire_bytes, arrival }).await;
        }
        Answer::End(brought) => {
            let Brought { claim, end, total, arrival } = *brought;
            inner.metrics.ends.inc();
            // Before the block that it makes whole.
            inner.emit(ExchangeEvent::End { peer: id, cid, bytes: end.bytes.len(), arrival }).await;
            claim.bring(end, total);
        }
        // Of what was asked for alone nobody has brought a part.
        Answer::Doubtful(_) => inner.emit(ExchangeEvent::SendFailed { peer: id, cids: vec![cid] }).await,
        Answer::Have => inner.emit(ExchangeEvent::Have { peer: id, cid }).await,
        Answer::DontHave => inner.emit(ExchangeEvent::DontHave { peer: id, cid }).await,
        Answer::Wrong(reason) => return wrong(inner, peer, cid, reason).await,
        Answer::Busy(pause) => {
            inner.metrics.busy.inc();
            return busy(inner, peer, waiting, pause).await;
        }
        Answer::Refused(status) => {
            inner.metrics.refused.inc();
            tracing::debug!(address = %peer.address, %cid, status, "HTTP provider refused");
            inner.emit(ExchangeEvent::SendFailed { peer: id, cids: vec![cid] }).await;
        }
        Answer::Broken(cause) => {
            if broken(&inner, &peer, cid, &cause) {
                return inner.leave(&peer).await;
            }
            if waiting.failures < RETRIES {
                // In the plainest way.
                let want = Want { below: Below::Nothing, end: None, ..waiting.want };
                peer.state().put(Waiting { want, failures: waiting.failures + 1 });
            } else {
                inner.emit(ExchangeEvent::SendFailed { peer: id, cids: vec![cid] }).await;
            }
        }
    }
    pump(&inner, &peer);
}

/// It sent what is no block of ours: nothing of what was wanted is asked of it any more.
pub(super) async fn wrong(inner: Arc<Inner>, peer: Arc<Peer>, cid: Cid, reason: &'static str) {
    inner.metrics.wrong.inc();
    tracing::debug!(address = %peer.address, %cid, reason, "HTTP provider sent a wrong block");
    {
        let mut state = peer.state();
        state.clear();
        state.paused_until = Some(Instant::now() + AFTER_WRONG);
    }
    inner.emit(ExchangeEvent::Invalid { peer: peer.id, reason }).await;
    resume(inner, peer, AFTER_WRONG);
}

/// A connection failed. Whether that was once too often.
pub(super) fn broken(inner: &Inner, peer: &Peer, cid: Cid, cause: &str) -> bool {
    inner.metrics.broken.inc();
    tracing::debug!(address = %peer.address, %cid, cause, "connection to HTTP provider failed");
    let mut state = peer.state();
    state.broken += 1;
    state.broken >= MAX_BROKEN
}

/// The provider asks for less: half as many requests at once, none for a while, and the want stays. The consumer sees a
/// peer that is silent, and asks others if it can.
async fn busy(inner: Arc<Inner>, peer: Arc<Peer>, waiting: Waiting, pause: Duration) {
    let (pauses, fresh) = {
        let mut state = peer.state();
        let now = Instant::now();
        let fresh = !state.is_paused(now);
        if fresh {
            // Several requests that were under way together and are all refused are one refusal.
            state.pauses += 1;
            state.limit = (state.limit / 2).max(1);
        }
        let until = now + pause;
        state.paused_until = Some(state.paused_until.map_or(until, |known| known.max(until)));
        state.put(waiting);
        (state.pauses, fresh)
    };
    if pause > SHORT_PAUSE || pauses > MAX_PAUSES {
        inner.pause(peer.id, pause);
        return inner.leave(&peer).await;
    }
    if fresh {
        resume(inner, peer, pause);
    }
}

/// Goes on after a pause, or after the longer one that was asked for meanwhile.
fn resume(inner: Arc<Inner>, peer: Arc<Peer>, pause: Duration) {
    let supervisor = inner.supervisor.clone();
    supervisor.spawn_short(async move {
        tokio::time::sleep(pause).await;
        loop {
            let left = {
                let state = peer.state();
                if state.closed {
                    return;
                }
                state.paused_until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default()
            };
            if left.is_zero() {
                return pump(&inner, &peer);
            }
            tokio::time::sleep(left).await;
        }
    });
}
