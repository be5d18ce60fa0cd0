//! Rainbow, the public gateways' program. Its module is not served by the registries: it takes part when a `rainbow`
//! is on the PATH. Closed to the outside: no bootstrap, AutoConf, DHT; its peers are those of the run.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::tidegate::Peer;
use super::{Gateway, Inside, Scratch, Transport};
use crate::net::namespace::Namespace;
use crate::process::Process;

const PROGRAM: &str = "rainbow";
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between the listeners' answer and the first fetch: it tells nobody whether its peerings are connected.
const PEERING: Duration = Duration::from_secs(3);
/// Ports of the first; each further one takes the next three, as contenders share a namespace.
const FIRST_PORT: u16 = 30_000;

fn version() -> Option<String> {
    let line = super::first_line(PROGRAM, &["--version"])?;
    Some(line.replace("rainbow version", "Rainbow"))
}

/// A warm contender that is connected to `providers`, but for the dead.
pub fn contender(
    namespace: &Namespace,
    scratch: &Path,
    providers: &[Peer],
    transport: Transport,
) -> io::Result<Option<Gateway>> {
    let Some(version) = version() else { return Ok(None) };
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = FIRST_PORT + 3 * (NEXT.fetch_add(1, Ordering::Relaxed) % 10_000);
    let [host, control] = [port, port + 1].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let data = Scratch::new(scratch, PROGRAM)?;
    let peering: Vec<String> = providers
        .iter()
        .filter(|peer| !peer.dead)
        .map(|peer| format!("{}/p2p/{}", transport.addresses(&peer.address)[0], peer.id))
        .collect();
    let mut command = namespace.command(PROGRAM);
    command
        .current_dir(&data.0)
        .env("RAINBOW_DATADIR", &data.0)
        .env("RAINBOW_GATEWAY_LISTEN_ADDRESS", host.to_string())
        .env("RAINBOW_CTL_LISTEN_ADDRESS", control.to_string())
        .env("RAINBOW_LIBP2P_LISTEN_ADDRS", format!("/ip4/0.0.0.0/tcp/{0},/ip4/0.0.0.0/udp/{0}/quic-v1", port + 2))
        .env("RAINBOW_PEERING", peering.join(","))
        .env("RAINBOW_BOOTSTRAP", "")
        .env("RAINBOW_HTTP_ROUTERS", "")
        .env("RAINBOW_AUTOCONF", "false")
        .env("RAINBOW_DHT_ROUTING", "off")
        .env("RAINBOW_HTTP_RETRIEVAL_ENABLE", "false")
        .env("RAINBOW_SEED_PEERING", "false");
    let mut process = Process::start_silent(PROGRAM, command, &data.0.join("rainbow.log"))?;
    let deadline = Instant::now() + START_LIMIT;
    while namespace.run(move || answers(host)).is_err() {
        if Instant::now() > deadline || !process.alive() {
            return Err(io::Error::other(format!("rainbow was not ready: {}", process.last_words())));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(PEERING);
    Ok(Some(Gateway {
        name: PROGRAM.to_owned(),
        version,
        process,
        namespace: namespace.clone(),
        host,
        swarm: None,
        inside: Inside::Nothing,
        _data: data,
    }))
}

/// Any answer to HTTP will do.
fn answers(host: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&host, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "HEAD /ipfs/bafkqaaa HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    stream.read_exact(&mut [0; 8])
}
