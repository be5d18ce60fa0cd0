//! `filter-addrs` and `filter-protocols` (IPIP-484).

use libp2p::Multiaddr;

use crate::routing::Provider;

/// Words of one filter that are read.
const MAX_WORDS: usize = 64;
/// Whether records are wanted of which it is not known what they have.
const UNKNOWN: &str = "unknown";

/// What a client wants to hear of. Words are compared without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    addrs: Vec<String>,
    protocols: Vec<String>,
}

impl Filter {
    pub(super) fn read(query: Option<&str>) -> Self {
        let mut filter = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let words = match &*key {
                "filter-addrs" => &mut filter.addrs,
                "filter-protocols" => &mut filter.protocols,
                _ => continue,
            };
            let new = value.split(',').map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty());
            words.extend(new.take(MAX_WORDS.saturating_sub(words.len())));
        }
        filter
    }

    /// The provider with the addresses that are wanted; `None` when it is not wanted itself.
    pub(super) fn apply(&self, mut provider: Provider) -> Option<Provider> {
        if !self.wants_protocols(&provider.transports) {
            return None;
        }
        if self.addrs.is_empty() || (provider.addrs.is_empty() && self.addrs.iter().any(|word| word == UNKNOWN)) {
            return Some(provider);
        }
        provider.addrs.retain(|addr| self.wants_address(addr));
        (!provider.addrs.is_empty()).then_some(provider)
    }

    fn wants_protocols(&self, protocols: &[String]) -> bool {
        self.protocols.is_empty()
            || self.protocols.iter().any(|word| match word.as_str() {
                UNKNOWN => protocols.is_empty(),
                word => protocols.iter().any(|protocol| protocol.eq_ignore_ascii_case(word)),
            })
    }

    /// None of the protocols with `!`, and one of the others if there are any.
    fn wants_address(&self, addr: &Multiaddr) -> bool {
        let has = |word: &str| addr.protocol_stack().any(|protocol| protocol.eq_ignore_ascii_case(word));
        let mut wanted = self.addrs.iter().filter(|word| !word.starts_with('!') && *word != UNKNOWN).peekable();
        let unwanted = self.addrs.iter().filter_map(|word| word.strip_prefix('!')).any(has);
        !unwanted && (wanted.peek().is_none() || wanted.any(|word| has(word)))
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;
    use crate::routing::RouterKind;

    fn provider(addrs: &[&str], protocols: &[&str]) -> Provider {
        Provider {
            peer: PeerId::random(),
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
            transports: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
            source: RouterKind::Dht,
        }
    }

    fn left(query: &str, provider: &Provider) -> Option<Vec<String>> {
        let kept = Filter::read(Some(query)).apply(provider.clone())?;
        Some(kept.addrs.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_are_chosen_by_their_protocols() {
        let (tcp, quic, circuit) =
            ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/udp/4001/quic-v1", "/ip4/192.0.2.1/tcp/4001/p2p-circuit");
        let all = provider(&[tcp, quic, circuit], &[]);
        let some = |addrs: &[&str]| Some(addrs.iter().map(|addr| (*addr).to_owned()).collect::<Vec<_>>());
        assert_eq!(left("", &all), some(&[tcp, quic, circuit]));
        assert_eq!(left("filter-addrs=QUIC-v1", &all), some(&[quic]));
        assert_eq!(left("filter-addrs=!p2p-circuit", &all), some(&[tcp, quic]));
        assert_eq!(left("filter-addrs=tcp,!p2p-circuit", &all), some(&[tcp]));
        assert_eq!(left("filter-addrs=webtransport", &all), None);
        assert_eq!(left("filter-addrs=tcp", &provider(&[], &[])), None);
        assert_eq!(left("filter-addrs=tcp,unknown", &provider(&[], &[])), some(&[]));
        assert_eq!(left("filter-addrs=unknown", &all), some(&[tcp, quic, circuit]));
    }

    #[test]
    fn records_are_chosen_by_what_they_speak() {
        let http = provider(&["/dns4/a.example/tcp/443/https"], &["transport-ipfs-gateway-http"]);
        let silent = provider(&["/ip4/192.0.2.1/tcp/4001"], &[]);
        assert!(left("filter-protocols=Transport-IPFS-gateway-http", &http).is_some());
        assert!(left("filter-protocols=transport-bitswap", &http).is_none());
        assert!(left("filter-protocols=transport-bitswap", &silent).is_none());
        assert!(left("filter-protocols=transport-bitswap,unknown", &silent).is_some());
    }
}
