"""What a run tells while it trains: times that survive a resume, and lines for file and screen."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm

from jaxssl.training import bars, processes
from jaxssl.training.plan import Plan
from jaxssl.training.runs import RunFolder
from jaxssl.training.state import TrainState

_LOSS = ("loss", "chance")


class Clock:
    """Wall times that survive a resume."""

    def __init__(self, facts: Mapping[str, Any]):
        self._before = float(facts.get("seconds", 0.0))
        self._evaluate = float(facts.get("evaluate_seconds", 0.0))
        self._first_step = facts.get("first_step_seconds")
        self._start = self._save = time.monotonic()
        self._steps_start: float | None = None
        self._compiled: set[int] = set()
        self._apart = 0.0
        self._images = self._steps = 0
        self._evaluations: list[float] = []
        self._wait = self._waited = 0.0
        self._asked = time.monotonic()

    def compiles(self, count: int) -> bool:
        """Tell whether a dispatch of `count` steps is the first of its length, which compiles."""
        return count not in self._compiled

    def stepped(self, state: TrainState, count: int, images: int, began: float) -> None:
        """Note a dispatch of `count` steps over `images` images, which began at `began`."""
        if not self.compiles(count):
            self._images += images
            self._steps += count
            self._waited += self._wait
            return
        # The first dispatch of each length compiles: timed apart, and the only one waited for.
        jax.block_until_ready(state.step)
        self._compiled.add(count)
        if self._steps_start is None:
            self._steps_start = self._asked = time.monotonic()
            self._first_step = self._first_step or self._steps_start - self._start
        else:
            self._apart += time.monotonic() - began

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Time an evaluation, which does not count as training."""
        begin = time.monotonic()
        yield
        took = time.monotonic() - begin
        self._evaluate += took
        self._apart += took
        self._evaluations.append(took)

    @contextlib.contextmanager
    def waiting(self, state: TrainState) -> Iterator[None]:
        """Time the wait for a batch; it counts if the devices had finished `state` by its end."""
        begin = time.monotonic()
        yield
        idle = state.step.is_ready()  # type: ignore[attr-defined]  # every jax.Array has it
        self._wait = time.monotonic() - begin if idle else 0.0

    def input_wait(self) -> float:
        """Return the fraction of the time that the devices sat idle waiting for input.

        Of the time since the last call, without compilation and evaluation; 0 to 1.
        """
        now = time.monotonic() - self._apart
        share = min(self._waited / max(now - self._asked, 1e-9), 1.0)
        self._waited, self._asked = 0.0, now
        return share

    def images_per_second(self) -> float:
        """Return the images per second of this session's training steps; NaN before the first."""
        if self._steps_start is None or not self._images:
            return math.nan
        return self._images / (time.monotonic() - self._steps_start - self._apart)

    def seconds_left(self, steps: int, evaluations: int) -> float:
        """Return how long so many steps and evaluations take, without compilation.

        As those of this session took; its first evaluation compiles and is left out. NaN before
        the first step that did not compile.
        """
        if self._steps_start is None or not self._steps:
            return math.nan
        step = (time.monotonic() - self._steps_start - self._apart) / self._steps
        evaluation = min(self._evaluations[1:], default=0.0)
        return steps * step + evaluations * evaluation

    def saved(self) -> None:
        """Note that the state is on disk."""
        self._save = time.monotonic()

    def save_overdue(self, seconds: float) -> bool:
        """Tell whether the last save is more than `seconds` ago, the same in all processes."""
        # One clock decides: a save needs all processes.
        return processes.from_first(lambda: time.monotonic() - self._save > seconds)

    def facts(self, step: int) -> dict[str, Any]:
        """Collect the facts for the next session and the results."""
        rate = self.images_per_second()
        return {
            "steps": step,
            "seconds": self._before + time.monotonic() - self._start,
            "evaluate_seconds": self._evaluate,
            "first_step_seconds": self._first_step,
            "images_per_second": None if math.isnan(rate) else rate,
        }


class Log:
    """Metrics to file and bar, read one interval late so that the device never waits.

    Args:
      run: Open run folder.
      clock: Of the session.
      plan: When training ends and evaluates.
    """

    def __init__(self, run: RunFolder, clock: Clock, plan: Plan):
        self._run, self._clock, self._plan = run, clock, plan
        self._pending: list[tuple[int, dict[str, jax.Array | float]]] = []
        self._shown = ""
        self._said = time.monotonic()

    def __enter__(self) -> Log:
        # tqdm's own time left would count compilation and the sessions before.
        self._bar = tqdm(
            total=self._plan.total_steps,
            unit="step",
            disable=not (processes.is_first() and sys.stderr.isatty()),
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._lines = processes.is_first() and self._bar.disable  # a log has no bar
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say on the bar what the devices do instead of steps; what it showed comes back."""
        before = self._bar.postfix if not self._bar.disable else ""
        self._bar.set_postfix_str(what)
        yield
        self._bar.set_postfix_str(before or "")

    def stepping(self, step: int, count: int) -> contextlib.AbstractContextManager[None]:
        """Say that it compiles, where the dispatch of `count` steps after `step` does."""
        if not self._clock.compiles(count):
            return contextlib.nullcontext()
        self._bar.n = step
        if self._lines:  # it may take half a minute
            print("compiling the training step ...", flush=True)
        return self.busy("compiling")

    def add(self, step: int, metrics: dict[str, jax.Array | float]) -> None:
        """Take a step's metrics; they are written when the next come."""
        self._write(self._pending)
        self._pending = [(step, metrics)]

    def flush(self) -> None:
        """Write what was taken, which waits for the device."""
        self._write(self._pending)
        self._pending = []

    def evaluated(self, step: int, row: Mapping[str, float]) -> None:
        """Write a validation's metrics, and a line of them, above the bar where there is one."""
        self._run.log(step, step / self._plan.steps_per_epoch, "val", row)
        if not processes.is_first():
            return
        told = [_loss("validation", row)]
        told += [f"{n.replace('_', ' ')} {v:.3f}" for n, v in row.items() if n not in _LOSS]
        self._say(step, ", ".join(filter(None, told)))

    def _write(self, rows: list[tuple[int, dict[str, jax.Array | float]]]) -> None:
        for step, metrics in rows:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self._run.log(step, step / self._plan.steps_per_epoch, "train", values)
            self._shown = _loss("train", values)
            rate = self._clock.images_per_second()
            if not math.isnan(rate):
                self._shown += f", {rate:,.0f} images/s"
            self._bar.n = step
            self._bar.set_postfix_str(", ".join(filter(None, (self._left(step), self._shown))))
            # A line a minute, between those of validations.
            if self._lines and time.monotonic() - self._said >= bars.LINE_SECONDS:
                self._say(step)

    def _say(self, step: int, more: str = "") -> None:
        plan = self._plan
        done = f"step {step}/{plan.total_steps}, epoch {step / plan.steps_per_epoch:.1f}"
        now = ", ".join(filter(None, (self._shown, self._left(step))))
        said = " | ".join(filter(None, (now, more)))  # before the first step's, none of training
        self._bar.write(f"{done}: {said}", file=sys.stdout)
        sys.stdout.flush()
        self._said = time.monotonic()

    def _left(self, step: int) -> str:
        steps = self._plan.total_steps - step
        evaluations = self._plan.evaluations_after(step)
        left = self._clock.seconds_left(steps, evaluations)
        return "" if math.isnan(left) else bars.time_left(left)


def _loss(part: str, row: Mapping[str, float]) -> str:
    """Name a part's loss, with its chance level where there is one; "" without a loss."""
    if "loss" not in row:
        return ""
    chance = f" (chance {row['chance']:.2f})" if "chance" in row else ""
    return f"{part} loss {row['loss']:.3f}{chance}"
