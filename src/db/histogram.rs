//! A histogram of times with logarithmic buckets: 8 steps a doubling, so a quantile is off by at most one sixteenth.
//!
//! Bucket layout as in HdrHistogram with three bits of mantissa; times are whole microseconds.

use std::fmt::Write as _;
use std::time::Duration;

const STEPS: u64 = 8;
const STEP_BITS: u32 = 3;

/// Buckets of 64-bit microseconds.
const BUCKETS: usize = 496;

/// At most 496 counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By bucket; the last one is not zero.
    counts: Vec<u64>,
}

impl Histogram {
    pub fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.add(bucket_of(us).into(), 1);
    }

    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The time under which the share `q` (0..=1) of the recorded times lies, in milliseconds; `None` when empty.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        // The nearest-rank definition, then linear within the bucket.
        let rank = (q.clamp(0.0, 1.0) * count as f64).ceil().max(1.0);
        let mut below = 0.0;
        for (bucket, n) in self.filled() {
            let n = n as f64;
            if below + n >= rank {
                let (low, high) = bounds_of(bucket);
                let within = (rank - below - 0.5) / n;
                return Some((low as f64 + within * (high - low) as f64) / 1e3);
            }
            below += n;
        }
        None
    }

    /// `bucket:count` pairs with a space between, ascending.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for (bucket, count) in self.filled() {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{bucket}:{count}");
        }
        text
    }

    /// Reads [`Histogram::encode`]; what is not understood (another version's) is left out.
    pub fn decode(text: &str) -> Self {
        let mut histogram = Self::default();
        for (bucket, count) in text.split(' ').filter_map(|pair| pair.split_once(':')) {
            if let (Ok(bucket), Ok(count)) = (bucket.parse(), count.parse()) {
                histogram.add(bucket, count);
            }
        }
        histogram
    }

    fn add(&mut self, bucket: usize, more: u64) {
        if bucket >= BUCKETS || more == 0 {
            return;
        }
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(more);
    }

    /// Buckets that hold something, ascending.
    fn filled(&self) -> impl Iterator<Item = (u16, u64)> {
        (0..).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }
}

fn bucket_of(us: u64) -> u16 {
    if us < STEPS {
        return us as u16;
    }
    let exponent = 63 - us.leading_zeros();
    let step = (us >> (exponent - STEP_BITS)) & (STEPS - 1);
    (u64::from(exponent - STEP_BITS + 1) * STEPS + step) as u16
}

/// The first value of the bucket and the first after it.
fn bounds_of(bucket: u16) -> (u64, u64) {
    let bucket = u64::from(bucket);
    if bucket < STEPS {
        return (bucket, bucket + 1);
    }
    let shift = (bucket / STEPS - 1).min(60) as u32;
    let low = (STEPS + bucket % STEPS) << shift;
    (low, low.saturating_add(1 << shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_its_bucket() {
        for shift in 0..63 {
            for us in [(1u64 << shift) - 1, 1 << shift, (1 << shift) + (1 << shift) / 3] {
                let (low, high) = bounds_of(bucket_of(us));
                assert!(low <= us && us < high, "{us} not in {low}..{high}");
                assert!(us < 16 || (high - low) as f64 / low as f64 <= 0.125);
            }
        }
    }

    #[test]
    fn quantiles_are_within_a_sixteenth_of_the_exact_ones() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        for (q, exact) in [(0.5, 500.0), (0.95, 950.0), (0.01, 10.0), (1.0, 1000.0)] {
            let got = histogram.quantile_ms(q).unwrap();
            assert!((got - exact).abs() / exact < 1.0 / 16.0, "{q}: {got}");
        }
        assert_eq!(Histogram::default().quantile_ms(0.5), None);
    }

    #[test]
    fn the_text_form_reads_back() {
        let mut histogram = Histogram::default();
        [0, 3, 3, 900, 123_456_789].into_iter().for_each(|us| histogram.record(Duration::from_micros(us)));
        assert_eq!(Histogram::decode(&histogram.encode()), histogram);
        for nothing in ["", "496:1", "99999999999:1", "7:0", "x:1 :"] {
            assert_eq!(Histogram::decode(nothing), Histogram::default(), "{nothing}");
        }
        let mut longest = Histogram::default();
        longest.record(Duration::MAX);
        assert_eq!((longest.encode().as_str(), longest.count()), ("495:1", 1));
    }
}
