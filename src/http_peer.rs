//! L2: what we ask of others over HTTP.

pub mod delegated;
pub mod routing_v1;
