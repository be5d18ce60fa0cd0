//! The product's values and parsers, compiled without the rest of it. Layer 0 uses nothing above itself, so this holds.

// A module with a body, so that the path names the folder and `ipld.rs` finds its own sub-modules beside it.
#[path = "../../src"]
mod tidegate {
    pub mod ipld;
}

use bytes::Bytes;
pub use tidegate::ipld;

use ipld::{Block, HashCode};

/// A block of that codec over any bytes; `None` above the size limit of blocks.
pub fn block(codec: u64, data: &[u8]) -> Option<Block> {
    Block::encode(codec, HashCode::Sha2_256, Bytes::copy_from_slice(data)).ok()
}
