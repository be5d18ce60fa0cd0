//! The counts survive a clean stop in `blocks/counts`, and the file's absence says that they must be taken anew.
//!
//! The file is removed, and its removal synced, before the first change; so whatever a crash interrupts, counts that no
//! longer hold cannot be read back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use super::super::StoreError;

const FILE: &str = "counts";
const FORMAT: &str = "tidegate-block-counts-1";

#[derive(Debug, Default)]
pub(super) struct Changes {
    state: RwLock<State>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    /// The counts on disk may be there and hold.
    #[default]
    Clean,
    Changed,
    Closed,
}

impl Changes {
    /// Runs a change of files and counts; [`Changes::close`] waits for it.
    pub(super) fn change<T>(&self, root: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            match *state {
                State::Closed => return Err(StoreError::Closed),
                State::Changed => return Ok(work()),
                State::Clean => {}
            }
            drop(state);
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if *state == State::Clean {
                forget(root).map_err(|error| StoreError::at(&root.join(FILE), error))?;
                *state = State::Changed;
            }
        }
    }

    /// Ends all changes and writes the counts, if they are known.
    pub(super) fn close(&self, root: &Path, counts: impl FnOnce() -> Option<(u64, u64)>) -> Result<(), StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Closed {
            return Ok(());
        }
        let changed = *state == State::Changed;
        *state = State::Closed;
        match counts() {
            Some(counts) if changed || !root.join(FILE).exists() => {
                write(root, counts).map_err(|error| StoreError::at(&root.join(FILE), error))
            }
            _ => Ok(()),
        }
    }
}

/// Blocks and bytes at the last clean close.
pub(super) fn read(root: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(root.join(FILE)).ok()?;
    let mut words = text.split_ascii_whitespace();
    if words.next()? != FORMAT {
        return None;
    }
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn forget(root: &Path) -> io::Result<()> {
    match fs::remove_file(root.join(FILE)) {
        Ok(()) => File::open(root)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn write(root: &Path, (blocks, bytes): (u64, u64)) -> io::Result<()> {
    let temp = root.join(super::write::TEMP).join(FILE);
    let written = (|| {
        let mut file = File::create(&temp)?;
        writeln!(file, "{FORMAT} {blocks} {bytes}")?;
        file.sync_all()?;
        fs::rename(&temp, root.join(FILE))?;
        File::open(root)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written
}
