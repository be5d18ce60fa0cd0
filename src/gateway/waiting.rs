//! Waiting is visible: who opens an address in a browser and waits longer than the configured time gets a page that says
//! what happens, and that turns into the content when it is there.
//!
//! Programs never get it: only a navigation of a browser does (`Sec-Fetch-Mode: navigate` of a document that may be HTML).
//! The page is a 202, so that whoever takes it for the content can tell, and no cache keeps it. The request itself goes on
//! behind it: its whole answer, status and first byte ready, is kept for the next request of the same address, which the
//! page makes by itself, with a script or without. One fetch, one record. When nobody asks any more, it ends.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use askama::Template;
use axum::body::Body;
use axum::extract::{Extension, State};
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE, RETRY_AFTER,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use serde::Serialize;
use tokio::sync::Notify;

use super::metrics::{Counts, Limits};
use super::middleware::RequestInfo;
use super::origin::Place;
use super::{Gateway, handler, headers, page, problem};
use crate::record::{Phase, RetrievalId};
use crate::retriever::Watch;
use crate::supervisor::Supervisor;
use crate::units::ByteSize;

/// Requests that go on behind a page at once; more wait without one.
const MAX_WAITS: usize = 256;
/// A request that nobody has asked about for this long ends, finished or not. The page asks every one to five seconds; a browser
/// lets the timers of a hidden tab run once a second in their first minutes.
const ABANDONED: Duration = Duration::from_secs(15);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The page asks again after three seconds where there are no scripts; the answer takes up to this long, or the configured
/// time, so that content is shown as soon as it is there.
const HELD: Duration = Duration::from_secs(2);
/// What somebody who is no browser after all is told.
const RETRY_S: u32 = 2;
/// Request headers that may make another answer of the same address.
const TELLING: [HeaderName; 5] = [HOST, ACCEPT, AUTHORIZATION, IF_NONE_MATCH, IF_MODIFIED_SINCE];
const FORWARDED: [&str; 2] = ["x-forwarded-host", "x-forwarded-proto"];

type Reply = Response<Body>;
type Work = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// The requests that go on behind a page.
pub(super) struct Waits {
    /// From when on a page is shown; zero: never.
    after: Duration,
    open: Mutex<BTreeMap<String, Arc<Wait>>>,
    counts: Counts,
    supervisor: Supervisor,
}

/// One request and what became of it so far.
#[derive(Debug)]
pub(super) struct Wait {
    /// Hard to guess: content of the same origin must not find the waits of others.
    id: String,
    key: Key,
    started: Instant,
    /// There once the content is looked for; before that a name may be resolved.
    retrieval: OnceLock<(RetrievalId, Watch)>,
    asked: Mutex<Instant>,
    stage: Mutex<Stage>,
    ready: Notify,
}

#[derive(Debug)]
enum Stage {
    Working,
    Ready(Box<Reply>),
    Taken,
}

/// Requests with equal keys have the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    place: Place,
    address: String,
    telling: Vec<Option<HeaderValue>>,
}

/// What the page's script reads.
#[derive(Debug, Serialize)]
struct Status {
    /// `waiting` or `ready`.
    state: &'static str,
    #[serde(flatten)]
    progress: Progress,
}

#[derive(Debug, Serialize)]
struct Progress {
    phase: Option<Phase>,
    /// The phase in words.
    step: &'static str,
    providers_found: u32,
    providers_tried: u32,
    bytes: u64,
    /// The same as people read it.
    received: String,
    seconds: u64,
}

#[derive(Template)]
#[template(path = "gateway/waiting.html")]
struct WaitingPage<'a> {
    address: &'a str,
    status: &'a str,
    script: &'a str,
    progress: &'a Progress,
    retrieval: Option<&'a str>,
}

/// `/ipfs/{cid}[/path]` and `/ipns/{name}[/path]`, with a page for those who wait.
pub(super) async fn content(
    State(gateway): State<Arc<Gateway>>,
    Extension(mut info): Extension<RequestInfo>,
    Extension(place): Extension<Place>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Reply {
    let waits = gateway.waits.clone();
    if waits.after.is_zero() || !is_navigation(&method, &headers) || !may_be_shown(&uri) {
        return handler::content(gateway, info, place, method, uri, headers).await;
    }
    let key = Key::new(&place, &uri, &headers);
    let address = place.asked(uri.path()).to_owned();
    if let Some(wait) = waits.find(&key) {
        if let Some(reply) = wait.again(waits.after.max(HELD)).await {
            waits.close(&wait);
            return reply;
        }
        if waits.is_open(&wait) {
            return waiting_page(&wait, &address);
        }
        // Another took the answer: what was fetched for it is here now.
    }
    let wait = Arc::new(Wait::new(key, info.started));
    info.wait = Some(wait.clone());
    let mut work: Work = Box::pin(handler::content(gateway, info, place, method, uri, headers));
    if let Ok(reply) = tokio::time::timeout(waits.after, &mut work).await {
        return reply;
    }
    if !waits.open(&wait) {
        // No room: it waits like any other request.
        return work.await;
    }
    let (going_on, waiting) = (waits.clone(), wait.clone());
    waits.supervisor.spawn("waiting", async move { going_on.go_on(&waiting, work).await });
    waiting_page(&wait, &address)
}

/// Only a browser that opens a page says all of this (Fetch Metadata); old ones that do not simply wait.
fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|said| said == value);
    method == Method::GET
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
        && problem::wants_html(headers)
        && !headers.contains_key(RANGE)
        // What is fetched ahead of a click is not waited for.
        && !headers.contains_key("sec-purpose")
        && !handler::only_if_cached(headers)
}

/// Not what a browser saves without leaving the page on which the link was.
fn may_be_shown(uri: &Uri) -> bool {
    handler::parameter(uri, "download").is_none_or(|value| value != "true")
        && handler::parameter(uri, "format").is_none()
}

/// What is at `/.well-known/tidegate/waiting/{id}`; `None`: another address.
pub(super) fn status(waits: &Waits, path: &str) -> Option<Reply> {
    let id = path.strip_prefix(page::WAITING_STATUS)?;
    let wait = waits.lock().get(id).cloned();
    let mut reply = match wait {
        Some(wait) => {
            wait.touch();
            let state = if wait.is_ready() { "ready" } else { "waiting" };
            let status = Status { state, progress: wait.progress() };
            // A struct of plain fields always has a JSON form.
            Response::new(Body::from(serde_json::to_string(&status).unwrap_or_default()))
        }
        None => {
            let mut reply = Response::new(Body::from("{\"state\":\"gone\"}"));
            *reply.status_mut() = StatusCode::NOT_FOUND;
            reply
        }
    };
    let out = reply.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    out.insert(CACHE_CONTROL, headers::NO_STORE);
    Some(reply)
}

fn waiting_page(wait: &Wait, address: &str) -> Reply {
    let (status, progress) = (format!("{}{}", page::WAITING_STATUS, wait.id), wait.progress());
    let retrieval = wait.retrieval.get().map(|(id, _)| id.to_string());
    let address = crate::units::visible(&percent_encoding::percent_decode_str(address).decode_utf8_lossy());
    let rendered = WaitingPage {
        address: &address,
        status: &status,
        script: page::WAITING_SCRIPT,
        progress: &progress,
        retrieval: retrieval.as_deref(),
    }
    .render();
    let text = rendered.inspect_err(|error| tracing::error!(%error, "waiting page")).unwrap_or_default();
    let mut reply = Response::new(Body::from(text));
    *reply.status_mut() = StatusCode::ACCEPTED;
    let out = reply.headers_mut();
    page::set_waiting_headers(out);
    out.insert(CACHE_CONTROL, headers::NO_STORE);
    out.insert(VARY, HeaderValue::from_static("Accept, Sec-Fetch-Dest, Sec-Fetch-Mode"));
    out.insert(RETRY_AFTER, HeaderValue::from(RETRY_S));
    out.insert(HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex"));
    if let Some(retrieval) = retrieval {
        out.insert(headers::RETRIEVAL, headers::value(&retrieval));
    }
    reply
}

impl Waits {
    pub(super) fn new(after: Duration, counts: Counts, supervisor: Supervisor) -> Arc<Self> {
        Arc::new(Self { after, open: Mutex::default(), counts, supervisor })
    }

    /// The request behind the page, until it is answered or nobody asks any more.
    async fn go_on(&self, wait: &Arc<Wait>, mut work: Work) {
        // Also when the work panics.
        let _open = Open { waits: self, wait };
        let (patience, stop) = (ABANDONED + self.after, self.supervisor.token());
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut working = true;
        loop {
            tokio::select! {
                reply = &mut work, if working => {
                    working = false;
                    wait.park(reply);
                }
                _ = look.tick() => {
                    if wait.is_taken() {
                        return;
                    }
                    if wait.idle() > patience {
                        self.counts.waits_abandoned.inc();
                        return;
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    fn open(&self, wait: &Arc<Wait>) -> bool {
        let mut open = self.lock();
        if open.len() >= MAX_WAITS {
            self.counts.hit(Limits::WaitingPages);
            return false;
        }
        wait.touch();
        open.insert(wait.id.clone(), wait.clone());
        self.counts.waiting_pages.inc();
        true
    }

    fn find(&self, key: &Key) -> Option<Arc<Wait>> {
        self.lock().values().find(|wait| wait.key == *key).cloned()
    }

    fn is_open(&self, wait: &Wait) -> bool {
        self.lock().contains_key(&wait.id)
    }

    fn close(&self, wait: &Wait) {
        self.lock().remove(&wait.id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Wait>>> {
        lock(&self.open)
    }
}

/// Closes a wait when its task ends, and drops what nobody took.
struct Open<'a> {
    waits: &'a Waits,
    wait: &'a Wait,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.waits.close(self.wait);
        *lock(&self.wait.stage) = Stage::Taken;
        self.wait.ready.notify_waiters();
    }
}

impl Wait {
    fn new(key: Key, started: Instant) -> Self {
        Self {
            id: format!("{:032x}", rand::random::<u128>()),
            key,
            started,
            retrieval: OnceLock::new(),
            asked: Mutex::new(Instant::now()),
            stage: Mutex::new(Stage::Working),
            ready: Notify::new(),
        }
    }

    /// From the handler: the content is looked for.
    pub(super) fn began(&self, id: RetrievalId, watch: Watch) {
        let _ = self.retrieval.set((id, watch));
    }

    /// Asks again, for at most this long. `None`: not yet, or another has it.
    async fn again(&self, patience: Duration) -> Option<Reply> {
        self.touch();
        let mut ready = std::pin::pin!(self.ready.notified());
        ready.as_mut().enable();
        if let Some(reply) = self.take() {
            return Some(reply);
        }
        let _ = tokio::time::timeout(patience, ready).await;
        self.take()
    }

    fn park(&self, reply: Reply) {
        *lock(&self.stage) = Stage::Ready(Box::new(reply));
        self.ready.notify_waiters();
    }

    fn take(&self) -> Option<Reply> {
        let mut stage = lock(&self.stage);
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Ready(reply) => Some(*reply),
            other => {
                *stage = other;
                None
            }
        }
    }

    fn is_ready(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Ready(_))
    }

    fn is_taken(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Taken)
    }

    fn touch(&self) {
        *lock(&self.asked) = Instant::now();
    }

    fn idle(&self) -> Duration {
        lock(&self.asked).elapsed()
    }

    fn progress(&self) -> Progress {
        let report = self.retrieval.get().map(|(_, watch)| watch.report());
        let phase = report.as_ref().map(|report| report.phase);
        let bytes = report.as_ref().map_or(0, |report| report.network_bytes);
        Progress {
            phase,
            step: step(phase),
            providers_found: report.as_ref().map_or(0, |report| report.providers_found),
            providers_tried: report.as_ref().map_or(0, |report| report.providers_attempted),
            bytes,
            received: ByteSize(bytes).human(),
            seconds: self.started.elapsed().as_secs(),
        }
    }
}

fn step(phase: Option<Phase>) -> &'static str {
    match phase {
        None => "Finding out where the name leads",
        Some(Phase::Resolve) => "Looking at what is here",
        Some(Phase::Route) => "Looking for providers",
        Some(Phase::Dial) => "Connecting to providers",
        Some(Phase::Fetch) => "Fetching",
        Some(Phase::Verify | Phase::Serve) => "Checking what came",
    }
}

impl Key {
    fn new(place: &Place, uri: &Uri, headers: &HeaderMap) -> Self {
        let telling = TELLING.iter().map(|name| headers.get(name));
        let forwarded = FORWARDED.iter().map(|name| headers.get(*name));
        Self {
            place: place.clone(),
            address: uri.to_string(),
            telling: telling.chain(forwarded).map(|value| value.cloned()).collect(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn wait(address: &str) -> Arc<Wait> {
        let key = Key::new(&Place::Path, &address.parse().unwrap(), &HeaderMap::new());
        Arc::new(Wait::new(key, Instant::now()))
    }

    #[test]
    fn no_more_than_the_bound_go_on_behind_a_page() {
        let metrics = Metrics::new();
        let waits = Waits::new(Duration::from_secs(2), Counts::new(&metrics), Supervisor::new());
        let first = wait("/ipfs/0");
        assert!(waits.open(&first));
        assert!((1..MAX_WAITS).all(|n| waits.open(&wait(&format!("/ipfs/{n}")))));
        assert!(!waits.open(&wait("/ipfs/more")));
        assert!(metrics.encode().contains("gateway_limits_hit_total{limit=\"WaitingPages\"} 1"));
        waits.close(&first);
        assert!(waits.open(&wait("/ipfs/more")));
    }

    #[tokio::test]
    async fn an_answer_is_handed_over_once() {
        let wait = wait("/ipfs/0");
        assert!(wait.again(Duration::ZERO).await.is_none());
        wait.park(Response::new(Body::empty()));
        assert!(wait.is_ready());
        assert!(wait.again(Duration::ZERO).await.is_some());
        assert!(wait.is_taken() && wait.again(Duration::ZERO).await.is_none());
    }

    #[test]
    fn what_another_answer_may_follow_from_makes_another_wait() {
        let key = |address: &str, name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            Key::new(&Place::Path, &address.parse().unwrap(), &headers)
        };
        let one = key("/ipfs/a", "host", "x");
        assert_eq!(one, key("/ipfs/a", "host", "x"));
        assert_ne!(one, key("/ipfs/b", "host", "x"));
        assert_ne!(one, key("/ipfs/a?filename=x", "host", "x"));
        assert_ne!(one, key("/ipfs/a", "host", "y"));
        assert_ne!(one, key("/ipfs/a", "if-none-match", "x"));
        let origin = Place::Subdomain { parent: "localhost".into() };
        assert_ne!(Key::new(&origin, &"/ipfs/a".parse().unwrap(), &HeaderMap::new()), key("/ipfs/a", "x-other", "x"));
    }
}
