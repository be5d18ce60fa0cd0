//! The same cases with nothing of the fixtures on the server itself: the blocks are on a Kubo, the names in a delegated router.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::kubo::{self, Kubo};
use super::server::Server;
use super::{CASES, car, fixtures, judge, run};

/// Cases that ask for what is in the local store: nothing is.
const LOCAL_ONLY: &str = "succeeds when in local datastore";

/// What the router knows.
struct Known {
    /// Kubo, as a record of schema "peer".
    provider: serde_json::Value,
    blocks: HashSet<String>,
    /// Records by name, the broken ones too: to refuse them is the gateway's part.
    records: HashMap<String, Vec<u8>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_pass_with_blocks_on_a_peer_and_names_in_a_router() {
    let Some(folder) = fixtures::folder() else { return };
    let Some(binary) = kubo::binary() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI requires Kubo");
        return;
    };
    let kubo = Kubo::start(&binary).await;
    let car = folder.join("fixtures.car");
    kubo.run(["dag", "import", "--pin-roots=false", &*car.to_string_lossy()]).await;
    let router = router(known(&folder, &kubo)).await;
    let report = tokio::task::spawn_blocking({
        let address = kubo.addrs.iter().map(ToString::to_string).find(|addr| addr.contains("/tcp/")).expect("TCP");
        move || {
            let more = ["--peer", &address, "--router", &format!("http://{router}"), "--allow-private", "127.0.0.0/8"];
            let server = Server::start(&folder, &more.map(str::to_owned));
            let exchanges = run(&folder, server.gateway, |case| {
                case.name.contains(LOCAL_ONLY).then_some("nothing is in the local store")
            });
            let report = judge("Blocks on a Kubo v0.43.0, names in a delegated router", &exchanges);
            println!("{}\n{}the log:\n{}", report.table(), report.details(), server.log());
            report
        }
    })
    .await
    .expect("the cases run");
    println!("kept in {}", report.keep("conformance-peer").display());
    kubo.stop().await;
    let total = report.total();
    assert_eq!((total.passed, total.failed, total.skipped), (CASES - 2, 0, 2));
}

fn known(folder: &Path, kubo: &Kubo) -> Known {
    let bytes = std::fs::read(folder.join("fixtures.car")).expect("fixtures.car");
    let addrs: Vec<String> =
        kubo.addrs.iter().map(|addr| addr.to_string().split("/p2p/").next().unwrap_or_default().to_owned()).collect();
    let records = fixtures::records(folder);
    Known {
        provider: json!({ "Schema": "peer", "ID": kubo.peer.to_string(), "Addrs": addrs, "Protocols": ["transport-bitswap"] }),
        blocks: car::blocks(&bytes).expect("fixtures.car is sound").into_iter().map(|cid| multihash(&cid)).collect(),
        records: records
            .iter()
            .map(|record| (key(&record.name), std::fs::read(&record.path).expect("a record")))
            .collect(),
    }
}

async fn router(known: Known) -> SocketAddr {
    let app = Router::new()
        .route("/routing/v1/providers/{cid}", get(providers))
        .route("/routing/v1/ipns/{name}", get(ipns))
        .with_state(Arc::new(known));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    #[allow(clippy::disallowed_methods)] // a test has no supervisor; this ends with its runtime
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn providers(State(known): State<Arc<Known>>, Segment(cid): Segment<String>) -> Response {
    let providers = if known.blocks.contains(&multihash(&cid)) { vec![&known.provider] } else { Vec::new() };
    axum::Json(json!({ "Providers": providers })).into_response()
}

async fn ipns(State(known): State<Arc<Known>>, Segment(name): Segment<String>) -> Response {
    match known.records.get(&key(&name)) {
        Some(record) => ([(header::CONTENT_TYPE, "application/vnd.ipfs.ipns-record")], record.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The same for every form of a CID.
fn multihash(cid: &str) -> String {
    let cid: cid::CidGeneric<128> = cid.parse().unwrap_or_else(|error| panic!("{cid}: {error}"));
    hex::encode(cid.hash().to_bytes())
}

/// The same for every form of a name: a peer ID in base58 is its multihash.
fn key(name: &str) -> String {
    match name.parse::<libp2p::PeerId>() {
        Ok(peer) => hex::encode(peer.to_bytes()),
        Err(_) => multihash(name),
    }
}
