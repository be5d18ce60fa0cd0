//! The gateway over a local store: through its router alone, and through a real listener with real clients.

mod car_and_raw;
mod denied;
mod directories;
mod errors;
mod files;
mod formats;
mod listings;
mod origins;
mod proxy;
mod streams;
mod transport;
mod warm;
pub mod world;
