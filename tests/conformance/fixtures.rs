//! The suite's fixtures, which are used where they lie and never copied into the repository.

use std::path::{Path, PathBuf};

/// The folder, or `None` with a word about it where it may be absent (it may not in CI).
pub fn folder() -> Option<PathBuf> {
    let said = std::env::var_os("TIDEGATE_FIXTURES").map(PathBuf::from);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places: Vec<PathBuf> = match said {
        Some(place) => vec![place],
        None => vec![checkout.join("../shared/fixtures"), PathBuf::from("/work/shared/fixtures")],
    };
    if let Some(found) = places.iter().find(|place| place.join("cases.ndjson").is_file()) {
        return Some(found.clone());
    }
    let text = format!("no fixtures of gateway-conformance in {places:?}: set TIDEGATE_FIXTURES to their folder");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text} (CI requires them)");
    eprintln!("skipped: {text}");
    None
}

/// What `IPFS_NS_MAP` is set to.
pub fn ns_map(fixtures: &Path) -> String {
    std::fs::read_to_string(fixtures.join("dnslinks.IPFS_NS_MAP")).expect("dnslinks.IPFS_NS_MAP").trim().to_owned()
}

/// An IPNS record of the fixtures.
pub struct Record {
    /// The name that it is for: the file's name up to the first `_`.
    pub name: String,
    pub path: PathBuf,
    /// Broken on purpose: no implementation may take it.
    pub invalid: bool,
}

pub fn records(fixtures: &Path) -> Vec<Record> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(fixtures).expect("the fixtures' folder") {
        let path = entry.expect("an entry of the fixtures' folder").path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(stem) = file.strip_suffix(".ipns-record") else { continue };
        let (name, kind) = stem.split_once('_').unwrap_or((stem, ""));
        let kind = kind.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
        // Signed by V1 alone; the V1 value is another; signatureV2 is wrong. A wrong V1 signature is of no account.
        let invalid = matches!(kind, "v1" | "v1-v2-broken-v1-value" | "v1-v2-broken-signature-v2");
        found.push(Record { name: name.to_owned(), path, invalid });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!((found.len(), found.iter().filter(|record| record.invalid).count()), (12, 3), "records of the fixtures");
    found
}
