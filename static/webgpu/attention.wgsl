// Attention of a small speech model: 6 heads of 64 over 64 positions, softmax(Q K^T / 8) V, all f32.
// A workgroup makes WG_Y * WG_Z queries of one head with WG_X lanes each; scores stay in workgroup memory.
// The lab replaces the four constants below by text; as it stands the file is a valid shader.
const WG_X: u32 = 64u;
const WG_Y: u32 = 1u;
const WG_Z: u32 = 1u;
const SALT: u32 = 1u;

const QUERIES: u32 = WG_Y * WG_Z;
const HEADS: u32 = 6u;
const POSITIONS: u32 = 64u;
const WIDTH: u32 = 64u;
const SCALE: f32 = 0.125;

struct Params {
  items: u32,
  // Always 0; see log_mel.wgsl.
  guard: u32,
  pad_0: u32,
  pad_1: u32,
}

// Each [head][position][width].
@group(0) @binding(0) var<storage, read> queries: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<f32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> scores: array<f32, QUERIES * POSITIONS>;
var<workgroup> partial: array<f32, QUERIES * WG_X>;

@compute @workgroup_size(WG_X, WG_Y, WG_Z)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  if (params.guard == SALT) {
    return;
  }
  let lane = local.x;
  let row = local.y + local.z * WG_Y;
  let position = group.x * QUERIES + row;
  let head = group.y * POSITIONS * WIDTH;
  let query = head + position * WIDTH;
  var highest = -3.0e38;
  for (var key = lane; key < POSITIONS; key = key + WG_X) {
    let at = head + key * WIDTH;
    var dot = 0.0;
    for (var i = 0u; i < WIDTH; i = i + 1u) {
      dot = dot + queries[query + i] * keys[at + i];
    }
    let score = dot * SCALE;
    scores[row * POSITIONS + key] = score;
    highest = max(highest, score);
  }
  partial[row * WG_X + lane] = highest;
  workgroupBarrier();
  for (var step = WG_X / 2u; step > 0u; step = step / 2u) {
    if (lane < step) {
      partial[row * WG_X + lane] = max(partial[row * WG_X + lane], partial[row * WG_X + lane + step]);
    }
    workgroupBarrier();
  }
  let greatest = partial[row * WG_X];
  workgroupBarrier();
  var sum = 0.0;
  for (var key = lane; key < POSITIONS; key = key + WG_X) {
    let weight = exp(scores[row * POSITIONS + key] - greatest);
    scores[row * POSITIONS + key] = weight;
    sum = sum + weight;
  }
  partial[row * WG_X + lane] = sum;
  workgroupBarrier();
  for (var step = WG_X / 2u; step > 0u; step = step / 2u) {
    if (lane < step) {
      partial[row * WG_X + lane] = partial[row * WG_X + lane] + partial[row * WG_X + lane + step];
    }
    workgroupBarrier();
  }
  let total = partial[row * WG_X];
  for (var i = lane; i < WIDTH; i = i + WG_X) {
    var mixed = 0.0;
    for (var key = 0u; key < POSITIONS; key = key + 1u) {
      mixed = mixed + scores[row * POSITIONS + key] * values[head + key * WIDTH + i];
    }
    result[query + i] = mixed / total;
  }
}
