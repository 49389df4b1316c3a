"""The tables of a comparison: a row a method, a column a number, the best in bold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxssl.analysis.methods import Judged, Method, MethodRow, Pooled, score
from jaxssl.analysis.page import percent
from jaxssl.errors import visible

TABLE_LABELS = (30, 90, 100, 300, 1000)
# On a set of an embedding; a KeyError where there is none.
_MEASURES: dict[str, Callable[[Judged, str, str], float | None]] = {
    "separation": lambda one, s, e: one.results.separation[s][e].angular,
    "P@1": lambda one, s, e: one.results.retrieval[s][e].precision_at_1,
    "R-precision": lambda one, s, e: one.results.retrieval[s][e].r_precision,
    "MAP@R": lambda one, s, e: one.results.retrieval[s][e].map_at_r,
    "NMI": lambda one, s, e: one.results.nmi[s][e],
    "silhouette": lambda one, s, e: one.results.silhouette[s][e],
}
_BOUNDS = {"separation": (0.0, math.inf), "silhouette": (-1.0, 1.0)}


def _own_accuracy(one: Judged, embedding: str) -> float | None:
    found = one.results.classification
    return found.accuracy if found and embedding == "h" else None


# On the seen classes' test images.
_ACCURACIES: dict[str, Callable[[Judged, str], float | None]] = {
    "kNN, %": lambda one, e: one.results.knn_accuracy if e == "h" else None,
    "linear evaluation, %": lambda one, e: one.linear.get(e),
    "own classifier, %": _own_accuracy,
}


@dataclass(frozen=True)
class Cell:
    """A number of a method.

    Args:
        mean: Over seeds.
        low: Of its 95 % interval.
        high: Of its 95 % interval.
        seeds: The values themselves.
        text: The mean as shown.
        interval: The interval as shown, "" where there is none.
        best: Whether no other of its column is better.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    text: str
    interval: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A method's numbers.

    Args:
        name: The method's.
        seeds: Of its runs.
        cells: One a column, None where there is no number.
    """

    name: str
    seeds: tuple[Any, ...]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Table:
    """A table of the comparison.

    Args:
        columns: Their titles.
        rows: One a method.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def judged_table(where: str, rows: Sequence[MethodRow], methods: Sequence[Method]) -> Table:
    """Tabulate a set: the SVC at a few numbers of labels, then every measure of `Results`.

    Args:
        where: The unseen set.
        rows: Label-efficiency rows of all methods.
        methods: One a row.
    """
    svc = [row for row in rows if row.set == where and row.classifier == "svc"]
    whole = {row.labels for row in svc if row.all}
    asked = {n for method in methods for one in method.runs for n in one.results.label_sizes}
    sizes = sorted({row.labels for row in svc} & {*TABLE_LABELS, *asked, *whole})
    columns: dict[str, list[Cell | None]] = {}
    for n in sizes:
        here = {row.embedding: row for row in svc if row.labels == n}
        title = f"all {n:,} labels" if n in whole else f"{n:,} labels"
        columns[title] = [_cell(here.get(method.name), percent) for method in methods]
    for name in _MEASURES:
        columns[name] = [_measured(name, where, method) for method in methods]
    return _table(methods, columns)


def seen_table(methods: Sequence[Method]) -> Table:
    """Tabulate the classes that a method learnt from, and what training took.

    Args:
        methods: One a row.
    """

    def took(method: Method, group: str, name: str) -> Cell | None:
        if method.embedding != "h":
            return None
        return _cell(
            score(method, lambda one: getattr(one.results, group).get(name)), "{:,.0f}".format
        )

    measures = {
        f"{name}, test": [_measured(name, "test", method) for method in methods]
        for name in ("separation", "P@1", "MAP@R")
    }
    for title in _ACCURACIES:
        cells = [_accuracy(title, method) for method in methods]
        if any(cells):
            measures[title] = cells
    costs = {
        "training, s": [took(method, "wall_seconds", "training") for method in methods],
        "images/s": [took(method, "training", "images_per_second") for method in methods],
    }
    return _table(methods, measures, costs)


def markdown_table(title: str, table: Table) -> str:
    """Write a table in Markdown, for a README: intervals in brackets, the best in bold.

    Names are text in it: what Markdown or HTML would act on is escaped.

    Args:
        title: The first column's.
        table: What to write.

    Example:
        >>> cell = Cell(0.971, 0.96, 0.98, (0.971,), "97.1", "96–98", best=True)
        >>> table = Table(("P@1", "NMI"), (Row("SimCLR", (0,), (cell, None)),))
        >>> print(markdown_table("unseen", table), end="")
        | unseen | P@1 | NMI |
        |---|---|---|
        | SimCLR | **97.1** (96–98) | – |
    """
    lines = [
        [as_markdown(name) for name in (title, *table.columns)],
        ["---"] * (1 + len(table.columns)),
    ]
    for row in table.rows:
        texts = [as_markdown(row.name)]
        for cell in row.cells:
            mark = "**" if cell and cell.best else ""
            interval = f" ({cell.interval})" if cell and cell.interval else ""
            texts.append(f"{mark}{cell.text}{mark}{interval}" if cell else "–")
        lines.append(texts)
    head, rule, *rows = lines
    written = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    return "\n".join([*written, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def spreadsheet(table: Table) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return columns and rows for `FigureFiles.table`: each number with its 95 % interval.

    Example:
        >>> cell = Cell(0.971, 0.96, 0.98, (0.971,), "97.1", "96–98")
        >>> columns, rows = spreadsheet(Table(("P@1",), (Row("SimCLR", (0,), (cell,)),)))
        >>> columns, rows
        (('method', 'seeds', 'P@1', 'P@1, low', 'P@1, high'), [('SimCLR', 1, 0.971, 0.96, 0.98)])
    """
    titles = [f"{name}{part}" for name in table.columns for part in ("", ", low", ", high")]
    rows: list[tuple[Any, ...]] = []
    for row in table.rows:
        cells = [(c.mean, c.low, c.high) if c else (None, None, None) for c in row.cells]
        rows.append((row.name, len(row.seeds), *(value for three in cells for value in three)))
    return ("method", "seeds", *titles), rows


def as_markdown(text: str) -> str:
    r"""Escape what Markdown or HTML would act on, so that a name is shown as it is.

    Example:
        >>> print(as_markdown("a|b <i> [c](d)"))
        a\|b &lt;i&gt; \[c\](d)
    """
    escaped = re.sub(r"([\\`*\[\]|])", r"\\\1", visible(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _accuracy(title: str, method: Method) -> Cell | None:
    find = _ACCURACIES[title]
    return _cell(score(method, lambda one: find(one, method.embedding), within=(0, 1)), percent)


def _measured(name: str, where: str, method: Method) -> Cell | None:
    found = score(
        method,
        lambda one: _MEASURES[name](one, where, method.embedding),
        within=_BOUNDS.get(name, (0.0, 1.0)),
    )
    return _cell(found, ("{:.2f}" if name == "separation" else "{:.3f}").format)


def _cell(found: Pooled | MethodRow | None, show: Callable[[Any], str]) -> Cell | None:
    """Make the cell of a number: the mean, and the interval where there is one."""
    if found is None:
        return None
    low, high = show(found.low), show(found.high)
    interval = f"{low}–{high}" if low != high else ""
    return Cell(found.mean, found.low, found.high, found.seeds, show(found.mean), interval)


def _table(
    methods: Sequence[Method],
    columns: Mapping[str, Sequence[Cell | None]],
    costs: Mapping[str, Sequence[Cell | None]] | None = None,
) -> Table:
    """Turn columns into rows, the best of each marked, but for costs."""
    marked = [_best_marked(cells) for cells in columns.values()] + list((costs or {}).values())
    rows = [
        Row(method.name, tuple(one.run.seed for one in method.runs), tuple(cells))
        for method, cells in zip(methods, zip(*marked, strict=True), strict=True)
    ]
    return Table((*columns, *(costs or {})), tuple(rows))


def _best_marked(cells: Sequence[Cell | None]) -> list[Cell | None]:
    best = max((cell.mean for cell in cells if cell), default=0.0)
    # The mean of equal numbers is off by rounding.
    return [
        cell and replace(cell, best=math.isclose(cell.mean, best, abs_tol=1e-9)) for cell in cells
    ]
