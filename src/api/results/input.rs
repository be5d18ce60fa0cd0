//! From JSON to measurements that cannot be wrong; every fault of a batch is found, each with its pointer.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use crate::db::import::{HardwareFacts, Measured, ModelFacts, Transfer, WebGpu};
use crate::ipld::{Cid, cid};
use crate::record::{CacheState, Origin, Outcome, Policy, Source};

/// Results of one batch, and measurements in one of them.
const MAX_RESULTS: usize = 1_000;
const MAX_PARTS: usize = 2_000;
/// Faults that are told; a batch that is wrong throughout does not need all of them.
const MAX_FAULTS: usize = 50;
/// The longest text of a field, and of `details` as JSON, in bytes.
const MAX_TEXT: usize = 512;
const MAX_NAME: usize = 128;
const MAX_DETAILS: usize = 16 << 10;
/// The longest time that is believed: a week in milliseconds.
const MAX_MS: f64 = 604_800_000.0;
/// How far in the future a result may be: clocks differ.
const MAX_AHEAD: Duration = Duration::from_secs(300);
/// Integers beyond 2^53 are not the same in every JSON reader.
const MAX_INTEGER: u64 = 1 << 53;

/// One fault of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// RFC 6901, from the body's root.
    pub pointer: String,
    pub detail: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawResult {
    run_id: String,
    sequence: u64,
    /// RFC 3339; else the moment of the import.
    timestamp: Option<String>,
    test_type: String,
    status: Option<String>,
    success: bool,
    endpoint_type: Option<String>,
    error_message: Option<String>,
    execution_time: Option<f64>,
    memory_usage: Option<u64>,
    details: Option<Value>,
    tool: Option<String>,
    git_commit: Option<String>,
    machine_fingerprint: Option<String>,
    model: Option<RawModel>,
    hardware: Option<RawHardware>,
    #[serde(default)]
    transfers: Vec<Value>,
    #[serde(default)]
    webgpu: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    model_name: String,
    model_family: Option<String>,
    model_type: Option<String>,
    model_size: Option<u64>,
    parameters_million: Option<f64>,
    cid: Option<String>,
    format: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHardware {
    hardware_type: String,
    device_name: Option<String>,
    compute_units: Option<u64>,
    memory_capacity: Option<u64>,
    driver_version: Option<String>,
    #[serde(default)]
    supported_precisions: Vec<String>,
    max_batch_size: Option<u64>,
    os: Option<String>,
    arch: Option<String>,
    backend: Option<String>,
    /// Has to be said: a software device is not taken for a real one.
    is_simulated: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTransfer {
    cid: String,
    path: Option<String>,
    /// RFC 3339, the start; else the result's.
    started_at: Option<String>,
    #[serde(default = "imported")]
    origin: Origin,
    policy: Policy,
    source: Option<Source>,
    scenario: Option<String>,
    is_simulated: bool,
    simulation_reason: Option<String>,
    #[serde(default = "complete")]
    outcome: Outcome,
    error_kind: Option<String>,
    cache_state: Option<CacheState>,
    transfer_time_ms: Option<f64>,
    load_time_ms: f64,
    ttfb_ms: Option<f64>,
    routing_ms: Option<f64>,
    connect_ms: Option<f64>,
    network_efficiency: Option<f64>,
    optimization_score: Option<f64>,
    bytes: u64,
    network_bytes: Option<u64>,
    blocks: Option<u64>,
    duplicate_bytes: Option<u64>,
    peer_count: Option<u64>,
    providers_found: Option<u64>,
    providers_attempted: Option<u64>,
}

fn imported() -> Origin {
    Origin::Imported
}

fn complete() -> Outcome {
    Outcome::Complete
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWebGpu {
    browser_name: String,
    browser_version: Option<String>,
    workload: String,
    variant: Option<String>,
    compute_shaders_enabled: Option<bool>,
    shader_precompilation_enabled: Option<bool>,
    parallel_loading_enabled: Option<bool>,
    shader_compile_time_ms: Option<f64>,
    first_inference_time_ms: Option<f64>,
    subsequent_inference_time_ms: Option<f64>,
    pipeline_creation_time_ms: Option<f64>,
    workgroup_size: Option<String>,
    optimization_score: Option<f64>,
    os: Option<String>,
    adapter_vendor: Option<String>,
    adapter_architecture: Option<String>,
    is_fallback_adapter: Option<bool>,
    is_simulated: bool,
    samples: Option<u64>,
    p95_ms: Option<f64>,
    gpu_time_ms: Option<f64>,
    timer_resolution_ms: Option<f64>,
    max_error: Option<f64>,
    verified: bool,
    load_sequential_ms: Option<f64>,
    load_parallel_ms: Option<f64>,
    load_bytes: Option<u64>,
    load_streams: Option<u64>,
    cid: Option<String>,
}

/// The measurements of a body, or every fault of it.
pub fn batch(body: Value, now: SystemTime) -> Result<Vec<Measured>, Vec<Fault>> {
    let mut reader = Reader { faults: Vec::new(), now };
    let (base, items) = match body {
        Value::Array(items) => ("".to_owned(), items),
        Value::Object(mut object) if object.contains_key("results") => match object.remove("results") {
            Some(Value::Array(items)) if object.is_empty() => ("/results".to_owned(), items),
            _ => return Err(vec![fault("/results", "is a list, and the only member")]),
        },
        one @ Value::Object(_) => {
            let measured = reader.result("", one);
            return match measured {
                Some(measured) if reader.faults.is_empty() => Ok(vec![measured]),
                _ => Err(reader.faults),
            };
        }
        _ => return Err(vec![fault("", "is a result, a list of results, or {\"results\": [...]}")]),
    };
    if items.is_empty() || items.len() > MAX_RESULTS {
        return Err(vec![fault(&base, format!("holds 1 to {MAX_RESULTS} results"))]);
    }
    let mut names = HashSet::new();
    let mut batch = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let at = format!("{base}/{i}");
        if let Some(measured) = reader.result(&at, item) {
            if !names.insert((measured.run_id.clone(), measured.sequence)) {
                reader.say(
                    &format!("{at}/sequence"),
                    "names an earlier result of this batch: run_id and sequence are unique",
                );
            }
            batch.push(measured);
        }
        if reader.faults.len() >= MAX_FAULTS {
            break;
        }
    }
    if reader.faults.is_empty() { Ok(batch) } else { Err(reader.faults) }
}

fn fault(pointer: &str, detail: impl Into<String>) -> Fault {
    Fault { pointer: pointer.to_owned(), detail: detail.into() }
}

/// Reads fields and collects what is wrong with them.
struct Reader {
    faults: Vec<Fault>,
    now: SystemTime,
}

impl Reader {
    fn say(&mut self, pointer: &str, detail: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault(pointer, detail));
        }
    }

    fn raw<T: for<'de> Deserialize<'de>>(&mut self, at: &str, value: Value) -> Option<T> {
        serde_json::from_value(value).map_err(|error| self.say(at, error.to_string())).ok()
    }

    /// A text without control characters, in bytes.
    fn text(&mut self, at: String, text: String, max: usize) -> String {
        if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
            self.say(&at, format!("is a text of 1 to {max} bytes without control characters"));
        }
        text
    }

    fn maybe(&mut self, at: String, text: Option<String>) -> Option<String> {
        text.map(|text| self.text(at, text, MAX_TEXT))
    }

    fn int(&mut self, at: String, value: u64) -> i64 {
        if value > MAX_INTEGER {
            self.say(&at, "is at most 2^53");
        }
        value.min(MAX_INTEGER) as i64
    }

    fn maybe_int(&mut self, at: String, value: Option<u64>) -> Option<i64> {
        value.map(|value| self.int(at, value))
    }

    fn within(&mut self, at: String, value: Option<f64>, max: f64, what: &str) -> Option<f64> {
        if value.is_some_and(|value| !(0.0..=max).contains(&value)) {
            self.say(&at, format!("is {what}"));
        }
        value
    }

    fn ms(&mut self, at: String, value: Option<f64>) -> Option<f64> {
        self.within(at, value, MAX_MS, "milliseconds, 0 to a week")
    }

    fn share(&mut self, at: String, value: Option<f64>) -> Option<f64> {
        self.within(at, value, 1.0, "a share, 0 to 1")
    }

    fn moment(&mut self, at: String, text: Option<String>, otherwise: SystemTime) -> SystemTime {
        let Some(text) = text else { return otherwise };
        match humantime::parse_rfc3339(&text) {
            Ok(moment) if moment <= self.now + MAX_AHEAD => moment,
            Ok(_) => {
                self.say(&at, "is not in the future");
                otherwise
            }
            Err(_) => {
                self.say(&at, "is a moment as 2026-11-23T14:05:09Z");
                otherwise
            }
        }
    }

    fn cid(&mut self, at: String, text: &str) -> Option<Cid> {
        cid::parse(text).map_err(|error| self.say(&at, error.to_string())).ok()
    }

    fn result(&mut self, at: &str, value: Value) -> Option<Measured> {
        let raw: RawResult = self.raw(at, value)?;
        let field = |name: &str| format!("{at}/{name}");
        let moment = self.moment(field("timestamp"), raw.timestamp, self.now);
        if raw.details.as_ref().is_some_and(|details| !details.is_object() || details.to_string().len() > MAX_DETAILS) {
            self.say(&field("details"), format!("is an object of at most {MAX_DETAILS} bytes"));
        }
        for (name, parts) in [("transfers", raw.transfers.len()), ("webgpu", raw.webgpu.len())] {
            if parts > MAX_PARTS {
                self.say(&field(name), format!("holds at most {MAX_PARTS} measurements"));
                return None;
            }
        }
        let transfers = raw.transfers.into_iter().enumerate();
        let transfers = transfers.filter_map(|(i, part)| self.transfer(&format!("{at}/transfers/{i}"), part, moment));
        let transfers = transfers.collect();
        let webgpu = raw.webgpu.into_iter().enumerate();
        let webgpu = webgpu.filter_map(|(i, part)| self.webgpu(&format!("{at}/webgpu/{i}"), part)).collect();
        let status = raw.status.unwrap_or_else(|| if raw.success { "passed" } else { "failed" }.to_owned());
        Some(Measured {
            run_id: self.text(field("run_id"), raw.run_id, MAX_NAME),
            sequence: self.int(field("sequence"), raw.sequence),
            at: moment,
            test_type: self.text(field("test_type"), raw.test_type, MAX_NAME),
            status: self.text(field("status"), status, MAX_NAME),
            success: raw.success,
            endpoint_type: self.maybe(field("endpoint_type"), raw.endpoint_type),
            error_message: self.maybe(field("error_message"), raw.error_message),
            execution_time: self.within(
                field("execution_time"),
                raw.execution_time,
                MAX_MS / 1e3,
                "seconds, 0 to a week",
            ),
            memory_usage: self.maybe_int(field("memory_usage"), raw.memory_usage),
            details: raw.details,
            tool: self.maybe(field("tool"), raw.tool),
            git_commit: self.maybe(field("git_commit"), raw.git_commit),
            machine_fingerprint: self.maybe(field("machine_fingerprint"), raw.machine_fingerprint),
            model: raw.model.map(|model| self.model(&field("model"), model)),
            hardware: raw.hardware.map(|hardware| self.hardware(&field("hardware"), hardware)),
            transfers,
            webgpu,
        })
    }

    fn model(&mut self, at: &str, raw: RawModel) -> ModelFacts {
        let field = |name: &str| format!("{at}/{name}");
        if let Some(text) = &raw.cid {
            self.cid(field("cid"), text);
        }
        ModelFacts {
            model_name: self.text(field("model_name"), raw.model_name, MAX_NAME),
            model_family: self.maybe(field("model_family"), raw.model_family),
            model_type: self.maybe(field("model_type"), raw.model_type),
            model_size: self.maybe_int(field("model_size"), raw.model_size),
            parameters_million: self.within(field("parameters_million"), raw.parameters_million, 1e9, "0 to 10^9"),
            cid: raw.cid,
            format: self.maybe(field("format"), raw.format),
        }
    }

    fn hardware(&mut self, at: &str, raw: RawHardware) -> HardwareFacts {
        let field = |name: &str| format!("{at}/{name}");
        let precisions = (!raw.supported_precisions.is_empty()).then(|| raw.supported_precisions.join(" "));
        HardwareFacts {
            hardware_type: self.text(field("hardware_type"), raw.hardware_type, MAX_NAME),
            device_name: self.maybe(field("device_name"), raw.device_name),
            compute_units: self.maybe_int(field("compute_units"), raw.compute_units),
            memory_capacity: self.maybe_int(field("memory_capacity"), raw.memory_capacity),
            driver_version: self.maybe(field("driver_version"), raw.driver_version),
            supported_precisions: self.maybe(field("supported_precisions"), precisions),
            max_batch_size: self.maybe_int(field("max_batch_size"), raw.max_batch_size),
            os: self.maybe(field("os"), raw.os),
            arch: self.maybe(field("arch"), raw.arch),
            backend: self.maybe(field("backend"), raw.backend),
            is_simulated: raw.is_simulated,
        }
    }

    fn transfer(&mut self, at: &str, value: Value, moment: SystemTime) -> Option<Transfer> {
        let raw: RawTransfer = self.raw(at, value)?;
        let field = |name: &str| format!("{at}/{name}");
        if !matches!(raw.origin, Origin::Imported | Origin::Bench) {
            self.say(&field("origin"), "is imported or bench: live rows come from this server alone");
        }
        if raw.is_simulated != raw.simulation_reason.is_some() {
            self.say(&field("simulation_reason"), "is given when is_simulated is true, and only then");
        }
        let cid = self.cid(field("cid"), &raw.cid);
        let load_time_ms = self.ms(field("load_time_ms"), Some(raw.load_time_ms)).unwrap_or_default();
        let transfer_time_ms = self.ms(field("transfer_time_ms"), raw.transfer_time_ms);
        let started_at = self.moment(field("started_at"), raw.started_at, moment);
        let took = load_time_ms.max(transfer_time_ms.unwrap_or_default()).clamp(0.0, MAX_MS);
        let bytes = self.int(field("bytes"), raw.bytes);
        let count = |reader: &mut Self, name: &str, value: Option<u64>| {
            reader.maybe_int(format!("{at}/{name}"), value).unwrap_or_default()
        };
        Some(Transfer {
            path: self.maybe(field("path"), raw.path),
            started_at,
            finished_at: started_at + Duration::from_secs_f64(took / 1e3),
            origin: raw.origin,
            policy: raw.policy,
            source: raw.source,
            scenario: raw.scenario.map(|text| self.text(field("scenario"), text, MAX_NAME)),
            simulation_reason: self.maybe(field("simulation_reason"), raw.simulation_reason),
            outcome: raw.outcome,
            error_kind: self.maybe(field("error_kind"), raw.error_kind),
            cache_state: raw.cache_state,
            transfer_time_ms,
            load_time_ms,
            ttfb_ms: self.ms(field("ttfb_ms"), raw.ttfb_ms),
            routing_ms: self.ms(field("routing_ms"), raw.routing_ms),
            connect_ms: self.ms(field("connect_ms"), raw.connect_ms),
            network_efficiency: self.share(field("network_efficiency"), raw.network_efficiency),
            optimization_score: self.share(field("optimization_score"), raw.optimization_score),
            bytes,
            network_bytes: count(self, "network_bytes", raw.network_bytes),
            blocks: count(self, "blocks", raw.blocks),
            duplicate_bytes: count(self, "duplicate_bytes", raw.duplicate_bytes),
            peer_count: count(self, "peer_count", raw.peer_count),
            providers_found: count(self, "providers_found", raw.providers_found),
            providers_attempted: count(self, "providers_attempted", raw.providers_attempted),
            cid: cid?,
        })
    }

    fn webgpu(&mut self, at: &str, value: Value) -> Option<WebGpu> {
        let raw: RawWebGpu = self.raw(at, value)?;
        let field = |name: &str| format!("{at}/{name}");
        if let Some(text) = &raw.cid {
            self.cid(field("cid"), text);
        }
        if raw.is_fallback_adapter == Some(true) && !raw.is_simulated {
            self.say(&field("is_simulated"), "is true for a fallback adapter: it is software");
        }
        Some(WebGpu {
            browser_name: self.text(field("browser_name"), raw.browser_name, MAX_NAME),
            browser_version: self.maybe(field("browser_version"), raw.browser_version),
            workload: self.text(field("workload"), raw.workload, MAX_NAME),
            variant: self.maybe(field("variant"), raw.variant),
            compute_shaders_enabled: raw.compute_shaders_enabled,
            shader_precompilation_enabled: raw.shader_precompilation_enabled,
            parallel_loading_enabled: raw.parallel_loading_enabled,
            shader_compile_time_ms: self.ms(field("shader_compile_time_ms"), raw.shader_compile_time_ms),
            first_inference_time_ms: self.ms(field("first_inference_time_ms"), raw.first_inference_time_ms),
            subsequent_inference_time_ms: self
                .ms(field("subsequent_inference_time_ms"), raw.subsequent_inference_time_ms),
            pipeline_creation_time_ms: self.ms(field("pipeline_creation_time_ms"), raw.pipeline_creation_time_ms),
            workgroup_size: self.maybe(field("workgroup_size"), raw.workgroup_size),
            optimization_score: self.share(field("optimization_score"), raw.optimization_score),
            os: self.maybe(field("os"), raw.os),
            adapter_vendor: self.maybe(field("adapter_vendor"), raw.adapter_vendor),
            adapter_architecture: self.maybe(field("adapter_architecture"), raw.adapter_architecture),
            is_fallback_adapter: raw.is_fallback_adapter,
            is_simulated: raw.is_simulated,
            samples: self.maybe_int(field("samples"), raw.samples),
            p95_ms: self.ms(field("p95_ms"), raw.p95_ms),
            gpu_time_ms: self.ms(field("gpu_time_ms"), raw.gpu_time_ms),
            timer_resolution_ms: self.ms(field("timer_resolution_ms"), raw.timer_resolution_ms),
            max_error: self.within(field("max_error"), raw.max_error, f64::MAX, "0 or more"),
            verified: raw.verified,
            load_sequential_ms: self.ms(field("load_sequential_ms"), raw.load_sequential_ms),
            load_parallel_ms: self.ms(field("load_parallel_ms"), raw.load_parallel_ms),
            load_bytes: self.maybe_int(field("load_bytes"), raw.load_bytes),
            load_streams: self.maybe_int(field("load_streams"), raw.load_streams),
            cid: raw.cid,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointers(body: Value) -> Vec<String> {
        batch(body, SystemTime::now()).unwrap_err().into_iter().map(|fault| fault.pointer).collect()
    }

    fn result(sequence: u64) -> Value {
        json!({"run_id": "r", "sequence": sequence, "test_type": "fetch", "success": true})
    }

    #[test]
    fn one_result_a_list_and_an_object_are_taken() {
        for body in [result(1), json!([result(1)]), json!({"results": [result(1)]})] {
            assert_eq!(batch(body, SystemTime::now()).unwrap()[0].status, "passed");
        }
        assert_eq!(pointers(json!([])), [""]);
        assert_eq!(pointers(json!({"results": []})), ["/results"]);
        assert_eq!(pointers(json!("text")), [""]);
    }

    #[test]
    fn every_fault_has_its_pointer() {
        let transfer = json!({"cid": "nonsense", "policy": "standard", "is_simulated": true, "load_time_ms": -1.0, "bytes": 1,
            "origin": "live", "optimization_score": 1.5});
        let mut wrong = result(2);
        wrong["transfers"] = json!([transfer]);
        wrong["timestamp"] = json!("2999-01-01T00:00:00Z");
        wrong["run_id"] = json!("a\nb");
        let found = pointers(json!([result(1), wrong, {"run_id": "r"}, result(1)]));
        for pointer in [
            "/1/transfers/0/cid",
            "/1/transfers/0/simulation_reason",
            "/1/transfers/0/load_time_ms",
            "/1/transfers/0/origin",
            "/1/transfers/0/optimization_score",
            "/1/timestamp",
            "/1/run_id",
            "/2",
            "/3/sequence",
        ] {
            assert!(found.iter().any(|found| found == pointer), "{pointer} is not in {found:?}");
        }
    }

    #[test]
    fn a_batch_that_is_wrong_throughout_names_fifty_faults() {
        let many: Vec<Value> = (0..1_000).map(|_| json!({})).collect();
        assert_eq!(pointers(json!(many)).len(), MAX_FAULTS);
        let too_many: Vec<Value> = (0..1_001).map(result).collect();
        assert_eq!(pointers(json!(too_many)), [""]);
    }

    #[test]
    fn a_fallback_adapter_is_not_taken_for_a_gpu() {
        let mut lab = result(1);
        lab["webgpu"] = json!([{"browser_name": "Chromium", "workload": "mel", "is_fallback_adapter": true,
            "is_simulated": false, "verified": true}]);
        assert_eq!(pointers(lab), ["/webgpu/0/is_simulated"]);
    }
}
