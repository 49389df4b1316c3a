"""The interactive map's data: coordinates, neighbours and pictures, packed to go into one page."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jaxssl.analysis.distances import Metric
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.names import NO_LABEL

SHEET = 2016  # pixels a side: small enough for every browser's canvas, and 42 tiles of 48
NEIGHBOURS = 8
MOST = 40_000  # images whose pictures go into a page
UNKNOWN = 65535
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_ORIENTATION = 0x0112  # of Exif; from 5 on height and width change places


def thumbnail(data: bytes, side: int) -> Image.Image | None:
    """Open a table's PNG as an RGB image of `side` by `side`, or None where there is no picture.

    Small images keep their pixels (nearest neighbour), large ones are filtered; what is not square
    stands on white.

    Args:
        data: PNG bytes, b"" for none. They come from a file: anything else than PNG is refused.
        side: Pixels.

    Returns:
        The image, or None.

    Example:
        >>> thumbnail(b"", 48) is thumbnail(b"no picture", 48) is None
        True
    """
    image = opened(data)
    if image is None:
        return None
    enlarged = max(image.size) * 2 <= side
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (side, side), method=method, color="white")


def opened(data: bytes, longest: int | None = None) -> Image.Image | None:
    """Open a table's PNG as RGB in its own shape, or None where there is no picture.

    Args:
        data: PNG bytes, b"" for none.
        longest: Most pixels of its longer side.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if longest and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def of_file(path: str, sides: tuple[int, int], longest: int) -> Image.Image | None:
    """Open an image's file itself, upright, as RGB; None unless it is that image and no other.

    A path can name a stack or a collage that the image is a part of, or a file that has changed: it
    counts where it has one frame of the size that the table says. Of more than 8 bits a channel the
    table's picture is the better one, whose range is right.

    Args:
        path: The file, "" for none.
        sides: Height and width as the table says them.
        longest: Most pixels of the picture's longer side.
    """
    if not all(sides) or not os.path.isfile(path):  # a pipe would never end
        return None
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("error")  # Pillow's, of bombs and broken tags
        with Image.open(path, formats=_FORMATS) as file:
            turned = file.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            same = file.size == (sides if turned else sides[::-1])
            if not same or getattr(file, "n_frames", 1) > 1 or file.mode not in _MODES:
                return None
            file.thumbnail((longest, longest))
            upright = ImageOps.exif_transpose(file)
            if upright.has_transparency_data:
                above = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
            return upright.convert("RGB")
    return None


def data_uri(image: Image.Image, *, quality: int = 60) -> str:
    """Return the image as a WebP `data:` address.

    Args:
        image: RGB.
        quality: 0-100; 60 keeps a thumbnail's detail at a fifth of PNG's size.
    """
    out = io.BytesIO()
    image.save(out, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def sprite_sheets(thumbnails: Sequence[bytes], *, tile: int) -> list[str]:
    """Put all thumbnails on few large images: a tenth of the bytes of one file each.

    Image i is on sheet i // m² at row i % m² // m and column i % m, with m = SHEET // tile.

    Args:
        thumbnails: n PNGs, b"" leaves its tile white.
        tile: Pixels a side of one thumbnail.

    Returns:
        `data:` addresses; [] if there is no picture at all.
    """
    across = SHEET // tile
    sheets = []
    for start in range(0, len(thumbnails), across**2):
        part = thumbnails[start : start + across**2]
        sheet = Image.new("RGB", (across * tile, -(-len(part) // across) * tile), "white")
        for i, data in enumerate(part):
            image = thumbnail(data, tile)
            if image is not None:
                sheet.paste(image, (i % across * tile, i // across * tile))
        sheets.append(data_uri(sheet))
    return sheets if any(thumbnails) else []


def map_data(
    tables: Mapping[str, Embeddings], classes: Sequence[str], *, metric: Metric
) -> dict[str, Any]:
    """Pack the points that have `x_umap`, `y_umap`, as the page's script reads them.

    Neighbours are of all images; those that are not drawn follow behind the points, with name and
    picture and without a place. Where that would be more than `MOST` images, neighbours are of the
    points drawn.

    Args:
        tables: Set -> table.
        classes: All class names, in the order of `figures.class_style`.
        metric: The distance of the neighbours.

    Returns:
        JSON values: names, and base64 of little-endian arrays: `x`, `y` uint16 over the whole
        square, a point each; `label` uint16, `set` uint8, an image each; `neighbours` uint32
        `[points, NEIGHBOURS or fewer]`; where there is a column `predicted`, `guess` uint16, 65535
        for none. `sheets` are the pictures (`sprite_sheets`), `shapes` their widths and heights,
        `um` the micrometres that each is wide, 0 where that is not known; `objects` EcoTaxa's names
        of them, where these are known.
    """
    shown = {name: drawn(table) for name, table in tables.items()}
    xy = np.concatenate([coordinates(table) for table in shown.values()])
    used = {name: table for name, table in shown.items() if len(table)}
    rest = {n: t.select(~_is_drawn(t)) for n, t in tables.items() if n != "val"}
    every = [*used.values(), *rest.values()]
    vectors = np.concatenate([table.vectors for table in every])
    points = len(xy)

    def nearest(bank: np.ndarray) -> np.ndarray:
        # The points are the bank's first rows: each finds itself, and that one goes.
        most = min(NEIGHBOURS, len(bank) - 1)
        near, _ = nearest_neighbours(bank[:points], bank, count=most + 1, metric=metric)
        mine = near == np.arange(points)[:, None]
        mine[~mine.any(axis=1), -1] = True  # equal points hid it
        return near[~mine].reshape(points, most)

    near = nearest(vectors)
    extra = np.unique(near[near >= points])
    whole = points + len(extra) <= MOST
    if not whole:
        near, extra = nearest(vectors[:points]), extra[:0]
    near = np.where(near < points, near, points + np.searchsorted(extra, near))
    rows = np.concatenate([np.arange(points), extra])
    owner = np.concatenate([np.repeat(i, len(t)) for i, t in enumerate(every)])[rows]
    home = [*used, *rest]

    def column(name: str) -> list[Any]:
        joined = [value for table in every for value in getattr(table, name)]
        return [joined[row] for row in rows]

    # Without a label: one class more, the last.
    names, sets, paths = column("class_names"), list(used), column("paths")
    sets += [name for name in dict.fromkeys(home[i] for i in owner) if name not in used]
    index = {name: i for i, name in enumerate(classes)} | {"": len(classes)}
    low, extent = xy.min(0), max(float(np.ptp(xy, axis=0).max()), 1e-9)
    x, y = ((xy - low - np.ptp(xy, axis=0) / 2) / extent + 0.5).T * 65535
    tile = 48 if len(rows) <= 12_000 else 32
    # Of the text, only to be short: it need not end at a folder.
    root = os.path.commonprefix(paths)  # noqa: RUF071
    thumbnails = column("thumbnails")
    guesses = [g for t in used.values() for g in t.extra.get("predicted", [""] * len(t))]
    guess = [index.get(str(g), UNKNOWN) if g else UNKNOWN for g in guesses]
    return {
        "classes": [*classes, NO_LABEL] if "" in names else list(classes),
        "unlabelled": len(classes),
        "sets": sets,
        "ids": column("ids"),
        "root": root,
        "paths": [path[len(root) :] for path in paths] if any(paths) else [],
        "x": packed(x, "<u2"),
        "y": packed(65535 - y, "<u2"),  # up on paper is down on a screen
        "label": packed(np.array([index[name] for name in names]), "<u2"),
        "set": packed(np.array([sets.index(home[i]) for i in owner]), "u1"),
        "guess": packed(np.array(guess), "<u2") if set(guess) != {UNKNOWN} else "",
        "neighbours": packed(near, "<u4"),
        "near": near.shape[1],
        "whole": whole,
        "of": "of all images" if whole else "on the map",
        "tile": tile,
        "across": SHEET // tile,
        "shapes": shapes(thumbnails),
        "um": rounded(column("micrometres")),
        "objects": column("object_ids") if any("object_id" in t.extra for t in every) else [],
        "sheets": sprite_sheets(thumbnails, tile=tile),
    }


def _is_drawn(table: Embeddings) -> np.ndarray:
    return np.isfinite(table.extra.get("x_umap", np.full(len(table), np.nan)))


def shapes(thumbnails: Sequence[bytes]) -> list[int]:
    """Return width, height, width, height, ... of PNGs; [] if there is no picture at all."""
    return [side for data in thumbnails for side in _shape(data)] if any(thumbnails) else []


def rounded(micrometres: Sequence[float]) -> list[float]:
    """Return widths with four digits; [] where none is known."""
    return [float(f"{width:.4g}") for width in micrometres] if any(micrometres) else []


def _shape(data: bytes) -> tuple[int, int]:
    """Read a PNG's width and height from its header; a square where there is no picture."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return 1, 1
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    return (width, height) if 0 < width < 1 << 16 and 0 < height < 1 << 16 else (1, 1)


def drawn(table: Embeddings) -> Embeddings:
    """Select the rows of a table that have UMAP coordinates; none where it has no such columns."""
    if "x_umap" not in table.extra:
        return table.select(np.zeros(len(table), bool))
    return table.select(np.isfinite(table.extra["x_umap"]))


def coordinates(table: Embeddings) -> np.ndarray:
    """Return UMAP coordinates `[n, 2]` of a table of drawn rows."""
    columns = [table.extra.get(name, np.zeros(0)) for name in ("x_umap", "y_umap")]
    return np.stack(columns, axis=1).astype(np.float64)


def packed(values: np.ndarray, dtype: str) -> str:
    """Return rounded numbers as base64 of an array of this type."""
    return base64.b64encode(np.round(values).astype(dtype).tobytes()).decode()
