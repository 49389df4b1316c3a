"""Images a second from disk to a batch in memory: the readers here, beside a thread pool's.

`python scripts/benchmarks/input.py --data-dir FOLDER`

Every contender reads each image of the folder once, in shuffled batches; the value is images a
second. That the readers here give the same pixels is checked by their sum. "Pillow in threads" is
what torchvision's ImageFolder with Resize does in a loader of two threads: open, convert, resize.
"first pass" also checks every file and hashes it. Without --data-dir the folder is made: JPEGs of
200 to 500 pixels.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from _measure import Run, add_flags, measure, print_table, write_json
from PIL import Image

from jaxssl.data import ImageSet, Reading, open_images, scan, train_stream
from jaxssl.training import data_placement

BATCH, THREADS = 128, 2


def _epoch(images: ImageSet) -> float:
    """Read all full batches of one epoch through the stream that training reads."""
    batches = iter(train_stream(images, batch_size=min(BATCH, len(images)), seed=0))
    steps = max(len(images) // BATCH, 1)
    return float(sum(next(batches)["image"].mean() for _ in range(steps)))


def _open(folder: str, size: int, cache: str) -> ImageSet:
    return open_images(folder, Reading(size, channels=3, cache_dir=cache))[0]


def first_pass(folder: str, size: int) -> Run:
    """Decode, check, hash and keep every file; then read the epoch."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as cache:
            return _epoch(_open(folder, size, cache))

    return run


def from_cache(folder: str, size: int) -> Run:
    """Read from the cache: from the second start on, up to 2 GiB of pixels."""
    cache = tempfile.mkdtemp()
    images = _open(folder, size, cache)
    shutil.rmtree(cache)  # mapped: the pixels stay until the process ends
    return lambda: _epoch(images)


def on_demand(folder: str, size: int) -> Run:
    """Read above 2 GiB: checked once, then decoded each time."""
    scan.MAX_CACHED_BYTES = 0
    with tempfile.TemporaryDirectory() as cache:
        images = _open(folder, size, cache)
    return lambda: _epoch(images)


def packed(folder: str, size: int) -> Run:
    """Read the file of scripts/pack_images.py."""
    out = Path(f"{folder}-{size}.array_record")
    if not out.exists():
        script = Path(__file__).parents[1] / "pack_images.py"
        flags = ["--data-dir", folder, "--out", out, "--image-size", str(size), "--color", "rgb"]
        subprocess.run([sys.executable, script, *flags], check=True)
    images, _ = open_images(out, Reading(size, channels=3))
    return lambda: _epoch(images)


def resident(folder: str, size: int) -> Run:
    """Read with `--resident`: positions from the host, pixels gathered on the device."""
    with tempfile.TemporaryDirectory() as cache:
        images = _open(folder, size, cache)
        batch = min(BATCH, len(images))
        placement = data_placement(batch)
        there = placement.reside((len(images), *images.shape), images.images)
    gather = jax.jit(there.gather)
    steps = max(len(images) // BATCH, 1)

    def run() -> float:
        stream = iter(train_stream(images, batch_size=batch, seed=0, pixels=False))
        found = [gather(there.pixels, placement.put(b)["index"]) for b in islice(stream, steps)]
        return float(sum(images.mean() for images in jax.device_get(found)))

    return run


def pillow(folder: str, size: int) -> Run:
    """Read as torchvision does: ImageFolder's loader and Resize, in a pool of threads."""
    files = sorted(p for p in Path(folder).glob("*/**/*") if p.is_file())

    def one(path: Path) -> np.ndarray:
        with open(path, "rb") as file, Image.open(file) as image:
            rgb = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(rgb)

    def batches(pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
        order = np.random.default_rng(0).permutation(len(files))
        batch = min(BATCH, len(files))
        for start in range(0, len(files) // batch * batch, batch):
            yield np.stack(list(pool.map(one, [files[i] for i in order[start : start + batch]])))

    def run() -> float:
        with ThreadPoolExecutor(THREADS) as pool:
            return float(sum(images.mean() for images in batches(pool)))

    return run


CONTENDERS = {
    "Pillow in threads": pillow,
    "folder, first pass": first_pass,
    "folder, on demand": on_demand,
    "folder, from cache": from_cache,
    "packed ArrayRecord": packed,
    "resident": resident,
}


def make_folder(top: Path, images: int) -> None:
    """Make JPEGs of smooth noise in four classes."""
    rng = np.random.default_rng(0)
    for i in range(images):
        height, width = rng.integers(200, 500, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        path = top / f"class {i % 4}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path, quality=90)


def main() -> None:
    """Print one table, in times of Pillow's, and images a second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_flags(parser)
    parser.add_argument("--data-dir", default="", help="a folder of class folders, all readable")
    parser.add_argument("--size", type=int, default=64, help="side in pixels")
    parser.add_argument("--images", type=int, default=2000, help="how many to make without one")
    options = parser.parse_args()
    if options.quick:
        options.images, options.size = 40, 16
    with tempfile.TemporaryDirectory() as top:
        # A link: the packed file lies beside it, not in the folder's own place.
        folder = Path(top, "images")
        if options.data_dir:
            folder.symlink_to(Path(options.data_dir).resolve(), target_is_directory=True)
        else:
            make_folder(folder, options.images)
        count = sum(p.is_file() for p in folder.glob("*/**/*"))
        case = {"folder": str(folder), "size": options.size}
        results = measure(__file__, CONTENDERS, case, options)
    sums = [r.value for r in results if r.value is not None and r.contender != "Pillow in threads"]
    if not np.allclose(sums, sums[0], rtol=1e-9, atol=0):
        raise SystemExit(f"the readers give different pixels: {sums}")
    # What is left over in an epoch waits for the next: only full batches were read.
    read = max(count // BATCH, 1) * min(BATCH, count)
    for result in results:
        result.case = {"images": read, "size": options.size}
        result.value = read / float(np.median(result.seconds)) if result.seconds else None
    reference = "Pillow in threads"
    print_table(results, reference)
    write_json(options.json, options, results, reference)


if __name__ == "__main__":
    main()
