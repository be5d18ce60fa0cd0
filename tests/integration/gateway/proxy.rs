//! The forms of a request: absolute targets, tunnels, HTTP/2 with and without TLS, and the Host header.

use std::sync::Arc;

use tidegate::gateway::Config;
use tidegate::gateway::host::Hosts;
use tidegate::listener::{self, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{Server, World, serve_with};

struct Gateway {
    server: Server,
    host: String,
    cid: String,
}

fn config() -> Config {
    Config { subdomain_hosts: Hosts::parse(&["example.com"]).unwrap(), ..Config::default() }
}

async fn start(tls: Option<Tls>) -> Gateway {
    let world = World::with(config());
    let (file, _) = world.file(b"hello").await;
    let dir = world.directory(&[("a.txt", file)]).await;
    let hosts = config().subdomain_hosts;
    let check: listener::TunnelCheck = Arc::new(move |authority: &str| hosts.serves(authority));
    let server = serve_with(world.router.clone(), listener::Config::default(), tls, Some(check), &world.metrics).await;
    Gateway {
        host: format!("{}.ipfs.example.com:{}", dir.cid, server.address.port()),
        cid: dir.cid.to_string(),
        server,
    }
}

/// Sends bytes, and returns what comes until the end or until `until` is in it.
async fn talk(stream: &mut TcpStream, sent: &str, until: &str) -> String {
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&got).contains(until) {
            if stream.read_buf(&mut got).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("no answer");
    String::from_utf8_lossy(&got).into_owned()
}

async fn once(gateway: &Gateway, sent: &str, until: &str) -> String {
    let mut stream = TcpStream::connect(gateway.server.address).await.unwrap();
    talk(&mut stream, sent, until).await
}

#[tokio::test]
async fn an_absolute_target_names_the_host_and_the_header_does_not() {
    let gateway = start(None).await;
    let host = &gateway.host;
    let answer =
        once(&gateway, &format!("GET http://{host}/a.txt HTTP/1.1\r\nHost: other.example\r\n\r\n"), "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    let answer = once(
        &gateway,
        &format!("GET http://example.com:1/ipfs/{}/a HTTP/1.1\r\nHost: x\r\n\r\n", gateway.cid),
        "\r\n\r\n",
    )
    .await;
    assert!(answer.contains(&format!("location: http://{}.ipfs.example.com:1/a\r\n", gateway.cid)), "{answer}");
}

#[tokio::test]
async fn a_tunnel_ends_in_the_gateway_and_leads_nowhere_else() {
    let gateway = start(None).await;
    let host = &gateway.host;
    let mut stream = TcpStream::connect(gateway.server.address).await.unwrap();
    let opened = talk(&mut stream, &format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"), "\r\n\r\n").await;
    assert!(opened.starts_with("HTTP/1.1 200"), "{opened}");
    assert!(!opened.to_lowercase().contains("content-length") && !opened.to_lowercase().contains("transfer-encoding"));
    // Twice on the same tunnel, in both forms of target.
    for target in ["/a.txt".to_owned(), format!("http://{host}/a.txt")] {
        let answer = talk(&mut stream, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"), "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }
    let nested = talk(&mut stream, &format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"), "\n").await;
    assert!(nested.starts_with("HTTP/1.1 405"), "{nested}");

    // Something that would answer, if it were reached.
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    for target in ["example.org:80".to_owned(), "192.0.2.1:22".into(), "10.0.0.1:80".into()] {
        let answer = once(&gateway, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"), "only").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
    }
    // A loopback name is the gateway itself, whatever port it says.
    let target = elsewhere.local_addr().unwrap();
    let mut stream = TcpStream::connect(gateway.server.address).await.unwrap();
    let opened = talk(&mut stream, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"), "\r\n\r\n").await;
    assert!(opened.starts_with("HTTP/1.1 200"));
    let answer = talk(&mut stream, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "</html>").await;
    assert!(answer.contains("An IPFS gateway"), "{answer}");
    let nobody = tokio::time::timeout(std::time::Duration::from_millis(50), elsewhere.accept()).await;
    assert!(nobody.is_err(), "a connection was made elsewhere");
}

#[tokio::test]
async fn a_listener_without_tunnels_refuses_them() {
    let world = World::with(config());
    let server = world.listen(listener::Config::default(), None).await;
    let gateway = Gateway { server, host: String::new(), cid: String::new() };
    let answer = once(&gateway, "CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n", "here").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[tokio::test]
async fn a_request_without_exactly_one_host_is_400() {
    let gateway = start(None).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ] {
        let answer = once(&gateway, request, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{request}: {answer}");
    }
    assert!(once(&gateway, "GET / HTTP/1.0\r\n\r\n", "</html>").await.starts_with("HTTP/1.0 200"));
}

#[tokio::test]
async fn http2_without_tls_knows_origins_by_their_authority() {
    let gateway = start(None).await;
    let builder = reqwest::Client::builder().http2_prior_knowledge().redirect(reqwest::redirect::Policy::none());
    let name = gateway.host.split(':').next().unwrap();
    let client =
        builder.resolve(name, gateway.server.address).resolve("example.com", gateway.server.address).build().unwrap();
    let answer = client.get(format!("http://{}/a.txt", gateway.host)).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, 200));
    assert_eq!(answer.text().await.unwrap(), "hello");
    let url = format!("http://example.com:{}/ipfs/{}/a.txt", gateway.server.address.port(), gateway.cid);
    let moved = client.get(url).send().await.unwrap();
    assert_eq!(moved.headers()["location"].to_str().unwrap(), format!("http://{}/a.txt", gateway.host));
}

#[tokio::test]
async fn with_tls_both_versions_serve_origins_and_redirects_stay_with_https() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made =
        rcgen::generate_simple_self_signed(vec!["example.com".to_owned(), "*.ipfs.example.com".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let gateway = start(Some(Tls::from_files(&cert, &key).unwrap())).await;
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let name = gateway.host.split(':').next().unwrap();
    let client = || {
        let builder =
            reqwest::Client::builder().tls_certs_only([root.clone()]).redirect(reqwest::redirect::Policy::none());
        builder.resolve(name, gateway.server.address).resolve("example.com", gateway.server.address)
    };
    for (client, version) in [(client(), http::Version::HTTP_2), (client().http1_only(), http::Version::HTTP_11)] {
        let client = client.build().unwrap();
        let answer = client.get(format!("https://{}/a.txt", gateway.host)).send().await.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (version, 200));
        assert_eq!(answer.text().await.unwrap(), "hello");
        let url = format!("https://example.com:{}/ipfs/{}/a.txt", gateway.server.address.port(), gateway.cid);
        let moved = client.get(url).send().await.unwrap();
        assert_eq!(moved.headers()["location"].to_str().unwrap(), format!("https://{}/a.txt", gateway.host));
    }
}
