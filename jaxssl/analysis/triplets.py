"""Pictures of mined triplets: what a miner takes for hard, looked at."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxssl.analysis.atlas import thumbnail
from jaxssl.analysis.distances import as_distances, as_points
from jaxssl.analysis.drawing import INK, STYLE, short
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.names import NO_LABEL

_SIDE = 96
_SAME, _OTHER = "#1b6ca8", "#b3261e"


@matplotlib.rc_context(STYLE)
def draw_triplets(table: Embeddings, triplets: ArrayLike, *, limit: int = 12) -> Figure:
    """Draw triplets a row: anchor, positive, negative, with class and distance from the anchor.

    A negative that is nearer than the positive is what a loss with a margin works on; its distance
    is red.

    Args:
        table: Embeddings with pictures.
        triplets: Rows of the table, int `[t, 3]`: anchor, positive, negative.
        limit: Most triplets drawn, the first.

    Returns:
        The figure; an image without a picture is an empty frame with its id.

    Raises:
        ValueError: Triplets that are not int `[t, 3]` of rows of the table, or none.

    Example:
        >>> table = Embeddings(
        ...     vectors=np.array([[0.0], [1.0], [3.0]]),
        ...     ids=("a/1", "a/2", "b/1"),
        ...     paths=("",) * 3,
        ...     class_names=("a", "a", "b"),
        ...     class_index=np.array([0, 0, 1]),
        ...     split=("train",) * 3,
        ... )
        >>> [ax.get_xlabel() for ax in draw_triplets(table, [[0, 1, 2]]).axes]
        ['a', 'a · 1.00', 'b · 3.00']
    """
    rows = np.asarray(triplets)
    fits = rows.ndim == 2 and rows.shape[1] == 3 and len(rows) and rows.dtype.kind in "iu"
    if not fits or not 0 <= rows.min() <= rows.max() < len(table):
        raise ValueError(
            f"triplets are {rows.dtype} {rows.shape}, not integers [t, 3] of the {len(table)} rows"
        )
    rows = rows[:limit]
    points = as_points(table.vectors, table.distance)
    gaps = points[rows[:, 1:]] - points[rows[:, :1]]
    far = as_distances(np.einsum("tkd,tkd->tk", gaps, gaps), table.distance)
    unit = "°" if table.distance == "angular" else ""
    figure = Figure(figsize=(4.2, 1.5 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, triplet, (positive, negative) in zip(axes, rows, far, strict=True):
        said = ["", f" · {positive:.2f}{unit}", f" · {negative:.2f}{unit}"]
        colors = [INK, _SAME, _OTHER if negative <= positive else INK]
        for ax, row, more, color in zip(line, triplet, said, colors, strict=True):
            picture = thumbnail(table.thumbnails[row], _SIDE)
            if picture is None:
                ax.text(0.5, 0.5, short(table.ids[row], 14), ha="center", va="center", fontsize=7)
            else:
                ax.imshow(np.asarray(picture))
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            name = short(table.class_names[row] or NO_LABEL, 18)
            ax.set_xlabel(f"{name}{more}", color=color, fontsize=8, labelpad=2)
    for ax, title in zip(axes[0], ("anchor", "positive", "negative"), strict=True):
        ax.set_title(title, fontsize=8.5)
    return figure
