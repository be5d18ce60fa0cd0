//! A device, and a workload with its buffers on it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::NativeError;
use crate::webgpu::{Shader, Workgroup, Workload, reference};

/// Sources and tables of a workload in the order of its bindings, and what should come of them.
struct Inputs {
    buffers: Vec<Vec<f32>>,
    reference: Vec<f64>,
}

fn inputs(workload: Workload) -> Inputs {
    match workload {
        Workload::LogMel => {
            let audio = reference::audio();
            let reference = reference::log_mel(&audio);
            Inputs { buffers: vec![audio, reference::tables(), reference::filters()], reference }
        }
        Workload::Attention => {
            let qkv = reference::attention_inputs();
            let reference = reference::attention(&qkv);
            Inputs { buffers: qkv.into(), reference }
        }
    }
}

fn grid(workload: Workload, shape: Workgroup) -> (u32, u32) {
    match workload {
        Workload::LogMel => (reference::FRAMES as u32, 1),
        Workload::Attention => (reference::POSITIONS as u32 / (shape.y * shape.z), reference::HEADS as u32),
    }
}

pub struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub timestamps: bool,
}

/// Times of making one pipeline, in milliseconds.
pub struct Made {
    pub pipeline: wgpu::ComputePipeline,
    pub shader_ms: f64,
    pub pipeline_ms: f64,
}

impl Gpu {
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self, NativeError> {
        let timestamps = adapter.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let required_features = if timestamps { wgpu::Features::TIMESTAMP_QUERY } else { wgpu::Features::empty() };
        let descriptor = wgpu::DeviceDescriptor {
            required_features,
            required_limits: wgpu::Limits::default(),
            ..Default::default()
        };
        let (device, queue) = futures::executor::block_on(adapter.request_device(&descriptor))?;
        Ok(Self { device, queue, timestamps })
    }

    /// A module and its pipeline. One thread at a time: the device has one stack of error scopes.
    pub fn pipeline(&self, source: &str) -> Result<Made, NativeError> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = self.build(source);
        match futures::executor::block_on(scope.pop()) {
            Some(error) => Err(NativeError::Refused(error)),
            None => Ok(made),
        }
    }

    /// The same on any thread; what the device refuses ends that thread.
    pub fn build(&self, source: &str) -> Made {
        let started = Instant::now();
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let compiled = started.elapsed();
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        Made { pipeline, shader_ms: ms(compiled), pipeline_ms: ms(started.elapsed() - compiled) }
    }

    fn buffer(&self, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let descriptor = wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
        self.device.create_buffer(&descriptor)
    }

    /// Waits for all work and for the mapping of a buffer, gives its bytes, unmaps it.
    fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, NativeError> {
        let (done, mapped) = mpsc::sync_channel(1);
        buffer.map_async(wgpu::MapMode::Read, .., move |result| drop(done.send(result)));
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        let lost = |error: &dyn std::fmt::Display| NativeError::Map(error.to_string());
        mapped.recv().map_err(|error| lost(&error))?.map_err(|error| lost(&error))?;
        let bytes = buffer.get_mapped_range(..).map_err(|error| lost(&error))?.to_vec();
        buffer.unmap();
        Ok(bytes)
    }
}

/// A workload on the device.
pub struct Task<'a> {
    pub workload: Workload,
    gpu: &'a Gpu,
    inputs: Vec<wgpu::Buffer>,
    reference: Vec<f64>,
    output: wgpu::Buffer,
    params: wgpu::Buffer,
    readback: wgpu::Buffer,
    stamps: Option<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)>,
}

impl<'a> Task<'a> {
    pub fn new(gpu: &'a Gpu, workload: Workload) -> Self {
        use wgpu::BufferUsages as Usage;
        let Inputs { buffers, reference } = inputs(workload);
        let bytes = reference.len() as u64 * 4;
        let uploaded = buffers.iter().map(|data| {
            let buffer = gpu.buffer(data.len() as u64 * 4, Usage::STORAGE | Usage::COPY_DST);
            gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(data));
            buffer
        });
        let inputs = uploaded.collect();
        let params = gpu.buffer(16, Usage::UNIFORM | Usage::COPY_DST);
        gpu.queue.write_buffer(&params, 0, &[0; 16]);
        let stamps = gpu.timestamps.then(|| {
            let set = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 };
            let resolved = gpu.buffer(16, Usage::QUERY_RESOLVE | Usage::COPY_SRC);
            let back = gpu.buffer(16, Usage::MAP_READ | Usage::COPY_DST);
            (gpu.device.create_query_set(&set), resolved, back)
        });
        Self {
            workload,
            gpu,
            inputs,
            reference,
            output: gpu.buffer(bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST),
            params,
            readback: gpu.buffer(bytes, Usage::MAP_READ | Usage::COPY_DST),
            stamps,
        }
    }

    pub fn source(&self, shape: Workgroup, salt: u32) -> String {
        Shader::of(self.workload).specialised(shape, salt)
    }

    /// Encodes and submits `count` dispatches and the copy back.
    pub fn submit(&self, pipeline: &wgpu::ComputePipeline, shape: Workgroup, count: u32) {
        let device = &self.gpu.device;
        let buffers = self.inputs.iter().chain([&self.output, &self.params]);
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0u32..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let group = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
        let group = device.create_bind_group(&group);
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let timestamp_writes = self.stamps.as_ref().map(|(set, ..)| wgpu::ComputePassTimestampWrites {
                query_set: set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &group, &[]);
            let (x, y) = grid(self.workload, shape);
            for _ in 0..count {
                pass.dispatch_workgroups(x, y, 1);
            }
        }
        if let Some((set, resolved, back)) = &self.stamps {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, back, 0, 16);
        }
        encoder.copy_buffer_to_buffer(&self.output, 0, &self.readback, 0, self.reference.len() as u64 * 4);
        self.gpu.queue.submit([encoder.finish()]);
    }

    /// The output that is being copied back.
    pub fn result(&self) -> Result<Vec<f32>, NativeError> {
        Ok(bytemuck::pod_collect_to_vec(&self.gpu.read(&self.readback)?))
    }

    /// Milliseconds by the GPU's clock; `None` where it gave none.
    pub fn stamped_ms(&self) -> Result<Option<f64>, NativeError> {
        let Some((_, _, back)) = &self.stamps else { return Ok(None) };
        let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&self.gpu.read(back)?);
        let ticks = stamps[1].checked_sub(stamps[0]).filter(|ticks| *ticks > 0);
        Ok(ticks.map(|ticks| ticks as f64 * f64::from(self.gpu.queue.get_timestamp_period()) / 1e6))
    }

    /// Overwrites the output, so that an old result cannot pass for a new one.
    pub fn blank(&self) {
        let blank = vec![1e30f32; self.reference.len()];
        self.gpu.queue.write_buffer(&self.output, 0, bytemuck::cast_slice(&blank));
    }

    /// The greatest error of a result against the CPU reference.
    pub fn error(&self, result: &[f32]) -> f64 {
        reference::max_error(result, &self.reference)
    }
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
