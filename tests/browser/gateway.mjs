// What the gateway's pages do beyond showing: a click copies a CID, a click offers to open ipfs:// addresses here.

/** asked: the page of a listing, with at least one row. */
export async function copying(started, asked, check) {
  const where = `${asked.name} copying`;
  const page = await started.page();
  page.on("pageerror", (error) => check(false, `${where}: ${error}`));
  await page.goto(asked.url, { waitUntil: "load" });
  await page.bringToFront();
  const cids = await page.$$eval("[data-cid], .ipfs-hash", (all) => all.map((cid) => cid.textContent));
  const buttons = await page.$$("button.copy");
  check(cids.length > 1 && buttons.length === cids.length, `${where}: ${buttons.length} buttons for ${cids.length} CIDs`);
  check(cids.every((cid) => /^(baf|bag|Qm)[0-9A-Za-z]{20,}$/.test(cid)), `${where}: ${cids} are no CIDs`);
  // The directory's own, and the last of its entries.
  for (const at of [0, cids.length - 1]) {
    await buttons[at].click();
    check((await says(page, at, "Copied")) === "Copied", `${where}: button ${at} says ${await text(page, at)}`);
    check((await pasted(page)) === cids[at], `${where}: button ${at} copied ${JSON.stringify(await pasted(page))}, not ${cids[at]}`);
    check((await says(page, at, "Copy")) === "Copy", `${where}: button ${at} does not come back`);
  }
  // As over plain HTTP, where there is no clipboard: it is selected instead.
  await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await buttons[1].click();
  check((await says(page, 1, "Selected")) === "Selected", `${where}: without a clipboard the button says ${await text(page, 1)}`);
  const selected = await page.evaluate(() => getSelection().toString().trim());
  check(selected === cids[1], `${where}: selected ${JSON.stringify(selected)}, not ${cids[1]}`);
  await page.close();
}

/** asked: the gateway's own page. */
export async function handlers(started, kind, asked, gateway, check) {
  const where = `${asked.name} handlers`;
  const page = await started.page();
  page.on("pageerror", (error) => check(false, `${where}: ${error}`));
  await page.goto(asked.url, { waitUntil: "load" });
  check(await page.$eval("#protocols", (offer) => offer.checkVisibility()), `${where}: nothing is offered`);
  const label = (scheme) => page.$eval(`button[data-scheme=${scheme}]`, (button) => button.textContent);
  await page.evaluate(() => {
    globalThis.asked = [];
    navigator.registerProtocolHandler = (...values) => { globalThis.asked.push(values); };
  });
  for (const scheme of ["ipfs", "ipns"]) {
    await page.click(`button[data-scheme=${scheme}]`);
    const [values] = await page.evaluate(() => globalThis.asked.splice(0));
    const template = `${gateway}/${scheme}/?uri=%s`;
    check(values?.length === 2 && values[0] === scheme && values[1] === template, `${where}: ${scheme} registers ${JSON.stringify(values)}`);
    check((await label(scheme)) === `${scheme}:// asked for`, `${where}: ${scheme} says ${await label(scheme)}`);
    // What a browser makes of the template leads to the content.
    const address = template.replace("%s", encodeURIComponent(`${scheme}://bafkqabtimvwgy3yk/a%20b`));
    const answer = await fetch(address, { redirect: "manual" });
    check(answer.status === 301 && answer.headers.get("location") === `/${scheme}/bafkqabtimvwgy3yk/a%20b`, `${where}: ${address} leads to ${answer.status} ${answer.headers.get("location")}`);
  }
  await page.evaluate(() => { navigator.registerProtocolHandler = () => { throw new Error("not today"); }; });
  await page.click("button[data-scheme=ipfs]");
  check((await label("ipfs")) === "ipfs:// refused: not today", `${where}: a refusal says ${await label("ipfs")}`);
  await page.reload({ waitUntil: "load" });
  // The browser's own: Chromium takes the scheme and the template, Firefox leaves these schemes to extensions.
  await page.click("button[data-scheme=ipfs]");
  const answer = kind === "firefox" ? "ipfs:// refused: " : "ipfs:// asked for";
  check((await label("ipfs")).startsWith(answer), `${where}: the browser's own answer: ${await label("ipfs")}`);
  await page.close();
}

const text = (page, at) => page.$$eval("button.copy", (all, at) => all[at].textContent, at);

/** What the button says, at the latest after 3 s; sooner when it says what is wanted. */
async function says(page, at, want) {
  for (let tries = 0; tries < 60 && (await text(page, at)) !== want; tries += 1) await new Promise((resolve) => setTimeout(resolve, 50));
  return text(page, at);
}

/** What the clipboard holds, as a person would find out: pasted by the keyboard. */
async function pasted(page) {
  await page.evaluate(() => {
    const field = document.createElement("textarea");
    field.id = "paste-here";
    document.body.append(field);
    field.focus();
  });
  await page.keyboard.down("Control");
  await page.keyboard.press("v");
  await page.keyboard.up("Control");
  for (let tries = 0; tries < 40 && !(await page.$eval("#paste-here", (field) => field.value)); tries += 1) await new Promise((resolve) => setTimeout(resolve, 50));
  return page.evaluate(() => {
    const field = document.getElementById("paste-here");
    field.remove();
    return field.value;
  });
}
