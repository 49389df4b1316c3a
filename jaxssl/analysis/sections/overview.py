"""What a run is and how it went, at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxssl.analysis.atlas import drawn
from jaxssl.analysis.findings import failing, failing_sentence, samples, winning_baselines
from jaxssl.analysis.headlines import (
    accuracies,
    better_by_a_line,
    compared_classes,
    headline_labels,
    without_curve,
)
from jaxssl.analysis.health import health
from jaxssl.analysis.names import embedding_title, labels_title, set_title
from jaxssl.analysis.page import fragment
from jaxssl.analysis.results import LabelRow, Results
from jaxssl.analysis.run import Run
from jaxssl.analysis.sections.base import Context
from jaxssl.analysis.sections.settings import words

# The settings a reader asks for first; all of them stand at the end of the page.
_FIRST_SETTINGS = (
    "encoder", "image_size", "color", "batch_size", "epochs", "steps", "learning_rate",
    "temperature", "margin", "scale", "seed",
)  # fmt: skip
# Of where a run started, and of the images it is judged on where they are not those of its start.
_STARTS = {
    "pretrained": "initial weights",
    "pretrained_on": "pretrained on",
    "judged_on": "judged on",
}
_PROVENANCE = ("devices", "machine", "commit", "started", "versions")


def make(context: Context) -> Markup:
    """Show the headline numbers, health, classes, and how the run was made."""
    results, run = context.results, context.run
    matters = [f"{failing_sentence(found)}." for found in failing(results)]
    matters += [f"{said[0].upper()}{said[1:]}." for said in winning_baselines(results)]
    counts = {name: (len(drawn(table)), len(table)) for name, table in context.h.items()}
    verdict = health(run.metrics, results.spread)
    return fragment(
        "overview.html.j2",
        matters=matters,
        samples=samples(results, {n: c for n, c in counts.items() if n != "val"}),
        headlines=headlines(results),
        without={set_title(name): why for name, why in without_curve(results).items()},
        accuracies=accuracies(results),
        labelled=any(counts.classes for counts in results.sets.values()),
        health=verdict,
        of_z=any(name.startswith("z,") for name in verdict.measured),
        sets={set_title(name): found for name, found in results.sets.items()},
        facts=facts(run, results),
        provenance=provenance(run, results),
        command=run.provenance.get("command"),
        steps=context.steps,
    )


def title(run: Run) -> str:
    """Return the run's name on a page: its study, and the data set."""
    return f"{run.study} on {run.dataset}" if run.dataset else run.study


def facts(run: Run, results: Results) -> dict[str, Any]:
    """List the settings that a reader asks for first, the initial weights, and what was judged."""
    wanted = {name: run.settings.get(name) for name in _FIRST_SETTINGS}
    found = {name.replace("_", " "): v for name, v in wanted.items() if v not in (None, "")}
    for name, shown in _STARTS.items():
        if said := run.provenance.get(name):
            found[shown] = str(said)
    judged = results.embedding
    found["embedding"] = (
        f"layer {judged.layer}, {judged.dimensions} numbers, {judged.distance} distance"
    )
    which = results.protocol.get("judged", "last")
    step, last = (results.training.get(f"{name}_step") for name in (which, "last"))
    if step is not None and last is not None:
        found["checkpoint"] = f"step {step:,} ({which}) of {last:,}"
    return found


def provenance(run: Run, results: Results) -> dict[str, str]:
    """List where the numbers come from: devices, machine, commit, versions, time."""
    found = {name: words(run.provenance[name]) for name in _PROVENANCE if run.provenance.get(name)}
    stages = [f"{stage} {s:.0f} s" for stage, s in results.wall_seconds.items() if s is not None]
    return found | ({"wall time": ", ".join(stages)} if stages else {})


def headlines(results: Results) -> list[dict[str, Any]]:
    """Choose the SVC's balanced accuracy at a few sizes, every embedding beside h.

    Beside them stands h by a linear classifier, where that is better.

    Args:
        results: Of the run.

    Returns:
        One object a set with curves: `set`, `classes` and `tiles`, one for each of
        `headline_labels`.
    """
    found = []
    svc = [row for row in results.label_efficiency if row.classifier == "svc"]
    for name in dict.fromkeys(row.set for row in svc):
        rows = [row for row in svc if row.set == name]
        every = [row for row in results.label_efficiency if row.set == name]
        shown = rows + better_by_a_line(every)
        tiles = [
            _tile([row for row in shown if row.labels == labels])
            for labels in headline_labels(rows, results.label_sizes)
        ]
        classes = len(compared_classes(results, name))
        found.append({"set": labels_title(name), "classes": classes, "tiles": tiles})
    return found


def _tile(rows: Sequence[LabelRow]) -> Mapping[str, Any]:
    best = max(row.mean for row in rows)
    bars = [
        {
            "name": embedding_title(row.embedding) + ", linear" * (row.classifier == "linear"),
            "best": row.mean == best,
            "mean": row.mean,
            "low": row.low,
            "high": row.high,
        }
        for row in rows
    ]
    return {"labels": rows[0].labels, "all": rows[0].all, "bars": bars}
