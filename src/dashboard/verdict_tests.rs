//! Verdicts over made-up rows, and the rows themselves for other tests.

use super::verdict::verdict;
use crate::db::queries::{AttemptRow, Detail, EventRow, RetrievalRow};

pub fn detail(events: Vec<EventRow>, attempts: Vec<AttemptRow>) -> Detail {
    let row = RetrievalRow {
        id: 1,
        test_id: None,
        model_id: None,
        cid: "bafkreih27ptmkbnlfvyzbnmnawzpmsvyqlrscvbwuqpyx4zzb2mbxivpxi".into(),
        path: "/ipfs/bafkreih27ptmkbnlfvyzbnmnawzpmsvyqlrscvbwuqpyx4zzb2mbxivpxi".into(),
        source: Some("p2p".into()),
        policy: "optimized".into(),
        p2p_optimized: true,
        origin: "live".into(),
        is_simulated: false,
        simulation_reason: None,
        scenario: None,
        sample_weight: 1.0,
        outcome: "complete".into(),
        error_kind: None,
        phase: None,
        http_status: Some(200),
        cache_state: Some("miss".into()),
        bytes: 1000,
        network_bytes: 1000,
        blocks: 2,
        duplicate_bytes: 0,
        peer_count: 1,
        providers_found: 2,
        providers_attempted: 2,
        transfer_time_ms: Some(400.0),
        load_time_ms: 500.0,
        ttfb_ms: None,
        routing_ms: Some(30.0),
        connect_ms: Some(40.0),
        network_efficiency: Some(1.0),
        optimization_score: Some(0.8),
        started_at: 0,
        test_timestamp: 500_000,
        hardware_id: None,
        events_dropped: 0,
    };
    Detail { row, attempts, events }
}

pub fn attempt(peer: &str, bytes: i64, outcome: &str) -> AttemptRow {
    AttemptRow {
        result_id: 1,
        ordinal: 0,
        peer_id: peer.into(),
        transport: Some("bitswap-quic".into()),
        router: "dht".into(),
        connect_ms: Some(40.0),
        first_byte_ms: Some(20.0),
        bytes,
        blocks: i64::from(bytes > 0),
        duplicate_bytes: 0,
        hedges: 0,
        min_rtt_ms: Some(20.0),
        max_rate_bps: Some(5_000_000.0),
        outcome: outcome.into(),
        error_kind: None,
    }
}

fn text(detail: &Detail) -> String {
    verdict(detail).into_iter().map(|piece| piece.text).collect()
}

#[test]
fn a_fetch_names_its_waits_its_main_peer_and_how_near_it_was_to_the_best() {
    let mut fetched = detail(vec![], vec![attempt("peer-a", 610, "delivered"), attempt("peer-b", 390, "delivered")]);
    fetched.row.peer_count = 2;
    assert_eq!(
        text(&fetched),
        "Took 500 ms, 1.25 × what the providers found allow. Waited 30 ms until a provider was known and 40 ms to connect. 61.0 % came from one of 2 peers, peer-a at up to 40 Mbit/s."
    );
}

#[test]
fn waits_that_were_not_measured_are_not_mentioned() {
    let mut fetched = detail(vec![], vec![attempt("peer-a", 1000, "delivered")]);
    fetched.row.routing_ms = None;
    fetched.row.optimization_score = None;
    assert_eq!(
        text(&fetched),
        "Took 500 ms. Waited 40 ms to connect. Everything came from one peer, peer-a at up to 40 Mbit/s."
    );
    fetched.row.connect_ms = None;
    assert_eq!(text(&fetched), "Took 500 ms. Everything came from one peer, peer-a at up to 40 Mbit/s.");
    fetched.row.routing_ms = Some(30.0);
    assert_eq!(
        text(&fetched),
        "Took 500 ms. Waited 30 ms until a provider was known. Everything came from one peer, peer-a at up to 40 Mbit/s."
    );
}

#[test]
fn a_cache_hit_says_which_tier_and_that_nobody_was_asked() {
    let mut hit = detail(vec![], vec![]);
    hit.row.network_bytes = 0;
    hit.row.peer_count = 0;
    hit.row.cache_state = Some("memory".into());
    hit.row.load_time_ms = 0.4;
    assert_eq!(text(&hit), "Answered from memory in 0.4 ms; nobody had to be asked.");
}

#[test]
fn failures_name_the_time_the_phase_and_who_was_tried() {
    let mut missing = detail(vec![], vec![]);
    missing.row.outcome = "not_found".into();
    missing.row.providers_found = 0;
    missing.row.providers_attempted = 0;
    assert_eq!(text(&missing), "Nobody had it after 500 ms: no provider was found, 0 asked.");
    let mut slow = detail(vec![], vec![attempt("peer-a", 0, "stalled")]);
    slow.row.outcome = "timeout".into();
    slow.row.phase = Some("fetch".into());
    assert_eq!(
        text(&slow),
        "Gave up after 500 ms without progress in the phase “fetch”: 2 providers were found, 2 asked. peer-a stalled."
    );
}

#[test]
fn a_stall_tells_the_time_lost_from_the_last_sign_of_life() {
    let event = |at_us, kind: &str| EventRow {
        ordinal: at_us,
        at_us,
        kind: kind.into(),
        peer_id: Some("peer-a".into()),
        cid: None,
        value: None,
        detail: None,
    };
    let events = vec![event(70_000, "want_sent"), event(100_000, "block"), event(190_000, "stalled")];
    let stalled = detail(events, vec![attempt("peer-a", 1000, "stalled")]);
    assert!(
        text(&stalled)
            .ends_with(" 90 ms passed before peer-a was found to have stalled; its blocks were asked for elsewhere.")
    );
}

#[test]
fn a_long_silence_is_told_even_when_nobody_was_blamed() {
    let block = |at_us| EventRow {
        ordinal: at_us,
        at_us,
        kind: "block".into(),
        peer_id: Some("peer-a".into()),
        cid: None,
        value: None,
        detail: None,
    };
    let mut quiet = detail(vec![block(100_000), block(6_100_000)], vec![attempt("peer-a", 1000, "delivered")]);
    quiet.row.load_time_ms = 7_000.0;
    quiet.row.optimization_score = Some(0.04);
    let text = text(&quiet);
    assert!(text.starts_with("Took 7.00 s, 25 × what"), "{text}");
    assert!(text.ends_with(" For 6.00 s no block arrived from anybody."), "{text}");
}
