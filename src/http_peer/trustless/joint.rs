//! A block that two providers bring together: one sends it from its beginning, another its end (RETRIEVAL.md T20). The first
//! one's request puts it together.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use libp2p::PeerId;
use tokio::sync::Notify;

use crate::ipld::Cid;

/// Where this or less would be left for the first one, the other is asked for that too.
const LEAST: usize = 16 * 1024;

/// The blocks that providers are sending from their beginning: as many as requests for blocks are under way.
#[derive(Default)]
pub(super) struct Joints(Mutex<HashMap<Cid, Arc<Joint>>>);

#[derive(Debug, Default)]
struct Joint {
    progress: Mutex<Progress>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Progress {
    /// How much the first one has sent.
    front: usize,
    /// The size of the block, since an answer has said it.
    total: Option<usize>,
    /// From the end of the block towards its beginning, each right before the one before it.
    ends: Vec<End>,
}

/// Bytes of a block from `start` on, and who sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) peer: PeerId,
    pub(super) start: usize,
    pub(super) bytes: Bytes,
}

/// What another is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Span {
    Between(Range<usize>),
    /// The last bytes of a block of unknown size.
    Last(usize),
}

/// The first one's side. While it is there, others may bring the end.
pub(super) struct Lead<'a> {
    joints: &'a Joints,
    cid: Cid,
    joint: Arc<Joint>,
}

/// The other's side.
#[derive(Debug)]
pub(super) struct Claim {
    joint: Arc<Joint>,
    span: Span,
}

impl Joints {
    /// Of several that are asked for all of a block, the first is helped.
    pub(super) fn lead(&self, cid: Cid) -> Lead<'_> {
        let joint = Arc::<Joint>::default();
        self.lock().entry(cid).or_insert_with(|| joint.clone());
        Lead { joints: self, cid, joint }
    }

    /// What to ask another for that shall bring the last `bytes` of what is missing. `None`: nobody is sending the block, or
    /// nothing is missing.
    pub(super) fn claim(&self, cid: &Cid, bytes: u64) -> Option<Claim> {
        let joint = self.lock().get(cid).cloned()?;
        let span = joint.progress().claim(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        Some(Claim { joint, span })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Cid, Arc<Joint>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Joint {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// Where what is here of the end begins.
    fn missing_to(&self) -> Option<usize> {
        self.ends.last().map(|end| end.start).or(self.total)
    }

    fn claim(&self, bytes: usize) -> Option<Span> {
        let Some(to) = self.missing_to() else { return Some(Span::Last(bytes)) };
        let start = to.saturating_sub(bytes).max(self.front);
        let start = if start - self.front <= LEAST { self.front } else { start };
        (start < to).then_some(Span::Between(start..to))
    }

    /// Takes bytes in that are next to what is here.
    fn bring(&mut self, end: End, total: usize) -> bool {
        let known = *self.total.get_or_insert(total);
        let fits = known == total && self.missing_to() == Some(end.start + end.bytes.len());
        if fits {
            self.ends.push(end);
        }
        fits
    }

    fn is_whole(&self) -> bool {
        self.ends.last().is_some_and(|end| self.front >= end.start)
    }
}

impl Lead<'_> {
    pub(super) fn is_of(&self, total: usize) {
        self.joint.progress().total = Some(total);
    }

    /// So much is here; true when others have brought the rest.
    pub(super) fn reached(&self, front: usize) -> bool {
        let mut progress = self.joint.progress();
        progress.front = front;
        progress.is_whole()
    }

    /// Waits until somebody brings something.
    pub(super) async fn changed(&self) {
        self.joint.changed.notified().await;
    }

    /// Adds to `front` what others have brought, and returns that.
    pub(super) fn complete(&self, front: &mut BytesMut) -> Vec<End> {
        let ends = std::mem::take(&mut self.joint.progress().ends);
        for end in ends.iter().rev() {
            let known = front.len().saturating_sub(end.start);
            front.extend_from_slice(end.bytes.get(known..).unwrap_or_default());
        }
        ends
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut joints = self.joints.lock();
        if joints.get(&self.cid).is_some_and(|joint| Arc::ptr_eq(joint, &self.joint)) {
            joints.remove(&self.cid);
        }
    }
}

impl Claim {
    /// `Range` (RFC 9110 §14.2).
    pub(super) fn range(&self) -> String {
        match &self.span {
            Span::Between(range) => format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
            Span::Last(bytes) => format!("bytes=-{bytes}"),
        }
    }

    /// Whether that is what was asked for.
    pub(super) fn is_answered_by(&self, range: &Range<usize>, total: usize) -> bool {
        match &self.span {
            Span::Between(asked) => asked == range,
            Span::Last(bytes) => range.end == total && range.len() <= *bytes,
        }
    }

    pub(super) fn bring(&self, end: End, total: usize) {
        if self.joint.progress().bring(end, total) {
            self.joint.changed.notify_one();
        }
    }
}

/// Whose bytes are not those of the block.
pub(super) fn liars(ends: &[End], block: &[u8]) -> Vec<PeerId> {
    let differs = |end: &&End| block.get(end.start..end.start + end.bytes.len()) != Some(&end.bytes[..]);
    let mut liars: Vec<PeerId> = ends.iter().filter(differs).map(|end| end.peer).collect();
    liars.sort_unstable();
    liars.dedup();
    liars
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipld::{Block, HashCode, codec};

    fn block(size: usize) -> Block {
        let data: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        Block::encode(codec::RAW, HashCode::Sha2_256, data.into()).unwrap()
    }

    fn end(block: &Block, peer: PeerId, range: Range<usize>) -> End {
        End { peer, start: range.start, bytes: block.data().slice(range) }
    }

    #[test]
    fn what_is_missing_is_asked_for_from_the_end() {
        let mut progress = Progress::default();
        assert_eq!(progress.claim(1_000), Some(Span::Last(1_000)), "nobody has said how large it is");
        (progress.front, progress.total) = (100_000, Some(300_000));
        assert_eq!(progress.claim(80_000), Some(Span::Between(220_000..300_000)));
        assert_eq!(progress.claim(190_000), Some(Span::Between(100_000..300_000)), "too little to leave");
        assert_eq!(progress.claim(usize::MAX), Some(Span::Between(100_000..300_000)));
        let (block, peer) = (block(300_000), PeerId::random());
        assert!(progress.bring(end(&block, peer, 220_000..300_000), 300_000));
        assert_eq!(progress.claim(50_000), Some(Span::Between(170_000..220_000)), "next to what is here");
        assert!(!progress.bring(end(&block, peer, 220_000..300_000), 300_000), "twice");
        assert!(!progress.bring(end(&block, peer, 100..200), 300_000), "a hole");
        assert!(!progress.bring(end(&block, peer, 170_000..220_000), 400_000), "of another size");
        progress.front = 219_999;
        assert!(!progress.is_whole());
        progress.front = 220_000;
        assert!(progress.is_whole());
        assert_eq!(progress.claim(50_000), None);
    }

    #[test]
    fn who_sent_what_the_block_has_not_is_found() {
        let block = block(1_000);
        let (good, bad) = (PeerId::random(), PeerId::random());
        let mut wrong = end(&block, bad, 800..900);
        wrong.bytes = Bytes::from(vec![255; 100]);
        assert_eq!(liars(&[end(&block, good, 900..1_000), wrong], block.data()), [bad]);
        assert!(liars(&[end(&block, good, 900..1_000)], block.data()).is_empty());
        let beyond = End { peer: bad, start: 990, bytes: Bytes::from_static(&[0; 20]) };
        assert_eq!(liars(&[beyond], block.data()), [bad]);
    }

    proptest! {
        #[test]
        fn parts_of_any_size_make_the_block(
            size in 1usize..200_000,
            steps in proptest::collection::vec((any::<bool>(), 1usize..60_000), 1..40),
        ) {
            let (block, joints) = (block(size), Joints::default());
            let lead = joints.lead(*block.cid());
            lead.is_of(size);
            let mut front = BytesMut::new();
            for (own, bytes) in steps {
                if own {
                    let to = (front.len() + bytes).min(size);
                    front.extend_from_slice(&block.data()[front.len()..to]);
                    lead.reached(front.len());
                } else if let Some(claim) = joints.claim(block.cid(), bytes as u64) {
                    let Span::Between(range) = claim.span.clone() else { panic!("its size is known") };
                    claim.bring(end(&block, PeerId::random(), range), size);
                }
                if lead.reached(front.len()) || front.len() == size {
                    break;
                }
            }
            let whole = lead.reached(front.len()) || front.len() == size;
            lead.complete(&mut front);
            prop_assert_eq!(whole, front[..] == block.data()[..]);
            drop(lead);
            prop_assert!(joints.claim(block.cid(), 1).is_none(), "nobody is sending it any more");
        }
    }
}
