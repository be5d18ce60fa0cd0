//! A real `tidegate serve` with the fixtures' content.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::fixtures;

pub struct Server {
    child: Child,
    data: tempfile::TempDir,
    pub gateway: SocketAddr,
    /// Where other peers reach it.
    pub peer: libp2p::Multiaddr,
}

impl Server {
    /// Starts with the names of the fixtures; `more`: further flags of `serve`.
    pub fn start(fixtures: &Path, more: &[String]) -> Self {
        let data = tempfile::tempdir().expect("a folder for the data");
        let log = std::fs::File::create(data.path().join("log")).expect("a log file");
        let mut child = command(&data)
            .args(["serve", "--gateway", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(["--subdomain-host", "example.com", "--subdomain-host", "localhost"])
            .args(more)
            .env("IPFS_NS_MAP", fixtures::ns_map(fixtures))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let mut ready = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("a line from the server");
        let gateway = ready.split("gateway=http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let Some(gateway) = gateway.and_then(|address| address.parse().ok()) else {
            let log = std::fs::read_to_string(data.path().join("log")).unwrap_or_default();
            panic!("no ready line but {ready:?}; its log:\n{log}");
        };
        let peer = ready.split(" peer=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let peer = peer.and_then(|address| address.parse().ok()).expect("a peer address");
        Self { child, data, gateway, peer }
    }

    /// Runs a command of the command line against this server.
    pub fn run(&self, args: &[&str]) -> Output {
        command(&self.data).args(args).output().expect("the command runs")
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: a signal to a child that this struct owns and has not waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

fn command(data: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .env("TIDEGATE_DATA_DIR", data.path().join("data"))
        .env("TIDEGATE_BOOTSTRAP", "none")
        .env("TIDEGATE_NO_MDNS", "true")
        .env("TIDEGATE_DNS", "none")
        .env("TIDEGATE_CACHE_DISK", "0")
        .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
        .env_remove("TIDEGATE_CONFIG");
    command
}

/// Puts blocks and names into the server's own store. The records that are broken on purpose must be refused.
pub fn fill(server: &Server, fixtures: &Path) {
    let car = fixtures.join("fixtures.car");
    let imported = server.run(&["car", "import", &car.to_string_lossy()]);
    assert!(imported.status.success(), "car import: {}", String::from_utf8_lossy(&imported.stderr));
    for record in fixtures::records(fixtures) {
        let put = server.run(&["name", "put", &record.name, &record.path.to_string_lossy()]);
        let text = String::from_utf8_lossy(&put.stderr);
        assert_eq!(put.status.success(), !record.invalid, "name put {}: {text}", record.path.display());
    }
}
