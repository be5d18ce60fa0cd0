//! Commands that read content: from the gateway of the running server, or of the one inside this command.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Response;
use tokio::io::AsyncWriteExt;

use super::connection::{Connection, Network};
use super::error::{printable, say};
use super::remote_store::RemoteStore;
use super::{CliError, Common, ContentArgs, Exit};
use crate::dag::{directory, resolver};
use crate::ipld::car::{CarItem, CarReader, Limits};
use crate::ipld::path::ContentPath;
use crate::retriever::{Retriever, Session, SessionOptions};

/// A server, a content path, and the choices made on the command line.
pub struct Content {
    pub connection: Connection,
    pub path: ContentPath,
    policy: Option<crate::record::Policy>,
}

impl Content {
    pub async fn open(common: &Common, args: &ContentArgs) -> Result<Self, CliError> {
        let path = ContentPath::parse_text(&args.path)
            .map_err(|error| CliError::usage(error).hint("write CID[/path], for example bafybei.../readme.md"))?;
        let connection = Connection::open(common, Network::Peers).await?;
        Ok(Self { connection, path, policy: args.policy })
    }

    /// A GET of `/ipfs/...` with the policy, if one was chosen.
    pub fn get(&self, url_path: &str, query: &str) -> reqwest::RequestBuilder {
        let policy = self.policy.map(|policy| format!("policy={policy}")).unwrap_or_default();
        let query = [query, policy.as_str()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        self.connection.content(&format!("{url_path}{mark}{query}"))
    }

    /// `/ipfs/CID/...`, escaped.
    pub fn url_path(&self) -> String {
        self.path.to_url_path()
    }

    /// A session whose blocks are the gateway's raw blocks, verified here.
    pub fn session(&self, root: crate::ipld::Cid) -> (Session, Arc<RemoteStore>) {
        let store = Arc::new(self.connection.remote_store(self.policy));
        let session = Retriever::local(store.clone()).session(root, SessionOptions::default());
        (session, store)
    }

    /// The node at the end of the path.
    pub async fn resolve(&self) -> Result<(resolver::Resolved, Session, Arc<RemoteStore>), CliError> {
        let root = *self.path.cid().ok_or_else(|| CliError::usage("names (/ipns) are not resolved by this command"))?;
        let (session, store) = self.session(root);
        match resolver::resolve(&session, &self.path).await {
            Ok(resolved) => Ok((resolved, session, store)),
            Err(error) => Err(store.take_failure().unwrap_or_else(|| resolve_error(&error))),
        }
    }
}

pub fn resolve_error(error: &resolver::ResolveError) -> CliError {
    CliError::new(Exit::NotFound, error)
}

/// Ends `work` at the deadline that `--timeout` sets.
pub async fn within<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    match timeout {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(limit);
            Err(CliError::new(Exit::TimedOut, format!("not done after {limit}"))
                .hint("give a longer --timeout, or ask who has it: see /api/v1/p2p/peers"))
        }),
    }
}

/// A progress display on a terminal; silent in a pipe and with --json.
pub fn progress(common: &Common, total: Option<u64>) -> ProgressBar {
    if common.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    let template = match total {
        Some(_) => "{spinner} {msg} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}",
        None => "{spinner} {msg} {bytes} {binary_bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Sends the request and shows what is waited for until the first byte.
pub async fn begin(common: &Common, content: &Content, request: reqwest::RequestBuilder) -> Result<Response, CliError> {
    let bar = progress(common, None);
    bar.set_style(ProgressStyle::default_spinner());
    bar.set_message("looking for providers");
    let sending = content.connection.send(request);
    tokio::pin!(sending);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            response = &mut sending => {
                bar.finish_and_clear();
                return response;
            }
            _ = tick.tick(), if !bar.is_hidden() => {
                if let Some(peers) = content.connection.connected_peers().await {
                    bar.set_message(format!("waiting for content, {peers} peers connected"));
                }
            }
        }
    }
}

pub async fn cat(common: &Common, args: ContentArgs) -> Result<(), CliError> {
    let content = Content::open(common, &args).await?;
    let result = within(args.timeout, async {
        let response = begin(common, &content, content.get(&content.url_path(), "")).await?;
        let mut out = tokio::io::stdout();
        copy(common, response, &mut out, Path::new("standard output")).await
    })
    .await;
    content.connection.close().await;
    result
}

pub async fn car_export(common: &Common, args: ContentArgs, output: PathBuf) -> Result<(), CliError> {
    let content = Content::open(common, &args).await?;
    let result = within(args.timeout, async {
        let response = begin(common, &content, content.get(&content.url_path(), "format=car")).await?;
        if output == Path::new("-") {
            return copy(common, response, &mut tokio::io::stdout(), &output).await;
        }
        // Written beside and renamed: a broken export leaves no file that looks whole.
        let part = output.with_extension("car.part");
        let mut file = tokio::fs::File::create(&part).await.map_err(|error| CliError::file(&part, &error))?;
        copy(common, response, &mut file, &part).await?;
        file.sync_all().await.map_err(|error| CliError::file(&part, &error))?;
        let bytes = file.metadata().await.map_err(|error| CliError::file(&part, &error))?.len();
        tokio::fs::rename(&part, &output).await.map_err(|error| CliError::file(&output, &error))?;
        if common.json { say(serde_json::json!({ "path": output, "bytes": bytes })) } else { Ok(()) }
    })
    .await;
    content.connection.close().await;
    result
}

/// Streams a body into `out`. A reader that went away (`| head`) ends it without an error.
async fn copy(
    common: &Common,
    response: Response,
    out: &mut (impl tokio::io::AsyncWrite + Unpin),
    name: &Path,
) -> Result<(), CliError> {
    let bar = progress(common, response.content_length());
    let mut body = response.bytes_stream();
    while let Some(bytes) = body.try_next().await? {
        bar.inc(bytes.len() as u64);
        match out.write_all(&bytes).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(CliError::file(name, &error)),
        }
    }
    bar.finish_and_clear();
    out.flush().await.map_err(|error| CliError::file(name, &error))
}

pub async fn ls(common: &Common, args: ContentArgs) -> Result<(), CliError> {
    let content = Content::open(common, &args).await?;
    let result = within(args.timeout, list(common, &content)).await;
    content.connection.close().await;
    result
}

async fn list(common: &Common, content: &Content) -> Result<(), CliError> {
    let (resolved, session, store) = content.resolve().await?;
    if !resolved.is_directory() {
        return Err(CliError::usage(format!("{} is not a folder", content.path)).hint("`tidegate cat` shows a file"));
    }
    let mut entries = directory::Entries::new(session, &resolved.block).map_err(CliError::failed)?;
    let mut out = std::io::stdout().lock();
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(|error| store.take_failure().unwrap_or_else(|| CliError::failed(error)))?;
        let line = if common.json {
            serde_json::json!({ "name": entry.name, "cid": entry.cid.to_string(), "tsize": entry.tsize }).to_string()
        } else {
            let size = entry.tsize.map_or("-".to_owned(), |size| size.to_string());
            format!("{} {size} {}", entry.cid, printable(&entry.name))
        };
        if writeln!(out, "{line}").is_err() {
            return Ok(());
        }
    }
    Ok(())
}

pub async fn refs(common: &Common, args: ContentArgs, recursive: bool) -> Result<(), CliError> {
    let content = Content::open(common, &args).await?;
    let result = within(args.timeout, async {
        if recursive { refs_all(common, &content).await } else { refs_direct(common, &content).await }
    })
    .await;
    content.connection.close().await;
    result
}

async fn refs_direct(common: &Common, content: &Content) -> Result<(), CliError> {
    let (resolved, _session, _store) = content.resolve().await?;
    for cid in crate::ipld::codec::links(&resolved.block).map_err(CliError::failed)? {
        say(reference(common, &cid))?;
    }
    Ok(())
}

/// A line of `refs`.
fn reference(common: &Common, cid: &crate::ipld::Cid) -> String {
    if common.json { serde_json::json!({ "cid": cid.to_string() }).to_string() } else { cid.to_string() }
}

/// One CAR of the whole DAG: the server prefetches, and each block is verified here.
async fn refs_all(common: &Common, content: &Content) -> Result<(), CliError> {
    let (resolved, _session, _store) = content.resolve().await?;
    let url = format!("/ipfs/{}", resolved.cid);
    let mut body = content.connection.send(content.get(&url, "format=car")).await?.bytes_stream();
    let mut reader = CarReader::new(Limits::default());
    let mut out = std::io::stdout().lock();
    let mut first = true;
    while let Some(bytes) = body.try_next().await? {
        reader.push(bytes);
        while let Some(item) = reader.next().map_err(CliError::failed)? {
            let CarItem::Block(block) = item else { continue };
            // The first block is the node itself, not one that it links to.
            if !std::mem::take(&mut first) && writeln!(out, "{}", reference(common, block.cid())).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
