//! Drawings as numbers: pure functions from figures to coordinates, which templates write as SVG.

use super::filters;

/// A coordinate to a tenth of a unit: finer is invisible and longer.
pub fn px(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A small line without axes; gaps where nothing was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Sparkline {
    pub label: String,
    /// `points` of polylines, in a box of 100 x 30.
    pub lines: Vec<String>,
    /// The same, closed along the floor.
    pub areas: Vec<String>,
}

/// A sparkline from zero to the largest value; `None` when fewer than two points were measured.
pub fn sparkline(label: String, values: &[Option<f64>]) -> Option<Sparkline> {
    const FLOOR: f64 = 28.5;
    const HEIGHT: f64 = 26.0;
    let measured = values.iter().flatten().filter(|v| v.is_finite()).count();
    if measured < 2 {
        return None;
    }
    let max = values.iter().flatten().copied().filter(|v| v.is_finite()).fold(0.0_f64, f64::max);
    let last = (values.len() - 1).max(1) as f64;
    let mut runs: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    for (i, value) in values.iter().enumerate() {
        match value.filter(|v| v.is_finite()) {
            Some(value) => {
                let share = if max > 0.0 { value / max } else { 0.0 };
                let point = (px(i as f64 * 100.0 / last), px(FLOOR - share * HEIGHT));
                if let Some(run) = runs.last_mut() {
                    run.push(point);
                }
            }
            None => runs.push(Vec::new()),
        }
    }
    // A single measured minute between gaps would be invisible: it becomes a short dash.
    let runs: Vec<Vec<(f64, f64)>> = runs
        .into_iter()
        .filter(|run| !run.is_empty())
        .map(|mut run| {
            if let [(x, y)] = run[..] {
                run = vec![(px((x - 0.8).max(0.0)), y), (px((x + 0.8).min(100.0)), y)];
            }
            run
        })
        .collect();
    let text = |run: &Vec<(f64, f64)>| run.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ");
    let lines = runs.iter().map(text).collect();
    let closed = |run: &Vec<(f64, f64)>| match (run.first(), run.last()) {
        (Some((a, _)), Some((b, _))) => format!("{} {b},30 {a},30", text(run)),
        _ => String::new(),
    };
    let areas = runs.iter().map(closed).collect();
    Some(Sparkline { label, lines, areas })
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    pub x: f64,
    pub label: String,
}

/// Medians with intervals on a logarithmic axis, one row a size class.
#[derive(Debug, Clone, PartialEq)]
pub struct DotPlot {
    pub height: i32,
    pub axis: i32,
    pub ticks: Vec<Tick>,
    pub rows: Vec<DotRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DotRow {
    pub label: String,
    pub y: i32,
    pub standard: Dot,
    pub optimized: Dot,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Dot {
    pub x: f64,
    pub low: f64,
    pub high: f64,
    pub text: String,
    pub text_x: f64,
    /// Class: where the text is anchored.
    pub anchor: &'static str,
}

/// A median in milliseconds with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// `None` without rows. Milliseconds at or under zero are drawn at the left end.
pub fn dot_plot(rows: &[(String, Span, Span)]) -> Option<DotPlot> {
    const LEFT: f64 = 250.0;
    const RIGHT: f64 = 620.0;
    const ROW: i32 = 46;
    if rows.is_empty() {
        return None;
    }
    let ends = rows.iter().flat_map(|(_, a, b)| [a.low, a.high, b.low, b.high]).map(|v| v.max(0.01));
    let (min, max) = ends.fold((f64::INFINITY, 0.0_f64), |(min, max), v| (min.min(v), max.max(v)));
    let (low, high) = (min.log10() - 0.08, (max.log10() + 0.08).max(min.log10() + 0.3));
    let x = |ms: f64| px(LEFT + (ms.max(0.01).log10() - low) / (high - low) * (RIGHT - LEFT));
    let axis = ROW * rows.len() as i32 + 10;
    let mut ticks = Vec::new();
    let dense = high - low < 1.6;
    for power in -2..=7 {
        for step in if dense { &[1.0, 2.0, 5.0][..] } else { &[1.0][..] } {
            let ms = step * 10f64.powi(power);
            if (low..=high).contains(&ms.log10()) {
                ticks.push(Tick { x: x(ms), label: tick_label(ms) });
            }
        }
    }
    // Labels stand outside of both intervals, which may overlap.
    let dot = |name: &str, span: Span, other: Span, right: bool| {
        let (low, high) = (x(span.low), x(span.high));
        let (left_end, right_end) = (low.min(x(other.low)), high.max(x(other.high)));
        let text = format!("{name} {}", filters::cell(filters::ms(Some(span.median))));
        let (text_x, anchor) = if right { (px(right_end + 12.0), "start") } else { (px(left_end - 12.0), "end") };
        Dot { x: x(span.median), low, high, text, text_x, anchor }
    };
    let rows = rows
        .iter()
        .enumerate()
        .map(|(i, (label, standard, optimized))| {
            let slower = standard.median >= optimized.median;
            DotRow {
                label: label.clone(),
                y: ROW * i as i32 + 30,
                standard: dot("standard", *standard, *optimized, slower),
                optimized: dot("optimised", *optimized, *standard, !slower),
            }
        })
        .collect();
    Some(DotPlot { height: axis + 26, axis, ticks, rows })
}

/// Round milliseconds for an axis: `50 ms`, `2 s`.
pub fn tick_label(ms: f64) -> String {
    if ms >= 1_000.0 { format!("{} s", px(ms / 1_000.0)) } else { format!("{} ms", (ms * 100.0).round() / 100.0) }
}

/// About `n` round steps from zero to `max`.
pub fn steps(max: f64, n: usize) -> Vec<f64> {
    if !max.is_finite() || max <= 0.0 {
        return vec![0.0];
    }
    let rough = max / n.max(1) as f64;
    let base = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * base).find(|step| *step >= rough).unwrap_or(rough);
    (0..).map(|i| f64::from(i) * step).take_while(|v| *v <= max * 1.0001).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_needs_two_measured_points_and_breaks_at_gaps() {
        assert_eq!(sparkline(String::new(), &[None, Some(1.0), None]), None);
        let spark = sparkline(String::new(), &[Some(0.0), Some(2.0), None, Some(1.0)]).unwrap();
        assert_eq!(spark.lines.len(), 2);
        assert!(spark.lines[0].starts_with("0,28.5 "), "{:?}", spark.lines);
        assert!(spark.areas[0].ends_with("33.3,30 0,30"), "{:?}", spark.areas);
    }

    #[test]
    fn a_series_of_zeros_lies_on_the_floor_and_nothing_is_nan() {
        let spark = sparkline(String::new(), &[Some(0.0), Some(0.0), Some(f64::NAN)]).unwrap();
        assert_eq!(spark.lines, ["0,28.5 50,28.5"]);
    }

    #[test]
    fn the_slower_policy_is_labelled_on_the_right_and_ticks_are_round() {
        let span = |median| Span { median, low: median * 0.9, high: median * 1.1 };
        let plot = dot_plot(&[("Small".into(), span(142.0), span(61.0))]).unwrap();
        let row = &plot.rows[0];
        assert!(row.standard.x > row.optimized.x);
        assert_eq!((row.standard.anchor, row.optimized.anchor), ("start", "end"));
        assert!(plot.ticks.iter().any(|tick| tick.label == "100 ms"), "{:?}", plot.ticks);
        assert_eq!(dot_plot(&[]), None);
    }

    #[test]
    fn steps_are_round_and_bounded() {
        assert_eq!(steps(1_210.0, 6), [0.0, 500.0, 1_000.0]);
        assert_eq!(steps(f64::NAN, 6), [0.0]);
    }
}
