//! `_redirects`: rules by which a site answers for paths that it does not have. A parser and a matcher; no I/O.
//!
//! Source: <https://specs.ipfs.tech/http-gateways/web-redirects-file/> (IPIP-0002).

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::form_urlencoded;

use crate::ipld::path::encode_segment;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;
/// The most rules in it.
pub const MAX_RULES: usize = 2048;

/// The rules of one site, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirects {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    from: Vec<Part>,
    /// `from` ends with `/*`.
    splat: bool,
    to: Target,
    status: Status,
}

/// One segment of `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Percent-decoded.
    Literal(String),
    Placeholder(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// Scheme and host, empty for a path of the site.
    origin: String,
    /// The path, as it is written; may hold placeholders.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// What a rule may answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The content of another path, as if it were at this one.
    Rewrite,
    /// 301, 302, 303, 307 or 308.
    Redirect(u16),
    /// The content of another path as the page of an error: 404, 410 or 451.
    Error(u16),
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send the client there; safe as a header.
    Redirect { status: u16, location: String },
    /// Serve the file at this path of the site (percent-encoded, it begins with `/`).
    Serve { status: u16, path: String },
}

/// Why a file has no rules to follow. All of them are said to the user with status 500 (specification, "Error handling").
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum RedirectsError {
    #[error("could not parse _redirects: redirects file size cannot exceed {MAX_FILE_BYTES} bytes")]
    TooLarge,
    #[error("could not parse _redirects: it is not UTF-8")]
    Utf8,
    #[error("could not parse _redirects: more than {MAX_RULES} rules")]
    TooManyRules,
    #[error("could not parse _redirects: line {line}: {error}")]
    Line { line: usize, error: LineError },
}

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum LineError {
    #[error("a rule is written: from to [status]")]
    Shape,
    #[error("from path {0:?} must begin with '/'")]
    From(String),
    #[error("an asterisk may stand only at the end of the from path, after a '/'")]
    Splat,
    #[error("placeholder {0:?} is duplicate")]
    Duplicate(String),
    #[error("placeholder without a name")]
    Placeholder,
    #[error("{0:?} is not percent-encoded UTF-8")]
    Encoding(String),
    #[error("target {0:?} must begin with '/' or be an http or https address")]
    Target(String),
    #[error("status 200, 404, 410 and 451 serve a path of the same site, and {0:?} is elsewhere")]
    Elsewhere(String),
    #[error("unsupported redirect status {0:?}; there are 200, 301, 302, 303, 307, 308, 404, 410 and 451")]
    Status(String),
    #[error("forced redirects ({0:?}) are not supported")]
    Forced(String),
}

impl Redirects {
    pub fn parse(file: &[u8]) -> Result<Self, RedirectsError> {
        if file.len() as u64 > MAX_FILE_BYTES {
            return Err(RedirectsError::TooLarge);
        }
        let text = std::str::from_utf8(file).map_err(|_| RedirectsError::Utf8)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let rule = Rule::parse(line).map_err(|error| RedirectsError::Line { line: index + 1, error })?;
            rules.extend(rule);
            if rules.len() > MAX_RULES {
                return Err(RedirectsError::TooManyRules);
            }
        }
        Ok(Self { rules })
    }

    /// The first rule that fits. `segments` are the names of the path, decoded; `query` is the raw query.
    pub fn answer(&self, segments: &[String], trailing_slash: bool, query: Option<&str>) -> Option<Answer> {
        self.rules.iter().find_map(|rule| rule.answer(segments, trailing_slash, query))
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    /// `None`: a line without a rule.
    fn parse(line: &str) -> Result<Option<Self>, LineError> {
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        let (from, to, status) = match words[..] {
            [] => return Ok(None),
            [from, to] => (from, to, Status::Redirect(301)),
            [from, to, status] => (from, to, Status::parse(status)?),
            _ => return Err(LineError::Shape),
        };
        let (from, splat) = parts(from)?;
        let to = Target::parse(to)?;
        if !to.origin.is_empty() && !matches!(status, Status::Redirect(_)) {
            return Err(LineError::Elsewhere(format!("{}{}", to.origin, to.path)));
        }
        Ok(Some(Self { from, splat, to, status }))
    }

    fn answer(&self, segments: &[String], trailing_slash: bool, query: Option<&str>) -> Option<Answer> {
        let fits = match segments.len().checked_sub(self.from.len())? {
            // `/a/*` needs the slash after `a`.
            0 => !self.splat || trailing_slash || self.from.is_empty(),
            _ => self.splat,
        };
        if !fits {
            return None;
        }
        let mut values: Vec<(&str, String)> = Vec::new();
        for (part, segment) in self.from.iter().zip(segments) {
            match part {
                Part::Literal(literal) if literal == segment => {}
                Part::Literal(_) => return None,
                Part::Placeholder(name) => values.push((name, segment.clone())),
            }
        }
        if self.splat {
            let tail = &segments[self.from.len()..];
            let slash = if trailing_slash && !tail.is_empty() { "/" } else { "" };
            values.push(("splat", format!("{}{slash}", tail.join("/"))));
        }
        Some(match self.status {
            Status::Redirect(status) => Answer::Redirect { status, location: self.to.location(&values, query) },
            Status::Rewrite => Answer::Serve { status: 200, path: self.to.path(&values) },
            Status::Error(status) => Answer::Serve { status, path: self.to.path(&values) },
        })
    }
}

impl Target {
    fn parse(text: &str) -> Result<Self, LineError> {
        let error = || LineError::Target(text.to_owned());
        let (rest, fragment) = cut(text, '#');
        let (rest, query) = cut(rest, '?');
        let (origin, path) = if rest.starts_with('/') {
            ("", rest)
        } else {
            let (scheme, after) = rest.split_once("://").ok_or_else(error)?;
            let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
            let host = after.find('/').unwrap_or(after.len());
            // The host is the author's alone: no part of the request gets into it.
            let fine = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
            if !is_web || host == 0 || after.starts_with(':') || !after[..host].bytes().all(fine) {
                return Err(error());
            }
            rest.split_at(scheme.len() + 3 + host)
        };
        let own = str::to_owned;
        Ok(Self { origin: own(origin), path: own(path), query: query.map(own), fragment: fragment.map(own) })
    }

    fn path(&self, values: &[(&str, String)]) -> String {
        let path =
            substitute(&self.path, values, |value| value.split('/').map(encode_segment).collect::<Vec<_>>().join("/"));
        printable(&path)
    }

    /// The address, with what the client asked besides the path; of two parameters of one name the client's counts.
    fn location(&self, values: &[(&str, String)], asked: Option<&str>) -> String {
        let component = |value: &str| form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>();
        let stated = self.query.as_deref().map(|query| substitute(query, values, component));
        let query = match (stated, asked.filter(|asked| !asked.is_empty())) {
            (stated, None) => stated,
            (None, Some(asked)) => Some(asked.to_owned()),
            (Some(stated), Some(asked)) => Some(merge(&stated, asked)),
        };
        let mut path = self.path(values);
        if self.origin.is_empty() && path.starts_with("//") && !self.path.starts_with("//") {
            // An empty placeholder must not make a host name of what follows.
            path = format!("/{}", path.trim_start_matches('/'));
        }
        let mut location = format!("{}{path}", self.origin);
        location.extend(query.map(|query| format!("?{}", printable(&query))));
        let fragment = self.fragment.as_deref().map(|fragment| substitute(fragment, values, component));
        location.extend(fragment.map(|fragment| format!("#{}", printable(&fragment))));
        location
    }
}

impl Status {
    fn parse(text: &str) -> Result<Self, LineError> {
        if text.ends_with('!') {
            return Err(LineError::Forced(text.to_owned()));
        }
        match text {
            "200" => Ok(Self::Rewrite),
            "301" => Ok(Self::Redirect(301)),
            "302" => Ok(Self::Redirect(302)),
            "303" => Ok(Self::Redirect(303)),
            "307" => Ok(Self::Redirect(307)),
            "308" => Ok(Self::Redirect(308)),
            "404" => Ok(Self::Error(404)),
            "410" => Ok(Self::Error(410)),
            "451" => Ok(Self::Error(451)),
            _ => Err(LineError::Status(text.to_owned())),
        }
    }
}

/// The segments of a from path, and whether it ends with an asterisk.
fn parts(from: &str) -> Result<(Vec<Part>, bool), LineError> {
    let path = from.strip_prefix('/').ok_or_else(|| LineError::From(from.to_owned()))?;
    if path.contains(['?', '#']) {
        return Err(LineError::From(from.to_owned()));
    }
    let (path, splat) = match path.strip_suffix('*') {
        Some(rest) if rest.is_empty() || rest.ends_with('/') => (rest, true),
        Some(_) => return Err(LineError::Splat),
        None => (path, false),
    };
    let mut names = HashSet::new();
    let mut parts = Vec::new();
    // As in the path of a request, empty segments are passed over.
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        parts.push(match segment.strip_prefix(':') {
            Some("") => return Err(LineError::Placeholder),
            Some(name) if name == "splat" && splat || !names.insert(name) => {
                return Err(LineError::Duplicate(format!(":{name}")));
            }
            Some(name) => Part::Placeholder(name.to_owned()),
            None if segment.contains('*') => return Err(LineError::Splat),
            None => {
                let decoded = percent_decode_str(segment).decode_utf8();
                Part::Literal(decoded.map_err(|_| LineError::Encoding(segment.to_owned()))?.into_owned())
            }
        });
    }
    Ok((parts, splat))
}

/// Puts values in the place of `:name`. A name ends where letters, digits, `_` and `-` end; an unknown one stays as it is.
fn substitute(text: &str, values: &[(&str, String)], encode: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(':') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let end = after.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(after.len());
        match values.iter().find(|(name, _)| *name == &after[..end]) {
            Some((_, value)) => out.push_str(&encode(value)),
            None => out.push_str(&rest[at..=at + end]),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// The parameters that are stated and not asked for, then those that are asked for.
fn merge(stated: &str, asked: &str) -> String {
    let keys: HashSet<String> = form_urlencoded::parse(asked.as_bytes()).map(|(key, _)| key.into_owned()).collect();
    let overridden = |pair: &str| form_urlencoded::parse(pair.as_bytes()).any(|(key, _)| keys.contains(&*key));
    let mut pairs: Vec<&str> = stated.split('&').filter(|pair| !pair.is_empty() && !overridden(pair)).collect();
    pairs.push(asked);
    pairs.join("&")
}

/// What a header can carry: the rest percent-encoded.
fn printable(text: &str) -> String {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`');
    utf8_percent_encode(text, UNSAFE).to_string()
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// What `file` answers for `path`, as `status location`.
    fn ask(file: &str, path: &str) -> Option<String> {
        let (path, query) = cut(path, '?');
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let answer = Redirects::parse(file.as_bytes()).unwrap().answer(&segments, path.ends_with('/'), query)?;
        Some(match answer {
            Answer::Redirect { status, location } => format!("{status} {location}"),
            Answer::Serve { status, path } => format!("{status} {path}"),
        })
    }

    #[rstest]
    #[case("/one /one.html", "/one", "301 /one.html")]
    #[case("/two /two.html 302", "/two", "302 /two.html")]
    #[case("/a /b 303", "/a", "303 /b")]
    #[case("/a /b 307", "/a", "307 /b")]
    #[case("/a /b 308", "/a", "308 /b")]
    #[case("/a /b 200", "/a", "200 /b")]
    #[case("/a /b 404", "/a", "404 /b")]
    #[case("/a /b 410", "/a", "410 /b")]
    #[case("/a /b 451", "/a", "451 /b")]
    #[case("/a  \t /b", "/a/", "301 /b")]
    #[case("/posts/:y/:m/:t /articles/:t/:y/:m/:t", "/posts/22/01/x y", "301 /articles/x%20y/22/01/x%20y")]
    #[case("/s/* /r/:splat", "/s/a/b.html", "301 /r/a/b.html")]
    #[case("/s/* /r/:splat", "/s/a/", "301 /r/a/")]
    #[case("/s/* /r/:splat", "/s/", "301 /r/")]
    #[case("/* /index.html 200", "/", "200 /index.html")]
    #[case("/* /index.html 200", "/any/thing", "200 /index.html")]
    #[case("# c\r\n\r\n   /a /b # why\r\n", "/a", "301 /b")]
    #[case("/a /b\n/a /c", "/a", "301 /b")]
    #[case("/%C4%85 /b", "/ą", "301 /b")]
    #[case("/a /ą", "/a", "301 /%C4%85")]
    #[case("/a https://example.com/:x#y", "/a", "301 https://example.com/:x#y")]
    #[case("/a/:x https://example.com:8/:x", "/a/1", "301 https://example.com:8/1")]
    #[case("/a /b?x=1&y=2", "/a?y=3&z=4", "301 /b?x=1&y=3&z=4")]
    #[case("/a /b", "/a?q=%20", "301 /b?q=%20")]
    #[case("/a /b?x=1", "/a", "301 /b?x=1")]
    #[case("/a/:x /b?v=:x", "/a/1&c=2", "301 /b?v=1%26c%3D2")]
    #[case("/a /b 200", "/a?q=1", "200 /b")]
    #[case("/:x /t/:xy/:x", "/1", "301 /t/:xy/1")]
    fn rules_answer(#[case] file: &str, #[case] path: &str, #[case] answer: &str) {
        assert_eq!(ask(file, path).as_deref(), Some(answer));
    }

    #[rstest]
    #[case("/a /b", "/ab")]
    #[case("/a /b", "/a/b")]
    #[case("/a/:x /b", "/a")]
    #[case("/s/* /r", "/s")]
    #[case("", "/a")]
    fn rules_that_do_not_fit_say_nothing(#[case] file: &str, #[case] path: &str) {
        assert_eq!(ask(file, path), None);
    }

    #[rstest]
    #[case("/a", LineError::Shape)]
    #[case("/a /b 301 Country=de", LineError::Shape)]
    #[case("a /b", LineError::From("a".into()))]
    #[case("/a?x=1 /b", LineError::From("/a?x=1".into()))]
    #[case("/a/*/b /c", LineError::Splat)]
    #[case("/a* /c", LineError::Splat)]
    #[case("/:x/:x /c", LineError::Duplicate(":x".into()))]
    #[case("/:splat/* /c", LineError::Duplicate(":splat".into()))]
    #[case("/: /c", LineError::Placeholder)]
    #[case("/%ff /c", LineError::Encoding("%ff".into()))]
    #[case("/a b", LineError::Target("b".into()))]
    #[case("/a javascript:alert(1)", LineError::Target("javascript:alert(1)".into()))]
    #[case("/a javascript://x/%0aalert(1)", LineError::Target("javascript://x/%0aalert(1)".into()))]
    #[case("/a https:///x", LineError::Target("https:///x".into()))]
    #[case("/:h https://:h/x", LineError::Target("https://:h/x".into()))]
    #[case("/a https://example.com/ 200", LineError::Elsewhere("https://example.com/".into()))]
    #[case("/a /b 418", LineError::Status("418".into()))]
    #[case("/a /b 301!", LineError::Forced("301!".into()))]
    fn lines_that_are_no_rules_are_named(#[case] line: &str, #[case] error: LineError) {
        let found = Redirects::parse(format!("/ok /fine\n{line}").as_bytes());
        assert_eq!(found, Err(RedirectsError::Line { line: 2, error }));
    }

    #[test]
    fn files_over_the_limits_are_refused_with_the_words_that_authors_look_for() {
        let line = "/a /b\n";
        let large = line.repeat(1 + MAX_FILE_BYTES as usize / line.len());
        let text = Redirects::parse(large.as_bytes()).unwrap_err().to_string();
        assert!(text.contains("could not parse _redirects:") && text.contains("redirects file size cannot exceed"));
        assert_eq!(Redirects::parse(line.repeat(MAX_RULES).as_bytes()).unwrap().len(), MAX_RULES);
        assert_eq!(Redirects::parse(line.repeat(MAX_RULES + 1).as_bytes()), Err(RedirectsError::TooManyRules));
        assert_eq!(Redirects::parse(b"\xff"), Err(RedirectsError::Utf8));
    }

    #[test]
    fn no_request_makes_a_rule_lead_to_another_host() {
        assert_eq!(ask("/* /:splat", "/\\evil.example").as_deref(), Some("301 /%5Cevil.example"));
        assert_eq!(ask("/* /:splat/evil.example", "/").as_deref(), Some("301 /evil.example"));
        assert_eq!(ask("/* /:splat", "/@evil.example").as_deref(), Some("301 /@evil.example"));
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(file in prop::collection::vec(any::<u8>(), 0..200), text in "([/:*a-c?#\\r\\n 0-4!ą\\\\]|200|301){0,80}") {
            let _ = Redirects::parse(&file);
            let _ = Redirects::parse(text.as_bytes());
        }

        #[test]
        fn a_location_is_a_header_and_stays_with_the_author(
            segments in prop::collection::vec("[^/\0]{1,8}", 0..4),
            trailing in any::<bool>(),
            query in proptest::option::of("[ -~]{0,20}"),
            to in prop_oneof![Just("/x/:splat"), Just("/:splat"), Just("https://example.com/:splat?a=:splat#:splat")],
        ) {
            let rules = Redirects::parse(format!("/* {to}").as_bytes()).unwrap();
            let Some(Answer::Redirect { location, .. }) = rules.answer(&segments, trailing, query.as_deref()) else {
                return Err(TestCaseError::fail("no answer"));
            };
            prop_assert!(http::HeaderValue::from_str(&location).is_ok(), "{}", location);
            let base = url::Url::parse("http://site.example/").unwrap();
            let host = base.join(&location).unwrap().host_str().unwrap().to_owned();
            prop_assert_eq!(host, if to.starts_with('/') { "site.example" } else { "example.com" });
        }
    }
}
