// Medians and clocks. No import, no page: the same in a test.

export const median = (values) => quantile(values, 0.5);
export const p95 = (values) => quantile(values, 0.95);

// The smallest value with at least that share of the samples at or below it; never under the median.
function quantile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  if (share === 0.5 && sorted.length % 2 === 0) return (sorted[sorted.length / 2 - 1] + sorted[sorted.length / 2]) / 2;
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

// The smallest step of performance.now(): browsers coarsen it to 5 us or 100 us, Firefox to 1 ms, by isolation.
export function timerResolution() {
  let least = Infinity;
  const end = performance.now() + 60;
  for (let last = performance.now(); last < end;) {
    const now = performance.now();
    if (now > last) { least = Math.min(least, now - last); last = now; }
  }
  return Number.isFinite(least) ? least : null;
}

// Waits without the 4 ms that browsers put on nested timers: a timer started from a message is not nested.
export function pause(ms) {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => { channel.port1.close(); if (ms > 0) setTimeout(resolve, ms); else resolve(); };
    channel.port2.postMessage(0);
  });
}
