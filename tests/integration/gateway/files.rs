//! Files: bytes, headers, ranges, conditions.

use http::StatusCode;
use tidegate::ipld::builder;
use tidegate::ipld::builder::Profile;
use tidegate::record::{Outcome, Policy};

use super::world::{TOKEN, World, noise};

const IMMUTABLE: &str = "public, max-age=29030400, immutable";

#[tokio::test]
async fn a_file_comes_whole_with_the_headers_of_the_specification() {
    let world = World::new();
    let data = noise(700_000);
    let (file, _) = world.file(&data).await;
    let dir = world.directory(&[("data.bin", file)]).await;
    let answer = world.get(&format!("/ipfs/{}/data.bin", dir.cid)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == data);
    for (name, value) in [
        ("content-length", "700000".to_owned()),
        ("etag", format!("\"{}\"", file.cid)),
        ("cache-control", IMMUTABLE.to_owned()),
        ("x-ipfs-path", format!("/ipfs/{}/data.bin", dir.cid)),
        ("x-ipfs-roots", format!("{},{}", dir.cid, file.cid)),
        ("accept-ranges", "bytes".to_owned()),
        ("content-type", "application/octet-stream".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("access-control-allow-origin", "*".to_owned()),
        ("last-modified", String::new()),
        ("content-disposition", String::new()),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    for phase in ["resolve;dur=", "ttfb;dur=", "total;dur="] {
        assert!(answer.header("server-timing").contains(phase), "{}", answer.header("server-timing"));
    }
    let record = world.records.one().await;
    assert_eq!((record.outcome, record.bytes, record.http_status), (Outcome::Complete, 700_000, Some(200)));
    assert_eq!(record.id.to_string(), answer.header("tidegate-retrieval"));
    assert_eq!(record.path, format!("/ipfs/{}/data.bin", dir.cid));
    assert!(record.ttfb.unwrap() <= record.load_time);
}

#[tokio::test]
async fn ranges_give_the_bytes_they_name() {
    let world = World::new();
    let data = noise(600_000);
    let (file, _) = world.file(&data).await;
    let path = format!("/ipfs/{}", file.cid);
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=262143-262144", 262_143, 262_145),
        ("bytes=100-", 100, 600_000),
        ("bytes=-3", 599_997, 600_000),
        ("bytes=599999-700000", 599_999, 600_000),
    ] {
        let answer = world.ask("GET", &path, &[("range", range)]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {start}-{}/600000", end - 1), "{range}");
        assert_eq!(answer.header("content-length"), (end - start).to_string(), "{range}");
        assert!(answer.body == data[start..end], "{range}");
    }
    let answer = world.ask("GET", &path, &[("range", "bytes=600000-")]).await;
    assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(answer.header("content-range"), "bytes */600000");
    assert_eq!(answer.header("cache-control"), "no-store");
    let answer = world.ask("GET", &path, &[("range", "bytes=5-1")]).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 600_000));
    let other = world.ask("GET", &path, &[("range", "bytes=0-0"), ("if-range", "\"other\"")]).await;
    assert_eq!(other.status, StatusCode::OK);
}

#[tokio::test]
async fn a_range_needs_only_its_own_blocks() {
    let world = World::new();
    let data = noise(3 * 262_144);
    let (file, blocks) = world.file(&data).await;
    use tidegate::blockstore::Blockstore;
    world.store.remove(&blocks[1]).await.unwrap();
    for (range, start, end) in [("bytes=1000-2000", 1000, 2001), ("bytes=-1000", data.len() - 1000, data.len())] {
        let answer = world.ask("GET", &format!("/ipfs/{}?filename=a.bin", file.cid), &[("range", range)]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        assert!(answer.body == data[start..end], "{range}");
    }
}

#[tokio::test]
async fn a_head_needs_none_of_the_bodys_blocks() {
    use tidegate::blockstore::Blockstore;
    let world = World::new();
    let (file, blocks) = world.file(&noise(600_000)).await;
    for leaf in &blocks[..blocks.len() - 1] {
        world.store.remove(leaf).await.unwrap();
    }
    let dir = world.directory(&[("film.mp4", file)]).await;
    let answer = world.ask("HEAD", &format!("/ipfs/{}/film.mp4", dir.cid), &[("range", "bytes=0-1")]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-length"), "600000");
    assert_eq!(answer.header("content-type"), "video/mp4");
    assert_eq!(answer.header("etag"), format!("\"{}\"", file.cid));
    assert!(answer.body.is_empty());
    let nameless = world.ask("HEAD", &format!("/ipfs/{}", file.cid), &[]).await;
    assert_eq!((nameless.status, nameless.header("content-type")), (StatusCode::OK, ""));
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let dir = world.directory(&[("a.txt", file)]).await;
    let etag = format!("\"{}\"", file.cid);
    for path in [format!("/ipfs/{}", file.cid), format!("/ipfs/{}/a.txt", dir.cid)] {
        for value in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let answer = world.ask("GET", &path, &[("if-none-match", &value)]).await;
            assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{path} {value}");
            assert_eq!((answer.header("etag"), answer.header("cache-control")), (&*etag, IMMUTABLE));
            assert!(answer.body.is_empty());
        }
        assert_eq!(world.ask("GET", &path, &[("if-none-match", "\"x\"")]).await.status, StatusCode::OK);
    }
    assert_eq!(world.records.all().len(), 2, "an answer without content makes no record");
}

#[tokio::test]
async fn types_come_from_the_name_then_from_the_bytes() {
    let world = World::new();
    let (json, _) = world.file(br#"{"a": 1}"#).await;
    let (text, _) = world.file("zażółć".as_bytes()).await;
    let (png, _) = world.file(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").await;
    for (path, expected) in [
        (format!("/ipfs/{}", json.cid), "application/json"),
        (format!("/ipfs/{}?filename=a.css", json.cid), "text/css; charset=utf-8"),
        (format!("/ipfs/{}", text.cid), "text/plain; charset=utf-8"),
        (format!("/ipfs/{}", png.cid), "image/png"),
        ("/ipfs/bafkqabtimvwgy3yk/".to_owned(), "text/plain; charset=utf-8"),
    ] {
        assert_eq!(world.get(&path).await.header("content-type"), expected, "{path}");
    }
}

#[tokio::test]
async fn downloads_are_named() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let cid = file.cid;
    for (query, expected) in [
        ("filename=a.txt", "inline; filename=\"a.txt\"".to_owned()),
        ("download=true", format!("attachment; filename=\"{cid}\"")),
        ("download=false", String::new()),
        (
            "download=true&filename=t%D1%82.txt",
            "attachment; filename=\"t_.txt\"; filename*=UTF-8''t%D1%82.txt".to_owned(),
        ),
        ("filename=a%0D%0AX:%20y", "inline; filename=\"a__X: y\"; filename*=UTF-8''a%0D%0AX%3A%20y".to_owned()),
    ] {
        let answer = world.get(&format!("/ipfs/{cid}?{query}")).await;
        assert_eq!(answer.header("content-disposition"), expected, "{query}");
        assert_eq!(answer.header("x"), "");
    }
}

#[tokio::test]
async fn a_symlink_is_answered_by_its_target() {
    let world = World::new();
    let (block, link) = builder::symlink(&Profile::KUBO_V1, "../foo").unwrap();
    world.put(vec![block]).await;
    let answer = world.get(&format!("/ipfs/{}", link.cid)).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "../foo"));
    assert_eq!(answer.header("content-type"), "inode/symlink");
}

#[tokio::test]
async fn the_empty_file_and_identity_cids_need_no_store() {
    let world = World::new();
    let empty = world.get("/ipfs/bafkqaaa").await;
    assert_eq!((empty.status, empty.body.len(), empty.header("content-length")), (StatusCode::OK, 0, "0"));
    assert_eq!(world.ask("HEAD", "/ipfs/bafkqaaa", &[]).await.status, StatusCode::OK);
    assert_eq!(world.get("/ipfs/bafkqabtimvwgy3yk").await.text(), "hello\n");
    assert!(world.records.all().iter().all(|record| record.outcome == Outcome::Complete));
}

#[tokio::test]
async fn only_an_admin_chooses_the_policy() {
    let world = World::new();
    let bearer = format!("Bearer {TOKEN}");
    for authorization in ["Bearer wrong", &bearer] {
        let headers = [("authorization", authorization)];
        world.ask("GET", "/ipfs/bafkqabtimvwgy3yk?policy=standard", &headers).await;
    }
    let policies: Vec<_> = world.records.all().iter().map(|record| record.session.policy).collect();
    assert_eq!(policies, [Policy::Optimized, Policy::Standard]);
}
