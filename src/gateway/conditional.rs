//! Conditional requests (RFC 9110 §13).

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};

/// What the client has already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditional {
    any: bool,
    /// Without `W/`: `If-None-Match` compares weakly.
    tags: Vec<String>,
    has_tags: bool,
    since: Option<SystemTime>,
}

impl Conditional {
    pub fn read(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        for value in headers.get_all(IF_NONE_MATCH) {
            read.has_tags = true;
            let Ok(text) = value.to_str() else { continue };
            if text.trim() == "*" {
                read.any = true;
            }
            read.tags.extend(tags(text));
        }
        read.since =
            headers.get(IF_MODIFIED_SINCE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
        read
    }

    /// True when nothing is asked: the common case.
    pub fn is_empty(&self) -> bool {
        !self.has_tags && self.since.is_none()
    }

    /// The client has one of these validators, named explicitly: it got it from us, so no look at the content is needed.
    pub fn has(&self, etag: &str) -> bool {
        self.tags.iter().any(|tag| tag == opaque(etag))
    }

    /// 304: the client has what would be sent. `etag` is its validator; the content is known to exist.
    pub fn is_fresh(&self, etag: &str, modified: Option<SystemTime>) -> bool {
        if self.has_tags {
            // If-None-Match decides alone (RFC 9110 §13.1.3).
            return self.any || self.has(etag);
        }
        matches!((self.since, modified), (Some(since), Some(modified)) if whole_seconds(modified) <= since)
    }
}

/// Strong comparison: `If-Range` names exactly this strong validator.
pub fn is_same_strong(value: &str, etag: &str) -> bool {
    let value = value.trim();
    value == etag && !value.starts_with("W/")
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs())
}

/// The quoted tags of a list; a comma may stand within quotes.
fn tags(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('"').skip(1).step_by(2).map(|tag| format!("\"{tag}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: http::HeaderName, value: &str, etag: &str, modified: Option<SystemTime>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Conditional::read(&headers).is_fresh(etag, modified)
    }

    #[test]
    fn if_none_match_compares_weakly_and_in_lists() {
        for (value, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", W/\"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("\"b,a\"", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(fresh(IF_NONE_MATCH, value, "\"a\"", None), expected, "{value}");
            assert_eq!(fresh(IF_NONE_MATCH, value, "W/\"a\"", None), expected, "{value} against weak");
        }
    }

    #[test]
    fn a_date_counts_only_without_tags() {
        let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_500);
        let at =
            |seconds: u64| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert!(fresh(IF_MODIFIED_SINCE, &at(1_700_000_000), "\"a\"", Some(modified)));
        assert!(!fresh(IF_MODIFIED_SINCE, &at(1_699_999_999), "\"a\"", Some(modified)));
        assert!(!fresh(IF_MODIFIED_SINCE, &at(1_700_000_000), "\"a\"", None));
        let mut headers = HeaderMap::new();
        headers.insert(IF_MODIFIED_SINCE, at(1_800_000_000).parse().unwrap());
        headers.insert(IF_NONE_MATCH, "\"b\"".parse().unwrap());
        assert!(!Conditional::read(&headers).is_fresh("\"a\"", Some(modified)));
    }
}
