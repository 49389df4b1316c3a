"""New images on the map of a finished run: what embed and predict draw beside their tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import tables
from jaxssl import analysis

if TYPE_CHECKING:
    from experiments.finished import Finished
    from jaxssl.analysis import Embeddings
    from jaxssl.analysis.tables import Sets
    from jaxssl.data import ImageSet


def table_of(
    run: Finished, about: Mapping[str, int], images: ImageSet, vectors: np.ndarray
) -> Embeddings:
    """Make the table of new images, embedded by a run's "checkpoint" over so many "views"."""
    known: dict[str, Any] = {"layer": "h", **about, "distance": run.method.distance}
    return tables.table_of(images, "other", vectors, known, pictures=True)


def show(
    run: Finished,
    about: Mapping[str, int],
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
      about: The "checkpoint" that embedded them, over how many "views" of each.
      images: The images.
      vectors: Theirs, h.
      out: The page's folder.
      place: Where the images lie.
      predicted: Their classes as predicted, "" for unassigned; () for no prediction.

    Returns:
      Their table, with the places and the nearest images of the run where it has a map.
    """
    table = table_of(run, about, images, vectors)
    if predicted:
        guesses = {"predicted": np.array(predicted, object)}
        table = dataclasses.replace(table, extra=table.extra | guesses)
    known = _map_of(run, about)
    if isinstance(known, str):
        print(f"no map of the new images: {known}")
        return table
    table = analysis.with_places(known, table)
    facts = {
        "images": place,
        "run": str(run.folder.resolve()),
        "pretrained on": run.images.data_dir or run.images.dataset,
        "layer": f"h of step {about['checkpoint']}",
    }
    title = f"New images on the map of {run.title}"
    name = run.folder.resolve().name
    page = analysis.write_newcomers(out, known, table, title=title, run_name=name, about=facts)
    print(f"map: {page}")
    return table


def _map_of(run: Finished, about: Mapping[str, int]) -> Sets | str:
    """Read the run's tables with their map; or say in a sentence why there is none."""
    if not any((run.folder / "embeddings").glob("*.parquet")):
        return "the run has no tables yet: let it end"
    known = analysis.read_tables(run.folder, embeddings=["h"])["h"]
    for what, without in (("checkpoint", ""), ("views", "1")):
        theirs = {str(table.metadata.get(what) or without) for table in known.values()}
        if theirs != {str(about[what])}:
            listed = ", ".join(sorted(theirs))
            return f"the run's map is of {what} {listed}, and these are of {what} {about[what]}"
    if not any("x_umap" in table.extra for table in known.values()):
        return "the run's tables have none: the program report draws it"
    return known
