"""Runs side by side: curves, one table, maps, where every number comes from, and two sentences."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis import sections
from jaxssl.analysis.atlas import coordinates, drawn
from jaxssl.analysis.methods import (
    PROTOCOL,
    Method,
    differing,
    label_rows,
    read_methods,
    score,
)
from jaxssl.analysis.page import FigureFiles, percent, render
from jaxssl.analysis.report import overview
from jaxssl.analysis.sections import Section, set_title
from jaxssl.analysis.umap_figure import umap_panels
from jaxssl.analysis.verdict import listed, seen_verdict, verdict
from jaxssl.files import write_json, write_text

Row = Mapping[str, Any]

TABLE_LABELS = (30, 90, 100, 300, 1000)
_MEASURES: dict[str, Callable[[Row, str, str], Any]] = {
    "separation": lambda results, s, e: results["separation"][s][e]["angular"],
    "P@1": lambda results, s, e: results["retrieval"][s][e]["precision_at_1"],
    "R-precision": lambda results, s, e: results["retrieval"][s][e]["r_precision"],
    "MAP@R": lambda results, s, e: results["retrieval"][s][e]["map_at_r"],
    "NMI": lambda results, s, e: results["nmi"][s][e],
    "silhouette": lambda results, s, e: results["silhouette"][s][e],
}

# On the seen classes' test images; a KeyError where there is none.
_ACCURACIES: dict[str, Callable[[Row, str], Any]] = {
    "kNN, %": lambda results, e: {"h": results["knn_accuracy"]}[e],
    "linear evaluation, %": lambda results, e: results["linear_eval"][e],
    "own classifier, %": lambda results, e: {"h": results["classification"]["accuracy"]}[e],
}
_BOUNDS = {"separation": (0.0, math.inf), "silhouette": (-1.0, 1.0)}


def write_comparison(
    run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> tuple[Path, list[str]]:
    """Draws `out/index.html` from the runs' `results.json` and tables; computes nothing anew.

    Runs that differ in their seed alone are one method, with the mean over its seeds. Every figure
    is on the page, and beside it as PNG with its numbers as JSON.

    Args:
        run_dirs: Folders of finished runs that share their protocol, in the order of the page.
        out: The folder of the page, made where it is missing.

    Returns:
        The page's path, and the verdict on each unseen set as the page says it; without unseen
        classes, that on the test images of the seen ones.

    Raises:
        InputError: As `read_methods`.
    """
    methods = read_methods(run_dirs)
    trained = [method for method in methods if method.embedding == "h"]
    baselines = [method.name for method in methods if method.embedding != "h"]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = FigureFiles(folder)
    first = next(iter(trained[0].runs.values()))
    rows = [row for method in methods for row in label_rows(method)]
    unseen = list(dict.fromkeys(row["set"] for row in rows))
    tables = {name: _judged_table(name, rows, methods) for name in unseen}
    write_json(folder / "table.json", {"unseen": tables, "seen": (seen := _seen_table(methods))})
    every = {set_title(name): table for name, table in tables.items()} | {"seen classes": seen}
    write_text(folder / "table.md", "\n".join(map(markdown_table, every, every.values())))
    verdicts = [verdict(name, rows, [m.name for m in trained], baselines) for name in unseen]
    verdicts += [] if unseen else [seen_verdict(seen)]
    page = render(
        "compare.html.j2",
        title=f"{listed([method.name for method in trained])} on {first.settings.get('dataset')}",
        name=folder.resolve().name,
        protocol={n.replace("_", " "): _words(first.settings.get(n)) for n in PROTOCOL},
        verdicts=verdicts,
        curves=sections.curves({"label_efficiency": rows, "sets": first.results["sets"]}, files),
        tables={set_title(name): table for name, table in tables.items()},
        seen=seen,
        maps=_maps(trained, ["test", *unseen], files),
        trained=[method.name for method in trained],
        settings=_settings(trained),
        run_count=sum(len(method.runs) for method in trained),
        sources=[_sources(method) for method in trained],
    )
    write_text(folder / "index.html", page)
    return folder / "index.html", verdicts


def markdown_table(title: str, table: Mapping[str, Any]) -> str:
    """A table of the page in Markdown, for a README: intervals in brackets, the best in bold.

    Args:
        title: The first column's.
        table: `columns` and `rows`, as in `table.json`.

    Example:
        >>> cell = {"text": "97.1", "interval": "96–98", "best": True}
        >>> table = {"columns": ["P@1", "NMI"], "rows": [{"name": "SimCLR", "cells": [cell, None]}]}
        >>> print(markdown_table("unseen", table), end="")
        | unseen | P@1 | NMI |
        |---|---|---|
        | SimCLR | **97.1** (96–98) | – |
    """
    lines = [[title, *table["columns"]], ["---"] * (1 + len(table["columns"]))]
    for row in table["rows"]:
        texts = [row["name"]]
        for cell in row["cells"]:
            mark = "**" if cell and cell["best"] else ""
            interval = f" ({cell['interval']})" if cell and cell["interval"] else ""
            texts.append(f"{mark}{cell['text']}{mark}{interval}" if cell else "–")
        lines.append(texts)
    head, rule, *rows = lines
    written = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    return "\n".join([*written, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _words(value: Any) -> str:
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"


def _judged_table(where: str, rows: Sequence[Row], methods: Sequence[Method]) -> dict[str, Any]:
    """A row a method: the SVC at a few numbers of labels, then every measure of `results`."""
    svc = [row for row in rows if row["set"] == where and row["classifier"] == "svc"]
    whole = {row["labels"] for row in svc if row.get("all")}
    sizes = sorted({row["labels"] for row in svc} & {*TABLE_LABELS, *whole})
    columns: dict[str, list[dict[str, Any] | None]] = {}
    for n in sizes:
        here = {row["embedding"]: row for row in svc if row["labels"] == n}
        title = f"all {n:,} labels" if n in whole else f"{n:,} labels"
        columns[title] = [_cell(here.get(method.name), percent) for method in methods]
    for name in _MEASURES:
        columns[name] = [_measured(name, where, method) for method in methods]
    return _best_marked(methods, columns)


def _seen_table(methods: Sequence[Method]) -> dict[str, Any]:
    """A row a method: its seeds, the classes it learnt from, and what it took."""

    def took(method: Method, group: str, name: str) -> dict[str, Any] | None:
        if method.embedding != "h":
            return None
        return _cell(score(method, lambda results: results[group].get(name)), "{:,.0f}".format)

    measures = {
        f"{name}, test": [_measured(name, "test", method) for method in methods]
        for name in ("separation", "P@1", "MAP@R")
    }
    for title in _ACCURACIES:
        cells = [_accuracy(title, method) for method in methods]
        if any(cells):
            measures[title] = cells
    table = _best_marked(methods, measures)
    table["columns"] += ["training, s", "images/s"]
    for row, method in zip(table["rows"], methods, strict=True):
        row["cells"] += [
            took(method, "wall_seconds", "training"),
            took(method, "training", "images_per_second"),
        ]
    return table


def _accuracy(title: str, method: Method) -> dict[str, Any] | None:
    find = _ACCURACIES[title]
    return _cell(score(method, lambda r: find(r, method.embedding), within=(0, 1)), percent)


def _measured(name: str, where: str, method: Method) -> dict[str, Any] | None:
    found = score(
        method,
        lambda results: _MEASURES[name](results, where, method.embedding),
        within=_BOUNDS.get(name, (0.0, 1.0)),
    )
    return _cell(found, ("{:.2f}" if name == "separation" else "{:.3f}").format)


def _cell(found: Row | None, show: Callable[[Any], str]) -> dict[str, Any] | None:
    """A number as its cell shows it: the mean, and the interval where there is one."""
    if found is None:
        return None
    numbers = {name: found[name] for name in ("mean", "low", "high", "seeds")}
    low, high = show(found["low"]), show(found["high"])
    interval = f"{low}–{high}" if low != high else ""
    return {**numbers, "text": show(found["mean"]), "interval": interval, "best": False}


def _best_marked(methods: Sequence[Method], columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    for cells in columns.values():
        best = max((cell["mean"] for cell in cells if cell), default=0.0)
        for cell in cells:
            if cell:  # the mean of equal numbers is off by rounding
                cell["best"] = math.isclose(cell["mean"], best, abs_tol=1e-9)
    rows = zip(methods, zip(*columns.values(), strict=True), strict=True)
    return {
        "columns": list(columns),
        "rows": [
            {
                "name": method.name,
                "seeds": [run.settings.get("seed") for run in method.runs.values()],
                "cells": list(cells),
            }
            for method, cells in rows
        ],
    }


def _maps(trained: Sequence[Method], sets: Sequence[str], files: FigureFiles) -> list[Section]:
    """For each set the UMAP of every method's first run, side by side."""
    panels: dict[str, dict[str, Any]] = {name: {} for name in sets}
    classes: dict[str, None] = {}
    for method in trained:
        tables = next(iter(method.runs.values())).tables["h"]
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
            ),
        }
        for name, maps in panels.items()
        if maps
    ]


def _settings(trained: Sequence[Method]) -> dict[str, list[str]]:
    """The settings that are not the same in all methods: name -> a value a method."""
    names = differing([method.settings for method in trained])
    return {
        name.replace("_", " "): [_words(method.settings.get(name, "–")) for method in trained]
        for name in names
    }


def _sources(method: Method) -> dict[str, Any]:
    """Where a method's numbers come from: what its runs share, then each run's own."""
    runs = [overview(path, run) for path, run in method.runs.items()]
    facts = [run["facts"] | run["provenance"] for run in runs]
    common = {n: v for n, v in facts[0].items() if all(other.get(n) == v for other in facts)}
    return {
        "method": method.name,
        "common": common,
        "runs": [
            {
                "name": run["run_name"],
                "own": {name: value for name, value in mine.items() if name not in common},
                "command": run["command"],
            }
            for run, mine in zip(runs, facts, strict=True)
        ],
    }
