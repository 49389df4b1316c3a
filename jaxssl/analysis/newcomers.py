"""New images on a finished run's map: one page that opens from disk."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis.atlas import coordinates, drawn, map_data
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.names import NO_LABEL, set_title
from jaxssl.analysis.page import FigureFiles, fragment, render
from jaxssl.analysis.pictures import Pictures
from jaxssl.analysis.placing import NEIGHBOURS, place, unlike
from jaxssl.analysis.tables import Sets
from jaxssl.analysis.umap_figure import umap_panels
from jaxssl.files import write_text

MOST = 10_000  # new images with a picture on the page
_LISTED = 24  # images whose neighbours stand on the page, of each list
_NEAREST = 5
_HOW = (
    f"Each new image lies at the mean place of its {NEIGHBOURS} nearest images of the run's map, "
    "weighted by nearness. The map is not fitted again, so that it is the report's, and UMAP's own "
    "transform would need the fitted object, which a run folder does not keep. So no new image can "
    "lie off the map: one unlike all that the run knows still lies among its nearest."
)


def with_places(known: Sets, new: Embeddings) -> Embeddings:
    """Add to new images their place on the map, and the nearest labelled image of the run.

    Args:
        known: The run's tables, with the columns of `with_map`; where no set has a place, new
            images get none.
        new: Their embeddings, of the same layer and checkpoint.

    Returns:
        `new` with `x_umap`, `y_umap` (beyond the first `MOST` images, evenly drawn, not a number),
        and where the run has labels `nearest`, `nearest_class`, `nearest_distance`.
    """
    extra = dict(new.extra)
    shown = [table for table in map(drawn, known.values()) if len(table)]
    if shown:
        rows = np.unique(np.linspace(0, len(new) - 1, min(len(new), MOST)).round().astype(int))
        xy = np.full((len(new), 2), np.nan)
        bank = np.concatenate([table.vectors for table in shown])
        places = np.concatenate([coordinates(table) for table in shown])
        xy[rows] = place(new.vectors[rows], bank, places)
        extra |= {"x_umap": xy[:, 0].astype(np.float32), "y_umap": xy[:, 1].astype(np.float32)}
    labelled = _labelled(known)
    if labelled is not None:
        near, far = nearest_neighbours(
            new.vectors, labelled.vectors, count=1, metric=labelled.distance
        )
        extra["nearest"] = np.array([labelled.ids[i] for i in near[:, 0]], object)
        extra["nearest_class"] = np.array([labelled.class_names[i] for i in near[:, 0]], object)
        extra["nearest_distance"] = far[:, 0].astype(np.float32)
    return replace(new, extra=extra)


def write_newcomers(
    folder: str | os.PathLike[str],
    known: Sets,
    new: Embeddings,
    *,
    title: str,
    run_name: str,
    about: Mapping[str, str],
) -> Path:
    """Draw `index.html`: the run's images grey, the new ones above them, and their neighbours.

    Args:
        folder: Where; made where it is missing.
        known: The run's tables, at least one with places.
        new: Of `with_places`; with a column `predicted` they are coloured by it, else by their
            labels.
        title: Of the page.
        run_name: Of the run.
        about: What stands beside: name -> words.

    Returns:
        The page's path.

    Raises:
        ValueError: No image of the run has a place.
    """
    shown = {set_title(name): t for name, t in known.items() if len(drawn(t))}
    if not shown:
        raise ValueError("the run's tables have no map: no x_umap")
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    files = FigureFiles(out)
    metric = next(iter(shown.values())).distance
    bank = np.concatenate([drawn(table).vectors for table in shown.values()])
    far, usual = unlike(new.vectors, bank, metric=metric)
    page = render(
        "newcomers.html.j2",
        title=title,
        run_name=run_name,
        new=len(new),
        drawn=len(drawn(new)),
        known=sum(map(len, known.values())),
        unlike=int((far > usual).sum()),
        usual=usual,
        unit="°" if metric == "angular" else "",
        about=about,
        map=_map(shown, new, files),
        lists=_lists(_labelled(known), new, far),
        sheets=files.sheets,
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _labelled(known: Sets) -> Embeddings | None:
    """Join the run's labelled images; None where there is none."""
    tables = [t.select(t.class_index >= 0) for t in known.values()]
    tables = [table for table in tables if len(table)]
    if not tables:
        return None
    names = [name for table in tables for name in table.class_names]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    # A class has another number in another set.
    return Embeddings(
        vectors=np.concatenate([table.vectors for table in tables]),
        ids=[id_ for table in tables for id_ in table.ids],  # type: ignore[arg-type]
        paths=[path for table in tables for path in table.paths],  # type: ignore[arg-type]
        class_names=names,  # type: ignore[arg-type]
        class_index=np.array([index[name] for name in names]),
        split=[split for table in tables for split in table.split],  # type: ignore[arg-type]
        thumbnails=[picture for table in tables for picture in table.thumbnails],
        extra=_scale(tables),
        metadata=tables[0].metadata,
    )


def _scale(tables: Sequence[Embeddings]) -> dict[str, np.ndarray]:
    """Join the columns that say how large pictures are, where all tables have them."""
    return {
        name: np.concatenate([table.extra[name] for table in tables])
        for name in ("height", "width", "pixel_size")
        if all(name in table.extra for table in tables)
    }


def _map(shown: Sets, new: Embeddings, files: FigureFiles) -> Any:
    """Draw the two layers side by side, and pack the data of the interactive map."""
    guessed = "predicted" in new.extra
    said = [str(g) for g in new.extra["predicted"]] if guessed else list(new.class_names)
    classes = list(dict.fromkeys(name for t in shown.values() for name in t.class_list))
    classes += [name for name in dict.fromkeys((*said, *new.class_list)) if name not in classes]
    classes = [name for name in classes if name]
    there = _is_placed(new)
    known = [drawn(table) for table in shown.values()]
    run = np.concatenate([coordinates(table) for table in known])
    names = [name for table in known for name in table.class_names]
    of_new = [name for name, placed in zip(said, there, strict=True) if placed]
    panels = {
        "the run": (run, names),
        "new, as predicted" if guessed else "new": (coordinates(drawn(new)), of_new),
    }
    places = coordinates(drawn(new)).tolist()
    rows = [(i, n, x, y) for i, n, (x, y) in zip(drawn(new).ids, of_new, places, strict=True)]
    figure = files.add(
        "map",
        [{"id": id_, "class": name, "x": x, "y": y} for id_, name, x, y in rows],
        alt=f"{len(run):,} images of the run, and {len(of_new):,} new ones on the same map",
        wide=umap_panels(panels, classes),
        narrow=umap_panels(panels, classes, columns=1),
        table=(("id", "class", "x", "y"), rows),
    )
    data = map_data({**shown, "new": new}, classes, metric=known[0].distance)
    files.sheets += data.pop("sheets")
    place_of = {name: k for k, name in enumerate([*classes, ""], start=1)}
    group = np.concatenate([np.zeros(len(run)), [place_of[name] for name in of_new]])
    data["layer"] = {
        "name": "new images",
        "names": ["the run", *classes, f"new, {NO_LABEL}"],
        "group": base64.b64encode(group.astype("<u2").tobytes()).decode(),
    }
    return fragment(
        "maps.html.j2",
        figure=figure,
        caption=_HOW,
        data=data,
        sample="The run's images are grey; colour by class shows theirs.",
        whole=data["whole"],
    )


def _is_placed(table: Embeddings) -> np.ndarray:
    return np.isfinite(table.extra["x_umap"])


def _lists(
    labelled: Embeddings | None, new: Embeddings, far: np.ndarray
) -> Mapping[str, list[dict[str, Any]]]:
    """List the farthest new images, and a sample, each with its nearest labelled ones."""
    if labelled is None:
        return {}
    order = np.argsort(-far, kind="stable")
    rest = order[_LISTED:]
    sample = np.unique(np.linspace(0, max(len(rest) - 1, 0), min(len(rest), _LISTED)).astype(int))
    parts = {
        "Farthest from all that the run knows": order[:_LISTED],
        "Others, from far to near": rest[sample] if len(rest) else rest,
    }
    return {name: _rows(labelled, new, rows) for name, rows in parts.items() if len(rows)}


def _rows(labelled: Embeddings, new: Embeddings, rows: np.ndarray) -> list[dict[str, Any]]:
    near, distances = nearest_neighbours(
        new.vectors[rows], labelled.vectors, count=_NEAREST, metric=labelled.distance
    )
    guesses = new.extra.get("predicted")
    mine, theirs = Pictures({"new": new}), Pictures({"the run": labelled})
    return [
        {
            "image": mine[new.ids[row]],
            "predicted": "" if guesses is None else str(guesses[row]),
            "nearest": [
                {"image": theirs[labelled.ids[j]], "distance": float(distance)}
                for j, distance in zip(found, row_distances, strict=True)
            ],
        }
        for row, found, row_distances in zip(rows, near, distances, strict=True)
    ]
