//! `tidegate report`: from the running server's API, else from the data directory's database, which is only read.

use std::time::SystemTime;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;

use super::connection::Connection;
use super::error::say;
use super::{CliError, Common, Exit, ReportArgs};
use crate::config::{Overrides, Settings};
use crate::db::{self, Database};
use crate::report::{self, Format};

pub async fn report(common: &Common, args: ReportArgs) -> Result<(), CliError> {
    let format = if common.json { Format::Json } else { args.format };
    let text = match Connection::running(common).await? {
        Some(connection) => from_server(&connection, &args, format).await?,
        None => from_database(common, &args, format).await?,
    };
    match &args.output {
        Some(path) => tokio::fs::write(path, text).await.map_err(|error| CliError::file(path, &error)),
        // `say` ends the line itself.
        None => say(text.strip_suffix('\n').unwrap_or(&text)),
    }
}

async fn from_server(connection: &Connection, args: &ReportArgs, format: Format) -> Result<String, CliError> {
    let moments = [("since", args.since), ("until", args.until)];
    let moments = moments.into_iter().filter_map(|(name, moment)| Some((name, moment?.to_string())));
    let mut path = format!("reports/{}?format={format}", args.kind);
    for (name, value) in moments.chain(args.run.clone().map(|run| ("run", run))) {
        path.push_str(&format!("&{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)));
    }
    Ok(connection.send(connection.api(Method::GET, &path)).await?.text().await?)
}

async fn from_database(common: &Common, args: &ReportArgs, format: Format) -> Result<String, CliError> {
    let mut settings = Settings::load(common.config.as_deref(), &overrides()?).map_err(CliError::usage)?;
    settings.data_dir = common.data_dir.clone().or(settings.data_dir);
    let data_dir = settings.data_dir().map_err(CliError::usage)?;
    // `--database none` keeps no records: the report says that there are none.
    let url = settings.database.clone().filter(|url| url != "none");
    let config = db::Config { url, ..db::Config::default() };
    let unread = |error: &dyn std::fmt::Display| {
        CliError::new(Exit::Store, error)
            .hint("start a server once if another version wrote the database: it migrates it")
    };
    let database = Database::open_read_only(&config, &data_dir).await.map_err(|error| unread(&error))?;
    let facts = crate::topology::Facts {
        delegated_routers: settings.router.len(),
        dht: !settings.no_dht,
        offline: settings.offline,
    };
    let window = report::window(args.kind, args.since, args.until, SystemTime::now());
    let run = args.run.as_deref();
    let report = report::build(&database, args.kind, window, run, facts).await.map_err(|error| unread(&error))?;
    Ok(report::render(&report, format))
}

/// The `TIDEGATE_*` variables hold here as they do for `serve`.
fn overrides() -> Result<Overrides, CliError> {
    super::connection::from_environment()
}
