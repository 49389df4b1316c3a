"""The loop of every study: step, log, evaluate, save, next; it knows no loss."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxssl.errors import NonFiniteLoss, Stopped
from jaxssl.training import processes
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.devices import Placement
from jaxssl.training.runs import RunFolder
from jaxssl.training.state import TrainState
from jaxssl.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Plan:
    """When things happen, all in steps but the time between saves.

    Attributes:
      total_steps: where training ends.
      steps_per_epoch: only names the epoch in what is logged.
      evaluate_every: steps between evaluations; each is followed by a save. The last step is
        evaluated too.
      log_every: steps between lines of `metrics.jsonl`.
      save_seconds: a save at the next logged step after so much time without one.
      patience: stop after so many evaluations without a better score; None: never.
      steps_per_dispatch: steps that go to the devices in one call, at least 1. Best a divisor of
        `log_every`: what is left before a step at which something happens goes step by step.
    """

    total_steps: int
    steps_per_epoch: int
    evaluate_every: int
    log_every: int
    save_seconds: float = 600.0
    patience: int | None = None
    steps_per_dispatch: int = 1

    def next_dispatch(self, step: int) -> int:
        """Steps that the next dispatch makes: `steps_per_dispatch`, or 1 where that would go past
        a step at which the loop logs, evaluates or ends.

        A function of the step alone: a resumed run, which begins where a dispatch ended, makes
        the same dispatches as one that was not stopped.

        Example:
          >>> plan = Plan(20, 5, evaluate_every=9, log_every=20, steps_per_dispatch=4)
          >>> [plan.next_dispatch(step) for step in (0, 4, 8, 9, 13, 17, 18, 19)]
          [4, 4, 1, 4, 4, 1, 1, 1]
        """
        ends = (self.total_steps, _next(step, self.log_every), _next(step, self.evaluate_every))
        return self.steps_per_dispatch if step + self.steps_per_dispatch <= min(ends) else 1

    def ends_epoch(self, step: int) -> bool:
        """Whether the evaluation at `step` is the first since an epoch ended, or the last of all.

        Example:
          >>> plan = Plan(total_steps=11, steps_per_epoch=5, evaluate_every=2, log_every=1)
          >>> [step for step in (2, 4, 6, 8, 10, 11) if plan.ends_epoch(step)]
          [6, 10, 11]
        """
        before = max(step - self.evaluate_every, 0)
        return (
            step == self.total_steps
            or step // self.steps_per_epoch > before // self.steps_per_epoch
        )


def fit(
    state: TrainState,
    train_step: TrainStep,
    stream: Callable[[int], Iterable[Mapping[str, np.ndarray]]],
    evaluate: Callable[[TrainState], Mapping[str, float]],
    *,
    key: jax.Array,
    plan: Plan,
    placement: Placement,
    run: RunFolder,
    checkpoints: Checkpoints,
) -> tuple[TrainState, dict[str, Any]]:
    """Train to `plan.total_steps`, from the newest whole checkpoint where there is one.

    Each logged line says beside the step's metrics the share of the time since the line before
    that went into waiting for batches, `input_wait`: near 0 the input keeps up.

    The order of a step (with `plan.steps_per_dispatch`, of a dispatch, whose logged metrics are
    its last step's) is fixed: next batch, step, log, evaluate, save. Batches and keys are
    functions of the step, so a run that was stopped anywhere ends as one that was not.

    Args:
      state: the state before the first step, on the devices.
      train_step: from `make_train_step`.
      stream: `stream(step)` gives the batches from that step on.
      evaluate: `evaluate(state)` gives the validation metrics; `loss` (lower is better) decides
        which checkpoint is the best.
      key: root of the steps' random keys.
      plan: when things happen.
      placement: where batches go.
      run: open run folder.
      checkpoints: open checkpoints of that run.

    Returns:
      The last state, and facts: `steps`, `seconds` of training over all sessions (evaluation and
      first compilation within, given apart as `evaluate_seconds` and `first_step_seconds`),
      `images_per_second` of the steps alone in this session, `stopped_early`.

    Raises:
      Stopped: on SIGTERM, SIGINT or SIGUSR1 to any of the processes, after the state was saved by
        all at one step.
      NonFiniteLoss: within one log interval of the step; nothing is saved from then on.
    """
    state, facts = checkpoints.restore(state)
    step = int(state.step)
    history = [row for row in run.rewind(step) if row["split"] == "val"]
    clock = _Clock(facts)
    log = _Log(run, plan, clock)
    stopped_early = _out_of_patience(history, plan)
    if step >= plan.total_steps or stopped_early:
        return state, clock.facts(step) | {"stopped_early": stopped_early}

    with processes.stop_signals() as stopped, log:
        batches = iter(stream(step))
        while step < plan.total_steps and not stopped_early:
            count, began = plan.next_dispatch(step), time.monotonic()
            with clock.waiting():
                read = [next(batches) for _ in range(count)]
            if count == 1:
                batch = placement.put(read[0])
                state, metrics = train_step(state, batch, key)
            else:
                batch = placement.put_stacked(read)
                state, metrics = train_step.several(state, batch, key)
            step += count
            clock.stepped(state, count, batch["label"].size, began)
            if step % plan.log_every == 0 or step == plan.total_steps:
                log.add(step, {**metrics, "input_wait": clock.input_wait()})
                checkpoints.poll()

            row = {}
            if step % plan.evaluate_every == 0 or step == plan.total_steps:
                log.flush()
                _check_finite(state, checkpoints)
                with clock.evaluating():
                    row = dict(evaluate(state))
                log.evaluated(step, row)
                history.append({"step": step, **row})
                stopped_early = _out_of_patience(history, plan)

            stop = stopped()
            overdue = step % plan.log_every == 0 and clock.save_overdue(plan.save_seconds)
            if row or overdue or stop:
                log.flush()
                _check_finite(state, checkpoints)
                checkpoints.save(step, state, clock.facts(step) | {"score": row.get("loss")})
                clock.saved()
            if stop and step < plan.total_steps:
                checkpoints.finish()
                raise Stopped(
                    f"stopped by {stop} after step {step} of {plan.total_steps}; "
                    f"the same command with --run-dir {run.path} goes on from there"
                )
    checkpoints.finish()
    return state, clock.facts(step) | {"stopped_early": stopped_early}


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after `step`."""
    return (step // every + 1) * every


def _check_finite(state: TrainState, checkpoints: Checkpoints) -> None:
    bad = int(state.first_bad_step)
    if bad < 0:
        return
    checkpoints.finish()
    good = checkpoints.steps()
    raise NonFiniteLoss(
        f"the loss or its gradient was not finite at step {bad}; the last good checkpoint is "
        + (f"step {good[-1]}" if good else "none")
        + ". Lower --learning-rate or raise --temperature, and start in another --run-dir"
    )


def _out_of_patience(history: list[dict[str, Any]], plan: Plan) -> bool:
    if plan.patience is None or not history:
        return False
    losses = [row["loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses)) >= plan.patience


class _Clock:
    """Wall times that survive a resume."""

    def __init__(self, facts: Mapping[str, Any]):
        self._before = float(facts.get("seconds", 0.0))
        self._evaluate = float(facts.get("evaluate_seconds", 0.0))
        self._first_step = facts.get("first_step_seconds")
        self._start = self._save = time.monotonic()
        self._steps_start: float | None = None
        self._compiled: set[int] = set()
        self._apart = 0.0
        self._images = 0
        self._waited = 0.0
        self._asked = time.monotonic()

    def stepped(self, state: TrainState, count: int, images: int, began: float) -> None:
        if count in self._compiled:
            self._images += images
            return
        # The first dispatch of a length compiles: timed apart, and the one wait of the loop.
        jax.block_until_ready(state.step)
        self._compiled.add(count)
        if self._steps_start is None:
            self._steps_start = self._asked = time.monotonic()
            self._waited = 0.0
            self._first_step = self._first_step or self._steps_start - self._start
        else:
            self._apart += time.monotonic() - began

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._evaluate += time.monotonic() - begin
        self._apart += time.monotonic() - begin

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._waited += time.monotonic() - begin

    def input_wait(self) -> float:
        """The share of the time since it was last asked, but for compiling and evaluating, in
        which the loop waited for batches, 0 to 1."""
        now = time.monotonic() - self._apart
        share = min(self._waited / max(now - self._asked, 1e-9), 1.0)
        self._waited, self._asked = 0.0, now
        return share

    def images_per_second(self) -> float:
        if self._steps_start is None or not self._images:
            return math.nan
        return self._images / (time.monotonic() - self._steps_start - self._apart)

    def saved(self) -> None:
        self._save = time.monotonic()

    def save_overdue(self, seconds: float) -> bool:
        # One clock decides: a save needs all processes.
        return processes.from_first(lambda: time.monotonic() - self._save > seconds)

    def facts(self, step: int) -> dict[str, Any]:
        rate = self.images_per_second()
        return {
            "steps": step,
            "seconds": self._before + time.monotonic() - self._start,
            "evaluate_seconds": self._evaluate,
            "first_step_seconds": self._first_step,
            "images_per_second": None if math.isnan(rate) else rate,
        }


class _Log:
    """Metrics to file and bar, read one interval late so that the device never waits."""

    def __init__(self, run: RunFolder, plan: Plan, clock: _Clock):
        self._run, self._plan, self._clock = run, plan, clock
        self._pending: list[tuple[int, dict[str, jax.Array | float]]] = []
        self._shown = ""

    def __enter__(self) -> _Log:
        self._bar = tqdm(
            total=self._plan.total_steps,
            unit="step",
            disable=not (processes.is_first() and sys.stderr.isatty()),
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}",
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def add(self, step: int, metrics: dict[str, jax.Array | float]) -> None:
        self._write(self._pending)
        self._pending = [(step, metrics)]

    def flush(self) -> None:
        self._write(self._pending)
        self._pending = []

    def evaluated(self, step: int, row: Mapping[str, float]) -> None:
        epoch = step / self._plan.steps_per_epoch
        self._run.log(step, epoch, "val", row)
        if self._bar.disable:
            values = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
            done = f"step {step}/{self._plan.total_steps}, epoch {epoch:.1f}"
            print(f"{done}: {self._shown}, {self._remaining(step)} | val: {values}", flush=True)

    def _write(self, rows: list[tuple[int, dict[str, jax.Array | float]]]) -> None:
        for step, metrics in rows:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self._run.log(step, step / self._plan.steps_per_epoch, "train", values)
            self._shown = f"loss {values['loss']:.3f}"
            if "chance" in values:
                self._shown += f" (chance {values['chance']:.2f})"
            rate = self._clock.images_per_second()
            if not math.isnan(rate):
                self._shown += f", {rate:,.0f} images/s"
            self._bar.n = step
            self._bar.set_postfix_str(self._shown)

    def _remaining(self, step: int) -> str:
        spent = self._clock.facts(step)["seconds"]
        left = spent / step * (self._plan.total_steps - step)
        return f"{left / 60:.1f} min left" if left > 90 else f"{left:.0f} s left"
