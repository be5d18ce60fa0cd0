//! A report as JSON. The shape is `docs/report.schema.json`; a row is an object by the keys of its table's columns.

use serde::Serialize;
use serde_json::{Map, Value};

use super::ReportType;
use super::table::{Cell, Column, Report, Table, time};

/// Names the shape; a new one gets a new number.
const SCHEMA: &str = "urn:tidegate:report:1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    r#type: ReportType,
    title: &'a str,
    /// `ok` or `no_data`.
    status: &'static str,
    window: Span,
    run: Option<&'a str>,
    sections: Vec<SectionView<'a>>,
}

#[derive(Serialize)]
struct Span {
    since_us: i64,
    until_us: i64,
    since: Option<String>,
    until: String,
}

#[derive(Serialize)]
struct SectionView<'a> {
    id: &'a str,
    title: &'a str,
    method: &'a str,
    tables: Vec<TableView<'a>>,
    figures: Vec<FigureView<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct TableView<'a> {
    id: &'a str,
    title: &'a str,
    columns: &'a [Column],
    rows: Vec<Map<String, Value>>,
    /// Cells that are null because there are too few measurements: `[row, key]`, rows from 0.
    not_enough_data: Vec<(usize, &'a str)>,
    empty: Option<&'a str>,
    left_out: usize,
}

#[derive(Serialize)]
struct FigureView<'a> {
    title: &'a str,
    table: &'a str,
}

pub fn render(report: &Report) -> String {
    let sections = report.sections.iter().map(|section| SectionView {
        id: section.id,
        title: &section.title,
        method: &section.method,
        tables: section.tables.iter().map(table).collect(),
        figures: section.figures.iter().map(|f| FigureView { title: &f.title, table: f.table }).collect(),
        notes: &section.notes,
    });
    let document = Document {
        schema: SCHEMA,
        r#type: report.kind,
        title: &report.title,
        status: if report.is_empty() { "no_data" } else { "ok" },
        window: Span {
            since_us: report.window.since_us,
            until_us: report.window.until_us,
            since: (report.window.since_us > 0).then(|| time(report.window.since_us)),
            until: time(report.window.until_us),
        },
        run: report.run.as_deref(),
        sections: sections.collect(),
    };
    // Maps with text keys and finite numbers: nothing that JSON cannot hold.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

fn table(table: &Table) -> TableView<'_> {
    let row =
        |row: &Vec<Cell>| table.columns.iter().zip(row).map(|(c, cell)| (c.key.to_owned(), value(cell))).collect();
    let mut not_enough_data = Vec::new();
    for (number, row) in table.rows.iter().enumerate() {
        let few = table.columns.iter().zip(row).filter(|(_, cell)| **cell == Cell::TooFew);
        not_enough_data.extend(few.map(|(column, _)| (number, column.key)));
    }
    TableView {
        id: table.id,
        title: &table.title,
        columns: &table.columns,
        rows: table.rows.iter().map(row).collect(),
        not_enough_data,
        empty: table.rows.is_empty().then_some(&table.empty),
        left_out: table.left_out,
    }
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Text(text) => Value::from(text.as_str()),
        Cell::Number(value, 0) if value.abs() < 9_007_199_254_740_992.0 => Value::from(*value as i64),
        // From the text, so that JSON has no digit more than the other formats.
        Cell::Number(..) => cell.shown().parse::<f64>().map_or(Value::Null, Value::from),
        Cell::Bool(value) => Value::from(*value),
        Cell::Time(us) => Value::from(time(*us)),
        Cell::None | Cell::TooFew => Value::Null,
    }
}
