//! L0: values and parsers. Sync and total: no I/O, no async, no panic on any input.

pub mod block;
pub mod cid;

pub use block::{Block, BlockError, HashCode, MAX_BLOCK_SIZE};
pub use cid::{Cid, Multihash, codec};
