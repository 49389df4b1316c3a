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
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from experiments import cli, config, study, tuning
from experiments.tuning import Space
from jaxssl import files
from jaxssl.errors import InputError, NonFiniteLoss, Stopped

if TYPE_CHECKING:
    import optuna

    from jaxssl.training import Method


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The flags of tuning; those of the program join them."""

    trials: int = 30
    """Trials in all, those already in the storage among them."""
    storage: str = ""
    """SQLite file of the study, everything else beside it; the same again goes on.
    Default: runs/tune-PROGRAM-DATASET/study.sqlite."""


def parse(arguments: list[str]) -> tuple[ModuleType, Any, Space]:
    """Read the program, its flags with those of tuning, and what is searched."""
    program, flags = cli.choose_program(arguments, __doc__)
    kind = cli.flags_of(program)
    space = config.searches(kind)
    if not space or not issubclass(kind, config.Images):
        raise InputError(f"{arguments[0]} has no setting to search: none of its flags has a space")
    given = {flag.partition("=")[0].lstrip("-").replace("-", "_") for flag in flags}
    found = cli.parse(flags, cli.joined_presets(program, Tuning))
    return program, found, {name: where for name, where in space.items() if name not in given}


def main(program: ModuleType, flags: Any, space: Space) -> None:
    """Search: study, trials, the best of them."""
    if flags.trials < 1 or not space:
        raise InputError(f"--trials {flags.trials} of {len(space)} settings: nothing to search")
    kind = cli.flags_of(program)
    name = Path(cli.program_of(next(iter(program.PRESETS.values())))).stem
    default = f"runs/tune-{name}-{flags.dataset}/study.sqlite"
    storage = Path(flags.storage or default).expanduser().resolve()
    # All that trials must share for their values to be comparable.
    scopes = config.scopes(kind)
    settings = {
        setting: getattr(flags, setting)
        for setting, scope in scopes.items()
        if setting not in space and (not scope.resume or setting == "steps")
    }
    settings |= {f"search of {setting}": repr(where) for setting, where in space.items()}
    with tuning.open_study(
        storage,
        settings | {"program": name},
        seed=flags.seed,
        warm_up=round(flags.epochs / flags.evaluate_epochs) // 4,
    ) as search:
        print(f"tuning {', '.join(space)} of {name}, {flags.trials} trials: {storage}")
        while len(tuning.trials(search, "complete", "pruned")) < flags.trials:
            _run_trial(search, program, flags, space, storage.parent)
        _write_best(search, program, flags, storage.parent)


def _run_trial(
    search: optuna.Study, program: ModuleType, flags: Any, space: Space, folder: Path
) -> None:
    """Make one run of the program; its value, or why it has none, into the study."""
    import optuna

    trial = search.ask(tuning.distributions(space))
    run_dir = folder / "trials" / tuning.folder_name(trial)
    begin = time.monotonic()
    try:
        metric, value = _train(trial, program, flags, run_dir)
        search.tell(trial, value)
        outcome = f"{metric} {value:.3f}, the best {search.best_value:.3f}"
    except (optuna.TrialPruned, NonFiniteLoss) as end:
        search.tell(trial, state=optuna.trial.TrialState.PRUNED)
        outcome = "pruned" if isinstance(end, optuna.TrialPruned) else "its loss was not finite"
    except InputError:
        search.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    except Stopped:
        raise Stopped(f"stopped in trial {trial.number}; the same command goes on") from None
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)  # only a run cut short needs them
    values = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    print(
        f"trial {trial.number}: {outcome}; {time.monotonic() - begin:.0f} s; {values}", flush=True
    )


def _train(
    trial: optuna.Trial, program: ModuleType, flags: Any, run_dir: Path
) -> tuple[str, float]:
    """Open, load, make_method, train; return the number of the state that would be judged."""
    import optuna

    kind = cli.flags_of(program)
    names = [field.name for field in dataclasses.fields(kind)]
    settings = {name: getattr(flags, name) for name in names} | trial.params
    settings = kind(**settings | {"run_dir": str(run_dir)})
    run_dir.mkdir(parents=True, exist_ok=True)
    with (
        (run_dir / "log.txt").open("a") as out,
        contextlib.redirect_stdout(out),
        study.open(settings) as run,
    ):
        data = study.load(run)
        method = program.make_method(settings, data)
        metric = "accuracy" if method.logits is not None else "knn_accuracy"

        def validations() -> list[dict[str, Any]]:
            rows = files.read_lines(run_dir / "metrics.jsonl")
            return [row for row in rows if row["split"] == "val" and metric in row]

        def on_validation(row: Mapping[str, float]) -> None:
            # Counted, because steps of different batch sizes cannot be compared.
            if metric in row:
                trial.report(row[metric], len(validations()) + 1)
                if trial.should_prune():
                    raise optuna.TrialPruned

        study.train(run, data, method, on_validation)
        rows = validations()
        if not rows:
            raise InputError(f"no validation has a {metric}: let the run last an epoch")
        judged = min(rows, key=lambda row: _score(method, row))
        return metric, (judged if flags.judge == "best" else rows[-1])[metric]


def _score(method: Method, row: Mapping[str, float]) -> tuple[float, int]:
    """Rate as the checkpoints rate a validation: of equals, the latest."""
    score = method.score(row)
    return (float("inf") if score is None else score, -int(row["step"]))


def _write_best(search: optuna.Study, program: ModuleType, flags: Any, folder: Path) -> None:
    """Write `best.json` and the plots."""
    if not tuning.trials(search, "complete"):
        raise InputError(
            f"none of {len(search.trials)} trials came to its end, so none is the best: raise "
            f"--trials, and see the reasons in {folder / 'trials'}"
        )
    kind = cli.flags_of(program)
    kept = [name for name, scope in config.scopes(kind).items() if scope.kept]
    settings = {name: getattr(flags, name) for name in kept} | search.best_params
    settings = {name: value for name, value in settings.items() if value is not None}
    best = files.free(folder / "best.json", say=print)
    files.write_json(best, settings, note="")
    tuning.draw(search, folder / "plots")
    name = cli.program_of(next(iter(program.PRESETS.values())))
    command = (
        f"python -m experiments.{name}" if name in cli.STUDIES else f"python {shlex.quote(name)}"
    )
    print(
        f"best: trial {search.best_trial.number}, {search.best_value:.3f} on the validation "
        f"images\nplots: {folder / 'plots'}\nrun it: {command} --config {shlex.quote(str(best))}"
    )


if __name__ == "__main__":
    cli.start(main, parse)
