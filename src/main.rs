//! The `tidegate` binary: reads the command line, runs one command, answers with its exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Both ring and aws-lc-rs are in the graph: without a choice the first TLS configuration would panic.
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let random = provider.secure_random;
    provider.install_default().ok();
    let cli = tidegate::cli::Cli::parse();
    // A process's first random byte takes 30 ms of gathering entropy. Without this, its first dial would.
    std::thread::spawn(move || random.fill(&mut [0]).is_ok());
    tidegate::cli::run(cli)
}
