//! Prints the network analytics of a data directory as JSON.
//!
//! `cargo run --release --example network_analytics -- DATA_DIR` (no server may be running on it)

use tidegate::Accelerator;
use tidegate::config::Settings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let data_dir = std::env::args_os().nth(1).ok_or("usage: network_analytics DATA_DIR")?;
    let settings = Settings {
        data_dir: Some(data_dir.into()),
        gateway: "127.0.0.1:0".parse()?,
        admin: "127.0.0.1:0".parse()?,
        offline: true,
        ..Settings::default()
    };
    let accelerator = Accelerator::start(settings).await?;
    println!("{}", serde_json::to_string_pretty(&accelerator.get_p2p_network_analytics().await?)?);
    accelerator.stop().await;
    Ok(())
}
