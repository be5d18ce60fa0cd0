//! The store of the process as the retriever's local tiers.

use async_trait::async_trait;

use super::LocalBlocks;
use crate::blockstore::{Blocks, Hit, StoreError};
use crate::ipld::{Block, Cid};

#[async_trait]
impl LocalBlocks for Blocks {
    fn peek(&self, cid: &Cid) -> Option<Block> {
        Blocks::peek(self, cid)
    }

    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        Blocks::lookup(self, cid).await
    }

    fn cache(&self, block: &Block) {
        Blocks::cache(self, block);
    }

    fn used(&self, block: &Block) {
        Blocks::used(self, block);
    }

    fn removals(&self) -> u64 {
        Blocks::removals(self)
    }
}
