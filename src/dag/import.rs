//! Files, folders, streams and CARs into a store, in batches that are durable before the call returns.
//!
//! Children are stored before their parents, so whatever moment a crash comes at, no stored root has a hole below it.
//! Nothing is pinned here: the caller pins the result while it still holds the store's guard against garbage collection,
//! which every function here asks to see.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, StreamExt};
use thiserror::Error;
use tokio::fs;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::MAX_DEPTH;
use crate::blockstore::{Blockstore, StoreError};
use crate::ipld::builder::{self, BuildError, Built, DirBuilder, FileBuilder, Profile};
use crate::ipld::car::{CarError, CarItem, CarReader, Limits};
use crate::ipld::{Block, Cid, HashCode};

/// Bytes of blocks that are written to the store at once.
const BATCH_BYTES: usize = 8 << 20;
/// Blocks that are written to the store at once.
const BATCH_BLOCKS: usize = 1024;
/// Bytes read from a file at once.
const READ_BYTES: usize = 256 << 10;

/// What [`add_path`] may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct AddOptions {
    pub profile: Profile,
    /// Directories are refused without it.
    pub recursive: bool,
    /// Entries whose names start with a dot, too. The path itself is always added.
    pub hidden: bool,
}

/// What was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    pub cid: Cid,
    /// Bytes of file content.
    pub size: u64,
    /// Bytes of all blocks of the graph, repeated ones repeated: what a link to it says as `Tsize`.
    pub tsize: u64,
    /// Blocks written, repeated ones repeated.
    pub blocks: u64,
    /// Files, symlinks and directories.
    pub entries: u64,
}

/// What was imported. The roots are as the CAR claims: whether all below them is there, a walk tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub roots: Vec<Cid>,
    pub blocks: u64,
    pub bytes: u64,
}

/// Where an import stands. Told about every `READ_BYTES` and after each entry.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is being read; empty for streams.
    pub path: &'a Path,
    /// Bytes read so far in all.
    pub bytes: u64,
    pub entries: u64,
}

/// A progress callback that does nothing.
pub fn quiet(_: Progress<'_>) {}

#[derive(Debug, Error)]
pub enum ImportError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("reading the input: {0}")]
    Stream(io::Error),
    #[error("{} is a directory: add it with --recursive", path.display())]
    NotRecursive { path: PathBuf },
    #[error("{} is neither a file, a directory nor a symlink", path.display())]
    FileType { path: PathBuf },
    #[error("{}: the name or symlink target is not UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Build { path: PathBuf, error: BuildError },
    #[error("{} is more than {MAX_DEPTH} directories deep", path.display())]
    TooDeep { path: PathBuf },
    #[error("not a CAR: {0}")]
    Car(#[from] CarError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Adds a file, a symlink (as such) or, recursively, a directory; large directories become HAMTs. `guard` is the store's
/// guard against garbage collection, which the caller keeps until it has pinned the result.
///
/// Holds one batch, one chunk and the names of the directories it is in. What was written before an error stays, unpinned.
pub async fn add_path(
    store: &dyn Blockstore,
    guard: &(impl Sync + ?Sized),
    path: &Path,
    options: &AddOptions,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Added, ImportError> {
    let mut adder = Importer::new(store, guard, options.profile, progress);
    // Directories that are open, the innermost last.
    let mut open: Vec<Folder> = Vec::new();
    let mut next = Some((path.to_owned(), String::new()));
    let root = loop {
        let (name, built) = match next.take() {
            Some((path, name)) => {
                let kind = fs::symlink_metadata(&path).await.map_err(|error| read_error(&path, error))?.file_type();
                if kind.is_dir() {
                    if !options.recursive {
                        return Err(ImportError::NotRecursive { path });
                    }
                    if open.len() >= MAX_DEPTH {
                        return Err(ImportError::TooDeep { path });
                    }
                    open.push(Folder::read(path, name, options).await?);
                    next = open.last_mut().and_then(Folder::next);
                    if next.is_some() {
                        continue;
                    }
                    adder.close(&mut open).await?
                } else if kind.is_symlink() {
                    (name, adder.symlink(&path).await?)
                } else if kind.is_file() {
                    (name, adder.file(&path).await?)
                } else {
                    return Err(ImportError::FileType { path });
                }
            }
            None => adder.close(&mut open).await?,
        };
        let Some(folder) = open.last_mut() else { break built };
        folder.add(&name, built)?;
        next = folder.next();
    };
    adder.finish(root).await
}

/// Adds what `reader` gives, up to its end, as one file. Holds one batch and one chunk.
pub async fn add_stream(
    store: &dyn Blockstore,
    guard: &(impl Sync + ?Sized),
    reader: impl AsyncRead + Unpin + Send,
    profile: &Profile,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Added, ImportError> {
    let mut direct = Importer::new(store, guard, *profile, progress);
    let built = direct.stream(reader).await?;
    direct.finish(built).await
}

/// Stores the blocks of a CAR (version 1 or 2), each verified against its CID. Holds one batch and one section.
pub async fn import_car(
    store: &dyn Blockstore,
    _guard: &(impl Sync + ?Sized),
    input: impl Stream<Item = io::Result<Bytes>> + Send,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Imported, ImportError> {
    let mut input = std::pin::pin!(input);
    let mut reader = CarReader::new(Limits::default());
    let mut batch = Batch::new(store);
    let mut imported = Imported { roots: Vec::new(), blocks: 0, bytes: 0 };
    while let Some(chunk) = input.next().await {
        reader.push(chunk.map_err(ImportError::Stream)?);
        while let Some(item) = reader.next()? {
            match item {
                CarItem::Header { roots } => imported.roots = roots,
                CarItem::Block(block) => {
                    imported.blocks += 1;
                    imported.bytes += block.len() as u64;
                    batch.add(block).await?;
                }
            }
        }
        progress(Progress { path: Path::new(""), bytes: imported.bytes, entries: imported.blocks });
    }
    reader.finish()?;
    batch.flush().await?;
    Ok(imported)
}

/// Several files, symlinks and directories of one import, in shared batches: many small files cost one durable commit
/// for `BATCH_BLOCKS` blocks or `BATCH_BYTES` bytes, not one each. Nothing is durable before [`Importer::finish`]
/// returns, except what full batches have stored on the way.
pub struct Importer<'a> {
    batch: Batch<'a>,
    profile: Profile,
    bytes: u64,
    entries: u64,
    progress: &'a mut (dyn FnMut(Progress<'_>) + Send),
}

impl<'a> Importer<'a> {
    /// The caller keeps `guard` until it has pinned the result.
    pub fn new(
        store: &'a dyn Blockstore,
        _guard: &(impl Sync + ?Sized),
        profile: Profile,
        progress: &'a mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Self {
        Self { batch: Batch::new(store), profile, bytes: 0, entries: 0, progress }
    }

    /// Files, symlinks and directories so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// What `reader` gives, up to its end, as one file.
    pub async fn stream(&mut self, reader: impl AsyncRead + Unpin + Send) -> Result<Built, ImportError> {
        self.read(Path::new(""), reader, ImportError::Stream).await
    }

    pub async fn link(&mut self, target: &str) -> Result<Built, ImportError> {
        let built = builder::symlink(&self.profile, target);
        let (block, built) = built.map_err(|error| ImportError::Build { path: PathBuf::new(), error })?;
        self.entry(Path::new(""), vec![block]).await?;
        Ok(built)
    }

    /// A directory whose entries were added before.
    pub async fn directory(&mut self, directory: DirBuilder) -> Result<Built, ImportError> {
        let (blocks, built) = directory.finish().map_err(|error| ImportError::Build { path: PathBuf::new(), error })?;
        self.entry(Path::new(""), blocks).await?;
        Ok(built)
    }

    async fn file(&mut self, path: &Path) -> Result<Built, ImportError> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        // It was a file a moment ago: a symlink or a pipe put in its place meanwhile is neither followed nor waited for.
        #[cfg(unix)]
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(path).await.map_err(|error| read_error(path, error))?;
        self.read(path, file, |error| read_error(path, error)).await
    }

    async fn read(
        &mut self,
        path: &Path,
        mut reader: impl AsyncRead + Unpin + Send,
        failed: impl Fn(io::Error) -> ImportError,
    ) -> Result<Built, ImportError> {
        let mut builder = FileBuilder::new(&self.profile);
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            let read = reader.read_buf(&mut buffer).await.map_err(&failed)?;
            if read == 0 {
                break;
            }
            self.bytes += read as u64;
            for block in builder.push(buffer.split().freeze()) {
                self.batch.add(block).await?;
            }
            self.report(path);
        }
        let (blocks, built) = builder.finish();
        self.entry(path, blocks).await?;
        Ok(built)
    }

    async fn symlink(&mut self, path: &Path) -> Result<Built, ImportError> {
        let target = fs::read_link(path).await.map_err(|error| read_error(path, error))?;
        let target = target.to_str().ok_or_else(|| ImportError::NotUtf8 { path: path.to_owned() })?;
        let built = builder::symlink(&self.profile, target);
        let (block, built) = built.map_err(|error| ImportError::Build { path: path.to_owned(), error })?;
        self.entry(path, vec![block]).await?;
        Ok(built)
    }

    /// Ends the innermost directory and returns it under its name.
    async fn close(&mut self, open: &mut Vec<Folder>) -> Result<(String, Built), ImportError> {
        // Local invariant: it is called only where a directory was opened and has no entry left.
        let folder = open.pop().expect("a directory is open");
        let Folder { path, name, builder, .. } = folder;
        let finished = builder.finish().map_err(|error| ImportError::Build { path: path.clone(), error })?;
        self.entry(&path, finished.0).await?;
        Ok((name, finished.1))
    }

    async fn entry(&mut self, path: &Path, blocks: Vec<Block>) -> Result<(), ImportError> {
        for block in blocks {
            self.batch.add(block).await?;
        }
        self.entries += 1;
        self.report(path);
        Ok(())
    }

    fn report(&mut self, path: &Path) {
        (self.progress)(Progress { path, bytes: self.bytes, entries: self.entries });
    }

    /// Everything is durable when this returns.
    pub async fn finish(mut self, root: Built) -> Result<Added, ImportError> {
        self.batch.flush().await?;
        Ok(Added {
            cid: root.cid,
            size: self.bytes,
            tsize: root.tsize,
            blocks: self.batch.written,
            entries: self.entries,
        })
    }
}

/// A directory that is being added.
struct Folder {
    path: PathBuf,
    name: String,
    /// Names that are still to be added, the next one last.
    names: Vec<String>,
    builder: DirBuilder,
}

impl Folder {
    async fn read(path: PathBuf, name: String, options: &AddOptions) -> Result<Self, ImportError> {
        let mut names = Vec::new();
        let mut listing = fs::read_dir(&path).await.map_err(|error| read_error(&path, error))?;
        while let Some(entry) = listing.next_entry().await.map_err(|error| read_error(&path, error))? {
            let utf8 = |name: OsString| name.into_string().map_err(|_| ImportError::NotUtf8 { path: entry.path() });
            let name = utf8(entry.file_name())?;
            if options.hidden || !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self { path, name, names, builder: DirBuilder::new(&options.profile) })
    }

    fn next(&mut self) -> Option<(PathBuf, String)> {
        self.names.pop().map(|name| (self.path.join(&name), name))
    }

    fn add(&mut self, name: &str, built: Built) -> Result<(), ImportError> {
        let added = self.builder.add(name, built.cid, built.tsize);
        added.map_err(|error| ImportError::Build { path: self.path.join(name), error })
    }
}

/// Blocks on their way to the store.
struct Batch<'a> {
    store: &'a dyn Blockstore,
    blocks: Vec<Block>,
    bytes: usize,
    written: u64,
}

impl<'a> Batch<'a> {
    fn new(store: &'a dyn Blockstore) -> Self {
        Self { store, blocks: Vec::new(), bytes: 0, written: 0 }
    }

    async fn add(&mut self, block: Block) -> Result<(), StoreError> {
        // An identity CID is its own block.
        if block.cid().hash().code() == u64::from(HashCode::Identity) {
            return Ok(());
        }
        self.bytes += block.len();
        self.blocks.push(block);
        if self.bytes >= BATCH_BYTES || self.blocks.len() >= BATCH_BLOCKS { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        self.written += self.blocks.len() as u64;
        self.bytes = 0;
        self.store.put(std::mem::take(&mut self.blocks)).await
    }
}

fn read_error(path: &Path, error: io::Error) -> ImportError {
    ImportError::Read { path: path.to_owned(), error }
}
