//! Settings of the block store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// Where blocks rest and how much of them.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Memory for hot blocks, in bytes, their bookkeeping included. Default 128MiB. Raise it when the memory tier's hit
    /// rate is low and there is memory to spare. 0: no memory tier.
    pub memory: ByteSize,
    /// Disk for fetched blocks under `DATA_DIR/cache`, in bytes. Default 10GiB. Sizes below 16MiB count as 16MiB.
    /// 0: no disk cache, and the files of an earlier one are removed.
    pub disk: ByteSize,
    /// Fetched blocks that may wait in memory to be written to the disk cache, in bytes. Default 32MiB. When it is full,
    /// further blocks are not cached on disk and are counted. 0: nothing waits, so nothing is cached on disk.
    pub disk_queue: ByteSize,
    /// Threads that read, verify, write and sync durable blocks at a time, each for reads and for writes. Default 8.
    /// Raise it on disks that profit from deep queues. 0 counts as 1.
    pub io_threads: usize,
    /// How fast `scrub` reads, in bytes a second. Default 64MiB. 0: as fast as the disk allows.
    pub scrub_rate: ByteSize,
    /// How long `gc` waits for running adds before it says that it is busy. Default 30s. 0: not at all.
    #[serde(with = "humantime_serde")]
    pub gc_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(128),
            disk: ByteSize::gib(10),
            disk_queue: ByteSize::mib(32),
            io_threads: 8,
            scrub_rate: ByteSize::mib(64),
            gc_wait: Duration::from_secs(30),
        }
    }
}
