// What the pages do beyond showing: refreshing, pausing, sorting, keys, the graph. Runs on whatever the server holds.

/** started: of browsers.mjs; check(ok, what). */
export async function behaviour(started, kind, admin, check) {
  const known = (await (await fetch(`${admin}/peers?format=json&sort=in`)).json()).rows ?? [];
  const open = async (path) => {
    const page = await started.page();
    const where = `${path} behaviour`;
    page.on("pageerror", (error) => check(false, `${where}: ${error}`));
    await page.setViewport({ width: 1440, height: 1000, deviceScaleFactor: 1 });
    await page.goto(admin + path, { waitUntil: "load" });
    return { page, where };
  };
  await live(open, check);
  await peers(open, check, known, admin);
  await topology(open, check, kind);
}

// The Overview refreshes itself by htmx, pauses, keeps focus, and remembers the theme.
async function live(open, check) {
  const { page, where } = await open("/");
  let partials = 0;
  page.on("request", (request) => { if (request.url().endsWith("/partials/overview")) partials += 1; });
  const focused = "a.more[href='/retrievals']";
  await page.focus(focused);
  await page.waitForRequest((request) => request.url().endsWith("/partials/overview"), { timeout: 15_000 });
  await new Promise((resolve) => setTimeout(resolve, 700));
  check(await page.evaluate((s) => document.activeElement === document.querySelector(s), focused), `${where}: the swap took the focus`);
  await page.click("[data-action=pause]");
  await page.waitForFunction(() => document.querySelector(".live").dataset.state === "paused", { timeout: 5_000 });
  await new Promise((resolve) => setTimeout(resolve, 300));
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
  await Promise.all([page.waitForNavigation({ timeout: 10_000 }), page.keyboard.press("r")]);
  check(page.url().endsWith("/retrievals"), `${where}: g r goes to ${page.url()}`);
  await page.evaluate(() => localStorage.clear());
  await page.close();
}

// The table of peers sorts by links; an empty one says how to fill it.
async function peers(open, check, known, admin) {
  const { page, where } = await open("/peers?sort=peer");
  const ids = () => page.$$eval("tbody tr[id^=peer-] a.cid", (links) => links.map((link) => link.title));
  const before = await ids();
  check(before.length === Math.min(known.length, 50), `${where}: ${before.length} rows of ${known.length}`);
  if (before.length === 0) {
    check(/--peer/.test(await page.$eval("main", (main) => main.textContent)), `${where}: does not say how to fill it`);
  } else {
    check((await page.$eval("th[aria-sort]", (th) => th.getAttribute("aria-sort"))) === "ascending", `${where}: not sorted by peer`);
    await Promise.all([page.waitForNavigation(), page.click("th[aria-sort] a")]);
    check((await page.$eval("th[aria-sort]", (th) => th.getAttribute("aria-sort"))) === "descending", `${where}: a second click does not turn the order`);
    check(known.length > 50 || (await ids()).join() === before.toReversed().join(), `${where}: the order is not turned`);
    const csv = await (await fetch(`${admin}/peers?sort=peer&format=csv`)).text();
    check(csv.trim().split("\r\n").length === known.length + 1, `${where}: the CSV has other rows`);
    await Promise.all([page.waitForNavigation(), page.click("tbody a.cid")]);
    check(page.url().includes("/peers/"), `${where}: a row leads to ${page.url()}`);
  }
  await page.close();
}

// The graph zooms, filters, and is used by keys and by dragging.
async function topology(open, check, kind) {
  // BiDi cannot emulate reduced motion.
  for (const motion of kind === "firefox" ? [null] : ["no-preference", "reduce"]) {
    const { page, where } = await open("/topology");
    const drawn = await page.$$eval("[data-network] .peer", (all) => all.length);
    if (drawn === 0) {
      check(/--peer/.test(await page.$eval("main", (main) => main.textContent)), `${where}: does not say how to fill it`);
      await page.close();
      return;
    }
    const rows = await page.$$eval("[data-row]", (all) => all.length);
    check(rows === Math.min(drawn, 50) || drawn > 50, `${where}: ${drawn} drawn, ${rows} in the table`);
    check((await page.$$eval("[data-network] line.edge", (lines) => lines.length)) > 0, `${where}: no link is drawn`);
    if (motion) await page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: motion }]);
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
    const moves = page.waitForFunction((start) => document.querySelector("a.peer").getAttribute("transform") !== start, { timeout: 5000 }, start);
    check(await moves.then(() => true, () => false), `${where}: a peer cannot be dragged (${motion})`);
    check(page.url().endsWith("/topology"), `${where}: dragging opened ${page.url()}`);
    await page.type("input[name=q]", "nobody has this name");
    check((await page.$$eval("a.peer:not(.dim)", (all) => all.length)) === 0, `${where}: the filter leaves peers`);
    await page.close();
  }
}
