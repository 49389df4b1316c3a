"""What a study watches while it trains: when it validates, and on what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jaxssl import analysis, training
from jaxssl.analysis.health import health
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments import config
    from experiments.datasets import Data
    from experiments.folders import Run

KNN_BANK = 2000


def plan_of(settings: config.Training, data: Data, method: training.Method) -> training.Plan:
    """Plan when the loop evaluates, saves and ends."""
    import jax

    # A checkpoint is saved with each validation: as often as one is to be kept.
    evaluate_epochs = min(settings.evaluate_epochs, settings.keep_every or math.inf)
    return training.Plan(
        total_steps=min(data.total_steps, settings.steps or data.total_steps),
        steps_per_epoch=data.steps_per_epoch,
        evaluate_every=max(1, round(evaluate_epochs * data.steps_per_epoch)),
        log_every=settings.log_every,
        save_seconds=60 * settings.save_minutes,
        patience=method.patience,
        # A CPU is its own host, and its steps are long: Ctrl-C waits for a dispatch, and a second
        # program is compiled. By XLA's own convolutions a loop is 3 to 16 times slower, by oneDNN's
        # up to a twentieth quicker (BENCHMARKS.md).
        steps_per_dispatch=1 if jax.default_backend() == "cpu" else settings.steps_per_dispatch,
    )


def validation(
    run: Run, data: Data, method: training.Method, plan: training.Plan
) -> Callable[[training.TrainState], dict[str, float]]:
    """Make `validate(state) -> {"loss": ..., "knn_accuracy": ..., ...}` on the validation images.

    Loss and metrics are the method's own in evaluation mode, with the same keys every time, as
    means over batches of equal size, whose chance level is therefore one number; a few images that
    do not fill one are left out, the same ones on 1 to 8 devices. `knn_accuracy`,
    at most once an epoch, is of the representation h on the seen classes, against at most 2,000
    training images.
    """
    import jax

    from jaxssl import embedding

    placement, seed = run.placement, run.config.seed
    measure = training.make_eval_step(method.model, method.validate or method.loss, placement)
    encode = embedding.compile_output(method.model, method.encode, placement)
    random = np.random.default_rng(0)
    many, most = placement.device_count, min(run.config.batch_size, len(data.val))
    # One number on 1, 2, 4 and 8 devices: a run that goes on with others compares like with like.
    even = math.lcm(many, 8)
    size = most // even * even or most // many * many
    if not size:
        raise InputError(
            f"{len(data.val)} validation images cannot be split over {many} devices: use fewer "
            "devices or more images"
        )
    order = random.permutation(len(data.val))[: len(data.val) // size * size]
    batches = [data.val.batch(rows[placement.part(size)]) for rows in order.reshape(-1, size)]
    labelled = data.train.labelled()
    bank = labelled.subset(np.sort(random.permutation(len(labelled))[:KNN_BANK]))

    def validate(state: training.TrainState) -> dict[str, float]:
        rows = []
        for i, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(seed), i)
            loss, metrics = measure(state, placement.put(batch), key)
            rows.append({"loss": loss, **metrics})
        rows = jax.device_get(rows)
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        if plan.ends_epoch(int(state.step)) and len(bank):
            h_bank = embedding.embed_set(encode, state, bank, placement)
            h_val = embedding.embed_set(encode, state, data.val, placement)
            # Where it is not finite the loop says so of the state, and ends the run.
            if np.isfinite(h_bank).all() and np.isfinite(h_val).all():
                means["knn_accuracy"] = analysis.knn_accuracy(
                    h_bank, bank.labels, h_val, data.val.labels, k=20
                )
        verdict = health([means], {})
        if verdict.state == "collapsed":
            print(f"warning: the embedding has collapsed. {verdict.text}", flush=True)
        return means

    return validate
