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

from jaxssl.training import processes
from jaxssl.training.runs import RunFolder
from jaxssl.training.state import TrainState


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
        self._images = 0
        self._wait = self._waited = 0.0
        self._asked = time.monotonic()

    def stepped(self, state: TrainState, count: int, images: int, began: float) -> None:
        """Note a dispatch of `count` steps over `images` images, which began at `began`."""
        if count in self._compiled:
            self._images += images
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
        self._evaluate += time.monotonic() - begin
        self._apart += time.monotonic() - begin

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
    """Metrics to file and bar, read one interval late so that the device never waits."""

    def __init__(self, run: RunFolder, clock: Clock, *, total_steps: int, steps_per_epoch: int):
        self._run, self._clock = run, clock
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._pending: list[tuple[int, dict[str, jax.Array | float]]] = []
        self._shown = ""

    def __enter__(self) -> Log:
        self._bar = tqdm(
            total=self._total,
            unit="step",
            disable=not (processes.is_first() and sys.stderr.isatty()),
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}",
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def add(self, step: int, metrics: dict[str, jax.Array | float]) -> None:
        """Take a step's metrics; they are written when the next come."""
        self._write(self._pending)
        self._pending = [(step, metrics)]

    def flush(self) -> None:
        """Write what was taken, which waits for the device."""
        self._write(self._pending)
        self._pending = []

    def evaluated(self, step: int, row: Mapping[str, float]) -> None:
        """Write a validation's metrics; a line of them where there is no bar."""
        epoch = step / self._per_epoch
        self._run.log(step, epoch, "val", row)
        if self._bar.disable:
            values = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
            done = f"step {step}/{self._total}, epoch {epoch:.1f}"
            print(f"{done}: {self._shown}, {self._remaining(step)} | val: {values}", flush=True)

    def _write(self, rows: list[tuple[int, dict[str, jax.Array | float]]]) -> None:
        for step, metrics in rows:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self._run.log(step, step / self._per_epoch, "train", values)
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
        left = spent / step * (self._total - step)
        return f"{left / 60:.1f} min left" if left > 90 else f"{left:.0f} s left"
