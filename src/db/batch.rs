//! One transaction of the writer: records with their parts, peers, notes, counts, content.

use std::collections::BTreeMap;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, Iterable,
    QueryFilter, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use super::content::Content;
use super::counters::{Bucket, MINUTE};
use super::entity::{
    acceleration_result, network_metric, peer, peer_link, retrieval_attempt, retrieval_event, rollup_minute,
};
use super::observe::{LinkObservation, NetworkSnapshot, Note, PeerObservation};
use super::rows;
use super::sink::Queued;
use crate::record::{AttemptOutcome, RetrievalRecord};

/// SQLite's limit of bound values in one statement; PostgreSQL's is twice as much.
const MAX_BOUND: usize = 32_766;

/// What goes into one transaction. All of it, or nothing.
pub struct Batch<'a> {
    pub records: &'a [Queued],
    pub notes: &'a [Note],
    pub buckets: &'a [Bucket],
    pub content: &'a Content,
    pub hardware_id: Option<i64>,
    pub process: i64,
}

impl Batch<'_> {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.notes.is_empty() && self.buckets.is_empty() && self.content.is_empty()
    }

    /// Writing the same batch again does no harm to rows and counts: a commit whose answer was lost is tried again.
    pub async fn write(&self, db: &DatabaseConnection) -> Result<(), DbErr> {
        let sqlite = db.get_database_backend() == DbBackend::Sqlite;
        let options = TransactionOptions {
            // Takes the write lock first: a read that turns into a write would fail at once instead of waiting.
            sqlite_transaction_mode: sqlite.then_some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let txn = db.begin_with_options(options).await?;
        let results = self.records.iter().map(|q| rows::result(&q.record, self.hardware_id, q.weight.into()));
        insert::<acceleration_result::Entity, _>(&txn, results, acceleration_result::Column::Id).await?;
        let attempts = self.records.iter().flat_map(|q| rows::attempts(&q.record));
        use retrieval_attempt::Column as Attempt;
        insert_new::<retrieval_attempt::Entity, _>(&txn, attempts, [Attempt::ResultId, Attempt::Ordinal]).await?;
        let events = self.records.iter().flat_map(|q| rows::events(&q.record));
        use retrieval_event::Column as Event;
        insert_new::<retrieval_event::Entity, _>(&txn, events, [Event::ResultId, Event::Ordinal]).await?;
        peers_of_attempts(&txn, self.records.iter().map(|q| &q.record)).await?;
        for note in self.notes {
            match note {
                Note::Network(snapshot) => network(&txn, snapshot).await?,
                Note::Peers(seen) => observed_peers(&txn, seen).await?,
                Note::Links(links) => observed_links(&txn, links).await?,
            }
        }
        for bucket in self.buckets {
            minute(&txn, bucket, self.process).await?;
        }
        self.content.write(&txn).await?;
        txn.commit().await
    }
}

async fn insert<E, A>(db: &impl ConnectionTrait, rows: impl Iterator<Item = A>, key: E::Column) -> Result<(), DbErr>
where
    E: EntityTrait,
    A: ActiveModelTrait<Entity = E>,
{
    insert_new::<E, A>(db, rows, [key]).await
}

/// Inserts what is not there by the unique columns, in statements within [`MAX_BOUND`].
async fn insert_new<E, A>(
    db: &impl ConnectionTrait,
    rows: impl Iterator<Item = A>,
    unique: impl IntoIterator<Item = E::Column>,
) -> Result<(), DbErr>
where
    E: EntityTrait,
    A: ActiveModelTrait<Entity = E>,
{
    upsert::<E, A>(db, rows, &OnConflict::columns(unique).do_nothing().to_owned()).await
}

async fn upsert<E, A>(
    db: &impl ConnectionTrait,
    mut rows: impl Iterator<Item = A>,
    conflict: &OnConflict,
) -> Result<(), DbErr>
where
    E: EntityTrait,
    A: ActiveModelTrait<Entity = E>,
{
    let per_statement = MAX_BOUND / E::Column::iter().count();
    loop {
        let chunk: Vec<A> = rows.by_ref().take(per_statement).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        E::insert_many(chunk).on_conflict(conflict.clone()).exec_without_returning(db).await?;
    }
}

/// What a batch says of one peer.
#[derive(Default)]
struct Seen<'a> {
    last: i64,
    transport: Option<&'a str>,
    router: Option<&'static str>,
    rtt_ms: Option<f64>,
    rate_bps: Option<f64>,
    bytes: u64,
    blocks: u64,
    attempts: i64,
    delivered: i64,
    failures: i64,
}

async fn peers_of_attempts<'a>(
    db: &impl ConnectionTrait,
    records: impl Iterator<Item = &'a RetrievalRecord>,
) -> Result<(), DbErr> {
    // Ordered, so that two servers on one database lock rows in one order.
    let mut peers: BTreeMap<String, Seen<'a>> = BTreeMap::new();
    for record in records {
        for attempt in &record.session.attempts {
            let seen = peers.entry(attempt.peer.to_base58()).or_default();
            seen.last = seen.last.max(rows::micros(record.finished_at));
            seen.transport = attempt.transport.map(|t| t.as_str()).or(seen.transport);
            seen.router = Some(attempt.router.as_str());
            seen.rtt_ms = rows::ms(attempt.min_rtt).or(seen.rtt_ms);
            seen.rate_bps = attempt.max_rate_bps.or(seen.rate_bps);
            seen.bytes += attempt.bytes;
            seen.blocks += attempt.blocks;
            seen.attempts += 1;
            match attempt.outcome {
                AttemptOutcome::Delivered => seen.delivered += 1,
                AttemptOutcome::DontHave | AttemptOutcome::Cancelled => {}
                _ => seen.failures += 1,
            }
        }
    }
    let rows = peers.into_iter().map(|(peer_id, seen)| peer::ActiveModel {
        peer_id: Set(peer_id),
        first_seen: Set(seen.last),
        last_seen: Set(seen.last),
        connected: Set(false),
        transport: Set(seen.transport.map(str::to_owned)),
        rtt_ms: Set(seen.rtt_ms),
        rate_bps: Set(seen.rate_bps),
        bytes_in: Set(rows::int(seen.bytes)),
        blocks_in: Set(rows::int(seen.blocks)),
        attempts: Set(seen.attempts),
        delivered: Set(seen.delivered),
        failures: Set(seen.failures),
        strikes: Set(0),
        source: Set(seen.router.map(str::to_owned)),
        ..Default::default()
    });
    let mut conflict = OnConflict::column(peer::Column::PeerId);
    for sum in ["bytes_in", "blocks_in", "attempts", "delivered", "failures"] {
        conflict.value(sum, Expr::cust(format!("peers.{sum} + excluded.{sum}")));
    }
    for latest in ["transport", "rtt_ms", "rate_bps"] {
        conflict.value(latest, Expr::cust(format!("COALESCE(excluded.{latest}, peers.{latest})")));
    }
    conflict.value("source", Expr::cust("COALESCE(peers.source, excluded.source)"));
    conflict.value("last_seen", later("peers"));
    upsert::<peer::Entity, _>(db, rows, &conflict).await
}

async fn observed_peers(db: &impl ConnectionTrait, seen: &[PeerObservation]) -> Result<(), DbErr> {
    let now = rows::micros(std::time::SystemTime::now());
    peer::Entity::update_many()
        .col_expr(peer::Column::Connected, Expr::value(false))
        .filter(peer::Column::Connected.eq(true))
        .exec(db)
        .await?;
    let by_id: BTreeMap<&str, &PeerObservation> = seen.iter().map(|peer| (peer.peer_id.as_str(), peer)).collect();
    let list = |items: &[String]| (!items.is_empty()).then(|| rows::text(&items.join("\n"), 4_096));
    let rows = by_id.into_values().map(|p| peer::ActiveModel {
        peer_id: Set(p.peer_id.clone()),
        agent: Set(p.agent.as_deref().map(|agent| rows::text(agent, 256))),
        protocols: Set(list(&p.protocols)),
        addrs: Set(list(&p.addrs)),
        first_seen: Set(now),
        last_seen: Set(now),
        connected: Set(p.connected),
        transport: Set(p.transport.clone()),
        rtt_ms: Set(p.rtt_ms),
        rate_bps: Set(p.rate_bps),
        bytes_in: Set(0),
        bytes_out: Set(p.bytes_out.map(rows::int)),
        blocks_in: Set(0),
        attempts: Set(0),
        delivered: Set(0),
        failures: Set(0),
        strikes: Set(p.strikes.map_or(0, rows::int)),
        source: Set(p.source.clone()),
        ..Default::default()
    });
    let mut conflict = OnConflict::column(peer::Column::PeerId);
    for latest in ["agent", "protocols", "addrs", "transport", "rtt_ms", "rate_bps", "bytes_out"] {
        conflict.value(latest, Expr::cust(format!("COALESCE(excluded.{latest}, peers.{latest})")));
    }
    conflict.value("source", Expr::cust("COALESCE(peers.source, excluded.source)"));
    conflict
        .value("strikes", Expr::cust("CASE WHEN excluded.strikes > 0 THEN excluded.strikes ELSE peers.strikes END"));
    conflict.value("connected", Expr::cust("excluded.connected"));
    // A peer that is only remembered was not seen now.
    conflict.value(
        "last_seen",
        Expr::cust("CASE WHEN excluded.connected THEN excluded.last_seen ELSE peers.last_seen END"),
    );
    upsert::<peer::Entity, _>(db, rows, &conflict).await
}

async fn observed_links(db: &impl ConnectionTrait, links: &[LinkObservation]) -> Result<(), DbErr> {
    let now = rows::micros(std::time::SystemTime::now());
    let ordered = links.iter().map(|link| {
        let (a, b) = if link.a <= link.b { (&link.a, &link.b) } else { (&link.b, &link.a) };
        ((a.as_str(), b.as_str(), link.kind.as_str()), link)
    });
    let by_key: BTreeMap<_, _> = ordered.collect();
    let rows = by_key.into_iter().map(|((a, b, kind), link)| peer_link::ActiveModel {
        a: Set(a.to_owned()),
        b: Set(b.to_owned()),
        kind: Set(kind.to_owned()),
        rtt_ms: Set(link.rtt_ms),
        rate_bps: Set(link.rate_bps),
        observed_by: Set(link.observed_by.clone()),
        first_seen: Set(now),
        last_seen: Set(now),
        ..Default::default()
    });
    use peer_link::Column::{A, B, Kind};
    let mut conflict = OnConflict::columns([A, B, Kind]);
    for latest in ["rtt_ms", "rate_bps", "observed_by"] {
        conflict.value(latest, Expr::cust(format!("COALESCE(excluded.{latest}, peer_links.{latest})")));
    }
    conflict.value("last_seen", later("peer_links"));
    upsert::<peer_link::Entity, _>(db, rows, &conflict).await
}

/// The later of both times; `MAX` of two values is SQLite's alone, `GREATEST` PostgreSQL's.
fn later(table: &str) -> Expr {
    Expr::cust(format!(
        "CASE WHEN excluded.last_seen > {table}.last_seen THEN excluded.last_seen ELSE {table}.last_seen END"
    ))
}

async fn network(db: &impl ConnectionTrait, s: &NetworkSnapshot) -> Result<(), DbErr> {
    let row = network_metric::ActiveModel {
        ipfs_result_id: Set(s.ipfs_result_id),
        peer_count: Set(rows::int(s.peer_count)),
        known_content_items: Set(s.known_content_items.map(rows::int)),
        transfers_completed: Set(rows::int(s.transfers_completed)),
        transfers_failed: Set(rows::int(s.transfers_failed)),
        bytes_transferred: Set(rows::int(s.bytes_transferred)),
        average_transfer_speed: Set(s.average_transfer_speed),
        network_efficiency: Set(s.network_efficiency),
        network_density: Set(s.network_density),
        average_connections: Set(s.average_connections),
        optimization_score: Set(s.optimization_score),
        optimization_rating: Set(s.optimization_rating.clone()),
        network_health: Set(s.network_health.clone()),
        test_timestamp: Set(rows::micros(s.at)),
        window_s: Set(s.window_s),
        diameter: Set(s.diameter.map(rows::int)),
        components: Set(s.components.map(rows::int)),
        clustering: Set(s.clustering),
        median_rtt_ms: Set(s.median_rtt_ms),
        p95_rtt_ms: Set(s.p95_rtt_ms),
        median_rate_bps: Set(s.median_rate_bps),
        cache_hit_ratio: Set(s.cache_hit_ratio),
        ..Default::default()
    };
    network_metric::Entity::insert(row).exec_without_returning(db).await.map(drop)
}

async fn minute(db: &impl ConnectionTrait, bucket: &Bucket, process: i64) -> Result<(), DbErr> {
    let rows = bucket.tallies.iter().map(|((dimension, value), tally)| rollup_minute::ActiveModel {
        bucket_start: Set(bucket.start_us),
        bucket_width_s: Set(MINUTE.as_secs() as i64),
        process: Set(process),
        dimension: Set((*dimension).to_owned()),
        value: Set((*value).to_owned()),
        rolled: Set(false),
        ..rollup_minute::ActiveModel::counts(tally)
    });
    use rollup_minute::Column::{BucketStart, Dimension, Process, Value};
    insert_new::<rollup_minute::Entity, _>(db, rows, [BucketStart, Process, Dimension, Value]).await
}
