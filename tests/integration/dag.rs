//! The DAG layer over a local store: what goes in comes out, and hostile graphs cost bounded work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proptest::prelude::*;
use tidegate::blockstore::memory::MemoryStore;
use tidegate::blockstore::{Blockstore, StoreError, StoreStats};
use tidegate::dag::export::{ExportError, check_name, export};
use tidegate::dag::import::{AddOptions, ImportError, add_path, add_stream, import_car, quiet};
use tidegate::dag::{
    ByteWindow, CarParams, CarStream, DagScope, Entries, FileReader, Follow, NodeKind, ReadError, ResolveError,
    Resolved, Walk, WalkError, WalkOptions, directory, resolve,
};
use tidegate::ipld::builder::{DirBuilder, Profile};
use tidegate::ipld::car::{CarItem, CarReader, Limits};
use tidegate::ipld::dag_pb::{PbLink, PbNode};
use tidegate::ipld::path::ContentPath;
use tidegate::ipld::unixfs::{Data, DataType};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::retriever::{Retriever, Session, SessionOptions};

/// A store that counts the bytes read from it.
#[derive(Default)]
struct CountingStore {
    inner: MemoryStore,
    read: AtomicU64,
    gets: AtomicU64,
}

#[async_trait]
impl Blockstore for CountingStore {
    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let found = self.inner.get(cid).await?;
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.read.fetch_add(found.as_ref().map_or(0, |block| block.len() as u64), Ordering::Relaxed);
        Ok(found)
    }
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        self.inner.put(blocks).await
    }
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.inner.has(cid).await
    }
    async fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.inner.remove(cid).await
    }
    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

#[derive(Clone, Default)]
struct Local {
    store: Arc<CountingStore>,
}

impl Local {
    fn session(&self) -> Session {
        let any = *raw(b"").cid();
        Retriever::local(self.store.clone()).session(any, SessionOptions::default())
    }

    async fn put(&self, block: &Block) -> Cid {
        self.store.put(vec![block.clone()]).await.unwrap();
        *block.cid()
    }

    async fn add(&self, data: &[u8]) -> Cid {
        let profile = Profile::default();
        add_stream(&*self.store, &(), data, &profile, &mut quiet).await.unwrap().cid
    }

    async fn block(&self, cid: &Cid) -> Block {
        self.store.get(cid).await.unwrap().unwrap()
    }

    async fn read(&self, cid: &Cid, range: std::ops::Range<u64>) -> Result<Vec<u8>, ReadError> {
        let reader = FileReader::new(self.session(), &self.block(cid).await, range)?;
        collect(reader).await
    }

    async fn car(&self, path: &str, params: &CarParams) -> Vec<Cid> {
        let session = self.session();
        let resolved = resolve(&session, &ContentPath::parse_text(path).unwrap()).await.unwrap();
        let chunks: Vec<Bytes> = CarStream::new(session, &resolved, params).try_collect().await.unwrap();
        let mut reader = CarReader::new(Limits::default());
        chunks.into_iter().for_each(|chunk| reader.push(chunk));
        assert_eq!(reader.next().unwrap(), Some(CarItem::Header { roots: vec![resolved.cid] }));
        let mut cids = Vec::new();
        while let Some(CarItem::Block(block)) = reader.next().unwrap() {
            cids.push(*block.cid());
        }
        reader.finish().unwrap();
        cids
    }
}

async fn collect(reader: FileReader) -> Result<Vec<u8>, ReadError> {
    let chunks: Vec<Bytes> = reader.try_collect().await?;
    assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
    Ok(chunks.concat())
}

fn raw(data: &[u8]) -> Block {
    Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::copy_from_slice(data)).unwrap()
}

fn pb(links: Vec<PbLink>, data: Data) -> Block {
    let node = PbNode { links, data: Some(data.encode()) };
    Block::encode(codec::DAG_PB, HashCode::Sha2_256, node.encode()).unwrap()
}

/// A node of a file with the sizes that it claims for its children.
fn file_node(data: &[u8], children: &[(Cid, u64)]) -> Block {
    let mut message = Data::new(DataType::File);
    message.data = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
    message.blocksizes = children.iter().map(|(_, size)| *size).collect();
    message.filesize = Some(data.len() as u64 + message.blocksizes.iter().sum::<u64>());
    let links = children.iter().map(|(cid, _)| PbLink { cid: *cid, name: Some(String::new()), tsize: None }).collect();
    pb(links, message)
}

fn dir_node(entries: &[(&str, Cid)]) -> Block {
    let link = |(name, cid): &(&str, Cid)| PbLink { cid: *cid, name: Some((*name).to_owned()), tsize: None };
    pb(entries.iter().map(link).collect(), Data::new(DataType::Directory))
}

fn content(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[tokio::test]
async fn files_of_every_size_class_read_as_they_were_added() {
    let local = Local::default();
    for len in [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 5_000_000] {
        let data = content(len);
        let cid = local.add(&data).await;
        assert_eq!(local.read(&cid, 0..u64::MAX).await.unwrap(), data, "{len} bytes");
        let n = len as u64;
        for range in [0..0, 0..1, n / 2..n / 2 + 300_000, n.saturating_sub(3)..n, n..n + 5, 1..n] {
            let (from, to) = (range.start.min(n), range.end.min(n));
            let expected = &data[from as usize..to.max(from) as usize];
            assert_eq!(local.read(&cid, range.clone()).await.unwrap(), expected, "{range:?} of {len}");
        }
    }
}

#[tokio::test]
async fn a_tree_of_three_levels_reads_whole_and_in_part() {
    let local = Local::default();
    let data = content(180 * (256 << 10) + 17);
    let cid = local.add(&data).await;
    assert_eq!(local.read(&cid, 0..u64::MAX).await.unwrap(), data);
    let edge = 174 * (256 << 10);
    assert_eq!(local.read(&cid, edge - 5..edge + 5).await.unwrap(), &data[edge as usize - 5..edge as usize + 5]);
}

#[tokio::test]
async fn a_range_touches_only_the_blocks_that_it_needs() {
    let local = Local::default();
    let data = content(4 << 20);
    let cid = local.add(&data).await;
    let root = local.block(&cid).await;
    local.store.gets.store(0, Ordering::Relaxed);
    let reader = FileReader::new(local.session(), &root, 300_000..300_010).unwrap();
    assert_eq!(reader.size(), 4 << 20);
    assert_eq!(collect(reader).await.unwrap(), &data[300_000..300_010]);
    assert!(local.store.gets.load(Ordering::Relaxed) <= 2, "one block, looked up at most twice");
}

#[tokio::test]
async fn ranges_before_and_after_a_missing_block_are_read() {
    let local = Local::default();
    let parts = [content(1000), vec![7; 1000], vec![9; 1000]];
    let blocks = parts.each_ref().map(|part| raw(part));
    local.put(&blocks[0]).await;
    local.put(&blocks[2]).await;
    let root = local.put(&file_node(b"", &blocks.each_ref().map(|block| (*block.cid(), 1000)))).await;
    assert_eq!(local.read(&root, 0..1000).await.unwrap(), parts[0]);
    assert_eq!(local.read(&root, 2000..3000).await.unwrap(), parts[2]);
    let mut reader = FileReader::whole(local.session(), &local.block(&root).await).unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), parts[0], "what comes before the hole is delivered");
    assert!(matches!(reader.next().await, Some(Err(ReadError::Fetch(_)))));
    assert!(reader.next().await.is_none(), "an error is the end");
}

#[tokio::test]
async fn peeking_takes_nothing_from_the_reader() {
    let local = Local::default();
    let root =
        local.put(&file_node(b"ab", &[(local.put(&raw(b"cd")).await, 2), (local.put(&raw(b"ef")).await, 2)])).await;
    let mut reader = FileReader::whole(local.session(), &local.block(&root).await).unwrap();
    assert_eq!(reader.peek(3).await.unwrap(), "abcd");
    assert_eq!(reader.peek(100).await.unwrap(), "abcdef");
    assert_eq!(collect(reader).await.unwrap(), b"abcdef");
    let empty = local.add(b"").await;
    let mut reader = FileReader::whole(local.session(), &local.block(&empty).await).unwrap();
    assert_eq!(reader.peek(512).await.unwrap(), "");
}

#[tokio::test]
async fn a_failure_during_a_peek_is_told_after_the_bytes_before_it() {
    let local = Local::default();
    let root = local.put(&file_node(b"ab", &[(*raw(b"missing").cid(), 7)])).await;
    let mut reader = FileReader::whole(local.session(), &local.block(&root).await).unwrap();
    assert_eq!(reader.peek(512).await.unwrap(), "ab");
    assert_eq!(reader.next().await.unwrap().unwrap(), "ab");
    assert!(matches!(reader.next().await, Some(Err(ReadError::Fetch(_)))));
    assert!(reader.next().await.is_none());
}

#[tokio::test]
async fn a_consumer_that_stops_keeps_what_was_fetched_ahead_within_the_budget() {
    let local = Local::default();
    let cid = local.add(&content(60 << 20)).await;
    let root = local.block(&cid).await;
    local.store.read.store(0, Ordering::Relaxed);
    let session = local.session();
    let budget = session.read_ahead();
    let mut reader = FileReader::whole(session, &root).unwrap();
    let mut taken = 0;
    for _ in 0..8 {
        taken += reader.next().await.unwrap().unwrap().len() as u64;
        assert!(reader.outstanding() <= budget, "{} of {budget}", reader.outstanding());
    }
    // Whatever was to run in the background has run.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let read = local.store.read.load(Ordering::Relaxed);
    assert!(read <= taken + budget + (1 << 20), "{read} bytes were read for {taken} taken");
}

#[tokio::test]
async fn sizes_that_lie_end_in_an_error_and_never_in_wrong_bytes() {
    let local = Local::default();
    let leaf = local.put(&raw(b"0123456789")).await;
    for claimed in [1, 9, 11, u64::MAX / 2] {
        let root = local.put(&file_node(b"", &[(leaf, claimed), (leaf, 10)])).await;
        let result = local.read(&root, 0..u64::MAX).await;
        assert!(matches!(result, Err(ReadError::SizeMismatch { actual: 10, .. })), "{claimed}: {result:?}");
    }
    let directory = local.put(&dir_node(&[])).await;
    let root = local.put(&file_node(b"", &[(directory, 10)])).await;
    assert!(matches!(local.read(&root, 0..10).await, Err(ReadError::NotAFile { .. })));
    // A part that claims no bytes is never looked at.
    let root = local.put(&file_node(b"", &[(directory, 0), (leaf, 10)])).await;
    assert_eq!(local.read(&root, 0..u64::MAX).await.unwrap(), b"0123456789");
}

#[tokio::test]
async fn deep_chains_are_read_to_the_limit_and_refused_beyond() {
    let local = Local::default();
    let mut cid = local.put(&raw(b"bottom")).await;
    let mut chain = vec![cid];
    for _ in 0..1100 {
        cid = local.put(&file_node(b"", &[(cid, 6)])).await;
        chain.push(cid);
    }
    assert_eq!(local.read(&chain[1000], 0..6).await.unwrap(), b"bottom");
    assert!(matches!(local.read(&chain[1100], 0..6).await, Err(ReadError::DepthLimit { .. })));
    let walked = |cid| {
        let walk = Walk::new(local.session(), cid, WalkOptions::default());
        walk.try_collect::<Vec<_>>()
    };
    assert_eq!(walked(chain[1000]).await.unwrap().len(), 1001);
    assert!(matches!(walked(chain[1100]).await, Err(WalkError::DepthLimit { .. })));
}

#[tokio::test]
async fn a_bomb_of_few_blocks_costs_its_reader_only_the_range_and_a_walk_only_its_blocks() {
    let local = Local::default();
    let mut cid = local.put(&raw(&[1; 1024])).await;
    let mut size = 1024u64;
    for _ in 0..40 {
        cid = local.put(&file_node(b"", &[(cid, size), (cid, size)])).await;
        size *= 2;
    }
    let middle = size / 2 - 5000;
    local.store.gets.store(0, Ordering::Relaxed);
    assert_eq!(local.read(&cid, middle..middle + 10_000).await.unwrap(), vec![1; 10_000]);
    assert!(local.store.gets.load(Ordering::Relaxed) < 1000);
    let visits: Vec<_> = Walk::new(local.session(), cid, WalkOptions::default()).try_collect().await.unwrap();
    assert_eq!(visits.len(), 41);
    assert_eq!(local.car(&cid.to_string(), &CarParams::default()).await.len(), 41);
    // With duplicates the walk has no end worth waiting for; it is pulled, so it costs what is taken.
    let options = WalkOptions { unique: false, ..WalkOptions::default() };
    assert_eq!(Walk::new(local.session(), cid, options).take(5000).count().await, 5000);
}

#[tokio::test]
async fn a_walk_remembers_no_more_than_it_may() {
    let local = Local::default();
    let cid = local.add(&content(3 << 20)).await;
    let options = WalkOptions { max_seen: 5, ..WalkOptions::default() };
    let result: Result<Vec<_>, _> = Walk::new(local.session(), cid, options).try_collect().await;
    assert!(matches!(result, Err(WalkError::TooManyBlocks { limit: 5 })));
}

/// A directory of `n` entries with one content.
async fn big_directory(local: &Local, n: usize) -> (Cid, Cid) {
    let leaf = local.add(b"x").await;
    let mut builder = DirBuilder::new(&Profile::default());
    for i in 0..n {
        builder.add(&format!("file-{i:05}"), leaf, 1).unwrap();
    }
    let (blocks, built) = builder.finish().unwrap();
    local.store.put(blocks).await.unwrap();
    (built.cid, leaf)
}

#[tokio::test]
async fn a_sharded_directory_of_10000_names_lists_them_all_and_finds_each() {
    let local = Local::default();
    let (root, leaf) = big_directory(&local, 10_000).await;
    let (session, block) = (local.session(), local.block(&root).await);
    let entries = Entries::new(session.clone(), &block).unwrap();
    assert!(entries.is_sharded());
    let mut names: Vec<String> = entries.map_ok(|entry| entry.name).try_collect().await.unwrap();
    names.sort();
    assert_eq!(names, (0..10_000).map(|i| format!("file-{i:05}")).collect::<Vec<_>>());
    for i in [0, 1, 4999, 9999] {
        let found = directory::find(&session, &block, &format!("file-{i:05}")).await.unwrap();
        assert_eq!(found.unwrap().cid, leaf);
    }
    assert_eq!(directory::find(&session, &block, "file-10000").await.unwrap(), None);
    assert_eq!(directory::index_html(&session, &block).await.unwrap(), None);

    let resolved = resolve(&session, &ContentPath::parse_text(&format!("{root}/file-00042")).unwrap()).await.unwrap();
    assert_eq!((resolved.kind, resolved.roots), (NodeKind::File { size: 1 }, vec![root, leaf]));
    assert!(resolved.path_blocks.len() >= 2, "the shards on the way belong to the path");
}

#[tokio::test]
async fn a_directory_that_repeats_a_shard_is_refused() {
    let local = Local::default();
    let shard = |links: Vec<(u32, Cid)>| {
        let mut data = Data::new(DataType::HamtShard);
        data.hash_type = Some(0x22);
        data.fanout = Some(256);
        data.data = Some(tidegate::ipld::unixfs::hamt::bitfield(links.iter().map(|(index, _)| *index), 256));
        let link = |(index, cid): (u32, Cid)| PbLink { cid, name: Some(format!("{index:02X}")), tsize: None };
        pb(links.into_iter().map(link).collect(), data)
    };
    let mut cid = local.put(&shard(Vec::new())).await;
    for _ in 0..6 {
        cid = local.put(&shard((0..256).map(|index| (index, cid)).collect())).await;
    }
    let block = local.block(&cid).await;
    assert!(matches!(Entries::new(local.session(), &block), Err(directory::DirectoryError::RepeatedShard { .. })));
    // A chain of shards deeper than the hash has bits ends a lookup.
    let mut cid = local.put(&shard(Vec::new())).await;
    for _ in 0..12 {
        cid = local.put(&shard((0..256).map(|index| (index, cid)).collect())).await;
    }
    assert!(directory::find(&local.session(), &local.block(&cid).await, "a").await.is_err());
}

#[tokio::test]
async fn a_path_that_leads_nowhere_says_where_it_ended() {
    let local = Local::default();
    let leaf = local.add(b"hello").await;
    let inner = local.put(&dir_node(&[("file", leaf)])).await;
    let root = local.put(&dir_node(&[("dir", inner), ("gone", *raw(b"gone").cid())])).await;
    let session = local.session();
    let at = |path: &str| ContentPath::parse_text(&format!("{root}/{path}")).unwrap();

    let resolved = resolve(&session, &at("dir/file")).await.unwrap();
    assert_eq!((resolved.cid, &resolved.roots[..]), (leaf, &[root, inner, leaf][..]));
    assert_eq!(resolved.path_blocks.iter().map(|block| *block.cid()).collect::<Vec<_>>(), [root, inner]);

    let error = resolve(&session, &at("dir/nope/x")).await.unwrap_err();
    assert!(matches!(&error, ResolveError::NoLink { segment, cid, index: 1 } if segment == "nope" && *cid == inner));
    let error = resolve(&session, &at("dir/file/x")).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotUnixFs { cid, index: 2, .. } if cid == leaf));
    assert!(matches!(resolve(&session, &at("gone")).await, Err(ResolveError::Fetch(_))));
    assert_eq!(
        tidegate::dag::resolve_cid(&session, &at("gone")).await.unwrap().roots.len(),
        2,
        "the end is not fetched"
    );
    let name = ContentPath::parse("/ipns/example.org/a").unwrap();
    assert!(matches!(resolve(&session, &name).await, Err(ResolveError::NotACid { .. })));
    let cbor = Block::encode(codec::DAG_CBOR, HashCode::Sha2_256, Bytes::from_static(&[0xa0])).unwrap();
    let cbor = Resolved::of_block(cbor);
    assert_eq!(cbor.kind, NodeKind::Other { codec: codec::DAG_CBOR, problem: None });
}

#[tokio::test]
async fn an_identity_cid_is_read_and_never_written_to_a_car() {
    let local = Local::default();
    let inline = Block::encode(codec::RAW, HashCode::Identity, Bytes::from_static(b"inline")).unwrap();
    let root = local.put(&dir_node(&[("a", *inline.cid())])).await;
    let session = local.session();
    let resolved = resolve(&session, &ContentPath::parse_text(&format!("{root}/a")).unwrap()).await.unwrap();
    assert_eq!(collect(FileReader::whole(session, &resolved.block).unwrap()).await.unwrap(), b"inline");
    assert_eq!(local.car(&format!("{root}/a"), &CarParams::default()).await, [root]);
    assert_eq!(local.car(&inline.cid().to_string(), &CarParams::default()).await, []);
}

#[tokio::test]
async fn a_car_holds_the_path_and_then_what_its_scope_says() {
    let local = Local::default();
    let leaves = [raw(&[1; 512]), raw(&[2; 512]), raw(&[1; 512])];
    for leaf in &leaves {
        local.put(leaf).await;
    }
    let [a, b, _] = leaves.each_ref().map(|leaf| *leaf.cid());
    let file = local.put(&file_node(b"", &[(a, 512), (b, 512), (a, 512)])).await;
    let root = local.put(&dir_node(&[("file", file), ("other", b)])).await;
    let path = format!("{root}/file");
    let scoped = |scope| CarParams { scope, ..CarParams::default() };
    assert_eq!(local.car(&path, &scoped(DagScope::All)).await, [root, file, a, b]);
    assert_eq!(local.car(&path, &CarParams { dups: true, ..CarParams::default() }).await, [root, file, a, b, a]);
    assert_eq!(local.car(&path, &scoped(DagScope::Entity)).await, [root, file, a, b]);
    assert_eq!(local.car(&path, &scoped(DagScope::Block)).await, [root, file]);
    assert_eq!(local.car(&root.to_string(), &scoped(DagScope::Entity)).await, [root]);
    assert_eq!(local.car(&root.to_string(), &scoped(DagScope::All)).await, [root, file, a, b]);
    let bytes = |from, to| CarParams { bytes: Some(ByteWindow { from, to }), ..CarParams::default() };
    assert_eq!(local.car(&path, &bytes(512, Some(1023))).await, [root, file, b]);
    assert_eq!(local.car(&path, &bytes(-1, None)).await, [root, file, a]);
    assert_eq!(local.car(&path, &bytes(5000, None)).await, [root, file]);
    assert_eq!(local.car(&root.to_string(), &bytes(0, Some(5))).await, [root]);

    let (big, leaf) = big_directory(&local, 6000).await;
    let entity = local.car(&big.to_string(), &scoped(DagScope::Entity)).await;
    let all = local.car(&big.to_string(), &scoped(DagScope::All)).await;
    assert!(!entity.contains(&leaf) && all.contains(&leaf) && all.len() == entity.len() + 1);
}

#[tokio::test]
async fn a_block_that_a_range_cuts_first_and_needs_whole_later_is_followed_twice() {
    let local = Local::default();
    let (a, b) = (local.put(&raw(b"aaaa")).await, local.put(&raw(b"bbbb")).await);
    let inner = local.put(&file_node(b"", &[(a, 4), (b, 4)])).await;
    let root = local.put(&file_node(b"", &[(inner, 8), (inner, 8)])).await;
    let params = CarParams { bytes: Some(ByteWindow { from: 5, to: None }), ..CarParams::default() };
    assert_eq!(local.car(&root.to_string(), &params).await, [root, inner, b, a]);
}

#[tokio::test]
async fn refs_name_raw_leaves_without_fetching_them() {
    let local = Local::default();
    let missing = *raw(b"missing").cid();
    let root = local.put(&dir_node(&[("a", missing), ("b", missing)])).await;
    let options = WalkOptions { fetch_leaves: false, ..WalkOptions::default() };
    let walk = Walk::new(local.session(), root, options.clone());
    let visits: Vec<_> =
        walk.map_ok(|visit| (visit.cid, visit.depth, visit.block.is_some())).try_collect().await.unwrap();
    assert_eq!(visits, [(root, 0, true), (missing, 1, false)]);
    let walk = Walk::new(local.session(), root, WalkOptions { unique: false, ..options.clone() });
    assert_eq!(walk.count().await, 3);
    let walk = Walk::new(local.session(), root, WalkOptions { max_depth: Some(0), ..options.clone() });
    assert_eq!(walk.count().await, 1);
    let walk = Walk::new(local.session(), root, WalkOptions { follow: Follow::Nothing, ..options });
    assert_eq!(walk.count().await, 1);
}

#[tokio::test]
async fn a_car_imports_what_another_store_exported() {
    let (from, to) = (Local::default(), Local::default());
    let data = content(1_000_000);
    let cid = from.add(&data).await;
    let resolved = Resolved::of_block(from.block(&cid).await);
    let car: Vec<Bytes> = CarStream::new(from.session(), &resolved, &CarParams::default()).try_collect().await.unwrap();
    let whole = car.concat();
    let chunks =
        |bytes: &[u8]| futures::stream::iter(bytes.chunks(777).map(Bytes::copy_from_slice).map(Ok).collect::<Vec<_>>());
    let imported = import_car(&*to.store, &(), chunks(&whole), &mut quiet).await.unwrap();
    assert_eq!((imported.roots, imported.blocks), (vec![cid], 5));
    assert_eq!(to.read(&cid, 0..u64::MAX).await.unwrap(), data);
    let cut = import_car(&*to.store, &(), chunks(&whole[..whole.len() - 1]), &mut quiet).await;
    assert!(matches!(cut, Err(ImportError::Car(_))));
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(import_car(&*to.store, &(), chunks(&flipped), &mut quiet).await, Err(ImportError::Car(_))));
}

fn tree(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                found.push((name, b"directory".to_vec()));
                open.push(entry.path());
            } else if kind.is_symlink() {
                found.push((name, std::fs::read_link(entry.path()).unwrap().to_str().unwrap().as_bytes().to_vec()));
            } else {
                found.push((name, std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_folder_that_is_added_and_exported_is_the_same() {
    let local = Local::default();
    let temp = tempfile::tempdir().unwrap();
    let from = temp.path().join("from");
    std::fs::create_dir_all(from.join("sub/empty")).unwrap();
    for (name, data) in
        [("a.txt", content(3)), ("sub/big", content(700_000)), ("zero", Vec::new()), (".hidden", vec![1])]
    {
        std::fs::write(from.join(name), data).unwrap();
    }
    std::os::unix::fs::symlink("../a.txt", from.join("sub/link")).unwrap();
    let options = AddOptions { recursive: true, hidden: true, ..AddOptions::default() };
    let mut last = (0, 0);
    let mut watch = |p: tidegate::dag::import::Progress<'_>| last = (p.bytes, p.entries);
    let added = add_path(&*local.store, &(), &from, &options, &mut watch).await.unwrap();
    assert_eq!((added.size, added.entries), (700_004, 8));
    assert_eq!(last, (700_004, 8));

    let target = temp.path().join("to");
    let resolved = Resolved::of_block(local.block(&added.cid).await);
    let done = export(&local.session(), &resolved, &target, &mut |_, _| ()).await.unwrap();
    assert_eq!((done.files, done.bytes, done.resumed), (4, 700_004, 0));
    assert_eq!(tree(&target), tree(&from));
    // Again over what is there.
    export(&local.session(), &resolved, &target, &mut |_, _| ()).await.unwrap();
    assert_eq!(tree(&target), tree(&from));

    let plain = AddOptions { recursive: true, ..AddOptions::default() };
    let without = add_path(&*local.store, &(), &from, &plain, &mut quiet).await.unwrap();
    assert_eq!((without.size, without.entries), (700_003, 7));
    let refused = add_path(&*local.store, &(), &from, &AddOptions::default(), &mut quiet).await;
    assert!(matches!(refused, Err(ImportError::NotRecursive { .. })));
    let missing = add_path(&*local.store, &(), &from.join("nope"), &plain, &mut quiet).await.unwrap_err();
    assert!(missing.to_string().contains("from/nope"), "{missing}");
    let pipe = from.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let refused = add_path(&*local.store, &(), &from, &plain, &mut quiet).await;
    assert!(matches!(refused, Err(ImportError::FileType { path }) if path == pipe));
}

#[tokio::test]
async fn an_export_goes_on_where_it_was_cut_off() {
    let local = Local::default();
    let temp = tempfile::tempdir().unwrap();
    let parts = [content(1000), vec![7; 1000]];
    let blocks = parts.each_ref().map(|part| raw(part));
    local.put(&blocks[0]).await;
    let root = local.put(&file_node(b"", &blocks.each_ref().map(|block| (*block.cid(), 1000)))).await;
    let resolved = Resolved::of_block(local.block(&root).await);
    let target = temp.path().join("out");
    let cut = export(&local.session(), &resolved, &target, &mut |_, _| ()).await;
    assert!(matches!(cut, Err(ExportError::Read(_))));
    assert!(!target.exists(), "a name that is there is complete");
    local.put(&blocks[1]).await;
    let done = export(&local.session(), &resolved, &target, &mut |_, _| ()).await.unwrap();
    assert_eq!((done.bytes, done.resumed), (2000, 1000));
    assert_eq!(std::fs::read(&target).unwrap(), parts.concat());
    assert_eq!(tree(temp.path()).len(), 1, "nothing is left over");
}

#[tokio::test]
async fn hostile_names_and_links_write_nothing_outside_the_target() {
    let local = Local::default();
    let leaf = local.add(b"evil").await;
    let symlink = |target: &str| tidegate::ipld::builder::symlink(&Profile::default(), target).unwrap().0;
    for name in ["..", "../x", "/abs", "a\0b", "\x1b[2J", "C:\\x", "a\r\nb", "", ".", ".tidegate-x.part"] {
        let temp = tempfile::tempdir().unwrap();
        let root = dir_node(&[(name, leaf)]);
        let target = temp.path().join("out");
        let result = export(&local.session(), &Resolved::of_block(root), &target, &mut |_, _| ()).await;
        assert!(matches!(result, Err(ExportError::Name(_))), "{name:?}: {result:?}");
        assert_eq!(tree(temp.path()).len(), 1, "{name:?}");
        assert_eq!(check_name(name).is_ok(), name.starts_with(".tidegate-"));
    }
    for link in ["/etc", "..", "../..", "a/../../x", "", "a/..", "./../x"] {
        let temp = tempfile::tempdir().unwrap();
        let root = dir_node(&[("link", local.put(&symlink(link)).await)]);
        let result =
            export(&local.session(), &Resolved::of_block(root), &temp.path().join("out"), &mut |_, _| ()).await;
        assert!(matches!(result, Err(ExportError::SymlinkTarget { .. })), "{link:?}: {result:?}");
    }
    // A symlink that was there before is not followed, for directories or files.
    let temp = tempfile::tempdir().unwrap();
    let (out, elsewhere) = (temp.path().join("out"), temp.path().join("elsewhere"));
    std::fs::create_dir(&out).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("file"), b"mine").unwrap();
    std::os::unix::fs::symlink(&elsewhere, out.join("dir")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("file"), out.join("file")).unwrap();
    let inner = local.put(&dir_node(&[("x", leaf)])).await;
    let session = local.session();
    let result = export(&session, &Resolved::of_block(dir_node(&[("dir", inner)])), &out, &mut |_, _| ()).await;
    assert!(matches!(result, Err(ExportError::InTheWay { .. })));
    export(&session, &Resolved::of_block(dir_node(&[("file", leaf)])), &out, &mut |_, _| ()).await.unwrap();
    assert_eq!(std::fs::read(elsewhere.join("file")).unwrap(), b"mine");
    assert_eq!(std::fs::read(out.join("file")).unwrap(), b"evil");
    assert_eq!(tree(&elsewhere).len(), 1);
}

/// A tree of any shape: inline data at inner nodes, leaves raw or dag-pb, unbalanced.
#[derive(Debug, Clone)]
enum Shape {
    Raw(Vec<u8>),
    Wrapped(Vec<u8>),
    Inner(Vec<u8>, Vec<Shape>),
}

fn shape() -> impl Strategy<Value = Shape> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![bytes().prop_map(Shape::Raw), bytes().prop_map(Shape::Wrapped)];
    leaf.prop_recursive(5, 60, 5, move |inner| {
        (bytes(), prop::collection::vec(inner, 0..5)).prop_map(|(data, children)| Shape::Inner(data, children))
    })
}

/// Blocks of the tree, its root last, and its bytes.
fn build(shape: &Shape, blocks: &mut Vec<Block>) -> Vec<u8> {
    let (block, bytes) = match shape {
        Shape::Raw(data) => (raw(data), data.clone()),
        Shape::Wrapped(data) => (file_node(data, &[]), data.clone()),
        Shape::Inner(data, children) => {
            let mut bytes = data.clone();
            let mut links = Vec::new();
            for child in children {
                let content = build(child, blocks);
                links.push((*blocks.last().unwrap().cid(), content.len() as u64));
                bytes.extend(content);
            }
            (file_node(data, &links), bytes)
        }
    };
    blocks.push(block);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_range_of_a_tree_of_any_shape_is_the_slice_of_its_bytes(shape in shape(), from in 0usize..600, len in 0usize..600) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let local = Local::default();
            let mut blocks = Vec::new();
            let bytes = build(&shape, &mut blocks);
            let root = *blocks.last().unwrap().cid();
            local.store.put(blocks).await.unwrap();
            let (start, end) = (from.min(bytes.len()), (from + len).min(bytes.len()));
            prop_assert_eq!(&local.read(&root, from as u64..(from + len) as u64).await.unwrap(), &bytes[start..end]);
            prop_assert_eq!(local.read(&root, 0..u64::MAX).await.unwrap(), bytes);
            Ok(())
        })?;
    }
}
