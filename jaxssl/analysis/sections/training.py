"""Training curves from the lines of `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxssl.analysis import figures
from jaxssl.analysis.page import FigureFiles, fragment, plot
from jaxssl.analysis.sections.base import Context

_OF_Z = {"alignment", "uniformity", "z_std", "effective_rank"}


def make(context: Context) -> Markup | None:
    """Draw the metrics of training; None for a network that was not trained."""
    if not context.results.trained:
        return None
    metrics = context.run.metrics
    figure = curves(metrics, context.files)
    if figure is None:
        return fragment(
            "missing.html.j2",
            why="metrics.jsonl is missing or empty, so there are no training curves.",
        )
    return plot(figure, caption(metrics))


def curves(metrics: Sequence[Mapping[str, Any]], files: FigureFiles) -> dict[str, Any] | None:
    """Draw all metrics over the steps; None where there are none."""
    if not figures.metric_names(metrics):
        return None
    last = {record["split"]: record.get("loss") for record in metrics}
    losses = [
        f"{split} loss {loss:.3f}"
        for split, loss in last.items()
        if isinstance(loss, int | float) and math.isfinite(loss)
    ]
    # One table for all that was logged: a line of training has other numbers than a validation.
    names = list(dict.fromkeys(name for row in metrics for name in row))
    return files.add(
        "training",
        metrics,
        alt=f"Training curves to step {metrics[-1]['step']:,}; {', '.join(losses)}",
        wide=figures.training_curves(metrics),
        narrow=figures.training_curves(metrics, columns=1),
        table=(names, [[row.get(name) for name in names] for row in metrics]),
    )


def caption(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Say what is in the figure, and nothing of what is not.

    Example:
        >>> caption([{"step": 1, "split": "train", "loss": 2.0, "accuracy": 0.5}])
        'Metrics over the steps.'
        >>> caption([{"step": 1, "split": "train", "loss": 2.0, "chance": 4.0}])
        'Metrics over the steps. Dashed in the loss: an embedding that tells nothing apart.'
    """
    names = set(figures.metric_names(metrics))
    said = "Metrics over the steps"
    if names & _OF_Z:
        said += "; z is the projection that the loss sees"
    if "loss" in names and any(row.get(level) for row in metrics for level in figures.LEVELS):
        return f"{said}. Dashed in the loss: an embedding that tells nothing apart."
    return f"{said}."
