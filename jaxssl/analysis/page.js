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
