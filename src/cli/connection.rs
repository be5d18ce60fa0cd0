//! How a command reaches a server: the running one of the data directory, or one of its own for as long as it runs.
//!
//! A server writes `DATA_DIR/api` (mode 0600) with the addresses of both listeners and an admin token. When there is
//! none, the command starts the same server inside itself on loopback, without a metrics database, and talks to that:
//! both ways give the same answers.

use std::path::Path;
use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::remote_store::RemoteStore;
use super::{CliError, Common, Exit};
use crate::app::{ApiFile, App, Mode};
use crate::config::{Overrides, Settings, data_dir};

/// Whether the command may need peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Only what is local: the embedded server starts without a node.
    Local,
    /// Content may have to be fetched.
    Peers,
}

pub struct Connection {
    pub http: reqwest::Client,
    pub gateway: String,
    pub admin: String,
    token: String,
    /// The server inside this process, when none was running.
    embedded: Option<App>,
}

impl Connection {
    pub async fn open(common: &Common, network: Network) -> Result<Self, CliError> {
        if let Some(connection) = Self::running(common).await? {
            return Ok(connection);
        }
        let dir = data_dir(common.data_dir.as_deref()).map_err(CliError::usage)?;
        let http = client()?;
        let mut settings = Settings::load(common.config.as_deref(), &from_environment()?).map_err(CliError::usage)?;
        settings.data_dir = Some(dir);
        settings.offline |= network == Network::Local;
        let app = App::start(settings, Mode::Embedded).await.map_err(CliError::from)?;
        let api = app.api_file().clone();
        Ok(Self { http, gateway: api.gateway, admin: api.admin, token: api.token, embedded: Some(app) })
    }

    /// The running server of the data directory; `None` when there is none.
    pub async fn running(common: &Common) -> Result<Option<Self>, CliError> {
        let dir = data_dir(common.data_dir.as_deref()).map_err(CliError::usage)?;
        let http = client()?;
        let api = running(&dir, &http).await;
        Ok(api.map(|api| Self { http, gateway: api.gateway, admin: api.admin, token: api.token, embedded: None }))
    }

    /// Ends the embedded server, if there is one.
    pub async fn close(self) {
        if let Some(app) = self.embedded {
            app.stop().await;
        }
    }

    /// A request to the REST API, with the token.
    pub fn api(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1/{path}", self.admin)).bearer_auth(&self.token)
    }

    /// A request to the gateway, with the token so that `policy` counts.
    pub fn content(&self, path_and_query: &str) -> RequestBuilder {
        self.http.get(format!("{}{path_and_query}", self.gateway)).bearer_auth(&self.token)
    }

    /// The gateway's raw blocks as a store.
    pub fn remote_store(&self, policy: Option<crate::record::Policy>) -> RemoteStore {
        RemoteStore::new(self.http.clone(), &self.gateway, &self.token, policy)
    }

    /// How many peers are connected, when the server says.
    pub async fn connected_peers(&self) -> Option<u64> {
        let stats: serde_json::Value = self.json(self.api(reqwest::Method::GET, "p2p/peers?limit=500")).await.ok()?;
        Some(stats.get("items")?.as_array()?.len() as u64)
    }

    /// Sends, and turns an error answer into an error with the server's words.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let response = request.header(reqwest::header::ACCEPT, "*/*").send().await.map_err(unreachable_server)?;
        checked(response).await
    }

    pub async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CliError> {
        let text = self.send(request).await?.text().await?;
        serde_json::from_str(&text)
            .map_err(|error| CliError::failed(format!("the server's answer is not understood: {error}")))
    }
}

fn client() -> Result<reqwest::Client, CliError> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::limited(3))
        .user_agent(concat!("tidegate-cli/", env!("CARGO_PKG_VERSION")))
        // Servers with --tls-cert are addressed by 127.0.0.1, which their certificate seldom names; the token in the
        // 0600 file is what proves the server.
        .danger_accept_invalid_certs(true)
        .build()
        .map_err(CliError::failed)
}

/// The server that owns the data directory, when one answers.
async fn running(dir: &Path, http: &reqwest::Client) -> Option<ApiFile> {
    let api = ApiFile::read(dir)?;
    let health = http.get(format!("{}/healthz", api.admin)).timeout(Duration::from_secs(3)).send().await.ok()?;
    (health.status() == StatusCode::OK).then_some(api)
}

/// The `TIDEGATE_*` variables hold for the embedded server as they do for `serve`.
pub(super) fn from_environment() -> Result<Overrides, CliError> {
    use clap::{Args, FromArgMatches};
    let command = Overrides::augment_args(clap::Command::new("tidegate"));
    let matches = command.try_get_matches_from(["tidegate"]).map_err(CliError::usage)?;
    Overrides::from_arg_matches(&matches).map_err(CliError::usage)
}

fn unreachable_server(error: reqwest::Error) -> CliError {
    if error.is_timeout() {
        return CliError::new(Exit::TimedOut, "the time given by --timeout is over");
    }
    CliError::failed(format!("the server cannot be reached: {error}"))
        .hint("is it still running? see `tidegate doctor`")
}

/// An answer that is no error.
pub async fn checked(response: Response) -> Result<Response, CliError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let field = |name: &str| problem.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let detail = field("detail").or_else(|| field("title")).unwrap_or_else(|| {
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() { format!("the server answered {status}") } else { format!("{status}: {line}") }
    });
    let error = CliError::from_status(status.as_u16(), detail);
    Err(match field("hint").or_else(|| field("next")) {
        Some(hint) => error.hint(hint),
        None => error,
    })
}
