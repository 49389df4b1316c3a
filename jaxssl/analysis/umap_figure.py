"""Maps side by side as one figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike, NDArray

from jaxssl.analysis.drawing import GREY, STYLE, class_style, literal, short
from jaxssl.analysis.names import NO_LABEL


@matplotlib.rc_context(STYLE)
def umap_panels(
    panels: Mapping[str, tuple[ArrayLike, Sequence[str]]],
    classes: Sequence[str],
    *,
    columns: int = 4,
) -> Figure:
    """Draw maps side by side with the same axes; each class keeps its colour and shape in all.

    Args:
        panels: Title -> (xy `[n, 2]`, class name of each point, "" for no label).
        classes: All class names, in the order of `class_style`.
        columns: Panels side by side.

    Returns:
        The figure; a legend counts the points.

    Raises:
        ValueError: If a panel's coordinates are not `[n, 2]` for its n names.
    """
    for title, (xy, names) in panels.items():
        if np.shape(xy) != (len(names), 2):
            raise ValueError(f"{title}: xy is {np.shape(xy)}, wanted {(len(names), 2)}")
    every = np.vstack([xy for xy, _ in panels.values()])
    margin = 0.04 * np.ptp(every, axis=0).max() + 1e-9
    low, high = every.min(0) - margin, every.max(0) + margin
    columns = min(columns, len(panels))
    width = 3.95 if columns <= 3 else 2.97
    height = (width - 0.2) * np.clip((high - low)[1] / (high - low)[0], 0.4, 1.3)
    counts = [Counter(names) for _, names in panels.values()]
    rows = [counts[i : i + columns] for i in range(0, len(counts), columns)]
    # Maps of the same images share one legend, below them all; otherwise each has its own.
    shared = len(counts) > 1 and all(count == counts[0] for count in counts)
    per_column = -(-len(counts[0]) // columns)
    lines = [per_column] if shared else [max(map(len, row)) for row in rows]
    heights = [height] * (len(rows) + len(lines))
    legend_rows = slice(len(rows), None) if shared else slice(1, None, 2)
    heights[legend_rows] = [0.17 * count + 0.05 for count in lines]
    size = (width * columns, sum(heights) + 0.35 * len(rows))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.03))
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for ax in grid.ravel():
        ax.axis("off")
    below = grid[legend_rows].ravel()
    axes = (grid[: len(rows)] if shared else grid[::2]).ravel()[: len(panels)]
    for i, (ax, (title, (xy, names))) in enumerate(zip(axes, panels.items(), strict=True)):
        dots = _scatter(ax, np.asarray(xy, np.float64), np.asarray(names), classes)
        ax.axis("on")
        ax.set_title(f"{literal(title)} ({len(names):,})")
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        ax.spines[:].set(visible=True, alpha=0.5)
        if not shared:
            _legend(below[i], dots, counts[i])
    if shared:
        for i, ax in enumerate(below):
            part = list(dots)[per_column * i : per_column * (i + 1)]
            _legend(ax, {name: dots[name] for name in part}, counts[0])
    return figure


def _scatter(
    ax: Axes, points: NDArray[np.float64], owner: NDArray[Any], classes: Sequence[str]
) -> dict[str, Artist]:
    """Draw the classes that occur, and return the dots of each."""
    dots: dict[str, Artist] = {}
    styles = {"": (GREY, "o")} | {name: class_style(i) for i, name in enumerate(classes)}
    for name, (color, marker) in styles.items():
        x, y = points[owner == name].T
        if len(x):
            dots[name] = ax.scatter(
                x, y, s=9, marker=marker, color=color, alpha=0.8, lw=0, rasterized=True
            )
    return dots


def _legend(ax: Axes, dots: Mapping[str, Artist], counts: Mapping[str, int]) -> None:
    said = [f"{short(name or NO_LABEL)} ({counts[name]:,})" for name in dots]
    legend = ax.legend(
        dots.values(), said, loc="upper left", fontsize=8, markerscale=1.8,
        borderaxespad=0, handletextpad=0.2, borderpad=0,
    )  # fmt: skip
    legend.set_in_layout(False)  # long names must not push the panels apart
