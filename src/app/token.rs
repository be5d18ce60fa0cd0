//! Admin tokens: one made anew at each start for commands on this machine, and a lasting one by file or environment.
//! The lasting one is kept only as its hash.

use std::path::Path;
use std::sync::Arc;

use rand::Rng;
use subtle::ConstantTimeEq;

use super::StartError;
use crate::config::TOKEN_VARIABLE;
use crate::ipld::HashCode;

/// Answers whether a bearer token is an admin's, in constant time.
pub type Check = Arc<dyn Fn(&str) -> bool + Send + Sync>;

pub struct AdminToken {
    local: String,
    accepted: Arc<Vec<Vec<u8>>>,
}

impl AdminToken {
    pub fn load(file: Option<&Path>) -> Result<Self, StartError> {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let local = hex::encode(bytes);
        let mut accepted = vec![hash(&local)];
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|error| StartError::Token { path: path.to_owned(), error })?;
            let text = text.trim();
            if text.len() < 16 {
                let error = std::io::Error::other("a token has at least 16 characters");
                return Err(StartError::Token { path: path.to_owned(), error });
            }
            accepted.push(hash(text));
        }
        if let Some(text) = std::env::var(TOKEN_VARIABLE).ok().filter(|text| !text.is_empty()) {
            accepted.push(hash(text.trim()));
        }
        Ok(Self { local, accepted: Arc::new(accepted) })
    }

    /// The token of this start, for the `api` file.
    pub fn local(&self) -> &str {
        &self.local
    }

    pub fn check(&self) -> Check {
        let accepted = self.accepted.clone();
        Arc::new(move |token| {
            let given = hash(token);
            // Every one is compared: the time does not tell which matched.
            accepted.iter().fold(subtle::Choice::from(0), |found, known| found | known.ct_eq(&given)).into()
        })
    }
}

fn hash(token: &str) -> Vec<u8> {
    // Local invariant: sha2-256 takes input of any length.
    HashCode::Sha2_256.digest(token.as_bytes()).map(|hash| hash.digest().to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_given_tokens_pass() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "a-lasting-token-of-mine\n").unwrap();
        let token = AdminToken::load(Some(&file)).unwrap();
        let check = token.check();
        assert!(check(token.local()) && check("a-lasting-token-of-mine"));
        assert!(!check("") && !check("a-lasting-token-of-min") && !check("0"));
    }

    #[test]
    fn a_short_lasting_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "1234").unwrap();
        assert!(AdminToken::load(Some(&file)).is_err());
    }
}
