//! L4a: the WebGPU lab. What a browser (or `tidegate gpu bench`) may say it measured, whether that can be true, and the
//! rows and pages that come of it (WEBGPU.md).
//!
//! A visitor's page takes a one-time token ([`Lab::issue`]), measures, and posts a [`Submission`]. [`Submission::check`]
//! refuses what cannot be; [`Submission::into_run`] makes `webgpu_metrics` rows of the rest. Nothing is filled in: a
//! browser without WebGPU gets one row that says so.

#[cfg(feature = "gpu")]
pub mod native;
mod plausible;
pub mod reference;
mod rows;
mod shader;
mod submission;
mod summary;
mod token;

pub use plausible::{Implausible, MAX_BODY_BYTES};
pub use rows::Context;
pub use shader::{SHADERS, Shader};
pub use submission::{
    Adapter, Browser, Compile, CompileMode, Compute, Failure, FailureKind, Load, LoadMode, LoadPass, Origin, PassCache,
    Start, StartMode, Submission, Workgroup, Workload,
};
pub use summary::{Loads, Pass, Platform, Run, Summary, Variant, WorkloadResult, load, window};
pub use token::{Lab, RunToken, TokenError};

/// The shapes that are swept (WEBGPU.md): each is legal within WebGPU's default limits.
pub const SWEEP: [Workgroup; 7] = [
    Workgroup::new(64, 1, 1),
    Workgroup::new(128, 1, 1),
    Workgroup::new(256, 1, 1),
    Workgroup::new(8, 8, 1),
    Workgroup::new(16, 16, 1),
    Workgroup::new(128, 2, 1),
    Workgroup::new(64, 2, 2),
];
