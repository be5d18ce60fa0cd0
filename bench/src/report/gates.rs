//! The gates of RETRIEVAL.md §5.3 and of the issue, checked on what was measured. A gate whose cells were not measured is
//! not in the list.

use serde::Serialize;

use super::{OPTIMIZED, same};
use crate::cell::Cell;
use crate::run::warm::{Warm, What};

/// One gate on one cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    pub cell: String,
    pub wanted: String,
    pub measured: String,
    pub holds: bool,
}

const KUBO: &str = "kubo";

/// All gates that the cells allow to check. `cars`: the providers give CARs, so that the bound is T_1, which only those that
/// are alone can keep: several are asked for blocks.
pub fn gates(cells: &[Cell], warm: &[Warm], fairness: &[(String, f64)], cars: bool) -> Vec<Gate> {
    let mut gates = Vec::new();
    for cell in cells.iter().filter(|cell| cell.contender == OPTIMIZED) {
        of_cell(cell, cells, cars, &mut gates);
    }
    unseen(cells, &mut gates);
    let files: Vec<&Warm> = warm.iter().filter(|warm| warm.what == What::File).collect();
    for ours in files.iter().filter(|warm| warm.contender == OPTIMIZED) {
        let name = format!("warm {} bytes, {} connections", ours.bytes, ours.connections);
        let nginx = files.iter().find(|other| {
            other.contender == "nginx" && (other.bytes, other.connections) == (ours.bytes, ours.connections)
        });
        if let Some(nginx) = nginx.filter(|_| ours.connections > 1) {
            gates.push(at_least(&name, "requests/s of nginx", ours.requests_per_s / nginx.requests_per_s, 0.9));
        }
        if ours.bytes == 1_000 && ours.connections == 1 {
            gates.push(at_most(&name, "p50 µs", ours.p50_us, 100.0));
        }
    }
    for (_, index) in fairness.iter().filter(|(name, _)| name == OPTIMIZED) {
        gates.push(at_least("eight downloads at once", "Jain", *index, 0.95));
    }
    gates
}

fn of_cell(cell: &Cell, cells: &[Cell], cars: bool, gates: &mut Vec<Gate>) {
    let name = format!("{} {} {}", super::title(cell), cell.links, super::size(cell.bytes));
    let links = cell.links.as_str();
    let wanted = match (cell.scenario, links, cell.bytes) {
        ("medium" | "large", "W", _) if cars => Some(0.60),
        (_, links, _) if cars && links != "A" => None,
        ("small", "A" | "D" | "E", 100_000) => Some(0.80),
        ("small", "A" | "D" | "E", 900_000) => Some(0.75),
        ("medium", "A", _) => Some(0.90),
        ("medium", "D" | "E", _) | ("medium", "W", 5_000_000) => Some(0.80),
        ("large", "A", _) => Some(0.95),
        ("large", "D" | "E", _) => Some(0.87),
        ("large", "W", 20_000_000) => Some(0.60),
        ("multi", "A", _) => Some(0.65),
        _ => None,
    };
    if let Some((wanted, eta)) = wanted.zip(cell.efficiency) {
        gates.push(at_least(&name, "η", eta, wanted));
    }
    let kubo = cells.iter().find(|other| other.contender == KUBO && same(cell, other));
    match cell.scenario {
        "small" => {
            let rtt = match links {
                "A" => 50.0,
                "D" => 20.0,
                _ => 40.0,
            };
            if let Some((total, bound)) = cell.total_ms.zip(cell.bound_ms).filter(|_| ["A", "D", "E"].contains(&links))
            {
                gates.push(at_most(&name, "p99 ms (2 T_k + 1 RTT)", total.p99, 2.0 * bound + rtt));
            }
        }
        "medium" => {
            if let Some((ours, theirs)) = cell.ttfb_ms.zip(kubo.and_then(|kubo| kubo.ttfb_ms)) {
                gates.push(at_most(&name, "first byte of Kubo's", ours.p50 / theirs.p50, 0.6));
            }
        }
        "large" => {
            if let Some(share) = cell.duplicate_share {
                gates.push(at_most(&name, "duplicates", 1.0 + share, 1.03));
            }
            if let Some((ours, theirs)) = cell.cpu_ms.zip(kubo.and_then(|kubo| kubo.cpu_ms)).filter(|_| links != "W") {
                gates.push(at_most(&name, "CPU of Kubo's", ours / theirs, 0.5));
            }
            let aria2 = cells.iter().find(|other| other.contender == "aria2" && same(cell, other));
            if let Some((ours, theirs)) =
                cell.total_ms.zip(aria2.and_then(|aria2| aria2.total_ms)).filter(|_| links == "D")
            {
                gates.push(at_most(&name, "time of aria2's", ours.p50 / theirs.p50, 0.9));
            }
        }
        "multi" if cell.fault == Some("tar") && links == "A" => {
            if let Some((ours, theirs)) = cell.total_ms.zip(kubo.and_then(|kubo| kubo.total_ms)) {
                gates.push(at_most(&name, "time of Kubo's", ours.p50 / theirs.p50, 0.05));
            }
        }
        "cold" => {
            if let Some((total, bound)) = cell.total_ms.zip(cell.bound_ms) {
                gates.push(at_most(&name, "time / bound", total.p50 / bound, 1.5));
            }
            if let Some((ours, theirs)) = cell.total_ms.zip(kubo.and_then(|kubo| kubo.total_ms)) {
                gates.push(at_least(&name, "ms faster than Kubo", theirs.p50 - ours.p50, 1_000.0));
            }
        }
        "robust" => robust(cell, cells, &name, gates),
        _ => {}
    }
}

fn robust(cell: &Cell, cells: &[Cell], name: &str, gates: &mut Vec<Gate>) {
    let whole = |links: &str| {
        let found = cells.iter().find(|other| {
            (other.scenario, other.links.as_str(), other.bytes, other.fault) == ("robust", links, cell.bytes, None)
                && other.contender == cell.contender
        });
        found.and_then(|cell| cell.total_ms).map(|total| total.p50)
    };
    if cell.failed > 0 {
        gates.push(at_most(name, "failed", cell.failed as f64, 0.0));
    }
    let Some(total) = cell.total_ms else { return };
    match (cell.links.as_str(), cell.fault) {
        (links, None) if links.starts_with("D+") => {
            gates.extend(whole("D").map(|plain| at_most(name, "time of D's", total.p50 / plain, 1.25)));
        }
        ("Dcorrupt", None) => {
            gates.extend(whole("D-P1").map(|plain| at_most(name, "time without it", total.p50 / plain, 1.15)));
        }
        ("Dlate", None) => match cell.joined_ms {
            Some(joined) => gates.push(at_most(name, "ms until the late peer is used", joined, 1_000.0)),
            None => gates.push(Gate {
                cell: name.to_owned(),
                wanted: "the late peer is used within 1000 ms".to_owned(),
                measured: "never used".to_owned(),
                holds: false,
            }),
        },
        (_, Some("degraded")) => {
            gates.extend(cell.bound_ms.map(|bound| at_most(name, "time / bound", total.p50 / bound, 1.25)));
        }
        _ => {}
    }
    if let Some(asked) = cell.asked_after_bad {
        gates.push(at_most(name, "blocks asked of a corrupt peer after its first bad one", asked as f64, 0.0));
    }
}

/// Links that nobody tuned for.
fn unseen(cells: &[Cell], gates: &mut Vec<Gate>) {
    let ours = cells.iter().filter(|cell| cell.scenario == "unseen" && cell.contender == OPTIMIZED);
    let mut etas: Vec<f64> = ours.clone().filter_map(|cell| cell.efficiency).collect();
    etas.sort_by(f64::total_cmp);
    if let Some(median) = crate::stats::percentile(&etas, 0.5) {
        gates.push(at_least(&format!("unseen, {} cells", etas.len()), "median η", median, 0.7));
    }
    let ratio = |cell: &Cell| {
        let kubo = cells.iter().find(|other| other.contender == KUBO && same(cell, other))?;
        Some(cell.total_ms?.p50 / kubo.total_ms?.p50)
    };
    if let Some(worst) = ours.filter_map(ratio).reduce(f64::max) {
        gates.push(at_most("unseen, the worst cell", "time of Kubo's", worst, 1.05));
    }
}

fn at_least(cell: &str, what: &str, measured: f64, wanted: f64) -> Gate {
    let (wanted_text, measured_text) = (format!("{what} ≥ {wanted}"), number(measured));
    Gate { cell: cell.to_owned(), wanted: wanted_text, measured: measured_text, holds: measured >= wanted }
}

fn at_most(cell: &str, what: &str, measured: f64, wanted: f64) -> Gate {
    let (wanted_text, measured_text) = (format!("{what} ≤ {}", number(wanted)), number(measured));
    Gate { cell: cell.to_owned(), wanted: wanted_text, measured: measured_text, holds: measured <= wanted }
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 || value == value.trunc() { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{Sample, cells, tests::sample};
    use crate::scenario::Scenario;

    #[test]
    fn a_gate_holds_or_not_by_what_was_measured() {
        let all = cells(&[sample(OPTIMIZED, 60.0, None), sample(OPTIMIZED, 61.0, None)], 1);
        let gates = gates(&all, &[], &[(OPTIMIZED.to_owned(), 0.9)], false);
        let told: Vec<(&str, bool)> = gates.iter().map(|gate| (gate.wanted.as_str(), gate.holds)).collect();
        assert_eq!(told, [("η ≥ 0.8", true), ("p99 ms (2 T_k + 1 RTT) ≤ 166", true), ("Jain ≥ 0.95", false)]);
    }

    #[test]
    fn providers_that_give_cars_are_judged_by_the_bound_of_one_round_trip() {
        let row = |links: &str| Sample {
            total_ms: 1_000.0,
            bound_ms: Some(610.0),
            ..Sample::new(Scenario::Medium, links, 5_000_000, OPTIMIZED, 0)
        };
        let all = cells(&[row("W"), row("E"), row("A")], 1);
        let told: Vec<(String, bool)> =
            gates(&all, &[], &[], true).into_iter().map(|gate| (gate.wanted, gate.holds)).collect();
        assert_eq!(told, [("η ≥ 0.6".to_owned(), true), ("η ≥ 0.9".to_owned(), false)]);
    }

    #[test]
    fn the_first_byte_of_a_medium_file_is_judged_beside_kubos() {
        let row = |contender: &str, ttfb_ms: f64| Sample {
            ttfb_ms,
            total_ms: 500.0,
            bound_ms: Some(490.0),
            ..Sample::new(Scenario::Medium, "A", 5_000_000, contender, 0)
        };
        let all = cells(&[row(OPTIMIZED, 150.0), row(KUBO, 200.0)], 1);
        let told: Vec<(String, bool)> =
            gates(&all, &[], &[], false).into_iter().map(|gate| (gate.measured, gate.holds)).collect();
        assert_eq!(told, [("0.980".to_owned(), true), ("0.750".to_owned(), false)]);
    }

    #[test]
    fn a_corrupt_peer_that_was_asked_again_breaks_its_gate() {
        let row = |links: &str, total_ms: f64, asked: Option<u64>| Sample {
            total_ms,
            asked_after_bad: asked,
            ..Sample::new(Scenario::Robust, links, 20_000_000, OPTIMIZED, 0)
        };
        let all = cells(&[row("D-P1", 2_000.0, None), row("Dcorrupt", 2_200.0, Some(3))], 1);
        let gates = gates(&all, &[], &[], false);
        let told: Vec<(&str, bool)> = gates.iter().map(|gate| (gate.measured.as_str(), gate.holds)).collect();
        assert_eq!(told, [("1.100", true), ("3", false)]);
    }

    #[test]
    fn unseen_links_are_judged_by_the_median_and_by_the_worst() {
        let row = |links: &str, contender: &str, total_ms: f64| Sample {
            total_ms,
            bound_ms: Some(700.0),
            ..Sample::new(Scenario::Unseen, links, 5_000_000, contender, 0)
        };
        let all = cells(
            &[
                row("R1.0", OPTIMIZED, 1_000.0),
                row("R1.0", KUBO, 2_000.0),
                row("R1.1", OPTIMIZED, 800.0),
                row("R1.1", KUBO, 700.0),
            ],
            1,
        );
        let told: Vec<(String, bool)> =
            gates(&all, &[], &[], false).into_iter().map(|gate| (gate.measured, gate.holds)).collect();
        assert_eq!(told, [("0.787".to_owned(), true), ("1.143".to_owned(), false)]);
    }
}
