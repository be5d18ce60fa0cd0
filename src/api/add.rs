//! `POST /add` and `POST /car`: content into the durable store, pinned before the answer.
//!
//! `POST /add` takes either
//! - a raw body: one file; `?filename=` names it, `?wrap=true` puts it into a directory under that name; or
//! - `multipart/form-data`: each part with a `filename` is an entry of a tree, under that relative path, in any order
//!   (as Kubo's `add`: the name percent-encoded or plain, a part of type `application/x-directory` is an empty
//!   directory, one of `application/symlink` a symlink whose body is its target). One entry at the top is the result;
//!   several are put into a directory, as is one with `?wrap=true`.
//!
//! Both: `?profile=` names a UnixFS profile, `?pin=false` leaves it unpinned (`gc` may take it).

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use multer::{Field, Multipart};
use serde::{Deserialize, Serialize};
use tokio_util::io::StreamReader;
use utoipa::{IntoParams, ToSchema};

use super::State;
use super::extract::{Query, fresh};
use super::openapi::{Binary, Tree};
use super::pins::recursive;
use super::problem::Problem;
use crate::blockstore::{Blockstore, MAX_PIN_NAME};
use crate::dag::MAX_DEPTH;
use crate::dag::import::{self, Added, ImportError, Importer};
use crate::ipld::Cid;
use crate::ipld::builder::{BuildError, Built, DirBuilder, Profile};

/// Entries of one multipart request; some 200 bytes of memory each.
const MAX_ENTRIES: u64 = 1_000_000;
/// Bytes of an entry's path (DESIGN.md §8).
const MAX_PATH: usize = 8 << 10;
/// How long a refused upload is still read: a client that is not done sending would otherwise see its connection reset
/// and never the reason.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes of a symlink's target.
const MAX_TARGET: usize = 4 << 10;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AddAsked {
    /// UnixFS profile (IPIP-499): `kubo-v1`, `unixfs-v1-2025` or `unixfs-v0-2015`.
    #[param(pattern = "^(kubo-v1|unixfs-v1-2025|unixfs-v0-2015)$")]
    profile: Option<String>,
    /// The pin's name, and the entry's with `wrap`.
    #[param(max_length = 255, example = "hello.txt")]
    filename: Option<String>,
    /// Put the result into a directory; a raw body then needs a `filename`.
    #[param(required = false)]
    wrap: bool,
    /// Default true; false leaves it unpinned: the next `gc` may take it.
    pin: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Added)]
pub struct Answer {
    #[schema(example = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq")]
    cid: String,
    /// Bytes of file content.
    size: u64,
    /// Blocks written.
    blocks: u64,
    /// Files, symlinks and directories.
    entries: u64,
    pinned: bool,
}

/// Store a file or a tree, durable and pinned before the answer
///
/// A raw body is one file. In `multipart/form-data` each part with a `filename` is an entry of a tree under that relative
/// path; type `application/x-directory` is an empty directory, `application/symlink` a link whose body is its target.
/// One entry at the top is the result, several are put into a directory.
#[utoipa::path(
    post, path = "/add", tag = "content", params(AddAsked),
    request_body(
        content((Binary = "application/octet-stream"), (Tree = "multipart/form-data")),
        description = "One file as it is, or the entries of a tree"
    ),
    responses(
        (status = 200, body = Answer),
        (status = 409, description = "The store is busy."),
        (status = 413, description = "More than 1,000,000 entries, or a symlink's target over 4 KiB."),
        (status = 415, description = "A multipart body that is not multipart/form-data with a boundary."),
        (status = 422, description = "A name or a part is not what it should be, or two entries have one name."),
        (status = 507, description = "The store is full or read-only."),
    )
)]
pub async fn add(
    Extract(state): Extract<State>,
    Query(asked): Query<AddAsked>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut upload = upload(body);
    let added = store_files(&state, asked, &headers, &mut upload).await;
    answer_after(added, upload).await
}

async fn store_files(
    state: &State,
    asked: AddAsked,
    headers: &HeaderMap,
    upload: &mut Upload,
) -> Result<Response, Problem> {
    let profile = match asked.profile.as_deref() {
        Some(name) => name.parse::<Profile>().map_err(|error| Problem::parameter("profile", error.to_string()))?,
        None => Profile::default(),
    };
    if asked.filename.as_deref().is_some_and(|name| name.len() > MAX_PIN_NAME) {
        return Err(Problem::parameter("filename", format!("filename has at most {MAX_PIN_NAME} bytes")));
    }
    let guard = state.blocks.hold().await;
    let mut quiet = import::quiet;
    let mut adding = Adding { direct: Importer::new(&*state.blocks, &guard, profile, &mut quiet), profile };
    let (root, name) = match multer::parse_boundary(content_type(headers)) {
        Ok(boundary) => (adding.parts(upload, boundary, asked.wrap).await?, asked.filename),
        Err(_) if content_type(headers).starts_with("multipart/") => {
            return Err(Problem::media_type("multipart bodies are multipart/form-data with a boundary"));
        }
        Err(_) => {
            let file = adding.file(upload).await?;
            match (&asked.filename, asked.wrap) {
                (Some(name), true) => (adding.wrap(name, file).await?, asked.filename),
                (None, true) => return Err(Problem::parameter("wrap", "wrap needs a filename")),
                _ => (file, asked.filename),
            }
        }
    };
    let Added { size, blocks, entries, .. } = adding.direct.finish(root).await.map_err(import_problem)?;
    let pinned = asked.pin.unwrap_or(true);
    if pinned {
        state.blocks.pins().add(&guard, vec![recursive(root.cid, name)]).await?;
    }
    Ok(fresh(StatusCode::OK, Answer { cid: root.cid.to_string(), size, blocks, entries, pinned }))
}

#[derive(Serialize, ToSchema)]
#[schema(as = CarImported)]
pub struct CarAnswer {
    roots: Vec<String>,
    blocks: u64,
    bytes: u64,
    /// Roots that are here and pinned.
    pinned: Vec<String>,
    /// Roots that the header names and nobody sent: not pinned.
    missing: Vec<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CarAsked {
    /// Default true; false pins none of the roots.
    pin: Option<bool>,
}

/// Store every block of a CAR, each verified, and pin the roots that are there
#[utoipa::path(
    post, path = "/car", tag = "content", params(CarAsked),
    request_body(content = Binary, content_type = "application/vnd.ipld.car", description = "CAR version 1 or 2"),
    responses(
        (status = 200, body = CarAnswer),
        (status = 409, description = "The store is busy."),
        (status = 415, description = "Neither application/vnd.ipld.car nor application/octet-stream."),
        (status = 422, description = "It is no CAR, or a block does not hash to its CID."),
        (status = 507, description = "The store is full or read-only."),
    )
)]
pub async fn car(
    Extract(state): Extract<State>,
    Query(asked): Query<CarAsked>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut upload = upload(body);
    let stored = store_car(&state, asked, &headers, &mut upload).await;
    answer_after(stored, upload).await
}

async fn store_car(
    state: &State,
    asked: CarAsked,
    headers: &HeaderMap,
    upload: &mut Upload,
) -> Result<Response, Problem> {
    let essence = content_type(headers).split(';').next().unwrap_or_default().trim();
    if !matches!(essence, "" | "application/vnd.ipld.car" | "application/octet-stream") {
        return Err(Problem::media_type("send application/vnd.ipld.car"));
    }
    let guard = state.blocks.hold().await;
    let imported = import::import_car(&*state.blocks, &guard, upload, &mut import::quiet).await;
    let imported = imported.map_err(import_problem)?;
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    for root in &imported.roots {
        if state.blocks.has(root).await? { here.push(*root) } else { missing.push(root.to_string()) }
    }
    if asked.pin.unwrap_or(true) {
        state.blocks.pins().add(&guard, here.iter().map(|root| recursive(*root, None)).collect()).await?;
    } else {
        here.clear();
    }
    let texts = |cids: &[Cid]| cids.iter().map(ToString::to_string).collect();
    let roots = texts(&imported.roots);
    let answer = CarAnswer { roots, blocks: imported.blocks, bytes: imported.bytes, pinned: texts(&here), missing };
    Ok(fresh(StatusCode::OK, answer))
}

/// An entry of the tree that a multipart request describes.
enum Entry {
    Directory(BTreeMap<String, Entry>),
    Leaf(Built),
}

struct Adding<'a> {
    direct: Importer<'a>,
    profile: Profile,
}

impl Adding<'_> {
    async fn file<E>(&mut self, body: impl Stream<Item = Result<Bytes, E>> + Send) -> Result<Built, Problem>
    where
        E: Into<io::Error> + Send,
    {
        let body = std::pin::pin!(body.map_err(Into::into));
        self.direct.stream(StreamReader::new(body)).await.map_err(import_problem)
    }

    async fn parts(&mut self, upload: &mut Upload, boundary: String, wrap: bool) -> Result<Built, Problem> {
        let mut parts = Multipart::new(upload, boundary);
        let mut top = BTreeMap::new();
        while let Some(part) = parts.next_field().await.map_err(|error| multipart_problem(&error))? {
            let Some(name) = part.file_name().map(str::to_owned) else { continue };
            if self.direct.entries() >= MAX_ENTRIES {
                return Err(Problem::too_large(format!("a request has at most {MAX_ENTRIES} entries")));
            }
            let path = segments(&name)?;
            let entry = match part.content_type().map(|kind| kind.essence_str().to_owned()).as_deref() {
                Some("application/x-directory") => Entry::Directory(BTreeMap::new()),
                Some("application/symlink") => Entry::Leaf(self.symlink(part).await?),
                _ => Entry::Leaf(self.file(part.map_err(io::Error::other)).await?),
            };
            insert(&mut top, &path, entry)?;
        }
        if top.is_empty() {
            return Err(Problem::unprocessable("no part has a filename"));
        }
        if top.len() == 1 && !wrap {
            // Local invariant: the map has one entry.
            let (_, entry) = top.pop_first().expect("one entry");
            return self.build(entry).await;
        }
        self.build(Entry::Directory(top)).await
    }

    async fn symlink(&mut self, mut part: Field<'_>) -> Result<Built, Problem> {
        let mut target = Vec::new();
        while let Some(chunk) = part.chunk().await.map_err(|error| multipart_problem(&error))? {
            if target.len() + chunk.len() > MAX_TARGET {
                return Err(Problem::too_large(format!("a symlink's target has at most {MAX_TARGET} bytes")));
            }
            target.extend_from_slice(&chunk);
        }
        let target =
            String::from_utf8(target).map_err(|_| Problem::unprocessable("a symlink's target is not UTF-8"))?;
        self.direct.link(&target).await.map_err(import_problem)
    }

    /// Children before their parents, without recursion: the tree may be [`MAX_DEPTH`] deep.
    async fn build(&mut self, root: Entry) -> Result<Built, Problem> {
        let mut open: Vec<(String, DirBuilder, BTreeMap<String, Entry>)> = Vec::new();
        let mut next = Some((String::new(), root));
        loop {
            let (name, done) = match next.take() {
                Some((name, Entry::Leaf(leaf))) => (name, leaf),
                Some((name, Entry::Directory(entries))) => {
                    open.push((name, DirBuilder::new(&self.profile), entries));
                    next = open.last_mut().and_then(|folder| folder.2.pop_first());
                    continue;
                }
                None => {
                    // Local invariant: without a next entry, the innermost directory is open and complete.
                    let (name, builder, _) = open.pop().expect("a directory is open");
                    (name, self.direct.directory(builder).await.map_err(import_problem)?)
                }
            };
            let Some(folder) = open.last_mut() else { return Ok(done) };
            folder.1.add(&name, done.cid, done.tsize).map_err(|error| build_problem(&error))?;
            next = folder.2.pop_first();
        }
    }

    async fn wrap(&mut self, name: &str, file: Built) -> Result<Built, Problem> {
        let mut builder = DirBuilder::new(&self.profile);
        builder.add(name, file.cid, file.tsize).map_err(|error| build_problem(&error))?;
        self.direct.directory(builder).await.map_err(import_problem)
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

type Upload = BoxStream<'static, io::Result<Bytes>>;

fn upload(body: Body) -> Upload {
    body.into_data_stream().map(|chunk| chunk.map_err(io::Error::other)).boxed()
}

/// Gives the answer when the client can hear it: a refusal, when the rest of the body has been read or [`LINGER`] is over.
async fn answer_after(answer: Result<Response, Problem>, mut upload: Upload) -> Result<Response, Problem> {
    if answer.is_err() {
        let rest = async { while let Some(Ok(_)) = upload.next().await {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
    answer
}

/// A relative path as its segments, percent-decoded. `.` and `..`, empty and NUL ones are refused by the builder too.
fn segments(name: &str) -> Result<Vec<String>, Problem> {
    let name = percent_encoding::percent_decode_str(name)
        .decode_utf8()
        .map_err(|_| Problem::unprocessable("a filename is not UTF-8"))?;
    let path: Vec<String> = name.trim_matches('/').split('/').map(str::to_owned).collect();
    if name.len() > MAX_PATH || path.len() > MAX_DEPTH {
        return Err(Problem::unprocessable(format!("a path has at most {MAX_PATH} bytes and {MAX_DEPTH} segments")));
    }
    if path.iter().any(|part| matches!(part.as_str(), "" | "." | "..") || part.contains('\0')) {
        return Err(Problem::unprocessable("a filename is a relative path without empty, `.` or `..` segments"));
    }
    Ok(path)
}

fn insert(top: &mut BTreeMap<String, Entry>, path: &[String], entry: Entry) -> Result<(), Problem> {
    let taken = || Problem::unprocessable(format!("two entries are named {:?}", path.join("/")));
    let Some((name, parents)) = path.split_last() else { return Err(taken()) };
    let mut folder = top;
    for parent in parents {
        match folder.entry(parent.clone()).or_insert_with(|| Entry::Directory(BTreeMap::new())) {
            Entry::Directory(entries) => folder = entries,
            Entry::Leaf(_) => return Err(taken()),
        }
    }
    match (folder.get(name), &entry) {
        (None, _) => {
            folder.insert(name.clone(), entry);
            Ok(())
        }
        // A directory may be named after its entries.
        (Some(Entry::Directory(_)), Entry::Directory(empty)) if empty.is_empty() => Ok(()),
        _ => Err(taken()),
    }
}

fn import_problem(error: ImportError) -> Problem {
    match error {
        ImportError::Store(error) => error.into(),
        ImportError::Build { error, .. } => build_problem(&error),
        ImportError::Stream(error) => Problem::bad_request(format!("the body broke off: {error}")),
        other => Problem::unprocessable(other.to_string()),
    }
}

fn build_problem(error: &BuildError) -> Problem {
    Problem::unprocessable(error.to_string())
}

fn multipart_problem(error: &multer::Error) -> Problem {
    match error {
        multer::Error::StreamReadFailed(error) => Problem::bad_request(format!("the body broke off: {error}")),
        other => Problem::unprocessable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_paths_and_nothing_else() {
        assert_eq!(segments("a%20b/c.txt").unwrap(), ["a b", "c.txt"]);
        for wrong in ["../x", "a/../b", "a//b", "", "%00", "a/./b", "%ff"] {
            assert!(segments(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_entry_cannot_take_the_place_of_another() {
        let leaf = || Entry::Leaf(Built { cid: crate::ipld::cid::parse("bafkqaaa").unwrap(), file_size: 0, tsize: 0 });
        let path = |text: &str| segments(text).unwrap();
        let mut top = BTreeMap::new();
        insert(&mut top, &path("d/a"), leaf()).unwrap();
        insert(&mut top, &path("d"), Entry::Directory(BTreeMap::new())).unwrap();
        assert!(insert(&mut top, &path("d/a"), leaf()).is_err());
        assert!(insert(&mut top, &path("d/a/b"), leaf()).is_err());
        assert!(insert(&mut top, &path("d"), leaf()).is_err());
    }
}
