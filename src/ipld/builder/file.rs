//! Files as balanced trees, built from the leaves up while the bytes come.

use bytes::{Bytes, BytesMut};

use super::{Built, Profile};
use crate::ipld::cid::{Cid, codec};
use crate::ipld::dag_pb::{PbLink, PbNode};
use crate::ipld::unixfs::{Data, DataType};
use crate::ipld::{Block, HashCode};

/// Builds one file. Holds one chunk of bytes and at most `width` links for each level of the tree.
#[derive(Debug)]
pub struct FileBuilder {
    profile: Profile,
    chunk: BytesMut,
    /// Finished nodes that have no parent yet, leaves first. A level is full at `width`; it becomes a node only when one
    /// more arrives, because a full level that is the whole file must not be wrapped again.
    levels: Vec<Vec<Part>>,
}

/// A finished node under its parent to be.
#[derive(Debug, Clone, Copy)]
struct Part {
    cid: Cid,
    file_size: u64,
    tsize: u64,
}

impl FileBuilder {
    pub fn new(profile: &Profile) -> Self {
        Self { profile: *profile, chunk: BytesMut::new(), levels: Vec::new() }
    }

    /// Takes the next bytes of the file and returns the blocks that are complete, children before parents.
    pub fn push(&mut self, bytes: Bytes) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if self.chunk.is_empty() {
                // Leaves are as long as the chunk or, the last, shorter: do not take a whole chunk for a small file.
                self.chunk.reserve(self.profile.chunk_size.min(rest.len()));
            }
            let (now, later) = rest.split_at(rest.len().min(self.profile.chunk_size - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            rest = later;
            if self.chunk.len() == self.profile.chunk_size {
                self.leaf(&mut blocks);
            }
        }
        blocks
    }

    /// Ends the file and returns the blocks that were left, the root last.
    pub fn finish(mut self) -> (Vec<Block>, Built) {
        let mut blocks = Vec::new();
        if !self.chunk.is_empty() || self.levels.is_empty() {
            self.leaf(&mut blocks);
        }
        let mut level = 0;
        loop {
            if let ([root], true) = (&self.levels[level][..], level + 1 == self.levels.len()) {
                return (blocks, Built { cid: root.cid, file_size: root.file_size, tsize: root.tsize });
            }
            if !self.levels[level].is_empty() {
                self.close(level, &mut blocks);
            }
            level += 1;
        }
    }

    fn leaf(&mut self, blocks: &mut Vec<Block>) {
        let data = std::mem::take(&mut self.chunk).freeze();
        let file_size = data.len() as u64;
        let block = if self.profile.raw_leaves {
            Block::encode(codec::RAW, HashCode::Sha2_256, data)
        } else {
            let mut message = Data::new(DataType::File);
            message.data = Some(data).filter(|data| !data.is_empty());
            message.filesize = Some(file_size);
            self.profile.pb_block(&PbNode { links: Vec::new(), data: Some(message.encode()) })
        };
        // Local invariant: every profile's chunk is at most 1 MiB, half of what a block may be.
        let block = block.expect("a chunk fits in a block");
        let part = Part { cid: *block.cid(), file_size, tsize: block.len() as u64 };
        blocks.push(block);
        self.add(0, part, blocks);
    }

    fn add(&mut self, level: usize, part: Part, blocks: &mut Vec<Block>) {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == self.profile.width {
            self.close(level, blocks);
        }
        self.levels[level].push(part);
    }

    /// Makes a node of all parts of a level, and adds it to the level above.
    fn close(&mut self, level: usize, blocks: &mut Vec<Block>) {
        let parts = std::mem::take(&mut self.levels[level]);
        let mut message = Data::new(DataType::File);
        message.blocksizes = parts.iter().map(|part| part.file_size).collect();
        let file_size = message.blocksizes.iter().sum();
        message.filesize = Some(file_size);
        let links = parts
            .iter()
            .map(|part| PbLink { cid: part.cid, name: Some(String::new()), tsize: Some(part.tsize) })
            .collect();
        // Local invariant: at most 1,024 links of about 50 bytes each.
        let block = self
            .profile
            .pb_block(&PbNode { links, data: Some(message.encode()) })
            .expect("a node's links fit in a block");
        let tsize = block.len() as u64 + parts.iter().map(|part| part.tsize).sum::<u64>();
        let part = Part { cid: *block.cid(), file_size, tsize };
        blocks.push(block);
        self.add(level + 1, part, blocks);
    }
}
