//! L4a: graphs over blocks. Paths, files, directories and CARs as streams over a [`Session`](crate::retriever::Session);
//! import into and export from a local store.
//!
//! Everything here is iterative and pulled by its consumer: a hostile graph (deep, wide, self-similar) costs bounded
//! memory, and nothing is fetched beyond the session's read-ahead while the consumer rests.

pub mod archive;
pub mod car_stream;
pub mod directory;
pub mod export;
pub mod import;
mod places;
pub mod reader;
pub mod resolver;
mod seen;
pub mod walk;

pub use car_stream::{ByteWindow, CarError, CarParams, CarStream, DagScope};
pub use directory::{DirectoryError, Entries, Entry};
pub use reader::{FileReader, ReadError};
pub use resolver::{NodeKind, ResolveError, Resolved, ResolvedCid, resolve, resolve_cid, resolve_from};
pub use walk::{Follow, Visit, Walk, WalkError, WalkOptions};

/// The deepest graph that is followed, in nodes from the root (DESIGN.md §8).
pub const MAX_DEPTH: usize = 1024;
