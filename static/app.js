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

    // Live refresh: a tick every two seconds unless paused, hidden, or a request is still under way.
    const live = $(".live[data-state]");
    const part = $("[data-live]");
    const pauseButton = $("[data-action=pause]");
    let updated = Date.now();
    let paused = remembered("paused") === "yes";
    let lost = false;
    let waiting = 0;
    const say = () => {
      if (!live || !part) return;
      const ago = Math.max(0, Math.round((Date.now() - updated) / 1000));
      live.dataset.state = lost ? "lost" : paused ? "paused" : "live";
      live.querySelector("[data-status]").textContent =
        lost ? "Connection lost, retrying" : paused ? `Paused, ${ago} s old` : ago < 2 ? "Live" : `Live, updated ${ago} s ago`;
      pauseButton.textContent = paused ? "Resume" : "Pause";
      pauseButton.setAttribute("aria-pressed", String(paused));
    };
    const refresh = () => { if (part) { waiting = Date.now(); part.dispatchEvent(new CustomEvent("tick")); } };
    const setPaused = (value) => { paused = value; remember("paused", paused ? "yes" : "no"); say(); if (!paused) refresh(); };
    if (live && part) {
      live.hidden = false;
      pauseButton.addEventListener("click", () => setPaused(!paused));
      part.addEventListener("htmx:after:swap", () => { updated = Date.now(); lost = false; waiting = 0; say(); });
      for (const name of ["htmx:error", "htmx:response:error"]) part.addEventListener(name, () => { lost = true; waiting = 0; say(); });
      setInterval(() => {
        say();
        const idle = waiting === 0 || Date.now() - waiting > 5 * REFRESH_MS;
        if (!paused && !document.hidden && idle && Date.now() - updated >= REFRESH_MS - 100) refresh();
      }, 500);
      document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) refresh(); });
      say();
    }

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
