//! What stands after `/ipns/`: a key or a DNS name.

use std::fmt;
use std::str::FromStr;

use super::NameError;
use crate::ipld::ipns::IpnsName;

/// A name that can be looked up. Prints canonically: keys in base36, DNS names in lower case without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    Key(IpnsName),
    /// Punycode where needed; at most 253 characters.
    Dns(String),
}

impl Name {
    pub fn key(&self) -> Option<&IpnsName> {
        match self {
            Self::Key(key) => Some(key),
            Self::Dns(_) => None,
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Syntax { name: text.chars().take(256).collect() };
        if let Ok(key) = text.parse() {
            return Ok(Self::Key(key));
        }
        // The parser of URL hosts: IDNA to Punycode, and no address of any notation.
        let Ok(url::Host::Domain(host)) = url::Host::parse(text) else { return Err(wrong()) };
        let host = host.strip_suffix('.').unwrap_or(&host).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if host.len() > 253 || !host.split('.').all(label) {
            return Err(wrong());
        }
        Ok(Self::Dns(host))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Dns(host) => f.write_str(host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_keys_or_hosts_in_their_canonical_form() {
        let name = |text: &str| text.parse::<Name>().map(|name| name.to_string()).ok();
        assert_eq!(name("Docs.IPFS.tech."), Some("docs.ipfs.tech".into()));
        assert_eq!(name("bücher.example"), Some("xn--bcher-kva.example".into()));
        assert_eq!(name("_x.example"), Some("_x.example".into()));
        let key = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";
        assert_eq!(name("12D3KooWRBy97UB99e3J6hiPesre1MZeuNQvfan4gBziswrRJsNK").as_deref(), Some(key));
        for wrong in ["", ".", "a..b", "127.0.0.1", "0x7f.1", "[::1]", "a b", "a/b", &"a".repeat(64), &"a.".repeat(200)]
        {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
    }
}
