//! Content, System, exports and live events through the admin router.

use tidegate::ipld::{Block, HashCode};
use tidegate::record::NoRecords;
use tidegate::record::live::{Begun, MAX_WATCHERS};

use super::*;

/// A small CSV reader, so that what is written is read by other code.
fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => cell.push(chars.next().unwrap()),
            ('"', _) => quoted = !quoted,
            (',', false) => row.push(std::mem::take(&mut cell)),
            ('\r', false) => {}
            ('\n', false) => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            (c, _) => cell.push(c),
        }
    }
    rows
}

#[tokio::test]
async fn every_export_link_of_every_page_gives_the_same_rows_in_both_formats() {
    let admin = Admin::start().await;
    let mut record = fetched();
    record.path = "/ipfs/x/=cmd|' /C calc'!A0, \"quoted\"".to_owned();
    admin.record(record).await;
    let mut checked = 0;
    for page in ["/", "/retrievals?outcome=truncated", "/content?window=1h", "/system"] {
        let html = admin.get(page).await;
        assert_eq!(html.status, StatusCode::OK, "{page}");
        let links = tags(&html.body).into_iter().filter_map(|tag| {
            let href =
                tag.attributes.iter().find(|(name, _)| name == "href")?.1.replace("&amp;", "&").replace("&#38;", "&");
            href.contains("format=csv").then_some(href)
        });
        let links: Vec<String> = links.collect();
        assert!(!links.is_empty(), "{page} has no export");
        for link in links {
            let as_csv = admin.get(&link).await;
            assert_eq!(
                (as_csv.status, as_csv.header("content-type")),
                (StatusCode::OK, "text/csv; charset=utf-8; header=present"),
                "{link}"
            );
            assert!(as_csv.header("content-disposition").starts_with("attachment; filename=\"tidegate-"), "{link}");
            let as_json = admin.get(&link.replace("format=csv", "format=json")).await.json();
            let rows = csv(&as_csv.body);
            let json_rows = as_json["rows"].as_array().unwrap();
            assert_eq!(rows.len(), json_rows.len() + 1, "{link}");
            assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{link}: ragged");
            assert!(!as_csv.body.contains("NaN") && !as_csv.body.contains("inf"), "{link}");
            if link.contains("table=disk") {
                // The room on the disk changes between two reads.
                continue;
            }
            for (line, object) in rows[1..].iter().zip(json_rows) {
                for (name, cell) in rows[0].iter().zip(line) {
                    match &object[name] {
                        Value::Null => assert_eq!(cell, "", "{link} {name}"),
                        Value::String(text) => {
                            assert!(cell == text || *cell == format!("'{text}"), "{link} {name}: {cell}")
                        }
                        Value::Number(n) if n.is_f64() => {
                            assert!(
                                (cell.parse::<f64>().unwrap() - n.as_f64().unwrap()).abs() < 1e-9
                                    || name.ends_with("decayed"),
                                "{link} {name}: {cell}"
                            );
                        }
                        other => {
                            let text = other.to_string();
                            assert!(*cell == text || name.ends_with("_ago"), "{link} {name}: {cell}");
                        }
                    }
                }
            }
            checked += 1;
        }
    }
    assert!(checked >= 15, "{checked}");
    let list = admin.get("/retrievals?outcome=timeout&format=csv").await;
    assert_eq!(csv(&list.body).len(), 1, "the export has the filter of the page");
    assert_eq!(admin.get("/?format=xml").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(admin.get("/?format=csv&table=nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(admin.get("/content?window=5y").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_reuse_curve_shows_when_enough_was_read_and_says_so_before() {
    let admin = Admin::start().await;
    assert!(admin.get("/content").await.body.contains("Not enough data."));
    let cache = admin.get("/api/v1/cache").await.json();
    assert_eq!(cache["reuse"]["curve"].as_array().unwrap().len(), 0);
    // 400 blocks of 64 KiB, 25 MiB in all, read three times in turn: a cache of 32 MiB would have hit two of three.
    let data = vec![7_u8; 65_536];
    let blocks: Vec<Block> = (0..400_u32)
        .map(|n| {
            let mut data = data.clone();
            data[..4].copy_from_slice(&n.to_be_bytes());
            Block::encode(0x55, HashCode::Sha2_256, data.into()).unwrap()
        })
        .collect();
    (0..3).for_each(|_| blocks.iter().for_each(|block| admin.blocks.used(block)));
    let cache = admin.get("/api/v1/cache").await.json();
    assert_eq!(
        (&cache["reuse"]["accesses"], &cache["reuse"]["bytes"]),
        (&Value::from(1_200), &Value::from(1_200 * 65_536))
    );
    let ratio = |bytes: u64| {
        let point = cache["reuse"]["curve"].as_array().unwrap().iter().find(|point| point["cache_bytes"] == bytes);
        point.unwrap()["by_requests"].as_f64().unwrap()
    };
    assert!(ratio(16 << 20) < 0.01 && (ratio(32 << 20) - 2.0 / 3.0).abs() < 0.01, "{cache}");
    let page = admin.get("/content").await.body;
    assert!(page.contains("half of the memory cache") && page.contains("twice the memory cache"));
    assert!(page.contains("66.7 %"), "128 MiB would have hit two of three");
}

#[tokio::test]
async fn the_content_page_shows_tiers_hot_roots_and_pins() {
    let admin = Admin::start().await;
    let mut record = fetched();
    (record.outcome, record.error_kind) = (Outcome::Complete, None);
    let cid = tidegate::db::queries::canonical_cid(&record.cid);
    admin.record(record).await;
    let added = admin.post("/api/v1/add", "application/octet-stream", "pinned").await.json();
    let page = admin.get("/content").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains(added["cid"].as_str().unwrap()), "the pin is shown");
    assert!(page.body.contains(&format!("/retrievals?cid={cid}")), "the hot root links to its retrievals");
    assert!(page.body.contains("format=car"));
    let hits = admin.get("/content?window=1h&format=json&table=hits").await.json();
    let total =
        |name: &str| hits["rows"].as_array().unwrap().iter().map(|row| row[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("requests"), total("requests_miss"), total("bytes_fetched")), (1, 1, 300_000));
    assert_eq!(hits["rows"].as_array().unwrap().len(), 61, "each minute of the hour, empty ones too");
}

#[tokio::test]
async fn the_system_page_tells_of_workers_settings_disk_and_the_database() {
    let admin = Admin::start().await;
    let page = admin.get("/system").await.body;
    for words in [
        "db-writer",
        "limits.drain-timeout",
        "Free on its file system",
        "metrics.sqlite",
        "rustc 1.",
        "/ip4/127.0.0.1/tcp/4001",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let broken = Admin::with("127.0.0.1:8090", Db::Broken).await;
    let page = broken.get("/system").await.body;
    assert!(page.contains("The metrics database is down.") && page.contains("cannot be opened"), "{page}");
    let content = broken.get("/content").await;
    assert_eq!(content.status, StatusCode::OK);
    assert!(content.body.contains("The metrics database is not available."));
    assert_eq!(broken.get("/content?format=csv&table=hits").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(broken.get("/content?format=csv&table=tiers").await.status, StatusCode::OK, "tiers need no database");
    let off = Admin::with("127.0.0.1:8090", Db::Off).await;
    assert!(off.get("/system").await.body.contains("--database none"));
}

#[tokio::test]
async fn live_events_name_what_begins_and_ends_and_stop_with_the_server() {
    let admin = Admin::start().await;
    let request = request(Method::GET, "/api/v1/events").body(Body::empty()).unwrap();
    let response = admin.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut text = String::new();
    let sink = admin.feed.tee(Arc::new(NoRecords));
    let record = fetched();
    sink.started(Begun { id: record.id, cid: record.cid, path: record.path.clone() });
    sink.record(record.clone());
    while !(text.contains("event: finished") && text.contains("event: summary")) {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(text.contains("retry: 2000") && text.contains("event: started"), "{text}");
    let line = text.split("event: finished\n").nth(1).unwrap();
    let data: Value = serde_json::from_str(line.split("data: ").nth(1).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!((&data["id"], &data["bytes"]), (&Value::from(record.id.0), &Value::from(record.bytes)));

    let places: Vec<_> = (1..MAX_WATCHERS).map(|_| admin.feed.watch().unwrap()).collect();
    admin.get("/api/v1/events").await.problem(StatusCode::SERVICE_UNAVAILABLE);
    drop(places);
    admin.feed.close();
    let end = tokio::time::timeout(Duration::from_secs(5), async { while body.frame().await.is_some() {} }).await;
    assert!(end.is_ok(), "the stream outlives the server");
}
