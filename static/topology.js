// What the drawing of the network does beyond links: drag, zoom, find, arrow keys. Everything works without it: the page
// draws the same graph, filters by its form, and lists it in tables. The layout starts from the server's.
(() => {
  "use strict";
  const svg = document.querySelector("[data-network]");
  if (!svg) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const [, , WIDTH, HEIGHT] = svg.getAttribute("viewBox").split(" ").map(Number);
  const LEAST = 1, MOST = 8;
  const place = (element) => /translate\(([-\d.]+),([-\d.]+)\)/.exec(element.getAttribute("transform")).slice(1).map(Number);
  const nodes = [...svg.querySelectorAll(".peer")].map((element) => {
    const [x, y] = place(element);
    const own = element.hasAttribute("data-own");
    return { element, own, x, y, home: [x, y], r: Number(element.dataset.r), ...(own ? { fx: x, fy: y } : {}) };
  });
  const links = [...svg.querySelectorAll("line[data-a]")].map((element) => ({ element, source: nodes[element.dataset.a], target: nodes[element.dataset.b] }));
  for (const link of links) link.length = Math.hypot(link.source.x - link.target.x, link.source.y - link.target.y);

  const draw = () => {
    for (const node of nodes) node.element.setAttribute("transform", `translate(${node.x.toFixed(1)},${node.y.toFixed(1)})`);
    for (const { element, source, target } of links) {
      element.setAttribute("x1", source.x.toFixed(1));
      element.setAttribute("y1", source.y.toFixed(1));
      element.setAttribute("x2", target.x.toFixed(1));
      element.setAttribute("y2", target.y.toFixed(1));
    }
  };

  // On a phone the drawing scrolls: this node is what is seen first.
  const box = svg.closest(".mapbox");
  box.scrollLeft = (box.scrollWidth - box.clientWidth) / 2;

  // Forces: every link keeps the length that the server gave it, peers keep apart. It runs only while something is dragged.
  let simulation = null;
  const simulate = () => {
    if (simulation || still.matches || typeof d3 === "undefined") return simulation;
    simulation = d3.forceSimulation(nodes)
      .force("link", d3.forceLink(links).distance((link) => link.length).strength(0.4))
      .force("charge", d3.forceManyBody().strength(-30).distanceMax(160))
      .force("apart", d3.forceCollide((node) => node.r + 3))
      .alpha(0).alphaMin(0.02).on("tick", draw).stop();
    return simulation;
  };

  // The part of the drawing that is seen.
  let view = { x: 0, y: 0, k: 1 };
  const show = () => svg.setAttribute("viewBox", `${view.x.toFixed(1)} ${view.y.toFixed(1)} ${(WIDTH / view.k).toFixed(1)} ${(HEIGHT / view.k).toFixed(1)}`);
  const bound = () => {
    view.x = Math.min(Math.max(view.x, 0), WIDTH - WIDTH / view.k);
    view.y = Math.min(Math.max(view.y, 0), HEIGHT - HEIGHT / view.k);
  };
  const zoom = (factor, cx = view.x + WIDTH / view.k / 2, cy = view.y + HEIGHT / view.k / 2) => {
    const k = Math.min(MOST, Math.max(LEAST, view.k * factor));
    view.x = cx - (cx - view.x) * view.k / k;
    view.y = cy - (cy - view.y) * view.k / k;
    view.k = k;
    bound();
    show();
  };
  const reset = () => {
    view = { x: 0, y: 0, k: 1 };
    simulation?.stop();
    for (const node of nodes) {
      [node.x, node.y] = node.home;
      if (!node.own) node.fx = node.fy = null;
    }
    draw();
    show();
  };
  const at = (event) => {
    const { left, top, width, height } = svg.getBoundingClientRect();
    return [view.x + (event.clientX - left) / width * WIDTH / view.k, view.y + (event.clientY - top) / height * HEIGHT / view.k];
  };

  // Pointers: one on a peer drags it, one on the ground moves the view, two zoom.
  svg.classList.add("grab");
  const pointers = new Map();
  let dragged = null, moved = false, spread = 0;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pointers.set(event.pointerId, at(event));
    moved = false;
    if (pointers.size === 2) { dragged = null; spread = 0; return; }
    const element = event.target.closest(".peer");
    dragged = nodes.find((node) => node.element === element && !node.own) ?? null;
  });
  // A link would be dragged as a link.
  svg.addEventListener("dragstart", (event) => event.preventDefault());
  svg.addEventListener("pointermove", (event) => {
    const from = pointers.get(event.pointerId);
    if (!from) return;
    const to = at(event);
    if (!moved && Math.hypot(to[0] - from[0], to[1] - from[1]) * view.k < 4) return;
    if (!moved) { moved = true; svg.setPointerCapture(event.pointerId); svg.classList.add("grabbing"); }
    if (pointers.size === 2) {
      pointers.set(event.pointerId, to);
      const [a, b] = [...pointers.values()];
      const now = Math.hypot(a[0] - b[0], a[1] - b[1]) * view.k;
      if (spread) zoom(now / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = now;
    } else if (dragged) {
      [dragged.x, dragged.y] = [dragged.fx, dragged.fy] = to;
      // It follows the pointer at once; the others go after it frame by frame.
      draw();
      simulate()?.alphaTarget(0.25).restart();
    } else {
      view.x += from[0] - to[0];
      view.y += from[1] - to[1];
      bound();
      show();
    }
  });
  const end = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (pointers.size) return;
    simulation?.alphaTarget(0);
    svg.classList.remove("grabbing");
    // A peer stays where it was dropped, until Reset.
    dragged = null;
  };
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", end);
  // The click that ends a drag opens nothing.
  svg.addEventListener("click", (event) => { if (moved) { event.preventDefault(); event.stopPropagation(); moved = false; } }, true);
  // The wheel alone scrolls the page.
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), ...at(event));
  }, { passive: false });

  // Keys: one stop for Tab, arrows to the nearest peer in that direction.
  const others = nodes.filter((node) => !node.own);
  const seen = () => others.filter((node) => !node.element.classList.contains("dim"));
  const focus = (node) => {
    if (!node) return;
    for (const other of others) other.element.setAttribute("tabindex", other === node ? "0" : "-1");
    node.element.focus({ preventScroll: true });
    if (node.x < view.x || node.y < view.y || node.x > view.x + WIDTH / view.k || node.y > view.y + HEIGHT / view.k) {
      view.x = node.x - WIDTH / view.k / 2;
      view.y = node.y - HEIGHT / view.k / 2;
      bound();
      show();
    }
  };
  if (others[0]) others[0].element.setAttribute("tabindex", "0");
  const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const from = others.find((node) => node.element === document.activeElement);
      event.preventDefault();
      if (!from) { focus(seen()[0]); return; }
      let best = null, least = Infinity;
      for (const node of seen()) {
        const [dx, dy] = [node.x - from.x, node.y - from.y];
        const along = dx * arrow[0] + dy * arrow[1];
        const aside = Math.abs(dx * arrow[1]) + Math.abs(dy * arrow[0]);
        if (along > 0 && along + 2 * aside < least) { least = along + 2 * aside; best = node; }
      }
      focus(best);
    } else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0" || event.key === "Escape") reset();
    else return;
    event.stopPropagation();
  });

  // Buttons, and the filter as it is typed; the form itself asks the server.
  const keys = document.querySelector("[data-map-keys]");
  keys.hidden = false;
  document.querySelector("[data-map-help]").hidden = false;
  keys.addEventListener("click", (event) => {
    const action = event.target.closest("[data-map]")?.dataset.map;
    if (action === "in") zoom(1.4);
    else if (action === "out") zoom(1 / 1.4);
    else if (action === "reset") reset();
  });
  const form = document.querySelector("[data-map-filter]");
  const find = () => {
    const text = form.elements.q.value.trim().toLowerCase();
    const cluster = form.elements.cluster?.value ?? "";
    const hidden = new Set();
    let found = 0;
    for (const { element } of others) {
      const { agent } = element.dataset;
      const id = element.getAttribute("href").slice("/peers/".length);
      const fits = (id.toLowerCase().includes(text) || agent.toLowerCase().includes(text)) && (!cluster || cluster === element.dataset.cluster);
      element.classList.toggle("dim", !fits);
      if (fits) found += 1; else hidden.add(id);
    }
    for (const { element, source, target } of links) {
      element.classList.toggle("dim", source.element.classList.contains("dim") || target.element.classList.contains("dim"));
    }
    for (const row of document.querySelectorAll("[data-row]")) row.hidden = hidden.has(row.dataset.row);
    document.querySelector("#announce").textContent = `${found} of ${others.length} peers`;
  };
  form.addEventListener("input", find);
  form.addEventListener("change", find);
})();
