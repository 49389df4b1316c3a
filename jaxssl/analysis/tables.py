"""The embedding tables of a run: in memory by embedding and set, on disk one file each."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxssl.analysis.embeddings import Embeddings, load, save
from jaxssl.errors import InputError

# Set ("train", "val", "test", "unseen", "unseen-NAME") -> table.
Sets = Mapping[str, Embeddings]
# Embedding ("h", "last", "best", "untrained", "raw_pixels", "imagenet") -> set -> table.
Tables = Mapping[str, Sets]

# The folder of each embedding below embeddings/: h of the checkpoint that is judged, h of the other
# one, and the baselines.
FOLDERS = {
    "h": ".",
    "last": "last",
    "best": "best",
    "untrained": "untrained",
    "raw_pixels": "raw_pixels",
    "imagenet": "imagenet",
}
_SETS = ("train", "val", "test", "unseen")


def save_tables(run_dir: str | os.PathLike[str], tables: Tables) -> None:
    """Write each table to `embeddings/` of a run folder, whole or not at all.

    Args:
        run_dir: The run folder.
        tables: What to write; a table that is there and not among them stays.

    Raises:
        ValueError: An embedding that has no folder.
    """
    for embedding, sets in tables.items():
        if embedding not in FOLDERS:
            raise ValueError(f"embedding is {embedding!r}, not one of {', '.join(FOLDERS)}")
        for name, table in sets.items():
            save(Path(run_dir) / "embeddings" / FOLDERS[embedding] / f"{name}.parquet", table)


def read_tables(
    run_dir: str | os.PathLike[str], *, embeddings: Collection[str] = tuple(FOLDERS)
) -> dict[str, dict[str, Embeddings]]:
    """Read the tables of a run folder.

    Args:
        run_dir: The run folder.
        embeddings: Those to read; "h" is always demanded.

    Returns:
        The tables, h first; an embedding of which there is none is left out.

    Raises:
        InputError: There is no folder, or no table of h, or one cannot be read.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder; give the folder of a finished run")
    wanted = {name: sub for name, sub in FOLDERS.items() if name in embeddings or name == "h"}
    found = {name: _read_sets(folder / "embeddings" / sub) for name, sub in wanted.items()}
    if not found["h"]:
        raise InputError(f"{folder}: no embeddings/*.parquet; finish the run, or embed it again")
    return {name: sets for name, sets in found.items() if sets}


def _read_sets(folder: Path) -> dict[str, Embeddings]:
    found = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    wanted = [*_SETS, *(name for name in found if name.startswith("unseen-"))]
    return {name: load(found[name]) for name in wanted if name in found}


def judged(tables: Tables) -> list[tuple[str, str, Embeddings]]:
    """List (set, embedding, table) of every set that is judged, h first.

    Args:
        tables: Embedding -> set -> table; a baseline's set counts where h has it too.
    """
    return [
        (name, embedding, table)
        for embedding, sets in sorted(tables.items(), key=lambda item: item[0] != "h")
        for name, table in sets.items()
        if name in tables["h"] and name not in ("train", "val")
    ]


def with_map(tables: Tables, *, limit: int = 2500, seed: int = 0) -> Tables:
    """Add each image's place on a map: UMAP of h, all sets but "val" in one plane.

    Args:
        tables: Embedding -> set -> table; "h" is demanded.
        limit: Most images of a set on the map.
        seed: Of the draw and of UMAP.

    Returns:
        The same, h's tables with columns `x_umap` and `y_umap`, NaN where an image was not drawn.
        Nothing is written.

    Raises:
        InputError: Fewer than 5 images in all.
    """
    from jaxssl.analysis.projection import umap_together

    h = dict(tables["h"])
    places = umap_together(
        {name: table for name, table in h.items() if name != "val"}, limit=limit, seed=seed
    )
    for name, (rows, xy) in places.items():
        everywhere = np.full((2, len(h[name])), np.nan, np.float32)
        everywhere[:, rows] = xy.T
        columns = dict(zip(("x_umap", "y_umap"), everywhere, strict=True))
        h[name] = replace(h[name], extra={**h[name].extra, **columns})
    return {**tables, "h": h}
