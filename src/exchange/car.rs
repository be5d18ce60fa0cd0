//! A graph from one answer: wants that a CAR under way is going to bring, and what is verified as it comes.
//!
//! The exchange stays what it is: it delivers what it is asked for. A want for a block that the CAR is going to bring waits
//! here instead of becoming a request; what comes before it is wanted is held, within bounds. Every block is verified,
//! and has to be the root or linked from a block before it. When the CAR ends early, or brings more that nobody wants
//! than it saves, the rest is the exchange's to ask for block by block.
//!
//! Over what the CAR comes is the [`Carrier`]'s.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderName};
use libp2p::PeerId;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::{Arrival, Below, ExchangeEvent, Want, WantKind};
use crate::ipld::car::{CarItem, CarReader, Limits};
use crate::ipld::cid::canonical;
use crate::ipld::unixfs::{self, Node};
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE, Multihash, codec};

pub const MEDIA_TYPE: &str = "application/vnd.ipld.car";
/// What the peer holds, without its own search: 412 where it does not (path gateway specification).
pub const ONLY_IF_CACHED: (HeaderName, &str) = (CACHE_CONTROL, "only-if-cached");
/// What is asked for: each block once, in the order of reading.
pub const ACCEPTED: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=n";
/// The most that one CAR keeps in memory.
pub const MEMORY: usize = HOLD + MAX_BLOCK_SIZE;

/// Bytes that may be held before they are wanted.
const HOLD: usize = 4 << 20;
/// Bytes that nobody wanted, before the rest is asked for block by block.
const MAX_WASTE: usize = 1 << 20;
/// Links that are kept in mind: of a file of 16 GiB in Kubo's leaves.
const MAX_EXPECTED: usize = 65_536;
/// A CAR of which nobody has wanted anything for so long is ended.
const UNWANTED: Duration = Duration::from_secs(5);

/// A verified block, what it cost on the wire, and when its last bytes came.
#[derive(Debug)]
pub struct Received {
    pub block: Block,
    pub wire_bytes: usize,
    pub arrival: Arrival,
}

/// A CAR under way at a peer.
#[derive(Debug)]
pub struct Car {
    /// Tells it from an earlier one of the same peer.
    pub number: u64,
    root: Cid,
    abort: AbortHandle,
    /// The root, and what the blocks that came link to.
    expected: HashSet<Multihash>,
    /// More links than are kept in mind.
    too_wide: bool,
    came: HashSet<Multihash>,
    held: HashMap<Multihash, Received>,
    held_bytes: usize,
    /// Wants that wait for it.
    attached: HashMap<Multihash, Want>,
    near: Option<Near>,
    wasted: usize,
    room: Arc<Notify>,
}

/// Which blocks a CAR of the beginning of a file is going to bring.
#[derive(Debug)]
struct Near {
    bytes: u64,
    /// Where what is below a block begins in the file.
    starts: HashMap<Multihash, u64>,
    /// A block came that lies behind them: the peer sends more than it was asked for.
    passed: bool,
}

impl Near {
    fn came(&mut self, block: &Block) {
        let Some(start) = self.starts.get(block.cid().hash()).copied() else {
            self.passed = true;
            return;
        };
        let Ok(Node::File(file)) = unixfs::decode(block) else { return };
        let mut at = start + file.data.len() as u64;
        for child in &file.children {
            if at >= self.bytes {
                break;
            }
            let known = self.starts.entry(*child.cid.hash()).or_insert(at);
            *known = (*known).min(at);
            at = at.saturating_add(child.size);
        }
    }
}

/// What a CAR has to do with a want.
#[derive(Debug)]
pub enum Claim {
    /// The block is here.
    Held(Box<Received>),
    /// It is on its way.
    Attached,
    None,
}

/// How a CAR ended.
#[derive(Debug)]
pub enum End {
    Whole,
    /// Nobody wants the rest from here.
    Unwanted,
    /// The bytes are not what was asked for.
    Wrong(&'static str),
    /// It ended early.
    Broken(String),
}

/// The peer that a CAR comes from.
pub trait Carrier: Sync {
    fn peer(&self) -> PeerId;

    /// Looks at the CAR of this number while it is under way.
    fn car<T>(&self, number: u64, look: impl FnOnce(&mut Car) -> T) -> Option<T>;

    /// Counts bytes that came. Returns what is to be reported, when that is due.
    fn count(&self, bytes: usize) -> (Arrival, Option<usize>);

    /// A verified block came.
    fn verified(&self);

    fn emit(&self, event: ExchangeEvent) -> impl Future<Output = ()> + Send;
}

/// Whether a want is one that a CAR may answer.
pub fn may_answer(want: &Want) -> bool {
    want.below != Below::Nothing && want.kind == WantKind::Block && want.cid.codec() == codec::DAG_PB
}

/// Whether a trustless gateway says by this that it does not have what it was asked for.
pub fn has_not(status: StatusCode) -> bool {
    // 504 is how a cache of plain HTTP says that it does not hold what only-if-cached asks for (RFC 9111 §5.2.1.7).
    matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// What a trustless gateway is asked for, without a slash before it (IPIP-402).
pub fn target(want: &Want) -> String {
    let bytes = match want.below {
        Below::First(bytes) => format!("&entity-bytes=0:{}", bytes.saturating_sub(1)),
        Below::Nothing | Below::All => String::new(),
    };
    format!("ipfs/{}?format=car&dag-scope=entity{bytes}", canonical(&want.cid))
}

impl Car {
    /// Asked for because of `want`, which waits for it; `abort` ends the reading.
    pub fn new(number: u64, want: Want, abort: AbortHandle) -> Self {
        let root = *want.cid.hash();
        Self {
            number,
            root: want.cid,
            abort,
            expected: HashSet::from([root]),
            too_wide: false,
            came: HashSet::new(),
            held: HashMap::new(),
            held_bytes: 0,
            attached: HashMap::from([(root, want)]),
            near: match want.below {
                Below::First(bytes) => Some(Near { bytes, starts: HashMap::from([(root, 0)]), passed: false }),
                Below::Nothing | Below::All => None,
            },
            wasted: 0,
            room: Arc::default(),
        }
    }

    /// Takes a want for a block that is here or on its way.
    pub fn claim(&mut self, want: &Want) -> Claim {
        let key = *want.cid.hash();
        if want.kind != WantKind::Block {
            return if self.attached.contains_key(&key) { Claim::Attached } else { Claim::None };
        }
        if let Some(received) = self.held.remove(&key) {
            self.held_bytes -= received.block.len();
            self.room.notify_one();
            return match received.block.with_cid(want.cid) {
                Some(block) => Claim::Held(Box::new(Received { block, ..received })),
                None => Claim::None,
            };
        }
        let near = self.near.as_ref().is_none_or(|near| near.starts.contains_key(&key));
        if !near || !self.expected.contains(&key) || self.came.contains(&key) {
            return Claim::None;
        }
        self.attached.insert(key, *want);
        self.room.notify_one();
        Claim::Attached
    }

    pub fn waits_for(&self, cid: &Cid) -> bool {
        self.attached.contains_key(cid.hash())
    }

    /// Takes a want back; true when it waited here.
    pub fn release(&mut self, cid: &Cid) -> bool {
        self.attached.remove(cid.hash()).is_some()
    }

    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Of a CAR that has ended: the wants that waited for it.
    pub fn into_wants(self) -> Vec<Want> {
        self.attached.into_values().collect()
    }

    /// Ends it on the wire. Wants that waited are lost: they are the caller's.
    pub fn end(self) {
        self.abort.abort();
    }

    /// A block came. The one to hand over, if it is wanted; an error if nothing before it links to it.
    fn came(&mut self, received: Received) -> Result<Option<Received>, &'static str> {
        let key = *received.block.cid().hash();
        if self.came.contains(&key) {
            // Not every provider leaves repetitions out when it is asked to.
            self.wasted += received.block.len();
            return Ok(None);
        }
        if !self.expected.contains(&key) && !self.too_wide {
            return Err("a CAR with a block that nothing before it links to");
        }
        let asked = if key == *self.root.hash() { self.root } else { *received.block.cid() };
        let Some(block) = received.block.with_cid(asked) else { return Ok(None) };
        self.came.insert(key);
        let links = codec::links(&block).map_err(|_| "a CAR with a block that is not what its codec says")?;
        if self.expected.len() + links.len() <= MAX_EXPECTED {
            self.expected.extend(links.iter().map(|link| *link.hash()));
        } else {
            self.too_wide = true;
        }
        if let Some(near) = &mut self.near {
            near.came(&block);
        }
        let received = Received { block, ..received };
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
        self.wasted <= MAX_WASTE && !self.too_wide && !self.near.as_ref().is_some_and(|near| near.passed)
    }
}

/// Reads a CAR to its end, and hands over what is wanted of it.
pub async fn read<C: Carrier>(
    carrier: &C,
    number: u64,
    mut body: impl Stream<Item = Result<Bytes, String>> + Send + Unpin,
) -> End {
    let mut reader = CarReader::new(Limits::default());
    while let Some(chunk) = body.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(cause) => return End::Broken(cause),
        };
        let (arrival, report) = carrier.count(chunk.len());
        if let Some(bytes) = report {
            carrier.emit(ExchangeEvent::Progress { peer: carrier.peer(), bytes, arrival }).await;
        }
        reader.push(chunk);
        loop {
            let block = match reader.next() {
                Ok(None) => break,
                Ok(Some(CarItem::Header { .. })) => continue,
                Ok(Some(CarItem::Block(block))) => block,
                Err(error) => {
                    tracing::debug!(peer = %carrier.peer(), %error, "CAR");
                    return End::Wrong("a CAR that is none, or has a wrong block");
                }
            };
            let wire_bytes = block.len();
            carrier.verified();
            match carrier.car(number, |car| car.came(Received { block, wire_bytes, arrival })) {
                None => return End::Unwanted,
                Some(Err(reason)) => return End::Wrong(reason),
                Some(Ok(None)) => {}
                Some(Ok(Some(received))) => hand_over(carrier, received).await,
            }
        }
        if !room(carrier, number).await {
            return End::Unwanted;
        }
    }
    match reader.finish() {
        Ok(()) => End::Whole,
        Err(_) => End::Broken("the CAR ended early".to_owned()),
    }
}

/// Gives a block to the consumer.
pub async fn hand_over<C: Carrier>(carrier: &C, received: Received) {
    let Received { block, wire_bytes, arrival } = received;
    carrier.emit(ExchangeEvent::Block { peer: carrier.peer(), block, wire_bytes, arrival }).await;
}

/// Waits until more may be read; false when nobody wants the rest.
async fn room<C: Carrier>(carrier: &C, number: u64) -> bool {
    loop {
        let look = |car: &mut Car| if car.has_room() { Ok(car.is_worth_it()) } else { Err(car.room.clone()) };
        let changed = match carrier.car(number, look) {
            None => return false,
            Some(Ok(worth)) => return worth,
            Some(Err(changed)) => changed,
        };
        if tokio::time::timeout(UNWANTED, changed.notified()).await.is_err() {
            return false;
        }
    }
}
