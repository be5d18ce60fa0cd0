//! Results for the database of a running Tidegate: `POST /api/v1/results` (docs/rest-api.md).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use serde_json::{Value, json};

use super::{OPTIMIZED, Run};
use crate::cell::Sample;
use crate::client;
use crate::run::warm::Warm;

/// Transfers in one result, and results in one request: within 8 MiB with room.
const TRANSFERS: usize = 1_000;
const RESULTS: usize = 5;
const WHY: &str = "shaped links in network namespaces of one machine";
/// Of the server that results are sent to, where it asks for one.
const TOKEN: &str = "TIDEGATE_TOKEN";

/// The results of a run: one for at most a thousand transfers of a scenario, in the order in which they were measured.
/// `standard`: the contender whose transfers count as the standard policy. Others are not sent: the database knows two
/// policies, and rows of different programs in one of them would say nothing.
pub fn results(run: &Run, samples: &[Sample], warm: &[Warm], standard: &str) -> Vec<Value> {
    let policy = |contender: &str| match contender {
        OPTIMIZED => Some("optimized"),
        other if other == standard => Some("standard"),
        _ => None,
    };
    let mut scenarios: Vec<&str> = Vec::new();
    for sample in samples {
        if !scenarios.contains(&sample.scenario) {
            scenarios.push(sample.scenario);
        }
    }
    let mut groups: Vec<(String, bool, Vec<Value>)> = Vec::new();
    for scenario in scenarios {
        let of: Vec<&Sample> = samples.iter().filter(|sample| sample.scenario == scenario).collect();
        for part in of.chunks(TRANSFERS) {
            let good = part.iter().all(|sample| sample.error.is_none() || policy(&sample.contender).is_none());
            let transfers =
                part.iter().filter_map(|sample| Some(transfer(sample, policy(&sample.contender)?))).collect::<Vec<_>>();
            groups.push((scenario.to_owned(), good, transfers));
        }
    }
    let served: Vec<Value> = warm
        .iter()
        .filter_map(|one| {
            let policy = policy(&one.contender)?;
            Some(json!({
                "cid": one.cid, "origin": "bench", "policy": policy, "is_simulated": false,
                "scenario": format!("warm/{} connections", one.connections), "cache_state": "memory",
                "load_time_ms": one.p50_us / 1e3, "bytes": one.bytes,
            }))
        })
        .collect();
    groups.push(("warm".to_owned(), true, served));
    let machine = run.machine.to_string();
    groups
        .into_iter()
        .filter(|(_, _, transfers)| !transfers.is_empty())
        .enumerate()
        .map(|(sequence, (scenario, success, transfers))| {
            json!({
                "run_id": run.id, "sequence": sequence, "test_type": format!("bench {scenario}"), "success": success,
                "tool": concat!("tidegate-bench ", env!("CARGO_PKG_VERSION")),
                "machine_fingerprint": machine.chars().take(500).collect::<String>(),
                "details": {
                    "seed": run.seed, "standard": standard, "providers": run.providers, "transport": run.transport,
                    "congestion_control": run.congestion_control,
                    "contenders": run.contenders.iter().map(|(name, version, _)| format!("{name}: {version}")).collect::<Vec<_>>(),
                },
                "transfers": transfers,
            })
        })
        .collect()
}

fn transfer(sample: &Sample, policy: &str) -> Value {
    let fault = sample.fault.map(|fault| format!("/{fault}")).unwrap_or_default();
    let complete = sample.error.is_none();
    let wire = sample.wire_ratio.map(|ratio| (ratio * sample.bytes as f64) as u64);
    let mut value = json!({
        "cid": sample.cid, "origin": "bench", "policy": policy, "source": "p2p",
        "scenario": format!("{}/{}{fault}", sample.scenario, sample.links),
        "is_simulated": true, "simulation_reason": WHY,
        "outcome": if complete { "complete" } else { "error" }, "cache_state": "miss",
        "load_time_ms": sample.total_ms, "bytes": sample.bytes,
        "network_bytes": wire, "duplicate_bytes": sample.duplicate_bytes,
    });
    if complete {
        value["transfer_time_ms"] = json!(sample.total_ms);
        value["ttfb_ms"] = json!(sample.ttfb_ms);
        // Noise may pass the bound by a hair; a score is at most 1.
        value["optimization_score"] = json!(sample.bound_ms.map(|bound| (bound / sample.total_ms).min(1.0)));
    }
    value
}

/// Sends `results` to the server at `url`; how many it did not know before.
pub fn send(url: &str, results: &[Value]) -> io::Result<u64> {
    let host = host(url)?;
    let token = std::env::var(TOKEN).ok();
    let mut created = 0;
    for part in results.chunks(RESULTS) {
        let body = json!({ "results": part });
        let (status, answer) = client::post(host, "/api/v1/results", token.as_deref(), &body)?;
        if !matches!(status, 200 | 201) {
            let said = String::from_utf8_lossy(&answer);
            return Err(io::Error::other(format!("{url} answered {status} to the results: {said}")));
        }
        let stored: Value = serde_json::from_slice(&answer)?;
        created += stored["created"].as_u64().unwrap_or_default();
    }
    Ok(created)
}

fn host(url: &str) -> io::Result<SocketAddr> {
    let rest = url.strip_prefix("http://").ok_or_else(|| io::Error::other(format!("{url}: give http://HOST:PORT")))?;
    let authority = rest.split('/').next().unwrap_or_default();
    let found = authority.to_socket_addrs()?.next();
    found.ok_or_else(|| io::Error::other(format!("{authority} has no address")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::cell::tests::sample;
    use crate::report::tests::run;

    #[test]
    fn only_the_two_policies_are_sent_in_the_order_of_the_run() {
        let samples = [
            sample("tidegate-standard", 90.0, None),
            sample(OPTIMIZED, 60.0, None),
            sample("kubo", 120.0, None),
            sample(OPTIMIZED, 0.0, Some("gone")),
        ];
        let results = results(&run(), &samples, &[], "tidegate-standard");
        assert_eq!(results.len(), 1);
        assert_eq!((&results[0]["success"], &results[0]["test_type"]), (&json!(false), &json!("bench small")));
        let told: Vec<_> = results[0]["transfers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|transfer| {
                (
                    transfer["policy"].as_str().unwrap(),
                    transfer["outcome"].as_str().unwrap(),
                    transfer["scenario"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("standard", "complete", "small/A"),
                ("optimized", "complete", "small/A"),
                ("optimized", "error", "small/A")
            ]
        );
        assert_eq!(results[0]["transfers"][2]["transfer_time_ms"], Value::Null);
    }

    #[test]
    fn results_are_sent_as_one_json_body_and_a_refusal_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            for answer in ["201 Created", "422 Unprocessable Content"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut text = String::new();
                let mut buffer = [0; 65_536];
                while !text.ends_with("]}") {
                    let read = stream.read(&mut buffer).unwrap();
                    text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                }
                let body = r#"{"created":1,"known":0,"items":[]}"#;
                write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
                bodies.push(text);
            }
            bodies
        });
        let results = results(&run(), &[sample(OPTIMIZED, 60.0, None)], &[], "kubo");
        assert_eq!(send(&url, &results).unwrap(), 1);
        assert!(send(&url, &results).unwrap_err().to_string().contains("422"));
        let bodies = server.join().unwrap();
        assert!(bodies[0].starts_with("POST /api/v1/results HTTP/1.1\r\n") && bodies[0].contains("application/json"));
        assert!(send("https://127.0.0.1:1", &results).is_err());
    }
}
