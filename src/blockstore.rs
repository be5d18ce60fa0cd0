//! Blocks at rest: the port, and where they rest (durable files, the cache, pins).
//!
//! [`Blocks`] composes the tiers in the order in which they are asked: memory, durable files, disk cache. Fetched blocks
//! go to the caches only ([`Blocks::cache`]); what people add goes to the durable files ([`Blockstore::put`]) and is kept
//! from [`Blocks::gc`] by [`Pins`]. Every tier keys blocks by multihash, and every read verifies.

mod blocks;
mod config;
mod disk_cache;
mod durable;
mod gc;
mod lock;
pub mod memory;
mod memory_cache;
mod metrics;
mod pins;
pub mod reuse;
mod scrub;
mod space;

use std::io;
use std::path::Path;

use async_trait::async_trait;
use thiserror::Error;

use crate::ipld::{Block, Cid};

pub use blocks::{AddGuard, Blocks, Stats};
pub use config::Config;
pub use durable::DurableStore;
pub use gc::{GcReport, Links, LinksFn};
pub use lock::DataDirLock;
pub use metrics::TierStats;
pub use pins::{MAX_PIN_NAME, Pin, PinKind, Pins};
pub use scrub::ScrubReport;
pub use space::DiskSpace;

/// Which tier answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    Memory,
    Store,
    Disk,
}

/// A block and where it was.
#[derive(Debug, Clone)]
pub struct Hit {
    pub block: Block,
    pub tier: Tier,
}

#[derive(Debug, Error)]
pub enum StoreError {
    /// ENOSPC, EDQUOT: HTTP 507, exit 6.
    #[error("the disk of {path} is full")]
    Full { path: String },
    /// EROFS, EACCES: HTTP 507, exit 6.
    #[error("{path} cannot be written: {error}")]
    ReadOnly { path: String, error: String },
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("pins database: {0}")]
    Pins(String),
    /// The data directory belongs to another process.
    #[error("{path} is in use by another process")]
    Locked { path: String },
    /// Only one `gc` and one `scrub` run at a time, and `gc` waits a bounded time for running adds.
    #[error("{what} is running; try again when it has ended")]
    Busy { what: &'static str },
    /// [`Blocks::close`] was called.
    #[error("the block store is closed")]
    Closed,
}

impl StoreError {
    /// Sorts an I/O error into full, read-only or other.
    pub fn at(path: &Path, error: io::Error) -> Self {
        let path = path.display().to_string();
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full { path },
            Some(libc::EROFS | libc::EACCES | libc::EPERM) => Self::ReadOnly { path, error: error.to_string() },
            _ => Self::Io { path, error },
        }
    }

    /// Whether writing failed because of the disk's state, not because of the data: HTTP 507, exit 6.
    pub fn is_unwritable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::ReadOnly { .. })
    }
}

/// Figures of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub blocks: u64,
    pub bytes: u64,
}

/// A place where blocks rest. Reads verify: what is returned hashes to its CID.
#[async_trait]
pub trait Blockstore: Send + Sync + 'static {
    /// The block, or `None`. A damaged copy is deleted, counted, and `None`.
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError>;

    /// Stores blocks so that they survive a crash once this returns (durable stores), or as far as there is room (caches).
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError>;

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError>;

    /// Removes a block; true when it was there.
    async fn remove(&self, cid: &Cid) -> Result<bool, StoreError>;

    fn stats(&self) -> StoreStats;
}
