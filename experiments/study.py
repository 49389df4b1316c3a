"""What every study does once its data, model and method stand: train, validate, judge."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import judging, protocol
from experiments.images import Data
from experiments.protocol import Protocol
from jaxssl.analysis import figures, report, results
from jaxssl.analysis.probes import knn_accuracy
from jaxssl.augment.views import View, to_float, two_views
from jaxssl.data.streams import train_stream
from jaxssl.errors import InputError
from jaxssl.models import Embedder
from jaxssl.training import processes
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.devices import Placement
from jaxssl.training.loop import Plan, fit
from jaxssl.training.runs import RunFolder
from jaxssl.training.state import TrainState, create_state
from jaxssl.training.step import Method, make_eval_step, make_train_step

KNN_BANK = 2000
# Hears the numbers of every validation; what it raises ends the run.
OnValidation = Callable[[Mapping[str, float]], None]


def run(
    config: Protocol,
    data: Data,
    model: Embedder,
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    name: str,
    distance: Literal["euclidean", "angular"],
    plan: Plan,
    placement: Placement,
    view: View | None = None,
    validate_by: Method | None = None,
    sampling: Mapping[str, Any] | None = None,
    classify: judging.Output | None = None,
    on_validation: OnValidation | None = None,
) -> None:
    """Train from wherever the run folder stands, then judge and report.

    Args:
      config: the study's flags.
      data: its images.
      model: encoder and head, as first made.
      method: `(model, batch, key, step) -> (loss, metrics)`, for training and validation.
      optimizer: of the trainable parameters.
      name: the study's, in the run folder.
      distance: the one the embedding is trained for.
      plan: when the loop evaluates, saves and ends.
      placement: where batches and state live.
      view: the recipe of the views, for their picture in the report; None: images as they are.
      validate_by: the method on validation images, where it is not `method`.
      sampling: how batches are drawn, options of `train_stream`.
      classify: `(model, images) -> logits`, where the model is a classifier to be judged as one.
      on_validation: given, the run is a trial of settings (`experiments.tune`): it is told every
        validation and may end the run by raising, and the run is neither judged nor reported.
    """
    stream = functools.partial(
        train_stream,
        data.train,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        pixels=not config.resident,
        **(sampling or {}),
    )
    stream()  # batches that cannot be drawn are refused before anything is written
    initial = protocol.load_pretrained(config, model.encoder)
    print(f"encoder: {initial}", flush=True)
    if processes.count() > 1:
        _check_together(data, model, on_validation)
        placement.meet()
    encode = judging.compile_encode(model, placement)
    validate = _validation(model, validate_by or method, encode, data, placement, config, plan)

    def evaluate(state: TrainState) -> dict[str, float]:
        row = validate(state)
        if on_validation is not None:
            on_validation(row)
        return row

    with (
        protocol.open_run(config, name, data, initial) as folder,
        Checkpoints(
            folder.path / "checkpoints",
            keep_every=round(config.keep_every * plan.steps_per_epoch),
        ) as checkpoints,
    ):
        if processes.is_first():
            _save_what_goes_in(folder, data, view, config.seed)
        images = None
        if config.resident:
            images = placement.reside((len(data.train), *data.train.shape), data.train.images)
        last, training = fit(
            placement.replicate(create_state(model, optimizer)),
            make_train_step(model, optimizer, method, placement, images=images),
            lambda step: stream(start_step=step),
            evaluate,
            key=jax.random.key(config.seed),
            plan=plan,
            placement=placement,
            run=folder,
            checkpoints=checkpoints,
        )
        if on_validation is not None:
            return
        judging.judge(
            config,
            folder,
            data,
            encode,
            placement,
            checkpoints,
            last=last,
            untrained=placement.replicate(create_state(model, optimizer)),
            distance=distance,
            training=training,
            classify=classify and judging.compile_encode(model, placement, classify),
        )


def augmented(key: jax.Array, images: jax.Array, view: View | None) -> jax.Array:
    """One view of each image, float32 [b, h, w, c]; as they are where `view` is None."""
    if view is None:
        return to_float(images)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(images)))
    return jax.vmap(view)(keys, to_float(images))


def _validation(
    model: Embedder,
    method: Method,
    encode: judging.Encode,
    data: Data,
    placement: Placement,
    config: Protocol,
    plan: Plan,
) -> Callable[[TrainState], dict[str, float]]:
    """`validate(state) -> {"loss": ..., "knn_accuracy": ..., ...}` on the validation images.

    Loss and metrics are the method's own in evaluation mode, with the same keys every time, as
    means over batches of equal size, whose chance level is therefore one number. `knn_accuracy`,
    at most once an epoch, is of the representation h on the seen classes, against at most 2,000
    training images.
    """
    measure = make_eval_step(
        model, lambda model, batch, key: method(model, batch, key, jnp.zeros((), int)), placement
    )
    random = np.random.default_rng(0)
    many = placement.device_count
    size = min(config.batch_size, len(data.val)) // many * many
    if not size:
        raise InputError(
            f"{len(data.val)} validation images cannot be split over {many} devices: use fewer "
            "devices or more images"
        )
    order = random.permutation(len(data.val))[: len(data.val) // size * size]
    batches = [data.val.batch(rows[placement.part(size)]) for rows in order.reshape(-1, size)]
    bank = data.train.subset(np.sort(random.permutation(len(data.train))[:KNN_BANK]))

    def validate(state: TrainState) -> dict[str, float]:
        rows = []
        for i, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(config.seed), i)
            loss, metrics = measure(state, placement.put(batch), key)
            rows.append({"loss": loss, **metrics})
        rows = jax.device_get(rows)
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        if plan.ends_epoch(int(state.step)):
            h_bank = judging.embed(encode, state, bank, placement)
            h_val = judging.embed(encode, state, data.val, placement)
            means["knn_accuracy"] = knn_accuracy(h_bank, bank.labels, h_val, data.val.labels, k=20)
        verdict = report.health([means], {})
        if verdict["state"] == "collapsed":
            print(f"warning: the projections z have collapsed. {verdict['text']}", flush=True)
        return means

    return validate


def _check_together(data: Data, model: Embedder, on_validation: OnValidation | None) -> None:
    """Processes that would each train something else are stopped before the first step."""
    if on_validation is not None:
        raise InputError("tuning runs as one process: start it without --processes and srun")
    weights = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(model))):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        weights.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    processes.check_same(
        {
            "the fingerprint of the images": data.fingerprint[:12],
            "that of the initial weights": weights.hexdigest()[:12],
        },
        "all need the same files in --data-dir and --pretrained",
    )


def _save_what_goes_in(run: RunFolder, data: Data, view: View | None, seed: int) -> None:
    """`report/views.png`, x, t1(x), t2(x) of a few training images; `skipped.json` of bad files."""
    if data.skipped:
        results.write_json(run.path / "skipped.json", data.skipped)
    if view is None:
        return
    images = data.train
    rows = np.random.default_rng(seed).permutation(len(images))[:8]
    originals = np.stack([images[i]["image"] for i in rows])
    views = two_views(jax.random.key(seed), jnp.asarray(originals), view)
    drawn = [np.asarray(np.round(255 * v), np.uint8) for v in jax.device_get(views)]
    (run.path / "report").mkdir(exist_ok=True)
    figures.save_png(figures.view_sheet(originals, *drawn), run.path / "report" / "views.png")
