// A sharded model from the gateway into GPU buffers: whole files and ranges, 1, 2, 4 and 8 at a time.
import { LabError } from "./gpu.js";
import { median, p95 } from "./stats.js";

const STREAMS = [1, 2, 4, 8];
const SAMPLES = 3;
const RANGE_BYTES = 512 * 1024;
const MAX_BYTES = 512 * 1024 * 1024;
const INDEX = "model.safetensors.index.json";

export async function loads(gpu, gateway, cid, signal, progress) {
  const model = await describeModel(gateway, cid, signal);
  const passes = [];
  progress("model: the first pass");
  passes.push(await way(gpu, model, "files", 1, "first", 1, signal, progress));
  for (const mode of ["files", "ranges"]) {
    for (const streams of STREAMS) {
      progress(`model: ${mode}, ${streams} at a time`);
      passes.push(await way(gpu, model, mode, streams, "warm", SAMPLES, signal, progress));
    }
  }
  const timed = performance.getEntriesByType("resource").findLast((entry) => entry.name.startsWith(`${model.base}/`) && entry.nextHopProtocol);
  return {
    cid, name: model.name, format: "safetensors", family: model.family, parameters_million: model.parameters / 1e6,
    files: model.shards.length, bytes: model.bytes, protocol: timed?.nextHopProtocol || null, passes,
  };
}

async function ask(url, options) {
  let response;
  try {
    response = await fetch(url, { mode: "cors", credentials: "omit", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new LabError("load", `The gateway did not answer for ${url}: ${error.message}`);
  }
  if (!response.ok) throw new LabError("load", `The gateway answered ${response.status} for ${url}.`);
  return response;
}

// The index, the shards' sizes and hashes; each shard's header is read by range and its sizes are checked.
async function describeModel(gateway, cid, signal) {
  const base = `${gateway}/ipfs/${encodeURIComponent(cid)}`;
  const index = await (await ask(`${base}/${INDEX}`, { signal })).json().catch((error) => { throw error.kind ? error : new LabError("load", `${INDEX} is no JSON: ${error.message}`); });
  const names = [...new Set(Object.values(index.weight_map ?? {}))].filter((name) => /^[\w.-]+$/.test(name)).sort();
  if (!names.length) throw new LabError("load", `${INDEX} names no shards.`);
  const shards = [];
  let parameters = 0;
  for (const name of names) {
    const url = `${base}/${encodeURIComponent(name)}`;
    const head = await ask(url, { signal, headers: { Range: "bytes=0-7" } });
    const size = Number(/\/(\d+)$/.exec(head.headers.get("content-range") ?? "")?.[1]);
    const length = Number(new DataView(await head.arrayBuffer()).getBigUint64(0, true));
    if (!(length > 1 && length < 100e6 && size > length + 8)) throw new LabError("load", `${name} is no safetensors file.`);
    const header = await (await ask(url, { signal, headers: { Range: `bytes=8-${length + 7}` } })).json();
    const tensors = Object.entries(header).filter(([key]) => key !== "__metadata__").map(([, tensor]) => tensor);
    const end = Math.max(...tensors.map((tensor) => tensor.data_offsets[1]));
    if (end + length + 8 !== size) throw new LabError("load", `${name} is ${size} bytes but its header describes ${end + length + 8}.`);
    for (const tensor of tensors) parameters += tensor.shape.reduce((product, n) => product * n, 1);
    shards.push({ name, url, size, sha256: index.metadata?.sha256?.[name] ?? null });
  }
  const bytes = shards.reduce((sum, shard) => sum + shard.size, 0);
  if (bytes > MAX_BYTES) throw new LabError("load", `The model has ${bytes} bytes; the lab loads at most ${MAX_BYTES}.`);
  const text = (value, instead) => (typeof value === "string" && value.trim() ? value.trim().slice(0, 100) : instead);
  return { base, shards, bytes, parameters, name: text(index.metadata?.name, `${cid.slice(0, 12)}…`), family: text(index.metadata?.family, null) };
}

// One way of loading, several times.
async function way(gpu, model, mode, streams, cache, samples, signal, progress) {
  const walls = [], firsts = [], alls = [];
  let requests = 0, verified = true;
  for (let i = 0; i < samples; i++) {
    progress();
    const once = await pass(gpu, model, mode, streams, signal);
    walls.push(once.wall); firsts.push(once.first); alls.push(once.all);
    requests = once.requests;
    verified &&= once.verified;
  }
  return {
    mode, cache, streams, samples, requests, bytes: model.bytes, wall_ms: median(walls), first_on_gpu_ms: median(firsts),
    all_on_gpu_ms: median(alls), p95_ms: p95(walls), verified,
  };
}

async function pass(gpu, model, mode, streams, signal) {
  const { COPY_DST, COPY_SRC, STORAGE } = GPUBufferUsage;
  const shards = model.shards.map((shard) => ({ ...shard, bytes: new Uint8Array(Math.ceil(shard.size / 4) * 4), left: 0 }));
  const parts = [];
  for (const shard of shards) {
    const step = mode === "files" ? shard.size : RANGE_BYTES;
    for (let start = 0; start < shard.size; start += step) { parts.push({ shard, start, end: Math.min(start + step, shard.size) }); shard.left += 1; }
  }
  const requests = parts.length, buffers = [], uploads = [];
  const started = performance.now();
  let wall = 0, first = Infinity, all = 0;
  const upload = async (shard) => {
    const buffer = gpu.buffer(shard.size, STORAGE | COPY_DST | COPY_SRC, shard.bytes);
    buffers.push(buffer);
    shard.buffer = buffer;
    await onGpu(gpu, buffer);
    const now = performance.now() - started;
    first = Math.min(first, now);
    all = Math.max(all, now);
  };
  const worker = async () => {
    for (let part = parts.shift(); part; part = parts.shift()) {
      const { shard, start, end } = part;
      const ranged = end - start < shard.size;
      const response = await ask(shard.url, { signal, headers: ranged ? { Range: `bytes=${start}-${end - 1}` } : {} });
      if (ranged && response.status !== 206) throw new LabError("load", `The gateway answered ${response.status} to a range of ${shard.name}.`);
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (bytes.length !== end - start) throw new LabError("load", `${shard.name}: ${bytes.length} bytes came instead of ${end - start}.`);
      shard.bytes.set(bytes, start);
      shard.left -= 1;
      wall = Math.max(wall, performance.now() - started);
      if (shard.left === 0) uploads.push(upload(shard));
    }
  };
  try {
    await Promise.all(Array.from({ length: streams }, worker));
    await Promise.all(uploads);
    const verified = await check(gpu, shards);
    return { wall, first, all, requests, verified };
  } finally {
    await Promise.allSettled(uploads);
    for (const buffer of buffers) buffer.destroy();
  }
}

// Until the queue has done the write: the last word of the buffer, mapped.
async function onGpu(gpu, buffer) {
  const probe = gpu.buffer(4, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  const encoder = gpu.device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, buffer.size - 4, probe, 0, 4);
  gpu.device.queue.submit([encoder.finish()]);
  await gpu.mapped(probe);
  probe.destroy();
}

const hex = (digest) => Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");

// Every shard's hash against the index's; the first shard as it stands on the GPU. Without hashes nothing is verified.
async function check(gpu, shards) {
  for (const shard of shards) {
    if (!shard.sha256 || hex(await crypto.subtle.digest("SHA-256", shard.bytes.subarray(0, shard.size))) !== shard.sha256) return false;
  }
  const { buffer, size, sha256 } = shards[0];
  const back = gpu.buffer(size, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  const encoder = gpu.device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, back, 0, back.size);
  gpu.device.queue.submit([encoder.finish()]);
  await gpu.mapped(back);
  const digest = await crypto.subtle.digest("SHA-256", back.getMappedRange().slice(0, size));
  back.unmap();
  back.destroy();
  return hex(digest) === sha256;
}
