"""The loop stopped, killed, poisoned and resumed: it ends where an uninterrupted one does."""

import dataclasses
import io
import json
import math
import os
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxssl.errors import NonFiniteLoss, Stopped
from jaxssl.files import read_lines as read_metrics
from jaxssl.training import progress
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.dispatch import TrainStep

from .conftest import batch_at, classify, same


def rows(training):
    """metrics.jsonl without the wall clock."""
    found = read_metrics(training.path / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name not in ("time", "input_wait")}
        for row in found
    ]


def stopping(step: int, number: signal.Signals):
    """The same stream, and a signal to this process while batch `step` is fetched."""

    def stream(start: int):
        while True:
            if start == step:
                os.kill(os.getpid(), number)
            yield batch_at(start)
            start += 1

    return stream


class Killed(BaseException):
    """Stands in for SIGKILL inside one process: nothing of the loop may handle it."""


def killing(step: int):
    def stream(start: int):
        while True:
            if start == step:
                raise Killed
            yield batch_at(start)
            start += 1

    return stream


def test_stopped_twice_and_killed_twice_ends_bit_for_bit(tmp_path, training):
    whole, facts = training()
    broken = dataclasses.replace(training, path=tmp_path / "broken")
    for stream, ending in [
        (stopping(2, signal.SIGTERM), Stopped),
        (killing(6), Killed),
        (stopping(7, signal.SIGINT), Stopped),
        (killing(11), Killed),
    ]:
        with pytest.raises(ending):
            dataclasses.replace(broken, stream=stream)()
    state, broken_facts = broken()
    assert same(state, whole)
    assert rows(broken) == rows(training)
    assert broken_facts["steps"] == facts["steps"] == 12


@pytest.mark.parametrize("when", ["step", "evaluation"])
def test_a_signal_at_the_very_end_stops_and_the_same_command_has_the_run(training, when):
    def evaluate(state):
        if when == "evaluation":
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1.0}

    asked = stopping(3, signal.SIGTERM) if when == "step" else training.stream
    last = dataclasses.replace(training, total=4, stream=asked, evaluate=evaluate)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 4 of 4"):
        last()
    state, facts = dataclasses.replace(last, stream=killing(0))()
    assert int(state.step) == facts["steps"] == 4
    assert [row["step"] for row in rows(last) if row["split"] == "val"] == [4]


def test_a_time_based_save_loses_nothing(tmp_path, training):
    whole, _ = training()
    broken = dataclasses.replace(training, path=tmp_path / "broken", save_seconds=0.0)
    with pytest.raises(Killed):
        dataclasses.replace(broken, stream=killing(3))()
    assert [int(p.name) for p in (broken.path / "checkpoints").iterdir() if p.name.isdigit()] == [2]
    state, _ = broken()
    assert same(state, whole)
    assert rows(broken) == rows(training)


def test_a_finished_run_is_not_trained_again(training):
    whole, _ = training()
    before = rows(training)
    state, facts = dataclasses.replace(training, stream=killing(0))()
    assert same(state, whole)
    assert facts["steps"] == 12
    assert rows(training) == before


def test_what_is_logged(training):
    training()
    logged = rows(training)
    assert [row["step"] for row in logged if row["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in logged if row["split"] == "val"] == [4, 8, 12]
    train = [row for row in logged if row["split"] == "train"]
    assert [row["epoch"] for row in train] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    # Row of step s is batch s - 1: the noise is within .01 of the batch's own mean.
    for row in train:
        assert abs(row["brightness"] - batch_at(row["step"] - 1)["image"].mean()) < 0.01
        assert row["loss"] > 0
        assert row["grad_norm"] > 0


def test_tensorboard_holds_the_same_numbers(training):
    """Its files are TFRecords: length (8 bytes), crc (4), an Event, crc (4)."""
    from tensorboardX.proto.event_pb2 import Event

    training()
    (file,) = (training.path / "tensorboard").iterdir()
    content, read = file.read_bytes(), {}
    while content:
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]
        read |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    logged = rows(training)
    assert len(logged) == 9
    for row in logged:
        for name in ("loss", "brightness") if row["split"] == "train" else ("loss",):
            np.testing.assert_allclose(read[f"{row['split']}/{name}", row["step"]], row[name], 1e-6)


def test_best_is_chosen_by_the_evaluation(training):
    losses = {4: 2.0, 8: 1.0, 12: 3.0}
    dataclasses.replace(training, evaluate=lambda s: {"loss": losses[int(s.step)]})()
    kept = {int(p.name) for p in (training.path / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {8, 12}


def test_patience_stops_early_also_after_a_resume(tmp_path, training):
    losses = {4: 2.0, 8: 1.0, 12: 1.5, 16: 1.2, 20: 9.0, 24: 0.1}
    early = dataclasses.replace(
        training, total=24, patience=2, evaluate=lambda s: {"loss": losses[int(s.step)]}
    )
    state, facts = early()
    assert (int(state.step), facts["stopped_early"]) == (16, True)
    again = dataclasses.replace(early, path=tmp_path / "again")
    with pytest.raises(Killed):
        dataclasses.replace(again, stream=killing(14))()
    assert same(again()[0], state)
    state, facts = dataclasses.replace(early, stream=killing(0))()
    assert facts["stopped_early"]


def test_a_loss_that_is_not_finite_stops_with_step_and_checkpoint(training):
    def poisoned(model, batch, key, step):
        loss, metrics = classify(model, batch, key, step)
        return jnp.where(step == 5, jnp.inf, loss), metrics

    bad = dataclasses.replace(training, loss=poisoned)
    message = r"not finite at step 5; the last good checkpoint is step 4"
    with pytest.raises(NonFiniteLoss, match=message):
        bad()
    newest = max(p for p in (training.path / "checkpoints").iterdir() if p.name.isdigit())
    assert newest.name == "4"
    good, _ = training()  # resumed by a sane loss from a finite state
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(good.params))


@pytest.mark.parametrize("how", ["signal", "time"])
def test_no_save_between_validations_is_of_a_bad_step(training, how):
    """The step that went wrong is the second; the next validation would be after the fourth."""

    def poisoned(model, batch, key, step):
        loss, metrics = classify(model, batch, key, step)
        return jnp.where(step == 1, jnp.nan, loss), metrics

    asked = stopping(2, signal.SIGTERM) if how == "signal" else training.stream
    seconds = 0.0 if how == "time" else 1e9
    bad = dataclasses.replace(
        training, loss=poisoned, stream=asked, save_seconds=seconds, log_every=1 + (how == "time")
    )
    with pytest.raises(NonFiniteLoss, match=r"not finite at step 1; the last good .* is none"):
        bad()
    assert not [p for p in (bad.path / "checkpoints").iterdir() if p.name.isdigit()]


def test_weights_that_are_not_finite_are_not_saved(training):
    """Loss and gradient of the only step are finite, the optimizer's update is not."""
    with pytest.raises(NonFiniteLoss, match="weights or statistics were not finite after step 1"):
        dataclasses.replace(training, optimizer=optax.scale(jnp.inf), evaluate_every=1)()
    assert not [p for p in (training.path / "checkpoints").iterdir() if p.name.isdigit()]


def test_a_validation_that_is_not_finite_ends_the_run_before_its_save(training):
    losses = {4: 1.0, 8: float("nan")}
    message = "validation loss was not finite after step 8; the last good checkpoint is step 4"
    with pytest.raises(NonFiniteLoss, match=message):
        dataclasses.replace(training, evaluate=lambda s: {"loss": losses[int(s.step)]})()
    kept = [int(p.name) for p in (training.path / "checkpoints").iterdir() if p.name.isdigit()]
    assert kept == [4]


def test_best_is_what_the_method_names_and_never_nan(training):
    """More is better here; the lowest loss and the last step are others."""
    found = {4: (0.1, float("nan")), 8: (3.0, 0.9), 12: (2.0, 0.5)}

    def evaluate(state):
        loss, accuracy = found[int(state.step)]
        return {"loss": loss, "accuracy": accuracy}

    run = dataclasses.replace(training, evaluate=evaluate, best=("accuracy", "max"))
    run()
    with Checkpoints(run.path / "checkpoints") as checkpoints:
        assert checkpoints.best_step() == 8


def test_a_plain_line_where_there_is_no_terminal(training, capsys):
    training()
    out = capsys.readouterr().out
    assert "step 8/12, epoch 2.0: train loss" in out
    assert out.startswith("compiling the training step ...\n")
    assert "images/s" in out
    assert "left | validation loss" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_what_compiles_and_how_validation_went(training, monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    training()
    frames = screen.getvalue().split("\r")
    assert any("0/12" in one and "compiling" in one for one in frames)
    assert any("validating" in one for one in frames)
    assert not any("compiling" in one for one in frames[len(frames) // 2 :])
    assert "left, train loss" in screen.getvalue()
    assert capsys.readouterr().out.count("| validation loss") == 3


def test_the_time_left_is_of_steps_and_validations_without_what_compiles(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    clock, idle = progress.Clock({}), types.SimpleNamespace(step=jnp.int32(0))
    assert math.isnan(clock.seconds_left(5, 0))
    for took in (60.0, 2.0, 2.0):  # the first step compiles, and so does the first validation
        began = now[0]
        now[0] += took
        clock.stepped(idle, 1, 16, began)
    for took, more in ((30.0, 0), (5.0, 3 * 5)):
        with clock.evaluating():
            now[0] += took
        assert clock.seconds_left(10, 3) == 10 * 2 + more
    assert clock.images_per_second() == 8


def test_config_records_where_numbers_come_from(training):
    training()
    record = json.loads((training.path / "config.json").read_text())
    assert record["config"] == {"seed": 0}
    assert record["versions"]["jax"] == jax.__version__
    assert {"command", "commit", "machine", "started"} <= record.keys()


def long(model, batch, key, step):
    """A loss whose step takes some tenths of a second."""
    loss, metrics = classify(model, batch, key, step)
    busy = jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x @ x), jnp.ones((600, 600)))
    return loss + 0 * busy.sum(), metrics


@pytest.fixture
def dispatched(monkeypatch):
    """The step counter of each state that a step will give, as soon as it was dispatched."""
    steps, call = [], TrainStep.__call__

    def recorded(self, *arguments):
        state, metrics = call(self, *arguments)
        steps.append(state.step)
        return state, metrics

    monkeypatch.setattr(TrainStep, "__call__", recorded)
    return steps


def test_the_next_batch_is_sent_while_a_step_runs(training, dispatched):
    """No step is waited for: the batch after the next is asked for before the step has ended."""
    ready = []

    def stream(start: int):
        while True:
            if start >= 2:  # the first step is waited for: it compiles
                ready.append(dispatched[-1].is_ready())
            yield batch_at(start)
            start += 1

    often = {"total": 6, "log_every": 6, "evaluate_every": 6}
    dataclasses.replace(training, **often, loss=long, stream=stream)()
    assert ready == [False] * 4


def test_the_share_of_time_spent_waiting_for_batches_is_logged(tmp_path, training, dispatched):
    """A stream that leaves the devices idle, and one that never does."""

    def late(step: int):
        while True:
            jax.block_until_ready(dispatched[-1:])
            time.sleep(0.1)
            yield batch_at(step)
            step += 1

    shares = {}
    for name, stream in (("late", late), ("ready", lambda step: iter([batch_at(0)] * 20))):
        run = dataclasses.replace(training, path=tmp_path / name, stream=stream)
        run()
        found = read_metrics(run.path / "metrics.jsonl")
        shares[name] = [row["input_wait"] for row in found if row["split"] == "train"][1:]
    assert len(shares["late"]) == len(shares["ready"]) == 5
    assert all(0 < share <= 1 for share in shares["late"]), shares
    assert max(shares["ready"]) < min(shares["late"]), shares


def test_a_batch_that_comes_while_the_devices_are_busy_was_not_waited_for(training):
    """The loop is in the stream nearly all of the time, and the input keeps up."""

    def stream(step: int):
        while True:
            if step >= 2:  # the steps of the second line
                time.sleep(0.02)
            yield batch_at(step)
            step += 1

    dataclasses.replace(training, total=4, loss=long, stream=stream)()
    found = read_metrics(training.path / "metrics.jsonl")
    shares = {row["step"]: row["input_wait"] for row in found if row["split"] == "train"}
    assert shares[4] == 0


def test_the_wait_of_idle_devices_is_counted_but_before_a_dispatch_that_compiles(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    clock, idle = progress.Clock({}), types.SimpleNamespace(step=jnp.int32(0))
    busy = types.SimpleNamespace(step=types.SimpleNamespace(is_ready=lambda: False))
    dispatches = [
        (1, 5.0, 1.0, idle),
        (4, 5.0, 1.0, idle),
        (4, 1.0, 3.0, idle),
        (4, 4.0, 0.0, busy),
    ]
    for count, wait, step, state in dispatches:
        began = now[0]
        with clock.waiting(state):
            now[0] += wait
        now[0] += step
        clock.stepped(idle, count, 16, began)
    assert clock.input_wait() == 1 / 8
