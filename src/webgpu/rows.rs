//! A submission as rows: `webgpu_metrics`, the run in `test_results`, the adapter and the model.

use std::time::{Duration, SystemTime};

use sea_orm::ActiveValue::Set;

use super::submission::{Compile, Compute, Load, LoadPass, PassCache, Start, StartMode, Submission};
use crate::db::LabRun;
use crate::db::entity::{hardware_platform, model, test_result, webgpu_metric as metric};

/// `test_results.test_type` of lab runs.
pub const TEST_TYPE: &str = "webgpu";

/// What the server knows and the submission does not say.
#[derive(Debug, Clone)]
pub struct Context {
    /// When it was received, in microseconds since the epoch.
    pub now_us: i64,
    /// Unique; names the run in both tables.
    pub submission_id: String,
    /// Of the User-Agent header; the header itself is not kept.
    pub user_agent_hash: Option<String>,
}

impl Submission {
    /// The rows. Call [`Submission::check`] first.
    pub fn into_run(self, context: &Context) -> LabRun {
        let mut metrics: Vec<metric::ActiveModel> = Vec::new();
        self.failure_row(context, &mut metrics);
        for row in &self.compute {
            let score = row.verified.then(|| score(row.median_ms, self.fastest(row))).flatten();
            metrics.push(compute_row(self.row(context, row.workload.as_str()), row, score));
        }
        metrics.extend(self.compile.iter().map(|row| compile_row(self.row(context, "compile"), row)));
        let fastest = least(self.start.iter().filter(|row| row.verified).map(|row| row.first_ms));
        metrics.extend(self.start.iter().map(|row| start_row(self.row(context, "start"), row, fastest)));
        if let Some(load) = &self.load {
            metrics.extend(load.passes.iter().map(|row| load_row(self.row(context, "load"), load, row)));
        }
        let (hardware, model) = (self.hardware(context), self.load.as_ref().map(|load| model_row(load, context)));
        LabRun { run: self.run(context), metrics, hardware, model }
    }

    /// What every row of the run has in common.
    fn row(&self, context: &Context, workload: &str) -> metric::ActiveModel {
        let adapter = self.adapter.as_ref();
        metric::ActiveModel {
            browser_name: Set(self.browser.name.clone()),
            browser_version: Set(self.browser.version.clone()),
            compute_shaders_enabled: Set(Some(adapter.is_some() && self.computed())),
            test_timestamp: Set(context.now_us),
            workload: Set(workload.to_owned()),
            origin: Set(self.origin.as_str().to_owned()),
            os: Set(self.os.clone()),
            adapter_vendor: Set(adapter.and_then(|a| told(&a.vendor))),
            adapter_architecture: Set(adapter.and_then(|a| told(&a.architecture))),
            is_fallback_adapter: Set(adapter.and_then(|a| a.is_fallback)),
            is_simulated: Set(self.is_software()),
            timer_resolution_ms: Set(self.timer_resolution_ms),
            verified: Set(false),
            user_agent_hash: Set(context.user_agent_hash.clone()),
            submission_id: Set(Some(context.submission_id.clone())),
            ..Default::default()
        }
    }

    /// Whether some shader ran and gave a result.
    fn computed(&self) -> bool {
        self.compute.iter().any(|row| row.max_error.is_some()) || !self.compile.is_empty() || !self.start.is_empty()
    }

    pub(super) fn is_software(&self) -> bool {
        self.adapter.as_ref().is_some_and(super::Adapter::is_software)
    }

    /// An early end is a row too, with what kind of end it was.
    fn failure_row(&self, context: &Context, metrics: &mut Vec<metric::ActiveModel>) {
        let Some(failure) = &self.failure else { return };
        let mut row = self.row(context, "detect");
        row.variant = Set(Some(failure.kind.as_str().to_owned()));
        metrics.push(row);
    }

    fn fastest(&self, of: &Compute) -> Option<f64> {
        let same = self.compute.iter().filter(|row| row.workload == of.workload && row.verified);
        least(same.filter_map(|row| row.median_ms))
    }

    fn run(&self, context: &Context) -> test_result::ActiveModel {
        let wrong = self.compute.iter().find_map(|row| row.error.clone());
        let error = self.failure.as_ref().map(|failure| failure.message.clone()).or(wrong);
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(context.now_us).unwrap_or_default());
        let date: String = humantime::format_rfc3339_seconds(at).to_string().chars().take(10).collect();
        test_result::ActiveModel {
            timestamp: Set(context.now_us),
            test_date: Set(date),
            status: Set(self.failure.as_ref().map_or("complete", |failure| failure.kind.as_str()).to_owned()),
            test_type: Set(TEST_TYPE.to_owned()),
            endpoint_type: Set(Some(self.origin.as_str().to_owned())),
            success: Set(error.is_none() && self.compute.iter().all(|row| row.verified)),
            error_message: Set(error),
            execution_time: Set(Some(self.duration_ms / 1e3)),
            details: Set(serde_json::to_value(self).ok()),
            run_id: Set(context.submission_id.clone()),
            sequence: Set(0),
            tool: Set(Some(concat!("tidegate webgpu lab ", env!("CARGO_PKG_VERSION")).to_owned())),
            ..Default::default()
        }
    }

    fn hardware(&self, context: &Context) -> Option<hardware_platform::ActiveModel> {
        let adapter = self.adapter.as_ref()?;
        let native = self.origin == super::Origin::Native;
        let names = [&adapter.description, &adapter.device, &adapter.architecture, &adapter.vendor];
        let device = names.into_iter().find_map(|text| told(text));
        let unnamed = || format!("adapter of {} (not named)", self.browser.name);
        let f16 = adapter.features.iter().any(|feature| feature == "shader-f16");
        let backend = told(&adapter.backend).unwrap_or_else(|| if native { "wgpu" } else { "webgpu" }.to_owned());
        let parts = [
            if native { "gpu" } else { "webgpu" },
            &self.browser.name,
            &adapter.vendor,
            &adapter.architecture,
            &adapter.device,
            &adapter.description,
            self.os.as_deref().unwrap_or("-"),
            &backend,
        ];
        Some(hardware_platform::ActiveModel {
            hardware_type: Set(if native { "gpu" } else { "webgpu" }.to_owned()),
            device_name: Set(Some(device.unwrap_or_else(unnamed))),
            driver_version: Set(told(&adapter.driver)),
            supported_precisions: Set(Some(if f16 { "f32 f16" } else { "f32" }.to_owned())),
            detected_at: Set(context.now_us),
            os: Set(self.os.clone()),
            backend: Set(Some(backend.clone())),
            is_simulated: Set(adapter.is_software()),
            fingerprint: Set(parts.join("|")),
            ..Default::default()
        })
    }
}

fn compute_row(base: metric::ActiveModel, row: &Compute, score: Option<f64>) -> metric::ActiveModel {
    metric::ActiveModel {
        variant: Set(Some(row.workgroup.to_string())),
        workgroup_size: Set(Some(row.workgroup.to_string())),
        shader_precompilation_enabled: Set(Some(true)),
        shader_compile_time_ms: Set(row.shader_compile_ms),
        pipeline_creation_time_ms: Set(row.pipeline_ms),
        first_inference_time_ms: Set(row.first_ms),
        subsequent_inference_time_ms: Set(row.median_ms),
        p95_ms: Set(row.p95_ms),
        gpu_time_ms: Set(row.gpu_ms),
        samples: Set(Some(row.samples.into())),
        // Infinity has no place in PostgreSQL's or JSON's numbers of this table: a result that is no number is unverified.
        max_error: Set(row.max_error.filter(|error| error.is_finite())),
        verified: Set(row.verified),
        optimization_score: Set(score),
        ..base
    }
}

fn compile_row(base: metric::ActiveModel, row: &Compile) -> metric::ActiveModel {
    metric::ActiveModel {
        variant: Set(Some(format!("{}-{}", row.mode.as_str(), row.pipelines))),
        shader_compile_time_ms: Set(row.shader_ms),
        pipeline_creation_time_ms: Set(Some(row.pipeline_ms)),
        first_inference_time_ms: Set(row.first_dispatch_ms),
        p95_ms: Set(row.p95_ms),
        samples: Set(Some(row.samples.into())),
        ..base
    }
}

fn start_row(base: metric::ActiveModel, row: &Start, fastest: Option<f64>) -> metric::ActiveModel {
    metric::ActiveModel {
        variant: Set(Some(row.mode.as_str().to_owned())),
        shader_precompilation_enabled: Set(Some(row.mode == StartMode::Precompiled)),
        shader_compile_time_ms: Set(row.shader_ms),
        pipeline_creation_time_ms: Set(row.pipeline_ms),
        first_inference_time_ms: Set(Some(row.first_ms)),
        subsequent_inference_time_ms: Set(row.next_ms),
        p95_ms: Set(row.p95_ms),
        samples: Set(Some(row.samples.into())),
        max_error: Set(row.max_error.filter(|error| error.is_finite())),
        verified: Set(row.verified),
        optimization_score: Set(row.verified.then(|| score(Some(row.first_ms), fastest)).flatten()),
        ..base
    }
}

fn load_row(base: metric::ActiveModel, load: &Load, row: &LoadPass) -> metric::ActiveModel {
    let comparable = |other: &&LoadPass| other.mode == row.mode && other.cache == row.cache;
    let time = |pass: &LoadPass| pass.all_on_gpu_ms.unwrap_or(pass.wall_ms);
    let sequential = load.passes.iter().filter(comparable).find(|other| other.streams == 1).map(time);
    // All warm passes carry the same bytes, whole or in ranges, so they share one scale.
    let warm = load.passes.iter().filter(|other| other.cache == PassCache::Warm && other.verified).map(time);
    let scored = row.verified && row.cache == PassCache::Warm;
    metric::ActiveModel {
        variant: Set(Some(format!("{}-{}", row.mode.as_str(), row.cache.as_str()))),
        parallel_loading_enabled: Set(Some(row.streams > 1)),
        load_sequential_ms: Set(sequential),
        load_parallel_ms: Set((row.streams > 1).then(|| time(row))),
        load_bytes: Set(i64::try_from(row.bytes).ok()),
        load_streams: Set(Some(row.streams.into())),
        cid: Set(Some(load.cid.clone())),
        p95_ms: Set(row.p95_ms),
        samples: Set(Some(row.samples.into())),
        verified: Set(row.verified),
        optimization_score: Set(if scored { score(Some(time(row)), least(warm)) } else { None }),
        ..base
    }
}

fn model_row(load: &Load, context: &Context) -> model::ActiveModel {
    model::ActiveModel {
        model_name: Set(load.name.clone()),
        model_family: Set(load.family.clone()),
        model_type: Set(Some("audio".to_owned())),
        model_size: Set(i64::try_from(load.bytes).ok()),
        parameters_million: Set(load.parameters_million),
        added_at: Set(context.now_us),
        cid: Set(Some(load.cid.clone())),
        format: Set(load.format.clone()),
        ..Default::default()
    }
}

/// The fastest variant's time / this one's, 0..=1.
fn score(this: Option<f64>, fastest: Option<f64>) -> Option<f64> {
    let (this, fastest) = (this?, fastest?);
    (this > 0.0).then(|| (fastest / this).clamp(0.0, 1.0))
}

fn least(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::min)
}

fn told(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use sea_orm::ActiveValue;

    use super::super::plausible::tests::sample;
    use super::super::{Failure, FailureKind};
    use super::*;

    fn context() -> Context {
        Context { now_us: 1_700_000_000_000_000, submission_id: "s".into(), user_agent_hash: None }
    }

    fn set<T: Clone + Into<sea_orm::Value>>(value: &ActiveValue<T>) -> T {
        value.clone().unwrap()
    }

    #[test]
    fn the_score_is_the_fastest_time_over_this_one() {
        let run = sample().into_run(&context());
        let scores: Vec<Option<f64>> = run.metrics.iter().map(|row| set(&row.optimization_score)).collect();
        assert_eq!(scores, [Some(40.0 / 60.0), Some(1.0)]);
        assert!(run.metrics.iter().all(|row| set(&row.is_simulated) && set(&row.verified)));
        assert!(set(&run.run.success));
        assert_eq!(set(&run.run.test_date), "2023-11-14");
    }

    #[test]
    fn an_unverified_variant_has_no_score_and_is_not_the_fastest() {
        let mut submission = sample();
        submission.compute[1].verified = false;
        submission.compute[1].error = Some("differs".into());
        let run = submission.into_run(&context());
        assert_eq!(set(&run.metrics[0].optimization_score), Some(1.0));
        assert_eq!(set(&run.metrics[1].optimization_score), None);
        assert!(!set(&run.run.success));
        assert_eq!(set(&run.run.error_message).as_deref(), Some("differs"));
    }

    #[test]
    fn a_browser_without_an_adapter_gets_a_row_that_says_so() {
        let mut submission = sample();
        submission.compute.clear();
        submission.adapter = None;
        submission.failure = Some(Failure { kind: FailureKind::NoAdapter, message: "no adapter".into() });
        let run = submission.into_run(&context());
        assert_eq!(run.metrics.len(), 1);
        assert_eq!(set(&run.metrics[0].variant).as_deref(), Some("no-adapter"));
        assert_eq!(set(&run.metrics[0].compute_shaders_enabled), Some(false));
        assert!(!set(&run.metrics[0].verified));
        assert!(run.hardware.is_none());
    }
}
