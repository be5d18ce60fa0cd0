//! The Reports page: pick one, read it here, take it along; and the runs of test tools.

use std::time::SystemTime;

use askama::Template;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::filters::{self, count};
use super::page::Page;
use super::{State, Unread, error, overview};
use crate::db::queries::{RunRow, Window};
use crate::report::{self, Format, MAX_RUN_BYTES, Moment, ReportType, SectionView};

/// Runs in the history.
const RUNS: usize = 50;

#[derive(Template)]
#[template(path = "dashboard/reports.html")]
struct ReportsPage {
    page: Page,
    view: View,
    /// As the shared template of a report's body takes them.
    sections: Vec<SectionView>,
}

#[derive(Default)]
struct View {
    kinds: Vec<Choice>,
    since: String,
    until: String,
    run: String,
    problem: Option<Problem>,
    /// The report that is shown.
    title: String,
    window: String,
    empty: bool,
    downloads: Vec<Link>,
    command: String,
    runs: Vec<RunView>,
}

struct Choice {
    value: &'static str,
    label: &'static str,
    selected: bool,
}

struct Problem {
    title: &'static str,
    text: String,
}

struct Link {
    href: String,
    name: &'static str,
}

struct RunView {
    run: String,
    href: String,
    types: String,
    tests: String,
    failed: String,
    tool: String,
    commit: String,
    ago: String,
    at_iso: String,
}

/// The query of the page; empty fields of the form are as if they were not there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    r#type: String,
    since: String,
    until: String,
    run: String,
}

/// What was asked for, parsed.
struct Wanted {
    kind: ReportType,
    window: Window,
    run: Option<String>,
}

/// `GET /reports`
pub async fn page(Extract(state): Extract<State>, Query(asked): Query<Asked>) -> Response {
    let now = SystemTime::now();
    let chosen: ReportType = asked.r#type.parse().unwrap_or(ReportType::Ipfs);
    let mut view = View {
        kinds: ReportType::ALL
            .iter()
            .map(|kind| Choice { value: kind.as_str(), label: kind.title(), selected: *kind == chosen })
            .collect(),
        since: asked.since.trim().to_owned(),
        until: asked.until.trim().to_owned(),
        run: asked.run.trim().to_owned(),
        ..View::default()
    };
    let mut sections = Vec::new();
    let status = match wanted(&asked, now) {
        Err(problem) => {
            view.problem = Some(problem);
            StatusCode::BAD_REQUEST
        }
        Ok(wanted) => match read(&state, &wanted).await {
            Ok((report, runs)) => {
                sections = report::views(&report);
                view.title = report.title.clone();
                view.window = report.window_text();
                view.empty = report.is_empty();
                view.downloads = Format::ALL
                    .iter()
                    .map(|format| Link { href: download(&asked, wanted.kind, *format), name: name(*format) })
                    .collect();
                view.command = command(&asked, wanted.kind);
                view.runs = runs.iter().map(|run| run_view(run, now)).collect();
                StatusCode::OK
            }
            Err(error) => {
                let text = overview::down(&error, now);
                view.problem = Some(Problem { title: "The metrics database is not available.", text });
                StatusCode::SERVICE_UNAVAILABLE
            }
        },
    };
    error::html(status, &ReportsPage { page: Page::new("Reports", "/reports"), view, sections })
}

async fn read(state: &State, wanted: &Wanted) -> Result<(report::Report, Vec<RunRow>), Unread> {
    let db = state.database()?;
    let report = report::build(db, wanted.kind, wanted.window, wanted.run.as_deref(), state.facts).await?;
    let ever = Window { since_us: 0, until_us: i64::MAX };
    Ok((report, db.runs(ever, RUNS).await?))
}

fn wanted(asked: &Asked, now: SystemTime) -> Result<Wanted, Problem> {
    let wrong = |text: String| Problem { title: "This report cannot be made.", text: format!("{text}.") };
    let kind = match asked.r#type.trim() {
        "" => ReportType::Ipfs,
        text => text.parse().map_err(|error: report::UnknownType| wrong(error.to_string()))?,
    };
    let moment = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse::<Moment>().map(Some).map_err(|error| wrong(error.to_string())),
    };
    let run = asked.run.trim();
    if run.len() > MAX_RUN_BYTES {
        return Err(wrong(format!("a run's name is at most {MAX_RUN_BYTES} bytes")));
    }
    let window = report::window(kind, moment(&asked.since)?, moment(&asked.until)?, now);
    Ok(Wanted { kind, window, run: (!run.is_empty()).then(|| run.to_owned()) })
}

const fn name(format: Format) -> &'static str {
    match format {
        Format::Markdown => "Markdown",
        Format::Html => "HTML",
        Format::Json => "JSON",
        Format::Csv => "CSV",
    }
}

/// What the form was given, as the rest of a query.
fn rest(asked: &Asked) -> String {
    let parts = [("since", &asked.since), ("until", &asked.until), ("run", &asked.run)];
    let given = parts.iter().filter(|(_, value)| !value.trim().is_empty());
    given.map(|(name, value)| format!("&{name}={}", utf8_percent_encode(value.trim(), NON_ALPHANUMERIC))).collect()
}

fn download(asked: &Asked, kind: ReportType, format: Format) -> String {
    format!("/api/v1/reports/{kind}?format={format}&download=1{}", rest(asked))
}

/// The same from a shell.
fn command(asked: &Asked, kind: ReportType) -> String {
    let parts = [("since", &asked.since), ("until", &asked.until), ("run", &asked.run)];
    let quote = |text: &str| format!("'{}'", filters::tame(text, MAX_RUN_BYTES).replace('\'', "'\\''"));
    let given = parts.iter().filter(|(_, value)| !value.trim().is_empty());
    let given: String = given.map(|(name, value)| format!(" --{name} {}", quote(value.trim()))).collect();
    format!("tidegate report {kind} --format md{given}")
}

fn run_view(run: &RunRow, now: SystemTime) -> RunView {
    let last = filters::from_us(run.last_us);
    let text = |text: &Option<String>| text.as_deref().map_or(filters::NONE.to_owned(), |text| filters::tame(text, 40));
    let kind = if run.test_types.iter().any(|kind| kind == "verification") {
        ReportType::Verification
    } else {
        ReportType::Benchmark
    };
    RunView {
        run: filters::tame(&run.run_id, 60),
        href: format!("/reports?type={kind}&run={}", utf8_percent_encode(&run.run_id, NON_ALPHANUMERIC)),
        types: filters::tame(&run.test_types.join(", "), 80),
        tests: count(run.tests),
        failed: count(run.failed),
        tool: text(&run.tool),
        commit: text(&run.git_commit),
        ago: filters::ago(last, now),
        at_iso: filters::iso(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_commands_keep_what_was_asked_and_escape_it() {
        let asked = Asked { since: "24h".into(), run: "a&b'c".into(), ..Asked::default() };
        assert_eq!(
            download(&asked, ReportType::P2p, Format::Csv),
            "/api/v1/reports/p2p?format=csv&download=1&since=24h&run=a%26b%27c"
        );
        assert_eq!(command(&asked, ReportType::P2p), "tidegate report p2p --format md --since '24h' --run 'a&b'\\''c'");
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let now = SystemTime::now();
        for asked in [
            Asked { r#type: "everything".into(), ..Asked::default() },
            Asked { since: "yesterday".into(), ..Asked::default() },
            Asked { run: "x".repeat(200), ..Asked::default() },
        ] {
            assert!(wanted(&asked, now).is_err(), "{asked:?}");
        }
        assert!(wanted(&Asked::default(), now).is_ok_and(|wanted| wanted.kind == ReportType::Ipfs));
    }
}
