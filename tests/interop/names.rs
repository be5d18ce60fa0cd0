//! IPNS records between Kubo and us, both ways.

use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use serde_json::json;
use tidegate::http_peer::delegated::{DelegatedMetrics, DelegatedRouter};
use tidegate::ipld::ContentPath;
use tidegate::ipld::ipns::IpnsName;
use tidegate::names::{Config, Name, NameStore, NsMap, Parts, Publish, Resolver, Source};
use tidegate::p2p::identity;
use tidegate::routing::NameRouter;
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

use crate::kubo::{self, Kubo};

const HELLO: &str = "/ipfs/bafkqabtimvwgy3yk";

/// A Kubo with a DHT that nobody else is in: `ipfs routing` needs one to answer from its own records.
async fn kubo() -> Option<Kubo> {
    let binary = kubo::binary()?;
    Some(
        Kubo::start_with(&binary, |config| {
            config["Routing"] = json!({ "Type": "dht", "DelegatedRouters": [] });
        })
        .await,
    )
}

fn resolver(dir: &std::path::Path, routers: Vec<Arc<dyn NameRouter>>) -> (Resolver, Supervisor) {
    let supervisor = Supervisor::new();
    let parts = Parts {
        config: Config::default(),
        map: NsMap::default(),
        store: NameStore::open(dir),
        routers,
        dns: None,
        data_dir: Some(dir.to_owned()),
    };
    (Resolver::new(parts, &Metrics::new(), &supervisor).unwrap(), supervisor)
}

#[tokio::test]
async fn a_record_that_kubo_publishes_is_taken_from_its_hand_and_from_its_router() {
    let Some(kubo) = kubo().await else { return };
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    kubo.run(["name", "publish", "--allow-offline", "--resolve=false", "--ttl=10m", HELLO]).await;
    let name = IpnsName::from(kubo.peer);
    let record = kubo.output(["routing", "get", &format!("/ipns/{}", kubo.peer)]).await;

    let dir = tempfile::tempdir().unwrap();
    let (ours, _supervisor) = resolver(dir.path(), Vec::new());
    let put = ours.put(&name, record.clone().into()).await.unwrap();
    assert_eq!((put.value(), put.ttl()), (HELLO, Some(Duration::from_secs(600))));

    let router = DelegatedRouter::new(&kubo.gateway(), DelegatedMetrics::new(&Metrics::new())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (ours, _supervisor) = resolver(dir.path(), vec![Arc::new(router)]);
    let resolved = ours.resolve(&Name::Key(name)).await.unwrap();
    assert_eq!((resolved.path.to_string().as_str(), resolved.source), (HELLO, Source::Delegated));
    assert_eq!(ours.record(&name, tidegate::names::Reach::Local).await.unwrap().0.bytes(), &record);
    kubo.stop().await;
}

#[tokio::test]
async fn a_record_that_we_publish_is_taken_and_resolved_by_kubo() {
    let Some(kubo) = kubo().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (ours, _supervisor) = resolver(dir.path(), Vec::new());
    let published = ours.publish(&Publish::new(ContentPath::parse_text(HELLO).unwrap())).await.unwrap();
    let key: Keypair = identity::load_or_create(dir.path()).unwrap();
    let (record, peer) = (published.record, key.public().to_peer_id());
    assert_eq!(*record.name(), IpnsName::from(peer));

    let file = dir.path().join("record");
    std::fs::write(&file, record.bytes()).unwrap();
    let path = format!("/ipns/{peer}");
    kubo.run(["routing", "put", "--allow-offline", &path, file.to_str().unwrap()]).await;
    assert_eq!(kubo.output(["routing", "get", &path]).await, record.bytes().to_vec());
    assert_eq!(kubo.run(["name", "resolve", "--nocache", &path]).await, HELLO);
    kubo.stop().await;
}
