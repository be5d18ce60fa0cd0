//! The gateway reads ahead of who reads the small files of a folder one after another.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use tidegate::gateway::{self, State};
use tidegate::names::{NsMap, Resolver};
use tidegate::record::Outcome;
use tower::ServiceExt;

use super::*;
use crate::gateway::denied::rules;
use crate::gateway::world::Records;

const FILES: usize = 30;

struct Site {
    world: World,
    peer: PeerId,
    files: Vec<Block>,
    root: Cid,
    router: axum::Router,
    records: Arc<Records>,
}

/// A gateway, and a peer that has a folder of [`FILES`] small files, `000` and so on.
fn site(config: Config, denied: impl FnOnce(&Cid) -> String) -> Site {
    let (world, files) = (World::new(), blocks(FILES, 20_480));
    let mut folder = DirBuilder::new(&Profile::default());
    for (n, file) in files.iter().enumerate() {
        folder.add(&format!("{n:03}"), *file.cid(), file.len() as u64).unwrap();
    }
    let (mut all, built) = folder.finish().unwrap();
    all.extend(files.iter().cloned());
    let peer = world.net.peer(Manner::Honest, true, 20, 100.0, &all);
    let (router, records) = gateway_over(&world, &config, &denied(&built.cid), gateway::Config::default());
    Site { world, peer, files, root: built.cid, router, records }
}

/// A gateway over a world's network, with these rules of a denylist, and what it records.
pub fn gateway_over(
    world: &World,
    fetching: &Config,
    denied: &str,
    config: gateway::Config,
) -> (axum::Router, Arc<Records>) {
    let (records, denylists) = (Arc::<Records>::default(), Denylists::default());
    denylists.replace(rules(denied));
    let state = State {
        retriever: world.retriever(fetching, vec![]),
        names: Resolver::fixed(NsMap::default()),
        routing: None,
        denylists,
        sink: records.clone(),
        config,
        is_admin_token: Arc::new(|_| false),
    };
    (gateway::router(state, &world.metrics), records)
}

impl Site {
    async fn read(&self, n: usize) {
        let request = Request::get(format!("/ipfs/{}/{n:03}", self.root)).body(Body::empty()).unwrap();
        let body = self.router.clone().oneshot(request).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), *self.files[n].data());
    }

    /// How many of the files were asked of the network, once nothing is under way.
    async fn asked(&self) -> usize {
        let mut before = usize::MAX;
        loop {
            let asked =
                self.files.iter().filter(|file| self.world.net.wants_for(file.cid(), WantKind::Block) > 0).count();
            if asked == before {
                return asked;
            }
            before = asked;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test]
async fn the_second_file_of_a_folder_brings_the_others_and_a_record_with_their_bytes() {
    let site = site(Config::default(), |_| String::new());
    site.read(4).await;
    assert_eq!(site.asked().await, 1, "one file is no pattern");
    site.read(5).await;
    assert_eq!(site.asked().await, FILES);
    assert_eq!(site.world.net.asked(site.peer), FILES + 1, "each once");
    let ahead: Vec<_> = site.records.all().into_iter().filter(|record| record.http_status.is_none()).collect();
    let [ahead] = &ahead[..] else { panic!("{ahead:?}") };
    assert_eq!((&*ahead.path, ahead.outcome), (&*format!("/ipfs/{}/", site.root), Outcome::Complete));
    assert_eq!((ahead.bytes, ahead.session.network_bytes), (0, (FILES as u64 - 2) * 20_480));
    for n in 0..FILES {
        site.read(n).await;
    }
    assert_eq!(site.world.net.asked(site.peer), FILES + 1);
    let text = site.world.metrics.encode();
    for line in ["ahead_total 28", "used_total 28"] {
        assert!(text.contains(&format!("tidegate_gateway_folder_files_{line}")), "{text}");
    }
}

#[tokio::test]
async fn denied_names_are_not_read_ahead() {
    let site = site(Config::default(), |root| format!("/ipfs/{root}/007\n/ipfs/{root}/02*\n"));
    site.read(0).await;
    site.read(1).await;
    assert_eq!(site.asked().await, FILES - 11);
}

#[tokio::test]
async fn the_standard_policy_reads_no_folder_ahead() {
    let site = site(Config { policy: Policy::Standard, ..Config::default() }, |_| String::new());
    for n in 0..4 {
        site.read(n).await;
    }
    assert_eq!(site.asked().await, 4);
}

#[tokio::test]
async fn a_stop_ends_what_is_read_ahead() {
    let site = site(Config::default(), |_| String::new());
    site.read(0).await;
    site.world.net.state.lock().unwrap().peers.get_mut(&site.peer).unwrap().manner = Manner::StallsAfter(3);
    site.read(1).await;
    assert_eq!(site.world.supervisor.stop(Duration::from_secs(5)).await, Vec::<&str>::new());
}
