"""When a loop logs, evaluates, saves and ends."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plan:
    """When things happen, all in steps but the time between saves.

    Attributes:
      total_steps: where training ends.
      steps_per_epoch: only names the epoch in what is logged.
      evaluate_every: steps between evaluations; each is followed by a save. The last step is
        evaluated too.
      log_every: steps between lines of `metrics.jsonl`.
      save_seconds: after so long without a save, the next logged step saves.
      patience: stop after so many evaluations without a better score; None: never.
      steps_per_dispatch: steps that go to the devices in one call, at least 1. A divisor of
        `log_every` is best: steps left over before a log line or an evaluation go one by one.
    """

    total_steps: int
    steps_per_epoch: int
    evaluate_every: int
    log_every: int
    save_seconds: float = 600.0
    patience: int | None = None
    steps_per_dispatch: int = 1

    def next_dispatch(self, step: int) -> int:
        """Return how many steps the next dispatch makes.

        `steps_per_dispatch`, or 1 where so many would go past a step at which the loop logs,
        evaluates or ends.

        A function of the step alone: a resumed run, which begins where a dispatch ended, makes
        the same dispatches as one that was not stopped.

        Example:
          >>> plan = Plan(20, 5, evaluate_every=9, log_every=20, steps_per_dispatch=4)
          >>> [plan.next_dispatch(step) for step in (0, 4, 8, 9, 13, 17, 18, 19)]
          [4, 4, 1, 4, 4, 1, 1, 1]
        """
        ends = (self.total_steps, _next(step, self.log_every), _next(step, self.evaluate_every))
        return self.steps_per_dispatch if step + self.steps_per_dispatch <= min(ends) else 1

    def evaluations_after(self, step: int) -> int:
        """Return how many evaluations come after `step`.

        Example:
          >>> plan = Plan(total_steps=11, steps_per_epoch=5, evaluate_every=4, log_every=1)
          >>> [plan.evaluations_after(step) for step in (0, 3, 4, 8, 10, 11)]
          [3, 3, 2, 1, 1, 0]
        """
        last = step < self.total_steps and self.total_steps % self.evaluate_every > 0
        return self.total_steps // self.evaluate_every - step // self.evaluate_every + last

    def ends_epoch(self, step: int) -> bool:
        """Tell whether `step` has the first evaluation after an epoch's end, or the last of all.

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


def _next(step: int, every: int) -> int:
    """Return the first multiple of `every` after `step`."""
    return (step // every + 1) * every
