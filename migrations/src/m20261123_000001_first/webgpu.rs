//! Runs of the WebGPU lab.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use super::Part;

pub(super) fn parts() -> Vec<Part> {
    vec![Part {
        name: "webgpu_metrics",
        table: webgpu_metrics(),
        unique: &[],
        indexes: &[
            &["test_timestamp"],
            &["test_id"],
            &["submission_id"],
            &["browser_name", "browser_version", "workload"],
        ],
    }]
}

fn webgpu_metrics() -> TableCreateStatement {
    Table::create()
        .table("webgpu_metrics")
        .col(big_pk_auto("id"))
        .col(big_integer_null("test_id"))
        .col(string("browser_name"))
        .col(string_null("browser_version"))
        .col(boolean_null("compute_shaders_enabled"))
        .col(boolean_null("shader_precompilation_enabled"))
        .col(boolean_null("parallel_loading_enabled"))
        .col(double_null("shader_compile_time_ms"))
        .col(double_null("first_inference_time_ms"))
        .col(double_null("subsequent_inference_time_ms"))
        .col(double_null("pipeline_creation_time_ms"))
        .col(string_null("workgroup_size"))
        .col(double_null("optimization_score"))
        .col(big_integer("test_timestamp"))
        .col(string("workload"))
        .col(string_null("variant"))
        .col(string("origin"))
        .col(string_null("os"))
        .col(string_null("adapter_vendor"))
        .col(string_null("adapter_architecture"))
        .col(boolean_null("is_fallback_adapter"))
        .col(boolean("is_simulated"))
        .col(big_integer_null("samples"))
        .col(double_null("p95_ms"))
        .col(double_null("gpu_time_ms"))
        .col(double_null("timer_resolution_ms"))
        .col(double_null("max_error"))
        .col(boolean("verified"))
        .col(double_null("load_sequential_ms"))
        .col(double_null("load_parallel_ms"))
        .col(big_integer_null("load_bytes"))
        .col(big_integer_null("load_streams"))
        .col(string_null("cid"))
        .col(string_null("user_agent_hash"))
        .col(string_null("submission_id"))
        .foreign_key(&mut super::reference(
            ("webgpu_metrics", "test_id"),
            ("test_results", "id"),
            ForeignKeyAction::SetNull,
        ))
        .take()
}
