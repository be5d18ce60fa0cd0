//! `GET /events`: what happens now, as server-sent events (WHATWG HTML §9.2).
//!
//! `started` and `finished` name a retrieval each, `summary` comes once a second. A reader that falls behind is let go
//! and may come back: the browser does so by itself after `retry`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::State as Extract;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior};
use utoipa::ToSchema;

use super::State;
use super::problem::Problem;
use crate::db::queries::canonical_cid;
use crate::record::live::{Feed, MAX_WATCHERS, Moment, Totals, Watcher};
use crate::record::{RetrievalRecord, Transport};

/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);
const SUMMARY_EVERY: Duration = Duration::from_secs(1);
/// Nothing is silent for so long: proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Retrievals told to one reader in a second; further ones are in the next summary's `left_out`.
const TOLD_A_SECOND: u32 = 50;

/// One event of the stream, for the document.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ServerEvent {
    /// `started`, `finished` or `summary`.
    event: String,
    /// JSON.
    data: String,
    /// Of `finished`: the retrieval's.
    #[schema(nullable = false)]
    id: Option<String>,
    /// Milliseconds to wait before the next try.
    #[schema(nullable = false)]
    retry: Option<u64>,
}

#[derive(Serialize)]
struct Started<'a> {
    id: i64,
    cid: String,
    path: &'a str,
}

#[derive(Serialize)]
struct Finished<'a> {
    id: i64,
    cid: String,
    path: &'a str,
    outcome: &'static str,
    policy: &'static str,
    cache_state: &'static str,
    bytes: u64,
    network_bytes: u64,
    load_time_ms: f64,
    ttfb_ms: Option<f64>,
    peer_count: u32,
}

#[derive(Serialize)]
struct Summary {
    at_us: u64,
    #[serde(flatten)]
    totals: Totals,
    active_sessions: usize,
    peers: usize,
    database: &'static str,
    /// Retrievals of the last second that this stream left out.
    left_out: u32,
}

/// What happens now, as server-sent events: `started` and `finished` name a retrieval, `summary` comes once a second
#[utoipa::path(
    get, path = "/events", tag = "retrievals",
    responses((status = 200, description = "A stream that ends with the server", body = ServerEvent, content_type = "text/event-stream"))
)]
pub async fn events(Extract(state): Extract<State>) -> Result<Response, Problem> {
    let Some(watcher) = state.feed.watch() else {
        return Err(Problem::unavailable(format!("{MAX_WATCHERS} streams of events are open, which is the limit")));
    };
    let stream = stream(state, watcher);
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect the events otherwise.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Reader {
    state: State,
    feed: Feed,
    watcher: Watcher,
    tick: Interval,
    waiting: VecDeque<Event>,
    second: Instant,
    told: u32,
    left_out: u32,
}

fn stream(state: State, watcher: Watcher) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut tick = tokio::time::interval(SUMMARY_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reader = Reader {
        feed: state.feed.clone(),
        state,
        watcher,
        tick,
        waiting: VecDeque::new(),
        second: Instant::now(),
        told: 0,
        left_out: 0,
    };
    let first = reader.summary().retry(RETRY);
    reader.waiting.push_back(first);
    futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    })
}

impl Reader {
    /// `None` ends the stream: the server stops, or the reader was too slow.
    async fn next(&mut self) -> Option<Event> {
        let closed = self.feed.closed();
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            tokio::select! {
                biased;
                () = closed.cancelled() => return None,
                _ = self.tick.tick() => return Some(self.summary()),
                moment = self.watcher.moments.recv() => match moment {
                    Ok(moment) => self.take(&moment),
                    Err(RecvError::Lagged(_)) => {
                        self.feed.lagged();
                        return None;
                    }
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    fn take(&mut self, moment: &Moment) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.told) = (Instant::now(), 0);
        }
        self.told += 1;
        if self.told > TOLD_A_SECOND {
            self.left_out += 1;
            return;
        }
        self.waiting.push_back(match moment {
            Moment::Started(begun) => {
                let started = Started { id: begun.id.0, cid: canonical_cid(&begun.cid), path: &begun.path };
                event("started", &started)
            }
            Moment::Finished(record) => event("finished", &Finished::new(record)).id(record.id.to_string()),
        });
    }

    fn summary(&mut self) -> Event {
        let state = &self.state;
        let summary = Summary {
            at_us: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
            totals: self.feed.totals(),
            active_sessions: state.retriever.active_sessions(),
            peers: state.node.as_ref().map_or(0, |node| node.peers().len())
                + state.retriever.connected_over(Transport::Http),
            database: match state.db.as_ref().map(|db| db.state().is_up()) {
                None => "off",
                Some(true) => "up",
                Some(false) => "down",
            },
            left_out: std::mem::take(&mut self.left_out),
        };
        event("summary", &summary)
    }
}

impl<'a> Finished<'a> {
    fn new(record: &'a RetrievalRecord) -> Self {
        let session = &record.session;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self {
            id: record.id.0,
            cid: canonical_cid(&record.cid),
            path: &record.path,
            outcome: record.outcome.as_str(),
            policy: session.policy.as_str(),
            cache_state: session.cache_state().as_str(),
            bytes: record.bytes,
            network_bytes: session.network_bytes,
            load_time_ms: ms(record.load_time),
            ttfb_ms: record.ttfb.map(ms),
            peer_count: session.peer_count(),
        }
    }
}

fn event(name: &'static str, data: &impl Serialize) -> Event {
    // JSON has no raw line breaks, which is what an event could not hold; numbers here are finite.
    Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default())
}
