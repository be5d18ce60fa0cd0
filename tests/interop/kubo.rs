//! A Kubo of the test's own: its own repository, loopback only, no discovery of any kind.

#![allow(dead_code)] // each test uses the part that it needs

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a daemon may take to say that it is ready, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(120);

/// A running daemon. Dropping it kills the process; [`Kubo::stop`] ends it cleanly.
pub struct Kubo {
    binary: PathBuf,
    repo: TempDir,
    daemon: Child,
    pub peer: PeerId,
    /// Swarm addresses, each ending in `/p2p/ID`.
    pub addrs: Vec<Multiaddr>,
}

/// The binary: `TIDEGATE_KUBO`, or what `.ci/run` leaves in the cache. `None` is said on stderr.
pub fn binary() -> Option<PathBuf> {
    let name = ".cache/tidegate/bin/ipfs-v0.43.0";
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let candidates = std::env::var_os("TIDEGATE_KUBO")
        .map(PathBuf::from)
        .into_iter()
        .chain(home.map(|home| home.join(name)))
        .chain([Path::new("/root").join(name)]);
    let found = candidates.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: no Kubo binary (set TIDEGATE_KUBO, or build tests/interop/kubo into ~/{name})");
    }
    found
}

impl Kubo {
    /// Initialises a repository, lets `configure` change its configuration, and starts a daemon on free loopback ports.
    pub async fn start_with(binary: &Path, configure: impl FnOnce(&mut Value)) -> Self {
        let repo = tempfile::tempdir().expect("a temporary directory");
        command(binary, repo.path(), ["init", "--empty-repo"]).await;
        let path = repo.path().join("config");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (pointer, value) in [
            ("/Bootstrap", json!([])),
            ("/Routing", json!({"Type": "none"})),
            ("/AutoConf", json!({"Enabled": false})),
            ("/AutoTLS", json!({"Enabled": false})),
            ("/Discovery", json!({"MDNS": {"Enabled": false}})),
            ("/Provide", json!({"Enabled": false})),
            ("/HTTPRetrieval", json!({"Enabled": false})),
            ("/DNS", json!({"Resolvers": {}})),
            ("/Ipns/DelegatedPublishers", json!([])),
            ("/Swarm/DisableNatPortMap", json!(true)),
            ("/Swarm/RelayClient", json!({"Enabled": false})),
            ("/Swarm/RelayService", json!({"Enabled": false})),
            ("/Addresses/API", json!("/ip4/127.0.0.1/tcp/0")),
            ("/Addresses/Gateway", json!("/ip4/127.0.0.1/tcp/0")),
            ("/Addresses/Swarm", json!(["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"])),
        ] {
            set(&mut config, pointer, value);
        }
        configure(&mut config);
        std::fs::write(&path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();

        let mut daemon = prepared(binary, repo.path())
            .args(["daemon", "--migrate=false"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the daemon starts");
        let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("Daemon is ready") {
                    return true;
                }
                said.push(line);
            }
            false
        };
        let ready = tokio::time::timeout(START, ready).await;
        assert!(matches!(ready, Ok(true)), "kubo did not start: {said:#?}");
        #[allow(clippy::disallowed_methods)] // a test has no supervisor; this ends with the daemon's output
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

        let id: Value = serde_json::from_str(&command(binary, repo.path(), ["id"]).await).unwrap();
        let addrs = id["Addresses"].as_array().unwrap().iter().map(|addr| addr.as_str().unwrap().parse().unwrap());
        Self {
            binary: binary.to_owned(),
            peer: id["ID"].as_str().unwrap().parse().unwrap(),
            addrs: addrs.collect(),
            daemon,
            repo,
        }
    }

    pub async fn start(binary: &Path) -> Self {
        Self::start_with(binary, |_| {}).await
    }

    /// Runs `ipfs` with these arguments against this daemon; its output, trimmed. A failure fails the test.
    pub async fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> String {
        command(&self.binary, self.repo.path(), args).await
    }

    /// Like [`Kubo::run`], with the raw bytes of its output.
    pub async fn output<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Vec<u8> {
        output(&self.binary, self.repo.path(), args).await
    }

    /// Adds a file or directory as CIDv1; the root's CID. `args` go between `add` and the path.
    pub async fn add_path(&self, path: &Path, args: &[&str]) -> String {
        let mut all: Vec<&OsStr> = ["add", "-Q", "--cid-version=1"].map(OsStr::new).to_vec();
        all.extend(args.iter().map(OsStr::new));
        all.push(path.as_os_str());
        self.run(all).await
    }

    /// Adds bytes as a file.
    pub async fn add(&self, bytes: &[u8], args: &[&str]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        self.add_path(file.path(), args).await
    }

    pub async fn cat(&self, path: &str) -> Vec<u8> {
        self.output(["cat", path]).await
    }

    /// Every CID below a root, the root itself not among them.
    pub async fn refs(&self, root: &str) -> Vec<String> {
        self.run(["refs", "-r", "-u", root]).await.lines().map(str::to_owned).collect()
    }

    pub async fn connect(&self, addr: &Multiaddr) {
        self.run(["swarm", "connect", &addr.to_string()]).await;
    }

    /// A TCP port whose connections become streams of `protocol` to a connected peer. Needs
    /// `Experimental.Libp2pStreamMounting`.
    pub async fn forward(&self, protocol: &str, peer: &PeerId) -> SocketAddr {
        let peer = format!("/p2p/{peer}");
        self.run(["p2p", "forward", "--allow-custom-protocol", protocol, "/ip4/127.0.0.1/tcp/0", &peer]).await;
        let list: Value = serde_json::from_str(&self.run(["p2p", "ls", "--enc=json"]).await).unwrap();
        let address = list["Listeners"][0]["ListenAddress"].as_str().expect("a listener").to_owned();
        let port = address.rsplit('/').next().and_then(|port| port.parse().ok()).expect("a port");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The TCP swarm address, ending in `/p2p/ID`.
    pub fn tcp(&self) -> Multiaddr {
        self.addr("/tcp/")
    }

    /// The QUIC swarm address, ending in `/p2p/ID`.
    pub fn quic(&self) -> Multiaddr {
        self.addr("/quic-v1")
    }

    /// `http://127.0.0.1:PORT` of the RPC API.
    pub fn api(&self) -> String {
        let addr = std::fs::read_to_string(self.repo.path().join("api")).unwrap();
        format!("http://127.0.0.1:{}", addr.trim().rsplit('/').next().unwrap())
    }

    /// `http://127.0.0.1:PORT` of the gateway.
    pub fn gateway(&self) -> String {
        std::fs::read_to_string(self.repo.path().join("gateway")).unwrap().trim().to_owned()
    }

    /// Stops the process without a word (SIGSTOP): its connections stay up and say nothing.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Ends the daemon and waits for it.
    pub async fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let _ = tokio::time::timeout(Duration::from_secs(20), self.daemon.wait()).await;
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = self.daemon.id().expect("the daemon runs");
        // SAFETY: kill(2) with the id of a child that was not waited for.
        assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
    }

    fn addr(&self, part: &str) -> Multiaddr {
        self.addrs.iter().find(|addr| addr.to_string().contains(part)).cloned().expect("an address of that kind")
    }
}

fn prepared(binary: &Path, repo: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env("IPFS_PATH", repo).env("IPFS_TELEMETRY", "off").env("LIBP2P_FORCE_PNET", "0").stdin(Stdio::null());
    command
}

async fn output<I: AsRef<OsStr>>(binary: &Path, repo: &Path, args: impl IntoIterator<Item = I>) -> Vec<u8> {
    let mut command = prepared(binary, repo);
    command.args(args).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND, command.output()).await.expect("kubo answers in time").unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

async fn command<I: AsRef<OsStr>>(binary: &Path, repo: &Path, args: impl IntoIterator<Item = I>) -> String {
    String::from_utf8(output(binary, repo, args).await).unwrap().trim().to_owned()
}

/// Sets a value, with the objects on the way to it.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for part in pointer.trim_start_matches('/').split('/') {
        at = at.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({}));
        if at.is_null() {
            *at = json!({});
        }
    }
    *at = value;
}
