//! The server of Delegated Routing V1 on the gateway's listener, off unless `--routing-v1` is given.
//!
//! Source: <https://specs.ipfs.tech/routing/http-routing-v1/> (2025-12-17): providers (IPIP-337), IPNS (IPIP-379), NDJSON
//! (IPIP-410), peers (IPIP-417), closest peers (IPIP-476), filters (IPIP-484), 200 on empty (IPIP-513).

mod filter;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::routing::any;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_METHODS, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED,
    RETRY_AFTER, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use libp2p::{Multiaddr, PeerId};
use multihash_codetable::{Code, MultihashDigest};
use serde::Serialize;

use super::conditional::Conditional;
use super::format::IPNS_RECORD;
use super::metrics::Limits;
use super::middleware::FormatLabel;
use super::respond::ipns_record::{etag, set_age};
use super::{Gateway, headers};
use crate::blockstore::Blockstore;
use crate::denylist::Judge;
use crate::ipld::ipns::{IpnsName, MAX_RECORD};
use crate::ipld::path::{ContentPath, Namespace};
use crate::ipld::{Cid, cid};
use crate::names::{NameError, Reach};
use crate::routing::{ContentRouter, PeerRouter, Provider, RouterKind, RoutingEvent, find_all};
use filter::Filter;

/// Results of one answer, in JSON and in NDJSON.
const MAX_RESULTS: usize = 100;
/// Peers of one answer of `/dht/closest/peers` (Kademlia's k).
const MAX_CLOSEST: usize = 20;
/// How long routers may take before an answer says what has come until then.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY_BUSY: u32 = 10;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// For answers with results, and for those without (http-routing-v1, "Response Headers").
const SOME: HeaderValue =
    HeaderValue::from_static("public, max-age=300, stale-while-revalidate=172800, stale-if-error=172800");
const NONE: HeaderValue =
    HeaderValue::from_static("public, max-age=15, stale-while-revalidate=172800, stale-if-error=172800");
const GET_METHODS: HeaderValue = HeaderValue::from_static("GET, OPTIONS");
const IPNS_METHODS: HeaderValue = HeaderValue::from_static("GET, PUT, OPTIONS");

type Reply = Response<Body>;
type Shared = State<Arc<Gateway>>;

/// Says who and where we are.
pub type OwnAddresses = Arc<dyn Fn() -> (PeerId, Vec<Multiaddr>) + Send + Sync>;

/// What the server answers from.
#[derive(Clone)]
pub struct Routing {
    /// Asked for providers: only those whose word is that a peer has the content.
    pub content: Vec<Arc<dyn ContentRouter>>,
    pub peers: Vec<Arc<dyn PeerRouter>>,
    /// What is here and not refused is provided by us.
    pub blocks: Arc<dyn Blockstore>,
    /// `None`: nobody can dial us.
    pub own: Option<OwnAddresses>,
}

/// A request without its body.
#[derive(FromRequestParts)]
struct Asked {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

/// An answer that is not 200, with a sentence for people.
struct Refusal {
    status: StatusCode,
    text: String,
}

fn refusal(status: StatusCode, text: impl Into<String>) -> Refusal {
    Refusal { status, text: text.into() }
}

pub(super) fn router() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/routing/v1/providers/{cid}", any(providers))
        .route("/routing/v1/peers/{peer}", any(peers))
        .route("/routing/v1/ipns/{name}", any(ipns))
        .route("/routing/v1/dht/closest/peers/{key}", any(closest))
        .route("/routing/v1", any(unknown))
        .route("/routing/v1/{*rest}", any(unknown))
}

async fn unknown() -> Reply {
    let paths = "/providers/{cid}, /peers/{peer-id}, /ipns/{name} and /dht/closest/peers/{key}";
    finish(Err(refusal(StatusCode::BAD_REQUEST, format!("no such path; under /routing/v1 there are {paths}"))))
}

async fn providers(State(gateway): Shared, Path(text): Path<String>, asked: Asked) -> Reply {
    if let Some(reply) = only_get(&asked.method) {
        return reply;
    }
    let answered = async {
        let cid = cid::parse(&text).map_err(|error| refusal(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
        let (routing, permit) = enter(&gateway)?;
        let filter = Filter::read(asked.uri.query());
        let own = own_provider(routing, &cid).await;
        let mut seen = HashSet::new();
        let found = find_all(&routing.content, &cid).filter_map(|event| async move {
            match event {
                RoutingEvent::Found(provider) => Some(provider),
                RoutingEvent::Finished { .. } => None,
            }
        });
        let patience = tokio::time::sleep(PATIENCE);
        let found = futures::stream::iter(own)
            .chain(found)
            .filter_map(move |provider| {
                let wanted = filter.apply(provider).filter(|provider| seen.insert(provider.peer));
                async move { wanted }
            })
            .take(MAX_RESULTS)
            .take_until(patience)
            .inspect(move |_| {
                // The place among the concurrent requests is kept as long as the stream.
                let _ = &permit;
            })
            .boxed();
        if wants_ndjson(&asked.headers) { Ok(lines(found).await) } else { Ok(list("Providers", found.collect().await)) }
    };
    finish(answered.await)
}

async fn peers(State(gateway): Shared, Path(text): Path<String>, asked: Asked) -> Reply {
    if let Some(reply) = only_get(&asked.method) {
        return reply;
    }
    let answered = async {
        let name: IpnsName = text
            .parse()
            .map_err(|_| refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("{text:?} is not a peer ID")))?;
        let (routing, _permit) = enter(&gateway)?;
        let peer = name.peer();
        let mut merged = Provider { peer, addrs: Vec::new(), transports: Vec::new(), source: RouterKind::Dht };
        let mut known = false;
        if let Some((own, addrs)) = routing.own.as_ref().map(|own| own())
            && own == peer
        {
            known = true;
            merged.addrs = addrs.into_iter().map(without_peer).collect();
        } else {
            let answers = routing.peers.iter().map(|router| router.find_peer(peer));
            for found in patient(answers).await.into_iter().flatten() {
                known = true;
                merged.addrs.extend(found.addrs);
                merged.transports.extend(found.transports);
            }
        }
        let mut seen = HashSet::new();
        merged.addrs.retain(|addr| seen.insert(addr.clone()));
        merged.transports.sort();
        merged.transports.dedup();
        let found = Some(merged).filter(|_| known);
        let found: Vec<Provider> =
            found.and_then(|peer| Filter::read(asked.uri.query()).apply(peer)).into_iter().collect();
        if wants_ndjson(&asked.headers) {
            return Ok(lines(futures::stream::iter(found).boxed()).await);
        }
        Ok(list("Peers", found))
    };
    finish(answered.await)
}

async fn closest(State(gateway): Shared, Path(text): Path<String>, asked: Asked) -> Reply {
    if let Some(reply) = only_get(&asked.method) {
        return reply;
    }
    let answered = async {
        let key = cid::parse(&text).ok().or_else(|| text.parse::<IpnsName>().ok().map(|name| name.cid()));
        let key = key.ok_or_else(|| {
            refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("{text:?} is neither a CID nor a peer ID"))
        })?;
        let (routing, _permit) = enter(&gateway)?;
        let answers = routing.peers.iter().map(|router| router.closest_peers(&key));
        let mut found: Vec<Provider> = patient(answers).await.into_iter().flatten().collect();
        let place = distance_from(&key);
        found.sort_by_key(|provider| place(&provider.peer));
        let mut seen = HashSet::new();
        found.retain(|provider| seen.insert(provider.peer));
        found.truncate(MAX_CLOSEST);
        let filter = Filter::read(asked.uri.query());
        let found: Vec<Provider> = found.into_iter().filter_map(|provider| filter.apply(provider)).collect();
        if found.is_empty() {
            return Err(refusal(StatusCode::NOT_FOUND, "no peer of the DHT is known"));
        }
        if wants_ndjson(&asked.headers) {
            return Ok(lines(futures::stream::iter(found).boxed()).await);
        }
        Ok(list("Peers", found))
    };
    finish(answered.await)
}

async fn ipns(State(gateway): Shared, Path(text): Path<String>, request: Request) -> Reply {
    let mut reply = match *request.method() {
        Method::GET | Method::HEAD => {
            let (parts, _) = request.into_parts();
            finish(record(&gateway, &text, &parts.headers).await)
        }
        Method::PUT => finish(put_record(&gateway, &text, request).await),
        Method::OPTIONS => options(IPNS_METHODS),
        _ => unsupported(IPNS_METHODS),
    };
    reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, IPNS_METHODS);
    reply
}

async fn record(gateway: &Gateway, text: &str, asked: &HeaderMap) -> Result<Reply, Refusal> {
    let name = allowed(gateway, ipns_name(text)?)?;
    if !accepts_record(asked) {
        return Err(refusal(StatusCode::NOT_ACCEPTABLE, format!("records are served as {IPNS_RECORD}")));
    }
    let (_, _permit) = enter(gateway)?;
    let found = tokio::time::timeout(PATIENCE, gateway.state.names.record(&name, Reach::Network)).await;
    let found = found.unwrap_or(Err(NameError::Timeout { name: name.to_string(), after: PATIENCE }));
    let record = match found {
        Ok((record, _)) => record,
        // 200 with another content type says that there is none (IPIP-513).
        Err(error @ (NameError::NotFound { .. } | NameError::Disabled { .. })) => {
            let mut reply = Response::new(Body::from(error.to_string()));
            reply.headers_mut().insert(CONTENT_TYPE, TEXT);
            reply.headers_mut().insert(CACHE_CONTROL, NONE);
            reply.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            return Ok(reply);
        }
        Err(error) => return Err(name_refusal(&error)),
    };
    let etag = etag(&record);
    let fresh = Conditional::read(asked).is_fresh(&etag, None);
    let mut reply = Response::new(if fresh { Body::empty() } else { Body::from(record.bytes().clone()) });
    let out = reply.headers_mut();
    out.insert(ETAG, headers::value(&etag));
    out.insert(VARY, HeaderValue::from_static("Accept"));
    set_age(out, &record, SystemTime::now());
    if fresh {
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(reply);
    }
    out.insert(CONTENT_TYPE, HeaderValue::from_static(IPNS_RECORD));
    out.insert(CONTENT_LENGTH, HeaderValue::from(record.bytes().len()));
    out.insert(LAST_MODIFIED, now());
    Ok(reply)
}

async fn put_record(gateway: &Gateway, text: &str, request: Request) -> Result<Reply, Refusal> {
    let name = allowed(gateway, ipns_name(text)?)?;
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(IPNS_RECORD) {
        return Err(refusal(StatusCode::NOT_ACCEPTABLE, format!("records are taken as {IPNS_RECORD}")));
    }
    let (_, _permit) = enter(gateway)?;
    let bytes = axum::body::to_bytes(request.into_body(), MAX_RECORD)
        .await
        .map_err(|_| refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("a record has at most {MAX_RECORD} bytes")))?;
    match gateway.state.names.put(&name, bytes).await {
        Ok(_) => Ok(Response::new(Body::empty())),
        Err(error @ NameError::Invalid { .. }) => Err(refusal(StatusCode::BAD_REQUEST, error.to_string())),
        Err(error) => Err(name_refusal(&error)),
    }
}

fn ipns_name(text: &str) -> Result<IpnsName, Refusal> {
    text.parse().map_err(|error: crate::ipld::ipns::NameSyntaxError| {
        refusal(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    })
}

/// The name, unless a denylist names it.
fn allowed(gateway: &Gateway, name: IpnsName) -> Result<IpnsName, Refusal> {
    let namespace = Namespace::Ipns(name.to_string());
    let path = ContentPath { namespace, segments: Vec::new(), trailing_slash: false };
    match Judge::new(&gateway.state.denylists, [path]).verdict() {
        Ok(()) => Ok(name),
        Err(refused) => Err(refusal(super::error::refused(refused.denied).status, refused.to_string())),
    }
}

fn name_refusal(error: &NameError) -> Refusal {
    refusal(super::error::name(error).status, error.to_string())
}

/// The server's parts, and a place among the concurrent requests.
fn enter(gateway: &Gateway) -> Result<(&Routing, tokio::sync::OwnedSemaphorePermit), Refusal> {
    let routing = gateway.state.routing.as_ref().ok_or_else(|| refusal(StatusCode::NOT_FOUND, "routing is off"))?;
    let permit = gateway.permits.clone().try_acquire_owned().map_err(|_| {
        gateway.counts.hit(Limits::ConcurrentRequests);
        refusal(StatusCode::TOO_MANY_REQUESTS, "too many requests are being answered at this moment")
    })?;
    Ok((routing, permit))
}

/// Us, when the block is here and somebody can dial us.
async fn own_provider(routing: &Routing, cid: &Cid) -> Option<Provider> {
    let (peer, addrs) = routing.own.as_ref()?();
    let here = routing.blocks.has(cid).await.unwrap_or(false);
    let addrs: Vec<Multiaddr> = addrs.into_iter().map(without_peer).collect();
    let provider =
        Provider { peer, addrs, transports: vec!["transport-bitswap".to_owned()], source: RouterKind::Configured };
    Some(provider).filter(|provider| here && !provider.addrs.is_empty())
}

fn without_peer(mut addr: Multiaddr) -> Multiaddr {
    if matches!(addr.iter().last(), Some(libp2p::multiaddr::Protocol::P2p(_))) {
        addr.pop();
    }
    addr
}

/// What came within [`PATIENCE`].
async fn patient<T: Send + 'static>(
    asked: impl Iterator<Item = futures::future::BoxFuture<'static, Result<T, crate::routing::RoutingError>>>,
) -> Vec<T> {
    let mut asked: futures::stream::FuturesUnordered<_> = asked.collect();
    let mut found = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, asked.next()).await {
        found.extend(answer.inspect_err(|error| tracing::debug!(%error, "router failed")));
    }
    found
}

/// Kademlia's distance: XOR of the SHA-256 of the keys.
fn distance_from(key: &Cid) -> impl Fn(&PeerId) -> [u8; 32] {
    let digest = |bytes: &[u8]| -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(&Code::Sha2_256.digest(bytes).digest()[..32]);
        out
    };
    let key = digest(&key.hash().to_bytes());
    move |peer| {
        let peer = digest(&peer.to_bytes());
        std::array::from_fn(|at| key[at] ^ peer[at])
    }
}

/// The schema `peer`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Peer {
    schema: &'static str,
    #[serde(rename = "ID")]
    id: String,
    addrs: Vec<String>,
    protocols: Vec<String>,
}

impl Peer {
    fn of(provider: Provider) -> Self {
        Self {
            schema: "peer",
            id: provider.peer.to_string(),
            addrs: provider.addrs.iter().map(ToString::to_string).collect(),
            protocols: provider.transports,
        }
    }
}

/// `{"Providers":[…]}` or `{"Peers":[…]}`.
fn list(name: &'static str, found: Vec<Provider>) -> Reply {
    let cache = if found.is_empty() { NONE } else { SOME };
    let peers: Vec<Peer> = found.into_iter().map(Peer::of).collect();
    let text = serde_json::json!({ name: peers }).to_string();
    let mut reply = Response::new(Body::from(text));
    set_headers(reply.headers_mut(), JSON, cache);
    reply
}

/// A record a line, as they come. The header waits for the first, because it says whether there is one.
async fn lines(mut found: BoxStream<'static, Provider>) -> Reply {
    let first = found.next().await;
    let cache = if first.is_none() { NONE } else { SOME };
    let line = |provider| -> Result<Bytes, std::convert::Infallible> {
        // A struct of plain fields always has a JSON form.
        let mut line = serde_json::to_vec(&Peer::of(provider)).unwrap_or_default();
        line.push(b'\n');
        Ok(line.into())
    };
    let mut reply = Response::new(Body::from_stream(futures::stream::iter(first).chain(found).map(line)));
    set_headers(reply.headers_mut(), NDJSON, cache);
    reply
}

fn set_headers(out: &mut HeaderMap, kind: HeaderValue, cache: HeaderValue) {
    out.insert(CONTENT_TYPE, kind);
    out.insert(CACHE_CONTROL, cache);
    out.insert(LAST_MODIFIED, now());
    out.insert(VARY, HeaderValue::from_static("Accept"));
}

fn now() -> HeaderValue {
    headers::value(&httpdate::fmt_http_date(SystemTime::now()))
}

/// NDJSON is for who names it.
fn wants_ndjson(headers: &HeaderMap) -> bool {
    media(headers).any(|media| media == "application/x-ndjson")
}

fn accepts_record(headers: &HeaderMap) -> bool {
    !headers.contains_key(ACCEPT)
        || media(headers).any(|media| matches!(media.as_str(), IPNS_RECORD | "*/*" | "application/*"))
}

/// What `Accept` names, weights of 0 left out.
fn media(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    values.filter_map(|media| {
        let mut pieces = media.split(';').map(str::trim);
        let essence = pieces.next()?.to_ascii_lowercase();
        let refused = pieces.any(|piece| {
            piece.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok()).is_some_and(|weight| weight == 0.0)
        });
        (!refused).then_some(essence)
    })
}

/// The answer to what is not GET.
fn only_get(method: &Method) -> Option<Reply> {
    let mut reply = match *method {
        Method::GET | Method::HEAD => return None,
        Method::OPTIONS => options(GET_METHODS),
        _ => unsupported(GET_METHODS),
    };
    reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, GET_METHODS);
    Some(reply)
}

fn options(methods: HeaderValue) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply.headers_mut().insert(ALLOW, methods);
    reply
}

fn unsupported(methods: HeaderValue) -> Reply {
    let mut reply = finish(Err(refusal(StatusCode::NOT_IMPLEMENTED, "this method is not supported here")));
    reply.headers_mut().insert(ALLOW, methods);
    reply
}

fn finish(answered: Result<Reply, Refusal>) -> Reply {
    let mut reply = answered.unwrap_or_else(|Refusal { status, text }| {
        let mut reply = Response::new(Body::from(text));
        *reply.status_mut() = status;
        let out = reply.headers_mut();
        out.insert(CONTENT_TYPE, TEXT);
        out.insert(CACHE_CONTROL, headers::NO_STORE);
        let passing = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::BAD_GATEWAY,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        if passing.contains(&status) {
            out.insert(RETRY_AFTER, HeaderValue::from(RETRY_BUSY));
        }
        reply
    });
    reply.extensions_mut().insert(FormatLabel("routing"));
    reply
}
