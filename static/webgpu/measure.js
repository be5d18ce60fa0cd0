// Compile times, first inference, and the sweep of workgroup shapes. Each output is compared with the CPU reference.
import { LabError } from "./gpu.js";
import { median, p95 } from "./stats.js";
import { SWEEP, maxError, specialise } from "./workloads.js";

const SAMPLES = 10;
const WARM_UPS = 2;
// A batch is long against a clock of 1 ms.
const BATCH_MS = 10;
const MAX_DISPATCHES = 4096;
const COMPILE_SAMPLES = 3;
const COMPILE_PIPELINES = 6;
const START_SAMPLES = 3;
const SENTINEL = 1e30;

// New at every use within the page and most likely across pages: 31 random bits, then up by one.
let lastSalt = crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
const salt = () => { lastSalt = (lastSalt % 0x7fffffff) + 1; return lastSalt; };

// A workload with its buffers on the device.
export class Task {
  constructor(gpu, workload, source) {
    Object.assign(this, { gpu, workload, source });
    const { STORAGE, COPY_DST, COPY_SRC, UNIFORM, MAP_READ, QUERY_RESOLVE } = GPUBufferUsage;
    this.inputs = workload.inputs.map((data) => gpu.buffer(data.byteLength, STORAGE | COPY_DST, data));
    this.bytes = workload.reference.length * 4;
    this.output = gpu.buffer(this.bytes, STORAGE | COPY_SRC | COPY_DST);
    this.params = gpu.buffer(16, UNIFORM | COPY_DST, new Uint32Array([0, 0, 0, 0]));
    this.readback = gpu.buffer(this.bytes, MAP_READ | COPY_DST);
    this.blank = new Float32Array(workload.reference.length).fill(SENTINEL);
    if (gpu.timestamps) {
      this.queries = gpu.device.createQuerySet({ type: "timestamp", count: 2 });
      this.stamps = gpu.buffer(16, QUERY_RESOLVE | COPY_SRC);
      this.stampsBack = gpu.buffer(16, MAP_READ | COPY_DST);
    }
  }

  text(shape, fresh) {
    return specialise(this.source, shape, fresh);
  }

  bind(pipeline) {
    const entries = [...this.inputs, this.output, this.params].map((buffer, binding) => ({ binding, resource: { buffer } }));
    return this.gpu.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  }

  // Encodes `count` dispatches and the copy back; what is submitted is timed from outside.
  submit(pipeline, group, shape, count, stamped) {
    const { device } = this.gpu;
    const encoder = device.createCommandEncoder();
    const timing = stamped && this.queries ? { timestampWrites: { querySet: this.queries, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } } : {};
    const pass = encoder.beginComputePass(timing);
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    for (let i = 0; i < count; i++) pass.dispatchWorkgroups(...this.workload.grid(shape));
    pass.end();
    if (stamped && this.queries) {
      encoder.resolveQuerySet(this.queries, 0, 2, this.stamps, 0);
      encoder.copyBufferToBuffer(this.stamps, 0, this.stampsBack, 0, 16);
    }
    encoder.copyBufferToBuffer(this.output, 0, this.readback, 0, this.bytes);
    device.queue.submit([encoder.finish()]);
  }

  async result() {
    await this.gpu.mapped(this.readback);
    const values = new Float32Array(this.readback.getMappedRange().slice(0));
    this.readback.unmap();
    return values;
  }

  // Milliseconds by the GPU's clock, or null where it gave none (0 or backwards is none).
  async stampedMs() {
    if (!this.queries) return null;
    await this.gpu.mapped(this.stampsBack);
    const [start, end] = new BigUint64Array(this.stampsBack.getMappedRange().slice(0));
    this.stampsBack.unmap();
    return end > start ? Number(end - start) / 1e6 : null;
  }

  // The output is overwritten first, so that an old result cannot pass for a new one.
  async verify(pipeline, shape) {
    this.gpu.device.queue.writeBuffer(this.output, 0, this.blank);
    const started = performance.now();
    this.submit(pipeline, this.bind(pipeline), shape, 1, false);
    const values = await this.result();
    return { first: performance.now() - started, error: maxError(values, this.workload.reference) };
  }

  destroy() {
    for (const buffer of [...this.inputs, this.output, this.params, this.readback, this.stamps, this.stampsBack]) buffer?.destroy();
    this.queries?.destroy();
  }
}

// One workload with one shape.
async function variant(task, shape, step) {
  const row = { workload: task.workload.name, workgroup: shape.name, samples: 0, dispatches: 0, verified: false };
  try {
    const { pipeline, shader, creation } = await task.gpu.checked(() => task.gpu.pipeline(task.text(shape, salt())));
    Object.assign(row, { shader_compile_ms: shader, pipeline_ms: creation });
    const { first, error } = await task.gpu.checked(() => task.verify(pipeline, shape));
    Object.assign(row, { first_ms: first, max_error: error });
    const group = task.bind(pipeline);
    let count = 1;
    const once = async (stamped) => {
      const started = performance.now();
      task.submit(pipeline, group, shape, count, stamped);
      await task.gpu.mapped(task.readback);
      const wall = performance.now() - started;
      task.readback.unmap();
      return { wall: wall / count, gpu: stamped ? await task.stampedMs() : null };
    };
    for (let warm = 0; warm < WARM_UPS; warm++) {
      const { wall } = await once(false);
      while (wall * count < BATCH_MS && count < MAX_DISPATCHES) count *= 2;
    }
    const walls = [], gpus = [];
    for (let i = 0; i < SAMPLES; i++) {
      step();
      const { wall, gpu } = await once(true);
      walls.push(wall);
      if (gpu !== null) gpus.push(gpu / count);
    }
    Object.assign(row, { samples: SAMPLES, dispatches: count, median_ms: median(walls), p95_ms: p95(walls), gpu_ms: gpus.length === SAMPLES ? median(gpus) : null });
    if (error === null || error > task.workload.tolerance) {
      row.error = error === null ? "the output holds values that are no numbers" : `the output differs from the CPU reference by ${error.toPrecision(3)}, more than ${task.workload.tolerance}`;
    } else row.verified = true;
  } catch (error) {
    if (error.kind === "device-lost" || error.kind === "cancelled") throw error;
    row.error = String(error.message ?? error).replace(/\s+/g, " ").slice(0, 900);
    row.kind = error.kind ?? "other";
  }
  return row;
}

export async function sweep(tasks, progress, rows) {
  for (const task of tasks) {
    for (const shape of SWEEP) {
      progress(`${task.workload.name} with ${shape.name}`);
      const row = await variant(task, shape, () => progress());
      const { kind, ...kept } = row;
      rows.push(kept);
      if (kind === "validation") throw new LabError(kind, `${row.workload} with ${row.workgroup}: ${row.error}`);
    }
  }
}

// Cold, cached, one by one, all at once. The shape is one for all, so that only the way of making differs.
export async function compileTimes(task, progress) {
  const { gpu } = task, shape = SWEEP[0];
  const cold = [], cached = [], sequential = [], parallel = [];
  for (let i = 0; i < COMPILE_SAMPLES; i++) {
    progress(`compiling, ${i + 1} of ${COMPILE_SAMPLES}`);
    const source = task.text(shape, salt());
    for (const list of [cold, cached]) {
      const made = await gpu.checked(() => gpu.pipeline(source));
      const { first } = await gpu.checked(() => task.verify(made.pipeline, shape));
      list.push({ ...made, first });
    }
    const several = () => Array.from({ length: COMPILE_PIPELINES }, () => task.text(shape, salt()));
    let started = performance.now();
    for (const text of several()) await gpu.checked(() => gpu.pipeline(text));
    sequential.push(performance.now() - started);
    progress();
    started = performance.now();
    await gpu.checked(() => Promise.all(several().map((text) => gpu.pipeline(text))));
    parallel.push(performance.now() - started);
  }
  const single = (mode, list) => ({
    mode, pipelines: 1, samples: list.length, shader_ms: median(list.map((one) => one.shader)),
    pipeline_ms: median(list.map((one) => one.creation)), p95_ms: p95(list.map((one) => one.creation)), first_dispatch_ms: median(list.map((one) => one.first)),
  });
  const many = (mode, list) => ({ mode, pipelines: COMPILE_PIPELINES, samples: list.length, pipeline_ms: median(list), p95_ms: p95(list) });
  return [single("cold", cold), single("cached", cached), many("sequential", sequential), many("parallel", parallel)];
}

// The first inference, front end then attention, results on the CPU: pipelines made before, and made at first use.
export async function firstInference(tasks, progress) {
  const { gpu } = tasks[0], shape = SWEEP[0];
  const found = { precompiled: [], "on-demand": [] };
  const make = (sources) => gpu.checked(() => Promise.all(sources.map((text) => gpu.pipeline(text))));
  const infer = async (made) => {
    for (const [i, task] of tasks.entries()) task.submit(made[i].pipeline, task.bind(made[i].pipeline), shape, 1, false);
    const values = [];
    for (const task of tasks) values.push(await task.result());
    return values;
  };
  for (let i = 0; i < START_SAMPLES; i++) {
    // The order changes, so that neither is always the warmer one.
    for (const mode of i % 2 ? ["on-demand", "precompiled"] : ["precompiled", "on-demand"]) {
      progress(`first inference, ${mode}`);
      const sources = tasks.map((task) => task.text(shape, salt()));
      for (const task of tasks) gpu.device.queue.writeBuffer(task.output, 0, task.blank);
      const begun = performance.now();
      let made = mode === "precompiled" ? await make(sources) : null;
      const asked = performance.now();
      made ??= await make(sources);
      const values = await gpu.checked(() => infer(made));
      const first = performance.now() - asked;
      const again = performance.now();
      await gpu.checked(() => infer(made));
      found[mode].push({
        prepare: asked - begun, first, next: performance.now() - again,
        shader: Math.max(...made.map((one) => one.shader)), creation: Math.max(...made.map((one) => one.creation)),
        errors: values.map((value, at) => maxError(value, tasks[at].workload.reference)),
      });
    }
  }
  return Object.entries(found).map(([mode, list]) => {
    const of = (name) => list.map((one) => one[name]);
    const right = list.every((one) => one.errors.every((error, at) => error !== null && error <= tasks[at].workload.tolerance));
    const errors = list.flatMap((one) => one.errors);
    return {
      mode, samples: list.length, prepare_ms: median(of("prepare")), shader_ms: median(of("shader")), pipeline_ms: median(of("creation")),
      first_ms: median(of("first")), p95_ms: p95(of("first")), next_ms: median(of("next")),
      max_error: errors.includes(null) ? null : Math.max(...errors), verified: right,
    };
  });
}
