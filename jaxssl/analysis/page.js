"use strict";
// Pictures larger on click, with the path to copy.
(() => {
  const dialog = document.getElementById("larger");
  if (!dialog) return;
  const [image, text, path, copy] = ["img", ".what", "code", ".copy"].map((part) => dialog.querySelector(part));
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("button.picture");
    if (!pressed) return;
    image.src = pressed.querySelector("img").src;
    image.alt = pressed.querySelector("img").alt;
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
        Object.assign(open.dataset, { path: image.path, what: `${image.id} · ${cell.title}` });
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
