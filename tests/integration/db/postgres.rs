//! A PostgreSQL of the test's own: a fresh cluster on a Unix socket in a temporary folder, stopped by its pid.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;
use tempfile::TempDir;

pub struct Cluster {
    folder: TempDir,
    bin: PathBuf,
    server: Option<Child>,
}

impl Cluster {
    /// `None`, with the reason printed, where PostgreSQL is not installed; in CI that is a failure.
    pub fn start() -> Option<Self> {
        let Some(bin) = find() else {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "CI must have PostgreSQL (apt-get install postgresql)"
            );
            eprintln!("skipped: no initdb and postgres on PATH or under /usr/lib/postgresql");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("tg-pg").tempdir_in("/tmp").unwrap();
        if let Some((uid, gid)) = other_user() {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut cluster = Self { folder, bin, server: None };
        let made = cluster
            .command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(cluster.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        cluster.run();
        Some(cluster)
    }

    /// Starts the server (again).
    pub fn run(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        command.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        self.server = Some(command.spawn().unwrap());
        let started = Instant::now();
        let ready = || self.command("pg_isready").arg("-h").arg(self.folder.path()).status().unwrap().success();
        while !ready() {
            assert!(started.elapsed() < Duration::from_secs(60), "postgres did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes a database and returns its URL.
    pub async fn database(&self, name: &str) -> String {
        super::connect(&self.url("postgres"))
            .await
            .execute_unprepared(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        self.url(name)
    }

    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@localhost/{name}?host={}", self.folder.path().display())
    }

    /// Fast shutdown: connections are ended, data is kept.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let pid = i32::try_from(server.id()).unwrap();
        // SAFETY: a signal to our own child, which has not been waited for, so the pid is still its.
        unsafe { libc::kill(pid, libc::SIGINT) };
        server.wait().unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
        if program == "postgres" {
            command.stderr(Stdio::null());
        }
        if let Some((uid, gid)) = other_user() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn find() -> Option<PathBuf> {
    let installed =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|v| v.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = installed.collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().find(|folder| ["initdb", "postgres", "pg_isready"].iter().all(|p| folder.join(p).is_file()))
}

/// PostgreSQL refuses root; then it runs as the user that the package made.
fn other_user() -> Option<(u32, u32)> {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find(|line| line.starts_with("postgres:")).expect("the package makes the user postgres");
    let mut fields = user.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}
