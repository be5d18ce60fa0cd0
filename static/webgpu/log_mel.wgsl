// Log-mel front end of a speech model: 16 kHz, windows of 25 ms every 10 ms, FFT of 512, 80 mel bands, natural log.
// One workgroup makes one frame. Twiddles and window come from the CPU in `tables`: WGSL's sin and cos may be wrong by
// 2^-11 on [-pi, pi], which is nats after the logarithm (WGSL specification, accuracy of built-in functions).
// The lab replaces the four constants below by text; as it stands the file is a valid shader.
const WG_X: u32 = 64u;
const WG_Y: u32 = 1u;
const WG_Z: u32 = 1u;
const SALT: u32 = 1u;

const THREADS: u32 = WG_X * WG_Y * WG_Z;
const WINDOW: u32 = 400u;
const HOP: u32 = 160u;
const FFT: u32 = 512u;
const HALF: u32 = 256u;
const STAGES: u32 = 9u;
const BINS: u32 = 257u;
const MELS: u32 = 80u;
const FLOOR: f32 = 1e-10;

struct Params {
  items: u32,
  // Always 0. The salt is never 0, so the branch below is never taken, but it is compiled: no cache knows the result.
  guard: u32,
  pad_0: u32,
  pad_1: u32,
}

@group(0) @binding(0) var<storage, read> audio: array<f32>;
// window[400], cos[256], sin[256]
@group(0) @binding(1) var<storage, read> tables: array<f32>;
// filters[80][257]
@group(0) @binding(2) var<storage, read> filters: array<f32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> re: array<f32, 512>;
var<workgroup> im: array<f32, 512>;

@compute @workgroup_size(WG_X, WG_Y, WG_Z)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if (params.guard == SALT) {
    return;
  }
  let frame = group.x;
  let start = frame * HOP;
  for (var i = lane; i < FFT; i = i + THREADS) {
    let from_index = reverseBits(i) >> (32u - STAGES);
    var sample = 0.0;
    if (from_index < WINDOW) {
      sample = audio[start + from_index] * tables[from_index];
    }
    re[i] = sample;
    im[i] = 0.0;
  }
  workgroupBarrier();
  for (var stage = 0u; stage < STAGES; stage = stage + 1u) {
    let half = 1u << stage;
    for (var i = lane; i < HALF; i = i + THREADS) {
      let k = i & (half - 1u);
      let a = ((i >> stage) << (stage + 1u)) + k;
      let b = a + half;
      let turn = k << (STAGES - 1u - stage);
      let c = tables[WINDOW + turn];
      let s = tables[WINDOW + HALF + turn];
      let x = re[b] * c + im[b] * s;
      let y = im[b] * c - re[b] * s;
      re[b] = re[a] - x;
      im[b] = im[a] - y;
      re[a] = re[a] + x;
      im[a] = im[a] + y;
    }
    workgroupBarrier();
  }
  for (var i = lane; i < BINS; i = i + THREADS) {
    re[i] = re[i] * re[i] + im[i] * im[i];
  }
  workgroupBarrier();
  for (var band = lane; band < MELS; band = band + THREADS) {
    var energy = 0.0;
    for (var bin = 0u; bin < BINS; bin = bin + 1u) {
      energy = energy + filters[band * BINS + bin] * re[bin];
    }
    result[frame * MELS + band] = log(max(energy, FLOOR));
  }
}
