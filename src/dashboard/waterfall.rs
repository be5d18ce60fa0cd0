//! The waterfall of one retrieval: lanes on one time axis, from its events.

use std::collections::BTreeMap;

use super::chart::{Tick, px, steps, tick_label};
use super::filters::{self, cell, ms};
use crate::db::queries::Detail;
use crate::record::EventKind;

/// Providers drawn; the table has them all.
const MAX_LANES: usize = 16;
/// Blocks of one peer that are closer together than this share of the whole are one bar.
const JOIN: f64 = 0.012;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 900.0;
const LANE: i32 = 36;

#[derive(Debug, Clone, PartialEq)]
pub struct Waterfall {
    pub height: i32,
    pub axis: i32,
    pub ticks: Vec<Tick>,
    pub lanes: Vec<Lane>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    pub label: String,
    pub y: i32,
    pub bars: Vec<Bar>,
    pub note: String,
    pub note_x: f64,
    pub note_anchor: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub class: &'static str,
    pub x: f64,
    pub width: f64,
    pub title: String,
}

/// What one peer did, in milliseconds since the start.
#[derive(Default)]
struct PeerLane {
    dial: Option<f64>,
    connected: Option<f64>,
    asked: Option<f64>,
    blocks: Vec<f64>,
    stalls: Vec<(f64, f64)>,
    last_sign: Option<f64>,
    end: Option<(f64, &'static str)>,
}

/// `None` when there is no trace, or it has no extent in time.
pub fn waterfall(detail: &Detail) -> Option<Waterfall> {
    let row = &detail.row;
    let last = detail.events.iter().map(|event| event.at_us as f64 / 1e3).fold(0.0_f64, f64::max);
    let total = last.max(row.load_time_ms);
    if detail.events.is_empty() || !total.is_finite() || total <= 0.0 {
        return None;
    }
    let scale = Scale { total };
    let mut order: Vec<&str> = Vec::new();
    let mut peers: BTreeMap<&str, PeerLane> = BTreeMap::new();
    let (mut routing_start, mut routing_end, mut found) = (None, None, 0u64);
    for event in &detail.events {
        let at = event.at_us as f64 / 1e3;
        let Ok(kind) = event.kind.parse::<EventKind>() else { continue };
        match kind {
            EventKind::RoutingStarted => routing_start = routing_start.or(Some(at)),
            EventKind::ProviderFound => {
                routing_end = routing_end.or(Some(at));
                found += 1;
            }
            EventKind::RouterFinished if found == 0 => routing_end = Some(at),
            _ => {}
        }
        let Some(peer) = event.peer_id.as_deref() else { continue };
        if kind == EventKind::ProviderFound {
            continue;
        }
        if !peers.contains_key(peer) {
            order.push(peer);
        }
        peers.entry(peer).or_default().see(kind, at);
    }
    let mut lanes = Vec::new();
    if let Some(start) = routing_start {
        let end = routing_end.unwrap_or(total);
        let note = match found {
            0 => format!("nobody found in {}", cell(ms(Some(end - start)))),
            1 => format!("first provider after {}, 1 in all", cell(ms(Some(end)))),
            n => format!("first provider after {}, {n} in all", cell(ms(Some(end)))),
        };
        lanes.push(scale.lane(
            "Routing".to_owned(),
            vec![scale.bar("fill-quiet", start, end, "looking for providers")],
            note,
        ));
    }
    let hidden = order.len().saturating_sub(MAX_LANES);
    for peer in order.into_iter().take(MAX_LANES) {
        let Some(lane) = peers.get(peer) else { continue };
        let attempt = detail.attempts.iter().find(|attempt| attempt.peer_id == peer);
        let transport = attempt.and_then(|attempt| attempt.transport.as_deref()).unwrap_or_default();
        let label = format!("{} {}", tail(peer), transport.strip_prefix("bitswap-").unwrap_or(transport));
        lanes.push(lane.draw(&scale, label.trim_end().to_owned(), attempt.map_or(0, |attempt| attempt.bytes)));
    }
    if hidden > 0 {
        lanes.push(scale.lane(format!("{hidden} more"), Vec::new(), "in the table below".to_owned()));
    }
    if let Some(first) = row.ttfb_ms {
        let bar = scale.bar("fill-4", first, row.load_time_ms, "bytes to the client");
        lanes.push(scale.lane("To the client".to_owned(), vec![bar], format!("first byte {}", cell(ms(Some(first))))));
    }
    if lanes.is_empty() {
        return None;
    }
    for (i, lane) in lanes.iter_mut().enumerate() {
        lane.y = 14 + LANE * i as i32;
    }
    let axis = 14 + LANE * lanes.len() as i32;
    let ticks = steps(total, 6).into_iter().map(|at| Tick { x: scale.x(at), label: tick_label(at) }).collect();
    Some(Waterfall { height: axis + 26, axis, ticks, lanes })
}

/// What became of a peer that was silent for too long.
const STALLED: &str = "stalled, asked elsewhere";

impl PeerLane {
    fn see(&mut self, kind: EventKind, at: f64) {
        match kind {
            EventKind::DialStarted => self.dial = self.dial.or(Some(at)),
            EventKind::Connected => self.connected = self.connected.or(Some(at)),
            EventKind::WantSent => {
                self.asked = self.asked.or(Some(at));
                self.last_sign = self.last_sign.or(Some(at));
            }
            EventKind::BlockReceived => {
                self.blocks.push(at);
                self.last_sign = Some(at);
            }
            EventKind::HaveReceived | EventKind::DontHave | EventKind::Duplicate => {
                self.last_sign = Some(at);
                if kind == EventKind::DontHave {
                    self.ends(at, "has it not");
                }
            }
            EventKind::Stalled => {
                self.stalls.push((self.last_sign.unwrap_or(at), at));
                self.last_sign = Some(at);
                self.end = Some((at, STALLED));
            }
            EventKind::DialFailed => self.end = Some((at, "could not be reached")),
            EventKind::Corrupt | EventKind::Quarantined => self.end = Some((at, "sent wrong bytes, banned")),
            EventKind::Disconnected => self.ends(at, "disconnected"),
            _ => {}
        }
    }

    /// Of a peer that had stalled, what it did afterwards tells less than that.
    fn ends(&mut self, at: f64, how: &'static str) {
        if !matches!(self.end, Some((_, STALLED))) {
            self.end = Some((at, how));
        }
    }

    fn draw(&self, scale: &Scale, label: String, bytes: i64) -> Lane {
        let mut bars = Vec::new();
        if let Some(dial) = self.dial {
            let end = self.connected.or(self.end.map(|(at, _)| at)).unwrap_or(scale.total);
            bars.push(scale.bar("fill-quiet", dial, end, "connecting"));
        }
        if let (Some(asked), Some(first)) = (self.asked, self.blocks.first().copied().or(self.end.map(|(at, _)| at))) {
            bars.push(scale.bar("fill-quiet", asked, first, "waiting for the first block"));
        }
        let mut run: Option<(f64, f64, usize)> = None;
        for &at in &self.blocks {
            run = Some(match run {
                Some((start, end, n)) if at - end <= scale.total * JOIN => (start, at, n + 1),
                Some((start, end, n)) => {
                    bars.push(scale.bar("fill-1", start, end, &blocks(n)));
                    // A stall in between is drawn as such.
                    if !self.stalls.iter().any(|(from, _)| *from >= end && *from < at) {
                        bars.push(scale.bar("fill-quiet", end, at, "waiting for the next block"));
                    }
                    (at, at, 1)
                }
                None => (at, at, 1),
            });
        }
        if let Some((start, end, n)) = run {
            bars.push(scale.bar("fill-1", start, end, &blocks(n)));
        }
        for &(from, to) in &self.stalls {
            bars.push(scale.bar("stall", from, to, "lost to a stall"));
        }
        let amount = (bytes > 0).then(|| filters::bytes(bytes as u64).to_string());
        let note = match (amount, self.end) {
            (Some(amount), Some((_, end))) => format!("{amount}, {end}"),
            (Some(amount), None) => amount,
            (None, Some((_, end))) => end.to_owned(),
            (None, None) => "nothing delivered".to_owned(),
        };
        scale.lane(label, bars, note)
    }
}

fn blocks(n: usize) -> String {
    if n == 1 { "1 block".to_owned() } else { format!("{n} blocks") }
}

/// The end of a peer id, which tells peers apart: all Ed25519 ones begin alike.
fn tail(peer: &str) -> String {
    let length = peer.chars().count();
    format!("…{}", peer.chars().skip(length.saturating_sub(8)).collect::<String>())
}

struct Scale {
    total: f64,
}

impl Scale {
    fn x(&self, at: f64) -> f64 {
        px(LEFT + (at / self.total).clamp(0.0, 1.0) * (RIGHT - LEFT))
    }

    /// A bar is at least two units wide, so that a moment can be seen.
    fn bar(&self, class: &'static str, from: f64, to: f64, what: &str) -> Bar {
        let (x, end) = (self.x(from), self.x(to));
        let title = format!("{what}: {} to {}", cell(ms(Some(from))), cell(ms(Some(to.max(from)))));
        Bar { class, x, width: px((end - x).max(2.0)), title }
    }

    fn lane(&self, label: String, bars: Vec<Bar>, note: String) -> Lane {
        let end = bars.iter().map(|bar| bar.x + bar.width).fold(LEFT, f64::max);
        Lane { label, y: 0, bars, note, note_x: px(end + 8.0), note_anchor: "start" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::queries::{AttemptRow, EventRow};

    fn event(at_ms: i64, kind: EventKind, peer: Option<&str>) -> EventRow {
        let peer_id = peer.map(str::to_owned);
        EventRow {
            ordinal: at_ms,
            at_us: at_ms * 1000,
            kind: kind.as_str().into(),
            peer_id,
            cid: None,
            value: None,
            detail: None,
        }
    }

    #[test]
    fn lanes_show_routing_each_peer_and_the_stall() {
        let events = vec![
            event(0, EventKind::RoutingStarted, None),
            event(30, EventKind::ProviderFound, Some("peer-a")),
            event(31, EventKind::DialStarted, Some("peer-a")),
            event(70, EventKind::Connected, Some("peer-a")),
            event(71, EventKind::WantSent, Some("peer-a")),
            event(100, EventKind::BlockReceived, Some("peer-a")),
            event(400, EventKind::Stalled, Some("peer-a")),
            event(450, EventKind::Disconnected, Some("peer-a")),
        ];
        let mut detail = crate::dashboard::verdict_tests::detail(events, vec![]);
        detail.row.ttfb_ms = Some(101.0);
        let drawn = waterfall(&detail).unwrap();
        let labels: Vec<&str> = drawn.lanes.iter().map(|lane| lane.label.as_str()).collect();
        assert_eq!(labels, ["Routing", "…peer-a", "To the client"]);
        let peer = &drawn.lanes[1];
        assert_eq!(
            peer.bars.iter().map(|bar| bar.class).collect::<Vec<_>>(),
            ["fill-quiet", "fill-quiet", "fill-1", "stall"]
        );
        assert_eq!(peer.note, "stalled, asked elsewhere");
        assert!(
            drawn.lanes.iter().flat_map(|lane| &lane.bars).all(|bar| bar.x >= LEFT && bar.x + bar.width <= RIGHT + 2.0)
        );
    }

    #[test]
    fn without_a_trace_there_is_no_drawing() {
        let attempts: Vec<AttemptRow> = Vec::new();
        assert_eq!(waterfall(&crate::dashboard::verdict_tests::detail(Vec::new(), attempts)), None);
    }
}
