//! L4b: a model's checkpoint from content-addressed shards: tensors by name, as verified bytes.
//!
//! A checkpoint is one safetensors file, or a directory that holds one, several, or several with
//! `model.safetensors.index.json` (the layout of Hugging Face Hub: `weight_map` names each tensor's file). The header of
//! each shard is read by range first, so that a shard that does not fit is refused before its tensors are fetched; then
//! the shards are loaded side by side, within the retriever's process-wide reorder budget.
//!
//! Format: <https://huggingface.co/docs/safetensors> ("Format": 8 bytes of header length, JSON header, tensors).

mod layout;
mod shard;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use thiserror::Error;

pub use safetensors::Dtype;

use crate::dag::{DirectoryError, ReadError, ResolveError, Resolved};
use crate::ipld::Cid;
use crate::retriever::{FetchError, Session};
use crate::units::ByteSize;

/// Shards that are loaded at once. The retriever bounds their bytes in flight together; more would only divide them.
const PARALLEL_SHARDS: usize = 8;

/// Where tensors are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// This process's memory.
    #[default]
    Cpu,
}

impl FromStr for Device {
    type Err = CheckpointError;

    fn from_str(name: &str) -> Result<Self, CheckpointError> {
        match name {
            "cpu" => Ok(Self::Cpu),
            other => Err(CheckpointError::Device { name: other.to_owned() }),
        }
    }
}

/// What [`load`] may choose.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The most bytes of tensors that may be loaded; a larger checkpoint is refused by its headers. Default: 64 GiB.
    pub limit: ByteSize,
}

impl Default for Options {
    fn default() -> Self {
        Self { limit: ByteSize(64 << 30) }
    }
}

#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error("{name:?} is no device of this build; the first form loads to \"cpu\"")]
    Device { name: String },
    #[error("{cid} holds no .safetensors file")]
    NoShards { cid: Cid },
    #[error("the index names {file:?}, which {cid} does not hold")]
    MissingShard { file: String, cid: Cid },
    #[error("the index says that {file:?} holds the tensor {tensor:?}, and it does not")]
    MissingTensor { file: String, tensor: String },
    #[error("{file}: the tensor {tensor:?} is in another file too")]
    Twice { file: String, tensor: String },
    #[error("{file}: not a safetensors file: {reason}")]
    Malformed { file: String, reason: String },
    #[error("the checkpoint is {size} bytes and the limit {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("{file}: no memory for {size} bytes")]
    Memory { file: String, size: u64 },
    #[error("{file}: the shard ends after {got} of {size} bytes")]
    Short { file: String, got: u64, size: u64 },
    #[error("{cid} is neither a file nor a directory")]
    NotUnixFs { cid: Cid },
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// One tensor: a slice of its shard's bytes. Alignment is that of its place in the shard; none is promised.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Little-endian, row-major (safetensors "Format").
    pub data: Bytes,
    /// Name of the file that it came from.
    pub file: String,
}

/// How one shard was loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardReport {
    pub file: String,
    pub cid: Cid,
    /// Bytes of the file, header and all.
    pub bytes: u64,
    pub tensors: usize,
    /// From the start of the load until this shard was whole.
    pub finished_after: Duration,
}

/// A loaded checkpoint. Cloning a tensor's bytes is free; a shard's memory is freed when the last tensor of it is dropped.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub device: Device,
    tensors: BTreeMap<String, Tensor>,
    /// By file name.
    pub shards: Vec<ShardReport>,
    /// Until the first shard was whole, and until all were.
    pub first_shard_time: Duration,
    pub load_time: Duration,
}

impl Checkpoint {
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.data.len() as u64).sum()
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.shape.iter().map(|&side| side as u64).product::<u64>()).sum()
    }
}

/// Loads the checkpoint that `resolved` names. Cancel safe: dropping it cancels what it asked for.
pub async fn load(
    session: &Session,
    resolved: &Resolved,
    device: Device,
    options: Options,
) -> Result<Checkpoint, CheckpointError> {
    let started = Instant::now();
    let layout = layout::read(session, resolved).await?;
    // All headers before any tensor: what does not fit is refused before it costs.
    let mut headers: Vec<shard::Header> =
        stream::iter(layout.files.into_iter().map(|file| shard::Header::read(session.clone(), file)))
            .buffer_unordered(PARALLEL_SHARDS)
            .try_collect()
            .await?;
    headers.sort_by(|a, b| a.file.cmp(&b.file));
    let size: u64 = headers.iter().map(shard::Header::data_size).sum();
    if size > options.limit.0 {
        return Err(CheckpointError::TooLarge { size, limit: options.limit.0 });
    }
    check_names(&headers, &layout.weight_map)?;
    let loaded: Vec<(ShardReport, Vec<(String, Tensor)>)> =
        stream::iter(headers.into_iter().map(|header| header.load(session.clone(), started)))
            .buffer_unordered(PARALLEL_SHARDS)
            .try_collect()
            .await?;
    let load_time = started.elapsed();
    let mut shards = Vec::with_capacity(loaded.len());
    let mut tensors = BTreeMap::new();
    for (report, named) in loaded {
        shards.push(report);
        tensors.extend(named);
    }
    shards.sort_by(|a, b| a.file.cmp(&b.file));
    let first_shard_time = shards.iter().map(|shard| shard.finished_after).min().unwrap_or(load_time);
    Ok(Checkpoint { device, tensors, shards, first_shard_time, load_time })
}

/// Every tensor of the index is where it says, and no name occurs twice.
fn check_names(headers: &[shard::Header], weight_map: &BTreeMap<String, String>) -> Result<(), CheckpointError> {
    let mut place: BTreeMap<String, &str> = BTreeMap::new();
    for header in headers {
        for tensor in header.names() {
            if place.insert(tensor.clone(), &header.file).is_some() {
                return Err(CheckpointError::Twice { file: header.file.clone(), tensor });
            }
        }
    }
    for (tensor, file) in weight_map {
        if place.get(tensor).is_none_or(|found| found != file) {
            return Err(CheckpointError::MissingTensor { file: file.clone(), tensor: tensor.clone() });
        }
    }
    Ok(())
}
