//! The lab without a browser: the same WGSL, shapes, references and sweep on wgpu (feature `gpu`).
//!
//! Vulkan only, and only WebGPU's default limits, so that what runs here runs in a browser too. Blocking: call it
//! where waiting is allowed.

mod bench;
mod device;

use std::collections::BTreeMap;

use thiserror::Error;

pub use bench::run;

use super::{Adapter, Browser, Origin, Submission};

/// Why there is nothing to measure, or why it ended.
#[derive(Debug, Error)]
pub enum NativeError {
    #[error("no Vulkan adapter was found: {0}")]
    NoAdapter(#[from] wgpu::RequestAdapterError),
    #[error("the adapter gave no device: {0}")]
    NoDevice(#[from] wgpu::RequestDeviceError),
    #[error("the device refused it: {0}")]
    Refused(wgpu::Error),
    #[error("the device stopped answering: {0}")]
    Poll(#[from] wgpu::PollError),
    #[error("a result could not be read back: {0}")]
    Map(String),
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN;
    wgpu::Instance::new(descriptor)
}

/// Every adapter that this machine has.
pub fn adapters() -> Vec<Adapter> {
    let adapters = futures::executor::block_on(instance().enumerate_adapters(wgpu::Backends::VULKAN));
    adapters.iter().map(describe).collect()
}

fn choose() -> Result<wgpu::Adapter, NativeError> {
    let options =
        wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    Ok(futures::executor::block_on(instance().request_adapter(&options))?)
}

/// The name that browsers give a vendor (`GPUAdapterInfo.vendor`), by its number: of PCI, or of Vulkan's register from
/// 0x10000 on (`VkVendorId`).
fn vendor(id: u32) -> String {
    match id {
        0x1002 | 0x1022 => "amd",
        0x106b => "apple",
        0x10005 => "mesa",
        0x10de => "nvidia",
        0x13b5 => "arm",
        0x14e4 => "broadcom",
        0x1ae0 => "google",
        0x5143 => "qualcomm",
        0x8086 => "intel",
        _ => return format!("0x{id:04x}"),
    }
    .to_owned()
}

fn describe(adapter: &wgpu::Adapter) -> Adapter {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = adapter.features();
    let told = |name: &str, has: bool| has.then(|| name.to_owned());
    let limit = |name: &str, value: u64| (name.to_owned(), value as f64);
    Adapter {
        vendor: vendor(info.vendor),
        // A software adapter is known by its driver, as browsers tell `swiftshader`.
        architecture: if info.device_type == wgpu::DeviceType::Cpu { info.driver.clone() } else { String::new() },
        device: format!("0x{:04x}", info.device),
        description: info.name,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        backend: info.backend.to_string(),
        is_fallback: None,
        is_cpu: Some(info.device_type == wgpu::DeviceType::Cpu),
        timestamp_query: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        features: [
            told("timestamp-query", features.contains(wgpu::Features::TIMESTAMP_QUERY)),
            told("shader-f16", features.contains(wgpu::Features::SHADER_F16)),
            told("subgroups", features.contains(wgpu::Features::SUBGROUP)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        limits: BTreeMap::from([
            limit("maxBufferSize", limits.max_buffer_size),
            limit("maxComputeInvocationsPerWorkgroup", limits.max_compute_invocations_per_workgroup.into()),
            limit("maxComputeWorkgroupStorageSize", limits.max_compute_workgroup_storage_size.into()),
        ]),
    }
}

/// A run before anything is measured.
fn begun(adapter: Option<Adapter>) -> Submission {
    Submission {
        origin: Origin::Native,
        browser: Browser { name: "wgpu".to_owned(), version: Some(WGPU_VERSION.to_owned()) },
        os: Some(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        duration_ms: 0.0,
        adapter,
        timer_resolution_ms: None,
        wait_method: Some("poll".to_owned()),
        failure: None,
        compile: Vec::new(),
        start: Vec::new(),
        compute: Vec::new(),
        load: None,
    }
}

/// Of the crate that is compiled in; Cargo.lock is held to it by a test.
const WGPU_VERSION: &str = "30.0.1";

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_that_rows_name_is_the_one_compiled_in() {
        let lock = include_str!("../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"wgpu\"\nversion = \"{}\"", super::WGPU_VERSION)));
    }
}
