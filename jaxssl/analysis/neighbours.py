"""Random test images beside the training images that their embedding puts nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from jaxssl.analysis.atlas import data_uri
from jaxssl.analysis.drawing import INK, STYLE, short
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.page import FigureFiles

ASKED, NEAREST = 10, 5
OTHER_CLASS = "#b3261e"
_SIDE = 64


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Test images, and the nearest training images of each.

    Args:
        asked: Pictures uint8 `[n, h, w, c]`.
        names: Their classes.
        ids: Their names.
        nearest: Pictures uint8 `[n, 5, h, w, c]`, nearest first.
        nearest_names: Their classes.
        nearest_ids: Their names.
        angles: In degrees, `[n, 5]`.
    """

    asked: np.ndarray
    names: list[str]
    ids: list[str]
    nearest: np.ndarray
    nearest_names: list[list[str]]
    nearest_ids: list[list[str]]
    angles: np.ndarray

    def record(self) -> list[dict[str, Any]]:
        """Return what JSON can hold: a test image a row."""
        return [
            {
                "id": self.ids[i],
                "class": name,
                "nearest": [
                    {"id": row_id, "class": label, "degrees": float(angle)}
                    for row_id, label, angle in zip(
                        self.nearest_ids[i], self.nearest_names[i], self.angles[i], strict=True
                    )
                ],
            }
            for i, name in enumerate(self.names)
        ]

    def section(self, files: FigureFiles) -> dict[str, Any]:
        """Return what the page shows, the figure and its numbers written."""
        right = sum(
            label == name
            for name, found in zip(self.names, self.nearest_names, strict=True)
            for label in found
        )
        figure = files.add(
            "neighbours",
            self.record(),
            alt=f"{len(self.names)} test images, each with its {self.nearest.shape[1]} nearest "
            f"training images; {right} of {self.angles.size} are of its class",
            wide=neighbour_sheet(self),
            table=(
                ("id", "class", "nearest", "its class", "degrees"),
                [
                    (one["id"], one["class"], *near.values())
                    for one in self.record()
                    for near in one["nearest"]
                ],
            ),
        )
        rows = [
            {
                "asked": row | {"source": _source(self.asked[i])},
                "nearest": [
                    near | {"source": _source(self.nearest[i, j])}
                    for j, near in enumerate(row["nearest"])
                ],
            }
            for i, row in enumerate(self.record())
        ]
        return {"figure": figure, "rows": rows, "right": right, "of": self.angles.size}


def find(queries: np.ndarray, bank: np.ndarray, *, test: Any, train: Any, seed: int) -> Neighbours:
    """Draw test images, and find the training images nearest to each by angle.

    Args:
        queries: Embeddings of the test images, `[m, d]`.
        bank: Of the training images, `[n, d]`.
        test: The m images, a `jaxssl.data.ImageSet`.
        train: The n images.
        seed: Of the draw.

    Returns:
        Ten test images, or all where there are fewer, in random order.
    """
    rows = np.random.default_rng(seed).permutation(len(queries))[:ASKED]
    nearest, angles = nearest_neighbours(queries[rows], bank, count=NEAREST, metric="angular")

    def classes(images: Any, rows: np.ndarray) -> list[str]:
        return [images.class_names[images.labels[row]] for row in rows]

    return Neighbours(
        asked=test.batch(rows)["image"],
        names=classes(test, rows),
        ids=[test.ids[row] for row in rows],
        nearest=np.stack([train.batch(near)["image"] for near in nearest]),
        nearest_names=[classes(train, near) for near in nearest],
        nearest_ids=[[train.ids[row] for row in near] for near in nearest],
        angles=angles,
    )


@matplotlib.rc_context(STYLE)
def neighbour_sheet(found: Neighbours) -> Figure:
    """Draw a test image a row, then its nearest; under each its class, another one in red."""
    rows, columns = found.nearest.shape[:2]
    figure = Figure(figsize=(1.15 * (columns + 1), 1.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns + 1, squeeze=False)
    for i, name in enumerate(found.names):
        pictures = [found.asked[i], *found.nearest[i]]
        for ax, picture, label in zip(
            axes[i], pictures, [name, *found.nearest_names[i]], strict=True
        ):
            ax.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)))
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
            color = INK if label == name else OTHER_CLASS
            ax.set_xlabel(short(label, 18), color=color, fontsize=8, labelpad=2)
    axes[0, 0].set_title("test image", fontsize=8)
    axes[0, 1].set_title("nearest", fontsize=8)
    return figure


def _source(picture: np.ndarray) -> str:
    image = Image.fromarray(picture.squeeze()).convert("RGB")
    return data_uri(ImageOps.contain(image, (_SIDE, _SIDE)), quality=80)
