//! Peers, links, snapshots, content and machines.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Select, Statement,
};
use serde::{Deserialize, Serialize};

use super::retrievals::{AttemptRow, RetrievalBrief, attempts_with, briefs};
use super::{MAX_LIMIT, Window};
use crate::db::entity::{content_item, hardware_platform, network_metric, peer, peer_link};
use crate::db::{Database, DbError};

/// Snapshots of one window: a week by the minute is 10,080.
const MAX_SNAPSHOTS: u64 = 11_000;
/// The node tells every 10 s whom it is connected to.
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);
/// Links that a graph is made of.
const MAX_LINKS: u64 = 20_000;
/// The newest attempts that the API gives with a peer.
const PEER_ATTEMPTS: u64 = 100;
/// The newest attempts that a peer's history is made of.
const PEER_HISTORY: u64 = 400;
/// Links of one peer, from each of its two columns.
const MAX_PEER_LINKS: u64 = 200;

/// A row of `peers`. Lists (`protocols`, `addrs`) are one item a line.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct PeerRow {
    pub peer_id: String,
    pub agent: Option<String>,
    pub protocols: Option<String>,
    pub addrs: Option<String>,
    pub first_seen: i64,
    pub last_seen: i64,
    pub connected: bool,
    pub transport: Option<String>,
    pub rtt_ms: Option<f64>,
    /// The best delivery rate seen lately, in bytes a second.
    pub rate_bps: Option<f64>,
    pub bytes_in: i64,
    pub bytes_out: Option<i64>,
    pub blocks_in: i64,
    pub attempts: i64,
    pub delivered: i64,
    pub failures: i64,
    pub strikes: i64,
    pub source: Option<String>,
    pub region_cluster: Option<String>,
}

impl PeerRow {
    /// delivered / (delivered + failed); `None` before the first.
    pub fn success(&self) -> Option<f64> {
        let tried = self.delivered + self.failures;
        (tried > 0).then(|| self.delivered as f64 / tried as f64)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerDetail {
    #[serde(flatten)]
    pub peer: PeerRow,
    /// The newest first, at most 100.
    pub latest_attempts: Vec<AttemptRow>,
}

/// What is known of a peer over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerHistory {
    #[serde(flatten)]
    pub peer: PeerRow,
    /// The newest first, at most 400.
    pub attempts: Vec<PeerAttempt>,
    /// The latest first, at most 400.
    pub links: Vec<LinkRow>,
}

/// An attempt and the retrieval that it was part of; `None` when that row is gone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerAttempt {
    #[serde(flatten)]
    pub attempt: AttemptRow,
    pub retrieval: Option<RetrievalBrief>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerOrder {
    #[default]
    LastSeen,
    BytesIn,
}

/// A row of `peer_links`; `a` sorts before `b`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct LinkRow {
    pub a: String,
    pub b: String,
    pub kind: String,
    pub rtt_ms: Option<f64>,
    pub rate_bps: Option<f64>,
    pub observed_by: Option<String>,
    pub first_seen: i64,
    pub last_seen: i64,
}

/// A row of `p2p_network_metrics`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct NetworkRow {
    pub id: i64,
    pub test_timestamp: i64,
    pub window_s: f64,
    pub peer_count: i64,
    pub known_content_items: Option<i64>,
    pub transfers_completed: i64,
    pub transfers_failed: i64,
    pub bytes_transferred: i64,
    pub average_transfer_speed: Option<f64>,
    pub network_efficiency: Option<f64>,
    pub network_density: Option<f64>,
    pub average_connections: Option<f64>,
    pub optimization_score: Option<f64>,
    pub optimization_rating: String,
    pub network_health: String,
    pub diameter: Option<i64>,
    pub components: Option<i64>,
    pub clustering: Option<f64>,
    pub median_rtt_ms: Option<f64>,
    pub p95_rtt_ms: Option<f64>,
    pub median_rate_bps: Option<f64>,
    pub cache_hit_ratio: Option<f64>,
}

/// A row of `content_items`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct ContentRow {
    pub cid: String,
    pub size: Option<i64>,
    /// Requests, each worth half after a day; as of `last_request`.
    pub requests_decayed: f64,
    pub requests_total: i64,
    pub last_request: i64,
}

impl ContentRow {
    /// The requests, decayed, so long after the last one.
    pub fn decayed(&self, since_last: Duration) -> f64 {
        let elapsed_us = i64::try_from(since_last.as_micros()).unwrap_or(i64::MAX);
        crate::db::content::decay(self.requests_decayed, elapsed_us)
    }
}

/// A row of `hardware_platforms`.
#[derive(Debug, Clone, PartialEq, Serialize, FromQueryResult)]
pub struct HardwareRow {
    pub hardware_id: i64,
    pub hardware_type: String,
    pub device_name: Option<String>,
    pub compute_units: Option<i64>,
    pub memory_capacity: Option<i64>,
    pub driver_version: Option<String>,
    pub os: Option<String>,
    pub arch: Option<String>,
    pub backend: Option<String>,
    pub is_simulated: bool,
    pub detected_at: i64,
}

impl Database {
    /// Peers in an order, the greatest first; `limit` is 1 to [`MAX_LIMIT`].
    pub async fn peers(&self, order: PeerOrder, limit: u32) -> Result<Vec<PeerRow>, DbError> {
        let query = peers(order, limit.clamp(1, MAX_LIMIT).into());
        self.read(|db| async move { query.into_model().all(&db).await }).await
    }

    /// How many peers were connected when the node last told.
    pub async fn peers_connected(&self) -> Result<u64, DbError> {
        let query = connected(SystemTime::now());
        self.read(|db| async move { query.count(&db).await }).await
    }

    /// One peer with its latest attempts; `None` when it was never seen.
    pub async fn peer(&self, peer_id: &str) -> Result<Option<PeerDetail>, DbError> {
        self.read(|db| async move {
            let Some(peer) = peer_by_id(peer_id).into_model::<PeerRow>().one(&db).await? else { return Ok(None) };
            let latest_attempts = attempts_with(peer_id, PEER_ATTEMPTS).into_model().all(&db).await?;
            Ok(Some(PeerDetail { peer, latest_attempts }))
        })
        .await
    }

    /// One peer with its history and its links; `None` when it was never seen.
    pub async fn peer_history(&self, peer_id: &str) -> Result<Option<PeerHistory>, DbError> {
        self.read(|db| async move {
            let Some(peer) = peer_by_id(peer_id).into_model::<PeerRow>().one(&db).await? else { return Ok(None) };
            let attempts = attempts_with(peer_id, PEER_HISTORY).into_model::<AttemptRow>().all(&db).await?;
            let ids: BTreeSet<i64> = attempts.iter().map(|attempt| attempt.result_id).collect();
            let retrievals = briefs(ids.into_iter().collect()).into_model::<RetrievalBrief>().all(&db).await?;
            let by_id: HashMap<i64, RetrievalBrief> = retrievals.into_iter().map(|row| (row.id, row)).collect();
            let attempts = attempts
                .into_iter()
                .map(|attempt| PeerAttempt { retrieval: by_id.get(&attempt.result_id).cloned(), attempt })
                .collect();
            let mut links = links_from(peer_link::Column::A, peer_id).into_model::<LinkRow>().all(&db).await?;
            links.extend(links_from(peer_link::Column::B, peer_id).into_model::<LinkRow>().all(&db).await?);
            links.sort_by_key(|link| std::cmp::Reverse(link.last_seen));
            Ok(Some(PeerHistory { peer, attempts, links }))
        })
        .await
    }

    /// Links seen in a window, the latest first, at most 20,000.
    pub async fn links(&self, window: Window) -> Result<Vec<LinkRow>, DbError> {
        self.read(|db| async move { links(window).into_model().all(&db).await }).await
    }

    /// Snapshots of a window, the oldest first.
    pub async fn network_history(&self, window: Window) -> Result<Vec<NetworkRow>, DbError> {
        let read = |db| async move { snapshots(window).into_model::<NetworkRow>().all(&db).await };
        let mut rows = self.read(read).await?;
        rows.reverse();
        Ok(rows)
    }

    /// Distinct roots served since the window's start, up to now.
    pub async fn known_content_items(&self, window: Window) -> Result<u64, DbError> {
        self.read(|db| async move { content_since(window).count(&db).await }).await
    }

    /// Roots by their decayed requests, the hottest first.
    pub async fn hottest(&self, limit: u32) -> Result<Vec<ContentRow>, DbError> {
        let query = hottest(limit.clamp(1, MAX_LIMIT).into());
        self.read(|db| async move { query.into_model().all(&db).await }).await
    }

    /// Machines and adapters that measured something, the latest first.
    pub async fn hardware(&self) -> Result<Vec<HardwareRow>, DbError> {
        self.read(|db| async move { hardware().into_model().all(&db).await }).await
    }
}

fn peers(order: PeerOrder, limit: u64) -> Select<peer::Entity> {
    use peer::Column::{BytesIn, Id, LastSeen};
    let column = match order {
        PeerOrder::LastSeen => LastSeen,
        PeerOrder::BytesIn => BytesIn,
    };
    // The bound is always true; it lets both engines walk the index instead of the table.
    peer::Entity::find().filter(column.gte(0)).order_by_desc(column).order_by_desc(Id).limit(limit)
}

/// Marked as connected, and told so lately: the mark of a server that was killed stays behind.
fn connected(now: SystemTime) -> Select<peer::Entity> {
    let since = Window::last(CONNECTED_WITHIN, now).since_us;
    peer::Entity::find().filter(peer::Column::LastSeen.gte(since)).filter(peer::Column::Connected.eq(true))
}

fn peer_by_id(peer_id: &str) -> Select<peer::Entity> {
    peer::Entity::find().filter(peer::Column::PeerId.eq(peer_id))
}

fn links(window: Window) -> Select<peer_link::Entity> {
    use peer_link::Column::{FirstSeen, LastSeen};
    peer_link::Entity::find()
        .filter(LastSeen.gte(window.since_us))
        .filter(FirstSeen.lt(window.until_us))
        .order_by_desc(LastSeen)
        .limit(MAX_LINKS)
}

fn links_from(end: peer_link::Column, peer_id: &str) -> Select<peer_link::Entity> {
    peer_link::Entity::find().filter(end.eq(peer_id)).limit(MAX_PEER_LINKS)
}

fn snapshots(window: Window) -> Select<network_metric::Entity> {
    use network_metric::Column::TestTimestamp;
    network_metric::Entity::find()
        .filter(TestTimestamp.gte(window.since_us))
        .filter(TestTimestamp.lt(window.until_us))
        .order_by_desc(TestTimestamp)
        .limit(MAX_SNAPSHOTS)
}

fn content_since(window: Window) -> Select<content_item::Entity> {
    content_item::Entity::find().filter(content_item::Column::LastRequest.gte(window.since_us))
}

fn hottest(limit: u64) -> Select<content_item::Entity> {
    use content_item::Column::RequestsDecayed;
    content_item::Entity::find().filter(RequestsDecayed.gte(0.0)).order_by_desc(RequestsDecayed).limit(limit)
}

fn hardware() -> Select<hardware_platform::Entity> {
    hardware_platform::Entity::find().order_by_desc(hardware_platform::Column::DetectedAt).limit(100)
}

pub(super) fn statements(backend: DbBackend) -> Vec<(&'static str, Statement)> {
    let window = Window { since_us: 1, until_us: 2 };
    vec![
        ("peers by last seen", peers(PeerOrder::LastSeen, 50).build(backend)),
        ("peers by bytes", peers(PeerOrder::BytesIn, 50).build(backend)),
        ("connected peers", connected(SystemTime::now()).build(backend)),
        ("one peer", peer_by_id("12D3").build(backend)),
        ("links", links(window).build(backend)),
        ("links from a peer", links_from(peer_link::Column::A, "12D3").build(backend)),
        ("links to a peer", links_from(peer_link::Column::B, "12D3").build(backend)),
        ("snapshots", snapshots(window).build(backend)),
        ("content of a window", content_since(window).build(backend)),
        ("hottest content", hottest(50).build(backend)),
    ]
}
