//! aria2 over all web servers at once: the best plain HTTP striping. Timed as a whole process, new connections included.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::web::PORT;
use super::{Contender, Content, Scratch};
use crate::client::Fetched;
use crate::net::namespace::{Namespace, succeed};

pub struct Aria2 {
    namespace: Namespace,
    /// Addresses of web servers.
    mirrors: Vec<String>,
    version: String,
    out: Scratch,
    cpu: Duration,
}

impl Aria2 {
    pub fn new(namespace: &Namespace, scratch: &Path, mirrors: Vec<String>) -> io::Result<Option<Self>> {
        let Some(version) = super::first_line("aria2c", &["--version"]) else { return Ok(None) };
        let out = Scratch::new(scratch, "aria2")?;
        Ok(Some(Self { namespace: namespace.clone(), mirrors, version, out, cpu: Duration::ZERO }))
    }
}

impl Contender for Aria2 {
    fn name(&self) -> &str {
        "aria2"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn remark(&self) -> Option<&'static str> {
        Some("a plain file from every provider's nginx; the whole process is timed, connects included")
    }

    fn fetch(&mut self, content: &Content) -> io::Result<Fetched> {
        let mut command = self.namespace.command("aria2c");
        command.args([
            "-q",
            "-s",
            "8",
            "-x",
            "4",
            "-k",
            "1M",
            "--file-allocation=none",
            "--no-conf",
            "-o",
            "file",
            "-d",
        ]);
        command.arg(&self.out.0);
        command.args(self.mirrors.iter().map(|host| format!("http://{host}:{PORT}/{}", content.name)));
        let before = children_cpu();
        let started = Instant::now();
        let output = command.output()?;
        let total = started.elapsed();
        self.cpu += children_cpu().saturating_sub(before);
        succeed("aria2c", &output)?;
        let file = self.out.0.join("file");
        let data = std::fs::read(&file)?;
        std::fs::remove_file(&file)?;
        Ok(Fetched { status: 200, ttfb: total, total, bytes: data.len() as u64, sha256: Sha256::digest(&data).into() })
    }

    fn cpu(&self) -> Option<Duration> {
        Some(self.cpu)
    }

    fn peak_memory(&self) -> Option<u64> {
        None
    }

    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// CPU time of children that ended; only this contender's end while it is measured.
fn children_cpu() -> Duration {
    // SAFETY: the struct is plain data that lives through the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}
