"""The search around a program that trains nothing, and around the row classifier."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, ClassVar

import matplotlib
import optuna
import pytest

from experiments import cli, config, rnn, study, tune, tuning
from experiments.config import Between, Config, OneOf
from jaxssl import training
from jaxssl.errors import InputError, NonFiniteLoss, Stopped
from jaxssl.files import read_lines

pytestmark = [pytest.mark.program, pytest.mark.one_device]


@dataclasses.dataclass(frozen=True)
class Flags(Config):
    """Of a program that trains nothing."""

    epochs: int = 8
    evaluate_epochs: float = 1.0
    hidden: Annotated[int, OneOf((4, 8, 16))] = 4
    learning_rate: Annotated[float, Between(1e-4, 1e-1, log=True)] = 0.1


class Stub(SimpleNamespace):
    """A program whose validations are given: [(loss, accuracy), ...] of a configuration."""

    PRESETS: ClassVar = {"digits": Flags()}
    configs: list
    curve = staticmethod(lambda config: [(1.0, 0.2), (0.5, 0.5 + config.learning_rate), (0.7, 0.1)])

    def make_method(self, config, data):
        self.configs.append(config)
        method = training.Method("Stub", None, None, None, best=("loss", "min"), logits=min)
        object.__setattr__(method, "curve", lambda: self.curve(config))
        return method


@pytest.fixture
def stub(monkeypatch) -> Stub:
    program = Stub(configs=[])
    monkeypatch.setattr(tuning, "draw", lambda study, folder: None)  # seconds each
    load = cli.load_program
    monkeypatch.setattr(cli, "load_program", lambda n: program if n == "stub" else load(n))
    monkeypatch.setattr(cli, "program_of", lambda config: "stub")
    monkeypatch.setattr(cli, "STUDIES", ("stub", *cli.STUDIES))

    def train(run, data, method, on_validation):
        file = Path(run.run_dir) / "metrics.jsonl"
        done = len(read_lines(file))  # as the loop goes on from a checkpoint
        for step, (loss, accuracy) in enumerate(method.curve()):
            if step < done:
                continue
            row = {"loss": loss, "accuracy": accuracy}
            on_validation(row)
            with open(file, "a") as rows:
                rows.write(json.dumps({"split": "val", "step": step, **row}) + "\n")

    monkeypatch.setattr(study, "open", lambda settings: contextlib.nullcontext(settings))
    monkeypatch.setattr(study, "load", lambda run: None)
    monkeypatch.setattr(study, "train", train)
    return program


def search(folder: Path, *flags: str, trials: int = 3) -> list[optuna.trial.FrozenTrial]:
    """The command, in this process; the trials that are in the storage after it."""
    arguments = ["stub", "--trials", str(trials), "--storage", str(folder / "study.sqlite"), *flags]
    tune.main(*tune.parse(arguments))
    return trials_in(folder)


def trials_in(folder: Path) -> list[optuna.trial.FrozenTrial]:
    database = optuna.storages.RDBStorage(f"sqlite:///{folder}/study.sqlite")
    found = optuna.load_study(study_name="tune", storage=database).trials
    database.remove_session()
    database.engine.dispose()
    return found


def error_of(*arguments, kind=InputError, **options) -> str:
    with pytest.raises(kind) as error:
        search(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_best_of_the_trials_is_a_config_of_the_program(stub, tmp_path, capsys):
    trials = search(tmp_path, "--seed", "7", "--cpu", trials=4)
    # The accuracy where the loss was lowest, whatever came later.
    rates = [flags.learning_rate for flags in stub.configs]
    assert [trial.value for trial in trials] == pytest.approx([0.5 + rate for rate in rates])
    assert all(config.seed == 7 and config.cpu for config in stub.configs)
    assert {config.hidden for config in stub.configs} <= {4, 8, 16}
    best = max(stub.configs, key=lambda config: config.learning_rate)
    file = tmp_path / "best.json"
    out = capsys.readouterr().out
    assert out.endswith(f"run it: python -m experiments.stub --config {file}\n")
    again = cli.parse(["--config", str(file)], stub.PRESETS)
    assert again == dataclasses.replace(best, run_dir="", cpu=False, config=str(file))


def test_going_on_adds_trials_that_are_new(stub, tmp_path):
    search(tmp_path, trials=2)
    trials = search(tmp_path, trials=5)
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert len(stub.configs) == 5
    assert len({config.learning_rate for config in stub.configs}) == 5


@pytest.mark.parametrize("end", [KeyboardInterrupt, Stopped])
def test_what_was_cut_short_goes_on_in_its_folder(stub, tmp_path, end):
    def curve(config):
        for i, validation in enumerate(Stub.curve(config)):
            if len(stub.configs) == 2 and i == 1:
                raise end("here")
            yield validation

    stub.curve = curve
    if end is Stopped:
        assert error_of(tmp_path, kind=end) == "stopped in trial 1; the same command goes on"
    else:
        with pytest.raises(end):
            search(tmp_path)
    trials = search(tmp_path)
    states = [trial.state.name for trial in trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert stub.configs[2] == stub.configs[1]
    assert trials[2].params == trials[1].params
    assert list(trials[2].intermediate_values) == [2, 3]  # the first was not trained again
    assert len({config.run_dir for config in stub.configs}) == 3


def test_trials_under_the_median_are_pruned_after_a_quarter(stub, tmp_path):
    stub.curve = lambda config: [(1.0, 0.9 if len(stub.configs) <= 5 else 0.1)] * 8
    trials = search(tmp_path, trials=6)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert list(trials[5].intermediate_values) == [1, 2]


def test_a_loss_that_is_not_finite_ends_the_trial_alone(stub, tmp_path, capsys):
    def curve(config):
        if len(stub.configs) == 1:
            raise NonFiniteLoss("at step 3")
        return Stub.curve(config)

    stub.curve = curve
    states = [trial.state.name for trial in search(tmp_path)]
    assert states == ["PRUNED", "COMPLETE", "COMPLETE"]
    assert "trial 0: its loss was not finite; " in capsys.readouterr().out


def test_another_search_does_not_go_on(stub, tmp_path):
    search(tmp_path, trials=1)
    assert "epochs was 8, is 9" in error_of(tmp_path, "--epochs", "9")
    found = error_of(tmp_path, "--hidden", "4")  # given, so not searched
    assert "search of hidden was 'OneOf(values=(4, 8, 16))', is None" in found
    search(tmp_path, "--log-every", "5", trials=1)  # changes nothing that is computed


def test_bad_input_is_one_line(stub, tmp_path):
    with pytest.raises(InputError, match="'vgg' is no study: choose stub, simclr"):
        tune.parse(["vgg"])
    assert "nothing to search" in error_of(tmp_path, trials=0)
    assert "0 settings" in error_of(tmp_path, "--hidden", "4", "--learning-rate", "1")
    (tmp_path / "study.sqlite").write_text("no database " * 100)
    assert "is no Optuna study: " in error_of(tmp_path)
    (tmp_path / "study.sqlite").unlink()
    os.mkfifo(tmp_path / "study.sqlite")  # which would wait for a writer for ever
    assert "is no Optuna study: it is no regular file" in error_of(tmp_path)
    (tmp_path / "study.sqlite").unlink()
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert error_of(tmp_path).endswith("study.sqlite is in use by another process")

    def refuse(config):
        raise InputError("--batch-size 4096 is larger than the images")

    stub.curve = refuse
    assert "--batch-size 4096" in error_of(tmp_path)
    stub.curve = Stub.curve
    search(tmp_path, "--epochs", "9", trials=1)  # a mistake binds nobody


def test_a_study_without_an_end_has_no_best(stub, tmp_path):
    def diverge(config):
        raise NonFiniteLoss("at step 3")

    stub.curve = diverge
    assert error_of(tmp_path).startswith("none of 3 trials came to its end")
    assert not (tmp_path / "best.json").exists()


@pytest.mark.parametrize("name", ["rnn", "simclr", "supcon", "triplet", "arcface", "softmax"])
def test_every_study_has_something_to_search(name):
    program, flags, space = tune.parse([name, "--dataset", "digits"])
    assert space == config.searches(type(program.PRESETS["digits"]))
    assert space.keys() <= {field.name for field in dataclasses.fields(flags)}
    distributions = tuning.distributions(space)
    assert distributions.keys() == space.keys() >= {"learning_rate"}
    for setting in space:  # what is searched is in its range
        bounds = distributions[setting]
        ends = getattr(bounds, "choices", None) or (bounds.low, bounds.high)
        for end in ends:
            config.check_ranges(dataclasses.replace(program.PRESETS["digits"], **{setting: end}))
    _, flags, rest = tune.parse([name, "--learning-rate=0.5"])
    assert flags.learning_rate == 0.5
    assert rest.keys() == space.keys() - {"learning_rate"}


def test_the_search_of_the_row_classifiers_is_the_studys():
    found = tuning.distributions(config.searches(rnn.RNN))
    assert found["hidden"].choices == (128, 256, 512)
    assert found["layers"].choices == (1, 3, 5)
    assert found["l2"].choices == found["l3"].choices == (16, 32, 64)
    for name, low in {"learning_rate": 1e-4, "weight_decay": 5e-4}.items():
        assert (found[name].low, found[name].high, found[name].log) == (low, 1e-1, True)
    assert found["batch_size"].choices == tuple(range(32, 257, 32))


def test_a_trial_of_the_row_classifier_and_one_more(tmp_path, monkeypatch):
    small = ["--seen", "0", "1", "2", "--hidden", "8", "--layers", "1", "--batch-size", "64"]
    small += ["--l2", "8", "--l3", "8", "--steps", "4", "--evaluate-epochs", ".4", "--image-size"]
    small += ["8", "--cell", "rnn", "--storage", str(tmp_path / "study.sqlite")]
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "draw", lambda study, folder: None)
        tune.main(*tune.parse(["rnn", *small, "--trials", "1"]))
    tune.main(*tune.parse(["rnn", *small, "--trials", "2"]))
    trials = trials_in(tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    for trial in trials:
        folder = tmp_path / "trials" / f"{trial.number:04}"
        settings = json.loads((folder / "config.json").read_text())["config"]
        assert settings.items() >= trial.params.items()
        rows = [row for row in read_lines(folder / "metrics.jsonl") if row["split"] == "val"]
        reported = {i: row["accuracy"] for i, row in enumerate(rows, start=1)}
        assert trial.intermediate_values == reported
        assert trial.value == max(row["accuracy"] for row in rows)
        assert "step 4/4" in (folder / "log.txt").read_text()
        # No image of the test was embedded, and no checkpoints are kept.
        assert not {"embeddings", "results.json", "checkpoints"} & {
            f.name for f in folder.iterdir()
        }
    drawn = {plot.stem for plot in (tmp_path / "plots").iterdir()}
    assert {"optimization_history", "intermediate_values", "slice"} <= drawn
    assert matplotlib.rcParams["axes.facecolor"] == "white"  # Optuna's style stays in its plots
    best = cli.parse(["--config", str(tmp_path / "best.json")], rnn.PRESETS)
    winner = max(trials, key=lambda trial: trial.value)
    assert vars(best).items() >= winner.params.items()
