//! Inputs and CPU references of the workloads, in f64. `static/webgpu/workloads.js` makes the same inputs and tables.

use std::f64::consts::PI;

/// Samples a second of the audio.
pub const RATE: usize = 16_000;
/// 25 ms and 10 ms, in samples.
pub const WINDOW: usize = 400;
pub const HOP: usize = 160;
pub const FFT: usize = 512;
pub const BINS: usize = FFT / 2 + 1;
pub const MELS: usize = 80;
/// One second of audio.
pub const FRAMES: usize = 100;
/// Below it an energy counts as this, so that the logarithm is finite.
pub const FLOOR: f64 = 1e-10;

pub const HEADS: usize = 6;
pub const POSITIONS: usize = 64;
pub const WIDTH: usize = 64;

/// xorshift32 (Marsaglia 2003): one generator that is the same in Rust and in JavaScript.
#[derive(Debug, Clone)]
pub struct Noise(u32);

impl Noise {
    /// 0 is taken as 1: the generator would stay at 0.
    pub fn new(seed: u32) -> Self {
        Self(seed.max(1))
    }

    /// In -1..1.
    pub fn sample(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        f64::from(self.0) / 2_147_483_648.0 - 1.0
    }
}

/// Two tones that glide, as vowels do, and noise.
pub fn audio() -> Vec<f32> {
    let mut noise = Noise::new(20_261_123);
    (0..(FRAMES - 1) * HOP + WINDOW)
        .map(|n| {
            let t = n as f64 / RATE as f64;
            let low = 0.4 * (2.0 * PI * (220.0 + 90.0 * t) * t).sin();
            let high = 0.2 * (2.0 * PI * (1_900.0 - 400.0 * t) * t).sin();
            (low + high + 0.05 * noise.sample()) as f32
        })
        .collect()
}

/// Periodic Hann window.
pub fn window() -> Vec<f64> {
    (0..WINDOW).map(|n| 0.5 - 0.5 * (2.0 * PI * n as f64 / WINDOW as f64).cos()).collect()
}

/// What the shader reads as `tables`: the window, then cos and sin of the first half turn.
pub fn tables() -> Vec<f32> {
    let angle = |k: usize| 2.0 * PI * k as f64 / FFT as f64;
    let cos = (0..FFT / 2).map(|k| angle(k).cos());
    let sin = (0..FFT / 2).map(|k| angle(k).sin());
    window().into_iter().chain(cos).chain(sin).map(|value| value as f32).collect()
}

/// Triangles on the HTK mel scale from 0 Hz to half the sample rate: `[MELS][BINS]`.
pub fn filters() -> Vec<f32> {
    let mel = |hz: f64| 2595.0 * (1.0 + hz / 700.0).log10();
    let hz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
    let top = mel(RATE as f64 / 2.0);
    let edges: Vec<f64> = (0..MELS + 2).map(|i| hz(top * i as f64 / (MELS + 1) as f64)).collect();
    let mut filters = Vec::with_capacity(MELS * BINS);
    for band in 0..MELS {
        let (low, peak, high) = (edges[band], edges[band + 1], edges[band + 2]);
        filters.extend((0..BINS).map(|bin| {
            let f = bin as f64 * RATE as f64 / FFT as f64;
            let value = ((f - low) / (peak - low)).min((high - f) / (high - peak));
            value.max(0.0) as f32
        }));
    }
    filters
}

/// log(mel energies), `[FRAMES][MELS]`, by the definition of the discrete Fourier transform: slow, and not the shader's way.
pub fn log_mel(audio: &[f32]) -> Vec<f64> {
    let window = window();
    let filters = filters();
    let turn: Vec<(f64, f64)> = (0..FFT).map(|k| (2.0 * PI * k as f64 / FFT as f64).sin_cos()).collect();
    let mut out = Vec::with_capacity(FRAMES * MELS);
    for frame in 0..FRAMES {
        let part: Vec<f64> = (0..WINDOW).map(|n| f64::from(audio[frame * HOP + n]) * window[n]).collect();
        let power: Vec<f64> = (0..BINS)
            .map(|bin| {
                let (mut re, mut im) = (0.0, 0.0);
                for (n, sample) in part.iter().enumerate() {
                    let (sin, cos) = turn[bin * n % FFT];
                    re += sample * cos;
                    im -= sample * sin;
                }
                re * re + im * im
            })
            .collect();
        out.extend((0..MELS).map(|band| {
            let weights = &filters[band * BINS..(band + 1) * BINS];
            let energy: f64 = weights.iter().zip(&power).map(|(w, p)| f64::from(*w) * p).sum();
            energy.max(FLOOR).ln()
        }));
    }
    out
}

/// Queries, keys and values, each `[HEADS][POSITIONS][WIDTH]`.
pub fn attention_inputs() -> [Vec<f32>; 3] {
    [11, 12, 13].map(|seed| {
        let mut noise = Noise::new(seed * 7_919);
        (0..HEADS * POSITIONS * WIDTH).map(|_| noise.sample() as f32).collect()
    })
}

/// softmax(Q Kᵀ / √WIDTH) V, `[HEADS][POSITIONS][WIDTH]`.
pub fn attention(inputs: &[Vec<f32>; 3]) -> Vec<f64> {
    let [queries, keys, values] = inputs;
    let scale = 1.0 / (WIDTH as f64).sqrt();
    let mut out = Vec::with_capacity(HEADS * POSITIONS * WIDTH);
    for head in 0..HEADS {
        let row = |of: &[f32], at: usize| -> Vec<f64> {
            let start = (head * POSITIONS + at) * WIDTH;
            of[start..start + WIDTH].iter().map(|value| f64::from(*value)).collect()
        };
        for position in 0..POSITIONS {
            let query = row(queries, position);
            let scores: Vec<f64> = (0..POSITIONS)
                .map(|key| row(keys, key).iter().zip(&query).map(|(k, q)| k * q).sum::<f64>() * scale)
                .collect();
            let highest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; WIDTH];
            for (key, weight) in weights.iter().enumerate() {
                for (sum, value) in mixed.iter_mut().zip(row(values, key)) {
                    *sum += weight * value / total;
                }
            }
            out.extend(mixed);
        }
    }
    out
}

/// The greatest absolute difference; infinite when lengths differ or a value is not a number.
pub fn max_error(result: &[f32], reference: &[f64]) -> f64 {
    if result.len() != reference.len() {
        return f64::INFINITY;
    }
    result
        .iter()
        .zip(reference)
        .map(|(a, b)| (f64::from(*a) - b).abs())
        .fold(0.0, |worst: f64, error| if error.is_nan() { f64::INFINITY } else { worst.max(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An independent way to the same figures: rustfft, and filters applied to its output.
    #[test]
    fn the_log_mel_reference_agrees_with_rustfft() {
        let audio = audio();
        let ours = log_mel(&audio);
        let fft = rustfft::FftPlanner::<f64>::new().plan_fft_forward(FFT);
        let (window, filters) = (window(), filters());
        let mut worst = 0.0f64;
        for frame in [0, 1, 37, FRAMES - 1] {
            let mut buffer = vec![rustfft::num_complex::Complex::new(0.0, 0.0); FFT];
            for n in 0..WINDOW {
                buffer[n].re = f64::from(audio[frame * HOP + n]) * window[n];
            }
            fft.process(&mut buffer);
            for band in 0..MELS {
                let energy: f64 =
                    (0..BINS).map(|bin| f64::from(filters[band * BINS + bin]) * buffer[bin].norm_sqr()).sum();
                worst = worst.max((energy.max(FLOOR).ln() - ours[frame * MELS + band]).abs());
            }
        }
        assert!(worst < 1e-9, "{worst}");
    }

    /// The shader's own butterflies, run here in f32 with the tables it gets, stay within the stated tolerance.
    #[test]
    fn the_shader_s_fft_in_f32_stays_within_the_tolerance() {
        let (audio, tables, filters) = (audio(), tables(), filters());
        let reference = log_mel(&audio);
        let mut out = Vec::new();
        for frame in 0..FRAMES {
            let (mut re, mut im) = (vec![0f32; FFT], vec![0f32; FFT]);
            for (i, slot) in re.iter_mut().enumerate() {
                let from = (i as u32).reverse_bits() as usize >> 23;
                *slot = if from < WINDOW { audio[frame * HOP + from] * tables[from] } else { 0.0 };
            }
            for stage in 0..9 {
                let half = 1 << stage;
                for i in 0..FFT / 2 {
                    let k = i & (half - 1);
                    let a = ((i >> stage) << (stage + 1)) + k;
                    let (b, turn) = (a + half, k << (8 - stage));
                    let (c, s) = (tables[WINDOW + turn], tables[WINDOW + FFT / 2 + turn]);
                    let (x, y) = (re[b] * c + im[b] * s, im[b] * c - re[b] * s);
                    (re[b], im[b]) = (re[a] - x, im[a] - y);
                    (re[a], im[a]) = (re[a] + x, im[a] + y);
                }
            }
            for band in 0..MELS {
                let energy: f32 =
                    (0..BINS).map(|bin| filters[band * BINS + bin] * (re[bin] * re[bin] + im[bin] * im[bin])).sum();
                out.push(energy.max(FLOOR as f32).ln());
            }
        }
        let error = max_error(&out, &reference);
        assert!(error < crate::webgpu::Workload::LogMel.tolerance(), "{error}");
    }

    #[test]
    fn attention_of_equal_keys_is_the_mean_of_the_values() {
        let mut inputs = attention_inputs();
        inputs[1].fill(0.5);
        let out = attention(&inputs);
        let mean: f64 = (0..POSITIONS).map(|key| f64::from(inputs[2][key * WIDTH])).sum::<f64>() / POSITIONS as f64;
        assert!((out[0] - mean).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_number_is_an_infinite_error() {
        assert_eq!(max_error(&[f32::NAN], &[0.0]), f64::INFINITY);
        assert_eq!(max_error(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(max_error(&[1.5], &[1.0]), 0.5);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // Marsaglia's triple (13, 17, 5) from 1: 270369, 67634689.
        let mut noise = Noise::new(1);
        let raw = |value: f64| ((value + 1.0) * 2_147_483_648.0) as u32;
        assert_eq!(raw(noise.sample()), 270_369);
        assert_eq!(raw(noise.sample()), 67_634_689);
    }
}
