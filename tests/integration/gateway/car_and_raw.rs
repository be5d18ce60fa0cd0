//! Blocks and CARs: what a client verifies by itself.

use http::StatusCode;

use super::world::{World, noise};

#[tokio::test]
async fn raw_gives_the_block_at_the_end_of_the_path() {
    let world = World::new();
    let data = noise(1000);
    let (file, _) = world.file(&data).await;
    let dir = world.directory(&[("a.txt", file)]).await;
    let path = format!("/ipfs/{}/a.txt", dir.cid);
    let by_query = world.get(&format!("{path}?format=raw")).await;
    assert!(by_query.status == StatusCode::OK && by_query.body == data);
    for (name, value) in [
        ("content-type", "application/vnd.ipld.raw".to_owned()),
        ("content-length", "1000".to_owned()),
        ("content-disposition", format!("attachment; filename=\"{}.bin\"", file.cid)),
        ("etag", format!("\"{}.raw\"", file.cid)),
        ("cache-control", "public, max-age=29030400, immutable".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("x-ipfs-roots", format!("{},{}", dir.cid, file.cid)),
        ("content-location", String::new()),
    ] {
        assert_eq!(by_query.header(name), value, "{name}");
    }
    let by_accept = world.ask("GET", &path, &[("accept", "application/vnd.ipld.raw")]).await;
    assert!(by_accept.body == data);
    assert_eq!(by_accept.header("content-location"), format!("{path}?format=raw"));
    let part = world.ask("GET", &format!("{path}?format=raw"), &[("range", "bytes=6-16")]).await;
    assert!(part.status == StatusCode::PARTIAL_CONTENT && part.body == data[6..=16]);
    let name = world.get(&format!("{path}?format=raw&filename=x.bin")).await;
    assert_eq!(name.header("content-disposition"), "attachment; filename=\"x.bin\"");
    let etag = format!("\"{}.raw\"", file.cid);
    let fresh = world.ask("GET", &format!("{path}?format=raw"), &[("if-none-match", &etag)]).await;
    assert_eq!(fresh.status, StatusCode::NOT_MODIFIED);
    assert_eq!(world.get(&format!("/ipfs/{}?format=raw", dir.cid)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_car_holds_the_path_and_the_graph_below_it() {
    let world = World::new();
    let data = noise(600_000);
    let (file, blocks) = world.file(&data).await;
    let dir = world.directory(&[("a.bin", file)]).await;
    let path = format!("/ipfs/{}/a.bin", dir.cid);
    let answer = world.get(&format!("{path}?format=car")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/vnd.ipld.car; version=1; order=dfs; dups=n");
    assert_eq!(answer.header("content-disposition"), format!("attachment; filename=\"{}.car\"", file.cid));
    assert!(answer.header("etag").starts_with(&format!("W/\"{}.car.", file.cid)));
    assert_eq!(answer.header("content-length"), "");
    for block in blocks.iter().chain([&dir.cid]) {
        let needle = block.to_bytes();
        assert!(answer.body.windows(needle.len()).any(|window| window == needle), "{block}");
    }
    let block = world.get(&format!("{path}?format=car&dag-scope=block")).await;
    assert!(block.body.len() < 2000);
    assert_ne!(block.header("etag"), answer.header("etag"));
    let part = world.get(&format!("{path}?format=car&entity-bytes=0:99")).await;
    assert!((262_144..530_000).contains(&part.body.len()), "{}", part.body.len());
    let dups = world.ask("GET", &path, &[("accept", "application/vnd.ipld.car;dups=y;order=dfs")]).await;
    assert_eq!(dups.header("content-type"), "application/vnd.ipld.car; version=1; order=dfs; dups=y");
    assert_eq!(dups.header("content-location"), format!("{path}?format=car&car-dups=y"));
    let fresh = world.ask("GET", &format!("{path}?format=car"), &[("if-none-match", answer.header("etag"))]).await;
    assert_eq!(fresh.status, StatusCode::NOT_MODIFIED);
    let probe = world.get("/ipfs/bafkqaaa?format=car").await;
    assert!(probe.status == StatusCode::OK && !probe.body.is_empty());
}

#[tokio::test]
async fn a_car_of_a_missing_root_is_not_found() {
    let world = World::new();
    let missing = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    for method in ["GET", "HEAD"] {
        for query in ["format=car", "format=raw", ""] {
            let answer = world.ask(method, &format!("/ipfs/{missing}?{query}"), &[]).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {query}");
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
}
