//! What GATEWAY.md §3 demands and no other test holds, and the holes of its §2.7. Each test is named by section and line
//! (line 1 is the first of the section's list); docs/conformance.md has the whole table.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tidegate::blockstore::Blockstore;
use tidegate::gateway::Config;
use tidegate::gateway::host::Hosts;
use tidegate::ipld::builder::Built;
use tidegate::ipld::dag_pb::{PbLink, PbNode};
use tidegate::ipld::unixfs::{Data, DataType, Mtime};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::names::{NsMap, Resolver};

use super::world::{World, noise};

fn pb(data: &Data, links: Vec<PbLink>) -> Block {
    let node = PbNode { links, data: Some(data.encode()) };
    Block::encode(codec::DAG_PB, HashCode::Sha2_256, node.encode()).unwrap()
}

fn raw(data: Bytes) -> Block {
    Block::encode(codec::RAW, HashCode::Sha2_256, data).unwrap()
}

fn link(cid: Cid, name: &str) -> PbLink {
    PbLink { cid, name: Some(name.to_owned()), tsize: Some(1) }
}

/// A file of these parts, of the sizes that it claims.
fn file_of(parts: &[(&Block, u64)]) -> Block {
    let mut data = Data::new(DataType::File);
    data.blocksizes = parts.iter().map(|(_, size)| *size).collect();
    data.filesize = Some(data.blocksizes.iter().sum());
    pb(&data, parts.iter().map(|(block, _)| link(*block.cid(), "")).collect())
}

async fn put(world: &World, block: Block) -> Cid {
    let cid = *block.cid();
    world.put(vec![block]).await;
    cid
}

#[tokio::test]
async fn m3_1_7_a_range_that_ends_outside_gives_the_blocks_inside() {
    let world = World::new();
    let (file, blocks) = world.file(&noise(3 * 262_144)).await;
    let size = |query: &str| {
        let path = format!("/ipfs/{}?format=car{query}", file.cid);
        let world = &world;
        async move { world.get(&path).await.body }
    };
    let last = size("&entity-bytes=786431:786431").await;
    for query in ["&entity-bytes=786431:99999999", "&entity-bytes=600000:9223372036854775807", "&entity-bytes=-1:-1"] {
        assert!(size(query).await == last, "{query}");
    }
    let none = size("&dag-scope=block").await;
    for query in ["&entity-bytes=786432:786433", "&entity-bytes=10:5", "&entity-bytes=-5:-9"] {
        let path = format!("/ipfs/{}?format=car{query}", file.cid);
        let answer = world.get(&path).await;
        assert!(answer.body == none || answer.status == StatusCode::BAD_REQUEST, "{query}: {}", answer.status);
    }
    assert!(last.len() > none.len() && blocks.len() == 4);
}

#[tokio::test]
async fn m3_1_13_the_version_in_the_car_is_the_one_in_its_type() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    for query in ["", "&dag-scope=block", "&car-version=1"] {
        let answer = world.get(&format!("/ipfs/{}?format=car{query}", file.cid)).await;
        assert!(answer.header("content-type").contains("; version=1;"), "{}", answer.header("content-type"));
        // The header is DAG-CBOR, its length before it: {"roots": [...], "version": 1}.
        let header = &answer.body[1..=usize::from(answer.body[0])];
        assert!(header.ends_with(b"\x67version\x01"), "{header:?}");
    }
}

#[tokio::test]
async fn m3_1_15_an_order_a_version_or_duplicates_that_are_not_made_are_refused() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let path = format!("/ipfs/{}", file.cid);
    for query in ["car-order=bfs", "car-dups=maybe", "car-version=2", "dag-scope=half", "entity-bytes=x:y"] {
        let answer = world.get(&format!("{path}?format=car&{query}")).await;
        assert!(matches!(answer.status.as_u16(), 400 | 406), "{query}: {}", answer.status);
        assert_eq!(answer.header("cache-control"), "no-store", "{query}");
    }
    for accept in ["application/vnd.ipld.car;version=2", "application/vnd.ipld.car;order=bfs"] {
        let answer = world.ask("GET", &path, &[("accept", accept)]).await;
        assert!(matches!(answer.status.as_u16(), 400 | 406), "{accept}: {}", answer.status);
    }
    // What may be in any order may be in ours.
    let any = world.ask("GET", &path, &[("accept", "application/vnd.ipld.car;order=unk")]).await;
    assert_eq!(any.status, StatusCode::OK);
}

// §3.2-8 and §2.7-6: Last-Modified is the node's own time, and conditions on it hold.
#[tokio::test]
async fn m3_2_8_a_file_with_a_time_says_it_and_one_without_says_none() {
    let world = World::new();
    let mut data = Data::new(DataType::File);
    data.data = Some(Bytes::from_static(b"dated"));
    data.filesize = Some(5);
    data.mtime = Some(Mtime { secs: 784_111_777, nanos: 0 });
    let dated = put(&world, pb(&data, Vec::new())).await;
    let path = format!("/ipfs/{dated}?filename=a.txt");
    let answer = world.get(&path).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "dated"));
    assert_eq!(answer.header("last-modified"), "Sun, 06 Nov 1994 08:49:37 GMT");
    for (since, status) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 304),
        ("Mon, 07 Nov 1994 08:49:37 GMT", 304),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("no date", 200),
    ] {
        let asked = world.ask("GET", &path, &[("if-modified-since", since)]).await;
        assert_eq!(asked.status.as_u16(), status, "{since}");
    }
    // A tag decides alone.
    let both = [("if-modified-since", "Mon, 07 Nov 1994 08:49:37 GMT"), ("if-none-match", "\"other\"")];
    assert_eq!(world.ask("GET", &path, &both).await.status, StatusCode::OK);
    let (plain, _) = world.file(b"undated").await;
    let answer = world.ask("GET", &format!("/ipfs/{}", plain.cid), &[("if-modified-since", both[0].1)]).await;
    assert_eq!((answer.status, answer.header("last-modified")), (StatusCode::OK, ""));
}

// §3.2-3 and §2.7-6: what a 304 carries is what the 200 would have carried (RFC 9110 §15.4.5).
#[tokio::test]
async fn m3_2_3_a_304_has_the_headers_of_its_200() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let dir = world.directory(&[("a.txt", file)]).await;
    for (path, accept) in [
        (format!("/ipfs/{}/a.txt", dir.cid), "*/*"),
        (format!("/ipfs/{}/", dir.cid), "text/html"),
        (format!("/ipfs/{}/a.txt?format=raw", dir.cid), "*/*"),
        (format!("/ipfs/{}/a.txt", dir.cid), "application/vnd.ipld.car"),
        (format!("/ipfs/{}?format=tar", dir.cid), "*/*"),
    ] {
        let whole = world.ask("GET", &path, &[("accept", accept)]).await;
        assert_eq!(whole.status, StatusCode::OK, "{path}");
        for method in ["GET", "HEAD"] {
            let headers = [("accept", accept), ("if-none-match", whole.header("etag"))];
            let fresh = world.ask(method, &path, &headers).await;
            assert_eq!((fresh.status, fresh.body.len()), (StatusCode::NOT_MODIFIED, 0), "{method} {path} {accept}");
            for name in ["etag", "cache-control", "vary", "content-location", "expires"] {
                assert_eq!(fresh.header(name), whole.header(name), "{method} {path} {accept}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn m3_2_13_an_index_page_is_served_without_a_listing_being_made() {
    let world = World::new();
    let (page, _) = world.file(b"<!doctype html><p>hi").await;
    let (file, _) = world.file(b"x").await;
    let names: Vec<String> = (0..8000).map(|n| format!("a rather long name of a file, number {n}.txt")).collect();
    let mut entries: Vec<(&str, Built)> = names.iter().map(|name| (name.as_str(), file)).collect();
    entries.push(("index.html", page));
    let dir = world.directory(&entries).await;
    let before = world.store.reads.load(std::sync::atomic::Ordering::Relaxed);
    let answer = world.get(&format!("/ipfs/{}/", dir.cid)).await;
    assert_eq!(answer.text(), "<!doctype html><p>hi");
    let reads = world.store.reads.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(reads < 10, "{reads} blocks were read of a directory of 8,000 for its index page");
}

#[tokio::test]
async fn m3_2_14_a_path_that_fails_says_which_part() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let inner = world.directory(&[("file", file)]).await;
    let dir = world.directory(&[("a", inner)]).await;
    for (rest, segment, cid) in [("a/b/c", "b", inner.cid), ("x", "x", dir.cid), ("a/file/deeper", "deeper", file.cid)]
    {
        let answer = world.get(&format!("/ipfs/{}/{rest}", dir.cid)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{rest}");
        let problem = answer.json();
        assert_eq!((&problem["segment"], &problem["cid"]), (&segment.into(), &cid.to_string().into()), "{rest}");
    }
    // A block of the path that is missing is no missing name.
    assert!(world.store.remove(&inner.cid).await.unwrap());
    let answer = world.get(&format!("/ipfs/{}/a/file", dir.cid)).await;
    assert_eq!((answer.status, &answer.json()["cid"]), (StatusCode::NOT_FOUND, &inner.cid.to_string().into()));
    assert_eq!(answer.json()["code"], "not_local");
}

// §2.7-6: files of many gigabytes, made of one block over and over.
#[tokio::test]
async fn m2_7_6_sizes_over_32_bits_are_right_to_the_byte() {
    const PART: u64 = 1 << 20;
    let world = World::new();
    let leaf = raw(vec![7; PART as usize].into());
    let last = raw(Bytes::from_static(b"the end"));
    let wide = |block: &Block, size: u64, n: usize| file_of(&vec![(block, size); n]);
    let (first, second) = (wide(&leaf, PART, 100), 100 * PART);
    let large = wide(&first, second, 90);
    let whole = file_of(&[(&large, 90 * second), (&last, 7)]);
    let (size, cid) = (90 * second + 7, *whole.cid());
    assert!(size > 9_000_000_000);
    world.put(vec![leaf, last, first, large, whole]).await;
    let path = format!("/ipfs/{cid}?filename=a.bin");
    let head = world.ask("HEAD", &path, &[]).await;
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, &*size.to_string()));
    for (range, start, body) in [
        ("bytes=-7".to_owned(), size - 7, &b"the end"[..]),
        (format!("bytes={}-", size - 8), size - 8, b"\x07the end"),
        (format!("bytes={}-{}", (1u64 << 32) - 1, 1u64 << 32), (1u64 << 32) - 1, b"\x07\x07"),
        (format!("bytes={}-{}", 1u64 << 33, (1u64 << 33) + 2), 1u64 << 33, b"\x07\x07\x07"),
    ] {
        let answer = world.ask("GET", &path, &[("range", &range)]).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::PARTIAL_CONTENT, body), "{range}");
        let end = start + body.len() as u64 - 1;
        assert_eq!(answer.header("content-range"), format!("bytes {start}-{end}/{size}"), "{range}");
    }
    let beyond = world.ask("GET", &path, &[("range", &format!("bytes={size}-"))]).await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, &*format!("bytes */{size}"))
    );
    // A range that no 64 bits hold is no range (RFC 9110 §14.1.1), and of a huge one the part that is there is meant.
    let huge = world.ask("GET", &path, &[("range", &format!("bytes={}-18446744073709551615", size - 7))]).await;
    assert_eq!((huge.status, &huge.body[..]), (StatusCode::PARTIAL_CONTENT, &b"the end"[..]));
    let car = world.get(&format!("/ipfs/{cid}?format=car&entity-bytes={}:*", size - 7)).await;
    assert!(car.status == StatusCode::OK && car.body.len() < 1000 && car.body.ends_with(b"the end"));
}

// §3.10-1, by what a client sees: a node that contradicts itself is an error, never wrong bytes.
#[tokio::test]
async fn m3_10_1_files_that_contradict_themselves_are_never_served() {
    let world = World::new();
    let part = raw(Bytes::from_static(b"part"));
    world.put(vec![part.clone()]).await;
    let of = |edit: fn(&mut Data), links: Vec<PbLink>| {
        let mut data = Data::new(DataType::File);
        data.blocksizes = vec![4];
        data.filesize = Some(4);
        edit(&mut data);
        pb(&data, links)
    };
    let one = || vec![link(*part.cid(), "")];
    let wrong = [
        ("two sizes for one link", of(|data| data.blocksizes = vec![2, 2], one())),
        ("no size for a link", of(|data| data.blocksizes = Vec::new(), one())),
        ("a part with a name", of(|_| (), vec![link(*part.cid(), "name")])),
        ("a size that is not the sum", of(|data| data.filesize = Some(5), one())),
        ("a part larger than claimed", of(|data| (data.blocksizes, data.filesize) = (vec![3], Some(3)), one())),
        ("a part smaller than claimed", of(|data| (data.blocksizes, data.filesize) = (vec![9], Some(9)), one())),
        (
            "sizes beyond 64 bits",
            of(
                |data| (data.blocksizes, data.filesize) = (vec![u64::MAX, 2], Some(1)),
                vec![link(*part.cid(), ""), link(*part.cid(), "")],
            ),
        ),
        ("a symlink with children", pb(&Data { data: Some("x".into()), ..Data::new(DataType::Symlink) }, one())),
        ("two entries of one name", pb(&Data::new(DataType::Directory), [one(), one()].concat())),
    ];
    for (what, block) in wrong {
        let cid = put(&world, block).await;
        for query in ["?filename=a.bin", "?format=tar", "?format=zip"] {
            let request = http::Request::get(format!("/ipfs/{cid}{query}")).body(axum::body::Body::empty()).unwrap();
            let response = tower::ServiceExt::oneshot(world.router.clone(), request).await.unwrap();
            let status = response.status();
            // Found out before the status is chosen, or the body ends in an error: never a whole answer.
            let whole = http_body_util::BodyExt::collect(response.into_body()).await.is_ok();
            assert!(!(status.is_success() && whole), "{what}{query} was served whole, {status}");
        }
        let raw = world.get(&format!("/ipfs/{cid}?format=raw")).await;
        assert_eq!(raw.status, StatusCode::OK, "{what}: the block itself is sound");
    }
}

// §3.10-1: decoders take links in any order, and a wrong Tsize hurts nobody.
#[tokio::test]
async fn m3_10_1_a_directory_in_any_order_with_wrong_sizes_is_read() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let entry = |name: &str, tsize| PbLink { cid: file.cid, name: Some(name.to_owned()), tsize };
    let links = vec![entry("z", Some(u64::MAX)), entry("a", None), entry("m", Some(0))];
    let mut data = Data::new(DataType::Directory);
    data.mode = Some(0o170_755);
    let cid = put(&world, pb(&data, links)).await;
    for name in ["a", "m", "z"] {
        assert_eq!(world.get(&format!("/ipfs/{cid}/{name}")).await.text(), "hello");
    }
    let listing = world.get(&format!("/ipfs/{cid}/")).await;
    let at = |name: &str| listing.text().find(&format!(">{name}</a>")).unwrap();
    assert!(at("a") < at("m") && at("m") < at("z"));
    assert_eq!(world.get(&format!("/ipfs/{cid}?format=tar")).await.status, StatusCode::OK);
}

// §3.10-1: `.` and `..` are resolved before anything is looked up, and never beyond the root.
#[tokio::test]
async fn m3_10_1_dots_lead_nowhere_above_the_root() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let inner = world.directory(&[("f", file)]).await;
    let dir = world.directory(&[("a", inner), ("f", file)]).await;
    let (own, _) = world.file(b"the root's own").await;
    let root = world.directory(&[("a", dir), ("f", own)]).await;
    for (rest, body) in [
        ("a/../f", "the root's own"),
        ("./f", "the root's own"),
        ("a/./f", "hello"),
        ("a/%2e%2e/f", "the root's own"),
        // As a URL is read (RFC 3986 §5.2.4): what would lead above the root stays at it.
        ("../f", "the root's own"),
        ("a/../../../f", "the root's own"),
        ("../../ipfs/bafkqabtimvwgy3yk", ""),
    ] {
        let answer = world.get(&format!("/ipfs/{}/{rest}", root.cid)).await;
        if body.is_empty() {
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{rest}");
        } else {
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, body), "{rest}");
        }
    }
    assert_eq!(world.get(&format!("/ipfs/{}/..%2ff", root.cid)).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn m3_4_1_more_than_32_names_in_a_row_are_400_on_paths_and_on_hosts() {
    let chain = |n: usize| {
        let mut map: Vec<String> =
            (1..n).map(|i| format!("n{i}.example.org:/ipns/n{}.example.org/p{i}", i + 1)).collect();
        map.push(format!("n{n}.example.org:/ipfs/bafkqabtimvwgy3yk"));
        NsMap::parse(&map.join(",")).unwrap()
    };
    let config = || Config { subdomain_hosts: Hosts::parse(&["example.com"]).unwrap(), ..Config::default() };
    let world = World::new();
    let long = world.renamed(config(), Resolver::fixed(chain(33)));
    for (host, path) in
        [("127.0.0.1", "/ipns/n1.example.org"), ("n1.example.org", "/"), ("n1-example-org.ipns.example.com", "/")]
    {
        let answer = long.ask("GET", path, &[("host", host)]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{host}{path}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    // As many as are allowed: the segments of all of them are the path, in order.
    let short = world.renamed(config(), Resolver::fixed(chain(3)));
    let answer = short.ask("GET", "/ipns/n1.example.org/rest", &[]).await;
    assert_eq!((answer.status, &answer.json()["segment"]), (StatusCode::NOT_FOUND, &"p2".into()), "{}", answer.text());
}

// §3.2-17 and §4.1: whole seconds on every answer that may be asked again.
#[tokio::test]
async fn m3_2_17_what_may_be_tried_again_says_when_in_whole_seconds() {
    let config = Config { first_byte_timeout: Duration::from_millis(1), concurrent_requests: 1, ..Config::default() };
    let world = World::with(config);
    let (file, blocks) = world.file(&noise(600_000)).await;
    *world.store.stuck.lock().unwrap() = Some(blocks[0]);
    let path = format!("/ipfs/{}", file.cid);
    let (slow, busy) = tokio::join!(world.get(&path), world.get(&path));
    let mut statuses = [slow.status.as_u16(), busy.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [429, 504]);
    for answer in [slow, busy] {
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{}", answer.status);
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

// §3.2-8: an answer that failed is never kept, whatever its kind.
#[tokio::test]
async fn m3_2_8_no_error_is_immutable_or_has_a_validator() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let dir = world.directory(&[("a", file)]).await;
    for path in [
        "/ipfs/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".to_owned(),
        format!("/ipfs/{}/b", dir.cid),
        format!("/ipfs/{}?format=dag-cbor", file.cid),
        format!("/ipfs/{}?format=nothing", file.cid),
        "/ipfs/nonsense".into(),
        "/ipns/nonsense".into(),
    ] {
        for accept in ["*/*", "text/html"] {
            for method in ["GET", "HEAD"] {
                let answer = world.ask(method, &path, &[("accept", accept)]).await;
                assert!(answer.status.is_client_error() || answer.status.is_server_error(), "{path}");
                assert_eq!(
                    (answer.header("cache-control"), answer.header("etag")),
                    ("no-store", ""),
                    "{method} {path}"
                );
                assert!(!answer.header("content-type").is_empty(), "{method} {path}");
            }
        }
    }
}
