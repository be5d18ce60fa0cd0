//! From the node and the database to the figures: for the API at any moment, and as a row every minute.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::MissedTickBehavior;
use tracing::debug;

use super::{Analytics, Edge, Facts, Inputs, PeerSample, analytics, snapshot};
use crate::db::observe::{LinkKind, LinkObservation, PeerObservation};
use crate::db::queries::{MAX_LIMIT, PeerOrder, Window};
use crate::db::{Database, DbError};
use crate::supervisor::Supervisor;

/// How often peers and links are written down.
const OBSERVE_EVERY: Duration = Duration::from_secs(10);
/// Every so many observations a snapshot: a minute.
const SNAPSHOT_EVERY: u64 = 6;
/// What a snapshot's figures are of: the minute since the one before.
const SNAPSHOT_WINDOW: Duration = Duration::from_secs(60);
/// Links and peers not seen for longer are no part of the graph.
const GRAPH_WINDOW: Duration = Duration::from_secs(3_600);

/// What the node sees now.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub peers: Vec<PeerObservation>,
    pub links: Vec<LinkObservation>,
}

/// Where observations come from; the app hands over the node.
#[async_trait]
pub trait NetworkSource: Send + Sync + 'static {
    async fn observe(&self) -> Observed;
}

/// The analytics of a window, as of now.
pub async fn current(db: &Database, facts: Facts, window: Window) -> Result<Analytics, DbError> {
    Ok(analytics(&gather(db, facts, window, SystemTime::now()).await?))
}

/// Writes down peers and links every 10 s, and a snapshot every minute, until the supervisor stops.
pub fn watch(db: Database, source: Arc<dyn NetworkSource>, facts: Facts, supervisor: &Supervisor) {
    let stop = supervisor.token();
    supervisor.spawn("topology", async move {
        let mut tick = tokio::time::interval(OBSERVE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u64 = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            ticks += 1;
            let observed = tokio::select! {
                () = stop.cancelled() => return,
                observed = source.observe() => observed,
            };
            if !observed.links.is_empty() {
                db.observe_links(observed.links);
            }
            db.observe_peers(observed.peers);
            if ticks.is_multiple_of(SNAPSHOT_EVERY) {
                let now = SystemTime::now();
                match gather(&db, facts, Window::last(SNAPSHOT_WINDOW, now), now).await {
                    Ok(inputs) => db.write_network_snapshot(snapshot(&inputs)),
                    // It shows on /readyz and the dashboard; a snapshot without figures would be invented.
                    Err(error) => debug!(%error, "no snapshot of the network"),
                }
            }
        }
    });
}

async fn gather(db: &Database, facts: Facts, window: Window, at: SystemTime) -> Result<Inputs, DbError> {
    let graph = Window::last(GRAPH_WINDOW, at);
    let since = graph.since_us.min(window.since_us);
    let (peers, links, tally, known_content_items) = tokio::try_join!(
        db.peers(PeerOrder::LastSeen, MAX_LIMIT),
        db.links(Window { since_us: since, until_us: graph.until_us }),
        db.tally(window),
        db.known_content_items(window),
    )?;
    let samples = peers.into_iter().filter(|peer| peer.connected || peer.last_seen >= since).map(|peer| PeerSample {
        id: peer.peer_id,
        connected: peer.connected,
        rtt_ms: peer.rtt_ms,
        rate_bps: peer.rate_bps,
        bytes_in: u64::try_from(peer.bytes_in).unwrap_or_default(),
    });
    let own = LinkKind::Connected.as_str();
    let edges: BTreeSet<(String, String)> =
        links.into_iter().filter(|link| link.kind != own).map(|link| (link.a, link.b)).collect();
    Ok(Inputs {
        at,
        window_s: window.seconds(),
        tally,
        known_content_items,
        peers: samples.collect(),
        edges: edges.into_iter().map(|(a, b)| Edge { a, b }).collect(),
        facts,
    })
}
