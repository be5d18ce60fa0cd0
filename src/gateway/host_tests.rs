use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::ipld::cid::{Multihash, codec};

const V1: &str = "bafybeiffndsajwhk3lwjewwdxqntmjm4b5wxaaanokonsggenkbw6slwk4";
const V0: &str = "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN";
const LONG: &str =
    "bafkrgqhhyivzstcz3hhswshfjgy6ertgmnqeleynhwt4dlfsthi4hn7zgh4uvlsb5xncykzapi3ocd4lzogukir6ksdy6wzrnz6ohnv4aglcs";
const PEER: &str = "12D3KooWLQzUv2FHWGVPXTXSZpdHs7oHbXub2G5WC8Tx4NQhyd2d";
const KEY: &str = "k51qzi5uqu5dk3v4rmjber23h16xnr23bsggmqqil9z2gduiis5se8dht36dam";

fn hosts() -> Hosts {
    Hosts::parse(&["example.com", "localhost", "only.example.net:8080", "*.gw.example"]).unwrap()
}

fn go(authority: &str, path: &str) -> Result<Route, HostError> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    route(&hosts(), Seen { authority, https: false, path, query })
}

fn redirect(location: &str) -> Result<Route, HostError> {
    Ok(Route::Redirect { location: location.to_owned() })
}

fn fill(text: &str) -> String {
    text.replace("V1", V1).replace("V0", V0).replace("KEY", KEY).replace("PEER", PEER)
}

#[rstest]
#[case("127.0.0.1:8080", "/ipfs/V1/a")]
#[case("[::1]:8080", "/ipfs/V1/a")]
#[case("[::1]", "/")]
#[case("192.0.2.1", "/ipfs/V1")]
#[case("example.com", "/")]
#[case("example.com", "/other")]
#[case("example.com", "/ipfs/?uri=ipfs://V1")]
#[case("localhost:8080", "/ipns/?uri=ipns://a")]
#[case("gateway", "/ipfs/V1")]
#[case("foo.localhost", "/ipfs/V1")]
#[case("ipfs.localhost", "/")]
#[case(".ipfs.localhost", "/")]
#[case("", "/ipfs/V1")]
fn what_belongs_to_the_path_gateway(#[case] authority: &str, #[case] path: &str) {
    assert_eq!(go(authority, &fill(path)), Ok(Route::Path));
}

#[rstest]
#[case("example.com:8080", "/ipfs/V1", "http://V1.ipfs.example.com:8080/")]
#[case("example.com", "/ipfs/V1/", "http://V1.ipfs.example.com/")]
#[case("EXAMPLE.com.", "/ipfs/V1/", "http://V1.ipfs.example.com/")]
#[case("localhost:1", "/ipfs/V0/a/b?x=1&y=%20", "http://V1.ipfs.localhost:1/a/b?x=1&y=%20")]
#[case("example.com", "/ipfs/V1/a//b/../c/", "http://V1.ipfs.example.com/a/c/")]
#[case(
    "example.com",
    "/ipfs/V1/Portugal%252C+España=Peninsula%20Ibérica.txt",
    "http://V1.ipfs.example.com/Portugal%252C+Espa%C3%B1a=Peninsula%20Ib%C3%A9rica.txt"
)]
#[case("example.com", "/ipfs/V1/a%2Fb", "http://V1.ipfs.example.com/a%2Fb")] // only the root is checked
#[case("example.com", "/ipfs/V1/%zz\u{e4}", "http://V1.ipfs.example.com/%zz%C3%A4")]
#[case("example.com", "/ipns/PEER/x", "http://KEY.ipns.example.com/x")]
#[case("example.com", "/ipns/KEY", "http://KEY.ipns.example.com/")]
#[case(
    "example.com:8",
    "/ipns/en.wikipedia-on-ipfs.example.org/wiki/",
    "http://en-wikipedia--on--ipfs-example-org.ipns.example.com:8/wiki/"
)]
#[case("only.example.net:8080", "/ipfs/V1", "http://V1.ipfs.only.example.net:8080/")]
#[case("eu.gw.example", "/ipfs/V1", "http://V1.ipfs.eu.gw.example/")]
// On an origin: the same root spelt another way.
#[case("V0.ipfs.example.com", "/a?b", "http://V1.ipfs.example.com/a?b")]
#[case("PEER.ipns.example.com:9", "/", "http://KEY.ipns.example.com:9/")]
fn what_is_sent_to_an_origin(#[case] authority: &str, #[case] path: &str, #[case] location: &str) {
    assert_eq!(go(&fill(authority), &fill(path)), redirect(&fill(location)));
}

#[rstest]
#[case("V1.ipfs.example.com:8080", "V1", "example.com:8080")]
#[case("V1.ipfs.localhost", "V1", "localhost")]
#[case("V1.ipfs.eu.gw.example", "V1", "eu.gw.example")]
#[case("KEY.ipns.example.com", "KEY", "example.com")]
#[case("docs.ipfs.tech.ipns.example.com", "docs.ipfs.tech", "example.com")]
#[case("en-wikipedia--on--ipfs-example-org.ipns.example.com", "en.wikipedia-on-ipfs.example.org", "example.com")]
#[case("EN-Wikipedia.ipns.example.com", "en.wikipedia", "example.com")]
fn what_an_origin_serves(#[case] authority: &str, #[case] root: &str, #[case] parent: &str) {
    let Ok(Route::Subdomain { root: found, parent: at }) = go(&fill(authority), "/ipfs/x") else {
        panic!("{:?}", go(&fill(authority), "/ipfs/x"))
    };
    assert_eq!((found.to_string(), at.as_str()), (fill(root), parent));
}

#[rstest]
#[case("docs.ipfs.tech")]
#[case("only.example.net")] // known with another port only
#[case("gw.example")]
#[case("a.b.gw.example")]
#[case("x.example.com")]
fn what_may_have_a_dnslink(#[case] authority: &str) {
    assert_eq!(go(authority, &fill("/ipfs/V1")), Ok(Route::Lookup { name: authority.to_owned() }));
}

#[test]
fn a_cid_too_long_for_a_label_is_refused_with_words() {
    for (host, path) in [("example.com", format!("/ipfs/{LONG}/")), (&*format!("{LONG}.ipfs.example.com"), "/".into())]
    {
        let text = go(host, &path).unwrap_err().to_string();
        assert!(text.contains("CID incompatible with DNS label length limit of 63"), "{text}");
    }
    // 40 bytes: 72 characters in base32 and over 63 in base36 too; 38 bytes: 62 in base36 alone.
    let cid = |digest: usize| Cid::new_v1(codec::RAW, Multihash::wrap(0, &vec![9; digest]).unwrap());
    let fits = cid(36);
    assert!(fits.to_string().len() > 63);
    let label = multibase::encode(Base::Base36Lower, fits.to_bytes());
    assert_eq!(go("example.com", &format!("/ipfs/{fits}")), redirect(&format!("http://{label}.ipfs.example.com/")));
    let served = go(&format!("{label}.ipfs.example.com"), "/");
    assert_eq!(served, Ok(Route::Subdomain { root: Root::Ipfs(fits), parent: "example.com".into() }));
}

#[test]
fn a_root_that_is_none_is_named_before_any_redirect() {
    let text = go("example.com", "/ipfs/QmInvalidCID").unwrap_err().to_string();
    assert!(text.starts_with("invalid path \"/ipfs/QmInvalidCID\""), "{text}");
    assert!(matches!(go("x.ipfs.example.com", "/"), Err(HostError::NotACid { .. })));
    assert!(matches!(go("example.com", "/ipns//a"), Err(HostError::Path { .. })));
    assert!(matches!(go("example.com", "/ipns/a%20b"), Err(HostError::NotAName(_))));
    assert!(matches!(go("a b", "/"), Err(HostError::Syntax(_))));
    assert!(matches!(go("a:port", "/"), Err(HostError::Syntax(_))));
    assert!(matches!(go("[::g]", "/"), Err(HostError::Syntax(_))));
}

#[test]
fn https_is_kept() {
    let seen = Seen { authority: "example.com", https: true, path: &format!("/ipfs/{V1}"), query: None };
    assert_eq!(route(&hosts(), seen), redirect(&format!("https://{V1}.ipfs.example.com/")));
}

#[test]
fn names_are_written_as_dns_has_them() {
    assert_eq!(
        go("example.com", "/ipns/b%C3%BCcher.example/a"),
        redirect("http://xn----bcher--kva-example.ipns.example.com/a")
    );
    assert_eq!(
        go("k50rm9yjlt0jey4fqg6wafvqprktgbkpgkqdg27tpqje6iimzxewnhvtin9hhq.ipns.example.com", "/"),
        redirect(&format!("http://{KEY}.ipns.example.com/"))
    );
    let long = format!("{}.{}.example", "a".repeat(40), "b".repeat(40));
    assert_eq!(go("example.com", &format!("/ipns/{long}")), redirect(&format!("http://{long}.ipns.example.com/")));
}

#[test]
fn a_tunnel_leads_only_here() {
    let hosts = hosts();
    for here in
        ["example.com:80", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", &format!("{V1}.ipfs.example.com:1")]
    {
        assert!(hosts.serves(here), "{here}");
    }
    for elsewhere in ["example.org:80", "192.0.2.1:80", "10.0.0.1:22", "notexample.com:80", "[2001:db8::1]:80", "a b"] {
        assert!(!hosts.serves(elsewhere), "{elsewhere}");
    }
}

#[test]
fn hosts_that_are_none_are_refused() {
    for text in ["", "*", "*.", "a b", "http://example.com", "127.0.0.1", "a..b", "exa$mple", "a:b"] {
        assert!(Hosts::parse(&[text]).is_err(), "{text}");
    }
    let list = vec!["example.com:8080".to_owned(), "*.example.org".to_owned()];
    assert_eq!(Vec::<String>::from(Hosts::try_from(list.clone()).unwrap()), list);
}

proptest! {
    #[test]
    fn inlining_is_undone(labels in prop::collection::vec("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", 1..5)) {
        let name = labels.join(".");
        let label = inline(&name);
        prop_assert!(!label.contains('.'));
        prop_assert_eq!(uninline(&label), name);
    }

    #[test]
    fn any_request_has_a_route_or_an_error(authority in ".{0,80}", path in "/(ipfs/|ipns/)?.{0,80}", query in proptest::option::of(".{0,20}")) {
        for authority in [authority.as_str(), "example.com:80", &format!("{authority}.ipns.localhost")] {
            let seen = Seen { authority, https: true, path: &path, query: query.as_deref() };
            if let Ok(Route::Redirect { location }) = route(&hosts(), seen) {
                prop_assert!(http::HeaderValue::from_str(&location).is_ok(), "{}", location);
                prop_assert!(location.starts_with("https://"));
                // Nobody is sent anywhere but to an origin of ours.
                let host = location["https://".len()..].split('/').next().unwrap_or_default();
                prop_assert!(host.ends_with(".example.com:80") || host.ends_with(".localhost") || host.contains(".ipfs.") || host.contains(".ipns."), "{}", location);
                prop_assert!(!host.contains(['@', '?', '#', '\\']), "{}", location);
            }
        }
    }

    #[test]
    fn every_cid_goes_to_an_origin_that_serves_it(digest in prop::collection::vec(any::<u8>(), 0..37), code in prop_oneof![Just(0x55u64), Just(0x70), Just(0x71)]) {
        let cid = Cid::new_v1(code, Multihash::wrap(0, &digest).unwrap());
        let Ok(Route::Redirect { location }) = go("example.com", &format!("/ipfs/{cid}/a")) else {
            return Err(TestCaseError::fail("no redirect"));
        };
        let host = location["http://".len()..].split('/').next().unwrap_or_default();
        prop_assert_eq!(go(host, "/a"), Ok(Route::Subdomain { root: Root::Ipfs(cid), parent: "example.com".into() }));
    }
}
