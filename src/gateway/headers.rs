//! Response headers: validators, caching, names for downloads, and what JavaScript of other origins may see.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::ipld::Cid;
use crate::ipld::path::ContentPath;
use crate::record::CacheState;

/// For everything that its address names for ever.
pub const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=29030400, immutable");
/// For pages that we make of immutable content: another release may make another page.
pub const LISTING: HeaderValue = HeaderValue::from_static("public, max-age=604800, stale-while-revalidate=2678400");
/// Of what is refused for its size: the limit may be another tomorrow.
pub const TOO_LARGE: HeaderValue = HeaderValue::from_static("public, max-age=3600");
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// `Vary` of what another `Accept` would have made another form of.
pub const ACCEPT_VARIES: HeaderValue = HeaderValue::from_static("Accept");
pub const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

pub const X_IPFS_PATH: HeaderName = HeaderName::from_static("x-ipfs-path");
pub const X_IPFS_ROOTS: HeaderName = HeaderName::from_static("x-ipfs-roots");
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub const RETRIEVAL: HeaderName = HeaderName::from_static("tidegate-retrieval");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a header can carry of a path without a client tripping over it.
const IN_HEADER: &AsciiSet = &CONTROLS.add(b'%');
/// RFC 8187 `attr-char` is what stays.
const IN_EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The validator of a deserialized file or an index page: the CID as it was linked.
pub fn etag(cid: &Cid) -> String {
    format!("\"{cid}\"")
}

/// The validator of a form whose bytes are fixed by the CID.
pub fn etag_of_form(cid: &Cid, form: &str) -> String {
    format!("\"{cid}.{form}\"")
}

/// A header value of text of ours; what a header cannot carry (never, for such text) makes it empty.
pub fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// `X-Ipfs-Path` and `X-Ipfs-Roots`.
pub fn set_path(headers: &mut HeaderMap, path: &ContentPath, roots: &[Cid]) {
    headers.insert(X_IPFS_PATH, value(&utf8_percent_encode(&path.to_string(), IN_HEADER).to_string()));
    let mut list = String::with_capacity(roots.len() * 60);
    for (index, root) in roots.iter().enumerate() {
        let _ = write!(list, "{}{root}", if index == 0 { "" } else { "," });
    }
    headers.insert(X_IPFS_ROOTS, value(&list));
}

/// `Content-Range` of a part (RFC 9110 §14.4); `range` is not empty.
pub fn content_range(range: &std::ops::Range<u64>, size: u64) -> HeaderValue {
    value(&format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)))
}

/// `Content-Disposition` (RFC 6266): an ASCII copy of the name, and the name itself where it differs.
pub fn disposition(attachment: bool, name: &str) -> HeaderValue {
    let kind = if attachment { "attachment" } else { "inline" };
    let ascii: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' })
        .map(|c| if matches!(c, '"' | '\\' | '/') { '_' } else { c })
        .collect();
    let mut text = format!("{kind}; filename=\"{ascii}\"");
    if ascii != name {
        let _ = write!(text, "; filename*=UTF-8''{}", utf8_percent_encode(name, IN_EXTENDED));
    }
    value(&text)
}

/// `Last-Modified` from a UnixFS modification time; times before 1970 have no HTTP form worth sending.
pub fn modified(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds < 253_402_300_800)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// `Server-Timing` (W3C): milliseconds to the microsecond, of the steps that were taken, and which tier was needed if any was.
pub fn server_timing<const N: usize>(steps: [(&str, Option<Duration>); N], cache: Option<CacheState>) -> HeaderValue {
    let mut text = String::with_capacity(128);
    for (name, time) in steps {
        let Some(time) = time else { continue };
        text.push_str(if text.is_empty() { "" } else { ", " });
        text.push_str(name);
        text.push_str(";dur=");
        push_millis(&mut text, time);
    }
    if let Some(cache) = cache {
        text.push_str(if text.is_empty() { "cache;desc=" } else { ", cache;desc=" });
        text.push_str(cache.as_str());
    }
    value(&text)
}

/// Milliseconds with three digits after the point. By hand: every answer has some, and `write!` takes ten times as long.
fn push_millis(text: &mut String, time: Duration) {
    let mut rest = (time.as_nanos() + 500) / 1000;
    // Digits from the last on: three after the point, at least one before it.
    let mut digits = [0u8; 40];
    let mut at = digits.len();
    let mut count = 0;
    while count < 4 || rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if count == 3 {
            at -= 1;
            digits[at] = b'.';
        }
    }
    text.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

/// What every answer of the gateway carries, errors and redirects too: content is for everybody, scripts included.
pub fn set_common(headers: &mut HeaderMap) {
    const COMMON: [(HeaderName, HeaderValue); 7] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, OPTIONS")),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Content-Type, Range, User-Agent, X-Requested-With"),
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(
                "Content-Length, Content-Range, ETag, Server-Timing, Tidegate-Retrieval, X-Chunked-Output, X-Ipfs-Path, \
                 X-Ipfs-Roots, X-Request-Id, X-Stream-Output",
            ),
        ),
        (HeaderName::from_static("timing-allow-origin"), HeaderValue::from_static("*")),
        // Pages that are isolated (COEP: require-corp) may use content too, as the WebGPU lab's does.
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
        (header::X_CONTENT_TYPE_OPTIONS, NOSNIFF),
    ];
    for (name, value) in COMMON {
        // An answer may know better: what takes PUT says so.
        headers.entry(name).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_downloads_cannot_break_the_header() {
        let text = |name: &str| disposition(true, name).to_str().unwrap().to_owned();
        assert_eq!(text("a b.txt"), "attachment; filename=\"a b.txt\"");
        assert_eq!(
            text("testтест.tar"),
            "attachment; filename=\"test____.tar\"; filename*=UTF-8''test%D1%82%D0%B5%D1%81%D1%82.tar"
        );
        let hostile = text("x\"; filename=\"evil.exe\r\nSet-Cookie: a=b");
        assert!(hostile.starts_with("attachment; filename=\"x_; filename=_evil.exe__Set-Cookie: a=b\"; filename*="));
        assert!(!hostile.contains(['\r', '\n']));
    }

    #[test]
    fn server_timing_is_in_milliseconds_and_leaves_out_what_did_not_happen() {
        let steps = [
            ("a", Some(Duration::from_nanos(1_499))),
            ("b", None),
            ("c", Some(Duration::from_micros(12_345_678))),
            ("d", Some(Duration::ZERO)),
        ];
        let text = server_timing(steps, Some(CacheState::Memory));
        assert_eq!(text, "a;dur=0.001, c;dur=12345.678, d;dur=0.000, cache;desc=memory");
        assert_eq!(server_timing(steps, None), "a;dur=0.001, c;dur=12345.678, d;dur=0.000");
        assert_eq!(server_timing([], Some(CacheState::Memory)), "cache;desc=memory");
    }

    #[test]
    fn times_that_http_cannot_say_are_not_said() {
        assert_eq!(modified(-1), None);
        assert_eq!(modified(i64::MAX), None);
        assert_eq!(modified(0), Some(SystemTime::UNIX_EPOCH));
    }
}
