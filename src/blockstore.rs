//! Blocks at rest: the port, and where they rest (durable files, the cache, pins).

pub mod memory;

use async_trait::async_trait;
use thiserror::Error;

use crate::ipld::{Block, Cid};

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
