//! Listings: pages, order, JSON, and names that mean harm.

use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use tidegate::blockstore::Blockstore;
use tidegate::ipld::builder::Built;
use tidegate::record::Outcome;

use super::world::World;

/// A sharded directory of `n` files, and their names.
async fn sharded(world: &World, n: usize) -> (Built, Vec<String>) {
    let (file, _) = world.file(b"x").await;
    let names: Vec<String> = (0..n).map(|n| format!("a rather long name of a file, number {n}.txt")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), file)).collect();
    (world.directory(&entries).await, names)
}

/// The names that a page links to, in its order.
fn names(html: &str) -> Vec<String> {
    let rows = html.split("<tr><td><a href=\"").skip(1);
    rows.map(|row| row.split('>').nth(1).unwrap().trim_end_matches("</a").to_owned())
        .filter(|name| name != "..")
        .collect()
}

fn next(html: &str) -> Option<String> {
    let (before, _) = html.split_once("\" rel=\"next\">")?;
    Some(before.rsplit('"').next().unwrap().replace("&#38;", "&"))
}

#[tokio::test]
async fn a_sharded_directory_is_whole_over_its_pages_and_no_page_reads_all_of_it() {
    let world = World::new();
    let (dir, mut expected) = sharded(&world, 12_000).await;
    let mut url = format!("/ipfs/{}/", dir.cid);
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let before = world.store.reads.load(Relaxed);
        let answer = world.get(&url).await;
        assert_eq!(answer.status, StatusCode::OK);
        let on_page = names(answer.text());
        assert!(on_page.len() <= 1000);
        seen.extend(on_page);
        pages += 1;
        // 12,000 entries at fanout 256 are some 1,300 shards, most of them with one collision: a page of 1,000 needs about
        // a twelfth.
        assert!(world.store.reads.load(Relaxed) - before < 200, "page {pages} read the directory");
        assert!(answer.text().contains("in the order in which they are stored"));
        match next(answer.text()) {
            Some(query) => url = format!("/ipfs/{}/{query}", dir.cid),
            None => break,
        }
    }
    assert_eq!(pages, 12);
    assert_eq!(seen.len(), expected.len());
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    assert!(world.records.all().iter().all(|record| record.outcome == Outcome::Complete));
    // More than can be sorted: said, and still shown.
    let sorted = world.get(&format!("/ipfs/{}/?sort=name", dir.cid)).await;
    assert!(sorted.text().contains("more than 10000 entries, too many to sort"));
    assert_eq!(names(sorted.text()).len(), 1000);
}

// All entries have the same content: what is large is the directory.
#[tokio::test]
async fn of_100000_entries_a_page_a_page_far_in_and_one_name_read_a_few_blocks_each() {
    let world = World::new();
    let (dir, names_of_all) = sharded(&world, 100_000).await;
    let all = world.store.stats().blocks;
    assert!(all > 20_000, "{all} blocks");
    let middle = {
        // As the pages come: what follows is in the order of the hashes, so any name lies anywhere.
        let (name, first) = (&names_of_all[50_000], 50_001);
        format!("?after={}&first={first}", name.replace(' ', "%20").replace(',', "%2C"))
    };
    for (query, from) in
        [("", "Entries 1 to 1000; there are more."), (&*middle, "Entries 50001 to 51000; there are more.")]
    {
        for accept in ["text/html", "application/json"] {
            let before = world.store.reads.load(Relaxed);
            let answer = world.ask("GET", &format!("/ipfs/{}/{query}", dir.cid), &[("accept", accept)]).await;
            let read = world.store.reads.load(Relaxed) - before;
            assert_eq!(answer.status, StatusCode::OK);
            if accept == "text/html" {
                assert_eq!(names(answer.text()).len(), 1000);
                assert!(answer.text().contains(from), "{query}");
            } else {
                let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                assert_eq!(json["entries"].as_array().unwrap().len(), 1000);
                assert!(json["next"].as_str().unwrap().starts_with("?after=") && json["total"].is_null());
            }
            // A hundredth of the directory, and what is read ahead.
            assert!(read > 100 && read < 1000, "{read} of {all} blocks for {query:?} as {accept}");
        }
    }
    let before = world.store.reads.load(Relaxed);
    let name = names_of_all[77_777].replace(' ', "%20").replace(',', "%2C");
    assert_eq!(world.get(&format!("/ipfs/{}/{name}", dir.cid)).await.text(), "x");
    assert!(world.store.reads.load(Relaxed) - before <= 6);
}

#[tokio::test]
async fn up_to_ten_thousand_entries_are_sorted_as_asked() {
    let world = World::new();
    let (dir, mut expected) = sharded(&world, 6000).await;
    expected.sort();
    for (query, index) in [("?sort=name", 0), ("?sort=name&page=6", 5000)] {
        let answer = world.get(&format!("/ipfs/{}/{query}", dir.cid)).await;
        assert_eq!(names(answer.text()), expected[index..index + 1000], "{query}");
    }
    let last = world.get(&format!("/ipfs/{}/?sort=name&page=6", dir.cid)).await;
    assert!(last.text().contains("Entries 5001 to 6000 of 6000.") && next(last.text()).is_none());
    let down = world.get(&format!("/ipfs/{}/?sort=name&order=desc", dir.cid)).await;
    assert_eq!(names(down.text())[0], expected[5999]);
    assert!(down.text().contains("aria-sort=\"descending\""));
    let beyond = world.get(&format!("/ipfs/{}/?sort=name&page=99999999999999", dir.cid)).await;
    assert!(names(beyond.text()).is_empty() && beyond.status == StatusCode::OK);
}

#[tokio::test]
async fn small_directories_are_sorted_without_being_asked_and_by_size_when_asked() {
    let world = World::new();
    let (small, _) = world.file(b"x").await;
    let (large, _) = world.file(&[7; 5000]).await;
    let dir = world.directory(&[("b", small), ("c", large), ("a", large)]).await;
    let page = |query: &'static str| {
        let world = &world;
        async move { names(world.get(&format!("/ipfs/{}/{query}", dir.cid)).await.text()) }
    };
    assert_eq!(page("").await, ["a", "b", "c"]);
    assert_eq!(page("?sort=size").await, ["b", "a", "c"]);
    assert_eq!(page("?sort=size&order=desc").await, ["c", "a", "b"]);
}

#[tokio::test]
async fn programs_get_json_page_by_page() {
    let world = World::new();
    let (dir, mut expected) = sharded(&world, 2500).await;
    let mut url = format!("/ipfs/{}/", dir.cid);
    let mut seen = Vec::new();
    let etag = world.get(&url).await.header("etag").to_owned();
    loop {
        let answer = world.ask("GET", &url, &[("accept", "application/json"), ("if-none-match", &etag)]).await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
        assert_ne!(answer.header("etag"), etag, "another representation, another validator");
        assert_eq!(answer.header("vary"), "Accept");
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["cid"], dir.cid.to_string());
        for entry in json["entries"].as_array().unwrap() {
            assert!(entry["cid"].is_string() && entry["size"].is_u64());
            seen.push(entry["name"].as_str().unwrap().to_owned());
        }
        match json["next"].as_str() {
            Some(query) => url = format!("/ipfs/{}/{query}", dir.cid),
            None => break,
        }
    }
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    // The address that the answer names is one that gives it, to a browser too.
    let answer = world.ask("GET", &format!("/ipfs/{}/", dir.cid), &[("accept", "application/json")]).await;
    let own = answer.header("content-location").to_owned();
    assert_eq!(own, format!("/ipfs/{}/?format=json", dir.cid));
    let same = world.ask("GET", &own, &[("accept", "text/html")]).await;
    assert_eq!(same.header("content-type"), "application/json");
    let json: serde_json::Value = serde_json::from_slice(&same.body).unwrap();
    let next = json["next"].as_str().unwrap();
    assert!(next.ends_with("&format=json"), "{next}");
    let second = world.ask("GET", &format!("/ipfs/{}/{next}", dir.cid), &[("accept", "text/html")]).await;
    assert_eq!(second.header("content-type"), "application/json");
    let cbor = world.ask("GET", &format!("/ipfs/{}/?format=cbor", dir.cid), &[]).await;
    assert_eq!(cbor.status, StatusCode::NOT_ACCEPTABLE, "a directory has no CBOR form");
    let empty = world.directory(&[]).await;
    let answer = world.ask("GET", &format!("/ipfs/{}/", empty.cid), &[("accept", "application/json")]).await;
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (json["entries"].as_array().unwrap().len(), &json["total"], &json["next"]),
        (0, &0.into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_listing_fetches_no_child() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let inner = world.directory(&[("f", file)]).await;
    let dir = world.directory(&[("a", inner), ("b", file)]).await;
    assert!(tidegate::blockstore::Blockstore::remove(&*world.store, &file.cid).await.unwrap());
    assert!(tidegate::blockstore::Blockstore::remove(&*world.store, &inner.cid).await.unwrap());
    let answer = world.get(&format!("/ipfs/{}/", dir.cid)).await;
    assert_eq!((answer.status, names(answer.text()).len()), (StatusCode::OK, 2));
}

/// Markup, template braces, bidi marks, line ends, dots, drive letters, and what a decoder might make of bytes.
const HOSTILE: [&str; 40] = [
    "\"><img src=x onerror=alert(1)>",
    "<script>alert(1)<\\script>",
    "<td><tr><table><h1>x",
    "<title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "data:text,<b>x",
    "' onclick='x",
    "` onmouseover=`x",
    "{{7*7}}",
    "{% include \"etc\" %}",
    "${7*7}",
    "<%= 7*7 %>",
    "\u{202e}gpj.exe",
    "\u{202d}a\u{202c}",
    "\u{2066}isolate\u{2069}",
    "\u{200b}zero",
    "a\u{200d}joiner",
    "\u{feff}mark",
    "\u{e0041}tag",
    "a\r\nSet-Cookie: x=1",
    "a\nb",
    "a\tb",
    "\u{7f}delete",
    "\u{1b}[31mred",
    "\u{85}next",
    "\u{2028}line",
    "a&b?c#d%2e%2e",
    "%2e%2e%2fetc",
    "%00",
    "%c0%af",
    "%252e",
    "...",
    ". .",
    "C:evil.exe",
    "\\\\server\\share",
    "..\\..\\windows",
    "http:",
    "mailto:x@y",
    "-rf",
    "&lt;b&gt;&#60;",
];

#[tokio::test]
async fn hostile_names_are_text_and_nothing_else() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let entries: Vec<_> = HOSTILE.iter().map(|name| (*name, file)).collect();
    let dir = world.directory(&entries).await;
    let answer = world.get(&format!("/ipfs/{}/", dir.cid)).await;
    let html = answer.text();
    for forbidden in [
        "<img",
        "<script>",
        "<svg",
        "<b>",
        "onclick='",
        "\u{202e}",
        "\u{2066}",
        "\u{200b}",
        "\u{1b}",
        "\u{7f}",
        "\r\nSet-Cookie",
        "href=\"javascript:",
        "href=\"data:text",
        "href=\"mailto:",
        "href=\"http:",
        ">49<",
    ] {
        assert!(!html.contains(forbidden), "{forbidden}\n{html}");
    }
    assert_eq!(html.matches("<script").count(), 1, "ours alone");
    assert!(html.contains(r"\u{202e}gpj.exe") && html.contains("%22%3E%3Cimg%20src=x%20onerror=alert%281%29%3E"));
    let policy = answer.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    // Each link leads back to what it names, and each name can be put into a header.
    let links: Vec<_> = html.split("<td><a href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), HOSTILE.len());
    for link in links {
        let answer = world.get(&format!("{}?download=true", link.replace("&#38;", "&"))).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "x"), "{link}");
        assert!(answer.header("content-disposition").starts_with("attachment; filename=\""));
    }
    // Programs get the names as they are.
    let json = world.ask("GET", &format!("/ipfs/{}/", dir.cid), &[("accept", "application/json")]).await;
    let json: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    let mut found: Vec<_> =
        json["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect();
    let mut expected = HOSTILE.map(str::to_owned).to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}
