"""The interactive map's data: coordinates, neighbours and pictures, packed to go into one page."""

from __future__ import annotations

import base64
import io
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
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    enlarged = max(image.size) * 2 <= side
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (side, side), method=method, color="white")


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

    Args:
        tables: Set -> table.
        classes: All class names, in the order of `figures.class_style`.
        metric: The distance of the neighbours, which are taken among the points shown.

    Returns:
        JSON values: names, ids, and base64 of little-endian arrays: `x`, `y` uint16 over the whole
        square, `label` uint16, `set` uint8, `neighbours` uint32 `[n, NEIGHBOURS or fewer]`.
    """
    shown = {name: drawn(table) for name, table in tables.items()}
    xy = np.concatenate([coordinates(table) for table in shown.values()])
    # Without a label: one class more, the last.
    index = {name: i for i, name in enumerate(classes)} | {"": len(classes)}
    vectors = np.concatenate([table.vectors for table in shown.values()])
    near, _ = nearest_neighbours(
        vectors, vectors, count=min(NEIGHBOURS, len(xy) - 1), metric=metric, exclude_self=True
    )
    low, extent = xy.min(0), max(float(np.ptp(xy, axis=0).max()), 1e-9)
    x, y = ((xy - low - np.ptp(xy, axis=0) / 2) / extent + 0.5).T * 65535
    tile = 48 if len(xy) <= 12_000 else 32
    names = [name for table in shown.values() for name in table.class_names]
    thumbnails = [data for table in shown.values() for data in table.thumbnails]
    return {
        "classes": [*classes, NO_LABEL] if "" in names else list(classes),
        "unlabelled": len(classes),
        "sets": list(shown),
        "ids": [name for table in shown.values() for name in table.ids],
        "x": _packed(x, "<u2"),
        "y": _packed(65535 - y, "<u2"),  # up on paper is down on a screen
        "label": _packed(np.array([index[name] for name in names]), "<u2"),
        "set": _packed(np.repeat(np.arange(len(shown)), [len(t) for t in shown.values()]), "u1"),
        "neighbours": _packed(near, "<u4"),
        "near": near.shape[1],
        "tile": tile,
        "across": SHEET // tile,
        "sheets": sprite_sheets(thumbnails, tile=tile),
    }


def drawn(table: Embeddings) -> Embeddings:
    """Select the rows of a table that have UMAP coordinates; none where it has no such columns."""
    if "x_umap" not in table.extra:
        return table.select(np.zeros(len(table), bool))
    return table.select(np.isfinite(table.extra["x_umap"]))


def coordinates(table: Embeddings) -> np.ndarray:
    """Return UMAP coordinates `[n, 2]` of a table of drawn rows."""
    columns = [table.extra.get(name, np.zeros(0)) for name in ("x_umap", "y_umap")]
    return np.stack(columns, axis=1).astype(np.float64)


def _packed(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.round(values).astype(dtype).tobytes()).decode()
