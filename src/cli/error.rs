//! How commands fail: the exit code, what happened, and what to do next.

use std::fmt;
use std::io::Write;

use crate::units::visible;

/// DESIGN.md §8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    TimedOut = 4,
    Refused = 5,
    Store = 6,
}

#[derive(Debug)]
pub struct CliError {
    pub exit: Exit,
    pub message: String,
    /// The next step, when there is one.
    pub hint: Option<String>,
}

impl CliError {
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), hint: None }
    }

    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file or folder of the user's that could not be read or written.
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        Self::new(if full { Exit::Store } else { Exit::Failed }, format!("{}: {error}", path.display()))
    }

    /// What an HTTP status of ours means as an exit code. The detail is the server's own words.
    pub fn from_status(status: u16, detail: String) -> Self {
        let exit = match status {
            400 | 406 | 413 | 415 => Exit::Usage,
            404 | 412 | 502 => Exit::NotFound,
            408 | 504 => Exit::TimedOut,
            401 | 403 | 410 | 451 => Exit::Refused,
            507 => Exit::Store,
            _ => Exit::Failed,
        };
        Self::new(exit, detail)
    }

    pub fn print(&self, json: bool) {
        let mut stderr = std::io::stderr().lock();
        if json {
            let object = serde_json::json!({ "error": self.message, "hint": self.hint, "exit": self.exit as u8 });
            let _ = writeln!(stderr, "{object}");
            return;
        }
        let _ = writeln!(stderr, "error: {}", lines(&self.message));
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "  {}", lines(hint));
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<reqwest::Error> for CliError {
    fn from(error: reqwest::Error) -> Self {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let exit = if error.is_timeout() { Exit::TimedOut } else { Exit::Failed };
        Self::new(exit, format!("the server's answer broke off: {cause}"))
            .hint("run the command again; `get` goes on where it stopped")
    }
}

impl From<crate::app::StartError> for CliError {
    fn from(error: crate::app::StartError) -> Self {
        use crate::app::StartError;
        use crate::blockstore::StoreError;
        let text = error.to_string();
        match error {
            StartError::Config(_) => Self::usage(text),
            StartError::Store(StoreError::Locked { .. }) => Self::failed(text)
                .hint("a server owns this data directory but does not answer; stop it, or give another --data-dir"),
            StartError::Store(StoreError::Full { .. }) => {
                Self::new(Exit::Store, text).hint("free space on that disk and start again")
            }
            StartError::Store(_) | StartError::DataDir { .. } => Self::new(Exit::Store, text),
            StartError::Bind { .. } => {
                Self::failed(text).hint("another program has the port: give another one, or port 0 for a free one")
            }
            StartError::Names(_)
            | StartError::Dns(_)
            | StartError::SubdomainHost(_)
            | StartError::Denylist(_)
            | StartError::Token { .. }
            | StartError::Tls(_)
            | StartError::HttpPeer(_)
            | StartError::Router(_) => Self::usage(text),
            StartError::Node(_) => Self::failed(text),
        }
    }
}

/// One line on standard output. A reader that went away (`| head`) is no error; a full disk is.
pub fn say(line: impl fmt::Display) -> Result<(), CliError> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::file(std::path::Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}

/// A name or message from elsewhere, on a line of its own: it must not steer the terminal, and not make up another line
/// (CVE-2020-26283).
pub fn printable(text: &str) -> String {
    visible(text)
}

/// A message of ours, which may have several lines.
fn lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\\u{1b}[2Jb\\u{202e}c");
        assert_eq!(printable("a\nbafyfake 1 b"), "a\\u{a}bafyfake 1 b");
        assert_eq!(lines("a\n\u{1b}b"), "a\n\\u{1b}b");
        assert_eq!(printable("größe 1"), "größe 1");
    }

    #[test]
    fn statuses_become_the_exit_codes_of_the_contract() {
        let exit = |status| CliError::from_status(status, String::new()).exit;
        assert_eq!(exit(404), Exit::NotFound);
        assert_eq!(exit(504), Exit::TimedOut);
        assert_eq!(exit(451), Exit::Refused);
        assert_eq!(exit(507), Exit::Store);
        assert_eq!(exit(400), Exit::Usage);
        assert_eq!(exit(500), Exit::Failed);
    }
}
