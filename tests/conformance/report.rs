//! The table of results.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::cases::Case;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// What was not met.
    Failed(Vec<String>),
    /// Why it does not apply.
    Skipped(&'static str),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

pub struct Report {
    pub title: &'static str,
    pub results: Vec<(Case, Outcome)>,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
    }
}

impl Report {
    pub fn total(&self) -> Counts {
        let mut counts = Counts::default();
        self.results.iter().for_each(|(_, outcome)| counts.add(outcome));
        counts
    }

    /// A case of several presets counts in each.
    pub fn by_preset(&self) -> BTreeMap<String, Counts> {
        let mut presets: BTreeMap<String, Counts> = BTreeMap::new();
        for (case, outcome) in &self.results {
            for preset in &case.presets {
                presets.entry(preset.clone()).or_default().add(outcome);
            }
        }
        presets
    }

    pub fn table(&self) -> String {
        let mut text =
            format!("## {}\n\n| preset | cases | passed | failed | skipped |\n|---|---|---|---|---|\n", self.title);
        let mut row = |name: &str, counts: Counts| {
            let Counts { passed, failed, skipped } = counts;
            let _ = writeln!(text, "| {name} | {} | {passed} | {failed} | {skipped} |", passed + failed + skipped);
        };
        for (preset, counts) in self.by_preset() {
            row(&preset, counts);
        }
        row("**cases** (those of two presets once)", self.total());
        text
    }

    /// Every case that did not pass, and why.
    pub fn details(&self) -> String {
        let mut text = String::new();
        for (case, outcome) in &self.results {
            let request = &case.requests[0];
            let host = request.headers.iter().flatten().find(|(name, _)| *name == "Host").map_or("", |(_, host)| host);
            match outcome {
                Outcome::Passed => {}
                Outcome::Skipped(why) => drop(writeln!(text, "skipped {} {}: {why}", case.index, case.name)),
                Outcome::Failed(why) => {
                    let _ = writeln!(text, "FAILED {} {} / {}", case.index, case.test, case.name);
                    let _ = writeln!(text, "    {} {host}{} {:?}", request.method, request.path, request.query);
                    for why in why {
                        let why: String = why.chars().take(600).collect();
                        let _ = writeln!(text, "    {why}");
                    }
                }
            }
        }
        text
    }

    /// Keeps the table as `NAME.md` under `$TIDEGATE_ARTEFACTS`, else in the target folder.
    pub fn keep(&self, name: &str) -> PathBuf {
        let target = || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().map(PathBuf::from).unwrap_or_default();
        let folder = std::env::var_os("TIDEGATE_ARTEFACTS").map_or_else(target, PathBuf::from);
        std::fs::create_dir_all(&folder).expect("the folder of artefacts");
        let path = folder.join(format!("{name}.md"));
        let details = self.details();
        let details = if details.is_empty() { details } else { format!("\n```\n{details}```\n") };
        std::fs::write(&path, format!("{}{details}", self.table())).expect("the artefact");
        path
    }
}
