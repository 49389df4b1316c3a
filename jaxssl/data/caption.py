"""A scale bar or caption that instruments' programs draw under every picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxssl.data.source import FORMATS, MAX_PIXELS, Source, open_file

_SAMPLE = 48
_ROWS, _COLUMNS = 128, 512
_LEVELS = 12  # what JPEG does to a caption
_SHARE = 0.9


def find(sources: Sequence[Source]) -> int:
    """Return the height in pixels of what all pictures have in common at their bottom.

    The lowest rows of up to 48 pictures, evenly taken, are laid over each other at the left and at
    the right edge. From the bottom up, rows belong to the caption while at least nine in ten
    pictures show the same there; there must be ink in them, for empty background is no caption.

    Args:
      sources: the images.

    Returns:
      Rows from the bottom, 0 where there is no caption, or too few pictures (3) to tell.
    """
    step = max(1, len(sources) // _SAMPLE)
    strips = [strip for source in sources[::step][:_SAMPLE] if (strip := _bottom(source))]
    if len(strips) < 3:
        return 0
    return max(_common([strip[side] for strip in strips]) for side in (0, 1))


def _common(strips: Sequence[NDArray[np.uint8]]) -> int:
    """Count the rows, from the bottom up, in which all strips agree; 0 if there is no ink."""
    height = min(len(strip) for strip in strips)
    width = min(strip.shape[1] for strip in strips)
    stack = np.stack([strip[len(strip) - height :, :width] for strip in strips]).astype(np.int16)
    usual = np.median(stack, axis=0)
    same = (np.abs(stack - usual) <= _LEVELS).all(axis=2).mean(axis=0) >= _SHARE
    rows = height if same.all() else int(np.argmin(same[::-1]))
    ink = np.ptp(usual[height - rows :]) > 64 if 0 < rows < height else False
    return rows if ink else 0


def _bottom(source: Source) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Return the lowest rows in grey: (from the left edge, from the right edge mirrored)."""
    grey = _grey(source)
    if grey is None:
        return None
    strip = grey[-_ROWS:]
    return strip[:, :_COLUMNS], strip[:, ::-1][:, :_COLUMNS]


def _grey(source: Source) -> NDArray[np.uint8] | None:
    """Read a picture at its full size; None if it is part of a file, or cannot be read."""
    if source.box or source.raw or not os.path.isfile(source.path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with (
                open_file(source.path, source.member) as file,
                Image.open(file, formats=FORMATS) as image,
            ):
                if image.width * image.height > MAX_PIXELS:
                    return None
                return np.asarray(image.convert("L"))
    except Exception:  # the scan says why a file cannot be read
        return None


def before_and_after(source: Source, rows: int) -> NDArray[np.uint8]:
    """Show a picture as it is and, to its right, without its lowest rows, for people to check.

    Args:
      source: the image.
      rows: what is taken off its bottom.

    Returns:
      uint8 [h, 2w + 8, 1], grey beside and below; [0, 8, 1] of an image that cannot be read.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     Image.new("L", (20, 10), 9).save(f"{tmp}/a.png")
      ...     both = before_and_after(Source(f"{tmp}/a.png"), 4)
      >>> both.shape, both[[5, 6], 28, 0].tolist()
      ((10, 48, 1), [9, 128])
    """
    grey = _grey(source)
    if grey is None:
        return np.full((0, 8, 1), 128, np.uint8)
    height, width = grey.shape
    both = np.full((height, 2 * width + 8, 1), 128, np.uint8)
    both[:, :width, 0] = grey
    both[: height - rows, width + 8 :, 0] = grey[: height - rows]
    return both
