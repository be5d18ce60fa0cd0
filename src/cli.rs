//! The command line (DESIGN.md §8): one file per group of commands. Here: what can be said, and the exit codes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::config::Overrides;
use crate::record::Policy;
use crate::report::{Format, Moment, ReportType};

mod actions;
mod add;
mod connection;
mod content;
mod doctor;
mod error;
mod explain;
mod export;
mod gpu;
mod name;
mod remote_store;
mod report;
mod serve;
mod token;

pub use error::{CliError, Exit};

/// An IPFS-compatible gateway with a P2P-optimised retriever.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  tidegate serve                                     gateway on 127.0.0.1:8080, dashboard on 127.0.0.1:8090
  tidegate add -r ./site                             store a folder, print its CID
  tidegate get bafybei... -o site                    fetch it, resume if interrupted
  curl http://127.0.0.1:8080/ipfs/bafkqabtimvwgy3yk  fetch by URL

Exit codes: 0 done, 1 failed, 2 wrong use, 3 not found, 4 timed out, 5 refused, 6 local store full or broken";

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Blocks, identity, pins and metrics [default: the platform's data directory + /tidegate]
    #[arg(long, env = "TIDEGATE_DATA_DIR", global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// Settings file; see config.example.toml
    #[arg(long, env = "TIDEGATE_CONFIG", global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway, the node and the dashboard
    Serve {
        #[command(flatten)]
        overrides: Box<Overrides>,
    },
    /// Store a file or a folder and pin it; prints the CID
    Add(AddArgs),
    /// Fetch a file or a folder to disk; resumes what was begun
    Get(GetArgs),
    /// Write a file to standard output
    Cat(ContentArgs),
    /// List a folder
    Ls(ContentArgs),
    /// List the CIDs that a DAG links to
    Refs {
        #[command(flatten)]
        content: ContentArgs,
        /// All of them, not only the direct ones
        #[arg(short, long)]
        recursive: bool,
    },
    /// Say who has it, how they are reached, what of it is here, and what a fetch would cost; fetches nothing
    Explain(ContentArgs),
    /// Import and export CAR files
    #[command(subcommand)]
    Car(CarCommand),
    /// Publish and resolve IPNS names and DNSLinks
    #[command(subcommand)]
    Name(name::NameCommand),
    /// Keep content in the durable store
    #[command(subcommand)]
    Pin(PinCommand),
    /// Remove unpinned blocks from the durable store
    Gc,
    /// Verify every durable block
    Scrub,
    /// Show the node's identity and addresses
    Id,
    /// List connected peers
    Peers,
    /// Show store, cache and transfer figures
    Stats,
    /// Write a report from the metrics database
    Report(ReportArgs),
    /// Make, list and revoke tokens for the REST API
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show or check the settings in force
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check this machine and this data directory
    Doctor,
    /// The WebGPU lab without a browser (needs a build with --features gpu)
    #[command(subcommand)]
    Gpu(GpuCommand),
    /// Print a completion script for a shell
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// File or folder; - reads standard input
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// Add a folder with all it holds
    #[arg(short, long)]
    pub recursive: bool,
    /// Print only the CID
    #[arg(short, long)]
    pub quiet: bool,
    /// UnixFS profile: kubo-v1, unixfs-v0-2015 or unixfs-v1-2025 (IPIP-499)
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Add hidden files too
    #[arg(short = 'H', long)]
    pub hidden: bool,
}

#[derive(Debug, Args)]
pub struct ContentArgs {
    /// CID[/path] or /ipfs/CID[/path]
    #[arg(value_name = "CID[/PATH]")]
    pub path: String,
    /// How to choose whom to ask: optimized or standard
    #[arg(long)]
    pub policy: Option<Policy>,
    /// Give up after this long (90s, 5m)
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    #[command(flatten)]
    pub content: ContentArgs,
    /// Where to write [default: the last part of the path, or the CID]
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::AnyPath)]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Moments: 2026-11-23T14:00:00Z, 2026-11-23, or how long ago: 90m, 24h, 7d.
No data gives a document that says so, and exit code 0.")]
pub struct ReportArgs {
    /// ipfs, p2p, webgpu, cross-platform, benchmark or verification
    #[arg(value_name = "TYPE")]
    pub kind: ReportType,
    /// md, html, json or csv
    #[arg(short, long, default_value = "md")]
    pub format: Format,
    /// From this moment on [default: 7d for ipfs and p2p, else everything]
    #[arg(long, value_name = "MOMENT")]
    pub since: Option<Moment>,
    /// Before this moment [default: now]
    #[arg(long, value_name = "MOMENT")]
    pub until: Option<Moment>,
    /// Only this run of a test tool
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Where to write [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum CarCommand {
    /// Store every block of CAR files and pin their roots
    Import {
        #[arg(required = true, value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Write a DAG as a CAR file
    Export {
        #[command(flatten)]
        content: ContentArgs,
        /// Where to write; - is standard output
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// Fetch a DAG into the durable store and keep it
    Add {
        cid: String,
        /// Only this block, not what it links to
        #[arg(long)]
        direct: bool,
    },
    /// Release a pin; its blocks go at the next gc
    Rm { cid: String },
    /// List pins
    Ls,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; prints it, once
    Create {
        /// read: pages, figures, reports; write: also content and pins; results: only hands in measurements; admin: all
        #[arg(long, value_name = "SCOPE", value_parser = ["read", "write", "results", "admin"])]
        scope: String,
        /// What it is for; no two tokens have one name
        #[arg(long, value_name = "NAME")]
        name: String,
        /// How long it lasts (12h, 30d) [default: until it is revoked]
        #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// List tokens, without their secrets
    Ls,
    /// End a token, by id or name
    Revoke {
        #[arg(value_name = "ID|NAME")]
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings in force, secrets hidden
    Show {
        #[command(flatten)]
        overrides: Box<Overrides>,
    },
    /// Read the settings and say what is wrong
    Check {
        #[command(flatten)]
        overrides: Box<Overrides>,
    },
}

#[derive(Debug, Subcommand)]
pub enum GpuCommand {
    /// List the adapters of this machine
    Info,
    /// Run the lab's shaders here, each checked against a CPU reference
    Bench {
        /// Store the results in the server that runs on this data directory
        #[arg(long)]
        submit: bool,
    },
}

/// Runs one command and answers with its exit code. Errors go to stderr, once, with what to do next.
pub fn run(cli: Cli) -> ExitCode {
    let serving = matches!(cli.command, Command::Serve { .. });
    crate::telemetry::init_logging(if serving { "info,libp2p_kad=warn,libp2p_mdns=error" } else { "error" });
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_park(crate::p2p::bulk::moment).build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: the runtime did not start: {error}");
                return ExitCode::from(Exit::Failed as u8);
            }
        };
    let json = cli.common.json;
    let result = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(json);
            ExitCode::from(error.exit as u8)
        }
    }
}

async fn dispatch(cli: Cli) -> Result<(), CliError> {
    let common = cli.common;
    match cli.command {
        Command::Serve { overrides } => serve::serve(&common, &overrides).await,
        Command::Add(args) => add::add(&common, args).await,
        Command::Get(args) => export::get(&common, args).await,
        Command::Cat(args) => content::cat(&common, args).await,
        Command::Ls(args) => content::ls(&common, args).await,
        Command::Refs { content, recursive } => content::refs(&common, content, recursive).await,
        Command::Explain(args) => explain::explain(&common, args).await,
        Command::Car(CarCommand::Import { files }) => actions::car_import(&common, files).await,
        Command::Car(CarCommand::Export { content, output }) => content::car_export(&common, content, output).await,
        Command::Name(command) => name::run(&common, command).await,
        Command::Pin(PinCommand::Add { cid, direct }) => actions::pin_add(&common, &cid, direct).await,
        Command::Pin(PinCommand::Rm { cid }) => actions::pin_rm(&common, &cid).await,
        Command::Pin(PinCommand::Ls) => actions::pin_ls(&common).await,
        Command::Gc => actions::post_report(&common, "gc").await,
        Command::Scrub => actions::post_report(&common, "scrub").await,
        Command::Id => actions::show(&common, "id").await,
        Command::Peers => actions::peers(&common).await,
        Command::Stats => actions::show(&common, "stats").await,
        Command::Report(args) => report::report(&common, args).await,
        Command::Token(command) => token::token(&common, command).await,
        Command::Config(ConfigCommand::Show { overrides }) => doctor::config_show(&common, &overrides).await,
        Command::Config(ConfigCommand::Check { overrides }) => doctor::config_check(&common, &overrides),
        Command::Doctor => doctor::doctor(&common).await,
        Command::Gpu(command) => gpu::gpu(&common, command).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut std::io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_serve_flag_has_its_environment_variable() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for arg in serve.get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version" | "json")) else {
                continue;
            };
            let expected = format!("TIDEGATE_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().map(|env| env.to_string_lossy().into_owned()), Some(expected), "--{long}");
        }
    }
}
