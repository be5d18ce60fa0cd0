//! What measured (machines), what was measured (models) and in which run.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use super::Part;

pub(super) fn parts() -> Vec<Part> {
    vec![
        Part {
            name: "hardware_platforms",
            table: hardware_platforms(),
            unique: &[&["fingerprint"]],
            indexes: &[&["hardware_type", "detected_at"]],
        },
        Part { name: "models", table: models(), unique: &[&["model_name"]], indexes: &[&["cid"]] },
        Part {
            name: "test_results",
            table: test_results(),
            unique: &[&["run_id", "sequence"]],
            indexes: &[&["timestamp"], &["model_id"], &["hardware_id"], &["test_type", "timestamp"]],
        },
    ]
}

fn hardware_platforms() -> TableCreateStatement {
    Table::create()
        .table("hardware_platforms")
        .col(big_pk_auto("hardware_id"))
        .col(string("hardware_type"))
        .col(string_null("device_name"))
        .col(big_integer_null("compute_units"))
        .col(big_integer_null("memory_capacity"))
        .col(string_null("driver_version"))
        .col(string_null("supported_precisions"))
        .col(big_integer_null("max_batch_size"))
        .col(big_integer("detected_at"))
        .col(string_null("os"))
        .col(string_null("arch"))
        .col(string_null("backend"))
        .col(boolean("is_simulated"))
        .col(string("fingerprint"))
        .take()
}

fn models() -> TableCreateStatement {
    Table::create()
        .table("models")
        .col(big_pk_auto("model_id"))
        .col(string("model_name"))
        .col(string_null("model_family"))
        .col(string_null("model_type"))
        .col(big_integer_null("model_size"))
        .col(double_null("parameters_million"))
        .col(big_integer("added_at"))
        .col(string_null("cid"))
        .col(string_null("format"))
        .take()
}

fn test_results() -> TableCreateStatement {
    Table::create()
        .table("test_results")
        .col(big_pk_auto("id"))
        .col(big_integer("timestamp"))
        .col(string("test_date"))
        .col(string("status"))
        .col(string("test_type"))
        .col(big_integer_null("model_id"))
        .col(big_integer_null("hardware_id"))
        .col(string_null("endpoint_type"))
        .col(boolean("success"))
        .col(string_null("error_message"))
        .col(double_null("execution_time"))
        .col(big_integer_null("memory_usage"))
        .col(json_null("details"))
        .col(string("run_id"))
        .col(big_integer("sequence"))
        .col(string_null("tool"))
        .col(string_null("git_commit"))
        .col(string_null("machine_fingerprint"))
        .foreign_key(&mut super::reference(
            ("test_results", "model_id"),
            ("models", "model_id"),
            ForeignKeyAction::SetNull,
        ))
        .foreign_key(&mut super::reference(
            ("test_results", "hardware_id"),
            ("hardware_platforms", "hardware_id"),
            ForeignKeyAction::SetNull,
        ))
        .take()
}
