// What the pages do beyond plain links and forms: theme, live refresh, keys, copying. Every page works without it.
(() => {
  "use strict";
  const root = document.documentElement;
  const REFRESH_MS = 2000;
  const THEMES = ["auto", "light", "dark"];
  const remembered = (key) => { try { return localStorage.getItem("tidegate." + key); } catch { return null; } };
  const remember = (key, value) => { try { localStorage.setItem("tidegate." + key, value); } catch { /* private window */ } };

  // Theme: at once, before the first paint, so that nothing flashes.
  let theme = THEMES.includes(remembered("theme")) ? remembered("theme") : "auto";
  const applyTheme = () => { if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme; };
  applyTheme();

  document.addEventListener("DOMContentLoaded", () => {
    const $ = (selector) => document.querySelector(selector);

    const themeButton = $("[data-action=theme]");
    const nameTheme = () => {
      const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      themeButton.querySelector("[data-theme-name]").textContent = theme[0].toUpperCase() + theme.slice(1);
      themeButton.setAttribute("aria-label", `Theme: ${theme}. Change to ${next}`);
      themeButton.title = `Theme: ${theme}`;
      return next;
    };
    if (themeButton) {
      themeButton.hidden = false;
      nameTheme();
      themeButton.addEventListener("click", () => { theme = nameTheme(); remember("theme", theme); applyTheme(); nameTheme(); });
    }

    // Live refresh. The server tells what happens (server-sent events); a tick then fetches the part that changed. Where
    // no stream can be had, a tick every two seconds does. Nothing happens while paused or in a background tab.
    const live = $(".live[data-state]");
    const part = $("[data-live]");
    const pauseButton = $("[data-action=pause]");
    const banner = $("[data-lost]");
    const IDLE_MS = 5000;
    let updated = Date.now();
    let paused = remembered("paused") === "yes";
    let lost = false;
    let waiting = 0;
    let polling = false;
    let changed = false;
    let before = "";
    let feed = null;
    const say = () => {
      if (!live || !part) return;
      const ago = Math.max(0, Math.round((Date.now() - updated) / 1000));
      live.dataset.state = lost ? "lost" : paused ? "paused" : "live";
      live.querySelector("[data-status]").textContent =
        lost ? "Connection lost, retrying" : paused ? `Paused, ${ago} s old` : ago < 2 ? "Live" : `Updated ${ago} s ago`;
      if (banner) banner.hidden = !lost;
      pauseButton.textContent = paused ? "Resume" : "Pause";
      pauseButton.setAttribute("aria-pressed", String(paused));
    };
    const setLost = (value) => { if (lost !== value) { lost = value; $("#announce").textContent = lost ? "Connection lost, retrying" : "Connected again"; } say(); };
    const refresh = () => { if (part) { waiting = Date.now(); changed = false; part.dispatchEvent(new CustomEvent("tick")); } };
    const connect = () => {
      const template = $("template[data-feed]");
      if (feed || !template || paused || !window.htmx) return;
      feed = template.content.firstElementChild.cloneNode(true);
      feed.addEventListener("finished", () => { changed = true; });
      feed.addEventListener("summary", (event) => {
        try {
          const { active_sessions, peers, database, finished } = JSON.parse(event.detail.data);
          const now = [active_sessions, peers, database, finished].join();
          if (now !== before) changed = true;
          before = now;
        } catch { changed = true; }
      });
      feed.addEventListener("htmx:sse:after:connection", () => { polling = false; setLost(false); refresh(); });
      feed.addEventListener("htmx:sse:error", () => setLost(true));
      // The first answer was no stream: too many watchers, or an old proxy. Polling does it then.
      for (const name of ["htmx:response:error", "htmx:error"]) feed.addEventListener(name, () => { polling = true; });
      document.body.append(feed);
      window.htmx.process(feed);
    };
    const disconnect = () => { feed?.remove(); feed = null; };
    const setPaused = (value) => {
      paused = value;
      remember("paused", paused ? "yes" : "no");
      if (paused) disconnect(); else { connect(); refresh(); }
      say();
    };
    if (live && part) {
      $("[data-live-tools]").hidden = false;
      pauseButton.addEventListener("click", () => setPaused(!paused));
      part.addEventListener("htmx:after:swap", () => { updated = Date.now(); waiting = 0; if (lost) setLost(false); say(); });
      for (const name of ["htmx:error", "htmx:response:error"]) part.addEventListener(name, () => { waiting = 0; setLost(true); });
      setInterval(() => {
        say();
        const idle = waiting === 0 || Date.now() - waiting > 5 * REFRESH_MS;
        const due = Date.now() - updated;
        if (paused || document.hidden || !idle) return;
        if (((changed || polling || lost) && due >= REFRESH_MS - 100) || due >= IDLE_MS) refresh();
      }, 500);
      document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) refresh(); });
      connect();
      say();
    }

    // What scrolls sideways is reached by keys; what does not is no stop on the way. Drawings say so themselves.
    const stops = () => {
      for (const box of document.querySelectorAll(".scroll:not([data-stop=never])")) {
        if (box.dataset.stop === undefined && box.hasAttribute("tabindex")) { box.dataset.stop = "never"; continue; }
        box.dataset.stop = "";
        if (box.scrollWidth > box.clientWidth) {
          box.tabIndex = 0;
          box.setAttribute("role", "group");
          const title = box.closest("section, details")?.querySelector("h2, h3, summary")?.textContent.trim();
          box.setAttribute("aria-label", title ? `${title}, scrolls sideways` : "Scrolls sideways");
        } else if (box !== document.activeElement) {
          for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
        }
      }
    };
    let measuring = 0;
    const measure = () => { cancelAnimationFrame(measuring); measuring = requestAnimationFrame(stops); };
    stops();
    addEventListener("load", measure);
    addEventListener("resize", measure);
    document.addEventListener("toggle", measure, true);
    document.addEventListener("htmx:after:swap", measure);

    // Copy buttons: delegated, so that swapped parts need no wiring.
    document.addEventListener("click", async (event) => {
      const button = event.target.closest?.("[data-copy]");
      if (!button) return;
      const text = button.dataset.copy;
      let done = false;
      try { await navigator.clipboard.writeText(text); done = true; } catch {
        // Plain http from another machine has no clipboard: select a field and let the browser copy.
        const field = document.createElement("textarea");
        field.value = text;
        field.className = "hush";
        document.body.append(field);
        field.select();
        done = document.execCommand("copy");
        field.remove();
        button.focus();
      }
      const label = button.textContent;
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      $("#announce").textContent = done ? "Copied" : "";
      setTimeout(() => { button.textContent = label; }, 1500);
    });

    // Keys. Off while typing, with a modifier held, or when turned off in the help box.
    const help = $("#keys");
    const off = $("#keys-off");
    if (off) { off.checked = remembered("keys") === "off"; off.addEventListener("change", () => remember("keys", off.checked ? "off" : "on")); }
    let leader = 0;
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input:not([type=checkbox]), select, textarea, [contenteditable]")) return;
      if (event.key === "?") { if (help && !help.open) help.showModal(); return; }
      if (off?.checked || help?.open) return;
      if (leader && Date.now() - leader < 1200) {
        leader = 0;
        const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
        if (link) { event.preventDefault(); link.click(); }
        return;
      }
      if (event.key === "g") leader = Date.now();
      else if (event.key === "r") { if (part) refresh(); else location.reload(); }
      else if (event.key === "p" && part) setPaused(!paused);
      else if (event.key === "/") { const field = $("input[type=search]"); if (field) { event.preventDefault(); field.focus(); } }
    });
    const helpButton = $("[data-action=help]");
    if (helpButton && help) { helpButton.hidden = false; helpButton.addEventListener("click", () => help.showModal()); }
  });
})();
