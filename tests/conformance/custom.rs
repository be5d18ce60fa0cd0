//! The six checks that the suite writes in Go, by hand from the names of their cases.

use super::cases::Case;

/// Whether `value` is what the suite's own function would accept.
pub fn header(case: &Case, header: &str, value: &str) -> Result<(), String> {
    match (&*case.test, header) {
        // "returns expected caching headers": public, immutable, at least 29030400 s.
        ("TestGatewayBlock" | "TestTrustlessRaw", "Cache-Control") => {
            let parts: Vec<&str> = value.split(',').map(str::trim).collect();
            let age = parts.iter().find_map(|part| part.strip_prefix("max-age=")?.parse::<u64>().ok());
            let met = parts.contains(&"public") && parts.contains(&"immutable") && age >= Some(29_030_400);
            met.then_some(()).ok_or_else(|| "public, immutable and max-age of at least 29030400 expected".to_owned())
        }
        // "DirIndex etag is based on ...": whatever stands for the look of our pages.
        ("TestGatewayCache", "Etag") => {
            let look = value.strip_prefix("\"DirIndex-").and_then(|rest| rest.split_once("_CID-"));
            let met = look.is_some_and(|(look, cid)| !look.is_empty() && cid.len() > 46 && cid.ends_with('"'));
            met.then_some(()).ok_or_else(|| "\"DirIndex-<look>_CID-<cid>\" expected".to_owned())
        }
        // A page that `_redirects` rewrote to: the validator of that page, which the case that follows sends back.
        (test, "Etag") if test.starts_with("TestRedirectsFileWithIfNoneMatchHeader") => {
            let met = value.len() > 2 && value.starts_with('"') && value.ends_with('"');
            met.then_some(()).ok_or_else(|| "a strong validator expected".to_owned())
        }
        (test, header) => panic!("case {} ({test}): no check is written for {header}", case.index),
    }
}
