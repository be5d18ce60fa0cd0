//! `doctor` and `config`: what stands between this machine and a working gateway.

use std::path::Path;

use super::connection::{Connection, Network};
use super::error::say;
use super::{CliError, Common, Exit};
use crate::config::{Overrides, Settings, data_dir};

/// Below this many bytes of UDP receive buffer QUIC is held to some 20 MiB/s at 50 ms (measured; DEPENDENCIES.md §0.4).
const UDP_BUFFER_WANTED: u64 = 4 * 1024 * 1024;
/// Free space under which writes are about to fail, in bytes.
const DISK_WANTED: u64 = 1 << 30;

#[derive(Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, serde::Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do, when there is something.
    next: Option<String>,
}

/// Exit 0 when nothing is a problem; warnings do not fail.
pub async fn doctor(common: &Common) -> Result<(), CliError> {
    let mut checks = vec![udp_buffer(), open_files()];
    let dir = data_dir(common.data_dir.as_deref()).map_err(CliError::usage)?;
    checks.push(directory(&dir));
    checks.extend(disk_space(&dir));
    checks.push(settings(common));
    checks.push(server(common, &dir).await);
    if common.json {
        say(serde_json::json!({ "checks": checks }))?;
    } else {
        for check in &checks {
            let mark = match check.verdict {
                Verdict::Ok => "ok      ",
                Verdict::Warning => "warning ",
                Verdict::Problem => "PROBLEM ",
            };
            say(format_args!("{mark} {}: {}", check.name, check.found))?;
            if let Some(next) = &check.next {
                say(format_args!("         {next}"))?;
            }
        }
    }
    let problems = checks.iter().filter(|check| check.verdict == Verdict::Problem).count();
    if problems > 0 { Err(CliError::new(Exit::Failed, format!("{problems} problem(s) found"))) } else { Ok(()) }
}

/// The settings that a running server was started with; without one, those that `serve` would start with.
pub async fn config_show(common: &Common, overrides: &Overrides) -> Result<(), CliError> {
    let settings = Settings::load(common.config.as_deref(), overrides).map_err(CliError::usage)?;
    let shown = match Connection::running(common).await? {
        Some(server) => server.json(server.api(reqwest::Method::GET, "config")).await?,
        None => settings.redacted(),
    };
    if common.json {
        return say(shown);
    }
    let text = toml::Table::try_from(&shown).and_then(|table| toml::to_string(&table));
    // null has no TOML form: keys without a value are left out.
    let text = match text {
        Ok(text) => text,
        Err(_) => toml::to_string(&without_nulls(shown)).map_err(CliError::failed)?,
    };
    say(text.trim_end())
}

pub fn config_check(common: &Common, overrides: &Overrides) -> Result<(), CliError> {
    Settings::load(common.config.as_deref(), overrides).map_err(CliError::usage)?;
    if common.json { say(serde_json::json!({ "valid": true })) } else { say("the settings are valid") }
}

fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        other => other,
    }
}

fn check(name: &'static str, verdict: Verdict, found: impl Into<String>, next: Option<&str>) -> Check {
    Check { name, verdict, found: found.into(), next: next.map(str::to_owned) }
}

fn udp_buffer() -> Check {
    let name = "UDP receive buffer";
    match std::fs::read_to_string("/proc/sys/net/core/rmem_default").ok().and_then(|t| t.trim().parse::<u64>().ok()) {
        Some(bytes) if bytes < UDP_BUFFER_WANTED => check(
            name,
            Verdict::Warning,
            format!("{bytes} bytes: QUIC transfers over long distances are slowed"),
            Some("sysctl -w net.core.rmem_default=4194304"),
        ),
        Some(bytes) => check(name, Verdict::Ok, format!("{bytes} bytes"), None),
        None => check(name, Verdict::Ok, "not known on this system", None),
    }
}

fn open_files() -> Check {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live, writable rlimit of this frame.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if known && limit.rlim_cur < 4096 {
        let found = format!("{} at most: connections beyond that are refused", limit.rlim_cur);
        return check("open files", Verdict::Warning, found, Some("ulimit -n 65536"));
    }
    check(
        "open files",
        Verdict::Ok,
        if known { format!("{} at most", limit.rlim_cur) } else { "not known".into() },
        None,
    )
}

fn directory(dir: &Path) -> Check {
    let name = "data directory";
    if let Err(error) = std::fs::create_dir_all(dir) {
        let found = format!("{}: {error}", dir.display());
        return check(name, Verdict::Problem, found, Some("give --data-dir a folder that can be written"));
    }
    let probe = dir.join(".doctor");
    match std::fs::write(&probe, b"x") {
        Ok(()) => {
            let _ = std::fs::remove_file(&probe);
            check(name, Verdict::Ok, dir.display().to_string(), None)
        }
        Err(error) => check(
            name,
            Verdict::Problem,
            format!("{}: {error}", dir.display()),
            Some("free space or remount it writable; reading and fetching go on meanwhile"),
        ),
    }
}

fn disk_space(dir: &Path) -> Option<Check> {
    let free = crate::blockstore::DiskSpace::of(dir)?.free;
    let human = crate::units::ByteSize(free).human();
    Some(if free < DISK_WANTED {
        check("disk", Verdict::Warning, format!("{human} free"), Some("free space, or lower cache-disk"))
    } else {
        check("disk", Verdict::Ok, format!("{human} free"), None)
    })
}

fn settings(common: &Common) -> Check {
    match Settings::load(common.config.as_deref(), &Overrides::default()) {
        Ok(_) => check("settings", Verdict::Ok, "valid", None),
        Err(error) => check("settings", Verdict::Problem, error.to_string(), Some("see config.example.toml")),
    }
}

async fn server(common: &Common, dir: &Path) -> Check {
    let name = "server";
    if crate::app::ApiFile::read(dir).is_none() {
        return check(name, Verdict::Ok, "none runs on this data directory", Some("tidegate serve"));
    }
    let connection = match Connection::open(common, Network::Local).await {
        Ok(connection) => connection,
        Err(error) => return check(name, Verdict::Problem, error.message, error.hint.as_deref()),
    };
    let ready = connection.http.get(format!("{}/readyz", connection.admin)).send().await;
    let found = match ready {
        Ok(response) => {
            let status = response.status();
            let text = response.text().await.unwrap_or_default();
            (status.is_success(), format!("{} {}", connection.admin, text.trim()))
        }
        Err(error) => (false, error.to_string()),
    };
    connection.close().await;
    let verdict = if found.0 { Verdict::Ok } else { Verdict::Warning };
    check(name, verdict, found.1, None)
}
