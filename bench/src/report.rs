//! The report of a run: markdown for people, CSV of every sample, JSON of every cell with the machine.

pub mod gates;
pub mod post;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::cell::{Cell, Sample};
use crate::machine::Machine;
use crate::run::warm::{Warm, What};
use crate::stats::Summary;
use gates::Gate;

/// What a run was, beside its samples.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub id: String,
    pub seed: u64,
    pub command: String,
    pub congestion_control: String,
    pub providers: String,
    pub transport: String,
    pub machine: Machine,
    /// Contender, version, what is special about it.
    pub contenders: Vec<(String, String, Option<&'static str>)>,
    /// Links that were tried before the run, and what they measured.
    pub self_tests: Vec<(String, Vec<crate::net::star::SelfTest>)>,
    /// By link set: CPU time of the emulator / wall time; share of all cores that was used.
    pub load: Vec<(String, f64, Option<f64>)>,
    /// Contender, Jain's index of eight downloads at once.
    pub fairness: Vec<(String, f64)>,
    pub warm: Vec<Warm>,
    pub gates: Vec<Gate>,
    pub notes: Vec<String>,
}

/// The two standards of the six-row form: ours, and the incumbent.
pub const STANDARDS: [&str; 2] = ["kubo", "tidegate-standard"];
pub const OPTIMIZED: &str = "tidegate-optimized";
/// Share of all cores above which a run is marked.
const BUSY: f64 = 0.85;

/// Writes `report.md`, `samples.csv` and `run.json` into `dir`.
pub fn write(dir: &Path, run: &Run, samples: &[Sample], cells: &[Cell]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("report.md"), markdown(run, cells))?;
    fs::write(dir.join("samples.csv"), csv(samples))?;
    let json = serde_json::json!({ "run": run, "cells": cells });
    fs::write(dir.join("run.json"), serde_json::to_vec_pretty(&json)?)
}

pub fn markdown(run: &Run, cells: &[Cell]) -> String {
    let mut text = String::new();
    head(&mut text, run);
    six_rows(&mut text, run, cells);
    pairs(&mut text, cells);
    if !run.warm.is_empty() {
        warm(&mut text, &run.warm);
    }
    gate_rows(&mut text, &run.gates);
    every_cell(&mut text, cells);
    let lost: Vec<String> =
        cells.iter().filter(|cell| cell.contender == OPTIMIZED).filter_map(|cell| beaten(cell, cells)).collect();
    line(&mut text, format_args!("\n## Cells that another contender wins\n"));
    if lost.is_empty() {
        line(&mut text, format_args!("None."));
    }
    for lost in lost {
        line(&mut text, format_args!("- {lost}"));
    }
    for note in &run.notes {
        line(&mut text, format_args!("\n{note}"));
    }
    text
}

fn line(text: &mut String, parts: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{parts}");
}

fn head(text: &mut String, run: &Run) {
    line(text, format_args!("# Benchmark run {}\n", run.id));
    line(
        text,
        format_args!("`{}`, seed {}; providers: {}, over {}.", run.command, run.seed, run.providers, run.transport),
    );
    line(text, format_args!("{}; TCP congestion control {}.\n", run.machine, run.congestion_control));
    if run.providers == "kubo" {
        let why = "it refuses more than one new connection in 5 s from one address, and the cold rows make dozens";
        line(text, format_args!("Kubo's resource manager is off: {why}.\n"));
    }
    line(text, format_args!("| contender | version | timed |\n|---|---|---|"));
    for (name, version, remark) in &run.contenders {
        line(text, format_args!("| {name} | {version} | {} |", remark.unwrap_or("GET of the body")));
    }
    line(text, format_args!("\n| link | round trip ms | wanted | Mbit/s | wanted |\n|---|---|---|---|---|"));
    for (links, tests) in &run.self_tests {
        for test in tests {
            let mbit = test.mbit.map_or("not filled".to_owned(), |mbit| format!("{mbit:.1}"));
            let (place, rtt, wanted) = (test.link + 1, test.rtt_ms, test.wanted_rtt_ms);
            let rate = test.wanted_mbit;
            line(text, format_args!("| {links}{place} | {rtt:.2} | {wanted:.4} | {mbit} | {rate:.4} |"));
        }
    }
    line(text, format_args!("\n| links | emulator, cores | machine busy |\n|---|---|---|"));
    for (links, load, machine) in &run.load {
        let mark = if machine.is_some_and(|share| share > BUSY) { " (over 85 %: read with care)" } else { "" };
        let machine = machine.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
        line(text, format_args!("| {links} | {load:.2} | {machine}{mark} |"));
    }
}

/// Standard against optimised, one row a scenario: geometric means over all cells that both finished.
fn six_rows(text: &mut String, run: &Run, cells: &[Cell]) {
    line(text, format_args!("\n## Faster than standard: the six scenarios\n"));
    line(
        text,
        format_args!(
            "Geometric means of the cells' medians; warm: p50 of one connection, and nginx as the best. η = T_k / T. \
             Best: the fastest other program in each cell that fetches the same bytes (not nginx over one connection).\n\n\
             | scenario | standard | cells | standard ms | optimised ms | improvement | η standard | η optimised | × the best |\n\
             |---|---|---|---|---|---|---|---|---|"
        ),
    );
    for scenario in ["small", "medium", "large", "multi", "cold"] {
        for standard in STANDARDS {
            let pairs: Vec<(&Cell, &Cell)> =
                pairs_of(cells, standard).filter(|(ours, _)| ours.scenario == scenario).collect();
            let mean =
                |value: &dyn Fn(&Cell, &Cell) -> Option<f64>| geometric(pairs.iter().filter_map(|(a, b)| value(a, b)));
            let ours = mean(&|ours, _| Some(ours.total_ms?.p50));
            let theirs = mean(&|_, theirs| Some(theirs.total_ms?.p50));
            let Some((ours, theirs)) = ours.zip(theirs) else { continue };
            line(
                text,
                format_args!(
                    "| {scenario} | {standard} | {} | {theirs:.0} | {ours:.0} | {:.0} % | {} | {} | {} |",
                    pairs.len(),
                    (1.0 - ours / theirs) * 100.0,
                    share(mean(&|_, theirs| theirs.efficiency)),
                    share(mean(&|ours, _| ours.efficiency)),
                    share(mean(&|ours, _| Some(best(ours, cells)?.0 / ours.total_ms?.p50))),
                ),
            );
        }
    }
    let of = |contender: &str| -> Vec<&Warm> {
        let of = |warm: &&Warm| warm.contender == contender && warm.what == What::File && warm.connections == 1;
        run.warm.iter().filter(of).collect()
    };
    let mean = |of: &[&Warm]| geometric(of.iter().map(|warm| warm.p50_us / 1e3));
    for standard in STANDARDS {
        let (ours, theirs, nginx) = (of(OPTIMIZED), of(standard), of("nginx"));
        let Some((a, b)) = mean(&ours).zip(mean(&theirs)) else { continue };
        let best = mean(&nginx).map(|nginx| nginx / a);
        line(
            text,
            format_args!(
                "| warm | {standard} | {} | {b:.3} | {a:.3} | {:.0} % | – | – | {} |",
                ours.len(),
                (1.0 - a / b) * 100.0,
                share(best)
            ),
        );
    }
}

fn pairs(text: &mut String, cells: &[Cell]) {
    line(text, format_args!("\n## Faster than standard, cell by cell\n"));
    line(
        text,
        format_args!(
            "| scenario | links | size | standard | standard ms | optimised ms | improvement | η standard | η optimised | × the best |\n\
             |---|---|---|---|---|---|---|---|---|---|"
        ),
    );
    for standard in STANDARDS {
        for (cell, standard) in pairs_of(cells, standard) {
            let (Some(ours), Some(theirs)) = (cell.total_ms, standard.total_ms) else { continue };
            let improvement = (1.0 - ours.p50 / theirs.p50) * 100.0;
            line(
                text,
                format_args!(
                    "| {} | {} | {} | {} | {:.0} | {:.0} | {improvement:.0} % | {} | {} | {} |",
                    title(cell),
                    cell.links,
                    size(cell.bytes),
                    standard.contender,
                    theirs.p50,
                    ours.p50,
                    share(standard.efficiency),
                    share(cell.efficiency),
                    share(best(cell, cells).map(|(best, _)| best / ours.p50)),
                ),
            );
        }
    }
}

/// (Ours, the standard's) of the same cell.
fn pairs_of<'a>(cells: &'a [Cell], standard: &'a str) -> impl Iterator<Item = (&'a Cell, &'a Cell)> {
    cells.iter().filter(|cell| cell.contender == OPTIMIZED && cell.total_ms.is_some()).filter_map(move |cell| {
        let other = cells.iter().find(|other| other.contender == standard && same(cell, other))?;
        other.total_ms.map(|_| (cell, other))
    })
}

fn warm(text: &mut String, warm: &[Warm]) {
    line(text, format_args!("\n## Warm cache, loopback, wrk with one thread\n"));
    line(
        text,
        format_args!(
            "| what | size | connections | contender | p50 µs | p99 µs | requests/s | MB/s |\n|---|---|---|---|---|---|---|---|"
        ),
    );
    for one in warm {
        let Warm { contender, what, bytes, connections, p50_us, p99_us, requests_per_s, .. } = one;
        let rate = requests_per_s * *bytes as f64 / 1e6;
        line(
            text,
            format_args!(
                "| {} | {} | {connections} | {contender} | {p50_us:.0} | {p99_us:.0} | {requests_per_s:.0} | {rate:.0} |",
                what.as_str(),
                size(*bytes)
            ),
        );
    }
}

fn gate_rows(text: &mut String, gates: &[Gate]) {
    line(text, format_args!("\n## Gates\n"));
    let held = gates.iter().filter(|gate| gate.holds).count();
    line(
        text,
        format_args!("{held} of {} hold.\n\n| cell | wanted | measured | holds |\n|---|---|---|---|", gates.len()),
    );
    for Gate { cell, wanted, measured, holds } in gates {
        line(text, format_args!("| {cell} | {wanted} | {measured} | {} |", if *holds { "yes" } else { "**no**" }));
    }
}

fn every_cell(text: &mut String, cells: &[Cell]) {
    line(text, format_args!("\n## Every cell\n"));
    line(
        text,
        format_args!(
            "Times in ms; the interval is the 95 % bootstrap interval of the median; p95 and p99 are the maximum below 20 and 100 samples; η = bound / p50 (and / p95); wire = bytes \
             that came down all links / bytes of content, other contenders' idle connections included; dup = payload that came \
             again / content, as the contender counts it; UDP dropped = datagrams that a full socket of the contender lost, the mean of one fetch; CPU likewise; asked = blocks that bad peers were asked \
             for in all fetches, and those of a corrupt peer after its first bad block was there.\n\n\
             | scenario | links | size | contender | n | failed | bound | p50 | interval | p95 | p99 | TTFB p50 | η | η p95 | wire | dup | UDP dropped | CPU ms | peak MiB | asked |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        ),
    );
    for cell in cells {
        let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.0}"));
        let ratio = |value: Option<f64>| value.map_or("–".to_owned(), |ratio| format!("{ratio:.3}"));
        let total = cell.total_ms;
        let after = cell.asked_after_bad.map_or(String::new(), |after| format!(", {after} after"));
        line(
            text,
            format_args!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                title(cell),
                cell.links,
                size(cell.bytes),
                cell.contender,
                total.map_or(0, |total| total.n),
                cell.failed,
                number(cell.bound_ms),
                number(total.map(|total| total.p50)),
                total.map_or("–".to_owned(), |total| format!("{:.0}–{:.0}", total.low, total.high)),
                total.map_or("–".to_owned(), |total| tail(&total, total.p95, 20)),
                total.map_or("–".to_owned(), |total| tail(&total, total.p99, 100)),
                number(cell.ttfb_ms.map(|ttfb| ttfb.p50)),
                share(cell.efficiency),
                share(cell.efficiency_p95),
                ratio(cell.wire_ratio),
                ratio(cell.duplicate_share),
                number(cell.udp_dropped),
                cell.cpu_ms.map_or("–".to_owned(), |ms| format!("{ms:.1}")),
                number(cell.peak_memory.map(|bytes| bytes as f64 / f64::from(1 << 20))),
                cell.adversary_asked.map_or("–".to_owned(), |asked| format!("{asked}{after}")),
            ),
        );
    }
}

/// A percentile, or the maximum where there are too few samples for it.
fn tail(total: &Summary, value: f64, least: usize) -> String {
    if total.n >= least { format!("{value:.0}") } else { format!("max {:.0}", total.max) }
}

/// `None`: there is nothing to take the mean of.
fn geometric(values: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = values.map(f64::ln).collect();
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}

/// The fastest of the other programs in this cell; nginx serves plain files over a connection and is the floor, not a rival.
fn best<'a>(cell: &Cell, cells: &'a [Cell]) -> Option<(f64, &'a str)> {
    cells
        .iter()
        .filter(|other| {
            same(cell, other) && !other.contender.starts_with("tidegate") && other.contender != "nginx-warm"
        })
        .filter_map(|other| Some((other.total_ms?.p50, other.contender.as_str())))
        .min_by(|a, b| a.0.total_cmp(&b.0))
}

/// Who is faster than Tidegate in this cell.
fn beaten(cell: &Cell, cells: &[Cell]) -> Option<String> {
    let ours = cell.total_ms?.p50;
    let best = best(cell, cells)?;
    (best.0 < ours).then(|| {
        let (name, links, by) = (title(cell), &cell.links, (ours / best.0 - 1.0) * 100.0);
        format!("{name}, {links}, {}: {} by {by:.0} % ({:.0} against {ours:.0} ms)", size(cell.bytes), best.1, best.0)
    })
}

fn same(a: &Cell, b: &Cell) -> bool {
    (a.scenario, &a.links, a.bytes, a.fault) == (b.scenario, &b.links, b.bytes, b.fault)
}

fn title(cell: &Cell) -> String {
    match cell.fault {
        Some(fault) => format!("{}: {fault}", cell.scenario),
        None => cell.scenario.to_owned(),
    }
}

fn share(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}

fn size(bytes: u64) -> String {
    match bytes {
        1_000_000.. => format!("{} MB", bytes as f64 / 1e6),
        _ => format!("{} kB", bytes as f64 / 1e3),
    }
}

pub fn csv(samples: &[Sample]) -> String {
    let mut text =
        "scenario,links,bytes,fault,contender,iteration,cid,total_ms,ttfb_ms,wire_ratio,duplicate_bytes,udp_dropped,cpu_ms,peak_memory_bytes,bound_ms,adversary_asked,asked_after_bad,joined_ms,error\n"
            .to_owned();
    for sample in samples {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        let count = |value: Option<u64>| value.map_or(String::new(), |value| value.to_string());
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{:.3},{:.3},{},{},{},{},{},{},{},{},{},\"{}\"",
            sample.scenario,
            sample.links,
            sample.bytes,
            sample.fault.unwrap_or_default(),
            sample.contender,
            sample.iteration,
            sample.cid,
            sample.total_ms,
            sample.ttfb_ms,
            number(sample.wire_ratio),
            count(sample.duplicate_bytes),
            count(sample.udp_dropped),
            number(sample.cpu_ms),
            count(sample.peak_memory),
            number(sample.bound_ms),
            count(sample.adversary_asked),
            count(sample.asked_after_bad),
            number(sample.joined_ms),
            sample.error.as_deref().unwrap_or_default().replace('"', "'").replace('\n', " "),
        );
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cell::{cells, tests::sample};

    pub fn run() -> Run {
        Run {
            id: "bench-1".to_owned(),
            seed: 1,
            command: "tidegate-bench run".to_owned(),
            congestion_control: "bbr".to_owned(),
            providers: "kubo".to_owned(),
            transport: "quic".to_owned(),
            machine: Machine::read(),
            contenders: vec![("kubo".to_owned(), "Kubo 0.43.0".to_owned(), None)],
            self_tests: Vec::new(),
            load: vec![("A".to_owned(), 0.1, Some(0.9))],
            fairness: Vec::new(),
            warm: Vec::new(),
            gates: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_six_rows_compare_with_both_standards_and_name_who_wins() {
        let samples =
            [sample(OPTIMIZED, 60.0, None), sample("tidegate-standard", 120.0, None), sample("kubo", 50.0, None)];
        let text = markdown(&run(), &cells(&samples, 1));
        assert!(text.contains("| small | kubo | 1 | 50 | 60 | -20 % | 1.16 | 0.97 | 0.83 |"), "{text}");
        assert!(text.contains("| small | tidegate-standard | 1 | 120 | 60 | 50 % |"), "{text}");
        assert!(text.contains("kubo by 20 % (50 against 60 ms)") && text.contains("over 85 %"), "{text}");
    }

    #[test]
    fn every_line_of_the_samples_has_all_columns() {
        let text = csv(&[sample(OPTIMIZED, 60.0, None), sample("kubo", 0.0, Some("gone"))]);
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [19, 19, 19]);
    }
}
