//! A store that forgets: for `--offline` trials and tests.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;

use super::{Blockstore, StoreError, StoreStats};
use crate::ipld::{Block, Cid, Multihash};

/// Blocks by multihash, in memory, without a bound: the caller decides what goes in.
#[derive(Debug, Default)]
pub struct MemoryStore {
    blocks: RwLock<HashMap<Multihash, Block>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Blockstore for MemoryStore {
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        Ok(blocks.get(cid.hash()).and_then(|block| block.with_cid(*cid)))
    }

    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let mut kept = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        kept.extend(blocks.into_iter().map(|block| (*block.cid().hash(), block)));
        Ok(())
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.blocks.read().unwrap_or_else(PoisonError::into_inner).contains_key(cid.hash()))
    }

    async fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.blocks.write().unwrap_or_else(PoisonError::into_inner).remove(cid.hash()).is_some())
    }

    fn stats(&self) -> StoreStats {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        StoreStats { blocks: blocks.len() as u64, bytes: blocks.values().map(|block| block.len() as u64).sum() }
    }
}
