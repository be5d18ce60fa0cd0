// Opens the admin pages in Chromium, phone and desktop, light and dark, and holds what a person would notice at once:
// nothing on the console, no request to anybody else, no sideways scrolling, content there with and without scripts.
//
//   ADMIN=http://127.0.0.1:8090 [OUT=screenshots] [CHROMIUM=/usr/lib/chromium/chromium] [PAGES=/,/retrievals] node pages.mjs
//
// The server runs already and may be empty or filled. Exit code 1 when a check fails; the screenshots are written anyway.
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import puppeteer from "puppeteer-core";

const admin = (process.env.ADMIN ?? "http://127.0.0.1:8090").replace(/\/$/, "");
const out = process.env.OUT ?? join(import.meta.dirname, "screenshots");
const executablePath = process.env.CHROMIUM ?? "/usr/lib/chromium/chromium";
const WIDTHS = [320, 375, 1440, 3840];
const SHOTS = new Set([375, 1440]);
const failures = [];
const check = (ok, what) => { if (!ok) { failures.push(what); console.error("FAIL", what); } };

await mkdir(out, { recursive: true });
const userDataDir = await mkdtemp(join(tmpdir(), "tidegate-browser-"));
const browser = await puppeteer.launch({
  executablePath, userDataDir, headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

// Pages to look at: those asked for, and one retrieval when there is one.
const paths = (process.env.PAGES ?? "/,/retrievals,/retrievals?outcome=timeout").split(",");
const list = await (await fetch(`${admin}/api/v1/retrievals?limit=1`)).json();
if (list.items?.length) paths.push(`/retrievals/${list.items[0].id}`);
const known = await (await fetch(`${admin}/peers?format=json&sort=in`)).json();
if (known.rows?.length) paths.push(`/peers/${known.rows[0].peer_id}`);

try {
  for (const path of paths) {
    for (const theme of ["light", "dark"]) {
      for (const width of WIDTHS) await look(path, theme, width);
    }
    await withoutScripts(path);
  }
  await live();
  await peers();
  await topology();
} finally {
  await browser.close();
  await rm(userDataDir, { recursive: true, force: true });
}
if (failures.length) { console.error(`${failures.length} failed`); process.exit(1); }
console.log(`ok: ${paths.length} pages, screenshots in ${out}`);

async function open(path, theme, width, scripts = true) {
  const page = await browser.newPage();
  const where = `${path} ${theme} ${width}${scripts ? "" : " without scripts"}`;
  page.on("console", (message) => { if (["error", "warn"].includes(message.type())) check(false, `${where}: console: ${message.text()}`); });
  page.on("pageerror", (error) => check(false, `${where}: ${error}`));
  page.on("request", (request) => { const url = request.url(); check(url.startsWith(admin) || url.startsWith("data:"), `${where}: asks ${url}`); });
  await page.setJavaScriptEnabled(scripts);
  await page.setViewport({ width, height: width < 600 ? 812 : 1000, deviceScaleFactor: 1 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
  const response = await page.goto(admin + path, { waitUntil: "load" });
  check(response.ok(), `${where}: status ${response.status()}`);
  return { page, where };
}

async function look(path, theme, width) {
  const { page, where } = await open(path, theme, width);
  const seen = await page.evaluate(() => ({
    scroll: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    heading: document.querySelector("h1")?.textContent ?? "",
    text: document.body.innerText,
    ground: getComputedStyle(document.body).backgroundColor,
    small: [...document.querySelectorAll("a, button")].filter((e) => e.checkVisibility() && !e.textContent.trim() && !e.getAttribute("aria-label")).length,
  }));
  check(seen.scroll <= 0, `${where}: scrolls sideways by ${seen.scroll} px`);
  check(seen.heading.trim().length > 0, `${where}: has no heading`);
  check(!/\bNaN\b|\bInfinity\b|undefined|\[object/.test(seen.text), `${where}: shows a figure that is none`);
  check(seen.small === 0, `${where}: ${seen.small} controls without a name`);
  const dark = Number(/\d+/.exec(seen.ground)[0]) < 64;
  check(dark === (theme === "dark"), `${where}: ground is ${seen.ground}`);
  if (SHOTS.has(width)) {
    const name = `${path === "/" ? "overview" : path.replace(/^\/peers\/.+/, "/peers/one").slice(1).replace(/[^a-z]+/g, "-").replace(/-$/, "") || "page"}${/\d/.test(path) ? "-one" : ""}-${width}-${theme}.png`;
    await page.screenshot({ path: join(out, name), fullPage: true });
  }
  await page.close();
}

async function withoutScripts(path) {
  const { page, where } = await open(path, "light", 1440, false);
  const text = await page.$eval("main", (main) => main.textContent.trim());
  check(text.length > 80, `${where}: says nothing`);
  await page.close();
}

// The Overview refreshes itself by htmx, pauses, keeps focus, and remembers the theme.
async function live() {
  const { page, where } = await open("/", "light", 1440);
  let partials = 0;
  page.on("request", (request) => { if (request.url().endsWith("/partials/overview")) partials += 1; });
  const focused = "a.more[href='/retrievals']";
  await page.focus(focused);
  await page.waitForRequest((request) => request.url().endsWith("/partials/overview"), { timeout: 10_000 });
  await page.waitForNetworkIdle({ idleTime: 300, timeout: 10_000 });
  check(await page.evaluate((s) => document.activeElement === document.querySelector(s), focused), `${where}: the swap took the focus`);
  await page.click("[data-action=pause]");
  await page.waitForFunction(() => document.querySelector(".live").dataset.state === "paused", { timeout: 5_000 });
  const before = partials;
  await new Promise((resolve) => setTimeout(resolve, 4_500));
  check(partials === before, `${where}: ${partials - before} refreshes while paused`);
  await page.click("[data-action=pause]");
  await page.click("[data-action=theme]");
  await page.click("[data-action=theme]");
  check((await page.evaluate(() => document.documentElement.dataset.theme)) === "dark", `${where}: the theme button does not make it dark`);
  await page.reload({ waitUntil: "load" });
  check((await page.evaluate(() => document.documentElement.dataset.theme)) === "dark", `${where}: the theme is not remembered`);
  await page.keyboard.press("g");
  await Promise.all([page.waitForNavigation({ timeout: 5_000 }), page.keyboard.press("r")]);
  check(page.url().endsWith("/retrievals"), `${where}: g r goes to ${page.url()}`);
  await page.close();
}

// The table of peers sorts by links, with and without scripts; an empty one says how to fill it.
async function peers() {
  for (const scripts of [true, false]) {
    const { page, where } = await open("/peers?sort=peer", "light", 1440, scripts);
    const ids = () => page.$$eval("tbody tr[id^=peer-] a.cid", (links) => links.map((link) => link.title));
    const before = await ids();
    check(before.length === Math.min(known.rows.length, 50), `${where}: ${before.length} rows of ${known.rows.length}`);
    if (before.length === 0) {
      check(/--peer/.test(await page.$eval("main", (main) => main.textContent)), `${where}: does not say how to fill it`);
    } else {
      check((await page.$eval("th[aria-sort]", (th) => th.getAttribute("aria-sort"))) === "ascending", `${where}: not sorted by peer`);
      await Promise.all([page.waitForNavigation(), page.click("th[aria-sort] a")]);
      check((await page.$eval("th[aria-sort]", (th) => th.getAttribute("aria-sort"))) === "descending", `${where}: a second click does not turn the order`);
      check((await ids()).join() === before.toReversed().join(), `${where}: the order is not turned`);
      const csv = await (await fetch(`${admin}/peers?sort=peer&format=csv`)).text();
      check(csv.trim().split("\r\n").length === known.rows.length + 1, `${where}: the CSV has other rows`);
      await Promise.all([page.waitForNavigation(), page.click("tbody a.cid")]);
      check(page.url().includes("/peers/"), `${where}: a row leads to ${page.url()}`);
    }
    await page.close();
  }
}

// The graph stands without scripts; with them it zooms, filters, and is used by keys and by dragging.
async function topology() {
  const plain = await open("/topology", "light", 1440, false);
  const drawn = await plain.page.$$eval("[data-network] .peer", (peers) => peers.length);
  const rows = await plain.page.$$eval("[data-row]", (all) => all.length);
  check(rows === Math.min(drawn, 100) || drawn > 100, `${plain.where}: ${drawn} drawn, ${rows} in the table`);
  if (drawn === 0) {
    check(/--peer/.test(await plain.page.$eval("main", (main) => main.textContent)), `${plain.where}: does not say how to fill it`);
    await plain.page.close();
    return;
  }
  check((await plain.page.$$eval("[data-network] line.edge", (lines) => lines.length)) > 0, `${plain.where}: no link is drawn`);
  check(await plain.page.$eval("[data-map-keys]", (keys) => keys.hidden), `${plain.where}: shows buttons that do nothing`);
  await plain.page.close();

  for (const motion of ["no-preference", "reduce"]) {
    const { page, where } = await open("/topology", "light", 1440);
    await page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: motion }]);
    const box = () => page.$eval("[data-network]", (svg) => svg.getAttribute("viewBox"));
    const whole = await box();
    await page.click("[data-map=in]");
    check((await box()) !== whole, `${where}: + does not zoom`);
    await page.click("[data-map=reset]");
    check((await box()) === whole.split(" ").map((n) => Number(n).toFixed(1)).join(" "), `${where}: Reset does not`);
    await page.focus(".mapbox");
    await page.keyboard.press("ArrowRight");
    check(await page.evaluate(() => document.activeElement.matches("a.peer")), `${where}: arrows go to no peer`);
    const place = () => page.$eval("a.peer", (peer) => peer.getAttribute("transform"));
    const start = await place();
    await page.$eval("[data-network]", (svg) => svg.scrollIntoView({ block: "center" }));
    const peer = await (await page.$("a.peer path")).boundingBox();
    await page.mouse.move(peer.x + peer.width / 2, peer.y + peer.height / 2);
    await page.mouse.down();
    await page.mouse.move(peer.x + 60, peer.y + 40, { steps: 5 });
    await page.mouse.up();
    check((await place()) !== start, `${where}: a peer cannot be dragged (${motion})`);
    check(page.url().endsWith("/topology"), `${where}: dragging opened ${page.url()}`);
    await page.type("input[name=q]", "nobody has this name");
    check((await page.$$eval("a.peer:not(.dim)", (all) => all.length)) === 0, `${where}: the filter leaves peers`);
    await page.close();
  }
}
