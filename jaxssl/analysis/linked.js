"use strict";
// Maps side by side: what is pointed at or selected in one is marked in all.
(() => {
  const root = document.getElementById("linked");
  if (!root) return;
  const data = JSON.parse(document.getElementById("linked-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const find = (part) => root.querySelector(`[data-part=${part}]`);
  const element = (tag, text) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text });
  const label = new Uint16Array(bytes(data.label)), total = data.ids.length;
  const NONE = "#80868f", PICTURES = 60, dark = window.matchMedia("(prefers-color-scheme: dark)");
  const styles = data.classes.map((_, c) => (c === data.unlabelled ? { color: NONE, shape: 0, size: 0.75 } : { color: data.palette[c % 10], shape: Math.floor(c / 10) % 5, size: 1 }));
  const faint = () => (dark.matches ? "#3d4650" : "#cfd5db");
  styles.push({ color: faint(), shape: 0, size: 0.7 }); // the last: not selected
  let hover = -1, chosen = new Set(), how = ""; // how it was chosen, as the address says it
  const title = (i) => `${data.classes[label[i]]} · ${data.ids[i]}`;
  const sheets = data.sheets.map((source) => Object.assign(new Image(), { src: source }));
  const picture = (i) => {
    const made = element("canvas"), m = data.across, side = data.tile, sheet = sheets[Math.floor(i / (m * m))];
    const [tw, th] = [data.shapes[2 * i], data.shapes[2 * i + 1]], long = Math.max(tw, th);
    const wide = Math.max(1, Math.round((side * tw) / long)), high = Math.max(1, Math.round((side * th) / long));
    Object.assign(made, { width: wide, height: high });
    const larger = element("button");
    Object.assign(larger, { type: "button", className: "picture", title: title(i) });
    Object.assign(larger.dataset, { path: data.paths[i] || "", what: title(i), um: data.um[i] || 0 });
    larger.setAttribute("aria-label", title(i));
    larger.append(made);
    const left = (i % m) * side + (side - wide) / 2, top = Math.floor((i % (m * m)) / m) * side + (side - high) / 2;
    const draw = () => made.getContext("2d").drawImage(sheet, left, top, wide, high, 0, 0, wide, high);
    if (sheet) sheet.complete ? draw() : sheet.addEventListener("load", draw);
    return larger;
  };

  const panels = data.panels.map((one, number) => {
    const x = new Uint16Array(bytes(one.x)), y = new Uint16Array(bytes(one.y)), image = new Uint32Array(bytes(one.image));
    const count = x.length, shown = new Uint8Array(count).fill(1), group = new Uint16Array(count);
    const of = new Map(Array.from(image, (i, k) => [i, k])), grid = makeGrid(x, y, count);
    const figure = element("div"), frame = element("div"), base = element("canvas"), over = element("canvas");
    figure.className = "panel";
    over.tabIndex = 0;
    over.setAttribute("role", "application");
    over.setAttribute("aria-label", `Map of ${one.name}: N and P go to the next and previous image, Enter selects it, Escape selects none`);
    base.setAttribute("aria-hidden", "true");
    frame.append(base, over);
    figure.append(element("h4", one.name), frame);
    find("panels").append(figure);
    const panel = { x, y, image, count, of, over };
    panel.inBox = ([left, right, top, bottom]) => Array.from(image).filter((_, k) => x[k] >= left && x[k] <= right && y[k] >= top && y[k] <= bottom);
    let side = 0, ratio = 1, from = null, to = null, at = -1;
    const scale = () => (side - 24) / 65535;
    const place = (k) => [12 + x[k] * scale(), 12 + y[k] * scale()];
    const there = (event) => [(event.offsetX - 12) / scale(), (event.offsetY - 12) / scale()];
    panel.paint = () => {
      if (!base.width) return;
      for (let k = 0; k < count; k++) group[k] = chosen.size && !chosen.has(image[k]) ? styles.length - 1 : label[image[k]];
      const pen = base.getContext("2d", { willReadFrequently: true }), made = pen.createImageData(base.width, base.height), pixels = new Uint32Array(made.data.buffer);
      const view = { scale: scale() * ratio, left: 12 * ratio, top: 12 * ratio, radius: (count > 20000 ? 1.5 : 2.4) * ratio, styles };
      paintPoints(pixels, base.width, base.height, { x, y, count, group, shown }, view);
      pen.putImageData(made, 0, 0);
    };
    panel.ring = () => {
      const pen = over.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, side, side);
      pen.strokeStyle = getComputedStyle(over).color;
      pen.lineWidth = 2;
      const k = of.get(hover);
      if (k !== undefined) {
        pen.beginPath();
        pen.arc(...place(k), 7, 0, 7);
        pen.stroke();
      }
      if (from && to) {
        pen.setLineDash([5, 4]);
        pen.strokeRect(12 + from[0] * scale(), 12 + from[1] * scale(), (to[0] - from[0]) * scale(), (to[1] - from[1]) * scale());
        pen.setLineDash([]);
      }
    };
    const nearest = (event, reach) => {
      const k = grid.nearest(...there(event), reach / scale(), shown);
      return k < 0 ? -1 : image[k];
    };
    over.addEventListener("pointerdown", (event) => {
      over.setPointerCapture(event.pointerId);
      [from, to] = [there(event), null];
    });
    over.addEventListener("pointermove", (event) => {
      if (!from) return point(nearest(event, 12));
      const now = there(event);
      if (to || Math.hypot(now[0] - from[0], now[1] - from[1]) * scale() > 4) to = now;
      panel.ring();
    });
    over.addEventListener("pointerup", (event) => {
      const box = to && [Math.min(from[0], to[0]), Math.max(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[1], to[1])];
      from = to = null;
      if (box) choose("box", [number, ...box.map(Math.round)].join(","));
      else choose("pick", String(nearest(event, 16)));
    });
    over.addEventListener("pointercancel", () => { from = to = null; panel.ring(); });
    over.addEventListener("pointerleave", () => { if (!from) point(-1); });
    const step = (by) => {
      at = (at + by + count) % count;
      point(image[at]);
    };
    const keys = { n: () => step(1), p: () => step(-1), Enter: () => hover >= 0 && choose("pick", String(hover)), Escape: () => choose("", "") };
    over.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    new ResizeObserver(() => {
      side = frame.clientWidth;
      ratio = window.devicePixelRatio || 1;
      for (const canvas of [base, over]) canvas.width = canvas.height = Math.round(side * ratio);
      panel.paint();
      panel.ring();
      root.dataset.frames = String(Number(root.dataset.frames || 0) + 1);
    }).observe(frame);
    return panel;
  });

  const where = (i) => panels.filter((panel) => panel.of.has(i)).length;
  const tell = () => {
    if (hover >= 0) find("said").textContent = `${title(hover)}, in ${where(hover)} of ${panels.length} maps`;
    else if (chosen.size) {
      const tally = new Map();
      for (const i of chosen) tally.set(label[i], (tally.get(label[i]) || 0) + 1);
      const counts = [...tally].sort((a, b) => b[1] - a[1]).map(([c, n]) => `${data.classes[c]} (${n.toLocaleString("en")})`);
      find("said").textContent = `${chosen.size.toLocaleString("en")} selected: ${counts.join(", ")}`;
    } else find("said").textContent = `${total.toLocaleString("en")} images`;
  };
  const point = (i) => {
    if (i === hover) return;
    hover = i;
    panels.forEach((panel) => panel.ring());
    tell();
  };
  const select = (list) => {
    chosen = new Set(list);
    hover = -1;
    panels.forEach((panel) => { panel.paint(); panel.ring(); });
    find("chosen").replaceChildren(...(data.sheets.length ? [...chosen].filter((i) => i < data.sheets.length * data.across ** 2).slice(0, PICTURES).map(picture) : []));
    find("save").disabled = !chosen.size;
    tell();
  };
  const swatch = (style) => {
    const made = element("canvas"), pen = made.getContext("2d"), side = made.width = made.height = 28;
    const one = pen.createImageData(side, side);
    paintPoints(new Uint32Array(one.data.buffer), side, side, { x: [14], y: [14], count: 1, group: [0], shown: [1] },
      { scale: 1, left: 0, top: 0, radius: 8.5, styles: [style] });
    pen.putImageData(one, 0, 0);
    return made;
  };
  data.classes.forEach((name, c) => {
    const one = element("button");
    one.type = "button";
    one.append(swatch(styles[c]), name);
    one.onclick = () => choose("class", String(c));
    find("classes").append(one);
  });

  // A selection is said in the address as it was made: in a box of a map, by search, by a click on a point or a class.
  const ways = {
    box: (told) => {
      const [number, ...box] = told.split(",").map(Number);
      return panels[number] && box.length === 4 && box.every(Number.isFinite) ? panels[number].inBox(box) : [];
    },
    class: (told) => (/^\d+$/.test(told) ? data.ids.map((_, i) => i).filter((i) => label[i] === Number(told)) : []),
    pick: (told) => (/^\d+$/.test(told) && Number(told) < total ? [Number(told)] : []),
    find: (told) => {
      const text = told.trim().toLowerCase();
      return text ? data.ids.map((_, i) => i).filter((i) => title(i).toLowerCase().includes(text)) : [];
    },
  };
  const choose = (way, told) => {
    const list = ways[way] ? ways[way](told) : [];
    how = list.length || way === "find" ? `${way}=${encodeURIComponent(told).replaceAll("%2C", ",")}` : "";
    if (way !== "find") find("search").value = "";
    select(list);
    if (how || location.hash.startsWith("#linked:")) history.replaceState(null, "", `#linked:${how}`);
  };
  const recall = () => {
    const told = location.hash.match(/^#linked:(\w+)=(.*)$/);
    if (!told || told[0] === `#linked:${how}`) return;
    let text = "";
    try { text = decodeURIComponent(told[2]); } catch { /* cut short on its way */ }
    if (told[1] === "find") find("search").value = text;
    choose(told[1], text);
    root.scrollIntoView();
  };
  find("search").oninput = () => choose("find", find("search").value);
  find("none").onclick = () => choose("", "");
  find("save").onclick = () => {
    const link = element("a"), rows = [["id", "path", "class"], ...[...chosen].map((i) => [data.ids[i], data.paths[i] || "", label[i] === data.unlabelled ? "" : data.classes[label[i]]])];
    link.href = URL.createObjectURL(new Blob([csvText(rows)], { type: "text/csv" }));
    link.download = "selection.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  dark.addEventListener("change", () => {
    styles.at(-1).color = faint();
    panels.forEach((panel) => { panel.paint(); panel.ring(); });
  });
  select([]);
  recall();
  window.addEventListener("hashchange", recall);
})();
