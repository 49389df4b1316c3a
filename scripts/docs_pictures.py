"""Take the pictures of the documentation from two runs on digits, with a headless chromium.

`python scripts/docs_pictures.py RUN UNLABELLED`

RUN is of `python -m experiments.simclr`, UNLABELLED of the tutorial's folder (docs/pages/tutorials/
your-folder.md, steps 0 and 2). Writes docs/pages/images/*.webp, each under 200 kB.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

OUT = Path(__file__).parents[1] / "docs" / "pages" / "images"
WIDTH, HEIGHT = 1100, 760
LARGEST = 200_000
# file -> (which run, what of its page is scrolled to by CSS; "" for the first screen)
PICTURES = {
    "report": (0, ""),
    "map": (0, "#map"),
    "unlabelled": (1, ""),
    "unlabelled-map": (1, "#map canvas"),
    "clusters": (1, "#clusters"),
}


def main(runs: list[str]) -> None:
    """Open each report, scroll to the section, and keep what is seen."""
    OUT.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for name, (run, section) in PICTURES.items():
            page.goto((Path(runs[run]) / "report" / "index.html").resolve().as_uri())
            if section:
                page.evaluate("one => document.querySelector(one).scrollIntoView()", section)
            page.wait_for_timeout(700)  # the map draws its points when it is seen
            picture = Image.open(io.BytesIO(page.screenshot()))
            file = OUT / f"{name}.webp"
            picture.save(file, quality=82, method=6)
            if file.stat().st_size > LARGEST:
                sys.exit(f"{file} has {file.stat().st_size:,} bytes, more than {LARGEST:,}")
            print(f"{file.name}: {file.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
