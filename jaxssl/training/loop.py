"""The loop of every study: step, log, evaluate, save, next; it knows no loss."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxssl.errors import NonFiniteLoss, Stopped, setting
from jaxssl.training import processes
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.devices import Placement
from jaxssl.training.dispatch import TrainStep
from jaxssl.training.plan import Plan
from jaxssl.training.progress import Clock, Log
from jaxssl.training.runs import RunFolder
from jaxssl.training.state import TrainState, all_finite


@dataclasses.dataclass(frozen=True)
class Work:
    """What a loop does at its steps.

    Attributes:
      train_step: From `make_train_step`.
      stream: `stream(step)` gives the batches from that step on.
      evaluate: `evaluate(state)` gives the validation numbers by name.
      key: Root of the steps' random keys.
      score: Rates a validation, lower is better; None: it cannot be the best. `Method.score`.
    """

    train_step: TrainStep
    stream: Callable[[int], Iterable[Mapping[str, np.ndarray]]]
    evaluate: Callable[[TrainState], Mapping[str, float]]
    key: jax.Array
    score: Callable[[Mapping[str, float]], float | None]


def fit(
    state: TrainState,
    work: Work,
    *,
    plan: Plan,
    placement: Placement,
    run: RunFolder,
    checkpoints: Checkpoints,
) -> tuple[TrainState, dict[str, Any]]:
    """Train to `plan.total_steps`, from the newest whole checkpoint where there is one.

    Each logged line has, beside the step's metrics, `input_wait`: the fraction of the time since
    the line before, without compilation and evaluation, that the devices sat idle waiting for
    input. Near 0 the input keeps up.

    Between evaluations the host never waits for the devices, except that writing a log line waits
    for the step logged before it, and that it stays within a few steps of several CPU devices
    (`dispatch.Pace`): batches are read and sent while the devices make earlier steps.

    The order of a step (with `plan.steps_per_dispatch`, of a dispatch, whose logged metrics are
    its last step's) is fixed: next batch, step, log, evaluate, save. Batches and keys are
    functions of the step, so a run that was stopped anywhere ends as one that was not.

    Args:
      state: The state before the first step, on the devices.
      work: What is done at a step and at an evaluation.
      plan: When things happen.
      placement: Where batches go.
      run: Open run folder.
      checkpoints: Open checkpoints of that run.

    Returns:
      The last state, and facts: `steps`, `seconds` of training over all sessions (evaluation and
      first compilation within, given apart as `evaluate_seconds` and `first_step_seconds`),
      `images_per_second` of the steps alone in this session, `stopped_early`.

    Raises:
      Stopped: on SIGTERM, SIGINT or SIGUSR1 to any of the processes, after the state was saved by
        all at one step. At the last step too: resumed, it returns at once.
      NonFiniteLoss: The loss, its gradient or the state it left was not finite, found at the next
        evaluation or save, or a validation's loss was not; nothing is saved from then on.
    """
    state, facts = checkpoints.restore(state)
    step = int(state.step)
    history = [row for row in run.rewind(step, facts.get("lines")) if row["split"] == "val"]
    clock = Clock(facts)
    log = Log(run, clock, plan)
    stopped_early = _out_of_patience(history, work, plan)
    if step >= plan.total_steps or stopped_early:
        return state, clock.facts(step) | {"stopped_early": stopped_early}

    with processes.stop_signals() as stopped, log:
        batches = iter(work.stream(step))
        while step < plan.total_steps and not stopped_early:
            count, began = plan.next_dispatch(step), time.monotonic()
            with clock.waiting(state):
                read = [next(batches) for _ in range(count)]
            with log.stepping(step, count):
                if count == 1:
                    batch = placement.put(read[0])
                    state, metrics = work.train_step(state, batch, work.key)
                else:
                    batch = placement.put_stacked(read)
                    state, metrics = work.train_step.several(state, batch, work.key)
                clock.stepped(state, count, batch["label"].size, began)
            step += count
            if step % plan.log_every == 0 or step == plan.total_steps:
                log.add(step, {**metrics, "input_wait": clock.input_wait()})
                checkpoints.poll()

            row = {}
            if step % plan.evaluate_every == 0 or step == plan.total_steps:
                log.flush()
                _check_finite(state, checkpoints)
                with log.busy("validating"), clock.evaluating():
                    row = dict(work.evaluate(state))
                log.evaluated(step, row)
                if not math.isfinite(row.get("loss", 0.0)):
                    what = f"the validation loss was not finite after step {step}"
                    raise _not_finite(what, checkpoints)
                history.append({"step": step, **row})
                stopped_early = _out_of_patience(history, work, plan)

            stop = stopped()
            overdue = step % plan.log_every == 0 and clock.save_overdue(plan.save_seconds)
            if row or overdue or stop:
                log.flush()
                _check_finite(state, checkpoints)
                score = work.score(row) if row else None
                told = {"score": score, "lines": run.lines}
                checkpoints.save(step, state, clock.facts(step) | told)
                clock.saved()
            if stop:
                checkpoints.finish()
                raise Stopped(
                    f"stopped by {stop} after step {step} of {plan.total_steps}; {run.again}"
                )
    checkpoints.finish()
    return state, clock.facts(step) | {"stopped_early": stopped_early}


def _check_finite(state: TrainState, checkpoints: Checkpoints) -> None:
    """Refuse to go on from, or to save, a state with a number that is not finite."""
    bad = int(state.first_bad_step)
    if bad < 0 and all_finite(state):
        return
    what = f"the loss or its gradient was not finite at step {bad}"
    if bad < 0:
        # A finite loss and gradient say nothing of the running statistics or the updated weights.
        what = f"the weights or statistics were not finite after step {int(state.step)}"
    raise _not_finite(what, checkpoints)


def _not_finite(what: str, checkpoints: Checkpoints) -> NonFiniteLoss:
    checkpoints.finish()
    good = checkpoints.steps()  # a state that is not finite was never saved
    return NonFiniteLoss(
        f"{what}; the last good checkpoint is {f'step {good[-1]}' if good else 'none'}. Lower the "
        f"learning rate{setting('learning_rate', form=' ({})')} or raise the temperature"
        f"{setting('temperature', form=' ({})')}, and start in another run folder"
        f"{setting('run_dir', form=' ({})')}"
    )


def _out_of_patience(history: list[dict[str, Any]], work: Work, plan: Plan) -> bool:
    if plan.patience is None or not history:
        return False
    scores = [math.inf if (s := work.score(row)) is None else s for row in history]
    return len(scores) - 1 - scores.index(min(scores)) >= plan.patience
