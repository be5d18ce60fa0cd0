//! Every table and every chart as CSV and JSON, from the page's own URL: `?format=csv|json&table=NAME`, the rest of the
//! query being the page's filter. So an export always holds what the page shows.
//!
//! A page builds its [`Table`]s, hands them to [`answer`] when [`Wanted`] names a format, and writes [`Links`] into its
//! template by the macro `export` of `templates/macros.html`.

use std::time::SystemTime;

use axum::extract::FromRequestParts;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{error, filters};

/// Rows of one export at most; lists that have more say so (`truncated`, and the header `Tidegate-Truncated`).
pub const MAX_ROWS: usize = 10_000;
const TRUNCATED: &str = "tidegate-truncated";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    Json,
}

/// What is asked of a page besides itself: an extractor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// `None`: the page.
    pub format: Option<Format>,
    /// Name of one of the page's tables; empty takes the first.
    pub table: String,
}

/// One value. [`Cell::Null`] is an empty cell, or `null`.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Int(i128),
    Real(f64),
    Bool(bool),
    Text(String),
}

/// The figures behind one table or chart, exact and without units: those are in the names of the columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// In URLs and file names: lower-case letters and hyphens.
    pub name: &'static str,
    /// As in the database and the API: `snake_case` with the unit at the end (`_ms`, `_us`, `_bytes`).
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<Cell>>,
    /// There are more rows than are given.
    pub truncated: bool,
}

/// Where a table can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// What it is, for people who hear the page: "latest retrievals".
    pub what: String,
    pub csv: String,
    pub json: String,
}

impl Table {
    pub fn new(name: &'static str, columns: &'static [&'static str], rows: Vec<Vec<Cell>>) -> Self {
        debug_assert!(rows.iter().all(|row| row.len() == columns.len()), "{name}: a row has other columns");
        Self { name, columns, rows, truncated: false }
    }
}

impl Links {
    /// `page` is the page's path with its filter as shown (`/retrievals?outcome=timeout`), `table` a [`Table::name`].
    pub fn new(page: &str, table: &str, what: impl Into<String>) -> Self {
        let joint = if page.contains('?') { '&' } else { '?' };
        let table = utf8_percent_encode(table, NON_ALPHANUMERIC);
        let link = |format: &str| format!("{page}{joint}format={format}&table={table}");
        Self { what: what.into(), csv: link("csv"), json: link("json") }
    }
}

/// The table that is asked for, as a file. `page` names the file: `overview`, `retrievals`.
pub fn answer(wanted: &Wanted, page: &str, tables: &[Table]) -> Response {
    let found =
        if wanted.table.is_empty() { tables.first() } else { tables.iter().find(|table| table.name == wanted.table) };
    let Some(table) = found else {
        let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
        let text = format!("This page has no table {}.", filters::tame(&wanted.table, 60));
        return error::error(
            StatusCode::NOT_FOUND,
            "Not found",
            text,
            &format!("It can export these: {}.", names.join(", ")),
        );
    };
    let now = filters::iso(SystemTime::now());
    let (body, content_type, extension) = match wanted.format {
        Some(Format::Json) => (table.json(page, &now), "application/json", "json"),
        _ => (table.csv(), "text/csv; charset=utf-8; header=present", "csv"),
    };
    // Colons are not allowed in file names everywhere.
    let stamp = now.replace([':', '-'], "");
    let name = format!("attachment; filename=\"tidegate-{page}-{}-{stamp}.{extension}\"", table.name);
    let mut response = ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")], body).into_response();
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    if table.truncated {
        response.headers_mut().insert(TRUNCATED, HeaderValue::from_static("true"));
    }
    response
}

/// For a page whose figures cannot be read now: an export of nothing would pass for an export of no rows.
pub fn unavailable(reason: String) -> Response {
    let next = "Fetches go on without the database; try again when it answers.";
    error::error(StatusCode::SERVICE_UNAVAILABLE, "The metrics database is not available", reason, next)
}

impl Table {
    /// RFC 4180 with a header line.
    pub fn csv(&self) -> String {
        let mut text = String::new();
        let header = self.columns.iter().map(|name| (*name).to_owned());
        line(&mut text, header);
        for row in &self.rows {
            line(&mut text, row.iter().map(Cell::csv));
        }
        text
    }

    /// One object a row under `rows`, besides what it is and when it was made.
    fn json(&self, page: &str, now: &str) -> String {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let cells = self.columns.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), cell.json()));
                Value::Object(cells.collect::<Map<_, _>>())
            })
            .collect();
        json!({
            "page": page, "table": self.name, "generated_at": now,
            "columns": self.columns, "truncated": self.truncated, "rows": rows,
        })
        .to_string()
    }
}

fn line(text: &mut String, cells: impl Iterator<Item = String>) {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&cell);
    }
    text.push_str("\r\n");
}

impl Cell {
    fn csv(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Int(n) => n.to_string(),
            Self::Real(value) if value.is_finite() => value.to_string(),
            Self::Real(_) => String::new(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => quoted(text),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Int(n) => i64::try_from(*n).map_or_else(|_| json!(u64::try_from(*n).ok()), Value::from),
            // Not a number is null.
            Self::Real(value) => json!(value),
            Self::Bool(value) => json!(value),
            Self::Text(text) => json!(text),
        }
    }
}

/// A cell of text: quoted where RFC 4180 §2.6 wants it, and with an apostrophe before what a spreadsheet would run as a
/// formula (OWASP, "CSV Injection"): paths and agents are chosen by strangers.
fn quoted(text: &str) -> String {
    let runs = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let text = if runs { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

macro_rules! cells {
    ($($from:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$from> for Cell {
            fn from(value: $from) -> Self { Self::$variant(value.into()) }
        }
    )+};
}
cells!(i64 => Int, u64 => Int, u32 => Int, u16 => Int, i32 => Int, f64 => Real, bool => Bool, String => Text, &str => Text, &String => Text);

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::Int(value as i128)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Asked {
            format: Option<Format>,
            table: String,
        }
        let asked = axum::extract::Query::<Asked>::from_request_parts(parts, state).await.map_err(|_| {
            let text = "The format of an export is csv or json.".to_owned();
            error::error(StatusCode::BAD_REQUEST, "This export is not known", text, "Use the links on the page.")
        })?;
        Ok(Self { format: asked.0.format, table: asked.0.table })
    }
}

/// A row of cells from values of several types.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::dashboard::export::Cell::from($value)),*] };
}
pub(super) use row;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_it_must_and_disarms_formulas() {
        let rows = vec![
            row!["=HYPERLINK(\"http://x\")", -5_i64, Some(0.5), None::<f64>],
            row!["a,b\r\n\"c\"", 0_u64, f64::NAN, f64::INFINITY],
            row!["@cmd", 1_u64, 1e-7, 2.0],
        ];
        let table = Table::new("t", &["text", "n", "x", "y"], rows);
        assert_eq!(
            table.csv(),
            "text,n,x,y\r\n\"'=HYPERLINK(\"\"http://x\"\")\",-5,0.5,\r\n\"a,b\r\n\"\"c\"\"\",0,,\r\n'@cmd,1,0.0000001,2\r\n"
        );
    }

    #[test]
    fn json_holds_the_same_with_null_for_what_was_not_measured() {
        let table = Table::new("t", &["n", "x"], vec![row![u64::MAX, None::<f64>], row![1_u64, f64::NAN]]);
        let value: Value = serde_json::from_str(&table.json("page", "now")).unwrap();
        assert_eq!(value["rows"], json!([{"n": u64::MAX, "x": null}, {"n": 1, "x": null}]));
        assert_eq!((&value["table"], &value["truncated"]), (&json!("t"), &json!(false)));
    }

    #[test]
    fn links_keep_the_pages_filter() {
        let links = Links::new("/retrievals?outcome=timeout", "list", "retrievals");
        assert_eq!(links.csv, "/retrievals?outcome=timeout&format=csv&table=list");
        assert_eq!(Links::new("/", "minutes", "minutes").json, "/?format=json&table=minutes");
    }

    #[test]
    fn an_unknown_table_is_not_found_and_a_known_one_is_a_file() {
        let table = Table::new("t", &["n"], vec![row![1_u64]]);
        let wanted = |table: &str| Wanted { format: Some(Format::Csv), table: table.to_owned() };
        assert_eq!(answer(&wanted("x"), "page", std::slice::from_ref(&table)).status(), StatusCode::NOT_FOUND);
        let response = answer(&wanted(""), "page", &[table]);
        assert_eq!(response.status(), StatusCode::OK);
        let disposition = response.headers()[CONTENT_DISPOSITION].to_str().unwrap();
        assert!(disposition.starts_with("attachment; filename=\"tidegate-page-t-2"), "{disposition}");
    }
}
