//! One binary for all integration tests: they link once.

mod accelerator;
mod api;
mod blockstore;
mod cli;
mod dag;
mod db;
mod discovery;
mod gateway;
mod names;
mod p2p;
mod retriever;
