//! Denylists in the whole program: what peers are given, what `/routing/v1` says, what `explain` says.

use std::io::Write as _;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::NamedTempFile;
use tidegate::ipld::ipns::IpnsName;

use crate::test_app::TestApp;

const KEY: &str = "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam";
const OTHER_KEY: &str = "k51qzi5uqu5dhmzyv3zac033i7rl9hkgczxyl81lwoukda2htteop7d3x0y1mf";

fn list(lines: &str) -> NamedTempFile {
    let mut list = NamedTempFile::with_suffix(".deny").unwrap();
    list.write_all(format!("version: 1\n---\n{lines}\n").as_bytes()).unwrap();
    list
}

fn text(seed: u8) -> Vec<u8> {
    format!("content number {seed}").into_bytes()
}

/// The CIDs of two contents, as a server would add them.
async fn cids() -> (String, String) {
    let plain = TestApp::start(|_| {}).await;
    let cids = (plain.add(text(1)).await, plain.add(text(2)).await);
    plain.stop().await;
    cids
}

#[tokio::test]
async fn bitswap_gives_no_peer_what_is_denied() {
    let (bad, good) = cids().await;
    let list = list(&format!("/ipfs/{bad}"));
    let server = TestApp::start(|settings| settings.denylist = vec![list.path().to_owned()]).await;
    assert_eq!((server.add(text(1)).await, server.add(text(2)).await), (bad.clone(), good.clone()));
    let peers = server.peers();
    let seeker = TestApp::start(|settings| {
        settings.peer = peers.iter().map(|addr| addr.parse().unwrap()).collect();
        settings.limits.retrieval_timeout = Duration::from_secs(10);
    })
    .await;
    let answer = seeker.gateway(&format!("/ipfs/{good}")).send().await.unwrap();
    assert_eq!((answer.status(), answer.bytes().await.unwrap().to_vec()), (StatusCode::OK, text(2)));
    let answer = seeker.gateway(&format!("/ipfs/{bad}")).send().await.unwrap();
    assert!(!answer.status().is_success(), "{}", answer.status());
    // Asked without being asked for the content: it says that it has the one and not the other.
    for (cid, has) in [(&good, true), (&bad, false)] {
        let told = seeker.api(&format!("explain/{cid}?timeout_s=10")).await;
        let providers = told["providers"].as_array().unwrap();
        let says = providers.iter().any(|peer| peer["peer_id"] == server.peer_id() && peer["has"] == "yes");
        assert_eq!(says, has, "{told:#}");
    }
    seeker.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn routing_v1_names_us_for_what_is_here_and_not_for_what_is_denied() {
    let (bad, good) = cids().await;
    let list = list(&format!("/ipfs/{bad}"));
    let server = TestApp::start(|settings| {
        settings.denylist = vec![list.path().to_owned()];
        settings.routing_v1 = true;
    })
    .await;
    server.add(text(1)).await;
    server.add(text(2)).await;
    let providers = async |cid: &str| -> Vec<Value> {
        let answer = server.gateway(&format!("/routing/v1/providers/{cid}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json::<Value>().await.unwrap()["Providers"].as_array().unwrap().clone()
    };
    let named = providers(&good).await;
    assert_eq!(named[0]["ID"], server.peer_id());
    assert_eq!(providers(&bad).await, Vec::<Value>::new());
    server.stop().await;
}

#[tokio::test]
async fn routing_v1_neither_gives_nor_takes_records_of_denied_names() {
    let list = list(&format!("/ipns/{KEY}\n/ipns/{OTHER_KEY} status=451"));
    let server = TestApp::start(|settings| {
        settings.denylist = vec![list.path().to_owned()];
        settings.routing_v1 = true;
    })
    .await;
    let address = |name: &str| format!("/routing/v1/ipns/{name}");
    let as_peer = KEY.parse::<IpnsName>().unwrap().peer().to_string();
    for (name, status) in [(KEY, 410), (&*as_peer, 410), (OTHER_KEY, 451)] {
        let answer = server.gateway(&address(name)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let url = server.gateway(&address(name)).build().unwrap().url().clone();
        let put = server.http.put(url).header("content-type", "application/vnd.ipfs.ipns-record").body(text(1));
        assert_eq!(put.send().await.unwrap().status().as_u16(), status, "PUT {name}");
    }
    // Another name is as it was: there is no record of it.
    let open = IpnsName::of_key(&libp2p::identity::Keypair::generate_ed25519().public());
    let answer = server.gateway(&address(&open.to_string())).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn explain_calls_denied_what_a_denied_path_or_name_leads_to() {
    let list = list("");
    let server = TestApp::start(|settings| settings.denylist = vec![list.path().to_owned()]).await;
    let part = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"d/e/a.bin\"\r\n\r\nabc\r\n--B--\r\n";
    let request = server.admin(Method::POST, "/api/v1/add").header("content-type", "multipart/form-data; boundary=B");
    let added: Value = request.body(part).send().await.unwrap().json().await.unwrap();
    let root = added["cid"].as_str().unwrap().to_owned();
    let publish = async |key: &str, path: String| -> String {
        let body = serde_json::json!({ "path": path, "key": key });
        let request = server.admin(Method::POST, "/api/v1/names").json(&body);
        let made: Value = request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        made["name"].as_str().unwrap().to_owned()
    };
    let inner = publish("inner", format!("/ipfs/{root}")).await;
    let outer = publish("outer", format!("/ipns/{inner}/e")).await;
    let sub = server.api(&format!("explain/{root}?path=e")).await["target"].as_str().unwrap().to_owned();

    let verdict = async |query: &str| server.api(&format!("explain/{root}{query}")).await["verdict"].clone();
    let (whole, file) = (String::new(), "?path=e/a.bin".to_owned());
    let (named, via) = (format!("?path=e/a.bin&name={inner}"), format!("?path=e/a.bin&name={outer}"));
    for query in [&whole, &file, &named, &via] {
        assert_eq!(verdict(query).await, "local", "{query}");
    }
    for (rule, denied, allowed) in [
        (format!("/ipfs/{root}/e/a*"), vec![&file, &named, &via], vec![&whole]),
        (format!("/ipfs/{sub}/a.bin"), vec![&file, &named, &via], vec![&whole]),
        (format!("/ipns/{outer}"), vec![&via], vec![&whole, &file, &named]),
        (format!("/ipns/{inner}"), vec![&via, &named], vec![&whole, &file]),
        (format!("/ipns/{inner}/e/a.bin"), vec![&via, &named], vec![&whole, &file]),
    ] {
        std::fs::write(list.path(), format!("{rule}\n")).unwrap();
        // Until the server has read the list again, the rule before counts.
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        let wanted = denied.iter().map(|query| (*query, "denied")).chain(allowed.iter().map(|query| (*query, "local")));
        for (query, wanted) in wanted {
            while verdict(query).await != wanted {
                assert!(tokio::time::Instant::now() < end, "{rule}: {query} is not {wanted}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // A name that leads elsewhere says nothing about this CID.
    let wrong = server.admin(Method::GET, &format!("/api/v1/explain/{sub}?name={inner}")).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    server.stop().await;
}
