//! The whole program in this process, on loopback ports of its own, and delegated routers of the test's making.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;
use tempfile::TempDir;
use tidegate::app::{App, Mode};
use tidegate::config::Settings;
use tidegate::p2p::{Bootstrap, Dns};
use tidegate::units::ByteSize;
use wiremock::matchers::{method, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// What a browser sends with the address bar.
pub const NAVIGATION: [(&str, &str); 4] = [
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-site", "none"),
];

pub struct TestApp {
    app: App,
    pub http: Client,
    _dir: TempDir,
}

impl TestApp {
    /// A server that knows nobody but what `change` tells it.
    pub async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let mut settings = Settings {
            data_dir: Some(dir.path().to_owned()),
            gateway: free,
            admin: free,
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap(), "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()],
            bootstrap: Bootstrap::None,
            no_dht: true,
            no_mdns: true,
            dns: Dns::None,
            database: Some("none".to_owned()),
            cache_disk: ByteSize(0),
            allow_private: vec!["127.0.0.0/8".parse().unwrap()],
            ..Settings::default()
        };
        change(&mut settings);
        let app = App::start(settings, Mode::Server).await.unwrap();
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { app, http, _dir: dir }
    }

    pub fn gateway(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.app.api_file().gateway))
    }

    /// As a browser asks for a page.
    pub async fn navigate(&self, path: &str) -> Response {
        let request =
            NAVIGATION.iter().fold(self.gateway(path), |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    }

    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        let api = self.app.api_file();
        self.http.request(method, format!("{}{path}", api.admin)).bearer_auth(&api.token)
    }

    pub async fn api(&self, path: &str) -> Value {
        self.admin(Method::GET, &format!("/api/v1/{path}")).send().await.unwrap().json().await.unwrap()
    }

    /// Adds a file and says its CID.
    pub async fn add(&self, bytes: Vec<u8>) -> String {
        let request = self.admin(Method::POST, "/api/v1/add").body(bytes);
        let added: Value = request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        added["cid"].as_str().unwrap().to_owned()
    }

    pub async fn metrics(&self) -> String {
        self.admin(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()
    }

    pub fn peers(&self) -> Vec<String> {
        self.app.peers().iter().map(ToString::to_string).collect()
    }

    pub fn peer_id(&self) -> String {
        self.peers()[0].rsplit('/').next().unwrap().to_owned()
    }

    pub async fn stop(self) {
        self.app.stop().await;
    }
}

/// A delegated router that answers every question about providers like this.
pub async fn router(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET")).and(path_regex("^/routing/v1/providers/")).respond_with(answer).mount(&server).await;
    server
}

pub fn names(peer: &str, addrs: &[String]) -> ResponseTemplate {
    let addrs: Vec<&str> =
        addrs.iter().map(|addr| addr.rsplit_once("/p2p/").map_or(addr.as_str(), |(a, _)| a)).collect();
    let record = serde_json::json!({"Schema": "peer", "ID": peer, "Addrs": addrs, "Protocols": ["transport-bitswap"]});
    ResponseTemplate::new(200).set_body_json(serde_json::json!({ "Providers": [record] }))
}

pub fn nobody() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(r#"{"Providers":[]}"#, "application/json")
}

pub fn slow(answer: ResponseTemplate, delay: Duration) -> ResponseTemplate {
    answer.set_delay(delay)
}
