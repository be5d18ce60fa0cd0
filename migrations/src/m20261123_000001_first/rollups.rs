//! Exact counts by minute and by hour.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use super::Part;

pub(super) fn parts() -> Vec<Part> {
    vec![
        Part {
            name: "rollups_minute",
            table: rollups_minute(),
            unique: &[&["bucket_start", "process", "dimension", "value"]],
            indexes: &[&["rolled", "bucket_start"]],
        },
        Part {
            name: "rollups_hour",
            table: rollups_hour(),
            unique: &[&["bucket_start", "dimension", "value"]],
            indexes: &[],
        },
    ]
}

fn rollups_minute() -> TableCreateStatement {
    let mut table = Table::create()
        .table("rollups_minute")
        .col(big_pk_auto("id"))
        .col(big_integer("bucket_start"))
        .col(big_integer("bucket_width_s"))
        .col(big_integer("process"))
        .col(string("dimension"))
        .col(string("value"))
        .col(boolean("rolled"))
        .take();
    counts(&mut table);
    table
}

fn rollups_hour() -> TableCreateStatement {
    let mut table = Table::create()
        .table("rollups_hour")
        .col(big_pk_auto("id"))
        .col(big_integer("bucket_start"))
        .col(big_integer("bucket_width_s"))
        .col(string("dimension"))
        .col(string("value"))
        .take();
    counts(&mut table);
    table
}

/// Counts, bytes, times in microseconds; a mean needs its sum and its n, so both are kept.
const COUNTS: &[&str] = &[
    "requests",
    "complete",
    "truncated",
    "client_aborted",
    "not_found",
    "timeout",
    "denied",
    "error",
    "hits_memory",
    "hits_disk",
    "hits_store",
    "partial",
    "misses",
    "bytes_served",
    "bytes_memory",
    "bytes_disk",
    "bytes_store",
    "bytes_partial",
    "bytes_miss",
    "bytes_network",
    "duplicate_bytes",
    "transfers_completed",
    "transfers_failed",
    "transfers_measured",
    "transfer_bytes",
    "transfer_time_us",
    "attempts_delivered",
    "attempts_failed",
    "attempts_neutral",
    "routed",
    "routed_slowly",
    "scored_transfers",
    "scored_time_us",
    "bound_time_us",
];

fn counts(table: &mut TableCreateStatement) {
    for name in COUNTS {
        table.col(big_integer(*name));
    }
    for name in ["score_bytes", "score_sum"] {
        table.col(double(name));
    }
    // `bucket:count` pairs; the bucket of a time in microseconds is logarithmic with 8 steps a doubling.
    for name in ["ttfb_histogram", "load_histogram", "transfer_histogram", "routing_histogram"] {
        table.col(string(name));
    }
}
