//! Kubo, as a provider and as a contender. Closed to the outside: no bootstrap, AutoConf, AutoTLS, telemetry, mDNS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Gateway, Scratch, Transport};
use crate::net::namespace::{Namespace, succeed};
use crate::process::Process;

/// The longest wait for connections that were asked for.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
const GATEWAY: &str = "127.0.0.1:18081";
const API: &str = "/ip4/127.0.0.1/tcp/15001";

/// A Kubo daemon in a namespace.
pub struct Kubo {
    namespace: Namespace,
    repo: Scratch,
    process: Process,
    pub peer_id: String,
}

/// Where the program is: `TIDEGATE_KUBO`, or where `.ci/run` builds it.
pub fn binary() -> String {
    std::env::var("TIDEGATE_KUBO").unwrap_or_else(|_| {
        let home = std::env::var("HOME").unwrap_or_default();
        format!("{home}/.cache/tidegate/bin/ipfs-v0.43.0")
    })
}

pub fn version() -> Option<String> {
    super::first_line(&binary(), &["--version"]).map(|line| line.replace("ipfs version", "Kubo"))
}

impl Kubo {
    /// `swarm`: addresses to listen on. `router`: a delegated router to ask; `None` asks nobody.
    pub fn start(namespace: &Namespace, scratch: &Path, swarm: &[String], router: Option<&str>) -> io::Result<Self> {
        let repo = Scratch::new(scratch, "kubo")?;
        succeed("ipfs init", &command(namespace, &repo.0).args(["init", "--empty-repo"]).output()?)?;
        let path = repo.0.join("config");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let changes = [
            ("/Bootstrap", json!([])),
            ("/AutoConf", json!({ "Enabled": false })),
            ("/AutoTLS", json!({ "Enabled": false })),
            ("/Discovery/MDNS", json!({ "Enabled": false })),
            ("/Provide", json!({ "Enabled": false })),
            ("/HTTPRetrieval", json!({ "Enabled": false })),
            ("/Swarm/DisableNatPortMap", json!(true)),
            ("/Swarm/RelayClient", json!({ "Enabled": false })),
            ("/Swarm/AddrFilters", json!([])),
            ("/DNS", json!({ "Resolvers": {} })),
            ("/Addresses/API", json!(API)),
            ("/Addresses/Gateway", json!("/ip4/127.0.0.1/tcp/18081")),
            ("/Addresses/Swarm", json!(swarm)),
            (
                "/Routing",
                match router {
                    Some(url) => json!({ "Type": "delegated", "DelegatedRouters": [url] }),
                    None => json!({ "Type": "none", "DelegatedRouters": [] }),
                },
            ),
        ];
        for (pointer, value) in changes {
            set(&mut config, pointer, value);
        }
        let peer_id = config.pointer("/Identity/PeerID").and_then(Value::as_str).unwrap_or_default().to_owned();
        std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        let mut daemon = command(namespace, &repo.0);
        daemon.arg("daemon");
        let log = repo.0.join("daemon.log");
        let process = Process::start("kubo", daemon, &log, |line| line.starts_with("Daemon is ready"))?;
        Ok(Self { namespace: namespace.clone(), repo, process, peer_id })
    }

    /// Adds a file with the settings that the bounds are computed for: CIDv1, 256 KiB raw leaves, 174 links.
    pub fn add(&self, path: &Path) -> io::Result<String> {
        let mut add = self.cli();
        add.args(["add", "-Q", "--cid-version=1", "--chunker=size-262144", "--pin=false"]);
        if path.is_dir() {
            add.arg("-r");
        }
        let output = add.arg(path).output()?;
        succeed("ipfs add", &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Connects to a peer and waits until it is there.
    pub fn connect(&self, address: &str) -> io::Result<()> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            let output = self.cli().args(["swarm", "connect", address]).output()?;
            match succeed("ipfs swarm connect", &output) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// As a contender.
    pub fn into_gateway(self, name: &str) -> io::Result<Gateway> {
        let host: SocketAddr = GATEWAY.parse().map_err(io::Error::other)?;
        let Self { namespace, repo, process, .. } = self;
        let version = version().unwrap_or_else(|| "Kubo of an unknown version".to_owned());
        Ok(Gateway { name: name.to_owned(), version, process, namespace, host, _data: repo })
    }

    fn cli(&self) -> Command {
        command(&self.namespace, &self.repo.0)
    }
}

/// A warm contender that is connected to `providers`, given as (address, peer id).
pub fn contender(
    namespace: &Namespace,
    scratch: &Path,
    providers: &[(String, String)],
    transport: Transport,
) -> io::Result<Gateway> {
    let kubo = Kubo::start(namespace, scratch, &[], None)?;
    for (address, peer_id) in providers {
        // One address is enough: Kubo prefers QUIC when both are known.
        let address = &transport.addresses(address)[0];
        kubo.connect(&format!("{address}/p2p/{peer_id}"))?;
    }
    kubo.into_gateway("kubo")
}

fn command(namespace: &Namespace, repo: &Path) -> Command {
    let mut command = namespace.command(&binary());
    command.env("IPFS_PATH", repo).env("IPFS_TELEMETRY", "off").env("GOLOG_LOG_LEVEL", "error");
    command
}

/// Sets a member, making objects on the way.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut node = config;
    for name in pointer.split('/').skip(1) {
        if !node.is_object() {
            *node = json!({});
        }
        node = &mut node[name];
    }
    *node = value;
}
