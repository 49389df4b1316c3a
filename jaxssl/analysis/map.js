"use strict";
// The interactive map: no library, no network; every name goes in as text, never as HTML.
(() => {
  const root = document.getElementById("map-app");
  if (!root) return;
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const x = new Uint16Array(bytes(data.x)), y = new Uint16Array(bytes(data.y));
  const label = new Uint16Array(bytes(data.label)), set = new Uint8Array(bytes(data.set));
  const guess = data.guess ? new Uint16Array(bytes(data.guess)) : null;
  const neighbours = new Uint32Array(bytes(data.neighbours));
  const count = x.length, NONE = "#80868f", UNKNOWN = 65535;
  const find = (part) => root.querySelector(`[data-part=${part}]`);
  const plot = find("plot"), base = plot.querySelector("canvas"), over = find("over");
  const words = find("words"), writer = words.getContext("2d"), pen = over.getContext("2d"), paper = base.getContext("2d", { willReadFrequently: true });
  const tip = root.querySelector(".tip"), panel = find("pinned"), picked = find("picked"), said = find("said");
  const grid = makeGrid(x, y, count), shown = new Uint8Array(count).fill(1);
  const hidden = { classes: new Set(), sets: new Set() };
  const view = { zoom: 1, cx: 32768, cy: 32768 };
  let w = 0, h = 0, ratio = 1, image, pixels; // kept: reading clientWidth lays the page out anew
  let hover = -1, pinned = -1, tool = "move", shape = [], chosen = [], names = true;
  let dirty = false, waiting = false, ink = "#000", ground = "#fff";

  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  // A name that may be broken after _ - / . and nowhere inside a word.
  const named = (tag, text, name) => {
    const made = element(tag, "", name);
    text.split(/(?<=[_\-/.])(?=[^_\-/.])/).forEach((part, k) => made.append(...(k ? [element("wbr"), part] : [part])));
    return made;
  };
  const button = (text, action, name) => {
    const made = element("button", text, name);
    made.type = "button";
    made.onclick = action;
    return made;
  };
  const near = (i) => neighbours.subarray(i * data.near, (i + 1) * data.near);
  const path = (i) => (data.paths.length ? data.root + data.paths[i] : "");
  const title = (i) => `${data.classes[label[i]]} · ${data.sets[set[i]]}`;

  // Colour: what a point's group is, and how each group is drawn.
  const style = (i) => ({ color: data.palette[i % 10], shape: Math.floor(i / 10) % 5, size: 1 });
  const byClass = data.classes.map((_, c) => (c === data.unlabelled ? { color: NONE, shape: 0, size: 0.75 } : style(c)));
  const verdicts = ["right", "wrong", "no prediction"];
  const modes = {
    class: { group: label, styles: byClass, names: data.classes },
    split: { group: set, styles: data.sets.map((_, s) => style(s)), names: data.sets },
  };
  if (guess) {
    modes.predicted = {
      group: label.slice(0, count).map((c, i) => (guess[i] === UNKNOWN || c === data.unlabelled ? 2 : Number(guess[i] !== c))),
      styles: [style(0), { color: data.palette[2], shape: 3, size: 1.25 }, { color: NONE, shape: 0, size: 0.75 }],
      names: verdicts,
    };
  }
  // A layer of the page's own: some sets grey, the others above them in colour.
  const layer = data.layer;
  if (layer) {
    const styles = layer.names.map((_, k) => (k ? style(k - 1) : { color: NONE, shape: 0, size: 0.6 }));
    layer.used = new Set(new Uint16Array(bytes(layer.group)));
    modes[layer.name] = { group: new Uint16Array(bytes(layer.group)), styles, names: layer.names };
  }
  let mode = "class";

  const scale = () => (Math.max(Math.min(w, h) - 40, 40) * view.zoom) / 65535;
  const place = (i) => [w / 2 + (x[i] - view.cx) * scale(), h / 2 + (y[i] - view.cy) * scale()];
  const there = (px, py) => [view.cx + (px - w / 2) / scale(), view.cy + (py - h / 2) / scale()];
  const radius = () => (count > 20000 ? 1.7 : 3) * Math.min(2.2, Math.sqrt(view.zoom));

  const paint = () => {
    const s = scale() * ratio, { group, styles } = modes[mode];
    paintPoints(pixels, image.width, image.height, { x, y, count, group, shown }, {
      scale: s, left: (w / 2) * ratio - view.cx * s, top: (h / 2) * ratio - view.cy * s, radius: radius() * ratio, styles,
    });
    paper.putImageData(image, 0, 0);
    // Names have a canvas of their own: they move with the points, not with the pointer.
    writer.setTransform(ratio, 0, 0, ratio, 0, 0);
    writer.clearRect(0, 0, w, h);
    if (names && (mode === "class" || mode === layer?.name)) drawNames();
  };

  // Centres of the classes: the median of what is shown.
  let centres = null;
  const findCentres = () => {
    const rows = data.classes.map(() => []);
    for (let i = 0; i < count; i++) if (shown[i]) rows[label[i]].push(i);
    const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    return rows.map((list, c) => ({ c, many: list.length, x: middle(list.map((i) => x[i])), y: middle(list.map((i) => y[i])) }))
      .filter((one) => one.many && one.c !== data.unlabelled).sort((a, b) => b.many - a.many);
  };

  const drawNames = () => {
    centres ??= findCentres();
    writer.font = "600 12px system-ui, sans-serif";
    writer.textAlign = "center";
    writer.lineWidth = 3.5;
    writer.lineJoin = "round";
    const taken = [];
    for (const one of centres) {
      const text = data.classes[one.c].length > 28 ? `${data.classes[one.c].slice(0, 27)}…` : data.classes[one.c];
      const px = w / 2 + (one.x - view.cx) * scale(), py = h / 2 + (one.y - view.cy) * scale();
      const half = writer.measureText(text).width / 2 + 2;
      if (px < half || px > w - half || py < 10 || py > h - 6) continue;
      if (taken.some(([ax, ay, ah]) => Math.abs(ax - px) < ah + half && Math.abs(ay - py) < 15)) continue;
      taken.push([px, py, half]);
      writer.strokeStyle = ground;
      writer.strokeText(text, px, py + 4);
      writer.fillStyle = ink;
      writer.fillText(text, px, py + 4);
    }
  };

  const drawOver = () => {
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    pen.strokeStyle = ink;
    const r = radius();
    const ring = (i, size) => {
      pen.beginPath();
      pen.arc(...place(i), r + size, 0, 7);
      pen.stroke();
    };
    if (pinned >= 0) {
      pen.lineWidth = 1;
      for (const j of near(pinned)) {
        if (j >= count) continue; // not on the map
        pen.beginPath();
        pen.moveTo(...place(pinned));
        pen.lineTo(...place(j));
        pen.stroke();
        ring(j, 2);
      }
      pen.lineWidth = 2.5;
      ring(pinned, 5);
    }
    pen.lineWidth = 2;
    if (hover >= 0) ring(hover, 3);
    if (shape.length > 3) {
      pen.setLineDash([5, 4]);
      pen.lineWidth = 1.5;
      pen.beginPath();
      for (let k = 0; k < shape.length; k += 2) {
        pen.lineTo(w / 2 + (shape[k] - view.cx) * scale(), h / 2 + (shape[k + 1] - view.cy) * scale());
      }
      pen.closePath();
      pen.stroke();
      pen.setLineDash([]);
    }
  };
  const redraw = (points = true) => {
    dirty ||= points;
    if (waiting || !w) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (dirty) paint();
      dirty = false;
      drawOver();
      root.dataset.frames = Number(root.dataset.frames || 0) + 1;
    });
  };

  // Sheets are decoded when first shown; they stand behind the script, so that it need not wait.
  const sheets = [];
  const picture = (i, side) => {
    const [tw, th] = data.shapes.length ? [data.shapes[2 * i], data.shapes[2 * i + 1]] : [1, 1];
    const long = Math.max(tw, th), cw = Math.max(1, Math.round((data.tile * tw) / long)), ch = Math.max(1, Math.round((data.tile * th) / long));
    const made = element("canvas");
    made.width = cw;
    made.height = ch;
    made.style.width = `${(side * tw) / long}px`;
    made.style.aspectRatio = `${tw} / ${th}`;
    const perSheet = data.across * data.across, s = Math.floor(i / perSheet), at = i % perSheet;
    const source = document.getElementById(`map-sheet-${s}`);
    if (!source) return element("span", "");
    if (!sheets[s]) {
      sheets[s] = new Image();
      sheets[s].src = source.textContent;
    }
    const left = (at % data.across) * data.tile + (data.tile - cw) / 2, top = Math.floor(at / data.across) * data.tile + (data.tile - ch) / 2;
    sheets[s].decode().then(() => made.getContext("2d").drawImage(sheets[s], left, top, cw, ch, 0, 0, cw, ch), () => {});
    return made;
  };

  // The picture follows where the pointer rests: a sheet takes longer to decode than a frame lasts.
  let rest = 0;
  const showTip = () => {
    clearTimeout(rest);
    tip.hidden = hover < 0;
    if (hover < 0) return;
    const frame = element("div", undefined, "frame"), i = hover;
    rest = setTimeout(() => frame.append(picture(i, 96)), 40);
    tip.replaceChildren(frame, element("div", title(hover)), element("small", data.ids[hover]));
    if (guess && guess[hover] !== UNKNOWN) tip.append(element("div", `predicted: ${data.classes[guess[hover]]}`));
    // By its nearer side, so that its size need not be asked for, which lays the page out anew.
    const [px, py] = place(hover), right = px > w / 2, below = py > h / 2;
    tip.style.left = right ? "" : `${px + 14}px`;
    tip.style.right = right ? `${w - px + 14}px` : "";
    tip.style.top = below ? "" : `${Math.max(0, py - 30)}px`;
    tip.style.bottom = below ? `${Math.max(0, h - py - 30)}px` : "";
  };

  const copyButton = (text) => button("copy path", (event) => {
    const done = () => { event.target.textContent = "copied"; };
    const area = element("textarea");
    area.value = text;
    if (navigator.clipboard) return navigator.clipboard.writeText(text).then(done, () => { event.target.textContent = text; });
    document.body.append(area); // a page from disk has no clipboard in some browsers
    area.select();
    document.execCommand("copy");
    area.remove();
    event.target.focus();
    done();
  }, "small");

  const pin = (i) => {
    const inside = panel.contains(document.activeElement);
    pinned = i;
    redraw(false);
    remember();
    if (i < 0) {
      panel.replaceChildren(element("p", "Click a point to keep it here with its nearest neighbours.", "muted"));
      if (inside) over.focus();
      return;
    }
    const same = [...near(i)].filter((j) => label[j] === label[i] && label[i] !== data.unlabelled).length;
    const list = element("ul", undefined, "near");
    for (const j of near(i)) {
      const item = element("li"), one = button(undefined, () => (j < count ? pin(j) : undefined));
      one.title = `${title(j)}\n${data.ids[j]}`;
      one.setAttribute("aria-label", `${title(j)}, ${data.ids[j]}${j < count ? "" : ", not on the map"}`);
      one.style.borderColor = byClass[label[j]].color;
      one.append(picture(j, 56));
      item.append(one, named("small", data.classes[label[j]], label[j] === label[i] ? "" : "other"));
      list.append(item);
    }
    const head = element("div", title(i), "head");
    head.tabIndex = -1;
    const larger = button(undefined, undefined, "picture"), bar = element("div", undefined, "scale"), shown = picture(i, 120);
    Object.assign(larger.dataset, { path: path(i), what: `${data.ids[i]} · ${title(i)}`, um: data.um[i] || 0 });
    larger.setAttribute("aria-label", "larger");
    larger.append(shown);
    showScale(bar, data.um[i], parseFloat(shown.style.width), 90);
    panel.replaceChildren(...(data.shapes.length ? [larger, bar] : []), head, element("small", data.ids[i]));
    if (path(i)) panel.append(copyButton(path(i)));
    if (data.near) panel.append(element("p", `${same} of its ${data.near} nearest ${data.of} share the class`), list);
    if (inside) head.focus(); // what was pressed is gone
  };

  // Selection.
  const save = (name, text, type) => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const PAGE = 60;
  const showChosen = () => {
    picked.hidden = !shape.length;
    if (!shape.length) return;
    const tally = new Map();
    for (const i of chosen) tally.set(label[i], (tally.get(label[i]) || 0) + 1);
    const counts = [...tally].sort((a, b) => b[1] - a[1]);
    const head = element("h3", `${chosen.length.toLocaleString("en")} selected`);
    const list = element("p", counts.map(([c, n]) => `${data.classes[c]} (${n.toLocaleString("en")})`).join(", "), "muted");
    const files = button("file names (CSV)", () => save("selection.csv", csvText([["id", "path", "class", "set"],
      ...chosen.map((i) => [data.ids[i], path(i), label[i] === data.unlabelled ? "" : data.classes[label[i]], data.sets[set[i]]])]), "text/csv"));
    const propose = element("input"), tsv = button("EcoTaxa import (TSV)", () => {
      if (!propose.value.trim()) return propose.focus();
      save("ecotaxa_selection.tsv", ecotaxaText(chosen.map((i) => [data.ids[i], data.objects[i]]), propose.value.trim()), "text/tab-separated-values");
    });
    propose.setAttribute("list", "map-classes");
    propose.placeholder = "class for all of it";
    propose.setAttribute("aria-label", "Class proposed for the selection");
    const pictures = element("div", undefined, "chosen");
    const more = (from) => {
      for (const i of chosen.slice(from, from + PAGE)) {
        const one = button(undefined, () => pin(i));
        one.title = `${title(i)}\n${data.ids[i]}`;
        one.setAttribute("aria-label", `${title(i)}, ${data.ids[i]}`);
        one.append(picture(i, 56));
        pictures.append(one);
      }
      const rest = chosen.length - from - PAGE;
      if (rest > 0) pictures.append(button(`${rest.toLocaleString("en")} more`, (event) => {
        event.target.remove();
        more(from + PAGE);
      }, "more"));
    };
    more(0);
    const line = element("div", undefined, "line");
    line.append(files, propose, tsv, button("clear", () => select([])));
    picked.replaceChildren(head, list, line, pictures);
  };
  const select = (polygon) => {
    shape = polygon;
    chosen = [];
    if (shape.length > 5) for (let i = 0; i < count; i++) if (shown[i] && inside(shape, x[i], y[i])) chosen.push(i);
    said.textContent = shape.length ? `${chosen.length} images selected` : "";
    showChosen();
    redraw(false);
    remember();
  };

  // The view in the address, so that a colleague opens the same.
  let timer = 0;
  const remember = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const off = [...hidden.classes].join("."), parts = [`z=${view.zoom.toFixed(3)},${Math.round(view.cx)},${Math.round(view.cy)}`];
      if (mode !== "class") parts.push(`color=${mode}`);
      if (off) parts.push(`off=${off}`);
      if (hidden.sets.size) parts.push(`sets=${[...hidden.sets].join(".")}`);
      if (!names) parts.push("names=0");
      if (pinned >= 0) parts.push(`pin=${pinned}`);
      if (shape.length) parts.push(`sel=${shape.map(Math.round).join(",")}`);
      history.replaceState(null, "", `#map:${parts.join("&")}`);
    }, 200);
  };
  const recall = () => {
    if (!location.hash.startsWith("#map:")) return;
    const said = Object.fromEntries(location.hash.slice(5).split("&").map((part) => part.split("=")));
    const numbers = (text, by) => (text || "").split(by).filter(Boolean).map(Number).filter(Number.isFinite);
    const [zoomed, cx, cy] = numbers(said.z, ",");
    if (zoomed > 0 && cy !== undefined) Object.assign(view, { zoom: Math.min(60, zoomed), cx, cy });
    if (modes[said.color]) setMode(said.color);
    names = find("names").checked = said.names !== "0";
    numbers(said.off, ".").forEach((c) => hidden.classes.add(c));
    numbers(said.sets, ".").forEach((s) => hidden.sets.add(s));
    filter();
    const polygon = numbers(said.sel, ",");
    if (polygon.length > 5 && polygon.length % 2 === 0) select(polygon);
    if (said.pin !== undefined && Number(said.pin) >= 0 && Number(said.pin) < count) pin(Number(said.pin));
    root.scrollIntoView();
  };

  const look = (i) => {
    if (i === hover) return;
    hover = i;
    showTip();
    redraw(false);
  };
  const at = (px, py, reach) => grid.nearest(...there(px, py), reach / scale(), shown);
  const move = (dx, dy) => {
    view.cx -= dx / scale();
    view.cy -= dy / scale();
    look(-1);
    redraw();
    remember();
  };
  const zoom = (factor, px = w / 2, py = h / 2) => {
    const [tx, ty] = there(px, py);
    view.zoom = Math.min(60, Math.max(0.5, view.zoom * factor));
    const [nx, ny] = there(px, py);
    view.cx += tx - nx;
    view.cy += ty - ny;
    look(-1);
    redraw();
    remember();
  };
  const reset = () => {
    Object.assign(view, { zoom: 1, cx: 32768, cy: 32768 });
    redraw();
    remember();
  };

  // One pointer pans, picks or selects, two pinch.
  const pointers = new Map();
  let dragged = false, drawing = null;
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return [Math.hypot(a[0] - b[0], a[1] - b[1]), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  };
  over.addEventListener("pointerdown", (event) => {
    over.setPointerCapture(event.pointerId);
    const now = [event.offsetX, event.offsetY];
    pointers.set(event.pointerId, now);
    dragged = pointers.size > 1;
    drawing = pointers.size === 1 && (tool !== "move" || event.shiftKey) ? { kind: tool === "move" ? "box" : tool, from: there(...now) } : null;
    if (drawing) shape = [...drawing.from];
  });
  over.addEventListener("pointermove", (event) => {
    const now = [event.offsetX, event.offsetY], old = pointers.get(event.pointerId);
    if (!old) return look(at(...now, 12));
    if (!dragged && Math.hypot(now[0] - old[0], now[1] - old[1]) < 4) return;
    dragged = true;
    if (drawing) {
      const [ax, ay] = drawing.from, [bx, by] = there(...now);
      if (drawing.kind === "box") shape = [ax, ay, bx, ay, bx, by, ax, by];
      else shape.push(bx, by);
      return redraw(false);
    }
    if (pointers.size === 1) {
      pointers.set(event.pointerId, now);
      return move(now[0] - old[0], now[1] - old[1]);
    }
    const [before] = spread();
    pointers.set(event.pointerId, now);
    const [after, px, py] = spread();
    zoom(after / Math.max(before, 1), px, py);
  });
  over.addEventListener("pointerup", (event) => {
    pointers.delete(event.pointerId);
    if (drawing && dragged) select(shape);
    else {
      if (drawing) select([]);
      if (!dragged) pin(at(event.offsetX, event.offsetY, 16));
    }
    drawing = null;
  });
  over.addEventListener("pointercancel", (event) => {
    pointers.delete(event.pointerId);
    if (drawing) select([]);
    drawing = null;
  });
  over.addEventListener("pointerleave", () => look(-1));
  over.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-0.0015 * event.deltaY), event.offsetX, event.offsetY);
  }, { passive: false });
  const visitNext = (by) => {
    for (let step = 1, i = pinned; step <= count; step++) {
      i = (i + by + count) % count;
      if (shown[i] && (!chosen.length || chosen.includes(i))) return pin(i), tell(i);
    }
  };
  const tell = (i) => { said.textContent = i < 0 ? "no image here" : `${title(i)}, ${data.ids[i]}`; };
  const chooseView = () => { // what is in sight, by the keyboard
    const [ax, ay] = there(0, 0), [bx, by] = there(w, h);
    select([ax, ay, bx, ay, bx, by, ax, by]);
  };
  const keys = {
    ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0),
    ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
    "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset,
    Escape: () => { if (shape.length) select([]); else pin(-1); },
    Enter: () => { const i = at(w / 2, h / 2, 1e6); pin(i); tell(i); },
    n: () => visitNext(1), p: () => visitNext(-1), s: chooseView,
  };
  over.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const one of root.querySelectorAll("[data-zoom]")) {
    one.onclick = () => (Number(one.dataset.zoom) ? zoom(Number(one.dataset.zoom)) : reset());
  }
  for (const one of root.querySelectorAll("[data-tool]")) {
    one.onclick = () => {
      tool = one.dataset.tool;
      for (const other of root.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", String(other === one));
    };
  }

  // Switches: sets above the map, classes beside it.
  const switches = { classes: [], sets: [] };
  const filter = () => {
    for (let i = 0; i < count; i++) shown[i] = Number(!hidden.classes.has(label[i]) && !hidden.sets.has(set[i]));
    for (const which of ["classes", "sets"]) {
      switches[which].forEach((one, index) => one?.setAttribute("aria-pressed", String(!hidden[which].has(index))));
    }
    centres = null;
    look(-1);
    if (shape.length) select(shape);
    redraw();
    remember();
  };
  const toggle = (which, index) => {
    if (!hidden[which].delete(index)) hidden[which].add(index);
    filter();
  };
  const only = (classes) => {
    hidden.classes = new Set(data.classes.map((_, c) => c).filter((c) => !classes.includes(c)));
    filter();
  };
  const everyClass = data.classes.map((_, c) => c);
  const isolate = (c) => only(everyClass.every((d) => hidden.classes.has(d) === (d !== c)) ? everyClass : [c]);
  const swatch = (group) => {
    const made = element("canvas"), ink = made.getContext("2d"), side = 28;
    made.width = made.height = side;
    const one = ink.createImageData(side, side), w32 = new Uint32Array(one.data.buffer);
    paintPoints(w32, side, side, { x: [14], y: [14], count: 1, group: [0], shown: [1] },
      { scale: 1, left: 0, top: 0, radius: 8.5, styles: [group] });
    ink.putImageData(one, 0, 0);
    made.style.width = made.style.height = "14px";
    return made;
  };
  const tally = (codes, many) => codes.reduce((sum, code) => (sum[code]++, sum), new Array(many).fill(0));
  const inSet = tally(set.subarray(0, count), data.sets.length), inClass = tally(label.subarray(0, count), data.classes.length);
  data.sets.forEach((text, s) => {
    const one = button(`${text} `, () => toggle("sets", s));
    one.append(element("small", inSet[s].toLocaleString("en")));
    one.setAttribute("aria-pressed", "true");
    switches.sets[s] = one;
    find("sets").append(one);
  });
  const options = document.getElementById("map-classes");
  data.classes.forEach((text, c) => {
    if (c !== data.unlabelled) options.append(Object.assign(element("option"), { value: text }));
    if (!inClass[c]) return;
    const row = element("div", undefined, "entry"), one = button(undefined, () => toggle("classes", c), "switch");
    one.setAttribute("aria-label", `show ${text}`);
    one.setAttribute("aria-pressed", "true");
    one.append(swatch(byClass[c]));
    switches.classes[c] = one;
    const alone = button(undefined, () => isolate(c), "alone");
    alone.title = `${text}: for it alone, again for all`;
    alone.append(named("span", text), element("small", inClass[c].toLocaleString("en")));
    row.append(one, alone);
    find("legend").append(row);
  });
  find("all").onclick = () => only(everyClass);
  find("none").onclick = () => only([]);
  find("names").onchange = (event) => {
    names = event.target.checked;
    redraw();
    remember();
  };
  const setMode = (name) => {
    mode = name;
    find("color").value = name;
    const key = find("key");
    key.replaceChildren();
    if (name !== "class") modes[name].names.forEach((text, g) => {
      if (name === layer?.name && !layer.used.has(g)) return;
      const item = element("span");
      item.append(swatch(modes[name].styles[g]), text);
      key.append(item);
    });
    redraw();
  };
  for (const [name, text] of [["class", "class"], ["split", "split"], ["predicted", "own against predicted"], [layer?.name, layer?.name]]) {
    if (modes[name]) find("color").append(Object.assign(element("option", text), { value: name }));
  }
  find("color").onchange = (event) => {
    setMode(event.target.value);
    remember();
  };

  // Search for a class or a file.
  const search = find("search"), hits = find("hits");
  search.oninput = () => {
    const text = search.value.trim().toLowerCase(), found = [];
    if (text) {
      data.classes.forEach((one, c) => {
        if (inClass[c] && one.toLowerCase().includes(text)) found.push(button(`class ${one}`, () => only([c])));
      });
      for (let i = 0; i < count && found.length < 20; i++) {
        if (data.ids[i].toLowerCase().includes(text)) found.push(button(data.ids[i], () => {
          Object.assign(view, { cx: x[i], cy: y[i], zoom: Math.max(view.zoom, 4) });
          pin(i);
          redraw();
          tell(i);
        }));
      }
    }
    hits.replaceChildren(...found.slice(0, 20));
    if (text && !found.length) hits.append(element("p", "nothing of that name", "muted"));
  };

  const takeColors = () => {
    const css = getComputedStyle(over);
    [ink, ground] = [css.color, css.getPropertyValue("--card")];
  };
  takeColors();
  new ResizeObserver(() => {
    w = plot.clientWidth;
    h = plot.clientHeight;
    ratio = window.devicePixelRatio || 1;
    for (const canvas of [base, words, over]) Object.assign(canvas, { width: Math.round(w * ratio), height: Math.round(h * ratio) });
    if (!base.width || !base.height) return;
    image = paper.createImageData(base.width, base.height);
    pixels = new Uint32Array(image.data.buffer);
    redraw();
  }).observe(plot);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    takeColors();
    redraw();
  });
  panel.replaceChildren(element("p", "Click a point to keep it here with its nearest neighbours.", "muted"));
  if (layer) setMode(layer.name);
  // The view of the address has pictures, whose sheets stand behind this script.
  document.addEventListener("DOMContentLoaded", recall);
  window.addEventListener("hashchange", recall);
})();
