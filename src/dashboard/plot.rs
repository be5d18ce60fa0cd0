//! Measurements over time as dots or bars: pure functions from rows to coordinates.

use super::chart::{Tick, px, steps};
use super::filters;

// The plot's area within a box of 620 x 210, which `_plot.html` draws.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 608.0;
const TOP: f64 = 12.0;
const FLOOR: f64 = 180.0;
/// Spans over this are labelled by the day, in microseconds.
const BY_DAY_US: i64 = 48 * 3_600 * 1_000_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<YTick>,
    pub dots: Vec<DotMark>,
    pub bars: Vec<Bar>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct YTick {
    pub y: f64,
    pub label: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DotMark {
    pub x: f64,
    pub y: f64,
    pub class: &'static str,
    pub title: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    pub title: String,
}

/// A measurement: when (microseconds since the epoch), how much, how it is drawn and what a pointer reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub at_us: i64,
    pub value: f64,
    pub class: &'static str,
    pub title: String,
}

/// Dots over time, the vertical axis from zero; `None` without a measurement.
pub fn dots(points: &[Measured], label: fn(f64) -> String) -> Option<Plot> {
    let points: Vec<&Measured> = points.iter().filter(|point| point.value.is_finite() && point.value >= 0.0).collect();
    let from = points.iter().map(|point| point.at_us).min()?;
    let to = points.iter().map(|point| point.at_us).max()?;
    let max = points.iter().map(|point| point.value).fold(0.0, f64::max);
    let (top, y_ticks) = vertical(max, label);
    let marks = points
        .iter()
        .map(|point| DotMark {
            x: across(point.at_us, from, to),
            y: px(FLOOR - point.value / top * (FLOOR - TOP)),
            class: point.class,
            title: point.title.clone(),
        })
        .collect();
    Some(Plot { x_ticks: times(from, to), y_ticks, dots: marks, bars: Vec::new() })
}

/// Equal spans of time as bars, `None` where nothing was measured in a span. `top` is the end of the axis.
pub fn bars(from: i64, to: i64, values: &[Option<f64>], top: f64, label: fn(f64) -> String) -> Option<Plot> {
    if values.iter().flatten().next().is_none() || top <= 0.0 {
        return None;
    }
    let width = (RIGHT - LEFT) / values.len() as f64;
    let span = (to - from) / values.len() as i64;
    let bars = values
        .iter()
        .enumerate()
        .filter_map(|(at, value)| {
            let value = value.filter(|value| value.is_finite())?;
            let height = px((value / top).clamp(0.0, 1.0) * (FLOOR - TOP));
            let start = filters::utc(filters::from_us(from + span * at as i64));
            Some(Bar {
                x: px(LEFT + width * at as f64 + 1.0),
                y: px(FLOOR - height),
                width: px((width - 2.0).max(1.0)),
                height,
                title: format!("from {start}: {}", label(value)),
            })
        })
        .collect();
    let (_, y_ticks) = vertical(top, label);
    Some(Plot { x_ticks: times(from, to), y_ticks, dots: Vec::new(), bars })
}

fn across(at: i64, from: i64, to: i64) -> f64 {
    if to <= from {
        return px((LEFT + RIGHT) / 2.0);
    }
    // Dots keep clear of both ends.
    px(LEFT + 6.0 + (at - from) as f64 / (to - from) as f64 * (RIGHT - LEFT - 12.0))
}

/// The value at the top and round steps to it.
fn vertical(max: f64, label: fn(f64) -> String) -> (f64, Vec<YTick>) {
    let top = if max > 0.0 { max } else { 1.0 };
    let ticks = steps(top, 4)
        .into_iter()
        .map(|value| YTick { y: px(FLOOR - value / top * (FLOOR - TOP)), label: label(value) })
        .collect();
    (top, ticks)
}

/// Three times along the axis; one when they would be the same.
fn times(from: i64, to: i64) -> Vec<Tick> {
    let text = |us: i64| {
        let at = filters::from_us(us);
        if to - from > BY_DAY_US {
            filters::iso(at).get(5..10).unwrap_or_default().to_owned()
        } else {
            filters::clock(at)
        }
    };
    let middle = from + (to - from) / 2;
    let mut ticks = vec![
        Tick { x: LEFT + 18.0, label: text(from) },
        Tick { x: (LEFT + RIGHT) / 2.0, label: text(middle) },
        Tick { x: RIGHT - 18.0, label: text(to) },
    ];
    if ticks[0].label == ticks[2].label {
        ticks = vec![Tick { x: (LEFT + RIGHT) / 2.0, label: text(middle) }];
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(at_us: i64, value: f64) -> Measured {
        Measured { at_us, value, class: "fill-1", title: String::new() }
    }

    #[test]
    fn dots_lie_between_the_axes_and_nothing_is_nan() {
        let plot =
            dots(&[measured(0, 0.0), measured(60_000_000, 8.0), measured(9, f64::NAN)], |v| format!("{v}")).unwrap();
        assert_eq!(plot.dots.len(), 2);
        assert_eq!((plot.dots[0].y, plot.dots[1].y), (FLOOR, TOP));
        assert!(plot.dots.iter().all(|dot| (LEFT..=RIGHT).contains(&dot.x)));
        assert_eq!(dots(&[], |v| format!("{v}")), None);
        let single = dots(&[measured(5, 3.0)], |v| format!("{v}")).unwrap();
        assert_eq!((single.dots[0].x, single.x_ticks.len()), (342.0, 1));
    }

    #[test]
    fn a_bar_of_half_the_top_is_half_as_high_and_a_gap_has_none() {
        let plot = bars(0, 4_000_000, &[Some(0.5), None, Some(1.0), Some(7.0)], 1.0, |v| format!("{v}")).unwrap();
        let heights: Vec<f64> = plot.bars.iter().map(|bar| bar.height).collect();
        assert_eq!(heights, [84.0, 168.0, 168.0]);
        assert_eq!(bars(0, 1, &[None], 1.0, |v| format!("{v}")), None);
    }
}
