//! A file or directory as one archive, streamed: TAR (IPIP-288) and ZIP.
//!
//! Names come from strangers. Each is resolved within the archive's one top folder, which is named by the CID: what leads
//! out of it, what a system reads as another place, and what lies behind a symlink ends the archive with an error.

mod tar;
mod zip;

use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::Stream;
use thiserror::Error;
use tokio::sync::mpsc;

use super::MAX_DEPTH;
use super::directory::{DirectoryError, Entries};
use super::export::{NameError, check_name};
use super::reader::{FileReader, ReadError, file_size};
use super::resolver::{NodeKind, Resolved};
use crate::denylist::{Judge, Refused};
use crate::ipld::Cid;
use crate::ipld::unixfs::Mtime;
use crate::retriever::{FetchError, Hint, Session};

/// Entries of one archive: a ZIP remembers each until its end.
const MAX_ENTRIES: u64 = 500_000;
/// Symlinks of one archive, which are remembered so that nothing is put behind them.
const MAX_SYMLINKS: usize = 100_000;
/// The largest entry that is asked for before its turn, in bytes: a leaf and what stands around it.
const SMALL: u64 = 300 << 10;
/// Such entries at once.
const MAX_AHEAD: usize = 256;
/// The longest path of an entry, in bytes (PATH_MAX of Linux).
const MAX_PATH: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    Tar,
    Zip,
}

#[derive(Debug, Clone, Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the entry {shown:?} is refused: it leads out of the archive's folder")]
    Escape { shown: String },
    #[error("the entry {shown:?} is refused: it lies behind a symlink")]
    BehindSymlink { shown: String },
    #[error("the symlink {shown:?} is refused: its target leads out of the archive's folder")]
    SymlinkTarget { shown: String },
    #[error("{cid} is neither a file, a directory nor a symlink")]
    NotUnixFs { cid: Cid },
    #[error("{cid} is more than {MAX_DEPTH} directories deep")]
    TooDeep { cid: Cid },
    #[error("the archive would have more than {MAX_ENTRIES} entries or {MAX_SYMLINKS} symlinks")]
    TooLarge,
    #[error("the path of an entry, {shown:?}, is over {MAX_PATH} bytes long")]
    PathTooLong { shown: String },
    /// An entry whose path is refused.
    #[error(transparent)]
    Denied(#[from] Refused),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// What an entry of an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    /// So many bytes follow.
    File(u64),
    Directory,
    Symlink(&'a str),
}

/// One entry, before its bytes.
#[derive(Debug, Clone, Copy)]
struct Head<'a> {
    /// Without a slash at its end.
    path: &'a str,
    kind: Kind<'a>,
    mode: Option<u32>,
    mtime: Option<Mtime>,
}

/// The bytes of an archive, as a [`Stream`] that ends after an error. The chunks have no meaning.
///
/// Cancel safe: dropping it takes its wants back.
pub struct Archive {
    writing: Option<BoxFuture<'static, Result<(), ArchiveError>>>,
    chunks: mpsc::Receiver<Bytes>,
    failed: Option<ArchiveError>,
}

impl Archive {
    /// The archive of what `resolved` names, in one folder (or as one file) called after its CID. `judge` stands there, and
    /// is asked about each entry.
    pub fn new(session: Session, resolved: &Resolved, kind: ArchiveKind, judge: Judge) -> Self {
        let (sender, chunks) = mpsc::channel(1);
        let root = resolved.clone();
        let writing = Box::pin(async move {
            let mut writer = match kind {
                ArchiveKind::Tar => Writer { format: Format::Tar, out: sender },
                ArchiveKind::Zip => Writer { format: Format::Zip(zip::Zip::default()), out: sender },
            };
            write(&session, root, judge, &mut writer).await
        });
        Self { writing: Some(writing), chunks, failed: None }
    }
}

impl Stream for Archive {
    type Item = Result<Bytes, ArchiveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(Some(chunk)) = self.chunks.poll_recv(cx) {
                return Poll::Ready(Some(Ok(chunk)));
            }
            let Some(writing) = &mut self.writing else { return Poll::Ready(self.failed.take().map(Err)) };
            match writing.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    self.failed = result.err();
                    self.writing = None;
                }
                // It has written a chunk, or it waits for blocks.
                Poll::Pending => match self.chunks.poll_recv(cx) {
                    Poll::Ready(Some(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                    _ => return Poll::Pending,
                },
            }
        }
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("done", &self.writing.is_none()).finish_non_exhaustive()
    }
}

async fn write(session: &Session, root: Resolved, mut judge: Judge, writer: &mut Writer) -> Result<(), ArchiveError> {
    let top = root.cid.to_string();
    let mut places = Places { entries: 0, symlinks: HashSet::new() };
    let mut open: Vec<Folder> = Vec::new();
    let mut next = Some((root, vec![top]));
    loop {
        if let Some((node, place)) = next.take() {
            let path = places.take(&place)?;
            let head = |kind| Head { path: &path, kind, mode: node.mode, mtime: node.mtime };
            match &node.kind {
                NodeKind::File { .. } => {
                    let size = file_size(&node.block)?;
                    let reader = FileReader::whole(session.clone(), &node.block)?;
                    writer.file(head(Kind::File(size)), reader).await?;
                }
                NodeKind::Symlink { target } => {
                    check_target(&place, target)?;
                    places.symlink(&path)?;
                    writer.entry(head(Kind::Symlink(target))).await;
                }
                NodeKind::Directory | NodeKind::HamtDirectory => {
                    if open.len() >= MAX_DEPTH {
                        return Err(ArchiveError::TooDeep { cid: node.cid });
                    }
                    writer.entry(head(Kind::Directory)).await;
                    judge.is_cid(&node.cid);
                    open.push(Folder {
                        entries: Entries::new(session.clone(), &node.block)?.knowing(MAX_AHEAD),
                        place,
                        asked: 0,
                    });
                    // What follows is below it.
                    continue;
                }
                NodeKind::Other { .. } => return Err(ArchiveError::NotUnixFs { cid: node.cid }),
            }
            judge.leave();
        }
        let Some(folder) = open.last_mut() else { break };
        folder.look_ahead(session);
        match folder.entries.next().await {
            None => {
                open.pop();
                judge.leave();
            }
            Some(entry) => {
                let entry = entry?;
                folder.asked = folder.asked.saturating_sub(1);
                let place = join(&folder.place, &entry.name)?;
                judge.enter(&entry.name);
                judge.verdict()?;
                next = Some((Resolved::of_block(session.fetch(&entry.cid).await?), place));
            }
        }
    }
    writer.end().await;
    Ok(())
}

/// A folder that is being written.
struct Folder {
    entries: Entries,
    place: Vec<String>,
    /// So many of the entries that come next are asked for.
    asked: usize,
}

impl Folder {
    /// Asks for the small entries that come next, so that a folder of many does not cost a round trip for each. Up to the first
    /// large one: its own parts are what is to be asked for when its turn comes. Half of the read-ahead is left to files.
    fn look_ahead(&mut self, session: &Session) {
        let mut budget = session.read_ahead() / 2;
        let mut hints = Vec::new();
        for (index, entry) in self.entries.known().take(MAX_AHEAD).enumerate() {
            // What the writer claims; a lie costs a hint.
            let Some(size) = entry.tsize.filter(|size| *size <= SMALL && *size <= budget) else { break };
            budget -= size;
            if index >= self.asked {
                self.asked = index + 1;
                hints.push(Hint { cid: entry.cid, size: Some(size) });
            }
        }
        if !hints.is_empty() {
            session.prefetch(hints);
        }
    }
}

/// Where an entry belongs: its name may lead through `..`, as long as it stays within the top folder.
fn join(folder: &[String], name: &str) -> Result<Vec<String>, ArchiveError> {
    let escape = || ArchiveError::Escape { shown: name.chars().take(64).collect() };
    let mut place = folder.to_vec();
    if name.ends_with("..") {
        // It would be put where a folder is already.
        check_name(name.rsplit('/').next().unwrap_or(name))?;
    }
    for part in name.split('/') {
        if part == ".." {
            if place.len() <= 1 {
                return Err(escape());
            }
            place.pop();
        } else {
            check_name(part)?;
            place.push(part.to_owned());
        }
    }
    if place.len() <= 1 { Err(escape()) } else { Ok(place) }
}

fn check_target(place: &[String], target: &str) -> Result<(), ArchiveError> {
    let refused = || ArchiveError::SymlinkTarget { shown: place.join("/").chars().take(128).collect() };
    // Levels below the top folder of the folder that the link lies in.
    let mut level = place.len() as i64 - 2;
    let mut below = false;
    if target.is_empty() || target.starts_with('/') || place.len() < 2 {
        return Err(refused());
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            // Behind a name, climbing could start from where another link leads.
            ".." if level > 0 && !below => level -= 1,
            ".." => return Err(refused()),
            name => {
                check_name(name).map_err(|_| refused())?;
                below = true;
            }
        }
    }
    Ok(())
}

/// What has been put where.
struct Places {
    entries: u64,
    symlinks: HashSet<String>,
}

impl Places {
    fn take(&mut self, place: &[String]) -> Result<String, ArchiveError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ArchiveError::TooLarge);
        }
        let path = place.join("/");
        if path.len() > MAX_PATH {
            return Err(ArchiveError::PathTooLong { shown: path.chars().take(64).collect() });
        }
        let mut ancestors = path.match_indices('/').map(|(at, _)| &path[..at]);
        if ancestors.any(|above| self.symlinks.contains(above)) || self.symlinks.contains(&path) {
            return Err(ArchiveError::BehindSymlink { shown: path.chars().take(128).collect() });
        }
        Ok(path)
    }

    fn symlink(&mut self, path: &str) -> Result<(), ArchiveError> {
        if self.symlinks.len() == MAX_SYMLINKS {
            return Err(ArchiveError::TooLarge);
        }
        self.symlinks.insert(path.to_owned());
        Ok(())
    }
}

struct Writer {
    format: Format,
    out: mpsc::Sender<Bytes>,
}

enum Format {
    Tar,
    Zip(zip::Zip),
}

impl Writer {
    /// A directory or a symlink.
    async fn entry(&mut self, head: Head<'_>) {
        let bytes = match &mut self.format {
            Format::Tar => tar::head(&head),
            Format::Zip(zip) => zip.small(
                &head,
                match head.kind {
                    Kind::Symlink(target) => target.as_bytes(),
                    _ => &[],
                },
            ),
        };
        self.send(bytes.into()).await;
    }

    async fn file(&mut self, head: Head<'_>, mut reader: FileReader) -> Result<(), ArchiveError> {
        let size = reader.size();
        if let Format::Zip(zip) = &mut self.format
            && size <= zip::WHOLE
        {
            // Its checksum goes before it, so that readers without the directory at the end can check it too.
            let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
            while let Some(chunk) = reader.next().await {
                data.extend_from_slice(&chunk?);
            }
            let bytes = zip.small(&head, &data);
            self.send(bytes.into()).await;
            return Ok(());
        }
        let start = match &mut self.format {
            Format::Tar => tar::head(&head),
            Format::Zip(zip) => zip.begin(&head),
        };
        self.send(start.into()).await;
        while let Some(chunk) = reader.next().await {
            let chunk = chunk?;
            if let Format::Zip(zip) = &mut self.format {
                zip.data(&chunk);
            }
            self.send(chunk).await;
        }
        let end = match &mut self.format {
            Format::Tar => tar::padding(size),
            Format::Zip(zip) => zip.finish(),
        };
        self.send(end.into()).await;
        Ok(())
    }

    async fn end(&mut self) {
        let end = match &mut self.format {
            Format::Tar => tar::end(),
            Format::Zip(zip) => zip.directory(),
        };
        self.send(end.into()).await;
    }

    async fn send(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            // The other half lives as long as this future does: `Archive` holds both.
            let _ = self.out.send(bytes).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &str, name: &str) -> Option<String> {
        let folder: Vec<String> = folder.split('/').map(str::to_owned).collect();
        join(&folder, name).ok().map(|place| place.join("/"))
    }

    #[test]
    fn entries_and_symlinks_have_a_bound() {
        let mut places = Places { entries: 0, symlinks: HashSet::new() };
        let place = ["cid".to_owned()];
        for _ in 0..MAX_ENTRIES {
            places.take(&place).unwrap();
        }
        assert!(matches!(places.take(&place), Err(ArchiveError::TooLarge)));
        for k in 0..MAX_SYMLINKS {
            places.symlink(&k.to_string()).unwrap();
        }
        assert!(matches!(places.symlink("one more"), Err(ArchiveError::TooLarge)));
    }

    #[test]
    fn names_stay_within_the_top_folder() {
        for (folder, name, expected) in [
            ("cid", "a", Some("cid/a")),
            ("cid/foo/dir", "../file", Some("cid/foo/file")),
            ("cid/foo", "a/b", Some("cid/foo/a/b")),
            ("cid", "../foo", None),
            ("cid/foo", "../../foo", None),
            ("cid/foo", "..", None),
            ("cid/foo", "../..", None),
            ("cid/foo/dir", "..", None),
            ("cid/foo/dir", "a/..", None),
            ("cid/foo", "a..", Some("cid/foo/a..")),
            ("cid", "/etc/passwd", None),
            ("cid", "", None),
            ("cid", "a//b", None),
            ("cid", "a\\..\\b", None),
            ("cid", "C:\\x", None),
            ("cid", "a\nb", None),
            ("cid", "a\0", None),
            ("cid", ".", None),
        ] {
            assert_eq!(at(folder, name).as_deref(), expected, "{name} in {folder}");
        }
    }

    #[test]
    fn symlinks_lead_nowhere_else_and_nothing_lies_behind_them() {
        let place = |text: &str| -> Vec<String> { text.split('/').map(str::to_owned).collect() };
        for (from, target, allowed) in [
            ("cid/a", "b", true),
            ("cid/d/a", "../b", true),
            ("cid/d/a", "./b/c", true),
            ("cid/a", "../b", false),
            ("cid/d/a", "../../b", false),
            ("cid/d/a", "b/../../../c", false),
            ("cid/a", "/etc/passwd", false),
            ("cid/a", "", false),
            ("cid", "b", false),
        ] {
            assert_eq!(check_target(&place(from), target).is_ok(), allowed, "{from} -> {target}");
        }
        let mut places = Places { entries: 0, symlinks: HashSet::new() };
        places.symlink("cid/a").unwrap();
        assert!(places.take(&place("cid/ab/c")).is_ok());
        assert!(places.take(&place("cid/a/b")).is_err() && places.take(&place("cid/a")).is_err());
    }
}
