//! Does an answer meet what a case expects? Each failed expectation is one line of text.

use std::collections::BTreeMap;
use std::io::Read;

use base64_of::decode as base64;
use serde_json::Value;

use super::cases::{Body, Case, Check, Expect, HeaderExpect};
use super::client::Answer;
use super::{car, custom, record};

mod base64_of {
    /// Standard alphabet with padding.
    pub fn decode(text: &str) -> Vec<u8> {
        multibase::Base::Base64Pad.decode(text).expect("base64 in the cases")
    }
}

/// What of `expect` the answer does not meet.
pub fn failures(case: &Case, expect: &Expect, answer: &Answer) -> Vec<String> {
    let mut failed = Vec::new();
    if let Some(status) = expect.status.filter(|status| *status != answer.status) {
        failed.push(format!("status {} instead of {status}", answer.status));
    }
    if let Some((from, to)) = expect.status_between.filter(|(from, to)| !(*from..=*to).contains(&answer.status)) {
        failed.push(format!("status {} is not within {from} to {to}", answer.status));
    }
    failed.extend(expect.headers.iter().filter_map(|header| header_failure(case, header, answer)));
    if let Some(body) = &expect.body {
        failed.extend(body_failures(case, body, answer));
    }
    for all in &expect.all_of {
        failed.extend(failures(case, all, answer));
    }
    if !expect.any_of.is_empty() {
        let tried: Vec<Vec<String>> = expect.any_of.iter().map(|any| failures(case, any, answer)).collect();
        if tried.iter().all(|failed| !failed.is_empty()) {
            let tried: Vec<String> = tried.into_iter().map(|failed| failed.join(" and ")).collect();
            failed.push(format!("none of: {}", tried.join(" | ")));
        }
    }
    failed
}

fn header_failure(case: &Case, expect: &HeaderExpect, answer: &Answer) -> Option<String> {
    let value = answer.header(&expect.header);
    let text = value.as_deref();
    let met = match &expect.check {
        Check::Equals(wanted) => text == Some(wanted),
        Check::Contains(wanted) => text.is_some_and(|text| text.contains(wanted.as_str())),
        Check::Regex(pattern) => {
            let pattern = regex::Regex::new(pattern).expect("a pattern in the cases");
            text.is_some_and(|text| pattern.is_match(text))
        }
        Check::Absent(absent) => text.is_none() == *absent,
        Check::CustomGoFunc(_) => match custom::header(case, &expect.header, text.unwrap_or_default()) {
            Ok(()) => true,
            Err(reason) => return Some(format!("{}: {:?}: {reason}", expect.header, text)),
        },
    };
    let not = if expect.negated { "not " } else { "" };
    (met == expect.negated).then(|| format!("{}: {:?}, {not}{:?} expected", expect.header, text, expect.check))
}

fn body_failures(case: &Case, expect: &Body, answer: &Answer) -> Vec<String> {
    let body = &answer.body;
    let contains = |needle: &str| body.windows(needle.len().max(1)).any(|window| window == needle.as_bytes());
    let mut failed = Vec::new();
    if expect.equals.as_ref().is_some_and(|wanted| wanted.as_bytes() != body) {
        failed.push(format!("body {} instead of {:?}", start(body), expect.equals));
    }
    if expect.equals_base64.as_ref().is_some_and(|wanted| base64(wanted) != *body) {
        failed.push(format!("body {} instead of base64 {:?}", start(body), expect.equals_base64));
    }
    if let Some(wanted) = expect.contains.as_ref().filter(|wanted| !contains(wanted)) {
        failed.push(format!("body without {wanted:?}: {}", start(body)));
    }
    if let Some(wanted) = &expect.json_equals {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) if go_text(&value) == *wanted => {}
            Ok(value) => failed.push(format!("JSON {} instead of {wanted}", go_text(&value))),
            Err(error) => failed.push(format!("not JSON: {error}: {}", start(body))),
        }
    }
    for all in &expect.all {
        failed.extend(body_failures(case, all, answer));
    }
    if let Some(not) = &expect.not
        && body_failures(case, not, answer).is_empty()
    {
        failed.push(format!("body meets what it must not: {not:?}"));
    }
    if let Some(wanted) = &expect.car_blocks {
        failed.extend(car_failure(expect, wanted, body));
    }
    if expect.tar_has.is_some() || expect.tar_has_content.is_some() {
        failed.extend(tar_failures(expect, body));
    }
    if expect.other.is_some() {
        let name = case.requests[0].path.trim_start_matches("/ipns/");
        failed.extend(record::check(name, body).err().map(|error| format!("not a valid IPNS record: {error}")));
    }
    failed
}

fn car_failure(expect: &Body, wanted: &[String], body: &[u8]) -> Option<String> {
    let found = match car::blocks(body) {
        Ok(found) => found,
        Err(error) => return Some(format!("CAR: {error}")),
    };
    let met = match (expect.exact.unwrap_or(false), expect.ordered.unwrap_or(false)) {
        (true, true) => found == wanted,
        (true, false) => {
            let sorted = |list: &[String]| {
                let mut list = list.to_vec();
                list.sort();
                list
            };
            sorted(&found) == sorted(wanted)
        }
        (false, true) => {
            let mut rest = found.iter();
            wanted.iter().all(|cid| rest.any(|found| found == cid))
        }
        (false, false) => wanted.iter().all(|cid| found.contains(cid)),
    };
    (!met).then(|| format!("CAR of [{}] instead of [{}]", found.join(" "), wanted.join(" ")))
}

fn tar_failures(expect: &Body, body: &[u8]) -> Vec<String> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut read = || -> std::io::Result<()> {
        for entry in tar::Archive::new(body).entries()? {
            let mut entry = entry?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            files.insert(name, data);
        }
        Ok(())
    };
    let mut failed = Vec::new();
    if let Err(error) = read() {
        failed.push(format!("not a TAR: {error}: {}", start(body)));
    }
    for name in files.keys().filter(|name| name.starts_with('/') || name.split('/').any(|part| part == "..")) {
        failed.push(format!("the TAR holds {name:?}, which leads out of its folder"));
    }
    for name in expect.tar_has.iter().flatten().filter(|name| !files.contains_key(*name)) {
        failed.push(format!("the TAR has no {name:?} but {:?}", files.keys()));
    }
    for (name, content) in expect.tar_has_content.iter().flatten() {
        if files.get(name).is_none_or(|data| data != content.as_bytes()) {
            failed.push(format!("the TAR has no {name:?} of {content:?} but {:?}", files.keys()));
        }
    }
    failed
}

/// A JSON value as Go's `fmt.Sprint` writes what `encoding/json` makes of it: maps by key, numbers as float64.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let pairs: Vec<String> =
                sorted.into_iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

fn start(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(&body[..body.len().min(160)]).into_owned();
    format!("{text:?}{} ({} bytes)", if body.len() > 160 { "..." } else { "" }, body.len())
}

#[test]
fn values_are_written_as_go_writes_them() {
    let value: Value = serde_json::from_str(r#"{"b":[1,2.5,null],"a":{"/":"x"},"c":true}"#).unwrap();
    assert_eq!(go_text(&value), "map[a:map[/:x] b:[1 2.5 <nil>] c:true]");
}

#[test]
fn every_kind_of_check_can_fail() {
    let case: Case = serde_json::from_str(
        r#"{"test":"t","name":"n","presets":[],"requests":[{"method":"GET","path":"/","query":{},"headers":null}],"expect":null}"#,
    )
    .unwrap();
    let answer = Answer {
        status: 200,
        headers: vec![("a".into(), "one".into()), ("a".into(), "two".into())],
        body: br#"{"x":1}"#.to_vec(),
    };
    let count = |expect: &str| failures(&case, &serde_json::from_str(expect).unwrap(), &answer).len();
    for (met, unmet) in [
        (r#"{"status":200}"#, r#"{"status":404}"#),
        (r#"{"status_between_NOT_ENFORCED":[200,299]}"#, r#"{"status_between_NOT_ENFORCED":[500,599]}"#),
        (
            r#"{"headers":[{"header":"A","check":{"equals":"one, two"}}]}"#,
            r#"{"headers":[{"header":"A","check":{"equals":"one"}}]}"#,
        ),
        (
            r#"{"headers":[{"header":"A","check":{"contains":"two"}}]}"#,
            r#"{"headers":[{"header":"B","check":{"contains":"two"}}]}"#,
        ),
        (
            r#"{"headers":[{"header":"A","check":{"regex":"t.o$"}}]}"#,
            r#"{"headers":[{"header":"A","check":{"regex":"^two"}}]}"#,
        ),
        (
            r#"{"headers":[{"header":"B","check":{"absent":true}}]}"#,
            r#"{"headers":[{"header":"A","check":{"absent":true}}]}"#,
        ),
        (
            r#"{"headers":[{"header":"A","check":{"absent":true},"negated":true}]}"#,
            r#"{"headers":[{"header":"B","check":{"absent":true},"negated":true}]}"#,
        ),
        (r#"{"body":{"equals":"{\"x\":1}"}}"#, r#"{"body":{"equals":"{}"}}"#),
        (r#"{"body":{"equals_base64":"eyJ4IjoxfQ=="}}"#, r#"{"body":{"equals_base64":"e30="}}"#),
        (r#"{"body":{"contains":"x"}}"#, r#"{"body":{"contains":"y"}}"#),
        (r#"{"body":{"json_equals":"map[x:1]"}}"#, r#"{"body":{"json_equals":"map[x:2]"}}"#),
        (
            r#"{"body":{"all":[{"contains":"x"},{"not":{"contains":"y"}}]}}"#,
            r#"{"body":{"all":[{"contains":"x"},{"not":{"contains":"x"}}]}}"#,
        ),
        (r#"{"any_of":[{"status":404},{"status":200}]}"#, r#"{"any_of":[{"status":404},{"status":405}]}"#),
        (r#"{"all_of":[{"status":200},{}]}"#, r#"{"all_of":[{"status":200},{"status":404}]}"#),
        (r#"{}"#, r#"{"body":{"tar_has":["x"]}}"#),
        (r#"{}"#, r#"{"body":{"car_blocks":[],"exact":true,"ordered":true,"ignore_roots":true}}"#),
        (r#"{}"#, r#"{"body":{"other":"*ipns.CheckIsIPNSRecord"}}"#),
    ] {
        assert_eq!(count(met), 0, "{met}");
        assert!(count(unmet) > 0, "{unmet}");
    }
}
