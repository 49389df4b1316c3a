"""The comparison in two sentences: which method is best, and which beat the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from jaxssl.analysis.names import listed
from jaxssl.analysis.page import percent
from jaxssl.analysis.results import LabelRow
from jaxssl.analysis.scores import Table

VERDICT_LABELS = (90, 300)


def verdict(
    where: str, rows: Sequence[LabelRow], trained: Sequence[str], baselines: Sequence[str]
) -> str:
    """Say in two sentences of a set which method is best and which beat the baselines, by the SVC.

    "Apart" means that the 95 % intervals do not overlap. Nothing is said of why.

    Args:
        where: The set.
        rows: Pooled label-efficiency rows of all methods.
        trained: Names of the trained methods.
        baselines: Names of the others.

    Returns:
        The sentences.
    """
    svc = [row for row in rows if row.set == where and row.classifier == "svc"]
    sizes = sorted({row.labels for row in svc})
    by_size = {
        n: sorted((r for r in svc if r.labels == n), key=lambda row: -row.mean)
        for n in [n for n in VERDICT_LABELS if n in sizes] or sizes[-1:]
    }
    bests = [
        _best(labels, [row for row in ranked if row.embedding in trained])
        for labels, ranked in by_size.items()
    ]
    rest = where.partition("-")[2]
    place = "unseen classes" + (f" ({rest})" if rest else "")
    if where == "test":
        place = "held-out test images of the seen classes"
    which = "best trained" if len(trained) > 1 else "one trained"
    labels, ranked = list(by_size.items())[-1]
    ours = [row for row in ranked if row.embedding in trained]
    others = [row for row in ranked if row.embedding in baselines]
    return f"On the {place} the {which} method is {listed(bests)}. {_against(ours, others, labels)}"


def seen_verdict(table: Table) -> str:
    """Say which method's frozen vectors tell the seen classes apart best, if there are no others.

    Args:
        table: Of the seen classes, as on the page.

    Returns:
        A sentence by linear evaluation, or by the nearest neighbours where not every trained method
        has that.
    """
    told = {
        "linear evaluation, %": "a linear classifier tells",
        "kNN, %": "the 200 nearest neighbours tell",
    }
    columns = {
        name: [row.cells[i] for row in table.rows]
        for i, name in enumerate(table.columns)
        if name in told
    }
    # Of two, the one that says something of more methods; the first of equals.
    name = max(told, key=lambda name: sum(map(bool, columns.get(name, []))))
    if not any(columns.get(name, [])):
        return "No accuracy on the seen classes was found; the tables have what there is."
    ranked = sorted(
        (
            (cell.mean, row.name)
            for row, cell in zip(table.rows, columns[name], strict=True)
            if cell
        ),
        reverse=True,
    )
    scores = [f"{method} {percent(mean)} %" for mean, method in ranked]
    share = f"Share of the seen classes' test images that {told[name]} right from frozen vectors"
    return f"{share}: {listed(scores)}."


def _best(labels: int, ranked: Sequence[LabelRow]) -> str:
    best, *others = ranked
    near = [row.embedding for row in others if row.high >= best.low]
    told = f", overlapping {listed(near)}" if near else ", apart from the others" if others else ""
    low, high = percent(best.low), percent(best.high)
    return (
        f"{best.embedding} with {labels:,} labels "
        f"({percent(best.mean)} %, interval {low} to {high}{told})"
    )


def _against(ours: Sequence[LabelRow], baselines: Sequence[LabelRow], labels: int) -> str:
    if not baselines:
        return "No baseline was judged, so nothing says what training added."
    mean, high = (max(getattr(row, key) for row in baselines) for key in ("mean", "high"))
    how = {
        "by {} with intervals apart": [r for r in ours if r.low > high],
        "by {} with overlapping intervals": [r for r in ours if r.low <= high and r.mean > mean],
        "not by {}": [r for r in ours if r.low <= high and r.mean <= mean],
    }
    beaten = [
        text.format(listed([row.embedding for row in rows])) for text, rows in how.items() if rows
    ]
    names = [f"{row.embedding} {percent(row.mean)} %" for row in baselines]
    subject = {1: "the baseline", 2: "both baselines"}.get(len(baselines), "all baselines")
    verb = "is" if len(baselines) == 1 else "are"
    return f"With {labels:,} labels {subject} ({', '.join(names)}) {verb} beaten {listed(beaten)}."
