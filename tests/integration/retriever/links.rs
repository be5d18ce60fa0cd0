//! The gateway asks ahead for what a page names, where the operator wants it.

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use tidegate::gateway;
use tidegate::ipld::builder::{Built, FileBuilder};
use tidegate::record::Outcome;
use tower::ServiceExt;

use super::folders::gateway_over;
use super::*;
use crate::gateway::world::{Records, noise};

/// A gateway, and a peer that has a site: a page in `docs` that names four files, one of them large.
struct Site {
    world: World,
    files: HashMap<&'static str, Vec<Cid>>,
    root: Cid,
    router: axum::Router,
    records: Arc<Records>,
}

const PAGE: &str = r#"<!doctype html><title>x</title><link rel=stylesheet href=../css/a.css>
    <script src="app.js"></script><img src=photo.jpg><video poster="still.jpg" src=film.mp4></video><a href=next.html>next</a>"#;

fn file(data: &[u8]) -> (Vec<Block>, Built) {
    let mut builder = FileBuilder::new(&Profile::default());
    let mut blocks = builder.push(Bytes::copy_from_slice(data));
    let (rest, built) = builder.finish();
    blocks.extend(rest);
    (blocks, built)
}

fn site(prefetch_links: bool, config: Config, denied: impl FnOnce(&Cid) -> String) -> Site {
    let world = World::new();
    let (mut all, mut files) = (Vec::new(), HashMap::new());
    let mut add = |name: &'static str, data: &[u8]| {
        let (blocks, built) = file(data);
        files.insert(name, blocks.iter().map(|block| *block.cid()).collect());
        all.extend(blocks);
        built
    };
    let names = ["app.js", "film.mp4", "index.html", "next.html", "photo.jpg", "still.jpg"];
    let built = names.map(|name| match name {
        "index.html" => add(name, PAGE.as_bytes()),
        // More than one block.
        "photo.jpg" => add(name, &noise(3 << 20)),
        "still.jpg" => add(name, &noise(5 << 20)),
        name => add(name, name.as_bytes()),
    });
    let style = add("a.css", b"a{}");
    let folder = |entries: &[(&str, Built)]| {
        let mut builder = DirBuilder::new(&Profile::default());
        entries.iter().for_each(|(name, built)| builder.add(name, built.cid, built.tsize).unwrap());
        builder.finish().unwrap()
    };
    let docs: Vec<(&str, Built)> = names.into_iter().zip(built).collect();
    let ((docs_blocks, docs), (css_blocks, css)) = (folder(&docs), folder(&[("a.css", style)]));
    let (root_blocks, root) = folder(&[("css", css), ("docs", docs)]);
    all.extend([docs_blocks, css_blocks, root_blocks].concat());
    world.net.peer(Manner::Honest, true, 20, 400.0, &all);
    let gateway = gateway::Config { prefetch_links, ..gateway::Config::default() };
    let (router, records) = gateway_over(&world, &config, &denied(&root.cid), gateway);
    Site { world, files, root: root.cid, router, records }
}

impl Site {
    /// Reads the page, as on an origin of its own or not, and nothing else.
    async fn read(&self, subdomain: bool) {
        let request = match subdomain {
            true => Request::get("/docs/").header("host", format!("{}.ipfs.localhost", self.root)),
            false => Request::get(format!("/ipfs/{}/docs/", self.root)).header("host", "127.0.0.1"),
        };
        let body = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), PAGE);
    }

    /// The files of which all blocks were asked of the network, once nothing is under way.
    async fn asked(&self) -> Vec<&'static str> {
        let was_asked = |cid: &Cid| self.world.net.wants_for(cid, WantKind::Block) > 0;
        let count = || self.files.values().flatten().filter(|cid| was_asked(cid)).count();
        let mut before = usize::MAX;
        while count() != before {
            before = count();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let whole = self.files.iter().filter(|(_, cids)| cids.iter().all(was_asked));
        let mut names: Vec<&str> = whole.map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }
}

#[tokio::test]
async fn what_a_page_loads_comes_with_the_page_where_that_is_wanted() {
    for subdomain in [false, true] {
        let site = site(true, Config::default(), |_| String::new());
        site.read(subdomain).await;
        assert_eq!(
            site.asked().await,
            ["a.css", "app.js", "index.html", "photo.jpg"],
            "no film, no link, nothing large"
        );
        let ahead: Vec<_> = site.records.all().into_iter().filter(|record| record.http_status.is_none()).collect();
        let [ahead] = &ahead[..] else { panic!("{ahead:?}") };
        assert_eq!((ahead.outcome, ahead.bytes), (Outcome::Complete, 0));
        assert!(ahead.session.network_bytes > 3 << 20, "{}", ahead.session.network_bytes);
        assert!(site.world.metrics.encode().contains("tidegate_gateway_links_ahead_total 4"));
    }
}

#[tokio::test]
async fn nothing_is_asked_ahead_where_nobody_wants_it_and_nothing_that_is_denied() {
    let off = site(false, Config::default(), |_| String::new());
    off.read(false).await;
    assert_eq!(off.asked().await, ["index.html"]);
    let standard = site(true, Config { policy: Policy::Standard, ..Config::default() }, |_| String::new());
    standard.read(false).await;
    assert_eq!(standard.asked().await, ["index.html"]);
    let denied = site(true, Config::default(), |root| format!("/ipfs/{root}/css/*\n/ipfs/{root}/docs/app.js\n"));
    denied.read(false).await;
    assert_eq!(denied.asked().await, ["index.html", "photo.jpg"]);
}
