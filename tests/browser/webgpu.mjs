// Runs the WebGPU lab in one real browser and reports what the page said. Driven by tests/live/webgpu.py.
//
//   ADMIN=http://127.0.0.1:8090 BROWSER=chromium|firefox [QUERY=?fault=lost] [GPU=no] [MODEL=CID] [OUT=DIR] node webgpu.mjs
//
// Prints one JSON object: {state, status, stored, copied, console}. Exit code 1 when the page itself is at fault.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { launch } from "./browsers.mjs";

const admin = process.env.ADMIN.replace(/\/$/, "");
const kind = process.env.BROWSER ?? "chromium";
const gpu = process.env.GPU !== "no";
const LIMIT_MS = 240_000;
const started = await launch(kind, { gpu });
const { browser } = started;
const wrong = [];
let answer;
try {
  const page = await browser.newPage();
  page.on("console", (message) => { if (message.type() === "error") wrong.push(message.text()); });
  page.on("pageerror", (error) => wrong.push(String(error)));
  await page.goto(`${admin}/webgpu${process.env.QUERY ?? ""}`, { waitUntil: "load" });
  await page.waitForFunction(() => document.querySelector("[data-lab]")?.dataset.state === "ready", { timeout: 20_000 });
  if (process.env.MODEL) await page.$eval("[data-lab-cid]", (field, cid) => { field.value = cid; }, process.env.MODEL);
  await page.click("[data-lab-run]");
  if (process.env.CANCEL) {
    await page.waitForFunction(() => document.querySelector("[data-lab-bar]").value > 1, { timeout: 30_000 });
    await page.click("[data-lab-cancel]");
  }
  await page.waitForFunction(() => ["done", "failed"].includes(document.querySelector("[data-lab]").dataset.state), { timeout: LIMIT_MS });
  answer = await page.evaluate(() => ({
    state: document.querySelector("[data-lab]").dataset.state,
    stored: document.querySelector("[data-lab]").dataset.stored,
    status: document.querySelector("[data-lab-status]").textContent,
    copied: JSON.parse(document.querySelector("[data-lab-copy]").dataset.copy),
    again: document.querySelector("[data-lab-run]").textContent,
    isolated: globalThis.crossOriginIsolated,
  }));
  if (process.env.OUT) await shots(page);
} finally {
  await started.close();
}
console.log(JSON.stringify({ ...answer, console: wrong }));

// The stored results, and the page as it is without scripts.
async function shots(ran) {
  await mkdir(process.env.OUT, { recursive: true });
  await ran.screenshot({ path: join(process.env.OUT, `ran-${kind}.png`), fullPage: true });
  const page = await browser.newPage();
  for (const width of [375, 1440]) {
    for (const theme of ["light", "dark"]) {
      await page.setViewport({ width, height: 900, deviceScaleFactor: 1 });
      if (kind !== "firefox") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
      await page.goto(`${admin}/webgpu`, { waitUntil: "load" });
      const sideways = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (sideways > 0) wrong.push(`scrolls sideways by ${sideways} px at ${width}`);
      await page.screenshot({ path: join(process.env.OUT, `webgpu-${width}-${theme}.png`), fullPage: true });
      if (kind === "firefox") break;
    }
  }
  await page.close();
}
