//! `tidegate-bench`: real programs over emulated links, one timing method, every sample kept.
//!
//! Needs root (network namespaces and TUN devices of its own), `ip`, `ping`, a built `tidegate` and Kubo; nginx, aria2 and
//! iperf3 take part when they are installed. All traffic stays inside the namespaces.

mod adversary;
mod bound;
mod car;
mod cell;
mod client;
mod contender;
mod machine;
mod net;
mod process;
mod providers;
mod report;
mod resume;
mod router;
mod run;
mod scenario;
mod stats;
mod world;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand, ValueEnum};

use contender::{Scratch, Transport};
use net::star::Star;
use providers::Providers;
use run::{Gathered, Options};
use scenario::{Fault, LinkSet, Scenario};

#[derive(Parser)]
#[command(version, about = "Measures Tidegate against other programs over emulated links")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "made once")]
enum Command {
    /// Measure, and write report.md, samples.csv and run.json.
    Run(RunArgs),
    /// Make the links of a set, ping and fill them, and say what they are like.
    SelfTest {
        /// A, D, E, W, or random:SEED:HOW_MANY.
        #[arg(default_value = "D")]
        links: String,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// What to measure: small, medium, large, multi, cold, warm, robust, unseen; `all` is every one.
    #[arg(long, default_value = "all", value_delimiter = ',')]
    scenario: Vec<String>,
    /// Link sets instead of the scenarios' own: A, D, E, W, D+, D+KIND, Dcorrupt, D-P1, Dlate, or random:SEED:HOW_MANY.
    #[arg(long, value_delimiter = ',')]
    links: Vec<String>,
    /// Contents in bytes instead of the scenarios' own.
    #[arg(long, value_delimiter = ',')]
    size: Vec<u64>,
    /// Faults of `robust` instead of all.
    #[arg(long, value_enum, value_delimiter = ',')]
    fault: Vec<Fault>,
    /// Who takes part: tidegate-optimized, tidegate-standard, kubo, helia, rainbow, aria2, nginx-warm.
    #[arg(long, value_delimiter = ',', default_value = "tidegate-optimized,tidegate-standard,kubo")]
    contenders: Vec<String>,
    /// Which programs have the contents.
    #[arg(long, value_enum, default_value_t = Providers::Kubo)]
    providers: Providers,
    /// Transport to the providers. Default: quic; both for `unseen`, as a lossy link needs TCP (Kubo sends QUIC by Reno).
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    /// TCP congestion control inside the namespaces.
    #[arg(long, default_value = "bbr")]
    congestion_control: String,
    /// Iterations of a cell, instead of RETRIEVAL.md's.
    #[arg(long)]
    n: Option<usize>,
    /// Of contents, losses, intervals and unseen links. Default: the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// A functional check in minutes: few sizes, few iterations; fails on wrong bytes, failures and duplicates, never on time.
    #[arg(long)]
    quick: bool,
    /// Do not fill the links by iperf3 before the run.
    #[arg(long)]
    no_fill: bool,
    /// Keep Tidegate's own account of every retrieval (attempts, events) in OUT/explain.
    #[arg(long)]
    explain: bool,
    /// Go on with the run in OUT that was broken off: its cells are not measured again. Same build, same seed.
    #[arg(long)]
    resume: bool,
    /// Send the results to the Tidegate whose admin listener is at this URL; TIDEGATE_TOKEN has a token, if one is needed.
    #[arg(long, value_name = "URL")]
    post: Option<String>,
    /// Whose transfers are sent as those of the standard policy.
    #[arg(long, default_value = "tidegate-standard")]
    post_standard: String,
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => match unable() {
            Some(why) => missing(&why, args.quick),
            None => run(&args),
        },
        Command::SelfTest { links } => self_test(&links),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why no network of our own can be made here; `None`: it can.
fn unable() -> Option<String> {
    let made = net::namespace::Namespace::new("try").and_then(|namespace| namespace.tun("try0").map(drop));
    made.err().map(|error| format!("network namespaces and TUN devices cannot be made here (they need root): {error}"))
}

/// A quick run is skipped where it cannot work, with a word; but not in CI as root, where it has to.
fn missing(why: &str, quick: bool) -> io::Result<ExitCode> {
    // SAFETY: a call without arguments that cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if quick && !(in_ci() && root) {
        println!("SKIPPED: the quick benchmark did not run: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    Err(io::Error::other(why.to_owned()))
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

fn self_test(name: &str) -> io::Result<ExitCode> {
    for set in link_sets(name)? {
        let star = Star::new(&set.links, set.access_mbit, "bbr", 1)?;
        for test in star.self_test(true, &[], true)? {
            println!("{} {}", set.name, serde_json::to_string(&test)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One set by its name, or several that are drawn: `random:SEED:HOW_MANY`.
fn link_sets(name: &str) -> io::Result<Vec<LinkSet>> {
    let drawn = || -> Option<Vec<LinkSet>> {
        let (seed, count) = name.strip_prefix("random:")?.split_once(':')?;
        let (seed, count): (u64, u64) = (seed.parse().ok()?, count.parse().ok()?);
        Some((0..count).map(|place| LinkSet::random(seed, place)).collect())
    };
    let found = drawn().or_else(|| LinkSet::named(name).map(|set| vec![set]));
    found.ok_or_else(|| io::Error::other(format!("no link set {name:?}")))
}

const PRIORITY: libc::c_int = -10;

/// Sets that are drawn for `unseen`.
const UNSEEN_SETS: u64 = 10;
const UNSEEN_SETS_QUICK: u64 = 1;

fn run(args: &RunArgs) -> io::Result<ExitCode> {
    // Everything that is measured, and what measures it, goes before what else the machine does; children inherit it.
    // SAFETY: a call with numbers. Where it is not allowed nothing changes, and the report tells how busy the machine was.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, PRIORITY) };
    let (scenarios, left_out) = measured(scenarios(&args.scenario)?, args.providers)?;
    // In CI nobody reads that a contender was left out.
    if in_ci()
        && args.contenders.iter().any(|name| name == "helia")
        && let Some(why) = contender::helia::missing()
    {
        return Err(io::Error::other(why));
    }
    let started = Instant::now();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let earlier = if args.resume { resume::load(&args.out)? } else { None };
    let (known_seed, earlier) = earlier.map_or((None, Vec::new()), |(seed, samples)| (Some(seed), samples));
    if known_seed.is_some_and(|known| args.seed.is_some_and(|wanted| wanted != known)) {
        return Err(io::Error::other(format!("the earlier run's seed is {}", known_seed.unwrap_or_default())));
    }
    let seed = known_seed.or(args.seed).unwrap_or(clock);
    eprintln!("seed {seed}");
    let scratch = Scratch(run::scratch(&std::env::temp_dir())?);
    let options = Options {
        contenders: args.contenders.clone(),
        providers: args.providers,
        transport: args.transport.unwrap_or(Transport::Quic),
        congestion_control: args.congestion_control.clone(),
        seed,
        scratch: scratch.0.clone(),
        quick: args.quick,
        iterations: args.n,
        sizes: args.size.clone(),
        faults: args.fault.clone(),
        fill: !args.no_fill && !args.quick,
        explain: args.explain.then(|| args.out.join("explain")),
        earlier: earlier.into(),
    };
    let mut report = report::Run {
        id: format!("bench-{clock}"),
        seed,
        command: std::env::args().skip(1).fold("tidegate-bench".to_owned(), |all, one| all + " " + &one),
        congestion_control: args.congestion_control.clone(),
        providers: args.providers.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
        transport: match args.providers.over_http() {
            true => "HTTP".to_owned(),
            false => options.transport.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
        },
        machine: machine::Machine::read(),
        contenders: Vec::new(),
        self_tests: Vec::new(),
        load: Vec::new(),
        fairness: Vec::new(),
        warm: Vec::new(),
        gates: Vec::new(),
        notes: Vec::new(),
    };
    let mut out = Gathered { keep: Some(args.out.join("samples.csv")), ..Gathered::default() };
    out.notes.extend(left_out);
    if args.providers == Providers::Nginx {
        let version = contender::web::version().ok_or_else(|| io::Error::other("nginx is not installed"))?;
        out.notes.push(format!("Providers: {version}, one worker each, HTTP/1.1; raw blocks and CARs as files."));
    }
    let mut failure = None;
    out.contenders
        .extend(contender::tidegate::version().map(|version| ("tidegate-optimized".to_owned(), version, None)));
    out.samples.clone_from(&options.earlier);
    publish(&args.out, &mut report, &out)?;
    out.samples.clear();
    for (set, here) in plan(args, &scenarios, seed)? {
        // What was measured is worth keeping, whatever comes after.
        let unseen = args.transport.is_none() && here.contains(&Scenario::Unseen);
        let transport = if unseen { Transport::Both } else { options.transport };
        if let Err(error) = run::link_set(&set, &here, &Options { transport, ..options.clone() }, &mut out) {
            out.notes.push(format!("{} ended early: {error}.", set.name));
            eprintln!("{}: {error}", set.name);
            failure = Some(error);
        }
        publish(&args.out, &mut report, &out)?;
    }
    if scenarios.contains(&Scenario::Warm) && args.links.is_empty() {
        let sizes = if args.size.is_empty() { Scenario::Warm.sizes(args.quick).to_vec() } else { args.size.clone() };
        if let Err(error) = run::warm::run(&sizes, &options, &mut out) {
            out.notes.push(format!("warm ended early: {error}."));
            eprintln!("warm: {error}");
            failure = Some(error);
        }
    }
    let cells = publish(&args.out, &mut report, &out)?;
    println!("{}", report::markdown(&report, &cells));
    eprintln!("{:.0} s; {}", started.elapsed().as_secs_f64(), args.out.display());
    let results = report::post::results(&report, &out.samples, &out.warm, &args.post_standard);
    if let Some(url) = &args.post {
        eprintln!("{} of {} results are new to {url}", report::post::send(url, &results)?, results.len());
    }
    if let Some(error) = failure {
        return Err(error);
    }
    if !args.quick {
        return Ok(ExitCode::SUCCESS);
    }
    stored(&results, &options)?;
    Ok(functional(&cells))
}

/// The scenarios that these providers serve, and a line on each of the others.
fn measured(scenarios: Vec<Scenario>, providers: Providers) -> io::Result<(Vec<Scenario>, Vec<String>)> {
    let refused = |scenario: &Scenario| {
        let why = providers.refusal(*scenario)?;
        Some(format!("{} was left out: {why}.", scenario.as_str()))
    };
    let left_out: Vec<String> = scenarios.iter().filter_map(refused).collect();
    if left_out.len() == scenarios.len() {
        return Err(io::Error::other(left_out.join(" ")));
    }
    left_out.iter().for_each(|line| eprintln!("{line}"));
    Ok((scenarios.into_iter().filter(|scenario| providers.refusal(*scenario).is_none()).collect(), left_out))
}

/// Which sets of links are made, and what is measured on each.
fn plan(args: &RunArgs, scenarios: &[Scenario], seed: u64) -> io::Result<Vec<(LinkSet, Vec<Scenario>)>> {
    let mut plan = Vec::new();
    if !args.links.is_empty() {
        for name in &args.links {
            plan.extend(link_sets(name)?.into_iter().map(|set| (set, scenarios.to_vec())));
        }
        return Ok(plan);
    }
    let mut names: Vec<&str> = Vec::new();
    for name in scenarios.iter().flat_map(|scenario| scenario.link_sets(args.quick)) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    for name in names {
        let own = |scenario: &&Scenario| scenario.link_sets(args.quick).contains(&name);
        let here: Vec<Scenario> = scenarios.iter().filter(own).copied().collect();
        plan.extend(link_sets(name)?.into_iter().map(|set| (set, here.clone())));
    }
    if scenarios.contains(&Scenario::Unseen) {
        let sets = if args.quick { UNSEEN_SETS_QUICK } else { UNSEEN_SETS };
        plan.extend((0..sets).map(|place| (LinkSet::random(seed, place), vec![Scenario::Unseen])));
    }
    Ok(plan)
}

/// Writes the report of what there is so far.
fn publish(dir: &Path, report: &mut report::Run, out: &Gathered) -> io::Result<Vec<cell::Cell>> {
    let cells = cell::cells(&out.samples, report.seed);
    report.contenders.clone_from(&out.contenders);
    report.self_tests.clone_from(&out.self_tests);
    report.load.clone_from(&out.load);
    report.fairness.clone_from(&out.fairness);
    report.warm.clone_from(&out.warm);
    report.notes.clone_from(&out.notes);
    report.gates = report::gates::gates(&cells, &out.warm, &out.fairness, report.providers != "kubo");
    report::write(dir, report, &out.samples, &cells)?;
    Ok(cells)
}

/// Sends the results of a quick run to a Tidegate of its own, and reads them back from its database.
fn stored(results: &[serde_json::Value], options: &Options) -> io::Result<()> {
    let namespace = net::namespace::Namespace::new("store")?;
    let data = Scratch::new(&options.scratch, "store")?;
    let serve = contender::tidegate::command(&namespace, &data.0, "127.0.0.1:0")?;
    let server = contender::tidegate::start(&namespace, data, serve, "store")?;
    let admin = contender::tidegate::gateway_admin(&server.process)?;
    let sent = results.to_vec();
    let created = namespace.run(move || report::post::send(&format!("http://{admin}"), &sent))?;
    let tests = namespace.run(move || client::json("GET", admin, "/api/v1/tests?limit=500"))?;
    let known = tests["items"].as_array().map_or(0, Vec::len);
    if created != results.len() as u64 || known != results.len() {
        return Err(io::Error::other(format!("{} results were sent, {created} stored, {known} found", results.len())));
    }
    eprintln!("{created} results went into a database and were read back");
    Ok(())
}

/// Duplicates that a transfer may have: the budget of RETRIEVAL.md §7 T4, and two blocks that a short transfer may take in
/// advance of it. An endgame without a bound has several times as many.
fn most_duplicates(bytes: u64) -> f64 {
    0.05 + 2.0 * 262_144.0 / bytes.max(1) as f64
}

/// The quick run's verdict: bytes right, nobody failed, duplicates in bounds. Nothing about time.
fn functional(cells: &[cell::Cell]) -> ExitCode {
    let mut sound = !cells.is_empty();
    for cell in cells {
        let ours = cell.contender == report::OPTIMIZED;
        if cell.failed > 0 {
            eprintln!("{} {} {} {}: {} failed", cell.scenario, cell.links, cell.bytes, cell.contender, cell.failed);
            sound = sound && !ours;
        }
        if ours && cell.duplicate_share.is_none() {
            eprintln!("{} {} {}: Tidegate counts no duplicates", cell.scenario, cell.links, cell.bytes);
            sound = false;
        }
        // Adversaries send what nobody asked for, and a cold start hedges before it knows a rate.
        let calm = cell.fault.is_none() && cell.scenario != "cold" && !cell.links.starts_with("D+");
        if ours
            && calm
            && cell.bytes >= 5_000_000
            && cell.duplicate_share.is_some_and(|share| share > most_duplicates(cell.bytes))
        {
            let share = cell.duplicate_share.unwrap_or_default();
            eprintln!("{} {} {}: {share:.3} of it came again", cell.scenario, cell.links, cell.bytes);
            sound = false;
        }
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn scenarios(names: &[String]) -> io::Result<Vec<Scenario>> {
    if names.iter().any(|name| name == "all") {
        return Ok(Scenario::value_variants().to_vec());
    }
    names
        .iter()
        .map(|name| Scenario::from_str(name, true).map_err(|error| io::Error::other(format!("{name}: {error}"))))
        .collect()
}
