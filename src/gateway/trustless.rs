//! The gateway for peers, over libp2p: what they can verify, of what is here.
//!
//! Sources: the libp2p-gateway specification (protocol `/ipfs/gateway` of libp2p's HTTP), the trustless-gateway
//! specification. A peer never makes this server fetch anything: what is not here is 404 at once, as Kubo does it. What
//! peers are given is counted (`gateway_libp2p_…`) and is no retrieval of ours, so there is no record of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{any, get};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, Uri};
use tokio::sync::Semaphore;

use super::error::GatewayError;
use super::folders::Folders;
use super::format::ResponseFormat;
use super::metrics::Counts;
use super::middleware::RequestInfo;
use super::origin::Place;
use super::waiting::Waits;
use super::warm::Warm;
use super::{Gateway, State, handler, middleware, waiting};
use crate::names::Reach;
use crate::record::NoRecords;
use crate::telemetry::Metrics;

/// Where a peer says which protocols it serves over HTTP, and the answer: the gateway is at the root.
const WELL_KNOWN: &str = "/.well-known/libp2p/protocols";
const PROTOCOLS: &str = r#"{"/ipfs/gateway":{"path":"/"}}"#;

/// The gateway for peers as a router. Registers its metrics: build it once a process. Of `state` neither the sink nor
/// the token check is used.
pub fn trustless(state: State, metrics: &Metrics) -> Router {
    let counts = Counts::named(metrics, "gateway_libp2p", " of peers over libp2p");
    let state = State { sink: Arc::new(NoRecords), is_admin_token: Arc::new(|_| false), routing: None, ..state };
    let gateway = Arc::new(Gateway {
        permits: Arc::new(Semaphore::new(state.config.concurrent_requests as usize)),
        // Peers are programs.
        waits: Waits::new(Duration::ZERO, counts.clone(), state.retriever.supervisor().clone()),
        counts: counts.clone(),
        // What is given here is what is in memory or on disk, block by block.
        warm: Warm::off(),
        folders: Folders::off(),
        reach: Reach::Local,
        state,
    });
    Router::new()
        .route("/ipfs/{*path}", any(waiting::content))
        .route("/ipns/{*path}", any(waiting::content))
        .route(WELL_KNOWN, get(async || ([(CONTENT_TYPE, "application/json")], PROTOCOLS)))
        .fallback(handler::nothing)
        .with_state(gateway)
        .layer(axum::middleware::from_fn(front))
        .layer(axum::middleware::from_fn_with_state(counts, middleware::wrap))
}

/// Refuses what cannot be verified; every root is at the same place.
async fn front(mut request: Request, next: Next) -> Response {
    let info = request.extensions().get::<RequestInfo>().cloned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if let (true, Some(info), Err(error)) = (reads, info, verifiable(request.uri(), request.headers())) {
        return handler::refuse_plainly(&error, request.method(), request.headers(), &info);
    }
    request.extensions_mut().insert(Place::Path);
    next.run(request).await
}

/// Raw blocks and records of whole roots and keys, CARs of any path below a root. What is no content path, or names a
/// format that nobody has, is the handler's to refuse.
fn verifiable(uri: &Uri, headers: &HeaderMap) -> Result<(), GatewayError> {
    let mut parts = uri.path().trim_matches('/').split('/');
    let (space, below_root) = (parts.next().unwrap_or_default(), parts.nth(1).is_some());
    if !matches!(space, "ipfs" | "ipns") {
        return Ok(());
    }
    let Ok(negotiated) = ResponseFormat::negotiate(uri.query(), headers) else { return Ok(()) };
    match (space, negotiated.format) {
        ("ipfs", ResponseFormat::Car(_)) => Ok(()),
        ("ipfs", ResponseFormat::Raw) | ("ipns", ResponseFormat::IpnsRecord) if !below_root => Ok(()),
        (_, ResponseFormat::Deserialized) if !headers.contains_key(ACCEPT) => Err(GatewayError::NoFormat),
        _ => Err(GatewayError::NotVerifiable),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn status(target: &str, accept: Option<&str>) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        headers.extend(accept.map(|accept| (ACCEPT, HeaderValue::from_str(accept).unwrap())));
        verifiable(&target.parse().unwrap(), &headers).err().map(|error| error.fault().status)
    }

    #[test]
    fn only_what_a_peer_can_verify_is_served() {
        let raw = Some("application/vnd.ipld.raw");
        for (target, accept) in [
            ("/ipfs/bafkqaaa?format=raw", None),
            ("/ipfs/bafkqaaa/?format=raw", None),
            ("/ipfs/bafkqaaa", raw),
            ("/ipfs/bafkqaaa?format=car", None),
            ("/ipfs/bafkqaaa/a/b?format=car&dag-scope=entity", Some("*/*")),
            ("/ipfs/bafkqaaa/a/b", Some("application/vnd.ipld.car; dups=y")),
            ("/ipns/k51?format=ipns-record", None),
            ("/.well-known/libp2p/protocols", None),
            // Refused elsewhere, with what is wrong.
            ("/ipfs/bafkqaaa?format=nonsense", None),
        ] {
            assert_eq!(status(target, accept), None, "{target}");
        }
        for (target, accept) in [
            ("/ipfs/bafkqaaa", Some("*/*")),
            ("/ipfs/bafkqaaa", Some("text/html")),
            ("/ipfs/bafkqaaa?format=tar", None),
            ("/ipfs/bafkqaaa?format=dag-json", None),
            ("/ipfs/bafkqaaa?format=ipns-record", None),
            ("/ipfs/bafkqaaa/a?format=raw", None),
            ("/ipfs/bafkqaaa/a", raw),
            ("/ipns/k51?format=car", None),
            ("/ipns/k51?format=raw", None),
            ("/ipns/k51/a?format=ipns-record", None),
        ] {
            assert_eq!(status(target, accept), Some(StatusCode::NOT_ACCEPTABLE), "{target}");
        }
        assert_eq!(status("/ipfs/bafkqaaa", None), Some(StatusCode::BAD_REQUEST));
    }
}
