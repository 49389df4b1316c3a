"""Figures of matrices class by class: cividis, a number in every cell, the diagonal framed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from jaxssl.analysis.drawing import INK, STYLE, cell_text, short

__all__ = ["confusion_matrix", "distance_matrix"]

TOLD = 50  # classes; beyond, a cell has the room of a name, none for a number


def distance_matrix(matrix: ArrayLike, classes: Sequence[str], *, unit: str) -> Figure:
    """Draw mean distances class by class.

    Args:
        matrix: `[k, k]`, rows and columns in the order of `classes`; the diagonal is a class with
            itself over distinct pairs (NaN for a class of one image).
        classes: k names.
        unit: What the numbers are, for the colour bar: "degrees" or "Euclidean distance".

    Returns:
        The figure; beyond fifty classes the cells are too small for numbers and have colour only.

    Raises:
        ValueError: If the matrix is not `[k, k]`.
    """
    values = _square(matrix, classes)
    known = values[np.isfinite(values)]
    limits = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return _draw(values, lambda at: cell_text(float(values[at])), classes, limits=limits, unit=unit)


def confusion_matrix(counts: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw what a classifier takes each class for: counts, coloured by their share of the row.

    Args:
        counts: `[k, k]`; row i, column j: the images of class i that it gives to class j.
        classes: k names.

    Returns:
        The figure; a cell without images is empty.

    Raises:
        ValueError: If the matrix is not `[k, k]`.
    """
    values = _square(counts, classes)
    figure = _draw(
        row_shares(values),
        lambda at: f"{values[at]:,.0f}" if values[at] else "",
        classes,
        limits=(0.0, 1.0),
        unit="share of the class's images",
        cmap="Blues",
    )
    figure.axes[0].set(ylabel="class", xlabel="taken for")
    return figure


def row_shares(counts: ArrayLike) -> NDArray[np.float64]:
    """Return each count as a share of its row, NaN where the count is 0.

    Example:
        >>> row_shares([[3, 1], [0, 0]])
        array([[0.75, 0.25],
               [ nan,  nan]])
    """
    values = np.asarray(counts, np.float64)
    totals = np.maximum(values.sum(1, keepdims=True), 1)
    return np.where(values > 0, values / totals, np.nan)


def _square(matrix: ArrayLike, classes: Sequence[str]) -> NDArray[np.float64]:
    values = np.asarray(matrix, np.float64)
    k = len(classes)
    if values.shape != (k, k):
        raise ValueError(f"matrix is {values.shape}, wanted {(k, k)} for {k} classes")
    return values


@matplotlib.rc_context(STYLE)
def _draw(
    levels: NDArray[np.float64],
    text: Callable[[tuple[int, ...]], str],
    classes: Sequence[str],
    *,
    limits: tuple[float, float],
    unit: str,
    cmap: str = "cividis",
) -> Figure:
    k = len(classes)
    told = k <= TOLD
    side = 2.6 + (0.42 if told else 0.16) * k
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(levels, cmap=cmap, vmin=limits[0], vmax=limits[1])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    names = [short(name) for name in classes]
    ax.set_xticks(range(k), names, rotation=90)
    ax.set_yticks(range(k), names)
    ax.tick_params(length=0)
    for i in range(k):
        width = 2 if told else 1
        frame = Rectangle((i - 0.46, i - 0.46), 0.92, 0.92, fill=False, ec="white", lw=width)
        ax.add_patch(frame)
    if told:
        middle = sum(limits) / 2
        for row, column in np.ndindex(k, k):
            level = levels[row, column]
            light = (level > middle) == (cmap == "cividis")
            color = INK if np.isnan(level) else "black" if light else "white"
            said = text((row, column))
            ax.text(column, row, said, ha="center", va="center", fontsize=7.5, color=color)
    bar = figure.colorbar(image, ax=ax, shrink=0.6)
    bar.set_label(unit)
    bar.outline.set_visible(False)
    return figure
