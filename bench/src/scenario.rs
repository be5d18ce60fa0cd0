//! What is measured: links, contents, states (RETRIEVAL.md §5.3 and §5.4), as data.

use crate::bound;
use crate::net::link::Loss;
use crate::net::star::LinkSpec;

/// The access link of the gateway, Mbit/s, where a set has one.
pub const ACCESS_MBIT: f64 = 300.0;

/// A set of links, one a provider.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSet {
    pub name: String,
    pub links: Vec<LinkSpec>,
    /// The shared link in front of the gateway, Mbit/s.
    pub access_mbit: Option<f64>,
}

impl LinkSet {
    /// A, D, E and W of RETRIEVAL.md §5.3.
    pub fn named(name: &str) -> Option<Self> {
        let (links, access_mbit) = match name {
            "A" => (vec![LinkSpec::new(100.0, 50.0)], None),
            "W" => (vec![LinkSpec::new(500.0, 100.0)], None),
            "D" => (
                vec![
                    LinkSpec::new(100.0, 20.0),
                    LinkSpec::new(50.0, 60.0),
                    LinkSpec::new(20.0, 100.0),
                    LinkSpec::new(5.0, 150.0),
                ],
                Some(ACCESS_MBIT),
            ),
            "E" => (vec![LinkSpec::new(50.0, 40.0); 4], Some(ACCESS_MBIT)),
            _ => return None,
        };
        Some(Self { name: name.to_owned(), links, access_mbit })
    }

    /// A set that nobody tuned for: 1 to 6 peers, 5 to 200 Mbit/s, 10 to 120 ms, up to 0.3 % loss, together at most
    /// 300 Mbit/s.
    pub fn random(seed: u64) -> Self {
        use rand::rngs::SmallRng;
        use rand::{RngExt, SeedableRng};
        let mut rng = SmallRng::seed_from_u64(seed);
        loop {
            let links: Vec<LinkSpec> = (0..rng.random_range(1..=6))
                .map(|_| LinkSpec {
                    // Even in the logarithm: slow links are as common as fast ones.
                    mbit: (rng.random_range(5f64.ln()..200f64.ln())).exp(),
                    rtt_ms: rng.random_range(10.0..120.0),
                    jitter_ms: 0.0,
                    loss: rng.random_range(0.0..0.003),
                })
                .collect();
            if links.iter().map(|link| link.mbit).sum::<f64>() <= ACCESS_MBIT {
                return Self { name: format!("R{seed}"), links, access_mbit: Some(ACCESS_MBIT) };
            }
        }
    }

    /// T_k of a file over Bitswap, seconds.
    pub fn bound(&self, bytes: u64) -> f64 {
        bound::file(bytes, &self.links, self.access_mbit)
    }
}

/// The rows of the six-row form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Under 1 MB, connected, not cached.
    Small,
    /// 1 to 10 MB.
    Medium,
    /// Over 10 MB.
    Large,
    /// A directory of 100 files of 20 KiB, fetched by 100 GETs at once.
    Multi,
    /// No connections, no rates; providers are found by a delegated router that takes 30 ms.
    Cold,
    /// In memory, over loopback.
    Warm,
    /// Faults in the middle of a transfer.
    Robust,
}

impl Scenario {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Multi => "multi",
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Robust => "robust",
        }
    }

    /// Sizes in bytes, the gate matrix or a quick look.
    pub fn sizes(self, quick: bool) -> &'static [u64] {
        match (self, quick) {
            (Self::Small, false) => &[100_000, 900_000],
            (Self::Small, true) => &[100_000],
            (Self::Medium, _) => &[5_000_000],
            (Self::Large, false) => &[20_000_000, 50_000_000],
            (Self::Large, true) => &[20_000_000],
            (Self::Cold, false) => &[100_000, 900_000, 5_000_000],
            (Self::Cold, true) => &[100_000],
            (Self::Warm, _) => &[1_000, 100_000, 10_000_000],
            (Self::Robust, _) => &[20_000_000],
            (Self::Multi, _) => &[100 * 20_480],
        }
    }

    pub fn link_sets(self, quick: bool) -> &'static [&'static str] {
        match (self, quick) {
            (Self::Warm, _) => &[],
            (Self::Cold | Self::Robust, _) => &["D"],
            (Self::Multi, _) => &["A"],
            (Self::Small, _) => &["A", "D", "E"],
            (_, false) => &["A", "D", "E", "W"],
            (_, true) => &["A", "D"],
        }
    }
}

/// Iterations of a cell (RETRIEVAL.md §5.2), before an early stop.
pub fn iterations(bytes: u64) -> usize {
    match bytes {
        0..=200_000 => 300,
        200_001..20_000_000 => 30,
        _ => 10,
    }
}

/// A fault in the middle of a transfer over D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The fastest provider's program stops (SIGSTOP) when 30 % are there.
    Silent,
    /// The fastest provider's link is cut when 30 % are there.
    Dead,
    /// The fastest provider's link falls to 2 Mbit/s when 30 % are there.
    Degraded,
    /// Every link but the fastest loses 1 % of its packets.
    Lossy,
    /// The same share, lost in bursts of ten.
    Bursts,
    /// The fastest provider's link comes up when 10 % are there.
    Joins,
}

impl Fault {
    pub const ALL: [Self; 6] = [Self::Silent, Self::Dead, Self::Degraded, Self::Lossy, Self::Bursts, Self::Joins];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Dead => "dead",
            Self::Degraded => "degraded",
            Self::Lossy => "lossy",
            Self::Bursts => "bursts",
            Self::Joins => "joins",
        }
    }

    /// Of every link but the fastest, from the start.
    pub fn loss(self) -> Option<Loss> {
        match self {
            Self::Lossy => Some(Loss::Bernoulli(0.01)),
            // In the bad state for 1 / leave packets, and there for enter / (enter + leave) of the time.
            Self::Bursts => Some(Loss::Burst { enter: 0.00101, leave: 0.1, lose: 1.0 }),
            _ => None,
        }
    }

    /// Share of the content at which it strikes; `None`: before the start.
    pub fn at(self) -> Option<f64> {
        match self {
            Self::Silent | Self::Dead | Self::Degraded => Some(0.3),
            Self::Joins => Some(0.1),
            Self::Lossy | Self::Bursts => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_sets_are_drawn_from_their_seed_and_within_their_ranges() {
        for seed in 0..200 {
            let set = LinkSet::random(seed);
            assert_eq!(set, LinkSet::random(seed));
            assert!((1..=6).contains(&set.links.len()));
            for link in &set.links {
                assert!((5.0..=200.0).contains(&link.mbit) && (10.0..=120.0).contains(&link.rtt_ms), "{link:?}");
                assert!((0.0..=0.003).contains(&link.loss), "{link:?}");
            }
            assert!(set.links.iter().map(|link| link.mbit).sum::<f64>() <= ACCESS_MBIT);
        }
    }

    #[test]
    fn every_scenario_names_sets_that_exist() {
        use clap::ValueEnum;
        for scenario in Scenario::value_variants() {
            for quick in [false, true] {
                assert!(scenario.link_sets(quick).iter().all(|name| LinkSet::named(name).is_some()));
                assert!(!scenario.sizes(quick).is_empty());
            }
        }
    }
}
