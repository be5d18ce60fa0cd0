//! The list of retrievals, and one of them.

use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select,
    Statement,
};
use serde::{Deserialize, Serialize};

use super::MAX_LIMIT;
use crate::db::entity::{acceleration_result as result, retrieval_attempt as attempt, retrieval_event as event};
use crate::db::{Database, DbError};
use crate::record::{CacheState, Origin, Outcome, Policy, RetrievalId, Source};

/// Attempts and events of one retrieval that are read: as many as are ever written.
const MAX_PARTS: u64 = 4_096;

/// A row of `ipfs_acceleration_results`; names and meanings as in DATA.md §2.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult, utoipa::ToSchema)]
pub struct RetrievalRow {
    pub id: i64,
    pub test_id: Option<i64>,
    pub model_id: Option<i64>,
    pub cid: String,
    pub path: String,
    pub source: Option<String>,
    pub policy: String,
    pub p2p_optimized: bool,
    pub origin: String,
    pub is_simulated: bool,
    pub simulation_reason: Option<String>,
    pub scenario: Option<String>,
    /// How many retrievals the row stands for.
    pub sample_weight: f64,
    pub outcome: String,
    pub error_kind: Option<String>,
    pub phase: Option<String>,
    pub http_status: Option<i64>,
    pub cache_state: Option<String>,
    pub bytes: i64,
    pub network_bytes: i64,
    pub blocks: i64,
    pub duplicate_bytes: i64,
    pub peer_count: i64,
    pub providers_found: i64,
    pub providers_attempted: i64,
    pub transfer_time_ms: Option<f64>,
    pub load_time_ms: f64,
    pub ttfb_ms: Option<f64>,
    pub routing_ms: Option<f64>,
    pub connect_ms: Option<f64>,
    pub network_efficiency: Option<f64>,
    pub optimization_score: Option<f64>,
    pub started_at: i64,
    pub test_timestamp: i64,
    pub hardware_id: Option<i64>,
    pub events_dropped: i64,
}

/// A row of `retrieval_attempts`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult, utoipa::ToSchema)]
pub struct AttemptRow {
    pub result_id: i64,
    pub ordinal: i64,
    pub peer_id: String,
    pub transport: Option<String>,
    pub router: String,
    pub connect_ms: Option<f64>,
    pub first_byte_ms: Option<f64>,
    pub bytes: i64,
    pub blocks: i64,
    pub duplicate_bytes: i64,
    pub hedges: i64,
    pub min_rtt_ms: Option<f64>,
    /// The best delivery rate, in bytes a second.
    pub max_rate_bps: Option<f64>,
    pub outcome: String,
    pub error_kind: Option<String>,
}

/// What a peer's page shows of a retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct RetrievalBrief {
    pub id: i64,
    pub cid: String,
    pub path: String,
    pub outcome: String,
    pub policy: String,
    /// From all peers.
    pub network_bytes: i64,
    /// How many retrievals the row stands for.
    pub sample_weight: f64,
    pub started_at: i64,
}

/// A row of `retrieval_events`; `at_us` is since the start of the retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult, utoipa::ToSchema)]
pub struct EventRow {
    pub ordinal: i64,
    pub at_us: i64,
    pub kind: String,
    pub peer_id: Option<String>,
    pub cid: Option<String>,
    pub value: Option<i64>,
    pub detail: Option<String>,
}

/// One retrieval with its parts. No events: its trace was not among the kept ones.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = RetrievalDetail)]
pub struct Detail {
    #[serde(flatten)]
    pub row: RetrievalRow,
    pub attempts: Vec<AttemptRow>,
    pub events: Vec<EventRow>,
}

/// What to list; `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrievalFilter {
    pub outcome: Option<Outcome>,
    pub source: Option<Source>,
    pub policy: Option<Policy>,
    pub origin: Option<Origin>,
    pub cache_state: Option<CacheState>,
    /// Canonical CIDv1 text (`db::queries::canonical_cid`).
    pub cid: Option<String>,
    /// Base58; retrievals that this peer had a part in.
    pub peer: Option<String>,
    /// Started at or after, before; microseconds since the epoch.
    pub since_us: Option<i64>,
    pub until_us: Option<i64>,
    /// At least so long from the request's acceptance to the last byte.
    pub min_load_ms: Option<f64>,
}

/// Part of a list, newest first. `next` is the cursor of the following part, `None` at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<i64>,
}

/// A CID as the database spells it.
pub fn canonical_cid(cid: &crate::ipld::Cid) -> String {
    crate::db::rows::canonical(cid)
}

impl Database {
    /// Retrievals, the newest first, from `cursor` (of an earlier page) on; `limit` is 1 to [`MAX_LIMIT`].
    pub async fn retrievals(
        &self,
        filter: &RetrievalFilter,
        cursor: Option<i64>,
        limit: u32,
    ) -> Result<Page<RetrievalRow>, DbError> {
        let limit = limit.clamp(1, MAX_LIMIT);
        let query = list(filter, cursor, u64::from(limit) + 1);
        let mut items = self.read(|db| async move { query.into_model::<RetrievalRow>().all(&db).await }).await?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(|row| row.id);
        Ok(Page { items, next })
    }

    /// The newest `n` retrievals.
    pub async fn latest(&self, n: u32) -> Result<Vec<RetrievalRow>, DbError> {
        Ok(self.retrievals(&RetrievalFilter::default(), None, n).await?.items)
    }

    /// One retrieval; `None` when it is not (or not any more, or not yet) in the database.
    pub async fn retrieval(&self, id: RetrievalId) -> Result<Option<Detail>, DbError> {
        self.read(|db| async move {
            let Some(row) = one(id.0).into_model::<RetrievalRow>().one(&db).await? else { return Ok(None) };
            let attempts = attempts_of(id.0).into_model::<AttemptRow>().all(&db).await?;
            let events = events_of(id.0).into_model::<EventRow>().all(&db).await?;
            Ok(Some(Detail { row, attempts, events }))
        })
        .await
    }
}

fn list(filter: &RetrievalFilter, cursor: Option<i64>, limit: u64) -> Select<result::Entity> {
    use result::Column::{CacheState, Cid, Id, LoadTimeMs, Origin, Outcome, Policy, Source};
    // Ids are microseconds of the start, so a bound in time is a bound of the key.
    let before = cursor.unwrap_or(i64::MAX).min(filter.until_us.unwrap_or(i64::MAX));
    let text = |name: &'static str| name.to_owned();
    result::Entity::find()
        .filter(Id.lt(before))
        .apply_if(filter.since_us, |query, since| query.filter(Id.gte(since)))
        .apply_if(filter.outcome, |query, outcome| query.filter(Outcome.eq(text(outcome.as_str()))))
        .apply_if(filter.source, |query, source| query.filter(Source.eq(text(source.as_str()))))
        .apply_if(filter.policy, |query, policy| query.filter(Policy.eq(text(policy.as_str()))))
        .apply_if(filter.origin, |query, origin| query.filter(Origin.eq(text(origin.as_str()))))
        .apply_if(filter.cache_state, |query, state| query.filter(CacheState.eq(text(state.as_str()))))
        .apply_if(filter.cid.clone(), |query, cid| query.filter(Cid.eq(cid)))
        .apply_if(filter.min_load_ms, |query, least| query.filter(LoadTimeMs.gte(least)))
        .apply_if(filter.peer.clone(), |query, peer| {
            let with_peer = attempt::Entity::find()
                .select_only()
                .column(attempt::Column::ResultId)
                .filter(attempt::Column::PeerId.eq(peer));
            query.filter(Id.in_subquery(with_peer.into_query()))
        })
        .order_by_desc(Id)
        .limit(limit)
}

fn one(id: i64) -> Select<result::Entity> {
    result::Entity::find().filter(result::Column::Id.eq(id))
}

fn attempts_of(id: i64) -> Select<attempt::Entity> {
    attempt::Entity::find()
        .filter(attempt::Column::ResultId.eq(id))
        .order_by_asc(attempt::Column::Ordinal)
        .limit(MAX_PARTS)
}

fn events_of(id: i64) -> Select<event::Entity> {
    event::Entity::find().filter(event::Column::ResultId.eq(id)).order_by_asc(event::Column::Ordinal).limit(MAX_PARTS)
}

/// The newest attempts with one peer.
pub(super) fn attempts_with(peer: &str, limit: u64) -> Select<attempt::Entity> {
    attempt::Entity::find().filter(attempt::Column::PeerId.eq(peer)).order_by_desc(attempt::Column::Id).limit(limit)
}

/// Retrievals by their ids, in no order.
pub(super) fn briefs(ids: Vec<i64>) -> Select<result::Entity> {
    use result::Column::{Cid, Id, NetworkBytes, Outcome, Path, Policy, SampleWeight, StartedAt};
    result::Entity::find()
        .select_only()
        .columns([Id, Cid, Path, Outcome, Policy, NetworkBytes, SampleWeight, StartedAt])
        .filter(Id.is_in(ids))
}

pub(super) fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    let by = |filter: RetrievalFilter| list(&filter, Some(1 << 50), 50).build(backend);
    let any = RetrievalFilter::default;
    vec![
        ("newest retrievals", list(&any(), None, 50).build(backend)),
        ("by outcome", by(RetrievalFilter { outcome: Some(Outcome::Timeout), ..any() })),
        ("by source", by(RetrievalFilter { source: Some(Source::P2p), ..any() })),
        ("by policy", by(RetrievalFilter { policy: Some(Policy::Standard), ..any() })),
        ("by origin", by(RetrievalFilter { origin: Some(Origin::Bench), ..any() })),
        ("by cache state", by(RetrievalFilter { cache_state: Some(CacheState::Disk), ..any() })),
        ("by cid", by(RetrievalFilter { cid: Some("bafy".to_owned()), ..any() })),
        ("by peer", by(RetrievalFilter { peer: Some("12D3".to_owned()), ..any() })),
        ("by time and duration", by(RetrievalFilter { since_us: Some(1), min_load_ms: Some(1e3), ..any() })),
        ("one retrieval", one(1).build(backend)),
        ("its attempts", attempts_of(1).build(backend)),
        ("its events", events_of(1).build(backend)),
        ("attempts with a peer", attempts_with("12D3", 50).build(backend)),
        ("retrievals of a peer", briefs(vec![1, 2, 3]).build(backend)),
    ]
}
