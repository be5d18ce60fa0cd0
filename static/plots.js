// Zoomable series over the server's drawings: uPlot, fetched when a person asks for it. Both drawings of a panel share one
// crosshair; drag zooms, a double click shows all again. The drawing and its table stay the base and come back.
(() => {
  "use strict";
  const script = document.currentScript;
  const TIERS = [["memory", "--series-1"], ["store", "--series-3"], ["disk", "--series-4"], ["partial", "--series-2"], ["miss", "--series-quiet"]];
  const NAMES = { memory: "memory", store: "durable store", disk: "disk cache", partial: "part network", miss: "network" };
  let loading = null;

  const load = () => loading ??= new Promise((resolve, reject) => {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = script.dataset.uplotCss;
    const code = document.createElement("script");
    code.src = script.dataset.uplot;
    code.onload = resolve;
    code.onerror = () => { loading = null; reject(new Error("the drawing library could not be loaded")); };
    document.head.append(sheet, code);
  });

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const draw = (figure, rows) => {
    const kind = figure.dataset.plot;
    const at = rows.map((row) => row.start_us / 1e6);
    const total = rows.map((row) => TIERS.reduce((sum, [tier]) => sum + row[`${kind}_${tier}`], 0));
    const shares = TIERS.map(([tier]) => rows.map((row, i) => total[i] > 0 ? row[`${kind}_${tier}`] / total[i] * 100 : null));
    const ink = colour("--ink-soft"), rule = colour("--line");
    const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1 }, font: "12px system-ui, sans-serif" };
    const box = document.createElement("div");
    figure.append(box);
    const plot = new window.uPlot({
      width: Math.max(280, figure.clientWidth), height: 220, tzDate: (ts) => window.uPlot.tzDate(new Date(ts * 1e3), "Etc/UTC"),
      cursor: { sync: { key: "content" } },
      scales: { y: { range: [0, 100] } },
      axes: [axis, { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => `${tick} %`) }],
      series: [{ label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" }, ...TIERS.map(([tier, name]) => ({
        label: NAMES[tier], stroke: colour(name), width: 2, spanGaps: false, points: { show: rows.length < 40 },
        value: (_, share) => share === null || share === undefined ? "no data" : `${share.toFixed(1)} %`,
      }))],
    }, [at, ...shares], box);
    const observer = new ResizeObserver(() => plot.setSize({ width: Math.max(280, figure.clientWidth), height: 220 }));
    observer.observe(figure);
    return () => { observer.disconnect(); plot.destroy(); box.remove(); };
  };

  for (const panel of document.querySelectorAll("[data-plots]")) {
    const tools = document.createElement("div");
    tools.className = "plot-tools";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "btn bare";
    button.textContent = "Zoom";
    button.setAttribute("aria-pressed", "false");
    const hint = document.createElement("span");
    hint.setAttribute("role", "status");
    tools.append(button, hint);
    panel.before(tools);
    let ends = null;
    button.addEventListener("click", async () => {
      const figures = [...panel.querySelectorAll("[data-plot]")];
      if (ends) {
        ends.forEach((end) => end());
        ends = null;
      } else {
        button.disabled = true;
        try {
          const [answer] = await Promise.all([fetch(panel.dataset.plots), load()]);
          if (!answer.ok) throw new Error(`the figures could not be read: ${answer.status}`);
          const { rows } = await answer.json();
          ends = figures.map((figure) => draw(figure, rows));
          hint.textContent = "Drag to zoom, double click to see all.";
        } catch (error) {
          hint.textContent = `Not possible now: ${error.message}`;
        }
        button.disabled = false;
      }
      for (const figure of figures) figure.querySelector(".scroll").hidden = Boolean(ends);
      button.setAttribute("aria-pressed", String(Boolean(ends)));
      button.textContent = ends ? "Drawing" : "Zoom";
      if (!ends) hint.textContent = hint.textContent.startsWith("Not") ? hint.textContent : "";
    });
  }
})();
