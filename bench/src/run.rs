//! The runner: builds worlds, takes contenders in turn, keeps every sample.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bound;
use crate::cell::Sample;
use crate::client::{self, Fetched};
use crate::contender::{Contender, Content, Transport};
use crate::net::emulator::Change;
use crate::net::link::Loss;
use crate::net::star::SelfTest;
use crate::scenario::{Fault, LinkSet, Scenario, iterations};
use crate::stats::{Summary, jain};
use crate::world::{Providers, World};

/// A cell's iterations end early at an interval of this half-width, as a share of the median, for every contender.
const PRECISION: f64 = 0.05;
/// Iterations before an early stop.
const LEAST: usize = 5;
/// What is fetched before each cell, so that windows are open.
const WARM_UP_BYTES: u64 = 5_000_000;
/// Of the S5 bound: a fresh QUIC connection takes two round trips to its first byte.
const DIAL_ROUND_TRIPS: f64 = 2.0;
const ROUTER_S: f64 = 0.030;
/// The directory of `multi`.
const FILES: u64 = 100;
const FILE_BYTES: u64 = 20_480;

pub struct Options {
    pub contenders: Vec<String>,
    pub providers: Providers,
    pub transport: Transport,
    pub congestion_control: String,
    pub seed: u64,
    pub scratch: PathBuf,
    pub quick: bool,
    /// Instead of RETRIEVAL.md's number.
    pub iterations: Option<usize>,
    pub sizes: Vec<u64>,
    /// Whether links are filled by iperf3 before the run.
    pub fill: bool,
}

/// What a run gathers.
#[derive(Default)]
pub struct Gathered {
    pub samples: Vec<Sample>,
    pub contenders: Vec<(String, String, Option<&'static str>)>,
    pub self_tests: Vec<(String, Vec<SelfTest>)>,
    pub emulator_load: Vec<(String, f64)>,
    pub notes: Vec<String>,
}

impl Gathered {
    fn met(&mut self, contender: &dyn Contender) {
        if !self.contenders.iter().any(|(name, ..)| name == contender.name()) {
            let known = (contender.name().to_owned(), contender.version().to_owned(), contender.remark());
            self.contenders.push(known);
        }
    }
}

/// Everything of `scenarios` on one set of links.
pub fn link_set(set: &LinkSet, scenarios: &[Scenario], options: &Options, out: &mut Gathered) -> io::Result<()> {
    eprintln!("links {}: {:?}", set.name, set.links);
    let needs_web = options.contenders.iter().any(|name| name == "aria2" || name == "nginx-warm");
    let mut world = World::new(set, options, needs_web)?;
    out.self_tests.push((set.name.clone(), world.star.self_test(options.fill)?));
    let started = Instant::now();
    let mut contenders = Vec::new();
    for name in &options.contenders {
        match world.contender(name)? {
            Some(contender) => {
                out.met(contender.as_ref());
                contenders.push(contender);
            }
            None => out.notes.push(format!("{name} is not installed, or does not take part on these links: left out.")),
        }
    }
    for &scenario in scenarios {
        match scenario {
            Scenario::Small | Scenario::Medium | Scenario::Large => {
                let own = options.sizes.clone();
                let sizes = if own.is_empty() { scenario.sizes(options.quick).to_vec() } else { own };
                for bytes in sizes {
                    transfers(&mut world, &mut contenders, scenario, bytes, options, out)?;
                }
            }
            Scenario::Multi => multi(&mut world, &mut contenders, options, out)?,
            Scenario::Cold => cold(&mut world, options, out)?,
            Scenario::Robust => {
                for fault in Fault::ALL {
                    robust(&mut world, &mut contenders, fault, options, out)?;
                }
                fairness(&mut world, &mut contenders, out)?;
            }
            Scenario::Warm => {}
        }
    }
    let load = world.star.emulator.totals().cpu_ns as f64 / started.elapsed().as_nanos() as f64;
    out.emulator_load.push((set.name.clone(), load));
    Ok(())
}

fn transfers(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    scenario: Scenario,
    bytes: u64,
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    warm_up(world, contenders)?;
    let limit = options.iterations.unwrap_or(if options.quick { LEAST.min(3) } else { iterations(bytes) });
    let bound_ms = Some(world.set.bound(bytes) * 1e3);
    let mut times = vec![Vec::new(); contenders.len()];
    for iteration in 0..limit {
        let made = world.file(bytes)?;
        for turn in 0..contenders.len() {
            // Everyone goes first equally often.
            let place = (turn + iteration) % contenders.len();
            let contender = contenders[place].as_mut();
            let fresh = Sample {
                scenario: scenario.as_str(),
                links: world.set.name.clone(),
                bytes,
                fault: None,
                contender: contender.name().to_owned(),
                iteration,
                total_ms: 0.0,
                ttfb_ms: 0.0,
                wire_ratio: None,
                cpu_ms: None,
                peak_memory: None,
                error: None,
                bound_ms,
            };
            let sample = measure(world, contender, &made.content, fresh, Box::new(|_| {}));
            contender.check()?;
            if sample.error.is_none() {
                times[place].push(sample.total_ms);
            }
            out.samples.push(sample);
        }
        world.forget(&made);
        let precise = |times: &Vec<f64>| Summary::of(times, options.seed).is_some_and(|s| s.precision() <= PRECISION);
        if iteration + 1 >= LEAST && times.iter().all(precise) {
            break;
        }
    }
    world.check()?;
    tell(out, scenario, &world.set.name, bytes);
    Ok(())
}

/// One timed fetch with all that is measured beside.
fn measure(
    world: &World,
    contender: &mut dyn Contender,
    content: &Content,
    mut sample: Sample,
    progress: Box<dyn FnMut(u64) + Send>,
) -> Sample {
    let (cpu, wire) = (contender.cpu(), world.star.emulator.totals().down_bytes());
    let fetched = contender.fetch(content, progress);
    // What is on the wire for nothing (losers of a hedge) still comes down: it belongs to this fetch.
    std::thread::sleep(Duration::from_millis(300));
    sample.wire_ratio = Some((world.star.emulator.totals().down_bytes() - wire) as f64 / content.bytes.max(1) as f64);
    sample.cpu_ms = contender.cpu().zip(cpu).map(|(after, before)| Sample::ms(after.saturating_sub(before)));
    sample.peak_memory = contender.peak_memory();
    match fetched.and_then(|fetched| verify(content, fetched)) {
        Ok(fetched) => {
            sample.total_ms = Sample::ms(fetched.total);
            sample.ttfb_ms = Sample::ms(fetched.ttfb);
        }
        Err(error) => sample.error = Some(error.to_string()),
    }
    sample
}

fn verify(content: &Content, fetched: Fetched) -> io::Result<Fetched> {
    if fetched.status != 200 {
        return Err(io::Error::other(format!("answered {}", fetched.status)));
    }
    if fetched.sha256 != content.sha256 {
        return Err(io::Error::other(format!("wrong bytes: {} of {}", fetched.bytes, content.bytes)));
    }
    Ok(fetched)
}

fn warm_up(world: &mut World, contenders: &mut [Box<dyn Contender>]) -> io::Result<()> {
    let made = world.file(WARM_UP_BYTES)?;
    for contender in contenders {
        let fetched = contender.fetch(&made.content, Box::new(|_| {}))?;
        verify(&made.content, fetched)?;
    }
    world.forget(&made);
    Ok(())
}

/// A hundred GETs at once, of a hundred files of one directory.
fn multi(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    warm_up(world, contenders)?;
    let bytes = FILES * FILE_BYTES;
    let bound_ms = Some(bound::bound(bytes, 2, &world.set.links, world.set.access_mbit) * 1e3);
    for iteration in 0..options.iterations.unwrap_or(if options.quick { 3 } else { 10 }) {
        let (made, hashes) = world.directory(FILES, FILE_BYTES)?;
        for turn in 0..contenders.len() {
            let place = (turn + iteration) % contenders.len();
            let contender = contenders[place].as_mut();
            let Some(host) = contender.host() else { continue };
            let (cpu, wire) = (contender.cpu(), world.star.emulator.totals().down_bytes());
            let started = Instant::now();
            let fetched = parallel(world, host, &made.content.cid, hashes.len());
            let total = started.elapsed();
            let (ttfb, error) = match fetched {
                Ok(all) if all.iter().zip(&hashes).all(|(one, hash)| one.sha256 == *hash) => {
                    (all.iter().map(|one| one.ttfb).min(), None)
                }
                Ok(_) => (None, Some("wrong bytes".to_owned())),
                Err(error) => (None, Some(error.to_string())),
            };
            std::thread::sleep(Duration::from_millis(300));
            out.samples.push(Sample {
                scenario: Scenario::Multi.as_str(),
                links: world.set.name.clone(),
                bytes,
                fault: None,
                contender: contender.name().to_owned(),
                iteration,
                total_ms: Sample::ms(total),
                ttfb_ms: ttfb.map(Sample::ms).unwrap_or_default(),
                wire_ratio: Some((world.star.emulator.totals().down_bytes() - wire) as f64 / bytes as f64),
                cpu_ms: contender.cpu().zip(cpu).map(|(after, before)| Sample::ms(after.saturating_sub(before))),
                peak_memory: contender.peak_memory(),
                error,
                bound_ms,
            });
            contender.check()?;
        }
    }
    tell(out, Scenario::Multi, &world.set.name, bytes);
    Ok(())
}

fn parallel(world: &World, host: SocketAddr, cid: &str, files: usize) -> io::Result<Vec<Fetched>> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..files)
            .map(|n| {
                let path = format!("/ipfs/{cid}/{n:04}");
                scope.spawn(move || client::get_in(&world.star.gateway, host, &path, |_| {}))
            })
            .collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked"))))
            .collect()
    })
}

/// Fresh programs, no connections, no rates; the router is asked when the request comes.
fn cold(world: &mut World, options: &Options, out: &mut Gathered) -> io::Result<()> {
    let router = world.router()?;
    let nearest = world.set.links.iter().map(|link| link.rtt_ms).fold(f64::INFINITY, f64::min) / 1e3;
    let sizes =
        if options.sizes.is_empty() { Scenario::Cold.sizes(options.quick).to_vec() } else { options.sizes.clone() };
    for bytes in sizes {
        let bound_ms = Some((ROUTER_S + DIAL_ROUND_TRIPS * nearest + world.set.bound(bytes)) * 1e3);
        for iteration in 0..options.iterations.unwrap_or(if options.quick { 2 } else { 10 }) {
            let made = world.file(bytes)?;
            for name in &options.contenders {
                let Some(mut contender) = world.cold_contender(name, router)? else { continue };
                let fresh = Sample {
                    scenario: Scenario::Cold.as_str(),
                    links: world.set.name.clone(),
                    bytes,
                    fault: None,
                    contender: name.clone(),
                    iteration,
                    total_ms: 0.0,
                    ttfb_ms: 0.0,
                    wire_ratio: None,
                    cpu_ms: None,
                    peak_memory: None,
                    error: None,
                    bound_ms,
                };
                out.met(&contender);
                let sample = measure(world, &mut contender, &made.content, fresh, Box::new(|_| {}));
                out.samples.push(sample);
            }
        }
        tell(out, Scenario::Cold, &world.set.name, bytes);
    }
    Ok(())
}

/// A fault while a transfer runs.
fn robust(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    fault: Fault,
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    let bytes = Scenario::Robust.sizes(options.quick)[0];
    warm_up(world, contenders)?;
    for iteration in 0..options.iterations.unwrap_or(if options.quick { 2 } else { 10 }) {
        let made = world.file(bytes)?;
        for contender in contenders.iter_mut().filter(|contender| contender.host().is_some()) {
            let emulator = world.star.emulator.clone();
            if let Some(loss) = fault.loss() {
                (1..world.set.links.len()).for_each(|link| emulator.change(Change::Loss(link, loss)));
            }
            if fault == Fault::Joins {
                emulator.change(Change::Stall(0));
            }
            let struck = Arc::new(AtomicBool::new(false));
            let at = fault.at().map(|share| (share * bytes as f64) as u64);
            let fast = world.set.links[0].mbit;
            // A daemon cannot be stopped through the emulator: a stalled link is as silent.
            let strike = {
                let (emulator, struck) = (emulator.clone(), struck.clone());
                move |done: u64| {
                    if at.is_some_and(|at| done >= at) && !struck.swap(true, Ordering::Relaxed) {
                        match fault {
                            Fault::Silent => emulator.change(Change::Stall(0)),
                            Fault::Dead => emulator.change(Change::Cut(0, true)),
                            Fault::Degraded => emulator.change(Change::Rate(0, 2.0)),
                            Fault::Joins => emulator.change(Change::Rate(0, fast)),
                            Fault::Lossy | Fault::Bursts => {}
                        }
                    }
                }
            };
            let fresh = Sample {
                scenario: Scenario::Robust.as_str(),
                links: world.set.name.clone(),
                bytes,
                fault: Some(fault.as_str()),
                contender: contender.name().to_owned(),
                iteration,
                total_ms: 0.0,
                ttfb_ms: 0.0,
                wire_ratio: None,
                cpu_ms: None,
                peak_memory: None,
                error: None,
                bound_ms: None,
            };
            let sample = measure(world, contender.as_mut(), &made.content, fresh, Box::new(strike));
            out.samples.push(sample);
            // Whole again, and time for transports to find out.
            emulator.change(Change::Cut(0, false));
            emulator.change(Change::Rate(0, fast));
            (0..world.set.links.len()).for_each(|link| emulator.change(Change::Loss(link, Loss::None)));
            std::thread::sleep(Duration::from_secs(2));
            contender.check()?;
        }
        world.forget(&made);
        warm_up(world, contenders)?;
    }
    tell(out, Scenario::Robust, &world.set.name, bytes);
    Ok(())
}

/// Eight downloads of 20 MB at once: Jain's index of their rates.
fn fairness(world: &mut World, contenders: &mut [Box<dyn Contender>], out: &mut Gathered) -> io::Result<()> {
    for contender in contenders {
        let Some(host) = contender.host() else { continue };
        let made: Vec<_> = (0..8).map(|_| world.file(20_000_000)).collect::<io::Result<_>>()?;
        let rates: io::Result<Vec<f64>> = std::thread::scope(|scope| {
            let gateway = &world.star.gateway;
            let all: Vec<_> = made
                .iter()
                .map(|made| {
                    scope.spawn(move || {
                        let path = format!("/ipfs/{}", made.content.cid);
                        let fetched = client::get_in(gateway, host, &path, |_| {})?;
                        verify(&made.content, fetched).map(|fetched| fetched.bytes as f64 / fetched.total.as_secs_f64())
                    })
                })
                .collect();
            all.into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked"))))
                .collect()
        });
        made.iter().for_each(|made| world.forget(made));
        let told = match rates.map(|rates| (jain(&rates), rates)) {
            Ok((Some(index), rates)) => {
                let mbit: Vec<String> = rates.iter().map(|rate| format!("{:.1}", rate * 8.0 / 1e6)).collect();
                format!("Jain {index:.3} ({} Mbit/s)", mbit.join(", "))
            }
            Ok((None, _)) => "nothing arrived".to_owned(),
            Err(error) => format!("failed: {error}"),
        };
        eprintln!("  fairness {}: {told}", contender.name());
        out.notes.push(format!(
            "Eight downloads of 20 MB at once on {}, {}: {told}.",
            world.set.name,
            contender.name()
        ));
    }
    Ok(())
}

/// The cell that just ended, on standard error.
fn tell(out: &Gathered, scenario: Scenario, links: &str, bytes: u64) {
    let of: Vec<Sample> = out
        .samples
        .iter()
        .filter(|sample| sample.scenario == scenario.as_str() && sample.links == links && sample.bytes == bytes)
        .cloned()
        .collect();
    for cell in crate::cell::cells(&of, 1) {
        let (total, bound) = (cell.total_ms, cell.bound_ms.map_or("–".to_owned(), |bound| format!("{bound:.0}")));
        eprintln!(
            "  {:7} {:8} {links} {bytes:>9} {:20} n={:<3} failed={} p50 {:>7.1} p95 {:>7.1} ms  bound {bound} η {} wire {}",
            cell.scenario,
            cell.fault.unwrap_or_default(),
            cell.contender,
            total.map_or(0, |total| total.n),
            cell.failed,
            total.map_or(f64::NAN, |total| total.p50),
            total.map_or(f64::NAN, |total| total.p95),
            cell.efficiency.map_or("–".to_owned(), |share| format!("{share:.2}")),
            cell.wire_ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}")),
        );
    }
}

/// Where a run leaves its temporary files.
pub fn scratch(parent: &Path) -> io::Result<PathBuf> {
    let path = parent.join(format!("tidegate-bench-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}
