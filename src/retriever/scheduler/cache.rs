//! What searches found lately: who has a CID, or that nobody was named for it. Bounded, and forgotten with time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Time;
use crate::ipld::Multihash;
use crate::routing::{Provider, RouterKind};

/// CIDs that are remembered; the oldest answer is forgotten first.
const MAX_CIDS: usize = 4_096;
/// Providers that are remembered of one CID.
const MAX_OF_ONE: usize = 16;
/// How long a provider is believed without asking again.
const POSITIVE: Duration = Duration::from_secs(600);
/// How long no router is asked again for what all of them answered with nothing. Short: somebody may just be providing
/// it, and connected peers are asked all the same.
pub const NEGATIVE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Default)]
pub struct ProviderCache {
    answers: HashMap<Multihash, Answer>,
    /// Oldest first; may name some that were renewed or are gone.
    order: VecDeque<(Multihash, Time)>,
}

#[derive(Debug)]
struct Answer {
    at: Time,
    providers: Vec<Provider>,
}

impl ProviderCache {
    /// Remembers the answer of all routers together, unless nothing can be learnt from it. Returns whether an older one had to go.
    pub fn learn(&mut self, key: Multihash, found: &[Provider], now: Time) -> bool {
        let claimed = |p: &&Provider| matches!(p.source, RouterKind::Delegated | RouterKind::Dht | RouterKind::Cache);
        let providers: Vec<Provider> = found
            .iter()
            .filter(claimed)
            .take(MAX_OF_ONE)
            .map(|p| Provider { source: RouterKind::Cache, ..p.clone() })
            .collect();
        self.answers.insert(key, Answer { at: now, providers });
        self.order.push_back((key, now));
        let mut evicted = false;
        while self.answers.len() > MAX_CIDS || self.order.len() > 2 * MAX_CIDS {
            let Some((oldest, at)) = self.order.pop_front() else { break };
            if self.answers.get(&oldest).is_some_and(|answer| answer.at == at) {
                self.answers.remove(&oldest);
                evicted = true;
            }
        }
        evicted
    }

    /// Who was found for it, as long as that is believed.
    pub fn providers(&self, key: &Multihash, now: Time) -> Vec<Provider> {
        match self.answers.get(key) {
            Some(answer) if now.saturating_sub(answer.at) < POSITIVE => answer.providers.clone(),
            _ => Vec::new(),
        }
    }

    /// Whether all routers said a moment ago that they know nobody.
    pub fn nobody(&self, key: &Multihash, now: Time) -> bool {
        self.answers.get(key).is_some_and(|a| a.providers.is_empty() && now.saturating_sub(a.at) < NEGATIVE)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    fn key(n: u64) -> Multihash {
        Multihash::wrap(0x12, &[n.to_le_bytes(); 4].concat()).unwrap()
    }

    fn provider(source: RouterKind) -> Provider {
        Provider { peer: PeerId::random(), addrs: Vec::new(), transports: Vec::new(), source }
    }

    #[test]
    fn providers_are_believed_for_a_while_and_those_named_for_everything_are_not_kept() {
        let mut cache = ProviderCache::default();
        cache.learn(key(1), &[provider(RouterKind::Dht), provider(RouterKind::Configured)], Time::ZERO);
        assert_eq!(cache.providers(&key(1), Time::from_secs(599)).len(), 1);
        assert_eq!(cache.providers(&key(1), Time::from_secs(600)).len(), 0);
        assert!(!cache.nobody(&key(1), Time::ZERO));
    }

    #[test]
    fn that_nobody_has_it_is_believed_for_a_moment() {
        let mut cache = ProviderCache::default();
        cache.learn(key(1), &[], Time::ZERO);
        assert!(cache.nobody(&key(1), Time::from_secs(2)));
        assert!(!cache.nobody(&key(1), NEGATIVE));
        assert!(!cache.nobody(&key(2), Time::ZERO));
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let mut cache = ProviderCache::default();
        for n in 0..3 * MAX_CIDS as u64 {
            cache.learn(key(n), &[provider(RouterKind::Dht)], Time::from_millis(n));
        }
        assert_eq!(cache.answers.len(), MAX_CIDS);
        assert!(cache.order.len() <= 2 * MAX_CIDS);
        assert!(cache.providers(&key(0), Time::from_secs(1)).is_empty());
    }
}
