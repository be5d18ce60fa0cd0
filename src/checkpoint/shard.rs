//! One safetensors file: its header by range, then its tensors into one buffer.

use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use safetensors::tensor::Metadata;

use super::layout::ShardFile;
use super::{CheckpointError, ShardReport, Tensor};
use crate::dag::FileReader;
use crate::ipld::{Block, Cid};
use crate::retriever::Session;

/// Bytes of the length that a file starts with.
const LENGTH_BYTES: u64 = 8;
/// The largest header that the format allows, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The header of a shard, checked against the file's size.
#[derive(Debug)]
pub(super) struct Header {
    pub file: String,
    cid: Cid,
    root: Block,
    metadata: Metadata,
    /// Where the tensors start in the file, and where the file ends.
    start: u64,
    end: u64,
}

impl Header {
    pub(super) async fn read(session: Session, file: ShardFile) -> Result<Self, CheckpointError> {
        let ShardFile { name, cid } = file;
        let malformed = |reason: String| CheckpointError::Malformed { file: name.clone(), reason };
        let root = session.fetch(&cid).await?;
        let mut reader = FileReader::new(session.clone(), &root, 0..LENGTH_BYTES)?;
        let end = reader.size();
        let length = collect(&mut reader, LENGTH_BYTES).await?;
        let length: [u8; 8] =
            length.try_into().map_err(|_| malformed(format!("{end} bytes are too few for a header")))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES || length > end - LENGTH_BYTES {
            return Err(malformed(format!("its header says to be {length} bytes long, in a file of {end}")));
        }
        let start = LENGTH_BYTES + length;
        let header = collect(&mut FileReader::new(session, &root, LENGTH_BYTES..start)?, length).await?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;
        if metadata.data_len() as u64 != end - start {
            let (data, has) = (metadata.data_len(), end - start);
            return Err(malformed(format!("its tensors are {data} bytes long, and it has {has}")));
        }
        Ok(Self { file: name, cid, root, metadata, start, end })
    }

    pub(super) fn data_size(&self) -> u64 {
        self.end - self.start
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Fetches the tensors. `started` is when the whole load began.
    pub(super) async fn load(
        self,
        session: Session,
        started: Instant,
    ) -> Result<(ShardReport, Vec<(String, Tensor)>), CheckpointError> {
        let size = self.data_size();
        let memory = || CheckpointError::Memory { file: self.file.clone(), size };
        let capacity = usize::try_from(size).map_err(|_| memory())?;
        let mut data = Vec::new();
        data.try_reserve_exact(capacity).map_err(|_| memory())?;
        let mut reader = FileReader::new(session, &self.root, self.start..self.end)?;
        while let Some(chunk) = reader.next().await {
            data.extend_from_slice(&chunk?);
        }
        if data.len() as u64 != size {
            return Err(CheckpointError::Short { file: self.file, got: data.len() as u64, size });
        }
        let data = Bytes::from(data);
        let tensors: Vec<(String, Tensor)> = self
            .metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                // Offsets were checked against the data's length when the header was read.
                let (from, to) = info.data_offsets;
                let data = data.slice(from..to);
                (name, Tensor { dtype: info.dtype, shape: info.shape.clone(), data, file: self.file.clone() })
            })
            .collect();
        let report = ShardReport {
            file: self.file,
            cid: self.cid,
            bytes: self.end,
            tensors: tensors.len(),
            finished_after: started.elapsed(),
        };
        Ok((report, tensors))
    }
}

async fn collect(reader: &mut FileReader, capacity: u64) -> Result<Vec<u8>, CheckpointError> {
    // Bounded by the callers: 8 bytes, or a header of at most 100 MB that the file is long enough for.
    let mut bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or_default());
    while let Some(chunk) = reader.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}
