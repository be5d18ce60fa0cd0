// The page: one button, progress, cancel; runs the measurements and posts them. Results are shown by the server.
import { LabError, absence, describe, open } from "./gpu.js";
import { loads } from "./load.js";
import { Task, compileTimes, firstInference, sweep } from "./measure.js";
import { timerResolution } from "./stats.js";
import { workloads } from "./workloads.js";

const root = document.querySelector("[data-lab]");
const $ = (name) => root.querySelector(`[data-lab-${name}]`);
// ?fault=shader|adapter|lost goes the way of a real fault, for tests and for the curious.
const fault = new URLSearchParams(location.search).get("fault");
const STEPS = 2 * 7 * 11 + 3 * 2 + 6 + 1 + 9 + 8 * 3;

let running = null;
let last = null;

$("run").hidden = false;
$("run").addEventListener("click", () => { if (!running) run().finally(() => { running = null; }); });
$("cancel").addEventListener("click", () => running?.abort());
const missing = absence();
tell(missing ? missing.message : "Ready. A run takes about a minute on a software adapter, seconds on a GPU; keep this tab in front.", missing ? "warn" : "");
root.dataset.state = "ready";

function tell(text, tone = "") {
  $("status").textContent = text;
  $("status").dataset.tone = tone;
}

function browser() {
  const brands = navigator.userAgentData?.brands?.filter(({ brand }) => !/not.?a.?brand/i.test(brand)) ?? [];
  const brand = brands.find(({ brand }) => brand !== "Chromium") ?? brands[0];
  if (brand) return { name: brand.brand.slice(0, 100), version: brand.version };
  const agent = navigator.userAgent;
  for (const [name, pattern] of [["Firefox", /Firefox\/([\d.]+)/], ["Edge", /Edg\/([\d.]+)/], ["Chromium", /Chrom(?:e|ium)\/([\d.]+)/], ["Safari", /Version\/([\d.]+).*Safari/]]) {
    const found = pattern.exec(agent);
    if (found) return { name, version: found[1] };
  }
  return { name: "unknown browser", version: null };
}

const system = () => (navigator.userAgentData?.platform || navigator.platform || "").slice(0, 100) || null;

async function run() {
  running = new AbortController();
  const { signal } = running;
  $("run").disabled = true;
  $("cancel").hidden = false;
  $("after").hidden = true;
  $("bar").hidden = false;
  $("bar").max = STEPS;
  $("bar").value = 0;
  root.dataset.state = "running";
  const started = performance.now();
  const found = { origin: "browser", browser: browser(), os: system(), duration_ms: 0, compile: [], start: [], compute: [] };
  const progress = (text) => {
    if (signal.aborted) throw new LabError("cancelled", "The run was cancelled.");
    if (text) tell(`Measuring: ${text}`);
    $("bar").value += 1;
  };
  let token = null;
  try {
    token = (await post("/api/v1/webgpu/runs", null)).token;
    await measure(found, signal, progress);
  } catch (error) {
    const kind = signal.aborted ? "cancelled" : error.kind ?? "other";
    const message = kind === "cancelled" ? "The run was cancelled." : error.message || String(error);
    found.failure = { kind, message: message.replace(/\s+/g, " ").trim().slice(0, 900) };
  }
  found.duration_ms = performance.now() - started;
  if (!found.failure && found.compute.some((row) => !row.verified)) {
    found.failure = { kind: "wrong-result", message: found.compute.find((row) => !row.verified).error };
  }
  last = found;
  let stored = null;
  if (token && found.failure?.kind !== "cancelled") stored = await post("/api/v1/webgpu/results", { token, run: found }).catch((error) => ({ error }));
  finish(found, stored, token);
}

async function measure(found, signal, progress) {
  found.timer_resolution_ms = timerResolution();
  progress("asking for an adapter");
  const gpu = await open(fault);
  const tasks = [];
  try {
    found.adapter = describe(gpu.adapter);
    found.wait_method = gpu.waitMethod;
    for (const workload of workloads()) {
      const response = await fetch(root.dataset[workload.name === "log-mel" ? "logMel" : "attention"]);
      let source = await response.text();
      // A type error that every compiler refuses.
      if (fault === "shader" && workload.name === "log-mel") source = source.replace("im[i] = 0.0;", "im[i] = vec2<f32>(0.0);");
      tasks.push(new Task(gpu, workload, source));
    }
    if (fault === "shader") await sweep(tasks, progress, found.compute);
    // What is unsalted is compiled first, so that later times hold no first-use cost of the process.
    progress("warming up");
    found.start = await firstInference(tasks, progress);
    if (fault === "lost") gpu.device.destroy();
    found.compile = await compileTimes(tasks[1], progress);
    await sweep(tasks, progress, found.compute);
    const cid = $("cid").value.trim();
    if (cid) found.load = await loads(gpu, root.dataset.gateway, cid.replace(/^\/?ipfs\//, ""), signal, progress);
  } finally {
    for (const task of tasks) task.destroy();
    gpu.device.destroy();
  }
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: body ? { "Content-Type": "application/json" } : {}, body: body && JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new LabError("other", answer.detail ?? answer.title ?? `the server answered ${response.status}`);
  return answer;
}

function finish(found, stored, token) {
  $("run").disabled = false;
  $("run").textContent = "Run again";
  $("cancel").hidden = true;
  $("bar").hidden = true;
  $("copy").dataset.copy = JSON.stringify(last, null, 2);
  $("after").hidden = false;
  const kept = stored && !stored.error;
  const good = found.compute.filter((row) => row.verified).length;
  let text;
  if (found.failure) text = found.failure.kind === "cancelled" ? "Cancelled; nothing was stored." : found.failure.message;
  else text = `Done in ${Math.round(found.duration_ms / 1000)} s: ${good} of ${found.compute.length} variants agree with the CPU reference.`;
  if (kept) text += ` Stored as run ${stored.test_id}${stored.is_simulated ? ", marked as a software adapter" : ""}.`;
  else if (stored?.error) text += ` The results could not be stored: ${stored.error.message}`;
  else if (!token) text += " No run token was given, so nothing was stored.";
  tell(text, found.failure ? "bad" : "ok");
  $("reload").hidden = !kept;
  root.dataset.state = found.failure ? "failed" : "done";
  root.dataset.stored = kept ? stored.submission_id : "";
}
