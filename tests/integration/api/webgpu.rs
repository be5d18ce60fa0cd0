//! The WebGPU lab over REST: tokens, what is refused and why, the rows, the summary, and the page without scripts.

use serde_json::json;

use super::*;

const JSON: &str = "application/json";

/// A run as Chromium on SwiftShader posts it, cut to two shapes.
fn run() -> Value {
    let compute = |workgroup: &str, median: f64| {
        json!({
            "workload": "log-mel", "workgroup": workgroup, "shader_compile_ms": 1.5, "pipeline_ms": 70.0,
            "first_ms": 140.0, "samples": 10, "dispatches": 1, "median_ms": median, "p95_ms": median * 1.3,
            "gpu_ms": median * 0.9, "max_error": 5.03e-5, "verified": true,
        })
    };
    json!({
        "origin": "browser", "browser": {"name": "Chromium", "version": "156"}, "os": "Linux", "duration_ms": 30000.0,
        "adapter": {"vendor": "google", "architecture": "swiftshader", "is_fallback": null, "timestamp_query": true,
            "features": ["timestamp-query"], "limits": {"maxBufferSize": 268435456.0}},
        "timer_resolution_ms": 0.005, "wait_method": "map",
        "compute": [compute("64x1x1", 115.0), compute("128x1x1", 230.0)],
        "start": [
            {"mode": "precompiled", "samples": 3, "prepare_ms": 700.0, "first_ms": 130.0, "p95_ms": 190.0, "max_error": 5e-5, "verified": true},
            {"mode": "on-demand", "samples": 3, "prepare_ms": 0.0, "first_ms": 680.0, "p95_ms": 745.0, "max_error": 5e-5, "verified": true},
        ],
        "load": {"cid": HELLO, "name": "a-model", "format": "safetensors", "parameters_million": 2.0, "files": 8,
            "bytes": 8385152, "protocol": "http/1.1", "passes": [
                {"mode": "files", "cache": "warm", "streams": 1, "samples": 3, "requests": 8, "bytes": 8385152, "wall_ms": 190.0,
                    "first_on_gpu_ms": 31.0, "all_on_gpu_ms": 193.0, "p95_ms": 200.0, "verified": true},
                {"mode": "files", "cache": "warm", "streams": 4, "samples": 3, "requests": 8, "bytes": 8385152, "wall_ms": 90.0,
                    "first_on_gpu_ms": 41.0, "all_on_gpu_ms": 96.5, "p95_ms": 99.0, "verified": true},
            ]},
    })
}

async fn token(admin: &Admin) -> String {
    let answer = admin.post("/api/v1/webgpu/runs", JSON, Body::empty()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    answer.json()["token"].as_str().unwrap().to_owned()
}

async fn submit(admin: &Admin, run: Value) -> Answer {
    let body = json!({"token": token(admin).await, "run": run});
    admin.post("/api/v1/webgpu/results", JSON, body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_becomes_rows_a_summary_and_a_page() {
    let admin = Admin::start().await;
    let stored = submit(&admin, run()).await;
    assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.body);
    assert_eq!((stored.json()["rows"].as_u64(), stored.json()["is_simulated"].as_bool()), (Some(6), Some(true)));
    let summary = admin.get("/api/v1/webgpu/summary").await.json();
    let platform = &summary["platforms"][0];
    assert_eq!(platform["workloads"][0]["best"], "64x1x1");
    assert_eq!(platform["workloads"][0]["variants"][1]["score"], 0.5);
    assert_eq!(platform["loads"]["passes"][1]["sequential_ms"], 193.0);
    assert_eq!(platform["loads"]["passes"][1]["first_shard_ms"], 41.0);
    assert_eq!(summary["models"][0]["cid"], HELLO);
    let page = admin.get("/webgpu").await;
    assert_eq!(page.status, StatusCode::OK);
    for text in ["Chromium 156", "5.2 times as fast", "software", "64x1x1", HELLO, "Measuring needs JavaScript"] {
        assert!(page.body.contains(text), "{text} is missing");
    }
    assert!(page.header("content-security-policy").contains("connect-src 'self' http://127.0.0.1:8080;"));
    assert!(!admin.get("/").await.header("content-security-policy").contains("8080"));
    let csv = admin.get("/webgpu?format=csv").await;
    assert_eq!(csv.body.lines().count(), 7, "{}", csv.body);
    assert!(csv.body.starts_with("id,test_id,browser_name,browser_version,"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_page_says_how_to_fill_it() {
    let admin = Admin::start().await;
    let page = admin.get("/webgpu").await;
    assert!(page.body.contains("No browser has been measured yet") && page.body.contains("gpu bench --submit"));
    assert_eq!(admin.get("/api/v1/webgpu/summary").await.json()["platforms"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stores_one_run() {
    let admin = Admin::start().await;
    let body = json!({"token": token(&admin).await, "run": run()}).to_string();
    assert_eq!(admin.post("/api/v1/webgpu/results", JSON, body.clone()).await.status, StatusCode::CREATED);
    let again = admin.post("/api/v1/webgpu/results", JSON, body).await.problem(StatusCode::CONFLICT);
    assert!(again["detail"].as_str().unwrap().contains("token"));
    let none = json!({"token": "00", "run": run()}).to_string();
    admin.post("/api/v1/webgpu/results", JSON, none).await.problem(StatusCode::CONFLICT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_reason() {
    let admin = Admin::start().await;
    let mut refused = Vec::new();
    for (pointer, value, reason) in [
        ("/compute/0/median_ms", json!(1e-9), "faster than any hardware"),
        ("/compute/0/max_error", json!(3.1), "tolerance"),
        ("/compute/0/samples", json!(3), "samples"),
        ("/compute/0/p95_ms", json!(1.0), "p95"),
        ("/compute/0/workgroup", json!("7x1x1"), "workgroup"),
        ("/load/passes/0/wall_ms", json!(0.0001), "faster"),
        ("/load/cid", json!("nonsense"), "cid"),
        ("/browser/name", json!("x".repeat(200)), "browser.name"),
        ("/browser/name", json!("a\u{0}b"), "browser.name"),
        ("/origin", json!("live"), "live"),
        ("/adapter", Value::Null, "adapter"),
    ] {
        let mut run = run();
        *run.pointer_mut(pointer).unwrap() = value;
        let problem = submit(&admin, run).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
        let text = problem.to_string();
        if !text.contains(reason) {
            refused.push(format!("{pointer}: {text}"));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    let large = admin.post("/api/v1/webgpu/results", JSON, " ".repeat(200_000)).await;
    large.problem(StatusCode::PAYLOAD_TOO_LARGE);
    admin.post("/api/v1/webgpu/results", "text/plain", "{}").await.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(admin.get("/api/v1/webgpu/summary").await.json()["runs"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_stored_as_one() {
    let admin = Admin::start().await;
    let failed = json!({
        "origin": "browser", "browser": {"name": "Firefox", "version": "153.0"}, "duration_ms": 12.0,
        "failure": {"kind": "no-adapter", "message": "The browser has WebGPU but offers no adapter."},
    });
    assert_eq!(submit(&admin, failed).await.json()["rows"], 1);
    let summary = admin.get("/api/v1/webgpu/summary").await.json();
    assert_eq!(summary["platforms"][0]["failure"], "no-adapter");
    assert_eq!(summary["platforms"][0]["compute_shaders_enabled"], false);
    assert_eq!(summary["runs"][0]["success"], false);
    assert!(admin.get("/webgpu").await.body.contains("offers no adapter"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_results_are_503_and_the_page_says_so() {
    for state in [Db::Broken, Db::Off] {
        let admin = Admin::with("127.0.0.1:8090", state).await;
        submit(&admin, run()).await.problem(StatusCode::SERVICE_UNAVAILABLE);
        let page = admin.get("/webgpu").await;
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.body.contains("not available") && page.body.contains("data-lab-run"));
    }
}
