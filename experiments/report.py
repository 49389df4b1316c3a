"""The numbers and the report of a finished run, again, from its embedding tables; needs no JAX.

`python -m experiments.report runs/simclr-digits-...`
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments import cli, naming, next_steps, study
from experiments.config import AtLeast2, Positive, check_ranges
from jaxssl import analysis
from jaxssl.analysis.health import health


@dataclasses.dataclass(frozen=True)
class Report:
    """The flags of the report."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    draws: AtLeast2[int] = 5
    """Random draws of labels behind each point of the label-efficiency curves."""
    labels: tuple[int, ...] = ()
    """Numbers of labels on the label-efficiency curves. Default: the run's."""
    propagate: bool = False
    """Add propagated labels to the curves, which learn from how all judged images lie."""
    pixel_size: Positive[float | None] = None
    """Micrometres that a pixel of the files shows, for scale bars. Default: as the run knows."""
    redraw: bool = False
    """Only draw the page again from the numbers there are."""


def main(config: Report) -> None:
    """Read the tables, then make numbers and page."""
    check_ranges(config)
    if not config.run_dir:
        naming.run_folder(config.run_dir)
    run = analysis.read_run(config.run_dir)
    folder = Path(config.run_dir)
    h = analysis.with_pixel_size(run.tables["h"], config.pixel_size)
    tables = {**run.tables, "h": h}
    if config.redraw and run.results is not None:
        state = health(run.metrics, run.results.spread).state
        steps = next_steps.of(folder, run.results, state)
        print(f"report: {analysis.write_report(folder, tables, run.results, steps=steps)}")
        return
    facts = analysis.Facts()
    if not run.results:
        print("no results.json: the new one cannot say what training knew, its times and accuracy")
    if run.results:
        # What training knew and the tables do not.
        names = [field.name for field in dataclasses.fields(analysis.Facts)]
        facts = analysis.Facts(**{name: getattr(run.results, name) for name in names})
    labels = config.labels or tuple(run.settings.get("labels", ()))
    propagate = config.propagate or bool(run.settings.get("propagate"))
    embedded = study.Embedded(folder, tables, facts, propagate)
    study.report(embedded, draws=config.draws, labels=labels)


if __name__ == "__main__":
    cli.run(main, {"report": Report()})
