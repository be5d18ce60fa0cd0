//! The estimator against an exact stack-distance oracle and against an LRU cache that is really run.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

/// SplitMix64: a seeded trace, and the evenly spread hashes that the sampler wants.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Accesses with Zipf popularity of exponent `alpha`; sizes from 1 KiB to 256 KiB, fixed by object.
fn zipf(objects: usize, accesses: usize, alpha: f64, seed: u64) -> Vec<(u64, u64)> {
    let mut cumulative = Vec::with_capacity(objects);
    let mut sum = 0.0;
    for rank in 1..=objects {
        sum += (rank as f64).powf(-alpha);
        cumulative.push(sum);
    }
    (0..accesses as u64)
        .map(|i| {
            let at = mix(seed ^ mix(i)) as f64 / u64::MAX as f64 * sum;
            let object = cumulative.partition_point(|c| *c < at).min(objects - 1) as u64;
            (object, 1_024 << (mix(object ^ 77) % 9))
        })
        .collect()
}

fn estimate(trace: &[(u64, u64)], capacity: usize) -> ReuseCurve {
    let mut sampler = Sampler::new(capacity);
    trace.iter().for_each(|(object, bytes)| sampler.access(mix(*object), *bytes));
    assert!(sampler.followed.len() <= capacity && sampler.largest.len() <= capacity);
    sampler.curve(trace.len() as u64, trace.iter().map(|(_, bytes)| bytes).sum())
}

/// Exact LRU stack distances in bytes, the block itself included; `None` for a first access.
fn distances(trace: &[(u64, u64)]) -> Vec<Option<u64>> {
    let mut tree = Fenwick::new(trace.len());
    let mut last: HashMap<u64, usize> = HashMap::new();
    let mut distances = Vec::new();
    for (time, (object, bytes)) in trace.iter().enumerate() {
        distances.push(last.insert(*object, time).map(|before| {
            tree.subtract(before, *bytes);
            tree.total() - tree.sum_to(before) + bytes
        }));
        tree.add(time, *bytes);
    }
    distances
}

fn exact(trace: &[(u64, u64)], distances: &[Option<u64>], capacity: u64) -> HitRatio {
    let hit = |distance: &Option<u64>| distance.is_some_and(|distance| distance <= capacity);
    let hits = distances.iter().filter(|d| hit(d)).count() as f64;
    let bytes = |take: bool| -> u64 {
        trace.iter().zip(distances).filter(|(_, d)| take || hit(d)).map(|((_, bytes), _)| bytes).sum()
    };
    HitRatio { by_requests: hits / trace.len() as f64, by_bytes: bytes(false) as f64 / bytes(true) as f64 }
}

const SIZES: [u64; 9] = [1 << 20, 4 << 20, 16 << 20, 64 << 20, 128 << 20, 256 << 20, 512 << 20, 1 << 30, 4 << 30];

fn worst_and_mean(trace: &[(u64, u64)], curve: &ReuseCurve) -> (f64, f64, f64) {
    let distances = distances(trace);
    let errors: Vec<(f64, f64)> = SIZES
        .iter()
        .map(|size| {
            let (is, should) = (curve.hit_ratio(*size).unwrap(), exact(trace, &distances, *size));
            ((is.by_requests - should.by_requests).abs(), (is.by_bytes - should.by_bytes).abs())
        })
        .collect();
    let worst = errors.iter().map(|e| e.0).fold(0.0, f64::max);
    let mean = errors.iter().map(|e| e.0).sum::<f64>() / errors.len() as f64;
    (worst, mean, errors.iter().map(|e| e.1).fold(0.0, f64::max))
}

#[test]
fn without_sampling_the_curve_is_the_oracles_to_the_width_of_a_bucket() {
    for alpha in [0.6, 0.9, 1.2] {
        let trace = zipf(3_000, 60_000, alpha, 1);
        let (worst, mean, bytes) = worst_and_mean(&trace, &estimate(&trace, 4_096));
        assert!(worst < 0.01 && mean < 0.004 && bytes < 0.01, "alpha {alpha}: {worst} {mean} {bytes}");
    }
}

#[test]
fn a_thirtieth_of_the_blocks_gives_the_oracles_curve_within_six_hundredths_on_zipf_traces() {
    for (alpha, seed) in [(0.6, 2), (0.8, 3), (0.9, 4), (1.0, 5)] {
        let trace = zipf(60_000, 300_000, alpha, seed);
        let curve = estimate(&trace, 2_048);
        assert!(curve.sample_rate < 0.08, "{}", curve.sample_rate);
        let (worst, mean, bytes) = worst_and_mean(&trace, &curve);
        assert!(worst < 0.06 && mean < 0.02 && bytes < 0.15, "alpha {alpha}: {worst} {mean} {bytes}");
    }
}

#[test]
fn the_products_bound_of_blocks_gives_the_oracles_curve_within_five_hundredths_and_two_on_average() {
    for (alpha, seed) in [(0.7, 12), (0.9, 14)] {
        let trace = zipf(100_000, 400_000, alpha, seed);
        let curve = estimate(&trace, SAMPLED_BLOCKS);
        assert!(curve.sample_rate < 0.2, "{}", curve.sample_rate);
        let (worst, mean, bytes) = worst_and_mean(&trace, &curve);
        assert!(worst < 0.05 && mean < 0.02 && bytes < 0.06, "alpha {alpha}: {worst} {mean} {bytes}");
    }
}

#[test]
fn an_lru_cache_that_is_really_run_hits_what_the_curve_says() {
    let trace = zipf(3_000, 60_000, 0.9, 9);
    let curve = estimate(&trace, 4_096);
    for capacity in [4_u64 << 20, 32 << 20, 128 << 20] {
        let (mut by_time, mut time_of) = (BTreeMap::new(), HashMap::new());
        let (mut used, mut hits) = (0, 0);
        for (time, (object, bytes)) in trace.iter().enumerate() {
            match time_of.insert(*object, time) {
                Some(before) => {
                    hits += 1;
                    by_time.remove(&before);
                }
                None => used += bytes,
            }
            by_time.insert(time, (*object, *bytes));
            while used > capacity {
                let (_, (object, bytes)) = by_time.pop_first().unwrap();
                time_of.remove(&object);
                used -= bytes;
            }
        }
        let (ran, said) = (f64::from(hits) / trace.len() as f64, curve.hit_ratio(capacity).unwrap().by_requests);
        assert!((ran - said).abs() < 0.02, "{capacity}: {ran} and {said}");
    }
}

#[test]
fn under_the_least_number_of_accesses_nothing_is_said() {
    let trace = zipf(50, MIN_SAMPLED as usize - 1, 0.9, 1);
    let curve = estimate(&trace, 64);
    assert_eq!((curve.hit_ratio(1 << 30), curve.saturation()), (None, None));
    assert_eq!(Sampler::new(8).curve(0, 0).hit_ratio(1), None);
}

#[test]
fn a_loop_larger_than_the_cache_never_hits_and_one_that_fits_always_does() {
    let trace: Vec<(u64, u64)> = (0..20_000).map(|i| (i % 1_000, 65_536)).collect();
    let curve = estimate(&trace, 2_048);
    assert!(curve.hit_ratio(32 << 20).unwrap().by_requests < 0.001);
    let fits = curve.hit_ratio(128 << 20).unwrap();
    assert!((fits.by_requests - 0.95).abs() < 0.001 && (fits.by_bytes - 0.95).abs() < 0.001, "{fits:?}");
    let saturation = curve.saturation().unwrap();
    assert!((60 << 20..75 << 20).contains(&saturation), "{saturation}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_larger_cache_never_hits_less_and_ratios_are_shares(
        accesses in proptest::collection::vec((0_u64..300, 1_u64..2_000_000), 500..1_500), capacity in 1_usize..200,
    ) {
        let mut sampler = Sampler::new(capacity);
        accesses.iter().for_each(|(object, bytes)| sampler.access(mix(*object), *bytes));
        let curve = sampler.curve(accesses.len() as u64, accesses.iter().map(|a| a.1).sum());
        prop_assert!(curve.sampled_blocks <= capacity as u64);
        if curve.has_enough() {
            let ratios: Vec<f64> = (0..45).map(|e| curve.hit_ratio(1 << e).unwrap().by_requests).collect();
            prop_assert!(ratios.iter().all(|r| (0.0..=1.0).contains(r)), "{:?}", ratios);
            prop_assert!(ratios[10..].windows(2).all(|w| w[0] <= w[1] + 1e-9), "{:?}", ratios);
        }
    }
}
