//! Origins: subdomains, DNSLink hosts, `_redirects`. Named by section and line of GATEWAY.md (line 1 is the first of
//! the section's list).

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tidegate::gateway::Config;
use tidegate::gateway::host::Hosts;
use tidegate::ipld::Cid;
use tidegate::ipld::builder::Built;
use tidegate::names::{NsMap, Resolver};
use tower::ServiceExt;

use super::world::{Answer, World};

const KEY: &str = "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam";
const PEER: &str = "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d";

fn config() -> Config {
    Config {
        subdomain_hosts: Hosts::parse(&["example.com", "localhost"]).unwrap(),
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Config::default()
    }
}

struct Site {
    world: World,
    root: Cid,
    file: Built,
}

/// A site with a file, a directory named `ipfs`, a listing and the given rules; also at `site.example.org`, and at
/// `part.example.org` as a part of a larger graph.
async fn site(rules: Option<&str>) -> Site {
    let world = World::with(config());
    let (file, _) = world.file(b"hello").await;
    let (page, _) = world.file(b"<!doctype html><title>my 404</title>").await;
    let inner = world.directory(&[("bar", file)]).await;
    let mut entries = vec![("404.html", page), ("file.txt", file), ("ipfs", inner), ("ą", inner)];
    let rules = match rules {
        Some(rules) => Some(world.file(rules.as_bytes()).await.0),
        None => None,
    };
    entries.extend(rules.map(|rules| ("_redirects", rules)));
    let root = world.directory(&entries).await;
    let whole = world.directory(&[("part", root)]).await;
    let map = format!(
        "site.example.org:/ipfs/{},part.example.org:/ipfs/{}/part,{KEY}:/ipfs/{}",
        root.cid, whole.cid, root.cid
    );
    let world = world.renamed(config(), Resolver::fixed(NsMap::parse(&map).unwrap()));
    Site { world, root: root.cid, file }
}

impl Site {
    async fn at(&self, host: &str, path: &str) -> Answer {
        self.ask("GET", host, path, &[]).await
    }

    async fn ask(&self, method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        ask_from(&self.world, "127.0.0.1:1".parse().unwrap(), method, host, path, headers).await
    }

    /// The origin of the root.
    fn own(&self) -> String {
        format!("{}.ipfs.example.com:8080", self.root)
    }
}

async fn ask_from(
    world: &World,
    peer: SocketAddr,
    method: &str,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", host).extension(ConnectInfo(peer));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = world.router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
}

#[tokio::test]
async fn m3_3_1_each_root_has_an_origin_that_serves_it_at_the_top() {
    let site = site(None).await;
    let answer = site.at(&site.own(), "/file.txt").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
    assert_eq!(answer.header("x-ipfs-path"), format!("/ipfs/{}/file.txt", site.root));
    assert_eq!(answer.header("cache-control"), "public, max-age=29030400, immutable");
    assert_eq!(answer.header("etag"), format!("\"{}\"", site.file.cid));
    // By key, by inlined name and by plain name.
    for host in [
        format!("{KEY}.ipns.example.com"),
        "site-example-org.ipns.localhost:1".into(),
        "site.example.org.ipns.example.com".into(),
    ] {
        let answer = site.at(&host, "/file.txt").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"), "{host}");
        assert!(!answer.header("cache-control").contains("immutable"), "{host}");
    }
}

#[tokio::test]
async fn m3_3_2_a_path_on_the_parent_is_sent_to_the_origin_with_path_and_query() {
    let site = site(None).await;
    let root = site.root;
    for (path, location) in [
        (format!("/ipfs/{root}"), format!("http://{root}.ipfs.example.com:8080/")),
        (format!("/ipfs/{root}/a/%c4%85/?x=%20&y"), format!("http://{root}.ipfs.example.com:8080/a/%C4%85/?x=%20&y")),
        (format!("/ipns/{PEER}/x"), format!("http://{KEY}.ipns.example.com:8080/x")),
        ("/ipns/my-site.example.org".into(), "http://my--site-example-org.ipns.example.com:8080/".into()),
    ] {
        let answer = site.at("example.com:8080", &path).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::MOVED_PERMANENTLY, &*location), "{path}");
    }
    // Only the root is looked at: a path that does not exist is redirected, and nothing is fetched.
    assert!(site.world.records.all().is_empty());
    // Preflights are answered where they are.
    let preflight = site.ask("OPTIONS", "example.com", &format!("/ipfs/{root}"), &[]).await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn m3_3_3_forwarded_headers_count_from_trusted_proxies_alone() {
    let site = site(None).await;
    let path = format!("/ipfs/{}/", site.root);
    let headers = [("x-forwarded-host", "example.com:443"), ("x-forwarded-proto", "https")];
    let answer = site.ask("GET", "inner.example", &path, &headers).await;
    assert_eq!(answer.header("location"), format!("https://{}.ipfs.example.com:443/", site.root));
    let https = site.ask("GET", "example.com", "/ipns/a-b.example.org", &headers[1..]).await;
    assert_eq!(https.header("location"), "https://a--b-example-org.ipns.example.com/");
    for peer in ["192.0.2.1:1", "[2001:db8::1]:1"] {
        let answer = ask_from(&site.world, peer.parse().unwrap(), "GET", "inner.example", &path, &headers).await;
        assert_eq!(answer.status, StatusCode::OK, "{peer} is nobody's proxy");
        let answer = ask_from(&site.world, peer.parse().unwrap(), "GET", "example.com", &path, &headers).await;
        assert!(answer.header("location").starts_with("http://"), "{}", answer.header("location"));
    }
}

#[tokio::test]
async fn m3_3_4_hosts_that_make_no_content_path_are_400_in_words() {
    let site = site(None).await;
    let long = "bafkrgqhhyivzstcz3hhswshfjgy6ertgmnqeleynhwt4dlfsthi4hn7zgh4uvlsb5xncykzapi3ocd4lzogukir6ksdy6wzrnz6ohnv4aglcs";
    for (host, path, text) in [
        ("example.com", format!("/ipfs/{long}/"), "CID incompatible with DNS label length limit of 63"),
        (&*format!("{long}.ipfs.example.com"), "/".into(), "CID incompatible with DNS label length limit of 63"),
        ("example.com", "/ipfs/QmInvalidCID".into(), "invalid path \"/ipfs/QmInvalidCID\""),
        ("nothing.ipfs.example.com", "/".into(), "is not a CID"),
    ] {
        let answer = site.at(host, &path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{host}{path}");
        assert!(answer.text().contains(text), "{}", answer.text());
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.header("cache-control"), "no-store");
        let answer = site.ask("GET", host, &path, &[("accept", "application/json")]).await;
        assert_eq!(answer.json()["status"], 400);
    }
}

#[tokio::test]
async fn m3_3_5_addresses_with_a_scheme_are_sent_to_their_path() {
    let site = site(None).await;
    for host in ["example.com", "127.0.0.1:8080"] {
        for (path, location) in [
            (format!("/ipfs/?uri=ipfs%3A%2F%2F{}%2Fa%2520b", site.root), format!("/ipfs/{}/a%20b", site.root)),
            ("/ipns/?uri=ipns://en.wikipedia-on-ipfs.org/x".into(), "/ipns/en.wikipedia-on-ipfs.org/x".into()),
        ] {
            let answer = site.at(host, &path).await;
            assert_eq!((answer.status, answer.header("location")), (StatusCode::MOVED_PERMANENTLY, &*location));
        }
    }
    assert_eq!(site.at("example.com", "/ipfs/?uri=https://evil.example/").await.status, StatusCode::BAD_REQUEST);
    // The page that offers it, with a script from its own origin and nothing inline.
    let home = site.at("example.com", "/").await;
    assert!(home.header("content-security-policy").contains("script-src 'self'"));
    let script = home.text().split("<script src=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let script = site.at("example.com", &script).await;
    assert!(script.text().contains("registerProtocolHandler"));
    assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
}

#[tokio::test]
async fn on_an_origin_of_its_own_ipfs_is_a_name_like_any_other() {
    let site = site(None).await;
    assert_eq!(site.at(&site.own(), "/ipfs/bar").await.text(), "hello");
    assert_eq!(site.at(&site.own(), &format!("/ipfs/{}", site.root)).await.status, StatusCode::NOT_FOUND);
    let slash = site.at(&site.own(), "/ą?a=b").await;
    assert_eq!((slash.status, slash.header("location")), (StatusCode::MOVED_PERMANENTLY, "/%C4%85/?a=b"));
    let raw = site.ask("GET", &site.own(), "/file.txt", &[("accept", "application/vnd.ipld.raw")]).await;
    assert_eq!(raw.header("content-location"), "/file.txt?format=raw");
}

#[tokio::test]
async fn listings_of_an_origin_link_to_themselves_and_to_the_parent() {
    let site = site(None).await;
    let (root, file) = (site.root, site.file.cid);
    let answer = site.at(&site.own(), "/ipfs/").await;
    for pattern in [
        format!(
            "/ipfs/<a href=\"//example.com:8080/ipfs/{root}\">{root}</a>/<a href=\"//example.com:8080/ipfs/{root}/ipfs\">ipfs</a></h1>"
        ),
        "<a href=\"/ipfs/..\">..</a>".to_owned(),
        "<a href=\"/ipfs/bar\">bar</a>".to_owned(),
        format!("<a class=\"ipfs-hash\" translate=\"no\" href=\"//example.com:8080/ipfs/{file}?filename=bar\">"),
    ] {
        assert!(answer.text().contains(&pattern), "{pattern}\n{}", answer.text());
    }
    let top = site.at(&site.own(), "/").await;
    assert!(top.text().contains("<a href=\"/file.txt\">file.txt</a>") && !top.text().contains(">..</a>"));

    let dnslink = site.at("site.example.org:81", "/ą/").await;
    for pattern in [
        "/ipns/<a href=\"//site.example.org:81/\">site.example.org</a>/<a href=\"//site.example.org:81/%C4%85\">ą</a>"
            .to_owned(),
        "<a href=\"/%C4%85/bar\">bar</a>".to_owned(),
        format!("href=\"https://cid.ipfs.tech/#{file}\" target=\"_blank\" rel=\"noreferrer noopener\">"),
    ] {
        assert!(dnslink.text().contains(&pattern), "{pattern}\n{}", dnslink.text());
    }
    assert!(!dnslink.header("cache-control").contains("604800"));
}

#[tokio::test]
async fn m3_4_1_a_host_with_a_dnslink_serves_its_content_and_others_serve_paths() {
    let site = site(None).await;
    for host in ["site.example.org", "SITE.example.org.", "part.example.org:80"] {
        let answer = site.at(host, "/file.txt").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"), "{host}");
        assert!(!answer.header("cache-control").contains("immutable"), "{host}");
        // A path of another root is a path of this one.
        assert_eq!(site.at(host, &format!("/ipfs/{}/file.txt", site.root)).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(site.at("part.example.org", "/").await.header("x-ipfs-path"), "/ipns/part.example.org/");
    for host in ["unknown.example.org", "192.0.2.1", "[2001:db8::1]:80", "single"] {
        assert_eq!(site.at(host, &format!("/ipfs/{}/file.txt", site.root)).await.text(), "hello", "{host}");
    }
}

#[tokio::test]
async fn a_worker_may_rule_an_origin_of_its_own_and_no_shared_one() {
    let site = site(None).await;
    let worker = [("service-worker", "script")];
    for path in [format!("/ipfs/{}", site.root), "/ipns/site.example.org".into()] {
        assert_eq!(site.ask("GET", "127.0.0.1", &path, &worker).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(site.ask("GET", "127.0.0.1", &format!("/ipfs/{}/file.txt", site.root), &worker).await.status, 200);
    assert_eq!(site.ask("GET", &site.own(), "/file.txt", &worker).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_doubled_prefix_is_taken_off() {
    let site = site(None).await;
    let answer = site.at("127.0.0.1", &format!("/ipfs/ipfs/{}/a?b", site.root)).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (StatusCode::MOVED_PERMANENTLY, &*format!("/ipfs/{}/a?b", site.root))
    );
}

const RULES: &str = "\
# comment
/one /one.html\r
/two /file.txt 302
/three /file.txt 303
/seven /file.txt 307
/eight /file.txt 308
/file.txt /other 301
/posts/:year/:title /articles/:title/:year
/splat/* /to/:splat
/query /target?a=1&b=2
/far https://example.net/x
/rewrite /file.txt 200
/tree /ą 200
/lost /not-there 200
/gone/* /404.html 410
/law/* /404.html 451
/en/* /404.html 404
";

#[tokio::test]
async fn m3_5_1_every_status_is_done() {
    let site = site(Some(RULES)).await;
    for host in [site.own(), "site.example.org".into(), "part.example.org".into(), format!("{KEY}.ipns.localhost")] {
        for (path, status, location) in [
            ("/one", 301, "/one.html"),
            ("/two", 302, "/file.txt"),
            ("/three", 303, "/file.txt"),
            ("/seven", 307, "/file.txt"),
            ("/eight", 308, "/file.txt"),
            ("/posts/2024/a%20b", 301, "/articles/a%20b/2024"),
            ("/splat/a/b.html", 301, "/to/a/b.html"),
            ("/query?b=3&c=4", 301, "/target?a=1&b=3&c=4"),
            ("/far", 301, "https://example.net/x"),
        ] {
            let answer = site.at(&host, path).await;
            assert_eq!((answer.status.as_u16(), answer.header("location")), (status, location), "{host}{path}");
        }
        let rewrite = site.at(&host, "/rewrite").await;
        assert_eq!((rewrite.status, rewrite.text()), (StatusCode::OK, "hello"));
        assert_eq!(rewrite.header("etag"), format!("\"{}\"", site.file.cid));
        assert_eq!(rewrite.header("content-type"), "text/plain; charset=utf-8");
        let fresh = site.ask("GET", &host, "/rewrite", &[("if-none-match", rewrite.header("etag"))]).await;
        assert_eq!(fresh.status, StatusCode::NOT_MODIFIED);
        for (path, status) in [("/en/x", 404), ("/gone/x", 410), ("/law/x", 451)] {
            let answer = site.ask("GET", &host, path, &[("range", "bytes=0-1")]).await;
            assert_eq!(answer.status.as_u16(), status);
            assert!(answer.text().contains("my 404"));
            assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
            assert_eq!(answer.header("cache-control").contains("immutable"), host == site.own(), "{host}");
        }
        assert_eq!(site.ask("HEAD", &host, "/en/x", &[]).await.status, StatusCode::NOT_FOUND);
        for path in ["/lost", "/tree", "/no-rule"] {
            assert_eq!(site.at(&host, path).await.status, StatusCode::NOT_FOUND, "{host}{path}");
        }
    }
}

#[tokio::test]
async fn m3_5_2_files_that_cannot_be_followed_are_500_and_only_where_they_are_needed() {
    for (rules, text) in [
        ("/a", "could not parse _redirects:"),
        ("/:x/:x /c", "is duplicate"),
        ("/a /b 418", "unsupported redirect status"),
        (&*"/a /b\n".repeat(11_000), "redirects file size cannot exceed"),
        (&*"/a /b\n".repeat(2049), "more than 2048 rules"),
    ] {
        let site = site(Some(rules)).await;
        let answer = site.at(&site.own(), "/missing").await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
        assert!(
            answer.text().contains("could not parse _redirects:") && answer.text().contains(text),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(site.at(&site.own(), "/file.txt").await.text(), "hello");
    }
}

#[tokio::test]
async fn m3_5_3_rules_hold_only_for_missing_paths_of_isolated_origins() {
    let site = site(Some(RULES)).await;
    // There is a rule for it, and the file is there.
    assert_eq!(site.at(&site.own(), "/file.txt").await.status, StatusCode::OK);
    // A shared origin has no rules.
    for path in [format!("/ipfs/{}/one", site.root), "/ipns/site.example.org/one".into()] {
        assert_eq!(site.at("127.0.0.1", &path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    // Who asks for blocks gets no pages.
    assert_eq!(site.at(&site.own(), "/one?format=raw").await.status, StatusCode::NOT_FOUND);
}
