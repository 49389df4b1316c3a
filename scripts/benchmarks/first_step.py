"""Seconds from the command to the first training step, and the memory it takes, of a large folder.

`python scripts/benchmarks/first_step.py --source planktonset1 --images 100000 --out first.json`

Makes a folder of JPEGs (turned and mirrored copies of those of --source, no two alike) in as many
class folders as --source has, beside one table that labels all of them, outside of the repository.
Then starts `simclr` on the folder with empty caches (cold: every image is decoded and checked, the
step is compiled) and again (warm), and ends it when the first step is logged. The operating
system's own cache of files is left as it is: the folder was just written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from jaxssl.training.runs import provenance

TURNS = (None, *Image.Transpose)  # eight pictures of each


def make_folder(source: Path, folder: Path, count: int) -> None:
    """Write `count` images, class by class in proportion, and `labels.csv`."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    if len(files) * len(TURNS) < count:
        raise SystemExit(f"{source} gives {len(files) * len(TURNS)} images at most")
    rows = ["path,label"]
    for turn, path in itertools.islice(itertools.product(range(len(TURNS)), files), count):
        name = f"{path.parent.name}/{path.stem}_{turn}.jpg"
        rows.append(f"images/{name},{path.parent.name}")
        target = folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            kind = TURNS[turn]
            (image if kind is None else image.transpose(kind)).save(target, quality=85)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def start(folder: Path, cache: Path, flags: list[str]) -> dict[str, Any]:
    """Run simclr until its first step is logged: seconds, and peak resident memory in bytes."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        command = [sys.executable, "-m", "experiments.simclr", "--data-dir", str(folder)]
        command += ["--log-every", "1", "--run-dir", str(run), *flags]
        begin = time.monotonic()
        with open(Path(place) / "said.txt", "w+", encoding="utf-8") as said:
            process = subprocess.Popen(
                command,
                env=os.environ | {"XDG_CACHE_HOME": str(cache)},
                cwd=Path(__file__).parents[2],
                stdout=said,
                stderr=said,
            )
            metrics = run / "metrics.jsonl"
            seconds = None
            while process.returncode is None and seconds is None:
                if metrics.exists() and metrics.stat().st_size:
                    seconds = time.monotonic() - begin
                    process.send_signal(signal.SIGTERM)
                elif os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.02)
            _, _, usage = os.wait4(process.pid, 0)
            said.seek(0)
            if seconds is None:
                raise SystemExit(said.read())
    scale = 1 if sys.platform == "darwin" else 1024
    return {"seconds_to_first_step": seconds, "peak_bytes": usage.ru_maxrss * scale}


def main() -> None:
    """Make the folder, start twice, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the images here, and use those there")
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--out", type=Path, help="a JSON file of the numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place) / "images"
        if not (folder / "labels.csv").exists():
            make_folder(options.source, folder, options.images)
        flags = ["--image-size", str(options.image_size)]
        rows = {name: start(folder, Path(place) / "cache", flags) for name in ("cold", "warm")}
    for name, row in rows.items():
        print(
            f"{name}: {row['seconds_to_first_step']:.1f} s to the first step, "
            f"{row['peak_bytes'] / 2**20:,.0f} MiB"
        )
    if options.out:
        size = {"images": options.images, "image_size": options.image_size}
        options.out.write_text(json.dumps({**size, **rows, **provenance()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
