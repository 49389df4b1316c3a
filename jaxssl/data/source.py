"""Where the pixels of an image lie: a file, a member of a zip, a page, a place in a collage."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from typing import IO, NamedTuple

from PIL import Image

from jaxssl.data.zips import open_zip

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
# Where Pillow begins to warn of decompression bombs; here the header alone is enough to refuse.
MAX_PIXELS = 89_478_485


class Refused(ValueError):
    """A readable file that is not to be used; the text is the reason in the user's words."""


class Source(NamedTuple):
    """Where the pixels of one image lie: a file, or a part of one.

    Args:
      path: the file on the disk.
      member: the name inside, where the file is a zip.
      frame: the page of a TIFF, from 0.
      box: (left, top, width, height) in pixels, where the image is cut from a larger one.
      raw: (offset, height, width), where a file holds bare uint8 pixels, row by row.
    """

    path: str
    member: str = ""
    frame: int = 0
    box: tuple[int, int, int, int] | None = None
    raw: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path


def refuse_irregular(path: str) -> None:
    """Refuse what is no file with content."""
    status = os.stat(path)  # before open(): a FIFO would wait for a writer for ever
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not a regular file")
    if status.st_size == 0:
        raise Refused("an empty file")


@contextlib.contextmanager
def opened(source: Source) -> Iterator[tuple[Image.Image, int]]:
    """Open an image, not decoded yet if it is a file of its own, and count its frames."""
    if source.raw is not None:
        offset, height, width = source.raw
        if offset < 0 or min(height, width) < 1:
            raise Refused("its place lies outside the file")
        if height * width > MAX_PIXELS:
            raise Refused(too_large())
        content = _content(source.path, source.member, offset, height * width)
        if len(content) < height * width:
            raise Refused("the file ends before its pixels do")
        yield Image.frombytes("L", (width, height), content), 1
        return
    if source.box is not None:
        left, top, width, height = source.box
        whole = _collage(source.path, source.member, os.stat(source.path).st_mtime_ns)
        if (
            min(left, top) < 0
            or min(width, height) < 1
            or left + width > whole.width
            or top + height > whole.height
        ):
            raise Refused("its place lies outside the collage")
        yield whole.crop((left, top, left + width, top + height)), 1
        return
    # A file object, not its name: by name Pillow 13 maps uncompressed TIFFs into memory, and
    # scrambles those whose orientation swaps height and width.
    with open_file(source.path, source.member) as file, Image.open(file, formats=FORMATS) as image:
        frames = getattr(image, "n_frames", 1)
        if source.frame:
            image.seek(source.frame)
        yield image, frames


def open_file(path: str, member: str = "") -> IO[bytes]:
    """Open a file, or what a zip holds under a name, for reading and seeking."""
    return io.BytesIO(open_zip(path).read(member)) if member else open(path, "rb")


def _content(path: str, member: str, offset: int, length: int) -> bytes:
    with open_file(path, member) as file:
        if offset > file.seek(0, os.SEEK_END):
            return b""
        file.seek(offset)
        return file.read(length)


@lru_cache(maxsize=4)
def _collage(path: str, member: str, mtime: int) -> Image.Image:
    """Decode a sheet of many images, once for all that are cut from it."""
    with open_file(path, member) as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Refused(too_large())
        image.load()
        return image.copy()


def too_large() -> str:
    """Say why an image of too many pixels is not decoded."""
    return f"more than {MAX_PIXELS // 10**6} megapixels; shrink it or cut it into parts"
