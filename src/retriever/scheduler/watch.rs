//! What time does: silence becomes a stall, a late block is asked for elsewhere, a fetch that cannot end fails.

use std::time::Duration;

use libp2p::PeerId;

use super::super::FetchError;
use super::super::rate::RateEstimator;
use super::super::step::Step;
use super::peer::MIN_RATE;
use super::session::{Has, Link};
use super::{Action, Exclusion, Scheduler, SessionId, Time, WantId};
use crate::exchange::WantKind;
use crate::record::Policy;

/// A question or a guess that is not answered for this long is taken for a no.
const NO_ANSWER: Duration = Duration::from_secs(3);
/// The fixed silence after which the standard policy goes to the next provider.
const STANDARD_PATIENCE: Duration = Duration::from_secs(10);
/// A dial that the exchange says nothing about.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// A block is asked for elsewhere when it is late by this factor, and by at least [`HEDGE_FLOOR`].
const LATE: f64 = 1.5;
const HEDGE_FLOOR: Duration = Duration::from_millis(30);

impl Scheduler {
    pub(super) fn watch(&mut self, now: Time) {
        self.watch_peers(now);
        self.watch_dials(now);
        let waiting: Vec<SessionId> =
            self.sessions.iter().filter(|(_, s)| !s.wants.is_empty()).map(|(id, _)| *id).collect();
        for id in waiting {
            self.hedge_late(id, now);
            self.time_out(id, now);
            self.dirty.insert(id);
        }
    }

    fn watch_peers(&mut self, now: Time) {
        let mut fallen = Vec::new();
        for (id, peer) in &mut self.peers {
            // Silence is no rate: it ends in a stall, or all comes at once.
            if let Some(rate) = peer.fallen(now).filter(|rate| *rate > MIN_RATE) {
                peer.rate.fell(now, rate);
                fallen.push(*id);
            }
        }
        for id in fallen {
            let full = self.peers.iter().filter(|(other, peer)| **other != id && peer.full_since.is_some());
            let beside = full.map(|(other, _)| *other).collect();
            self.bottlenecks.fell(id, beside, now);
        }
        self.bottlenecks.judge(now);
        let mut silent = Vec::new();
        let mut unanswered = Vec::new();
        for (id, peer) in &self.peers {
            if let Some(since) = peer.silent_since()
                && !peer.stalled
                && now.saturating_sub(since) >= peer.patience()
            {
                silent.push((*id, now.saturating_sub(since)));
            }
            let late = |at: Time| now.saturating_sub(at) > NO_ANSWER.max(peer.rtt() * 8);
            let old = peer.outstanding.iter().filter(|(_, asked)| asked.kind == WantKind::Have && late(asked.at));
            unanswered.extend(old.map(|(want, _)| (*want, *id)));
        }
        for (peer, silent) in silent {
            self.stall(peer, silent, now);
        }
        for (want, peer) in unanswered {
            self.take_back(want, peer);
            self.exclude(want, peer, Exclusion::NoAnswer);
        }
        let stalled: Vec<PeerId> =
            self.peers.iter().filter(|(_, p)| p.stalled && p.block_wants > 0).map(|(id, _)| *id).collect();
        for peer in stalled {
            self.rescue(peer);
            self.forsake(peer, now);
        }
    }

    fn stall(&mut self, id: PeerId, silent: Duration, now: Time) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let wants: Vec<WantId> = peer.outstanding.keys().copied().collect();
        let hurried = wants.iter().flat_map(|want| self.sessions_of(*want));
        let mut sessions: Vec<SessionId> = hurried.collect();
        sessions.sort_unstable();
        sessions.dedup();
        // The standard policy waits longer; a peer that serves both kinds is judged by the quicker one.
        let patient = |id: &SessionId| self.sessions.get(id).is_some_and(|s| s.policy == Policy::Standard);
        if sessions.iter().all(patient) && silent < STANDARD_PATIENCE {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.stalled = true;
        }
        self.ledger.failed(id, now);
        self.tally.stalls += 1;
        for session in sessions {
            self.step(session, Step::Stalled { peer: id, silent });
        }
    }

    /// Moves the wants of a silent peer to others; those that nobody else can serve stay.
    fn rescue(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let wants: Vec<WantId> =
            peer.outstanding.iter().filter(|(_, asked)| asked.kind == WantKind::Block).map(|(want, _)| *want).collect();
        let mut moved = std::collections::BTreeMap::<SessionId, usize>::new();
        for want in wants {
            if self.wants.get(&want).is_some_and(|s| s.block_asks > 1) || !self.another(want, id) {
                continue;
            }
            for session in self.sessions_of(want) {
                *moved.entry(session).or_default() += 1;
            }
            self.take_back(want, id);
            self.exclude(want, id, Exclusion::Stalled);
            self.tally.failed += 1;
            self.tally.reassigned += 1;
        }
        for (session, wants) in moved {
            self.step(session, Step::Reassigned { peer: id, wants, why: "no byte came" });
        }
    }

    /// A silent peer of which nobody ever said that it has the content is no provider: old ones do not say no.
    fn forsake(&mut self, id: PeerId, now: Time) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.blocks == 0) else { return };
        let late = peer.outstanding.iter().filter(|(_, asked)| now.saturating_sub(asked.at) > NO_ANSWER);
        let late: Vec<WantId> = late.map(|(want, _)| *want).collect();
        for want in late {
            let claimed = self.sessions_of(want).iter().any(|session| {
                let candidate = self.sessions.get(session).and_then(|s| s.candidates.get(&id));
                candidate.is_some_and(|c| c.has > Has::Unknown)
            });
            if !claimed {
                self.take_back(want, id);
                self.exclude(want, id, Exclusion::NoAnswer);
            }
        }
    }

    /// A silent peer speaks again: it may be asked again for what was taken from it.
    pub(super) fn revive(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.stalled) else { return };
        peer.stalled = false;
        // What its link gave before the silence says little of what it gives now.
        peer.rate = RateEstimator::default();
        (peer.fresh, peer.lost) = (0, true);
        for state in self.wants.values_mut() {
            if state.excluded.get(&id) == Some(&Exclusion::Stalled) {
                state.excluded.remove(&id);
            }
        }
        let with = self.sessions.iter().filter(|(_, state)| state.candidates.contains_key(&id));
        self.dirty.extend(with.map(|(session, _)| *session));
    }

    /// Whether somebody else than `not` could be asked for the block now.
    fn another(&self, want: WantId, not: PeerId) -> bool {
        let Some(state) = self.wants.get(&want) else { return false };
        state.sessions.keys().filter_map(|id| self.sessions.get(id)).any(|session| {
            session.candidates.iter().any(|(peer, c)| {
                let open = *peer != not && c.usable() && !state.excluded.contains_key(peer);
                open && self.peers.get(peer).is_some_and(|p| !p.stalled)
                    && (c.has > Has::Unknown
                        || session.policy == Policy::Standard
                        || !c.probed
                        || !state.asked.contains(peer))
            })
        })
    }

    fn watch_dials(&mut self, now: Time) {
        let over: Vec<PeerId> = self
            .dials
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) > DIAL_TIMEOUT)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in over {
            let error = crate::exchange::ConnectError::Timeout(DIAL_TIMEOUT);
            self.exchange(crate::exchange::ExchangeEvent::ConnectFailed { peer, error }, now);
        }
    }

    /// A reader waits, the peer is late and silent, and another has the block: ask there too.
    fn hedge_late(&mut self, id: SessionId, now: Time) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.policy == Policy::Standard {
            return;
        }
        let waiting: Vec<WantId> = session.waiting.keys().copied().take(64).collect();
        for want in waiting {
            let Some(state) = self.wants.get(&want).filter(|state| state.block_asks == 1) else { continue };
            let owner = state.asked.iter().find_map(|peer| {
                let asked = self.peers.get(peer)?.outstanding.get(&want)?;
                (asked.kind == WantKind::Block).then_some((*peer, *asked))
            });
            let Some((owner, asked)) = owner else { continue };
            let due = asked.at + asked.expected.mul_f64(LATE).max(asked.expected + HEDGE_FLOOR);
            let quiet = self
                .peers
                .get(&owner)
                .is_some_and(|p| now.saturating_sub(p.last_progress.max(asked.at)) > p.rtt() + HEDGE_FLOOR);
            if now < due || !quiet || !self.may_hedge(id, state.size) {
                continue;
            }
            let size = state.size;
            let other = self.sessions.get(&id).and_then(|session| {
                let able = session.candidates.iter().filter(|(peer, c)| {
                    **peer != owner && c.usable() && c.has > Has::Unknown && !state.excluded.contains_key(*peer)
                });
                let quick =
                    able.filter_map(|(peer, _)| self.peers.get(peer).filter(|p| !p.stalled).map(|p| (p, *peer)));
                quick.min_by_key(|(p, _)| p.rtt()).map(|(_, peer)| peer)
            });
            if let Some(other) = other {
                self.hedge(id, want, other, None, size, now);
            }
        }
    }

    fn time_out(&mut self, id: SessionId, now: Time) {
        let Some(session) = self.sessions.get(&id) else { return };
        let live = session
            .candidates
            .iter()
            .filter(|(_, c)| c.usable())
            .filter_map(|(peer, _)| self.peers.get(peer).filter(|p| !p.stalled && p.block_wants > 0))
            .filter(|p| p.outstanding.keys().any(|want| session.wants.contains(want)))
            .filter(|p| p.last_progress > p.busy_since)
            .map(|p| p.last_progress);
        let progress = live.max().unwrap_or_default().max(session.last_progress);
        let over: Vec<(WantId, Duration)> = session
            .waiting
            .iter()
            .map(|(want, since)| (*want, now.saturating_sub((*since).max(progress))))
            .filter(|(_, waited)| *waited >= self.tuning.timeout)
            .collect();
        let (phase, found, tried) = (session.phase(), session.found(), session.tried());
        for (want, waited) in over {
            let Some(cid) = self.wants.get(&want).map(|state| state.cid) else { continue };
            self.tally.timeouts += 1;
            self.step(id, Step::Failed { cid, reason: "no progress" });
            let error = FetchError::Timeout { cid, phase, providers_found: found, providers_tried: tried, waited };
            self.uninterested(id, want);
            self.out.push(Action::Fail { session: id, cid, error });
        }
    }

    /// Fails at once what nobody has: every router has finished, every provider said no or cannot be reached.
    pub(super) fn give_up(&mut self, id: SessionId, now: Time) {
        let Some(session) = self.sessions.get(&id) else { return };
        let queued: Vec<WantId> = session.queue.iter().map(|q| q.2).take(64).collect();
        for want in queued {
            let (Some(session), Some(state)) = (self.sessions.get(&id), self.wants.get(&want)) else { return };
            let hopeful = session.candidates.iter().any(|(peer, c)| {
                let open =
                    !c.quarantined && !matches!(state.excluded.get(peer), Some(why) if *why != Exclusion::Stalled);
                open && matches!(c.link, Link::Known | Link::Dialing | Link::Connected)
                    && !(c.link == Link::Known && c.dials >= super::events::MAX_DIALS)
            });
            if hopeful || !state.asked.is_empty() || !self.route_done(session.route) {
                continue;
            }
            let (cid, root) = (state.cid, session.root);
            // The providers of the root do not have it: others may.
            if cid.hash() != root.hash() && state.route.is_none() {
                let route = self.search(id, cid, now);
                if let Some(state) = self.wants.get_mut(&want) {
                    state.route = Some(route);
                }
                continue;
            }
            if !self.route_done(state.route) {
                // Another session may have begun it; this one hears of what it finds from now on.
                if let Some(route) =
                    state.route.filter(|r| self.routes.get(r).is_some_and(|r| !r.sessions.contains(&id)))
                {
                    let cid = self.routes.get(&route).map_or(cid, |route| route.cid);
                    self.search(id, cid, now);
                }
                continue;
            }
            let (phase, found, tried) = (session.phase(), session.found(), session.tried());
            let failed = self.routers_failed(state.route.or(session.route));
            self.tally.not_found += 1;
            self.step(id, Step::Failed { cid, reason: "nobody has it" });
            self.uninterested(id, want);
            let error = FetchError::NotFound {
                cid,
                phase,
                providers_found: found,
                providers_tried: tried,
                routers_failed: failed,
            };
            self.out.push(Action::Fail { session: id, cid, error });
        }
    }
}
