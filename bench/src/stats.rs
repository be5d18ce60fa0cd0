//! Percentiles and bootstrap intervals.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Resamples of one interval.
const RESAMPLES: usize = 2_000;

/// The value below which `share` of `sorted` lies: linear between neighbours (Hyndman and Fan 1996, type 7).
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// What is told of a sample.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Summary {
    pub n: usize,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
    /// 95 % percentile-bootstrap interval of the median.
    pub low: f64,
    pub high: f64,
}

impl Summary {
    /// `None`: there is nothing to tell of.
    pub fn of(values: &[f64], seed: u64) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share| percentile(&sorted, share);
        let (low, high) = median_interval(&sorted, seed)?;
        Some(Self {
            n: sorted.len(),
            p50: at(0.5)?,
            p95: at(0.95)?,
            p99: at(0.99)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            low,
            high,
        })
    }

    /// Half the width of the median's interval, as a share of the median.
    pub fn precision(&self) -> f64 {
        (self.high - self.low) / 2.0 / self.p50
    }
}

fn median_interval(sorted: &[f64], seed: u64) -> Option<(f64, f64)> {
    if sorted.is_empty() {
        return None;
    }
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut sample: Vec<f64> = (0..sorted.len()).map(|_| sorted[rng.random_range(0..sorted.len())]).collect();
            sample.sort_by(f64::total_cmp);
            percentile(&sample, 0.5)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Some((percentile(&medians, 0.025)?, percentile(&medians, 0.975)?))
}

/// Jain's fairness index of shares: 1 when all are equal, 1/n when one has all (Jain, Chiu, Hawe 1984).
pub fn jain(shares: &[f64]) -> Option<f64> {
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| shares.iter().sum::<f64>().powi(2) / (shares.len() as f64 * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!([0.0, 0.5, 0.75, 1.0].map(|share| percentile(&sorted, share)), [1.0, 2.5, 3.25, 4.0].map(Some));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_n() {
        let values = |n: u32| (0..n).map(|k| f64::from(k * 7919 % 1000)).collect::<Vec<_>>();
        let (few, many) = (Summary::of(&values(10), 1).unwrap(), Summary::of(&values(1000), 1).unwrap());
        assert!(few.low <= few.p50 && few.p50 <= few.high && few.precision() > many.precision());
        assert_eq!(Summary::of(&[], 1), None);
    }

    #[test]
    fn fairness_is_one_for_equals_and_a_share_for_one_winner() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), Some(0.25));
        assert_eq!(jain(&[]), None);
    }
}
