//! Limits on what may be asked for at once (boxo's MaxRangeRequestFileSize, MaxDeserializedResponseSize and
//! MaxUnixFSDAGResponseSize): by the sizes that content claims, before anything of it is fetched, and for streams of no
//! announced length by what is sent.

use super::error::GatewayError;
use super::handler::Visit;
use super::metrics::Limits;
use crate::dag::Resolved;
use crate::ipld::dag_pb::PbNode;
use crate::ipld::{Cid, codec};

/// Archives and CARs frame what they hold: a stream may be this much longer than its content, times and bytes.
const FRAMING: (u64, u64) = (2, 1 << 20);

impl Visit<'_> {
    /// A part of a file of this size may be asked for.
    pub(super) fn check_range(&self, size: u64) -> Result<(), GatewayError> {
        let limit = self.gateway.state.config.range_file_size;
        if limit == 0 || size <= limit {
            return Ok(());
        }
        self.gateway.counts.hit(Limits::RangeFileSize);
        Err(GatewayError::RangeTooLarge { size, limit })
    }

    /// It may be served as files: `size` bytes of content.
    pub(super) fn check_deserialized(&self, cid: Cid, size: u64) -> Result<(), GatewayError> {
        let limit = self.gateway.state.config.deserialized_size;
        if limit != 0 && size > limit {
            self.gateway.counts.hit(Limits::DeserializedSize);
            let advice = "ask for its blocks, with format=raw or format=car";
            return Err(GatewayError::TooLarge { cid, limit, form: "as files", advice });
        }
        self.check_dag(cid, size)
    }

    /// It may be served in one piece.
    pub(super) fn check_dag(&self, cid: Cid, size: u64) -> Result<(), GatewayError> {
        let limit = self.gateway.state.config.dag_size;
        if limit == 0 || size <= limit {
            return Ok(());
        }
        self.gateway.counts.hit(Limits::DagSize);
        let advice = "ask for it block by block, with format=raw";
        Err(GatewayError::TooLarge { cid, limit, form: "in one piece", advice })
    }

    /// The most bytes that a stream of no announced length may have: content can claim to be smaller than it is.
    pub(super) fn most(&self, deserialized: bool) -> Option<u64> {
        let config = &self.gateway.state.config;
        let limits = [if deserialized { config.deserialized_size } else { 0 }, config.dag_size];
        let least = limits.into_iter().filter(|limit| *limit > 0).min()?;
        Some(least.saturating_mul(FRAMING.0).saturating_add(FRAMING.1))
    }
}

/// What the node claims to be, with all under it.
pub(super) fn claimed(resolved: &Resolved) -> u64 {
    let own = resolved.block.len() as u64;
    if resolved.cid.codec() != codec::DAG_PB {
        return own;
    }
    let links = PbNode::decode(resolved.block.data()).map(|node| node.links).unwrap_or_default();
    links.iter().filter_map(|link| link.tsize).fold(own, u64::saturating_add)
}
