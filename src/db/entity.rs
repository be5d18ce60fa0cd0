//! The tables as Rust types. A test compares them with the migrated schema on both engines.

pub mod acceleration_result;
pub mod content_item;
pub mod hardware_platform;
pub mod model;
pub mod network_metric;
pub mod peer;
pub mod peer_link;
pub mod placement;
pub mod retrieval_attempt;
pub mod retrieval_event;
pub mod rollup_hour;
pub mod rollup_minute;
pub mod test_result;
pub mod webgpu_metric;
