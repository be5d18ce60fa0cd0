// Opens every page of a plan in one browser, light and dark, with and without scripts, from a small phone to 4K, and holds what
// a person would notice at once: what the page must say is there, nothing on the console, no request to anybody else, no sideways
// scrolling, no control without a name; axe-core finds nothing serious, html-validate no error, no link of ours leads nowhere.
//
//   PLAN=plan.json BROWSER=chromium|firefox [OUT=FOLDER for screenshots] node pages.mjs
//
// The plan, made by tests/live/pages.py: {admin, gateway, pages: [{name, url, status, want: [text, ...]}], behaviour: bool}.
// The servers run already. Exit code 1 when a check fails; the screenshots are written anyway.
import { mkdir, readFile } from "node:fs/promises";
import { get } from "node:http";
import { join } from "node:path";
import axe from "axe-core";
import { HtmlValidate } from "html-validate";
import { behaviour } from "./behaviour.mjs";
import { launch } from "./browsers.mjs";
import { copying, handlers } from "./gateway.mjs";

const plan = JSON.parse(await readFile(process.env.PLAN, "utf8"));
const kind = process.env.BROWSER ?? "chromium";
const out = process.env.OUT;
const WIDTHS = [320, 390, 1440, 3840];
const AXE_AT = new Set([390, 1440]);
const SHOTS = { 390: "phone", 1440: "desktop" };
const failures = [];
let checks = 0;
const check = (ok, what) => { checks += 1; if (!ok) { failures.push(what); console.error(`FAIL ${kind}: ${what}`); } };
const plain = (text) => text.replace(/\s+/g, " ");

if (out) await mkdir(out, { recursive: true });
const links = new Set();
for (const theme of ["light", "dark"]) {
  const started = await launch(kind, { theme });
  try {
    for (const asked of plan.pages) await look(started, asked, theme);
    if (theme === "light") await behave(started);
  } finally {
    await started.close();
  }
}
const started = await launch(kind, { scripts: false });
try {
  for (const asked of plan.pages) await withoutScripts(started, asked);
} finally {
  await started.close();
}
if (kind === "chromium") {
  for (const asked of plan.pages) await validate(asked);
  await follow();
}
if (failures.length) { console.error(`${kind}: ${failures.length} of ${checks} checks failed`); process.exit(1); }
console.log(`${kind}: ${plan.pages.length} pages, ${checks} checks passed`);

async function behave(started) {
  if (plan.behaviour) await behaviour(started, kind, plan.admin, check);
  for (const asked of plan.pages) {
    if (asked.name === "gateway-listing") await copying(started, asked, check);
    if (asked.name === "gateway-home") await handlers(started, kind, asked, plan.gateway, check);
  }
}

async function open(started, asked, where) {
  const page = await started.page();
  page.on("console", (message) => {
    // The browser itself says that a page which must be an error is one.
    if (asked.status >= 400 && /status of 4\d\d|status of 5\d\d/.test(message.text())) return;
    if (["error", "warn"].includes(message.type())) check(false, `${where}: console: ${message.text()}`);
  });
  page.on("pageerror", (error) => check(false, `${where}: ${error}`));
  page.on("request", (request) => {
    const url = request.url();
    if (![plan.admin, plan.gateway, "data:"].some((start) => url.startsWith(start)) && url !== "about:blank") check(false, `${where}: asks ${url}`);
  });
  await page.setViewport({ width: 1440, height: 1000, deviceScaleFactor: 1 });
  const response = await page.goto(asked.url, { waitUntil: "load" });
  check(response.status() === asked.status, `${where}: status ${response.status()}, not ${asked.status}`);
  return page;
}

async function look(started, asked, theme) {
  const where = `${asked.name} ${theme}`;
  const page = await open(started, asked, where);
  let audited = false;
  for (const width of WIDTHS) {
    await page.setViewport({ width, height: width < 600 ? 812 : 1000, deviceScaleFactor: 1 });
    const scroll = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    check(scroll <= 0, `${where} ${width}: scrolls sideways by ${scroll} px`);
    if (AXE_AT.has(width)) {
      await audit(page, `${where} ${width}`, audited);
      audited = true;
    }
    if (out && SHOTS[width]) await page.screenshot({ path: join(out, `${asked.name}-${SHOTS[width]}-${theme}.png`), fullPage: true });
  }
  const seen = await page.evaluate(() => ({
    heading: document.querySelector("h1")?.textContent ?? "",
    text: document.body.textContent,
    shown: document.body.innerText,
    ground: getComputedStyle(document.body).backgroundColor,
    nameless: [...document.querySelectorAll("a, button")].filter((e) => e.checkVisibility() && !e.textContent.trim() && !e.getAttribute("aria-label")).length,
    links: [...document.querySelectorAll("a[href]")].map((a) => new URL(a.getAttribute("href"), document.baseURI).href),
    ids: [...document.querySelectorAll("[id]")].map((e) => e.id),
  }));
  check(seen.heading.trim().length > 0, `${where}: has no heading`);
  check(!/\bNaN\b|\bInfinity\b|undefined|\[object/.test(seen.shown), `${where}: shows a figure that is none`);
  check(seen.nameless === 0, `${where}: ${seen.nameless} controls without a name`);
  const dark = Number(/\d+/.exec(seen.ground)[0]) < 64;
  check(dark === (theme === "dark"), `${where}: ground is ${seen.ground}`);
  says(asked, seen.text, where);
  for (const link of seen.links) {
    const [address, mark] = link.split("#");
    if (mark && address === asked.url) check(seen.ids.includes(decodeURIComponent(mark)), `${where}: no element for ${link}`);
    else if (link.startsWith(`${plan.admin}/`)) links.add(address);
  }
  await page.close();
}

async function withoutScripts(started, asked) {
  const where = `${asked.name} without scripts`;
  const page = await open(started, asked, where);
  const read = async () => [await page.$eval("main", (main) => main.textContent), await page.$eval("body", (body) => body.textContent)];
  // A page that asks again by itself may do so in this very moment.
  const [text, all] = await read().catch((error) => { if (asked.status !== 202) throw error; return read(); });
  check(plain(text).trim().length > 80 || asked.status >= 400, `${where}: says nothing`);
  says(asked, all, where);
  await page.close();
}

function says(asked, text, where) {
  const said = plain(text);
  for (const want of asked.want) check(said.includes(want), `${where}: does not say ${JSON.stringify(want)}`);
  check(asked.want.length > 0, `${where}: nothing is asked of it`);
}

async function audit(page, where, loaded) {
  if (!loaded) await page.evaluate(axe.source);
  const found = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    return violations.map(({ id, impact, help, nodes }) => ({
      id, impact, help, targets: nodes.slice(0, 3).map((n) => `${n.target.join(" ")} (${n.any[0]?.message ?? n.all[0]?.message ?? ""})`), n: nodes.length,
    }));
  });
  const serious = found.filter(({ impact }) => ["serious", "critical"].includes(impact));
  check(serious.length === 0, `${where}: axe: ${serious.map((v) => `${v.id} ${v.impact}, ${v.n} places: ${v.help}: ${v.targets.join("; ")}`).join(" | ")}`);
  for (const { id, impact, help, targets } of found) if (!serious.some((v) => v.id === id)) console.log(`note: ${where}: axe: ${id} (${impact}) ${help}: ${targets[0]}`);
}

/** The server's HTML against the standard and the rules for access. */
async function validate(asked) {
  const html = await navigate(asked.url);
  // A page that waits has nothing to read that its next look would take away.
  const rules = asked.status === 202 ? { "meta-refresh": "off" } : {};
  const validator = new HtmlValidate({ root: true, extends: ["html-validate:standard", "html-validate:a11y"], rules });
  const report = await validator.validateString(html, asked.name);
  const errors = report.results.flatMap(({ messages }) => messages).filter(({ severity }) => severity === 2);
  check(errors.length === 0, `${asked.name}: html-validate: ${errors.slice(0, 6).map((e) => `${e.line}:${e.column} ${e.ruleId} ${e.message}`).join(" | ")} (${errors.length})`);
}

/** What a browser is sent: fetch() would say that it is a script. */
function navigate(url) {
  const headers = { accept: "text/html", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" };
  return new Promise((resolve, reject) => {
    get(url, { headers }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part) => { text += part; }).on("end", () => resolve(text)).on("error", reject);
    }).on("error", reject);
  });
}

/** Every link to the admin listener that stands on a page leads somewhere. */
async function follow() {
  const answers = await Promise.all([...links].map(async (link) => [link, (await fetch(link, { headers: { accept: "text/html, */*" } })).status]));
  for (const [link, status] of answers) check(status < 400 || (link.endsWith("/readyz") && status === 503), `the link ${link} answers ${status}`);
  check(answers.length > 5 || !plan.pages.some(({ url }) => url.startsWith(`${plan.admin}/`)), `only ${answers.length} links were found`);
}
