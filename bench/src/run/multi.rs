//! Many small files: a directory of a hundred or a sharded one of a thousand, by a hundred GETs at once, by the six
//! connections of a browser, as one TAR.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Gathered, Options, resumed, settle, tell, warm_up};
use crate::bound;
use crate::cell::Sample;
use crate::client::{self, Connection, Fetched};
use crate::contender::Contender;
use crate::scenario::Scenario;
use crate::world::World;

/// What is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Directory {
    files: u64,
    each: u64,
    /// How long the files' names are. Importers make a HAMT of a directory whose names and links are over 256 KiB.
    name: usize,
    /// Round trips until the last file can be asked for and come.
    levels: u32,
}

const DIRECTORIES: [Directory; 2] = [
    Directory { files: 100, each: 20_480, name: 4, levels: 2 },
    Directory { files: 1_000, each: 4_096, name: 240, levels: 3 },
];
const AT_ONCE: usize = 100;
const BROWSER_CONNECTIONS: usize = 6;
/// A program that goes file by file takes 15 s for a TAR.
const TAR_ITERATIONS: usize = 3;
/// The directory of a thousand files, each way.
const LARGE_ITERATIONS: usize = 3;

/// Its adapter makes no archives.
const WITHOUT_TAR: &str = "helia";

/// Labels of the ways that are not the usual one.
pub const LABELS: [&str; 2] = ["six connections", "tar"];

/// How the files are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    AtOnce,
    Browser,
    Tar,
}

impl Way {
    /// `None`: the usual one.
    fn label(self) -> Option<&'static str> {
        match self {
            Self::AtOnce => None,
            Self::Browser => Some(LABELS[0]),
            Self::Tar => Some(LABELS[1]),
        }
    }
}

impl Directory {
    fn bytes(self) -> u64 {
        self.files * self.each
    }

    /// Those of these sizes; the first, if none is.
    fn of(sizes: &[u64]) -> Vec<Self> {
        let wanted: Vec<Self> = DIRECTORIES.into_iter().filter(|known| sizes.contains(&known.bytes())).collect();
        if wanted.is_empty() { vec![DIRECTORIES[0]] } else { wanted }
    }
}

/// Of file `n`: its number, filled up to this length.
pub fn name(n: u64, length: usize) -> String {
    format!("{n:04}{:-<1$}", "", length.saturating_sub(4))
}

pub(super) fn run(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    sizes: &[u64],
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    Directory::of(sizes).into_iter().try_for_each(|directory| each_way(world, contenders, directory, options, out))
}

fn each_way(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    directory: Directory,
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    let bytes = directory.bytes();
    let ways = if options.quick { &[Way::AtOnce, Way::Tar][..] } else { &[Way::AtOnce, Way::Browser, Way::Tar] };
    for &way in ways {
        if resumed(out, options, Scenario::Multi, &world.set.name, bytes, way.label()) {
            continue;
        }
        warm_up(world, contenders)?;
        let usual = if directory == DIRECTORIES[0] { 10 } else { LARGE_ITERATIONS };
        let limit = options.iterations.unwrap_or(if options.quick { 2 } else { usual });
        let limit = if way == Way::Tar { limit.min(if options.quick { 1 } else { TAR_ITERATIONS }) } else { limit };
        for iteration in 0..limit {
            one(world, contenders, way, directory, iteration, out)?;
        }
        tell(out, Scenario::Multi, &world.set.name, bytes, way.label());
    }
    Ok(())
}

fn one(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    way: Way,
    directory: Directory,
    iteration: usize,
    out: &mut Gathered,
) -> io::Result<()> {
    let bytes = directory.bytes();
    let bound_ms = Some(bound::bound(bytes, directory.levels, &world.set.honest(), world.set.access_mbit) * 1e3);
    let (made, hashes) = world.directory(directory.files, directory.each, directory.name)?;
    let paths: Vec<String> =
        (0..directory.files).map(|n| format!("/ipfs/{}/{}", made.content.cid, name(n, directory.name))).collect();
    for turn in 0..contenders.len() {
        let place = (turn + iteration) % contenders.len();
        let contender = contenders[place].as_mut();
        let Some(host) = contender.host() else { continue };
        if way == Way::Tar && contender.name() == WITHOUT_TAR {
            continue;
        }
        let (cpu, duplicates) = (contender.cpu(), contender.duplicates());
        let (wire, dropped) = (world.star.emulator.totals().down_bytes(), world.star.udp_dropped());
        let cid = &made.content.cid;
        let started = Instant::now();
        let fetched = match way {
            Way::AtOnce if paths.len() <= AT_ONCE => at_once(world, host, &paths, &hashes),
            Way::AtOnce => in_turn(world, host, &paths, AT_ONCE, &hashes),
            Way::Browser => in_turn(world, host, &paths, BROWSER_CONNECTIONS, &hashes),
            Way::Tar => tar(world, host, cid, &hashes),
        };
        let total = started.elapsed();
        settle(world);
        let (ttfb, error) = match fetched {
            Ok(ttfb) => (Sample::ms(ttfb), None),
            Err(error) => (0.0, Some(error.to_string())),
        };
        let after = contender.duplicates();
        out.samples.push(Sample {
            cid: cid.clone(),
            fault: way.label(),
            total_ms: Sample::ms(total),
            ttfb_ms: ttfb,
            wire_ratio: Some((world.star.emulator.totals().down_bytes() - wire) as f64 / bytes as f64),
            cpu_ms: contender.cpu().zip(cpu).map(|(after, before)| Sample::ms(after.saturating_sub(before))),
            duplicate_bytes: after.zip(duplicates).map(|(after, before)| after.saturating_sub(before)),
            udp_dropped: dropped.zip(world.star.udp_dropped()).map(|(before, after)| after.saturating_sub(before)),
            peak_memory: contender.peak_memory(),
            error,
            bound_ms,
            ..Sample::new(Scenario::Multi, &world.set.name, bytes, contender.name(), iteration)
        });
        contender.check()?;
    }
    Ok(())
}

/// The first byte of any, when all are there and right.
fn at_once(world: &World, host: SocketAddr, paths: &[String], hashes: &[[u8; 32]]) -> io::Result<Duration> {
    let all: io::Result<Vec<Fetched>> = std::thread::scope(|scope| {
        let get = |path: &String| {
            let path = path.clone();
            scope.spawn(move || client::get_in(&world.star.gateway, host, &path))
        };
        let all: Vec<_> = paths.iter().map(get).collect();
        all.into_iter().map(joined).collect()
    });
    first(&all?, hashes)
}

/// Connections that each take the next file when they are done with one.
fn in_turn(
    world: &World,
    host: SocketAddr,
    paths: &[String],
    connections: usize,
    hashes: &[[u8; 32]],
) -> io::Result<Duration> {
    let paths = std::sync::Arc::new(paths.to_vec());
    let next = std::sync::Arc::new(AtomicUsize::new(0));
    let lists: io::Result<Vec<Vec<(usize, Fetched)>>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..connections)
            .map(|_| {
                let (next, paths) = (next.clone(), paths.clone());
                scope.spawn(move || {
                    world.star.gateway.run(move || {
                        let stream = TcpStream::connect(host)?;
                        stream.set_nodelay(true)?;
                        let mut connection = Connection::new(stream, host)?;
                        let mut done = Vec::new();
                        loop {
                            let n = next.fetch_add(1, Ordering::Relaxed);
                            let Some(path) = paths.get(n) else { return Ok(done) };
                            done.push((n, connection.get(path)?));
                        }
                    })
                })
            })
            .collect();
        all.into_iter().map(joined).collect()
    });
    let mut all: Vec<(usize, Fetched)> = lists?.into_iter().flatten().collect();
    all.sort_by_key(|(n, _)| *n);
    let all: Vec<Fetched> = all.into_iter().map(|(_, fetched)| fetched).collect();
    first(&all, hashes)
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked")))
}

fn first(all: &[Fetched], hashes: &[[u8; 32]]) -> io::Result<Duration> {
    let right =
        all.len() == hashes.len() && all.iter().zip(hashes).all(|(one, hash)| one.status == 200 && one.sha256 == *hash);
    let first = all.iter().map(|one| one.ttfb).min().filter(|_| right);
    first.ok_or_else(|| io::Error::other("wrong bytes or an error among the files"))
}

fn tar(world: &World, host: SocketAddr, cid: &str, hashes: &[[u8; 32]]) -> io::Result<Duration> {
    let path = format!("/ipfs/{cid}?format=tar");
    let (fetched, body) = world.star.gateway.run(move || client::body(host, &path))?;
    if fetched.status != 200 {
        return Err(io::Error::other(format!("answered {} to format=tar", fetched.status)));
    }
    let mut files = files(&body)?;
    files.sort();
    if files.len() != hashes.len() || files.iter().zip(hashes).any(|((_, got), wanted)| got != wanted) {
        return Err(io::Error::other(format!("wrong bytes: {} files in the TAR", files.len())));
    }
    Ok(fetched.ttfb)
}

/// Name and hash of each plain file of a TAR (POSIX.1-1988 ustar).
fn files(mut tar: &[u8]) -> io::Result<Vec<(String, [u8; 32])>> {
    const RECORD: usize = 512;
    let mut files = Vec::new();
    while let Some((head, rest)) = tar.split_at_checked(RECORD) {
        if head.iter().all(|byte| *byte == 0) {
            return Ok(files);
        }
        let text = |range: std::ops::Range<usize>| {
            let bytes: Vec<u8> = head[range].iter().copied().take_while(|byte| *byte != 0).collect();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        };
        let length = usize::from_str_radix(&text(124..136), 8).map_err(io::Error::other)?;
        let (data, after) = rest.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        if matches!(head[156], b'0' | 0) {
            files.push((text(0..100), Sha256::digest(data).into()));
        }
        tar = after.get(length.next_multiple_of(RECORD) - length..).ok_or(io::ErrorKind::UnexpectedEof)?;
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_directory_is_sharded_by_its_names_and_its_files_are_told_apart_by_the_first_hundred_letters() {
        let [small, large] = DIRECTORIES;
        // A CIDv1 of SHA-256 is 36 bytes (boxo: HAMTShardingSize).
        let links = |directory: Directory| directory.files * (directory.name as u64 + 36);
        assert!(links(small) < 256 * 1024 && links(large) > 256 * 1024);
        assert_eq!(name(7, small.name), "0007");
        let names: std::collections::BTreeSet<String> =
            (0..large.files).map(|n| name(n, large.name)[..100].to_owned()).collect();
        assert_eq!((names.len() as u64, name(7, large.name).len()), (large.files, large.name));
        assert_eq!(Directory::of(&[5_000_000]), [small]);
        assert_eq!(Directory::of(&[4_096_000]), [large]);
    }

    #[test]
    fn the_files_of_a_tar_are_hashed_and_a_cut_one_is_an_error() {
        let mut bytes = Vec::new();
        for (name, kind, data) in [("d/", b'5', &b""[..]), ("d/b", b'0', &[1; 600]), ("d/a", b'0', b"xy")] {
            let mut head = [0u8; 512];
            head[..name.len()].copy_from_slice(name.as_bytes());
            head[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
            head[156] = kind;
            bytes.extend(head);
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        let whole = [&bytes[..], &[0; 1024]].concat();
        let wanted =
            [("d/b".to_owned(), Sha256::digest([1; 600]).into()), ("d/a".to_owned(), Sha256::digest(b"xy").into())];
        assert_eq!(files(&whole).unwrap(), wanted);
        assert!(files(&bytes).is_err() && files(&whole[..1_100]).is_err());
    }
}
