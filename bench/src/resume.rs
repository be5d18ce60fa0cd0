//! A run that was broken off goes on: cells whose samples are in its folder are not measured again.
//!
//! Only with the same build and the same seed, so that one report is of one thing.

use std::io;
use std::path::Path;

use clap::ValueEnum;
use serde_json::Value;

use crate::cell::Sample;
use crate::contender::tidegate;
use crate::run::multi;
use crate::scenario::{Fault, Scenario};

/// What an earlier run left: its seed and samples. `None`: there is no earlier run in `dir`.
pub fn load(dir: &Path) -> io::Result<Option<(u64, Vec<Sample>)>> {
    let Ok(text) = std::fs::read(dir.join("run.json")) else { return Ok(None) };
    let run: Value = serde_json::from_slice(&text)?;
    let build = tidegate::version()?;
    let other = run["run"]["contenders"].as_array().into_iter().flatten().find(|contender| {
        contender[0].as_str().is_some_and(|name| name.starts_with("tidegate")) && contender[1] != build.as_str()
    });
    if let Some(other) = other {
        let text = format!("{} is of {}, this is {build}: take another --out", dir.display(), other[1]);
        return Err(io::Error::other(text));
    }
    let seed = run["run"]["seed"].as_u64().ok_or_else(|| io::Error::other("run.json has no seed"))?;
    Ok(Some((seed, samples(&std::fs::read_to_string(dir.join("samples.csv"))?)?)))
}

/// Reads what [`crate::report::csv`] wrote.
pub fn samples(csv: &str) -> io::Result<Vec<Sample>> {
    let read = |line: &str| sample(line).ok_or_else(|| io::Error::other(format!("not a line of samples: {line}")));
    csv.lines().skip(1).map(read).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let fields: Vec<&str> = line.splitn(19, ',').collect();
    let [scenario, links, bytes, fault, contender, iteration, cid, rest @ ..] = &fields[..] else { return None };
    let [total, ttfb, wire, duplicate, dropped, cpu, memory, bound, asked, after, joined, error] = rest else {
        return None;
    };
    let scenario = Scenario::from_str(scenario, false).ok()?;
    let error = error.trim_matches('"');
    Some(Sample {
        fault: if fault.is_empty() { None } else { Some(label(fault)?) },
        cid: (*cid).to_owned(),
        total_ms: total.parse().ok()?,
        ttfb_ms: ttfb.parse().ok()?,
        wire_ratio: wire.parse().ok(),
        duplicate_bytes: duplicate.parse().ok(),
        udp_dropped: dropped.parse().ok(),
        cpu_ms: cpu.parse().ok(),
        peak_memory: memory.parse().ok(),
        bound_ms: bound.parse().ok(),
        adversary_asked: asked.parse().ok(),
        asked_after_bad: after.parse().ok(),
        joined_ms: joined.parse().ok(),
        error: if error.is_empty() { None } else { Some(error.to_owned()) },
        ..Sample::new(scenario, links, bytes.parse().ok()?, contender, iteration.parse().ok()?)
    })
}

fn label(text: &str) -> Option<&'static str> {
    Fault::ALL.into_iter().map(Fault::as_str).chain(multi::LABELS).find(|known| *known == text)
}

/// The samples of a cell in `earlier`, if all `contenders` that took part did so equally often.
pub fn cell(
    earlier: &[Sample],
    scenario: Scenario,
    links: &str,
    bytes: u64,
    fault: Option<&str>,
    contenders: &[String],
) -> Option<Vec<Sample>> {
    let of: Vec<Sample> = earlier
        .iter()
        .filter(|sample| {
            (sample.scenario, sample.links.as_str(), sample.bytes, sample.fault)
                == (scenario.as_str(), links, bytes, fault)
                && contenders.contains(&sample.contender)
        })
        .cloned()
        .collect();
    let counts: Vec<usize> = contenders
        .iter()
        .map(|name| of.iter().filter(|sample| sample.contender == *name).count())
        .filter(|count| *count > 0)
        .collect();
    let whole = counts.first().is_some_and(|first| counts.iter().all(|count| count == first));
    whole.then_some(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::csv;

    #[test]
    fn samples_are_read_as_they_were_written() {
        let one = Sample {
            fault: Some("six connections"),
            total_ms: 12.5,
            ttfb_ms: 3.25,
            wire_ratio: Some(1.05),
            duplicate_bytes: Some(7),
            asked_after_bad: Some(0),
            ..Sample::new(Scenario::Multi, "D", 2_048_000, "kubo", 4)
        };
        let other = Sample { error: Some("broke, twice".to_owned()), ..Sample::new(Scenario::Cold, "D+", 5, "x", 0) };
        let text = csv(&[one, other]);
        let read = samples(&text).unwrap();
        assert_eq!(csv(&read), text);
        assert!(samples(&text.replace("six connections", "seven")).is_err());
    }

    #[test]
    fn a_cell_that_broke_off_is_measured_again() {
        let of = |contender: &str, iteration| Sample::new(Scenario::Small, "A", 1, contender, iteration);
        let names = ["a".to_owned(), "b".to_owned(), "absent".to_owned()];
        let whole = [of("a", 0), of("b", 0), of("b", 1), of("a", 1)];
        let found =
            |earlier: &[Sample]| cell(earlier, Scenario::Small, "A", 1, None, &names).map(|samples| samples.len());
        assert_eq!((found(&whole), found(&whole[..3]), found(&[])), (Some(4), None, None));
    }
}
