//! Snapshots, peers, links, content and placements.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use super::Part;

pub(super) fn parts() -> Vec<Part> {
    vec![
        Part {
            name: "p2p_network_metrics",
            table: p2p_network_metrics(),
            unique: &[],
            indexes: &[&["test_timestamp"], &["ipfs_result_id"]],
        },
        Part {
            name: "peers",
            table: peers(),
            unique: &[&["peer_id"]],
            indexes: &[&["last_seen", "id"], &["bytes_in", "id"]],
        },
        Part {
            name: "peer_links",
            table: peer_links(),
            unique: &[&["a", "b", "kind"]],
            indexes: &[&["b"], &["last_seen"]],
        },
        Part {
            name: "content_items",
            table: content_items(),
            unique: &[&["cid"]],
            indexes: &[&["last_request"], &["requests_decayed"]],
        },
        Part {
            name: "placements",
            table: placements(),
            unique: &[],
            indexes: &[&["cid"], &["target_peer"], &["state"]],
        },
    ]
}

fn p2p_network_metrics() -> TableCreateStatement {
    Table::create()
        .table("p2p_network_metrics")
        .col(big_pk_auto("id"))
        .col(big_integer_null("ipfs_result_id"))
        .col(big_integer("peer_count"))
        .col(big_integer_null("known_content_items"))
        .col(big_integer("transfers_completed"))
        .col(big_integer("transfers_failed"))
        .col(big_integer("bytes_transferred"))
        .col(double_null("average_transfer_speed"))
        .col(double_null("network_efficiency"))
        .col(double_null("network_density"))
        .col(double_null("average_connections"))
        .col(double_null("optimization_score"))
        .col(string("optimization_rating"))
        .col(string("network_health"))
        .col(big_integer("test_timestamp"))
        .col(double("window_s"))
        .col(big_integer_null("diameter"))
        .col(big_integer_null("components"))
        .col(double_null("clustering"))
        .col(double_null("median_rtt_ms"))
        .col(double_null("p95_rtt_ms"))
        .col(double_null("median_rate_bps"))
        .col(double_null("cache_hit_ratio"))
        .foreign_key(&mut super::reference(
            ("p2p_network_metrics", "ipfs_result_id"),
            ("ipfs_acceleration_results", "id"),
            ForeignKeyAction::SetNull,
        ))
        .take()
}

fn peers() -> TableCreateStatement {
    Table::create()
        .table("peers")
        .col(big_pk_auto("id"))
        .col(string("peer_id"))
        .col(string_null("agent"))
        .col(string_null("protocols"))
        .col(string_null("addrs"))
        .col(big_integer("first_seen"))
        .col(big_integer("last_seen"))
        .col(boolean("connected"))
        .col(string_null("transport"))
        .col(double_null("rtt_ms"))
        .col(double_null("rate_bps"))
        .col(big_integer("bytes_in"))
        .col(big_integer_null("bytes_out"))
        .col(big_integer("blocks_in"))
        .col(big_integer("attempts"))
        .col(big_integer("delivered"))
        .col(big_integer("failures"))
        .col(big_integer("strikes"))
        .col(string_null("coordinates"))
        .col(string_null("source"))
        .col(string_null("region_cluster"))
        .take()
}

fn peer_links() -> TableCreateStatement {
    Table::create()
        .table("peer_links")
        .col(big_pk_auto("id"))
        .col(string("a"))
        .col(string("b"))
        .col(string("kind"))
        .col(double_null("rtt_ms"))
        .col(double_null("rate_bps"))
        .col(string_null("observed_by"))
        .col(big_integer("first_seen"))
        .col(big_integer("last_seen"))
        .take()
}

fn content_items() -> TableCreateStatement {
    Table::create()
        .table("content_items")
        .col(big_pk_auto("id"))
        .col(string("cid"))
        .col(big_integer_null("size"))
        .col(double("requests_decayed"))
        .col(big_integer("requests_total"))
        .col(big_integer("last_request"))
        .col(big_integer_null("providers_known"))
        .col(big_integer_null("replicas_wanted"))
        .col(big_integer_null("replicas_held"))
        .take()
}

fn placements() -> TableCreateStatement {
    Table::create()
        .table("placements")
        .col(big_pk_auto("id"))
        .col(string("cid"))
        .col(string("target_peer"))
        .col(string("reason"))
        .col(string("state"))
        .col(big_integer_null("bytes"))
        .col(big_integer_null("started_at"))
        .col(big_integer_null("finished_at"))
        .col(string_null("error"))
        .take()
}
