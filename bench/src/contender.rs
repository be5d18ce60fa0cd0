//! Who is measured: adapters around real programs, each with its version.

pub mod aria2;
pub mod kubo;
pub mod tidegate;
pub mod web;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::client::{self, Fetched};
use crate::net::namespace::Namespace;
use crate::process::Process;

/// A file or directory that every provider has.
#[derive(Debug, Clone)]
pub struct Content {
    pub cid: String,
    pub bytes: u64,
    pub sha256: [u8; 32],
    /// Its name on the providers' web servers.
    pub name: String,
}

/// Someone who fetches content in the gateway's namespace.
pub trait Contender: Send {
    fn name(&self) -> &str;
    fn version(&self) -> &str;
    /// What is timed, when it is not a GET of the body: for the table's foot.
    fn remark(&self) -> Option<&'static str> {
        None
    }
    /// Fetches `content`; `progress` is told the bytes so far where the contender tells.
    fn fetch(&mut self, content: &Content, progress: Box<dyn FnMut(u64) + Send>) -> io::Result<Fetched>;
    /// A gateway's address, for scenarios with several requests at once.
    fn host(&self) -> Option<SocketAddr> {
        None
    }
    /// CPU time so far, and the most memory held.
    fn cpu(&self) -> Option<Duration>;
    fn peak_memory(&self) -> Option<u64>;
    /// An error when it is no longer there.
    fn check(&mut self) -> io::Result<()>;
}

/// A program with an IPFS gateway.
pub struct Gateway {
    pub name: String,
    pub version: String,
    pub process: Process,
    pub namespace: Namespace,
    pub host: SocketAddr,
    /// Of its own, removed at the end.
    pub _data: Scratch,
}

impl Contender for Gateway {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn fetch(&mut self, content: &Content, progress: Box<dyn FnMut(u64) + Send>) -> io::Result<Fetched> {
        client::get_in(&self.namespace, self.host, &format!("/ipfs/{}", content.cid), progress)
    }

    fn host(&self) -> Option<SocketAddr> {
        Some(self.host)
    }

    fn cpu(&self) -> Option<Duration> {
        Some(self.process.cpu())
    }

    fn peak_memory(&self) -> Option<u64> {
        Some(self.process.peak_memory())
    }

    fn check(&mut self) -> io::Result<()> {
        if self.process.alive() {
            return Ok(());
        }
        Err(io::Error::other(format!("{} ended: {}", self.process.name, self.process.last_words())))
    }
}

/// A folder that goes with its owner.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(parent: &std::path::Path, name: &str) -> io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = parent.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The first line that a program prints for `args`.
pub fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(args).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}

/// Which transports of a provider are told to a contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Quic,
    Tcp,
    Both,
}

impl Transport {
    /// Addresses of a provider in `namespace` at `address`, without `/p2p`.
    pub fn addresses(self, address: &str) -> Vec<String> {
        let quic = format!("/ip4/{address}/udp/4001/quic-v1");
        let tcp = format!("/ip4/{address}/tcp/4001");
        match self {
            Self::Quic => vec![quic],
            Self::Tcp => vec![tcp],
            Self::Both => vec![quic, tcp],
        }
    }
}
