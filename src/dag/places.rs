//! The names along a walk, for rules about paths: a graph in one piece holds no entry that is refused where it stands.

use std::collections::HashMap;
use std::sync::Arc;

use crate::denylist::{Judge, Refused};
use crate::ipld::unixfs::{self, HamtEntry, Node};
use crate::ipld::{Block, Cid, codec};

/// Bytes of names that a walk remembers of what is still to be visited.
pub(super) const MAX_NAMES: usize = 8 << 20;

/// A place below the root of a walk.
#[derive(Debug, Clone, Default)]
pub(super) struct Place(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    above: Place,
    name: String,
    cid: Cid,
}

impl Place {
    fn entry(&self, name: String, cid: Cid) -> Self {
        Self(Some(Arc::new(Step { above: self.clone(), name, cid })))
    }

    /// Of its own name, in bytes.
    pub(super) fn size(&self) -> usize {
        self.0.as_ref().map_or(0, |step| step.name.len())
    }

    /// The judge of the root, moved here.
    fn judge(&self, root: &Judge) -> Judge {
        let mut steps = Vec::new();
        let mut place = self;
        while let Some(step) = &place.0 {
            steps.push(step);
            place = &step.above;
        }
        let mut judge = root.clone();
        for step in steps.into_iter().rev() {
            judge.enter(&step.name);
            judge.is_cid(&step.cid);
        }
        judge
    }
}

/// Where the links of a directory's block lead that stands at `place`, unless one of its entries is refused. Below other
/// blocks there are no places: structured data has paths too, which are not followed here.
pub(super) fn below(root: &Judge, place: &Place, block: &Block) -> Result<HashMap<Cid, Place>, Refused> {
    let mut places = HashMap::new();
    if block.cid().codec() != codec::DAG_PB {
        return Ok(places);
    }
    let mut entry = |judge: &Judge, name: String, cid: Cid| {
        judge.verdict_below(&name)?;
        // Nothing stands below a raw block.
        if cid.codec() != codec::RAW {
            places.entry(cid).or_insert_with(|| place.entry(name, cid));
        }
        Ok(())
    };
    match unixfs::decode(block) {
        Ok(Node::Directory(node)) => {
            let judge = place.judge(root);
            node.entries.into_iter().try_for_each(|link| entry(&judge, link.name, link.cid))?;
        }
        Ok(Node::HamtShard(shard)) => {
            let judge = place.judge(root);
            let mut shards = Vec::new();
            for link in shard.entries {
                match link {
                    HamtEntry::Value { name, cid, .. } => entry(&judge, name, cid)?,
                    HamtEntry::Child { cid, .. } => shards.push(cid),
                }
            }
            places.extend(shards.into_iter().map(|cid| (cid, place.clone())));
        }
        _ => {}
    }
    Ok(places)
}
