//! The gateway over a local store: through its router alone, and through a real listener with real clients.

mod car_and_raw;
pub mod denied;
mod denied_paths;
mod directories;
mod errors;
mod files;
mod formats;
mod limits;
mod listings;
mod musts;
mod origins;
mod over_libp2p;
mod proxy;
mod streams;
mod transport;
mod waiting;
mod warm;
pub mod world;
