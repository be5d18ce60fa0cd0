//! The MUST list of GATEWAY.md §3.1 and §3.2, and the holes that the suite leaves (§2.7), on content of our own. Each test is
//! named by what it holds; the comment names section and line.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use http::StatusCode;
use tidegate::blockstore::Blockstore;
use tidegate::ipld::builder::{Built, Profile, symlink};
use tidegate::ipld::dag_pb::{PbLink, PbNode};
use tidegate::ipld::{Block, Cid, HashCode, Multihash, car, codec};

use super::world::{Answer, World, noise};

const IMMUTABLE: &str = "public, max-age=29030400, immutable";

fn block(codec: u64, data: &[u8]) -> Block {
    Block::encode(codec, HashCode::Sha2_256, Bytes::copy_from_slice(data)).unwrap()
}

/// `{"next": LINK, "n": 1}` in DAG-JSON.
fn json_link(cid: &Cid) -> Block {
    block(codec::DAG_JSON, format!("{{\"a\":{{\"next\":{{\"/\":\"{cid}\"}}}},\"n\":1}}").as_bytes())
}

/// The blocks of a CAR in order. Every block is verified by the reader.
fn car_blocks(answer: &Answer) -> (Vec<Cid>, Vec<Cid>) {
    let mut reader = car::CarReader::new(car::Limits::default());
    reader.push(answer.body.clone());
    let (mut roots, mut blocks) = (Vec::new(), Vec::new());
    while let Some(item) = reader.next().unwrap() {
        match item {
            car::CarItem::Header { roots: found, .. } => roots = found,
            car::CarItem::Block(block) => blocks.push(*block.cid()),
        }
    }
    reader.finish().unwrap();
    (roots, blocks)
}

fn tar(body: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(body).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        if let Some(target) = entry.link_name_bytes() {
            data = [b"-> ", &*target].concat();
        }
        files.insert(name, data);
    }
    files
}

/// A directory whose names our own writer would refuse.
async fn hostile(world: &World, name: &str, built: Built) -> Cid {
    let link = PbLink { cid: built.cid, name: Some(name.to_owned()), tsize: Some(built.tsize) };
    let node = PbNode { links: vec![link], data: Some(Bytes::from_static(&[8, 1])) };
    let block = block(codec::DAG_PB, &node.encode());
    let cid = *block.cid();
    world.put(vec![block]).await;
    cid
}

// §3.1-1, §3.1-17: GET and HEAD of raw; the probe bafkqaaa.
#[tokio::test]
async fn the_probe_is_an_empty_block_and_a_car_without_blocks() {
    let world = World::new();
    for method in ["GET", "HEAD"] {
        let raw = world.ask(method, "/ipfs/bafkqaaa?format=raw", &[]).await;
        assert_eq!((raw.status, raw.header("content-length"), raw.body.len()), (StatusCode::OK, "0", 0), "{method}");
        assert_eq!(world.ask(method, "/ipfs/bafkqaaa?format=car", &[]).await.status, StatusCode::OK, "{method}");
    }
    let (roots, blocks) = car_blocks(&world.get("/ipfs/bafkqaaa?format=car").await);
    assert_eq!((roots, blocks), (vec!["bafkqaaa".parse().unwrap()], Vec::new()));
}

// §3.1-4, §3.1-10: the address wins over the header; parameters are echoed; Content-Location says what was meant.
#[tokio::test]
async fn every_form_names_its_own_address_and_type() {
    let world = World::new();
    let (file, _) = world.file(b"{\"a\": 1}").await;
    let path = format!("/ipfs/{}", file.cid);
    for (media, format) in [
        ("application/vnd.ipld.raw", "raw"),
        ("application/vnd.ipld.car", "car"),
        ("application/x-tar", "tar"),
        ("application/zip", "zip"),
    ] {
        let by_accept = world.ask("GET", &path, &[("accept", media)]).await;
        let by_query = world.ask("GET", &format!("{path}?format={format}"), &[("accept", "text/html")]).await;
        assert!(by_accept.body == by_query.body && by_query.header("content-type").starts_with(media), "{format}");
        assert_eq!(by_accept.header("content-location"), format!("{path}?format={format}"));
        assert_eq!((by_accept.header("vary"), by_query.header("vary")), ("Accept", ""), "{format}");
        assert_eq!(by_query.header("content-location"), "");
        assert!(by_query.header("content-disposition").starts_with("attachment; filename="), "{format}");
        assert_eq!(by_query.header("cache-control"), IMMUTABLE);
        assert_eq!(by_accept.header("etag"), by_query.header("etag"));
        // §3.2-3
        let fresh =
            world.ask("GET", &format!("{path}?format={format}"), &[("if-none-match", by_query.header("etag"))]).await;
        assert_eq!((fresh.status, fresh.body.len()), (StatusCode::NOT_MODIFIED, 0), "{format}");
        assert_eq!(fresh.header("cache-control"), IMMUTABLE);
        // §2.7-6: HEAD of each
        let head = world.ask("HEAD", &format!("{path}?format={format}"), &[]).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0), "{format}");
        assert_eq!(
            (head.header("etag"), head.header("content-type")),
            (by_query.header("etag"), by_query.header("content-type"))
        );
    }
}

// §2.7-6: q-weights.
#[tokio::test]
async fn accept_is_weighed() {
    let world = World::new();
    let (file, _) = world.file(b"hello").await;
    let path = format!("/ipfs/{}", file.cid);
    for (accept, kind) in [
        ("application/vnd.ipld.car;q=0.5, application/vnd.ipld.raw;q=0.9", "application/vnd.ipld.raw"),
        ("application/vnd.ipld.car;q=0.9, application/vnd.ipld.raw;q=0.5", "application/vnd.ipld.car"),
        ("application/vnd.ipld.raw;q=0, */*", "text/plain"),
        ("text/html, application/vnd.ipld.raw;q=0.8", "text/plain"),
        ("application/vnd.ipld.nothing, application/x-tar;q=0.1", "application/x-tar"),
    ] {
        let answer = world.ask("GET", &path, &[("accept", accept)]).await;
        assert!(answer.header("content-type").starts_with(kind), "{accept}: {}", answer.header("content-type"));
    }
    let none = world.ask("GET", &path, &[("accept", "application/vnd.ipld.nothing")]).await;
    assert_eq!(none.status, StatusCode::NOT_ACCEPTABLE);
}

// §3.1-5 to §3.1-7, §3.1-14: scopes, ranges, duplicates, exact blocks in order.
#[tokio::test]
async fn a_car_holds_exactly_what_its_parameters_say() {
    let world = World::new();
    let data = noise(3 * 262_144);
    let (file, mut blocks) = world.file(&data).await;
    let root = blocks.pop().unwrap();
    assert_eq!((root, blocks.len()), (file.cid, 3));
    let dir = world.directory(&[("a", file), ("b", file)]).await;
    let path = format!("/ipfs/{}/a?format=car", dir.cid);
    let all = [vec![dir.cid, root], blocks.clone()].concat();
    let some = |indexes: &[usize]| [vec![dir.cid, root], indexes.iter().map(|i| blocks[*i]).collect()].concat();
    for (query, expected) in [
        ("", all.clone()),
        ("&dag-scope=block", some(&[])),
        ("&dag-scope=entity", all.clone()),
        ("&entity-bytes=0:*", all.clone()),
        ("&entity-bytes=0:0", some(&[0])),
        ("&entity-bytes=262143:262144", some(&[0, 1])),
        ("&entity-bytes=262144:524287", some(&[1])),
        ("&entity-bytes=-1:*", some(&[2])),
        ("&entity-bytes=-9999999:-262145", some(&[0, 1])),
        // Outside: as dag-scope=block.
        ("&entity-bytes=786432:*", some(&[])),
        ("&dag-scope=block&entity-bytes=0:9", some(&[])),
    ] {
        let answer = world.get(&format!("{path}{query}")).await;
        let (roots, found) = car_blocks(&answer);
        assert_eq!((roots, found), (vec![root], expected), "{query}");
    }
    let of = |query: &str| format!("/ipfs/{}?format=car{query}", dir.cid);
    let once = car_blocks(&world.get(&of("")).await).1;
    let twice = car_blocks(&world.get(&of("&car-dups=y")).await).1;
    assert_eq!(once, all);
    assert_eq!(twice, [vec![dir.cid, root], blocks.clone(), vec![root], blocks.clone()].concat());
    assert_eq!(car_blocks(&world.get(&of("&dag-scope=entity")).await).1, [dir.cid], "a directory without its children");
    assert_eq!(car_blocks(&world.get(&of("&entity-bytes=0:1")).await).1, [dir.cid], "no bytes in a directory");
    // Each set of parameters has its own validator (§3.1-12).
    let queries =
        ["", "&dag-scope=block", "&dag-scope=entity", "&entity-bytes=0:0", "&entity-bytes=0:1", "&car-dups=y"];
    let mut etags = Vec::new();
    for query in queries {
        etags.push(world.get(&format!("{path}{query}")).await.header("etag").to_owned());
    }
    etags.sort();
    etags.dedup();
    assert_eq!(etags.len(), queries.len());
}

// §3.1-14: identity CIDs are never blocks of a CAR.
#[tokio::test]
async fn identity_blocks_are_not_written_into_a_car() {
    let world = World::new();
    let cid = Cid::new_v1(codec::RAW, Multihash::wrap(0, b"inline").unwrap());
    let built = Built { cid, file_size: 6, tsize: 6 };
    let dir = world.directory(&[("inline.txt", built)]).await;
    assert_eq!(car_blocks(&world.get(&format!("/ipfs/{}?format=car&car-dups=y", dir.cid)).await).1, [dir.cid]);
    assert_eq!(world.get(&format!("/ipfs/{}/inline.txt", dir.cid)).await.text(), "inline");
}

// §3.1-9: a child that is missing ends the stream, and the client can tell.
#[tokio::test]
async fn a_car_that_lacks_a_child_does_not_end_cleanly() {
    let world = World::new();
    let (file, blocks) = world.file(&noise(600_000)).await;
    world.store.remove(&blocks[1]).await.unwrap();
    let request = http::Request::get(format!("/ipfs/{}?format=car", file.cid)).body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(world.router.clone(), request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(http_body_util::BodyExt::collect(response.into_body()).await.is_err());
    let part = world.get(&format!("/ipfs/{}?format=car&entity-bytes=0:9", file.cid)).await;
    assert_eq!(car_blocks(&part).1, [file.cid, blocks[0]]);
}

// §3.2-7, §3.2-14, IPIP-524: structured data as it is, paths through its links.
#[tokio::test]
async fn structured_data_is_served_as_it_is_and_led_through() {
    let world = World::new();
    let (file, _) = world.file(b"the end").await;
    let (dir, cbor) = (world.directory(&[("f.txt", file)]).await, block(codec::DAG_CBOR, b"\xa1\x61k\x01"));
    let (first, other) = (json_link(&dir.cid), json_link(cbor.cid()));
    let plain = block(codec::JSON, br#"{"x": [1]}"#);
    let (first_cid, other_cid, plain_cid, cbor_cid) = (*first.cid(), *other.cid(), *plain.cid(), *cbor.cid());
    world.put(vec![first.clone(), other, plain, cbor]).await;
    let through = world.get(&format!("/ipfs/{first_cid}/a/next/f.txt")).await;
    assert_eq!(through.text(), "the end");
    assert_eq!(through.header("x-ipfs-roots"), format!("{first_cid},{},{}", dir.cid, file.cid));
    let car = world.get(&format!("/ipfs/{first_cid}/a/next/f.txt?format=car")).await;
    assert_eq!(car_blocks(&car).1, [first_cid, dir.cid, file.cid]);
    for (path, status, kind) in [
        (format!("{first_cid}"), 200, "application/vnd.ipld.dag-json"),
        (format!("{first_cid}?format=dag-json"), 200, "application/vnd.ipld.dag-json"),
        (format!("{first_cid}?format=json"), 200, "application/json"),
        (format!("{first_cid}?format=dag-cbor"), 406, ""),
        (format!("{first_cid}?format=cbor"), 406, ""),
        (format!("{other_cid}/a/next"), 200, "application/vnd.ipld.dag-cbor"),
        (format!("{other_cid}/a/next?format=cbor"), 200, "application/cbor"),
        (format!("{cbor_cid}?format=json"), 406, ""),
        (format!("{plain_cid}"), 200, "application/json"),
        (format!("{plain_cid}?format=dag-json"), 406, ""),
        (format!("{}?format=dag-cbor", file.cid), 406, ""),
        (format!("{first_cid}/a"), 501, ""),
        (format!("{first_cid}/n"), 501, ""),
        (format!("{first_cid}/a/nothing"), 404, ""),
        (format!("{first_cid}/n/deeper"), 404, ""),
    ] {
        let answer = world.get(&format!("/ipfs/{path}")).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        if status == 200 {
            assert_eq!((answer.header("content-type"), answer.header("cache-control")), (kind, IMMUTABLE), "{path}");
        } else {
            assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        }
    }
    let own = world.get(&format!("/ipfs/{first_cid}")).await;
    assert!(own.body == first.data() && own.header("etag") == format!("\"{first_cid}.dag-json\""));
    assert_eq!(own.header("content-disposition"), format!("inline; filename=\"{first_cid}.json\""));
    assert_eq!(
        world.get(&format!("/ipfs/{first_cid}?format=json")).await.header("etag"),
        format!("\"{first_cid}.json\"")
    );
    let saved = world.get(&format!("/ipfs/{first_cid}?download=true")).await;
    assert!(saved.header("content-disposition").starts_with("attachment; "));
    // §2.7-3: ranges of structured data.
    let part = world.ask("GET", &format!("/ipfs/{first_cid}"), &[("range", "bytes=1-3")]).await;
    assert!(part.status == StatusCode::PARTIAL_CONTENT && part.body == first.data()[1..4]);
}

#[tokio::test]
async fn a_page_shows_structured_data_without_running_it() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let text =
        format!(r#"{{"<script>alert(1)</script>":"{{{{7*7}}}}","link":{{"/":"{}"}},"rtl":"a\u202eb"}}"#, file.cid);
    let block = block(codec::DAG_JSON, text.as_bytes());
    let cid = *block.cid();
    world.put(vec![block]).await;
    let path = format!("/ipfs/{cid}");
    let page = world.ask("GET", &path, &[("accept", "text/html,*/*;q=0.8")]).await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    assert!(!page.text().contains("<script>") && page.text().contains("{{7*7}}") && !page.text().contains('\u{202e}'));
    assert!(page.text().contains(&format!("href=\"/ipfs/{}\"", file.cid)));
    assert!(page.header("etag").starts_with("\"DagIndex-") && page.header("content-disposition").is_empty());
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert!(!page.header("cache-control").contains("immutable"));
    let headers = [("accept", "text/html"), ("if-none-match", page.header("etag"))];
    assert_eq!(world.ask("GET", &path, &headers).await.status, StatusCode::NOT_MODIFIED);
    // The page's validator says nothing of the data.
    assert_eq!(world.ask("GET", &path, &headers[1..]).await.status, StatusCode::OK);
}

// IPIP-288: TAR; and ZIP, which is ours.
#[tokio::test]
async fn archives_hold_the_tree_under_its_cid() {
    let world = World::new();
    let large = noise(1_500_000);
    let (file, _) = world.file(b"abc").await;
    let (big, _) = world.file(&large).await;
    let (link_block, link) = symlink(&Profile::KUBO_V1, "ą/źł.txt").unwrap();
    world.put(vec![link_block]).await;
    let inner = world.directory(&[("źł.txt", file)]).await;
    let long = "x".repeat(200);
    let dir = world.directory(&[("big.bin", big), ("ą", inner), ("link", link), (&long, file)]).await;
    let answer = world.get(&format!("/ipfs/{}?format=tar", dir.cid)).await;
    assert_eq!(answer.header("etag"), format!("W/\"{}.x-tar\"", dir.cid));
    let files = tar(&answer.body);
    let at = |name: &str| files.get(&format!("{}{name}", dir.cid)).map(|data| &data[..]);
    assert_eq!(files.len(), 6);
    assert!(
        at("/big.bin") == Some(&large) && at("/ą/źł.txt") == Some(b"abc") && at(&format!("/{long}")) == Some(b"abc")
    );
    assert_eq!(at("/link"), Some("-> ą/źł.txt".as_bytes()));
    let one = world
        .get(&format!("/ipfs/{}/ą/źł.txt?format=tar", dir.cid).replace("źł", "%C5%BA%C5%82").replace('ą', "%C4%85"))
        .await;
    assert_eq!(tar(&one.body), BTreeMap::from([(file.cid.to_string(), b"abc".to_vec())]));

    // Python's reader is not ours: it checks names, sizes and checksums.
    let zip = world.get(&format!("/ipfs/{}?format=zip", dir.cid)).await;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.zip");
    std::fs::write(&place, &zip.body).unwrap();
    let script = "import sys,zipfile,hashlib\nz=zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\n\
        [print(i.filename, i.file_size, hashlib.sha256(z.read(i)).hexdigest()) for i in z.infolist()]";
    let said = std::process::Command::new("python3").args(["-X", "utf8", "-c", script]).arg(&place).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8(said.stdout).unwrap();
    let sum = hex::encode(HashCode::Sha2_256.digest(&large).unwrap().digest());
    for line in [
        format!("{}/ 0 ", dir.cid),
        format!("{}/big.bin 1500000 {sum}", dir.cid),
        format!("{}/ą/źł.txt 3 ", dir.cid),
        format!("{}/{long} 3 ", dir.cid),
    ] {
        assert!(said.contains(&line), "{line} in {said}");
    }
}

// §2.7-1: what leads out of an archive is refused, before any of it is sent where it is near the root.
#[tokio::test]
async fn archives_refuse_names_that_lead_elsewhere() {
    let world = World::new();
    let (file, _) = world.file(b"abc").await;
    let link = |target: &str| symlink(&Profile::KUBO_V1, target).unwrap();
    let mut roots = Vec::new();
    for name in
        ["../up", "..", ".", "", "/etc/passwd", "a/../../up", "a\\..\\b", "C:\\x", "a\r\nb", "a\0b", "\u{1b}[2J"]
    {
        roots.push((format!("name {name:?}"), hostile(&world, name, file).await));
    }
    for target in ["/etc/passwd", "../../x", "a/../../x", ""] {
        let (block, built) = link(target);
        world.put(vec![block]).await;
        roots.push((format!("symlink to {target:?}"), world.directory(&[("l", built)]).await.cid));
    }
    for (what, root) in &roots {
        for format in ["tar", "zip"] {
            let answer = world.get(&format!("/ipfs/{root}?format={format}")).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{what} as {format}");
            assert_eq!((answer.header("cache-control"), answer.header("etag")), ("no-store", ""), "{what}");
        }
    }
    // Through `..`, and still within.
    let inner = hostile(&world, "../file", file).await;
    let dir = world.directory(&[("d", Built { cid: inner, file_size: 0, tsize: 99 })]).await;
    let files = tar(&world.get(&format!("/ipfs/{}?format=tar", dir.cid)).await.body);
    assert!(files.contains_key(&format!("{}/file", dir.cid)), "{:?}", files.keys());
}

// §3.2-16, §2.7-6: several ranges, If-Range, 416.
#[tokio::test]
async fn several_ranges_come_as_parts() {
    let world = World::new();
    let data = noise(600_000);
    let (file, _) = world.file(&data).await;
    for format in ["", "?format=raw"] {
        let path = format!("/ipfs/{}{format}", file.cid);
        let whole = world.get(&path).await.body;
        let ranges = "bytes=2-4, 9000000-, -3, 0-0";
        let answer = world.ask("GET", &path, &[("range", ranges)]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        let boundary =
            answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
        assert_eq!(answer.header("content-length"), answer.body.len().to_string());
        assert_eq!(answer.header("content-range"), "");
        let size = whole.len();
        let mut expected = Vec::new();
        for (index, (start, end)) in [(2, 5), (size - 3, size), (0, 1)].into_iter().enumerate() {
            let kind = if format.is_empty() { "application/octet-stream" } else { "application/vnd.ipld.raw" };
            let before = if index == 0 { "" } else { "\r\n" };
            expected.extend_from_slice(
                format!(
                    "{before}--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: bytes {start}-{}/{size}\r\n\r\n",
                    end - 1
                )
                .as_bytes(),
            );
            expected.extend_from_slice(&whole[start..end]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(answer.body == expected, "{path}");
        let etag = answer.header("etag").to_owned();
        let same = world.ask("GET", &path, &[("range", ranges), ("if-range", &etag)]).await;
        assert_eq!(same.status, StatusCode::PARTIAL_CONTENT);
        let other = world.ask("GET", &path, &[("range", ranges), ("if-range", "\"other\"")]).await;
        assert!(other.status == StatusCode::OK && other.body == whole);
        let again = world.ask("GET", &path, &[("range", "bytes=0-,0-")]).await;
        assert!(again.status == StatusCode::OK && again.body == whole, "more than all of it is all of it");
        let beyond = world.ask("GET", &path, &[("range", "bytes=9000000-,9000001-")]).await;
        assert_eq!(
            (beyond.status, beyond.header("content-range")),
            (StatusCode::RANGE_NOT_SATISFIABLE, &*format!("bytes */{size}"))
        );
    }
}

#[tokio::test]
async fn several_ranges_around_a_hole_need_only_their_own_blocks() {
    let world = World::new();
    let data = noise(3 * 262_144);
    let (file, blocks) = world.file(&data).await;
    world.store.remove(&blocks[1]).await.unwrap();
    let path = format!("/ipfs/{}?filename=a.bin", file.cid);
    let answer = world.ask("GET", &path, &[("range", "bytes=10-19,-10")]).await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    for part in [&data[10..20], &data[data.len() - 10..]] {
        assert!(answer.body.windows(10).any(|window| window == part));
    }
}

// §3.2-4
#[tokio::test]
async fn a_service_worker_is_not_registered_at_a_content_root() {
    let world = World::new();
    let (file, _) = world.file(b"self.onfetch = null").await;
    let dir = world.directory(&[("sw.js", file)]).await;
    let script = [("service-worker", "script")];
    for root in [format!("/ipfs/{}", file.cid), "/ipns/example.org".to_owned()] {
        let refused = world.ask("GET", &root, &script).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{root}");
        assert_eq!(refused.json()["code"], "service_worker");
    }
    for allowed in [format!("/ipfs/{}/", file.cid), format!("/ipfs/{}/sw.js", dir.cid)] {
        assert_ne!(world.ask("GET", &allowed, &script).await.status, StatusCode::BAD_REQUEST, "{allowed}");
    }
}

// §3.2-2, §2.7-6: only-if-cached asks nobody; 412 for each form, on GET and HEAD.
#[tokio::test]
async fn only_if_cached_is_412_in_every_form() {
    let world = World::new();
    let missing = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    let missing_json = Cid::new_v1(codec::DAG_JSON, *missing.parse::<Cid>().unwrap().hash());
    for method in ["GET", "HEAD"] {
        for path in ["", "?format=raw", "?format=car", "?format=tar", "?format=zip", "/a/b"]
            .map(|end| format!("{missing}{end}"))
        {
            let answer = world.ask(method, &format!("/ipfs/{path}"), &[("cache-control", "only-if-cached")]).await;
            assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED, "{method} {path}");
        }
        let path = format!("/ipfs/{missing_json}");
        let answer = world.ask(method, &path, &[("cache-control", "only-if-cached")]).await;
        assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED, "{method} {path}");
    }
}

// §3.2-5, §3.2-10
#[tokio::test]
async fn downloads_are_named_in_ascii_and_in_full() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    for (query, expected) in [
        ("download=true".to_owned(), format!("attachment; filename=\"{}\"", file.cid)),
        ("filename=a%22b.txt".to_owned(), "inline; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt".to_owned()),
        (
            "format=zip&filename=%C5%BA.zip".to_owned(),
            "attachment; filename=\"_.zip\"; filename*=UTF-8''%C5%BA.zip".to_owned(),
        ),
        ("format=tar".to_owned(), format!("attachment; filename=\"{}.tar\"", file.cid)),
    ] {
        let answer = world.get(&format!("/ipfs/{}?{query}", file.cid)).await;
        assert_eq!(answer.header("content-disposition"), expected, "{query}");
    }
}

// §2.7-2: every name in the CORS lists, not only the last.
#[tokio::test]
async fn scripts_of_other_origins_may_see_every_header_that_is_meant() {
    let world = World::new();
    for method in ["GET", "HEAD", "OPTIONS"] {
        let answer = world.ask(method, "/ipfs/bafkqabtimvwgy3yk", &[("origin", "https://other.example")]).await;
        assert!(answer.status.is_success(), "{method}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        for (header, names) in [
            ("access-control-allow-methods", &["GET", "HEAD", "OPTIONS"][..]),
            ("access-control-allow-headers", &["Content-Type", "Range", "User-Agent", "X-Requested-With"]),
            (
                "access-control-expose-headers",
                &[
                    "Content-Range",
                    "Content-Length",
                    "X-Ipfs-Path",
                    "X-Ipfs-Roots",
                    "X-Chunked-Output",
                    "X-Stream-Output",
                ],
            ),
        ] {
            let listed: Vec<&str> = answer.header(header).split(',').map(str::trim).collect();
            assert!(names.iter().all(|name| listed.contains(name)), "{method} {header}: {listed:?}");
        }
    }
}
