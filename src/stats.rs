//! L1: statistics that pages, reports and advice share. Pure; a seed makes resampling repeatable.
//!
//! Every function says nothing (`None`) where it has too little to say something.

use serde::Serialize;

/// Pairs under which nothing is said of a difference.
pub const MIN_PAIRS: usize = 20;
/// Resamples of the bootstrap.
pub const RESAMPLES: usize = 400;
/// The interval holds so much of the resampled medians.
pub const CONFIDENCE: f64 = 0.95;
/// The same rows give the same interval.
pub const SEED: u64 = 0x7469_6465_6761_7465;
/// Makes the median absolute deviation an estimate of the standard deviation of normal data (1 / Phi^-1(3/4)).
const MAD_TO_SIGMA: f64 = 1.482_602_218_505_602;

/// A median with the bounds of its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// Medians over the pairs, in the unit of what was given (milliseconds).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdict {
    pub standard: Interval,
    pub optimized: Interval,
    pub standard_p95_ms: f64,
    pub optimized_p95_ms: f64,
    /// 1 - optimised / standard: 0.5 is half the time; negative when the optimised policy is slower.
    pub faster_by: Interval,
}

/// What the two sides of a comparison have to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// The i-th of one side and the i-th of the other fetched the same thing: resampled together.
    Same,
    /// They are only alike (size class, number of providers): each side is resampled for itself.
    Alike,
}

/// The value under which the share `q` (0..=1) lies, linear between the closest ranks (Hyndman and Fan 1996, type 7).
/// `None` of nothing. Values that are not finite are left out.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    (!values.is_empty()).then(|| quantile_in_place(&mut values, q))
}

pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// `values` is not empty; it is reordered in place. A selection, not a sort: an interval asks for some thousand medians.
fn quantile_in_place(values: &mut [f64], q: f64) -> f64 {
    let position = q.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (_, low, above) = values.select_nth_unstable_by(position.floor() as usize, f64::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + (high - low) * position.fract()
}

/// Standard against optimised, `None` under [`MIN_PAIRS`] pairs. Both sides are as long as the shorter one.
pub fn compare(standard: &[f64], optimized: &[f64], pairing: Pairing, seed: u64) -> Option<Verdict> {
    let n = standard.len().min(optimized.len());
    (n >= MIN_PAIRS).then(|| judge(&standard[..n], &optimized[..n], pairing, seed))
}

/// Percentile bootstrap (Efron 1979) of both medians and of their ratio.
fn judge(standard: &[f64], optimized: &[f64], pairing: Pairing, seed: u64) -> Verdict {
    let mut random = SplitMix(seed);
    let mut resampled: [Vec<f64>; 3] = Default::default();
    let n = standard.len();
    let (mut left, mut right) = (Resample::of(standard), Resample::of(optimized));
    for _ in 0..RESAMPLES {
        for _ in 0..n {
            let at = random.below(n);
            left.draw(at);
            right.draw(match pairing {
                Pairing::Same => at,
                Pairing::Alike => random.below(n),
            });
        }
        let (a, b) = (left.take_median(), right.take_median());
        resampled[0].push(a);
        resampled[1].push(b);
        resampled[2].push(faster(a, b));
    }
    let [mut a, mut b, mut ratio] = resampled;
    let exact = |rows: &[f64], q| quantile_in_place(&mut rows.to_vec(), q);
    let (median_a, median_b) = (exact(standard, 0.5), exact(optimized, 0.5));
    Verdict {
        standard: interval(median_a, &mut a),
        optimized: interval(median_b, &mut b),
        standard_p95_ms: exact(standard, 0.95),
        optimized_p95_ms: exact(optimized, 0.95),
        faster_by: interval(faster(median_a, median_b), &mut ratio),
    }
}

/// Draws from a sample with replacement, kept as how often each rank was drawn: the median is then a walk over counts,
/// where a selection among the drawn values costs some five times as much. A page asks for thousands of these medians.
struct Resample {
    sorted: Vec<f64>,
    /// The rank of each value, by its place in the sample.
    rank: Vec<usize>,
    drawn: Vec<u32>,
    n: usize,
}

impl Resample {
    /// `sample` is not empty.
    fn of(sample: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..sample.len()).collect();
        order.sort_by(|a, b| sample[*a].total_cmp(&sample[*b]));
        let mut rank = vec![0; sample.len()];
        order.iter().enumerate().for_each(|(place, at)| rank[*at] = place);
        let sorted = order.into_iter().map(|at| sample[at]).collect();
        Self { sorted, rank, drawn: vec![0; sample.len()], n: 0 }
    }

    fn draw(&mut self, at: usize) {
        self.drawn[self.rank[at]] += 1;
        self.n += 1;
    }

    /// The median of what was drawn, linear between the two middle values of an even number; forgets the draws.
    fn take_median(&mut self) -> f64 {
        let (below, above) = ((self.n - 1) / 2, self.n / 2);
        let (mut seen, mut low) = (0, None);
        let mut median = f64::NAN;
        for (value, times) in self.sorted.iter().zip(&self.drawn) {
            seen += *times as usize;
            if low.is_none() && seen > below {
                low = Some(*value);
            }
            if seen > above {
                // `below` is not greater than `above`: it was reached here or before.
                let low = low.unwrap_or(*value);
                median = low + (*value - low) * 0.5;
                break;
            }
        }
        self.drawn.fill(0);
        self.n = 0;
        median
    }
}

/// 1 - optimised / standard; two times of zero do not differ.
fn faster(standard: f64, optimized: f64) -> f64 {
    if standard > 0.0 { 1.0 - optimized / standard } else { 0.0 }
}

/// The median of one sample with its bootstrap interval; `None` under two values.
pub fn median_interval(values: &[f64], seed: u64) -> Option<Interval> {
    let n = values.len();
    if n < 2 || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut random = SplitMix(seed);
    let mut resample = Resample::of(values);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            (0..n).for_each(|_| resample.draw(random.below(n)));
            resample.take_median()
        })
        .collect();
    Some(interval(quantile_in_place(&mut values.to_vec(), 0.5), &mut medians))
}

fn interval(median: f64, resampled: &mut [f64]) -> Interval {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Interval { median, low: quantile_in_place(resampled, tail), high: quantile_in_place(resampled, 1.0 - tail) }
}

/// Distance of `value` from the median of `others`, in robust standard deviations (Iglewicz and Hoaglin 1993).
/// `None` without spread among the others: then any difference would be infinite.
pub fn robust_z(value: f64, others: &[f64]) -> Option<f64> {
    let centre = median(others)?;
    let distances: Vec<f64> = others.iter().map(|other| (other - centre).abs()).collect();
    let sigma = median(&distances)? * MAD_TO_SIGMA;
    (sigma > 0.0 && value.is_finite()).then(|| (value - centre) / sigma)
}

/// Two-sided p of two shares being the same (pooled z test); `None` where a side has no case or all agree.
pub fn shares_differ(hits_a: u64, cases_a: u64, hits_b: u64, cases_b: u64) -> Option<f64> {
    let (a, b) = (cases_a as f64, cases_b as f64);
    if cases_a == 0 || cases_b == 0 {
        return None;
    }
    let pooled = (hits_a + hits_b) as f64 / (a + b);
    let spread = (pooled * (1.0 - pooled) * (1.0 / a + 1.0 / b)).sqrt();
    (spread > 0.0).then(|| two_sided((hits_a as f64 / a - hits_b as f64 / b) / spread))
}

/// Two-sided p of two samples coming from one distribution (Mann and Whitney 1947; normal approximation with the
/// correction for ties). `None` when a side has fewer than 8 values or all values are equal.
pub fn ranks_differ(a: &[f64], b: &[f64]) -> Option<f64> {
    const LEAST: usize = 8;
    if a.len() < LEAST || b.len() < LEAST {
        return None;
    }
    let mut all: Vec<(f64, bool)> = a.iter().map(|v| (*v, true)).chain(b.iter().map(|v| (*v, false))).collect();
    all.sort_unstable_by(|x, y| x.0.total_cmp(&y.0));
    let (mut rank_sum, mut ties, mut start) = (0.0, 0.0, 0);
    while start < all.len() {
        let end = all[start..].iter().take_while(|(value, _)| *value == all[start].0).count() + start;
        let count = (end - start) as f64;
        let rank = (start + end + 1) as f64 / 2.0;
        rank_sum += rank * all[start..end].iter().filter(|(_, of_a)| *of_a).count() as f64;
        ties += count * (count * count - 1.0);
        start = end;
    }
    let (m, n) = (a.len() as f64, b.len() as f64);
    let total = m + n;
    let u = rank_sum - m * (m + 1.0) / 2.0;
    let variance = m * n / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)));
    (variance > 0.0).then(|| two_sided((u - m * n / 2.0) / variance.sqrt()))
}

/// Two-sided tail of the normal distribution: erfc(|z| / sqrt 2) by Numerical Recipes' Chebyshev fit (relative error
/// under 1.2e-7).
fn two_sided(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    const COEFFICIENTS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let series = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| sum * t + coefficient);
    (t * (-x * x + series).exp()).clamp(0.0, 1.0)
}

/// SplitMix64 (Steele, Lea, Flood 2014): written out, so that intervals stay the same from version to version.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(start: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| start + i as f64).collect()
    }

    #[test]
    fn quantiles_are_linear_between_ranks() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), Some(2.5));
        assert_eq!(quantile(&[7.0], 0.95), Some(7.0));
        // 20 values: rank 0.95 * 19 = 18.05, so 19 + 0.05.
        assert!((quantile(&from(1.0, 20), 0.95).unwrap() - 19.05).abs() < 1e-9);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[f64::NAN, 3.0], 0.5), Some(3.0));
    }

    #[test]
    fn under_twenty_pairs_nothing_is_said() {
        assert_eq!(compare(&from(100.0, 19), &from(50.0, 500), Pairing::Alike, SEED), None);
        assert!(compare(&from(100.0, 20), &from(50.0, 20), Pairing::Alike, SEED).is_some());
    }

    #[test]
    fn medians_lie_within_their_intervals_and_the_same_rows_give_the_same_answer() {
        let (a, b) = (from(100.0, 101), from(25.0, 101));
        let judged = compare(&a, &b, Pairing::Alike, SEED).unwrap();
        assert_eq!((judged.standard.median, judged.optimized.median, judged.faster_by.median), (150.0, 75.0, 0.5));
        assert_eq!((judged.standard_p95_ms, judged.optimized_p95_ms), (195.0, 120.0));
        for interval in [judged.standard, judged.optimized, judged.faster_by] {
            assert!(interval.low < interval.median && interval.median < interval.high, "{interval:?}");
        }
        assert_eq!(compare(&a, &b, Pairing::Alike, SEED), Some(judged));
    }

    #[test]
    fn pairs_of_the_same_content_give_a_narrower_interval_than_groups() {
        // Each optimised fetch takes exactly half of its own standard one, which vary widely among each other.
        let a: Vec<f64> = (0..60).map(|i| 100.0 + f64::from((i * 37) % 60) * 20.0).collect();
        let b: Vec<f64> = a.iter().map(|ms| ms / 2.0).collect();
        let same = compare(&a, &b, Pairing::Same, SEED).unwrap().faster_by;
        let alike = compare(&a, &b, Pairing::Alike, SEED).unwrap().faster_by;
        assert_eq!((same.low, same.median, same.high), (0.5, 0.5, 0.5));
        assert!(alike.high - alike.low > 0.1, "{alike:?}");
    }

    #[test]
    fn the_interval_covers_the_true_median_about_as_often_as_it_says() {
        // 200 samples of 40 uniform values: the share of intervals that hold the true median is near 95 %.
        let mut random = SplitMix(7);
        let mut covered = 0;
        for seed in 0..200 {
            let sample: Vec<f64> = (0..40).map(|_| random.below(1_000_000) as f64).collect();
            let interval = median_interval(&sample, seed).unwrap();
            covered += usize::from(interval.low <= 500_000.0 && 500_000.0 <= interval.high);
        }
        assert!((176..=200).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn a_resample_has_the_median_of_the_values_drawn() {
        let sample = [5.0, 1.0, 9.0, 3.0, 3.0, 7.0];
        let mut random = SplitMix(11);
        for n in 1..40 {
            let (mut resample, mut drawn) = (Resample::of(&sample), Vec::new());
            for _ in 0..n {
                let at = random.below(sample.len());
                resample.draw(at);
                drawn.push(sample[at]);
            }
            assert_eq!(Some(resample.take_median()), median(&drawn), "{drawn:?}");
        }
    }

    #[test]
    fn a_robust_z_ignores_an_outlier_among_the_others() {
        // Median 3, deviations 2 1 0 1 97: MAD 1.
        let z = robust_z(6.0, &[1.0, 2.0, 3.0, 4.0, 100.0]).unwrap();
        assert!((z - 3.0 / 1.482_602).abs() < 1e-3, "{z}");
        assert_eq!(robust_z(6.0, &[3.0, 3.0, 3.0]), None);
    }

    #[test]
    fn shares_and_ranks_give_the_textbook_probabilities() {
        // 45/100 against 30/100: z = 2.19, p = 0.0285.
        assert!((shares_differ(45, 100, 30, 100).unwrap() - 0.0285).abs() < 5e-4);
        assert_eq!(shares_differ(0, 10, 0, 10), None);
        assert_eq!(shares_differ(1, 1, 0, 0), None);
        // All of ten under all of ten: U = 0, sigma = sqrt(175), z = -3.78, p = 0.000157.
        let p = ranks_differ(&from(0.0, 10), &from(100.0, 10)).unwrap();
        assert!((p - 0.000_157).abs() < 2e-6, "{p}");
        assert!(ranks_differ(&from(0.0, 10), &from(0.0, 10)).unwrap() > 0.99);
        assert_eq!(ranks_differ(&from(0.0, 7), &from(0.0, 10)), None);
        assert!((two_sided(1.959_964) - 0.05).abs() < 1e-5);
    }
}
