"""Which images to label next, by a finished run's embedding: a page, a CSV and an EcoTaxa file.

`python -m experiments.label_next runs/simclr-... --number 100`

With no labels yet the most typical image of each group of look-alikes; with labels of two classes
or more those between two classes. Of other images than the run's own: `--data-dir NEW`. Fill in the
CSV's column "label", or label in the browser with `jaxssl label`; both are read the next time. A
table that you changed is kept: the next proposals go to `round-2` beside it, and so on.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from typing import Literal

import numpy as np
import tyro

from experiments import cli, labelling
from experiments.config import AtLeast0, AtLeast1, check_ranges
from experiments.labelling import Labelling
from jaxssl import analysis
from jaxssl import data as images_room
from jaxssl.analysis import acquisition
from jaxssl.errors import InputError


@dataclasses.dataclass(frozen=True)
class LabelNext(Labelling):
    """The flags of proposing."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a finished run."""
    number: AtLeast1[int] = 100
    """Images to propose."""
    by: Literal["auto", "margin", "coreset", "clusters", "random"] = "auto"
    """margin: between two classes for a classifier on h; clusters: typical of a group without
    labels; coreset: far from all labelled; random: to compare. auto: margin where two classes have
    labels, else clusters."""
    out: str = ""
    """The folder of page and tables. Default: RUN/label-next; of what was filled in in there, the
    next round has a folder of its own in it."""
    seed: AtLeast0[int] = 0
    """Of chance and of k-means."""


def main(config: LabelNext) -> None:
    """Read, choose, write."""
    check_ranges(config)
    pool = labelling.open_pool(config, config.run_dir, out=config.out)
    names, labels = pool.numbered()
    free = int((labels < 0).sum())
    if not free:
        raise InputError(
            f"each of the {len(labels):,} images has a label: name others with --data-dir, or give "
            "--labels-from a table, or none, for the labels that count"
        )
    by = acquisition.default_way(labels) if config.by == "auto" else config.by
    if by == "margin" and len(np.unique(labels[labels >= 0])) < 2:
        raise InputError(
            "--by margin needs labels of two classes or more: give --labels-from a table, or "
            "choose --by clusters"
        )
    images = pool.images
    found = analysis.propose(
        images.vectors, labels, config.number, by=by, metric=images.distance, seed=config.seed
    )
    guesses: list[tuple[str, float]] = [("", 0.0)] * len(found.rows)
    if len(np.unique(labels[labels >= 0])) > 1:
        told = sorted(set(labels[labels >= 0].tolist()))
        p = acquisition.class_probabilities(images.vectors, labels)[found.rows]
        guesses = [
            (names[told[best]], float(min(one[best], 1.0)))
            for one, best in zip(p, p.argmax(1), strict=True)
        ]
    out = labelling.next_round(pool.folder)
    out.mkdir(parents=True, exist_ok=True)
    page = analysis.write_proposals(out, images, found, by=by, guesses=guesses)
    rows = [
        images_room.Prediction(
            id=images.ids[row],
            label=guess,
            score=score,
            path=images.paths[row],
            object_id=pool.object_ids.get(images.ids[row], ""),
        )
        for row, (guess, score) in zip(found.rows.tolist(), guesses, strict=True)
    ]
    # Without a guess the score is 0: the object comes without a class.
    least = math.nextafter(0, 1)
    table, ecotaxa = (out / name for name in labelling.TABLES)
    images_room.write_predictions(ecotaxa, rows, min_score=least, note="")
    labelled = (
        f"{len(labels) - free:,} have one of {len(names)} classes" if names else "none has one"
    )
    print(f"{len(found.rows):,} of {free:,} images without a label, by {by}; {labelled}")
    if len(found.rows) < min(config.number, free):
        print("no more: the others are nearly the same as these or as one with a label")
    print(f"table: {table} (fill in its column label: the next round reads it)")
    print(f"EcoTaxa: {ecotaxa}")
    only = shlex.quote(str(table))
    run = shlex.quote(config.run_dir)
    print(f"label them: jaxssl label {run}{config.again()} --only {only}")
    print(f"page: {page}")


if __name__ == "__main__":
    cli.run(main, {"label-next": LabelNext()})
