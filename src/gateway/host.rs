//! What the `Host` of a request says: a path gateway, a gateway that sends each root to an origin of its own, that
//! origin itself, or a name that may have a DNSLink. Pure: no lookup, no request.
//!
//! Sources: <https://specs.ipfs.tech/http-gateways/subdomain-gateway/>,
//! <https://specs.ipfs.tech/http-gateways/dnslink-gateway/>, RFC 1035 §2.3.4 (labels of 63 octets, names of 253),
//! RFC 6761 §6.3 (`localhost`).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use multibase::Base;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ipld::Cid;
use crate::ipld::cid::{self, CidError};
use crate::ipld::ipns::IpnsName;
use crate::ipld::path::{ContentPath, PathError};
use crate::names::Name;

/// The longest label of a host name.
const MAX_LABEL: usize = 63;
/// The longest host name.
const MAX_NAME: usize = 253;
/// What an address cannot hold as it is.
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`');

/// The hosts that serve content by subdomain (`--subdomain-host`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Hosts {
    known: Vec<Known>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    /// Lower case, without the `*.` of a wildcard.
    name: String,
    /// `None`: any port.
    port: Option<u16>,
    /// `*.name`: any one label before the name.
    wildcard: bool,
}

#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{0:?} is not a host name: write example.com, example.com:8080 or *.example.com")]
pub struct HostsError(String);

/// `/ipfs/` or `/ipns/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Ipfs,
    Ipns,
}

/// What an origin of its own serves at `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    Ipfs(Cid),
    /// A key as base36 `libp2p-key`, or a DNSLink name.
    Ipns(String),
}

/// What the front of the gateway knows of a request.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Host and port as the client wrote them.
    pub authority: &'a str,
    /// The client speaks HTTPS, to us or to a proxy that we trust.
    pub https: bool,
    /// The path of the URL, percent-encoded.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// Where a request belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The path says all: `/ipfs/...`, `/ipns/...`, or a page of ours.
    Path,
    /// The content of `name`, if that has a DNSLink; else as [`Route::Path`].
    Lookup { name: String },
    /// An origin for one root. `parent` is the gateway's own host, with the port that the client uses.
    Subdomain { root: Root, parent: String },
    /// 301 to an absolute address.
    Redirect { location: String },
}

/// Why no content path can be made of a request: HTTP 400.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum HostError {
    #[error("the Host header {0:?} is not a host name")]
    Syntax(String),
    #[error(
        "{label:?} in the host name is not a CID: {error} (host names have no case, so only base32 and base36 survive)"
    )]
    NotACid { label: String, error: CidError },
    #[error(
        "CID incompatible with DNS label length limit of 63: {cid} is longer in base32 and in base36; ask for it as \
         http://127.0.0.1/ipfs/{cid} or with another hash function"
    )]
    LabelTooLong { cid: Cid },
    #[error("{0:?} is neither an IPNS key nor a DNS name")]
    NotAName(String),
    #[error("invalid path {path:?}: {error}")]
    Path { path: String, error: PathError },
}

impl Hosts {
    pub fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, HostsError> {
        let known = list.iter().map(|text| Known::parse(text.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { known })
    }

    /// Whether `authority` is one of these hosts, an origin under one of them, or a loopback address: where a proxy
    /// tunnel may lead, which always ends in this gateway.
    pub fn serves(&self, authority: &str) -> bool {
        let Some(authority) = Authority::parse(authority) else { return false };
        match authority.ip() {
            Some(ip) => ip.to_canonical().is_loopback(),
            None => self.is_known(&authority.name, authority.port) || self.subdomain(&authority).is_some(),
        }
    }

    fn is_known(&self, name: &str, port: Option<u16>) -> bool {
        self.known.iter().any(|known| known.matches(name, port))
    }

    /// `{id}.{ipfs|ipns}.{known}`: the id, the namespace and the known host. The shortest known host counts, so that an
    /// id that holds dots is read whole.
    fn subdomain<'a>(&self, authority: &Authority<'a>) -> Option<(&'a str, Space, String)> {
        let raw = authority.raw_name;
        let dots: Vec<usize> = raw.match_indices('.').map(|(at, _)| at).collect();
        for (index, at) in dots.iter().enumerate().rev() {
            let parent = &authority.name[at + 1..];
            if index == 0 || !self.is_known(parent, authority.port) {
                continue;
            }
            let before = dots[index - 1];
            let space = match &authority.name[before + 1..*at] {
                "ipfs" => Space::Ipfs,
                "ipns" => Space::Ipns,
                _ => continue,
            };
            return (before > 0).then(|| (&raw[..before], space, authority.with_port(parent)));
        }
        None
    }
}

impl Known {
    fn parse(text: &str) -> Result<Self, HostsError> {
        let error = || HostsError(text.to_owned());
        let (wildcard, rest) = text.trim().strip_prefix("*.").map_or((false, text.trim()), |rest| (true, rest));
        let authority = Authority::parse(rest).filter(|a| a.ip().is_none()).ok_or_else(error)?;
        let fine = |label: &str| {
            !label.is_empty()
                && label.len() <= MAX_LABEL
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if !authority.name.split('.').all(fine) {
            return Err(error());
        }
        Ok(Self { name: authority.name, port: authority.port, wildcard })
    }

    fn matches(&self, name: &str, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        if !self.wildcard {
            return self.name == name;
        }
        name.strip_suffix(&self.name)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|label| !label.is_empty() && !label.contains('.'))
    }
}

impl TryFrom<Vec<String>> for Hosts {
    type Error = HostsError;

    fn try_from(list: Vec<String>) -> Result<Self, HostsError> {
        Self::parse(&list)
    }
}

impl From<Hosts> for Vec<String> {
    fn from(hosts: Hosts) -> Self {
        hosts.known.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.wildcard { "*." } else { "" })?;
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Space {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipfs => "ipfs",
            Self::Ipns => "ipns",
        }
    }
}

impl Root {
    pub fn space(&self) -> Space {
        match self {
            Self::Ipfs(_) => Space::Ipfs,
            Self::Ipns(_) => Space::Ipns,
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipfs(cid) => cid.fmt(f),
            Self::Ipns(name) => f.write_str(name),
        }
    }
}

/// Decides where a request belongs.
///
/// A path that names a root on a known host is sent to the root's own origin; of that path only the root is checked
/// (subdomain-gateway specification, "Redirect from path"). What is asked of an unknown host is answered by its DNSLink
/// or, without one, by path.
pub fn route(hosts: &Hosts, seen: Seen<'_>) -> Result<Route, HostError> {
    let authority = Authority::parse(seen.authority).ok_or_else(|| HostError::Syntax(clip(seen.authority)))?;
    if authority.ip().is_some() || authority.name.is_empty() {
        return Ok(Route::Path);
    }
    if hosts.is_known(&authority.name, authority.port) {
        return to_subdomain(&authority, seen);
    }
    if let Some((id, space, parent)) = hosts.subdomain(&authority) {
        return subdomain(id, space, parent, seen);
    }
    let local = |suffix: &str| authority.name == suffix || authority.name.ends_with(&format!(".{suffix}"));
    if !authority.name.contains('.') || local("localhost") || local("onion") {
        return Ok(Route::Path);
    }
    Ok(Route::Lookup { name: authority.name })
}

/// A DNSLink name as one label: `-` becomes `--`, `.` becomes `-`, so that one wildcard certificate covers it.
pub fn inline(name: &str) -> String {
    name.replace('-', "--").replace('.', "-")
}

/// The name that [`inline`] was made of.
pub fn uninline(label: &str) -> String {
    // No label of a host name can hold the stand-in.
    label.replace("--", "\0").replace('-', ".").replace('\0', "-")
}

/// A path request on the gateway's own host.
fn to_subdomain(authority: &Authority<'_>, seen: Seen<'_>) -> Result<Route, HostError> {
    let (space, rest) = match (seen.path.strip_prefix("/ipfs/"), seen.path.strip_prefix("/ipns/")) {
        (Some(rest), _) => (Space::Ipfs, rest),
        (_, Some(rest)) => (Space::Ipns, rest),
        _ => return Ok(Route::Path),
    };
    if rest.is_empty() {
        return Ok(Route::Path); // ?uri=
    }
    let (root, below) = rest.split_once('/').unwrap_or((rest, ""));
    let invalid =
        |error| HostError::Path { path: percent_decode_str(seen.path).decode_utf8_lossy().into_owned(), error };
    let root = percent_decode_str(root).decode_utf8().map_err(|_| invalid(PathError::Utf8))?;
    let label = match space {
        Space::Ipfs => cid_label(&cid::parse(&root).map_err(|error| invalid(error.into()))?)?,
        Space::Ipns if root.is_empty() => return Err(invalid(PathError::NoRoot)),
        Space::Ipns => name_label(&root)?,
    };
    let parent = authority.with_port(&authority.name);
    Ok(Route::Redirect { location: location(&label, space, &parent, seen, &canonical(seen.path, below)) })
}

/// A request on the origin of one root.
fn subdomain(id: &str, space: Space, parent: String, seen: Seen<'_>) -> Result<Route, HostError> {
    let redirect = |label: &str| {
        let path = seen.path.strip_prefix('/').unwrap_or(seen.path);
        Ok(Route::Redirect { location: location(label, space, &parent, seen, &escaped(path)) })
    };
    let label = id.to_ascii_lowercase();
    match space {
        Space::Ipfs => {
            let cid = cid::parse(id).or_else(|error| cid::parse(&label).map_err(|_| error));
            let cid = cid.map_err(|error| HostError::NotACid { label: clip(id), error })?;
            match cid_label(&cid)? {
                canonical if canonical == label => Ok(Route::Subdomain { root: Root::Ipfs(cid), parent }),
                canonical => redirect(&canonical),
            }
        }
        Space::Ipns => match id.parse::<IpnsName>().or_else(|_| label.parse()).ok().filter(|_| !id.contains('.')) {
            Some(key) => match key_label(&key)? {
                canonical if canonical == label => Ok(Route::Subdomain { root: Root::Ipns(label), parent }),
                canonical => redirect(&canonical),
            },
            None if label.contains('.') => Ok(Route::Subdomain { root: Root::Ipns(label), parent }),
            None => Ok(Route::Subdomain { root: Root::Ipns(uninline(&label)), parent }),
        },
    }
}

/// A CID as a label: base32, or base36 where that alone fits.
fn cid_label(cid: &Cid) -> Result<String, HostError> {
    let v1 = Cid::new_v1(cid.codec(), *cid.hash());
    let base32 = v1.to_string();
    if base32.len() <= MAX_LABEL {
        return Ok(base32);
    }
    let base36 = multibase::encode(Base::Base36Lower, v1.to_bytes());
    if base36.len() <= MAX_LABEL { Ok(base36) } else { Err(HostError::LabelTooLong { cid: v1 }) }
}

fn key_label(key: &IpnsName) -> Result<String, HostError> {
    let label = key.to_string();
    if label.len() <= MAX_LABEL { Ok(label) } else { Err(HostError::LabelTooLong { cid: key.cid() }) }
}

fn name_label(text: &str) -> Result<String, HostError> {
    match text.parse::<Name>() {
        Ok(Name::Key(key)) => key_label(&key),
        Ok(Name::Dns(name)) => {
            // A name that is too long for one label stays as it is: several labels, which no wildcard certificate covers.
            let inlined = inline(&name);
            Ok(if inlined.len() <= MAX_LABEL { inlined } else { name })
        }
        Err(_) => Err(HostError::NotAName(clip(text))),
    }
}

fn location(label: &str, space: Space, parent: &str, seen: Seen<'_>, below: &str) -> String {
    let scheme = if seen.https { "https" } else { "http" };
    let query = seen.query.map(|query| format!("?{}", escaped(query))).unwrap_or_default();
    format!("{scheme}://{label}.{}.{parent}/{below}{query}", space.as_str())
}

/// What follows the root, in the canonical escaping; as it is where it cannot be read, because only the root counts here.
fn canonical(path: &str, below: &str) -> String {
    match ContentPath::parse(path) {
        Ok(parsed) => {
            let whole = parsed.to_url_path();
            whole.splitn(4, '/').nth(3).unwrap_or_default().to_owned()
        }
        Err(_) => escaped(below),
    }
}

/// Without what a header cannot carry.
fn escaped(text: &str) -> String {
    utf8_percent_encode(text, UNSAFE).to_string()
}

/// For error texts.
fn clip(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

struct Authority<'a> {
    /// As it was written, without the dot at its end.
    raw_name: &'a str,
    /// Lower case; an IPv6 address without brackets.
    name: String,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// `name`, `name:port`, `[v6]`, `[v6]:port`.
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_NAME + 8 + 2 * MAX_LABEL || !text.is_ascii() {
            return None;
        }
        let (raw_name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                (address, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?)
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
        let raw_name = raw_name.strip_suffix('.').unwrap_or(raw_name);
        let odd = |c: char| c.is_ascii_control() || " \"#%/<>?@[\\]^`{|}".contains(c) || c == '\u{7f}';
        if raw_name.contains(odd) || (raw_name.contains(':') && !text.starts_with('[')) {
            return None;
        }
        Some(Self { raw_name, name: raw_name.to_ascii_lowercase(), port })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.name.parse().ok()
    }

    fn with_port(&self, name: &str) -> String {
        self.port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
