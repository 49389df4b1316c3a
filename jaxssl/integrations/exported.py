"""What every export gives back, and what several of them read of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.run import Run
from jaxssl.analysis.tables import together
from jaxssl.errors import visible

# Columns of a table that go along where a set has them.
_TEXTS, _NUMBERS = ("predicted",), ("x_umap", "y_umap", "score")
# Where files lie on the machine that trained: a tracker's page is handed on, a run folder is not.
_PRIVATE = ("data_dir", "run_dir", "labels_from", "image_root", "pretrained", "config")


class Exported(NamedTuple):
    """What was written, and how to open it.

    Attributes:
      what: In words, for a line.
      path: Where.
      opened_by: A command of a shell, or a line of Python.
    """

    what: str
    path: Path
    opened_by: str


def all_images(run: Run) -> Embeddings:
    """Put the sets of h into one table, each image once, with its place on the map.

    Args:
      run: A finished run.

    Returns:
      A table whose `split` names the set; classes are numbered in the order of their names.
    """
    sets = run.tables["h"]
    every = together(sets)
    classes = sorted({name for name in every.class_names if name})
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    row_of = {(name, id_): row for name, t in sets.items() for row, id_ in enumerate(t.ids)}
    rows = [row_of[key] for key in zip(every.sets, every.ids, strict=True)]

    def column(name: str, missing: Any) -> np.ndarray:
        values = [
            sets[of].extra[name][row] if name in sets[of].extra else missing
            for of, row in zip(every.sets, rows, strict=True)
        ]
        return np.array(values, object if isinstance(missing, str) else np.float32)

    known = {name for table in sets.values() for name in table.extra}
    extra = {name: column(name, "") for name in _TEXTS if name in known}
    extra |= {name: column(name, np.nan) for name in _NUMBERS if name in known}
    return Embeddings(
        vectors=every.vectors,
        ids=every.ids,
        paths=every.paths,
        class_names=every.class_names,
        class_index=np.array([number[name] for name in every.class_names]),
        split=every.sets,
        thumbnails=list(every.pictures),
        extra=extra,
        metadata={"distance": every.distance},
    )


def curves(run: Run) -> list[tuple[int, dict[str, float]]]:
    """List (step, {"train/loss": ...}) of a run's metrics, in their order."""
    return [
        (
            row["step"],
            {
                f"{row['split']}/{name}": float(value)
                for name, value in row.items()
                if name not in ("step", "split", "time") and value is not None
            },
        )
        for row in run.metrics
    ]


def settings(run: Run) -> dict[str, Any]:
    """Return the settings and what stands beside them, without the paths of this machine."""
    kept = {name: value for name, value in run.settings.items() if name not in _PRIVATE}
    about = {name: run.provenance.get(name) for name in ("commit", "devices", "machine")}
    about |= {
        "study": run.study,
        "dataset": run.dataset,
        "versions": run.provenance.get("versions"),
    }
    return kept | {name: value for name, value in about.items() if value}


def numbers(run: Run) -> dict[str, float]:
    """Return the final numbers by a name of their own: accuracies, and each curve's points.

    Example:
      "svc/unseen/h/100" is the balanced accuracy of an SVC on h of the unseen classes, with 100
      labels, the mean of its draws.
    """
    if run.results is None:
        return {}
    found = {
        f"{row.classifier}/{row.set}/{row.embedding}/{row.labels}": row.mean
        for row in run.results.label_efficiency
    }
    found |= {
        f"training/{name}": float(value)
        for name, value in run.results.training.items()
        if isinstance(value, int | float)
    }
    if run.results.classification is not None:
        found |= {
            f"top-{guesses}": share for guesses, share in run.results.classification.top.items()
        }
    return found


def clean(text: object) -> str:
    """Return one line without tabs, for tables that have no quotes."""
    return visible(str(text)).replace("\t", " ").replace("\n", " ")
