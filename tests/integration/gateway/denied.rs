//! Denylists: every way in is closed (GATEWAY.md §3.2, §3.11).

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use http::StatusCode;
use tidegate::blockstore::{Blockstore, Hit, StoreError, Tier};
use tidegate::denylist::{Denied, Denylists, Rules};
use tidegate::gateway::host::Hosts;
use tidegate::gateway::{self, Config, State};
use tidegate::ipld::{Block, Cid};
use tidegate::names::{NsMap, Resolver};
use tidegate::retriever::{self, LocalBlocks, Retriever};
use tidegate::supervisor::Supervisor;
use tidegate::telemetry::Metrics;

use super::world::{Answer, Store, TOKEN, World};

/// The store as a server has it: with the lists between.
pub struct Listed {
    pub store: Arc<Store>,
    pub lists: Denylists,
}

#[async_trait]
impl LocalBlocks for Listed {
    fn peek(&self, _: &Cid) -> Option<Block> {
        None
    }

    async fn lookup(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        Ok(self.store.get(cid).await?.map(|block| Hit { block, tier: Tier::Store }))
    }

    fn cache(&self, _: &Block) {}

    fn denied(&self, cid: &Cid) -> Option<Denied> {
        self.lists.cid(cid)
    }
}

pub fn rules(lines: &str) -> Rules {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("a.deny");
    std::fs::write(&path, lines).unwrap();
    Rules::read(&[path]).unwrap()
}

/// The same blocks behind denylists.
pub fn listed(world: World, lines: &str, map: &str) -> (World, Denylists) {
    let lists = Denylists::default();
    lists.replace(rules(lines));
    let blocks = Arc::new(Listed { store: world.store.clone(), lists: lists.clone() });
    let metrics = Metrics::new();
    let config = retriever::Config::default();
    let state = State {
        retriever: Retriever::new(&config, blocks, None, Vec::new(), &metrics, &Supervisor::new()),
        names: Resolver::fixed(NsMap::parse(map).unwrap()),
        routing: None,
        denylists: lists.clone(),
        sink: world.records.clone(),
        config: Config { subdomain_hosts: Hosts::parse(&["example.com"]).unwrap(), ..Config::default() },
        is_admin_token: Arc::new(|token| token == TOKEN),
    };
    (World { router: gateway::router(state, &metrics), metrics, ..world }, lists)
}

pub async fn at(world: &World, host: &str, path: &str) -> Answer {
    world.ask("GET", path, &[("host", host)]).await
}

#[tokio::test]
async fn a_listed_file_is_gone_by_every_way_and_the_rest_stays() {
    let world = World::new();
    let (bad, _) = world.file(b"bad").await;
    let (good, _) = world.file(b"good").await;
    let dir = world.directory(&[("bad", bad), ("good", good)]).await;
    let map = format!("site.example.org:/ipfs/{},bad.example.org:/ipfs/{}", dir.cid, bad.cid);
    let (world, lists) = listed(world, &format!("/ipfs/{}\n", bad.cid), &map);
    let own = format!("{}.ipfs.example.com", dir.cid);
    for (host, path) in [
        ("127.0.0.1", format!("/ipfs/{}", bad.cid)),
        ("127.0.0.1", format!("/ipfs/{}?format=raw", bad.cid)),
        ("127.0.0.1", format!("/ipfs/{}?format=car", bad.cid)),
        ("127.0.0.1", format!("/ipfs/{}/bad", dir.cid)),
        ("127.0.0.1", format!("/ipfs/{}/bad?format=raw", dir.cid)),
        ("127.0.0.1", "/ipns/site.example.org/bad".into()),
        ("127.0.0.1", "/ipns/bad.example.org".into()),
        (&*own, "/bad".into()),
        ("site.example.org", "/bad".into()),
        ("bad.example.org", "/".into()),
    ] {
        let answer = at(&world, host, &path).await;
        assert_eq!(answer.status, StatusCode::GONE, "{host}{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{host}{path}");
        assert!(!answer.body.windows(3).any(|bytes| bytes == b"bad") || !answer.text().ends_with("bad"));
        let known = [("host", host), ("if-none-match", "*")];
        assert_eq!(world.ask("GET", &path, &known).await.status, StatusCode::GONE, "{host}{path} with a validator");
    }
    assert_eq!(at(&world, &own, "/good").await.text(), "good");
    // A CAR of the directory is cut where the file would be: the block is not in it.
    let request = http::Request::get(format!("/ipfs/{}?format=car", dir.cid)).body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(world.router.clone(), request).await.unwrap();
    let mut body = http_body_util::BodyExt::into_data_stream(response.into_body());
    let (mut bytes, mut broke) = (Vec::new(), false);
    while let Some(chunk) = futures::StreamExt::next(&mut body).await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => broke = true,
        }
    }
    assert!(broke && !bytes.ends_with(b"bad"));
    // Other rules, without a restart.
    lists.replace(rules(&format!("/ipfs/{}\n!/ipfs/{}\n", bad.cid, bad.cid)));
    assert_eq!(at(&world, &own, "/bad").await.text(), "bad");
}

#[tokio::test]
async fn paths_names_and_the_law_have_their_own_answers() {
    let world = World::new();
    let (file, _) = world.file(b"x").await;
    let inner = world.directory(&[("f", file)]).await;
    let dir = world.directory(&[("a", inner), ("b", file)]).await;
    let map = format!("site.example.org:/ipfs/{}", dir.cid);
    let lines = format!("/ipfs/{}/a* status=451\n/ipns/site.example.org/b\n", dir.cid);
    let (world, _) = listed(world, &lines, &map);
    for (path, status) in [
        (format!("/ipfs/{}/a/f", dir.cid), 451),
        (format!("/ipfs/{}/b", dir.cid), 200),
        ("/ipns/site.example.org/a/f".into(), 451),
        ("/ipns/site.example.org/b".into(), 410),
    ] {
        assert_eq!(at(&world, "127.0.0.1", &path).await.status.as_u16(), status, "{path}");
    }
    assert_eq!(at(&world, "site.example.org", "/b").await.status, StatusCode::GONE);
    assert_eq!(at(&world, "site.example.org", "/a/f").await.status.as_u16(), 451);
}

// §3.11-2 and §3.11-3: the files of a folder count in the order of their names, the later one decides, and what is appended
// counts without a restart.
#[tokio::test]
async fn m3_11_3_a_later_file_overrides_and_an_appended_line_counts() {
    let world = World::new();
    let (first, _) = world.file(b"first").await;
    let (second, _) = world.file(b"second").await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: String| std::fs::write(folder.path().join(name), lines).unwrap();
    write("20-allow.deny", format!("!/ipfs/{}\n", first.cid));
    write("10-deny.deny", format!("/ipfs/{}\n", first.cid));
    write("ignored.txt", format!("/ipfs/{}\n", second.cid));
    let (world, lists) = listed(world, "", "");
    let given = vec![folder.path().to_owned()];
    lists.replace(Rules::read(&tidegate::denylist::files(&given).unwrap()).unwrap());
    let status = async |cid: &Cid| at(&world, "127.0.0.1", &format!("/ipfs/{cid}")).await.status.as_u16();
    assert_eq!((status(&first.cid).await, status(&second.cid).await), (200, 200));

    let supervisor = Supervisor::new();
    tidegate::denylist::watch(&lists, given, &Metrics::new(), &supervisor);
    let until = async |cid: &Cid, wanted: u16| {
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while status(cid).await != wanted {
            assert!(tokio::time::Instant::now() < end, "{cid} is not {wanted}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    write("20-allow.deny", format!("!/ipfs/{}\n/ipfs/{}\n", first.cid, second.cid));
    until(&second.cid, 410).await;
    assert_eq!(status(&first.cid).await, 200);
    // One that cannot be read changes nothing; one more file, by its name the last, does.
    write("15-broken.deny", "name: x\nno map\n---\n".into());
    write("30-deny.deny", format!("/ipfs/{}\n", first.cid));
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!((status(&first.cid).await, status(&second.cid).await), (200, 410));
    std::fs::remove_file(folder.path().join("15-broken.deny")).unwrap();
    until(&first.cid, 410).await;
    supervisor.stop(std::time::Duration::from_secs(5)).await;
}
