//! The cases as data. Every key is known here: one that is not is an error, so that no expectation is passed over.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// One entry of `cases.ndjson`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its place in the file, from 0.
    #[serde(skip)]
    pub index: usize,
    pub test: String,
    pub name: String,
    /// All of them must be served for the case to count.
    pub presets: Vec<String>,
    pub requests: Vec<Request>,
    pub expect: Option<Expect>,
    /// The bodies of all requests are the same.
    #[serde(default)]
    pub same_payload: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub method: String,
    /// With a query of its own at times; an absolute URL where `proxy` is set without `tunnel`.
    pub path: String,
    pub query: BTreeMap<String, Vec<String>>,
    pub headers: Option<BTreeMap<String, String>>,
    /// The gateway is the client's HTTP proxy.
    #[serde(default)]
    pub proxy: bool,
    /// ... and is asked for a tunnel first.
    #[serde(default)]
    pub tunnel: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub status: Option<u16>,
    /// The suite computes this one and then forgets it; we do not.
    #[serde(rename = "status_between_NOT_ENFORCED")]
    pub status_between: Option<(u16, u16)>,
    #[serde(default)]
    pub headers: Vec<HeaderExpect>,
    pub body: Option<Body>,
    #[serde(default)]
    pub all_of: Vec<Expect>,
    #[serde(default)]
    pub any_of: Vec<Expect>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderExpect {
    pub header: String,
    pub check: Check,
    #[serde(default)]
    pub negated: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    Equals(String),
    Contains(String),
    /// Not anchored.
    Regex(String),
    Absent(bool),
    /// A function of the suite that is not in the data: `custom.rs` has ours.
    CustomGoFunc(serde::de::IgnoredAny),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    pub equals: Option<String>,
    pub equals_base64: Option<String>,
    pub contains: Option<String>,
    /// JSON, as Go prints what it decodes to (`%v`).
    pub json_equals: Option<String>,
    #[serde(default)]
    pub all: Vec<Body>,
    pub not: Option<Box<Body>>,
    /// `null` for a CAR without blocks.
    #[serde(default, deserialize_with = "present")]
    pub car_blocks: Option<Vec<String>>,
    /// These blocks and no others.
    pub exact: Option<bool>,
    pub ordered: Option<bool>,
    pub ignore_roots: Option<bool>,
    pub tar_has: Option<Vec<String>>,
    pub tar_has_content: Option<BTreeMap<String, String>>,
    /// A type of check of the suite.
    pub other: Option<String>,
}

/// Reads the cases; `port` takes the place of the word PORT.
pub fn read(fixtures: &Path, port: u16) -> Vec<Case> {
    let path = fixtures.join("cases.ndjson");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut cases = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.replace(":PORT", &format!(":{port}"));
        let mut case: Case = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{}, line {}: {error}", path.display(), index + 1));
        case.index = index;
        check_shape(&case);
        cases.push(case);
    }
    cases
}

/// The key is there, whatever it holds.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

/// Combinations that no check here would look at.
fn check_shape(case: &Case) {
    let place = format!("case {} ({})", case.index, case.name);
    assert!(case.same_payload == (case.requests.len() > 1), "{place}: several requests and no rule for them");
    assert!(case.expect.is_some() || case.same_payload, "{place}: nothing is expected");
    assert!(case.requests.iter().all(|request| request.proxy || !request.tunnel), "{place}: a tunnel without a proxy");
    let known_other = |body: &Body| body.other.as_deref().is_none_or(|other| other == "*ipns.CheckIsIPNSRecord");
    each_body(case.expect.as_ref(), &mut |body| {
        assert!(known_other(body), "{place}: body check {:?} is not known", body.other);
        let of_cars = body.exact.is_some() || body.ordered.is_some() || body.ignore_roots.is_some();
        assert!(body.car_blocks.is_some() || !of_cars, "{place}: a CAR's rules without its blocks");
        assert!(body.ignore_roots.unwrap_or(true), "{place}: roots of a CAR are to be checked, and no case says which");
    });
}

fn each_body(expect: Option<&Expect>, look: &mut impl FnMut(&Body)) {
    let Some(expect) = expect else { return };
    let mut open: Vec<&Body> = expect.body.iter().collect();
    while let Some(body) = open.pop() {
        look(body);
        open.extend(&body.all);
        open.extend(body.not.as_deref());
    }
    for inner in expect.all_of.iter().chain(&expect.any_of) {
        each_body(Some(inner), look);
    }
}

#[test]
fn a_key_that_is_not_known_is_an_error() {
    let case = |extra: &str, expect: &str| {
        let text = format!(
            r#"{{"test":"t","name":"n","presets":[],"requests":[{{"method":"GET","path":"/","query":{{}},"headers":null}}],"expect":{expect}{extra}}}"#
        );
        serde_json::from_str::<Case>(&text)
    };
    assert!(case("", r#"{"status":200}"#).is_ok());
    assert!(case(r#","more":1"#, r#"{"status":200}"#).is_err());
    assert!(case("", r#"{"status":200,"trailers":[]}"#).is_err());
    assert!(case("", r#"{"headers":[{"header":"A","check":{"starts_with":"x"}}]}"#).is_err());
    assert!(case("", r#"{"body":{"equals":"x","md5":"y"}}"#).is_err());
}
