//! `/ipns` on the gateway.

use std::time::Duration;

use tidegate::gateway::Config;
use tidegate::ipld::ipns::IpnsName;

use super::{MINUTE, Options, World, new_key, signed};
use crate::gateway::world::World as Gateway;

/// A gateway over names, with a file `hello` in a directory that the name points to.
async fn gateway() -> (Gateway, World, IpnsName) {
    let names = World::new(Options { map: "fixed.example:/ipfs/bafkqabtimvwgy3yk", ..Options::default() });
    let gateway = Gateway::with_names(Config::default(), |_| names.resolver.clone());
    let (file, _) = gateway.file(b"hello").await;
    let directory = gateway.directory(&[("hello.txt", file)]).await;
    let root = gateway.directory(&[("site", directory)]).await;
    let (key, name) = new_key();
    let record = signed(&key, &format!("/ipfs/{}/site", root.cid), 1, 30 * MINUTE);
    names.resolver.put(&name, record.bytes().clone()).await.unwrap();
    (gateway, names, name)
}

fn header<'a>(answer: &'a crate::gateway::world::Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn content_under_a_name_is_served_and_is_never_immutable() {
    let (gateway, _names, name) = gateway().await;
    let answer = gateway.get(&format!("/ipns/{name}/hello.txt")).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"hello"[..]));
    assert_eq!(header(&answer, "cache-control"), "public, max-age=1800");
    assert_eq!(header(&answer, "x-ipfs-path"), format!("/ipns/{name}/hello.txt"));
    assert_eq!(header(&answer, "x-ipfs-roots").split(',').count(), 3);
    let etag = header(&answer, "etag").to_owned();

    let again = gateway.ask("GET", &format!("/ipns/{name}/hello.txt"), &[("if-none-match", &etag)]).await;
    assert_eq!((again.status.as_u16(), header(&again, "cache-control")), (304, "public, max-age=1800"));
    let head = gateway.ask("HEAD", &format!("/ipns/{name}/hello.txt"), &[]).await;
    assert_eq!((head.status.as_u16(), header(&head, "cache-control")), (200, "public, max-age=1800"));

    let raw = gateway.get(&format!("/ipns/{name}/hello.txt?format=raw")).await;
    assert_eq!((raw.status.as_u16(), header(&raw, "cache-control")), (200, "public, max-age=1800"));
    let listing = gateway.get(&format!("/ipns/{name}/")).await;
    assert_eq!(header(&listing, "cache-control"), "public, max-age=1800, stale-while-revalidate=2678400");
    let slash = gateway.get(&format!("/ipns/{name}?a=b")).await;
    assert_eq!((slash.status.as_u16(), header(&slash, "location")), (301, &*format!("/ipns/{name}/?a=b")));
    let cached = gateway.ask("GET", &format!("/ipns/{name}/hello.txt"), &[("cache-control", "only-if-cached")]).await;
    assert_eq!(cached.status.as_u16(), 200);

    // A fixed name has no TTL, so nothing is said about keeping.
    let fixed = gateway.get("/ipns/fixed.example").await;
    assert_eq!((fixed.status.as_u16(), &*fixed.body, header(&fixed, "cache-control")), (200, &b"hello\n"[..], ""));
}

#[tokio::test]
async fn other_forms_of_a_key_are_sent_to_base36() {
    let (gateway, _names, name) = gateway().await;
    for form in [name.peer().to_base58(), name.cid().to_string()] {
        let answer = gateway.get(&format!("/ipns/{form}/a%20b/?x=1")).await;
        assert_eq!((answer.status.as_u16(), header(&answer, "location")), (302, &*format!("/ipns/{name}/a%20b/?x=1")));
    }
}

#[tokio::test]
async fn the_record_itself_is_served() {
    let (gateway, names, name) = gateway().await;
    let (record, _) = names.resolver.record(&name, tidegate::names::Reach::Local).await.unwrap();
    let path = format!("/ipns/{name}");
    for answer in [
        gateway.get(&format!("{path}?format=ipns-record")).await,
        gateway.ask("GET", &path, &[("accept", "application/vnd.ipfs.ipns-record")]).await,
    ] {
        assert_eq!((answer.status.as_u16(), &answer.body), (200, record.bytes()));
        assert_eq!(header(&answer, "content-type"), "application/vnd.ipfs.ipns-record");
        assert_eq!(header(&answer, "cache-control"), "public, max-age=1800");
        assert_eq!(header(&answer, "content-disposition"), format!("attachment; filename=\"{name}.ipns-record\""));
    }
    let answer = gateway.get(&format!("{path}?format=ipns-record&filename=a.bin")).await;
    assert_eq!(header(&answer, "content-disposition"), "attachment; filename=\"a.bin\"");
    let etag = header(&answer, "etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    let again = gateway.ask("GET", &format!("{path}?format=ipns-record"), &[("if-none-match", &etag)]).await;
    assert_eq!(again.status.as_u16(), 304);
    for wrong in [
        format!("{path}/a?format=ipns-record"),
        "/ipns/fixed.example?format=ipns-record".into(),
        "/ipfs/bafkqaaa?format=ipns-record".into(),
    ] {
        assert_eq!(gateway.get(&wrong).await.status.as_u16(), 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_record_counts_no_longer_than_it_lives() {
    let (gateway, names, _) = gateway().await;
    let (key, name) = new_key();
    let record = signed(&key, "/ipfs/bafkqaaa", 1, Duration::from_secs(86_400));
    names.resolver.put(&name, record.bytes().clone()).await.unwrap();
    for query in ["", "?format=ipns-record"] {
        let answer = gateway.get(&format!("/ipns/{name}{query}")).await;
        let age: u64 = header(&answer, "cache-control").strip_prefix("public, max-age=").unwrap().parse().unwrap();
        assert!((3500..=3600).contains(&age), "{age}");
    }
}

#[tokio::test]
async fn what_goes_wrong_says_whose_doing_it_is() {
    let (gateway, _names, _) = gateway().await;
    let (_, nobody) = new_key();
    let status = async |path: &str| gateway.get(path).await.status.as_u16();
    assert_eq!(status(&format!("/ipns/{nobody}")).await, 502);
    assert_eq!(status("/ipns/other.example").await, 502);
    assert_eq!(status("/ipns/nonsense").await, 400);
    let cached = gateway.ask("GET", &format!("/ipns/{nobody}"), &[("cache-control", "only-if-cached")]).await;
    assert_eq!(cached.status.as_u16(), 412);
    let answer = gateway.get(&format!("/ipns/{nobody}")).await;
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!(header(&answer, "retry-after"), "60");
    assert!(header(&answer, "server-timing").starts_with("resolve;dur="), "{}", header(&answer, "server-timing"));
}
