//! A data directory has one owner at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::Path;

use super::StoreError;

const FILE: &str = "lock";

/// Holds `DATA_DIR/lock` by `flock(2)`: the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes the lock, or says at once that another process has it. Makes the directory if it is missing.
    ///
    /// On a read-only file system without a lock file the directory itself is locked, so reading commands still work.
    pub fn acquire(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        if let Err(error) = fs::create_dir_all(data_dir) {
            return Err(StoreError::at(data_dir, error));
        }
        let (mut file, writable) = open(data_dir, &path).map_err(|error| StoreError::at(&path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: data_dir.display().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::at(&path, error)),
        }
        if writable {
            // The number is for people; a full disk must not keep a server from starting.
            let _ =
                file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        }
        Ok(Self { _file: file })
    }

    /// The process that took the lock last, as it wrote itself down; it may have ended since.
    pub fn owner(data_dir: &Path) -> Option<u32> {
        fs::read_to_string(data_dir.join(FILE)).ok()?.trim().parse().ok()
    }
}

fn open(data_dir: &Path, path: &Path) -> io::Result<(File, bool)> {
    match OpenOptions::new().create(true).truncate(false).write(true).read(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::ENOSPC)) => {
            Ok((File::open(path).or_else(|_| File::open(data_dir))?, false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDirLock::acquire(dir.path()).unwrap();
        assert!(matches!(DataDirLock::acquire(dir.path()), Err(StoreError::Locked { .. })));
        assert_eq!(DataDirLock::owner(dir.path()), Some(std::process::id()));
        drop(first);
        DataDirLock::acquire(dir.path()).unwrap();
    }
}
