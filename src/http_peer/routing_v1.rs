//! Delegated Routing V1 HTTP API, the parsing side: provider records in JSON and NDJSON. Sans-IO and total.
//!
//! Source: <https://specs.ipfs.tech/routing/http-routing-v1/>; streaming: IPIP-410; empty results: IPIP-513.

use std::str::FromStr;

use bytes::{Buf, Bytes, BytesMut};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use serde::Deserialize;
use thiserror::Error;

use crate::routing::{Provider, RouterKind};

/// The largest answer that is read, in bytes (DESIGN.md §8).
pub const MAX_RESPONSE: usize = 1024 * 1024;
/// Addresses kept of one record.
pub const MAX_ADDRS: usize = 32;
/// Protocol names kept of one record.
const MAX_PROTOCOLS: usize = 16;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseError {
    #[error("not JSON: {0}")]
    Json(String),
    #[error("answer is over {MAX_RESPONSE} bytes")]
    TooLarge,
}

/// A record as it travels. Unknown fields and unknown schemas are ignored, as the specification asks of clients.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    #[serde(default)]
    schema: String,
    #[serde(rename = "ID")]
    id: Option<String>,
    addrs: Option<Vec<String>>,
    protocols: Option<Vec<String>>,
    /// Of the legacy `bitswap` and `graphsync` schemas.
    protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    providers: Option<Vec<serde_json::Value>>,
    /// Of `/peers` and `/dht/closest/peers`.
    peers: Option<Vec<serde_json::Value>>,
}

/// Parses a whole `application/json` answer.
pub fn parse_json(body: &[u8]) -> Result<Vec<Provider>, ParseError> {
    if body.len() > MAX_RESPONSE {
        return Err(ParseError::TooLarge);
    }
    let response: Response = serde_json::from_slice(body).map_err(|error| ParseError::Json(error.to_string()))?;
    Ok(response.providers.or(response.peers).unwrap_or_default().into_iter().filter_map(record).collect())
}

/// Parses an `application/x-ndjson` answer as it arrives.
#[derive(Debug, Default)]
pub struct NdjsonParser {
    line: BytesMut,
    total: usize,
}

impl NdjsonParser {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and returns the providers whose lines they complete.
    pub fn push(&mut self, bytes: &Bytes) -> Result<Vec<Provider>, ParseError> {
        self.total = self.total.saturating_add(bytes.len());
        if self.total > MAX_RESPONSE {
            return Err(ParseError::TooLarge);
        }
        self.line.extend_from_slice(bytes);
        let mut found = Vec::new();
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line = self.line.split_to(end);
            self.line.advance(1);
            found.extend(parse_line(&line)?);
        }
        Ok(found)
    }

    /// The last line may lack its newline.
    pub fn finish(self) -> Result<Option<Provider>, ParseError> {
        parse_line(&self.line)
    }
}

fn parse_line(line: &[u8]) -> Result<Option<Provider>, ParseError> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_slice(line).map_err(|error| ParseError::Json(error.to_string()))?;
    Ok(record(value))
}

/// A record that names no valid peer is passed over: one bad record must not hide the good ones.
fn record(value: serde_json::Value) -> Option<Provider> {
    let record: Record = serde_json::from_value(value).ok()?;
    if !matches!(record.schema.as_str(), "peer" | "bitswap" | "graphsync") {
        return None;
    }
    let peer = PeerId::from_str(record.id.as_deref()?).ok()?;
    let addrs = record.addrs.unwrap_or_default();
    let addrs = addrs.iter().filter_map(|addr| address(addr, &peer)).take(MAX_ADDRS).collect();
    let mut transports = record.protocols.unwrap_or_default();
    transports.extend(record.protocol);
    transports.truncate(MAX_PROTOCOLS);
    Some(Provider { peer, addrs, transports, source: RouterKind::Delegated })
}

/// An address without its `/p2p` end; `None` when it is malformed or is of another peer.
fn address(text: &str, peer: &PeerId) -> Option<Multiaddr> {
    let mut addr = Multiaddr::from_str(text).ok()?;
    if let Some(Protocol::P2p(named)) = addr.iter().last() {
        if named != *peer {
            return None;
        }
        addr.pop();
    }
    Some(addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: &str = "12D3KooWM8sovaEGU1bmiWGWAzvs47DEcXKZZTuJnpQyVTkRs2Vn";

    fn line(schema: &str, addr: &str) -> String {
        format!(r#"{{"Schema":"{schema}","ID":"{PEER}","Addrs":["{addr}"],"Protocols":["transport-bitswap"],"X":1}}"#)
    }

    #[test]
    fn json_answers_give_peers_and_pass_over_unknown_schemas() {
        let body = format!(
            r#"{{"Providers":[{},{},{{"Schema":"peer","ID":"nonsense"}}],"Extra":true}}"#,
            line("peer", "/ip4/127.0.0.1/tcp/4001"),
            line("from-the-future", "/ip4/127.0.0.1/tcp/4001"),
        );
        let found = parse_json(body.as_bytes()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].peer.to_string(), PEER);
        assert_eq!(found[0].addrs, vec!["/ip4/127.0.0.1/tcp/4001".parse::<Multiaddr>().unwrap()]);
    }

    #[test]
    fn empty_answers_are_no_providers() {
        assert!(parse_json(br#"{"Providers":null}"#).unwrap().is_empty());
        assert!(parse_json(b"{}").unwrap().is_empty());
        assert_eq!(NdjsonParser::new().finish().unwrap(), None);
    }

    #[test]
    fn an_address_of_another_peer_is_dropped_and_its_own_suffix_removed() {
        let other = PeerId::random();
        let own = parse_json(
            format!(r#"{{"Providers":[{}]}}"#, line("peer", &format!("/ip4/10.0.0.1/tcp/1/p2p/{PEER}"))).as_bytes(),
        );
        assert_eq!(own.unwrap()[0].addrs[0].to_string(), "/ip4/10.0.0.1/tcp/1");
        let foreign = parse_json(
            format!(r#"{{"Providers":[{}]}}"#, line("peer", &format!("/ip4/10.0.0.1/tcp/1/p2p/{other}"))).as_bytes(),
        );
        assert!(foreign.unwrap()[0].addrs.is_empty());
    }

    #[test]
    fn an_answer_without_end_is_refused_at_the_limit() {
        let mut parser = NdjsonParser::new();
        let chunk = Bytes::from(vec![b' '; 64 * 1024]);
        let refused = (0..20).find_map(|_| parser.push(&chunk).err());
        assert_eq!(refused, Some(ParseError::TooLarge));
    }

    proptest! {
        #[test]
        fn ndjson_does_not_depend_on_how_it_is_cut(cuts in prop::collection::vec(1usize..40, 0..30), count in 0usize..8) {
            let text = (0..count).map(|i| line("peer", &format!("/ip4/127.0.0.1/tcp/{}", i + 1)) + "\n").collect::<String>();
            let mut parser = NdjsonParser::new();
            let mut rest = Bytes::from(text);
            let mut found = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let at = cuts.next().unwrap_or(7).min(rest.len());
                found.extend(parser.push(&rest.split_to(at)).unwrap());
            }
            prop_assert_eq!(found.len(), count);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_json(&bytes);
            let mut parser = NdjsonParser::new();
            let _ = parser.push(&Bytes::from(bytes));
            let _ = parser.finish();
        }
    }
}
