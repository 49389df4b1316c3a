"""The report's figures: numbers in, a matplotlib `Figure` out; no pyplot, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from jaxssl.analysis.drawing import (
    GREY,
    MARKERS,
    PALETTE,
    STYLE,
    literal,
    save_png,
    short,
    to_svg,
)
from jaxssl.analysis.results import LabelRow

__all__ = [
    "accuracy_over_epochs",
    "image_sheet",
    "label_efficiency",
    "metric_names",
    "save_png",
    "to_svg",
    "training_curves",
    "view_sheet",
]

METRICS = {
    "loss": "loss",
    "accuracy": "accuracy of the classifier",
    "knn_accuracy": "kNN accuracy",
    "anchors": "share of anchors with a triplet",
    "active": "share of triplets with a loss",
    "d_ap": "mean distance² to the positive",
    "d_an": "mean distance² to the negative",
    "easy": "triplets mined easy",
    "semi_hard": "triplets mined semi-hard",
    "hard": "triplets mined hard",
    "fallback": "triplets by the nearest negative, for want of another",
    "alignment": "alignment (0 = views agree)",
    "uniformity": "uniformity (lower = spread out)",
    "z_std": "spread of z (1 = uniform, 0 = one point)",
    "effective_rank": "effective rank of z",
    "grad_norm": "gradient norm",
}
# Two numbers of one unit share a panel, the second one dashed.
DASHED = {"anchors": "active", "d_ap": "d_an", "easy": "semi_hard", "hard": "fallback"}
PAIRED = {
    "anchors": "anchors in a triplet (dashed: with loss)",
    "d_ap": "distance² to positive (dashed: negative)",
    "easy": "triplets mined easy (dashed: semi-hard)",
    "hard": "triplets mined hard (dashed: nearest)",
}
# Levels of the loss, drawn in its panel: where an embedding stands that tells nothing apart.
LEVELS = ("chance", "margin")
NO_METRIC = ("step", "epoch", "time", "input_wait", *LEVELS)


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
    """Draw a panel a metric, or a pair, over the steps; one line a split (`metrics.jsonl`).

    Args:
        records: Rows with `step`, `split` and `name: value`; NaN is a gap.
            `chance`, or `margin`, is the loss of an embedding that tells nothing apart.
        columns: Panels side by side.

    Returns:
        The figure: the metrics of `METRICS` first, in that order, then all others.

    Raises:
        ValueError: If no record holds a number.
    """
    names = metric_names(records)
    if not names:
        raise ValueError(f"no metric in {len(records)} records")
    panels = [n for n in names if not any(n == DASHED.get(other) for other in names)]
    figure, axes = _panels(len(panels), columns, width=3.95, height=2.5)
    splits = list(dict.fromkeys(record["split"] for record in records))
    end = max(record["step"] for record in records)
    for ax, name in zip(axes, panels, strict=True):
        _split_lines(ax, records, splits, name, "-")
        title = METRICS.get(name, literal(name.replace("_", " ")))
        if DASHED.get(name) in names:
            _split_lines(ax, records, splits, DASHED[name], "--")
            title = PAIRED[name]
        if name == "loss":
            for level in LEVELS:
                _level_lines(ax, records, splits, level)
        ax.set_title(title)
        ax.set(xlabel="step", xlim=(0, 1.03 * end))
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    said: dict[str, Artist] = {}
    for ax in axes:
        lines, labels = ax.get_legend_handles_labels()
        said = dict(zip(labels, lines, strict=True)) | said
    figure.legend(said.values(), said.keys(), loc="outside upper left", ncols=2 * columns)
    return figure


def metric_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the names of the numbers in the records, those of `METRICS` first.

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


def _split_lines(
    ax: Axes, records: Sequence[Mapping[str, Any]], splits: Sequence[str], name: str, style: str
) -> None:
    for i, split in enumerate(splits):
        rows = [r for r in records if r["split"] == split and _is_number(r.get(name))]
        if rows:
            marker = MARKERS[i % 5] if len(rows) <= 40 else ""
            ax.plot(
                [row["step"] for row in rows],
                [row[name] for row in rows],
                marker + style,
                color=PALETTE[i % 10],
                label=literal(split) if style == "-" else None,
            )


def _level_lines(
    ax: Axes, records: Sequence[Mapping[str, Any]], splits: Sequence[str], name: str
) -> None:
    # Chance is ln(2N-1): a split with another batch has another one.
    levels = {r["split"]: round(float(r[name]), 4) for r in records if r.get(name)}
    one = len(set(levels.values())) == 1
    for split, level in list(levels.items())[: 1 if one else None]:
        color = GREY if one else PALETTE[splits.index(split) % 10]
        label = name if one else f"{name}, {literal(split)}"
        ax.axhline(level, color=color, linestyle="--", linewidth=1.2, label=label)


@matplotlib.rc_context(STYLE)
def label_efficiency(
    curves: Mapping[str, Sequence[LabelRow]],
    *,
    chance: float,
    columns: int = 3,
) -> Figure:
    """Draw balanced accuracy over the number of labels: a panel a classifier, a line an embedding.

    Args:
        curves: Name of the embedding (or method) -> its rows. The band is low to high.
        chance: 1 / number of classes, drawn dashed where it is not far below the curves.
        columns: Panels side by side.

    Returns:
        The figure; x is logarithmic and every panel has the same axes.

    Raises:
        ValueError: If there are no rows.
    """
    every = [row for rows in curves.values() for row in rows]
    classifiers = list(dict.fromkeys(row.classifier for row in every))
    if not classifiers:
        raise ValueError(f"no rows in the curves of {list(curves)}")
    figure, axes = _panels(len(classifiers), columns, width=3.95, height=3.4)
    lowest = max(0.0, min(row.low for row in every) - 0.05)
    for ax, classifier in zip(axes, classifiers, strict=True):
        for i, (name, rows) in enumerate(curves.items()):
            mine = sorted(
                (row for row in rows if row.classifier == classifier),
                key=lambda row: row.labels,
            )
            x = [row.labels for row in mine]
            color, marker = PALETTE[i % 10], MARKERS[i % 5]
            ax.fill_between(
                x, [r.low for r in mine], [r.high for r in mine], color=color, alpha=0.2, lw=0
            )
            ax.plot(x, [r.mean for r in mine], marker + "-", color=color, label=literal(name))
        if chance >= lowest:
            ax.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label="chance")
        ax.set(xscale="log", ylim=(lowest, 1.02), xlabel="labels (log scale)")
        ticks = [t for t in (10, 30, 100, 300, 1000, 3000, 10000) if _within(t, every)]
        ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
        ax.minorticks_off()
        names = {"svc": "SVC", "linear": "Linear", "knn": "kNN", "propagated": "Propagated labels"}
        ax.set_title(names.get(classifier, classifier))
    axes[0].set_ylabel("balanced accuracy")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2 * columns)
    return figure


def _within(tick: int, rows: Sequence[LabelRow]) -> bool:
    labels = [row.labels for row in rows]
    return min(labels) * 0.8 <= tick <= max(labels) * 1.25


@matplotlib.rc_context(STYLE)
def accuracy_over_epochs(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw linear and kNN accuracy of a run's checkpoints.

    Args:
        rows: `epoch`, and `linear` and `knn` in 0-1; epoch 0 is the untrained network, whose level
            is drawn dashed.

    Returns:
        The figure.

    Example:
        >>> rows = [{"epoch": e, "linear": 0.1 * e, "knn": 0.1} for e in (0, 5)]
        >>> [line.get_label() for line in accuracy_over_epochs(rows).axes[0].lines[::2]]
        ['linear', 'kNN']
    """
    figure, (ax,) = _panels(1, 1, width=6.4, height=3.6)
    for i, (name, title) in enumerate({"linear": "linear", "knn": "kNN"}.items()):
        marker, color = MARKERS[i], PALETTE[i]
        x, y = zip(*((row["epoch"], row[name]) for row in rows), strict=True)
        ax.plot(x, y, marker + "-", color=color, label=title)
        untrained = [row[name] for row in rows if row["epoch"] == 0]
        for level in untrained:
            ax.axhline(level, color=color, linestyle="--", linewidth=1.2, label="_untrained")
    ax.set(xlabel="epoch", ylabel="accuracy on the test images")
    ax.legend(loc="lower right")
    return figure


@matplotlib.rc_context(STYLE)
def image_sheet(
    images: ArrayLike, *, columns: Sequence[str] = (), labels: Sequence[str] = ()
) -> Figure:
    """Draw a sheet of small images, with titles over the columns and names beside the rows.

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
    # Inches of an image. Of many, thumbnails of 64 px are saved as they are, not twice as large.
    side = 0.75 if rows <= 30 else 0.45
    figure = Figure(figsize=(side * across, side * rows * (h + gap) / (w + gap)))
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
    """Draw `x, t1(x), t2(x)` for some images, one image a column.

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
