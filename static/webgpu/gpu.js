// The device, and how the lab waits for it. Every absence has its own kind and its own words.
import { pause } from "./stats.js";

// What ends a run. `kind` is one of the server's (src/webgpu/submission.rs, FailureKind).
export class LabError extends Error {
  constructor(kind, message) { super(message); this.kind = kind; }
}

const LIMITS = ["maxBufferSize", "maxStorageBufferBindingSize", "maxStorageBuffersPerShaderStage", "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup", "maxComputeWorkgroupSizeX", "maxComputeWorkgroupSizeY", "maxComputeWorkgroupSizeZ", "maxComputeWorkgroupsPerDimension"];

// Why there is no navigator.gpu, or null when there is.
export function absence() {
  if (navigator.gpu) return null;
  if (!globalThis.isSecureContext) {
    return new LabError("insecure-context", "This page is not a secure context, so the browser hides WebGPU: open it by https or as http://localhost or http://127.0.0.1.");
  }
  return new LabError("no-webgpu", "This browser has no WebGPU (no navigator.gpu). Chrome and Edge 113, Safari 26 and Firefox 141 or later have it; in Firefox on Linux, dom.webgpu.enabled switches it on.");
}

export async function open(fault) {
  const missing = absence();
  if (missing) throw missing;
  // The fault asks for a feature level that no specification names: by WebGPU's §4.2 there is no adapter for it.
  const adapter = fault === "adapter" ? await noAdapter() : await navigator.gpu.requestAdapter();
  if (!adapter) {
    throw new LabError("no-adapter", "The browser has WebGPU but offers no adapter: no usable GPU or driver, or the driver is on the browser's blocklist.");
  }
  const timestamps = adapter.features.has("timestamp-query");
  let device;
  try {
    device = await adapter.requestDevice({ requiredFeatures: timestamps ? ["timestamp-query"] : [] });
  } catch (error) {
    throw new LabError("no-device", `The adapter gave no device: ${error.message}`);
  }
  return new Gpu(adapter, device, timestamps);
}

async function noAdapter() {
  try { return await navigator.gpu.requestAdapter({ featureLevel: "tidegate-fault" }) && null; } catch { return null; }
}

export function describe(adapter) {
  const info = adapter.info ?? {};
  return {
    vendor: info.vendor ?? "", architecture: info.architecture ?? "", device: info.device ?? "", description: info.description ?? "",
    driver: "", backend: "webgpu", is_fallback: info.isFallbackAdapter ?? adapter.isFallbackAdapter ?? null, is_cpu: null,
    timestamp_query: adapter.features.has("timestamp-query"),
    features: [...adapter.features].sort().slice(0, 90),
    limits: Object.fromEntries(LIMITS.filter((name) => typeof adapter.limits[name] === "number").map((name) => [name, adapter.limits[name]])),
  };
}

export class Gpu {
  // Firefox resolves mapAsync on a 100 ms timer unless something is submitted meanwhile (bug 1870699).
  #nudges = /Firefox\//.test(navigator.userAgent);

  constructor(adapter, device, timestamps) {
    this.adapter = adapter;
    this.device = device;
    this.timestamps = timestamps;
    this.loss = null;
    this.waitMethod = this.#nudges ? "map+submit" : "map";
    this.lost = device.lost.then((info) => {
      this.loss = new LabError("device-lost", `The GPU device was lost (${info.reason || "unknown"})${info.message ? `: ${info.message}` : ""}. Reload the page to try again; a driver reset, a suspended machine or a closed browser process is the usual cause.`);
      return this.loss;
    });
  }

  // The value, or the loss of the device, whichever is first: some browsers leave a promise of a lost device open.
  async orLost(promise) {
    if (this.loss) throw this.loss;
    const first = await Promise.race([promise.then((value) => ({ value }), (error) => ({ error })), this.lost.then((error) => ({ error }))]);
    if (!("error" in first)) return first.value;
    // A rejection because of the loss may arrive before the loss itself is told.
    if (!(first.error instanceof LabError)) await Promise.race([this.lost, pause(50)]);
    throw this.loss ?? first.error;
  }

  // Runs `make` in an error scope; what the device refuses becomes an error of ours.
  async checked(make) {
    this.device.pushErrorScope("out-of-memory");
    this.device.pushErrorScope("validation");
    let value, thrown;
    try { value = await this.orLost(Promise.resolve().then(make)); } catch (error) { thrown = error; }
    const errors = await this.orLost(Promise.all([this.device.popErrorScope(), this.device.popErrorScope()]));
    const refused = errors.find(Boolean);
    // A lost device refuses everything, and Firefox tells of the refusal first and of the loss up to 100 ms later.
    if (thrown || refused) await Promise.race([this.lost, pause(400)]);
    if (this.loss) throw this.loss;
    if (thrown instanceof LabError) throw thrown;
    if (refused || thrown) throw new LabError("validation", `The browser refused it: ${(refused ?? thrown).message}`.slice(0, 900));
    return value;
  }

  // Until a mapping is there.
  async mapped(buffer) {
    let done = false;
    const mapping = buffer.mapAsync(GPUMapMode.READ).finally(() => { done = true; });
    if (this.#nudges) (async () => { while (!done && !this.loss) { this.device.queue.submit([]); await pause(1); } })();
    await this.orLost(mapping);
  }

  buffer(size, usage, data) {
    const buffer = this.device.createBuffer({ size: Math.ceil(size / 4) * 4, usage });
    if (data) this.device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }

  // A module and its pipeline; times of both. The module's own errors are in the pipeline's, or in its messages.
  async pipeline(source) {
    const started = performance.now();
    const module = this.device.createShaderModule({ code: source });
    const info = await this.orLost(module.getCompilationInfo());
    const compiled = performance.now();
    const wrong = info.messages.find((message) => message.type === "error");
    if (wrong) throw new LabError("validation", `The shader does not compile: line ${wrong.lineNum}: ${wrong.message}`.slice(0, 900));
    const pipeline = await this.orLost(this.device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } }));
    return { pipeline, shader: compiled - started, creation: performance.now() - compiled };
  }
}
