//! `/api/v1/names`.

use axum::body::Body;
use axum::http::{Method, StatusCode};

use super::{Admin, request};

/// Somebody's key that nobody here holds.
const STRANGER: &str = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";
const RECORD: &str = "application/vnd.ipfs.ipns-record";

#[tokio::test]
async fn a_name_is_published_listed_and_resolved() {
    let admin = Admin::start().await;
    let asked = r#"{"path":"/ipfs/bafkqabtimvwgy3yk/a","key":"blog","lifetime_s":7200,"ttl_s":60}"#;
    let published = admin.post("/api/v1/names", "application/json", asked).await;
    assert_eq!(published.status, StatusCode::OK, "{}", published.body);
    let record = published.json();
    let name = record["name"].as_str().unwrap();
    assert!(name.starts_with("k51"));
    assert_eq!(
        (record["sequence"].as_u64(), record["key"].as_str(), record["ttl_s"].as_u64()),
        (Some(1), Some("blog"), Some(60))
    );
    assert_eq!(record["announced"], serde_json::json!([]));

    let listed = admin.get("/api/v1/names?limit=1").await.json();
    assert_eq!(listed["items"][0]["name"], *name);
    assert_eq!((&listed["items"][0]["expired"], &listed["next_cursor"]), (&false.into(), &serde_json::Value::Null));

    let resolved = admin.get(&format!("/api/v1/names/{name}")).await.json();
    assert_eq!(
        (resolved["path"].as_str(), resolved["source"].as_str()),
        (Some("/ipfs/bafkqabtimvwgy3yk/a"), Some("local"))
    );
    assert_eq!(resolved["trail"][0]["stale"], false);
    let fixed = admin.get("/api/v1/names/fixed.example").await.json();
    assert_eq!(
        (fixed["path"].as_str(), fixed["source"].as_str(), &fixed["ttl_s"]),
        (Some("/ipfs/bafkqaaa"), Some("map"), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn lists_of_names_go_on_where_they_ended() {
    let admin = Admin::start().await;
    for key in ["a", "b", "c"] {
        let asked = format!(r#"{{"path":"/ipfs/bafkqaaa","key":"{key}"}}"#);
        assert_eq!(admin.post("/api/v1/names", "application/json", asked).await.status, StatusCode::OK);
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("/api/v1/names?limit=2{cursor}")).await.json();
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!((all, names.len()), (3, 3));
}

#[tokio::test]
async fn what_is_wrong_with_a_name_has_its_status() {
    let admin = Admin::start().await;
    let put = async |body: Vec<u8>| {
        let asked = request(Method::PUT, &format!("/api/v1/names/{STRANGER}")).header("content-type", RECORD);
        admin.send(asked.body(Body::from(body)).unwrap()).await
    };
    let refused = put(b"garbage".to_vec()).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused["detail"].as_str().unwrap().contains(STRANGER));
    put(vec![0; 10 * 1024 + 1]).await.problem(StatusCode::PAYLOAD_TOO_LARGE);
    admin.get("/api/v1/names/nonsense").await.problem(StatusCode::BAD_REQUEST);
    admin.get(&format!("/api/v1/names/{STRANGER}")).await.problem(StatusCode::NOT_FOUND);
    admin.get("/api/v1/names/a.example").await.problem(StatusCode::SERVICE_UNAVAILABLE);
    for (asked, status) in [
        (r#"{"path":"bafkqaaa"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"path":"/ipfs/nonsense"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"path":"/ipfs/bafkqaaa","lifetime_s":1}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"path":"/ipfs/bafkqaaa","key":"../x"}"#, StatusCode::BAD_REQUEST),
        (r#"{"path":"/ipfs/bafkqaaa","kye":"x"}"#, StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        admin.post("/api/v1/names", "application/json", asked).await.problem(status);
    }
}
