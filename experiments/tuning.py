"""The Optuna study behind `experiments.tune`: what is searched, its file, its plots."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config import Between, OneOf
from jaxssl import files
from jaxssl.errors import InputError, visible

if TYPE_CHECKING:
    import optuna


# name -> what is searched.
Space = Mapping[str, Between | OneOf]


def distributions(space: Space) -> dict[str, Any]:
    """Turn the space into what Optuna wants."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    def distribution(where: Between | OneOf) -> Any:
        if isinstance(where, Between):
            return FloatDistribution(where.low, where.high, log=where.log)
        return CategoricalDistribution(where.values)

    return {name: distribution(where) for name, where in space.items()}


@contextlib.contextmanager
def open_study(
    storage: Path, settings: Mapping[str, Any], *, seed: int, warm_up: int
) -> Iterator[optuna.Study]:
    """Open the study in a SQLite file, new or going on, held by one process at a time.

    A trial that was running when its process ended fails, and waits to be tried again.

    Args:
      storage: the file.
      settings: what all trials must share, so that their values can be compared.
      seed: of what is drawn.
      warm_up: validations before which nothing is pruned.

    Raises:
      InputError: the file is in use, is something else, cannot be written, or holds a study of
        other settings; these are named.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What damaged values of its tables raise when Optuna reads them; the rest is SQLite's.
    damage = (SQLAlchemyError, optuna.exceptions.StorageInternalError, LookupError, ValueError)
    with _locked(storage), contextlib.ExitStack() as closing:
        _check(storage)
        try:
            database = optuna.storages.RDBStorage(f"sqlite:///{storage}")
            closing.callback(database.engine.dispose)
            closing.callback(database.remove_session)
            study = optuna.create_study(
                storage=database,
                study_name="tune",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=warm_up),
            )
            # A sampler with the same seed again would draw the first trials again.
            study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        except (*damage, RuntimeError) as error:
            raise _unusable(storage, error) from None
        try:
            _compare_or_note(study, storage, json.loads(json.dumps(settings)))
            _retry_interrupted(study)
        except InputError:
            raise
        except (*damage, TypeError, AttributeError) as error:
            raise _unusable(storage, error) from None
        try:
            yield study
        except (*damage[:2], UnicodeDecodeError) as error:  # also where the disk is full
            raise _unusable(storage, error) from None


def trials(study: optuna.Study, *states: str) -> list[optuna.trial.FrozenTrial]:
    """List those in one of the states: "complete", "pruned", "fail", "running", "waiting"."""
    from optuna.trial import TrialState

    return study.get_trials(states=[TrialState[state.upper()] for state in states])


def folder_name(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    """Return the trial's number, or that of the one that it tries again."""
    return trial.user_attrs.get("folder", f"{trial.number:04}")


def draw(study: optuna.Study, folder: Path) -> None:
    """Draw Optuna's own plots as SVG, by matplotlib: its others need plotly."""
    import warnings

    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    names = ["optimization_history", "intermediate_values", "slice", "parallel_coordinate"]
    if len({trial.value for trial in trials(study, "complete")}) > 1:
        names.append("param_importances")
    folder.mkdir(exist_ok=True)
    for name in names:
        # Each sets a style for the whole process, and warns of being experimental, or of an axis
        # where all trials have one value.
        with plt.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(plots, f"plot_{name}")(study)
            with files.atomic(folder / f"{name}.svg") as out:
                plt.savefig(out, format="svg", bbox_inches="tight")
            plt.close()


def _check(storage: Path) -> None:
    """Let SQLite look through its file, with what a killed process left beside it."""
    if not os.path.lexists(storage):
        return
    why = "it is no regular file"
    if storage.is_file():
        try:
            place = f"{storage.resolve().as_uri()}?mode=rw"
            with contextlib.closing(sqlite3.connect(place, uri=True)) as database:
                why = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
        except (sqlite3.Error, UnicodeDecodeError) as error:  # of names in its own message
            why = str(error)
    if why != "ok":
        raise _unusable(storage, why)


def _unusable(storage: Path, why: object) -> InputError:
    text = visible((str(why).splitlines() or [repr(why)])[0])[:160]
    return InputError(f"--storage {storage} is no Optuna study: {text}; restore or remove it")


@contextlib.contextmanager
def _locked(storage: Path) -> Iterator[None]:
    """Hold one process a study: a trial that runs when it is opened was therefore cut short."""
    from jaxssl.training.runs import lock

    try:
        storage.parent.mkdir(parents=True, exist_ok=True)
        file = open(storage.parent / ".lock", "w")  # noqa: SIM115 closed below
    except OSError as error:
        raise InputError(f"--storage {storage} cannot be written: {error.strerror}") from None
    with file:
        lock(file, f"--storage {storage}", "another process")
        yield


def _compare_or_note(study: optuna.Study, storage: Path, new: dict[str, Any]) -> None:
    old = study.user_attrs.get("settings", {})
    differing = [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    # A study whose trials all failed, say by a misspelt folder, may go on with other settings.
    if differing and trials(study, "complete", "pruned", "running"):
        raise InputError(
            f"--storage {storage} holds another study: {'; '.join(differing)}. "
            "Use its settings to go on, or another --storage"
        )
    study.set_user_attr("settings", new)


def _retry_interrupted(study: optuna.Study) -> None:
    for trial in trials(study, "running"):
        study.tell(trial.number, state=trial.state.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"folder": folder_name(trial)})
        print(f"trial {trial.number} was cut short: it goes on as the next")
