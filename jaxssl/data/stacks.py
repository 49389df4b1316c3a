"""The pages of a TIFF as images of their own (ImageJ's stacks)."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Literal

from PIL import Image

from jaxssl.data.source import open_file
from jaxssl.data.walk import Found, ImageFile
from jaxssl.errors import InputError, Stopped
from jaxssl.files import read_json, write_record


def read_pages(found: Found, cache: Path, *, pages: Literal["all", "first"]) -> None:
    """Put an image for each page in the place of a TIFF that has several.

    The pages of a file stay on one side of every split, for they may show one thing. How many a
    file has is kept in the cache, so a second start opens no TIFF.

    Args:
      found: the images; ids of pages end in "#1", "#2", ..., as long as the last one's number.
      cache: a folder for what was learnt, made where it is absent.
      pages: "first" leaves the others out, and says so.
    """
    tiffs = [file for file in found.files if file.id.lower().endswith((".tif", ".tiff"))]
    if not tiffs:
        return
    counts = _counts(tiffs, cache / "pages.json")
    several = sum(n > 1 for n in counts.values())
    if not several:
        return
    extra = sum(counts.values()) - len(tiffs)
    if pages == "first":
        found.said.append(f"{extra:,} pages beyond the first of {several:,} TIFFs are left out")
        return
    found.said.append(
        f"{several:,} TIFFs of several pages: each page is an image, those of a file stay on one "
        "side of every split"
    )
    files: list[ImageFile] = []
    for file in found.files:
        n = counts.get(file.id, 1)
        files += [file] if n < 2 else [_page(file, k, n) for k in range(n)]
    found.files = files


def _page(file: ImageFile, k: int, n: int) -> ImageFile:
    return dataclasses.replace(
        file,
        id=f"{file.id}#{k + 1:0{len(str(n))}d}",
        source=file.source._replace(frame=k),
        group=file.group or file.id,
    )


def _counts(tiffs: list[ImageFile], cache: Path) -> dict[str, int]:
    try:
        stored = read_json(cache, sealed=True)
        known = {id_: n for id_, [stamp, n] in stored.items()}
        stamps = {id_: tuple(stamp) for id_, [stamp, n] in stored.items()}
    except InputError:  # absent or damaged: made again
        known, stamps = {}, {}
    counts = {
        file.id: known[file.id] if stamps.get(file.id) == file.stamp else _frames(file)
        for file in tiffs
    }
    if counts != known or any(stamps.get(file.id) != file.stamp for file in tiffs):
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_record(cache, {file.id: [file.stamp, counts[file.id]] for file in tiffs})
        except OSError:  # asked again next time; the scan says why the cache cannot be written
            pass
    return counts


def _frames(file: ImageFile) -> int:
    """Count the pages of a file; 1 of one that cannot be read, which the scan names."""
    if not os.path.isfile(file.source.path):  # a FIFO would wait for a writer for ever
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with (
                open_file(file.source.path, file.source.member) as stream,
                Image.open(stream, formats=("TIFF",)) as image,
            ):
                return getattr(image, "n_frames", 1)
    except Stopped:  # by a signal: the file is not at fault
        raise
    except Exception:  # Pillow's decoders raise a zoo
        return 1
