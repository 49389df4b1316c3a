"use strict";
// Pictures larger on click, in their own shape, with the scale and the path to copy.
(() => {
  const dialog = document.getElementById("larger");
  if (!dialog) return;
  const [image, scale, text, path, copy] = ["img", ".scale", ".what", "code", ".copy"].map((part) => dialog.querySelector(part));
  const LARGEST = 480;
  const fit = (micrometres) => {
    const room = Math.min(LARGEST, 0.92 * innerWidth - 40), high = Math.min(LARGEST, 0.55 * innerHeight);
    const times = Math.min(room / image.naturalWidth, high / image.naturalHeight);
    image.style.width = `${image.naturalWidth * times}px`;
    image.style.imageRendering = times > 5 ? "pixelated" : "auto";
    showScale(scale, micrometres, image.naturalWidth * times, Math.min(160, room / 2));
  };
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("button.picture");
    if (!pressed) return;
    const small = pressed.querySelector("img, canvas");
    image.src = small.src || small.toDataURL();
    image.alt = small.alt || pressed.dataset.what;
    scale.hidden = true;
    image.decode().then(() => fit(Number(pressed.dataset.um)), () => {});
    text.textContent = pressed.dataset.what;
    path.textContent = pressed.dataset.path;
    copy.hidden = !pressed.dataset.path;
    copy.textContent = "copy path";
    dialog.showModal();
  });
  copy.onclick = () => {
    const range = document.createRange();
    range.selectNodeContents(path);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    copy.textContent = document.execCommand("copy") ? "copied" : "select it and copy";
  };
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
})();
// A cell of the confusion matrix opens its images.
(() => {
  const data = document.getElementById("matrix-cells"), dialog = document.getElementById("cell");
  if (!data || !dialog) return;
  const cells = JSON.parse(data.textContent);
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("button[data-cell]");
    if (!pressed) return;
    const cell = cells[pressed.dataset.cell];
    dialog.querySelector("h3").textContent = cell.title;
    dialog.querySelector("ul").replaceChildren(...cell.images.map((image) => {
      const item = document.createElement("li"), name = document.createElement("small");
      if (image.source) {
        const open = document.createElement("button"), picture = document.createElement("img");
        Object.assign(open, { type: "button", className: "picture" });
        Object.assign(open.dataset, { path: image.path, what: `${image.id} · ${cell.title}`, um: image.um });
        Object.assign(picture, { src: image.source, alt: image.id });
        open.append(picture);
        item.append(open);
      }
      name.textContent = image.id;
      item.append(name);
      return item;
    }));
    const rest = cell.total - cell.images.length;
    dialog.querySelector("p").textContent = `${cell.total.toLocaleString("en")} image${cell.total === 1 ? "" : "s"}${rest ? `, the first ${cell.images.length} shown` : ""}`;
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
})();
