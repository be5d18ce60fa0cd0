//! The library face, between two nodes in this process.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;
use tidegate::Accelerator;
use tidegate::accelerator::AccelerateError;
use tidegate::checkpoint::CheckpointError;
use tidegate::config::Settings;
use tidegate::p2p::{Bootstrap, Dns};
use tidegate::record::{CacheState, Policy, Source};

fn settings(dir: &Path) -> Settings {
    Settings {
        data_dir: Some(dir.to_owned()),
        gateway: "127.0.0.1:0".parse().unwrap(),
        admin: "127.0.0.1:0".parse().unwrap(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        bootstrap: Bootstrap::None,
        no_mdns: true,
        dns: Dns::None,
        ..Settings::default()
    }
}

/// A node, and another that knows it.
async fn pair() -> (TempDir, Accelerator, Accelerator) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let provider = Accelerator::start(settings(&dir.path().join("provider"))).await.unwrap();
    let peer = provider.app().peers().to_vec();
    let client = Accelerator::start(Settings { peer, ..settings(&dir.path().join("client")) }).await.unwrap();
    (dir, provider, client)
}

/// Bytes that look random and are the same each time.
fn bytes(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 0x9e37_79b9_7f4a_7c15;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_added_on_one_node_arrives_whole_on_another_with_measured_figures() {
    let (dir, provider, client) = pair().await;
    let content = bytes(3_000_000, 1);
    let file = dir.path().join("file.bin");
    std::fs::write(&file, &content).unwrap();
    let added = provider.add_file(&file).await.unwrap();
    assert_eq!(added.size, content.len() as u64);

    let output = dir.path().join("copy.bin");
    let cold = client.get_file(&added.cid.to_string(), &output, true).await.unwrap();
    assert_eq!(std::fs::read(&output).unwrap(), content);
    assert_eq!((cold.policy, cold.source, cold.peer_count), (Policy::Optimized, Source::P2p, 1));
    assert_eq!((cold.files, cold.bytes), (1, content.len() as u64));
    assert!(cold.network_bytes >= cold.bytes && cold.transfer_time.unwrap() <= cold.load_time);
    assert!(cold.network_efficiency.unwrap() <= 1.0);

    let warm = client.get_file(&added.cid.to_string(), dir.path().join("warm.bin"), true).await.unwrap();
    assert_eq!((warm.source, warm.cache_state, warm.network_bytes), (Source::Cache, CacheState::Memory, 0));
    assert_eq!((warm.optimization_score, warm.transfer_time), (None, None), "nothing was transferred");

    let other = dir.path().join("other.bin");
    std::fs::write(&other, bytes(600_000, 2)).unwrap();
    let other = provider.add_file(&other).await.unwrap();
    let standard = client.get_file(&other.cid.to_string(), dir.path().join("standard.bin"), false).await.unwrap();
    assert_eq!((standard.policy, standard.source), (Policy::Standard, Source::Ipfs));

    // The rows follow within the writer's second.
    let mut analytics = client.get_p2p_network_analytics().await.unwrap();
    for _ in 0..100 {
        if analytics.transfers_completed >= 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        analytics = client.get_p2p_network_analytics().await.unwrap();
    }
    assert_eq!((analytics.status, analytics.transfers_failed), ("ok", 0));
    assert!(analytics.bytes_transferred >= 3_600_000, "{analytics:?}");
    client.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_nobody_has_is_an_error_that_says_so_and_leaves_no_file() {
    let (dir, provider, client) = pair().await;
    let output = dir.path().join("nothing");
    let error = client
        .get_file("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", &output, true)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no provider has"), "{error}");
    assert!(!output.exists());
    assert!(matches!(client.get_file("not a cid", &output, true).await, Err(AccelerateError::Path(_))));
    client.stop().await;
    provider.stop().await;
}

/// A safetensors file with these tensors of f32.
fn shard(tensors: &[(&str, Vec<usize>, u8)]) -> Vec<u8> {
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape, seed)| {
            let bytes = bytes(4 * shape.iter().product::<usize>(), *seed);
            ((*name).to_owned(), shape.clone(), bytes)
        })
        .collect();
    let views: Vec<(String, TensorView<'_>)> = data
        .iter()
        .map(|(name, shape, data)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()))
        .collect();
    safetensors::serialize(views, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_checkpoint_is_loaded_from_a_peer_by_tensor_name() {
    let (dir, provider, client) = pair().await;
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let files = [
        ("model-00001-of-00002.safetensors", vec![("embed", vec![300, 700], 3), ("norm", vec![700], 4)]),
        ("model-00002-of-00002.safetensors", vec![("head", vec![700, 300], 5), ("empty", vec![0, 4], 6)]),
    ];
    let mut map = BTreeMap::new();
    for (file, tensors) in &files {
        std::fs::write(model.join(file), shard(tensors)).unwrap();
        map.extend(tensors.iter().map(|(name, ..)| (*name, *file)));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let cid = provider.add_file(&model).await.unwrap().cid.to_string();

    let loaded = client.load_checkpoint_and_dispatch(&cid, "cpu", true).await.unwrap();
    let checkpoint = &loaded.checkpoint;
    assert_eq!((checkpoint.len(), checkpoint.shards.len()), (4, 2));
    assert_eq!(checkpoint.parameters(), 300 * 700 + 700 + 700 * 300);
    let head = checkpoint.get("head").unwrap();
    assert_eq!((&head.shape[..], &head.data[..]), (&[700, 300][..], &bytes(4 * 210_000, 5)[..]));
    assert_eq!((head.file.as_str(), head.dtype), (files[1].0, Dtype::F32));
    assert!(checkpoint.get("empty").unwrap().data.is_empty() && checkpoint.get("tail").is_none());
    assert!(checkpoint.first_shard_time <= checkpoint.load_time);
    assert_eq!(loaded.transfer.source, Source::P2p);

    // One file of it, by its path, works as well.
    let one = client.load_checkpoint_and_dispatch(&format!("{cid}/{}", files[0].0), "cpu", true).await.unwrap();
    assert_eq!(one.checkpoint.len(), 2);

    let refused = client.load_checkpoint_and_dispatch(&cid, "cuda:0", true).await.unwrap_err();
    assert!(matches!(refused, AccelerateError::Checkpoint(CheckpointError::Device { .. })), "{refused}");
    client.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_what_it_says_is_refused_before_its_tensors() {
    let (dir, provider, client) = pair().await;
    let good = shard(&[("a", vec![10], 1)]);
    let mut huge_header = good.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "too few for a header"),
        ("header longer than the file", huge_header, "its header says"),
        ("cut off", good[..good.len() - 1].to_vec(), "its tensors are 40 bytes long"),
        ("not json", [8u64.to_le_bytes().to_vec(), b"no json!".to_vec()].concat(), "not a safetensors file"),
    ];
    for (name, content, expected) in cases {
        let file = dir.path().join("case.safetensors");
        std::fs::write(&file, content).unwrap();
        let cid = provider.add_file(&file).await.unwrap().cid.to_string();
        let error = client.load_checkpoint_and_dispatch(&cid, "cpu", true).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }

    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("readme.md"), "no weights").unwrap();
    let cid = provider.add_file(&model).await.unwrap().cid.to_string();
    let error = client.load_checkpoint_and_dispatch(&cid, "cpu", true).await.unwrap_err();
    assert!(matches!(error, AccelerateError::Checkpoint(CheckpointError::NoShards { .. })), "{error}");

    std::fs::write(model.join("a.safetensors"), &good).unwrap();
    std::fs::write(model.join("b.safetensors"), &good).unwrap();
    let cid = provider.add_file(&model).await.unwrap().cid.to_string();
    let error = client.load_checkpoint_and_dispatch(&cid, "cpu", true).await.unwrap_err();
    assert!(matches!(error, AccelerateError::Checkpoint(CheckpointError::Twice { .. })), "{error}");

    let index = serde_json::json!({ "weight_map": { "a": "b.safetensors", "lost": "b.safetensors" } });
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let cid = provider.add_file(&model).await.unwrap().cid.to_string();
    let error = client.load_checkpoint_and_dispatch(&cid, "cpu", true).await.unwrap_err();
    assert!(matches!(error, AccelerateError::Checkpoint(CheckpointError::MissingTensor { .. })), "{error}");
    client.stop().await;
    provider.stop().await;
}
