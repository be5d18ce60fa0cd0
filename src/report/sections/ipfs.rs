//! Standard against optimised.

use std::collections::{BTreeMap, HashMap};

use super::{COMPARED, Head, compared, compared_chart, method, sides_cells, sides_head};
use crate::db::counters::{Tally, ratio};
use crate::db::queries::{Comparison, SizeClass, Stratum, TransferRow};
use crate::report::pairs::Sides;
use crate::report::table::{Cell, Section, Table};

pub struct IpfsData {
    pub comparison: Vec<Comparison>,
    pub strata: Vec<Stratum>,
    /// Exact counts: all, and by policy.
    pub tally: Tally,
    pub standard: Tally,
    pub optimized: Tally,
    /// Of benches and imports.
    pub transfers: Vec<TransferRow>,
    pub runs: HashMap<i64, String>,
    /// One run was asked for.
    pub of_run: bool,
}

const LIVE_EMPTY: &str = "No cold retrieval in this window. Fetch content through the gateway with --compare-share 0.05: that share of cold retrievals then runs the standard policy.";
const RUN_EMPTY: &str = "No measured run in this window. Run the benchmark, or send results to POST /api/v1/results.";

pub fn ipfs(data: &IpfsData) -> Vec<Section> {
    match data.of_run {
        // What users asked for belongs to no run.
        true => vec![by_scenario(data)],
        false => vec![traffic(data), by_size(data), by_providers(data), by_scenario(data)],
    }
}

fn class_name(class: SizeClass) -> &'static str {
    match class {
        SizeClass::Small => "under 1 MB",
        SizeClass::Medium => "1 to 10 MB",
        SizeClass::Large => "over 10 MB",
    }
}

fn traffic(data: &IpfsData) -> Section {
    let head: [Head; 12] = [
        ("policy", "policy", ""),
        ("requests", "requests", ""),
        ("failed", "failed", ""),
        ("hit_pct", "cache hits, by requests", "%"),
        ("ttfb_p50_ms", "time to first byte, p50", "ms"),
        ("ttfb_p95_ms", "time to first byte, p95", "ms"),
        ("transfer_p50_ms", "transfer, p50", "ms"),
        ("transfer_p95_ms", "transfer, p95", "ms"),
        ("bytes_served", "served", "bytes"),
        ("bytes_fetched", "fetched", "bytes"),
        ("duplicate_pct", "received twice", "%"),
        ("score", "optimisation score", ""),
    ];
    let row = |name: &str, tally: &Tally| {
        (tally.requests > 0).then(|| {
            let received = tally.bytes_network + tally.duplicate_bytes;
            vec![
                Cell::text(name),
                Cell::count(tally.requests),
                Cell::count(tally.failed()),
                Cell::percent(tally.hit_ratio_requests()),
                Cell::number(tally.ttfb.quantile_ms(0.5), 1),
                Cell::number(tally.ttfb.quantile_ms(0.95), 1),
                Cell::number(tally.transfer.quantile_ms(0.5), 1),
                Cell::number(tally.transfer.quantile_ms(0.95), 1),
                Cell::count(tally.bytes_served),
                Cell::count(tally.bytes_network),
                Cell::percent(ratio(tally.duplicate_bytes, received)),
                Cell::number((tally.score_bytes > 0.0).then(|| tally.score_sum / tally.score_bytes), 3),
            ]
        })
    };
    let rows = [row("all", &data.tally), row("standard", &data.standard), row("optimised", &data.optimized)];
    let empty = "No request in this window. Fetch something through the gateway.";
    Section::new(
        "traffic",
        "Traffic",
        "Exact counts of live requests; quantiles are of all of them, within a sixteenth. The policies are not compared here: they served different content.",
    )
    .table(Table::new("traffic", "Requests by policy", head, empty).with(rows.into_iter().flatten()))
}

fn by_size(data: &IpfsData) -> Section {
    let head =
        [&[("size", "size", ""), ("n_standard", "n standard", ""), ("n_optimized", "n optimised", "")], &COMPARED[..]]
            .concat();
    let seen = data.comparison.iter().filter(|of| of.n_standard + of.n_optimized > 0);
    let rows = seen.map(|of| {
        let mut cells = vec![
            Cell::text(class_name(of.class)),
            Cell::count(of.n_standard as u64),
            Cell::count(of.n_optimized as u64),
        ];
        cells.extend(compared(of.pairs, of.verdict));
        cells
    });
    Section::new(
        "by-size",
        "Standard against optimised, live, by size",
        method("Cold, complete, live retrievals; pairs have the same size class and number of providers found."),
    )
    .table(Table::new("by-size", "Transfer time by size class", head, LIVE_EMPTY).with(rows))
    .figure("Transfer time by size class: medians with intervals", "by-size", compared_chart(vec!["size"]))
}

fn by_providers(data: &IpfsData) -> Section {
    let first = [
        ("size", "size", ""),
        ("providers", "providers found", ""),
        ("n_standard", "n standard", ""),
        ("n_optimized", "n optimised", ""),
    ];
    let head = [&first, &COMPARED[..]].concat();
    let rows = data.strata.iter().map(|stratum| {
        let of = &stratum.comparison;
        let mut cells = vec![
            Cell::text(class_name(of.class)),
            Cell::text(stratum.providers),
            Cell::count(of.n_standard as u64),
            Cell::count(of.n_optimized as u64),
        ];
        cells.extend(compared(of.pairs, of.verdict));
        cells
    });
    Section::new(
        "by-providers",
        "By size and provider count, live",
        method("The same retrievals, each number of providers for itself."),
    )
    .table(Table::new("by-providers", "Transfer time by size class and providers found", head, LIVE_EMPTY).with(rows))
    .figure(
        "Transfer time by size class and providers found",
        "by-providers",
        compared_chart(vec!["size", "providers"]),
    )
}

fn by_scenario(data: &IpfsData) -> Section {
    let mut groups: BTreeMap<(&str, &str), Vec<&TransferRow>> = BTreeMap::new();
    for row in &data.transfers {
        groups.entry((row.scenario.as_deref().unwrap_or("(none)"), &row.origin)).or_default().push(row);
    }
    let head = sides_head(&[("scenario", "scenario", ""), ("origin", "origin", "")]);
    let rows = groups.into_iter().map(|((scenario, origin), rows)| {
        sides_cells(vec![Cell::text(scenario), Cell::text(origin)], &Sides::of(rows, &data.runs))
    });
    Section::new(
        "by-scenario",
        "By scenario, from measured runs",
        method("Pairs have the same run, scenario and content size, in the order in which they were measured."),
    )
    .table(Table::new("by-scenario", "Transfer time by scenario", head, RUN_EMPTY).with(rows))
    .figure("Transfer time by scenario: medians with intervals", "by-scenario", compared_chart(vec!["scenario"]))
    .notes(simulated(&data.transfers))
}

/// Says what was simulated and how often.
pub(super) fn simulated(rows: &[TransferRow]) -> Vec<String> {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.is_simulated) {
        *reasons.entry(row.simulation_reason.as_deref().unwrap_or("reason not given")).or_default() += 1;
    }
    reasons.into_iter().map(|(reason, n)| format!("{n} of {} results are simulated: {reason}.", rows.len())).collect()
}
