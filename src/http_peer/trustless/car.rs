//! A file from one answer: `GET /ipfs/{cid}?format=car&dag-scope=entity` (IPIP-402) saves a round trip for each level of
//! the graph and a request for each block.
//!
//! The exchange stays what it is: it delivers what it is asked for. A want for a block that the CAR is going to bring waits
//! for it there instead of becoming a request; what comes before it is wanted is held, within bounds. Every block is
//! verified, and has to be the root or linked from a block before it. When the CAR ends early, or brings more that
//! nobody wants than it saves, the rest is asked for block by block.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use reqwest::Response;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::peer::{self, Peer, Waiting};
use super::request::{self, Answer, ONLY_IF_CACHED, Received};
use super::{Inner, dial};
use crate::exchange::{Arrival, ExchangeEvent, Want, WantKind};
use crate::ipld::car::{CarItem, CarReader, Limits};
use crate::ipld::cid::canonical;
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE, Multihash, codec};

const MEDIA_TYPE: &str = "application/vnd.ipld.car";
const ACCEPTED: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=n";
/// Bytes that may be held before they are wanted.
const HOLD: usize = 4 << 20;
/// Bytes that nobody wanted, before the rest is asked for block by block.
const MAX_WASTE: usize = 1 << 20;
/// Links that are kept in mind: of a file of 16 GiB in Kubo's leaves.
const MAX_EXPECTED: usize = 65_536;
/// A CAR of which nobody has wanted anything for so long is ended.
const UNWANTED: Duration = Duration::from_secs(5);

/// A CAR under way at a provider.
pub(super) struct Car {
    pub(super) number: u64,
    abort: AbortHandle,
    /// What the blocks that came link to.
    expected: HashSet<Multihash>,
    /// More links than are kept in mind.
    too_wide: bool,
    came: HashSet<Multihash>,
    held: HashMap<Multihash, Received>,
    held_bytes: usize,
    /// Wants that wait for it.
    attached: HashMap<Multihash, Want>,
    wasted: usize,
    room: Arc<Notify>,
}

/// What a CAR has to do with a want.
pub(super) enum Claim {
    Held(Box<Received>),
    Attached,
    None,
}

/// How a CAR ended.
enum End {
    Whole,
    /// Nobody wants the rest from here.
    Unwanted,
    /// The provider gives none.
    NoCar,
    /// Too much is in memory.
    NoRoom,
    Answer(Answer),
}

impl Car {
    pub(super) fn new(number: u64, abort: AbortHandle) -> Self {
        Self {
            number,
            abort,
            expected: HashSet::new(),
            too_wide: false,
            came: HashSet::new(),
            held: HashMap::new(),
            held_bytes: 0,
            attached: HashMap::new(),
            wasted: 0,
            room: Arc::default(),
        }
    }

    /// Whether a want is one that a CAR may answer.
    pub(super) fn may_answer(want: &Want) -> bool {
        want.whole && want.kind == WantKind::Block && want.cid.codec() == codec::DAG_PB
    }

    /// Takes a want for a block that is here or on its way.
    pub(super) fn claim(&mut self, want: &Want) -> Claim {
        if want.kind != WantKind::Block {
            return Claim::None;
        }
        let key = *want.cid.hash();
        if let Some(received) = self.held.remove(&key) {
            self.held_bytes -= received.block.len();
            self.room.notify_one();
            return match received.block.with_cid(want.cid) {
                Some(block) => Claim::Held(Box::new(Received { block, ..received })),
                None => Claim::None,
            };
        }
        if !self.expected.contains(&key) || self.came.contains(&key) {
            return Claim::None;
        }
        self.attached.insert(key, *want);
        self.room.notify_one();
        Claim::Attached
    }

    pub(super) fn waits_for(&self, cid: &Cid) -> bool {
        self.attached.contains_key(cid.hash())
    }

    /// Takes a want back; true when it waited here.
    pub(super) fn release(&mut self, cid: &Cid) -> bool {
        self.attached.remove(cid.hash()).is_some()
    }

    pub(super) fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Ends it on the wire. Wants that waited are lost: they are the caller's.
    pub(super) fn end(self) {
        self.abort.abort();
    }

    /// A block came. The one to hand over, if it is wanted; an error if nothing before it links to it.
    fn came(&mut self, received: Received, is_root: bool) -> Result<Option<Received>, &'static str> {
        let key = *received.block.cid().hash();
        if self.came.contains(&key) {
            // Not every provider leaves repetitions out when it is asked to.
            self.wasted += received.block.len();
            return Ok(None);
        }
        if !is_root && !self.expected.contains(&key) && !self.too_wide {
            return Err("a CAR with a block that nothing before it links to");
        }
        self.came.insert(key);
        let links = codec::links(&received.block).map_err(|_| "a CAR with a block that is not what its codec says")?;
        if self.expected.len() + links.len() <= MAX_EXPECTED {
            self.expected.extend(links.iter().map(|link| *link.hash()));
        } else {
            self.too_wide = true;
        }
        if is_root {
            return Ok(Some(received));
        }
        if let Some(want) = self.attached.remove(&key) {
            return Ok(received.block.with_cid(want.cid).map(|block| Received { block, ..received }));
        }
        self.held_bytes += received.block.len();
        self.held.insert(key, received);
        Ok(None)
    }

    /// Whether more may be read. What is held while others wait for what comes after it is given up.
    fn has_room(&mut self) -> bool {
        if self.held_bytes > HOLD && !self.attached.is_empty() {
            self.wasted += self.held_bytes;
            self.held.clear();
            self.held_bytes = 0;
        }
        self.held_bytes <= HOLD
    }

    fn is_worth_it(&self) -> bool {
        self.wasted <= MAX_WASTE && !self.too_wide
    }
}

/// Asks for a CAR; see the module.
pub(super) async fn fly(inner: Arc<Inner>, peer: Arc<Peer>, waiting: Waiting, number: u64) {
    let end = ask(&inner, &peer, &waiting.want, number).await;
    let rootless = {
        let mut state = peer.state();
        for want in state.take_car(number).map(|car| car.attached).unwrap_or_default().into_values() {
            state.put(Waiting { want, failures: 0 });
        }
        state.is_flying(&waiting.want.cid, number)
    };
    match end {
        End::Answer(answer) if rootless => return peer::settle(inner, peer, waiting, number, answer).await,
        End::Answer(Answer::Wrong(reason)) => return peer::wrong(inner, peer, waiting.want.cid, reason).await,
        End::Answer(Answer::Broken(cause)) => {
            if peer::broken(&inner, &peer, waiting.want.cid, &cause) {
                return inner.leave(&peer).await;
            }
        }
        End::Whole if rootless => {
            let answer = Answer::Wrong("a CAR without the block that was asked for");
            return peer::settle(inner, peer, waiting, number, answer).await;
        }
        End::NoCar | End::NoRoom => {
            if matches!(end, End::NoCar) {
                tracing::debug!(address = %peer.address, "HTTP provider gives no CARs");
                peer.gives_no_cars();
            }
            if peer.landed(&waiting.want.cid, number) {
                let want = Want { whole: false, ..waiting.want };
                peer.state().put(Waiting { want, ..waiting });
            }
        }
        End::Whole | End::Unwanted | End::Answer(_) => {}
    }
    peer::pump(&inner, &peer);
}

async fn ask(inner: &Inner, peer: &Peer, want: &Want, number: u64) -> End {
    let path = format!("ipfs/{}?format=car&dag-scope=entity", canonical(&want.cid));
    let Ok(url) = peer.base.join(&path) else { return End::Answer(Answer::Refused(0)) };
    let Some(_permit) = request::reserve_at_once(inner, HOLD + MAX_BLOCK_SIZE) else { return End::NoRoom };
    let request = peer.client.get(url).header(ACCEPT, ACCEPTED).header(ONLY_IF_CACHED.0, ONLY_IF_CACHED.1);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return End::Answer(Answer::Broken(dial::cause(&error))),
    };
    let is_car = |response: &Response| {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        kind.is_some_and(|kind| kind.starts_with(MEDIA_TYPE))
    };
    match response.status() {
        StatusCode::OK if is_car(&response) => read(inner, peer, want, number, response).await,
        StatusCode::OK
        | StatusCode::BAD_REQUEST
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::NOT_IMPLEMENTED => End::NoCar,
        _ => End::Answer(request::no_content(&response)),
    }
}

async fn read(inner: &Inner, peer: &Peer, want: &Want, number: u64, mut response: Response) -> End {
    let mut car = CarReader::new(Limits::default());
    let mut rootless = true;
    inner.metrics.cars.inc();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return End::Answer(Answer::Broken(dial::cause(&error))),
        };
        let (arrival, report) = peer.count(chunk.len(), Instant::now());
        inner.metrics.received.inc_by(chunk.len() as u64);
        if let Some(bytes) = report {
            inner.emit(ExchangeEvent::Progress { peer: peer.id, bytes, arrival }).await;
        }
        car.push(chunk);
        loop {
            match car.next() {
                Ok(None) => break,
                Ok(Some(CarItem::Header { .. })) => {}
                Ok(Some(CarItem::Block(block))) => {
                    if let Some(end) = take(inner, peer, want, number, &mut rootless, block, arrival).await {
                        return end;
                    }
                }
                Err(error) => {
                    tracing::debug!(address = %peer.address, %error, "CAR");
                    return End::Answer(Answer::Wrong("a CAR that is none, or has a wrong block"));
                }
            }
        }
        if !room(peer, number).await {
            return End::Unwanted;
        }
    }
    match car.finish() {
        Ok(()) => End::Whole,
        Err(_) => End::Answer(Answer::Broken("the CAR ended early".to_owned())),
    }
}

async fn take(
    inner: &Inner,
    peer: &Peer,
    want: &Want,
    number: u64,
    rootless: &mut bool,
    block: Block,
    arrival: Arrival,
) -> Option<End> {
    let is_root = *rootless && block.cid().hash() == want.cid.hash();
    let block = if is_root { block.with_cid(want.cid)? } else { block };
    let wire_bytes = block.len();
    inner.metrics.blocks.inc();
    if is_root {
        *rootless = false;
        if !peer.landed(&want.cid, number) {
            return Some(End::Unwanted);
        }
    }
    let came = peer.state().car(number).map(|car| car.came(Received { block, wire_bytes, arrival }, is_root));
    match came {
        None => Some(End::Unwanted),
        Some(Err(reason)) => Some(End::Answer(Answer::Wrong(reason))),
        Some(Ok(received)) => {
            if let Some(received) = received {
                peer.answered();
                hand_over(inner, peer, received).await;
            }
            None
        }
    }
}

pub(super) async fn hand_over(inner: &Inner, peer: &Peer, received: Received) {
    let Received { block, wire_bytes, arrival } = received;
    inner.emit(ExchangeEvent::Block { peer: peer.id, block, wire_bytes, arrival }).await;
}

/// Waits until more may be read; false when nobody wants the rest.
async fn room(peer: &Peer, number: u64) -> bool {
    loop {
        let changed = {
            let mut state = peer.state();
            let Some(car) = state.car(number) else { return false };
            if car.has_room() {
                return car.is_worth_it();
            }
            car.room.clone()
        };
        if tokio::time::timeout(UNWANTED, changed.notified()).await.is_err() {
            return false;
        }
    }
}
