"""Every file of a folder decoded once, with what was learnt kept in a cache.

The cache of one folder, all of it safe to delete:

    CACHE_DIR/<hash of the folder's path>/verdicts.json  per file: stamp, what was learnt, when
    CACHE_DIR/<hash of the folder's path>/<key>.npy      pixels, uint8 [n, h, w, c]

A file that changes has another size or mtime, so its verdict and the pixels are made again. One
that was replaced and kept both is found by its content: hashed at each opening are the files whose
inode changed since (its ctime, which no copying program sets back), a sample of the others, or all
where asked. The pixels end in a CRC-32, the verdicts hold their sha256: what was damaged is made
again.
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
from jaxssl.data.pixels import read_cached
from jaxssl.data.source import Source, open_file, refuse_irregular
from jaxssl.data.walk import ImageFile
from jaxssl.errors import InputError
from jaxssl.files import add_checksum, atomic, read_json, sweep, write_record
from jaxssl.files import cache_dir as default_cache_dir

# Up to this much the resized pixels are kept on disk and mapped into memory, and an epoch costs no
# decoding; above it images are decoded when they are asked for.
MAX_CACHED_BYTES = 2 * 1024**3
# Change the number whenever `decode` gives other pixels or other verdicts.
DECODER = f"4, Pillow {PIL.__version__}"
MOST_VERDICTS = 2**30  # bytes; of a million images 0.2 GB
_CHUNK = 128
_SAMPLE = 64  # known files hashed at each opening


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
    hash_all: bool = False,
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
      hash_all: whether the content of all known files is compared, not of a sample.
      progress: called with (files done, files to do) from time to time.

    Returns:
      Verdicts and pixels, row by row as `files`; a row of pixels is zero where the file is bad.

    Raises:
      InputError: the cache folder cannot be written.
    """
    began = time.time()
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

    known, since = _read_verdicts(record, files)
    touched = _forget_replaced(files, known, since, every=hash_all)
    if touched and len(known) == len(files):
        _write_verdicts(record, files, known, began)  # or they would be hashed each time
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
                add_checksum(out)
            pixels = _read_pixels(packed, shape)
        else:
            for i, (verdict, _) in examine(files, missing, first_settings, progress):
                known[i] = verdict
        _write_verdicts(record, files, known, began)
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
            return Verdict(digest, "", *seen[1:]), seen.pixels
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
    pixels = read_cached(path)
    fits = pixels is not None and pixels.shape == shape and pixels.dtype == np.uint8
    return pixels if fits else None


def _read_stored(path: Path) -> dict[str, list[Any]]:
    try:
        stored = read_json(path, sealed=True, most=MOST_VERDICTS)
        return stored["files"] if stored["version"] == DECODER else {}
    except (InputError, KeyError):  # absent or damaged: made again
        return {}


def _read_verdicts(
    path: Path, files: Sequence[ImageFile]
) -> tuple[dict[int, Verdict], dict[int, float]]:
    """Return what is known of each file by its row, and since when, in seconds since 1970."""
    stored = _read_stored(path)
    known, since = {}, {}
    for i, file in enumerate(files):
        key, begin, *verdict = stored.get(file.id, ("", 0))
        if key == key_of(file):
            known[i], since[i] = Verdict(*verdict), begin
    return known, since


def _forget_replaced(
    files: Sequence[ImageFile], known: dict[int, Verdict], since: dict[int, float], *, every: bool
) -> bool:
    """Drop what is known of files whose content is another; tell whether an inode had changed."""

    def changed(i: int) -> bool:
        try:
            return os.stat(files[i].source.path).st_ctime >= since[i]
        except OSError:
            return True

    # A zip's own checksums are in the stamps; of a part of a file nothing but its pixels is hashed.
    plain = [i for i in known if not files[i].source.member]
    whole = [i for i in plain if files[i].source == Source(files[i].source.path)]
    touched = {i for i in plain if changed(i)}
    suspect = touched | set(whole[:: max(1, len(whole) // _SAMPLE)]) | set(whole if every else ())

    def another(i: int) -> bool:
        source, before = files[i].source, known[i].sha256
        if not before or source != Source(source.path):
            return True  # a bad file that was touched, or a part of one: looked at again
        try:
            refuse_irregular(source.path)
            return digest_of(source, np.zeros(0, np.uint8)) != before
        except (OSError, ValueError):
            return True

    listed = sorted(i for i in suspect if known[i].sha256 or i in touched)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, gone in zip(listed, pool.map(another, listed), strict=True):
            if gone:
                del known[i]
    return bool(touched)


def _write_verdicts(
    path: Path, files: Sequence[ImageFile], known: dict[int, Verdict], since: float
) -> None:
    stored = _read_stored(path)  # other classes of the same folder stay
    for i, verdict in known.items():
        stored.pop(files[i].id, None)
        if verdict.lasting:
            stored[files[i].id] = [key_of(files[i]), since, *astuple(verdict)[:-1]]
    write_record(path, {"version": DECODER, "files": stored}, indent=None)


def remove_stale(folder: Path, settings_key: str, packed: Path) -> None:
    """Remove pixels of an older state of the same folder, and what a killed scan left behind."""
    sweep(folder)  # by `atomic` too, but once in a process
    for path in folder.glob(f"{settings_key}-*.npy"):
        if path != packed:
            path.unlink(missing_ok=True)
