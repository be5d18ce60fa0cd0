//! What a person sees while content is looked for, and how soon everybody is told that it cannot be had.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;
use tidegate::ipld::{Block, HashCode, codec};
use wiremock::ResponseTemplate;

use crate::test_app::{NAVIGATION, TestApp, names, nobody, router, slow};

const NOWHERE: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
/// Long before any time limit, also on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn brief(settings: &mut tidegate::config::Settings) {
    settings.waiting_page = Duration::from_millis(100);
}

/// The address of the status that a waiting page names.
fn status_of(page: &str) -> &str {
    page.split("data-status=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a status")
}

#[tokio::test]
async fn a_browser_that_waits_gets_a_page_that_turns_into_the_content() {
    let provider = TestApp::start(|_| {}).await;
    let body = vec![7; 700_000];
    let cid = provider.add(body.clone()).await;
    let path = format!("/ipfs/{cid}");
    // The router takes its time: the content cannot be here before.
    let named = router(slow(names(&provider.peer_id(), &provider.peers()), Duration::from_secs(2))).await;
    let seeker = TestApp::start(|settings| {
        brief(settings);
        settings.router = vec![named.uri()];
    })
    .await;

    let page = seeker.navigate(&path).await;
    assert_eq!(page.status(), StatusCode::ACCEPTED);
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert_eq!(page.headers()["x-robots-tag"], "noindex");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let retrieval = page.headers()["tidegate-retrieval"].clone();
    let text = page.text().await.unwrap();
    assert!(text.contains("Looking for providers") && text.contains(&path), "{text}");
    assert!(text.contains("<noscript><meta http-equiv=\"refresh\""), "{text}");
    assert_eq!((text.matches("<script").count(), text.matches("<script src=\"/.well-known/").count()), (1, 1));

    let status: Value = seeker.gateway(status_of(&text)).send().await.unwrap().json().await.unwrap();
    assert_eq!((&status["state"], &status["phase"]), (&"waiting".into(), &"route".into()), "{status}");

    // As the page does without a script: it asks again until it is something else.
    let started = Instant::now();
    let content = loop {
        let again = seeker.navigate(&path).await;
        if again.status() != StatusCode::ACCEPTED {
            break again;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it never turned into the content");
    };
    assert_eq!(content.status(), StatusCode::OK);
    assert_eq!(content.headers()["tidegate-retrieval"], retrieval, "it is one retrieval");
    assert!(content.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert!(content.headers()["server-timing"].to_str().unwrap().contains("route;dur="));
    assert_eq!(content.bytes().await.unwrap(), body);
    assert_eq!(named.received_requests().await.unwrap().len(), 1, "it was looked for once");
    assert!(seeker.metrics().await.contains("tidegate_gateway_waiting_pages_total 1"));

    // The wait is over: its status is gone, and the next navigation is answered from the cache.
    assert_eq!(seeker.gateway(status_of(&text)).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(seeker.navigate(&path).await.status(), StatusCode::OK);
    seeker.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn programs_downloads_and_those_who_switched_it_off_never_get_the_page() {
    let late = router(slow(nobody(), Duration::from_secs(1))).await;
    let start = |after: u64| {
        let url = late.uri();
        TestApp::start(move |settings| {
            settings.waiting_page = Duration::from_millis(after);
            settings.router = vec![url];
        })
    };
    let seeker = start(100).await;
    let page = |path: &str, left_out: &str, more: &[(&'static str, &'static str)]| {
        let request = NAVIGATION.iter().filter(|(name, _)| *name != left_out).chain(more);
        request.fold(seeker.gateway(path), |request, (name, value)| request.header(*name, *value)).send()
    };
    // A CID for each: that nobody has it is remembered for a moment.
    let missing = |n: u8| {
        let block = Block::encode(codec::RAW, HashCode::Sha2_256, vec![n; 100].into()).unwrap();
        format!("/ipfs/{}", block.cid())
    };
    for (path, left_out, more) in [
        (missing(0), "accept", &[("accept", "*/*")][..]),
        (missing(1), "sec-fetch-mode", &[("sec-fetch-mode", "cors")]),
        (missing(2), "sec-fetch-mode", &[]),
        (missing(3), "sec-fetch-dest", &[("sec-fetch-dest", "iframe")]),
        (missing(4), "", &[("range", "bytes=0-9")]),
        (missing(10), "", &[("sec-purpose", "prefetch;prerender")]),
        (missing(5), "", &[("cache-control", "only-if-cached")]),
        (format!("{}?download=true", missing(6)), "", &[]),
        (format!("{}?format=car", missing(7)), "", &[]),
    ] {
        let answer = page(&path, left_out, more).await.unwrap();
        assert!(answer.status().is_client_error(), "{path} without {left_out}, {more:?}: {}", answer.status());
    }
    assert!(seeker.metrics().await.contains("tidegate_gateway_waiting_pages_total 0"));
    assert_eq!(page(&missing(8), "", &[]).await.unwrap().status(), StatusCode::ACCEPTED);
    seeker.stop().await;

    let off = start(0).await;
    assert_eq!(off.navigate(&missing(9)).await.status(), StatusCode::NOT_FOUND);
    off.stop().await;
}

#[tokio::test]
async fn a_page_turns_into_the_error_with_its_real_status_when_nobody_has_it() {
    let late = router(slow(nobody(), Duration::from_secs(1))).await;
    let seeker = TestApp::start(|settings| {
        brief(settings);
        settings.router = vec![late.uri()];
    })
    .await;
    let path = format!("/ipfs/{NOWHERE}");
    assert_eq!(seeker.navigate(&path).await.status(), StatusCode::ACCEPTED);
    let started = Instant::now();
    let error = loop {
        let again = seeker.navigate(&path).await;
        if again.status() != StatusCode::ACCEPTED {
            break again;
        }
        assert!(started.elapsed() < Duration::from_secs(60));
    };
    assert_eq!(error.status(), StatusCode::NOT_FOUND);
    assert_eq!(error.headers()["retry-after"], "60");
    assert_eq!(error.headers()["cache-control"], "no-store");
    let text = error.text().await.unwrap();
    assert!(text.contains("404 Not Found") && text.contains("Providers found"), "{text}");
    seeker.stop().await;
}

#[tokio::test]
async fn a_wait_that_nobody_asks_about_any_more_ends() {
    let never = router(slow(nobody(), Duration::from_secs(120))).await;
    let seeker = TestApp::start(|settings| {
        brief(settings);
        settings.router = vec![never.uri()];
        settings.limits.retrieval_timeout = Duration::from_secs(120);
    })
    .await;
    let page = seeker.navigate(&format!("/ipfs/{NOWHERE}")).await;
    assert_eq!(page.status(), StatusCode::ACCEPTED);
    let text = page.text().await.unwrap();
    // Who asks keeps it going.
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(2) {
        assert_eq!(seeker.gateway(status_of(&text)).send().await.unwrap().status(), StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let ended = async {
        while !seeker.metrics().await.contains("tidegate_gateway_waits_abandoned_total 1") {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), ended).await.expect("the wait ends");
    assert!(seeker.metrics().await.contains("tidegate_gateway_requests_in_flight 0"));
    seeker.stop().await;
}

/// Each router's answer, the status that follows from it, and the code that programs read.
#[tokio::test]
async fn who_cannot_be_served_is_told_as_soon_as_every_router_has_answered() {
    let (empty, broken) = (router(nobody()).await, router(ResponseTemplate::new(500)).await);
    let late = router(slow(nobody(), Duration::from_secs(1))).await;
    let garbage = router(ResponseTemplate::new(200).set_body_raw("<html>", "application/json")).await;
    let peer = "12D3KooWGzBXWNvHpLALvTgHZZw3Lr8Yr1AGGrYBkKUq2DUGzHcm";
    let gone = router(names(peer, &["/ip4/127.0.0.1/tcp/1".to_owned()])).await;
    let nowhere = "http://127.0.0.1:1".to_owned();
    for (routers, status, code, found) in [
        (vec![empty.uri()], 404, "no_provider", 0),
        (vec![empty.uri(), late.uri()], 404, "no_provider", 0),
        (vec![broken.uri()], 502, "routers_failed", 0),
        (vec![garbage.uri()], 502, "routers_failed", 0),
        (vec![nowhere], 502, "routers_failed", 0),
        (vec![empty.uri(), broken.uri()], 502, "routers_failed", 0),
        (vec![gone.uri()], 502, "providers_failed", 1),
    ] {
        let seeker = TestApp::start(|settings| settings.router = routers.clone()).await;
        let started = Instant::now();
        let answer = seeker.gateway(&format!("/ipfs/{NOWHERE}")).send().await.unwrap();
        assert!(started.elapsed() < SOON, "{routers:?} took {:?}", started.elapsed());
        assert_eq!(answer.status().as_u16(), status, "{routers:?}");
        let retry: u32 = answer.headers()["retry-after"].to_str().unwrap().parse().expect("whole seconds");
        assert!(answer.headers()["server-timing"].to_str().unwrap().contains("total;dur="));
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["retry_after"]), (&code.into(), &retry.into()), "{routers:?}");
        assert_eq!(problem["providers_found"], found, "{routers:?}: {problem}");
        assert!(problem["phase"].is_string() && problem["providers_tried"].is_u64(), "{problem}");
        seeker.stop().await;
    }
}

#[tokio::test]
async fn a_router_that_never_answers_costs_the_retrieval_timeout_and_no_more() {
    let never = router(slow(nobody(), Duration::from_secs(120))).await;
    let seeker = TestApp::start(|settings| {
        settings.router = vec![never.uri()];
        settings.limits.retrieval_timeout = Duration::from_secs(1);
    })
    .await;
    let started = Instant::now();
    let answer = seeker.gateway(&format!("/ipfs/{NOWHERE}")).send().await.unwrap();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u32>().is_ok());
    let problem: Value = answer.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["phase"]), (&"timeout".into(), &"route".into()), "{problem}");
    seeker.stop().await;
}
