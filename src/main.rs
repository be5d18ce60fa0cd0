//! The `tidegate` binary: reads the command line, runs one command, answers with its exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Both ring and aws-lc-rs are in the graph: without a choice the first TLS configuration would panic.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    tidegate::cli::run(tidegate::cli::Cli::parse())
}
