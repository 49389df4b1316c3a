"""One image file to uint8 pixels of a fixed square, or one line that says why not."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxssl.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
# Where Pillow begins to warn of decompression bombs; here the header alone is enough to refuse.
MAX_PIXELS = 89_478_485

Fit = Literal["squash", "pad"]


class UnreadableImage(InputError):
    """An image file that cannot be used; the text is "path: reason".

    One string makes it whole, so that it survives being re-raised in another thread.
    """

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason


class _Refused(ValueError):
    """A readable file that is not to be used; the text is the reason in the user's words."""


def decode(
    path: str | Path, *, size: int, channels: int, fill: int = 255, fit: Fit = "squash"
) -> NDArray[np.uint8]:
    """Decodes one image file in full and resizes it to a square.

    EXIF orientation is applied; alpha is composited on `fill`; of several frames the first is
    read. Grey is ITU-R 601 luma. 16-bit grey is divided by 257; float pixels must lie in [0, 1]
    and are multiplied by 255; 32-bit integers must be 16-bit values (maximum 256 to 65535), for
    their own depth says nothing about their range. What fits none of these is refused, never
    clipped. Resizing is bilinear with the filter widened when shrinking (antialiased, no ringing
    at silhouettes); a JPEG of more than twice the size is decoded at half, quarter or eighth scale.

    A JPEG damaged in its middle whose end is intact decodes without an error in libjpeg and cannot
    be told from a good one.

    Args:
      path: a regular file of a format in `FORMATS`, told by its content, not by its extension.
      size: height and width of the result in pixels, at least 1.
      channels: 1 (grey) or 3 (RGB).
      fill: background under transparency and beside padding, 0 (black) to 255 (white).
      fit: "squash" changes the aspect to the square; "pad" keeps it and centres on `fill`.

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
    if size < 1 or channels not in (1, 3) or not 0 <= fill <= 255 or fit not in get_args(Fit):
        raise ValueError(
            "decode needs size >= 1, channels 1 or 3, fill 0-255 and fit 'squash' or 'pad', "
            f"got {size=}, {channels=}, {fill=}, {fit=}"
        )
    try:
        # Before open(): a FIFO would wait for a writer for ever.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise _Refused("not a regular file")
        if status.st_size == 0:
            raise _Refused("an empty file")
        # A file object, not its name: by name Pillow 13 maps uncompressed TIFFs into memory, and
        # scrambles those whose orientation swaps height and width.
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _Refused(_too_large())
            image.draft(None, (2 * size, 2 * size))  # type: ignore[arg-type]  # None: keep the mode
            ImageOps.exif_transpose(image, in_place=True)
            flat = _flatten(_eight_bit(image), fill)
            grey_or_rgb = flat.convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(_resize(grey_or_rgb, size, fill, fit))
    # Pillow's decoders raise a zoo (SyntaxError, struct.error, EOFError, KeyError, ...).
    except Exception as error:
        reason = _reason(error)
        raise UnreadableImage(f"{path}: {reason}", reason) from error
    return pixels.reshape(size, size, channels)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep grey images scaled to 8 bits; Pillow's own conversion clips them at 255 in silence."""
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        return image
    if getattr(image, "tag_v2", {}).get(262) == 0:  # PhotometricInterpretation: WhiteIsZero
        raise _Refused("a 16-bit or float TIFF that stores white as 0; save it with black as 0")
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also true of NaN
            raise _Refused(f"float pixels from {low:g} to {high:g}; only 0 to 1 can be scaled")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if image.mode == "I" and not (low >= 0 and 255 < high <= 65535):
        raise _Refused(
            f"32-bit integer pixels from {low} to {high}, a range that states no depth; "
            "save it with 8 or 16 bits"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _flatten(image: Image.Image, fill: int) -> Image.Image:
    """Alpha composited on the fill colour, so that colour hidden under it never appears."""
    if not image.has_transparency_data:
        return image
    background = Image.new("RGBA", image.size, (fill, fill, fill, 255))
    return Image.alpha_composite(background, image.convert("RGBA"))


def _resize(image: Image.Image, size: int, fill: int, fit: Fit) -> Image.Image:
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new(image.mode, (size, size), fill if image.mode == "L" else (fill,) * 3)
    shrunk = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(shrunk, ((size - width) // 2, (size - height) // 2))
    return canvas


def _too_large() -> str:
    return f"more than {MAX_PIXELS // 10**6} megapixels; shrink it or cut it into parts"


def _reason(error: Exception) -> str:
    """Why a file could not be read, short, in the user's words, on one line."""
    detail = " ".join(str(error).split())[:120]
    match error:
        case _Refused():
            return str(error)
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return _too_large()
        case FileNotFoundError():
            return "no such file, or a link to none"
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
