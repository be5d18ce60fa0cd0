//! The measurements, as static/webgpu/measure.js makes them.

use std::time::{Duration, Instant};

use super::device::{Gpu, Made, Task, ms};
use super::{NativeError, begun, choose, describe};
use crate::webgpu::{
    Compile, CompileMode, Compute, Failure, FailureKind, SWEEP, Start, StartMode, Submission, Workgroup, Workload,
};

const SAMPLES: u32 = 10;
const WARM_UPS: usize = 2;
/// A batch is long against the clock.
const BATCH: Duration = Duration::from_millis(10);
const MAX_DISPATCHES: u32 = 4_096;
const COMPILE_SAMPLES: u32 = 3;
const COMPILE_PIPELINES: u32 = 6;
const START_SAMPLES: usize = 3;

/// One full run. What goes wrong is in its `failure`: a machine without an adapter has a result too.
/// `progress` hears what is measured next.
pub fn run(mut progress: impl FnMut(&str)) -> Submission {
    let started = Instant::now();
    let adapter = match choose() {
        Ok(adapter) => adapter,
        Err(error) => {
            let mut run = begun(None);
            run.failure = Some(failure(&error));
            run.duration_ms = ms(started.elapsed());
            return run;
        }
    };
    let mut run = begun(Some(describe(&adapter)));
    run.timer_resolution_ms = timer_resolution();
    if let Err(error) = measure(&adapter, &mut run, &mut progress) {
        run.failure = Some(failure(&error));
    } else if let Some(row) = run.compute.iter().find(|row| !row.verified) {
        let message = row.error.clone().unwrap_or_else(|| "a result was not verified".to_owned());
        run.failure = Some(Failure { kind: FailureKind::WrongResult, message });
    }
    run.duration_ms = ms(started.elapsed());
    run
}

fn failure(error: &NativeError) -> Failure {
    let kind = match error {
        NativeError::NoAdapter(_) => FailureKind::NoAdapter,
        NativeError::NoDevice(_) => FailureKind::NoDevice,
        NativeError::Refused(_) => FailureKind::Validation,
        NativeError::Poll(_) | NativeError::Map(_) => FailureKind::DeviceLost,
    };
    Failure { kind, message: error.to_string().chars().take(900).collect() }
}

fn measure(adapter: &wgpu::Adapter, run: &mut Submission, progress: &mut impl FnMut(&str)) -> Result<(), NativeError> {
    let gpu = Gpu::open(adapter)?;
    let tasks = Workload::ALL.map(|workload| Task::new(&gpu, workload));
    let mut salt = Salt::default();
    progress("first inference");
    run.start = first_inference(&gpu, &tasks, &mut salt)?;
    progress("shader compilation");
    run.compile = compile_times(&gpu, &tasks[1], &mut salt)?;
    for task in &tasks {
        for shape in SWEEP {
            progress(&format!("{} with {shape}", task.workload.as_str()));
            run.compute.push(variant(&gpu, task, shape, &mut salt)?);
        }
    }
    Ok(())
}

/// New at every use within the process, and most likely across processes.
struct Salt(u32);

impl Default for Salt {
    fn default() -> Self {
        Self(rand::random::<u32>() >> 1)
    }
}

impl Salt {
    fn next(&mut self) -> u32 {
        self.0 = self.0 % 0x7fff_ffff + 1;
        self.0
    }
}

fn variant(gpu: &Gpu, task: &Task<'_>, shape: Workgroup, salt: &mut Salt) -> Result<Compute, NativeError> {
    let Made { pipeline, shader_ms, pipeline_ms } = gpu.pipeline(&task.source(shape, salt.next()))?;
    task.blank();
    let started = Instant::now();
    task.submit(&pipeline, shape, 1);
    let result = task.result()?;
    let first_ms = ms(started.elapsed());
    let max_error = task.error(&result);
    let mut dispatches = 1;
    let once = |count: u32| -> Result<(f64, Option<f64>), NativeError> {
        let started = Instant::now();
        task.submit(&pipeline, shape, count);
        task.result()?;
        let wall = ms(started.elapsed());
        Ok((wall / f64::from(count), task.stamped_ms()?.map(|gpu| gpu / f64::from(count))))
    };
    for _ in 0..WARM_UPS {
        let (wall, _) = once(dispatches)?;
        while wall * f64::from(dispatches) < ms(BATCH) && dispatches < MAX_DISPATCHES {
            dispatches *= 2;
        }
    }
    let (mut walls, mut stamped) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let (wall, gpu) = once(dispatches)?;
        walls.push(wall);
        stamped.extend(gpu);
    }
    let complete = stamped.len() == SAMPLES as usize;
    let tolerance = task.workload.tolerance();
    let verified = max_error <= tolerance;
    Ok(Compute {
        workload: task.workload,
        workgroup: shape,
        shader_compile_ms: Some(shader_ms),
        pipeline_ms: Some(pipeline_ms),
        first_ms: Some(first_ms),
        samples: SAMPLES,
        dispatches,
        median_ms: median(&mut walls),
        p95_ms: p95(&mut walls),
        gpu_ms: if complete { median(&mut stamped) } else { None },
        max_error: max_error.is_finite().then_some(max_error),
        verified,
        error: (!verified)
            .then(|| format!("the output differs from the CPU reference by {max_error:.3e}, more than {tolerance}")),
    })
}

fn compile_times(gpu: &Gpu, task: &Task<'_>, salt: &mut Salt) -> Result<Vec<Compile>, NativeError> {
    let shape = SWEEP[0];
    let mut singles: [[Vec<f64>; 3]; 2] = Default::default();
    let (mut sequential, mut parallel) = (Vec::new(), Vec::new());
    for _ in 0..COMPILE_SAMPLES {
        let source = task.source(shape, salt.next());
        for [shader, pipeline, first] in &mut singles {
            let made = gpu.pipeline(&source)?;
            shader.push(made.shader_ms);
            pipeline.push(made.pipeline_ms);
            let started = Instant::now();
            task.submit(&made.pipeline, shape, 1);
            task.result()?;
            first.push(ms(started.elapsed()));
        }
        let mut several = || (0..COMPILE_PIPELINES).map(|_| task.source(shape, salt.next())).collect::<Vec<_>>();
        let sources = several();
        let started = Instant::now();
        for source in &sources {
            gpu.pipeline(source)?;
        }
        sequential.push(ms(started.elapsed()));
        let sources = several();
        let started = Instant::now();
        // wgpu makes pipelines where it is called: together means on threads.
        let ended = std::thread::scope(|scope| {
            let threads: Vec<_> = sources.iter().map(|source| scope.spawn(|| gpu.build(source))).collect();
            threads.into_iter().map(|thread| thread.join().is_ok()).collect::<Vec<bool>>()
        });
        if ended.contains(&false) {
            return Err(NativeError::Map("the device refused a pipeline that was made on a thread".to_owned()));
        }
        parallel.push(ms(started.elapsed()));
    }
    let [cold, cached] = singles;
    let single = |mode, [mut shader, mut pipeline, mut first]: [Vec<f64>; 3]| Compile {
        mode,
        pipelines: 1,
        samples: COMPILE_SAMPLES,
        shader_ms: median(&mut shader),
        p95_ms: p95(&mut pipeline),
        pipeline_ms: median(&mut pipeline).unwrap_or_default(),
        first_dispatch_ms: median(&mut first),
    };
    let many = |mode, mut times: Vec<f64>| Compile {
        mode,
        pipelines: COMPILE_PIPELINES,
        samples: COMPILE_SAMPLES,
        shader_ms: None,
        p95_ms: p95(&mut times),
        pipeline_ms: median(&mut times).unwrap_or_default(),
        first_dispatch_ms: None,
    };
    Ok(vec![
        single(CompileMode::Cold, cold),
        single(CompileMode::Cached, cached),
        many(CompileMode::Sequential, sequential),
        many(CompileMode::Parallel, parallel),
    ])
}

/// One first inference of both workloads, in milliseconds, and its greatest share of a tolerance.
struct First {
    prepare: f64,
    shader: f64,
    pipeline: f64,
    first: f64,
    next: f64,
    error: f64,
    right: bool,
}

fn first_inference(gpu: &Gpu, tasks: &[Task<'_>], salt: &mut Salt) -> Result<Vec<Start>, NativeError> {
    let modes = [StartMode::Precompiled, StartMode::OnDemand];
    let mut found: [Vec<First>; 2] = Default::default();
    for round in 0..START_SAMPLES {
        // The order changes, so that neither is always the warmer one.
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            found[at].push(once(gpu, tasks, modes[at], salt)?);
        }
    }
    let row = |(mode, list): (StartMode, &Vec<First>)| {
        let of = |value: fn(&First) -> f64| list.iter().map(value).collect::<Vec<f64>>();
        let error = of(|one| one.error).into_iter().fold(0.0, f64::max);
        Start {
            mode,
            samples: list.len() as u32,
            prepare_ms: median(&mut of(|one| one.prepare)).unwrap_or_default(),
            shader_ms: median(&mut of(|one| one.shader)),
            pipeline_ms: median(&mut of(|one| one.pipeline)),
            first_ms: median(&mut of(|one| one.first)).unwrap_or_default(),
            p95_ms: p95(&mut of(|one| one.first)),
            next_ms: median(&mut of(|one| one.next)),
            max_error: error.is_finite().then_some(error),
            verified: list.iter().all(|one| one.right),
        }
    };
    Ok(modes.into_iter().zip(&found).map(row).collect())
}

fn once(gpu: &Gpu, tasks: &[Task<'_>], mode: StartMode, salt: &mut Salt) -> Result<First, NativeError> {
    let shape = SWEEP[0];
    let sources: Vec<String> = tasks.iter().map(|task| task.source(shape, salt.next())).collect();
    tasks.iter().for_each(Task::blank);
    let make = || sources.iter().map(|source| gpu.pipeline(source)).collect::<Result<Vec<Made>, _>>();
    let infer = |made: &[Made]| -> Result<Vec<Vec<f32>>, NativeError> {
        tasks.iter().zip(made).for_each(|(task, made)| task.submit(&made.pipeline, shape, 1));
        tasks.iter().map(Task::result).collect()
    };
    let begun = Instant::now();
    let before = if mode == StartMode::Precompiled { Some(make()?) } else { None };
    let asked = Instant::now();
    let made = match before {
        Some(made) => made,
        None => make()?,
    };
    let results = infer(&made)?;
    let first = ms(asked.elapsed());
    let again = Instant::now();
    infer(&made)?;
    let next = ms(again.elapsed());
    let errors: Vec<f64> = tasks.iter().zip(&results).map(|(task, result)| task.error(result)).collect();
    let greatest = |value: fn(&Made) -> f64| made.iter().map(value).fold(0.0, f64::max);
    Ok(First {
        prepare: ms(asked - begun),
        shader: greatest(|made| made.shader_ms),
        pipeline: greatest(|made| made.pipeline_ms),
        first,
        next,
        error: errors.iter().copied().fold(0.0, f64::max),
        right: errors.iter().zip(tasks).all(|(error, task)| *error <= task.workload.tolerance()),
    })
}

fn timer_resolution() -> Option<f64> {
    let start = Instant::now();
    let steps = (0..1_000).filter_map(|_| {
        let (a, b) = (Instant::now(), Instant::now());
        Some(b - a).filter(|step| !step.is_zero())
    });
    let least = steps.min().map(ms);
    least.filter(|_| start.elapsed() < Duration::from_secs(1))
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 0 => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

/// The smallest sample with at least 95 % of all at or below it.
fn p95(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 95).div_ceil(100);
    values.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p95_of_ten_is_the_greatest_and_never_below_the_median() {
        let mut values: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(p95(&mut values), Some(10.0));
        assert_eq!(median(&mut values), Some(5.5));
        assert_eq!((median(&mut []), p95(&mut [])), (None, None));
    }

    /// On machines without a Vulkan driver the run says so, and that is a result too.
    #[test]
    fn a_run_is_verified_or_says_why_not() {
        let run = run(|_| ());
        match &run.failure {
            Some(failure) => assert_eq!(failure.kind, FailureKind::NoAdapter, "{}", failure.message),
            None => assert_eq!(run.compute.len(), 2 * SWEEP.len()),
        }
        assert_eq!(run.check(), Ok(()));
        assert!(run.compute.iter().all(|row| row.verified));
    }
}
