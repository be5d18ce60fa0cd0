//! Logs and the one metrics registry.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::{Metric, Registry};
use tracing_subscriber::EnvFilter;

/// The process's metrics, behind one lock that is taken only at registration and at scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::with_prefix("tidegate"))) }
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a metric under `tidegate_<name>` and returns the handle to count with.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.with(|registry| registry.register(name, help, metric.clone()));
        metric
    }

    /// The registry itself, for libraries that register their own.
    pub fn with<R>(&self, f: impl FnOnce(&mut Registry) -> R) -> R {
        f(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The OpenMetrics text that `/metrics` answers.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let encoded = self.with(|registry| prometheus_client::encoding::text::encode(&mut text, registry));
        if encoded.is_err() {
            text.clear();
            let _ = write!(text, "# metrics could not be encoded\n# EOF\n");
        }
        text
    }
}

/// The content type of [`Metrics::encode`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Logs to stderr: `RUST_LOG` chooses what, `NO_COLOR` and a pipe turn colours off.
pub fn init_logging(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).try_init();
}
