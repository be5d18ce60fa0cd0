//! A batch of blocks onto the disk: write and sync files in parallel, rename, sync directories once.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use futures::future::join_all;

use super::super::StoreError;
use super::{Inner, blocking, shards};
use crate::ipld::{Block, Multihash};

/// The directory of temporary files under `blocks`.
pub(super) const TEMP: &str = "tmp";

/// A written and synced file that has no name yet; removed when it does not get one.
#[derive(Debug)]
struct Temp {
    path: PathBuf,
    renamed: bool,
}

/// How far a block of the batch is.
enum Ready {
    /// A file of the right size was there.
    Present(Block),
    Written(Block, Temp),
}

pub(super) async fn put(inner: &Arc<Inner>, mut blocks: Vec<Block>) -> Result<(), StoreError> {
    let mut seen: HashSet<Multihash> = HashSet::with_capacity(blocks.len());
    // A block that lies in its own CID needs no place.
    blocks.retain(|block| Block::inherent(block.cid()).is_none() && seen.insert(*block.cid().hash()));
    if blocks.is_empty() {
        return Ok(());
    }
    let share = blocks.len().div_ceil(inner.threads);
    let mut parts = Vec::new();
    while !blocks.is_empty() {
        let part = blocks.split_off(blocks.len().saturating_sub(share));
        let inner = inner.clone();
        let writers = inner.writers.clone();
        parts.push(async move { blocking(&writers, move || write_all(&inner, part)).await? });
    }
    let mut ready = Vec::new();
    for part in join_all(parts).await {
        ready.extend(part?);
    }
    let committing = inner.clone();
    let directories = blocking(&inner.writers, move || rename_all(&committing, ready)).await??;
    sync_directories(inner, directories.to_sync).await?;
    inner.publish();
    // A batch beside this one may have failed to sync what this one took for stored.
    directories.trusted.iter().try_for_each(|directory| inner.check_trusted(directory))
}

fn write_all(inner: &Inner, blocks: Vec<Block>) -> Result<Vec<Ready>, StoreError> {
    blocks
        .into_iter()
        .map(|block| {
            if inner.size_of(block.cid().hash()) == Some(block.len() as u64) {
                return Ok(Ready::Present(block));
            }
            let temp = write_temp(inner, &block)?;
            Ok(Ready::Written(block, temp))
        })
        .collect()
}

fn write_temp(inner: &Inner, block: &Block) -> Result<Temp, StoreError> {
    let number = inner.next_temp.fetch_add(1, Ordering::Relaxed);
    let path = inner.root.join(TEMP).join(format!("{}-{number}", std::process::id()));
    let temp = Temp { path, renamed: false };
    let write = || -> io::Result<()> {
        let mut file = create(&temp.path)?;
        file.write_all(block.data())?;
        file.sync_all()
    };
    write().map_err(|error| StoreError::at(&inner.root, error))?;
    Ok(temp)
}

/// The temporary directory is made at open; it is made again when the disk was full or read-only then.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            options.open(path)
        }
        other => other,
    }
}

/// The directories of a batch.
#[derive(Default)]
struct Directories {
    to_sync: BTreeSet<PathBuf>,
    /// Those in which a file was found and not written.
    trusted: BTreeSet<PathBuf>,
}

/// Gives the files their names. When one fails, those before it stay: they are whole, only not acknowledged.
fn rename_all(inner: &Inner, ready: Vec<Ready>) -> Result<Directories, StoreError> {
    let mut directories = Directories::default();
    for item in ready {
        match item {
            Ready::Present(block) => rename(inner, &block, None, &mut directories)?,
            Ready::Written(block, temp) => rename(inner, &block, Some(temp), &mut directories)?,
        }
    }
    Ok(directories)
}

/// Gives one block its name. A block that was present a moment ago is written if it has gone, or if its directory is
/// suspect.
fn rename(
    inner: &Inner,
    block: &Block,
    mut temp: Option<Temp>,
    directories: &mut Directories,
) -> Result<(), StoreError> {
    let hash = block.cid().hash();
    let path = shards::path(&inner.root, hash);
    // `path` is root/first/second/name, so both parents exist.
    let second = path.parent().unwrap_or(&inner.root).to_path_buf();
    let first = second.parent().unwrap_or(&inner.root).to_path_buf();
    for (directory, parent) in [(&first, &inner.root), (&second, &first)] {
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(StoreError::at(&path, error)),
            _ => {}
        }
        // Renaming again does not help where the shard's own name may be lost.
        inner.check_trusted(parent)?;
        // What was there may belong to a batch whose directories are not synced yet, so they are synced in any case.
        directories.to_sync.insert(parent.clone());
    }
    directories.to_sync.insert(second.clone());
    let present = inner.size_of(hash) == Some(block.len() as u64);
    if temp.is_none() && !(present && inner.check_trusted(&second).is_ok()) {
        temp = Some(write_temp(inner, block)?);
    }
    let Some(mut temp) = temp else {
        directories.trusted.insert(second);
        return Ok(());
    };
    let change = || {
        inner.shards.lock(hash, |shard| {
            let old = fs::symlink_metadata(&path).ok().map(|meta| meta.len());
            fs::rename(&temp.path, &path)?;
            temp.renamed = true;
            shard.stored(block.len() as u64, old);
            Ok(())
        })
    };
    inner.changes.change(&inner.root, change)?.map_err(|error| StoreError::at(&path, error))
}

impl Inner {
    fn check_trusted(&self, directory: &Path) -> Result<(), StoreError> {
        if self.suspect.lock().unwrap_or_else(PoisonError::into_inner).contains(directory) {
            return Err(StoreError::at(directory, io::Error::other("an earlier sync of this directory failed")));
        }
        Ok(())
    }
}

async fn sync_directories(inner: &Arc<Inner>, directories: BTreeSet<PathBuf>) -> Result<(), StoreError> {
    let mut directories: Vec<PathBuf> = directories.into_iter().collect();
    let share = directories.len().div_ceil(inner.threads);
    let mut parts = Vec::new();
    while !directories.is_empty() {
        let part = directories.split_off(directories.len().saturating_sub(share));
        let inner = inner.clone();
        let writers = inner.writers.clone();
        let sync = move |directory: &PathBuf| {
            File::open(directory).and_then(|opened| opened.sync_all()).map_err(|error| {
                inner.suspect.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.clone());
                StoreError::at(directory, error)
            })
        };
        parts.push(async move { blocking(&writers, move || part.iter().try_for_each(sync)).await? });
    }
    join_all(parts).await.into_iter().collect()
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}
