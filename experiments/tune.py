"""Search the settings of a program with Optuna; a search that was stopped goes on.

The study's search for the row classifiers, and one for SimCLR's temperature:
  `python -m experiments.tune rnn --cell lstm --dataset cifar10 --trials 50`
  `python -m experiments.tune simclr --trials 20`

First the program's name (rnn, softmax, simclr, supcon, triplet, arcface), then its own flags, the
same in every trial, and --trials and --storage. A setting that is given is not searched.

A trial is a run of the program without its judging. Its value is the validation accuracy of the
checkpoint that would be judged (of the classifier, or of kNN on the embedding): losses of other
margins or temperatures cannot be compared, and the test images are not looked at. A trial whose
accuracy lies under the median of the others' at the same validation is pruned.

The same command goes on after a stop, with the trial that was running from its last checkpoint.
What comes out lies beside the storage: best.json, which `python -m experiments.PROGRAM --config`
runs, Optuna's plots, and the trials' configurations, metrics and logs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli, protocol, tuning
from experiments.tuning import Between, Space, log
from jaxssl.errors import InputError, NonFiniteLoss, Stopped

if TYPE_CHECKING:
    import optuna

CONTRASTIVE: Space = {"temperature": log(0.05, 1.0), "learning_rate": log(1e-4, 1e-2)}
# program -> the validation metric that a trial is valued by, and what is searched.
SEARCHES: dict[str, tuple[str, Space]] = {
    "rnn": (
        "accuracy",
        {
            "hidden": (128, 256, 512),
            "layers": (1, 3, 5),
            "l2": (16, 32, 64),
            "l3": (16, 32, 64),
            "learning_rate": log(1e-4, 1e-1),
            "weight_decay": log(5e-4, 1e-1),
            "batch_size": range(32, 257, 32),
        },
    ),
    "softmax": ("accuracy", {"learning_rate": log(1e-4, 1e-2)}),
    "simclr": ("knn_accuracy", CONTRASTIVE),
    "supcon": ("knn_accuracy", CONTRASTIVE),
    "triplet": ("knn_accuracy", {"margin": Between(0.1, 1.5), "learning_rate": log(1e-4, 1e-2)}),
    "arcface": (
        "knn_accuracy",
        {"margin": Between(0.1, 0.8), "scale": log(4, 64), "learning_rate": log(1e-4, 1e-2)},
    ),
}
# Flags of one session, which are no settings of what is trained.
SESSION = (
    *("run_dir", "config", "preset", "describe", "tpu", "gpu", "cpu", "trials", "storage"),
    *("coordinator", "processes", "process"),
)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The flags of tuning; those of the program join them."""

    trials: int = 30
    """Trials in all, those already in the storage among them."""
    storage: str = ""
    """SQLite file of the study, everything else beside it; the same again goes on.
    Default: runs/tune-PROGRAM-DATASET/study.sqlite."""


def parse(arguments: list[str]) -> tuple[str, Any, Space]:
    """The program, its flags with those of tuning, and what is searched."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n`python -m experiments.tune PROGRAM --help` shows the flags.")
        sys.exit(0)
    program, *flags = arguments
    if program not in SEARCHES:
        raise InputError(f"{program!r} is no program to tune: choose {', '.join(SEARCHES)}")
    module = importlib.import_module(f"experiments.{program}")
    both = dataclasses.make_dataclass("Config", [], bases=(Tuning, module.Config), frozen=True)
    presets = {name: both(**vars(preset)) for name, preset in module.PRESETS.items()}
    given = {flag.partition("=")[0].lstrip("-").replace("-", "_") for flag in flags}
    space = {name: where for name, where in SEARCHES[program][1].items() if name not in given}
    return program, cli.parse(flags, presets), space


def main(program: str, config: Any, space: Space) -> None:
    """Study, trials, the best of them."""
    if config.trials < 1 or not space:
        raise InputError(f"--trials {config.trials} of {len(space)} settings: nothing to search")
    default = f"runs/tune-{program}-{config.dataset}/study.sqlite"
    storage = Path(config.storage or default).expanduser().resolve()
    free = {*protocol.MAY_DIFFER, *SESSION, *space} - {"steps"}
    settings = {name: value for name, value in vars(config).items() if name not in free}
    settings |= {f"search of {name}": repr(where) for name, where in space.items()}
    with tuning.open_study(
        storage,
        settings | {"program": program},
        seed=config.seed,
        warm_up=round(config.epochs / config.evaluate_epochs) // 4,
    ) as study:
        print(f"tuning {', '.join(space)} of {program}, {config.trials} trials: {storage}")
        while len(tuning.trials(study, "complete", "pruned")) < config.trials:
            _run_trial(study, program, config, space, storage.parent)
        _write_best(study, program, config, storage.parent)


def _run_trial(study: optuna.Study, program: str, config: Any, space: Space, folder: Path) -> None:
    """One run of the program; its value, or why it has none, into the study."""
    import optuna

    trial = study.ask(tuning.distributions(space))
    run_dir = folder / "trials" / tuning.folder_name(trial)
    begin = time.monotonic()
    try:
        value = _train(trial, program, config, run_dir)
        study.tell(trial, value)
        outcome = f"{SEARCHES[program][0]} {value:.3f}, the best {study.best_value:.3f}"
    except (optuna.TrialPruned, NonFiniteLoss) as end:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        outcome = "pruned" if isinstance(end, optuna.TrialPruned) else "its loss was not finite"
    except InputError:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    except Stopped:
        raise Stopped(f"stopped in trial {trial.number}; the same command goes on") from None
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)  # only a run cut short needs them
    values = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    print(
        f"trial {trial.number}: {outcome}; {time.monotonic() - begin:.0f} s; {values}", flush=True
    )


def _train(trial: optuna.Trial, program: str, config: Any, run_dir: Path) -> float:
    """The program with the trial's settings; the validation metric of the judged checkpoint."""
    import optuna

    from jaxssl.files import read_lines as read_metrics

    module = importlib.import_module(f"experiments.{program}")
    metric = SEARCHES[program][0]
    names = [field.name for field in dataclasses.fields(module.Config)]
    settings = {name: getattr(config, name) for name in names} | trial.params

    def validations() -> list[dict[str, Any]]:
        rows = read_metrics(run_dir / "metrics.jsonl")
        return [row for row in rows if row["split"] == "val" and metric in row]

    def on_validation(row: Mapping[str, float]) -> None:
        # Counted, because steps of different batch sizes cannot be compared.
        if metric in row:
            trial.report(row[metric], len(validations()) + 1)
            if trial.should_prune():
                raise optuna.TrialPruned

    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / "log.txt", "a") as out, contextlib.redirect_stdout(out):
        module.main(module.Config(**settings | {"run_dir": str(run_dir)}), on_validation)
    rows = validations()
    judged = min(rows, key=lambda row: row["loss"]) if config.judge == "best" else rows[-1]
    return judged[metric]


def _write_best(study: optuna.Study, program: str, config: Any, folder: Path) -> None:
    """`best.json` and the plots."""
    from jaxssl.files import write_text as write_atomically

    if not tuning.trials(study, "complete"):
        raise InputError(
            f"none of {len(study.trials)} trials came to its end, so none is the best: raise "
            f"--trials, and see the reasons in {folder / 'trials'}"
        )
    settings = {name: value for name, value in vars(config).items() if name not in SESSION}
    best = folder / "best.json"
    write_atomically(best, json.dumps(settings | study.best_params, indent=2) + "\n")
    tuning.draw(study, folder / "plots")
    print(
        f"best: trial {study.best_trial.number}, {SEARCHES[program][0]} {study.best_value:.3f} on "
        f"the validation images\nplots: {folder / 'plots'}\n"
        f"run it: python -m experiments.{program} --config {best}"
    )


if __name__ == "__main__":
    with cli.ending():
        main(*parse(sys.argv[1:]))
