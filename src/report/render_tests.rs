//! The same numbers in every format, and what is written when there are none.

use std::collections::{BTreeMap, HashMap};

use super::pairs::tests::row;
use super::sections::{self, BenchmarkData};
use super::*;
use crate::db::queries::Window;
use crate::record::Policy;

fn report(kind: ReportType, sections: Vec<Section>) -> Report {
    let window = Window { since_us: 0, until_us: 1_700_000_000_000_000 };
    Report { kind, title: kind.title().to_owned(), window, run: None, sections }
}

fn benchmark(n: i64) -> Report {
    let mut transfers = Vec::new();
    for i in 0..n {
        let ms = 400.0 + (i * 37 % 101) as f64;
        for (j, scenario) in ["s1/A/100KB", "s2/D/5MB", "warm <b>|*x*"].into_iter().enumerate() {
            let id = i * 10 + j as i64;
            transfers.push(row(2 * id, Policy::Standard, scenario, 100_000, ms));
            transfers.push(row(2 * id + 1, Policy::Optimized, scenario, 100_000, ms * 0.37));
        }
    }
    transfers.push(row(9_999_999, Policy::Standard, "s3", 5, 1.0));
    let runs = HashMap::from([(1, "run".to_owned())]);
    report(ReportType::Benchmark, sections::benchmark(&BenchmarkData { transfers, runs, tests: Vec::new() }))
}

/// Table, row and column of a cell.
type At = (String, usize, String);

/// Every number of the cells themselves.
fn cells(report: &Report) -> BTreeMap<At, String> {
    let mut found = BTreeMap::new();
    for (_, table) in report.tables() {
        for (i, row) in table.rows.iter().enumerate() {
            for (column, cell) in table.columns.iter().zip(row).filter(|(_, cell)| cell.is_number()) {
                found.insert((table.id.to_owned(), i, column.key.to_owned()), cell.shown());
            }
        }
    }
    found
}

fn split_csv(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

fn from_csv(text: &str, numbers: &BTreeMap<At, String>) -> BTreeMap<At, String> {
    let lines = text.split("\r\n").skip(1).filter(|line| !line.is_empty()).map(split_csv);
    let cells = lines.map(|f| ((f[1].clone(), f[2].parse::<usize>().unwrap() - 1, f[3].clone()), f[5].clone()));
    cells.filter(|(at, _)| numbers.contains_key(at)).collect()
}

fn from_json(text: &str, numbers: &BTreeMap<At, String>) -> BTreeMap<At, f64> {
    let document: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut found = BTreeMap::new();
    for section in document["sections"].as_array().unwrap() {
        for table in section["tables"].as_array().unwrap() {
            for (i, row) in table["rows"].as_array().unwrap().iter().enumerate() {
                for (key, value) in row.as_object().unwrap() {
                    let at = (table["id"].as_str().unwrap().to_owned(), i, key.clone());
                    if numbers.contains_key(&at) {
                        found.insert(at, value.as_f64().unwrap());
                    }
                }
            }
        }
    }
    found
}

/// The cells of each table in order: rows of Markdown tables, or `<td>` of HTML ones.
fn grids(report: &Report, lines: Vec<Vec<Vec<String>>>, numbers: &BTreeMap<At, String>) -> BTreeMap<At, String> {
    let tables: Vec<_> = report.tables().map(|(_, table)| table).filter(|table| !table.rows.is_empty()).collect();
    assert_eq!(tables.len(), lines.len());
    let mut found = BTreeMap::new();
    for (table, rows) in tables.into_iter().zip(lines) {
        assert_eq!(rows.len(), table.rows.len(), "{}", table.id);
        for (i, row) in rows.into_iter().enumerate() {
            assert_eq!(row.len(), table.columns.len(), "{} {row:?}", table.id);
            for (column, text) in table.columns.iter().zip(row) {
                let at = (table.id.to_owned(), i, column.key.to_owned());
                if numbers.contains_key(&at) {
                    found.insert(at, text);
                }
            }
        }
    }
    found
}

fn markdown_grids(text: &str) -> Vec<Vec<Vec<String>>> {
    let mut tables: Vec<Vec<Vec<String>>> = Vec::new();
    let mut within = false;
    for line in text.lines() {
        if !line.starts_with("| ") {
            within = false;
            continue;
        }
        if !within {
            tables.push(Vec::new());
        }
        within = true;
        let bare = line.trim_start_matches("| ").trim_end_matches(" |");
        // An escaped pipe is no end of a cell.
        let cells = bare.replace("\\|", "\u{1}");
        let cells = cells.split(" | ").map(|cell| cell.replace('\u{1}', "|").replace('\\', "").trim().to_owned());
        tables.last_mut().unwrap().push(cells.collect());
    }
    tables.iter_mut().for_each(|table| drop(table.drain(..2)));
    tables
}

fn html_grids(text: &str) -> Vec<Vec<Vec<String>>> {
    let bodies = text.split("<tbody>").skip(1).map(|rest| rest.split("</tbody>").next().unwrap());
    let cells = |row: &str| -> Vec<String> {
        row.split("<td")
            .skip(1)
            .map(|cell| cell.split_once('>').unwrap().1.split("</td>").next().unwrap().to_owned())
            .collect()
    };
    bodies.map(|body| body.split("<tr>").skip(1).map(cells).collect()).collect()
}

#[test]
fn the_same_numbers_stand_in_all_four_formats() {
    let report = benchmark(40);
    let numbers = cells(&report);
    assert!(numbers.len() > 100, "{}", numbers.len());
    assert_eq!(numbers[&("scenarios".to_owned(), 0, "faster_pct".to_owned())], "63.0");
    assert_eq!(from_csv(&render(&report, Format::Csv), &numbers), numbers);
    assert_eq!(grids(&report, markdown_grids(&render(&report, Format::Markdown)), &numbers), numbers);
    assert_eq!(grids(&report, html_grids(&render(&report, Format::Html)), &numbers), numbers);
    let json = from_json(&render(&report, Format::Json), &numbers);
    assert_eq!(json.len(), numbers.len());
    for (at, text) in &numbers {
        assert_eq!(json[at], text.parse::<f64>().unwrap(), "{at:?}");
    }
}

#[test]
fn no_data_gives_valid_documents_that_say_so() {
    let empty = BenchmarkData { transfers: Vec::new(), runs: HashMap::new(), tests: Vec::new() };
    let report = report(ReportType::Benchmark, sections::benchmark(&empty));
    assert!(report.is_empty());
    for format in Format::ALL {
        let text = render(&report, *format);
        assert!(text.to_lowercase().contains("no data") || text.contains("no_data"), "{format}: {text}");
        assert!(!text.contains("NaN") && !text.to_lowercase().contains(">nan<") && !text.contains("inf,"), "{format}");
    }
    let json: serde_json::Value = serde_json::from_str(&render(&report, Format::Json)).unwrap();
    assert_eq!(json["status"], "no_data");
    assert!(json["sections"][0]["tables"][0]["empty"].as_str().unwrap().contains("POST /api/v1/results"));
}

#[test]
fn under_twenty_pairs_there_is_no_percentage_in_any_format() {
    let report = benchmark(19);
    let faster = |at: &At| at.2 == "faster_pct";
    assert!(!cells(&report).keys().any(faster));
    for format in [Format::Markdown, Format::Html, Format::Csv] {
        assert!(render(&report, format).contains("not enough data"), "{format}");
    }
    let json: serde_json::Value = serde_json::from_str(&render(&report, Format::Json)).unwrap();
    let few = json["sections"][0]["tables"][0]["not_enough_data"].as_array().unwrap();
    assert!(few.contains(&serde_json::json!([0, "faster_pct"])));
    assert!(json["sections"][0]["tables"][0]["rows"][0]["faster_pct"].is_null());
}

#[test]
fn html_is_one_small_file_without_scripts_and_foreign_names_are_escaped() {
    let report = benchmark(1_700);
    let html = render(&report, Format::Html);
    // 10,201 rows.
    assert!(html.len() < 300_000, "{} bytes", html.len());
    assert!(html.contains("<svg") && html.contains("<circle"));
    for word in ["<script", "http://", "https://", "<link", " src=", " href=", " style=", "onload", "warm <b>"] {
        assert!(!html.contains(word), "{word}");
    }
    assert!(html.contains("warm &#60;b&#62;") || html.contains("warm &lt;b&gt;"));
    assert!(render(&report, Format::Markdown).contains("warm \\<b\\>\\|\\*x\\*"));
    assert!(render(&report, Format::Csv).contains("warm <b>|*x*"));
}

#[test]
fn the_shape_of_the_json_is_the_documented_one() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../docs/report.schema.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&render(&benchmark(30), Format::Json)).unwrap();
    let mut todo = vec![(schema.clone(), document, "$".to_owned())];
    while let Some((schema, value, at)) = todo.pop() {
        let kinds = match &schema["type"] {
            serde_json::Value::Array(kinds) => kinds.clone(),
            serde_json::Value::Null => Vec::new(),
            one => vec![one.clone()],
        };
        let kind = match &value {
            serde_json::Value::Null => "null",
            serde_json::Value::Bool(_) => "boolean",
            serde_json::Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
            serde_json::Value::Number(_) => "number",
            serde_json::Value::String(_) => "string",
            serde_json::Value::Array(_) => "array",
            serde_json::Value::Object(_) => "object",
        };
        let fits = kinds.is_empty() || kinds.iter().any(|k| k == kind || (k == "number" && kind == "integer"));
        assert!(fits, "{at}: {kind} is none of {kinds:?}");
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(allowed.contains(&value), "{at}: {value}");
        }
        if let Some(object) = value.as_object() {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(object.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
            }
            for (name, member) in object {
                let of = schema["properties"].get(name).or(Some(&schema["additionalProperties"]));
                let of = of.filter(|of| of.is_object());
                assert!(of.is_some(), "{at}.{name} is not documented");
                todo.push((of.unwrap().clone(), member.clone(), format!("{at}.{name}")));
            }
        }
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            if schema["items"].is_object() {
                todo.push((schema["items"].clone(), item.clone(), format!("{at}[{i}]")));
            }
        }
    }
}
