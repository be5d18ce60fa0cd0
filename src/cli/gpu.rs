//! `tidegate gpu`: the WebGPU lab without a browser.

#[cfg(feature = "gpu")]
use super::connection::Connection;
#[cfg(feature = "gpu")]
use super::error::{printable, say};
use super::{CliError, Common, GpuCommand};

/// Built without wgpu there is nothing to run, and the command says how to get it.
#[cfg(not(feature = "gpu"))]
pub async fn gpu(_: &Common, command: GpuCommand) -> Result<(), CliError> {
    let what = match command {
        GpuCommand::Info => "gpu info",
        GpuCommand::Bench { .. } => "gpu bench",
    };
    Err(CliError::usage(format!("this build has no `{what}`: it was made without wgpu"))
        .hint("build it with `cargo build --release --features gpu`; browsers run the lab without it, at /webgpu"))
}

#[cfg(feature = "gpu")]
pub async fn gpu(common: &Common, command: GpuCommand) -> Result<(), CliError> {
    match command {
        GpuCommand::Info => info(common),
        GpuCommand::Bench { submit } => bench(common, submit).await,
    }
}

#[cfg(feature = "gpu")]
fn info(common: &Common) -> Result<(), CliError> {
    let adapters = crate::webgpu::native::adapters();
    if common.json {
        return say(serde_json::to_string(&adapters).map_err(CliError::failed)?);
    }
    if adapters.is_empty() {
        return Err(no_adapter("no Vulkan adapter was found"));
    }
    for adapter in adapters {
        let software = if adapter.is_software() { "  software" } else { "" };
        let line = format!("{}  {}  {}{software}", adapter.description, adapter.backend, adapter.driver);
        say(printable(&line))?;
        say(format_args!("  features: {}", adapter.features.join(" ")))?;
    }
    Ok(())
}

#[cfg(feature = "gpu")]
fn no_adapter(message: &str) -> CliError {
    CliError::failed(message)
        .hint("install the GPU's Vulkan driver, or a software one (Debian: libvulkan1 mesa-vulkan-drivers)")
}

#[cfg(feature = "gpu")]
async fn bench(common: &Common, submit: bool) -> Result<(), CliError> {
    use crate::webgpu::{FailureKind, Submission, native};

    let quiet = common.json;
    let run: Submission = tokio::task::block_in_place(|| {
        native::run(|what| {
            if !quiet {
                eprintln!("measuring {what}");
            }
        })
    });
    run.check().map_err(|error| CliError::failed(format!("the run contradicts itself: {error}")))?;
    let stored = if submit { Some(post(common, &run).await?) } else { None };
    if common.json {
        say(serde_json::json!({ "run": run, "stored": stored }))?;
    } else {
        print(&run)?;
        if let Some(stored) = &stored {
            say(format_args!("stored as run {}", stored["test_id"]))?;
        }
    }
    match &run.failure {
        Some(failure) if failure.kind == FailureKind::NoAdapter => Err(no_adapter(&failure.message)),
        Some(failure) => Err(CliError::failed(&failure.message)),
        None => Ok(()),
    }
}

/// Rows are kept by a running server; one inside this command would keep none.
#[cfg(feature = "gpu")]
async fn post(common: &Common, run: &crate::webgpu::Submission) -> Result<serde_json::Value, CliError> {
    use reqwest::Method;

    let none =
        || CliError::failed("no server runs on this data directory").hint("start `tidegate serve`, then try again");
    let connection = Connection::running(common).await?.ok_or_else(none)?;
    let token: serde_json::Value = connection.json(connection.api(Method::POST, "webgpu/runs")).await?;
    let body = serde_json::json!({ "token": token["token"], "run": run });
    let answer = connection.json(connection.api(Method::POST, "webgpu/results").json(&body)).await;
    connection.close().await;
    answer
}

#[cfg(feature = "gpu")]
fn print(run: &crate::webgpu::Submission) -> Result<(), CliError> {
    let time = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}"));
    if let Some(adapter) = &run.adapter {
        let software = if adapter.is_software() { "  (software: these are no times of a GPU)" } else { "" };
        say(printable(&format!("{}  {}{software}", adapter.description, adapter.backend)))?;
    }
    for row in &run.start {
        let (mode, first, next) = (row.mode.as_str(), time(Some(row.first_ms)), time(row.next_ms));
        say(format_args!("first inference {mode:<12} {first:>10} ms, the next {next} ms"))?;
    }
    for row in &run.compile {
        let (mode, n) = (row.mode.as_str(), row.pipelines);
        say(format_args!("{n} pipelines {mode:<11} {:>10} ms", time(Some(row.pipeline_ms))))?;
    }
    say(format_args!("{:<10} {:<8} {:>12} {:>10} {:>10}  max error", "workload", "group", "median ms", "p95", "gpu"))?;
    for row in &run.compute {
        let error = row.max_error.map_or_else(|| "-".to_owned(), |error| format!("{error:.1e}"));
        let mark = if row.verified { "" } else { "  NOT VERIFIED" };
        say(format_args!(
            "{:<10} {:<8} {:>12} {:>10} {:>10}  {error}{mark}",
            row.workload.as_str(),
            row.workgroup.to_string(),
            time(row.median_ms),
            time(row.p95_ms),
            time(row.gpu_ms),
        ))?;
    }
    Ok(())
}
