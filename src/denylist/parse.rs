//! Lines to rules. Total: any file is read, or refused with the line.

use std::io::{BufRead, Read};

use multihash_codetable::Code;
use percent_encoding::percent_decode_str;
use thiserror::Error;

use super::Key;
use crate::ipld::cid::{self, Multihash};
use crate::ipld::ipns::IpnsName;

/// The largest header, in bytes (specification, "Header").
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// The longest line, in bytes.
pub const MAX_LINE_BYTES: usize = 2 << 20;

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum LineError {
    #[error("longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    #[error("the header is longer than {MAX_HEADER_BYTES} bytes")]
    HeaderTooLong,
    #[error("the header is not a map of keys and values")]
    Header,
    #[error("version {0:?} of the format is not known; there is version 1")]
    Version(String),
    #[error("not UTF-8")]
    Utf8,
}

#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("line {line}: {error}")]
    Line { line: u64, error: LineError },
}

/// One rule.
#[derive(Debug)]
pub(super) struct Item {
    /// What it is about; several where the line can be read in several ways.
    pub(super) scopes: Vec<Scope>,
    pub(super) allow: bool,
    pub(super) legal: bool,
}

#[derive(Debug)]
pub(super) enum Scope {
    Whole(Key),
    Path { root: Key, path: String, prefix: bool },
    Double { key: Key, code: Code },
    Legacy(Key),
}

/// Hands each rule to `add`; `None` for a line of a form that is not known here.
pub(super) fn read(mut file: impl BufRead, mut add: impl FnMut(Option<Item>)) -> Result<(), ReadError> {
    let mut header = Header::default();
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut number = 0;
    let mut size = 0;
    // Until the separator, or until it is clear that there is none, lines may be a header or rules.
    while let Some(line) = next_line(&mut file, &mut number)? {
        size += line.len() + 1;
        if line.trim_end() == "---" {
            header = Header::parse(&lines)?;
            lines.clear();
            break;
        }
        let is_rule = line.starts_with(['/', '!']);
        lines.push((number, line));
        if is_rule {
            break;
        }
        if size > MAX_HEADER_BYTES {
            return Err(ReadError::Line { line: number, error: LineError::HeaderTooLong });
        }
    }
    let mut rule = |line: &str| {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            add(item(line, &header));
        }
    };
    lines.iter().for_each(|(_, line)| rule(line));
    while let Some(line) = next_line(&mut file, &mut number)? {
        rule(&line);
    }
    Ok(())
}

fn next_line(file: &mut impl BufRead, number: &mut u64) -> Result<Option<String>, ReadError> {
    let mut bytes = Vec::new();
    let read = file.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut bytes)?;
    if read == 0 {
        return Ok(None);
    }
    *number += 1;
    let error = |error| ReadError::Line { line: *number, error };
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if read > MAX_LINE_BYTES {
        return Err(error(LineError::TooLong));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| error(LineError::Utf8))
}

/// What the header says that counts here: a map of YAML's simplest kind, with `hints` as a map within it.
#[derive(Debug, Default)]
struct Header {
    legal: bool,
}

impl Header {
    fn parse(lines: &[(u64, String)]) -> Result<Self, ReadError> {
        let mut header = Self::default();
        let mut in_hints = false;
        for (number, line) in lines {
            let error = |error| ReadError::Line { line: *number, error };
            let text = line.trim_end();
            if text.trim().is_empty() || text.trim_start().starts_with('#') {
                continue;
            }
            let is_nested = text.starts_with([' ', '\t', '-']);
            let Some((key, value)) = text.split_once(':') else {
                // A text over several lines goes on indented.
                if is_nested {
                    continue;
                }
                return Err(error(LineError::Header));
            };
            let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
            match (is_nested, key) {
                (false, "version") if value != "1" => return Err(error(LineError::Version(value.to_owned()))),
                (true, _) if in_hints => header.legal |= is_legal(key, value),
                (true, _) => {}
                (false, _) => in_hints = key == "hints",
            }
        }
        Ok(header)
    }
}

/// The hints by which a list says that the law is the reason. None is fixed by the specification; these are ours.
fn is_legal(key: &str, value: &str) -> bool {
    matches!(key, "status" | "http-status" | "http_status" | "gateway_status") && value == "451"
}

fn item(line: &str, header: &Header) -> Option<Item> {
    let (allow, line) =
        line.strip_prefix('!').or_else(|| line.strip_prefix('+')).map_or((false, line), |rest| (true, rest));
    let mut words = line.split_whitespace();
    let block = words.next()?;
    let mut legal = header.legal;
    for hint in words {
        if hint.starts_with('#') {
            break;
        }
        let (key, value) = hint.split_once('=').unwrap_or((hint, ""));
        legal |= is_legal(key, value);
    }
    let scopes = scopes(block)?;
    Some(Item { scopes, allow, legal })
}

fn scopes(block: &str) -> Option<Vec<Scope>> {
    if let Some(hash) = block.strip_prefix("//") {
        let scopes = double(hash);
        return (!scopes.is_empty()).then_some(scopes);
    }
    let (root, path) = if let Some(rest) = block.strip_prefix("/ipfs/") {
        let (root, path) = cut(rest);
        (Key::of_cid(&cid::parse(root).ok()?), path)
    } else if let Some(rest) = block.strip_prefix("/ipns/") {
        let (root, path) = cut(rest);
        if root.is_empty() {
            return None;
        }
        match root.parse::<IpnsName>() {
            Ok(key) => (Key::of_name(&key.to_string()), path),
            Err(_) => (Key::of_name(&root.trim_end_matches('.').to_ascii_lowercase()), path),
        }
    } else {
        return None;
    };
    Some(vec![match path {
        None => Scope::Whole(root),
        Some(path) => {
            let (path, prefix) =
                path.strip_suffix('*').map_or((path.trim_end_matches('/'), false), |path| (path, true));
            let path = percent_decode_str(path).decode_utf8_lossy().into_owned();
            if path.is_empty() && !prefix { Scope::Whole(root) } else { Scope::Path { root, path, prefix } }
        }
    }])
}

fn cut(rest: &str) -> (&str, Option<&str>) {
    rest.split_once('/').map_or((rest, None), |(root, path)| (root, Some(path)))
}

/// A line that can be both forms blocks in both (specification, "Double hash").
fn double(text: &str) -> Vec<Scope> {
    let mut scopes = Vec::new();
    if text.len() == 64
        && let Ok(digest) = hex::decode(text)
    {
        scopes.push(Scope::Legacy(Key::of_legacy(&digest)));
    }
    // A multihash is at most 128 bytes of digest: longer texts are none, and decoding them would take long.
    if text.len() <= 200
        && let Ok(bytes) = multibase::Base::Base58Btc.decode(text)
        && let Ok(hash) = Multihash::from_bytes(&bytes)
        && let Ok(code) = Code::try_from(hash.code())
    {
        scopes.push(Scope::Double { key: Key::of_double(&bytes), code });
    }
    scopes
}
