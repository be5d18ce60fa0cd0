//! gateway-conformance's 274 cases against the real binary. `cases.ndjson` holds them as data (GATEWAY.md, at its head); what
//! to know of the runner stands in docs/verification.md.

mod car;
mod cases;
mod checks;
mod client;
mod custom;
mod fixtures;
#[path = "../interop/kubo.rs"]
mod kubo;
mod over_libp2p;
mod peer;
mod record;
mod report;
mod server;
mod tampering;

use std::net::SocketAddr;
use std::path::Path;

use cases::Case;
use client::Answer;
use report::{Outcome, Report};
use server::Server;

/// What stands for the reference's listings in two cases; the real suite takes the validator from the case before.
const THEIR_LISTING: &str = "DirIndex-ck924ob197ble_CID-";
const CASES: usize = 274;

/// The cases of each preset, all of which must pass. Those that need two presets are counted in both.
const PRESETS: [(&str, usize); 15] = [
    ("dnslink-gateway", 10),
    ("path-dag-gateway", 68),
    ("path-ipns-gateway", 22),
    ("path-range-gateway", 6),
    ("path-raw-gateway", 6),
    ("path-tar-gateway", 6),
    ("path-unixfs-gateway", 37),
    ("proxy-gateway", 6),
    ("redirects-file", 23),
    ("subdomain-ipfs-gateway", 47),
    ("subdomain-ipns-gateway", 20),
    ("trustless-block-gateway", 7),
    ("trustless-car-gateway", 52),
    ("trustless-car-gateway-optional", 7),
    ("trustless-ipns-gateway", 5),
];

#[test]
fn the_cases_pass_with_blocks_and_names_in_the_local_store() {
    let Some(folder) = fixtures::folder() else { return };
    let server = Server::start(&folder, &[]);
    server::fill(&server, &folder);
    let exchanges = run(&folder, server.gateway, |_| None);
    let report = judge("Blocks and names in the local store", &exchanges);
    let kept = report.keep("conformance");
    println!("{}\n{}kept in {}", report.table(), report.details(), kept.display());
    for (preset, cases) in PRESETS {
        let counts = report.by_preset().get(preset).copied().unwrap_or_default();
        assert_eq!((counts.passed, counts.failed + counts.skipped), (cases, 0), "{preset}; the log:\n{}", server.log());
    }
    assert_eq!((report.total().passed, report.results.len()), (CASES, CASES));
    tampering::each_is_noticed(&exchanges);
}

/// A case and what came back for its requests.
pub struct Exchange {
    pub case: Case,
    /// `Err`: why it was not sent.
    pub answers: Result<Vec<Answer>, &'static str>,
    /// Requests that got no answer.
    pub broken: Vec<String>,
}

/// Sends the requests of every case; `skip` says why one does not apply.
fn run(folder: &Path, gateway: SocketAddr, skip: impl Fn(&Case) -> Option<&'static str>) -> Vec<Exchange> {
    let mut listing = None;
    let mut exchanges = Vec::new();
    for case in cases::read(folder, gateway.port()) {
        let mut exchange = Exchange { answers: skip(&case).map_or(Ok(Vec::new()), Err), case, broken: Vec::new() };
        if let Ok(answers) = &mut exchange.answers {
            for request in &exchange.case.requests {
                let mut request = request.clone();
                put_our_listing(&mut request, listing.as_deref());
                match client::send(gateway, &request) {
                    Ok(more) => answers.extend(more),
                    Err(error) => exchange.broken.push(format!("no answer: {error}")),
                }
            }
            if exchange.case.name.starts_with("DirIndex etag") {
                listing = answers.first().and_then(|answer| answer.header("etag"));
            }
        }
        exchanges.push(exchange);
    }
    exchanges
}

/// Two cases send the validator of the reference's own page back: ours takes its place.
fn put_our_listing(request: &mut cases::Request, ours: Option<&str>) {
    for value in request.headers.iter_mut().flat_map(|headers| headers.values_mut()) {
        if value.contains(THEIR_LISTING)
            && let Some(ours) = ours
        {
            let weak = if value.starts_with("W/") { "W/" } else { "" };
            *value = format!("{weak}{ours}");
        }
    }
}

fn judge(title: &'static str, exchanges: &[Exchange]) -> Report {
    let outcome = |exchange: &Exchange| match &exchange.answers {
        Err(why) => Outcome::Skipped(why),
        Ok(answers) => {
            let failed = [exchange.broken.clone(), failures(&exchange.case, answers)].concat();
            if failed.is_empty() { Outcome::Passed } else { Outcome::Failed(failed) }
        }
    };
    let results = exchanges.iter().map(|exchange| (exchange.case.clone(), outcome(exchange))).collect();
    Report { title, results }
}

/// What of a case its answers do not meet.
fn failures(case: &Case, answers: &[Answer]) -> Vec<String> {
    let mut failed = Vec::new();
    for answer in answers {
        failed.extend(common_failures(answer));
        if let Some(expect) = &case.expect {
            failed.extend(checks::failures(case, expect, answer));
        }
    }
    if case.same_payload {
        let of = |answer: &Answer| (answer.status, answer.header("content-type"), answer.body.clone());
        match answers {
            [one, other] if one.status == 200 && of(one) == of(other) => {}
            _ => failed.push(format!(
                "not the same payload: {:?}",
                answers.iter().map(|a| (a.status, a.header("content-type"), a.body.len())).collect::<Vec<_>>()
            )),
        }
    }
    failed.dedup();
    failed
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
