//! A report as one HTML file: its own sheet, drawings as inline SVG, no script, nothing loaded from elsewhere.

use askama::Template;

use super::chart;
use super::table::{Cell, Report, Section, Table};

/// The sheet inside the file. A server that sends the file names its hash in the Content-Security-Policy.
pub const STYLE_SHEET: &str = include_str!("report.css");

#[derive(Template)]
#[template(path = "report/page.html")]
struct Page<'a> {
    title: &'a str,
    window: String,
    run: Option<&'a str>,
    version: &'static str,
    empty: bool,
    style: &'static str,
    sections: Vec<SectionView>,
}

/// A section as `report/body.html` takes it; the dashboard shows the same inside its own frame.
#[derive(Debug, Clone)]
pub struct SectionView {
    pub id: &'static str,
    pub title: String,
    pub method: String,
    pub drawings: Vec<Drawing>,
    pub tables: Vec<TableView>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Drawing {
    pub title: String,
    /// Escaped already.
    pub svg: String,
}

#[derive(Debug, Clone)]
pub struct TableView {
    pub id: &'static str,
    pub title: String,
    pub columns: Vec<HeadView>,
    pub rows: Vec<Vec<CellView>>,
    pub empty: String,
    pub left_out: usize,
}

#[derive(Debug, Clone)]
pub struct HeadView {
    pub heading: String,
    pub numeric: bool,
}

#[derive(Debug, Clone)]
pub struct CellView {
    pub text: String,
    pub number: bool,
    pub absent: bool,
}

pub fn render(report: &Report) -> String {
    let page = Page {
        title: &report.title,
        window: report.window_text(),
        run: report.run.as_deref(),
        version: env!("CARGO_PKG_VERSION"),
        empty: report.is_empty(),
        style: STYLE_SHEET,
        sections: views(report),
    };
    // Rendering into a String fails only where a Display of ours does, and none can.
    page.render().unwrap_or_default()
}

/// The sections for a template.
pub fn views(report: &Report) -> Vec<SectionView> {
    report.sections.iter().map(section).collect()
}

fn section(section: &Section) -> SectionView {
    let drawing = |figure: &super::Figure| {
        let table = section.tables.iter().find(|table| table.id == figure.table)?;
        Some(Drawing { title: figure.title.clone(), svg: chart::svg(figure, table)? })
    };
    SectionView {
        id: section.id,
        title: section.title.clone(),
        method: section.method.clone(),
        drawings: section.figures.iter().filter_map(drawing).collect(),
        tables: section.tables.iter().map(table).collect(),
        notes: section.notes.clone(),
    }
}

fn table(table: &Table) -> TableView {
    let numeric = |i: usize| table.rows.iter().any(|row| row.get(i).is_some_and(Cell::is_number));
    let columns = table.columns.iter().enumerate();
    TableView {
        id: table.id,
        title: table.title.clone(),
        columns: columns.map(|(i, column)| HeadView { heading: column.heading(), numeric: numeric(i) }).collect(),
        rows: table.rows.iter().map(|row| row.iter().map(cell).collect()).collect(),
        empty: table.empty.clone(),
        left_out: table.left_out,
    }
}

fn cell(cell: &Cell) -> CellView {
    CellView { text: cell.shown(), number: cell.is_number(), absent: matches!(cell, Cell::None | Cell::TooFew) }
}
