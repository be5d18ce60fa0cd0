//! Tidegate: an IPFS-compatible HTTP gateway whose fetch path is a P2P-optimised retriever.
//!
//! The layers, lowest first; a module uses only layers below its own (`tests/architecture.rs` holds it):
//!
//! | layer | modules |
//! |---|---|
//! | L0 | [`ipld`] |
//! | L1 | [`blockstore`] [`denylist`] [`routing`] [`exchange`] [`record`] [`stats`] [`supervisor`] [`telemetry`] [`listener`] [`units`] |
//! | L2 | [`p2p`] [`http_peer`] [`db`] |
//! | L3 | [`retriever`] [`names`] |
//! | L4a | [`dag`] [`topology`] [`webgpu`] |
//! | L4b | [`checkpoint`] [`explain`] [`report`] |
//! | L5 | [`gateway`] [`api`] [`dashboard`] |
//! | L6 | [`config`] [`app`] [`accelerator`] [`cli`] |

pub mod ipld;

pub mod blockstore;
pub mod denylist;
pub mod exchange;
pub mod listener;
pub mod record;
pub mod routing;
pub mod stats;
pub mod supervisor;
pub mod telemetry;
pub mod units;

pub mod db;
pub mod http_peer;
pub mod p2p;

pub mod names;
pub mod retriever;

pub mod dag;
pub mod topology;
pub mod webgpu;

pub mod checkpoint;
pub mod explain;
pub mod report;

pub mod api;
pub mod dashboard;
pub mod gateway;

pub mod accelerator;
pub mod app;
pub mod cli;
pub mod config;

pub use accelerator::Accelerator;
