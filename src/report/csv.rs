//! A report as CSV (RFC 4180), one cell a line: several tables of different shapes stand in one valid file.
//!
//! Columns: `section,table,row,column,unit,value`. What nobody measured is an empty value.

use super::table::{Cell, Report};

/// Comes first, also when nothing else does.
const HEADER: &str = "section,table,row,column,unit,value\r\n";

pub fn render(report: &Report) -> String {
    let mut out = String::from(HEADER);
    let mut line = |cells: [&str; 6]| {
        out.push_str(&cells.map(field).join(","));
        out.push_str("\r\n");
    };
    line(["report", "report", "1", "type", "", report.kind.as_str()]);
    line(["report", "report", "1", "since", "", &moment(report.window.since_us)]);
    line(["report", "report", "1", "until", "", &moment(report.window.until_us)]);
    if report.is_empty() {
        line(["report", "report", "1", "status", "", "no data"]);
    }
    for (section, table) in report.tables() {
        for (number, row) in table.rows.iter().enumerate() {
            let number = (number + 1).to_string();
            for (column, cell) in table.columns.iter().zip(row) {
                line([section.id, table.id, &number, column.key, column.unit, &value(cell)]);
            }
        }
    }
    out
}

fn moment(us: i64) -> String {
    if us <= 0 { String::new() } else { super::table::time(us) }
}

fn value(cell: &Cell) -> String {
    match cell {
        Cell::None => String::new(),
        // Spreadsheets run what begins so (OWASP, CSV injection); names come from elsewhere.
        Cell::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        other => other.shown(),
    }
}

fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_commas_and_formulas_are_tamed() {
        assert_eq!(field("a\"b,c"), "\"a\"\"b,c\"");
        assert_eq!(value(&Cell::text("=1+1")), "'=1+1");
        assert_eq!(value(&Cell::number(-3.0, 0)), "-3");
        assert_eq!(value(&Cell::None), "");
    }
}
