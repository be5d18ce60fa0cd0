//! The DHT's records and peers: queries on behalf of names, and what other peers put here when we are a server.

use std::num::NonZeroUsize;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, QueryId, QueryResult};
use tokio::sync::{mpsc, oneshot};

use super::{EventLoop, KAD_TIMEOUT, MAX_QUERIES, entries};
use crate::p2p::address::without_peer;
use crate::routing::{FoundRecord, Provider, RouterKind, RoutingError};

/// Peers that a query for the closest ones names at most (Kademlia's k).
const CLOSEST: NonZeroUsize = NonZeroUsize::new(20).unwrap();

/// Answers to one query.
pub type ClosestReply = oneshot::Sender<Result<Vec<Provider>, RoutingError>>;

/// What names ask of the DHT.
#[derive(Debug)]
pub enum RecordCommand {
    Get {
        key: Vec<u8>,
        reply: mpsc::Sender<Result<FoundRecord, RoutingError>>,
    },
    Put {
        key: Vec<u8>,
        value: Bytes,
        reply: oneshot::Sender<Result<(), RoutingError>>,
    },
    /// To these peers only; nobody waits.
    Correct {
        key: Vec<u8>,
        value: Bytes,
        peers: Vec<PeerId>,
    },
    Closest {
        key: Vec<u8>,
        reply: ClosestReply,
    },
}

/// A query under way.
pub(super) enum RecordQuery {
    Get { reply: mpsc::Sender<Result<FoundRecord, RoutingError>>, found: usize },
    Put(oneshot::Sender<Result<(), RoutingError>>),
    Closest(ClosestReply),
}

impl RecordQuery {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Get { reply, .. } => reply.is_closed(),
            // What was begun to be announced is announced.
            Self::Put(_) => false,
            Self::Closest(reply) => reply.is_closed(),
        }
    }

    fn fail(self, error: RoutingError) {
        match self {
            Self::Get { reply, .. } => _ = reply.try_send(Err(error)),
            Self::Put(reply) => _ = reply.send(Err(error)),
            Self::Closest(reply) => _ = reply.send(Err(error)),
        }
    }
}

impl EventLoop {
    pub(super) fn on_record_command(&mut self, command: RecordCommand) {
        let (key, value, query) = match command {
            RecordCommand::Get { key, reply } => (key, None, RecordQuery::Get { reply, found: 0 }),
            RecordCommand::Put { key, value, reply } => (key, Some(value), RecordQuery::Put(reply)),
            RecordCommand::Closest { key, reply } => (key, None, RecordQuery::Closest(reply)),
            RecordCommand::Correct { key, value, peers } => return self.correct(key, value, peers),
        };
        if self.record_queries.len() >= MAX_QUERIES {
            self.metrics.limit_queries.inc();
            return query.fail(RoutingError::Unreachable("too many DHT queries".to_owned()));
        }
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return query.fail(RoutingError::Disabled) };
        if kad.kbuckets().all(|bucket| bucket.is_empty()) {
            return query.fail(RoutingError::Unreachable("no peer of the DHT is known yet".to_owned()));
        }
        let id = match (&query, value) {
            (RecordQuery::Put(_), Some(value)) => {
                let record = kad::Record::new(key.clone(), value.to_vec());
                // All: so that every peer that should have it is asked. Whether enough took it is decided at the end.
                let started = kad.put_record(record, kad::Quorum::All);
                // Our own copy would answer later queries with what may be old by then.
                kad.remove_record(&key.into());
                match started {
                    Ok(id) => id,
                    Err(error) => return query.fail(RoutingError::Unreachable(error.to_string())),
                }
            }
            (RecordQuery::Closest(_), _) => kad.get_n_closest_peers(key, CLOSEST),
            _ => kad.get_record(key.into()),
        };
        self.record_queries.insert(id, query);
    }

    fn correct(&mut self, key: Vec<u8>, value: Bytes, peers: Vec<PeerId>) {
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.put_record_to(kad::Record::new(key, value.to_vec()), peers.into_iter(), kad::Quorum::One);
        }
    }

    /// Ends queries whose reader is gone.
    pub(super) fn drop_abandoned_records(&mut self) {
        let abandoned: Vec<QueryId> =
            self.record_queries.iter().filter(|(_, query)| query.is_abandoned()).map(|(id, _)| *id).collect();
        for id in abandoned {
            self.record_queries.remove(&id);
            self.end_query(&id);
        }
    }

    fn end_query(&mut self, id: &QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.as_mut().and_then(|kad| kad.query_mut(id)) {
            query.finish();
        }
    }

    /// Takes what concerns records; hands the rest back.
    pub(super) fn on_record_event(&mut self, event: kad::Event) -> Option<kad::Event> {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, stats, step } => {
                let Some(query) = self.record_queries.remove(&id) else {
                    return Some(kad::Event::OutboundQueryProgressed { id, result, stats, step });
                };
                if let Some(query) = self.progressed(id, query, result, step.last) {
                    self.record_queries.insert(id, query);
                }
                None
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::PutRecord { record: Some(record), .. } } => {
                self.store_record(record);
                None
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                self.store_provider(record);
                None
            }
            other => Some(other),
        }
    }

    /// One step of a query; the query itself while it goes on.
    fn progressed(&mut self, id: QueryId, query: RecordQuery, result: QueryResult, last: bool) -> Option<RecordQuery> {
        match (query, result) {
            (RecordQuery::Get { reply, mut found }, QueryResult::GetRecord(result)) => {
                let gone = match result {
                    Ok(kad::GetRecordOk::FoundRecord(kad::PeerRecord { peer, record })) => {
                        found += 1;
                        let record = FoundRecord { bytes: record.value.into(), from: peer };
                        reply.try_send(Ok(record)).is_err()
                    }
                    Err(kad::GetRecordError::Timeout { .. }) if found == 0 => {
                        reply.try_send(Err(RoutingError::Timeout(KAD_TIMEOUT))).is_err()
                    }
                    Ok(_) | Err(_) => false,
                };
                if gone && !last {
                    self.end_query(&id);
                }
                (!last && !gone).then_some(RecordQuery::Get { reply, found })
            }
            (RecordQuery::Put(reply), QueryResult::PutRecord(result)) => {
                let taken = match result {
                    Ok(_) => Ok(()),
                    Err(
                        kad::PutRecordError::QuorumFailed { success, .. }
                        | kad::PutRecordError::Timeout { success, .. },
                    ) if !success.is_empty() => Ok(()),
                    Err(kad::PutRecordError::Timeout { .. }) => Err(RoutingError::Timeout(KAD_TIMEOUT)),
                    Err(kad::PutRecordError::QuorumFailed { .. }) => {
                        Err(RoutingError::Unreachable("no peer of the DHT took the record".to_owned()))
                    }
                };
                let _ = reply.send(taken);
                None
            }
            (RecordQuery::Closest(reply), QueryResult::GetClosestPeers(result)) => {
                if !last {
                    return Some(RecordQuery::Closest(reply));
                }
                let peers = match result {
                    Ok(kad::GetClosestPeersOk { peers, .. }) => peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let provider = |info: kad::PeerInfo| Provider {
                    peer: info.peer_id,
                    addrs: info.addrs.into_iter().map(without_peer).collect(),
                    transports: Vec::new(),
                    source: RouterKind::Dht,
                };
                let _ = reply.send(Ok(peers.into_iter().map(provider).collect()));
                None
            }
            (query, _) => (!last).then_some(query),
        }
    }

    fn store_record(&mut self, record: kad::Record) {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        let before = kad.store_mut().get(&record.key).map(|before| before.into_owned().value);
        match entries::record(record, before.as_deref(), SystemTime::now(), Instant::now()) {
            // A full store is the store's own bound.
            Some(record) => _ = kad.store_mut().put(record),
            None => _ = self.metrics.refused_records.inc(),
        }
    }

    fn store_provider(&mut self, record: kad::ProviderRecord) {
        let Some((record, private)) = entries::provider(record, &self.policy, Instant::now()) else {
            self.metrics.refused_records.inc();
            return;
        };
        self.metrics.refused_addresses.inc_by(private as u64);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            // A full store is the store's own bound.
            let _ = kad.store_mut().add_provider(record);
        }
    }
}
