//! The command line as scripts meet it: what is printed where, and the exit codes of DESIGN.md §8.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const HELLO_CID: &str = "bafkqabtimvwgy3yk";
/// Not in any store of these tests.
const NOWHERE: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .env("TIDEGATE_DATA_DIR", data)
        .env("TIDEGATE_BOOTSTRAP", "none")
        .env("TIDEGATE_NO_MDNS", "true")
        .env("TIDEGATE_DNS", "none")
        .env("TIDEGATE_CACHE_DISK", "0")
        .env_remove("TIDEGATE_CONFIG")
        .env_remove("RUST_LOG");
    command
}

fn run(data: &Path, args: &[&str]) -> Output {
    command(data).args(args).output().unwrap()
}

fn ok(data: &Path, args: &[&str]) -> String {
    let output = run(data, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tidegate {args:?}: {:?}: {stderr}", output.status.code());
    String::from_utf8(output.stdout).unwrap()
}

fn code(data: &Path, args: &[&str]) -> (i32, String) {
    let output = run(data, args);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A server on free loopback ports; stopped by SIGTERM when dropped.
struct Server {
    child: Child,
    ready: String,
}

impl Server {
    fn start(data: &Path) -> Self {
        let mut child = command(data)
            .args(["serve", "--gateway", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        Self { child, ready }
    }

    fn stop(&mut self) -> i32 {
        // SAFETY: a signal to a child that this struct owns and has not waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn what_is_added_comes_back_byte_for_byte_with_and_without_a_server() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, file) = (tmp.path().join("data"), tmp.path().join("file"));
    fs::write(&file, pattern(1_300_000)).unwrap();
    // Alone on the data directory.
    let cid = ok(&data, &["add", "-q", file.to_str().unwrap()]).trim().to_owned();
    assert_eq!(run(&data, &["cat", &cid]).stdout, pattern(1_300_000));
    // Through a running server.
    let mut server = Server::start(&data);
    assert!(server.ready.starts_with("ready gateway=http://127.0.0.1:"), "{}", server.ready);
    assert!(server.ready.contains(" admin=http://127.0.0.1:") && server.ready.contains(" peer=/ip4/127.0.0.1/tcp/"));
    assert_eq!(run(&data, &["cat", &cid]).stdout, pattern(1_300_000));
    assert_eq!(ok(&data, &["add", "-q", file.to_str().unwrap()]).trim(), cid);
    assert!(ok(&data, &["pin", "ls"]).contains(&cid));
    assert!(ok(&data, &["id"]).contains("12D3KooW"));
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_folder_round_trips_and_its_listing_names_every_entry() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, folder, copy) = (tmp.path().join("data"), tmp.path().join("site"), tmp.path().join("copy"));
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    for (name, size) in [("index.html", 10), ("deep/a b.txt", 300_000), ("deep/er/größe", 0), ("deep/er/100%.txt", 1)]
    {
        fs::write(folder.join(name), pattern(size)).unwrap();
    }
    let cid = ok(&data, &["add", "-r", "-q", folder.to_str().unwrap()]).trim().to_owned();
    let listing = ok(&data, &["ls", &cid]);
    assert!(listing.contains("index.html") && listing.contains("deep"), "{listing}");
    ok(&data, &["get", &cid, "-o", copy.to_str().unwrap()]);
    for (name, size) in [("index.html", 10), ("deep/a b.txt", 300_000), ("deep/er/größe", 0), ("deep/er/100%.txt", 1)]
    {
        assert_eq!(fs::read(copy.join(name)).unwrap(), pattern(size), "{name}");
    }
    assert_eq!(run(&data, &["cat", &format!("{cid}/deep/a b.txt")]).stdout, pattern(300_000));
    let refs = ok(&data, &["refs", "-r", &cid]);
    assert!(refs.lines().count() >= 6, "{refs}");
}

#[test]
fn get_goes_on_where_it_stopped_and_keeps_no_part() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, file, out) = (tmp.path().join("data"), tmp.path().join("file"), tmp.path().join("out"));
    fs::write(&file, pattern(900_000)).unwrap();
    let cid = ok(&data, &["add", "-q", file.to_str().unwrap()]).trim().to_owned();
    // What an interrupted run leaves: a correct beginning under the part's name, which an endless device stops here.
    let mut child = command(&data).args(["get", &cid, "-o", out.to_str().unwrap()]).spawn().unwrap();
    let part = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        let entries = fs::read_dir(tmp.path()).unwrap().flatten().map(|entry| entry.path());
        entries.into_iter().find(|path| path.to_string_lossy().ends_with(".part"))
    });
    let _ = child.kill();
    let _ = child.wait();
    if let Some(part) = part.filter(|part| part.exists()) {
        fs::write(&part, &pattern(900_000)[..400_000]).unwrap();
    }
    ok(&data, &["get", &cid, "-o", out.to_str().unwrap()]);
    assert_eq!(fs::read(&out).unwrap(), pattern(900_000));
    let left =
        fs::read_dir(tmp.path()).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().ends_with(".part"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_car_file_carries_a_dag_to_another_store() {
    let tmp = tempfile::tempdir().unwrap();
    let (one, two) = (tmp.path().join("one"), tmp.path().join("two"));
    let (file, car) = (tmp.path().join("file"), tmp.path().join("dag.car"));
    fs::write(&file, pattern(700_000)).unwrap();
    let cid = ok(&one, &["add", "-q", file.to_str().unwrap()]).trim().to_owned();
    ok(&one, &["car", "export", &cid, "-o", car.to_str().unwrap()]);
    assert!(ok(&two, &["car", "import", car.to_str().unwrap()]).contains(&cid));
    assert_eq!(run(&two, &["cat", &cid]).stdout, pattern(700_000));
    assert!(ok(&two, &["pin", "ls"]).contains(&cid));
}

#[test]
fn gc_takes_what_no_pin_needs_and_nothing_else() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, keep, drop) = (tmp.path().join("data"), tmp.path().join("keep"), tmp.path().join("drop"));
    fs::write(&keep, pattern(600_000)).unwrap();
    fs::write(&drop, pattern(600_001)).unwrap();
    let keep = ok(&data, &["add", "-q", keep.to_str().unwrap()]).trim().to_owned();
    let gone = ok(&data, &["add", "-q", drop.to_str().unwrap()]).trim().to_owned();
    ok(&data, &["pin", "rm", &gone]);
    ok(&data, &["gc"]);
    assert_eq!(run(&data, &["cat", &keep]).stdout, pattern(600_000));
    let (exit, _) = code(&data, &["cat", &gone]);
    assert_eq!(exit, 3);
    ok(&data, &["scrub"]);
}

#[test]
fn exit_codes_tell_what_kind_of_failure_it_was() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    assert_eq!(ok(&data, &["cat", HELLO_CID]), "hello\n");
    let (exit, stderr) = code(&data, &["cat", NOWHERE]);
    assert_eq!(exit, 3, "{stderr}");
    assert!(stderr.contains("error: "), "{stderr}");
    assert_eq!(code(&data, &["cat", "not-a-cid"]).0, 2);
    assert_eq!(code(&data, &["no-such-command"]).0, 2);
    assert_eq!(code(&data, &["add", "/no/such/file"]).0, 1);
    assert_eq!(code(&data, &["config", "check", "--config", "/no/such/file"]).0, 2);
    assert_eq!(code(&data, &["add", tmp.path().to_str().unwrap()]).0, 2, "a folder needs -r");
}

#[test]
fn errors_as_json_hold_the_exit_code() {
    let tmp = tempfile::tempdir().unwrap();
    let (exit, stderr) = code(&tmp.path().join("data"), &["--json", "cat", NOWHERE]);
    let error: serde_json::Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!((exit, error["exit"].as_i64()), (3, Some(3)));
}

#[test]
fn a_second_server_on_the_same_data_directory_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    let mut server = Server::start(&data);
    let (exit, stderr) = code(&data, &["serve", "--gateway", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--offline"]);
    assert_eq!(exit, 1);
    assert!(stderr.contains("in use by another process"), "{stderr}");
    assert_eq!(server.stop(), 0);
}

#[test]
fn settings_and_completions_print_on_standard_output() {
    let tmp = tempfile::tempdir().unwrap();
    let shown = ok(tmp.path(), &["config", "show", "--cache-memory", "1MiB"]);
    assert!(shown.contains("cache-memory = \"1MiB\""), "{shown}");
    assert!(ok(tmp.path(), &["completions", "bash"]).contains("tidegate"));
    assert!(ok(tmp.path(), &["doctor"]).contains("data directory"));
}

#[test]
fn every_line_of_a_json_answer_is_json() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    let folder = tmp.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.txt"), "a").unwrap();
    let cid = ok(&data, &["add", "-rq", folder.to_str().unwrap()]).trim().to_owned();
    let car = tmp.path().join("x.car");
    for args in [
        &["config", "check"][..],
        &["refs", &cid],
        &["refs", "-r", &cid],
        &["pin", "rm", &cid],
        &["pin", "add", &cid],
        &["car", "export", &cid, "-o", car.to_str().unwrap()],
        &["car", "import", car.to_str().unwrap()],
    ] {
        let out = ok(&data, &[&["--json"], args].concat());
        assert!(!out.is_empty(), "{args:?}");
        for line in out.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{args:?}: {line}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let tmp = tempfile::tempdir().unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&tmp.path().join("data")).args(["config", "check"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("standard output"), "{stderr}");
}

#[test]
fn names_are_published_put_and_resolved_with_and_without_a_server() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    let published = ok(&data, &["name", "publish", "/ipfs/bafkqabtimvwgy3yk", "--ttl", "10m"]);
    let (name, value) = published.trim().split_once(" -> ").unwrap();
    assert!(name.starts_with("k51") && value == "/ipfs/bafkqabtimvwgy3yk", "{published}");
    assert_eq!(ok(&data, &["name", "resolve", name]).trim(), "/ipfs/bafkqabtimvwgy3yk");

    let mut server = Server::start(&data);
    let gateway = server.ready.split_once("gateway=").unwrap().1.split(' ').next().unwrap().to_owned();
    assert_eq!(ok(&data, &["name", "resolve", &format!("/ipns/{name}/a")]).trim(), "/ipfs/bafkqabtimvwgy3yk/a");
    let record = Command::new("curl")
        .args(["-sSf", &format!("{gateway}/ipns/{name}?format=ipns-record")])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(server.stop(), 0);

    // The record is good in another data directory, under its own name alone.
    let (other, file) = (tmp.path().join("other"), tmp.path().join("record"));
    fs::write(&file, &record).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(ok(&other, &["name", "put", name, file]), published);
    assert_eq!(ok(&other, &["name", "resolve", name]).trim(), "/ipfs/bafkqabtimvwgy3yk");
    let (exit, said) =
        code(&other, &["name", "put", "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8", file]);
    assert!(exit == 1 && said.contains("signatureV2 is not valid"), "{exit}: {said}");
    let (exit, said) =
        code(&other, &["name", "resolve", "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8"]);
    assert!(exit == 3 && said.contains("no peer of the DHT is known yet"), "{exit}: {said}");
    assert_eq!(code(&other, &["name", "put", "not a name", file]).0, 2);
}

#[test]
fn a_token_is_made_listed_and_revoked_with_and_without_a_server() {
    let tmp = tempfile::tempdir().unwrap();
    let made = ok(tmp.path(), &["token", "create", "--scope", "read", "--name", "alone", "--expires", "1h"]);
    let token = made.trim();
    assert!(token.starts_with("tidegate_") && token.len() == "tidegate_".len() + 64, "{made}");
    assert!(!ok(tmp.path(), &["token", "ls"]).contains(token));
    let (exit, stderr) = code(tmp.path(), &["token", "create", "--scope", "read", "--name", "alone"]);
    assert!(exit == 1 && stderr.contains("alone"), "{exit}: {stderr}");
    assert_eq!(code(tmp.path(), &["token", "create", "--scope", "root", "--name", "x"]).0, 2);

    let mut server = Server::start(tmp.path());
    let listed = ok(tmp.path(), &["token", "ls"]);
    assert!(listed.contains("read") && listed.contains("never used") && listed.contains("alone"), "{listed}");
    ok(tmp.path(), &["token", "revoke", "alone"]);
    assert_eq!(ok(tmp.path(), &["token", "ls"]), "");
    assert_eq!(code(tmp.path(), &["token", "revoke", "alone"]).0, 3);
    assert_eq!(server.stop(), 0);
}

#[test]
fn explain_says_who_has_it_and_its_exit_code_says_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, file) = (tmp.path().join("data"), tmp.path().join("file"));
    fs::write(&file, pattern(700_000)).unwrap();
    let cid = ok(&data, &["add", "-q", file.to_str().unwrap()]).trim().to_owned();

    // With a server and without.
    let mut server = Server::start(&data);
    let said = ok(&data, &["explain", &cid]);
    server.stop();
    for said in [said, ok(&data, &["explain", &cid])] {
        assert!(said.starts_with(&cid) && said.contains("verdict    local"), "{said}");
        assert!(
            said.contains("in store, 4 blocks here, pinned (recursive)") && said.contains("nothing to fetch"),
            "{said}"
        );
    }
    let json: serde_json::Value = serde_json::from_str(&ok(&data, &["explain", "--json", &cid])).unwrap();
    assert_eq!((&json["verdict"], &json["local"]["bytes_missing"]), (&"local".into(), &0.into()));

    let (exit, error) = code(&data, &["explain", NOWHERE]);
    assert_eq!(exit, 3, "{error}");
    assert_eq!(code(&data, &["explain", "not-a-cid"]).0, 2);
    assert_eq!(code(&data, &["explain", &format!("{cid}/below")]).0, 3);
    assert_eq!(code(&data, &["explain", "--timeout", "2h", &cid]).0, 2);
    // A router that takes the question and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let router = format!("http://{}", silent.local_addr().unwrap());
    let slow =
        command(&data).env("TIDEGATE_ROUTER", router).args(["explain", "--timeout", "1s", NOWHERE]).output().unwrap();
    assert_eq!(slow.status.code(), Some(4), "{}", String::from_utf8_lossy(&slow.stderr));
    assert!(String::from_utf8_lossy(&slow.stdout).contains("verdict    unknown"));
    let list = tmp.path().join("list.deny");
    fs::write(&list, format!("version: 1\n---\n/ipfs/{NOWHERE}\n")).unwrap();
    let denied = command(&data).env("TIDEGATE_DENYLIST", &list).args(["explain", NOWHERE]).output().unwrap();
    assert_eq!(denied.status.code(), Some(5), "{}", String::from_utf8_lossy(&denied.stderr));
    // By its path, and by a name on the way.
    let map = format!("alias.example.org:/ipns/bad.example.org,bad.example.org:/ipfs/{NOWHERE}");
    for (rule, asked, exit) in [
        (format!("/ipfs/{NOWHERE}/a*"), format!("{NOWHERE}/ab"), 5),
        (format!("/ipfs/{NOWHERE}/a*"), NOWHERE.to_owned(), 3),
        ("/ipns/bad.example.org".to_owned(), "/ipns/alias.example.org".to_owned(), 5),
        ("/ipns/bad.example.org/x".to_owned(), "/ipns/alias.example.org/x".to_owned(), 5),
        ("/ipns/bad.example.org/x".to_owned(), "/ipns/alias.example.org".to_owned(), 3),
    ] {
        fs::write(&list, format!("{rule}\n")).unwrap();
        let mut explain = command(&data);
        explain.env("TIDEGATE_DENYLIST", &list).env("IPFS_NS_MAP", &map).args(["explain", &asked]);
        let output = explain.output().unwrap();
        assert_eq!(output.status.code(), Some(exit), "{rule} {asked}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
