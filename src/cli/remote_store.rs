//! The gateway's raw blocks as a block store, so that the command line walks directories and DAGs with the same code
//! as the server. Every block is verified again here.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::connection::checked;
use super::{CliError, Exit};
use crate::blockstore::{Blockstore, StoreError, StoreStats};
use crate::ipld::{Block, Cid};

pub struct RemoteStore {
    http: reqwest::Client,
    gateway: String,
    /// `?policy=` and the token that makes it count.
    query: String,
    token: String,
    /// The gateway's own words about the last failure: the port below has no room for them.
    failure: Mutex<Option<CliError>>,
}

impl RemoteStore {
    pub fn new(http: reqwest::Client, gateway: &str, token: &str, policy: Option<crate::record::Policy>) -> Self {
        let query = policy.map(|policy| format!("&policy={policy}")).unwrap_or_default();
        Self { http, gateway: gateway.to_owned(), query, token: token.to_owned(), failure: Mutex::new(None) }
    }

    /// Why the last `get` gave nothing, if the gateway said.
    pub fn take_failure(&self) -> Option<CliError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn fetch(&self, cid: &Cid) -> Result<Block, CliError> {
        let url = format!("{}/ipfs/{cid}?format=raw{}", self.gateway, self.query);
        let response = checked(self.http.get(url).bearer_auth(&self.token).send().await?).await?;
        let data = response.bytes().await?;
        Block::verify(*cid, data)
            .map_err(|error| CliError::new(Exit::Failed, format!("the gateway sent a wrong block: {error}")))
    }
}

#[async_trait]
impl Blockstore for RemoteStore {
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if let Some(block) = Block::inherent(cid) {
            return Ok(Some(block));
        }
        match self.fetch(cid).await {
            Ok(block) => Ok(Some(block)),
            Err(error) => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Ok(None)
            }
        }
    }

    async fn put(&self, _: Vec<Block>) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly { path: self.gateway.clone(), error: "a gateway takes no blocks".to_owned() })
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.get(cid).await?.is_some())
    }

    async fn remove(&self, _: &Cid) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}
