//! What every format is written from.

use serde::Serialize;

use super::ReportType;
use crate::db::queries::Window;
use crate::stats::Interval;

/// Rows of one table that are written; more are counted in a note.
const MAX_ROWS: usize = 250;
/// The longest text of a cell, in characters.
const MAX_TEXT: usize = 200;

#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub kind: ReportType,
    pub title: String,
    pub window: Window,
    /// Only this run of a test tool.
    pub run: Option<String>,
    pub sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section {
    /// Unique in its report; letters, digits and `-`.
    pub id: &'static str,
    pub title: String,
    /// What was compared and how.
    pub method: String,
    pub tables: Vec<Table>,
    pub figures: Vec<Figure>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Unique in its report; letters, digits and `-`.
    pub id: &'static str,
    pub title: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    /// What is said instead of no rows, and how to get some.
    pub empty: String,
    /// Rows that were too many to write.
    pub left_out: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The name in JSON and CSV.
    pub key: &'static str,
    pub label: &'static str,
    /// Empty when it has none.
    pub unit: &'static str,
}

/// One cell: what stands in it in every format.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Text(String),
    /// Rounded already: the value and its decimals.
    Number(f64, usize),
    Bool(bool),
    /// Microseconds since the epoch.
    Time(i64),
    /// Nobody measured it.
    None,
    /// There are measurements, but too few to say this.
    TooFew,
}

/// A drawing of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub title: String,
    /// The table's id, in the same section.
    pub table: &'static str,
    pub chart: Chart,
}

/// Which columns are drawn, and how.
#[derive(Debug, Clone, PartialEq)]
pub enum Chart {
    /// Medians with their intervals: a row of the table is a row of the drawing.
    Intervals {
        label: Vec<&'static str>,
        series: Vec<Series>,
    },
    Bars {
        label: Vec<&'static str>,
        value: &'static str,
    },
    Lines {
        time: &'static str,
        values: Vec<&'static str>,
    },
}

/// Columns of one median with its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    pub name: &'static str,
    pub median: &'static str,
    pub low: &'static str,
    pub high: &'static str,
}

impl Report {
    /// No table has a row.
    pub fn is_empty(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.tables).all(|table| table.rows.is_empty())
    }

    pub fn tables(&self) -> impl Iterator<Item = (&Section, &Table)> {
        self.sections.iter().flat_map(|section| section.tables.iter().map(move |table| (section, table)))
    }

    /// The window in words.
    pub fn window_text(&self) -> String {
        let until = time(self.window.until_us);
        if self.window.since_us <= 0 {
            format!("everything before {until}")
        } else {
            format!("{} to {until}", time(self.window.since_us))
        }
    }
}

impl Section {
    pub fn new(id: &'static str, title: impl Into<String>, method: impl Into<String>) -> Self {
        Self { id, title: title.into(), method: method.into(), ..Self::default() }
    }

    pub fn table(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    pub fn figure(mut self, title: impl Into<String>, table: &'static str, chart: Chart) -> Self {
        self.figures.push(Figure { title: title.into(), table, chart });
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub fn notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }
}

impl Table {
    pub fn new(
        id: &'static str,
        title: impl Into<String>,
        columns: impl IntoIterator<Item = (&'static str, &'static str, &'static str)>,
        empty: impl Into<String>,
    ) -> Self {
        let columns = columns.into_iter().map(|(key, label, unit)| Column { key, label, unit }).collect();
        Self { id, title: title.into(), columns, rows: Vec::new(), empty: empty.into(), left_out: 0 }
    }

    /// Adds a row; it has a cell for each column.
    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "{}", self.id);
        if self.rows.len() < MAX_ROWS { self.rows.push(row) } else { self.left_out += 1 }
    }

    pub fn with(mut self, rows: impl IntoIterator<Item = Vec<Cell>>) -> Self {
        rows.into_iter().for_each(|row| self.push(row));
        self
    }

    /// The cell of a row by the name of its column.
    pub fn cell<'a>(&self, row: &'a [Cell], key: &str) -> Option<&'a Cell> {
        row.get(self.columns.iter().position(|column| column.key == key)?)
    }
}

impl Column {
    /// `median, ms`.
    pub fn heading(&self) -> String {
        if self.unit.is_empty() { self.label.to_owned() } else { format!("{}, {}", self.label, self.unit) }
    }
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        let text: String = text.into();
        match text.char_indices().nth(MAX_TEXT) {
            Some((at, _)) => Self::Text(format!("{}…", &text[..at])),
            None => Self::Text(text),
        }
    }

    /// `None` where there is no text.
    pub fn maybe_text(text: Option<&str>) -> Self {
        text.map_or(Self::None, Self::text)
    }

    /// A number with so many decimals; `None` and what is not finite is no data.
    pub fn number(value: impl Into<Option<f64>>, decimals: usize) -> Self {
        let Some(value) = value.into().filter(|value| value.is_finite()) else { return Self::None };
        let scale = 10f64.powi(i32::try_from(decimals).unwrap_or(0));
        let rounded = (value * scale).round() / scale;
        // -0 reads as a sign that nobody measured.
        if rounded.is_finite() {
            Self::Number(if rounded == 0.0 { 0.0 } else { rounded }, decimals)
        } else {
            Self::Number(value, 0)
        }
    }

    pub fn count(n: impl TryInto<u64>) -> Self {
        n.try_into().map_or(Self::None, |n| Self::Number(n as f64, 0))
    }

    /// A share 0..1 as per cent.
    pub fn percent(share: impl Into<Option<f64>>) -> Self {
        Self::number(share.into().map(|share| share * 100.0), 1)
    }

    pub fn bool(value: Option<bool>) -> Self {
        value.map_or(Self::None, Self::Bool)
    }

    /// Median, low, high of an interval, or three times [`Cell::TooFew`].
    pub fn interval(interval: Option<Interval>, scale: f64, decimals: usize) -> [Self; 3] {
        match interval {
            Some(of) => [of.median, of.low, of.high].map(|value| Self::number(value * scale, decimals)),
            None => [Self::TooFew, Self::TooFew, Self::TooFew],
        }
    }

    /// The value for a drawing.
    pub fn value(&self) -> Option<f64> {
        if let Self::Number(value, _) = self { Some(*value) } else { None }
    }

    /// What people read. Numbers look the same in each format.
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, decimals) => format!("{value:.decimals$}"),
            Self::Bool(true) => "yes".to_owned(),
            Self::Bool(false) => "no".to_owned(),
            Self::Time(us) => time(*us),
            Self::None => "no data".to_owned(),
            Self::TooFew => "not enough data".to_owned(),
        }
    }

    pub fn is_number(&self) -> bool {
        matches!(self, Self::Number(..))
    }
}

/// `2026-11-23T14:05:09Z`.
pub fn time(us: i64) -> String {
    let since = std::time::Duration::from_micros(u64::try_from(us).unwrap_or_default());
    // The last second of the year 9999: RFC 3339 has four digits of a year.
    let since = since.min(std::time::Duration::from_secs(253_402_300_799));
    humantime::format_rfc3339_seconds(std::time::SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_never_reads_as_a_number() {
        assert_eq!(Cell::number(f64::NAN, 1).shown(), "no data");
        assert_eq!(Cell::number(None, 1).shown(), "no data");
        assert_eq!(Cell::percent(Some(f64::INFINITY)).shown(), "no data");
        assert_eq!(Cell::interval(None, 1.0, 1)[1].shown(), "not enough data");
        assert_eq!(Cell::count(-1).shown(), "no data");
    }

    #[test]
    fn numbers_are_rounded_once_and_zero_has_no_sign() {
        assert_eq!(Cell::number(-0.04, 1).shown(), "0.0");
        assert_eq!(Cell::percent(0.6132).shown(), "61.3");
        assert_eq!(Cell::number(1.0e300, 1).shown().parse(), Ok(1.0e300));
        assert_eq!(Cell::text("x".repeat(500)).shown().chars().count(), 201);
    }

    #[test]
    fn rows_beyond_the_bound_are_counted() {
        let table = Table::new("t", "t", [("n", "n", "")], "").with((0..300).map(|n| vec![Cell::count(n)]));
        assert_eq!((table.rows.len(), table.left_out), (250, 50));
    }
}
