"""Every file of a folder decoded once, with what was learnt kept in a cache.

The cache of one folder, all of it safe to delete:

    CACHE_DIR/<hash of the folder's path>/verdicts.json     per file: its stamp, what was learnt
    CACHE_DIR/<hash of the folder's path>/<key>.npy         pixels, uint8 [n, h, w, c]

A file that changes has another size or mtime, so its verdict and the pixels are made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from errno import ELOOP, ENOENT
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from jaxssl.data.decode import UnreadableImage, inspect
from jaxssl.data.look import Look, Verdict, look_of
from jaxssl.data.source import Source, open_file
from jaxssl.data.walk import ImageFile
from jaxssl.errors import InputError
from jaxssl.files import atomic
from jaxssl.files import cache_dir as default_cache_dir

# Up to this much the resized pixels are kept on disk and mapped into memory, and an epoch costs no
# decoding; above it images are decoded when they are asked for.
MAX_CACHED_BYTES = 2 * 1024**3
# Change the number whenever `decode` gives other pixels or other verdicts.
DECODER = f"2, Pillow {PIL.__version__}"
_CHUNK = 128


@dataclass(frozen=True)
class Scan:
    """The verdict of every file, what they share, and their pixels unless over the limit."""

    verdicts: list[Verdict]
    look: Look
    pixels: NDArray[np.uint8] | None


def scan(
    files: Sequence[ImageFile],
    *,
    root: str,
    settings: dict[str, Any],
    background: int | Literal["auto"] = 255,
    crop_bottom: int = 0,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Decode every file that the cache does not know, in threads, and keep what it learns.

    Images whose pixels depend on what the set has in common (deep ones on its range, transparent
    and padded ones on its background) are decoded a second time when that is known.

    Args:
      files: the files, in an order that is the same each time.
      root: the folder they came from; names the cache.
      settings: size, channels and fit, as `decode` takes them.
      background: fill colour, 0 to 255, or "auto", as in `look_of`.
      crop_bottom: rows to take off under every picture, as in `look_of`.
      cache_dir: where the cache lives; None is `jaxssl.files.cache_dir()`.
      progress: called with (files done, files to do) from time to time.

    Returns:
      Verdicts and pixels, row by row as `files`; a row of pixels is zero where the file is bad.

    Raises:
      InputError: the cache folder cannot be written.
    """
    folder = cache_folder(root, cache_dir)
    asked = {**settings, "background": background, "crop_bottom": crop_bottom}
    settings_key = hash_of([DECODER, asked, sorted({f.id.split("/")[0] for f in files})])[:16]
    files_key = hash_of([[f.id, key_of(f)] for f in files])[:16]
    packed = folder / f"{settings_key}-{files_key}.npy"
    shape = (len(files), settings["size"], settings["size"], settings["channels"])
    cacheable = int(np.prod(shape)) <= MAX_CACHED_BYTES
    record = folder / f"verdicts-{crop_bottom}.json" if crop_bottom else folder / "verdicts.json"

    def look() -> Look:
        verdicts = (known[i] for i in range(len(files)))
        return look_of(verdicts, background=background, crop_bottom=crop_bottom)

    known = _read_verdicts(record, files)
    missing = [i for i in range(len(files)) if i not in known]
    pixels = _read_pixels(packed, shape) if cacheable else None
    if not missing and (pixels is not None or not cacheable):
        return Scan([known[i] for i in range(len(files))], look(), pixels)
    # With all known, the look is known too, and nothing is decoded twice.
    first = look() if not missing else Look(crop_bottom=crop_bottom)
    if isinstance(background, int):
        first = replace(first, fill=background)
    first_settings = settings | first.settings()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if cacheable:
            remove_stale(folder, settings_key, packed)
            with atomic(packed) as out:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, header)
                begin = out.tell()
                for i, (verdict, image) in examine(
                    files, range(len(files)), first_settings, progress
                ):
                    known[i] = verdict
                    out.write(image.tobytes())
                final = look()
                again = [i for i in range(len(files)) if final.changes(known[i], first)]
                for i, (verdict, image) in examine(
                    files, again, settings | final.settings(), progress
                ):
                    known[i] = verdict
                    out.seek(begin + i * image.size)
                    out.write(image.tobytes())
            pixels = _read_pixels(packed, shape)
        else:
            for i, (verdict, _) in examine(files, missing, first_settings, progress):
                known[i] = verdict
        _write_verdicts(record, files, known)
    except OSError as error:
        raise InputError(
            f"cannot write the image cache in {folder}: {error.strerror or error}; free space, "
            "or choose another place with the XDG_CACHE_HOME variable"
        ) from error
    return Scan([known[i] for i in range(len(files))], look(), pixels)


def cache_folder(root: str, cache_dir: str | Path | None) -> Path:
    """Return the folder in which the cache of one place lives."""
    return Path(cache_dir or default_cache_dir()) / hash_of(root)[:16]


def examine(
    files: Sequence[ImageFile],
    todo: Sequence[int],
    settings: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, tuple[Verdict, NDArray[np.uint8]]]]:
    """Decode the files at the positions `todo`, in threads: Pillow works outside the lock.

    Yields:
      (position, (verdict, uint8 [h, w, c])), in order; the pixels of a bad file are zero.
    """

    def one(i: int) -> tuple[Verdict, NDArray[np.uint8]]:
        source = files[i].source
        try:
            seen = inspect(source, **settings)
            digest = digest_of(source, seen.pixels)
            verdict = Verdict(digest, "", seen.high, seen.border, seen.frames, seen.filled)
            return verdict, seen.pixels
        except UnreadableImage as error:
            cause = error.__cause__
            errno_ = getattr(cause, "errno", None)  # None: Pillow finds fault with the content
            system = isinstance(cause, MemoryError) or errno_ not in (None, ENOENT, ELOOP)
            blank = np.zeros((settings["size"], settings["size"], settings["channels"]), np.uint8)
            return Verdict("", error.reason, lasting=not system), blank

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # Pillow's warnings add nothing: a file that is refused is listed, any other was read.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            yield from zip(chunk, pool.map(one, chunk), strict=True)
            if progress is not None:
                progress(start + len(chunk), len(todo))


def digest_of(source: Source, pixels: NDArray[np.uint8]) -> str:
    """Hash a file (sha256); of a part of one, hash that part's pixels and its place in the file."""
    if source.frame or source.box or source.raw:
        return hashlib.sha256(pixels.tobytes() + repr(source).encode()).hexdigest()
    with open_file(source.path, source.member) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def key_of(file: ImageFile) -> str:
    """Make a key that changes when the file does, or the part of it that is meant."""
    frame, box, raw = file.source[2:]
    part = f" {frame} {box} {raw}" if frame or box or raw else ""
    return f"{file.stamp[0]} {file.stamp[1]}{part}"


def hash_of(value: Any) -> str:
    """Hash what JSON can hold (sha256)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_pixels(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        pixels = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # absent or damaged: made again
        return None
    # A plain view: rows of an np.memmap cost twenty times as much to slice.
    return pixels.view(np.ndarray) if pixels.shape == shape else None


def _read_stored(path: Path) -> dict[str, list[Any]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["files"] if stored["version"] == DECODER else {}
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: made again
        return {}


def _read_verdicts(path: Path, files: Sequence[ImageFile]) -> dict[int, Verdict]:
    stored = _read_stored(path)
    known = {}
    for i, file in enumerate(files):
        key, *verdict = stored.get(file.id, ("",))
        if key == key_of(file):
            known[i] = Verdict(*verdict)
    return known


def _write_verdicts(path: Path, files: Sequence[ImageFile], known: dict[int, Verdict]) -> None:
    stored = _read_stored(path)  # other classes of the same folder stay
    for i, verdict in known.items():
        stored.pop(files[i].id, None)
        if verdict.lasting:
            stored[files[i].id] = [key_of(files[i]), *astuple(verdict)[:-1]]
    with atomic(path) as out:
        out.write(json.dumps({"version": DECODER, "files": stored}).encode())


def remove_stale(folder: Path, settings_key: str, packed: Path) -> None:
    """Remove pixels of an older state of the same folder, and what a killed scan left behind."""
    for path in folder.glob(f"*{settings_key}-*"):
        abandoned = path.suffix == ".tmp" and time.time() - path.stat().st_mtime > 24 * 3600
        if abandoned or (path.suffix == ".npy" and path != packed):
            path.unlink(missing_ok=True)
