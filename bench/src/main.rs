//! `tidegate-bench`: real programs over emulated links, one timing method, every sample kept.
//!
//! Needs root (network namespaces and TUN devices of its own), `ip`, `ping`, a built `tidegate` and Kubo; nginx, aria2 and
//! iperf3 take part when they are installed. All traffic stays inside the namespaces.

mod bound;
mod cell;
mod client;
mod contender;
mod machine;
mod net;
mod process;
mod report;
mod router;
mod run;
mod scenario;
mod stats;
mod world;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand, ValueEnum};

use contender::{Scratch, Transport};
use net::star::Star;
use run::{Gathered, Options};
use scenario::{LinkSet, Scenario};
use world::Providers;

#[derive(Parser)]
#[command(version, about = "Measures Tidegate against other programs over emulated links")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and write report.md, samples.csv and run.json.
    Run(RunArgs),
    /// Make the links of a set, ping and fill them, and say what they are like.
    SelfTest {
        /// A, D, E or W.
        #[arg(default_value = "D")]
        links: String,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// What to measure; `all` is every one.
    #[arg(long, default_value = "all")]
    scenario: Vec<String>,
    /// Link sets instead of the scenarios' own: A, D, E, W, or random:SEED.
    #[arg(long)]
    links: Vec<String>,
    /// Contents in bytes instead of the scenarios' own.
    #[arg(long, value_delimiter = ',')]
    size: Vec<u64>,
    /// Who takes part.
    #[arg(long, value_delimiter = ',', default_value = "tidegate-optimized,tidegate-standard,kubo")]
    contenders: Vec<String>,
    /// Which programs have the contents.
    #[arg(long, value_enum, default_value_t = Providers::Kubo)]
    providers: Providers,
    /// Transport to the providers.
    #[arg(long, value_enum, default_value_t = Transport::Quic)]
    transport: Transport,
    /// TCP congestion control inside the namespaces.
    #[arg(long, default_value = "bbr")]
    congestion_control: String,
    /// Iterations of a cell, instead of RETRIEVAL.md's.
    #[arg(long)]
    n: Option<usize>,
    /// Of contents, losses and intervals. Default: the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// A functional check in minutes: few sizes, few iterations; fails on wrong bytes, failures and duplicates, never on time.
    #[arg(long)]
    quick: bool,
    /// Do not fill the links by iperf3 before the run.
    #[arg(long)]
    no_fill: bool,
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::SelfTest { links } => self_test(&links),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate-bench: {error}");
            if error.kind() == io::ErrorKind::PermissionDenied {
                eprintln!("network namespaces and TUN devices need root");
            }
            ExitCode::FAILURE
        }
    }
}

fn self_test(name: &str) -> io::Result<ExitCode> {
    let set = link_set(name)?;
    let star = Star::new(&set.links, set.access_mbit, "bbr", 1)?;
    for test in star.self_test(true)? {
        println!("{}", serde_json::to_string(&test)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn link_set(name: &str) -> io::Result<LinkSet> {
    let random = name.strip_prefix("random:").and_then(|seed| seed.parse().ok()).map(LinkSet::random);
    random.or_else(|| LinkSet::named(name)).ok_or_else(|| io::Error::other(format!("no link set {name:?}")))
}

fn run(args: &RunArgs) -> io::Result<ExitCode> {
    let scenarios = scenarios(&args.scenario)?;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seed = args.seed.unwrap_or(clock);
    eprintln!("seed {seed}");
    let scratch = Scratch(run::scratch(&std::env::temp_dir())?);
    let options = Options {
        contenders: args.contenders.clone(),
        providers: args.providers,
        transport: args.transport,
        congestion_control: args.congestion_control.clone(),
        seed,
        scratch: scratch.0.clone(),
        quick: args.quick,
        iterations: args.n,
        sizes: args.size.clone(),
        fill: !args.no_fill && !args.quick,
    };
    let mut out = Gathered::default();
    let names: Vec<String> =
        if args.links.is_empty() { ["A", "D", "E", "W"].map(str::to_owned).to_vec() } else { args.links.clone() };
    for name in &names {
        let set = link_set(name)?;
        let own =
            |scenario: &&Scenario| !args.links.is_empty() || scenario.link_sets(args.quick).contains(&name.as_str());
        let here: Vec<Scenario> = scenarios.iter().filter(own).copied().collect();
        if !here.is_empty() {
            run::link_set(&set, &here, &options, &mut out)?;
        }
    }
    let cells = cell::cells(&out.samples, seed);
    let run = report::Run {
        id: format!("bench-{clock}"),
        seed,
        command: std::env::args().skip(1).fold("tidegate-bench".to_owned(), |all, one| all + " " + &one),
        congestion_control: args.congestion_control.clone(),
        providers: args.providers.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
        transport: args.transport.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
        machine: machine::Machine::read(),
        contenders: out.contenders,
        self_tests: out.self_tests,
        emulator_load: out.emulator_load,
        notes: out.notes,
    };
    report::write(&args.out, &run, &out.samples, &cells)?;
    println!("{}", report::markdown(&run, &cells));
    Ok(if args.quick { functional(&cells) } else { ExitCode::SUCCESS })
}

/// The quick run's verdict: bytes right, nobody failed, duplicates in bounds. Nothing about time.
fn functional(cells: &[cell::Cell]) -> ExitCode {
    let mut sound = true;
    for cell in cells {
        let ours = cell.contender == report::OPTIMIZED;
        if cell.failed > 0 {
            eprintln!("{} {} {} {}: {} failed", cell.scenario, cell.links, cell.bytes, cell.contender, cell.failed);
            sound = sound && !ours;
        }
        // Headers and handshakes weigh on small contents; 5 % of duplicates are allowed on large ones.
        if ours && cell.fault.is_none() && cell.bytes >= 5_000_000 && cell.wire_ratio.is_some_and(|ratio| ratio > 1.15)
        {
            eprintln!(
                "{} {} {}: {:?} bytes on the wire for each of content",
                cell.scenario, cell.links, cell.bytes, cell.wire_ratio
            );
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
