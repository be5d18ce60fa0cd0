//! How much of a graph is here: a bounded walk over local blocks that fetches nothing.

use std::collections::HashSet;
use std::time::Instant;

use crate::blockstore::{Blocks, Blockstore, PinKind, StoreError, Tier};
use crate::ipld::dag_pb::PbNode;
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE, codec};

/// Blocks that one walk looks for.
pub const MAX_LOOKED_FOR: usize = 10_000;
/// Bytes that one walk reads: nodes with links, not raw leaves.
const MAX_READ: usize = 64 << 20;

/// What is here of a graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Where the root was found.
    pub root: Option<Tier>,
    pub pin: Option<PinKind>,
    /// Distinct blocks that are here and that are not. What lies under a missing block is not counted.
    pub here: u64,
    pub missing: u64,
    /// Bytes of the whole graph, as its root block says (exact for a block without links).
    pub total: Option<u64>,
    /// Bytes that are not here, as the links to them say; `None` where one does not say it, or the walk was cut off.
    pub missing_bytes: Option<u64>,
    /// Levels of missing blocks below each other, at least.
    pub missing_levels: u32,
    /// The walk saw all that is here. Otherwise the counts are lower bounds.
    pub whole: bool,
}

impl Found {
    pub fn is_all_here(&self) -> bool {
        self.whole && self.missing == 0
    }
}

/// A link to be looked at, with the bytes that it says are under it.
struct Link {
    cid: Cid,
    size: Option<u64>,
}

/// Walks from `root` through what is local until `deadline`.
pub async fn walk(blocks: &Blocks, root: Cid, deadline: Instant) -> Result<Found, StoreError> {
    let mut found = Found { missing_bytes: Some(0), whole: true, ..Found::default() };
    let mut seen = HashSet::new();
    let mut read = 0;
    let mut todo = vec![Link { cid: root, size: None }];
    while let Some(link) = todo.pop() {
        if !seen.insert(link.cid) {
            continue;
        }
        if seen.len() > MAX_LOOKED_FOR || read > MAX_READ || Instant::now() >= deadline {
            found.whole = false;
            break;
        }
        let is_root = link.cid == root;
        // A raw block has no links: that it is here is all there is to know, but for its size if it is the root.
        if link.cid.codec() == codec::RAW && !is_root {
            if blocks.has(&link.cid).await? {
                found.here += 1
            } else {
                found.misses(&link)
            }
            continue;
        }
        let Some(hit) = blocks.lookup(&link.cid).await? else {
            found.misses(&link);
            continue;
        };
        found.here += 1;
        read += hit.block.len();
        let links = links(&hit.block);
        if is_root {
            found.root = Some(hit.tier);
            let below = links.iter().map(|link| link.size).sum::<Option<u64>>();
            found.total = below.and_then(|below| below.checked_add(hit.block.len() as u64));
        }
        todo.extend(links.into_iter().rev().take(2 * MAX_LOOKED_FOR));
    }
    if !found.whole {
        found.missing_bytes = None;
    }
    found.pin = blocks.pins().get(&root).await?.map(|pin| pin.kind);
    Ok(found)
}

impl Found {
    fn misses(&mut self, link: &Link) {
        self.missing += 1;
        self.missing_bytes = self.missing_bytes.zip(link.size).and_then(|(a, b)| a.checked_add(b));
        // Of what is under a missing node nothing is known but that it does not fit into one block.
        let deeper = link.cid.codec() != codec::RAW && link.size.is_some_and(|size| size > MAX_BLOCK_SIZE as u64);
        self.missing_levels = self.missing_levels.max(1 + u32::from(deeper));
    }
}

/// A block that cannot be read as what its codec says has no links to follow.
fn links(block: &Block) -> Vec<Link> {
    if block.cid().codec() == codec::DAG_PB {
        let node = PbNode::decode(block.data()).map(|node| node.links).unwrap_or_default();
        return node.into_iter().map(|link| Link { cid: link.cid, size: link.tsize }).collect();
    }
    codec::links(block).unwrap_or_default().into_iter().map(|cid| Link { cid, size: None }).collect()
}
