//! The System page: what runs, on what, with which settings, and what is not well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use askama::Template;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use super::attention::{self, Level, Need};
use super::export::{self, Links, Table, Wanted, row};
use super::filters::{self, NONE, count};
use super::page::Page;
use super::{State, error};
use crate::blockstore::{Blocks, DiskSpace};
use crate::db::DbState;
use crate::db::inventory::DbStatus;
use crate::supervisor::{Supervisor, Worker};

/// What the pages know of the process and its machine.
pub struct Host {
    pub blocks: Arc<Blocks>,
    /// The configuration in force, secrets taken out.
    pub config: Value,
    pub data_dir: PathBuf,
    pub supervisors: Vec<Supervisor>,
    pub started: Instant,
    pub started_at: SystemTime,
    /// Where the admin listener is reached.
    pub admin: String,
    /// Addresses of the node that peers dial; empty when it has none. Must not wait.
    pub peer_addrs: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

#[derive(Template)]
#[template(path = "dashboard/system.html")]
struct SystemPage {
    page: Page,
    view: View,
}

struct View {
    summary: String,
    needs: Vec<Need>,
    needs_count: String,
    listeners: Vec<Pair>,
    versions: Vec<Pair>,
    workers: Vec<WorkerRow>,
    disk: Vec<DiskRow>,
    disk_facts: Vec<Pair>,
    database: DatabaseView,
    config: Vec<Pair>,
    exports: Exports,
}

struct Exports {
    workers: Links,
    disk: Links,
    database: Links,
    config: Links,
    versions: Links,
    listeners: Links,
}

struct Pair {
    name: String,
    value: String,
}

struct WorkerRow {
    name: &'static str,
    state: &'static str,
    tone: &'static str,
    running: String,
    ended: String,
    panicked: String,
    since: String,
}

struct DiskRow {
    what: &'static str,
    bytes: String,
    limit: String,
    note: String,
}

struct DatabaseView {
    state: &'static str,
    tone: &'static str,
    text: String,
    facts: Vec<Pair>,
    tables: Vec<Pair>,
    counted: String,
}

/// `GET /system`
pub async fn page(Extract(state): Extract<State>, wanted: Wanted) -> Response {
    let now = SystemTime::now();
    let space = space(&state.host.data_dir).await;
    if wanted.format.is_some() {
        return export::answer(&wanted, "system", &tables(&state, space));
    }
    let page = Page::new("System", "/system");
    error::html(StatusCode::OK, &SystemPage { page, view: view(&state, space, now) })
}

/// On a thread of its own: a network file system may let it wait.
async fn space(dir: &Path) -> Option<DiskSpace> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || DiskSpace::of(&dir)).await.ok().flatten()
}

fn view(state: &State, space: Option<DiskSpace>, now: SystemTime) -> View {
    let host = &state.host;
    let status = state.db.as_ref().map(|db| db.status());
    let needs = attention::needs(status.as_ref().map(|status| &status.state), &(state.node)(), None);
    let open = needs.iter().filter(|need| need.level != Level::Fine).count();
    let link = |table: &str, what: &str| Links::new("/system", table, what);
    View {
        summary: format!(
            "Running for {}, since {}.",
            lasting(host.started.elapsed().as_secs()),
            filters::utc(host.started_at)
        ),
        needs_count: if open == 0 { "all is well".to_owned() } else { format!("{open} now") },
        needs,
        listeners: pairs(listeners(state)),
        versions: pairs(versions()),
        workers: workers(host).into_iter().map(worker_row).collect(),
        disk: disk(state, status.as_ref()),
        disk_facts: disk_facts(host, space),
        database: database(status.as_ref(), now),
        config: pairs(flat(&host.config)),
        exports: Exports {
            workers: link("workers", "Workers"),
            disk: link("disk", "Disk"),
            database: link("database", "Database"),
            config: link("config", "Configuration"),
            versions: link("versions", "Versions"),
            listeners: link("listeners", "Listeners"),
        },
    }
}

fn pairs(of: Vec<(String, String)>) -> Vec<Pair> {
    of.into_iter().map(|(name, value)| Pair { name, value }).collect()
}

fn pair(name: &str, value: impl Into<String>) -> Pair {
    Pair { name: name.to_owned(), value: value.into() }
}

fn lasting(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn listeners(state: &State) -> Vec<(String, String)> {
    let mut all = vec![("gateway".to_owned(), state.gateway.clone()), ("admin".to_owned(), state.host.admin.clone())];
    all.extend((state.host.peer_addrs)().into_iter().map(|address| ("peers".to_owned(), address)));
    all
}

/// What is known of the build; the rest is left out.
fn versions() -> Vec<(String, String)> {
    let known = [
        ("Tidegate", Some(env!("CARGO_PKG_VERSION"))),
        ("Git commit", option_env!("TIDEGATE_COMMIT")),
        ("Build", option_env!("TIDEGATE_PROFILE")),
        ("Target", option_env!("TIDEGATE_TARGET")),
        ("Compiler", option_env!("TIDEGATE_RUSTC")),
        ("libp2p", option_env!("TIDEGATE_LIBP2P")),
        ("axum", option_env!("TIDEGATE_AXUM")),
        ("SeaORM", option_env!("TIDEGATE_SEA_ORM")),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
}

/// By name, over all supervisors.
fn workers(host: &Host) -> BTreeMap<&'static str, Worker> {
    let mut workers: BTreeMap<&'static str, Worker> = BTreeMap::new();
    for (name, worker) in host.supervisors.iter().flat_map(Supervisor::workers) {
        let sum = workers.entry(name).or_insert(Worker { running: 0, ended: 0, panicked: 0, since: worker.since });
        sum.running += worker.running;
        sum.ended += worker.ended;
        sum.panicked += worker.panicked;
        sum.since = sum.since.min(worker.since);
    }
    workers
}

fn worker_row((name, worker): (&'static str, Worker)) -> WorkerRow {
    let (state, tone) = match (worker.running, worker.panicked) {
        (_, 1..) => ("panicked", "bad"),
        (0, _) => ("ended", ""),
        _ => ("running", "ok"),
    };
    WorkerRow {
        name,
        state,
        tone,
        running: count(worker.running as u64),
        ended: count(worker.ended),
        panicked: count(worker.panicked),
        since: lasting(worker.since.elapsed().as_secs()),
    }
}

fn disk(state: &State, database: Option<&DbStatus>) -> Vec<DiskRow> {
    let stats = state.host.blocks.stats();
    let size = |bytes: u64| filters::bytes(bytes).to_string();
    let blocks = |n: Option<u64>| n.map_or_else(String::new, |n| format!("{} blocks", count(n)));
    let mut rows = vec![
        DiskRow {
            what: "Durable store",
            bytes: size(stats.store.bytes),
            limit: "the disk".to_owned(),
            note: match state.host.blocks.problem() {
                Some(problem) => format!("cannot be written: {problem}"),
                None if stats.counting => "is being counted after an unclean stop".to_owned(),
                None => blocks(stats.store.blocks),
            },
        },
        DiskRow {
            what: "Disk cache",
            bytes: size(stats.disk.bytes),
            limit: stats.disk.capacity.map_or_else(|| NONE.to_owned(), size),
            note: match (stats.disk_available, stats.disk_dropped) {
                (false, _) => "off, or it cannot be written".to_owned(),
                (true, 0) => String::new(),
                (true, n) => format!("{} blocks were not written", count(n)),
            },
        },
        DiskRow {
            what: "Memory cache",
            bytes: size(stats.memory.bytes),
            limit: stats.memory.capacity.map_or_else(|| NONE.to_owned(), size),
            note: format!("{}, not on disk", blocks(stats.memory.blocks)),
        },
    ];
    if let Some(bytes) = database.and_then(|status| status.inventory.as_ref()?.bytes) {
        let limit = "rows are kept for a time".to_owned();
        rows.push(DiskRow { what: "Metrics database", bytes: size(bytes), limit, note: String::new() });
    }
    rows
}

fn disk_facts(host: &Host, space: Option<DiskSpace>) -> Vec<Pair> {
    let mut facts = vec![pair("Data directory", host.data_dir.display().to_string())];
    if let Some(space) = space {
        let share = filters::share(space.free, space.total).map_or_else(String::new, |share| format!(" ({share})"));
        facts.push(pair("Free on its file system", format!("{}{share}", filters::bytes(space.free))));
        facts.push(pair("Size of its file system", filters::bytes(space.total).to_string()));
    }
    facts
}

fn database(status: Option<&DbStatus>, now: SystemTime) -> DatabaseView {
    let Some(status) = status else {
        return DatabaseView {
            state: "off",
            tone: "",
            text:
                "No records are kept: --database none. Figures over time, the list of retrievals and reports need it."
                    .to_owned(),
            facts: Vec::new(),
            tables: Vec::new(),
            counted: String::new(),
        };
    };
    let (state, tone, text) = match &status.state {
        DbState::Up { since, .. } => ("up", "ok", format!("Answers since {}.", filters::utc(*since))),
        DbState::Down { reason, since } => {
            ("down", "bad", format!("Since {}: {}", filters::utc(*since), attention::database_advice(reason)))
        }
    };
    let mut facts = vec![pair("Where", status.location.clone())];
    if let DbState::Up { backend, .. } = &status.state {
        let engine = if *backend == "postgres" { "PostgreSQL" } else { "SQLite" };
        facts.insert(0, pair("Engine", engine));
    }
    if let Some(bytes) = status.inventory.as_ref().and_then(|inventory| inventory.bytes) {
        facts.push(pair("Size", filters::bytes(bytes).to_string()));
    }
    facts.push(pair(
        "Waiting to be written",
        format!("{} of {}", count(status.queued as u64), count(status.queue_limit as u64)),
    ));
    facts.push(pair("Written since the start", count(status.written)));
    facts.push(pair("Dropped", count(status.dropped)));
    facts.push(pair("Left out by sampling", count(status.sampled_out)));
    facts.push(pair("Failures", count(status.failures)));
    facts.push(pair(
        "Last failure",
        match &status.last_failure {
            Some((at, reason)) => format!("{}, {}", filters::ago(*at, now), filters::tame(reason, 300)),
            None => "none".to_owned(),
        },
    ));
    let tables = status.inventory.iter().flat_map(|inventory| &inventory.tables).map(|table| Pair {
        name: table.table.to_owned(),
        value: if table.estimated { format!("about {}", count(table.rows)) } else { count(table.rows) },
    });
    DatabaseView {
        state,
        tone,
        text,
        facts,
        tables: tables.collect(),
        counted: status
            .inventory
            .as_ref()
            .map_or_else(String::new, |inventory| format!("counted {}", filters::ago(inventory.at, now))),
    }
}

/// Nested keys with dots; lists by commas; what has no value says so.
fn flat(config: &Value) -> Vec<(String, String)> {
    fn walk(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&key, value, out);
                }
            }
            other => out.push((prefix.to_owned(), filters::tame(&text(other), 500))),
        }
    }
    fn text(value: &Value) -> String {
        match value {
            Value::Null => "not set".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        }
    }
    let mut out = Vec::new();
    walk("", config, &mut out);
    out
}

fn tables(state: &State, space: Option<DiskSpace>) -> Vec<Table> {
    let host = &state.host;
    let named = |name, pairs: Vec<(String, String)>| {
        Table::new(name, &["name", "value"], pairs.into_iter().map(|(name, value)| row![name, value]).collect())
    };
    let workers = workers(host).into_iter().map(|(name, worker)| {
        row![name, worker.running, worker.ended, worker.panicked, worker.since.elapsed().as_secs()]
    });
    let stats = host.blocks.stats();
    let status = state.db.as_ref().map(|db| db.status());
    let database_bytes = status.as_ref().and_then(|status| status.inventory.as_ref()?.bytes);
    let disk = vec![
        row!["store", stats.store.bytes, None::<u64>],
        row!["disk-cache", stats.disk.bytes, stats.disk.capacity],
        row!["memory-cache", stats.memory.bytes, stats.memory.capacity],
        row!["database", database_bytes, None::<u64>],
        row!["file-system-free", space.map(|space| space.free), space.map(|space| space.total)],
    ];
    let mut database = vec![row![
        "state",
        match &status {
            None => "off",
            Some(status) if status.state.is_up() => "up",
            Some(_) => "down",
        }
    ]];
    if let Some(status) = &status {
        database.push(row!["queued", status.queued.to_string()]);
        database.push(row!["written", status.written.to_string()]);
        database.push(row!["dropped", status.dropped.to_string()]);
        database.push(row!["sampled_out", status.sampled_out.to_string()]);
        database.push(row!["failures", status.failures.to_string()]);
        let tables = status.inventory.iter().flat_map(|inventory| &inventory.tables);
        database.extend(tables.map(|table| row![format!("rows.{}", table.table), table.rows.to_string()]));
    }
    vec![
        Table::new("workers", &["name", "running", "ended", "panicked", "first_started_s_ago"], workers.collect()),
        Table::new("disk", &["what", "bytes", "capacity_bytes"], disk),
        Table::new("database", &["name", "value"], database),
        named("config", flat(&host.config)),
        named("versions", versions()),
        named("listeners", listeners(state)),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_configuration_is_flat_and_says_what_is_not_set() {
        let config = json!({"admin": "127.0.0.1:8090", "router": [], "peer": ["a", "b"], "tls-cert": null, "limits": {"idle": "75s"}});
        let flat = flat(&config);
        let of = |name: &str| flat.iter().find(|(key, _)| key == name).unwrap().1.as_str();
        assert_eq!((of("limits.idle"), of("tls-cert"), of("router"), of("peer")), ("75s", "not set", "none", "a, b"));
    }

    #[test]
    fn the_build_knows_its_compiler_and_its_libp2p() {
        let versions = versions();
        let of = |name: &str| versions.iter().find(|(key, _)| key == name).unwrap().1.clone();
        assert!(of("Compiler").starts_with("rustc 1."), "{}", of("Compiler"));
        assert!(of("libp2p").starts_with("0."), "{}", of("libp2p"));
    }

    #[test]
    fn how_long_something_lasts_reads_as_people_say_it() {
        assert_eq!((lasting(7).as_str(), lasting(300).as_str()), ("7 s", "5 min"));
        assert_eq!((lasting(3 * 3_600 + 120).as_str(), lasting(3 * 86_400).as_str()), ("3 h 2 min", "3 d 0 h"));
    }
}
