//! What others put into the DHT when we are a server of it: which entries are kept, and for how long. Pure.
//!
//! Source: kad-dht specification, "Entry validation" (GATEWAY.md §3.9). That a provider names itself alone is seen to by
//! rust-libp2p.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use libp2p::identity::PublicKey;
use libp2p::kad;

use crate::ipld::ipns::{IpnsName, MAX_RECORD, Record};
use crate::p2p::address::{MAX_ADDRESSES, Policy};

/// The longest key of a provider record, in bytes.
const MAX_PROVIDER_KEY: usize = 80;
/// How long what others put here is kept.
const LIFETIME: Duration = Duration::from_secs(48 * 3600);

/// A provider record as it is kept, and how many addresses were private; `None`: it is not kept.
pub(super) fn provider(
    mut record: kad::ProviderRecord,
    policy: &Policy,
    now: Instant,
) -> Option<(kad::ProviderRecord, usize)> {
    if record.key.as_ref().len() > MAX_PROVIDER_KEY {
        return None;
    }
    let given = record.addresses.len();
    // That we trust a peer says nothing to those who will be told its addresses.
    record.addresses.retain(|addr| policy.permits(addr, None));
    let private = given - record.addresses.len();
    record.addresses.truncate(MAX_ADDRESSES);
    record.expires = expiry(record.expires, now);
    Some((record, private))
}

/// A record as it is kept: only `/pk/` and `/ipns/`, valid, and no worse than `before`, which is here already.
pub(super) fn record(
    mut new: kad::Record,
    before: Option<&[u8]>,
    clock: SystemTime,
    now: Instant,
) -> Option<kad::Record> {
    let key = new.key.as_ref();
    let is_valid = if let Some(name) = IpnsName::from_routing_key(key) {
        let read = |value: &[u8]| Record::verify(&name, &Bytes::copy_from_slice(value), clock).ok();
        read(&new.value).is_some_and(|new| before.and_then(read).is_none_or(|before| new.rank(&before).is_ge()))
    } else if let Some(hash) = key.strip_prefix(b"/pk/") {
        new.value.len() <= MAX_RECORD
            && PublicKey::try_decode_protobuf(&new.value).is_ok_and(|key| key.to_peer_id().to_bytes() == hash)
    } else {
        false
    };
    new.expires = expiry(new.expires, now);
    is_valid.then_some(new)
}

/// As the sender wishes, and never later than [`LIFETIME`].
fn expiry(wished: Option<Instant>, now: Instant) -> Option<Instant> {
    let latest = now.checked_add(LIFETIME);
    wished.into_iter().chain(latest).min()
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;
    use libp2p::{Multiaddr, PeerId};

    use super::*;
    use crate::ipld::ContentPath;
    use crate::ipld::ipns::Draft;

    const HOUR: Duration = Duration::from_secs(3600);

    fn announced(key: usize, addrs: &[&str]) -> kad::ProviderRecord {
        let addresses: Vec<Multiaddr> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        kad::ProviderRecord::new(vec![7; key], PeerId::random(), addresses)
    }

    fn signed(key: &Keypair, sequence: u64) -> Vec<u8> {
        let value = ContentPath::parse_text("/ipfs/bafkqaaa").unwrap();
        let draft = Draft { value, sequence, eol: SystemTime::now() + HOUR, ttl: HOUR };
        Record::sign(key, &draft).unwrap().bytes().to_vec()
    }

    fn kept(key: &[u8], value: &[u8], before: Option<&[u8]>) -> bool {
        let new = kad::Record::new(key.to_vec(), value.to_vec());
        record(new, before, SystemTime::now(), Instant::now()).is_some()
    }

    #[test]
    fn a_provider_record_with_a_key_over_80_bytes_is_not_kept() {
        let policy = Policy::new(&[]);
        assert!(provider(announced(80, &[]), &policy, Instant::now()).is_some());
        assert!(provider(announced(81, &[]), &policy, Instant::now()).is_none());
    }

    #[test]
    fn a_providers_private_addresses_are_not_handed_on() {
        let public = ["/ip4/203.0.114.9/tcp/4001", "/dns4/a.example/tcp/443/wss"];
        let private = [
            "/ip4/10.0.0.1/tcp/4001",
            "/ip4/127.0.0.1/udp/4001/quic-v1",
            "/ip4/192.168.1.4/tcp/1",
            "/ip6/::1/tcp/4001",
            "/ip6/fe80::1/tcp/4001",
        ];
        let record = announced(34, &[&public[..], &private[..]].concat());
        let peer = record.provider;
        let policy = Policy::new(&[]);
        // Ours to dial, nobody else's.
        policy.trust(peer);
        let (left, dropped) = provider(record.clone(), &policy, Instant::now()).unwrap();
        assert_eq!(
            (left.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), dropped),
            (public.map(String::from).to_vec(), 5)
        );
        let (left, dropped) = provider(record, &Policy::new(&["10.0.0.0/8".parse().unwrap()]), Instant::now()).unwrap();
        assert_eq!((left.addresses.len(), dropped), (3, 4));
    }

    #[test]
    fn no_provider_brings_addresses_without_end() {
        let addrs: Vec<String> = (1..=100).map(|port| format!("/ip4/203.0.114.9/tcp/{port}")).collect();
        let addrs: Vec<&str> = addrs.iter().map(String::as_str).collect();
        let (left, dropped) = provider(announced(34, &addrs), &Policy::new(&[]), Instant::now()).unwrap();
        assert_eq!((left.addresses.len(), dropped), (MAX_ADDRESSES, 0));
    }

    #[test]
    fn what_others_put_here_ends_after_48_hours_or_when_they_wish() {
        let (now, name) = (Instant::now(), Keypair::generate_ed25519());
        let key = IpnsName::of_key(&name.public()).routing_key();
        for (wished, expected) in [(None, 48), (Some(1), 1), (Some(48), 48), (Some(9_999), 48)] {
            let (wished, expected) = (wished.map(|hours: u32| now + hours * HOUR), Some(now + expected * HOUR));
            let put = kad::Record { expires: wished, ..kad::Record::new(key.clone(), signed(&name, 1)) };
            assert_eq!(record(put, None, SystemTime::now(), now).unwrap().expires, expected);
            let announced = kad::ProviderRecord { expires: wished, ..announced(34, &[]) };
            assert_eq!(provider(announced, &Policy::new(&[]), now).unwrap().0.expires, expected);
        }
    }

    #[test]
    fn a_public_key_is_kept_under_its_own_peer_id_alone() {
        let (ours, other) = (Keypair::generate_ed25519().public(), Keypair::generate_ed25519().public());
        let under = |key: &PublicKey| [b"/pk/", &key.to_peer_id().to_bytes()[..]].concat();
        assert!(kept(&under(&ours), &ours.encode_protobuf(), None));
        assert!(!kept(&under(&other), &ours.encode_protobuf(), None));
        assert!(!kept(&under(&ours), b"no key", None));
        assert!(!kept(b"/pk/", &ours.encode_protobuf(), None));
    }

    #[test]
    fn a_name_is_kept_valid_and_never_goes_back() {
        let (ours, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let key = IpnsName::of_key(&ours.public()).routing_key();
        let (first, second) = (signed(&ours, 1), signed(&ours, 2));
        assert!(kept(&key, &first, None) && kept(&key, &second, Some(&first)) && kept(&key, &first, Some(&first)));
        assert!(!kept(&key, &first, Some(&second)));
        assert!(!kept(&key, &signed(&other, 3), None));
        // What is here and is not valid any more does not keep a valid one out.
        assert!(kept(&key, &first, Some(b"garbage")));
    }

    #[test]
    fn nothing_but_keys_and_names_is_kept() {
        let key = Keypair::generate_ed25519().public();
        for prefix in ["/provider/", "/ip/", "", "/PK/"] {
            let under = [prefix.as_bytes(), &key.to_peer_id().to_bytes()].concat();
            assert!(!kept(&under, &key.encode_protobuf(), None), "{prefix}");
        }
    }
}
