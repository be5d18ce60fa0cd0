//! Each kind of bad peer, asked over a real connection on loopback.
#![expect(clippy::disallowed_methods, reason = "the bench has no supervisor")]

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, SwarmBuilder, noise, tcp, yamux};
use prost::Message as _;
use sha2::{Digest, Sha256};

use super::server::{BITSWAP, length};
use super::wire::{Entry, Message, Wantlist};
use super::{Adversary, Kind, is_bad};
use crate::net::star::LinkSpec;

/// More is silence.
const PATIENCE: Duration = Duration::from_millis(700);

/// A CIDv1 of a raw block, the block, and whether a corrupt peer damages it.
fn block(wanted_bad: bool) -> (Vec<u8>, Vec<u8>) {
    (0u32..)
        .map(|n| {
            let data = [&n.to_le_bytes()[..], &[7; 200_000]].concat();
            ([&[1, 0x55, 0x12, 32][..], &Sha256::digest(&data)].concat(), data)
        })
        .find(|(cid, _)| is_bad(cid) == wanted_bad)
        .unwrap()
}

fn car(blocks: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![1, 0xa0];
    for (cid, data) in blocks {
        let mut length = cid.len() + data.len();
        while length > 0x7f {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(cid);
        bytes.extend(data);
    }
    bytes
}

fn want(cid: &[u8], block: bool) -> Entry {
    Entry { cid: cid.to_vec(), priority: 1, cancel: false, want_type: i32::from(!block), send_dont_have: true }
}

/// All that `adversary` answers to `entries` until it is silent, and the bytes of a message it did not end.
async fn ask(adversary: &Adversary, address: &str, entries: Vec<Entry>) -> (Vec<Message>, usize) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_quic()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .build();
    let mut control = swarm.behaviour().new_control();
    let mut incoming = control.accept(BITSWAP).unwrap();
    let peer = adversary.peer_id.parse().unwrap();
    swarm.dial(address.parse::<Multiaddr>().unwrap()).unwrap();
    while !matches!(swarm.next().await, Some(SwarmEvent::ConnectionEstablished { .. })) {}
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let mut out = control.open_stream(peer, BITSWAP).await.unwrap();
    let message = Message { wantlist: Some(Wantlist { entries, full: false }), ..Message::default() };
    out.write_all(&message.frame()).await.unwrap();
    out.flush().await.unwrap();
    let mut answers = Vec::new();
    let Ok(Some((_, mut stream))) = tokio::time::timeout(PATIENCE, incoming.next()).await else { return (answers, 0) };
    loop {
        let Ok(Ok(length)) = tokio::time::timeout(PATIENCE, length(&mut stream)).await else { return (answers, 0) };
        let mut bytes = vec![0; length];
        let mut read = 0;
        while read < length {
            match tokio::time::timeout(PATIENCE, stream.read(&mut bytes[read..])).await {
                Ok(Ok(more @ 1..)) => read += more,
                _ => return (answers, read),
            }
        }
        answers.push(Message::decode(&bytes[..]).unwrap());
    }
}

fn start(kind: Kind) -> Adversary {
    let address = "127.0.0.1:0".parse().unwrap();
    Adversary::start(None, kind, address, LinkSpec::new(1_000.0, 1.0)).unwrap()
}

fn data(messages: &[Message]) -> Vec<Vec<u8>> {
    messages.iter().flat_map(|message| message.payload.iter().map(|payload| payload.data.clone())).collect()
}

fn presences(messages: &[Message]) -> Vec<i32> {
    messages.iter().flat_map(|message| message.presences.iter().map(|presence| presence.kind)).collect()
}

#[tokio::test]
async fn a_corrupt_peer_damages_the_same_tenth_and_only_what_it_shall() {
    let (bad, good) = (block(true), block(false));
    let adversary = start(Kind::Corrupt);
    let both = [bad.clone(), good.clone()];
    adversary.load(&car(&both), false).unwrap();
    for address in adversary.listens.clone() {
        let (answers, _) = ask(&adversary, &address, vec![want(&bad.0, true), want(&good.0, true)]).await;
        let got = data(&answers);
        let different = got[0].iter().zip(&bad.1).filter(|(a, b)| a != b).count();
        assert_eq!((got.len(), different, &got[1]), (2, 1, &good.1), "{address}");
    }
    assert_eq!((adversary.ledger().asked, adversary.ledger().bad), (4, 2));
    adversary.reset();
    adversary.load(&car(&both), true).unwrap();
    let (answers, _) = ask(&adversary, &adversary.listens[0], vec![want(&bad.0, true)]).await;
    assert_eq!((data(&answers), adversary.ledger().asked), (vec![bad.1], 0), "content that it serves well");
}

#[tokio::test]
async fn a_liar_has_everything_and_gives_nothing() {
    let one = block(false);
    let adversary = start(Kind::Liar);
    adversary.load(&car(std::slice::from_ref(&one)), false).unwrap();
    let (answers, _) = ask(&adversary, &adversary.listens[0], vec![want(&one.0, false), want(&one.0, true)]).await;
    assert_eq!((presences(&answers), data(&answers).len()), (vec![0, 1], 0));
}

#[tokio::test]
async fn a_staller_sends_a_part_and_a_dripper_sends_for_ever() {
    let one = block(false);
    let adversary = start(Kind::Staller);
    adversary.load(&car(std::slice::from_ref(&one)), false).unwrap();
    let (answers, part) = ask(&adversary, &adversary.listens[0], vec![want(&one.0, false), want(&one.0, true)]).await;
    assert_eq!(presences(&answers), [0]);
    assert!((60_000..=65_536).contains(&part), "{part}");

    let adversary = start(Kind::Dripper);
    adversary.load(&car(std::slice::from_ref(&one)), false).unwrap();
    let asked = ask(&adversary, &adversary.listens[0], vec![want(&one.0, true)]);
    assert!(
        tokio::time::timeout(3 * PATIENCE, asked).await.is_err(),
        "200 kB at 80 kbit/s are never silent and not soon done"
    );
    assert_eq!(adversary.ledger().sent, 0);
}

#[tokio::test]
async fn a_duplicator_sends_three_times_and_nobody_has_what_was_never_loaded() {
    let one = block(false);
    let adversary = start(Kind::Duplicator);
    adversary.load(&car(std::slice::from_ref(&one)), false).unwrap();
    let (answers, _) = ask(&adversary, &adversary.listens[0], vec![want(&one.0, true)]).await;
    assert_eq!(data(&answers), [one.1.clone(), one.1.clone(), one.1]);
    let (answers, _) = ask(&adversary, &adversary.listens[0], vec![want(&[1, 0x55, 0x12, 1, 9], true)]).await;
    assert_eq!(presences(&answers), [1]);
}
