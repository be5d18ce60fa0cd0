//! Bounds of a kept trace: the steps that explain stay, the many blocks between may go.

use crate::record::{EventKind, SessionReport};

/// Events kept of one retrieval: a waterfall draws no more.
const MAX_EVENTS: usize = 512;

/// Cuts a trace to [`MAX_EVENTS`], rare kinds first, in order. Returns how many were left out.
pub fn bound(session: &mut SessionReport) -> u64 {
    let total = session.events.len();
    if total <= MAX_EVENTS {
        return 0;
    }
    let rare = session.events.iter().filter(|event| !is_common(event.kind)).count();
    let (mut rare_left, mut common_left) = (rare.min(MAX_EVENTS), MAX_EVENTS.saturating_sub(rare));
    let last = total - 1;
    let mut index = 0;
    session.events.retain(|event| {
        let left = if is_common(event.kind) { &mut common_left } else { &mut rare_left };
        let keep = *left > 0 || index == last;
        *left = left.saturating_sub(1);
        index += 1;
        keep
    });
    let dropped = (total - session.events.len()) as u64;
    session.events_dropped += dropped;
    dropped
}

fn is_common(kind: EventKind) -> bool {
    use EventKind::{BlockReceived, DontHave, Duplicate, HaveReceived, LocalHit, WantSent};
    matches!(kind, BlockReceived | DontHave | Duplicate | HaveReceived | LocalHit | WantSent)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::db::rows::tests::record;
    use crate::record::RetrievalEvent;

    #[test]
    fn a_long_trace_keeps_its_start_its_end_and_every_rare_step() {
        let event = |at: usize, kind| RetrievalEvent {
            at: Duration::from_millis(at as u64),
            kind,
            peer: None,
            cid: None,
            value: None,
            detail: None,
        };
        let mut session = record(1).session;
        session.events = (0..2_000)
            .map(|n| {
                let kind = match n {
                    0 => EventKind::Started,
                    1_500 => EventKind::Stalled,
                    1_999 => EventKind::Finished,
                    _ => EventKind::BlockReceived,
                };
                event(n, kind)
            })
            .collect();
        assert_eq!(bound(&mut session), 2_000 - MAX_EVENTS as u64);
        let kinds: Vec<_> = session.events.iter().map(|e| e.kind).filter(|kind| !is_common(*kind)).collect();
        assert_eq!(kinds, [EventKind::Started, EventKind::Stalled, EventKind::Finished]);
        assert_eq!(session.events.len(), MAX_EVENTS);
        assert_eq!(session.events_dropped, 2_000 - MAX_EVENTS as u64);
    }
}
