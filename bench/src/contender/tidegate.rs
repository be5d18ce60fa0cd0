//! Tidegate, under either policy, as a contender and as a provider.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Gateway, Scratch, Transport};
use crate::client;
use crate::net::namespace::{Namespace, succeed};
use crate::process::Process;

const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// How a contender finds its providers.
#[derive(Debug, Clone)]
pub enum Peers<'a> {
    /// Connected before the clock starts: (address, peer id).
    Connected(&'a [(String, String)], Transport),
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
    let mut serve = command(namespace, &data.0)?;
    serve.args(["--policy", policy]);
    let wanted = match peers {
        Peers::Connected(providers, transport) => {
            for (address, peer_id) in *providers {
                for address in transport.addresses(address) {
                    serve.args(["--peer", &format!("{address}/p2p/{peer_id}")]);
                }
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
        let connected = namespace.run(move || client::json(admin, "/api/v1/p2p/peers"))?;
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
        let mut serve = command(namespace, &data.0)?;
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
        let mut add = self.namespace.command(&binary()?);
        add.arg("add").arg(path).args(["-r", "-q", "--data-dir"]).arg(&self.data.0);
        let output = add.output()?;
        succeed("tidegate add", &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

fn command(namespace: &Namespace, data: &Path) -> io::Result<Command> {
    let mut serve = namespace.command(&binary()?);
    serve.arg("serve").arg("--data-dir").arg(data).env("RUST_LOG", "warn").args([
        "--gateway",
        "127.0.0.1:0",
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

fn start(namespace: &Namespace, data: Scratch, mut serve: Command, name: &str) -> io::Result<Gateway> {
    if !serve.get_args().any(|argument| argument == "--listen") {
        serve.args(["--listen", "/ip4/0.0.0.0/udp/0/quic-v1", "--listen", "/ip4/0.0.0.0/tcp/0"]);
    }
    let process = Process::start(name, serve, &data.0.join("serve.log"), |line| line.starts_with("ready "))?;
    let host = address(&process, "gateway=http://")?;
    let version = super::first_line(&binary()?, &["--version"]).unwrap_or_else(|| "tidegate".to_owned());
    Ok(Gateway { name: name.to_owned(), version, process, namespace: namespace.clone(), host, _data: data })
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
