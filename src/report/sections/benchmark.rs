//! The six scenarios.

use std::collections::{BTreeMap, HashMap};

use super::ipfs::simulated;
use super::{compared_chart, method, sides_cells, sides_head};
use crate::db::queries::{TestRow, TransferRow, runs_of};
use crate::report::pairs::{SCENARIOS, Scenario, Sides};
use crate::report::table::{Cell, Chart, Section, Table};

pub struct BenchmarkData {
    /// Of benches and imports.
    pub transfers: Vec<TransferRow>,
    pub runs: HashMap<i64, String>,
    pub tests: Vec<TestRow>,
}

const EMPTY: &str =
    "No benchmark result in this window. Run the benchmark, or send results to POST /api/v1/results with a scenario.";

pub fn benchmark(data: &BenchmarkData) -> Vec<Section> {
    vec![scenarios(data), cells(data), runs(&data.tests)]
}

fn scenarios(data: &BenchmarkData) -> Section {
    let head = sides_head(&[("key", "scenario", ""), ("scenario", "what", "")]);
    let mut table = Table::new("scenarios", "The six scenarios", head, EMPTY);
    if !data.transfers.is_empty() {
        for scenario in &SCENARIOS {
            let of = data.transfers.iter().filter(|row| {
                row.scenario.as_deref().and_then(Scenario::of).is_some_and(|found| found.key == scenario.key)
            });
            let first = vec![Cell::text(scenario.key.to_uppercase()), Cell::text(scenario.title)];
            table.push(sides_cells(first, &Sides::of(of, &data.runs)));
        }
    }
    Section::new(
        "scenarios",
        "Standard against optimised",
        method("Pairs have the same run, scenario, links and content size. η is what the providers' links allow, over the time taken (1 = as fast as possible); its p95 is that of the slowest twentieth."),
    )
    .table(table)
    .figure("Transfer time by scenario: medians with intervals", "scenarios", compared_chart(vec!["key", "scenario"]))
    .figure(
        "Efficiency η of the optimised policy, median",
        "scenarios",
        Chart::Bars { label: vec!["key", "scenario"], value: "eta_p50" },
    )
    .notes(simulated(&data.transfers))
}

fn cells(data: &BenchmarkData) -> Section {
    let mut groups: BTreeMap<(&str, i64), Vec<&TransferRow>> = BTreeMap::new();
    for row in &data.transfers {
        groups.entry((row.scenario.as_deref().unwrap_or("(none)"), row.bytes)).or_default().push(row);
    }
    let head = sides_head(&[("cell", "cell", ""), ("bytes", "size", "bytes")]);
    let rows = groups.into_iter().map(|((scenario, bytes), rows)| {
        sides_cells(vec![Cell::text(scenario), Cell::count(bytes)], &Sides::of(rows, &data.runs))
    });
    Section::new(
        "cells",
        "By cell: links and size",
        method("The same pairs, each set of links and each size for itself."),
    )
    .table(Table::new("cells", "Transfer time by cell", head, EMPTY).with(rows))
}

fn runs(tests: &[TestRow]) -> Section {
    let head = [
        ("run", "run", ""),
        ("last", "last result", ""),
        ("tests", "tests", ""),
        ("failed", "failed", ""),
        ("types", "types", ""),
        ("tool", "tool", ""),
        ("commit", "commit", ""),
        ("machine", "machine", ""),
    ];
    let rows = runs_of(tests).into_iter().map(|run| {
        vec![
            Cell::text(run.run_id),
            Cell::Time(run.last_us),
            Cell::count(run.tests),
            Cell::count(run.failed),
            Cell::text(run.test_types.join(" ")),
            Cell::maybe_text(run.tool.as_deref()),
            Cell::maybe_text(run.git_commit.as_deref()),
            Cell::maybe_text(run.machine_fingerprint.as_deref()),
        ]
    });
    let empty = "No run in this window. Runs come from the benchmark and from POST /api/v1/results.";
    Section::new("runs", "Runs", "Every run of a test tool with a result in the window.")
        .table(Table::new("runs", "Runs, the newest first", head, empty).with(rows))
}
