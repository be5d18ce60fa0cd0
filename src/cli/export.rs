//! `get`: a file or a folder from the gateway to disk, resumed where it stopped.
//!
//! Folders are walked with verified blocks; files are streamed by range, several at a time. Each file is written to
//! `.tidegate-*.part` beside its place and renamed when it is whole, so a name that is there is complete. Names come from
//! strangers: each is checked, none may look like such a part, and nothing is written through a symbolic link.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use reqwest::StatusCode;
use reqwest::header::RANGE;
use tokio::io::AsyncWriteExt;

use super::connection::checked;
use super::content::{Content, begin, progress, within};
use super::error::{printable, say};
use super::remote_store::RemoteStore;
use super::{CliError, Common, Exit, GetArgs};
use crate::dag::directory::Entries;
use crate::dag::export::check_name;
use crate::ipld::unixfs::{self, Node};
use crate::ipld::{Block, Cid};
use crate::retriever::Session;

/// Files fetched at a time. The server shares its links among them; more only cost connections.
const PARALLEL_FILES: usize = 8;
const PART_PREFIX: &str = ".tidegate-";
/// Folders within folders (DESIGN.md §8: DAG depth).
const MAX_DEPTH: usize = 1024;

pub async fn get(common: &Common, args: GetArgs) -> Result<(), CliError> {
    let content = Content::open(common, &args.content).await?;
    let result = within(args.content.timeout, run(common, &content, args.output)).await;
    content.connection.close().await;
    let (path, files, bytes) = result?;
    if common.json {
        say(serde_json::json!({ "path": path, "files": files, "bytes": bytes }))
    } else {
        say(path.display())
    }
}

async fn run(common: &Common, content: &Content, output: Option<PathBuf>) -> Result<(PathBuf, u64, u64), CliError> {
    // The first request waits for providers; it says so on a terminal.
    let url = content.url_path();
    drop(begin(common, content, content.get(&url, "format=raw")).await?);
    let (resolved, session, store) = content.resolve().await?;
    let name = content.path.segments.last().cloned().unwrap_or_else(|| content.path.root());
    check_name(&name).map_err(|error| CliError::new(Exit::Refused, error))?;
    let target = match output {
        Some(path)
            if path.is_dir()
                && !matches!(unixfs::decode(&resolved.block), Ok(Node::Directory(_) | Node::HamtShard(_))) =>
        {
            path.join(&name)
        }
        Some(path) => path,
        None => PathBuf::from(&name),
    };
    let bar = progress(common, None);
    bar.set_message(printable(&name));
    let mut tree = Tree { session, store, bar, files: Vec::new(), links: Vec::new() };
    tree.collect(resolved.block, target.clone()).await?;
    let Tree { files, links, bar, .. } = tree;
    let count = files.len() as u64;
    let bytes: u64 = futures::stream::iter(files)
        .map(|(cid, path)| download(content, cid, path, &bar))
        .buffer_unordered(PARALLEL_FILES)
        .try_fold(0, |sum, bytes| async move { Ok(sum + bytes) })
        .await?;
    for (link, to) in links {
        make_link(&link, &to)?;
    }
    bar.finish_and_clear();
    Ok((target, count, bytes))
}

/// What a walk over a tree found to do.
struct Tree {
    session: Session,
    store: Arc<RemoteStore>,
    bar: ProgressBar,
    files: Vec<(Cid, PathBuf)>,
    /// Made last: no file is written once a link stands.
    links: Vec<(PathBuf, String)>,
}

impl Tree {
    /// Makes the folders and lists the files, without recursion.
    async fn collect(&mut self, root: Block, target: PathBuf) -> Result<(), CliError> {
        let mut todo = vec![(root, target, 0usize)];
        while let Some((block, path, depth)) = todo.pop() {
            if depth > MAX_DEPTH {
                return Err(CliError::new(Exit::Refused, format!("folders are nested over {MAX_DEPTH} deep")));
            }
            match unixfs::decode(&block).map_err(|error| CliError::failed(format!("{}: {error}", block.cid())))? {
                Node::File(_) => self.files.push((*block.cid(), path)),
                Node::Symlink(link) => self.links.push((path, link.target)),
                Node::Directory(_) | Node::HamtShard(_) => {
                    make_folder(&path)?;
                    let mut entries = Entries::new(self.session.clone(), &block).map_err(CliError::failed)?;
                    while let Some(entry) = entries.next().await {
                        let entry = entry
                            .map_err(|error| self.store.take_failure().unwrap_or_else(|| CliError::failed(error)))?;
                        check_name(&entry.name)
                            .map_err(|error| error.to_string())
                            .and_then(not_a_part(&entry.name))
                            .map_err(|error| {
                                CliError::new(
                                    Exit::Refused,
                                    format!("{}: {error}", printable(&path.display().to_string())),
                                )
                            })?;
                        let child = path.join(&entry.name);
                        if entry.cid.codec() == crate::ipld::codec::RAW {
                            self.files.push((entry.cid, child));
                            continue;
                        }
                        todo.push((self.fetch(&entry.cid).await?, child, depth + 1));
                    }
                }
            }
            self.bar.set_message(format!("{} files", self.files.len()));
        }
        Ok(())
    }

    async fn fetch(&self, cid: &Cid) -> Result<Block, CliError> {
        let fetched = self.session.fetch(cid).await;
        fetched.map_err(|error| self.store.take_failure().unwrap_or_else(|| CliError::new(Exit::NotFound, error)))
    }
}

/// One file, from where it stopped. The bytes that it has now.
async fn download(content: &Content, cid: Cid, path: PathBuf, bar: &ProgressBar) -> Result<u64, CliError> {
    refuse_link(&path)?;
    let part = part_name(&path, &cid);
    refuse_link(&part)?;
    let have = tokio::fs::metadata(&part).await.map(|meta| meta.len()).unwrap_or_default();
    let mut request = content.get(&format!("/ipfs/{cid}"), "");
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let response = request.send().await?;
    let (response, mut length) = match response.status() {
        // All of it was there when the last run stopped.
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => (None, have),
        StatusCode::PARTIAL_CONTENT => (Some(response), have),
        _ => (Some(checked(response).await?), 0),
    };
    let failed = |error: &std::io::Error| CliError::file(&part, error);
    let mut options = tokio::fs::OpenOptions::new();
    let options = options.create(true).write(true).append(length > 0).truncate(length == 0);
    let mut file = options.open(&part).await.map_err(|error| failed(&error))?;
    if let Some(response) = response {
        bar.inc(length);
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.try_next().await? {
            file.write_all(&bytes).await.map_err(|error| failed(&error))?;
            length += bytes.len() as u64;
            bar.inc(bytes.len() as u64);
        }
    }
    file.sync_data().await.map_err(|error| failed(&error))?;
    drop(file);
    tokio::fs::rename(&part, &path).await.map_err(|error| CliError::file(&path, &error))?;
    Ok(length)
}

/// The CID and the name are in the part's name: a part of other content, or of another file, is never continued.
fn part_name(path: &Path, cid: &Cid) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (path.file_name(), cid.to_bytes()).hash(&mut hasher);
    path.with_file_name(format!("{PART_PREFIX}{:016x}.part", hasher.finish()))
}

/// A folder must not plant the beginning of one of its files.
fn not_a_part(name: &str) -> impl FnOnce(()) -> Result<(), String> + '_ {
    move |()| match name.starts_with(PART_PREFIX) {
        true => Err(format!("an entry is named {:?} as an unfinished file of ours", printable(name))),
        false => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), CliError> {
    refuse_link(path)?;
    std::fs::create_dir_all(path).map_err(|error| CliError::file(path, &error))
}

/// Something that is there and is a link could lead anywhere.
fn refuse_link(path: &Path) -> Result<(), CliError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_symlink() => Err(CliError::new(
            Exit::Refused,
            format!("{} is a symbolic link and is not written through", path.display()),
        )
        .hint("remove it, or choose another --output")),
        _ => Ok(()),
    }
}

/// Links that stay within their folder are made; others are only told of.
fn make_link(path: &Path, to: &str) -> Result<(), CliError> {
    let inside = !to.is_empty() && to.split('/').all(|part| check_name(part).is_ok());
    if !inside {
        eprintln!(
            "skipped a link that leads out of the folder: {} -> {}",
            printable(&path.display().to_string()),
            printable(to)
        );
        return Ok(());
    }
    match std::os::unix::fs::symlink(to, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(CliError::file(path, &error)),
        _ => Ok(()),
    }
}
