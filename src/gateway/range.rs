//! Byte ranges (RFC 9110 §14).

use std::ops::Range;

use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

use super::conditional::is_same_strong;

/// Ranges of one request that are looked at; a header with more is ignored (RFC 9110 §14.2 on abuse).
const MAX_RANGES: usize = 16;

/// The bytes that a request asks for, before the size is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ByteRange {
    wanted: Vec<Wanted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Both ends included.
    From(u64, Option<u64>),
    Last(u64),
}

/// What to send of a body of known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// 200.
    Whole,
    /// 206.
    Part(Range<u64>),
    /// 206 as `multipart/byteranges`: two or more, in the order of the request, together no longer than the body.
    Parts(Vec<Range<u64>>),
    /// 416.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads `Range`. What is not a valid set of byte ranges is ignored, as RFC 9110 §14.2 says; so is all of it when
    /// `If-Range` does not name `etag`, the strong validator of what would be sent.
    pub fn read(headers: &HeaderMap, etag: &str) -> Self {
        let unchanged = headers.get(IF_RANGE).is_none_or(|value| value.to_str().is_ok_and(|v| is_same_strong(v, etag)));
        let wanted = headers.get(RANGE).filter(|_| unchanged).and_then(|value| parse(value.to_str().ok()?));
        Self { wanted: wanted.unwrap_or_default() }
    }

    /// The parts of `size` bytes to send: of several ranges those that can be satisfied. Ranges that are together longer than
    /// the body itself are a way to be sent it more than once: they get it once (RFC 9110 §14.2).
    pub fn select(&self, size: u64) -> Selection {
        if self.wanted.is_empty() {
            return Selection::Whole;
        }
        let parts = self.wanted.iter().filter_map(|wanted| match *wanted {
            Wanted::From(first, last) => {
                (first < size).then(|| first..last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            Wanted::Last(n) => (n > 0 && size > 0).then(|| size.saturating_sub(n)..size),
        });
        let mut parts: Vec<Range<u64>> = parts.collect();
        let total = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.end - part.start));
        match parts.len() {
            0 => Selection::Unsatisfiable,
            1 => Selection::Part(parts.remove(0)),
            _ if total > size => Selection::Whole,
            _ => Selection::Parts(parts),
        }
    }
}

fn parse(text: &str) -> Option<Vec<Wanted>> {
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut wanted = Vec::new();
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        if wanted.len() == MAX_RANGES {
            return None;
        }
        let (first, last) = spec.split_once('-')?;
        wanted.push(match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Wanted::From(first, Some(last)),
            (Some(first), None) if last.is_empty() => Wanted::From(first, None),
            (None, Some(last)) if first.is_empty() => Wanted::Last(last),
            _ => return None,
        });
    }
    (!wanted.is_empty()).then_some(wanted)
}

/// Digits only: no sign. More than fits is as good as the largest number that does.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Selection::{Part, Parts, Unsatisfiable, Whole};

    fn select(range: &str, size: u64) -> Selection {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, range.parse().unwrap());
        ByteRange::read(&headers, "\"x\"").select(size)
    }

    #[test]
    fn ranges_select_what_rfc_9110_says() {
        for (range, size, expected) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=2-4", 10, Part(2..5)),
            ("bytes=5-", 10, Part(5..10)),
            ("bytes=5-99", 10, Part(5..10)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-99", 10, Part(0..10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("bytes=20-30, 1-2, 4-5", 10, Parts(vec![1..3, 4..6])),
            ("bytes=20-30, 4-5", 10, Part(4..6)),
            ("bytes=6-8,0-1,-1", 10, Parts(vec![6..9, 0..2, 9..10])),
            ("bytes=0-,0-", 10, Whole),
            ("bytes=20-,30-", 10, Unsatisfiable),
            ("bytes=4-2", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("items=0-1", 10, Whole),
            ("BYTES=0-1", 10, Part(0..2)),
            ("bytes=0-18446744073709551615", 10, Part(0..10)),
            ("bytes=99999999999999999999-", 10, Unsatisfiable),
        ] {
            assert_eq!(select(range, size), expected, "{range} of {size}");
        }
        assert_eq!(select(&format!("bytes={}", vec!["0-1"; MAX_RANGES + 1].join(",")), 10), Whole);
    }

    #[test]
    fn a_range_of_something_else_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, "bytes=0-1".parse().unwrap());
        for (validator, expected) in [("\"x\"", Part(0..2)), ("\"y\"", Whole), ("W/\"x\"", Whole)] {
            headers.insert(IF_RANGE, validator.parse().unwrap());
            assert_eq!(ByteRange::read(&headers, "\"x\"").select(10), expected, "{validator}");
        }
    }
}
