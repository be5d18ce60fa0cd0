//! A resolved file or directory to disk.
//!
//! Names and symlink targets come from strangers (CVE-2020-26279, CVE-2020-26283; RELIABILITY.md §3.4 row 21): each is
//! checked, nothing is written outside the target, and nothing through a symlink inside it. Each file is written beside
//! its place under a name made of its CID and renamed when it is whole: a name that is there is complete, and what was
//! cut off goes on where it stopped.

use std::io;
use std::path::{Component, Path, PathBuf};

use futures::StreamExt;
use thiserror::Error;
use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::MAX_DEPTH;
use super::directory::{DirectoryError, Entries};
use super::reader::{FileReader, ReadError};
use super::resolver::{NodeKind, Resolved};
use crate::ipld::{Block, Cid};
use crate::retriever::{FetchError, Session};

/// The longest name of a file, in bytes (NAME_MAX of Linux, macOS and Windows).
const MAX_NAME: usize = 255;
/// How names of unfinished files start. No entry may be called so: what is found under such a name is trusted.
const PART_PREFIX: &str = ".tidegate-";

/// Why a name is not made a file of. The text shows it escaped.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("the name {shown:?} is refused: {reason}")]
pub struct NameError {
    shown: String,
    reason: &'static str,
}

#[derive(Debug, Error)]
pub enum ExportError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("symlink {} is refused: its target {target:?} leads out of the directory", path.display())]
    SymlinkTarget { path: PathBuf, target: String },
    #[error("{} is in the way", path.display())]
    InTheWay { path: PathBuf },
    #[error("{cid} is neither a file, a directory nor a symlink")]
    NotUnixFs { cid: Cid },
    #[error("{cid} is more than {MAX_DEPTH} directories deep")]
    TooDeep { cid: Cid },
    #[error("{}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// What was written. `resumed` bytes were there from an earlier try and count in `bytes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    pub files: u64,
    pub bytes: u64,
    pub resumed: u64,
}

/// Whether an entry's name may become the name of a file, on any system: not empty, `.` or `..`; no `/`, `\`, NUL or other
/// control character; no drive letter; at most 255 bytes.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    let reason = match name {
        "" => "it is empty",
        "." | ".." => "it means another directory",
        _ if name.contains(['/', '\\']) => "it holds a path separator",
        _ if name.chars().any(char::is_control) => "it holds a control character",
        _ if bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' => "it starts with a drive letter",
        _ if bytes.len() > MAX_NAME => "it is over 255 bytes long",
        _ => return Ok(()),
    };
    Err(NameError { shown: name.chars().take(64).collect(), reason })
}

/// Writes what `resolved` names to `target`. A file there is replaced when the new one is whole; a directory there is
/// filled, and entries of the same name in it replaced. `progress` is told after every chunk and entry.
///
/// Assumes that nobody else changes `target` meanwhile. Dropped midway, it leaves the unfinished file to be resumed.
pub async fn export(
    session: &Session,
    resolved: &Resolved,
    target: &Path,
    progress: &mut (dyn FnMut(&Path, &Exported) + Send),
) -> Result<Exported, ExportError> {
    let mut done = Exported::default();
    // Directories that are open, the innermost last.
    let mut open: Vec<(Entries, PathBuf)> = Vec::new();
    let mut next = Some((resolved.clone(), target.to_owned()));
    loop {
        if let Some((node, path)) = next.take() {
            match &node.kind {
                NodeKind::File { .. } => write_file(session, &node.block, &path, &mut done, progress).await?,
                NodeKind::Symlink { target } => write_symlink(&path, target, open.len())?,
                NodeKind::Directory | NodeKind::HamtDirectory => {
                    if open.len() >= MAX_DEPTH {
                        return Err(ExportError::TooDeep { cid: node.cid });
                    }
                    make_directory(&path, open.is_empty()).await?;
                    open.push((Entries::new(session.clone(), &node.block)?, path));
                    continue;
                }
                NodeKind::Other { .. } => return Err(ExportError::NotUnixFs { cid: node.cid }),
            }
            progress(&path, &done);
        }
        let Some((entries, folder)) = open.last_mut() else { return Ok(done) };
        match entries.next().await {
            None => {
                open.pop();
            }
            Some(entry) => {
                let entry = entry?;
                check_name(&entry.name)?;
                if entry.name.starts_with(PART_PREFIX) {
                    return Err(NameError { shown: entry.name, reason: "unfinished files are called so" }.into());
                }
                let path = folder.join(&entry.name);
                next = Some((Resolved::of_block(session.fetch(&entry.cid).await?), path));
            }
        }
    }
}

/// The directory at `path`, made if it is not there. Only the target itself may be reached through a symlink.
async fn make_directory(path: &Path, is_target: bool) -> Result<(), ExportError> {
    let found = if is_target { fs::metadata(path).await } else { fs::symlink_metadata(path).await };
    match found {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(ExportError::InTheWay { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir(path).await.map_err(|error| write_error(path, error))
        }
        Err(error) => Err(write_error(path, error)),
    }
}

async fn write_file(
    session: &Session,
    root: &Block,
    path: &Path,
    done: &mut Exported,
    progress: &mut (dyn FnMut(&Path, &Exported) + Send),
) -> Result<(), ExportError> {
    if fs::symlink_metadata(path).await.is_ok_and(|found| found.is_dir()) {
        return Err(ExportError::InTheWay { path: path.to_owned() });
    }
    let part = part_path(path, root.cid());
    let failed = |error| write_error(&part, error);
    let size = super::reader::file_size(root)?;
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut file = options.open(&part).await.map_err(failed)?;
    let found = file.metadata().await.map_err(failed)?;
    if !found.is_file() {
        return Err(ExportError::InTheWay { path: part });
    }
    let mut have = found.len();
    if have > size {
        file.set_len(0).await.map_err(failed)?;
        have = 0;
    }
    done.resumed += have;
    done.bytes += have;
    let mut reader = FileReader::new(session.clone(), root, have..size)?;
    while let Some(chunk) = reader.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                // What came before the failure is good: keep it for the next try.
                file.flush().await.map_err(failed)?;
                return Err(error.into());
            }
        };
        file.write_all(&chunk).await.map_err(failed)?;
        have += chunk.len() as u64;
        done.bytes += chunk.len() as u64;
        progress(path, done);
    }
    file.flush().await.map_err(failed)?;
    let written = file.metadata().await.map_err(failed)?.len();
    if written != size || have != size {
        return Err(write_error(&part, io::Error::other(format!("{written} bytes were written of {size}"))));
    }
    drop(file);
    fs::rename(&part, path).await.map_err(|error| write_error(path, error))?;
    done.files += 1;
    Ok(())
}

/// Where a file is written before it is whole. The CID in the name says what the bytes belong to.
fn part_path(path: &Path, cid: &Cid) -> PathBuf {
    let text = crate::ipld::cid::canonical(cid);
    // Identity CIDs are long, and files of up to 128 bytes.
    let tail = &text[text.len().saturating_sub(64)..];
    path.with_file_name(format!("{PART_PREFIX}{tail}.part"))
}

/// `depth` is how many directories the link lies under the target: it may climb that many less one.
fn write_symlink(path: &Path, target: &str, depth: usize) -> Result<(), ExportError> {
    let refused = || ExportError::SymlinkTarget { path: path.to_owned(), target: target.to_owned() };
    let mut level = depth as i64 - 1;
    for component in Path::new(target).components() {
        match component {
            Component::CurDir => {}
            // Climbing is allowed at the start only: behind a name, it could climb from where another link leads.
            Component::ParentDir if level > 0 => level -= 1,
            Component::Normal(name) if name.to_str().is_some_and(|name| check_name(name).is_ok()) => level = 0,
            _ => return Err(refused()),
        }
    }
    if target.is_empty() || depth == 0 {
        return Err(refused());
    }
    make_symlink(path, target)
}

#[cfg(unix)]
fn make_symlink(path: &Path, target: &str) -> Result<(), ExportError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Err(ExportError::InTheWay { path: path.to_owned() }),
        Ok(_) => std::fs::remove_file(path).map_err(|error| write_error(path, error))?,
        Err(_) => {}
    }
    std::os::unix::fs::symlink(target, path).map_err(|error| write_error(path, error))
}

#[cfg(not(unix))]
fn make_symlink(path: &Path, _target: &str) -> Result<(), ExportError> {
    Err(write_error(path, io::Error::from(io::ErrorKind::Unsupported)))
}

fn write_error(path: &Path, error: io::Error) -> ExportError {
    ExportError::Write { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_or_hurt_a_terminal_are_refused() {
        let long = "x".repeat(64 << 10);
        for name in [
            "", ".", "..", "../../x", "/abs", "a\0b", "\x1b[2J", "a\r\nb", "C:\\", "C:x", "a\\b", "a/b", "\u{9b}2J",
            &long,
        ] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(!error.chars().any(char::is_control) && error.len() < 1000, "{error}");
        }
        for name in ["a", "...", ".hidden", "ünïcödé", "10:30.txt", "a b", "-rf", &"x".repeat(255)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }
}
