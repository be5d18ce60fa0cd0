//! One file per form of answer.

pub(super) mod archive;
mod bytes;
pub(super) mod car;
pub(super) mod codec;
pub(super) mod dag_page;
pub(super) mod directory;
pub(super) mod file;
pub(super) mod ipns_record;
mod multipart;
pub(super) mod raw;
pub(super) mod redirects;
