"""The embedding tables of a run: in memory by embedding and set, on disk one file each."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis.distances import Metric
from jaxssl.analysis.embeddings import Embeddings, load, save
from jaxssl.errors import InputError, visible
from jaxssl.files import read_record

# Set ("train", "val", "test", "unseen", "unseen-NAME") -> table.
Sets = Mapping[str, Embeddings]
# Embedding, a name of FOLDERS -> set -> table.
Tables = Mapping[str, Sets]

# The folder of each embedding below embeddings/: h of the checkpoint that is judged, h of the other
# one, and the baselines.
FOLDERS = {
    "h": ".",
    "last": "last",
    "best": "best",
    "untrained": "untrained",
    "start": "start",
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
        ValueError: An embedding that has no folder, or a set whose name no file can have.
    """
    for embedding, sets in tables.items():
        if embedding not in FOLDERS:
            raise ValueError(f"embedding is {embedding!r}, not one of {', '.join(FOLDERS)}")
        for name, table in sets.items():
            if {"/", "\\"} & set(name) or visible(name) != name:
                raise ValueError(f"the set {name!r} cannot be the name of a file")
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
        raise InputError(f"{folder}: no embeddings/*.parquet; finish the run: {_how(folder)}")
    return {name: sets for name, sets in found.items() if sets}


def _how(folder: Path) -> str:
    """Say how a run is finished: its record has the command that goes on."""
    there = (folder / "config.json").is_file()
    command = read_record(folder).get("go_on") if there else None
    if isinstance(command, str) and command:
        return command
    return "the command that began it, with this run folder, goes on"


def _read_sets(folder: Path) -> dict[str, Embeddings]:
    found = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    wanted = [*_SETS, *(name for name in found if name.startswith("unseen-"))]
    return {name: load(found[name]) for name in wanted if name in found}


def judged(tables: Tables) -> list[tuple[str, str, Embeddings]]:
    """List (set, embedding, labelled rows) of every set that is judged, h first.

    Args:
        tables: Embedding -> set -> table; a baseline's set counts where h has it too, and no set
            without a label.
    """
    return [
        (name, embedding, table.labelled)
        for embedding, sets in sorted(tables.items(), key=lambda item: item[0] != "h")
        for name, table in sets.items()
        if name in tables["h"] and name not in ("train", "val") and (table.class_index >= 0).any()
    ]


def with_curves(tables: Tables) -> list[tuple[str, str, Embeddings]]:
    """List (set, embedding, rows) of what label efficiency is measured on, h first.

    The unseen sets; where there is none, the held-out test images of the seen classes. Of both the
    classes of two images or more, if there are two: a draw needs an image to learn from and one to
    be tested on.
    """
    unseen = any(name.startswith("unseen") and len(table) for name, table in tables["h"].items())
    found = []
    for name, embedding, table in judged(tables):
        if name.startswith("unseen") if unseen else name == "test":
            counts = np.bincount(table.labels)
            if (counts > 1).sum() > 1:
                rows = table if (counts > 1).all() else table.select(counts[table.labels] > 1)
                found.append((name, embedding, rows))
    return found


@dataclass(frozen=True, eq=False)
class Together:
    """All images of a run as one table, whatever their set; a class is its name.

    Args:
        vectors: `[n, d]`.
        ids: n names.
        paths: n file paths, "" where there is none.
        class_names: n classes, "" for no label.
        sets: n names of sets.
        pictures: n PNGs, b"" for none.
        distance: That of the embedding.
        micrometres: n, how many each picture is wide, 0 where that is not known; () for none.
        sides: n, height and width of each file, (0, 0) where that is not known; () for none.
    """

    vectors: np.ndarray
    ids: tuple[str, ...]
    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    sets: tuple[str, ...]
    pictures: tuple[bytes, ...]
    distance: Metric
    micrometres: tuple[float, ...] = ()
    sides: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name, unknown in (("micrometres", 0.0), ("sides", (0, 0))):
            object.__setattr__(self, name, getattr(self, name) or (unknown,) * len(self))

    def __len__(self) -> int:
        return len(self.ids)


def together(sets: Sets) -> Together:
    """Put all sets of an embedding into one table, in their order.

    An image that is in two of them (without labels, what validates is learnt from too) stands in
    the first alone.
    """
    every, seen = list(sets.values()), set[str]()
    kept = []  # of each set, its rows that no set before has
    for table in every:
        kept.append([row for row, name in enumerate(table.ids) if name not in seen])
        seen.update(table.ids)

    def column(name: str) -> tuple[Any, ...]:
        columns = [getattr(table, name) for table in every]
        return tuple(
            values[row] for values, rows in zip(columns, kept, strict=True) for row in rows
        )

    return Together(
        vectors=np.concatenate(
            [table.vectors[rows] for table, rows in zip(every, kept, strict=True)]
        ),
        ids=column("ids"),
        paths=column("paths"),
        class_names=column("class_names"),
        sets=tuple(name for name, rows in zip(sets, kept, strict=True) for _ in rows),
        pictures=column("thumbnails"),
        distance=every[0].distance,
        micrometres=column("micrometres"),
        sides=column("sides"),
    )


def with_pixel_size(sets: Sets, micrometres: float | None) -> Sets:
    """Say how many micrometres a pixel of the files shows, whatever the tables say; None: as is."""
    if micrometres is None:
        return sets
    told = {name: np.full(len(table), micrometres, np.float32) for name, table in sets.items()}
    return {
        name: replace(table, extra={**table.extra, "pixel_size": told[name]})
        for name, table in sets.items()
    }


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
