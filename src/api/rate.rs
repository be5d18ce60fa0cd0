//! Rate limits of the admin listener: for each client address (IPv6: its /64) and each stored token, separately for reads,
//! changes and expensive requests. The generic cell rate algorithm of `governor`; nothing waits, what is over is 429.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::sync::Mutex;

use super::problem::Problem;
use super::scope::Budget;
use crate::telemetry::Metrics;

/// Clients whose recent requests are remembered, for each budget; some 100 bytes each. When it is full, those that have
/// not come lately are forgotten, and if all have, further ones share one budget.
const MAX_KEYS: usize = 10_000;
/// A burst is this many seconds' worth.
const BURST_SECONDS: u32 = 4;
/// How often a full table is swept at most.
const SWEEP_SECONDS: u64 = 1;

/// Sustained requests a second of one address, and of one token; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    pub reads: u32,
    pub changes: u32,
    pub expensive: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Label {
    budget: &'static str,
    by: &'static str,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct RateLimits {
    inner: Arc<Inner>,
}

struct Inner {
    addresses: Budgets<IpAddr>,
    tokens: Budgets<u64>,
    refused: Family<Label, Counter>,
    shared: Counter,
}

struct Budgets<K: Hash + Eq + Clone> {
    reads: Option<Table<K>>,
    changes: Option<Table<K>>,
    expensive: Option<Table<K>>,
}

struct Table<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    /// Whose budget those share that find no place.
    overflow: K,
    swept: Mutex<Option<Instant>>,
    max_keys: usize,
}

impl RateLimits {
    pub fn new(rates: Rates, metrics: &Metrics) -> Self {
        let help = "Requests of the admin listener answered 429, by budget and by whose it was";
        let refused = metrics.register("api_rate_limited", help, Family::default());
        let help =
            "Requests of the admin listener counted against the shared budget because the table of clients was full";
        let shared = metrics.register("api_rate_keys_overflow", help, Counter::default());
        let addresses = Budgets::new(rates, IpAddr::V6(Ipv6Addr::UNSPECIFIED), MAX_KEYS);
        let tokens = Budgets::new(rates, 0, MAX_KEYS);
        Self { inner: Arc::new(Inner { addresses, tokens, refused, shared }) }
    }

    pub(super) fn check_address(&self, address: IpAddr, budget: Budget) -> Result<(), Problem> {
        self.check(&self.inner.addresses, network(address), budget, "address")
    }

    pub(super) fn check_token(&self, id: u64, budget: Budget) -> Result<(), Problem> {
        self.check(&self.inner.tokens, id, budget, "token")
    }

    fn check<K: Hash + Eq + Clone>(
        &self,
        budgets: &Budgets<K>,
        key: K,
        budget: Budget,
        by: &'static str,
    ) -> Result<(), Problem> {
        let Some(table) = budgets.table(budget) else { return Ok(()) };
        let Err(seconds) = table.check(key, &self.inner.shared) else { return Ok(()) };
        let name = match budget {
            Budget::Read => "reads",
            Budget::Write => "changes",
            Budget::Expensive => "expensive requests",
        };
        self.inner.refused.get_or_create(&Label { budget: name, by }).inc();
        let detail = format!("this {by} has used up its budget of {name}; [limits] api-*-per-second sets it");
        Err(Problem::too_many(detail, seconds))
    }
}

impl<K: Hash + Eq + Clone> Budgets<K> {
    fn new(rates: Rates, overflow: K, max_keys: usize) -> Self {
        let table = |rate: u32| {
            let rate = NonZeroU32::new(rate)?;
            let quota = Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST));
            Some(Table {
                limiter: DefaultKeyedRateLimiter::keyed(quota),
                clock: DefaultClock::default(),
                overflow: overflow.clone(),
                swept: Mutex::new(None),
                max_keys,
            })
        };
        Self { reads: table(rates.reads), changes: table(rates.changes), expensive: table(rates.expensive) }
    }

    fn table(&self, budget: Budget) -> Option<&Table<K>> {
        match budget {
            Budget::Read => self.reads.as_ref(),
            Budget::Write => self.changes.as_ref(),
            Budget::Expensive => self.expensive.as_ref(),
        }
    }
}

const BURST: NonZeroU32 = match NonZeroU32::new(BURST_SECONDS) {
    Some(seconds) => seconds,
    None => NonZeroU32::MIN,
};

impl<K: Hash + Eq + Clone> Table<K> {
    /// `Err`: whole seconds until the next request is taken.
    fn check(&self, key: K, shared: &Counter) -> Result<(), u64> {
        let key = if self.has_room() {
            key
        } else {
            shared.inc();
            self.overflow.clone()
        };
        self.limiter.check_key(&key).map(drop).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
        })
    }

    fn has_room(&self) -> bool {
        if self.limiter.len() < self.max_keys {
            return true;
        }
        let mut swept = self.swept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if swept.is_none_or(|at| at.elapsed().as_secs() >= SWEEP_SECONDS) {
            self.limiter.retain_recent();
            *swept = Some(Instant::now());
        }
        self.limiter.len() < self.max_keys
    }
}

/// An IPv4 address, or the /64 of an IPv6 one: a household has that many.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn a_burst_is_taken_then_refused_with_a_wait_and_budgets_do_not_touch_each_other() {
        let metrics = Metrics::new();
        let limits = RateLimits::new(Rates { reads: 1, changes: 1, expensive: 0 }, &metrics);
        let taken = (0..20).filter(|_| limits.check_address(address(1), Budget::Read).is_ok()).count();
        assert!((4..=5).contains(&taken), "{taken}");
        assert!(limits.check_address(address(2), Budget::Read).is_ok(), "another client");
        assert!(limits.check_address(address(1), Budget::Write).is_ok(), "another budget");
        assert!(limits.check_token(7, Budget::Read).is_ok(), "a token has its own");
        assert!((0..1_000).all(|_| limits.check_address(address(1), Budget::Expensive).is_ok()), "0 is no limit");
        assert!(metrics.encode().contains("tidegate_api_rate_limited_total{budget=\"reads\",by=\"address\"} 1"));
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let limits = RateLimits::new(Rates { reads: 1, changes: 0, expensive: 0 }, &Metrics::new());
        let within = |n: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n));
        let taken = (0..100).filter(|n| limits.check_address(within(*n), Budget::Read).is_ok()).count();
        assert!(taken <= 5, "{taken}");
        assert_eq!(network("::ffff:1.2.3.4".parse().unwrap()), "1.2.3.4".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_table_of_clients_is_bounded_and_says_when_it_is_full() {
        let budgets = Budgets::new(Rates { reads: 1, changes: 0, expensive: 0 }, 0_u64, 50);
        let table = budgets.table(Budget::Read).unwrap();
        let shared = Counter::default();
        for key in 1..1_000 {
            let _ = table.check(key, &shared);
        }
        assert!(table.limiter.len() <= 51, "{}", table.limiter.len());
        assert!(shared.get() > 900);
    }
}
