// Opens pages that show hostile names, in one browser, and holds that they are text: no dialog, no script, no request but the
// page's own, no element that a name made; the texts are what they must be. Driven by tests/live/hostile.py.
//
//   PLAN=plan.json BROWSER=chromium|firefox node hostile.mjs
//
// The plan: {pages: [{name, url, status, texts: selector, want: [text, ...], exact: bool, links: selector, allowed: [origin, ...],
// control: bool}]}. The control is a page on which everything is wrong: it must be noticed, or the rest proves nothing.
import { readFile } from "node:fs/promises";
import { launch } from "./browsers.mjs";

const plan = JSON.parse(await readFile(process.env.PLAN, "utf8"));
const kind = process.env.BROWSER ?? "chromium";
let checks = 0;
let failed = 0;
// Elements that no page of ours has; whatever has one of these was made by a name.
const FOREIGN = "iframe, object, embed, base, img, style ~ style, meta[http-equiv], [srcdoc], [autofocus], h1 h1, td h1, td > table";

const started = await launch(kind);
try {
  for (const asked of plan.pages) await look(asked);
} finally {
  await started.close();
}
console.log(`${kind}: ${plan.pages.length} pages with hostile names, ${checks} checks, ${failed} failed`);
process.exit(failed ? 1 : 0);

async function look(asked) {
  const noticed = [];
  const check = (ok, what) => {
    checks += 1;
    if (ok) return;
    noticed.push(what);
    if (asked.control) return;
    failed += 1;
    console.error(`FAIL ${kind}: ${what}`);
  };
  const page = await started.page();
  const where = asked.name;
  const dialogs = [];
  page.on("dialog", async (dialog) => { dialogs.push(dialog.message()); await dialog.dismiss(); });
  page.on("pageerror", (error) => check(false, `${where}: ${error}`));
  page.on("console", (message) => {
    // A policy that has to stop something is a policy that was needed: the names are to be text before it.
    if (message.type() === "error" && !/status of [45]\d\d/.test(message.text())) check(false, `${where}: console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const url = request.url();
    // The empty icon and the font of our own style; `data:text` is one of the names.
    if (url === "about:blank" || /^data:(,|font\/|image\/svg)/.test(url)) return;
    const path = decodeURIComponent(new URL(url).pathname.replace(/%(?![0-9a-f]{2})/gi, "%25").replace(/%[89a-f][0-9a-f]/gi, "_"));
    check(asked.allowed.some((origin) => url.startsWith(`${origin}/`)), `${where}: asks ${url.slice(0, 200)}`);
    check(url === asked.url || !/(^|\/)(evil|x)$/.test(path), `${where}: a name asked for ${url}`);
  });
  const response = await page.goto(asked.url, { waitUntil: "load" });
  check(response.status() === asked.status, `${where}: status ${response.status()}, not ${asked.status}`);
  const policy = response.headers()["content-security-policy"] ?? "";
  check(policy.includes("default-src") && !policy.includes("unsafe"), `${where}: policy ${policy}`);
  const seen = await page.evaluate((texts, links, foreign) => {
    const every = [...document.querySelectorAll("*")];
    // What a person would do by chance: point at everything, give everything the focus.
    for (const element of every) for (const event of ["mouseover", "mouseenter", "focus"]) element.dispatchEvent(new MouseEvent(event, { bubbles: event === "mouseover" }));
    return {
      texts: [...document.querySelectorAll(texts)].map((e) => e.textContent),
      links: links ? [...document.querySelectorAll(links)].map((a) => ({ href: a.href, protocol: a.protocol, origin: a.origin })) : [],
      foreign: [...document.querySelectorAll(foreign)].map((e) => e.outerHTML.slice(0, 200)),
      events: every.flatMap((e) => [...e.attributes].map((a) => [e.tagName, a.name, a.value])).filter(([, name, value]) => /^on/.test(name) || /hx-get|hx-trigger/.test(name) && value === "evil"),
      scripts: [...document.querySelectorAll("script")].filter((s) => !s.src).map((s) => s.textContent.slice(0, 100)),
      title: document.title,
      whole: document.documentElement.textContent,
    };
  }, asked.texts, asked.links ?? null, FOREIGN);
  await new Promise((done) => setTimeout(done, 120));
  check(dialogs.length === 0, `${where}: dialogs ${dialogs}`);
  check(seen.foreign.length === 0, `${where}: elements of a name: ${seen.foreign.slice(0, 3)}`);
  check(seen.events.length === 0, `${where}: attributes of a name: ${JSON.stringify(seen.events.slice(0, 3))}`);
  check(seen.scripts.length === 0, `${where}: inline scripts: ${seen.scripts}`);
  if (asked.exact) check(JSON.stringify([...seen.texts].sort()) === JSON.stringify([...asked.want].sort()), `${where}: shows ${JSON.stringify(difference(seen.texts, asked.want))}`);
  else for (const want of asked.want) check(seen.texts.some((text) => text.includes(want)), `${where}: does not show ${JSON.stringify(want)}`);
  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/u;
  check(!hidden.test(seen.whole) && !hidden.test(seen.title), `${where}: holds a character that steers: ${JSON.stringify(hidden.exec(seen.whole)?.[0])}`);
  for (const link of seen.links) check(link.protocol === "http:" && asked.allowed.includes(link.origin), `${where}: a link leads to ${link.href}`);
  if (asked.links) check(seen.links.length > 0, `${where}: has no links`);
  await page.close();
  if (!asked.control) return;
  for (const what of ["dialogs", "elements of a name", "attributes of a name", "inline scripts", "a name asked for", "leads to", "steers", "policy", "does not show"]) {
    if (noticed.some((text) => text.includes(what))) continue;
    failed += 1;
    console.error(`FAIL ${kind}: the control's ${what} were not noticed: ${noticed}`);
  }
}

function difference(found, wanted) {
  return { more: found.filter((text) => !wanted.includes(text)).slice(0, 4), less: wanted.filter((text) => !found.includes(text)).slice(0, 4) };
}
