"""Weights & Biases: a finished run as an offline run of theirs; nothing is sent anywhere."""

from __future__ import annotations

import shlex
from pathlib import Path

from jaxssl.analysis.run import Run
from jaxssl.integrations.exported import Exported, curves, numbers, settings


def export(run: Run, out: Path) -> Exported:
    """Write a run's settings, curves and final numbers as an offline run.

    `wandb sync` sends it, when a person says so. Neither code nor the state of this machine goes
    in, nor where its files lie.

    Args:
      run: A finished run.
      out: A folder, to which each call adds a run.

    Returns:
      What was written.
    """
    import wandb

    quiet = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        x_disable_meta=True,
        x_disable_stats=True,
    )
    rows = curves(run)
    with wandb.init(
        mode="offline",
        project="jaxssl",
        name=run.folder.resolve().name,
        dir=str(out),
        config=settings(run),
        settings=quiet,
    ) as theirs:
        # Training and validation of one step are one row of theirs.
        for step, values in rows:
            theirs.log(values, step=step)
        theirs.summary.update(numbers(run))
        folder = Path(theirs.dir).parent
    what = f"{len(rows):,} lines of metrics, {len(numbers(run)):,} final numbers"
    return Exported(what, folder, f"wandb sync {shlex.quote(str(folder))}")
