//! A report as Markdown (CommonMark with GFM tables).

use std::fmt::Write as _;

use super::table::{Report, Section, Table};

pub fn render(report: &Report) -> String {
    let mut out = format!("# {}\n\nWindow: {}", escape(&report.title), report.window_text());
    if let Some(run) = &report.run {
        let _ = write!(out, "; run {}", escape(run));
    }
    out.push_str(".\n");
    if report.is_empty() {
        out.push_str("\nThere is no data for this report in this window.\n");
    }
    for section in &report.sections {
        self::section(&mut out, section);
    }
    out
}

fn section(out: &mut String, section: &Section) {
    let _ = write!(out, "\n## {}\n", escape(&section.title));
    if !section.method.is_empty() {
        let _ = write!(out, "\n{}\n", escape(&section.method));
    }
    for table in &section.tables {
        self::table(out, table);
    }
    if !section.notes.is_empty() {
        out.push('\n');
        for note in &section.notes {
            let _ = writeln!(out, "- {}", escape(note));
        }
    }
}

fn table(out: &mut String, table: &Table) {
    let _ = write!(out, "\n### {}\n\n", escape(&table.title));
    if table.rows.is_empty() {
        let _ = writeln!(out, "{}", escape(&table.empty));
        return;
    }
    let numeric: Vec<bool> = (0..table.columns.len())
        .map(|i| table.rows.iter().any(|row| row.get(i).is_some_and(|c| c.is_number())))
        .collect();
    let heading = table.columns.iter().map(|column| escape(&column.heading())).collect::<Vec<_>>().join(" | ");
    let rule = numeric.iter().map(|numeric| if *numeric { "---:" } else { "---" }).collect::<Vec<_>>().join(" | ");
    let _ = writeln!(out, "| {heading} |\n| {rule} |");
    for row in &table.rows {
        let cells = row.iter().map(|cell| escape(&cell.shown())).collect::<Vec<_>>().join(" | ");
        let _ = writeln!(out, "| {cells} |");
    }
    if table.left_out > 0 {
        let _ = write!(out, "\n{} more rows are left out.\n", table.left_out);
    }
}

/// Names of peers, runs and browsers come from elsewhere: nothing of them is markup.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '<' | '>' | '#' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_no_markup() {
        assert_eq!(escape("a|b<i>\n*c* [d](e)"), "a\\|b\\<i\\> \\*c\\* \\[d\\](e)");
    }
}
