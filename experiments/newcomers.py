"""New images on the map of a finished run: what embed and predict draw beside their tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments import tables
from jaxssl import analysis

if TYPE_CHECKING:
    from experiments.finished import Finished
    from jaxssl.analysis import Embeddings
    from jaxssl.analysis.tables import Sets
    from jaxssl.data import ImageSet


def table_of(run: Finished, step: int, images: ImageSet, vectors: np.ndarray) -> Embeddings:
    """Make the table of new images, embedded by a run's checkpoint."""
    about = {"layer": "h", "checkpoint": step, "distance": run.method.distance}
    return tables.table_of(images, "other", vectors, about, pictures=True)


def show(
    run: Finished,
    step: int,
    images: ImageSet,
    vectors: np.ndarray,
    out: Path,
    place: str,
    *,
    predicted: Sequence[str] = (),
) -> Embeddings:
    """Place new images on the run's map, and draw the page of it; without a map, say why.

    Args:
      run: The finished run.
      step: Of the checkpoint that embedded them.
      images: The images.
      vectors: Theirs, h.
      out: The page's folder.
      place: Where the images lie.
      predicted: Their classes as predicted, "" for unassigned; () for no prediction.

    Returns:
      Their table, with the places and the nearest images of the run where it has a map.
    """
    table = table_of(run, step, images, vectors)
    if predicted:
        table = dataclasses.replace(table, extra={"predicted": np.array(predicted, object)})
    known = _map_of(run, step)
    if isinstance(known, str):
        print(f"no map of the new images: {known}")
        return table
    table = analysis.with_places(known, table)
    about = {
        "images": place,
        "run": str(run.folder.resolve()),
        "pretrained on": run.images.data_dir or run.images.dataset,
        "layer": f"h of step {step}",
    }
    title = f"New images on the map of {run.title}"
    name = run.folder.resolve().name
    page = analysis.write_newcomers(out, known, table, title=title, run_name=name, about=about)
    print(f"map: {page}")
    return table


def _map_of(run: Finished, step: int) -> Sets | str:
    """Read the run's tables with their map; or say in a sentence why there is none."""
    if not any((run.folder / "embeddings").glob("*.parquet")):
        return "the run has no tables yet: let it end"
    known = analysis.read_tables(run.folder, embeddings=["h"])["h"]
    at = {str(table.metadata.get("checkpoint")) for table in known.values()}
    if at != {str(step)}:
        return f"the run's map is of step {', '.join(sorted(at))}, and these are of step {step}"
    if not any("x_umap" in table.extra for table in known.values()):
        return "the run's tables have none: the program report draws it"
    return known
