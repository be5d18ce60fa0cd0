// Starts Chromium (CDP) or Firefox (WebDriver BiDi), each with a profile of its own and nothing that asks the network.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import puppeteer from "puppeteer-core";

const QUIET = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps", "--no-default-browser-check", "--disable-quic"];
// WEBGPU.md: without --enable-unsafe-webgpu headless Chromium gives a null adapter; without the first preference
// Firefox has no navigator.gpu.
const CHROMIUM_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-angle=swiftshader"];
const FIREFOX_GPU = { "dom.webgpu.enabled": true, "gfx.webgpu.ignore-blocklist": true };

/**
 * kind: "chromium" or "firefox". gpu: WebGPU on a software adapter. theme and scripts: BiDi has no command for the colour
 * scheme nor (Firefox 153) for scripts, so Firefox is told by preferences, for the whole browser; Chromium is told by `page`.
 */
export async function launch(kind, { gpu = false, theme = "light", scripts = true } = {}) {
  const profile = await mkdtemp(join(tmpdir(), `tidegate-${kind}-`));
  const firefox = kind === "firefox";
  const browser = firefox
    ? await puppeteer.launch({
        browser: "firefox", executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr", headless: true,
        env: { ...process.env, HOME: profile, MOZ_HEADLESS: "1" },
        extraPrefsFirefox: { ...(gpu ? FIREFOX_GPU : {}), "layout.css.prefers-color-scheme.content-override": theme === "dark" ? 0 : 1, "javascript.enabled": scripts },
      })
    : await puppeteer.launch({
        executablePath: process.env.CHROMIUM ?? "/usr/lib/chromium/chromium", userDataDir: profile, headless: true,
        args: ["--no-sandbox", ...QUIET, ...(gpu ? CHROMIUM_GPU : ["--disable-gpu"])],
      });
  return {
    browser,
    async page() {
      const page = await browser.newPage();
      if (!firefox) {
        await page.setJavaScriptEnabled(scripts);
        await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
      }
      return page;
    },
    async close() {
      await browser.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}
