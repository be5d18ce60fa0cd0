//! Whether a submission can be true. Pure. A visitor can still lie within these bounds; nothing here says otherwise.

use thiserror::Error;

use super::submission::{Adapter, Compile, Compute, Failure, Load, LoadPass, Start, Submission};
use crate::ipld::cid;

/// The largest body that is read.
pub const MAX_BODY_BYTES: usize = 128 * 1024;
/// The longest name, and the longest message, in bytes.
const MAX_NAME_BYTES: usize = 128;
const MAX_MESSAGE_BYTES: usize = 1_000;
/// Lists: features, limits, rows.
const MAX_FEATURES: usize = 96;
const MAX_ROWS: usize = 64;
/// Medians need this many samples; loads and compiles fewer, since each is long.
const MIN_SAMPLES: u32 = 10;
const MAX_SAMPLES: u32 = 100_000;
/// The longest run, and so the longest time in it.
const MAX_MS: f64 = 15.0 * 60.0 * 1e3;
/// No GPU makes more 32-bit operations: 10^15 a second is some ten times the fastest of 2026.
const MAX_OPERATIONS_PER_S: f64 = 1e15;
/// No browser takes in bytes faster than one core copies them: 50 GB/s is over the memory bandwidth of a core.
const MAX_BYTES_PER_S: f64 = 50e9;
/// The largest model that is taken seriously, in bytes.
const MAX_MODEL_BYTES: u64 = 1 << 40;
/// GPU time of a dispatch may exceed its wall time by this much: both are medians, and clocks are coarse.
const GPU_OVER_WALL: f64 = 1.5;
const GPU_SLACK_MS: f64 = 1.0;
/// Streams that the lab tries.
const STREAMS: [u32; 4] = [1, 2, 4, 8];

/// Why a submission is refused, with the place.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Implausible {
    #[error("{0} is empty, longer than its bound, or holds control characters")]
    Text(&'static str),
    #[error("{0} has more entries than its bound")]
    Many(&'static str),
    #[error("{place}: {value} ms is no time of a run")]
    Time { place: String, value: f64 },
    #[error(
        "{place}: {samples} samples; it takes {MIN_SAMPLES} to {MAX_SAMPLES} for a median of computing, at least 1 elsewhere"
    )]
    Samples { place: String, samples: u32 },
    #[error("{place}: p95 ({p95} ms) is below the median ({median} ms)")]
    P95 { place: String, median: f64, p95: f64 },
    #[error("{place}: GPU time ({gpu} ms) exceeds wall time ({wall} ms)")]
    Gpu { place: String, gpu: f64, wall: f64 },
    #[error("{place}: faster than any hardware")]
    Impossible { place: String },
    #[error("{place}: verified, but its error is {error:?} with a tolerance of {tolerance}")]
    Verified { place: String, error: Option<f64>, tolerance: f64 },
    #[error("{place}: measured and failed at the same time")]
    Contradiction { place: String },
    #[error("{0} is neither measured nor a failure: there is nothing to store")]
    Nothing(&'static str),
    #[error("the model: {0}")]
    Model(&'static str),
}

impl Submission {
    /// Refuses what cannot be.
    pub fn check(&self) -> Result<(), Implausible> {
        name("browser.name", &self.browser.name)?;
        for (place, text) in
            [("browser.version", &self.browser.version), ("os", &self.os), ("wait_method", &self.wait_method)]
        {
            text.as_deref().map_or(Ok(()), |text| name(place, text))?;
        }
        time("duration_ms", self.duration_ms)?;
        optional("timer_resolution_ms", self.timer_resolution_ms)?;
        self.adapter.as_ref().map_or(Ok(()), adapter)?;
        self.failure.as_ref().map_or(Ok(()), failure)?;
        let lists = [("compile", self.compile.len()), ("start", self.start.len()), ("compute", self.compute.len())];
        for (place, length) in lists {
            within(place, length, MAX_ROWS)?;
        }
        let measured = !self.compute.is_empty() || !self.compile.is_empty() || !self.start.is_empty();
        if !measured && self.load.is_none() && self.failure.is_none() {
            return Err(Implausible::Nothing("the run"));
        }
        if measured && self.adapter.is_none() {
            return Err(Implausible::Contradiction { place: "adapter".to_owned() });
        }
        self.compute.iter().try_for_each(compute)?;
        self.compile.iter().try_for_each(compile)?;
        self.start.iter().try_for_each(start)?;
        self.load.as_ref().map_or(Ok(()), load)?;
        let summed =
            self.compute.iter().filter_map(|row| Some(row.median_ms? * f64::from(row.samples * row.dispatches)));
        if summed.sum::<f64>() > self.duration_ms * 1.05 {
            return Err(Implausible::Contradiction { place: "the samples together outlast the run".to_owned() });
        }
        Ok(())
    }
}

fn compute(row: &Compute) -> Result<(), Implausible> {
    let place = || format!("{} {}", row.workload.as_str(), row.workgroup);
    for value in [row.shader_compile_ms, row.pipeline_ms, row.first_ms, row.median_ms, row.p95_ms, row.gpu_ms] {
        optional(&place(), value)?;
    }
    if let Some(error) = &row.error {
        message("compute.error", error)?;
    }
    let tolerance = row.workload.tolerance();
    let right = row.max_error.is_some_and(|error| error.is_finite() && (0.0..=tolerance).contains(&error));
    if row.verified && (!right || row.error.is_some()) {
        return Err(Implausible::Verified { place: place(), error: row.max_error, tolerance });
    }
    if row.max_error.is_some_and(|error| error.is_nan() || error < 0.0) {
        return Err(Implausible::Verified { place: place(), error: row.max_error, tolerance });
    }
    match (row.median_ms, row.p95_ms) {
        (Some(median), Some(p95)) => {
            let enough = (MIN_SAMPLES..=MAX_SAMPLES).contains(&row.samples);
            if !enough || row.dispatches == 0 || row.dispatches > MAX_SAMPLES {
                return Err(Implausible::Samples { place: place(), samples: row.samples });
            }
            if p95 < median {
                return Err(Implausible::P95 { place: place(), median, p95 });
            }
            if row.workload.operations() / (median / 1e3) > MAX_OPERATIONS_PER_S {
                return Err(Implausible::Impossible { place: place() });
            }
            if let Some(gpu) = row.gpu_ms
                && gpu > median * GPU_OVER_WALL + GPU_SLACK_MS
            {
                return Err(Implausible::Gpu { place: place(), gpu, wall: median });
            }
            Ok(())
        }
        (None, None) if row.error.is_some() && !row.verified => Ok(()),
        _ => Err(Implausible::Contradiction { place: place() }),
    }
}

fn compile(row: &Compile) -> Result<(), Implausible> {
    let place = format!("compile {}", row.mode.as_str());
    samples(&place, row.samples)?;
    if row.pipelines == 0 || row.pipelines > 64 {
        return Err(Implausible::Many("compile.pipelines"));
    }
    time(&place, row.pipeline_ms)?;
    optional(&place, row.shader_ms)?;
    optional(&place, row.first_dispatch_ms)?;
    ordered(&place, row.pipeline_ms, row.p95_ms)
}

fn start(row: &Start) -> Result<(), Implausible> {
    let place = format!("start {}", row.mode.as_str());
    samples(&place, row.samples)?;
    time(&place, row.prepare_ms)?;
    time(&place, row.first_ms)?;
    for value in [row.shader_ms, row.pipeline_ms, row.next_ms] {
        optional(&place, value)?;
    }
    // Both workloads in one inference: the wider tolerance is the log-mel one.
    let tolerance = super::Workload::LogMel.tolerance();
    if row.verified && !row.max_error.is_some_and(|error| (0.0..=tolerance).contains(&error)) {
        return Err(Implausible::Verified { place, error: row.max_error, tolerance });
    }
    ordered(&place, row.first_ms, row.p95_ms)
}

fn load(load: &Load) -> Result<(), Implausible> {
    cid::parse(&load.cid).map_err(|_| Implausible::Model("its cid is none"))?;
    name("load.name", &load.name)?;
    for text in [&load.format, &load.family, &load.protocol].into_iter().flatten() {
        name("load", text)?;
    }
    if load.files == 0 || load.bytes == 0 || load.bytes > MAX_MODEL_BYTES {
        return Err(Implausible::Model("it has no files or an impossible size"));
    }
    let parameters = load.parameters_million.unwrap_or(0.0);
    // A parameter takes at least half a byte in any format that models are kept in.
    if !parameters.is_finite() || parameters < 0.0 || parameters * 1e6 * 0.5 > load.bytes as f64 {
        return Err(Implausible::Model("it has more parameters than its bytes can hold"));
    }
    within("load.passes", load.passes.len(), MAX_ROWS)?;
    load.passes.iter().try_for_each(|row| pass(load, row))
}

fn pass(load: &Load, row: &LoadPass) -> Result<(), Implausible> {
    let place = format!("load {} by {}", row.mode.as_str(), row.streams);
    samples(&place, row.samples)?;
    time(&place, row.wall_ms)?;
    for value in [row.first_on_gpu_ms, row.all_on_gpu_ms] {
        optional(&place, value)?;
    }
    if !STREAMS.contains(&row.streams) || row.requests < load.files || row.bytes != load.bytes {
        return Err(Implausible::Contradiction { place });
    }
    if row.first_on_gpu_ms > row.all_on_gpu_ms && row.all_on_gpu_ms.is_some() {
        return Err(Implausible::Contradiction { place });
    }
    if row.wall_ms <= 0.0 || row.bytes as f64 / (row.wall_ms / 1e3) > MAX_BYTES_PER_S {
        return Err(Implausible::Impossible { place });
    }
    ordered(&place, row.wall_ms, row.p95_ms)
}

fn adapter(adapter: &Adapter) -> Result<(), Implausible> {
    let texts = [
        &adapter.vendor,
        &adapter.architecture,
        &adapter.device,
        &adapter.description,
        &adapter.driver,
        &adapter.backend,
    ];
    // Empty is allowed here: Firefox tells none of them.
    if texts.iter().any(|text| text.len() > 2 * MAX_NAME_BYTES || text.chars().any(char::is_control)) {
        return Err(Implausible::Text("adapter"));
    }
    within("adapter.features", adapter.features.len(), MAX_FEATURES)?;
    within("adapter.limits", adapter.limits.len(), MAX_FEATURES)?;
    adapter.features.iter().chain(adapter.limits.keys()).try_for_each(|text| name("adapter.features", text))
}

fn failure(failure: &Failure) -> Result<(), Implausible> {
    message("failure.message", &failure.message)
}

fn name(place: &'static str, text: &str) -> Result<(), Implausible> {
    let fine = !text.trim().is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control);
    if fine { Ok(()) } else { Err(Implausible::Text(place)) }
}

fn message(place: &'static str, text: &str) -> Result<(), Implausible> {
    let fine = !text.trim().is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\0');
    if fine { Ok(()) } else { Err(Implausible::Text(place)) }
}

fn within(place: &'static str, length: usize, bound: usize) -> Result<(), Implausible> {
    if length <= bound { Ok(()) } else { Err(Implausible::Many(place)) }
}

fn time(place: &str, value: f64) -> Result<(), Implausible> {
    let fine = value.is_finite() && (0.0..=MAX_MS).contains(&value);
    if fine { Ok(()) } else { Err(Implausible::Time { place: place.to_owned(), value }) }
}

fn optional(place: &str, value: Option<f64>) -> Result<(), Implausible> {
    value.map_or(Ok(()), |value| time(place, value))
}

fn samples(place: &str, samples: u32) -> Result<(), Implausible> {
    let fine = (1..=MAX_SAMPLES).contains(&samples);
    if fine { Ok(()) } else { Err(Implausible::Samples { place: place.to_owned(), samples }) }
}

fn ordered(place: &str, median: f64, p95: Option<f64>) -> Result<(), Implausible> {
    optional(place, p95)?;
    match p95 {
        Some(p95) if p95 < median => Err(Implausible::P95 { place: place.to_owned(), median, p95 }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::submission::*;
    use super::*;

    /// Two variants of log-mel as SwiftShader measured them, rounded.
    pub fn sample() -> Submission {
        let compute = |workgroup: &str, median_ms: f64| Compute {
            workload: Workload::LogMel,
            workgroup: workgroup.parse().unwrap(),
            shader_compile_ms: Some(1.0),
            pipeline_ms: Some(40.0),
            first_ms: Some(70.0),
            samples: 10,
            dispatches: 1,
            median_ms: Some(median_ms),
            p95_ms: Some(median_ms * 1.2),
            gpu_ms: Some(median_ms * 0.9),
            max_error: Some(1.2e-3),
            verified: true,
            error: None,
        };
        Submission {
            origin: Origin::Browser,
            browser: Browser { name: "Chromium".into(), version: Some("156".into()) },
            os: Some("Linux".into()),
            duration_ms: 30_000.0,
            adapter: Some(Adapter { architecture: "swiftshader".into(), ..Adapter::default() }),
            timer_resolution_ms: Some(0.005),
            wait_method: Some("map".into()),
            failure: None,
            compile: Vec::new(),
            start: Vec::new(),
            compute: vec![compute("64x1x1", 60.0), compute("128x1x1", 40.0)],
            load: None,
        }
    }

    fn refused(change: impl FnOnce(&mut Submission)) -> Implausible {
        let mut submission = sample();
        change(&mut submission);
        submission.check().unwrap_err()
    }

    #[test]
    fn a_run_that_was_measured_passes() {
        assert_eq!(sample().check(), Ok(()));
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for value in [f64::NAN, f64::INFINITY, -1.0, 1e9] {
            assert!(matches!(refused(|s| s.duration_ms = value), Implausible::Time { .. }));
            assert!(matches!(refused(|s| s.compute[0].first_ms = Some(value)), Implausible::Time { .. }));
        }
    }

    #[test]
    fn a_median_needs_ten_samples_and_a_p95_at_or_above_it() {
        assert!(matches!(refused(|s| s.compute[0].samples = 9), Implausible::Samples { samples: 9, .. }));
        assert!(matches!(refused(|s| s.compute[0].p95_ms = Some(10.0)), Implausible::P95 { .. }));
        assert!(matches!(refused(|s| s.compute[0].p95_ms = None), Implausible::Contradiction { .. }));
    }

    #[test]
    fn nothing_is_faster_than_hardware() {
        let error = refused(|s| {
            s.compute[0].median_ms = Some(1e-9);
            s.compute[0].p95_ms = Some(1e-9);
            s.compute[0].gpu_ms = None;
        });
        assert!(matches!(error, Implausible::Impossible { .. }));
        assert!(matches!(refused(|s| s.compute[0].gpu_ms = Some(500.0)), Implausible::Gpu { .. }));
        assert!(matches!(refused(|s| s.duration_ms = 100.0), Implausible::Contradiction { .. }));
    }

    #[test]
    fn verified_means_within_the_tolerance() {
        assert!(matches!(refused(|s| s.compute[0].max_error = Some(3.1)), Implausible::Verified { .. }));
        assert!(matches!(refused(|s| s.compute[0].max_error = None), Implausible::Verified { .. }));
        assert!(matches!(refused(|s| s.compute[0].error = Some("no".into())), Implausible::Verified { .. }));
    }

    #[test]
    fn a_failure_alone_is_a_run_but_nothing_is_none() {
        let mut submission = sample();
        submission.compute.clear();
        assert!(matches!(submission.check(), Err(Implausible::Nothing(_))));
        submission.failure = Some(Failure { kind: FailureKind::NoAdapter, message: "none".into() });
        submission.adapter = None;
        assert_eq!(submission.check(), Ok(()));
    }

    #[test]
    fn loads_are_bounded_by_memory_bandwidth_and_by_their_own_sizes() {
        let pass = LoadPass {
            mode: LoadMode::Files,
            cache: PassCache::Warm,
            streams: 4,
            samples: 3,
            requests: 8,
            bytes: 8 << 20,
            wall_ms: 50.0,
            first_on_gpu_ms: Some(10.0),
            all_on_gpu_ms: Some(55.0),
            p95_ms: Some(60.0),
            verified: true,
        };
        let load = Load {
            cid: "bafkqabtimvwgy3yk".into(),
            name: "tiny".into(),
            format: Some("safetensors".into()),
            family: None,
            parameters_million: Some(2.0),
            files: 8,
            bytes: 8 << 20,
            protocol: Some("http/1.1".into()),
            passes: vec![pass],
        };
        let with = |change: fn(&mut Load)| {
            let mut submission = sample();
            let mut load = load.clone();
            change(&mut load);
            submission.load = Some(load);
            submission.check()
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert!(matches!(with(|l| l.passes[0].wall_ms = 0.01), Err(Implausible::Impossible { .. })));
        assert!(matches!(with(|l| l.passes[0].streams = 3), Err(Implausible::Contradiction { .. })));
        assert!(matches!(with(|l| l.passes[0].bytes = 1), Err(Implausible::Contradiction { .. })));
        assert!(matches!(with(|l| l.cid = "nonsense".into()), Err(Implausible::Model(_))));
        assert!(matches!(with(|l| l.parameters_million = Some(1e6)), Err(Implausible::Model(_))));
    }

    #[test]
    fn texts_are_capped() {
        assert_eq!(refused(|s| s.browser.name = "x".repeat(129)), Implausible::Text("browser.name"));
        assert_eq!(refused(|s| s.browser.name = " ".into()), Implausible::Text("browser.name"));
        let long = Failure { kind: FailureKind::Other, message: "x".repeat(1_001) };
        assert_eq!(refused(|s| s.failure = Some(long)), Implausible::Text("failure.message"));
    }
}
