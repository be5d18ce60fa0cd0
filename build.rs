use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=static");
    println!("cargo:rerun-if-changed=templates");
    println!("cargo:rerun-if-changed=Cargo.lock");
    // What the System page tells of the build; what is not known is left out.
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    tell("TIDEGATE_RUSTC", output(&rustc, &["--version"]));
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    for (variable, package) in
        [("TIDEGATE_LIBP2P", "libp2p"), ("TIDEGATE_AXUM", "axum"), ("TIDEGATE_SEA_ORM", "sea-orm")]
    {
        tell(variable, locked(&lock, package));
    }
    tell("TIDEGATE_PROFILE", std::env::var("PROFILE").ok());
    tell("TIDEGATE_TARGET", std::env::var("TARGET").ok());
    // In release builds only: otherwise each commit would build the crate anew.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        if let Some(log) =
            output("git", &["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists())
        {
            println!("cargo:rerun-if-changed={log}");
        }
        tell("TIDEGATE_COMMIT", output("git", &["rev-parse", "--short=12", "HEAD"]));
    }
}

fn tell(variable: &str, value: Option<String>) {
    if let Some(value) = value {
        println!("cargo:rustc-env={variable}={value}");
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// The version of a package in the lock file; `None` when there are several.
fn locked(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut versions = lock.split("[[package]]").filter(|entry| entry.lines().any(|line| line == name));
    let entry = versions.next()?;
    if versions.next().is_some() {
        return None;
    }
    entry.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')).map(str::to_owned)
}
