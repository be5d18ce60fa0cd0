//! Retrievals, their attempts and their traces.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use super::Part;

pub(super) fn parts() -> Vec<Part> {
    vec![
        Part {
            name: "ipfs_acceleration_results",
            table: ipfs_acceleration_results(),
            unique: &[],
            indexes: &[
                &["test_timestamp"],
                &["cid", "id"],
                &["outcome", "id"],
                &["source", "id"],
                &["policy", "id"],
                &["origin", "id"],
                &["cache_state", "id"],
                &["test_id"],
                &["model_id"],
                &["hardware_id"],
            ],
        },
        Part {
            name: "retrieval_attempts",
            table: retrieval_attempts(),
            unique: &[&["result_id", "ordinal"]],
            indexes: &[&["peer_id", "id"]],
        },
        Part {
            name: "retrieval_events",
            table: retrieval_events(),
            unique: &[&["result_id", "ordinal"]],
            indexes: &[],
        },
    ]
}

fn ipfs_acceleration_results() -> TableCreateStatement {
    Table::create()
        .table("ipfs_acceleration_results")
        .col(big_pk_auto("id"))
        .col(big_integer_null("test_id"))
        .col(big_integer_null("model_id"))
        .col(string("cid"))
        .col(string_null("source"))
        .col(double_null("transfer_time_ms"))
        .col(boolean("p2p_optimized"))
        .col(big_integer("peer_count"))
        .col(double_null("network_efficiency"))
        .col(double_null("optimization_score"))
        .col(double("load_time_ms"))
        .col(big_integer("test_timestamp"))
        .col(big_integer("started_at"))
        .col(string("path"))
        .col(string("origin"))
        .col(boolean("is_simulated"))
        .col(string_null("simulation_reason"))
        .col(double("sample_weight"))
        .col(string("policy"))
        .col(string_null("scenario"))
        .col(big_integer("bytes"))
        .col(big_integer("network_bytes"))
        .col(big_integer("blocks"))
        .col(big_integer("duplicate_bytes"))
        .col(double_null("ttfb_ms"))
        .col(double_null("routing_ms"))
        .col(double_null("connect_ms"))
        .col(big_integer("providers_found"))
        .col(big_integer("providers_attempted"))
        .col(string("outcome"))
        .col(string_null("error_kind"))
        .col(string_null("phase"))
        .col(big_integer_null("http_status"))
        .col(string_null("cache_state"))
        .col(big_integer_null("hardware_id"))
        .col(big_integer("events_dropped"))
        .foreign_key(&mut super::reference(
            ("ipfs_acceleration_results", "test_id"),
            ("test_results", "id"),
            ForeignKeyAction::SetNull,
        ))
        .foreign_key(&mut super::reference(
            ("ipfs_acceleration_results", "model_id"),
            ("models", "model_id"),
            ForeignKeyAction::SetNull,
        ))
        .foreign_key(&mut super::reference(
            ("ipfs_acceleration_results", "hardware_id"),
            ("hardware_platforms", "hardware_id"),
            ForeignKeyAction::SetNull,
        ))
        .take()
}

fn retrieval_attempts() -> TableCreateStatement {
    Table::create()
        .table("retrieval_attempts")
        .col(big_pk_auto("id"))
        .col(big_integer("result_id"))
        .col(big_integer("ordinal"))
        .col(string("peer_id"))
        .col(string_null("transport"))
        .col(string("router"))
        .col(double_null("connect_ms"))
        .col(double_null("first_byte_ms"))
        .col(big_integer("bytes"))
        .col(big_integer("blocks"))
        .col(big_integer("duplicate_bytes"))
        .col(big_integer("hedges"))
        .col(double_null("min_rtt_ms"))
        .col(double_null("max_rate_bps"))
        .col(string("outcome"))
        .col(string_null("error_kind"))
        .foreign_key(&mut super::reference(
            ("retrieval_attempts", "result_id"),
            ("ipfs_acceleration_results", "id"),
            ForeignKeyAction::Cascade,
        ))
        .take()
}

fn retrieval_events() -> TableCreateStatement {
    Table::create()
        .table("retrieval_events")
        .col(big_pk_auto("id"))
        .col(big_integer("result_id"))
        .col(big_integer("ordinal"))
        .col(big_integer("at_us"))
        .col(string("kind"))
        .col(string_null("peer_id"))
        .col(string_null("cid"))
        .col(big_integer_null("value"))
        .col(string_null("detail"))
        .foreign_key(&mut super::reference(
            ("retrieval_events", "result_id"),
            ("ipfs_acceleration_results", "id"),
            ForeignKeyAction::Cascade,
        ))
        .take()
}
