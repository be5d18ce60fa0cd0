//! Content paths: `/ipfs/CID/a/b` and `/ipns/NAME/a/b`, from URLs and from the command line.
//!
//! Sources: <https://specs.ipfs.tech/http-gateways/path-gateway/>, RFC 3986 sections 2.1 and 5.2.4.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

use super::cid::{self, Cid, CidError};

/// The longest path that is read, in bytes of its encoded form.
pub const MAX_PATH_BYTES: usize = 8 * 1024;
/// The most segments after the root.
pub const MAX_SEGMENTS: usize = 1024;

/// Everything that RFC 3986 does not allow in a path segment (`pchar`), and `%`.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A root and the names that lead from it. No segment is empty, `.`, `..`, or holds `/` or NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentPath {
    pub namespace: Namespace,
    pub segments: Vec<String>,
    pub trailing_slash: bool,
}

/// What a path starts from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Namespace {
    Ipfs(Cid),
    /// An IPNS key or a DNSLink name, as written; not empty.
    Ipns(String),
}

/// Why a text is not a content path.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PathError {
    #[error("path of {0} bytes is over the limit of {MAX_PATH_BYTES}")]
    TooLong(usize),
    #[error("path has more than {MAX_SEGMENTS} segments")]
    TooManySegments,
    #[error("path does not start with /ipfs/ or /ipns/")]
    Namespace,
    #[error("path has no root: write the CID or name after the namespace")]
    NoRoot,
    #[error("root is not a CID: {0}")]
    Cid(#[from] CidError),
    #[error("path is not UTF-8 once percent-decoded")]
    Utf8,
    #[error("percent sign without two hexadecimal digits")]
    Percent,
    #[error("path segment holds a NUL byte")]
    Nul,
    #[error("path segment holds an encoded slash")]
    EncodedSlash,
}

impl ContentPath {
    /// Reads the path of a URL: percent-encoded, without query or fragment.
    ///
    /// Empty segments and `.` are passed over and `..` takes back one segment, never beyond the root. An encoded slash
    /// is refused: no entry can have that name, and proxies differ in what they make of it.
    pub fn parse(url_path: &str) -> Result<Self, PathError> {
        Self::read(url_path, true)
    }

    /// Reads what people write on the command line: `CID/path`, `/ipfs/CID/path`, `/ipns/NAME/path`, `ipfs://CID/path`,
    /// `ipns://NAME/path`; nothing is percent-encoded, except in the two URL forms.
    pub fn parse_text(text: &str) -> Result<Self, PathError> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let namespace = ["ipfs", "ipns"].into_iter().find(|ns| scheme.eq_ignore_ascii_case(ns));
            return Self::parse(&format!("/{}/{rest}", namespace.ok_or(PathError::Namespace)?));
        }
        if text.starts_with('/') { Self::read(text, false) } else { Self::read(&format!("/ipfs/{text}"), false) }
    }

    /// The path of a CID alone.
    pub fn of(cid: Cid) -> Self {
        Self { namespace: Namespace::Ipfs(cid), segments: Vec::new(), trailing_slash: false }
    }

    fn read(path: &str, encoded: bool) -> Result<Self, PathError> {
        if path.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong(path.len()));
        }
        let mut parts = path.strip_prefix('/').ok_or(PathError::Namespace)?.split('/');
        let namespace = parts.next().unwrap_or_default();
        if !matches!(namespace, "ipfs" | "ipns") {
            return Err(PathError::Namespace);
        }
        let root = decode_segment(parts.next().unwrap_or_default(), encoded)?;
        if root.is_empty() {
            return Err(PathError::NoRoot);
        }
        let mut segments = Vec::new();
        let mut trailing_slash = false;
        let mut count = 0;
        for part in parts {
            let segment = decode_segment(part, encoded)?;
            trailing_slash = matches!(&*segment, "" | "." | "..");
            match &*segment {
                "" | "." => continue,
                ".." => {
                    segments.pop();
                }
                _ => segments.push(segment),
            }
            count += 1;
            if count > MAX_SEGMENTS {
                return Err(PathError::TooManySegments);
            }
        }
        let namespace = if namespace == "ipfs" {
            Namespace::Ipfs(cid::parse(&root)?)
        } else if matches!(&*root, "." | "..") {
            return Err(PathError::NoRoot);
        } else {
            Namespace::Ipns(root)
        };
        Ok(Self { namespace, segments, trailing_slash })
    }

    /// The root as it is printed: the CID as it was linked (CIDv0 stays so), or the name.
    pub fn root(&self) -> String {
        match &self.namespace {
            Namespace::Ipfs(cid) => cid.to_string(),
            Namespace::Ipns(name) => name.clone(),
        }
    }

    /// The CID of an `/ipfs/` path.
    pub fn cid(&self) -> Option<&Cid> {
        match &self.namespace {
            Namespace::Ipfs(cid) => Some(cid),
            Namespace::Ipns(_) => None,
        }
    }

    /// The canonical percent-encoded form, for redirects and links: upper-case digits, nothing encoded without need.
    pub fn to_url_path(&self) -> String {
        self.write(|segment| utf8_percent_encode(segment, SEGMENT).to_string())
    }

    fn write(&self, segment: impl Fn(&str) -> String) -> String {
        let (namespace, root) = match &self.namespace {
            Namespace::Ipfs(cid) => ("ipfs", cid.to_string()),
            Namespace::Ipns(name) => ("ipns", segment(name)),
        };
        let mut out = format!("/{namespace}/{root}");
        for name in &self.segments {
            out.push('/');
            out.push_str(&segment(name));
        }
        if self.trailing_slash {
            out.push('/');
        }
        out
    }
}

impl fmt::Display for ContentPath {
    /// For people: not percent-encoded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.write(str::to_owned))
    }
}

/// One segment, percent-encoded as [`ContentPath::to_url_path`] does it.
pub fn encode_segment(segment: &str) -> String {
    utf8_percent_encode(segment, SEGMENT).to_string()
}

fn decode_segment(part: &str, encoded: bool) -> Result<String, PathError> {
    let segment = if encoded {
        check_percents(part)?;
        percent_decode_str(part).decode_utf8().map_err(|_| PathError::Utf8)?.into_owned()
    } else {
        part.to_owned()
    };
    if segment.contains('\0') {
        return Err(PathError::Nul);
    }
    if segment.contains('/') {
        return Err(PathError::EncodedSlash);
    }
    Ok(segment)
}

fn check_percents(part: &str) -> Result<(), PathError> {
    let mut pieces = part.split('%');
    pieces.next();
    let hex = |piece: &str| piece.len() >= 2 && piece.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if pieces.all(hex) { Ok(()) } else { Err(PathError::Percent) }
}
