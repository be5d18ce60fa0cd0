//! Figures as SVG text: pure functions from the cells of a table to coordinates. Colours are classes of the sheet.

use std::fmt::Write as _;

use super::table::{Chart, Figure, Series, Table};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 690.0;
const ROW: f64 = 34.0;
/// Rows of a table that a drawing has room for.
const MAX_ROWS: usize = 24;
/// The longest label, in characters.
const MAX_LABEL: usize = 32;
const FILLS: [&str; 4] = ["fill-1", "fill-2", "fill-3", "fill-4"];
const STROKES: [&str; 4] = ["stroke-1", "stroke-2", "stroke-3", "stroke-4"];

/// The drawing; `None` when the table has nothing to draw.
pub fn svg(figure: &Figure, table: &Table) -> Option<String> {
    let body = match &figure.chart {
        Chart::Intervals { label, series } => intervals(table, label, series),
        Chart::Bars { label, value } => bars(table, label, value),
        Chart::Lines { time, values } => lines(table, time, values),
    }?;
    let (height, inner) = body;
    let title = escape(&figure.title);
    Some(format!(
        "<svg class=\"drawing wide\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{inner}</svg>"
    ))
}

type Drawn = Option<(f64, String)>;

fn labels(table: &Table, row: &[super::Cell], keys: &[&str]) -> String {
    let parts: Vec<String> = keys.iter().filter_map(|key| Some(table.cell(row, key)?.shown())).collect();
    let text = parts.join(" · ");
    match text.char_indices().nth(MAX_LABEL) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn heading(table: &Table, key: &str) -> String {
    table.columns.iter().find(|column| column.key == key).map(|column| column.heading()).unwrap_or_default()
}

fn intervals(table: &Table, label: &[&str], series: &[Series]) -> Drawn {
    let number = |row: &[super::Cell], key| table.cell(row, key).and_then(super::Cell::value);
    let rows: Vec<_> = table
        .rows
        .iter()
        .filter_map(|row| {
            let spans: Option<Vec<[f64; 3]>> = series
                .iter()
                .map(|s| Some([number(row, s.median)?, number(row, s.low)?, number(row, s.high)?]))
                .collect();
            Some((labels(table, row, label), spans?))
        })
        .take(MAX_ROWS)
        .collect();
    let ends = rows.iter().flat_map(|(_, spans)| spans.iter().flatten()).copied();
    let (min, max) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if rows.is_empty() || !min.is_finite() {
        return None;
    }
    // A negative end (slower than standard) needs a linear axis; times spread over decades.
    let logarithmic = min > 0.0 && max / min > 8.0;
    let scale = |value: f64| if logarithmic { value.max(min).log10() } else { value };
    let (low, high) = (if logarithmic { scale(min) } else { min.min(0.0) }, scale(max));
    let span = if high > low { high - low } else { 1.0 };
    let x = |value: f64| px(LEFT + (scale(value) - low) / span * (RIGHT - LEFT));
    let mut out = String::new();
    for (i, s) in series.iter().enumerate() {
        let at = LEFT + 150.0 * i as f64;
        let _ = write!(
            out,
            "<circle class=\"{}\" cx=\"{at}\" cy=\"12\" r=\"5\"/><text x=\"{}\" y=\"16\">{}</text>",
            FILLS[colour(s.name, i)],
            at + 10.0,
            escape(s.name)
        );
    }
    let unit = series.first().map(|s| (s, heading(table, s.median)));
    // What all of them are, not whose the first is.
    let unit = unit.map(|(s, text)| text.strip_prefix(&format!("{}, ", s.name)).map_or(text.clone(), str::to_owned));
    let unit = unit.unwrap_or_default();
    let axis = if logarithmic { "logarithmic" } else { "linear" };
    let _ = write!(out, "<text class=\"end\" x=\"{}\" y=\"16\">{}; {axis}</text>", WIDTH - 4.0, escape(&unit));
    for (i, (label, spans)) in rows.iter().enumerate() {
        let y = 34.0 + ROW * i as f64;
        let _ = write!(out, "<text class=\"strong\" x=\"0\" y=\"{}\">{}</text>", y + 4.0, escape(label));
        for (j, [median, low, high]) in spans.iter().enumerate() {
            let y = y + 9.0 * j as f64 - 4.0 * (spans.len() as f64 - 1.0);
            let _ = write!(
                out,
                "<line class=\"interval {}\" x1=\"{}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/><circle class=\"{}\" cx=\"{}\" cy=\"{y}\" r=\"4.5\"/>",
                STROKES[colour(series[j].name, j)],
                x(*low),
                x(*high),
                FILLS[colour(series[j].name, j)],
                x(*median)
            );
        }
        let words: Vec<String> = spans.iter().map(|[median, _, _]| trim(*median)).collect();
        let _ = write!(out, "<text x=\"{}\" y=\"{}\">{}</text>", RIGHT + 14.0, y + 4.0, words.join(" / "));
    }
    Some((40.0 + ROW * rows.len() as f64, out))
}

/// Which of the four colours: the policies have the same ones as on the Overview page.
fn colour(series: &str, at: usize) -> usize {
    match series {
        "optimised" => 0,
        "standard" => 1,
        _ => at % 4,
    }
}

fn bars(table: &Table, label: &[&str], value: &str) -> Drawn {
    let rows: Vec<(String, f64)> = table
        .rows
        .iter()
        .filter_map(|row| Some((labels(table, row, label), table.cell(row, value)?.value()?.max(0.0))))
        .take(MAX_ROWS)
        .collect();
    let max = rows.iter().map(|(_, value)| *value).fold(0.0_f64, f64::max);
    if rows.is_empty() || max <= 0.0 {
        return None;
    }
    let mut out = format!("<text x=\"{LEFT}\" y=\"14\">{}</text>", escape(&heading(table, value)));
    for (i, (label, value)) in rows.iter().enumerate() {
        let y = 24.0 + 26.0 * i as f64;
        let width = px(value / max * (RIGHT - LEFT));
        let _ = write!(
            out,
            "<text class=\"strong\" x=\"0\" y=\"{}\">{}</text><rect class=\"fill-1\" x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"16\" rx=\"3\"/><text x=\"{}\" y=\"{}\">{}</text>",
            y + 13.0,
            escape(label),
            px(LEFT + width + 8.0),
            y + 13.0,
            trim(*value)
        );
    }
    Some((30.0 + 26.0 * rows.len() as f64, out))
}

fn lines(table: &Table, time: &str, values: &[&'static str]) -> Drawn {
    const TOP: f64 = 26.0;
    const FLOOR: f64 = 170.0;
    const START: f64 = 60.0;
    let at = |row: &[super::Cell]| match table.cell(row, time) {
        Some(super::Cell::Time(us)) => Some(*us as f64),
        _ => None,
    };
    let times: Vec<f64> = table.rows.iter().filter_map(|row| at(row)).collect();
    let (first, last) = times.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), t| (a.min(*t), b.max(*t)));
    let of = |key: &str| -> Vec<(f64, Option<f64>)> {
        table.rows.iter().filter_map(|row| Some((at(row)?, table.cell(row, key)?.value()))).collect()
    };
    let series: Vec<(&str, Vec<_>)> = values.iter().map(|key| (*key, of(key))).collect();
    let measured = series.iter().flat_map(|(_, points)| points).filter_map(|(_, value)| *value);
    let (count, max) = measured.fold((0, 0.0_f64), |(n, max), value| (n + 1, max.max(value)));
    if count < 2 || last <= first {
        return None;
    }
    let x = |t: f64| px(START + (t - first) / (last - first) * (WIDTH - START - 10.0));
    let y = |value: f64| px(FLOOR - if max > 0.0 { value.max(0.0) / max } else { 0.0 } * (FLOOR - TOP));
    let mut out = String::new();
    let _ = write!(
        out,
        "<line class=\"axis\" x1=\"{START}\" x2=\"{WIDTH}\" y1=\"{FLOOR}\" y2=\"{FLOOR}\"/><text class=\"end\" x=\"{}\" y=\"{}\">{}</text><text class=\"end\" x=\"{}\" y=\"{FLOOR}\">0</text>",
        START - 8.0,
        TOP + 4.0,
        trim(max),
        START - 8.0
    );
    let _ = write!(
        out,
        "<text x=\"{START}\" y=\"{}\">{}</text><text class=\"end\" x=\"{WIDTH}\" y=\"{}\">{}</text>",
        FLOOR + 18.0,
        super::table::time(first as i64),
        FLOOR + 18.0,
        super::table::time(last as i64)
    );
    for (i, (key, points)) in series.iter().enumerate() {
        let at = START + 220.0 * i as f64;
        let _ = write!(
            out,
            "<circle class=\"{}\" cx=\"{at}\" cy=\"10\" r=\"5\"/><text x=\"{}\" y=\"14\">{}</text>",
            FILLS[i % 4],
            at + 10.0,
            escape(&heading(table, key))
        );
        let mut sorted = points.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Gaps where nothing was measured.
        for run in sorted.split(|(_, value)| value.is_none()).filter(|run| !run.is_empty()) {
            let text: Vec<String> =
                run.iter().filter_map(|(t, value)| value.map(|value| format!("{},{}", x(*t), y(value)))).collect();
            match &text[..] {
                [point] => {
                    let (cx, cy) = point.split_once(',').unwrap_or_default();
                    let _ = write!(out, "<circle class=\"{}\" cx=\"{cx}\" cy=\"{cy}\" r=\"2.5\"/>", FILLS[i % 4]);
                }
                _ => {
                    let _ = write!(out, "<polyline class=\"line {}\" points=\"{}\"/>", STROKES[i % 4], text.join(" "));
                }
            }
        }
    }
    Some((FLOOR + 26.0, out))
}

/// A coordinate to a tenth: finer is invisible and longer.
fn px(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A number for a drawing: three digits that count; the exact one stands in the table.
fn trim(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
