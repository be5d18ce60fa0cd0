//! The runner: builds worlds, takes contenders in turn, keeps every sample.

mod cold;
pub mod multi;
mod robust;
pub mod warm;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cell::Sample;
use crate::client::Fetched;
use crate::contender::{Contender, Content, Transport};
use crate::net::star::SelfTest;
use crate::providers::Providers;
use crate::scenario::{Fault, LinkSet, Scenario, iterations};
use crate::stats::Summary;
use crate::world::World;

/// A cell's iterations end early at an interval of this half-width, as a share of the median, for every contender.
const PRECISION: f64 = 0.05;
/// Iterations before an early stop.
const LEAST: usize = 5;
/// What is fetched before each cell, so that windows are open.
const WARM_UP_BYTES: u64 = 5_000_000;
/// After the last byte, losers of a hedge still come down slow links: they belong to this fetch, and must not slow the next
/// contender's. Links are quiet when less than this comes down in this time; no longer than that is waited.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_BYTES: u64 = 8_000;
const QUIET_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
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
    /// Instead of all.
    pub faults: Vec<Fault>,
    /// Whether links are filled by iperf3 before the run.
    pub fill: bool,
    /// Where Tidegate's own account of each retrieval goes.
    pub explain: Option<PathBuf>,
    /// Samples of an earlier run that this one goes on with.
    pub earlier: Arc<Vec<Sample>>,
}

/// What a run gathers.
#[derive(Default)]
pub struct Gathered {
    pub samples: Vec<Sample>,
    pub warm: Vec<warm::Warm>,
    pub contenders: Vec<(String, String, Option<&'static str>)>,
    /// Name of a set, what its links are like, what they measured.
    pub self_tests: Vec<(String, Vec<SelfTest>)>,
    /// CPU time of the emulator / wall time, and of all programs of the machine / its cores.
    pub load: Vec<(String, f64, Option<f64>)>,
    /// Contender, Jain's index of eight downloads at once.
    pub fairness: Vec<(String, f64)>,
    pub notes: Vec<String>,
    /// Where samples are kept after each cell.
    pub keep: Option<PathBuf>,
}

impl Gathered {
    fn met(&mut self, contender: &dyn Contender) {
        if !self.contenders.iter().any(|(name, ..)| name == contender.name()) {
            let known = (contender.name().to_owned(), contender.version().to_owned(), contender.remark());
            self.contenders.push(known);
        }
    }

    /// Somebody takes no part.
    fn leave(&mut self, why: String) {
        eprintln!("  {why}: left out");
        self.notes.push(format!("{why}: left out."));
    }
}

/// Everything of `scenarios` on one set of links.
pub fn link_set(set: &LinkSet, scenarios: &[Scenario], options: &Options, out: &mut Gathered) -> io::Result<()> {
    let links: Vec<String> = set.links.iter().map(ToString::to_string).collect();
    eprintln!("links {}: {} (Mbit/s / round trip ms)", set.name, links.join(", "));
    if scenarios.contains(&Scenario::Unseen) {
        out.notes.push(format!("{}: {}; transport {:?}.", set.name, links.join(", "), options.transport));
    }
    let needs_web = options.contenders.iter().any(|name| name == "aria2" || name == "nginx-warm");
    let mut world = World::new(set, options, needs_web)?;
    out.self_tests.push((set.name.clone(), world.star.self_test(options.fill, &set.dead(), !options.quick)?));
    let (started, busy) = (Instant::now(), crate::machine::busy());
    let mut contenders = Vec::new();
    if !set.is_adverse() {
        for name in &options.contenders {
            if lingers(name, set, options) {
                out.leave(format!("{name} takes too long on {} for a quick run", set.name));
                continue;
            }
            match world.contender(name)? {
                Some(contender) => {
                    out.met(contender.as_ref());
                    contenders.push(contender);
                }
                None => out.leave(world.absence(name)),
            }
        }
    }
    for &scenario in scenarios {
        let own = &options.sizes;
        let sizes = if own.is_empty() { scenario.sizes(options.quick) } else { own };
        match scenario {
            Scenario::Small | Scenario::Medium | Scenario::Large | Scenario::Unseen => {
                for &bytes in sizes {
                    transfers(&mut world, &mut contenders, scenario, bytes, options, out)?;
                }
            }
            Scenario::Multi => multi::run(&mut world, &mut contenders, sizes, options, out)?,
            Scenario::Cold => cold::run(&mut world, sizes, options, out)?,
            Scenario::Robust if set.is_adverse() || set.name == "D-P1" => {
                sizes.iter().try_for_each(|&bytes| robust::adverse(&mut world, bytes, options, out))?;
            }
            Scenario::Robust => {
                for &bytes in sizes {
                    let own = &options.faults;
                    let faults = if options.quick { &[Fault::Dead][..] } else { &Fault::ALL };
                    if own.is_empty() {
                        robust::adverse(&mut world, bytes, options, out)?;
                    }
                    for &fault in faults.iter().filter(|fault| own.is_empty() || own.contains(fault)) {
                        robust::fault(&mut world, &mut contenders, fault, bytes, options, out)?;
                    }
                }
                if !options.quick && options.faults.is_empty() {
                    robust::fairness(&mut world, &mut contenders, out)?;
                }
            }
            Scenario::Warm => {}
        }
    }
    let load = world.star.emulator.totals().cpu_ns as f64 / started.elapsed().as_nanos() as f64;
    let machine = crate::machine::busy().zip(busy).and_then(|(after, before)| after.since(before));
    out.load.push((set.name.clone(), load, machine));
    Ok(())
}

/// Helia asks every provider for everything: after each fetch a slow link brings for many seconds what nobody needs, too
/// long for a quick look.
fn lingers(name: &str, set: &LinkSet, options: &Options) -> bool {
    options.quick && name == "helia" && set.links.len() > 1
}

fn transfers(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    scenario: Scenario,
    bytes: u64,
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    if resumed(out, options, scenario, &world.set.name, bytes, None) {
        return Ok(());
    }
    warm_up(world, contenders)?;
    let limit = options.iterations.unwrap_or(match scenario {
        _ if options.quick => 2,
        Scenario::Unseen => LEAST,
        _ => iterations(bytes),
    });
    let bound_ms = Some(world.bound(bytes) * 1e3);
    let mut times = vec![Vec::new(); contenders.len()];
    for iteration in 0..limit {
        let made = world.file(bytes)?;
        for turn in 0..contenders.len() {
            // Everyone goes first equally often.
            let place = (turn + iteration) % contenders.len();
            let contender = contenders[place].as_mut();
            let fresh =
                Sample { bound_ms, ..Sample::new(scenario, &world.set.name, bytes, contender.name(), iteration) };
            let sample = measure(world, contender, &made.content, fresh, options);
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
    tell(out, scenario, &world.set.name, bytes, None);
    Ok(())
}

/// One timed fetch with all that is measured beside.
fn measure(
    world: &World,
    contender: &mut dyn Contender,
    content: &Content,
    mut sample: Sample,
    options: &Options,
) -> Sample {
    sample.cid.clone_from(&content.cid);
    let (cpu, duplicates) = (contender.cpu(), contender.duplicates());
    let (wire, dropped) = (world.star.emulator.totals().down_bytes(), world.star.udp_dropped());
    let fetched = contender.fetch(content);
    settle(world);
    sample.udp_dropped = dropped.zip(world.star.udp_dropped()).map(|(before, after)| after.saturating_sub(before));
    let wire = world.star.emulator.totals().down_bytes() - wire;
    sample.wire_ratio = Some(wire as f64 / content.bytes.max(1) as f64);
    sample.cpu_ms = contender.cpu().zip(cpu).map(|(after, before)| Sample::ms(after.saturating_sub(before)));
    sample.duplicate_bytes = contender.duplicates().zip(duplicates).map(|(after, before)| after.saturating_sub(before));
    sample.peak_memory = contender.peak_memory();
    match fetched.and_then(|fetched| verify(content, fetched)) {
        Ok(fetched) => {
            sample.total_ms = Sample::ms(fetched.total);
            sample.ttfb_ms = Sample::ms(fetched.ttfb);
        }
        Err(error) => sample.error = Some(error.to_string()),
    }
    if let Some(dir) = &options.explain
        && let Some(account) = contender.explain(&content.cid)
    {
        let Sample { scenario, links, bytes, contender, iteration, .. } = &sample;
        let fault = sample.fault.unwrap_or("whole");
        let name = format!("{scenario}-{links}-{bytes}-{fault}-{contender}-{iteration}.json");
        let written = std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(dir.join(name), serde_json::to_vec_pretty(&account)?));
        if let Err(error) = written {
            eprintln!("  the account of {} could not be kept: {error}", content.cid);
        }
    }
    sample
}

/// Waits until the links are quiet.
fn settle(world: &World) {
    let deadline = Instant::now() + QUIET_LIMIT;
    loop {
        let before = world.star.emulator.totals().down_bytes();
        std::thread::sleep(QUIET);
        if world.star.emulator.totals().down_bytes() - before < QUIET_BYTES || Instant::now() > deadline {
            return;
        }
    }
}

fn verify(content: &Content, fetched: Fetched) -> io::Result<Fetched> {
    if fetched.status != 200 {
        return Err(io::Error::other(format!(
            "answered {} after {:.1} s",
            fetched.status,
            fetched.total.as_secs_f64()
        )));
    }
    if fetched.sha256 != content.sha256 {
        return Err(io::Error::other(format!("wrong bytes: {} of {}", fetched.bytes, content.bytes)));
    }
    Ok(fetched)
}

fn warm_up(world: &mut World, contenders: &mut [Box<dyn Contender>]) -> io::Result<()> {
    let made = world.harmless_file(WARM_UP_BYTES)?;
    for contender in contenders {
        let fetched = contender.fetch(&made.content)?;
        verify(&made.content, fetched).map_err(|error| {
            io::Error::other(format!("the warm-up of {} on {}: {error}", contender.name(), world.set.name))
        })?;
        settle(world);
    }
    world.forget(&made);
    Ok(())
}

/// Takes the cell from an earlier run, if it is there.
fn resumed(
    out: &mut Gathered,
    options: &Options,
    scenario: Scenario,
    links: &str,
    bytes: u64,
    fault: Option<&str>,
) -> bool {
    let known = crate::resume::cell(&options.earlier, scenario, links, bytes, fault, &options.contenders);
    let Some(known) = known else { return false };
    out.samples.extend(known);
    tell(out, scenario, links, bytes, fault);
    true
}

/// The cell that just ended, on standard error; its samples are kept.
fn tell(out: &Gathered, scenario: Scenario, links: &str, bytes: u64, fault: Option<&str>) {
    if let Some(file) = &out.keep
        && let Err(error) = std::fs::write(file, crate::report::csv(&out.samples))
    {
        eprintln!("  {}: {error}", file.display());
    }
    let here = |sample: &&Sample| {
        (sample.scenario, sample.links.as_str(), sample.bytes, sample.fault) == (scenario.as_str(), links, bytes, fault)
    };
    let of: Vec<Sample> = out.samples.iter().filter(here).cloned().collect();
    for cell in crate::cell::cells(&of, 1) {
        let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
        let ratio = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
        let total = cell.total_ms;
        eprintln!(
            "  {:7} {:8} {links} {bytes:>9} {:20} n={:<3} failed={} p50 {:>7} p95 {:>7} ms  bound {} η {} wire {} dup {}",
            cell.scenario,
            cell.fault.unwrap_or_default(),
            cell.contender,
            total.map_or(0, |total| total.n),
            cell.failed,
            number(total.map(|total| total.p50)),
            number(total.map(|total| total.p95)),
            number(cell.bound_ms),
            ratio(cell.efficiency),
            ratio(cell.wire_ratio),
            ratio(cell.duplicate_share),
        );
    }
}

/// Where a run leaves its temporary files.
pub fn scratch(parent: &Path) -> io::Result<PathBuf> {
    let path = parent.join(format!("tidegate-bench-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}
