//! Which files a checkpoint is made of.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde::Deserialize;

use super::CheckpointError;
use crate::dag::{Entries, FileReader, NodeKind, Resolved, directory};
use crate::ipld::{Block, Cid};
use crate::retriever::Session;

const INDEX: &str = "model.safetensors.index.json";
const EXTENSION: &str = ".safetensors";
/// The largest index that is read, in bytes: a 400-billion-parameter model's has under 1 MiB.
const MAX_INDEX_BYTES: u64 = 32 << 20;
/// Files of one checkpoint.
const MAX_SHARDS: usize = 4_096;
/// Name of a checkpoint that is one file, in errors and reports.
const SINGLE: &str = "model.safetensors";

/// A shard: its name, and the CID of its file.
#[derive(Debug, Clone)]
pub(super) struct ShardFile {
    pub name: String,
    pub cid: Cid,
}

#[derive(Debug)]
pub(super) struct Layout {
    pub files: Vec<ShardFile>,
    /// Tensor to file; empty without an index.
    pub weight_map: BTreeMap<String, String>,
}

/// `model.safetensors.index.json`, the part of it that is needed.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) async fn read(session: &Session, resolved: &Resolved) -> Result<Layout, CheckpointError> {
    match &resolved.kind {
        NodeKind::File { .. } => {
            let file = ShardFile { name: SINGLE.to_owned(), cid: resolved.cid };
            Ok(Layout { files: vec![file], weight_map: BTreeMap::new() })
        }
        NodeKind::Directory | NodeKind::HamtDirectory => {
            match directory::find(session, &resolved.block, INDEX).await? {
                Some(entry) => indexed(session, resolved, entry.cid).await,
                None => unindexed(session, resolved).await,
            }
        }
        NodeKind::Symlink { .. } | NodeKind::Other { .. } => Err(CheckpointError::NotUnixFs { cid: resolved.cid }),
    }
}

async fn indexed(session: &Session, resolved: &Resolved, index: Cid) -> Result<Layout, CheckpointError> {
    let block = session.fetch(&index).await?;
    let bytes = read_small(session, &block, INDEX).await?;
    let malformed = |reason: String| CheckpointError::Malformed { file: INDEX.to_owned(), reason };
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    let mut names: Vec<&String> = weight_map.values().collect();
    names.sort();
    names.dedup();
    if names.len() > MAX_SHARDS {
        return Err(malformed(format!("{} files, of at most {MAX_SHARDS}", names.len())));
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        match directory::find(session, &resolved.block, name).await? {
            Some(entry) => files.push(ShardFile { name: name.clone(), cid: entry.cid }),
            None => return Err(CheckpointError::MissingShard { file: name.clone(), cid: resolved.cid }),
        }
    }
    if files.is_empty() {
        return Err(CheckpointError::NoShards { cid: resolved.cid });
    }
    Ok(Layout { files, weight_map })
}

/// Every `*.safetensors` of the directory.
async fn unindexed(session: &Session, resolved: &Resolved) -> Result<Layout, CheckpointError> {
    let mut entries = Entries::new(session.clone(), &resolved.block)?;
    let mut files = Vec::new();
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if entry.name.ends_with(EXTENSION) && files.len() < MAX_SHARDS {
            files.push(ShardFile { name: entry.name, cid: entry.cid });
        }
    }
    if files.is_empty() {
        return Err(CheckpointError::NoShards { cid: resolved.cid });
    }
    Ok(Layout { files, weight_map: BTreeMap::new() })
}

async fn read_small(session: &Session, root: &Block, name: &str) -> Result<Vec<u8>, CheckpointError> {
    let mut reader = FileReader::whole(session.clone(), root)?;
    if reader.size() > MAX_INDEX_BYTES {
        let reason = format!("{} bytes, of at most {MAX_INDEX_BYTES}", reader.size());
        return Err(CheckpointError::Malformed { file: name.to_owned(), reason });
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}
