//! Files that change while the server runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tracing::{info, warn};

use super::{DenylistError, Denylists, Rules};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Counts of the denylists.
#[derive(Debug, Clone)]
pub struct WatchMetrics {
    rules: Gauge,
    reloads: Counter,
    failures: Counter,
}

impl WatchMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            rules: metrics.register("denylist_rules", "Rules of all denylists that count now", Gauge::default()),
            reloads: metrics.register(
                "denylist_reloads",
                "Times that changed denylists were read again",
                Counter::default(),
            ),
            failures: metrics.register(
                "denylist_reload_failures",
                "Times that changed denylists could not be read; the rules from before go on counting",
                Counter::default(),
            ),
        }
    }
}

/// The lists to read, in order: those of the folders that all IPFS software looks at, by name, then the given ones.
/// A given folder stands for the `.deny` files in it.
pub fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>, DenylistError> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let config = config.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let shared = [Some(PathBuf::from("/etc")), config].into_iter().flatten().map(|dir| dir.join("ipfs/denylists"));
    let mut files = Vec::new();
    for dir in shared.filter(|dir| dir.is_dir()) {
        files.extend(folder(&dir)?);
    }
    for path in given {
        if path.is_dir() { files.extend(folder(path)?) } else { files.push(path.clone()) }
    }
    Ok(files)
}

fn folder(dir: &Path) -> Result<Vec<PathBuf>, DenylistError> {
    let error = |error| DenylistError::Read { path: dir.to_owned(), error };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.extension().is_some_and(|extension| extension == "deny") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the lists again whenever one of them changes, appears or goes. What cannot be read leaves the rules as they are.
pub fn watch(lists: &Denylists, given: Vec<PathBuf>, metrics: &Metrics, supervisor: &Supervisor) {
    let (lists, counts, token) = (lists.clone(), WatchMetrics::new(metrics), supervisor.token());
    counts.rules.set(i64::try_from(lists.rules().len()).unwrap_or(i64::MAX));
    let mut seen = stamps(&given);
    supervisor.spawn("denylists", async move {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = stamps(&given);
            if now == seen {
                continue;
            }
            let again = given.clone();
            let started = Instant::now();
            let read = tokio::task::spawn_blocking(move || Rules::read(&files(&again)?)).await;
            match read {
                Ok(Ok(rules)) => {
                    info!(rules = rules.len(), unknown = rules.unknown(), took = ?started.elapsed(), "denylists read again");
                    counts.rules.set(i64::try_from(rules.len()).unwrap_or(i64::MAX));
                    counts.reloads.inc();
                    lists.replace(rules);
                }
                Ok(Err(error)) => {
                    counts.failures.inc();
                    warn!(%error, "denylists not read again; the rules from before go on counting");
                }
                Err(error) => warn!(%error, "denylists not read again"),
            }
            seen = now;
        }
    });
}

/// What tells one state of the files from another.
fn stamps(given: &[PathBuf]) -> Vec<(PathBuf, Option<(u64, SystemTime)>)> {
    let stamp = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    files(given).unwrap_or_default().into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}
