//! The blocks of this node without those that a denylist names: what the retriever and the peers of others get.

use std::sync::Arc;

use async_trait::async_trait;

use crate::blockstore::{Blocks, Blockstore, Hit, StoreError, StoreStats};
use crate::denylist::{Denied, Denylists};
use crate::ipld::{Block, Cid};
use crate::retriever::LocalBlocks;

pub struct Allowed {
    pub blocks: Arc<Blocks>,
    pub denylists: Denylists,
}

impl Allowed {
    fn allows(&self, cid: &Cid) -> bool {
        self.denylists.cid(cid).is_none()
    }
}

#[async_trait]
impl LocalBlocks for Allowed {
    fn peek(&self, cid: &Cid) -> Option<Block> {
        LocalBlocks::peek(&*self.blocks, cid)
    }

    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        LocalBlocks::lookup(&*self.blocks, cid).await
    }

    fn cache(&self, block: &Block) {
        LocalBlocks::cache(&*self.blocks, block);
    }

    fn used(&self, block: &Block) {
        LocalBlocks::used(&*self.blocks, block);
    }

    fn denied(&self, cid: &Cid) -> Option<Denied> {
        self.denylists.cid(cid)
    }

    fn denylists(&self) -> Denylists {
        self.denylists.clone()
    }

    fn removals(&self) -> u64 {
        self.blocks.removals()
    }
}

#[async_trait]
impl Blockstore for Allowed {
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if self.allows(cid) { self.blocks.get(cid).await } else { Ok(None) }
    }

    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        self.blocks.put(blocks).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        if self.allows(cid) { self.blocks.has(cid).await } else { Ok(false) }
    }

    async fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.blocks.remove(cid).await
    }

    fn stats(&self) -> StoreStats {
        Blockstore::stats(&*self.blocks)
    }
}
