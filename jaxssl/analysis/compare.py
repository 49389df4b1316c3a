"""Runs side by side: curves, one table, maps, where every number comes from, and two sentences."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis.atlas import coordinates, drawn
from jaxssl.analysis.linked import linked_data
from jaxssl.analysis.methods import Judged, Method, differing, label_rows, protocol, read_methods
from jaxssl.analysis.names import labels_title, listed, set_title
from jaxssl.analysis.page import FigureFiles, render
from jaxssl.analysis.scores import judged_table, markdown_table, seen_table, spreadsheet
from jaxssl.analysis.sections import labels, overview
from jaxssl.analysis.sections.settings import words
from jaxssl.analysis.umap_figure import umap_panels
from jaxssl.analysis.verdict import seen_verdict, verdict
from jaxssl.files import free, write_json, write_text


def write_comparison(
    run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> tuple[Path, list[str]]:
    """Draw `out/index.html` from the runs' `results.json` and tables; compute nothing anew.

    Runs of one study and recipe are one method, with the mean over its seeds. Every figure is on
    the page, and beside it as PNG with its numbers as JSON.

    Args:
        run_dirs: Folders of finished runs that share their protocol, in the order of the page.
        out: The folder of the page, made where it is missing.

    Returns:
        The page's path, and the verdict on each unseen set as the page says it; without unseen
        classes, those on the test images of the seen ones.

    Raises:
        InputError: As `read_methods`.
    """
    methods = read_methods(run_dirs)
    trained = [method for method in methods if method.embedding == "h"]
    baselines = [method.name for method in methods if method.embedding != "h"]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = FigureFiles(folder)
    first = trained[0].runs[0]
    rows = [row for method in methods for row in label_rows(method)]
    sets = list(dict.fromkeys(row.set for row in rows))  # the unseen ones, or "test"
    tables = {name: judged_table(name, rows, methods) for name in sets}
    write_json(folder / "table.json", {"few labels": tables, "seen": (seen := seen_table(methods))})
    every = {labels_title(name): table for name, table in tables.items()} | {"seen classes": seen}
    place = free(folder / "table.md", above=True, say=print)
    write_text(place, "\n".join(map(markdown_table, every, every.values())), note="", above=True)
    verdicts = [verdict(name, rows, [m.name for m in trained], baselines) for name in sets]
    verdicts += [seen_verdict(seen)] if sets in ([], ["test"]) else []
    about = protocol(first.run)
    page = render(
        "compare.html.j2",
        title=f"{listed([method.name for method in trained])} on {first.run.dataset}",
        name=folder.resolve().name,
        protocol={n.replace("_", " "): words(value) or "none" for n, value in about.items()},
        verdicts=verdicts,
        curves=labels.curves(rows, first.results.sets, files),
        tables={
            labels_title(name): (table, files.table(f"table-{name}", *spreadsheet(table)))
            for name, table in tables.items()
        },
        seen=(seen, files.table("table-seen", *spreadsheet(seen))),
        maps=_maps(trained, list(dict.fromkeys(["test", *sets])), files),
        linked=linked_data({m.name: m.runs[0].run.tables["h"] for m in trained}),
        trained=[method.name for method in trained],
        settings=_settings(trained),
        run_count=sum(len(method.runs) for method in trained),
        sources=[_sources(method) for method in trained],
    )
    write_text(folder / "index.html", page)
    return folder / "index.html", verdicts


def _maps(
    trained: Sequence[Method], sets: Sequence[str], files: FigureFiles
) -> list[dict[str, Any]]:
    """Draw for each set the UMAP of every method's first run, side by side."""
    panels: dict[str, dict[str, Any]] = {name: {} for name in sets}
    classes: dict[str, None] = {}
    for method in trained:
        tables = method.runs[0].run.tables["h"]
        classes |= dict.fromkeys(name for table in tables.values() for name in table.class_list)
        shown = {name: table for name, t in tables.items() if len(table := drawn(t))}
        if not shown:
            continue
        # Every method has a plane of its own: centred and scaled, all fill the same axes.
        every = np.concatenate([coordinates(table) for table in shown.values()])
        low, high = every.min(0), every.max(0)
        for name in [name for name in sets if name in shown]:
            xy = (coordinates(shown[name]) - (low + high) / 2) / max((high - low).max(), 1e-9)
            panels[name][method.name] = (xy, shown[name].class_names)
    return [
        {
            "set": set_title(name),
            "figure": files.add(
                f"umap-{name}",
                {
                    method: [
                        {"class": label, "x": x, "y": y}
                        for label, (x, y) in zip(labels, xy.tolist(), strict=True)
                    ]
                    for method, (xy, labels) in maps.items()
                },
                alt=f"UMAP of the {set_title(name)} images by {listed(list(maps))}",
                wide=umap_panels(maps, list(classes), columns=4 if len(maps) == 4 else 3),
                narrow=umap_panels(maps, list(classes), columns=1),
                table=(
                    ("method", "class", "x", "y"),
                    [
                        (method, label, x, y)
                        for method, (xy, labels) in maps.items()
                        for label, (x, y) in zip(labels, xy.tolist(), strict=True)
                    ],
                ),
            ),
        }
        for name, maps in panels.items()
        if maps
    ]


def _settings(trained: Sequence[Method]) -> dict[str, list[str]]:
    """List the settings that are not the same in all methods: name -> a value a method."""
    names = differing([method.recipe for method in trained])
    return {
        name.replace("_", " "): [words(method.recipe.get(name, "–")) for method in trained]
        for name in names
    }


def _sources(method: Method) -> dict[str, Any]:
    """Say where a method's numbers come from: what its runs share, then each run's own."""
    facts = [_facts(one) for one in method.runs]
    common = {n: v for n, v in facts[0].items() if all(other.get(n) == v for other in facts)}
    return {
        "method": method.name,
        "common": common,
        "runs": [
            {
                "name": one.run.folder.resolve().name,
                "own": {name: value for name, value in mine.items() if name not in common},
                "command": one.run.provenance.get("command"),
            }
            for one, mine in zip(method.runs, facts, strict=True)
        ],
    }


def _facts(one: Judged) -> dict[str, Any]:
    return overview.facts(one.run, one.results) | overview.provenance(one.run, one.results)
