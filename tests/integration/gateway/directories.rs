//! Directories: the redirect, the index page, the listing.

use super::world::World;
use http::StatusCode;

#[tokio::test]
async fn a_directory_without_a_slash_is_sent_to_the_one_with() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let inner = world.directory(&[("f", file)]).await;
    let dir = world.directory(&[("ą b", inner)]).await;
    let answer = world.get(&format!("/ipfs/{}/%c4%85%20b?a=b&c=%20", dir.cid)).await;
    assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(answer.header("location"), format!("/ipfs/{}/%C4%85%20b/?a=b&c=%20", dir.cid));
    assert!(world.records.all().is_empty());
}

#[tokio::test]
async fn an_index_page_stands_for_its_directory() {
    let world = World::new();
    let (index, _) = world.file(b"<!doctype html><p>hi").await;
    let dir = world.directory(&[("index.html", index)]).await;
    let path = format!("/ipfs/{}/", dir.cid);
    let answer = world.get(&path).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "<!doctype html><p>hi"));
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("etag"), format!("\"{}\"", dir.cid));
    assert_eq!(answer.header("x-ipfs-path"), path);
    assert_eq!(answer.header("x-ipfs-roots"), dir.cid.to_string());
    assert_eq!(answer.header("cache-control"), "public, max-age=29030400, immutable");
    let etag = format!("\"{}\"", dir.cid);
    assert_eq!(world.ask("GET", &path, &[("if-none-match", &etag)]).await.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_listing_has_the_patterns_that_clients_look_for() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let leaf = world.directory(&[("file-źł.txt", file)]).await;
    let middle = world.directory(&[("ę", leaf)]).await;
    let root = world.directory(&[("ą", middle)]).await;
    let base = format!("/ipfs/{}/%C4%85/%C4%99", root.cid);
    let answer = world.get(&format!("{base}/")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(
        answer.header("etag").starts_with("\"DirIndex-")
            && answer.header("etag").ends_with(&format!("_CID-{}\"", leaf.cid))
    );
    assert_eq!(answer.header("cache-control"), "public, max-age=604800, stale-while-revalidate=2678400");
    assert_eq!(answer.header("x-ipfs-roots"), format!("{},{},{}", root.cid, middle.cid, leaf.cid));
    let r = root.cid;
    for pattern in [
        "Index of".to_owned(),
        format!("/ipfs/<a href=\"/ipfs/{r}\">{r}</a>/<a href=\"/ipfs/{r}/%C4%85\">ą</a>/<a href=\"{base}\">ę</a>"),
        format!("<a href=\"{base}/..\">..</a>"),
        format!("<a href=\"{base}/file-%C5%BA%C5%82.txt\">file-źł.txt</a>"),
        format!(
            "<a class=\"ipfs-hash\" translate=\"no\" href=\"/ipfs/{}?filename=file-%25C5%25BA%25C5%2582.txt\">",
            file.cid
        ),
    ] {
        assert!(answer.text().contains(&pattern), "{pattern}\n{}", answer.text());
    }
    assert!(answer.text().trim_end().ends_with("</html>"));
    let top = world.get(&format!("/ipfs/{r}/")).await;
    assert!(!top.text().contains(">..</a>"));

    let fresh = world.ask("GET", &format!("{base}/"), &[("if-none-match", answer.header("etag"))]).await;
    assert_eq!((fresh.status, fresh.header("etag")), (StatusCode::NOT_MODIFIED, answer.header("etag")));
    let head = world.ask("HEAD", &format!("{base}/"), &[]).await;
    assert_eq!((head.status, head.header("etag")), (StatusCode::OK, answer.header("etag")));
}
