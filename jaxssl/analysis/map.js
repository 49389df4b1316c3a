"use strict";
// The interactive map: no library, no network; every name goes in as text, never as HTML.
(() => {
  const root = document.getElementById("map-app");
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const x = new Uint16Array(bytes(data.x)), y = new Uint16Array(bytes(data.y));
  const label = new Uint16Array(bytes(data.label)), set = new Uint8Array(bytes(data.set));
  const neighbours = new Uint32Array(bytes(data.neighbours));
  const canvas = root.querySelector(".stage > canvas"), pen = canvas.getContext("2d");
  const tip = root.querySelector(".tip"), panel = root.querySelector(".pinned");
  const count = x.length;
  const hidden = { classes: new Set(), sets: new Set() };
  const view = { zoom: 1, dx: 0, dy: 0 };
  let hover = -1, pinned = -1, waiting = false;

  const visible = (i) => !hidden.classes.has(label[i]) && !hidden.sets.has(set[i]);
  const color = (c) => (c === data.unlabelled ? "#80868f" : data.palette[c % 10]);
  const near = (i) => neighbours.subarray(i * data.near, (i + 1) * data.near);
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  // Where a point is on the canvas, in CSS pixels.
  const place = (i) => {
    const w = canvas.clientWidth, h = canvas.clientHeight, side = (Math.min(w, h) - 40) * view.zoom;
    return [w / 2 + view.dx + (x[i] / 65535 - 0.5) * side, h / 2 + view.dy + (y[i] / 65535 - 0.5) * side];
  };

  // Five shapes in the order of figures.MARKERS: circle, square, triangle, diamond, plus.
  const shape = (to, c, px, py, r) => {
    const kind = c === data.unlabelled ? 0 : Math.floor(c / 10) % 5;
    to.beginPath();
    if (kind === 0) to.arc(px, py, r, 0, 7);
    else if (kind === 1) to.rect(px - r, py - r, 2 * r, 2 * r);
    else if (kind === 4) {
      to.rect(px - r, py - r / 3, 2 * r, (2 * r) / 3);
      to.rect(px - r / 3, py - r, (2 * r) / 3, 2 * r);
    } else {
      to.moveTo(px, py - 1.3 * r);
      to.lineTo(px + 1.2 * r, kind === 2 ? py + r : py);
      if (kind === 3) to.lineTo(px, py + 1.3 * r);
      to.lineTo(px - 1.2 * r, kind === 2 ? py + r : py);
      to.closePath();
    }
    to.fill();
  };

  const draw = () => {
    waiting = false;
    const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const r = 2.8 * Math.min(2.2, Math.sqrt(view.zoom));
    pen.globalAlpha = 0.8;
    for (let i = 0; i < count; i++) {
      const [px, py] = place(i);
      if (px < -9 || py < -9 || px > w + 9 || py > h + 9 || !visible(i)) continue;
      pen.fillStyle = color(label[i]);
      shape(pen, label[i], px, py, r);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(canvas).color;
    const ring = (i, size) => {
      pen.beginPath();
      pen.arc(...place(i), r + size, 0, 7);
      pen.stroke();
    };
    if (pinned >= 0) {
      pen.lineWidth = 1;
      for (const j of near(pinned)) {
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
  };
  const redraw = () => {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  };

  // Sheets are decoded when first shown.
  const sheets = [];
  const picture = (i, side) => {
    const made = element("canvas");
    made.width = made.height = data.tile;
    made.style.width = made.style.height = `${side}px`;
    const perSheet = data.across * data.across, s = Math.floor(i / perSheet), at = i % perSheet;
    if (!data.sheets.length) return element("span", "");
    if (!sheets[s]) {
      sheets[s] = new Image();
      sheets[s].src = data.sheets[s];
    }
    const left = (at % data.across) * data.tile, top = Math.floor(at / data.across) * data.tile;
    sheets[s].decode().then(() =>
      made.getContext("2d").drawImage(sheets[s], left, top, data.tile, data.tile, 0, 0, data.tile, data.tile));
    return made;
  };
  const name = (i) => `${data.classes[label[i]]} · ${data.sets[set[i]]}`;

  const showTip = () => {
    tip.hidden = hover < 0;
    if (hover < 0) return;
    tip.replaceChildren(picture(hover, 96), element("div", name(hover)), element("small", data.ids[hover]));
    const [px, py] = place(hover), top = canvas.offsetTop + py;
    tip.style.left = `${Math.max(0, px + 14 + tip.offsetWidth > canvas.clientWidth ? px - 14 - tip.offsetWidth : px + 14)}px`;
    tip.style.top = `${Math.max(0, Math.min(top - 40, canvas.offsetTop + canvas.clientHeight - tip.offsetHeight))}px`;
  };

  const pin = (i) => {
    pinned = i;
    redraw();
    if (i < 0) {
      panel.replaceChildren(element("p", "Click a point to keep it here with its nearest neighbours.", "muted"));
      return;
    }
    const same = near(i).filter((j) => label[j] === label[i]).length;
    const list = element("div", undefined, "near");
    for (const j of near(i)) {
      const button = element("button");
      button.type = "button";
      button.title = `${name(j)}\n${data.ids[j]}`;
      button.setAttribute("aria-label", `${name(j)}, ${data.ids[j]}`);
      button.style.borderColor = color(label[j]);
      button.append(picture(j, 56));
      button.onclick = () => pin(j);
      list.append(button);
    }
    panel.replaceChildren(picture(i, 120), element("div", name(i)), element("small", data.ids[i]),
      element("p", `${same} of ${data.near} nearest share the class`), list);
  };

  const nearest = (px, py, reach) => {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      const [qx, qy] = place(i), d = (qx - px) ** 2 + (qy - py) ** 2;
      if (d < least && visible(i)) [best, least] = [i, d];
    }
    return best;
  };
  const look = (i) => {
    if (i === hover) return;
    hover = i;
    showTip();
    redraw();
  };
  const move = (dx, dy) => {
    view.dx += dx;
    view.dy += dy;
    look(-1);
    redraw();
  };
  const zoom = (factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) => {
    const next = Math.min(60, Math.max(0.5, view.zoom * factor)), by = next / view.zoom;
    const cx = px - canvas.clientWidth / 2, cy = py - canvas.clientHeight / 2;
    Object.assign(view, { zoom: next, dx: cx - (cx - view.dx) * by, dy: cy - (cy - view.dy) * by });
    look(-1);
    redraw();
  };
  const reset = () => {
    Object.assign(view, { zoom: 1, dx: 0, dy: 0 });
    redraw();
  };

  // One pointer pans or picks, two pinch.
  const pointers = new Map();
  let dragged = false;
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return [Math.hypot(a[0] - b[0], a[1] - b[1]), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    dragged = pointers.size > 1;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = [event.offsetX, event.offsetY], old = pointers.get(event.pointerId);
    if (!old) return look(nearest(...now, 12));
    if (!dragged && Math.hypot(now[0] - old[0], now[1] - old[1]) < 4) return;
    dragged = true;
    if (pointers.size === 1) {
      pointers.set(event.pointerId, now);
      return move(now[0] - old[0], now[1] - old[1]);
    }
    const [before] = spread();
    pointers.set(event.pointerId, now);
    const [after, px, py] = spread();
    zoom(after / Math.max(before, 1), px, py);
  });
  const release = (event) => pointers.delete(event.pointerId);
  canvas.addEventListener("pointerup", (event) => {
    release(event);
    if (!dragged) pin(nearest(event.offsetX, event.offsetY, 16));
  });
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => look(-1));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-0.0015 * event.deltaY), event.offsetX, event.offsetY);
  }, { passive: false });
  const keys = {
    ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0),
    ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
    "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), Escape: () => pin(-1),
    Enter: () => pin(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity)),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const button of root.querySelectorAll("[data-zoom]")) {
    button.onclick = () => (Number(button.dataset.zoom) ? zoom(Number(button.dataset.zoom)) : reset());
  }

  // Switches: sets above the map, classes beside it.
  const toggle = (which, index, total, button) => {
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(element("small", total.toLocaleString("en")));
    button.onclick = () => {
      const off = hidden[which];
      if (!off.delete(index)) off.add(index);
      button.setAttribute("aria-pressed", String(!off.has(index)));
      look(-1);
      redraw();
    };
    return button;
  };
  const tally = (codes, many) => codes.reduce((sum, code) => (sum[code]++, sum), new Array(many).fill(0));
  const inSet = tally(set, data.sets.length), inClass = tally(label, data.classes.length);
  data.sets.forEach((text, s) =>
    root.querySelector("[data-part=sets]").append(toggle("sets", s, inSet[s], element("button", `${text} `))));
  data.classes.forEach((text, c) => {
    if (!inClass[c]) return;
    const swatch = element("canvas"), button = element("button");
    swatch.width = swatch.height = 14;
    const ink = swatch.getContext("2d");
    ink.fillStyle = color(c);
    shape(ink, c, 7, 7, 5);
    button.append(swatch, element("span", text));
    root.querySelector(".legend").append(toggle("classes", c, inClass[c], button));
  });
  new ResizeObserver(redraw).observe(canvas);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  pin(-1);
})();
