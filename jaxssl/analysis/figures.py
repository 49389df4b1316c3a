"""The report's figures: numbers in, a matplotlib `Figure` out; no pyplot, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from jaxssl.analysis.drawing import (
    GREY,
    INK,
    MARKERS,
    PALETTE,
    STYLE,
    cell_text,
    class_style,
    literal,
    save_png,
    short,
    to_svg,
)

__all__ = [
    "distance_matrix",
    "image_sheet",
    "label_efficiency",
    "metric_names",
    "save_png",
    "to_svg",
    "training_curves",
    "umap_panels",
    "view_sheet",
]

METRICS = {
    "loss": "loss",
    "knn_accuracy": "kNN accuracy",
    "alignment": "alignment (0 = views agree)",
    "uniformity": "uniformity (lower = spread out)",
    "z_std": "spread of z (1 = uniform, 0 = one point)",
    "effective_rank": "effective rank of z",
}
NO_METRIC = ("step", "epoch", "time", "chance")


def _panels(count: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return figure, list(axes[:count])


@matplotlib.rc_context(STYLE)
def training_curves(records: Sequence[Mapping[str, Any]], *, columns: int = 3) -> Figure:
    """One panel a metric over the steps, one line a split (`metrics.jsonl`).

    Args:
        records: Rows with `step`, `split` and `name: value`; NaN is a gap.
            A value called `chance` is the loss of an embedding that tells nothing apart.
        columns: Panels side by side.

    Returns:
        The figure: the metrics of `METRICS` first, in that order, then all others.

    Raises:
        ValueError: If no record holds a number.
    """
    names = metric_names(records)
    if not names:
        raise ValueError(f"no metric in {len(records)} records")
    figure, axes = _panels(len(names), columns, width=3.95, height=2.5)
    splits = list(dict.fromkeys(record["split"] for record in records))
    for ax, name in zip(axes, names, strict=True):
        for i, split in enumerate(splits):
            rows = [r for r in records if r["split"] == split and _is_number(r.get(name))]
            if rows:
                y = [row[name] for row in rows]
                marker = MARKERS[i % 5] if len(rows) <= 40 else ""
                color = PALETTE[i % 10]
                ax.plot(
                    [row["step"] for row in rows],
                    y,
                    marker + "-",
                    color=color,
                    label=literal(split),
                )
        if name == "loss":
            _chance_lines(ax, records, splits)
        ax.set_title(METRICS.get(name, literal(name.replace("_", " "))))
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    said: dict[str, Artist] = {}
    for ax in axes:
        lines, labels = ax.get_legend_handles_labels()
        said |= dict(zip(labels, lines, strict=True))
    figure.legend(said.values(), said.keys(), loc="outside upper left", ncols=2 * columns)
    return figure


def metric_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the numbers in the records, those of `METRICS` first.

    Example:
        >>> metric_names([{"step": 1, "split": "train", "speed": 9.0, "loss": 2.0}])
        ['loss', 'speed']
    """
    found = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if name not in NO_METRIC and _is_number(value)
    )
    return [*(name for name in METRICS if name in found), *(n for n in found if n not in METRICS)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _chance_lines(ax: Axes, records: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> None:
    # The level is ln(2N-1): a split with another batch has another one.
    levels = {r["split"]: round(float(r["chance"]), 4) for r in records if r.get("chance")}
    one = len(set(levels.values())) == 1
    for split, level in list(levels.items())[: 1 if one else None]:
        color = GREY if one else PALETTE[splits.index(split) % 10]
        label = "chance" if one else f"chance, {literal(split)}"
        ax.axhline(level, color=color, linestyle="--", linewidth=1.2, label=label)


@matplotlib.rc_context(STYLE)
def label_efficiency(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    chance: float,
    columns: int = 3,
) -> Figure:
    """Balanced accuracy over the number of labels: a panel a classifier, a line an embedding.

    Args:
        curves: Name of the embedding (or run) -> rows with `classifier`, `labels`, `mean`, `low`,
            `high` (accuracies in 0-1). The band is low to high.
        chance: 1 / number of classes, drawn dashed.
        columns: Panels side by side.

    Returns:
        The figure; x is logarithmic and every panel has the same axes.

    Raises:
        ValueError: If there are no rows.
    """
    every = [row for rows in curves.values() for row in rows]
    classifiers = list(dict.fromkeys(row["classifier"] for row in every))
    if not classifiers:
        raise ValueError(f"no rows in the curves of {list(curves)}")
    figure, axes = _panels(len(classifiers), columns, width=3.95, height=3.4)
    lowest = min([chance, *(row["low"] for row in every)])
    for ax, classifier in zip(axes, classifiers, strict=True):
        for i, (name, rows) in enumerate(curves.items()):
            mine = sorted(
                (row for row in rows if row["classifier"] == classifier),
                key=lambda row: row["labels"],
            )
            x = [row["labels"] for row in mine]
            color, marker = PALETTE[i % 10], MARKERS[i % 5]
            ax.fill_between(
                x, [r["low"] for r in mine], [r["high"] for r in mine], color=color, alpha=0.2, lw=0
            )
            ax.plot(x, [r["mean"] for r in mine], marker + "-", color=color, label=literal(name))
        ax.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label="chance")
        ax.set(xscale="log", ylim=(max(0.0, lowest - 0.05), 1.02), xlabel="labels (log scale)")
        ticks = [t for t in (10, 30, 100, 300, 1000, 3000, 10000) if _within(t, every)]
        ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
        ax.minorticks_off()
        ax.set_title({"svc": "SVC", "linear": "Linear", "knn": "kNN"}.get(classifier, classifier))
    axes[0].set_ylabel("balanced accuracy")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2 * columns)
    return figure


def _within(tick: int, rows: Sequence[Mapping[str, Any]]) -> bool:
    labels = [row["labels"] for row in rows]
    return min(labels) * 0.8 <= tick <= max(labels) * 1.25


@matplotlib.rc_context(STYLE)
def umap_panels(
    panels: Mapping[str, tuple[ArrayLike, Sequence[str]]],
    classes: Sequence[str],
    *,
    columns: int = 4,
) -> Figure:
    """Maps side by side with the same axes; each class keeps its colour and shape in all of them.

    Args:
        panels: Title -> (xy `[n, 2]`, class name of each point).
        classes: All class names, in the order of `class_style`.
        columns: Panels side by side.

    Returns:
        The figure; each panel's legend counts its points.

    Raises:
        ValueError: If a panel's coordinates are not `[n, 2]` for its n names.
    """
    columns = min(columns, len(panels))
    rows, width = -(-len(panels) // columns), 3.95 if columns <= 3 else 2.97
    lines = max((len(set(names)) for _, names in panels.values()), default=0)
    heights = [width - 0.2, 0.17 * lines + 0.05] * rows
    size = (width * columns, sum(heights) + 0.35 * rows)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.03))
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights)
    for ax in grid.ravel():
        ax.axis("off")
    axes, below = grid[::2].ravel(), grid[1::2].ravel()
    every = []
    for ax, legend, (title, (xy, names)) in zip(axes, below, panels.items(), strict=False):
        points, owner = np.asarray(xy, np.float64), np.asarray(names)
        if points.shape != (len(owner), 2):
            raise ValueError(f"{title}: xy is {points.shape}, wanted {(len(owner), 2)}")
        every.append(points)
        dots, said = _scatter(ax, points, owner, classes)
        ax.axis("on")
        ax.set_title(f"{literal(title)} ({len(owner):,})")
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set(visible=True, alpha=0.5)
        # Long names must not push the panels apart.
        legend.legend(
            dots, said, loc="upper left", fontsize=8, markerscale=1.8,
            borderaxespad=0, handletextpad=0.2, borderpad=0,
        ).set_in_layout(False)  # fmt: skip
    low, high = np.vstack(every).min(0), np.vstack(every).max(0)
    margin = 0.04 * (high - low).max() + 1e-9
    for ax in axes[: len(panels)]:
        ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    return figure


def _scatter(
    ax: Axes, points: NDArray[np.float64], owner: NDArray[Any], classes: Sequence[str]
) -> tuple[list[Artist], list[str]]:
    """Draws the classes that occur; the dots of each, and what the legend says of it."""
    dots: list[Artist] = []
    said = []
    for i, name in enumerate(classes):
        x, y = points[owner == name].T
        if len(x):
            color, marker = class_style(i)
            dots.append(
                ax.scatter(x, y, s=9, marker=marker, color=color, alpha=0.8, lw=0, rasterized=True)
            )
            said.append(f"{short(name)} ({len(x):,})")
    return dots, said


@matplotlib.rc_context(STYLE)
def distance_matrix(matrix: ArrayLike, classes: Sequence[str], *, unit: str) -> Figure:
    """Mean distances class by class: cividis, a number in every cell, the diagonal framed.

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
    values = np.asarray(matrix, np.float64)
    k = len(classes)
    if values.shape != (k, k):
        raise ValueError(f"matrix is {values.shape}, wanted {(k, k)} for {k} classes")
    side = 2.6 + 0.42 * k
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(values, cmap="cividis")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    names = [short(name) for name in classes]
    ax.set_xticks(range(k), names, rotation=90)
    ax.set_yticks(range(k), names)
    ax.tick_params(length=0)
    for i in range(k):
        frame = Rectangle((i - 0.46, i - 0.46), 0.92, 0.92, fill=False, ec="white", lw=2)
        ax.add_patch(frame)
    if k <= 50:
        known = values[np.isfinite(values)]
        middle = (known.min() + known.max()) / 2 if known.size else 0.0
        for row, column in np.ndindex(k, k):
            value = float(values[row, column])
            color = INK if np.isnan(value) else "black" if value > middle else "white"
            ax.text(
                column, row, cell_text(value), ha="center", va="center", fontsize=7.5, color=color
            )
    bar = figure.colorbar(image, ax=ax, shrink=0.6)
    bar.set_label(unit)
    bar.outline.set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def image_sheet(
    images: ArrayLike, *, columns: Sequence[str] = (), labels: Sequence[str] = ()
) -> Figure:
    """A sheet of small images, with titles over the columns and names beside the rows.

    Args:
        images: uint8 `[rows, columns, h, w, c]`, c = 1 or 3; white is an empty place.
        columns: A title for each column, "" for none.
        labels: A name for each row.

    Returns:
        The figure: one picture, however many images.

    Raises:
        ValueError: If there are no images, or they have another shape or type.
    """
    sheet = np.asarray(images)
    if sheet.dtype != np.uint8 or sheet.ndim != 5 or sheet.shape[4] not in (1, 3) or not sheet.size:
        raise ValueError(
            f"images are {sheet.dtype} {sheet.shape}, wanted uint8 [rows, columns, h, w, 1 or 3]"
        )
    rows, across, h, w, _ = sheet.shape
    gap = max(2, h // 12)
    sheet = np.broadcast_to(sheet, (rows, across, h, w, 3))
    padding = ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
    spaced = np.pad(sheet, padding, constant_values=255).transpose(0, 2, 1, 3, 4)
    picture = spaced.reshape(rows * (h + gap), across * (w + gap), 3)[:-gap, :-gap]
    figure = Figure(figsize=(0.75 * across, 0.75 * rows * (h + gap) / (w + gap)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(picture)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    ax.set_xticks(np.arange(len(columns)) * (w + gap) + w / 2, [literal(c) for c in columns])
    ax.set_yticks(np.arange(len(labels)) * (h + gap) + h / 2, [short(name) for name in labels])
    ax.tick_params(length=0, labelsize=8)
    return figure


def view_sheet(originals: ArrayLike, views_a: ArrayLike, views_b: ArrayLike) -> Figure:
    """`x, t1(x), t2(x)` for some images, one image a column.

    Args:
        originals: uint8 `[n, h, w, c]`.
        views_a: First views, same shape.
        views_b: Second views, same shape.

    Returns:
        The figure of three rows.

    Raises:
        ValueError: If the shapes differ, or as `image_sheet`.

    Example:
        >>> figure = view_sheet(*np.zeros((3, 4, 8, 8, 1), np.uint8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['x', 't₁(x)', 't₂(x)']
    """
    rows = [np.asarray(images) for images in (originals, views_a, views_b)]
    if len({images.shape for images in rows}) > 1:
        raise ValueError(f"views differ in shape: {[images.shape for images in rows]}")
    return image_sheet(rows, labels=("x", "t₁(x)", "t₂(x)"))
