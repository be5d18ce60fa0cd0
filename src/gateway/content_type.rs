//! What kind of content a file is: by its name, then by its first bytes.

use std::path::Path;

/// Bytes of a file that are looked at. Tar's signature lies at 257, text is told apart well before the end.
pub const SNIFF_BYTES: usize = 3072;

const OCTETS: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

/// The type that a name stands for.
pub fn by_name(name: &str) -> Option<String> {
    // Names that mime_guess reads as something else than the web does.
    let extension = Path::new(name).extension()?.to_str()?.to_ascii_lowercase();
    let essence = match &*extension {
        "js" | "mjs" => "text/javascript",
        "ts" => "text/plain", // not MPEG transport streams: on IPFS these are programs
        "wasm" => "application/wasm",
        "md" | "markdown" => "text/markdown",
        _ => mime_guess::from_ext(&extension).first_raw()?,
    };
    Some(with_charset(essence))
}

/// The type that the first bytes of a file show. `whole`: there are no more.
pub fn by_bytes(start: &[u8], whole: bool) -> String {
    if start.is_empty() {
        return TEXT.to_owned();
    }
    if let Some(kind) = infer::get(start) {
        let essence = kind.mime_type();
        // infer takes a shebang for a program and some text for old mail formats: these are text to a browser.
        if !essence.starts_with("text/x-shellscript") {
            return with_charset(essence);
        }
    }
    let Some(text) = as_text(start, whole) else { return OCTETS.to_owned() };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let begins = |prefix: &str| text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<body") {
        "text/html; charset=utf-8".to_owned()
    } else if begins("<svg") || (begins("<?xml") && text.contains("<svg")) {
        "image/svg+xml".to_owned()
    } else if begins("<?xml") {
        "text/xml; charset=utf-8".to_owned()
    } else if is_json(text, whole) {
        "application/json".to_owned()
    } else {
        TEXT.to_owned()
    }
}

/// Types that a browser runs: they get a sandbox where the operator asked for it.
pub fn is_active(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    matches!(
        essence,
        "text/html" | "application/xhtml+xml" | "image/svg+xml" | "text/xml" | "application/xml" | "application/pdf"
    )
}

fn with_charset(essence: &str) -> String {
    if essence.starts_with("text/") { format!("{essence}; charset=utf-8") } else { essence.to_owned() }
}

/// Text in UTF-8 without control characters that text does not have; the last character may be cut off.
fn as_text(start: &[u8], whole: bool) -> Option<&str> {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if !whole && error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let binary = |c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c' | '\x1b' | '\x08');
    (!text.contains(binary)).then_some(text)
}

/// JSON objects and arrays: when all of it is here they must parse, else their beginning must.
fn is_json(text: &str, whole: bool) -> bool {
    if !text.starts_with(['{', '[']) {
        return false;
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => true,
        Err(error) => !whole && error.is_eof(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_types_with_a_charset_for_text() {
        for (name, expected) in [
            ("index.html", Some("text/html; charset=utf-8")),
            ("a.TXT", Some("text/plain; charset=utf-8")),
            ("app.js", Some("text/javascript; charset=utf-8")),
            ("style.css", Some("text/css; charset=utf-8")),
            ("data.json", Some("application/json")),
            ("clip.mp4", Some("video/mp4")),
            ("photo.jpg", Some("image/jpeg")),
            ("noext", None),
            (".hidden", None),
            ("a.unknownext", None),
        ] {
            assert_eq!(by_name(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn bytes_give_types() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        for (bytes, whole, expected) in [
            (&b""[..], true, TEXT),
            (b"hello", true, TEXT),
            (b"#!/bin/sh\necho", true, TEXT),
            (png, false, "image/png"),
            (b"\0\x01\x02", true, OCTETS),
            (b"\xff\xfe\xfd", true, OCTETS),
            ("ź".as_bytes().split_at(1).0, false, TEXT),
            ("ź".as_bytes().split_at(1).0, true, OCTETS),
            (b" <!DOCTYPE html><p>", true, "text/html; charset=utf-8"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", true, "image/svg+xml"),
            (br#"{"a": [1, 2]}"#, true, "application/json"),
            (br#"{"a": [1, 2"#, true, TEXT),
            (br#"{"a": [1, 2"#, false, "application/json"),
            (b"[link] of text", false, TEXT),
        ] {
            assert_eq!(by_bytes(bytes, whole), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
