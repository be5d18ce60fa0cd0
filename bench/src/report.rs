//! The report of a run: markdown for people, CSV of every sample, JSON of every cell with the machine.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::cell::{Cell, Sample};
use crate::machine::Machine;

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
    /// CPU time of the emulator / wall time, by link set.
    pub emulator_load: Vec<(String, f64)>,
    pub notes: Vec<String>,
}

/// The two standards of the six-row form: ours, and the incumbent.
pub const STANDARDS: [&str; 2] = ["kubo", "tidegate-standard"];
pub const OPTIMIZED: &str = "tidegate-optimized";

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
    let mut line = |parts: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{parts}");
    };
    line(format_args!("# Benchmark run {}\n", run.id));
    line(format_args!("`{}`, seed {}; providers: {}, over {}.", run.command, run.seed, run.providers, run.transport));
    line(format_args!("{}; TCP congestion control {}.\n", run.machine, run.congestion_control));
    line(format_args!("| contender | version | timed |\n|---|---|---|"));
    for (name, version, remark) in &run.contenders {
        line(format_args!("| {name} | {version} | {} |", remark.unwrap_or("GET of the body")));
    }
    for (links, tests) in &run.self_tests {
        for test in tests {
            let mbit =
                test.mbit.map_or("not filled".to_owned(), |mbit| format!("{mbit:.1} of {} Mbit/s", test.wanted_mbit));
            line(format_args!(
                "\nLink {links}{}: round trip {:.2} of {} ms, {mbit}.",
                test.link + 1,
                test.rtt_ms,
                test.wanted_rtt_ms
            ));
        }
    }
    for (links, load) in &run.emulator_load {
        line(format_args!("\nEmulator on {links}: {load:.2} of a core."));
    }
    line(format_args!("\n## Faster than standard, by how much\n"));
    line(format_args!(
        "| scenario | links | size | standard | standard ms | optimised ms | improvement | η standard | η optimised |\n\
         |---|---|---|---|---|---|---|---|---|"
    ));
    for cell in cells.iter().filter(|cell| cell.contender == OPTIMIZED) {
        for standard in cells.iter().filter(|other| STANDARDS.contains(&other.contender.as_str()) && same(cell, other))
        {
            let (Some(ours), Some(theirs)) = (cell.total_ms, standard.total_ms) else { continue };
            let improvement = (1.0 - ours.p50 / theirs.p50) * 100.0;
            line(format_args!(
                "| {} | {} | {} | {} | {:.0} | {:.0} | {improvement:.0} % | {} | {} |",
                title(cell),
                cell.links,
                size(cell.bytes),
                standard.contender,
                theirs.p50,
                ours.p50,
                share(standard.efficiency),
                share(cell.efficiency),
            ));
        }
    }
    line(format_args!("\n## Every cell\n"));
    line(format_args!(
        "Times in ms; the interval is the 95 % bootstrap interval of the median; η = bound / p50; wire = bytes that came \
         down the links / bytes of content.\n"
    ));
    line(format_args!(
        "| scenario | links | size | contender | n | failed | bound | p50 | interval | p95 | p99 | TTFB p50 | η | wire | CPU ms | peak MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    ));
    for cell in cells {
        let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.0}"));
        let total = cell.total_ms;
        line(format_args!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            title(cell),
            cell.links,
            size(cell.bytes),
            cell.contender,
            total.map_or(0, |total| total.n),
            cell.failed,
            number(cell.bound_ms),
            number(total.map(|total| total.p50)),
            total.map_or("–".to_owned(), |total| format!("{:.0}–{:.0}", total.low, total.high)),
            number(total.map(|total| total.p95)),
            number(total.map(|total| total.p99)),
            number(cell.ttfb_ms.map(|ttfb| ttfb.p50)),
            share(cell.efficiency),
            cell.wire_ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}")),
            number(cell.cpu_ms),
            number(cell.peak_memory.map(|bytes| bytes as f64 / f64::from(1 << 20))),
        ));
    }
    let lost: Vec<String> =
        cells.iter().filter(|cell| cell.contender == OPTIMIZED).filter_map(|cell| beaten(cell, cells)).collect();
    line(format_args!("\n## Cells that another contender wins\n"));
    if lost.is_empty() {
        line(format_args!("None."));
    }
    for text in lost {
        line(format_args!("- {text}"));
    }
    for note in &run.notes {
        line(format_args!("\n{note}"));
    }
    text
}

/// Who is faster than Tidegate in this cell; nginx serves plain files and is the floor, not a rival.
fn beaten(cell: &Cell, cells: &[Cell]) -> Option<String> {
    let ours = cell.total_ms?.p50;
    let best = cells
        .iter()
        .filter(|other| {
            same(cell, other) && !other.contender.starts_with("tidegate") && other.contender != "nginx-warm"
        })
        .filter_map(|other| Some((other.total_ms?.p50, other.contender.as_str())))
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
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
        1_000_000.. => format!("{:.4} MB", bytes as f64 / 1e6).replace(".0000", ""),
        _ => format!("{} kB", bytes as f64 / 1e3),
    }
}

pub fn csv(samples: &[Sample]) -> String {
    let mut text =
        "scenario,links,bytes,fault,contender,iteration,total_ms,ttfb_ms,wire_ratio,cpu_ms,peak_memory_bytes,bound_ms,error\n"
            .to_owned();
    for sample in samples {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{:.3},{:.3},{},{},{},{},\"{}\"",
            sample.scenario,
            sample.links,
            sample.bytes,
            sample.fault.unwrap_or_default(),
            sample.contender,
            sample.iteration,
            sample.total_ms,
            sample.ttfb_ms,
            number(sample.wire_ratio),
            number(sample.cpu_ms),
            sample.peak_memory.map_or(String::new(), |bytes| bytes.to_string()),
            number(sample.bound_ms),
            sample.error.as_deref().unwrap_or_default().replace('"', "'").replace('\n', " "),
        );
    }
    text
}
