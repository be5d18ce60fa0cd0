//! Every claim of the manual with the command that shows it, and its last stored result.

use std::collections::HashMap;

use crate::db::queries::TestRow;
use crate::report::table::{Cell, Section, Table};

/// The claims: one row of the table in it each.
const MANUAL: &str = include_str!("../../../docs/verification.md");
/// Rows of `test_results` with this type hold a claim's result; `details.claim` names it.
const TEST_TYPE: &str = "verification";
/// Words of a claim that name it.
const NAME_WORDS: usize = 8;

/// A claim of the manual.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    /// What `details.claim` holds: the first words, in small letters, joined by `-`.
    name: String,
    text: String,
    command: String,
}

pub fn verification(tests: &[TestRow]) -> Vec<Section> {
    let mut newest: HashMap<&str, &TestRow> = HashMap::new();
    for test in tests.iter().filter(|test| test.test_type == TEST_TYPE) {
        let claim = test.details.as_ref().and_then(|details| details.get("claim")).and_then(|claim| claim.as_str());
        if let Some(claim) = claim {
            let known = newest.entry(claim).or_insert(test);
            if (test.timestamp, test.id) > (known.timestamp, known.id) {
                *known = test;
            }
        }
    }
    let claims = claims(MANUAL);
    let shown = claims.iter().filter(|claim| newest.contains_key(claim.name.as_str())).count();
    let rows = claims.iter().map(|claim| {
        let test = newest.get(claim.name.as_str());
        let result = match test {
            None => Cell::text("not run on this database"),
            Some(test) => Cell::text(match (&test.error_message, test.success) {
                (Some(message), _) => format!("{}: {message}", test.status),
                (None, _) => summary(test).unwrap_or_else(|| test.status.clone()),
            }),
        };
        vec![
            Cell::text(claim.text.as_str()),
            Cell::text(claim.command.as_str()),
            result,
            Cell::bool(test.map(|test| test.success)),
            test.map_or(Cell::None, |test| Cell::Time(test.timestamp)),
            Cell::maybe_text(test.and_then(|test| test.git_commit.as_deref())),
            Cell::text(claim.name.as_str()),
        ]
    });
    let head = [
        ("claim", "claim", ""),
        ("command", "command that shows it", ""),
        ("result", "last result here", ""),
        ("holds", "holds", ""),
        ("at", "at", ""),
        ("commit", "commit", ""),
        ("name", "name", ""),
    ];
    let table = Table::new("claims", "Claims", head, "The manual states no claim.").with(rows);
    let method = "Claims and commands are those of docs/verification.md. Results are rows of test_results of the type \
                  \"verification\" whose details name the claim (POST /api/v1/results).";
    vec![
        Section::new("claims", "Claims", method)
            .table(table)
            .note(format!("{shown} of {} claims have a result on this database.", claims.len())),
    ]
}

/// What the tool says of its result in words.
fn summary(test: &TestRow) -> Option<String> {
    Some(test.details.as_ref()?.get("result")?.as_str()?.to_owned())
}

/// The rows of the first table of the manual's page.
fn claims(manual: &str) -> Vec<Claim> {
    let mut above = String::new();
    let rows = manual.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [claim, command, ..] = cells[..] else { return None };
        let command = command.replace('`', "");
        // The page shortens the command of the row above: "same", "... name".
        let command = match command.as_str() {
            same if same.starts_with("same") => format!("{above}{}", &same["same".len()..]),
            rest if rest.starts_with("...") => {
                let script: Vec<&str> = above.split(' ').take(2).collect();
                format!("{}{}", script.join(" "), &rest["...".len()..])
            }
            _ => {
                above.clone_from(&command);
                command
            }
        };
        Some(Claim { name: name(claim), text: claim.replace('`', ""), command })
    })
    .collect()
}

fn name(claim: &str) -> String {
    let words = claim.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).take(NAME_WORDS);
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_of_the_manual_has_a_name_of_its_own_and_a_command() {
        let claims = claims(MANUAL);
        assert!(claims.len() >= 15, "{}", claims.len());
        let names: std::collections::HashSet<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        assert_eq!(names.len(), claims.len());
        for claim in &claims {
            let known = ["cargo", "python3", "tidegate", "node", "curl", ".ci"];
            assert!(known.iter().any(|start| claim.command.starts_with(start)), "{claim:?}");
        }
    }

    #[test]
    fn shortened_commands_are_written_out() {
        let page = "| a | b | c |\n|---|---|---|\n| One | `python3 x.py one` | 1 |\n| Two | `... two` | 2 |\n| Three | same | 3 |";
        let commands: Vec<String> = claims(page).into_iter().map(|claim| claim.command).collect();
        assert_eq!(commands, ["python3 x.py one", "python3 x.py two", "python3 x.py one"]);
    }

    #[test]
    fn without_a_stored_result_a_claim_says_that_it_was_not_run() {
        let sections = verification(&[]);
        let table = &sections[0].tables[0];
        assert!(table.rows.iter().all(|row| row[2] == Cell::text("not run on this database") && row[3] == Cell::None));
        let claim = table.rows[0][6].shown();
        let test = TestRow {
            id: 1,
            timestamp: 5,
            test_date: String::new(),
            status: "passed".to_owned(),
            test_type: TEST_TYPE.to_owned(),
            model_id: None,
            hardware_id: None,
            endpoint_type: None,
            success: true,
            error_message: None,
            execution_time: None,
            memory_usage: None,
            details: Some(serde_json::json!({"claim": claim, "result": "608 passed"})),
            run_id: "r".to_owned(),
            sequence: 0,
            tool: None,
            git_commit: None,
            machine_fingerprint: None,
        };
        let row = &verification(&[test])[0].tables[0].rows[0];
        assert_eq!((row[2].shown().as_str(), &row[3]), ("608 passed", &Cell::Bool(true)));
    }
}
