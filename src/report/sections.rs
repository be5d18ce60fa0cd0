//! The contents of each report: pure functions from rows to sections.

mod benchmark;
mod ipfs;
mod p2p;
mod platform;
mod verification;
mod webgpu;

use super::pairs::Sides;
use super::table::{Cell, Chart, Series};
use crate::stats::{self, Verdict};

pub use self::benchmark::{BenchmarkData, benchmark};
pub use self::ipfs::{IpfsData, ipfs};
pub use self::p2p::{P2pData, p2p};
pub use self::platform::{PlatformData, platform};
pub use self::verification::verification;
pub use self::webgpu::{WebGpuData, webgpu};

type Head = (&'static str, &'static str, &'static str);

/// Columns of a comparison of policies, after those that name it.
const COMPARED: [Head; 12] = [
    ("pairs", "pairs", ""),
    ("standard_ms", "standard, median", "ms"),
    ("standard_low_ms", "standard, low", "ms"),
    ("standard_high_ms", "standard, high", "ms"),
    ("standard_p95_ms", "standard, p95", "ms"),
    ("optimized_ms", "optimised, median", "ms"),
    ("optimized_low_ms", "optimised, low", "ms"),
    ("optimized_high_ms", "optimised, high", "ms"),
    ("optimized_p95_ms", "optimised, p95", "ms"),
    ("faster_pct", "faster by", "%"),
    ("faster_low_pct", "faster, low", "%"),
    ("faster_high_pct", "faster, high", "%"),
];

/// Both medians of [`COMPARED`] with their intervals.
fn compared_chart(label: Vec<&'static str>) -> Chart {
    let series = |name, median, low, high| Series { name, median, low, high };
    Chart::Intervals {
        label,
        series: vec![
            series("standard", "standard_ms", "standard_low_ms", "standard_high_ms"),
            series("optimised", "optimized_ms", "optimized_low_ms", "optimized_high_ms"),
        ],
    }
}

fn compared(pairs: usize, verdict: Option<Verdict>) -> Vec<Cell> {
    let times = |of: Option<stats::Interval>| Cell::interval(of, 1.0, 1);
    let p95 = |of: Option<f64>| of.map_or(Cell::TooFew, |ms| Cell::number(ms, 1));
    let mut cells = vec![Cell::count(pairs as u64)];
    cells.extend(times(verdict.map(|v| v.standard)));
    cells.push(p95(verdict.map(|v| v.standard_p95_ms)));
    cells.extend(times(verdict.map(|v| v.optimized)));
    cells.push(p95(verdict.map(|v| v.optimized_p95_ms)));
    cells.extend(Cell::interval(verdict.map(|v| v.faster_by), 100.0, 1));
    cells
}

/// Columns of a comparison of measured transfers.
fn sides_head(first: &[Head]) -> Vec<Head> {
    let counts: [Head; 4] = [
        ("n_standard", "n standard", ""),
        ("n_optimized", "n optimised", ""),
        ("failed_standard", "failed standard", ""),
        ("failed_optimized", "failed optimised", ""),
    ];
    let eta: [Head; 2] = [("eta_p50", "η p50", ""), ("eta_p95", "η p95", "")];
    [first, &counts, &COMPARED, &eta].concat()
}

fn sides_cells(first: Vec<Cell>, sides: &Sides) -> Vec<Cell> {
    let mut cells = first;
    let counts = [sides.n_standard, sides.n_optimized, sides.failed_standard, sides.failed_optimized];
    cells.extend(counts.map(|n| Cell::count(n as u64)));
    cells.extend(compared(sides.pairs, sides.verdict));
    cells.extend([Cell::number(sides.eta_p50, 3), Cell::number(sides.eta_p95, 3)]);
    cells
}

/// How intervals and the bound of what is said come about; the same words in each report that compares.
fn method(pairs: &str) -> String {
    format!(
        "{pairs} Medians with 95 % bootstrap intervals ({} resamples, fixed seed); under {} pairs nothing is said.",
        stats::RESAMPLES,
        stats::MIN_PAIRS
    )
}

/// Median of what was measured, and how many that is.
fn median_of<T>(rows: &[&T], value: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = rows.iter().filter_map(|row| value(row)).collect();
    stats::median(&values)
}
