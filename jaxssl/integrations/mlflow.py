"""MLflow: a finished run in a store of its own, a file of SQLite."""

from __future__ import annotations

import logging
import shlex
import time
from pathlib import Path

from jaxssl.analysis.run import Run
from jaxssl.integrations.exported import Exported, clean, curves, numbers, settings

_MOST = 1000  # numbers that one call takes


def export(run: Run, out: Path) -> Exported:
    """Write a run's settings, curves, final numbers and cards into `out/mlflow.db`.

    Args:
      run: A finished run.
      out: A folder, whose store each call adds a run to.

    Returns:
      What was written.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tells of its tables
    store = f"sqlite:///{(out / 'mlflow.db').resolve()}"
    client = MlflowClient(tracking_uri=store)
    name = clean(f"{run.study} on {run.dataset}" if run.dataset else run.study)
    known = client.get_experiment_by_name(name)
    experiment = (
        known.experiment_id
        if known
        else client.create_experiment(name, artifact_location=(out / "files").resolve().as_uri())
    )
    theirs = client.create_run(experiment, run_name=run.folder.resolve().name).info.run_id
    now = int(time.time() * 1000)
    rows = curves(run)
    metrics = [
        Metric(_allowed(key), value, now, step)
        for step, values in [*rows, (0, numbers(run))]
        for key, value in values.items()
    ]
    params = [Param(_allowed(key), clean(value)[:6000]) for key, value in settings(run).items()]
    client.log_batch(theirs, params=params[:100])
    for first in range(0, len(metrics), _MOST):
        client.log_batch(theirs, metrics=metrics[first : first + _MOST])
    for card in ("MODEL_CARD.md", "DATA_CARD.md"):
        if (run.folder / card).is_file():
            client.log_artifact(theirs, str(run.folder / card))
    client.set_terminated(theirs)
    what = f"{len(rows):,} lines of metrics, {len(numbers(run)):,} final numbers"
    return Exported(what, out / "mlflow.db", f"mlflow ui --backend-store-uri {shlex.quote(store)}")


def _allowed(name: str) -> str:
    """Return a name of letters, digits and what else MLflow takes in one."""
    return "".join(c if c.isalnum() or c in "_-. /" else "-" for c in name)
