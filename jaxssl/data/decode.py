"""One image file to uint8 pixels of a fixed square, or one line that says why not."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxssl.data.source import (
    FORMATS,
    MAX_PIXELS,
    Refused,
    Source,
    opened,
    refuse_irregular,
    too_large,
)
from jaxssl.errors import InputError, Stopped

Fit = Literal["squash", "pad"]
_ORIENTATION = 0x0112  # of Exif; from 5 on height and width change places


class UnreadableImage(InputError):
    """An image file that cannot be used; the text is "path: reason".

    Its only argument is that string, so that it can be raised again in another thread.
    """

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason


class Decoded(NamedTuple):
    """An image's pixels, and what a set of images must know of each to treat them alike.

    Args:
      pixels: uint8 [size, size, channels].
      high: the largest stored value of an image of more than 8 bits, 0 for others.
      border: the median stored grey value of the outermost pixels.
      frames: how many the file has.
      filled: whether the fill colour shows in the pixels.
      height: rows of the picture itself, upright, without what was taken off its bottom.
      width: its columns.
    """

    pixels: NDArray[np.uint8]
    high: int
    border: int
    frames: int
    filled: bool
    height: int
    width: int


def decode(
    source: str | Path | Source,
    *,
    size: int,
    channels: int,
    fill: int = 255,
    fit: Fit = "squash",
    white: int | None = None,
    crop_bottom: int = 0,
) -> NDArray[np.uint8]:
    """Decode one image in full and resize it to a square.

    EXIF orientation is applied; alpha is composited on `fill`; of several frames the first is
    read unless the source names another. Grey is ITU-R 601 luma. 16-bit grey is divided by 257;
    float pixels must lie in [0, 1] and are multiplied by 255; 32-bit integers must be 16-bit values
    (maximum 256 to 65535), for their own depth says nothing about their range. With `white`, 16-bit
    and integer values are scaled by it instead. What fits none of these is refused, never clipped.
    Resizing is bilinear with the filter widened when shrinking (antialiased, no ringing at
    silhouettes); a JPEG of more than twice the size is decoded at half, quarter or eighth scale.

    A JPEG damaged in its middle whose end is intact decodes without an error in libjpeg and cannot
    be told from a good one.

    Args:
      source: a regular file of a format in `FORMATS`, told by its content, not by its extension;
        or a part of one.
      size: height and width of the result in pixels, at least 1.
      channels: 1 (grey) or 3 (RGB).
      fill: background under transparency and beside padding, 0 (black) to 255 (white).
      fit: "squash" changes the aspect to the square; "pad" keeps it and centres on `fill`.
      white: the stored value of deep pixels that becomes 255, e.g. 4095 for 12 bits in 16; None
        is the format's own.
      crop_bottom: rows taken off under the picture first (a scale bar, a caption), at least 0.

    Returns:
      uint8 [size, size, channels].

    Raises:
      UnreadableImage: the file cannot be used; the text is "path: reason".
      ValueError: an option out of range.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     Image.new("L", (6, 3), 40).save(f"{folder}/a.png")
      ...     pixels = decode(f"{folder}/a.png", size=4, channels=1, fit="pad")
      >>> pixels[:, 0, 0].tolist()
      [255, 40, 40, 255]
    """
    return inspect(
        source,
        size=size,
        channels=channels,
        fill=fill,
        fit=fit,
        white=white,
        crop_bottom=crop_bottom,
    ).pixels


def inspect(
    source: str | Path | Source,
    *,
    size: int,
    channels: int,
    fill: int = 255,
    fit: Fit = "squash",
    white: int | None = None,
    crop_bottom: int = 0,
) -> Decoded:
    """Decode one image as `decode` does, and say what a whole set needs to know of it."""
    if (
        size < 1
        or channels not in (1, 3)
        or not 0 <= fill <= 255
        or fit not in get_args(Fit)
        or crop_bottom < 0
        or (white is not None and white < 1)
    ):
        raise ValueError(
            "decode needs size >= 1, channels 1 or 3, fill 0-255, fit 'squash' or 'pad', "
            f"crop_bottom >= 0 and white >= 1, got {size=}, {channels=}, {fill=}, {fit=}, "
            f"{crop_bottom=}, {white=}"
        )
    source = source if isinstance(source, Source) else Source(os.fspath(source))
    try:
        refuse_irregular(source.path)
        with opened(source) as (image, frames):
            if image.width * image.height > MAX_PIXELS:
                raise Refused(too_large())
            stored = image.size
            if not crop_bottom and source.box is None:
                image.draft(None, (2 * size, 2 * size))  # type: ignore[arg-type]  # the mode stays
            turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            width, height = stored[::-1] if turned else stored
            ImageOps.exif_transpose(image, in_place=True)
            shown = _without_bottom(image, crop_bottom)
            high, border = _range_of(shown)
            eight = _eight_bit(shown, white)
            filled = eight.has_transparency_data or (fit == "pad" and eight.width != eight.height)
            flat = _flatten(eight, fill)
            grey_or_rgb = flat.convert("L" if channels == 1 else "RGB")
            if not high:
                border = _border(np.asarray(grey_or_rgb.convert("L")))
            pixels = np.asarray(_resize(grey_or_rgb, size, fill, fit))
    except Stopped:  # by a signal: the file is not at fault
        raise
    # Pillow's decoders raise a zoo (SyntaxError, struct.error, EOFError, KeyError, ...).
    except Exception as error:
        reason = _reason(error)
        raise UnreadableImage(f"{source}: {reason}", reason) from error
    shape = (height - crop_bottom, width)
    return Decoded(pixels.reshape(size, size, channels), high, border, frames, filled, *shape)


def _without_bottom(image: Image.Image, rows: int) -> Image.Image:
    if not rows:
        return image
    if rows >= image.height:
        raise Refused(f"{image.height} pixels high, and {rows} are to be taken off its bottom")
    return image.crop((0, 0, image.width, image.height - rows))


def _deep(image: Image.Image) -> bool:
    return image.mode in ("F", "I") or image.mode.startswith("I;16")


def _range_of(image: Image.Image) -> tuple[int, int]:
    """Return (largest value, median of the border) of integers over 8 bits deep; else (0, 0)."""
    if not _deep(image) or image.mode == "F":
        return 0, 0
    values = np.asarray(image)
    return max(1, int(values.max())), _border(values)


def _border(grey: NDArray[Any]) -> int:
    edges = [grey[0], grey[-1], grey[:, 0], grey[:, -1]]
    return int(np.median(np.concatenate(edges)))


def _eight_bit(image: Image.Image, white: int | None) -> Image.Image:
    """Scale deep grey images to 8 bits; Pillow's own conversion silently clips them at 255."""
    if not _deep(image):
        return image
    if getattr(image, "tag_v2", {}).get(262) == 0:  # PhotometricInterpretation: WhiteIsZero
        raise Refused("a 16-bit or float TIFF that stores white as 0; save it with black as 0")
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise Refused(f"float pixels from {low:g} to {high:g}; only 0 to 1 can be scaled")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    states_depth = white is not None or high > 255
    if image.mode == "I" and not (low >= 0 and states_depth and high <= 65535):
        raise Refused(
            f"32-bit integer pixels from {low} to {high}, a range that states no depth; "
            "save it with 8 or 16 bits"
        )
    white = white or 65535
    scaled = (values.astype(np.int64) * 255 + white // 2) // white
    return Image.fromarray(np.minimum(scaled, 255).astype(np.uint8))


def _flatten(image: Image.Image, fill: int) -> Image.Image:
    """Composite alpha on the fill colour, so that colour hidden under it never appears."""
    if not image.has_transparency_data:
        return image
    background = Image.new("RGBA", image.size, (fill, fill, fill, 255))
    return Image.alpha_composite(background, image.convert("RGBA"))


def _resize(image: Image.Image, size: int, fill: int, fit: Fit) -> Image.Image:
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    box = padded_box(size, *image.size)
    canvas = Image.new(image.mode, (size, size), fill if image.mode == "L" else (fill,) * 3)
    shrunk = image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
    canvas.paste(shrunk, box[:2])
    return canvas


def padded_box(size: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Return where a picture stands in its square: left, top, right, bottom.

    Example:
      >>> padded_box(8, 20, 10)
      (0, 2, 8, 6)
    """
    scale = size / max(width, height)
    wide, high = (max(1, round(side * scale)) for side in (width, height))
    left, top = (size - wide) // 2, (size - high) // 2
    return left, top, left + wide, top + high


def _reason(error: Exception) -> str:
    """Say on one line, in the user's words, why a file could not be read."""
    detail = " ".join(str(error).split())[:120]
    match error:
        case Refused():
            return str(error)
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return too_large()
        case FileNotFoundError():
            return "no such file, or a link to none"
        case BadZipFile() | zlib.error():
            return "damaged inside the zip"
        case PermissionError():
            return "no permission to read it"
        case MemoryError():
            return "not enough memory to decode it"
        case UnidentifiedImageError():
            return f"not an image of a format read here ({', '.join(FORMATS)})"
        case OSError() if error.strerror:
            return error.strerror
        case OSError() if "truncated" in detail:
            return "the file is cut short"
        case _:
            return f"damaged, it does not decode ({detail or type(error).__name__})"
