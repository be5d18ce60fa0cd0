//! What holds of the whole REST API: the document and the routes agree, problems, cursors, ETags.

use super::*;

/// Every operation of the document as method, path with examples filled in, and its entry.
async fn operations(admin: &Admin) -> Vec<(Method, String, Value)> {
    let document = admin.get("/api/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let mut filled = path.clone();
            for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path") {
                let name = parameter["name"].as_str().unwrap();
                let value = if parameter["schema"]["type"] == "integer" { "1" } else { HELLO };
                filled = filled.replace(&format!("{{{name}}}"), value);
            }
            found.push((method.to_uppercase().parse().unwrap(), filled, operation.clone()));
        }
    }
    found
}

#[tokio::test]
async fn every_documented_operation_is_served_and_every_served_method_is_documented() {
    let admin = Admin::start().await;
    let operations = operations(&admin).await;
    let mut by_path: std::collections::BTreeMap<&str, Vec<Method>> = Default::default();
    for (method, path, _) in &operations {
        by_path.entry(path).or_default().push(method.clone());
        let kind = if *method == Method::POST { "application/json" } else { "" };
        let asked = request(method.clone(), path).header(header::CONTENT_TYPE, kind).body(Body::empty()).unwrap();
        let response = admin.router.clone().oneshot(asked).await.unwrap();
        assert_ne!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        if response.status() == StatusCode::NOT_FOUND {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(!String::from_utf8_lossy(&body).contains("no resource"), "{method} {path}");
        }
    }
    // axum's Allow has the methods that a route serves: those and no others are in the document.
    for (path, mut documented) in by_path {
        let answer = admin.send(request(Method::PATCH, path).body(Body::empty()).unwrap()).await;
        answer.problem(StatusCode::METHOD_NOT_ALLOWED);
        let allow = answer.header("allow").split(',').map(str::trim).map(str::to_owned);
        let mut served: Vec<String> = allow.filter(|method| method != "HEAD").collect();
        served.sort();
        documented.sort_by_key(ToString::to_string);
        assert_eq!(served, documented.iter().map(ToString::to_string).collect::<Vec<_>>(), "{path}");
    }
}

#[tokio::test]
async fn an_answer_without_content_says_only_what_the_document_says() {
    let admin = Admin::start().await;
    for (method, path, operation) in operations(&admin).await {
        if method != Method::GET || path.contains("events") {
            continue;
        }
        let answer = admin.get(&path).await;
        assert!(operation["responses"].get(answer.status.as_str()).is_some(), "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn bounded_reads_have_strong_etags_and_answer_304_without_a_body() {
    let admin = Admin::start().await;
    assert_eq!(admin.post("/api/v1/add", "", "x").await.status, StatusCode::OK);
    for path in ["/api/v1/pins", "/api/v1/retrievals", "/api/v1/p2p/peers", "/api/v1/openapi.json"] {
        let first = admin.get(path).await;
        let etag = first.header("etag").to_owned();
        assert!(etag.starts_with('"') && etag.len() == 26, "{path}: {etag}");
        for known in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
            let asked = request(Method::GET, path).header(header::IF_NONE_MATCH, known).body(Body::empty()).unwrap();
            let again = admin.send(asked).await;
            assert_eq!(
                (again.status, again.body.as_str(), again.header("etag")),
                (StatusCode::NOT_MODIFIED, "", &*etag)
            );
        }
        let other = request(Method::GET, path).header(header::IF_NONE_MATCH, "\"other\"").body(Body::empty()).unwrap();
        assert_eq!(admin.send(other).await.status, StatusCode::OK, "{path}");
    }
    let before = admin.get("/api/v1/pins").await.header("etag").to_owned();
    assert_eq!(admin.post("/api/v1/add", "", "y").await.status, StatusCode::OK);
    assert_ne!(admin.get("/api/v1/pins").await.header("etag"), before);
}

#[tokio::test]
async fn a_query_that_is_not_understood_names_the_parameter() {
    let admin = Admin::start().await;
    for (path, parameter) in [
        ("pins?limit=0", "limit"),
        ("pins?limit=9999999999999", "limit"),
        ("pins?limit=1&limit=2", "limit"),
        ("pins?cursor=bafkqaaa", "cursor"),
        ("pins?coursor=x", "coursor"),
        ("retrievals?outcome=fine", "outcome"),
        ("retrievals?peer=%ff%fe", "peer"),
        ("retrievals?peer=%00", "peer"),
        ("retrievals?min_load_ms=inf", "min_load_ms"),
        ("p2p/analytics?window_s=0", "window_s"),
        ("p2p/peers?limit=x", "limit"),
    ] {
        let problem = admin.get(&format!("/api/v1/{path}")).await.problem(StatusCode::BAD_REQUEST);
        assert_eq!(problem["errors"][0]["parameter"], parameter, "{path}: {problem}");
    }
    admin.get("/api/v1/pins/%ff").await.problem(StatusCode::BAD_REQUEST);
    admin.get("/api/v1/retrievals/1x").await.problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn retrievals_come_in_parts_by_a_cursor_that_is_not_of_another_list() {
    let admin = Admin::start().await;
    for _ in 0..3 {
        admin.record(fetched()).await;
    }
    let first = admin.get("/api/v1/retrievals?limit=2").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = admin.get(&format!("/api/v1/retrievals?limit=2&cursor={cursor}")).await.json();
    assert_eq!((second["items"].as_array().unwrap().len(), &second["next_cursor"]), (1, &Value::Null));
    assert!(first["items"][1]["id"].as_i64() > second["items"][0]["id"].as_i64());
    admin.get(&format!("/api/v1/pins?cursor={cursor}")).await.problem(StatusCode::BAD_REQUEST);
    admin.get("/api/v1/retrievals?cursor=1").await.problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn reports_of_maintenance_have_one_duration() {
    let admin = Admin::start().await;
    for path in ["/api/v1/gc", "/api/v1/scrub"] {
        let report = admin.post(path, "", Body::empty()).await.json();
        assert!(report["elapsed_ms"].is_f64() && report.get("elapsed").is_none(), "{path}: {report}");
    }
}

#[tokio::test]
async fn methods_that_health_and_metrics_do_not_take_are_problems_too() {
    let admin = Admin::start().await;
    for path in ["/metrics", "/healthz", "/readyz", "/api/v1/openapi.json"] {
        let answer = admin.post(path, "", "x").await;
        answer.problem(StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), "GET,HEAD", "{path}");
    }
}

/// One durable commit for a batch, not one for each file: 2,000 files were 2,000 syncs.
#[tokio::test]
async fn many_small_files_of_one_request_are_all_there_after_it() {
    use tidegate::blockstore::Blockstore;
    let admin = Admin::with("127.0.0.1:8090", Db::Off).await;
    let mut body = String::new();
    for n in 0..2_000 {
        body.push_str(&format!("--B\r\nContent-Disposition: form-data; filename=\"d/{n}.txt\"\r\n\r\nfile {n}\r\n"));
    }
    body.push_str("--B--\r\n");
    let added = admin.post("/api/v1/add", "multipart/form-data; boundary=B", body).await;
    let answer = added.json();
    assert_eq!((answer["entries"].as_u64(), answer["blocks"].as_u64()), (Some(2_001), Some(2_001)), "{answer}");
    let root = cid::parse(answer["cid"].as_str().unwrap()).unwrap();
    assert!(admin.blocks.has(&root).await.unwrap());
    let report = admin.post("/api/v1/gc", "", Body::empty()).await.json();
    assert_eq!((report["kept_blocks"].as_u64(), report["missing_blocks"].as_u64()), (Some(2_001), Some(0)));
}

#[tokio::test]
async fn the_page_of_the_api_shows_every_operation_and_schema_of_the_document() {
    let admin = Admin::start().await;
    let page = admin.get("/api").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(admin.get("/").await.body.contains("href=\"/api\""), "it is linked");
    let document = admin.get("/api/v1/openapi.json").await.json();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(
                page.body.contains(&format!("id=\"{id}\"")) && page.body.contains(&format!("<code>{path}</code>")),
                "{id}"
            );
        }
    }
    let ids: Vec<String> = tags(&page.body)
        .into_iter()
        .flat_map(|tag| tag.attributes)
        .filter(|(key, _)| key == "id")
        .map(|(_, id)| id)
        .collect();
    for (_, to) in tags(&page.body).into_iter().flat_map(|tag| tag.attributes).filter(|(key, _)| key == "href") {
        if let Some(to) = to.strip_prefix('#') {
            assert!(ids.iter().any(|id| id == to), "#{to} leads nowhere");
        }
    }
}

/// `docs/rest-api.md` is short: what it says of resources must at least be there.
#[tokio::test]
async fn every_path_that_the_manual_names_is_in_the_document() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rest-api.md")).unwrap();
    let document = Admin::with("127.0.0.1:8090", Db::Off).await.get("/api/v1/openapi.json").await.json();
    let mut named = 0;
    for path in manual.split(['`', ' ', '\'', '"']).filter_map(|word| word.strip_prefix("/api/v1/")) {
        let path = path.split('?').next().unwrap_or_default();
        named += 1;
        assert!(document["paths"].get(format!("/api/v1/{path}")).is_some(), "/api/v1/{path}");
    }
    assert!(named >= 10, "{named}");
}
