//! What is measured: links, contents, states (RETRIEVAL.md §5.3 and §5.4), as data.

use crate::adversary::Kind;
use crate::bound;
use crate::net::link::Loss;
use crate::net::star::LinkSpec;

/// The access link of the gateway, Mbit/s, where a set has one.
pub const ACCESS_MBIT: f64 = 300.0;

/// Who is at the end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A program that has the contents, connected before the clock starts.
    Provider,
    /// One that connects to the contender in the middle of a transfer.
    Late,
    /// A peer that misbehaves.
    Adversary(Kind),
    /// Nobody: packets to it are lost.
    Dead,
}

/// A set of links, one a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSet {
    pub name: String,
    pub links: Vec<LinkSpec>,
    pub ends: Vec<End>,
    /// The shared link in front of the gateway, Mbit/s.
    pub access_mbit: Option<f64>,
}

const D: [LinkSpec; 4] =
    [LinkSpec::new(100.0, 20.0), LinkSpec::new(50.0, 60.0), LinkSpec::new(20.0, 100.0), LinkSpec::new(5.0, 150.0)];

impl LinkSet {
    fn of_providers(name: &str, links: &[LinkSpec], access_mbit: Option<f64>) -> Self {
        let ends = vec![End::Provider; links.len()];
        Self { name: name.to_owned(), links: links.to_vec(), ends, access_mbit }
    }

    fn with(mut self, end: End, link: LinkSpec) -> Self {
        self.links.push(link);
        self.ends.push(end);
        self
    }

    /// A, D, E and W of RETRIEVAL.md §5.3; D+ with its three bad peers; `D+KIND`: D and one bad peer at 100/10, nearer
    /// than all others; `Dcorrupt`: D whose fastest peer is corrupt; `D-P1`: D without that peer; `Dlate`: D whose
    /// fastest peer comes later.
    pub fn named(name: &str) -> Option<Self> {
        let d = || Self::of_providers(name, &D, Some(ACCESS_MBIT));
        let ends = |first: End| Self { ends: vec![first, End::Provider, End::Provider, End::Provider], ..d() };
        Some(match name {
            "A" => Self::of_providers(name, &[LinkSpec::new(100.0, 50.0)], None),
            "W" => Self::of_providers(name, &[LinkSpec::new(500.0, 100.0)], None),
            "D" => d(),
            "E" => Self::of_providers(name, &[LinkSpec::new(50.0, 40.0); 4], Some(ACCESS_MBIT)),
            "D+" => d()
                .with(End::Adversary(Kind::Corrupt), LinkSpec::new(50.0, 40.0))
                .with(End::Adversary(Kind::Staller), LinkSpec::new(100.0, 10.0))
                .with(End::Dead, LinkSpec::new(50.0, 40.0)),
            "D+dead" => d().with(End::Dead, LinkSpec::new(100.0, 10.0)),
            "Dcorrupt" => ends(End::Adversary(Kind::Corrupt)),
            "Dlate" => ends(End::Late),
            "D-P1" => Self::of_providers(name, &D[1..], Some(ACCESS_MBIT)),
            _ => {
                let kind = name.strip_prefix("D+")?;
                let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
                d().with(End::Adversary(kind), LinkSpec::new(100.0, 10.0))
            }
        })
    }

    /// A set that nobody tuned for: 1 to 6 peers, 5 to 200 Mbit/s, 10 to 120 ms, up to 0.3 % loss, together at most
    /// 300 Mbit/s.
    pub fn random(seed: u64, place: u64) -> Self {
        use rand::rngs::SmallRng;
        use rand::{RngExt, SeedableRng};
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(place));
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
                return Self::of_providers(&format!("R{seed}.{place}"), &links, Some(ACCESS_MBIT));
            }
        }
    }

    /// Links of those who have the contents.
    pub fn honest(&self) -> Vec<LinkSpec> {
        let honest = |end: &End| matches!(end, End::Provider | End::Late);
        self.links.iter().zip(&self.ends).filter(|(_, end)| honest(end)).map(|(link, _)| *link).collect()
    }

    /// Places of links to nobody.
    pub fn dead(&self) -> Vec<usize> {
        (0..self.ends.len()).filter(|place| self.ends[*place] == End::Dead).collect()
    }

    /// Whether somebody misbehaves, is missing or is late: contenders are then started afresh for each fetch.
    pub fn is_adverse(&self) -> bool {
        self.ends.iter().any(|end| *end != End::Provider)
    }

    /// T_k of a file over Bitswap, seconds.
    pub fn bound(&self, bytes: u64) -> f64 {
        if self.ends.contains(&End::Late) {
            return Fault::Joins.bound(self, bytes);
        }
        bound::file(bytes, &self.honest(), self.access_mbit)
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
    /// Faults in the middle of a transfer, and peers that misbehave.
    Robust,
    /// Ten sets of links that nobody tuned for, drawn from the seed.
    Unseen,
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
            Self::Unseen => "unseen",
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
            (Self::Robust, false) => &[20_000_000],
            (Self::Robust, true) => &[5_000_000],
            (Self::Unseen, false) => &[5_000_000, 20_000_000],
            (Self::Unseen, true) => &[5_000_000],
            (Self::Multi, _) => &[100 * 20_480],
        }
    }

    /// Names of link sets; those of `Unseen` are drawn, `Warm` has none.
    pub fn link_sets(self, quick: bool) -> &'static [&'static str] {
        match (self, quick) {
            (Self::Warm | Self::Unseen, _) => &[],
            (Self::Cold, _) => &["D"],
            (Self::Robust, false) => &[
                "D",
                "D+",
                "D+corrupt",
                "D+staller",
                "D+liar",
                "D+dripper",
                "D+duplicator",
                "D+dead",
                "Dcorrupt",
                "D-P1",
                "Dlate",
            ],
            (Self::Robust, true) => &["D", "D+"],
            (Self::Multi, false) => &["A", "D"],
            (Self::Multi, true) => &["A"],
            (Self::Small, false) => &["A", "D", "E"],
            (_, false) => &["A", "D", "E", "W"],
            (_, true) => &["A", "D"],
        }
    }
}

/// What the degrader's link falls to.
pub const DEGRADED_MBIT: f64 = 2.0;

/// Iterations of a cell (RETRIEVAL.md §5.2), before an early stop.
pub fn iterations(bytes: u64) -> usize {
    match bytes {
        0..=200_000 => 300,
        200_001..20_000_000 => 30,
        _ => 10,
    }
}

/// A fault in the middle of a transfer over D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The fastest provider's link stalls when 30 % are there: packets wait, none is lost.
    Silent,
    /// The fastest provider's link is cut when 30 % are there.
    Dead,
    /// The fastest provider's link falls to 2 Mbit/s when 30 % are there.
    Degraded,
    /// Every link but the fastest loses 1 % of its packets.
    Lossy,
    /// The same share, lost in bursts of ten.
    Bursts,
    /// The fastest provider's link is stalled at first and comes to life when 10 % are there.
    Joins,
}

impl Fault {
    /// Losses come last: the senders' windows stay small for long after them.
    pub const ALL: [Self; 6] = [Self::Silent, Self::Dead, Self::Degraded, Self::Joins, Self::Lossy, Self::Bursts];

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

    /// T_k with this fault, seconds; losses are left out.
    pub fn bound(self, set: &LinkSet, bytes: u64) -> f64 {
        let (all, access) = (set.honest(), set.access_mbit);
        let others = all.get(1..).unwrap_or_default();
        match (self, self.at()) {
            (Self::Silent | Self::Dead, Some(share)) => bound::changed(bytes, share, &all, others, access),
            (Self::Degraded, Some(share)) => {
                let mut after = all.clone();
                after[0].mbit = DEGRADED_MBIT;
                bound::changed(bytes, share, &all, &after, access)
            }
            (Self::Joins, Some(share)) => bound::changed(bytes, share, others, &all, access),
            _ => bound::file(bytes, &all, access),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_sets_are_drawn_from_their_seed_and_within_their_ranges() {
        for place in 0..200 {
            let set = LinkSet::random(7, place);
            assert_eq!(set, LinkSet::random(7, place));
            assert_ne!(set.links, LinkSet::random(8, place).links);
            assert!((1..=6).contains(&set.links.len()));
            for link in &set.links {
                assert!((5.0..=200.0).contains(&link.mbit) && (10.0..=120.0).contains(&link.rtt_ms), "{link:?}");
                assert!((0.0..=0.003).contains(&link.loss), "{link:?}");
            }
            assert!(set.links.iter().map(|link| link.mbit).sum::<f64>() <= ACCESS_MBIT);
        }
    }

    #[test]
    fn bad_peers_are_no_part_of_the_bound() {
        let bound = |name: &str| LinkSet::named(name).unwrap().bound(20_000_000);
        assert_eq!(bound("D+"), bound("D"));
        assert_eq!(bound("Dcorrupt"), bound("D-P1"));
        assert!(bound("Dlate") > bound("D") && bound("Dlate") < bound("D-P1"));
        assert_eq!(LinkSet::named("D+nobody"), None);
    }

    #[test]
    fn every_scenario_names_sets_that_exist() {
        use clap::ValueEnum;
        for scenario in Scenario::value_variants() {
            for quick in [false, true] {
                for name in scenario.link_sets(quick) {
                    let set = LinkSet::named(name).unwrap();
                    assert_eq!((set.name.as_str(), set.links.len()), (*name, set.ends.len()));
                    assert!(!set.honest().is_empty() && set.bound(1_000_000) > 0.0);
                }
                assert!(!scenario.sizes(quick).is_empty());
            }
        }
    }
}
