//! L2: what we ask of others over HTTP: routers for providers and names, providers for blocks.

pub mod delegated;
pub mod endpoint;
pub mod guard;
pub mod merged;
pub mod routing_v1;
pub mod trustless;
