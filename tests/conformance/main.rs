//! gateway-conformance's 274 cases against the real binary. `cases.ndjson` holds them as data (GATEWAY.md, at its head); what
//! to know of the runner stands in docs/verification.md.

mod car;
mod cases;
mod checks;
mod client;
mod custom;
mod fixtures;
mod record;
mod report;
mod server;

use std::net::SocketAddr;

use cases::Case;
use client::Answer;
use report::{Outcome, Report};
use server::Server;

/// What stands for the reference's listings in two cases; the real suite takes the validator from the case before.
const THEIR_LISTING: &str = "DirIndex-ck924ob197ble_CID-";
const CASES: usize = 274;

/// The least that must pass, by preset. Only ever raised; at the end each number is the preset's number of cases.
const MINIMUM: [(&str, usize); 15] = [
    ("dnslink-gateway", 0),
    ("path-dag-gateway", 60),
    ("path-ipns-gateway", 0),
    ("path-range-gateway", 6),
    ("path-raw-gateway", 6),
    ("path-tar-gateway", 6),
    ("path-unixfs-gateway", 32),
    ("proxy-gateway", 0),
    ("redirects-file", 0),
    ("subdomain-ipfs-gateway", 2),
    ("subdomain-ipns-gateway", 0),
    ("trustless-block-gateway", 7),
    ("trustless-car-gateway", 52),
    ("trustless-car-gateway-optional", 7),
    ("trustless-ipns-gateway", 0),
];
const MINIMUM_IN_ALL: usize = 172;

#[test]
fn the_cases_pass_with_blocks_and_names_in_the_local_store() {
    let Some(folder) = fixtures::folder() else { return };
    let server = Server::start(&folder, &[]);
    server::fill(&server, &folder);
    let report = run("Blocks and names in the local store", &folder, server.gateway, |_| None);
    let kept = report.keep("conformance");
    println!("{}\n{}kept in {}", report.table(), report.details(), kept.display());
    assert_eq!(report.results.len(), CASES, "cases in the fixtures");
    let presets = report.by_preset();
    for (preset, least) in MINIMUM {
        let passed = presets.get(preset).map_or(0, |counts| counts.passed);
        assert!(passed >= least, "{preset}: {passed} passed, at least {least} must; its log:\n{}", server.log());
    }
    let passed = report.total().passed;
    assert!(passed >= MINIMUM_IN_ALL, "{passed} of {CASES} passed, at least {MINIMUM_IN_ALL} must");
}

/// Runs every case; `skip` says why one does not apply.
fn run(
    title: &'static str,
    folder: &std::path::Path,
    gateway: SocketAddr,
    skip: impl Fn(&Case) -> Option<&'static str>,
) -> Report {
    let mut listing = None;
    let mut results = Vec::new();
    for case in cases::read(folder, gateway.port()) {
        let outcome = match skip(&case) {
            Some(why) => Outcome::Skipped(why),
            None => run_case(&case, gateway, &mut listing),
        };
        results.push((case, outcome));
    }
    Report { title, results }
}

/// `listing`: the validator of our listing, from the case that asks for it to those that send it back.
fn run_case(case: &Case, gateway: SocketAddr, listing: &mut Option<String>) -> Outcome {
    let mut failed = Vec::new();
    let mut answers: Vec<Answer> = Vec::new();
    for request in &case.requests {
        let mut request = request.clone();
        for (_, value) in request.headers.iter_mut().flatten().filter(|(_, value)| value.contains(THEIR_LISTING)) {
            let Some(ours) = &*listing else {
                return Outcome::Failed(vec!["no listing gave its validator before".to_owned()]);
            };
            let weak = if value.starts_with("W/") { "W/" } else { "" };
            *value = format!("{weak}{ours}");
        }
        match client::send(gateway, &request) {
            Ok(more) => answers.extend(more),
            Err(error) => failed.push(format!("no answer: {error}")),
        }
    }
    for answer in &answers {
        failed.extend(common_failures(answer));
        if let Some(expect) = &case.expect {
            failed.extend(checks::failures(case, expect, answer));
        }
        let etag = answer.header("etag").filter(|etag| etag.starts_with("\"DirIndex-"));
        if case.name.starts_with("DirIndex etag") {
            *listing = etag;
        }
    }
    if case.same_payload {
        let of = |answer: &Answer| (answer.status, answer.header("content-type"), answer.body.clone());
        match &answers[..] {
            [one, other] if one.status == 200 && of(one) == of(other) => {}
            [one, other] => failed.push(format!(
                "not the same payload: {} {:?} of {} bytes, {} {:?} of {} bytes",
                one.status,
                one.header("content-type"),
                one.body.len(),
                other.status,
                other.header("content-type"),
                other.body.len()
            )),
            _ => {}
        }
    }
    failed.dedup();
    if failed.is_empty() { Outcome::Passed } else { Outcome::Failed(failed) }
}

/// What holds for every answer, whatever the case looks at (GATEWAY.md §2.8, §3.2).
fn common_failures(answer: &Answer) -> Vec<String> {
    let mut failed = Vec::new();
    if answer.header("date").is_none() {
        failed.push("no Date".to_owned());
    }
    if answer.header("content-encoding").is_some() {
        failed.push("the answer is compressed, so its length and validator are not those of the content".to_owned());
    }
    // Custom 404, 410 and 451 pages of `_redirects` are content of an immutable tree, and say so.
    if answer.status >= 400 && answer.header("cache-control").is_some_and(|value| value.contains("immutable")) {
        let is_page = answer.header("etag").is_some() && matches!(answer.status, 404 | 410 | 451);
        if !is_page {
            failed.push(format!("status {} is immutable", answer.status));
        }
    }
    failed
}
