//! One sentence or two that say where the time of a retrieval went, made from its row, attempts and events.

use std::collections::BTreeMap;

use super::filters::{self, cell, count, ms, percent, rate};
use crate::db::queries::{Detail, EventRow};
use crate::record::{EventKind, Outcome};

/// A share of all bytes from which one peer is named.
const DOMINANT: f64 = 0.5;
/// A silence is told from this length in milliseconds and this share of the whole on.
const WORTH_SILENCE_MS: f64 = 200.0;
const SILENT_SHARE: f64 = 0.25;
/// Waits under this are not worth a word, in milliseconds.
const WORTH_MS: f64 = 1.0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    pub strong: bool,
}

#[derive(Default)]
struct Sentence(Vec<Piece>);

impl Sentence {
    fn say(&mut self, text: impl Into<String>) -> &mut Self {
        self.0.push(Piece { text: text.into(), strong: false });
        self
    }

    fn stress(&mut self, text: impl Into<String>) -> &mut Self {
        self.0.push(Piece { text: text.into(), strong: true });
        self
    }
}

/// Never empty.
pub fn verdict(detail: &Detail) -> Vec<Piece> {
    let row = &detail.row;
    let mut s = Sentence::default();
    let took = cell(ms(Some(row.load_time_ms)));
    match row.outcome.parse::<Outcome>() {
        Ok(Outcome::Complete) => {}
        outcome => {
            failed(&mut s, detail, outcome.ok(), &took);
            stalls(&mut s, detail);
            return s.0;
        }
    }
    if row.network_bytes == 0 && row.peer_count == 0 {
        match row.cache_state.as_deref() {
            Some("memory") => s.say("Answered from memory in "),
            Some("disk") => s.say("Answered from the disk cache in "),
            Some("store") => s.say("Answered from the durable store in "),
            _ => s.say("Answered without any stored block in "),
        };
        s.stress(took).say("; nobody had to be asked.");
        return s.0;
    }
    s.say("Took ").stress(took);
    if let Some(score) = row.optimization_score.filter(|score| *score > 0.0 && score.is_finite()) {
        let times = 1.0 / score;
        let digits = if times < 9.995 { 2 } else { 0 };
        s.say(format!(", {times:.digits$} × what the providers found allow"));
    }
    s.say(".");
    let mut waits = Vec::new();
    if let Some(routing) = row.routing_ms.filter(|wait| *wait >= WORTH_MS) {
        waits.push((cell(ms(Some(routing))), " until a provider was known"));
    }
    if let Some(connect) = row.connect_ms.filter(|wait| *wait >= WORTH_MS) {
        waits.push((cell(ms(Some(connect))), " to connect"));
    }
    let any = !waits.is_empty();
    for (i, (time, what)) in waits.into_iter().enumerate() {
        s.say(if i == 0 { " Waited " } else { " and " }).stress(time).say(what);
    }
    if any {
        s.say(".");
    }
    shares(&mut s, detail);
    stalls(&mut s, detail);
    silence(&mut s, detail);
    if row.network_efficiency.is_some_and(|share| share < 0.95) {
        let wasted = filters::bytes(u64::try_from(row.duplicate_bytes).unwrap_or_default());
        s.say(" ").stress(wasted.to_string()).say(" arrived twice.");
    }
    s.0
}

fn failed(s: &mut Sentence, detail: &Detail, outcome: Option<Outcome>, took: &str) {
    let row = &detail.row;
    let tried = |s: &mut Sentence| {
        let number = |n: i64, one: &str, many: &str| match n {
            0 => format!("no {one}"),
            1 => format!("1 {one}"),
            n => format!("{} {many}", count(u64::try_from(n).unwrap_or_default())),
        };
        let found = number(row.providers_found, "provider was found", "providers were found");
        s.say(format!(": {found}, {} asked.", row.providers_attempted));
    };
    let phase =
        row.phase.as_deref().map(|phase| format!(" in the phase “{}”", filters::tame(phase, 20))).unwrap_or_default();
    let why = row.error_kind.as_deref().map(|kind| format!(" ({})", filters::tame(kind, 80))).unwrap_or_default();
    match outcome {
        Some(Outcome::NotFound) => {
            s.say("Nobody had it after ").stress(took);
            tried(s);
        }
        Some(Outcome::Timeout) => {
            s.say("Gave up after ").stress(took).say(format!(" without progress{phase}"));
            tried(s);
        }
        Some(Outcome::ClientAborted) => {
            let bytes = filters::bytes(u64::try_from(row.bytes).unwrap_or_default());
            s.say("The client left after ").stress(took).say(format!(" with {bytes}."));
        }
        Some(Outcome::Truncated) => {
            let bytes = filters::bytes(u64::try_from(row.bytes).unwrap_or_default());
            s.say("Broke off after ").stress(took).say(format!(" and {bytes}{phase}{why}"));
            tried(s);
        }
        Some(Outcome::Denied) => {
            s.say(format!("Refused{why}."));
        }
        _ => {
            s.say("Failed after ").stress(took).say(format!("{phase}{why}."));
        }
    }
}

/// Who delivered: one peer's share when it dominates.
fn shares(s: &mut Sentence, detail: &Detail) {
    let total: i64 = detail.attempts.iter().map(|attempt| attempt.bytes).sum();
    let Some(most) = detail.attempts.iter().max_by_key(|attempt| attempt.bytes) else { return };
    if total <= 0 || most.bytes <= 0 {
        return;
    }
    let speed = rate(most.max_rate_bps).map(|rate| format!(" at up to {rate}")).unwrap_or_default();
    let name = filters::short(&most.peer_id);
    let part = most.bytes as f64 / total as f64;
    if most.bytes == total {
        s.say(format!(" Everything came from one peer, {name}{speed}."));
    } else if part >= DOMINANT {
        s.say(" ")
            .stress(percent(part).to_string())
            .say(format!(" came from one of {} peers, {name}{speed}.", detail.row.peer_count));
    } else {
        s.say(format!(" {} peers delivered, none more than {}.", detail.row.peer_count, percent(part)));
    }
}

/// The longest time between two blocks, of any peers, when it is a large part of the whole.
fn silence(s: &mut Sentence, detail: &Detail) {
    let blocks = detail.events.iter().filter(|event| kind(event) == Some(EventKind::BlockReceived));
    let times: Vec<i64> = blocks.map(|event| event.at_us).collect();
    let longest = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e3).fold(0.0_f64, f64::max);
    if longest >= WORTH_SILENCE_MS && longest >= SILENT_SHARE * detail.row.load_time_ms {
        s.say(" For ").stress(cell(ms(Some(longest)))).say(" no block arrived from anybody.");
    }
}

/// Time lost to peers that went quiet: from their last sign of life to the moment that was noticed.
fn stalls(s: &mut Sentence, detail: &Detail) {
    let mut quiet_since: BTreeMap<&str, i64> = BTreeMap::new();
    let mut lost: Vec<(&str, i64)> = Vec::new();
    for event in &detail.events {
        let Some(peer) = event.peer_id.as_deref() else { continue };
        match kind(event) {
            Some(EventKind::BlockReceived | EventKind::HaveReceived | EventKind::DontHave | EventKind::Connected) => {
                quiet_since.insert(peer, event.at_us);
            }
            Some(EventKind::WantSent) => {
                quiet_since.entry(peer).or_insert(event.at_us);
            }
            Some(EventKind::Stalled) => {
                let since = quiet_since.insert(peer, event.at_us).unwrap_or(event.at_us);
                lost.push((peer, event.at_us - since));
            }
            _ => {}
        }
    }
    let stalled: Vec<&str> =
        detail.attempts.iter().filter(|a| a.outcome == "stalled").map(|a| a.peer_id.as_str()).collect();
    if lost.is_empty() {
        match stalled[..] {
            [] => {}
            [one] => {
                s.say(format!(" {} stalled.", filters::short(one)));
            }
            _ => {
                s.say(format!(" {} providers stalled.", stalled.len()));
            }
        }
        return;
    }
    if let Some((peer, time)) = lost.iter().max_by_key(|(_, time)| *time) {
        s.say(" ")
            .stress(cell(ms(Some(*time as f64 / 1e3))))
            .say(format!(" passed before {} was found to have stalled", filters::short(peer)));
        if lost.len() > 1 {
            s.say(format!(", one of {} stalls", lost.len()));
        }
        s.say("; its blocks were asked for elsewhere.");
    }
}

fn kind(event: &EventRow) -> Option<EventKind> {
    event.kind.parse().ok()
}
