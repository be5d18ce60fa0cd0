// Shapes, inputs, tables and CPU references of the workloads, in f64. src/webgpu/reference.rs makes the same.

export const SWEEP = ["64x1x1", "128x1x1", "256x1x1", "8x8x1", "16x16x1", "128x2x1", "64x2x2"].map((name) => {
  const [x, y, z] = name.split("x").map(Number);
  return { name, x, y, z };
});

const RATE = 16000, WINDOW = 400, HOP = 160, FFT = 512, BINS = 257, MELS = 80, FRAMES = 100, FLOOR = 1e-10;
const HEADS = 6, POSITIONS = 64, WIDTH = 64;

// xorshift32 (Marsaglia 2003), -1..1.
function noise(seed) {
  let x = seed >>> 0 || 1;
  return () => {
    x ^= x << 13; x >>>= 0;
    x ^= x >>> 17;
    x ^= x << 5; x >>>= 0;
    return x / 2147483648 - 1;
  };
}

function audio() {
  const rustle = noise(20261123);
  return Float32Array.from({ length: (FRAMES - 1) * HOP + WINDOW }, (_, n) => {
    const t = n / RATE;
    const low = 0.4 * Math.sin(2 * Math.PI * (220 + 90 * t) * t);
    const high = 0.2 * Math.sin(2 * Math.PI * (1900 - 400 * t) * t);
    return low + high + 0.05 * rustle();
  });
}

const hann = () => Float64Array.from({ length: WINDOW }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / WINDOW));

function tables() {
  const half = FFT / 2, all = new Float32Array(WINDOW + FFT);
  all.set(hann());
  for (let k = 0; k < half; k++) {
    all[WINDOW + k] = Math.cos((2 * Math.PI * k) / FFT);
    all[WINDOW + half + k] = Math.sin((2 * Math.PI * k) / FFT);
  }
  return all;
}

function filters() {
  const mel = (hz) => 2595 * Math.log10(1 + hz / 700), hz = (m) => 700 * (10 ** (m / 2595) - 1);
  const edges = Array.from({ length: MELS + 2 }, (_, i) => hz((mel(RATE / 2) * i) / (MELS + 1)));
  const all = new Float32Array(MELS * BINS);
  for (let band = 0; band < MELS; band++) {
    const [low, peak, high] = edges.slice(band, band + 3);
    for (let bin = 0; bin < BINS; bin++) {
      const f = (bin * RATE) / FFT;
      all[band * BINS + bin] = Math.max(0, Math.min((f - low) / (peak - low), (high - f) / (high - peak)));
    }
  }
  return all;
}

// By the definition of the discrete Fourier transform: not the shader's way.
function logMel(samples, weights) {
  const window = hann(), out = new Float64Array(FRAMES * MELS);
  const cos = Float64Array.from({ length: FFT }, (_, k) => Math.cos((2 * Math.PI * k) / FFT));
  const sin = Float64Array.from({ length: FFT }, (_, k) => Math.sin((2 * Math.PI * k) / FFT));
  const part = new Float64Array(WINDOW), power = new Float64Array(BINS);
  for (let frame = 0; frame < FRAMES; frame++) {
    for (let n = 0; n < WINDOW; n++) part[n] = samples[frame * HOP + n] * window[n];
    for (let bin = 0; bin < BINS; bin++) {
      let re = 0, im = 0;
      for (let n = 0; n < WINDOW; n++) { const k = (bin * n) & (FFT - 1); re += part[n] * cos[k]; im -= part[n] * sin[k]; }
      power[bin] = re * re + im * im;
    }
    for (let band = 0; band < MELS; band++) {
      let energy = 0;
      for (let bin = 0; bin < BINS; bin++) energy += weights[band * BINS + bin] * power[bin];
      out[frame * MELS + band] = Math.log(Math.max(energy, FLOOR));
    }
  }
  return out;
}

function attention([queries, keys, values]) {
  const out = new Float64Array(HEADS * POSITIONS * WIDTH), weights = new Float64Array(POSITIONS);
  for (let head = 0; head < HEADS; head++) {
    for (let position = 0; position < POSITIONS; position++) {
      const q = (head * POSITIONS + position) * WIDTH;
      let highest = -Infinity, total = 0;
      for (let key = 0; key < POSITIONS; key++) {
        const k = (head * POSITIONS + key) * WIDTH;
        let dot = 0;
        for (let i = 0; i < WIDTH; i++) dot += queries[q + i] * keys[k + i];
        weights[key] = dot / Math.sqrt(WIDTH);
        highest = Math.max(highest, weights[key]);
      }
      for (let key = 0; key < POSITIONS; key++) { weights[key] = Math.exp(weights[key] - highest); total += weights[key]; }
      for (let i = 0; i < WIDTH; i++) {
        let mixed = 0;
        for (let key = 0; key < POSITIONS; key++) mixed += weights[key] * values[(head * POSITIONS + key) * WIDTH + i];
        out[q + i] = mixed / total;
      }
    }
  }
  return out;
}

// Each: the three inputs in binding order, the reference, the tolerance (the server holds the same), and the grid.
export function workloads() {
  const sound = audio(), mel = filters();
  const qkv = [11, 12, 13].map((seed) => {
    const next = noise(seed * 7919);
    return Float32Array.from({ length: HEADS * POSITIONS * WIDTH }, next);
  });
  return [
    { name: "log-mel", file: "log_mel.wgsl", inputs: [sound, tables(), mel], reference: logMel(sound, mel), tolerance: 5e-3, grid: () => [FRAMES, 1, 1] },
    { name: "attention", file: "attention.wgsl", inputs: qkv, reference: attention(qkv), tolerance: 1e-4, grid: (shape) => [POSITIONS / (shape.y * shape.z), HEADS, 1] },
  ];
}

// The greatest absolute difference; null (JSON has no infinity) when a value is no number.
export function maxError(result, reference) {
  if (result.length !== reference.length) return null;
  let worst = 0;
  for (let i = 0; i < result.length; i++) {
    const error = Math.abs(result[i] - reference[i]);
    if (!(error <= worst)) worst = error;
    if (Number.isNaN(worst)) return null;
  }
  return Number.isFinite(worst) ? worst : null;
}

// The source for one shape; a new salt makes every compiler cache miss (never 0: the shader compares it with a 0).
export function specialise(source, shape, salt) {
  const values = { WG_X: shape.x, WG_Y: shape.y, WG_Z: shape.z, SALT: salt };
  return Object.entries(values).reduce((text, [name, value]) => text.replace(new RegExp(`const ${name}: u32 = \\d+u;`), `const ${name}: u32 = ${value}u;`), source);
}
