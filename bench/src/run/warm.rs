//! Warm cache: wrk over loopback, without an emulator, against Tidegate, Kubo's gateway and nginx on the same bytes: whole
//! files, a range of the largest, a validator of the smallest (304), and the listing of a directory, which each server
//! writes in its own way. Server and client have a core each where the machine has two.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::{Gathered, Options, verify};
use crate::client;
use crate::contender::kubo::Kubo;
use crate::contender::tidegate;
use crate::contender::web::{self, Nginx};
use crate::contender::{self, Content, Gateway, Scratch};
use crate::net::namespace::{Namespace, succeed};
use crate::stats::percentile;
use crate::world::write_random;

const CONNECTIONS: [u32; 2] = [1, 32];
const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Of one measurement, and measurements of each server and content, in turn; the median counts.
const SECONDS: u64 = 2;
const ROUNDS: usize = 3;

/// What of the largest file is asked for as a range, where it is that long: its second megabyte's first tenth.
const RANGE: std::ops::Range<u64> = 1_000_000..1_100_000;
/// Files of the directory that is listed.
const LISTED: usize = 100;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    File,
    Range,
    NotModified,
    Listing,
}

/// One server, one request, one number of connections: medians of the rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Warm {
    pub contender: String,
    pub what: What,
    /// Of the body.
    pub bytes: u64,
    pub connections: u32,
    pub p50_us: f64,
    pub p99_us: f64,
    pub requests_per_s: f64,
    pub rounds: usize,
    pub cid: String,
}

struct Target {
    name: String,
    host: SocketAddr,
    /// By CID; else by name.
    ipfs: bool,
}

/// The same request to each server.
struct Case {
    what: What,
    cid: String,
    asked: Vec<Asked>,
}

struct Asked {
    path: String,
    header: Option<String>,
    bytes: u64,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Range => "range",
            Self::NotModified => "304",
            Self::Listing => "listing",
        }
    }
}

/// What wrk tells.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Told {
    p50_us: f64,
    p99_us: f64,
    requests_per_s: f64,
}

pub fn run(sizes: &[u64], options: &Options, out: &mut Gathered) -> io::Result<()> {
    if contender::first_line("wrk", &["-v"]).is_none() {
        out.notes.push("wrk is not installed: the warm scenario was left out.".to_owned());
        return Ok(());
    }
    let pinned = std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2);
    if !pinned {
        out.notes.push("Warm: one core for server and client.".to_owned());
    }
    let namespace = Namespace::new("warm")?;
    let server = if pinned { namespace.on_core(SERVER_CORE) } else { namespace.clone() };
    let scratch = Scratch::new(&options.scratch, "warm")?;
    let mut targets: Vec<Target> = Vec::new();
    let mut files = Vec::new();
    for (n, &bytes) in sizes.iter().enumerate() {
        let path = scratch.0.join(format!("file-{n}"));
        let sha256 = write_random(&path, bytes, options.seed ^ (0x5716 + n as u64))?;
        files.push((path, bytes, sha256));
    }
    let folder = scratch.0.join("listed");
    std::fs::create_dir(&folder)?;
    for n in 0..LISTED {
        std::fs::write(folder.join(format!("file {n:03}.txt")), format!("{n}\n"))?;
    }

    let data = Scratch::new(&scratch.0, "tidegate")?;
    let serve = tidegate::command(&server, &data.0, "127.0.0.1:0")?;
    let ours: Gateway = tidegate::start(&server, data, serve, "tidegate-optimized")?;
    out.met(&ours);
    targets.push(Target { name: ours.name.clone(), host: ours.host, ipfs: true });
    let listed = tidegate::add(&server, &ours._data.0, &folder)?;
    let mut contents = Vec::new();
    for (path, bytes, sha256) in &files {
        let cid = tidegate::add(&server, &ours._data.0, path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        contents.push(Content { cid, bytes: *bytes, sha256: *sha256, name });
    }
    let mut kept = vec![ours];
    if options.contenders.iter().any(|name| name == "kubo") {
        let kubo = Kubo::start(&server, &scratch.0, &[], None)?;
        for ((path, ..), content) in files.iter().zip(&contents) {
            let cid = kubo.add(path)?;
            if cid != content.cid {
                return Err(io::Error::other(format!(
                    "Kubo and Tidegate do not agree on a CID: {cid}, {}",
                    content.cid
                )));
            }
        }
        let also = kubo.add(&folder)?;
        if also != listed {
            return Err(io::Error::other(format!("Kubo and Tidegate do not agree on a CID: {also}, {listed}")));
        }
        let gateway = kubo.into_gateway("kubo")?;
        out.met(&gateway);
        targets.push(Target { name: gateway.name.clone(), host: gateway.host, ipfs: true });
        kept.push(gateway);
    }
    let mut nginx = None;
    if let Some(version) = web::version() {
        let running = Nginx::start(&server, &scratch.0, "127.0.0.1")?;
        for ((path, ..), content) in files.iter().zip(&contents) {
            running.add(path, &content.name)?;
        }
        running.add_folder(&folder, "listed")?;
        out.contenders.push(("nginx".to_owned(), version, Some("static files, sendfile, one worker (warm scenario)")));
        let host = SocketAddr::from(([127, 0, 0, 1], web::PORT));
        targets.push(Target { name: "nginx".to_owned(), host, ipfs: false });
        nginx = Some(running);
    }

    let (rounds, seconds) = if options.quick { (1, 1) } else { (options.iterations.unwrap_or(ROUNDS), SECONDS) };
    let client = if pinned { namespace.on_core(CLIENT_CORE) } else { namespace.clone() };
    for case in cases(&namespace, &targets, &contents, &listed)? {
        for connections in CONNECTIONS {
            let mut told: Vec<Vec<Told>> = vec![Vec::new(); targets.len()];
            for round in 0..rounds {
                for turn in 0..targets.len() {
                    let place = (turn + round) % targets.len();
                    told[place].push(wrk(&client, targets[place].host, &case.asked[place], connections, seconds)?);
                }
            }
            for ((target, asked), told) in targets.iter().zip(&case.asked).zip(&told) {
                let median = |value: fn(&Told) -> f64| {
                    let mut values: Vec<f64> = told.iter().map(value).collect();
                    values.sort_by(f64::total_cmp);
                    percentile(&values, 0.5).ok_or_else(|| io::Error::other("no round was measured"))
                };
                let warm = Warm {
                    contender: target.name.clone(),
                    what: case.what,
                    bytes: asked.bytes,
                    connections,
                    p50_us: median(|told| told.p50_us)?,
                    p99_us: median(|told| told.p99_us)?,
                    requests_per_s: median(|told| told.requests_per_s)?,
                    rounds: told.len(),
                    cid: case.cid.clone(),
                };
                eprintln!(
                    "  warm {:8} {:>9} {:20} {:>2} connections: p50 {:.0} µs, p99 {:.0} µs, {:.0} requests/s",
                    warm.what.as_str(),
                    warm.bytes,
                    warm.contender,
                    warm.connections,
                    warm.p50_us,
                    warm.p99_us,
                    warm.requests_per_s
                );
                out.warm.push(warm);
            }
        }
    }
    for gateway in &mut kept {
        contender::Contender::check(gateway)?;
    }
    nginx.iter_mut().try_for_each(Nginx::check)
}

/// The requests to measure. Everything has been asked for three times by then, so that it is in memory, and every file had
/// the right bytes.
fn cases(namespace: &Namespace, targets: &[Target], contents: &[Content], listed: &str) -> io::Result<Vec<Case>> {
    let path = |target: &Target, content: &Content| match target.ipfs {
        true => format!("/ipfs/{}", content.cid),
        false => format!("/{}", content.name),
    };
    let mut cases = Vec::new();
    for content in contents {
        let ask = |target: &Target| -> io::Result<Asked> {
            for _ in 0..3 {
                verify(content, client::get_in(namespace, target.host, &path(target, content))?)?;
            }
            Ok(Asked { path: path(target, content), header: None, bytes: content.bytes })
        };
        let asked = targets.iter().map(ask).collect::<io::Result<_>>()?;
        cases.push(Case { what: What::File, cid: content.cid.clone(), asked });
    }
    if let Some(largest) = contents.iter().max_by_key(|content| content.bytes).filter(|c| c.bytes >= RANGE.end) {
        let header = format!("Range: bytes={}-{}", RANGE.start, RANGE.end - 1);
        let bytes = RANGE.end - RANGE.start;
        let ask = |target| Asked { path: path(target, largest), header: Some(header.clone()), bytes };
        cases.push(Case { what: What::Range, cid: largest.cid.clone(), asked: targets.iter().map(ask).collect() });
    }
    if let Some(smallest) = contents.iter().min_by_key(|content| content.bytes) {
        let ask = |target: &Target| -> io::Result<Asked> {
            let etag = client::etag_in(namespace, target.host, &path(target, smallest))?;
            Ok(Asked { path: path(target, smallest), header: Some(format!("If-None-Match: {etag}")), bytes: 0 })
        };
        let asked = targets.iter().map(ask).collect::<io::Result<_>>()?;
        cases.push(Case { what: What::NotModified, cid: smallest.cid.clone(), asked });
    }
    let ask = |target: &Target| -> io::Result<Asked> {
        let path = if target.ipfs { format!("/ipfs/{listed}/") } else { "/listed/".to_owned() };
        let mut bytes = 0;
        for _ in 0..3 {
            let fetched = client::get_in(namespace, target.host, &path)?;
            if fetched.status != 200 {
                return Err(io::Error::other(format!("{} answered {} for {path}", target.name, fetched.status)));
            }
            bytes = fetched.bytes;
        }
        Ok(Asked { path, header: None, bytes })
    };
    let asked = targets.iter().map(ask).collect::<io::Result<_>>()?;
    cases.push(Case { what: What::Listing, cid: listed.to_owned(), asked });
    Ok(cases)
}

fn wrk(client: &Namespace, host: SocketAddr, asked: &Asked, connections: u32, seconds: u64) -> io::Result<Told> {
    let mut wrk = client.command("wrk");
    wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency"]);
    if let Some(header) = &asked.header {
        wrk.args(["-H", header]);
    }
    let output = wrk.arg(format!("http://{host}{}", asked.path)).output()?;
    succeed("wrk", &output)?;
    told(&String::from_utf8_lossy(&output.stdout))
}

/// Reads what wrk 4 prints. Answers that are not 200 and broken connections are errors.
fn told(text: &str) -> io::Result<Told> {
    let wrong = || io::Error::other(format!("wrk said: {text}"));
    let mut found = [None; 3];
    for line in text.lines().map(str::trim) {
        if line.starts_with("Non-2xx") || line.starts_with("Socket errors") {
            return Err(wrong());
        }
        let value = line.split_whitespace().nth(1).unwrap_or_default();
        if line.starts_with("50% ") {
            found[0] = micros(value);
        } else if line.starts_with("99% ") {
            found[1] = micros(value);
        } else if line.starts_with("Requests/sec:") {
            found[2] = value.parse().ok();
        }
    }
    let [Some(p50_us), Some(p99_us), Some(requests_per_s)] = found else { return Err(wrong()) };
    Ok(Told { p50_us, p99_us, requests_per_s })
}

/// `28.00us`, `1.25ms`, `2.00s`.
fn micros(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    let one = match &text[unit..] {
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        _ => return None,
    };
    Some(number * one.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 2s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   330.60us  212.84us   8.30ms   98.96%\n    Req/Sec    98.02k     5.03k  105.10k    70.00%\n  Latency Distribution\n     50%  316.00us\n     75%  352.00us\n     90%  401.00us\n     99%    1.25ms\n  195012 requests in 2.00s, 212.18MB read\nRequests/sec:  97490.31\nTransfer/sec:    106.07MB\n";

    #[test]
    fn what_wrk_prints_is_read_and_errors_in_it_are_errors() {
        assert_eq!(told(SAID).unwrap(), Told { p50_us: 316.0, p99_us: 1250.0, requests_per_s: 97490.31 });
        assert!(told(&SAID.replace("Requests/sec:", "  Non-2xx or 3xx responses: 4\nRequests/sec:")).is_err());
        assert!(told(&SAID.replace("Transfer", "  Socket errors: connect 0, read 2, write 0, timeout 0\nT")).is_err());
        assert!(told("").is_err());
    }
}
