"use strict";
// A bar of the longest 1, 2 or 5 x 10^k micrometres that fits under a picture; none without scale.
const showScale = (place, micrometres, wide, most) => {
  place.hidden = !(micrometres > 0 && wide > 0);
  if (place.hidden) return;
  const room = (most * micrometres) / wide, step = 10 ** Math.floor(Math.log10(room));
  const long = Number((step * [5, 2, 1].find((k) => k * step <= room)).toPrecision(1));
  const bar = document.createElement("span");
  bar.style.width = `${(long * wide) / micrometres}px`;
  place.replaceChildren(bar, long < 1000 ? `${long} µm` : `${long / 1000} mm`);
};
