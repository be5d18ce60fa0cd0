//! `GET /api/v1/explain/{cid}`, its page and its command, over real sockets.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tidegate::retriever::probe::MAX_PROBES;
use wiremock::ResponseTemplate;

use crate::test_app::{TestApp, names, nobody, router, slow};

const NOWHERE: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
/// Nobody listens there.
const NO_ADDRESS: &str = "/ip4/127.0.0.1/tcp/1";
const NO_PEER: &str = "12D3KooWGzBXWNvHpLALvTgHZZw3Lr8Yr1AGGrYBkKUq2DUGzHcm";

/// No two contents share a block.
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    (0..n as u64).map(|i| ((i + (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect()
}

#[tokio::test]
async fn a_provider_that_a_router_names_is_dialled_and_asked_and_nothing_is_fetched() {
    let provider = TestApp::start(|_| {}).await;
    let cid = provider.add(bytes(1, 700_000)).await;
    let named = router(names(&provider.peer_id(), &provider.peers())).await;
    let seeker = TestApp::start(|settings| settings.router = vec![named.uri()]).await;

    let answer = seeker.api(&format!("explain/{cid}")).await;
    assert_eq!(answer["verdict"], "available", "{answer:#}");
    assert_eq!((&answer["complete"], &answer["path_is_cut"]), (&Value::Bool(true), &Value::Bool(false)));
    let found = &answer["providers"][0];
    assert_eq!(found["peer_id"], provider.peer_id());
    assert_eq!((&found["has"], &found["connection"]), (&"yes".into(), &"dialled".into()));
    assert_eq!(found["found_by"][0], named.uri());
    assert!(found["transport"].as_str().unwrap().starts_with("bitswap-"));
    assert!(found["connect_ms"].as_f64().unwrap() > 0.0 && found["answer_ms"].as_f64().unwrap() > 0.0);
    assert!(found["rtt_ms"].as_f64().unwrap() <= found["answer_ms"].as_f64().unwrap());
    // Nothing was ever fetched from it: no rate is known, and none is made up.
    assert_eq!((&found["bytes_per_second"], &answer["estimate"]["total_ms"]), (&Value::Null, &Value::Null));
    assert_eq!(answer["estimate"]["bytes"], Value::Null);
    assert_eq!(answer["estimate"]["providers_unmeasured"], 1);
    assert_eq!((&answer["local"]["tier"], &answer["local"]["blocks_missing"]), (&Value::Null, &1.into()));
    let router = &answer["routers"][0];
    assert_eq!(
        (&router["kind"], &router["providers"], &router["error"]),
        (&"delegated".into(), &1.into(), &Value::Null)
    );

    // No block came: asking what is here alone still finds nothing.
    let cached = seeker.gateway(&format!("/ipfs/{cid}?format=raw")).header("cache-control", "only-if-cached");
    assert_eq!(cached.send().await.unwrap().status(), StatusCode::PRECONDITION_FAILED);
    assert!(seeker.metrics().await.contains("tidegate_retriever_blocks_total 0"));

    // After a fetch all is here, and what the peer delivered is known.
    let fetched = seeker.gateway(&format!("/ipfs/{cid}")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(fetched.len(), 700_000);
    let answer = seeker.api(&format!("explain/{cid}")).await;
    assert_eq!(answer["verdict"], "local", "{answer:#}");
    assert_eq!((&answer["local"]["tier"], &answer["local"]["blocks_here"]), (&"memory".into(), &4.into()));
    assert_eq!((&answer["local"]["blocks_missing"], &answer["estimate"]["total_ms"]), (&0.into(), &0.0.into()));
    assert_eq!(answer["providers"][0]["connection"], "connected");
    assert!(answer["providers"][0]["bytes_per_second"].as_f64().unwrap() > 0.0);

    // The page says the same, without a script.
    let page = seeker.admin(Method::GET, &format!("/explain/{cid}")).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["cache-control"], "no-store");
    let text = page.text().await.unwrap();
    for part in [&*cid, &provider.peer_id(), "has it", "connected before", "All of it is here", &named.uri()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    seeker.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn part_of_a_graph_that_is_here_is_counted_and_the_rest_has_a_price() {
    let provider = TestApp::start(|_| {}).await;
    let (warm, cid) = (provider.add(bytes(2, 3_000_000)).await, provider.add(bytes(3, 900_001)).await);
    let peers = provider.peers();
    let seeker = TestApp::start(|settings| settings.peer = vec![peers[0].parse().unwrap()]).await;
    // Its rate becomes known with other content; of this one the root alone comes.
    seeker.gateway(&format!("/ipfs/{warm}")).send().await.unwrap().bytes().await.unwrap();
    seeker.gateway(&format!("/ipfs/{cid}?format=raw")).send().await.unwrap().bytes().await.unwrap();

    let answer = seeker.api(&format!("explain/{cid}")).await;
    assert_eq!(answer["verdict"], "available", "{answer:#}");
    let (local, estimate) = (&answer["local"], &answer["estimate"]);
    assert_eq!(
        (&local["blocks_here"], &local["blocks_missing"], &local["whole"]),
        (&1.into(), &4.into(), &true.into())
    );
    assert_eq!(local["bytes_missing"], 900_001);
    assert_eq!((&estimate["bytes"], &estimate["round_trips"]), (&900_001.into(), &1.into()));
    assert_eq!((&estimate["providers"], &estimate["providers_unmeasured"]), (&1.into(), &0.into()));
    let peer = &answer["providers"][0];
    let (rtt, rate) = (peer["rtt_ms"].as_f64().unwrap(), peer["bytes_per_second"].as_f64().unwrap());
    let total = estimate["total_ms"].as_f64().unwrap();
    assert!((total - (rtt + 900_001.0 / rate * 1e3)).abs() < 0.01, "{total} of {rtt} and {rate}");
    assert_eq!(peer["found_by"][0], "configured");
    seeker.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_path_is_followed_as_far_as_its_blocks_are_here() {
    let provider = TestApp::start(|_| {}).await;
    let part = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"d/e/a.bin\"\r\n\r\nabc\r\n--B--\r\n";
    let request = provider.admin(Method::POST, "/api/v1/add").header("content-type", "multipart/form-data; boundary=B");
    let added: Value = request.body(part).send().await.unwrap().json().await.unwrap();
    let root = added["cid"].as_str().unwrap().to_owned();
    let peers = provider.peers();
    let seeker = TestApp::start(|settings| settings.peer = vec![peers[0].parse().unwrap()]).await;

    let whole = provider.api(&format!("explain/{root}?path=e/a.bin")).await;
    assert_eq!((&whole["verdict"], &whole["path_is_cut"]), (&"local".into(), &false.into()), "{whole:#}");
    let leaf = whole["target"].as_str().unwrap();
    assert_ne!(leaf, root);
    // Nothing is here, then the root, then all but the file.
    for (fetched, cut) in [("", true), ("?format=raw", true), ("e?format=raw", false)] {
        if !fetched.is_empty() {
            let slash = if fetched.starts_with('?') { "" } else { "/" };
            let path = format!("/ipfs/{root}{slash}{fetched}");
            seeker.gateway(&path).send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        }
        let answer = seeker.api(&format!("explain/{root}?path=e/a.bin")).await;
        assert_eq!((&answer["path_is_cut"], &answer["verdict"]), (&cut.into(), &"available".into()), "{answer:#}");
        let target = answer["target"].as_str().unwrap();
        assert_eq!((target == root, target == leaf), (fetched.is_empty(), !cut), "{answer:#}");
    }
    let wrong = seeker.admin(Method::GET, &format!("/api/v1/explain/{root}?path=e/b.bin")).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::NOT_FOUND);
    seeker.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn who_cannot_be_reached_who_has_it_not_and_nobody_are_told_apart() {
    let other = TestApp::start(|_| {}).await;
    let gone = router(names(NO_PEER, &[NO_ADDRESS.to_owned()])).await;
    let without = router(names(&other.peer_id(), &other.peers())).await;
    let (empty, broken) = (router(nobody()).await, router(ResponseTemplate::new(503)).await);
    for (routers, verdict, check) in [
        (vec![&gone], "unreachable", ("connection", "failed")),
        (vec![&without], "nobody", ("has", "no")),
        (vec![&empty], "nobody", ("", "")),
        (vec![&empty, &broken], "unknown", ("", "")),
    ] {
        let urls: Vec<String> = routers.iter().map(|router| router.uri()).collect();
        let seeker = TestApp::start(|settings| settings.router = urls).await;
        let answer = seeker.api(&format!("explain/{NOWHERE}")).await;
        assert_eq!(answer["verdict"], verdict, "{answer:#}");
        assert_eq!(answer["complete"], true);
        if !check.0.is_empty() {
            assert_eq!(answer["providers"][0][check.0], check.1, "{answer:#}");
        }
        if verdict == "unknown" {
            assert!(answer["routers"][1]["error"].as_str().unwrap().contains("503"), "{answer:#}");
        }
        seeker.stop().await;
    }
    other.stop().await;
}

#[tokio::test]
async fn the_time_that_is_given_is_kept() {
    let named = router(slow(nobody(), Duration::from_secs(60))).await;
    let seeker = TestApp::start(|settings| settings.router = vec![named.uri()]).await;
    let started = Instant::now();
    let answer = seeker.api(&format!("explain/{NOWHERE}?timeout_s=1")).await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!((&answer["verdict"], &answer["complete"]), (&"unknown".into(), &false.into()), "{answer:#}");
    assert_eq!(answer["routers"][0]["elapsed_ms"], Value::Null);
    seeker.stop().await;
}

#[tokio::test]
async fn what_is_not_understood_is_a_problem_and_what_is_denied_asks_nobody() {
    let asked = router(nobody()).await;
    let list = tempfile::NamedTempFile::with_suffix(".deny").unwrap();
    std::fs::write(list.path(), format!("version: 1\n---\n/ipfs/{NOWHERE}\n")).unwrap();
    let seeker = TestApp::start(|settings| {
        settings.router = vec![asked.uri()];
        settings.denylist = vec![list.path().to_owned()];
    })
    .await;
    let denied = seeker.api(&format!("explain/{NOWHERE}")).await;
    assert_eq!(denied["verdict"], "denied");
    assert!(asked.received_requests().await.unwrap().is_empty());

    let hello = "bafkqabtimvwgy3yk";
    for (path, status) in [
        ("not-a-cid".to_owned(), 400),
        (format!("{hello}?timeout_s=0"), 400),
        (format!("{hello}?timeout_s=61"), 400),
        (format!("{hello}?max_providers=101"), 400),
        (format!("{hello}?path=%00"), 400),
        (format!("{hello}?nothing=1"), 400),
        (format!("{hello}?path=below"), 404),
        (hello.to_owned(), 200),
    ] {
        let answer = seeker.admin(Method::GET, &format!("/api/v1/explain/{path}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let kind = if status == 200 { "application/json" } else { "application/problem+json" };
        assert_eq!(answer.headers()["content-type"], kind, "{path}");
    }
    // The form leads to an address that can be linked; what it cannot read it shows again.
    let form = seeker.admin(Method::GET, &format!("/explain?cid=ipfs%3A%2F%2F{hello}%2Fa%20b")).send().await.unwrap();
    assert_eq!(form.headers()["location"], format!("/explain/{hello}?path=a%20b"));
    let wrong = seeker.admin(Method::GET, "/explain?cid=%3Cb%3Enothing").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    let text = wrong.text().await.unwrap();
    assert!(text.contains("&#60;b&#62;nothing") && !text.contains("<b>nothing"), "{text}");
    seeker.stop().await;
}

#[tokio::test]
async fn checks_have_a_bound_and_give_their_places_back() {
    let never = router(slow(nobody(), Duration::from_secs(120))).await;
    let seeker = TestApp::start(|settings| settings.router = vec![never.uri()]).await;
    let ask =
        |seconds: u64| seeker.admin(Method::GET, &format!("/api/v1/explain/{NOWHERE}?timeout_s={seconds}")).send();
    let mut asked: FuturesUnordered<_> = (0..MAX_PROBES + 4).map(|_| ask(60)).collect();
    for _ in 0..4 {
        let refused = asked.next().await.unwrap().unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().is_ok());
    }
    assert!(seeker.metrics().await.contains("tidegate_retriever_probes_refused_total 4"));
    // Who leaves takes no place any more.
    drop(asked);
    let free = async { while ask(1).await.unwrap().status() != StatusCode::OK {} };
    tokio::time::timeout(Duration::from_secs(30), free).await.expect("a place becomes free");
    seeker.stop().await;
}
