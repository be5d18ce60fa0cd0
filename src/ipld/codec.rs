//! The links of a block, whatever its codec.
//!
//! Sources: <https://ipld.io/specs/codecs/>. Walking is iterative or bounded at [`MAX_NESTING`]; nothing is allocated
//! for what a block only declares (the class of CVE-2026-35480 and CVE-2026-42328).

pub(crate) mod cbor;
mod json;
pub mod pathing;

use thiserror::Error;

pub use super::cid::codec::*;
use super::cid::{Cid, CidError};
use super::dag_pb::{DagPbError, MAX_LINKS, PbNode};
use super::{Block, cid};

/// How deep lists and maps may be nested in one block.
pub const MAX_NESTING: usize = 128;

/// Why the links of a block cannot be told.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CodecError {
    #[error(transparent)]
    DagPb(#[from] DagPbError),
    #[error("dag-cbor: cut off")]
    Truncated,
    #[error("dag-cbor: {0} bytes after the value")]
    TrailingBytes(usize),
    #[error("dag-cbor: {0}")]
    Cbor(&'static str),
    #[error("dag-json: {0}")]
    Json(String),
    #[error("nested deeper than {MAX_NESTING} levels")]
    TooDeep,
    #[error("more than {MAX_LINKS} links")]
    TooManyLinks,
    #[error("link to what is not a CID: {0}")]
    Cid(#[from] CidError),
}

/// The CIDs that `block` links to, in the order in which they lie, repeated ones repeated.
///
/// Codecs other than dag-pb, dag-cbor and dag-json have no links as far as we know: the answer is empty.
pub fn links(block: &Block) -> Result<Vec<Cid>, CodecError> {
    match block.cid().codec() {
        cid::codec::DAG_PB => Ok(PbNode::decode(block.data())?.links.into_iter().map(|link| link.cid).collect()),
        cid::codec::DAG_CBOR => cbor::links(block.data()),
        cid::codec::DAG_JSON => json::links(block.data()),
        _ => Ok(Vec::new()),
    }
}

fn push(links: &mut Vec<Cid>, cid: Cid) -> Result<(), CodecError> {
    if links.len() == MAX_LINKS {
        return Err(CodecError::TooManyLinks);
    }
    links.push(cid);
    Ok(())
}

#[cfg(test)]
mod tests;
