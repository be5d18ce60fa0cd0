//! The house rules of DESIGN.md that a compiler does not hold: layers, file sizes, where tasks start, what is locked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module to layer. Modules of one layer do not use each other.
const LAYERS: &[(&str, u32)] = &[
    ("ipld", 0),
    ("blockstore", 10),
    ("denylist", 10),
    ("exchange", 10),
    ("listener", 10),
    ("record", 10),
    ("routing", 10),
    ("stats", 10),
    ("supervisor", 10),
    ("telemetry", 10),
    ("units", 10),
    ("p2p", 20),
    ("http_peer", 20),
    ("db", 20),
    ("names", 30),
    ("retriever", 30),
    ("dag", 40),
    ("topology", 40),
    ("webgpu", 40),
    ("checkpoint", 45),
    ("explain", 45),
    ("report", 45),
    ("gateway", 50),
    ("api", 50),
    ("dashboard", 50),
    ("config", 60),
    ("accelerator", 60),
    ("app", 60),
    ("cli", 60),
];

/// Edges within a layer that are part of the design: L1 is vocabulary that is shared (DESIGN.md §2, "ports, shared
/// vocabulary, small implementations"), and L6 is composition.
fn same_layer_allowed(layer: u32) -> bool {
    layer == 10 || layer == 60
}

/// Edges that the general rule forbids and the design names.
const NAMED_EXCEPTIONS: &[(&str, &str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The part of a file that is not tests: by our rule tests stand last, or in a file of their own named `tests`.
fn product_part<'a>(file: &Path, text: &'a str) -> &'a str {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if stem == "tests" || stem.ends_with("_tests") {
        return "";
    }
    // A test module in a file of its own is declared near the top: what follows its declaration is product again.
    let end =
        text.match_indices("#[cfg(test)]").find(|(at, _)| text[*at..].lines().nth(1).is_some_and(|l| l.ends_with('{')));
    end.map_or(text, |(at, _)| &text[..at])
}

fn module_of(path: &Path) -> Option<String> {
    let relative = path.strip_prefix(root().join("src")).ok()?;
    let first = relative.components().next()?.as_os_str().to_string_lossy().into_owned();
    Some(first.trim_end_matches(".rs").to_owned())
}

fn forbidden_edge(from: &str, to: &str) -> Option<String> {
    let layers: BTreeMap<&str, u32> = LAYERS.iter().copied().collect();
    let (Some(a), Some(b)) = (layers.get(from), layers.get(to)) else { return None };
    let named = NAMED_EXCEPTIONS.iter().any(|(f, t, _)| *f == from && *t == to);
    let allowed = from == to || a > b || (a == b && same_layer_allowed(*a)) || named;
    (!allowed).then(|| format!("{from} (L{}) uses {to} (L{})", a / 10, b / 10))
}

/// Every `crate::x` in a text, also in braces: `use crate::{x::.., y}`.
fn crate_edges(text: &str) -> Vec<String> {
    let mut edges = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => edges.push(std::mem::take(&mut name)),
                    c if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            edges.push(name);
        } else {
            edges.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    edges
        .into_iter()
        .map(|edge| edge.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|edge: &String| !edge.is_empty())
        .collect()
}

#[test]
fn a_module_uses_only_layers_below_its_own() {
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let Some(module) = module_of(&file) else { continue };
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        assert!(
            LAYERS.iter().any(|(name, _)| *name == module),
            "{module} has no layer: add it to LAYERS and ARCHITECTURE.md"
        );
        let text = fs::read_to_string(&file).unwrap();
        for to in crate_edges(product_part(&file, &text)) {
            wrong.extend(forbidden_edge(&module, &to).map(|edge| format!("{}: {edge}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "forbidden edges:\n{}", wrong.join("\n"));
}

#[test]
fn the_layer_test_sees_a_forbidden_edge() {
    let edges = crate_edges("use crate::{ipld::Cid, db::{Database, queries}};\nlet x = crate::gateway::State;");
    assert_eq!(edges, ["ipld", "db", "gateway"]);
    assert!(forbidden_edge("gateway", "db").is_none());
    assert!(forbidden_edge("retriever", "gateway").is_some());
    assert!(forbidden_edge("gateway", "api").is_some());
    assert!(forbidden_edge("p2p", "db").is_some());
}

#[test]
fn the_gateway_never_sees_the_database() {
    for file in rust_files(&root().join("src")) {
        if module_of(&file).as_deref() != Some("gateway") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        assert!(!crate_edges(product_part(&file, &text)).iter().any(|to| to == "db"), "{} uses db", file.display());
    }
}

#[test]
fn no_file_is_longer_than_800_lines() {
    let mut long = Vec::new();
    for dir in ["src", "migrations/src", "tests"] {
        for file in rust_files(&root().join(dir)) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > 800 {
                long.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_test_that_the_conformance_table_names_is_there() {
    let table = std::fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let code: String = ["src", "tests"]
        .iter()
        .flat_map(|dir| rust_files(&root().join(dir)))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    // What stands between backticks and looks like the name of a test; parameters and paths do not.
    let named: Vec<&str> = rows
        .flat_map(|row| row.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2))
        .filter(|name| {
            name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .collect();
    assert!(named.len() > 100, "only {} names were found", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "docs/conformance.md names tests that do not exist: {missing:?}");
}

#[test]
fn there_is_no_mod_rs() {
    let files = rust_files(&root().join("src"));
    assert!(files.iter().all(|file| file.file_name().is_some_and(|name| name != "mod.rs")));
}

/// `unwrap` and `expect` outside tests need a comment that names the local invariant, on the line or within the statement above it.
#[test]
fn an_unwrap_outside_tests_names_its_invariant() {
    let mut bare = Vec::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = product_part(&file, &text).lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains(".unwrap()") && !code.contains(".expect(") {
                continue;
            }
            let explained =
                line.contains("//") || lines[number.saturating_sub(4)..number].iter().any(|l| l.contains("//"));
            if !explained {
                bare.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(bare.is_empty(), "unwrap without its invariant:\n{}", bare.join("\n"));
}

#[test]
fn tasks_start_only_in_the_supervisor() {
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        if module_of(&file).as_deref() == Some("supervisor") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in product_part(&file, &text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("tokio::spawn(") || code.contains("task::spawn(") || code.contains("unbounded_channel") {
                wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Floors and bans of RELIABILITY.md §3.3: RustSec has no entries for several of these, so we hold them ourselves.
const FLOORS: &[(&str, &str)] = &[
    ("yamux", "0.14.1"),
    ("libp2p", "0.57.0"),
    ("libp2p-quic", "0.13.1"),
    ("libp2p-gossipsub", "0.49.4"),
    ("quinn-proto", "0.11.15"),
    ("h2", "0.4.16"),
    ("hickory-proto", "0.26.1"),
    ("hickory-resolver", "0.26.1"),
    ("rustls", "0.23.18"),
    ("rustls-webpki", "0.103.13"),
    ("bytes", "1.11.1"),
    ("time", "0.3.47"),
    ("lru", "0.18.2"),
    ("tar", "0.4.45"),
    ("ring", "0.17.12"),
    ("snow", "0.9.5"),
    ("idna", "1.0.0"),
    ("protobuf", "3.7.2"),
    ("lz4_flex", "0.12.1"),
    ("ammonia", "4.1.4"),
];
const BANNED: &[&str] = &["serde_cbor", "core2", "beetswap", "libp2p-rendezvous"];

fn version(text: &str) -> Vec<u64> {
    text.split(['.', '-', '+']).take(3).map(|part| part.parse().unwrap_or(0)).collect()
}

fn locked(lock: &str) -> Vec<(String, String)> {
    let lock: toml::Table = lock.parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    packages.iter().map(|package| (text(package, "name"), text(package, "version"))).collect()
}

fn violations(packages: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, have) in packages {
        for (floor_name, floor) in FLOORS {
            if name == floor_name && version(have) < version(floor) {
                found.push(format!("{name} {have} is under its floor {floor}"));
            }
        }
        if BANNED.contains(&name.as_str()) {
            found.push(format!("{name} {have} is banned"));
        }
    }
    found
}

#[test]
fn the_lock_file_holds_no_version_under_a_security_floor() {
    let packages = locked(&fs::read_to_string(root().join("Cargo.lock")).unwrap());
    assert!(packages.len() > 100, "the lock file was not read");
    assert_eq!(violations(&packages), Vec::<String>::new());
}

#[test]
fn an_old_yamux_would_be_found() {
    let old = [("yamux".to_owned(), "0.12.1".to_owned()), ("serde_cbor".to_owned(), "0.11.2".to_owned())];
    assert_eq!(violations(&old).len(), 2);
}

/// Pubsub stays off (RELIABILITY.md §3.4 row 17). The lock file names libp2p-gossipsub because libp2p-metrics could use it.
#[test]
fn pubsub_is_not_compiled_in() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("\"gossipsub\"") && !manifest.contains("\"floodsub\""));
}

/// deny.toml says the same to cargo-deny.
#[test]
fn deny_toml_names_every_ban() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    for name in BANNED {
        assert!(deny.contains(&format!("\"{name}\"")), "{name} is missing from deny.toml");
    }
    for (name, floor) in FLOORS {
        assert!(deny.contains(&format!("{name}@<{floor}")), "{name}@<{floor} is missing from deny.toml");
    }
}
