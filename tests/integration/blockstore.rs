//! Blocks at rest against real disks: full, read-only, damaged, and killed.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use tidegate::blockstore::{
    Blocks, Blockstore, Config, DataDirLock, DurableStore, Links, Pin, PinKind, StoreError, Tier,
};
use tidegate::ipld::{Block, Cid, HashCode, codec};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;
use tidegate::units::ByteSize;

/// A generous bound for what happens in the background.
const SOON: Duration = Duration::from_secs(30);

fn config() -> Config {
    Config { memory: ByteSize::mib(8), disk: ByteSize::mib(64), scrub_rate: ByteSize(0), ..Config::default() }
}

async fn open(dir: &Path, config: &Config) -> Arc<Blocks> {
    Blocks::open(dir, config, &Metrics::new(), &Supervisor::new()).await.unwrap()
}

async fn durable(dir: &Path) -> DurableStore {
    DurableStore::open(dir, 4, &Metrics::new()).await.unwrap()
}

/// A block of `size` bytes that depend on `seed`.
fn block(seed: u64, size: usize) -> Block {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(size + 8);
    while data.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(size);
    Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(data)).unwrap()
}

/// A node of the tests' own link format: its bytes are the CIDs it links to, one a line.
fn node(children: &[&Block]) -> Block {
    let text: Vec<String> = children.iter().map(|child| child.cid().to_string()).collect();
    Block::encode(codec::CBOR, HashCode::Sha2_256, Bytes::from(text.join("\n"))).unwrap()
}

fn lines(block: &Block) -> Links {
    if block.cid().codec() == codec::RAW {
        return Some(Vec::new());
    }
    std::str::from_utf8(block.data()).ok()?.lines().map(|line| line.parse::<Cid>().ok()).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() { todo.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

/// Flips one bit of every file under `dir` where `pattern` begins; says how many.
fn flip(dir: &Path, pattern: &[u8]) -> usize {
    let mut flipped = 0;
    for path in files(dir) {
        let data = fs::read(&path).unwrap();
        if let Some(at) = data.windows(pattern.len()).position(|window| window == pattern) {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[data[at] ^ 1], at as u64).unwrap();
            flipped += 1;
        }
    }
    flipped
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < SOON, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A small file system of its own; unmounted when dropped. `None`, with the reason on stderr, where mounting is refused.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir }),
            Ok(output) => {
                eprintln!("skipped: mounting needs root: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: no mount command: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", how]).arg(self.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_block_is_found_after_reopening_and_counted_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let blocks: Vec<Block> = (0..50).map(|n| block(n, 1000 + n as usize)).collect();
    let bytes = blocks.iter().map(|block| block.len() as u64).sum::<u64>();
    {
        let store = open(dir.path(), &config()).await;
        store.put(blocks.clone()).await.unwrap();
        store.put(blocks.clone()).await.unwrap();
        assert_eq!((store.stats().store.blocks, store.stats().store.bytes), (Some(50), bytes));
        store.close().await.unwrap();
        assert!(matches!(store.put(vec![block(99, 10)]).await, Err(StoreError::Closed)));
    }
    let store = open(dir.path(), &config()).await;
    assert!(!store.stats().counting, "a clean stop leaves the counts behind");
    assert_eq!((store.stats().store.blocks, store.stats().store.bytes), (Some(50), bytes));
    for block in &blocks {
        let hit = store.lookup(block.cid()).await.unwrap().unwrap();
        assert_eq!((&hit.block, hit.tier), (block, Tier::Store));
        assert_eq!(store.peek(block.cid()).as_ref(), Some(block));
    }
    assert_eq!((store.stats().store.hits, store.stats().store.misses), (50, 0));
    assert_eq!((store.stats().memory.hits, store.stats().memory.misses), (50, 50));
    assert!(store.remove(blocks[0].cid()).await.unwrap());
    assert!(!store.remove(blocks[0].cid()).await.unwrap());
    assert!(store.lookup(blocks[0].cid()).await.unwrap().is_none());
    assert_eq!(store.stats().store.blocks, Some(49));
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_taken_anew_after_an_unclean_stop() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = durable(dir.path()).await;
        store.put((0..100).map(|n| block(n, 100)).collect()).await.unwrap();
        // Dropped without close, like a crash.
    }
    let store = open(dir.path(), &config()).await;
    // Changes beside the count are counted once.
    store.put((100..150).map(|n| block(n, 100)).collect()).await.unwrap();
    store.remove(block(0, 100).cid()).await.unwrap();
    eventually("counted", async || !store.stats().counting).await;
    assert_eq!((store.stats().store.blocks, store.stats().store.bytes), (Some(149), 14_900));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_durable_block_is_deleted_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let bad = block(1, 5000);
    {
        let store = open(dir.path(), &config()).await;
        store.put(vec![bad.clone(), block(2, 5000)]).await.unwrap();
        store.close().await.unwrap();
    }
    assert_eq!(flip(&dir.path().join("blocks"), &bad.data()[1000..1100]), 1);
    let store = open(dir.path(), &config()).await;
    assert!(store.lookup(bad.cid()).await.unwrap().is_none());
    assert!(!store.has(bad.cid()).await.unwrap());
    assert_eq!((store.stats().store.corrupt, store.stats().store.blocks), (1, Some(1)));
    store.put(vec![bad.clone()]).await.unwrap();
    assert_eq!(store.get(bad.cid()).await.unwrap(), Some(bad));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_written_again_by_the_next_put() {
    let dir = tempfile::tempdir().unwrap();
    let store = durable(dir.path()).await;
    let whole = block(1, 5000);
    store.put(vec![whole.clone()]).await.unwrap();
    let file = files(&dir.path().join("blocks")).pop().unwrap();
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(17).unwrap();
    store.put(vec![whole.clone()]).await.unwrap();
    assert_eq!(store.get(whole.cid()).await.unwrap(), Some(whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_block_survives_on_disk_and_a_flipped_bit_there_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (block(1, 100_000), block(2, 100_000));
    {
        let store = open(dir.path(), &config()).await;
        store.cache(&good);
        store.cache(&bad);
        assert_eq!(store.peek(good.cid()), Some(good.clone()));
        store.close().await.unwrap();
    }
    assert_eq!(flip(&dir.path().join("cache"), &bad.data()[1000..1100]), 1);
    let store = open(dir.path(), &config()).await;
    let hit = store.lookup(good.cid()).await.unwrap().unwrap();
    assert_eq!((hit.block, hit.tier), (good, Tier::Disk));
    assert!(store.has(bad.cid()).await.unwrap());
    assert!(store.lookup(bad.cid()).await.unwrap().is_none());
    assert!(!store.has(bad.cid()).await.unwrap());
    assert_eq!((store.stats().disk.corrupt, store.stats().disk.hits, store.stats().disk.misses), (1, 1, 1));
    assert_eq!(store.stats().store.blocks, Some(0), "fetched blocks go to the cache only");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_cache_accepts_reaches_the_disk_and_what_it_does_not_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { memory: ByteSize(0), disk_queue: ByteSize::mib(8), ..config() };
    let store = open(dir.path(), &config).await;
    // A burst of 32 MiB against a queue of 8 MiB, into a cache of 64 MiB.
    let blocks: Vec<Block> = (0..128).map(|n| block(n, 256 << 10)).collect();
    blocks.iter().for_each(|block| store.cache(block));
    let dropped = store.stats().disk_dropped;
    store.close().await.unwrap();
    assert!(dropped > 0, "the burst is larger than the queue");
    let store = open(dir.path(), &config).await;
    let mut kept = 0;
    for block in &blocks {
        kept += u64::from(store.get(block.cid()).await.unwrap().is_some());
    }
    assert_eq!(kept + dropped, 128);
    assert_eq!(store.stats().disk.write_errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_inside_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Config { disk: ByteSize(0), ..config() }).await;
    (0..100).for_each(|n| store.cache(&block(n, 256 << 10)));
    let memory = store.stats().memory;
    assert!(memory.bytes <= 8 << 20, "{memory:?}");
    assert!(memory.blocks.unwrap() > 16, "{memory:?}");
    assert!(!dir.path().join("cache").exists(), "no disk cache was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_block_needs_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &config()).await;
    let identity = Block::encode(codec::RAW, HashCode::Identity, Bytes::from_static(b"tide")).unwrap();
    assert_eq!(store.peek(identity.cid()), Some(identity.clone()));
    store.put(vec![identity.clone()]).await.unwrap();
    store.cache(&identity);
    assert_eq!(store.get(identity.cid()).await.unwrap(), Some(identity));
    assert_eq!(store.stats().store.blocks, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_puts_and_goes_on_reading_and_collecting() {
    let Some(disk) = Tmpfs::new("size=8m") else { return };
    let store = open(disk.path(), &config()).await;
    let first = block(0, 100_000);
    store.put(vec![first.clone()]).await.unwrap();
    let mut stored = vec![first.clone()];
    let error = loop {
        let next = block(stored.len() as u64, 500_000);
        match store.put(vec![next.clone()]).await {
            Ok(()) => stored.push(next),
            Err(error) => break error,
        }
        assert!(stored.len() < 20);
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.is_unwritable());
    assert_eq!(files(&disk.path().join("blocks/tmp")), Vec::<PathBuf>::new());
    for block in &stored {
        assert_eq!(store.get(block.cid()).await.unwrap().as_ref(), Some(block));
    }
    let fetched = block(1000, 200_000);
    store.cache(&fetched);
    assert_eq!(store.get(fetched.cid()).await.unwrap(), Some(fetched));
    // Even the last bytes: nothing that gc needs may ask for more disk.
    let mut filler = fs::File::create(disk.path().join("filler")).unwrap();
    let _ = std::io::copy(&mut std::io::repeat(0), &mut filler);
    let guard = store.hold().await;
    let pinned = store.pins().add(&guard, vec![Pin::new(*first.cid(), PinKind::Direct)]).await;
    drop(guard);
    let report = store.gc_with(lines).await.unwrap();
    let kept = u64::from(pinned.is_ok());
    assert_eq!((report.kept_blocks, report.removed_blocks), (kept, stored.len() as u64 - kept));
    assert!(store.pins().has(first.cid()).await.unwrap() == pinned.is_ok());
    store.put(vec![first.clone()]).await.unwrap();
    let guard = store.hold().await;
    store.pins().add(&guard, vec![Pin::new(*first.cid(), PinKind::Direct)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_on_a_full_disk_goes_on_with_what_is_there() {
    let Some(disk) = Tmpfs::new("size=2m") else { return };
    let mut filler = fs::File::create(disk.path().join("filler")).unwrap();
    let _ = std::io::copy(&mut std::io::repeat(0), &mut filler);
    let store = open(disk.path(), &config()).await;
    let cached = block(1, 100_000);
    store.cache(&cached);
    assert_eq!(store.peek(cached.cid()), Some(cached.clone()));
    assert!(matches!(store.put(vec![cached.clone()]).await, Err(StoreError::Full { .. })));
    let guard = store.hold().await;
    let pinned = store.pins().add(&guard, vec![Pin::new(*cached.cid(), PinKind::Direct)]).await;
    assert!(matches!(pinned, Err(StoreError::Full { .. })), "{pinned:?}");
    drop(filler);
    fs::remove_file(disk.path().join("filler")).unwrap();
    store.put(vec![cached.clone()]).await.unwrap();
    assert_eq!(store.stats().store.blocks, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_serves_and_says_so_when_written() {
    let Some(disk) = Tmpfs::new("size=64m") else { return };
    let kept = block(1, 50_000);
    let (before, path) = (kept.clone(), disk.path().to_path_buf());
    let writing = tokio::task::spawn_blocking(move || {
        // A runtime of its own: foyer's tasks keep its files open until their runtime ends.
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let store = open(&path, &config()).await;
            let guard = store.hold().await;
            store.put(vec![before.clone()]).await.unwrap();
            store.pins().add(&guard, vec![Pin::new(*before.cid(), PinKind::Recursive)]).await.unwrap();
            drop(guard);
            store.close().await.unwrap();
        });
    });
    writing.await.unwrap();
    disk.remount("remount,ro");
    let lock = DataDirLock::acquire(disk.path()).unwrap();
    assert!(matches!(DataDirLock::acquire(disk.path()), Err(StoreError::Locked { .. })));
    let store = open(disk.path(), &config()).await;
    assert_eq!(store.get(kept.cid()).await.unwrap(), Some(kept.clone()));
    assert!(store.pins().has(kept.cid()).await.unwrap());
    assert!(!store.stats().disk_available);
    let error = store.put(vec![block(2, 100)]).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    let guard = store.hold().await;
    let error = store.pins().add(&guard, vec![Pin::new(*kept.cid(), PinKind::Direct)]).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    drop(guard);
    let fetched = block(3, 1000);
    store.cache(&fetched);
    assert_eq!(store.get(fetched.cid()).await.unwrap(), Some(fetched));
    disk.remount("remount,rw");
    store.put(vec![block(2, 100)]).await.unwrap();
    let guard = store.hold().await;
    store.pins().add(&guard, vec![Pin::new(*block(2, 100).cid(), PinKind::Direct)]).await.unwrap();
    assert_eq!(store.pins().count().await.unwrap(), 2);
    drop(lock);
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_keeps_what_pins_reach_and_removes_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &config()).await;
    let leaves: Vec<Block> = (0..20).map(|n| block(n, 100)).collect();
    let inner = node(&[&leaves[0], &leaves[1]]);
    let lost = block(500, 100);
    let root = node(&[&inner, &leaves[2], &lost]);
    let direct = node(&[&leaves[3]]);
    let guard = store.hold().await;
    store.put(leaves.clone()).await.unwrap();
    store.put(vec![inner.clone(), root.clone(), direct.clone()]).await.unwrap();
    let pins = vec![Pin::new(*root.cid(), PinKind::Recursive), Pin::new(*direct.cid(), PinKind::Direct)];
    store.pins().add(&guard, pins).await.unwrap();
    drop(guard);
    let report = store.gc_with(lines).await.unwrap();
    assert_eq!((report.kept_blocks, report.removed_blocks, report.removed_bytes), (6, 17, 1700));
    assert_eq!((report.missing_blocks, report.missing.clone()), (1, vec![lost.cid().to_string()]));
    for kept in [&root, &inner, &leaves[0], &leaves[1], &leaves[2], &direct] {
        assert!(store.has(kept.cid()).await.unwrap());
    }
    assert!(!store.has(leaves[3].cid()).await.unwrap(), "a direct pin keeps its block alone");
    assert_eq!(store.pins().rm(root.cid()).await.unwrap(), Some(PinKind::Recursive));
    assert_eq!(store.gc_with(lines).await.unwrap().removed_blocks, 5);
    assert_eq!(store.stats().store.blocks, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_walks_a_block_that_is_named_as_raw_and_as_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &config()).await;
    let leaf = block(1, 100);
    let inner = node(&[&leaf]);
    let raw = inner.with_cid(Cid::new_v1(codec::RAW, *inner.cid().hash())).unwrap();
    let root = node(&[&inner, &raw, &inner]);
    let guard = store.hold().await;
    store.put(vec![leaf.clone(), inner, root.clone()]).await.unwrap();
    store.pins().add(&guard, vec![Pin::new(*root.cid(), PinKind::Recursive)]).await.unwrap();
    drop(guard);
    assert_eq!(store.gc_with(lines).await.unwrap().removed_blocks, 0);
    assert!(store.has(leaf.cid()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_waits_for_a_running_add_and_never_takes_its_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &config()).await;
    store.put(vec![block(1000, 100)]).await.unwrap();
    let guard = store.hold().await;
    let leaves: Vec<Block> = (0..10).map(|n| block(n, 100)).collect();
    store.put(leaves[..5].to_vec()).await.unwrap();
    let gc = tokio::task::spawn_blocking({
        let (store, runtime) = (store.clone(), tokio::runtime::Handle::current());
        move || runtime.block_on(store.gc_with(lines))
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!gc.is_finished());
    // The add goes on putting while gc waits for it.
    store.put(leaves[5..].to_vec()).await.unwrap();
    let root = node(&leaves.iter().collect::<Vec<_>>());
    store.put(vec![root.clone()]).await.unwrap();
    store.pins().add(&guard, vec![Pin::new(*root.cid(), PinKind::Recursive)]).await.unwrap();
    drop(guard);
    let report = gc.await.unwrap().unwrap();
    assert_eq!((report.kept_blocks, report.removed_blocks), (11, 1));

    let impatient = open(
        tempfile::tempdir().unwrap().path(),
        &Config { gc_wait: Duration::from_millis(10), disk: ByteSize(0), ..config() },
    )
    .await;
    let _guard = impatient.hold().await;
    assert!(matches!(impatient.gc_with(lines).await, Err(StoreError::Busy { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_takes_nothing_when_pins_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pins.redb"), "this is not a database").unwrap();
    let store = open(dir.path(), &config()).await;
    store.put(vec![block(1, 100)]).await.unwrap();
    assert!(store.gc_with(lines).await.is_err());
    assert!(store.has(block(1, 100).cid()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_keep_their_kind_name_and_order_over_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let cids: Vec<Cid> = (0..25).map(|n| *block(n, 10).cid()).collect();
    {
        let store = open(dir.path(), &config()).await;
        let guard = store.hold().await;
        let pins = cids.iter().map(|cid| Pin { name: Some("tide".repeat(100)), ..Pin::new(*cid, PinKind::Recursive) });
        store.pins().add(&guard, pins.collect()).await.unwrap();
        store.pins().add(&guard, vec![Pin::new(cids[0], PinKind::Direct)]).await.unwrap();
        // Neither closed nor dropped cleanly: what `add` acknowledged is on the disk.
        fs::copy(dir.path().join("pins.redb"), dir.path().join("copy")).unwrap();
    }
    fs::rename(dir.path().join("copy"), dir.path().join("pins.redb")).unwrap();
    let store = open(dir.path(), &config()).await;
    let mut listed: Vec<Pin> = Vec::new();
    loop {
        let page = store.pins().ls(listed.last().map(|pin| &pin.cid), 10).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 10);
        listed.extend(page);
    }
    assert_eq!(listed.len(), 25);
    assert!(listed.windows(2).all(|pair| pair[0].cid.to_bytes() < pair[1].cid.to_bytes()));
    assert!(listed.iter().all(|pin| pin.kind == PinKind::Recursive && pin.name.as_ref().unwrap().len() == 252 + 3));
    assert!(store.pins().has(&cids[3]).await.unwrap());
    assert_eq!(store.pins().rm(&cids[3]).await.unwrap(), Some(PinKind::Recursive));
    assert_eq!(store.pins().rm(&cids[3]).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn scrub_finds_every_damaged_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &config()).await;
    let blocks: Vec<Block> = (0..40).map(|n| block(n, 2000)).collect();
    store.put(blocks.clone()).await.unwrap();
    for bad in &blocks[..3] {
        assert_eq!(flip(&dir.path().join("blocks"), &bad.data()[500..600]), 1);
    }
    let report = store.scrub().await.unwrap();
    assert_eq!((report.blocks, report.bytes, report.corrupt_blocks), (40, 80_000, 3));
    let mut named: Vec<String> = blocks[..3].iter().map(|block| block.cid().to_string()).collect();
    named.sort();
    let mut found = report.corrupt.clone();
    found.sort();
    assert_eq!(found, named);
    assert_eq!(store.scrub().await.unwrap().corrupt_blocks, 0);
    assert_eq!((store.stats().store.blocks, store.stats().store.corrupt), (Some(37), 3));
}

#[test]
fn a_data_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let _lock = DataDirLock::acquire(dir.path()).unwrap();
    let mut child = rerun("owner", dir.path());
    let refused = child.wait().unwrap();
    assert_eq!(refused.code(), Some(17), "another process is refused");
}

/// 20 times: a child puts and pins as fast as it can and is killed at a random moment.
#[test]
fn what_was_acknowledged_survives_kill_9() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..20u64 {
        let mut child = rerun("writer", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pid = child.id();
        let killer = std::thread::spawn(move || {
            // From before the store is open to well into the writing.
            std::thread::sleep(Duration::from_millis(5 + (round * 7919) % 300));
            // SAFETY: kill(2) of a child that is reaped below.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        });
        let mut last = acknowledged;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("stored ").and_then(|number| number.parse::<u64>().ok()) {
                last = number;
            }
        }
        killer.join().unwrap();
        child.wait().unwrap();
        acknowledged = last.max(acknowledged);
        runtime.block_on(async {
            let opening = Instant::now();
            let store = open(dir.path(), &config()).await;
            assert!(opening.elapsed() < Duration::from_secs(2), "opened in {:?}", opening.elapsed());
            assert_eq!(files(&dir.path().join("blocks/tmp")), Vec::<PathBuf>::new(), "stale temporary files");
            for number in 0..acknowledged {
                let wanted = numbered(number);
                assert_eq!(store.get(wanted.cid()).await.unwrap().as_ref(), Some(&wanted), "block {number}");
                assert!(store.pins().has(wanted.cid()).await.unwrap(), "pin {number}");
            }
            assert_eq!(store.stats().store.corrupt, 0);
            eventually("counted", async || !store.stats().counting).await;
            let on_disk =
                files(&dir.path().join("blocks")).iter().filter(|path| path.file_name().unwrap().len() > 40).count();
            assert_eq!(store.stats().store.blocks, Some(on_disk as u64));
        });
    }
    assert!(acknowledged > 0, "no round got as far as one acknowledged block");
}

fn numbered(number: u64) -> Block {
    block(number, 1 + (number as usize * 3571) % 40_000)
}

/// Runs a role below in a process of its own.
fn rerun(role: &str, dir: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "blockstore::plays_its_role_in_a_child_process", "--nocapture", "--test-threads=1"])
        .env("TIDEGATE_TEST_STORE_ROLE", role)
        .env("TIDEGATE_TEST_STORE_DIR", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the children of the tests above run; without a role there is nothing to do.
#[test]
fn plays_its_role_in_a_child_process() {
    let Ok(role) = std::env::var("TIDEGATE_TEST_STORE_ROLE") else { return };
    let dir = PathBuf::from(std::env::var_os("TIDEGATE_TEST_STORE_DIR").unwrap());
    let lock = DataDirLock::acquire(&dir);
    if role == "owner" {
        std::process::exit(if matches!(lock, Err(StoreError::Locked { .. })) { 17 } else { 0 });
    }
    if role == "idle" {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let opening = Instant::now();
            let store = open(&dir, &Config::default()).await;
            println!("\nopened {}", opening.elapsed().as_millis());
            eventually("counted", async || !store.stats().counting).await;
            println!("counted {:?} after {} ms", store.stats().store.blocks, opening.elapsed().as_millis());
            println!("rss {}", resident());
        });
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = open(&dir, &config()).await;
        let mut number = store.pins().count().await.unwrap();
        loop {
            let batch: Vec<Block> = (number..number + 5).map(numbered).collect();
            let guard = store.hold().await;
            store.put(batch.clone()).await.unwrap();
            let pins = batch.iter().map(|block| Pin::new(*block.cid(), PinKind::Direct)).collect();
            store.pins().add(&guard, pins).await.unwrap();
            number += 5;
            println!("\nstored {number}");
        }
    });
}

/// The memory of this process in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a child prints after a word.
fn figure(output: &str, word: &str) -> u64 {
    let figure = output.lines().find_map(|line| line.strip_prefix(word)).map(str::trim);
    figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no {word} in {output}"))
}

#[test]
fn a_store_of_the_default_size_opens_fast_and_is_small_while_idle() {
    let dir = tempfile::tempdir().unwrap();
    let output = rerun("idle", dir.path()).wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(figure(&output, "opened") < 2_000, "{output}");
    // The whole server has 150 MiB.
    assert!(figure(&output, "rss") < 60 << 10, "{output}");
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>),
    Get(u8),
    Has(u8),
    Remove(u8),
    Reopen { clean: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop::collection::vec(0u8..12, 0..6).prop_map(Step::Put),
        3 => (0u8..12).prop_map(Step::Get),
        1 => (0u8..12).prop_map(Step::Has),
        2 => (0u8..12).prop_map(Step::Remove),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_durable_store_does_what_a_map_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut store = durable(dir.path()).await;
            let mut model: HashMap<u8, Block> = HashMap::new();
            // The empty block needs no store and is left out.
            let named = |n: u8| block(u64::from(n), usize::from(n) * 100 + 1);
            for step in steps {
                match step {
                    Step::Put(numbers) => {
                        store.put(numbers.iter().map(|n| named(*n)).collect()).await.unwrap();
                        model.extend(numbers.into_iter().map(|n| (n, named(n))));
                    }
                    Step::Get(n) => assert_eq!(store.get(named(n).cid()).await.unwrap().as_ref(), model.get(&n)),
                    Step::Has(n) => assert_eq!(store.has(named(n).cid()).await.unwrap(), model.contains_key(&n)),
                    Step::Remove(n) => {
                        assert_eq!(store.remove(named(n).cid()).await.unwrap(), model.remove(&n).is_some());
                    }
                    Step::Reopen { clean } => {
                        if clean && !store.is_counting() {
                            store.close().await.unwrap();
                        }
                        store = durable(dir.path()).await;
                        store.recount(|| false).await.unwrap();
                    }
                }
                let bytes = model.values().map(|block| block.len() as u64).sum::<u64>();
                assert_eq!((store.stats().blocks, store.stats().bytes), (model.len() as u64, bytes));
            }
        });
    }
}
