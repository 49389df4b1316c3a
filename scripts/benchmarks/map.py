"""Frames a second of the report's map in a browser without a GPU, panned and hovered.

    python scripts/benchmarks/map.py [--points 7500 100000] [--seconds 3]

Makes a page of random points in 31 classes with pictures of noise, opens it in chromium through
playwright, and prints the seconds to the first frame and frames a second while the map is dragged
and while the pointer moves over it.
"""

import argparse
import io
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jaxssl.analysis.atlas import map_data
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.page import fragment, render
from jaxssl.analysis.results import ImageCounts


def write_page(folder: Path, count: int) -> Path:
    """Write a page of one section, the map, with `count` points."""
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 31, count)
    centres = rng.normal(size=(31, 2)) * 6
    xy = centres[owner] + rng.normal(size=(count, 2))
    pictures = []
    for _ in range(50):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(out, "PNG")
        pictures.append(out.getvalue())
    table = Embeddings(
        vectors=xy,
        ids=tuple(f"class {label}/{i}.png" for i, label in enumerate(owner)),
        paths=("",) * count,
        class_names=tuple(f"class {label}" for label in owner),
        class_index=owner,
        split=("test",) * count,
        thumbnails=[pictures[i % 50] for i in range(count)],
        extra={"x_umap": xy[:, 0], "y_umap": xy[:, 1]},
    )
    data = map_data({"test": table}, table.class_list, metric="euclidean")
    sheets = data.pop("sheets")
    figure = {"png": "-", "json": "-", "alt": "", "csv": None, "wide": "", "narrow": ""}
    content = fragment(
        "maps.html.j2", figure=figure, caption="", data=data, sample="", whole=data["whole"]
    )
    section = {"id": "map", "title": "Map", "nav": "", "spoken": False, "content": content}
    page = folder / "index.html"
    page.write_text(
        render(
            "report.html.j2",
            title="Benchmark",
            run_name=f"{count:,} points",
            sets={"test": ImageCounts(count, {})},
            sheets=sheets,
            sections=[section],
        ),
        encoding="utf-8",
    )
    return page


def measure(page: Path, seconds: float) -> tuple[float, float, float]:
    """Return seconds to the first frame, and frames a second dragged and hovered."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        begin = time.monotonic()
        opened.goto(page.as_uri(), wait_until="commit")
        opened.locator("#map-app[data-frames]").wait_for()
        first = time.monotonic() - begin
        opened.wait_for_load_state()
        opened.locator("[data-part=over]").scroll_into_view_if_needed()
        # Events come from inside the page, one a frame, so that only the page's work is timed.
        moves = """([press, seconds]) => new Promise((done) => {
          const over = document.querySelector('[data-part=over]'), r = over.getBoundingClientRect();
          over.setPointerCapture = () => {};
          const send = (kind, x, y) => over.dispatchEvent(new PointerEvent(kind, {
            pointerId: 1, clientX: r.left + x, clientY: r.top + y, bubbles: true }));
          if (press) send('pointerdown', 300, 300);
          const root = document.querySelector('#map-app'), begin = performance.now();
          let frames = 0;
          const step = (now) => {
            const t = (now - begin) / 1000;
            if (t > seconds) { if (press) send('pointerup', 300, 300); return done(frames / t); }
            frames++;
            send('pointermove', 300 + 150 * Math.sin(5 * t), 300 + 150 * Math.cos(3 * t));
            requestAnimationFrame(step);
          };
          requestAnimationFrame(step);
        })"""
        dragged, hovered = (opened.evaluate(moves, [press, seconds]) for press in (True, False))
        browser.close()
        return first, dragged, hovered


def main() -> None:
    """Print a line for each number of points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[7500, 100_000])
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    print("  points  MB  first frame, s  dragged, frames/s  hovered, frames/s")
    with tempfile.TemporaryDirectory() as folder:
        for count in args.points:
            page = write_page(Path(folder), count)
            first, dragged, hovered = measure(page, args.seconds)
            size = page.stat().st_size / 1e6
            print(f"{count:8,}  {size:.0f}  {first:14.2f}  {dragged:17.0f}  {hovered:17.0f}")


if __name__ == "__main__":
    main()
