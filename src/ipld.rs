//! L0: values and parsers. Sync and total: no I/O, no async, no panic on any input.

pub mod block;
pub mod builder;
pub mod car;
pub mod cid;
pub mod codec;
pub mod dag_pb;
pub mod ipns;
pub mod path;
pub mod unixfs;
mod wire;

pub use block::{Block, BlockError, HashCode, MAX_BLOCK_SIZE};
pub use cid::{Cid, Multihash};
pub use path::ContentPath;
