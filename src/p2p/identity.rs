//! The node's key: an Ed25519 pair in `identity.key`, made once, readable by its owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use thiserror::Error;

/// The key's file in the data directory: libp2p's protobuf encoding of a private key.
pub const FILE: &str = "identity.key";

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path} is not a private key")]
    Malformed { path: PathBuf },
}

/// Reads the key, or makes one. It appears whole or not at all: written beside, synced, then linked to its name, so
/// that of two processes that start at once one wins and both read the same key.
pub fn load_or_create(data_dir: &Path) -> Result<Keypair, IdentityError> {
    let path = data_dir.join(FILE);
    let failed = |error| IdentityError::Io { path: path.clone(), error };
    match fs::read(&path) {
        Ok(bytes) => {
            let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                tracing::warn!(path = %path.display(), "identity key was readable by others; its mode is set to 0600");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
            }
            Keypair::from_protobuf_encoding(&bytes).map_err(|_| IdentityError::Malformed { path })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(data_dir).map_err(failed)?;
            create(data_dir, &path).map_err(failed)?;
            let bytes = fs::read(&path).map_err(failed)?;
            Keypair::from_protobuf_encoding(&bytes).map_err(|_| IdentityError::Malformed { path })
        }
        Err(error) => Err(failed(error)),
    }
}

fn create(data_dir: &Path, path: &Path) -> io::Result<()> {
    let key = Keypair::generate_ed25519().to_protobuf_encoding().map_err(io::Error::other)?;
    let temporary = data_dir.join(format!("{FILE}.{}.tmp", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_survives_a_restart_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = load_or_create(&data).unwrap();
        let second = load_or_create(&data).unwrap();
        assert_eq!(first.public(), second.public());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&data.join(FILE)), 0o600);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);

        fs::set_permissions(data.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        load_or_create(&data).unwrap();
        assert_eq!(mode(&data.join(FILE)), 0o600);
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"garbage").unwrap();
        assert!(matches!(load_or_create(dir.path()), Err(IdentityError::Malformed { .. })));
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), b"garbage");
    }

    #[test]
    fn of_many_that_start_at_once_all_get_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let first = load_or_create(&path).unwrap();
        create(&path, &path.join(FILE)).unwrap();
        assert_eq!(load_or_create(&path).unwrap().public(), first.public());
    }
}
