"use strict";
// The page of `jaxssl label`: what it shows is what the server has saved. Names go in as text.
(() => {
  const KEYS = "123456789abcdefghijklmnopqrstuvwxyz";
  const find = (part) => document.querySelector(`[data-part=${part}]`);
  const grid = find("grid"), said = find("said"), input = find("input");
  let state = JSON.parse(document.getElementById("label-state").textContent);
  let at = 0, busy = false;
  const chosen = new Set(), queue = [];

  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const many = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
  const picture = (image) => {
    const made = element("img");
    made.src = `picture/${image.row}`;
    made.alt = image.id;
    made.onerror = () => made.replaceWith(element("span", image.id)); // no picture: its name
    return made;
  };

  const showLarge = () => {
    const image = state.images[at];
    const large = image && picture(image), frame = find("large");
    frame.replaceChildren(...(image ? [large] : []));
    find("scale").hidden = true;
    if (image?.um) {
      large.addEventListener("load", () => {
        const times = Math.min(frame.clientWidth / large.naturalWidth, frame.clientHeight / large.naturalHeight);
        if (state.images[at] === image) showScale(find("scale"), image.um, large.naturalWidth * times, 100);
      });
    }
    find("name").textContent = image ? image.path || image.id : "";
  };
  const mark = () => [...grid.children].forEach((tile, i) => {
    tile.setAttribute("aria-pressed", String(chosen.has(state.images[i].row)));
    tile.tabIndex = i === at ? 0 : -1;
  });
  const go = (i, focus = true) => {
    at = Math.max(0, Math.min(state.images.length - 1, i));
    mark();
    showLarge();
    if (focus) grid.children[at]?.focus();
  };
  const flip = (i) => {
    const { row } = state.images[i];
    if (!chosen.delete(row)) chosen.add(row);
  };

  const show = (focus) => {
    const done = state.total - state.left;
    find("where").textContent = `${many(done, "image")} of ${state.total.toLocaleString("en")} labelled here. Table: ${state.table}`;
    find("group").textContent = state.left ? `group ${state.group + 1} of ${state.groups}: ${many(state.images.length, "image")}` : "no image left";
    find("bar").style.width = `${state.total ? (100 * done) / state.total : 100}%`;
    find("undo").disabled = !state.changes;
    find("done").hidden = Boolean(state.left);
    grid.replaceChildren(...state.images.map((image, i) => {
      const tile = element("button", undefined, "tile-image");
      tile.type = "button";
      tile.title = image.id;
      tile.append(picture(image));
      tile.onclick = (event) => {
        if (event.shiftKey) for (let k = Math.min(at, i); k <= Math.max(at, i); k++) chosen.add(state.images[k].row);
        else flip(i);
        go(i);
      };
      return tile;
    }));
    find("classes").replaceChildren(...state.classes.map(({ name, count }, i) => {
      const item = element("li"), one = element("button");
      one.type = "button";
      if (KEYS[i]) one.append(element("kbd", KEYS[i]));
      one.append(element("span", name), element("small", count.toLocaleString("en")));
      one.onclick = () => assign(name);
      item.append(one);
      return item;
    }));
    document.getElementById("typed-classes").replaceChildren(...state.classes.map(({ name }) => Object.assign(element("option"), { value: name })));
    go(Math.min(at, state.images.length - 1), focus);
  };

  // One request after the other; the page changes when the server has saved.
  const ask = (path, body, told) => {
    queue.push([path, body, told]);
    if (!busy) next();
  };
  const next = async () => {
    const asked = queue.shift();
    busy = Boolean(asked);
    if (!asked) return;
    const [path, body, told] = asked;
    let trouble = "";
    try {
      const answer = await fetch(path, body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
      const found = await answer.json();
      if (found.error) trouble = found.error;
      else {
        if (found.group !== state.group) at = 0;
        state = found;
        chosen.clear();
        show(document.activeElement !== input);
        said.textContent = told || find("group").textContent;
      }
    } catch (error) {
      trouble = "the server does not answer: start jaxssl label again, what was shown is saved";
    }
    find("trouble").textContent = trouble;
    find("trouble").hidden = !trouble;
    if (trouble) queue.length = 0;
    next();
  };
  const assign = (label) => {
    if (busy || !state.images.length) return; // a key that is held down labels once
    const rows = chosen.size ? [...chosen] : [state.images[at].row];
    ask("assign", { rows, label, group: state.group }, `${many(rows.length, "image")}: ${label}`);
  };
  const undo = () => { if (!busy && state.changes) ask("undo", { group: state.group }, "taken back"); };
  const visit = (by) => {
    const group = (state.group + by + state.groups) % state.groups;
    if (!busy) ask(`state?group=${group}&back=${Number(by < 0)}`, undefined, "");
  };
  const all = () => {
    const full = chosen.size === state.images.length;
    chosen.clear();
    if (!full) state.images.forEach((image) => chosen.add(image.row));
    mark();
    said.textContent = `${many(chosen.size, "image")} selected`;
  };
  const columns = () => getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const walk = (by, event) => {
    if (event.shiftKey) {
      const to = Math.max(0, Math.min(state.images.length - 1, at + by));
      for (let k = Math.min(at, to); k <= Math.max(at, to); k++) chosen.add(state.images[k].row);
    }
    go(at + by);
  };
  const keys = {
    ArrowLeft: (event) => walk(-1, event), ArrowRight: (event) => walk(1, event),
    ArrowUp: (event) => walk(-columns(), event), ArrowDown: (event) => walk(columns(), event),
    Home: () => go(0), End: () => go(state.images.length - 1),
    PageUp: () => visit(-1), PageDown: () => visit(1), Backspace: undo,
    Escape: () => { chosen.clear(); mark(); }, "/": () => input.focus(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.target === input) {
      if (event.key === "Escape") { input.value = ""; go(at); }
      return;
    }
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "a") { event.preventDefault(); return all(); }
    if (command && event.key === "z") { event.preventDefault(); return undo(); }
    if (command || event.altKey) return;
    const place = event.key.length === 1 ? KEYS.indexOf(event.key) : -1;
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key](event);
    } else if (event.key === " " && event.target.closest("[data-part=grid]")) {
      event.preventDefault();
      flip(at);
      go(at);
    } else if (place >= 0 && state.classes[place] && !event.repeat) assign(state.classes[place].name);
  });
  find("typed").addEventListener("submit", (event) => {
    event.preventDefault();
    const label = input.value.trim();
    if (!label) return;
    input.value = "";
    grid.children[at]?.focus();
    assign(label);
  });
  find("all").onclick = all;
  find("undo").onclick = undo;
  find("before").onclick = () => visit(-1);
  find("after").onclick = () => visit(1);
  show(true);
})();
