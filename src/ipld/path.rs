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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const CID: &str = "bafkqaaa";

    fn url(text: &str) -> Result<ContentPath, PathError> {
        ContentPath::parse(&text.replace("CID", CID))
    }

    #[rstest]
    #[case("/ipfs/CID", "/ipfs/CID")]
    #[case("/ipfs/CID/", "/ipfs/CID/")]
    #[case("/ipfs/CID/a/b", "/ipfs/CID/a/b")]
    #[case("/ipfs/CID//a///b//", "/ipfs/CID/a/b/")]
    #[case("/ipfs/CID/./a/./b/.", "/ipfs/CID/a/b/")]
    #[case("/ipfs/CID/a/../b", "/ipfs/CID/b")]
    #[case("/ipfs/CID/a/b/..", "/ipfs/CID/a/")]
    #[case("/ipfs/CID/../../../etc/passwd", "/ipfs/CID/etc/passwd")]
    #[case("/ipfs/CID/%2e%2E/x", "/ipfs/CID/x")]
    #[case("/ipfs/CID/%61%c3%bc%20%3f", "/ipfs/CID/a%C3%BC%20%3F")]
    #[case("/ipfs/CID/ü", "/ipfs/CID/%C3%BC")]
    #[case("/ipfs/CID/a+b&c=d@e:f;g,h'(!)*~$", "/ipfs/CID/a+b&c=d@e:f;g,h'(!)*~$")]
    #[case("/ipfs/CID/%2541", "/ipfs/CID/%2541")]
    #[case("/ipns/example.com/a", "/ipns/example.com/a")]
    #[case("/ipns/k51xyz/", "/ipns/k51xyz/")]
    fn url_paths_are_read_and_written_canonically(#[case] text: &str, #[case] canonical: &str) {
        assert_eq!(url(text).unwrap().to_url_path(), canonical.replace("CID", CID));
    }

    #[rstest]
    #[case("", PathError::Namespace)]
    #[case("/", PathError::Namespace)]
    #[case("ipfs/CID", PathError::Namespace)]
    #[case("/IPFS/CID", PathError::Namespace)]
    #[case("/../ipfs/CID", PathError::Namespace)]
    #[case("/ipfs", PathError::NoRoot)]
    #[case("/ipfs/", PathError::NoRoot)]
    #[case("/ipns//a", PathError::NoRoot)]
    #[case("/ipns/../a", PathError::NoRoot)]
    #[case("/ipfs/CID/a%2Fb", PathError::EncodedSlash)]
    #[case("/ipfs/CID/..%2f..%2fetc", PathError::EncodedSlash)]
    #[case("/ipfs/CID/a%00b", PathError::Nul)]
    #[case("/ipfs/CID/%ff", PathError::Utf8)]
    #[case("/ipfs/CID/%c0%af", PathError::Utf8)] // overlong slash
    #[case("/ipfs/CID/%", PathError::Percent)]
    #[case("/ipfs/CID/%4", PathError::Percent)]
    #[case("/ipfs/CID/%zz", PathError::Percent)]
    #[case("/ipfs/CID/%éa", PathError::Percent)]
    fn url_paths_that_mean_nothing_are_refused(#[case] text: &str, #[case] error: PathError) {
        assert_eq!(url(text), Err(error));
    }

    #[test]
    fn a_root_that_is_not_a_cid_is_refused() {
        for root in ["x", ".", "..", "Qm", "bafkqaa%20", "%00"] {
            assert!(url(&format!("/ipfs/{root}/a")).is_err(), "{root}");
        }
        let long = super::super::Multihash::wrap(0, &[7; 128]).unwrap();
        let fits = Cid::new_v1(0x55, long).to_string();
        assert!(url(&format!("/ipfs/{fits}")).is_ok());
        // Identity digest of 129 bytes: 01 55 00 81 01 ...
        let over = multibase::encode(multibase::Base::Base32Lower, [&[1, 0x55, 0, 0x81, 1][..], &[7; 129]].concat());
        assert!(matches!(url(&format!("/ipfs/{over}")), Err(PathError::Cid(_))));
    }

    #[test]
    fn the_limits_are_8_kib_and_1024_segments() {
        let long = format!("/ipfs/{CID}/{}", "a".repeat(MAX_PATH_BYTES - CID.len() - 7));
        assert!(url(&long).is_ok());
        assert_eq!(url(&format!("{long}a")), Err(PathError::TooLong(MAX_PATH_BYTES + 1)));
        let deep = format!("/ipfs/{CID}{}", "/a".repeat(MAX_SEGMENTS));
        assert_eq!(url(&deep).unwrap().segments.len(), MAX_SEGMENTS);
        assert_eq!(url(&format!("{deep}/a")), Err(PathError::TooManySegments));
        assert_eq!(url(&format!("/ipfs/{CID}{}", "/a/..".repeat(MAX_SEGMENTS))), Err(PathError::TooManySegments));
    }

    #[rstest]
    #[case("CID", "/ipfs/CID")]
    #[case("CID/a b/100%", "/ipfs/CID/a%20b/100%25")]
    #[case("/ipfs/CID/a%20b", "/ipfs/CID/a%2520b")]
    #[case("/ipns/example.com", "/ipns/example.com")]
    #[case("ipfs://CID/a%20b", "/ipfs/CID/a%20b")]
    #[case("IPNS://example.com/x/", "/ipns/example.com/x/")]
    fn what_people_type_is_read(#[case] text: &str, #[case] canonical: &str) {
        let path = ContentPath::parse_text(&text.replace("CID", CID)).unwrap();
        assert_eq!(path.to_url_path(), canonical.replace("CID", CID));
    }

    #[test]
    fn what_people_type_wrong_is_refused() {
        assert_eq!(ContentPath::parse_text("https://example.com/x"), Err(PathError::Namespace));
        assert_eq!(ContentPath::parse_text("/etc/passwd"), Err(PathError::Namespace));
        assert!(matches!(ContentPath::parse_text("file.txt"), Err(PathError::Cid(_))));
    }

    #[test]
    fn a_cid_is_printed_as_it_was_linked() {
        let text = "/ipfs/QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH/a";
        assert_eq!(ContentPath::parse(text).unwrap().to_url_path(), text);
    }

    proptest! {
        #[test]
        fn any_segments_round_trip(segments in prop::collection::vec("[^/\0]{1,8}", 0..5), trailing_slash: bool) {
            prop_assume!(segments.iter().all(|segment| segment != "." && segment != ".."));
            let cid = cid::parse(CID).unwrap();
            let path = ContentPath { namespace: Namespace::Ipfs(cid), segments, trailing_slash };
            prop_assert_eq!(ContentPath::parse(&path.to_url_path()).unwrap(), path.clone());
            prop_assert_eq!(ContentPath::parse_text(&path.to_string()).unwrap(), path);
        }

        #[test]
        fn what_is_read_holds_no_segment_that_escapes(text in "(/ipfs/bafkqaaa|/ipns/a|)[/.%a-f0-9\\PC]{0,60}") {
            for path in [ContentPath::parse(&text), ContentPath::parse_text(&text)].into_iter().flatten() {
                let whole = |s: &String| !matches!(&**s, "" | "." | "..") && !s.contains(['/', '\0']);
                prop_assert!(path.segments.iter().all(whole));
                prop_assert_eq!(ContentPath::parse(&path.to_url_path()).unwrap(), path);
            }
        }
    }
}
