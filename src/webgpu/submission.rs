//! What one run of the lab says. Enumerations are closed and unknown fields are errors: what is not understood is not
//! stored. Times are milliseconds; what was not measured is absent.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One run: a browser's, or `tidegate gpu bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabRun)]
pub struct Submission {
    pub origin: Origin,
    pub browser: Browser,
    #[serde(default)]
    pub os: Option<String>,
    /// The whole run.
    pub duration_ms: f64,
    /// `None`: there was none to ask.
    #[serde(default)]
    pub adapter: Option<Adapter>,
    /// The smallest step of the clock that wall times were read from.
    #[serde(default)]
    pub timer_resolution_ms: Option<f64>,
    /// How the end of GPU work was waited for (`map`, `map+submit`, `poll`).
    #[serde(default)]
    pub wait_method: Option<String>,
    /// What ended the run early, or kept it from starting.
    #[serde(default)]
    pub failure: Option<Failure>,
    #[serde(default)]
    pub compile: Vec<Compile>,
    #[serde(default)]
    pub start: Vec<Start>,
    #[serde(default)]
    pub compute: Vec<Compute>,
    #[serde(default)]
    pub load: Option<Load>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = LabOrigin)]
pub enum Origin {
    Browser,
    /// wgpu without a browser.
    Native,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::Native => "native",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabBrowser)]
pub struct Browser {
    pub name: String,
    #[serde(default)]
    pub version: Option<String>,
}

/// `GPUAdapterInfo`, or what wgpu says. Empty texts are as good as none: Firefox tells no names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = LabAdapter)]
pub struct Adapter {
    pub vendor: String,
    pub architecture: String,
    pub device: String,
    pub description: String,
    pub driver: String,
    pub backend: String,
    pub is_fallback: Option<bool>,
    /// wgpu knows that a device is a CPU; browsers do not tell.
    pub is_cpu: Option<bool>,
    pub timestamp_query: bool,
    pub features: Vec<String>,
    pub limits: BTreeMap<String, f64>,
}

impl Adapter {
    /// An emulation on the CPU: its times say nothing about a GPU.
    pub fn is_software(&self) -> bool {
        const NAMES: [&str; 6] = ["swiftshader", "llvmpipe", "lavapipe", "softpipe", "basic render", "warp"];
        let said = self.is_fallback == Some(true) || self.is_cpu == Some(true);
        let texts = [&self.vendor, &self.architecture, &self.device, &self.description, &self.driver];
        said || texts.iter().any(|text| {
            let text = text.to_ascii_lowercase();
            NAMES.iter().any(|name| text.contains(name))
        })
    }
}

/// Why a run did not end as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabFailure)]
pub struct Failure {
    pub kind: FailureKind,
    /// For a person.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Not HTTPS and not localhost: browsers hide `navigator.gpu`.
    InsecureContext,
    /// A secure context without `navigator.gpu`.
    NoWebgpu,
    /// `requestAdapter()` gave null.
    NoAdapter,
    /// `requestDevice()` was refused.
    NoDevice,
    DeviceLost,
    /// A shader or a call was refused.
    Validation,
    /// A result differs from the reference by more than the tolerance.
    WrongResult,
    /// The model could not be loaded.
    Load,
    Cancelled,
    Other,
}

impl FailureKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InsecureContext => "insecure-context",
            Self::NoWebgpu => "no-webgpu",
            Self::NoAdapter => "no-adapter",
            Self::NoDevice => "no-device",
            Self::DeviceLost => "device-lost",
            Self::Validation => "validation",
            Self::WrongResult => "wrong-result",
            Self::Load => "load",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = LabWorkload)]
pub enum Workload {
    LogMel,
    Attention,
}

impl Workload {
    pub const ALL: [Self; 2] = [Self::LogMel, Self::Attention];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::LogMel => "log-mel",
            Self::Attention => "attention",
        }
    }

    /// The greatest absolute error against the CPU reference that counts as right: nats of log energy, and units of the
    /// values that attention mixes (they lie in -1..1). Measured on SwiftShader and lavapipe: 1.2e-3 and 1e-6.
    pub fn tolerance(self) -> f64 {
        match self {
            Self::LogMel => 5e-3,
            Self::Attention => 1e-4,
        }
    }

    /// Floating-point operations of one dispatch, counted from the shader, rounded down.
    pub fn operations(self) -> f64 {
        match self {
            // 100 frames of 2,304 butterflies of 10 operations; the mel sums are left out.
            Self::LogMel => 100.0 * 2_304.0 * 10.0,
            // Two products of 64 x 64 x 64 multiply-adds for each of 6 heads.
            Self::Attention => 6.0 * 2.0 * 64.0 * 64.0 * 64.0 * 2.0,
        }
    }
}

/// A shape of workgroup: `256x1x1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Workgroup {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

impl Workgroup {
    pub const fn new(x: u32, y: u32, z: u32) -> Self {
        Self { x, y, z }
    }
}

impl fmt::Display for Workgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.x, self.y, self.z)
    }
}

impl From<Workgroup> for String {
    fn from(workgroup: Workgroup) -> Self {
        workgroup.to_string()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a workgroup is one of the lab's shapes, such as 64x1x1")]
pub struct NoWorkgroup;

impl FromStr for Workgroup {
    type Err = NoWorkgroup;

    fn from_str(text: &str) -> Result<Self, NoWorkgroup> {
        super::SWEEP.into_iter().find(|shape| shape.to_string() == text).ok_or(NoWorkgroup)
    }
}

impl TryFrom<String> for Workgroup {
    type Error = NoWorkgroup;

    fn try_from(text: String) -> Result<Self, NoWorkgroup> {
        text.parse()
    }
}

/// One workload with one shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabCompute)]
pub struct Compute {
    pub workload: Workload,
    #[schema(value_type = String, pattern = "^[0-9]+x[0-9]+x[0-9]+$", example = "64x1x1")]
    pub workgroup: Workgroup,
    #[serde(default)]
    pub shader_compile_ms: Option<f64>,
    #[serde(default)]
    pub pipeline_ms: Option<f64>,
    /// The first dispatch until its result is on the CPU.
    #[serde(default)]
    pub first_ms: Option<f64>,
    /// Timed batches after warm-up.
    pub samples: u32,
    /// Dispatches of one batch, so that a batch is long against the clock.
    pub dispatches: u32,
    /// Wall time of one dispatch.
    #[serde(default)]
    pub median_ms: Option<f64>,
    #[serde(default)]
    pub p95_ms: Option<f64>,
    /// The same by timestamp-query.
    #[serde(default)]
    pub gpu_ms: Option<f64>,
    #[serde(default)]
    pub max_error: Option<f64>,
    pub verified: bool,
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CompileMode {
    /// A source that no cache knows.
    Cold,
    /// The same source again.
    Cached,
    /// Several new sources, one after the other.
    Sequential,
    /// Several new sources at once.
    Parallel,
}

impl CompileMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Cached => "cached",
            Self::Sequential => "sequential",
            Self::Parallel => "parallel",
        }
    }
}

/// Shader modules and pipelines made, medians over `samples`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabCompile)]
pub struct Compile {
    pub mode: CompileMode,
    pub pipelines: u32,
    pub samples: u32,
    #[serde(default)]
    pub shader_ms: Option<f64>,
    /// All `pipelines` together.
    pub pipeline_ms: f64,
    #[serde(default)]
    pub p95_ms: Option<f64>,
    /// Browsers that compile lazily pay here.
    #[serde(default)]
    pub first_dispatch_ms: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StartMode {
    /// All pipelines made during load.
    Precompiled,
    /// Pipelines made at first use.
    OnDemand,
}

impl StartMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Precompiled => "precompiled",
            Self::OnDemand => "on-demand",
        }
    }
}

/// The first inference (front end, then attention, results on the CPU) with pipelines that no cache knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabStart)]
pub struct Start {
    pub mode: StartMode,
    pub samples: u32,
    /// Spent before the first inference was asked for.
    pub prepare_ms: f64,
    #[serde(default)]
    pub shader_ms: Option<f64>,
    #[serde(default)]
    pub pipeline_ms: Option<f64>,
    pub first_ms: f64,
    #[serde(default)]
    pub p95_ms: Option<f64>,
    /// The inference after the first.
    #[serde(default)]
    pub next_ms: Option<f64>,
    #[serde(default)]
    pub max_error: Option<f64>,
    pub verified: bool,
}

/// A model's shards fetched from the gateway into GPU buffers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LabLoad)]
pub struct Load {
    pub cid: String,
    pub name: String,
    #[serde(default)]
    pub format: Option<String>,
    #[serde(default)]
    pub family: Option<String>,
    #[serde(default)]
    pub parameters_million: Option<f64>,
    pub files: u32,
    pub bytes: u64,
    /// `nextHopProtocol` of Resource Timing: `http/1.1` allows six connections a host.
    #[serde(default)]
    pub protocol: Option<String>,
    pub passes: Vec<LoadPass>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoadMode {
    Files,
    Ranges,
}

impl LoadMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Ranges => "ranges",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PassCache {
    /// The first pass of the run: the gateway may have had to fetch.
    First,
    /// A later pass: the gateway had it all.
    Warm,
}

impl PassCache {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Warm => "warm",
        }
    }
}

/// One way of loading, medians over `samples`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadPass {
    pub mode: LoadMode,
    pub cache: PassCache,
    pub streams: u32,
    pub samples: u32,
    pub requests: u32,
    pub bytes: u64,
    /// Until the last byte was here.
    pub wall_ms: f64,
    /// Until the first shard was on the GPU.
    #[serde(default)]
    pub first_on_gpu_ms: Option<f64>,
    /// Until all were.
    #[serde(default)]
    pub all_on_gpu_ms: Option<f64>,
    #[serde(default)]
    pub p95_ms: Option<f64>,
    /// Every shard's SHA-256 is the one in the model's index, read back from the GPU for the first shard.
    pub verified: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shapes_of_the_sweep_are_workgroups() {
        assert_eq!("64x2x2".parse(), Ok(Workgroup::new(64, 2, 2)));
        for wrong in ["1024x1x1", "64x1", "064x1x1", "64x1x1 ", "-1x1x1", ""] {
            assert_eq!(wrong.parse::<Workgroup>(), Err(NoWorkgroup), "{wrong}");
        }
    }

    #[test]
    fn software_adapters_are_known_by_flag_or_by_name() {
        let named = |text: &str| Adapter { architecture: text.to_owned(), ..Adapter::default() };
        assert!(named("SwiftShader").is_software());
        assert!(Adapter { description: "llvmpipe (LLVM 15.0.6, 256 bits)".into(), ..Adapter::default() }.is_software());
        assert!(Adapter { is_fallback: Some(true), ..Adapter::default() }.is_software());
        assert!(Adapter { is_cpu: Some(true), ..Adapter::default() }.is_software());
        assert!(!named("ampere").is_software());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let text = r#"{"origin":"browser","browser":{"name":"X"},"duration_ms":1,"speed":"great"}"#;
        assert!(serde_json::from_str::<Submission>(text).is_err());
        let text = r#"{"origin":"live","browser":{"name":"X"},"duration_ms":1}"#;
        assert!(serde_json::from_str::<Submission>(text).is_err());
    }
}
