//! Finding providers: searches shared by sessions, questions to connected peers, dials.

use std::collections::BTreeSet;

use libp2p::PeerId;

use super::super::step::Step;
use super::events::MAX_DIALS;
use super::session::{Has, Link};
use super::{Action, Route, RouteId, RouteState, Scheduler, SessionId, Time, WantId};
use crate::exchange::WantKind;
use crate::ipld::Cid;
use crate::record::Policy;
use crate::routing::{Provider, RouterKind, RoutingEvent};

/// Providers kept of one search: what all routers together may give (DESIGN.md §8: 100 of each).
const MAX_FOUND: usize = 256;

impl Scheduler {
    /// Joins the search for a CID, or begins it: at once if fewer than the allowed number run, else in order.
    pub(super) fn search(&mut self, id: SessionId, cid: Cid, now: Time) -> RouteId {
        let (nobody, remembered) = (self.known.nobody(cid.hash(), now), self.known.providers(cid.hash(), now));
        let known = self.route_index.get(cid.hash()).copied();
        let route = known.unwrap_or_else(|| {
            let route = RouteId(self.id());
            self.route_index.insert(*cid.hash(), route);
            let state = if nobody { RouteState::Done } else { RouteState::Queued };
            self.routes.insert(
                route,
                Route { cid, sessions: BTreeSet::new(), found: Vec::new(), finished: Vec::new(), state },
            );
            if !nobody {
                self.route_queue.push_back(route);
            }
            route
        });
        self.step(id, Step::RoutingStarted { cid });
        let Some(state) = self.routes.get_mut(&route) else { return route };
        state.sessions.insert(id);
        let (found, finished) = (state.found.clone(), state.finished.clone());
        // Those of an earlier search are dialled while the routers are asked again.
        for provider in remembered.into_iter().chain(found) {
            self.found(id, provider);
        }
        for (router, providers, error) in finished {
            self.step(id, Step::RouterFinished { router, providers, error });
        }
        route
    }

    pub(super) fn start_routes(&mut self) {
        while self.routes_running < self.tuning.searches {
            let Some(id) = self.route_queue.pop_front() else { return };
            if let Some(route) = self.routes.get_mut(&id) {
                route.state = RouteState::Running;
                self.routes_running += 1;
                self.out.push(Action::StartRoute { route: id, cid: route.cid });
            }
        }
    }

    pub(super) fn leave(&mut self, id: SessionId, route: RouteId) {
        let Some(state) = self.routes.get_mut(&route) else { return };
        state.sessions.remove(&id);
        if !state.sessions.is_empty() {
            return;
        }
        if state.state == RouteState::Running {
            self.routes_running -= 1;
            self.out.push(Action::StopRoute { route });
        }
        self.route_queue.retain(|queued| *queued != route);
        if let Some(state) = self.routes.remove(&route) {
            self.route_index.remove(state.cid.hash());
        }
    }

    pub(super) fn routed(&mut self, id: RouteId, event: RoutingEvent, _now: Time) {
        let Some(route) = self.routes.get_mut(&id) else { return };
        let sessions: Vec<SessionId> = route.sessions.iter().copied().collect();
        match event {
            RoutingEvent::Found(provider) => {
                if route.found.len() >= MAX_FOUND {
                    self.tally.over_bound += 1;
                    return;
                }
                route.found.push(provider.clone());
                for session in sessions {
                    self.found(session, provider.clone());
                }
            }
            RoutingEvent::Finished { router, providers, error } => {
                let error = error.map(|error| error.to_string());
                if route.finished.len() < 64 {
                    route.finished.push((router, providers, error.clone()));
                }
                for session in sessions {
                    self.step(session, Step::RouterFinished { router, providers, error: error.clone() });
                }
            }
        }
    }

    pub(super) fn route_ended(&mut self, id: RouteId, now: Time) {
        let Some(route) = self.routes.get_mut(&id) else { return };
        if route.state == RouteState::Running {
            route.state = RouteState::Done;
            self.routes_running -= 1;
            // A router that failed has not said that there is nobody; without routers nobody was asked.
            let all_answered = !route.finished.is_empty() && route.finished.iter().all(|(_, _, error)| error.is_none());
            let claims = route.found.iter().any(|p| p.source > RouterKind::Mdns);
            if (claims || (route.found.is_empty() && all_answered))
                && self.known.learn(*route.cid.hash(), &route.found, now)
            {
                self.tally.over_bound += 1;
            }
        }
        let sessions: Vec<SessionId> = route.sessions.iter().copied().collect();
        self.dirty.extend(sessions);
    }

    pub(super) fn route_done(&self, route: Option<RouteId>) -> bool {
        route.and_then(|id| self.routes.get(&id)).is_none_or(|route| route.state == RouteState::Done)
    }

    /// How many routers could not say whether somebody has it.
    pub(super) fn routers_failed(&self, route: Option<RouteId>) -> u32 {
        let finished = route.and_then(|id| self.routes.get(&id)).map(|route| route.finished.as_slice());
        finished.unwrap_or_default().iter().filter(|(_, _, error)| error.is_some()).count() as u32
    }

    fn found(&mut self, id: SessionId, provider: Provider) {
        let Provider { peer, addrs, source, .. } = provider;
        // Those that are named for every CID alike have claimed nothing.
        let has = match source {
            RouterKind::Configured | RouterKind::Connected | RouterKind::Mdns => Has::Unknown,
            RouterKind::Cache | RouterKind::Delegated | RouterKind::Dht => Has::Claimed,
        };
        self.candidate(id, peer, addrs, source, has);
        let standing = self.ledger.get(&peer);
        let (rtt, rate) = (standing.and_then(|s| s.min_rtt), standing.and_then(|s| s.max_rate(s_now(standing))));
        self.step(id, Step::ProviderFound { peer, router: source, rtt, rate });
        if let Some(transport) = self.transport(&peer) {
            self.step(id, Step::Connected { peer, transport, dial: None });
        }
    }

    /// Dials what is not connected yet, the most direct sources first. The standard policy dials one at a time.
    pub(super) fn dial(&mut self, id: SessionId, now: Time) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.wants.is_empty() {
            return;
        }
        let dialing = session.candidates.values().filter(|c| c.link == Link::Dialing).count();
        let mut known: Vec<(RouterKind, u32, PeerId)> = session
            .candidates
            .iter()
            .filter(|(_, c)| c.link == Link::Known && !c.quarantined && c.dials < MAX_DIALS)
            .map(|(peer, c)| (c.source, c.order, *peer))
            .collect();
        known.sort();
        let limit = match session.policy {
            Policy::Optimized => self.tuning.session_dials,
            Policy::Standard if self.standard_provider(id).is_some() => 0,
            Policy::Standard => 1,
        };
        for (source, _, peer) in known.into_iter().take(limit.saturating_sub(dialing)) {
            if self.dials.len() >= self.tuning.total_dials {
                return;
            }
            let under_way = self.dials.contains_key(&peer);
            let Some(candidate) = self.sessions.get_mut(&id).and_then(|s| s.candidates.get_mut(&peer)) else { return };
            candidate.link = Link::Dialing;
            candidate.dials += 1;
            let addrs = candidate.addrs.clone();
            self.step(id, Step::DialStarted { peer });
            if !under_way {
                self.dials.insert(peer, now);
                let trusted = matches!(source, RouterKind::Configured | RouterKind::Mdns);
                self.out.push(Action::Connect { peer, addrs, trusted });
            }
        }
    }

    /// Asks connected peers of which nothing is known whether they have what is wanted, each once.
    pub(super) fn probe(&mut self, id: SessionId, now: Time) {
        let Some(session) = self.sessions.get(&id) else { return };
        let Some(want) = session.wants.first().copied() else { return };
        if session.policy == Policy::Standard || session.probes >= self.tuning.broadcast {
            return;
        }
        let room = self.tuning.broadcast - session.probes;
        let unknown: Vec<PeerId> = session
            .candidates
            .iter()
            .filter(|(_, c)| c.usable() && c.has == Has::Unknown && !c.probed && c.asked_at.is_none())
            .map(|(peer, _)| *peer)
            .take(room)
            .collect();
        for peer in unknown {
            self.inquire(id, want, peer, now);
        }
    }

    pub(super) fn inquire(&mut self, id: SessionId, want: WantId, peer: PeerId, now: Time) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(candidate) = session.candidates.get_mut(&peer)
        {
            session.probes += usize::from(!candidate.probed);
            candidate.probed = true;
        }
        let open = self.wants.get(&want).is_some_and(|s| !s.asked.contains(&peer) && !s.excluded.contains_key(&peer));
        if open {
            self.ask(want, peer, WantKind::Have, now);
        }
    }
}

fn s_now(standing: Option<&super::super::ledger::Standing>) -> Time {
    standing.map(|s| s.used_at()).unwrap_or_default()
}
