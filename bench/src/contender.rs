//! Who is measured: adapters around real programs, each with its version.

pub mod aria2;
pub mod helia;
pub mod kubo;
pub mod rainbow;
pub mod tidegate;
pub mod trustless;
pub mod web;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::client::{self, Fetched};
use crate::net::namespace::Namespace;
use crate::process::Process;

/// Tidegate's counter of bytes that came again, without its prefix.
const DUPLICATES: &str = "retriever_duplicate_bytes_total";

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
    fn fetch(&mut self, content: &Content) -> io::Result<Fetched>;
    /// A gateway's address, for scenarios with several requests at once.
    fn host(&self) -> Option<SocketAddr> {
        None
    }
    /// CPU time so far, and the most memory held.
    fn cpu(&self) -> Option<Duration>;
    fn peak_memory(&self) -> Option<u64>;
    /// An error when it is no longer there.
    fn check(&mut self) -> io::Result<()>;
    /// Where a peer that joins later finds it: a multiaddr with `/p2p`.
    fn swarm(&self) -> Option<String> {
        None
    }
    /// Bytes of blocks that arrived twice since it started, as the program itself counts them.
    fn duplicates(&self) -> Option<u64> {
        None
    }
    /// What it keeps of the retrieval of `cid`: attempts and events.
    fn explain(&self, _cid: &str) -> Option<serde_json::Value> {
        None
    }
}

/// A program with an IPFS gateway.
pub struct Gateway {
    pub name: String,
    pub version: String,
    pub process: Process,
    pub namespace: Namespace,
    pub host: SocketAddr,
    pub swarm: Option<String>,
    pub inside: Inside,
    /// Of its own, removed at the end.
    pub _data: Scratch,
}

/// Which interface of its own a gateway has.
#[derive(Debug, Clone, Copy)]
pub enum Inside {
    /// The admin listener.
    Tidegate(SocketAddr),
    /// The RPC listener.
    Kubo(SocketAddr),
    /// None that tells of duplicates.
    Nothing,
}

impl Gateway {
    fn ask(&self, method: &'static str, host: SocketAddr, path: String) -> io::Result<serde_json::Value> {
        self.namespace.run(move || client::json(method, host, &path))
    }
}

impl Contender for Gateway {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn fetch(&mut self, content: &Content) -> io::Result<Fetched> {
        client::get_in(&self.namespace, self.host, &format!("/ipfs/{}", content.cid))
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

    fn swarm(&self) -> Option<String> {
        self.swarm.clone()
    }

    fn duplicates(&self) -> Option<u64> {
        match self.inside {
            Inside::Nothing => None,
            Inside::Kubo(api) => {
                self.ask("POST", api, "/api/v0/bitswap/stat".to_owned()).ok()?["DupDataReceived"].as_u64()
            }
            Inside::Tidegate(admin) => {
                let host = admin;
                let text = self.namespace.run(move || client::text(host, "/metrics")).ok()?;
                let line =
                    text.lines().find(|line| line.split(' ').next().is_some_and(|name| name.ends_with(DUPLICATES)))?;
                line.rsplit(' ').next()?.parse().ok()
            }
        }
    }

    fn explain(&self, cid: &str) -> Option<serde_json::Value> {
        let Inside::Tidegate(admin) = self.inside else { return None };
        // Rows are written within seconds.
        for _ in 0..50 {
            let list = self.ask("GET", admin, format!("/api/v1/retrievals?cid={cid}")).ok()?;
            if let Some(id) = list["items"][0]["id"].as_i64() {
                return self.ask("GET", admin, format!("/api/v1/retrievals/{id}")).ok();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        None
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
