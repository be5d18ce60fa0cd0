//! A finished retrieval as rows. What was not measured is NULL.

use std::time::{Duration, SystemTime};

use sea_orm::ActiveValue::Set;

use super::entity::{acceleration_result as result, retrieval_attempt as attempt, retrieval_event as event};
use crate::record::{CacheState, Outcome, Policy, RetrievalRecord, SessionReport, Source};

/// The longest path that is kept, in bytes (DESIGN.md §8).
const MAX_PATH_BYTES: usize = 8 * 1024;
/// The longest reason or detail that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 512;

pub fn result(record: &RetrievalRecord, hardware_id: Option<i64>, sample_weight: f64) -> result::ActiveModel {
    let session = &record.session;
    let blocks = session.blocks_memory + session.blocks_store + session.blocks_disk + session.blocks_network;
    result::ActiveModel {
        id: Set(record.id.0),
        test_id: Set(None),
        model_id: Set(None),
        cid: Set(canonical(&record.cid)),
        source: Set(source(record).map(|s| s.as_str().to_owned())),
        transfer_time_ms: Set(ms(session.transfer_time)),
        p2p_optimized: Set(session.policy == Policy::Optimized),
        peer_count: Set(session.peer_count().into()),
        network_efficiency: Set(session.byte_efficiency()),
        optimization_score: Set(session.optimization_score),
        load_time_ms: Set(record.load_time.as_secs_f64() * 1e3),
        test_timestamp: Set(micros(record.finished_at)),
        started_at: Set(micros(record.started_at)),
        path: Set(text(&record.path, MAX_PATH_BYTES)),
        origin: Set(record.origin.as_str().to_owned()),
        is_simulated: Set(false),
        simulation_reason: Set(None),
        sample_weight: Set(sample_weight),
        policy: Set(session.policy.as_str().to_owned()),
        scenario: Set(None),
        bytes: Set(int(record.bytes)),
        network_bytes: Set(int(session.network_bytes)),
        blocks: Set(int(blocks)),
        duplicate_bytes: Set(int(session.duplicate_bytes)),
        ttfb_ms: Set(ms(record.ttfb)),
        routing_ms: Set(ms(session.routing)),
        connect_ms: Set(ms(session.connect)),
        providers_found: Set(session.providers_found.into()),
        providers_attempted: Set(session.providers_attempted.into()),
        outcome: Set(record.outcome.as_str().to_owned()),
        error_kind: Set(record.error_kind.as_deref().map(|kind| text(kind, MAX_TEXT_BYTES))),
        phase: Set(Some(session.phase.as_str().to_owned())),
        http_status: Set(record.http_status.map(i64::from)),
        cache_state: Set(cache_state(record).map(|s| s.as_str().to_owned())),
        hardware_id: Set(hardware_id),
        events_dropped: Set(int(session.events_dropped)),
    }
}

pub fn attempts(record: &RetrievalRecord) -> impl Iterator<Item = attempt::ActiveModel> + '_ {
    record.session.attempts.iter().enumerate().map(|(ordinal, a)| attempt::ActiveModel {
        result_id: Set(record.id.0),
        ordinal: Set(ordinal as i64),
        peer_id: Set(a.peer.to_base58()),
        transport: Set(a.transport.map(|t| t.as_str().to_owned())),
        router: Set(a.router.as_str().to_owned()),
        connect_ms: Set(ms(a.connect)),
        first_byte_ms: Set(ms(a.first_byte)),
        bytes: Set(int(a.bytes)),
        blocks: Set(int(a.blocks)),
        duplicate_bytes: Set(int(a.duplicate_bytes)),
        hedges: Set(a.hedges.into()),
        min_rtt_ms: Set(ms(a.min_rtt)),
        max_rate_bps: Set(a.max_rate_bps),
        outcome: Set(a.outcome.as_str().to_owned()),
        error_kind: Set(a.error_kind.as_deref().map(|kind| text(kind, MAX_TEXT_BYTES))),
        ..Default::default()
    })
}

pub fn events(record: &RetrievalRecord) -> impl Iterator<Item = event::ActiveModel> + '_ {
    record.session.events.iter().enumerate().map(|(ordinal, e)| event::ActiveModel {
        result_id: Set(record.id.0),
        ordinal: Set(ordinal as i64),
        at_us: Set(i64::try_from(e.at.as_micros()).unwrap_or(i64::MAX)),
        kind: Set(e.kind.as_str().to_owned()),
        peer_id: Set(e.peer.map(|peer| peer.to_base58())),
        cid: Set(e.cid.as_ref().map(canonical)),
        value: Set(e.value.map(int)),
        detail: Set(e.detail.as_deref().map(|detail| text(detail, MAX_TEXT_BYTES))),
        ..Default::default()
    })
}

/// Where the bytes came from; `None` when there were none.
pub fn source(record: &RetrievalRecord) -> Option<Source> {
    let something = blocks(&record.session) > 0 || record.outcome == Outcome::Complete;
    something.then(|| record.session.source())
}

/// The slowest tier that was needed; `None` when no block was needed (an identity CID, an answer without a body).
pub fn cache_state(record: &RetrievalRecord) -> Option<CacheState> {
    let needed = blocks(&record.session) > 0 || record.outcome != Outcome::Complete;
    let refused = record.outcome == Outcome::Denied;
    (needed && !refused).then(|| record.session.cache_state())
}

/// Whether the retrieval had to ask anybody.
pub fn asked_the_network(session: &SessionReport) -> bool {
    session.transfer_time.is_some()
        || session.routing.is_some()
        || session.blocks_network > 0
        || session.providers_attempted > 0
        || session.providers_found > 0
}

/// CIDv1 in base32, whatever the request wrote; a v0 becomes its v1.
pub fn canonical(cid: &crate::ipld::Cid) -> String {
    cid.into_v1().unwrap_or(*cid).to_string()
}

/// Microseconds since the epoch; a clock before it gives a negative number.
pub fn micros(time: SystemTime) -> i64 {
    let of = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => of(since),
        Err(before) => -of(before.duration()),
    }
}

pub fn ms(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e3)
}

pub fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Cut at a character boundary; NUL, which PostgreSQL refuses in text, becomes U+FFFD.
pub fn text(text: &str, max_bytes: usize) -> String {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

fn blocks(session: &SessionReport) -> u64 {
    session.blocks_memory + session.blocks_store + session.blocks_disk + session.blocks_network
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::{Origin, Phase, RetrievalId};

    /// A complete retrieval of 1,000 bytes from the network in 20 ms.
    pub(crate) fn record(id: i64) -> RetrievalRecord {
        let started_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let hash = multihash::Multihash::wrap(0x12, &[7; 32]).unwrap();
        RetrievalRecord {
            id: RetrievalId(id),
            cid: crate::ipld::Cid::new_v1(0x55, hash),
            path: "/ipfs/x".to_owned(),
            origin: Origin::Live,
            started_at,
            finished_at: started_at + Duration::from_millis(25),
            load_time: Duration::from_millis(25),
            ttfb: Some(Duration::from_millis(21)),
            bytes: 1_000,
            outcome: Outcome::Complete,
            error_kind: None,
            http_status: Some(200),
            session: SessionReport {
                policy: Policy::Optimized,
                transfer_time: Some(Duration::from_millis(20)),
                routing: Some(Duration::from_millis(4)),
                connect: None,
                first_block: Some(Duration::from_millis(18)),
                providers_found: 1,
                providers_attempted: 1,
                blocks_memory: 0,
                blocks_store: 0,
                blocks_disk: 0,
                blocks_network: 1,
                network_bytes: 1_000,
                duplicate_bytes: 0,
                received_bytes: 1_000,
                optimization_score: None,
                attempts: Vec::new(),
                events: Vec::new(),
                events_dropped: 0,
                phase: Phase::Serve,
            },
        }
    }

    #[test]
    fn a_retrieval_that_found_nothing_has_no_source() {
        let mut nothing = record(1);
        nothing.outcome = Outcome::NotFound;
        nothing.session.blocks_network = 0;
        assert_eq!((source(&nothing), cache_state(&nothing)), (None, Some(CacheState::Miss)));
        let mut identity = record(1);
        identity.session.blocks_network = 0;
        identity.session.transfer_time = None;
        assert_eq!((source(&identity), cache_state(&identity)), (Some(Source::Cache), None));
    }

    #[test]
    fn text_is_cut_at_a_character_and_holds_no_nul() {
        assert_eq!(text("aé\0b", 4), "aé\u{fffd}");
        assert_eq!(text("aé", 2), "a");
    }

    #[test]
    fn a_v0_cid_is_stored_as_its_v1() {
        let cid: crate::ipld::Cid = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n".parse().unwrap();
        assert_eq!(canonical(&cid), "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    }
}
