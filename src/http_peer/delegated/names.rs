//! The rest of a delegated router: IPNS records (IPIP-379), peers (IPIP-417), closest peers (IPIP-476).

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use libp2p::PeerId;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

use super::{DelegatedRouter, MAX_RESPONSE, malformed, parse_json};
use crate::ipld::Cid;
use crate::ipld::cid::canonical;
use crate::ipld::ipns::{IpnsName, MAX_RECORD};
use crate::routing::{FoundRecord, NameRouter, PeerRouter, Provider, RouterKind, RoutingError};

const IPNS_RECORD: &str = "application/vnd.ipfs.ipns-record";
/// Peers that are taken from one answer.
const MAX_PEERS: usize = 20;

impl DelegatedRouter {
    /// `None`: the router has none. What comes as another content type is no record.
    async fn record(&self, name: IpnsName) -> Result<Option<Bytes>, RoutingError> {
        let url = self.endpoint(&format!("ipns/{name}"))?;
        let response = self.send(self.client.get(url).header(ACCEPT, IPNS_RECORD)).await?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            status => return Err(RoutingError::Status { status }),
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(IPNS_RECORD) {
            return Ok(None);
        }
        self.body(response, MAX_RECORD).await.map(Some)
    }

    async fn put(&self, name: IpnsName, record: Bytes) -> Result<(), RoutingError> {
        let url = self.endpoint(&format!("ipns/{name}"))?;
        let response = self.send(self.client.put(url).header(CONTENT_TYPE, IPNS_RECORD).body(record)).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(RoutingError::Status { status: status.as_u16() }),
        }
    }

    async fn peers(&self, resource: String) -> Result<Vec<Provider>, RoutingError> {
        let url = self.endpoint(&resource)?;
        let response = self.send(self.client.get(url).header(ACCEPT, "application/json")).await?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(Vec::new()),
            status => return Err(RoutingError::Status { status }),
        }
        let whole = self.body(response, MAX_RESPONSE).await?;
        let mut peers = parse_json(&whole).map_err(|error| malformed(&error))?;
        peers.truncate(MAX_PEERS);
        Ok(peers)
    }

    fn counted<T>(&self, result: Result<T, RoutingError>) -> Result<T, RoutingError> {
        if result.is_err() {
            self.metrics.failures.inc();
        }
        result
    }
}

impl NameRouter for DelegatedRouter {
    fn kind(&self) -> RouterKind {
        RouterKind::Delegated
    }

    fn records(&self, name: &IpnsName) -> BoxStream<'static, Result<FoundRecord, RoutingError>> {
        let (router, name) = (self.clone(), *name);
        let ask = async move {
            let record = router.counted(router.record(name).await);
            record.map(|record| record.map(|bytes| FoundRecord { bytes, from: None })).transpose()
        };
        stream::once(ask).filter_map(|found| async move { found }).boxed()
    }

    fn announce(&self, name: &IpnsName, record: Bytes) -> BoxFuture<'static, Result<(), RoutingError>> {
        let (router, name) = (self.clone(), *name);
        async move { router.counted(router.put(name, record).await) }.boxed()
    }
}

impl PeerRouter for DelegatedRouter {
    fn kind(&self) -> RouterKind {
        RouterKind::Delegated
    }

    fn find_peer(&self, peer: PeerId) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>> {
        let router = self.clone();
        async move {
            let found = router.counted(router.peers(format!("peers/{}", IpnsName::from(peer))).await)?;
            Ok(found.into_iter().filter(|found| found.peer == peer).take(1).collect())
        }
        .boxed()
    }

    fn closest_peers(&self, key: &Cid) -> BoxFuture<'static, Result<Vec<Provider>, RoutingError>> {
        let (router, key) = (self.clone(), canonical(key));
        async move { router.counted(router.peers(format!("dht/closest/peers/{key}")).await) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wiremock::matchers::{body_bytes, header, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::super::DelegatedMetrics;
    use super::*;
    use crate::telemetry::Metrics;

    const NAME: &str = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";

    async fn router() -> (MockServer, DelegatedRouter) {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let server = MockServer::start().await;
        let metrics = DelegatedMetrics::new(&Metrics::new());
        let router = DelegatedRouter::with_timeout(&server.uri(), Duration::from_secs(5), metrics).unwrap();
        (server, router)
    }

    async fn records(template: ResponseTemplate) -> Vec<Result<FoundRecord, RoutingError>> {
        let (server, router) = router().await;
        let asked = Mock::given(method("GET")).and(path(format!("/routing/v1/ipns/{NAME}")));
        asked.and(header("accept", IPNS_RECORD)).respond_with(template).mount(&server).await;
        router.records(&NAME.parse().unwrap()).collect().await
    }

    #[tokio::test]
    async fn a_record_is_its_bytes_and_another_content_type_is_none() {
        let found = records(ResponseTemplate::new(200).set_body_raw("record", IPNS_RECORD)).await;
        assert_eq!(found, [Ok(FoundRecord { bytes: Bytes::from_static(b"record"), from: None })]);
        assert!(records(ResponseTemplate::new(200).set_body_raw("{}", "application/json")).await.is_empty());
        assert!(records(ResponseTemplate::new(404)).await.is_empty());
        assert_eq!(records(ResponseTemplate::new(500)).await, [Err(RoutingError::Status { status: 500 })]);
        let huge = ResponseTemplate::new(200).set_body_raw(vec![0; MAX_RECORD + 1], IPNS_RECORD);
        assert!(matches!(records(huge).await[..], [Err(RoutingError::Malformed(_))]));
    }

    #[tokio::test]
    async fn a_record_is_put_as_it_is() {
        let (server, router) = router().await;
        let asked = Mock::given(method("PUT")).and(path(format!("/routing/v1/ipns/{NAME}")));
        let asked = asked.and(header("content-type", IPNS_RECORD)).and(body_bytes(b"record"));
        asked.respond_with(ResponseTemplate::new(200)).expect(1).mount(&server).await;
        let name = NAME.parse().unwrap();
        assert_eq!(router.announce(&name, Bytes::from_static(b"record")).await, Ok(()));
        assert_eq!(router.announce(&name, Bytes::new()).await, Err(RoutingError::Status { status: 404 }));
    }

    #[tokio::test]
    async fn peers_are_read_and_only_the_one_asked_for_is_believed() {
        let (server, router) = router().await;
        let name: IpnsName = NAME.parse().unwrap();
        let record = |peer| format!(r#"{{"Schema":"peer","ID":"{peer}","Addrs":["/ip4/192.0.2.1/tcp/4001"]}}"#);
        let body = format!(r#"{{"Peers":[{},{}]}}"#, record(PeerId::random()), record(name.peer()));
        for resource in [format!("peers/{NAME}"), format!("dht/closest/peers/{}", name.cid())] {
            let answer = ResponseTemplate::new(200).set_body_raw(body.clone(), "application/json");
            Mock::given(path(format!("/routing/v1/{resource}"))).respond_with(answer).mount(&server).await;
        }
        let found = router.find_peer(name.peer()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].peer, found[0].addrs[0].to_string()), (name.peer(), "/ip4/192.0.2.1/tcp/4001".to_owned()));
        assert_eq!(router.closest_peers(&name.cid()).await.unwrap().len(), 2);
        assert!(router.find_peer(PeerId::random()).await.unwrap().is_empty());
    }
}
