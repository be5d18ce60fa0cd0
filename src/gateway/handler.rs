//! From a request to an answer: parse, answer what needs no content, begin the record, resolve, respond.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Extension;
use futures::stream::Stream;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, ETAG, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};

use super::body::Recorded;
use super::conditional::Conditional;
use super::error::GatewayError;
use super::format::{CodecForm, Negotiated, ResponseFormat};
use super::guard::{Guard, Start, Work};
use super::metrics::Limits;
use super::middleware::{FormatLabel, RequestInfo};
use super::names::{self, Mutable, Target};
use super::origin::Place;
use super::{Gateway, headers, page, problem, respond, warm};
use crate::dag;
use crate::dag::archive::ArchiveKind;
use crate::denylist::Judge;
use crate::ipld::path::{ContentPath, PathError};
use crate::ipld::unixfs::UnixFsError;
use crate::ipld::{Cid, codec};
use crate::names::Reach;
use crate::record::{Policy, SessionReport};
use crate::retriever::{FetchError, Session, SessionOptions};

/// The retriever's own timeout, which can name phase and providers, gets this much time to speak first.
const RETRIEVER_SPEAKS_FIRST: Duration = Duration::from_secs(1);
/// A request without a limit in time: a century.
pub(super) const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 86_400);

type Reply = Response<Body>;

/// One request, parsed: no raw string goes further (DESIGN.md §6).
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) uri: Uri,
    pub(super) info: RequestInfo,
    /// As it was asked for.
    pub(super) path: ContentPath,
    /// Where it leads: the same, or the `/ipfs/` path of a name.
    pub(super) target: ContentPath,
    pub(super) root: Cid,
    /// Where the path's own names begin, by every path that leads there; the last one is the content path.
    starts: Vec<ContentPath>,
    pub(super) place: Place,
    /// Of an `/ipns/` path.
    pub(super) mutable: Option<Mutable>,
    pub(super) negotiated: Negotiated,
    pub(super) conditional: Conditional,
    pub(super) filename: Option<String>,
    pub(super) download: bool,
    only_if_cached: bool,
    pub(super) policy: Option<Policy>,
}

/// A request under way: what the modules under `respond` work with.
pub(super) struct Visit<'a> {
    pub(super) ask: &'a Ask,
    pub(super) gateway: &'a Gateway,
    pub(super) session: Session,
    /// Says whether the lists refuse what the path leads to, or what lies below.
    pub(super) judge: Judge,
    /// Taken by the answer whose body goes on after the handler.
    guard: Option<Guard>,
    resolved_after: Option<Duration>,
    /// The name of the file that stands for the path (`_redirects`), where it is another.
    served_as: Option<String>,
    /// The most bytes of a body of no known length.
    most: Option<u64>,
}

/// `/ipfs/{cid}[/path]` and `/ipns/{name}[/path]`.
pub(super) async fn content(
    gateway: Arc<Gateway>,
    info: RequestInfo,
    place: Place,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Reply {
    if let Some(reply) = other_method(&method, &headers, &info) {
        return reply;
    }
    if let Some(better) = superfluous(uri.path()).filter(|_| !place.is_isolated()) {
        return redirect(&with_query(&better.to_url_path(), &uri));
    }
    if place.is_top(uri.path()) && headers.get("service-worker").is_some_and(|value| value == "script") {
        return refuse(&GatewayError::ServiceWorker, &method, &headers, &info);
    }
    // Before anything is looked for, names included.
    let asked = Judge::new(&gateway.state.denylists, ContentPath::parse(uri.path()));
    if let Err(refused) = asked.verdict() {
        return refuse_at(&place, &refused.into(), &method, &headers, &info);
    }
    let mut target = None;
    if uri.path().starts_with("/ipns/") {
        match names::enter(&gateway, &method, &uri, &headers, &info, &place).await {
            Ok(found) => target = Some(found),
            Err(mut reply) => {
                let took = Some(info.started.elapsed());
                let timing = headers::server_timing([("resolve", took), ("total", took)], None);
                reply.headers_mut().insert(headers::SERVER_TIMING, timing);
                return reply;
            }
        }
    }
    let split = |Target { path, starts, mutable, permit }| ((path, starts, mutable), permit);
    let (target, permit) = target.map(split).unzip();
    let ask = match Ask::read(&gateway, method, uri, headers, info, target, place.clone()) {
        Ok(ask) => ask,
        Err((error, method, headers, info)) => return refuse_at(&place, &error, &method, &headers, &info),
    };
    let judge = ask.judge(&gateway, &ask.path.segments);
    if let Err(refused) = judge.verdict() {
        return refuse_at(&place, &refused.into(), &ask.method, &ask.headers, &ask.info);
    }
    let label = FormatLabel(ask.negotiated.format.name());
    let mut reply = match known_by_the_client(&ask, &judge) {
        Some(etag) => ask.not_modified(&etag),
        None => match permit.map_or_else(|| gateway.permits.clone().try_acquire_owned(), Ok) {
            Ok(permit) => visit(&gateway, &ask, judge, permit).await,
            Err(_) => {
                gateway.counts.hit(Limits::ConcurrentRequests);
                refuse_at(&place, &GatewayError::Busy, &ask.method, &ask.headers, &ask.info)
            }
        },
    };
    reply.extensions_mut().insert(label);
    reply
}

/// `/`: where to begin.
pub(super) async fn home(Extension(info): Extension<RequestInfo>, method: Method, headers: HeaderMap) -> Reply {
    if let Some(reply) = other_method(&method, &headers, &info) {
        return reply;
    }
    page::home().unwrap_or_else(|error| refuse(&error.into(), &method, &headers, &info))
}

/// `/ipfs/?uri=` and `/ipns/?uri=`: what a person typed or a browser's protocol handler sends, to its place.
pub(super) async fn open(
    Extension(info): Extension<RequestInfo>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Reply {
    if let Some(reply) = other_method(&method, &headers, &info) {
        return reply;
    }
    let Some(text) = parameter(&uri, "uri") else {
        let error = GatewayError::Path { path: uri.path().to_owned(), error: PathError::NoRoot };
        return refuse(&error, &method, &headers, &info);
    };
    match ContentPath::parse_text(text.trim()) {
        Ok(path) => redirect(&path.to_url_path()),
        Err(error) => refuse(&GatewayError::Path { path: text, error }, &method, &headers, &info),
    }
}

/// Any other address.
pub(super) async fn nothing(Extension(info): Extension<RequestInfo>, method: Method, headers: HeaderMap) -> Reply {
    other_method(&method, &headers, &info).unwrap_or_else(|| refuse(&GatewayError::NoRoute, &method, &headers, &info))
}

impl Ask {
    #[allow(clippy::type_complexity, clippy::result_large_err)] // the parts go back to make the error's answer of them
    fn read(
        gateway: &Gateway,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        info: RequestInfo,
        target: Option<(ContentPath, Vec<ContentPath>, Mutable)>,
        place: Place,
    ) -> Result<Self, (GatewayError, Method, HeaderMap, RequestInfo)> {
        let (target, starts, mutable) = match target {
            Some((target, starts, mutable)) => (Some(target), Some(starts), Some(mutable)),
            None => (None, None, None),
        };
        let parsed = ContentPath::parse(uri.path())
            .and_then(|path| {
                let target = target.unwrap_or_else(|| path.clone());
                target.cid().copied().map(|root| ((path, target), root)).ok_or(PathError::Namespace)
            })
            .map_err(|error| GatewayError::Path { path: place.asked(uri.path()).to_owned(), error });
        let parsed = parsed.and_then(|parsed| Ok((parsed, ResponseFormat::negotiate(uri.query(), &headers)?)));
        let (((path, target), root), negotiated) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return Err((error, method, headers, info)),
        };
        Ok(Self {
            conditional: Conditional::read(&headers),
            filename: parameter(&uri, "filename").filter(|name| !name.is_empty()),
            download: parameter(&uri, "download").is_some_and(|value| value == "true"),
            only_if_cached: only_if_cached(&headers),
            policy: chosen_policy(gateway, &uri, &headers),
            method,
            headers,
            uri,
            info,
            path,
            target,
            root,
            starts: starts.unwrap_or_else(|| vec![ContentPath::of(root)]),
            place,
            mutable,
            negotiated,
        })
    }

    /// 304.
    fn not_modified(&self, etag: &str) -> Reply {
        let mut reply = not_modified(self, etag);
        self.set_cache_control(reply.headers_mut());
        reply
    }

    /// Under a name, what holds for the name instead of what holds for its content.
    pub(super) fn set_cache_control(&self, out: &mut HeaderMap) {
        if let Some(mutable) = &self.mutable {
            mutable.set_cache_control(out);
        }
    }

    /// The segments that lead from the root of the graph to that of the site: some where a name stands for a path.
    pub(super) fn site(&self) -> &[String] {
        &self.target.segments[..self.target.segments.len().saturating_sub(self.path.segments.len())]
    }

    /// At what `names` lead to from where the site begins.
    pub(super) fn judge(&self, gateway: &Gateway, names: &[String]) -> Judge {
        let mut judge = Judge::new(&gateway.state.denylists, self.starts.iter().cloned());
        names.iter().for_each(|name| judge.enter(name));
        judge
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// True when what is asked for is read to its end, if it is a file.
    fn reads_all(&self) -> bool {
        self.method == Method::GET
            && self.negotiated.format == ResponseFormat::Deserialized
            && !self.headers.contains_key(http::header::RANGE)
    }

    /// True when the address itself says which form is meant, so that `Accept` has no say.
    fn format_in_address(&self) -> bool {
        parameter(&self.uri, "format").is_some_and(|format| !format.is_empty())
    }

    /// The address at which the form that `Accept` chose is found without it (IPIP-523); `None` when it is this one.
    fn own_address(&self) -> Option<String> {
        if !self.negotiated.by_accept {
            return None;
        }
        let mut query = self.uri.query().map(|query| format!("{query}&")).unwrap_or_default();
        query.push_str("format=");
        query.push_str(self.negotiated.format.name());
        if let ResponseFormat::Car(options) = self.negotiated.format
            && options.duplicates
            && parameter(&self.uri, "car-dups").is_none()
        {
            query.push_str("&car-dups=y");
        }
        Some(format!("{}?{query}", self.place.asked(self.uri.path())))
    }

    /// The name of what is asked for: as the client wants it, else the last name of the path.
    pub(super) fn name(&self) -> Option<&str> {
        self.filename.as_deref().or_else(|| self.path.segments.last().map(String::as_str))
    }
}

async fn visit(gateway: &Gateway, ask: &Ask, judge: Judge, permit: tokio::sync::OwnedSemaphorePermit) -> Reply {
    let local_only = ask.only_if_cached || gateway.reach == Reach::Local;
    let options = SessionOptions { policy: ask.policy, local_only };
    let session = gateway.state.retriever.session(ask.root, options);
    if ask.is_keepable() {
        session.remember_reads(warm::MAX_BLOCKS, gateway.warm.largest());
    }
    let start = Start { cid: ask.root, path: ask.path.to_string(), started: ask.info.started, permit };
    let guard = Guard::new(start, Work::Session(session.clone()), gateway.state.sink.clone(), gateway.counts.clone());
    let id = guard.id();
    if let Some(wait) = &ask.info.wait {
        wait.began(id, session.watch());
    }
    let mut visit =
        Visit { ask, gateway, session, judge, guard: Some(guard), resolved_after: None, served_as: None, most: None };

    let limit = gateway.state.config.first_byte_timeout;
    let limit = if limit.is_zero() { NO_LIMIT } else { limit + RETRIEVER_SPEAKS_FIRST };
    // The time that a name took counts.
    let limit = limit.saturating_sub(ask.info.started.elapsed()).max(RETRIEVER_SPEAKS_FIRST);
    let answered = match tokio::time::timeout(limit, answer(&mut visit)).await {
        Ok(answered) => answered,
        Err(_) => {
            gateway.counts.hit(Limits::FirstByte);
            Err(GatewayError::Slow { seconds: limit.as_secs() })
        }
    };
    let mut reply = match answered {
        Ok(reply) => reply,
        Err(error) => visit.fail(error),
    };
    if gateway.reach == Reach::Network {
        reply.headers_mut().insert(headers::RETRIEVAL, headers::value(&id.to_string()));
    }
    reply
}

async fn answer(visit: &mut Visit<'_>) -> Result<Reply, GatewayError> {
    let way = match dag::resolve_cid(&visit.session, &visit.ask.target).await {
        Ok(way) => way,
        Err(error) => return respond::redirects::respond(visit, error).await,
    };
    visit.judge.passed(&way.roots);
    visit.judge.verdict()?;
    let folder = way.path_blocks.last().cloned();
    let resolved = match visit.ask.reads_all() {
        true => way.fetch_whole(&visit.session).await?,
        false => way.fetch(&visit.session).await?,
    };
    visit.resolved_after = Some(visit.ask.info.started.elapsed());
    if let (Some(folder), ResponseFormat::Deserialized) = (folder, visit.ask.negotiated.format) {
        visit.reads_of(&folder, &resolved.cid);
    }
    match visit.ask.negotiated.format {
        ResponseFormat::Raw => respond::raw::respond(visit, resolved),
        ResponseFormat::Car(options) => respond::car::respond(visit, &resolved, options).await,
        ResponseFormat::Tar => respond::archive::respond(visit, &resolved, ArchiveKind::Tar).await,
        ResponseFormat::Zip => respond::archive::respond(visit, &resolved, ArchiveKind::Zip).await,
        ResponseFormat::IpnsRecord => Err(GatewayError::NotAName),
        ResponseFormat::Codec(form) => match resolved.cid.codec() {
            code if form.fits(code) => respond::codec::respond(visit, &resolved, form),
            // Files of JSON are UnixFS mostly: who asks for JSON gets them, and of a directory the list of its entries.
            codec::RAW | codec::DAG_PB
                if form == CodecForm::Json || (form == CodecForm::Cbor && is_file(&resolved)) =>
            {
                deserialized(visit, &resolved).await
            }
            code => Err(GatewayError::Mismatch { cid: resolved.cid, codec: code, wanted: form.name() }),
        },
        ResponseFormat::Deserialized => deserialized(visit, &resolved).await,
    }
}

fn is_file(resolved: &dag::Resolved) -> bool {
    matches!(resolved.kind, dag::NodeKind::File { .. })
}

/// What the content is in itself: a file, a directory, structured data.
async fn deserialized(visit: &mut Visit<'_>, resolved: &dag::Resolved) -> Result<Reply, GatewayError> {
    match &resolved.kind {
        dag::NodeKind::File { .. } => respond::file::respond(visit, resolved, &resolved.block).await,
        dag::NodeKind::Directory | dag::NodeKind::HamtDirectory => respond::directory::respond(visit, resolved).await,
        dag::NodeKind::Symlink { .. } => respond::file::symlink(visit, resolved),
        dag::NodeKind::Other { problem: Some(error), .. } if *error != UnixFsError::NoData => {
            Err(GatewayError::Malformed { cid: resolved.cid, error: error.clone() })
        }
        dag::NodeKind::Other { codec: code, .. } => match CodecForm::of_codec(*code) {
            _ if visit.ask.negotiated.html && respond::dag_page::can_show(*code) => {
                respond::dag_page::respond(visit, resolved)
            }
            Some(form) => respond::codec::respond(visit, resolved, form),
            None => Err(GatewayError::NotUnixFs { cid: resolved.cid, codec: *code }),
        },
    }
}

impl Visit<'_> {
    /// 304, when the client has what `etag` stands for.
    pub(super) fn unchanged(&mut self, etag: &str, modified: Option<std::time::SystemTime>) -> Option<Reply> {
        if self.ask.conditional.is_empty() || !self.ask.conditional.is_fresh(etag, modified) {
            return None;
        }
        self.light(StatusCode::NOT_MODIFIED);
        Some(self.ask.not_modified(etag))
    }

    /// 301 to the same address with a slash at its end, the query kept.
    pub(super) fn add_slash(&mut self) -> Reply {
        let mut path = self.ask.path.clone();
        path.trailing_slash = true;
        self.light(StatusCode::MOVED_PERMANENTLY);
        let mut reply = redirect(&with_query(&self.ask.place.address(&path), &self.ask.uri));
        self.ask.set_cache_control(reply.headers_mut());
        reply
    }

    /// The name of what is served, for its type: as the client wants it, else that of the file.
    pub(super) fn name(&self) -> Option<&str> {
        self.served_as.as_deref().filter(|_| self.ask.filename.is_none()).or_else(|| self.ask.name())
    }

    /// Another file stands for the path.
    pub(super) fn serve_as(&mut self, name: Option<String>) {
        self.served_as = name;
    }

    /// The answer has no content of its own.
    pub(super) fn light(&mut self, status: StatusCode) {
        if let Some(guard) = &mut self.guard {
            guard.light(status);
        }
    }

    /// An answer of no known length that is reset if it passes `most` bytes.
    pub(super) fn reply_at_most<S, E>(
        &mut self,
        status: StatusCode,
        out: HeaderMap,
        stream: S,
        most: Option<u64>,
    ) -> Reply
    where
        S: Stream<Item = Result<bytes::Bytes, E>> + Send + Unpin + 'static,
        E: Into<GatewayError> + Send + Unpin + 'static,
    {
        self.most = most;
        self.reply(status, out, stream, None)
    }

    /// An answer whose body is `stream`, of `length` bytes if that is known. A HEAD gets the header alone.
    pub(super) fn reply<S, E>(
        &mut self,
        status: StatusCode,
        mut out: HeaderMap,
        stream: S,
        length: Option<u64>,
    ) -> Reply
    where
        S: Stream<Item = Result<bytes::Bytes, E>> + Send + Unpin + 'static,
        E: Into<GatewayError> + Send + Unpin + 'static,
    {
        out.extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
        if let Some(mutable) = &self.ask.mutable {
            mutable.set_cache_control(&mut out);
        }
        if let Some(address) = self.ask.own_address() {
            out.insert(CONTENT_LOCATION, headers::value(&address));
        }
        if !self.ask.format_in_address() {
            out.insert(VARY, headers::ACCEPT_VARIES);
        }
        let stream = self.keep(status, &out, stream, length);
        let Some(mut guard) = self.guard.take() else { return Response::new(Body::empty()) };
        guard.status(status);
        out.insert(headers::SERVER_TIMING, timing(&guard, &guard.report(), self.resolved_after));
        let body = if self.ask.is_head() {
            guard.complete();
            no_body(length.is_some())
        } else {
            let limit = self.gateway.state.config.request_timeout;
            let limit = if limit.is_zero() { NO_LIMIT } else { limit };
            Body::new(Recorded::new(stream, length, guard.started() + limit, guard).at_most(self.most))
        };
        let mut reply = Response::new(body);
        *reply.status_mut() = status;
        *reply.headers_mut() = out;
        reply
    }

    /// The same for a body that is here already.
    pub(super) fn reply_bytes(&mut self, status: StatusCode, out: HeaderMap, body: bytes::Bytes) -> Reply {
        let length = body.len() as u64;
        let chunk = (length > 0).then_some(Ok::<_, GatewayError>(body));
        self.reply(status, out, futures::stream::iter(chunk), Some(length))
    }

    fn fail(&mut self, error: GatewayError) -> Reply {
        let error = match not_local(&error) {
            Some(cid) if self.ask.only_if_cached => GatewayError::NotCached { cid },
            _ => error,
        };
        let fault = error.fault();
        let guard = self.guard.take();
        let report = guard.as_ref().map(|guard| (guard.id(), guard.report()));
        let timing = guard.as_ref().zip(report.as_ref()).map(|(g, (_, report))| timing(g, report, self.resolved_after));
        if let Some(mut guard) = guard {
            guard.failed(&fault);
        }
        let context = problem::Context {
            method: &self.ask.method,
            headers: &self.ask.headers,
            request: &self.ask.info.id,
            started: self.ask.info.started,
            // What peers are given has no record that the id would lead to.
            retrieval: report.filter(|_| self.gateway.reach == Reach::Network),
            plain: self.ask.place.is_isolated(),
        };
        tracing::debug!(%error, status = fault.status.as_u16(), "failed");
        let mut reply = problem::respond(&error, &fault, &context);
        reply.headers_mut().extend(timing.map(|timing| (headers::SERVER_TIMING, timing)));
        reply
    }
}

/// Validators that the client can only have from this address, so that no look at the content is needed.
fn known_by_the_client(ask: &Ask, judge: &Judge) -> Option<String> {
    // A refused index page must be told from the listing of a directory that has none.
    if ask.conditional.is_empty() || judge.verdict_below(dag::directory::INDEX).is_err() {
        return None;
    }
    validators(ask).into_iter().find(|etag| ask.conditional.has(etag))
}

/// What an address alone says of the validators of its answer.
pub(super) fn validators(ask: &Ask) -> Vec<String> {
    if !ask.target.segments.is_empty() {
        return Vec::new();
    }
    let root = &ask.root;
    let of_block = |form: CodecForm| form.fits(root.codec()).then(|| headers::etag_of_form(root, form.name()));
    match ask.negotiated.format {
        // A program that wants JSON has another listing.
        ResponseFormat::Deserialized if super::listing::wants_json(&ask.headers) => Vec::new(),
        ResponseFormat::Deserialized if respond::dag_page::is_meant(root.codec(), ask) => {
            vec![respond::dag_page::etag(root)]
        }
        ResponseFormat::Deserialized => match CodecForm::of_codec(root.codec()) {
            Some(form) => vec![headers::etag_of_form(root, form.name())],
            None => vec![headers::etag(root), respond::directory::etag(root)],
        },
        ResponseFormat::Raw => vec![headers::etag_of_form(root, "raw")],
        ResponseFormat::Tar => vec![respond::archive::etag(root, ArchiveKind::Tar)],
        ResponseFormat::Zip => vec![respond::archive::etag(root, ArchiveKind::Zip)],
        ResponseFormat::Codec(form) => of_block(form).into_iter().collect(),
        ResponseFormat::Car(_) | ResponseFormat::IpnsRecord => Vec::new(),
    }
}

fn not_modified(ask: &Ask, etag: &str) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    let is_page = etag.starts_with("\"DirIndex-") || etag.starts_with("\"DagIndex-");
    let cache = if is_page { headers::LISTING } else { headers::IMMUTABLE };
    // What a 200 would have said (RFC 9110 §15.4.5).
    let out = reply.headers_mut();
    out.insert(ETAG, headers::value(etag));
    out.insert(CACHE_CONTROL, cache);
    if let Some(address) = ask.own_address() {
        out.insert(CONTENT_LOCATION, headers::value(&address));
    }
    if !ask.format_in_address() {
        out.insert(VARY, headers::ACCEPT_VARIES);
    }
    reply
}

/// `/ipfs/ipfs/CID` and its like, which people make by pasting a path behind a prefix: what they mean.
fn superfluous(path: &str) -> Option<ContentPath> {
    let inner = path.strip_prefix("/ipfs").or_else(|| path.strip_prefix("/ipns"))?;
    let is_prefixed = inner.starts_with("/ipfs/") || inner.starts_with("/ipns/");
    is_prefixed.then(|| ContentPath::parse(inner).ok()).flatten()
}

fn with_query(path: &str, uri: &Uri) -> String {
    uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// 301.
pub(super) fn redirect(to: &str) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::MOVED_PERMANENTLY;
    reply.headers_mut().insert(LOCATION, headers::value(to));
    reply
}

pub(super) fn refuse(error: &GatewayError, method: &Method, headers: &HeaderMap, info: &RequestInfo) -> Reply {
    let context =
        problem::Context { method, headers, request: &info.id, started: info.started, retrieval: None, plain: false };
    problem::respond(error, &error.fault(), &context)
}

/// The same on the hosts that browsers use: plain text for who names no media type.
pub(super) fn refuse_plainly(error: &GatewayError, method: &Method, headers: &HeaderMap, info: &RequestInfo) -> Reply {
    let context =
        problem::Context { method, headers, request: &info.id, started: info.started, retrieval: None, plain: true };
    problem::respond(error, &error.fault(), &context)
}

pub(super) fn refuse_at(
    place: &Place,
    error: &GatewayError,
    method: &Method,
    headers: &HeaderMap,
    info: &RequestInfo,
) -> Reply {
    if place.is_isolated() {
        refuse_plainly(error, method, headers, info)
    } else {
        refuse(error, method, headers, info)
    }
}

/// The answer to what is neither GET nor HEAD.
fn other_method(method: &Method, headers: &HeaderMap, info: &RequestInfo) -> Option<Reply> {
    match *method {
        Method::GET | Method::HEAD => None,
        Method::OPTIONS => {
            let mut reply = Response::new(Body::empty());
            *reply.status_mut() = StatusCode::NO_CONTENT;
            reply.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            Some(reply)
        }
        _ => Some(refuse(&GatewayError::Method, method, headers, info)),
    }
}

/// `?policy=`, for those who may choose; nobody else is told that it exists.
fn chosen_policy(gateway: &Gateway, uri: &Uri, headers: &HeaderMap) -> Option<Policy> {
    let policy = parameter(uri, "policy")?.parse().ok()?;
    let credentials = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = credentials.split_once(' ')?;
    let admin = scheme.eq_ignore_ascii_case("bearer") && (gateway.state.is_admin_token)(token.trim());
    admin.then_some(policy)
}

/// `Cache-Control: only-if-cached`.
pub(super) fn only_if_cached(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|value| {
        value.to_str().is_ok_and(|v| v.split(',').any(|part| part.trim().eq_ignore_ascii_case("only-if-cached")))
    })
}

pub(super) fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query()?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// `Server-Timing` of what a session did.
fn timing(guard: &Guard, report: &SessionReport, resolved: Option<Duration>) -> HeaderValue {
    let total = guard.started().elapsed();
    let steps = [
        ("resolve", resolved),
        ("route", report.routing),
        ("dial", report.connect),
        ("fetch", report.first_block),
        ("ttfb", Some(total)),
        ("total", Some(total)),
    ];
    headers::server_timing(steps, Some(report.cache_state()))
}

/// The body of an answer to a HEAD.
pub(super) fn no_body(announced: bool) -> Body {
    match announced {
        true => Body::empty(),
        // Of no known size, so that nobody announces a length of 0 for it (RFC 9110 §8.6).
        false => Body::from_stream(futures::stream::empty::<Result<bytes::Bytes, std::convert::Infallible>>()),
    }
}

fn not_local(error: &GatewayError) -> Option<Cid> {
    let fetch = match error {
        GatewayError::Fetch(error) => error,
        GatewayError::Resolve(dag::ResolveError::Fetch(error)) => error,
        GatewayError::Resolve(dag::ResolveError::Malformed(dag::DirectoryError::Fetch(error))) => error,
        GatewayError::Read(dag::ReadError::Fetch(error)) => error,
        GatewayError::Directory(dag::DirectoryError::Fetch(error)) => error,
        GatewayError::Car(dag::CarError::Walk(dag::WalkError::Fetch(error))) => error,
        GatewayError::Archive(dag::archive::ArchiveError::Fetch(error)) => error,
        GatewayError::Archive(dag::archive::ArchiveError::Read(dag::ReadError::Fetch(error))) => error,
        GatewayError::Archive(dag::archive::ArchiveError::Directory(dag::DirectoryError::Fetch(error))) => error,
        _ => return None,
    };
    match fetch {
        FetchError::NotLocal { cid } => Some(*cid),
        _ => None,
    }
}
