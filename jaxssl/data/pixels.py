"""Pixels as they are: the baseline that knows nothing, small pictures, cached arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxssl.data.decode import Fit, padded_box
from jaxssl.data.images import ImageSet
from jaxssl.files import checksum_fits

RAW_PIXELS_SIDE = 32
THUMBNAIL_SIDE = 64
_LONGEST = 256  # of a thumbnail, however long the file


def read_cached(path: Path) -> NDArray[Any] | None:
    """Map the array of a `.npy` that ends in the checksum of `files.add_checksum`.

    Returns:
      What the file holds; None where it is absent or damaged, and is to be made again.
    """
    try:
        found = np.load(path, mmap_mode="r") if checksum_fits(path) else None
    except Exception:  # a header is a Python literal: its reader raises whatever Python does
        return None
    # A plain view: rows of an np.memmap cost twenty times as much to slice.
    return None if found is None else found.view(np.ndarray)


def raw_pixels(images: ImageSet) -> NDArray[np.float32]:
    """Return grey pixels at no more than 32 x 32 as rows: the baseline that knows nothing.

    Args:
      images: n images.

    Returns:
      float32 [n, side²] in [0, 1], by Pillow's bilinear filter.

    Example:
      >>> from jaxssl.data import load_digits
      >>> raw_pixels(load_digits(size=8).subset([0, 1])).shape
      (2, 64)
    """

    def flat(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        grey = Image.fromarray(image.squeeze()).convert("L")
        side = min(RAW_PIXELS_SIDE, *grey.size)
        resized = grey.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(resized, np.float32).ravel() / np.float32(255)

    return np.stack([flat(images[i]["image"]) for i in range(len(images))])


def thumbnails(images: ImageSet) -> list[bytes]:
    """Return every image as a PNG in the shape of its file, of about 64 x 64 pixels at most.

    The pixels are those that a network saw, as many as it saw; the square is undone, and padding
    cut away. None is larger than its file.

    Example:
      >>> from jaxssl.data import load_digits
      >>> (png,) = thumbnails(load_digits(size=16).subset([0]))
      >>> Image.open(io.BytesIO(png)).size
      (16, 16)
    """

    def png(i: int) -> bytes:
        picture = in_its_shape(
            Image.fromarray(images.load(i).squeeze()), images.sides[i], images.fit
        )
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()

    return [png(i) for i in range(len(images))]


def in_its_shape(square: Image.Image, sides: NDArray[np.int32], fit: Fit) -> Image.Image:
    """Undo what `decode` did to the shape of a picture.

    Args:
      square: What `decode` made.
      sides: Height and width of the file; 0 and 0 where there is none.
      fit: As it was given to `decode`.
    """
    height, width = map(int, sides)
    if not height or not width:
        square.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        return square
    if fit == "pad":
        square = square.crop(padded_box(square.width, width, height))
    area = min(square.width * square.height, THUMBNAIL_SIDE**2)
    wide, high = (area * width / height) ** 0.5, (area * height / width) ** 0.5
    scale = min(1.0, width / wide, _LONGEST / max(wide, high))
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    return square if size == square.size else square.resize(size, Image.Resampling.BILINEAR)
