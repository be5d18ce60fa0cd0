//! One kind of work on several machines.

use std::collections::{BTreeMap, HashMap};

use super::webgpu::by_browser;
use super::{Head, median_of};
use crate::db::queries::{HardwareRow, ModelRow, TestRow, TransferRow, WebGpuRow};
use crate::record::Outcome;
use crate::report::table::{Cell, Chart, Section, Table};
use crate::stats;

pub struct PlatformData {
    pub tests: Vec<TestRow>,
    pub hardware: Vec<HardwareRow>,
    pub models: Vec<ModelRow>,
    pub transfers: Vec<TransferRow>,
    pub webgpu: Vec<WebGpuRow>,
}

const EMPTY: &str = "No test result that names its hardware in this window. Send results to POST /api/v1/results with a hardware object.";

pub fn platform(data: &PlatformData) -> Vec<Section> {
    vec![performance(data), latest(data), transfers(data), browsers(data)]
}

/// The machine's name for people; the key when it has none.
fn names(hardware: &[HardwareRow]) -> HashMap<i64, (String, &HardwareRow)> {
    let name = |row: &HardwareRow| {
        row.device_name.clone().unwrap_or_else(|| format!("{} {}", row.hardware_type, row.hardware_id))
    };
    hardware.iter().map(|row| (row.hardware_id, (name(row), row))).collect()
}

fn performance(data: &PlatformData) -> Section {
    let head: [Head; 11] = [
        ("test", "test", ""),
        ("model", "model", ""),
        ("type", "hardware", ""),
        ("device", "device", ""),
        ("simulated", "simulated", ""),
        ("n", "n", ""),
        ("success_pct", "success", "%"),
        ("time_s", "time, median", "s"),
        ("time_p95_s", "time, p95", "s"),
        ("memory", "memory, median", "bytes"),
        ("relative", "time / fastest", ""),
    ];
    let (hardware, models) = (names(&data.hardware), &data.models);
    let mut groups: BTreeMap<(&str, Option<i64>, i64), Vec<&TestRow>> = BTreeMap::new();
    for test in &data.tests {
        if let Some(id) = test.hardware_id {
            groups.entry((&test.test_type, test.model_id, id)).or_default().push(test);
        }
    }
    // Only tests of the same type and model are put beside each other.
    let time = |rows: &[&TestRow]| median_of(rows, |test| test.execution_time.filter(|_| test.success));
    let mut fastest: HashMap<(&str, Option<i64>), f64> = HashMap::new();
    for ((test, model, _), rows) in &groups {
        if let Some(time) = time(rows) {
            let best = fastest.entry((test, *model)).or_insert(time);
            *best = best.min(time);
        }
    }
    let rows = groups.iter().map(|((test, model, id), rows)| {
        let device = hardware.get(id);
        let model_name =
            model.and_then(|id| models.iter().find(|row| row.model_id == id)).map(|row| row.model_name.as_str());
        let times: Vec<f64> = rows.iter().filter(|test| test.success).filter_map(|test| test.execution_time).collect();
        let best = fastest.get(&(*test, *model)).copied().filter(|best| *best > 0.0);
        vec![
            Cell::text(*test),
            Cell::maybe_text(model_name),
            Cell::maybe_text(device.map(|(_, row)| row.hardware_type.as_str())),
            Cell::maybe_text(device.map(|(name, _)| name.as_str())),
            Cell::bool(device.map(|(_, row)| row.is_simulated)),
            Cell::count(rows.len() as u64),
            Cell::percent(rows.iter().filter(|test| test.success).count() as f64 / rows.len() as f64),
            Cell::number(time(rows), 4),
            Cell::number(stats::quantile(&times, 0.95), 4),
            Cell::number(median_of(rows, |test| test.memory_usage.map(|bytes| bytes as f64)), 0),
            Cell::number(time(rows).zip(best).map(|(time, best)| time / best), 2),
        ]
    });
    Section::new(
        "performance",
        "cross_platform_performance",
        "Tests of one type and model, by the machine that ran them; times are of successful tests.",
    )
    .table(Table::new("performance", "Performance by machine", head, EMPTY).with(rows))
    .figure(
        "Time by machine, median",
        "performance",
        Chart::Bars { label: vec!["test", "device"], value: "time_s" },
    )
}

fn latest(data: &PlatformData) -> Section {
    let head: [Head; 9] = [
        ("device", "device", ""),
        ("type", "type", ""),
        ("backend", "backend", ""),
        ("os", "system", ""),
        ("simulated", "simulated", ""),
        ("test", "latest test", ""),
        ("at", "at", ""),
        ("success", "success", ""),
        ("time_s", "time", "s"),
    ];
    let mut newest: HashMap<i64, &TestRow> = HashMap::new();
    for test in &data.tests {
        if let Some(id) = test.hardware_id {
            let known = newest.entry(id).or_insert(test);
            if (test.timestamp, test.id) > (known.timestamp, known.id) {
                *known = test;
            }
        }
    }
    let rows = names(&data.hardware).into_iter().collect::<BTreeMap<_, _>>().into_iter().map(|(id, (name, row))| {
        let test = newest.get(&id);
        vec![
            Cell::text(name),
            Cell::text(row.hardware_type.as_str()),
            Cell::maybe_text(row.backend.as_deref()),
            Cell::maybe_text(row.os.as_deref()),
            Cell::Bool(row.is_simulated),
            Cell::maybe_text(test.map(|test| test.test_type.as_str())),
            test.map_or(Cell::None, |test| Cell::Time(test.timestamp)),
            Cell::bool(test.map(|test| test.success)),
            Cell::number(test.and_then(|test| test.execution_time), 4),
        ]
    });
    let empty = "No machine is known yet. A running server registers its own.";
    Section::new("latest", "Latest per hardware", "Every known machine with its newest test of the window.")
        .table(Table::new("latest", "Machines", head, empty).with(rows))
}

fn transfers(data: &PlatformData) -> Section {
    let head: [Head; 8] = [
        ("scenario", "scenario", ""),
        ("device", "device", ""),
        ("policy", "policy", ""),
        ("n", "n", ""),
        ("failed", "failed", ""),
        ("time_ms", "transfer, median", "ms"),
        ("ttfb_ms", "time to first byte, median", "ms"),
        ("score", "optimisation score, median", ""),
    ];
    let hardware = names(&data.hardware);
    let mut groups: BTreeMap<(&str, Option<i64>, &str), Vec<&TransferRow>> = BTreeMap::new();
    for row in &data.transfers {
        groups
            .entry((row.scenario.as_deref().unwrap_or("(none)"), row.hardware_id, &row.policy))
            .or_default()
            .push(row);
    }
    let rows = groups.into_iter().map(|((scenario, id, policy), rows)| {
        let complete: Vec<&TransferRow> =
            rows.iter().copied().filter(|row| row.outcome == Outcome::Complete.as_str()).collect();
        vec![
            Cell::text(scenario),
            Cell::maybe_text(id.and_then(|id| hardware.get(&id)).map(|(name, _)| name.as_str())),
            Cell::text(policy),
            Cell::count(complete.len() as u64),
            Cell::count((rows.len() - complete.len()) as u64),
            Cell::number(median_of(&complete, |row| row.transfer_time_ms), 1),
            Cell::number(median_of(&complete, |row| row.ttfb_ms), 1),
            Cell::number(median_of(&complete, |row| row.optimization_score), 3),
        ]
    });
    let empty = "No transfer of a bench or an import in this window.";
    Section::new("transfers", "Transfers by machine", "Results of benches and imports.")
        .table(Table::new("transfers", "Transfers by scenario, machine and policy", head, empty).with(rows))
}

fn browsers(data: &PlatformData) -> Section {
    Section::new("web", "Web platform performance", "The WebGPU lab's results per browser and version.")
        .table(by_browser("web", &data.webgpu))
}
