//! Adds a file on one node and gets it on another, both in this process, and prints what was measured.
//!
//! `cargo run --release --example add_and_get -- FILE` (without FILE: 20 MB made up on the spot)

use std::path::{Path, PathBuf};

use tidegate::Accelerator;
use tidegate::config::Settings;
use tidegate::p2p::{Bootstrap, Dns};

/// A node that talks to nobody but the peers it is given.
fn private(data_dir: &Path) -> Result<Settings, Box<dyn std::error::Error>> {
    Ok(Settings {
        data_dir: Some(data_dir.to_owned()),
        gateway: "127.0.0.1:0".parse()?,
        admin: "127.0.0.1:0".parse()?,
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse()?, "/ip4/127.0.0.1/tcp/0".parse()?],
        bootstrap: Bootstrap::None,
        no_mdns: true,
        dns: Dns::None,
        ..Settings::default()
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let dir = std::env::temp_dir().join(format!("tidegate-example-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let file = match std::env::args_os().nth(1) {
        Some(file) => PathBuf::from(file),
        None => {
            let file = dir.join("example.bin");
            let content: Vec<u8> =
                (0..5_000_000u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
            std::fs::write(&file, content)?;
            file
        }
    };

    let provider = Accelerator::start(private(&dir.join("provider"))?).await?;
    let added = provider.add_file(&file).await?;
    println!("added {} bytes in {} blocks: {}", added.size, added.blocks, added.cid);

    let peer = provider.app().peers().to_vec();
    let client = Accelerator::start(Settings { peer, ..private(&dir.join("client"))? }).await?;
    for round in ["cold", "warm"] {
        let got = client.get_file(&added.cid.to_string(), dir.join(round), true).await?;
        println!("{round}: {} bytes in {:?} from {} ({} peers)", got.bytes, got.load_time, got.source, got.peer_count);
    }
    println!("dashboard of the client while it ran: {}", client.app().api_file().admin);
    client.stop().await;
    provider.stop().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
