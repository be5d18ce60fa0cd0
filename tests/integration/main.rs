//! One binary for all integration tests: they link once.

mod accelerator;
mod api;
mod blockstore;
mod cli;
mod dag;
mod db;
mod denied;
mod discovery;
mod explain;
mod gateway;
mod http_peer;
mod names;
mod network_pages;
mod p2p;
mod reports;
mod retriever;
mod test_app;
