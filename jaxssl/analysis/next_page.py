"""What to label next, as a page with pictures and a table to fill in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jaxssl.analysis.acquisition import By, Proposals
from jaxssl.analysis.drawing import cell_text
from jaxssl.analysis.label_table import safe_path
from jaxssl.analysis.page import FigureFiles, render
from jaxssl.analysis.pictures import Picture
from jaxssl.analysis.tables import Together
from jaxssl.files import write_text

_WAYS = {
    "margin": "The images that a classifier on the labels there are is least sure of: small is the "
    "probability of the likeliest class less that of the second.",
    "coreset": "Each the image farthest from all that have a label or stand before it: odd ones "
    "are among them.",
    "clusters": "The most typical image of each group of look-alikes that has fewest labels, the "
    "largest group first.",
    "random": "Drawn by chance.",
}


def write_proposals(
    folder: str | os.PathLike[str],
    images: Together,
    found: Proposals,
    *,
    by: By,
    guesses: Sequence[tuple[str, float]],
) -> Path:
    """Write `index.html` and `label-next.csv` of the images to label next.

    The CSV has a column `label` to fill in; it is then a table of labels.

    Args:
        folder: Where they go; it must exist.
        images: All images, with the labels there are.
        found: Of `acquisition.propose`.
        by: The way they were chosen.
        guesses: For each proposed image the class that a classifier guesses and its probability;
            ("", 0) for none.

    Returns:
        The page's path.
    """
    out = Path(folder)
    whys = [_why(by, score, images.distance) for score in found.scores.tolist()]
    rows = found.rows.tolist()
    # A table of labels names an image by its id: paths differ between machines.
    columns = ("rank", "path", "label", "guess", "probability", "why", "file")
    table = FigureFiles(out, above=False).table(
        "label-next",
        columns,
        [
            (
                i + 1,
                safe_path(images.ids[row]),
                "",
                guess,
                round(p, 4) if guess else None,
                why,
                file,
            )
            for i, (row, (guess, p), why) in enumerate(zip(rows, guesses, whys, strict=True))
            for file in [images.paths[row]]
        ],
    )
    shown = [
        {"image": _picture(images, row), "why": why, "guess": guess}
        for row, (guess, _), why in zip(rows, guesses, whys, strict=True)
    ]
    labels = Counter(name for name in images.class_names if name)
    page = render(
        "label_next.html.j2",
        total=len(images),
        labelled=sum(labels.values()),
        classes=labels.most_common(),
        by=by,
        way=_WAYS[by],
        proposals=shown,
        file=table,
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _why(by: By, score: float, distance: str) -> str:
    if by == "margin":
        return f"margin {score:.3f}"
    if by == "clusters":
        return f"typical of {score:,.0f}" if score > 1 else "alone in its group"
    if by == "coreset":
        unit = "°" if distance == "angular" else ""
        return (
            f"{cell_text(score)}{unit} from the nearest" if score < float("inf") else "the middle"
        )
    return "by chance"


def _picture(images: Together, row: int) -> Picture:
    return Picture(
        images.ids[row],
        images.sets[row],
        images.paths[row],
        png=images.pictures[row],
        micrometres=images.micrometres[row],
        sides=images.sides[row],
    )
