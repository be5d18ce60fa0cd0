//! Denylists: what another path leads to is the same thing (index pages, rewrites, names on the way, archives, listings).

use http::{Request, StatusCode};
use tower::ServiceExt;

use super::denied::{at, listed};
use super::world::{Answer, World, noise};

/// Status, what came of the body, and whether it came to its end.
async fn take(world: &World, host: &str, path: &str) -> (StatusCode, Vec<u8>, bool) {
    let request = Request::get(path).header("host", host).body(axum::body::Body::empty()).unwrap();
    let response = world.router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let mut body = http_body_util::BodyExt::into_data_stream(response.into_body());
    let mut bytes = Vec::new();
    while let Some(chunk) = futures::StreamExt::next(&mut body).await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => return (status, bytes, false),
        }
    }
    (status, bytes, true)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn refused(answer: &Answer, what: &str) {
    assert_eq!(answer.status, StatusCode::GONE, "{what}");
    assert_eq!(answer.header("cache-control"), "no-store", "{what}");
    assert!(!holds(&answer.body, "secret"), "{what}");
}

#[tokio::test]
async fn a_name_on_the_way_is_refused_like_the_one_that_was_asked_for() {
    let world = World::new();
    let (file, _) = world.file(b"secret").await;
    let (other, _) = world.file(b"other").await;
    let inner = world.directory(&[("f", file), ("g", other)]).await;
    let dir = world.directory(&[("x", inner)]).await;
    let map = format!(
        "alias.example.org:/ipns/bad.example.org/x,bad.example.org:/ipns/next.example.org,next.example.org:/ipfs/{}",
        dir.cid
    );
    let (whole, lists) = listed(world, "/ipns/bad.example.org\n", &map);
    for (host, path) in [
        ("127.0.0.1", "/ipns/alias.example.org/f"),
        ("127.0.0.1", "/ipns/alias.example.org/f?format=raw"),
        ("127.0.0.1", "/ipns/alias.example.org/?format=car"),
        ("127.0.0.1", "/ipns/alias.example.org/?format=tar"),
        ("127.0.0.1", "/ipns/alias.example.org/"),
        ("127.0.0.1", "/ipns/bad.example.org/x/f"),
        ("alias.example.org", "/f"),
        ("alias-example-org.ipns.example.com", "/f"),
    ] {
        refused(&at(&whole, host, path).await, &format!("{host}{path}"));
    }
    assert_eq!(at(&whole, "127.0.0.1", "/ipns/next.example.org/x/f").await.text(), "secret");
    // A path below the name on the way, of which the first part comes from the alias.
    lists.replace(super::denied::rules("/ipns/bad.example.org/x/f status=451\n"));
    assert_eq!(at(&whole, "alias.example.org", "/f").await.status, StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS);
    assert_eq!(at(&whole, "alias.example.org", "/g").await.text(), "other");
}

#[tokio::test]
async fn an_index_page_is_refused_where_its_directory_is_asked_for() {
    let world = World::new();
    let (page, _) = world.file(b"<title>secret</title>").await;
    let (file, _) = world.file(b"other").await;
    let site = world.directory(&[("file", file), ("index.html", page)]).await;
    let outer = world.directory(&[("dir", site)]).await;
    let map = format!("site.example.org:/ipfs/{}", site.cid);
    let (world, lists) = listed(world, "", &map);
    let etag = at(&world, "127.0.0.1", &format!("/ipfs/{}/", site.cid)).await.header("etag").to_owned();
    assert!(etag.contains(&site.cid.to_string()));
    lists.replace(super::denied::rules(&format!("/ipfs/{}/index.html\n", site.cid)));
    let own = format!("{}.ipfs.example.com", site.cid);
    for (host, path) in [
        ("127.0.0.1", format!("/ipfs/{}/", site.cid)),
        ("127.0.0.1", format!("/ipfs/{}/index.html", site.cid)),
        ("127.0.0.1", format!("/ipfs/{}/dir/", outer.cid)),
        ("127.0.0.1", format!("/ipfs/{}/dir/index.html", outer.cid)),
        ("127.0.0.1", format!("/ipfs/{}/dir/index.html?format=raw", outer.cid)),
        ("127.0.0.1", "/ipns/site.example.org/".into()),
        ("site.example.org", "/".into()),
        (&*own, "/".into()),
    ] {
        refused(&at(&world, host, &path).await, &format!("{host}{path}"));
        let known = world.ask("GET", &path, &[("host", host), ("if-none-match", &etag)]).await;
        refused(&known, &format!("{host}{path} with a validator"));
    }
    assert_eq!(at(&world, &own, "/file").await.text(), "other");
    // By the name that is asked for.
    lists.replace(super::denied::rules("/ipns/site.example.org/index.html\n"));
    refused(&at(&world, "site.example.org", "/").await, "by name");
    assert!(holds(&at(&world, &own, "/").await.body, "secret"));
}

#[tokio::test]
async fn what_a_rewrite_serves_is_refused_by_its_own_path() {
    let world = World::new();
    let (page, _) = world.file(b"<title>secret</title>").await;
    let (open, _) = world.file(b"open").await;
    let rules = "/a /bad.html 200\n/b /bad.html 404\n/c /sub/ 200\n/d /open 200\n";
    let (redirects, _) = world.file(rules.as_bytes()).await;
    let sub = world.directory(&[("index.html", page)]).await;
    let site = world.directory(&[("_redirects", redirects), ("open", open), ("bad.html", page), ("sub", sub)]).await;
    let (world, lists) = listed(world, "", "");
    let own = format!("{}.ipfs.example.com", site.cid);
    for path in ["/a", "/b", "/c"] {
        assert!(holds(&at(&world, &own, path).await.body, "secret"), "{path}");
    }
    let lines = format!("/ipfs/{0}/bad.html\n/ipfs/{0}/sub/index.html\n", site.cid);
    lists.replace(super::denied::rules(&lines));
    for path in ["/a", "/b", "/c"] {
        refused(&at(&world, &own, path).await, path);
    }
    assert_eq!(at(&world, &own, "/d").await.text(), "open");
}

#[tokio::test]
async fn archives_end_where_an_entry_is_refused_by_path_or_by_cid() {
    let world = World::new();
    // Larger than what is made before the status is chosen.
    let (large, _) = world.file(&noise(300_000)).await;
    let (bad, _) = world.file(b"secret").await;
    let (last, _) = world.file(b"the last one").await;
    let inner = world.directory(&[("bad.txt", bad)]).await;
    let dir = world.directory(&[("a", large), ("d", inner), ("z", last)]).await;
    let small = world.directory(&[("d", inner)]).await;
    let map = format!("site.example.org:/ipfs/{}", dir.cid);
    let (world, lists) = listed(world, "", &map);
    let (by_cid, by_name) = (format!("/ipfs/{}", dir.cid), "/ipns/site.example.org".to_owned());
    for format in ["tar", "zip"] {
        let address = |base: &str| format!("{base}/?format={format}");
        for (rule, base) in [
            (format!("/ipfs/{}", bad.cid), &by_cid),
            (format!("/ipfs/{}/d/bad*", dir.cid), &by_cid),
            (format!("/ipfs/{}/d/bad.txt", dir.cid), &by_cid),
            (format!("/ipfs/{}/d/bad.txt", dir.cid), &by_name),
            (format!("/ipfs/{}/d", dir.cid), &by_cid),
            (format!("/ipfs/{}/bad.txt", inner.cid), &by_cid),
            ("/ipns/site.example.org/d/*".to_owned(), &by_name),
        ] {
            lists.replace(super::denied::rules(""));
            let (status, bytes, whole) = take(&world, "127.0.0.1", &address(base)).await;
            assert!(status == StatusCode::OK && whole && holds(&bytes, "secret"), "{format} without rules");
            lists.replace(super::denied::rules(&format!("{rule}\n")));
            let (status, bytes, whole) = take(&world, "127.0.0.1", &address(base)).await;
            assert_eq!((status, whole), (StatusCode::OK, false), "{format} {rule}");
            assert!(!holds(&bytes, "secret") && !holds(&bytes, "the last one"), "{format} {rule}");
        }
        // Before the status, it is the status. The archive of the entry itself is refused too, of the others it is not.
        lists.replace(super::denied::rules(&format!("/ipfs/{}/d/bad.txt\n/ipfs/{}/d/*\n", small.cid, dir.cid)));
        for path in [format!("/ipfs/{}", small.cid), format!("/ipfs/{}/d/bad.txt", dir.cid)] {
            refused(&at(&world, "127.0.0.1", &address(&path)).await, &path);
        }
        let (status, bytes, whole) = take(&world, "127.0.0.1", &address(&format!("{by_cid}/z"))).await;
        assert!(status == StatusCode::OK && whole && holds(&bytes, "the last one"), "{format}");
        // A rule about the directory's sibling of the same beginning, and one about another root.
        lists.replace(super::denied::rules(&format!("/ipfs/{}/d/bad\n/ipfs/{}/d*\n", dir.cid, small.cid)));
        assert!(take(&world, "127.0.0.1", &address(&by_cid)).await.2, "{format}");
    }
}

#[tokio::test]
async fn listings_are_refused_with_their_directory_and_show_no_more_than_links_to_what_is_refused() {
    let world = World::new();
    let (bad, _) = world.file(b"secret").await;
    let inner = world.directory(&[("bad.txt", bad)]).await;
    let dir = world.directory(&[("d", inner)]).await;
    let map = format!("site.example.org:/ipfs/{}", dir.cid);
    let (world, lists) = listed(world, "", &map);
    let own = format!("{}.ipfs.example.com", dir.cid);
    let places = [
        ("127.0.0.1", format!("/ipfs/{}/d/", dir.cid)),
        ("127.0.0.1", "/ipns/site.example.org/d/".to_owned()),
        ("site.example.org", "/d/".to_owned()),
        (&own, "/d/".to_owned()),
    ];
    for (rule, everywhere) in [
        (format!("/ipfs/{}", inner.cid), true),
        (format!("/ipfs/{}/d", dir.cid), true),
        (format!("/ipfs/{}/d*", dir.cid), true),
        ("/ipns/site.example.org/d".to_owned(), false),
    ] {
        for (host, path) in &places {
            for accept in ["text/html", "application/json"] {
                let ask = async || world.ask("GET", path, &[("host", host), ("accept", accept)]).await;
                lists.replace(super::denied::rules(""));
                let shown = ask().await;
                assert!(shown.status == StatusCode::OK && holds(&shown.body, "bad.txt"), "{host}{path} {accept}");
                lists.replace(super::denied::rules(&format!("{rule}\n")));
                let answer = ask().await;
                if everywhere || path.contains("site.example.org") || *host == "site.example.org" {
                    refused(&answer, &format!("{rule}: {host}{path} as {accept}"));
                    assert!(!holds(&answer.body, "bad.txt"));
                } else {
                    assert_eq!(answer.status, StatusCode::OK);
                }
            }
        }
    }
    // The directory above can be shown: it holds a name and a CID, and the link is refused.
    lists.replace(super::denied::rules(&format!("/ipfs/{}\n", bad.cid)));
    let above = at(&world, &own, "/d/").await;
    assert!(above.status == StatusCode::OK && holds(&above.body, "bad.txt") && !holds(&above.body, "secret"));
    refused(&at(&world, &own, "/d/bad.txt").await, "the link");
}

#[tokio::test]
async fn a_listing_ends_where_a_shard_is_refused() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let names: Vec<String> = (0..6_000).map(|n| format!("a-long-name-of-an-entry-{n}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (&**name, file)).collect();
    let dir = world.directory(&entries).await;
    let root = tidegate::blockstore::Blockstore::get(&*world.store, &dir.cid).await.unwrap().unwrap();
    let shard = *tidegate::ipld::codec::links(&root).unwrap().iter().find(|cid| **cid != file.cid).unwrap();
    let (world, lists) = listed(world, "", "");
    let path = format!("/ipfs/{}/?sort=name", dir.cid);
    assert_eq!(at(&world, "127.0.0.1", &path).await.status, StatusCode::OK);
    lists.replace(super::denied::rules(&format!("/ipfs/{shard}\n")));
    assert_eq!(at(&world, "127.0.0.1", &path).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn a_car_ends_where_an_entry_is_refused_by_its_path() {
    let world = World::new();
    let (open, _) = world.file(b"open").await;
    let (bad, _) = world.file(b"secret").await;
    let inner = world.directory(&[("bad.txt", bad)]).await;
    let dir = world.directory(&[("a", open), ("d", inner)]).await;
    let names: Vec<String> = (0..6_000).map(|n| format!("a-long-name-of-an-entry-{n}")).collect();
    let mut entries: Vec<_> = names.iter().map(|name| (&**name, open)).collect();
    entries.push(("x", bad));
    let sharded = world.directory(&entries).await;
    let map = format!("site.example.org:/ipfs/{}", dir.cid);
    let (world, lists) = listed(world, "", &map);
    let (by_cid, by_name) = (format!("/ipfs/{}", dir.cid), "/ipns/site.example.org".to_owned());
    for (rule, base) in [
        (format!("/ipfs/{}/d/bad*", dir.cid), &by_cid),
        (format!("/ipfs/{}/d/bad.txt", dir.cid), &by_name),
        (format!("/ipfs/{}/d", dir.cid), &by_cid),
        (format!("/ipfs/{}/bad.txt", inner.cid), &by_cid),
        ("/ipns/site.example.org/d/*".to_owned(), &by_name),
        (format!("/ipfs/{}/x", sharded.cid), &format!("/ipfs/{}", sharded.cid)),
    ] {
        for parameters in ["", "&car-dups=y"] {
            let path = format!("{base}/?format=car{parameters}");
            lists.replace(super::denied::rules(""));
            let (status, bytes, whole) = take(&world, "127.0.0.1", &path).await;
            assert!(status == StatusCode::OK && whole && holds(&bytes, "secret"), "{path} without rules");
            lists.replace(super::denied::rules(&format!("{rule}\n")));
            let (_, bytes, whole) = take(&world, "127.0.0.1", &path).await;
            assert!(!whole && !holds(&bytes, "secret"), "{path} {rule}");
        }
    }
    // What holds no content of entries is given, and so is the CAR of another entry.
    lists.replace(super::denied::rules(&format!("/ipfs/{}/d*\n", dir.cid)));
    for path in [format!("{by_cid}?format=car&dag-scope=entity"), format!("{by_cid}/a?format=car")] {
        let (status, bytes, whole) = take(&world, "127.0.0.1", &path).await;
        assert!(status == StatusCode::OK && whole && !holds(&bytes, "secret"), "{path}");
    }
}
