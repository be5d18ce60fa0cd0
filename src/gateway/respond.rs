//! One file per form of answer.

pub(super) mod car;
pub(super) mod directory;
pub(super) mod file;
pub(super) mod ipns_record;
pub(super) mod raw;
