//! `token create|ls|revoke`: tokens of the REST API, through it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};

use super::connection::{Connection, Network};
use super::error::{printable, say};
use super::{CliError, Common, Exit, TokenCommand};

pub async fn token(common: &Common, command: TokenCommand) -> Result<(), CliError> {
    let connection = Connection::open(common, Network::Local).await?;
    let result = match command {
        TokenCommand::Create { scope, name, expires } => create(common, &connection, &scope, &name, expires).await,
        TokenCommand::Ls => list(common, &connection).await,
        TokenCommand::Revoke { token } => revoke(common, &connection, &token).await,
    };
    connection.close().await;
    result
}

/// The token alone on stdout, so that it can be taken by a script.
async fn create(
    common: &Common,
    connection: &Connection,
    scope: &str,
    name: &str,
    expires: Option<Duration>,
) -> Result<(), CliError> {
    let asked = json!({ "name": name, "scope": scope, "expires_s": expires.map(|life| life.as_secs()) });
    let made: Value = connection.json(connection.api(Method::POST, "tokens").json(&asked)).await?;
    if common.json {
        return say(made);
    }
    eprintln!("this token is shown once; `tidegate token revoke {}` ends it", text(&made, "id"));
    say(text(&made, "token"))
}

async fn list(common: &Common, connection: &Connection) -> Result<(), CliError> {
    let now = SystemTime::now();
    for token in all(connection).await? {
        if common.json {
            say(&token)?;
            continue;
        }
        let when =
            |name: &str| token.get(name).and_then(Value::as_u64).map(|us| UNIX_EPOCH + Duration::from_micros(us));
        let used = match when("last_used_us") {
            Some(at) => format!("used {} ago", rough(now.duration_since(at).unwrap_or_default())),
            None => "never used".to_owned(),
        };
        let end = match when("expires_us").map(|at| at.duration_since(now)) {
            Some(Ok(left)) => format!("ends in {}", rough(left)),
            Some(Err(_)) => "expired".to_owned(),
            None => "does not end".to_owned(),
        };
        let (id, scope, name) = (text(&token, "id"), text(&token, "scope"), text(&token, "name"));
        say(format_args!("{id}  {scope:7}  {used}  {end}  {}", printable(name)))?;
    }
    Ok(())
}

async fn revoke(common: &Common, connection: &Connection, wanted: &str) -> Result<(), CliError> {
    let tokens = all(connection).await?;
    // A name may look like an id: the id counts first.
    let found = tokens.iter().find(|token| text(token, "id") == wanted);
    let Some(found) = found.or_else(|| tokens.iter().find(|token| text(token, "name") == wanted)) else {
        return Err(CliError::new(Exit::NotFound, format!("no token has the id or name {wanted:?}"))
            .hint("`tidegate token ls` lists them"));
    };
    let id = text(found, "id");
    connection.send(connection.api(Method::DELETE, &format!("tokens/{id}"))).await?;
    if common.json { say(json!({ "id": id })) } else { say(id) }
}

async fn all(connection: &Connection) -> Result<Vec<Value>, CliError> {
    let (mut tokens, mut path) = (Vec::new(), "tokens?limit=500".to_owned());
    loop {
        let page: Value = connection.json(connection.api(Method::GET, &path)).await?;
        tokens.extend(page.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(cursor) => path = format!("tokens?limit=500&cursor={cursor}"),
            None => return Ok(tokens),
        }
    }
}

fn text<'a>(token: &'a Value, name: &str) -> &'a str {
    token.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// To the minute, or to the second under one.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    let rounded = if seconds >= 60 { seconds / 60 * 60 } else { seconds };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}
