//! The listener: clients that stall, too many of them, and the end of the server.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use futures::StreamExt;
use tidegate::listener::{Config, Tls};
use tidegate::telemetry::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::world::{Server, serve};

/// How long a test waits for what must happen: far above every deadline below.
const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(200);

fn config() -> Config {
    Config {
        first_byte_timeout: SOON,
        header_timeout: SOON,
        idle_timeout: SOON,
        stall_timeout: SOON,
        drain_timeout: SOON,
        ..Config::default()
    }
}

fn patient() -> Config {
    Config { first_byte_timeout: PATIENCE, header_timeout: PATIENCE, idle_timeout: PATIENCE, ..config() }
}

fn endless() -> Body {
    Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[7; 65536]))))
}

async fn start(config: Config) -> (Server, Metrics, Arc<Notify>) {
    let metrics = Metrics::new();
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let late = move || {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            "late"
        }
    };
    let router = Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>| async move { peer.ip().to_string() }))
        .route("/endless", get(|| async { endless() }))
        .route("/upload", axum::routing::post(|body: bytes::Bytes| async move { body.len().to_string() }))
        .route("/late", get(late));
    (serve(router, config, None, &metrics).await, metrics, go)
}

fn was_closed(metrics: &Metrics, reason: &str) -> bool {
    let line =
        format!("tidegate_http_connections_closed_by_server_total{{listener=\"gateway\",reason=\"{reason}\"}} 1");
    metrics.encode().contains(&line)
}

/// What the client sends first, and why the server must hang up on it.
async fn is_hung_up_on(config: Config, sent: &str, reason: &str) {
    let (server, metrics, _) = start(config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE / 2, stream.read_to_end(&mut answer)).await.expect("still open").unwrap();
    assert!(was_closed(&metrics, reason), "{}", metrics.encode());
}

#[tokio::test]
async fn silent_connections_are_closed() {
    is_hung_up_on(Config { first_byte_timeout: SOON, ..patient() }, "", "FirstByte").await;
}

#[tokio::test]
async fn partial_headers_are_closed() {
    let config = Config { header_timeout: SOON, ..patient() };
    is_hung_up_on(config.clone(), "GET / HTTP/1.1\r\nHost: x\r\nX-", "Header").await;
    // Also where a connection may be silent for ever.
    let silent = Config { first_byte_timeout: Duration::ZERO, ..config.clone() };
    is_hung_up_on(silent, "GET / HTTP/1.1\r\nHost: x\r\nX-", "Header").await;
    // So is the beginning of the HTTP/2 preface, and the header of a second request on the same connection.
    is_hung_up_on(config.clone(), "PRI * HT", "Header").await;
    let (server, metrics, _) = start(config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"127.0.0.1") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    stream.write_all(b"GET / HT").await.unwrap();
    tokio::time::timeout(PATIENCE / 2, stream.read_to_end(&mut answer)).await.expect("still open").unwrap();
    assert!(was_closed(&metrics, "Header"), "{}", metrics.encode());
}

#[tokio::test]
async fn idle_connections_are_closed_later_than_slow_headers() {
    let config = Config { idle_timeout: SOON * 2, ..patient() };
    is_hung_up_on(config, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "Idle").await;
}

#[tokio::test]
async fn readers_that_take_nothing_are_reset() {
    let (server, metrics, _) = start(Config { stall_timeout: SOON, ..patient() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let closed = async {
        while !was_closed(&metrics, "Stall") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 2, closed).await.expect("still open");
    let mut buffer = vec![0; 1 << 20];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => panic!("a cut body ended cleanly"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

// RELIABILITY.md §3.5, slow clients: neither we nor the kernel hold much of what nobody reads. Linux alone would take 4 MiB.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn little_waits_in_the_kernel_for_a_reader_that_takes_nothing() {
    let given = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = given.clone();
    let counted = move || {
        let counter = counter.clone();
        let chunk = bytes::Bytes::from_static(&[7; 65536]);
        async move {
            Body::from_stream(futures::stream::repeat_with(move || {
                counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::Relaxed);
                Ok::<_, std::io::Error>(chunk.clone())
            }))
        }
    };
    let router = Router::new().route("/counted", get(counted));
    let server = serve(router, Config { stall_timeout: PATIENCE, ..patient() }, None, &Metrics::new()).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    stream.write_all(b"GET /counted HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // Until nothing moves any more.
    let mut seen = (0, usize::MAX);
    while seen.0 == 0 || seen.0 != seen.1 {
        tokio::time::sleep(SOON).await;
        seen = (given.load(std::sync::atomic::Ordering::Relaxed), seen.0);
    }
    assert!(seen.0 < 1_500_000, "{} bytes were made for a reader that takes nothing", seen.0);
}

#[tokio::test]
async fn http2_readers_that_take_nothing_are_reset() {
    let (server, metrics, _) = start(Config { stall_timeout: SOON, ..patient() }).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let mut body = client.get(server.url("/endless")).send().await.unwrap().bytes_stream();
    assert!(body.next().await.unwrap().is_ok());
    let closed = async {
        while !was_closed(&metrics, "Stall") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 2, closed).await.expect("still open");
}

#[tokio::test]
async fn slow_answers_of_ours_are_not_the_clients_stall() {
    let (server, _, go) = start(Config { stall_timeout: SOON, ..patient() }).await;
    let answer = server.supervisor.spawn_short(reqwest::get(server.url("/late")));
    tokio::time::sleep(SOON * 4).await;
    go.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().text().await.unwrap(), "late");
}

#[tokio::test]
async fn uploads_that_stop_are_ended() {
    let (server, ..) = start(Config { stall_timeout: SOON, ..patient() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
    let mut answer = vec![0; 4096];
    let n = tokio::time::timeout(PATIENCE / 2, stream.read(&mut answer)).await.expect("no end").unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer[..n]));
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let (server, metrics, _) = start(patient()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // In two parts: what comes after the answer would turn the end of the connection into a reset.
    let header = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}", "c".repeat(32 << 10));
    stream.write_all(header.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(was_closed(&metrics, "HeaderSize"), "{}", metrics.encode());
    assert_eq!(reqwest::get(server.url("/")).await.unwrap().text().await.unwrap(), "127.0.0.1");
}

#[tokio::test]
async fn http2_headers_over_the_limit_are_refused_and_the_connection_lives() {
    let (server, metrics, _) = start(patient()).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let with = async |bytes: usize| {
        let asked = client.get(server.url("/")).header("cookie", "c".repeat(bytes));
        asked.send().await.unwrap().status().as_u16()
    };
    assert_eq!(with(30 << 10).await, 200);
    assert_eq!(with(40 << 10).await, 431);
    assert!(was_closed(&metrics, "HeaderSize"), "{}", metrics.encode());
    assert_eq!(with(100 << 10).await, 431);
    assert_eq!(with(0).await, 200);
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_takes_no_more() {
    let (server, _, go) = start(Config { drain_timeout: PATIENCE, ..patient() }).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    kept.read_exact(&mut [0; 20]).await.unwrap();
    let answer = server.supervisor.spawn_short(reqwest::get(server.url("/late")));
    tokio::time::sleep(SOON).await;
    server.stop.cancel();
    tokio::time::sleep(SOON).await;
    assert!(TcpStream::connect(server.address).await.is_err(), "no new connections");
    assert!(!server.ended.is_finished());
    go.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().text().await.unwrap(), "late");
    let cut = tokio::time::timeout(PATIENCE / 2, server.ended).await.expect("did not drain").unwrap();
    assert_eq!(cut, Some(0));
    drop((idle, kept));
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_finish() {
    let (server, ..) = start(Config { stall_timeout: PATIENCE, ..patient() }).await;
    let mut stuck = TcpStream::connect(server.address).await.unwrap();
    stuck.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stuck.read_exact(&mut [0; 20]).await.unwrap();
    let mut partial = TcpStream::connect(server.address).await.unwrap();
    partial.write_all(b"GET / HT").await.unwrap();
    tokio::time::sleep(SOON).await;
    server.stop.cancel();
    let cut = tokio::time::timeout(PATIENCE / 2, server.ended).await.expect("did not stop").unwrap();
    assert!(cut.unwrap() >= 1);
    assert!(server.supervisor.stop(PATIENCE / 2).await.is_empty());
}

#[tokio::test]
async fn with_a_certificate_both_versions_speak_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let tls = Tls::from_files(&cert, &key).unwrap();
    let router = Router::new().route("/", get(|| async { "safe" }));
    let server = serve(router, Config { header_timeout: SOON, ..patient() }, Some(tls), &Metrics::new()).await;
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = || {
        let builder = reqwest::Client::builder().tls_certs_only([root.clone()]);
        builder.resolve("localhost", server.address)
    };
    let url = format!("https://localhost:{}/", server.address.port());
    for (client, version) in [(client(), http::Version::HTTP_2), (client().http1_only(), http::Version::HTTP_11)] {
        let answer = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!(answer.version(), version);
        assert_eq!(answer.text().await.unwrap(), "safe");
    }
    // Half a handshake is a header that does not end.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"\x16\x03\x01").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE / 2, stream.read_to_end(&mut rest)).await.expect("still open");
    assert!(matches!(Tls::from_files(&key, &key), Err(error) if error.to_string().contains("no certificate")));
}
