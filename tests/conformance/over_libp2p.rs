//! The trustless cases once more, over libp2p: through the tunnel of a Kubo (`ipfs p2p forward`), as Kubo's own CI runs
//! them against itself.

use super::kubo::{self, Kubo};
use super::server::{self, Server};
use super::{PRESETS, fixtures, judge, run};

const PRESET: &str = "trustless-";
/// Cases of which every preset is a trustless one.
const TRUSTLESS: usize = 71;

#[tokio::test(flavor = "multi_thread")]
async fn the_trustless_cases_pass_over_libp2p() {
    let Some(folder) = fixtures::folder() else { return };
    let Some(binary) = kubo::binary() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI requires Kubo");
        return;
    };
    let kubo = Kubo::start_with(&binary, |config| {
        config["Experimental"] = serde_json::json!({ "Libp2pStreamMounting": true });
    })
    .await;
    let (server, folder) = tokio::task::spawn_blocking(move || {
        let server = Server::start(&folder, &[]);
        server::fill(&server, &folder);
        (server, folder)
    })
    .await
    .expect("the server starts");
    kubo.connect(&server.peer).await;
    let Some(libp2p::multiaddr::Protocol::P2p(peer)) = server.peer.iter().last() else { panic!("{}", server.peer) };
    let tunnel = kubo.forward("/http/1.1", &peer).await;
    let report = tokio::task::spawn_blocking(move || {
        let is_trustless = |preset: &String| preset.starts_with(PRESET);
        let mut exchanges = run(&folder, tunnel, |case| {
            (!case.presets.iter().all(is_trustless)).then_some("not of a trustless preset")
        });
        exchanges.retain(|exchange| exchange.case.presets.iter().all(is_trustless));
        let report = judge("Over libp2p, through a Kubo v0.43.0", &exchanges);
        println!("{}\n{}the log:\n{}", report.table(), report.details(), server.log());
        report
    })
    .await
    .expect("the cases run");
    println!("kept in {}", report.keep("conformance-libp2p").display());
    kubo.stop().await;
    for (preset, cases) in PRESETS.into_iter().filter(|(preset, _)| preset.starts_with(PRESET)) {
        let counts = report.by_preset().get(preset).copied().unwrap_or_default();
        assert_eq!((counts.passed, counts.failed), (cases, 0), "{preset}");
    }
    assert_eq!((report.total().passed, report.results.len()), (TRUSTLESS, TRUSTLESS));
}
