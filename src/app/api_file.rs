//! `DATA_DIR/api`: how commands find the running server. Mode 0600: it holds an admin token.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::token::AdminToken;

const NAME: &str = "api";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiFile {
    /// `http://127.0.0.1:8080`
    pub gateway: String,
    pub admin: String,
    pub token: String,
    pub pid: u32,
}

impl ApiFile {
    pub(super) fn new(gateway: &TcpListener, admin: &TcpListener, tls: bool, token: &AdminToken) -> Self {
        let url = |listener: &TcpListener| {
            let scheme = if tls { "https" } else { "http" };
            // An address that is bound has a name.
            listener.local_addr().map(|addr| format!("{scheme}://{}", reachable(addr))).unwrap_or_default()
        };
        Self { gateway: url(gateway), admin: url(admin), token: token.local().to_owned(), pid: std::process::id() }
    }

    /// The file of a running (or killed) server; `None` when there is none or it makes no sense.
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data_dir.join(NAME)).ok()?).ok()
    }

    pub(super) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let part = data_dir.join("api.part");
        // A left-over of a killed server could have another mode.
        let _ = std::fs::remove_file(&part);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        std::fs::rename(part, data_dir.join(NAME))
    }

    pub(super) fn remove(data_dir: &Path) {
        let _ = std::fs::remove_file(data_dir.join(NAME));
    }
}

/// 0.0.0.0 and :: are no addresses to connect to: a command on this machine uses loopback.
fn reachable(mut addr: std::net::SocketAddr) -> std::net::SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(if addr.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    addr
}
