//! Kubo, as a provider and as a contender. Closed to the outside: no bootstrap, AutoConf, AutoTLS, telemetry, mDNS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::tidegate::Peer;
use super::{Gateway, Inside, Scratch, Transport};
use crate::client;
use crate::net::namespace::{Namespace, succeed};
use crate::process::Process;

/// The longest wait for connections that were asked for.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Ports of the first daemon; each further one takes the next pair, as several contenders share a namespace.
const FIRST_PORT: u16 = 18_000;
const FIRST_SWARM_PORT: u16 = 4_101;

/// A Kubo daemon in a namespace.
pub struct Kubo {
    namespace: Namespace,
    repo: Scratch,
    process: Process,
    gateway: SocketAddr,
    api: SocketAddr,
    swarm: Option<String>,
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
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let port = FIRST_PORT + 2 * (NEXT.fetch_add(1, Ordering::Relaxed) % 20_000);
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
            // It lets one address connect once in 5 s (after 16 at once), and the cold rows do that for each fetch.
            ("/Swarm/ResourceMgr", json!({ "Enabled": false })),
            ("/DNS", json!({ "Resolvers": {} })),
            ("/Addresses/API", json!(format!("/ip4/127.0.0.1/tcp/{port}"))),
            ("/Addresses/Gateway", json!(format!("/ip4/127.0.0.1/tcp/{}", port + 1))),
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
        let [api, gateway] = [port, port + 1].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        // Of a contender: on the first link, from where a late provider dials.
        let swarm = swarm.first().map(|address| format!("{}/p2p/{peer_id}", address.replace("0.0.0.0", "10.77.0.1")));
        Ok(Self { namespace: namespace.clone(), repo, process, gateway, api, swarm, peer_id })
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
        self.connecting(address)()
    }

    /// The same, to be done later and elsewhere. Through the RPC interface: a program that starts takes its time.
    pub fn connecting(&self, address: &str) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let (namespace, api) = (self.namespace.clone(), self.api);
        let path = format!("/api/v0/swarm/connect?arg={address}");
        move || {
            let deadline = Instant::now() + CONNECT_LIMIT;
            loop {
                let path = path.clone();
                match namespace.run(move || client::json("POST", api, &path)) {
                    Ok(_) => return Ok(()),
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => std::thread::sleep(Duration::from_millis(200)),
                }
            }
        }
    }

    /// Ends the connections to a peer.
    pub fn disconnect(&self, peer_id: &str) -> io::Result<()> {
        succeed(
            "ipfs swarm disconnect",
            &self.cli().args(["swarm", "disconnect", &format!("/p2p/{peer_id}")]).output()?,
        )
    }

    /// All blocks of a DAG as a CAR.
    pub fn export(&self, cid: &str) -> io::Result<Vec<u8>> {
        let output = self.cli().args(["dag", "export", "--progress=false", cid]).output()?;
        succeed("ipfs dag export", &output)?;
        Ok(output.stdout)
    }

    /// As a contender.
    pub fn into_gateway(self, name: &str) -> io::Result<Gateway> {
        let Self { namespace, repo, process, gateway: host, api, swarm, .. } = self;
        let version = version().unwrap_or_else(|| "Kubo of an unknown version".to_owned());
        let inside = Inside::Kubo(api);
        Ok(Gateway { name: name.to_owned(), version, process, namespace, host, swarm, inside, _data: repo })
    }

    fn cli(&self) -> Command {
        command(&self.namespace, &self.repo.0)
    }
}

/// A warm contender that is connected to `providers`, but for the dead.
pub fn contender(
    namespace: &Namespace,
    scratch: &Path,
    providers: &[Peer],
    transport: Transport,
) -> io::Result<Gateway> {
    // A port of its own: a peer that joins later dials it.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = FIRST_SWARM_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
    let mut listen = transport.addresses("0.0.0.0");
    listen.iter_mut().for_each(|address| *address = address.replace("4001", &port.to_string()));
    let kubo = Kubo::start(namespace, scratch, &listen, None)?;
    for peer in providers.iter().filter(|peer| !peer.dead) {
        // One address is enough: Kubo prefers QUIC when both are known.
        let address = &transport.addresses(&peer.address)[0];
        kubo.connect(&format!("{address}/p2p/{}", peer.id))?;
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
