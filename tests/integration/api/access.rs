//! Who may do what: scopes of tokens, rate limits, what an attacker's page or name meets.

use super::*;
use axum::extract::ConnectInfo;
use tidegate::api::{RateLimits, Rates, Scope, Tokens};

const OPEN: &str = "0.0.0.0:8090";

async fn with_tokens(bound: &str) -> Admin {
    Admin::with_access(bound, Db::Off, |access, dir, _| access.with_tokens(Tokens::open(dir).unwrap())).await
}

impl Admin {
    async fn as_token(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut asked = request(method, path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        if body.is_some() {
            asked = asked.header(header::CONTENT_TYPE, "application/json");
        }
        self.send(asked.body(body.map_or(Body::empty(), |body| body.to_string().into())).unwrap()).await
    }

    /// Its secret and its id.
    async fn token(&self, name: &str, scope: Scope) -> (String, String) {
        let body = serde_json::json!({"name": name, "scope": scope.as_str()});
        let made = self.as_token(TOKEN, Method::POST, "/api/v1/tokens", Some(body)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        assert_eq!(made.header("cache-control"), "no-store");
        let json = made.json();
        assert_eq!(made.header("location"), format!("/api/v1/tokens/{}", json["id"].as_str().unwrap()));
        (json["token"].as_str().unwrap().to_owned(), json["id"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn each_scope_reaches_its_class_of_routes_and_no_other() {
    let admin = with_tokens(OPEN).await;
    let routes = [
        (Scope::Read, Method::GET, "/"),
        (Scope::Read, Method::GET, "/metrics"),
        (Scope::Read, Method::GET, "/api/v1/stats"),
        (Scope::Read, Method::GET, "/api/v1/openapi.json"),
        (Scope::Read, Method::GET, "/no/such/page"),
        (Scope::Write, Method::POST, "/api/v1/add"),
        (Scope::Write, Method::PUT, "/api/v1/pins/bafkqaaa"),
        (Scope::Write, Method::DELETE, "/api/v1/pins/bafkqaaa"),
        (Scope::Results, Method::POST, "/api/v1/results"),
        (Scope::Admin, Method::POST, "/api/v1/gc"),
        (Scope::Admin, Method::POST, "/api/v1/scrub"),
        (Scope::Admin, Method::GET, "/api/v1/tokens"),
        (Scope::Admin, Method::DELETE, "/api/v1/tokens/0000000000000000"),
    ];
    for scope in Scope::ALL {
        let (token, _) = admin.token(scope.as_str(), scope).await;
        for (needed, method, path) in &routes {
            let answer = admin.as_token(&token, method.clone(), path, None).await;
            let here = format!("{} token: {method} {path}", scope.as_str());
            if scope.grants(*needed) {
                assert!(!matches!(answer.status.as_u16(), 401 | 403), "{here}: {}", answer.body);
            } else {
                let problem = answer.problem(StatusCode::FORBIDDEN);
                assert_eq!(problem["type"], "urn:tidegate:problem:insufficient-scope", "{here}");
                assert!(
                    answer.header("www-authenticate").contains(&format!("scope=\"{}\"", needed.as_str())),
                    "{here}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_shown_once_listed_without_its_secret_and_refused_once_revoked() {
    let admin = with_tokens(OPEN).await;
    let (secret, id) = admin.token("laptop", Scope::Read).await;
    let list = admin.as_token(TOKEN, Method::GET, "/api/v1/tokens", None).await;
    assert!(!list.body.contains(&secret["tidegate_".len()..]));
    assert_eq!(
        (list.json()["items"][0]["id"].as_str(), &list.json()["items"][0]["last_used_us"]),
        (Some(&*id), &Value::Null)
    );
    assert_eq!(admin.as_token(&secret, Method::GET, "/api/v1/id", None).await.status, StatusCode::OK);
    let list = admin.as_token(TOKEN, Method::GET, "/api/v1/tokens", None).await.json();
    assert!(list["items"][0]["last_used_us"].as_u64().is_some());

    let path = format!("/api/v1/tokens/{id}");
    assert_eq!(admin.as_token(TOKEN, Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    admin.as_token(TOKEN, Method::DELETE, &path, None).await.problem(StatusCode::NOT_FOUND);
    admin.as_token(&secret, Method::GET, "/api/v1/id", None).await.problem(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_that_is_asked_for_wrongly_is_refused_with_the_place() {
    let admin = with_tokens(OPEN).await;
    let ask = async |body: Value| admin.as_token(TOKEN, Method::POST, "/api/v1/tokens", Some(body)).await;
    for (body, pointer) in [
        (serde_json::json!({"name": "", "scope": "read"}), "/name"),
        (serde_json::json!({"name": "a\nb", "scope": "read"}), "/name"),
        (serde_json::json!({"name": "x".repeat(101), "scope": "read"}), "/name"),
        (serde_json::json!({"name": "x", "scope": "root"}), "/scope"),
        (serde_json::json!({"name": "x", "scope": "read", "expires_s": 1}), "/expires_s"),
        (serde_json::json!({"name": "x", "scope": "read", "expires_s": -1}), "/expires_s"),
        (serde_json::json!({"name": "x", "scope": "read", "more": 1}), "/more"),
    ] {
        let problem = ask(body.clone()).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    admin.token("taken", Scope::Read).await;
    let twice = ask(serde_json::json!({"name": "taken", "scope": "read"})).await;
    assert_eq!(twice.problem(StatusCode::CONFLICT)["type"], "urn:tidegate:problem:already-exists");
    let big = ask(serde_json::json!({"name": "x".repeat(5_000), "scope": "read"})).await;
    big.problem(StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn tokens_come_in_parts() {
    let admin = with_tokens(OPEN).await;
    for n in 0..3 {
        admin.token(&format!("t{n}"), Scope::Read).await;
    }
    let first = admin.as_token(TOKEN, Method::GET, "/api/v1/tokens?limit=2", None).await.json();
    let path = format!("/api/v1/tokens?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = admin.as_token(TOKEN, Method::GET, &path, None).await.json();
    let mut ids: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|part| part["items"].as_array().unwrap())
        .map(|t| t["id"].to_string())
        .collect();
    assert_eq!((ids.len(), &second["next_cursor"]), (3, &Value::Null));
    ids.dedup();
    assert!(ids.is_sorted() && ids.len() == 3);
}

#[tokio::test]
async fn on_loopback_no_token_is_needed_but_the_scope_of_one_that_is_sent_holds() {
    let admin = with_tokens("127.0.0.1:8090").await;
    let (read, _) = admin.token("reader", Scope::Read).await;
    assert_eq!(admin.get("/api/v1/tokens").await.status, StatusCode::OK);
    assert_eq!(admin.as_token(&read, Method::GET, "/api/v1/id", None).await.status, StatusCode::OK);
    admin.as_token(&read, Method::POST, "/api/v1/gc", None).await.problem(StatusCode::FORBIDDEN);
    let proxy = admin.as_token("meant-for-the-proxy", Method::GET, "/api/v1/id", None).await;
    assert_eq!(proxy.status, StatusCode::OK);
}

#[tokio::test]
async fn without_a_data_directory_for_them_tokens_cannot_be_made() {
    let admin = Admin::start().await;
    let body = serde_json::json!({"name": "x", "scope": "read"}).to_string();
    admin.post("/api/v1/tokens", "application/json", body).await.problem(StatusCode::SERVICE_UNAVAILABLE);
}

async fn limited(rates: Rates) -> Admin {
    Admin::with_access("127.0.0.1:8090", Db::Off, |access, dir, metrics| {
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        access.with_tokens(Tokens::open(dir).unwrap()).with_rates(RateLimits::new(rates, metrics), proxies)
    })
    .await
}

async fn from(admin: &Admin, address: &str, forwarded: &str, method: Method, path: &str) -> Answer {
    let mut asked = request(method, path);
    if !forwarded.is_empty() {
        asked = asked.header("x-forwarded-for", forwarded);
    }
    let mut asked = asked.body(Body::empty()).unwrap();
    asked.extensions_mut().insert(ConnectInfo(format!("{address}:1").parse::<SocketAddr>().unwrap()));
    admin.send(asked).await
}

#[tokio::test]
async fn a_client_beyond_its_budget_is_told_when_to_come_back_and_others_go_on() {
    let admin = limited(Rates { reads: 1, changes: 1, expensive: 1 }).await;
    let mut refused = None;
    for _ in 0..20 {
        let answer = from(&admin, "192.0.2.1", "", Method::GET, "/api/v1/id").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("20 reads at once are more than 4");
    let problem = refused.problem(StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        (problem["type"].as_str(), &problem["retry"]),
        (Some("urn:tidegate:problem:too-many-requests"), &Value::Bool(true))
    );
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    let ok = |answer: Answer| assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    ok(from(&admin, "192.0.2.1", "", Method::POST, "/api/v1/add?pin=false").await);
    ok(from(&admin, "192.0.2.1", "", Method::POST, "/api/v1/gc").await);
    ok(from(&admin, "192.0.2.1", "", Method::GET, "/healthz").await);
    ok(from(&admin, "192.0.2.2", "", Method::GET, "/api/v1/id").await);
    assert!(
        admin.get("/metrics").await.body.contains("tidegate_api_rate_limited_total{budget=\"reads\",by=\"address\"}")
    );
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_counts_and_a_forged_header_does_not() {
    let admin = limited(Rates { reads: 1, changes: 0, expensive: 0 }).await;
    let spent = async |address: &str, forwarded: &dyn Fn(u32) -> String| {
        let mut taken = 0;
        for n in 0..20 {
            let answer = from(&admin, address, &forwarded(n), Method::GET, "/api/v1/id").await;
            taken += u32::from(answer.status == StatusCode::OK);
        }
        taken
    };
    assert_eq!(spent("10.0.0.1", &|n| format!("198.51.100.{n}")).await, 20, "twenty clients");
    assert!(spent("10.0.0.1", &|_| "203.0.113.9, 10.0.0.2".to_owned()).await <= 5, "one client behind two proxies");
    assert!(spent("10.0.0.1", &|n| format!("1.1.1.{n}, 203.0.113.10")).await <= 5, "what the client wrote itself");
    assert!(spent("203.0.113.11", &|n| format!("198.51.100.{n}")).await <= 5, "not a proxy of ours");
}

#[tokio::test]
async fn a_token_has_a_budget_of_its_own_wherever_it_is_used() {
    let admin = limited(Rates { reads: 1, changes: 0, expensive: 0 }).await;
    let (token, _) = admin.token("shared", Scope::Read).await;
    let mut refused = 0;
    for n in 0..20 {
        let mut asked = request(Method::GET, "/api/v1/id")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        asked.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, n], 1))));
        refused += u32::from(admin.send(asked).await.status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused >= 15, "{refused}");
}
