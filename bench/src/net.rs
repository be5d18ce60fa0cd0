//! Networks of the run's own: namespaces without names, joined by emulated links. Nothing of them outlives the process.

pub mod emulator;
pub mod link;
pub mod namespace;
pub mod star;
