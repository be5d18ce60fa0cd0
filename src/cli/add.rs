//! `add`: a file, a folder or standard input, streamed to the REST API as it is read.
//!
//! A file travels as a raw body; a folder as multipart/form-data with one part an entry, named by its path. What is
//! listed first is what is sent: an entry that changes meanwhile is an error, never a silent half.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, Method};
use serde::Deserialize;
use tokio_util::io::ReaderStream;

use super::connection::{Connection, Network};
use super::content::progress;
use super::error::say;
use super::{AddArgs, CliError, Common};

const CHUNK: usize = 256 * 1024;
/// Ends a part. Random enough not to occur in files by chance: the name and 128 bits.
const BOUNDARY_PREFIX: &str = "tidegate-";

#[derive(Debug, Deserialize)]
struct Added {
    cid: String,
    size: u64,
    blocks: u64,
}

pub async fn add(common: &Common, args: AddArgs) -> Result<(), CliError> {
    let profile =
        args.profile.as_deref().map(|name| format!("?profile={}", utf8_percent_encode(name, NON_ALPHANUMERIC)));
    let upload = Upload::of(&args)?;
    let connection = Connection::open(common, Network::Local).await?;
    let bar = progress(common, upload.total());
    bar.set_message("adding");
    let request = connection.api(Method::POST, &format!("add{}", profile.unwrap_or_default()));
    let request = match upload {
        Upload::Stdin => {
            request.body(Body::wrap_stream(counted(ReaderStream::with_capacity(tokio::io::stdin(), CHUNK), &bar)))
        }
        Upload::File { path, .. } => {
            let file = tokio::fs::File::open(&path).await.map_err(|error| CliError::file(&path, &error))?;
            request.body(Body::wrap_stream(counted(ReaderStream::with_capacity(file, CHUNK), &bar)))
        }
        Upload::Folder { entries, .. } => {
            let boundary = format!("{BOUNDARY_PREFIX}{:032x}", rand::random::<u128>());
            request
                .header("Content-Type", format!("multipart/form-data; boundary={boundary}"))
                .body(Body::wrap_stream(parts(entries, boundary, bar.clone())))
        }
    };
    let added: Result<Added, CliError> = connection.json(request).await;
    bar.finish_and_clear();
    connection.close().await;
    let added = added?;
    if common.json {
        say(serde_json::json!({ "cid": added.cid, "size": added.size, "blocks": added.blocks }))
    } else {
        if !args.quiet {
            let size = crate::units::ByteSize(added.size).human();
            say(format_args!("added {size} in {} blocks", added.blocks))?;
        }
        say(added.cid)
    }
}

/// What there is to send.
enum Upload {
    Stdin,
    File { path: PathBuf, size: u64 },
    Folder { entries: Vec<Entry>, size: u64 },
}

/// One part.
struct Entry {
    path: PathBuf,
    /// Relative, `/` between segments, percent-encoded.
    name: String,
    kind: Kind,
}

enum Kind {
    File { size: u64 },
    Folder,
    Link { target: String },
}

impl Upload {
    fn of(args: &AddArgs) -> Result<Self, CliError> {
        let path = &args.path;
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let meta = std::fs::metadata(path).map_err(|error| CliError::file(path, &error))?;
        if !meta.is_dir() {
            return Ok(Self::File { path: path.clone(), size: meta.len() });
        }
        if !args.recursive {
            return Err(
                CliError::usage(format!("{} is a folder", path.display())).hint("add -r adds it with all it holds")
            );
        }
        let entries = list(path, args.hidden)?;
        let size = entries.iter().map(|entry| if let Kind::File { size } = entry.kind { size } else { 0 }).sum();
        Ok(Self::Folder { entries, size })
    }

    fn total(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            Self::File { size, .. } | Self::Folder { size, .. } => Some(*size),
        }
    }
}

/// Everything under `root`, the folder itself first, without following links and without recursion.
fn list(root: &Path, hidden: bool) -> Result<Vec<Entry>, CliError> {
    // The root's own name does not enter the CID; it only keeps all entries under one top.
    let mut entries = vec![Entry { path: root.to_owned(), name: "root".to_owned(), kind: Kind::Folder }];
    let mut todo = vec![(root.to_owned(), "root".to_owned())];
    while let Some((folder, prefix)) = todo.pop() {
        let failed = |error: std::io::Error| CliError::file(&folder, &error);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                CliError::failed(format!("{}: the name is not UTF-8, which UnixFS needs", path.display()))
                    .hint("rename it")
            })?;
            if !hidden && name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
            let meta = entry.metadata().map_err(|error| CliError::file(&path, &error))?;
            let kind = if meta.is_symlink() {
                let target = std::fs::read_link(&path).map_err(|error| CliError::file(&path, &error))?;
                Kind::Link { target: target.to_string_lossy().into_owned() }
            } else if meta.is_dir() {
                todo.push((path.clone(), name.clone()));
                Kind::Folder
            } else if meta.is_file() {
                Kind::File { size: meta.len() }
            } else {
                return Err(CliError::failed(format!("{}: not a file, folder or symbolic link", path.display())));
            };
            entries.push(Entry { path, name, kind });
        }
    }
    Ok(entries)
}

fn counted<S>(stream: S, bar: &ProgressBar) -> impl Stream<Item = std::io::Result<Bytes>> + use<S>
where
    S: Stream<Item = std::io::Result<Bytes>>,
{
    let bar = bar.clone();
    stream.inspect_ok(move |bytes| bar.inc(bytes.len() as u64))
}

/// The multipart body, RFC 7578.
fn parts(entries: Vec<Entry>, boundary: String, bar: ProgressBar) -> impl Stream<Item = std::io::Result<Bytes>> {
    let end = Bytes::from(format!("--{boundary}--\r\n"));
    let parts = futures::stream::iter(entries).then(move |entry| {
        let (boundary, bar) = (boundary.clone(), bar.clone());
        async move { part(entry, &boundary, &bar).await }
    });
    parts.try_flatten().chain(futures::stream::iter([Ok(end)]))
}

async fn part(
    entry: Entry,
    boundary: &str,
    bar: &ProgressBar,
) -> std::io::Result<futures::stream::BoxStream<'static, std::io::Result<Bytes>>> {
    let kind = match entry.kind {
        Kind::File { .. } => "application/octet-stream",
        Kind::Folder => "application/x-directory",
        Kind::Link { .. } => "application/symlink",
    };
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\nContent-Type: {kind}\r\n\r\n",
        entry.name
    );
    let whole = |body: Bytes| futures::stream::iter([Ok(body)]).boxed();
    let tail = whole(Bytes::from_static(b"\r\n"));
    let head = whole(Bytes::from(head));
    Ok(match entry.kind {
        Kind::Folder => head.chain(tail).boxed(),
        Kind::Link { target } => head.chain(whole(Bytes::from(target))).chain(tail).boxed(),
        Kind::File { .. } => {
            let named =
                |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", entry.path.display()));
            let file = tokio::fs::File::open(&entry.path).await.map_err(named)?;
            head.chain(counted(ReaderStream::with_capacity(file, CHUNK), bar)).chain(tail).boxed()
        }
    })
}
