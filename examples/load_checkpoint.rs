//! Loads a safetensors checkpoint by CID and lists its tensors.
//!
//! `cargo run --release --example load_checkpoint -- CID [PEER...]`: from these peers, given as multiaddrs with `/p2p/ID`;
//! without peers, from public providers that the DHT names.

use tidegate::Accelerator;
use tidegate::config::Settings;
use tidegate::p2p::Bootstrap;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let mut args = std::env::args().skip(1);
    let Some(cid) = args.next() else { return Err("usage: load_checkpoint CID [PEER...]".into()) };
    let peer = args.map(|peer| peer.parse()).collect::<Result<Vec<_>, _>>()?;
    let private = !peer.is_empty();
    let data_dir = std::env::temp_dir().join(format!("tidegate-example-{}", std::process::id()));
    let settings = Settings {
        data_dir: Some(data_dir.clone()),
        gateway: "127.0.0.1:0".parse()?,
        admin: "127.0.0.1:0".parse()?,
        listen: Vec::new(),
        bootstrap: if private { Bootstrap::None } else { Settings::default().bootstrap },
        no_mdns: private,
        peer,
        ..Settings::default()
    };
    let accelerator = Accelerator::start(settings).await?;
    let loaded = accelerator.load_checkpoint_and_dispatch(&cid, "cpu", true).await?;
    for (name, tensor) in loaded.checkpoint.iter() {
        println!("{name:40} {:?} {:?} {} bytes", tensor.dtype, tensor.shape, tensor.data.len());
    }
    println!(
        "{} tensors, {} bytes from {} in {:?}; the first shard was whole after {:?}",
        loaded.checkpoint.len(),
        loaded.checkpoint.bytes(),
        loaded.transfer.source,
        loaded.checkpoint.load_time,
        loaded.checkpoint.first_shard_time,
    );
    accelerator.stop().await;
    std::fs::remove_dir_all(&data_dir)?;
    Ok(())
}
