//! `tidegate serve`: build, announce, wait for a signal, stop.

use std::io::Write;

use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Common};
use crate::app::{App, Mode};
use crate::config::{Overrides, Settings};

pub async fn serve(common: &Common, overrides: &Overrides) -> Result<(), CliError> {
    let mut settings = Settings::load(common.config.as_deref(), overrides).map_err(CliError::usage)?;
    if common.data_dir.is_some() {
        settings.data_dir.clone_from(&common.data_dir);
    }
    let stopped = |error: std::io::Error| CliError::failed(format!("signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(stopped)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(stopped)?;
    let app = App::start(settings, Mode::Server).await.map_err(CliError::from)?;
    println!("{}", app.ready_line());
    // A closed standard output is no reason to stop serving.
    let _ = std::io::stdout().flush();
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    // A second signal means now.
    tokio::select! {
        () = app.stop() => {}
        _ = terminate.recv() => tracing::warn!("second signal: stopping at once"),
        _ = interrupt.recv() => tracing::warn!("second signal: stopping at once"),
    }
    Ok(())
}
