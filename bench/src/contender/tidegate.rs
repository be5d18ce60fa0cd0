//! Tidegate, under either policy, as a contender and as a provider.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Gateway, Inside, Scratch, Transport};
use crate::client;
use crate::net::namespace::{Namespace, succeed};
use crate::process::Process;

/// Where a provider over HTTP listens.
pub const HTTP_PORT: u16 = 8080;
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// A peer that a contender is told of.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: String,
    pub id: String,
    /// Never answers.
    pub dead: bool,
}

/// How a contender finds its providers.
#[derive(Debug, Clone)]
pub enum Peers<'a> {
    /// Connected before the clock starts, but for the dead.
    Connected(&'a [Peer], Transport),
    /// The same, by their gateways.
    Http(&'a [Peer]),
    /// A delegated router, asked when the request comes.
    Router(&'a str),
}

/// Where the program is: `TIDEGATE_BIN`, or beside this one.
pub fn binary() -> io::Result<String> {
    if let Ok(path) = std::env::var("TIDEGATE_BIN") {
        return Ok(path);
    }
    let beside = std::env::current_exe()?.with_file_name("tidegate");
    if beside.exists() {
        return Ok(beside.to_string_lossy().into_owned());
    }
    Err(io::Error::other(format!("no tidegate at {}: build it, or set TIDEGATE_BIN", beside.display())))
}

pub fn contender(namespace: &Namespace, scratch: &Path, policy: &str, peers: &Peers<'_>) -> io::Result<Gateway> {
    let data = Scratch::new(scratch, &format!("tidegate-{policy}"))?;
    let mut serve = command(namespace, &data.0, "127.0.0.1:0")?;
    serve.args(["--policy", policy]);
    let wanted = match peers {
        Peers::Connected(providers, transport) => {
            for peer in *providers {
                for address in transport.addresses(&peer.address) {
                    serve.args(["--peer", &format!("{address}/p2p/{}", peer.id)]);
                }
            }
            providers.iter().filter(|peer| !peer.dead).count()
        }
        Peers::Http(providers) => {
            for peer in *providers {
                serve.args(["--peer", &format!("/ip4/{}/tcp/{HTTP_PORT}/http", peer.address)]);
            }
            providers.len()
        }
        Peers::Router(url) => {
            serve.args(["--router", url, "--allow-private", "10.77.0.0/16"]);
            0
        }
    };
    let gateway = start(namespace, data, serve, &format!("tidegate-{policy}"))?;
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        let admin = gateway_admin(&gateway.process)?;
        let connected = namespace.run(move || client::json("GET", admin, "/api/v1/p2p/peers"))?;
        if connected["total"].as_u64() >= Some(wanted as u64) {
            break;
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("tidegate connected to {} of {wanted} peers", connected["total"])));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(gateway)
}

/// A provider: it listens where the star says, and keeps what it is told to add.
pub struct Provider {
    namespace: Namespace,
    _process: Process,
    pub peer_id: String,
    data: Scratch,
}

impl Provider {
    pub fn start(namespace: &Namespace, scratch: &Path, address: &str) -> io::Result<Self> {
        let data = Scratch::new(scratch, "provider")?;
        let mut serve = command(namespace, &data.0, &format!("{address}:{HTTP_PORT}"))?;
        for address in Transport::Both.addresses(address) {
            serve.args(["--listen", &address]);
        }
        let gateway = start(namespace, data, serve, "provider")?;
        let peer_id = field(&gateway.process, "peer=").and_then(|peer| Some(peer.rsplit_once("/p2p/")?.1.to_owned()));
        let peer_id = peer_id.ok_or_else(|| io::Error::other("a provider without an address"))?;
        Ok(Self { namespace: namespace.clone(), _process: gateway.process, peer_id, data: gateway._data })
    }

    /// Adds a file with Kubo's plain CIDv1 settings, so that all providers have one CID.
    pub fn add(&self, path: &Path) -> io::Result<String> {
        add(&self.namespace, &self.data.0, path)
    }
}

/// Adds a file or folder to a running server, by its data directory.
pub fn add(namespace: &Namespace, data: &Path, path: &Path) -> io::Result<String> {
    let mut add = namespace.command(&binary()?);
    let output = add.arg("add").arg(path).args(["-r", "-q", "--data-dir"]).arg(data).output()?;
    succeed("tidegate add", &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The CID of a file and all its blocks as a CAR, root first: by servers that run for this alone, and know nobody.
pub fn import(namespace: &Namespace, scratch: &Path, path: &Path) -> io::Result<(String, Vec<u8>)> {
    let data = Scratch::new(scratch, "import")?;
    let cid = add(namespace, &data.0, path)?;
    let mut export = namespace.command(&binary()?);
    export.env("TIDEGATE_OFFLINE", "true").args(["car", "export", &cid, "-o", "-", "--data-dir"]).arg(&data.0);
    let output = export.output()?;
    succeed("tidegate car export", &output)?;
    Ok((cid, output.stdout))
}

pub fn command(namespace: &Namespace, data: &Path, gateway: &str) -> io::Result<Command> {
    let mut serve = namespace.command(&binary()?);
    serve.arg("serve").arg("--data-dir").arg(data).env("RUST_LOG", "warn").args([
        "--gateway",
        gateway,
        "--admin",
        "127.0.0.1:0",
        "--bootstrap",
        "none",
        "--no-mdns",
        "--no-dht",
        "--dns",
        "none",
    ]);
    Ok(serve)
}

pub fn start(namespace: &Namespace, data: Scratch, mut serve: Command, name: &str) -> io::Result<Gateway> {
    if !serve.get_args().any(|argument| argument == "--listen") {
        serve.args(["--listen", "/ip4/0.0.0.0/udp/0/quic-v1", "--listen", "/ip4/0.0.0.0/tcp/0"]);
    }
    let process = Process::start(name, serve, &data.0.join("serve.log"), |line| line.starts_with("ready "))?;
    let host = address(&process, "gateway=http://")?;
    let inside = Inside::Tidegate(gateway_admin(&process)?);
    // The address on the first link: there a late provider dials from.
    let swarm = process.said.last().and_then(|line| {
        let mut peers = line.split(' ').filter_map(|word| word.strip_prefix("peer="));
        peers.find(|peer| peer.contains("/10.77.0.1/udp/")).map(str::to_owned)
    });
    let (name, version) = (name.to_owned(), version()?);
    Ok(Gateway { name, version, process, namespace: namespace.clone(), host, swarm, inside, _data: data })
}

/// What it says of itself, and the build: the hash of the program.
pub fn version() -> io::Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let path = binary()?;
    let said = super::first_line(&path, &["--version"]).unwrap_or_else(|| "tidegate".to_owned());
    let hash = hex::encode(Sha256::digest(std::fs::read(&path)?));
    Ok(KNOWN.get_or_init(|| format!("{said}, build {}", &hash[..12])).clone())
}

/// Where the admin listener of a started server is.
pub fn gateway_admin(process: &Process) -> io::Result<SocketAddr> {
    address(process, "admin=http://")
}

fn address(process: &Process, field_name: &str) -> io::Result<SocketAddr> {
    let text =
        field(process, field_name).ok_or_else(|| io::Error::other(format!("the ready line has no {field_name}")))?;
    text.parse().map_err(io::Error::other)
}

fn field(process: &Process, name: &str) -> Option<String> {
    let line = process.said.last()?;
    line.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned)
}
