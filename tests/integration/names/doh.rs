//! DNSLink over HTTPS (RFC 8484) against a server of the test's own. Who vouches for its certificate is told to the
//! program as to any other: by `SSL_CERT_FILE`.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use hickory_resolver::proto::op::Message;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Version};
use tidegate::listener;
use tidegate::telemetry::Metrics;

use super::dns::{Zone, answer};
use crate::gateway::world;

const MESSAGE: &str = "application/dns-message";

/// A certificate for loopback in `dir`, as NAME.pem and NAME.key.
fn certificate(dir: &Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    (cert, key)
}

async fn resolve(dir: &Path, dns: &str, roots: &Path, name: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .args(["name", "resolve", name])
        .env("TIDEGATE_DATA_DIR", dir.join("data"))
        .env("TIDEGATE_BOOTSTRAP", "none")
        .env("TIDEGATE_NO_MDNS", "true")
        .env("TIDEGATE_LISTEN", "/ip4/127.0.0.1/tcp/0")
        .env("TIDEGATE_DNS", dns)
        .env("SSL_CERT_FILE", roots)
        .env_remove("SSL_CERT_DIR")
        .env_remove("TIDEGATE_CONFIG")
        .env_remove("RUST_LOG");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dnslink_is_looked_up_over_https_from_a_server_whose_certificate_is_vouched_for() {
    let dir = tempfile::tempdir().unwrap();
    let ((cert, key), (stranger, _)) = (certificate(dir.path(), "doh"), certificate(dir.path(), "stranger"));
    let links = vec!["v=spf1 -all".to_owned(), "dnslink=/ipfs/bafkqabtimvwgy3yk".to_owned()];
    let zone = Arc::new(Zone::from([("_dnslink.a.example.".to_owned(), (60, links))]));
    let asked: Arc<Mutex<Vec<(Version, String)>>> = Arc::default();
    let seen = asked.clone();
    let query = move |version: Version, headers: HeaderMap, body: Bytes| {
        let question = Message::from_vec(&body).unwrap();
        let name = question.queries.first().unwrap().name().to_string();
        assert_eq!(headers[CONTENT_TYPE], MESSAGE);
        seen.lock().unwrap().push((version, name));
        let answer = answer(&question, &zone).to_vec().unwrap();
        async move { ([(CONTENT_TYPE, MESSAGE)], answer) }
    };
    let router = Router::new().route("/a/path", post(query));
    let tls = listener::Tls::from_files(&cert, &key).unwrap();
    let server = world::serve(router, listener::Config::default(), Some(tls), &Metrics::new()).await;
    let port = server.address.port();

    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{port}/a/path");
        let output = resolve(dir.path(), &url, &cert, "a.example").await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("/ipfs/bafkqabtimvwgy3yk"), "{host}: {out}{err}");
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert_eq!(asked, [(Version::HTTP_2, "_dnslink.a.example.".to_owned())], "{host}");
    }
    let url = format!("https://127.0.0.1:{port}/a/path");
    let gone = resolve(dir.path(), &url, &cert, "gone.example").await;
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no DNSLink") && !gone.status.success(), "{gone:?}");
    asked.lock().unwrap().clear();
    // A server that nobody vouches for is not asked.
    let output = resolve(dir.path(), &url, &stranger, "a.example").await;
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(asked.lock().unwrap().is_empty());
}
