"""One compiled step, for one device or many; the only place where a model is put together again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxssl import lowering
from jaxssl.training.devices import Placement, Resident
from jaxssl.training.dispatch import Pace, TrainStep
from jaxssl.training.method import Batch, Method, Metrics
from jaxssl.training.state import TrainState, split


def make_train_step(
    method: Method, placement: Placement, *, images: Resident | None = None
) -> TrainStep:
    """Compile a method's loss and its optimizer's update into one step over the data mesh.

    The batch is sharded over the mesh and the state is replicated; because the step is one
    program over global arrays, the loss sees the negatives of all devices and BatchNorm the
    statistics of the global batch, with no collective written by hand. The state is donated.

    A loss or gradient that is not finite leaves the whole state as it was (BatchNorm's running
    statistics too) and marks the step in `first_bad_step`: no host sync is needed to protect it.

    Args:
      method: Its model gives the structure, whose variables are not read; its optimizer is told
        the batch's loss as `value`, for such as `optax.contrib.reduce_on_plateau`.
      placement: Where batch and state live.
      images: The training images where they live on the devices, from `Placement.reside`: a batch
        then brings "index" instead of "image", and the step gathers; the loss sees both.

    Returns:
      `step(state, batch, key) -> (state, metrics)`; metrics gain `loss` and `grad_norm`. Its
      `several` does k steps in one dispatch.

    Example:
      >>> import numpy as np
      >>> from jaxssl.training import create_state, data_placement
      >>> def loss(model, batch, key, step):
      ...     return (model(batch["image"]) ** 2).mean(), {}
      >>> method = Method("Shrink", nnx.Linear(4, 2, rngs=nnx.Rngs(0)), loss, optax.sgd(0.1))
      >>> placement = data_placement(8)
      >>> step = make_train_step(method, placement)
      >>> state = placement.replicate(create_state(method))
      >>> for _ in range(3):
      ...     batch = placement.put({"image": np.ones((8, 4), np.float32)})
      ...     state, metrics = step(state, batch, jax.random.key(0))
      >>> int(state.step), sorted(metrics)
      (3, ['grad_norm', 'loss'])
    """
    graphdef = _graphdef(method.model, training=True)
    optimizer = optax.with_extra_args_support(method.optimizer)

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        def objective(params: nnx.State, rest: nnx.State) -> tuple[jax.Array, tuple]:
            # copy=True: without it the merged model aliases `rest`, and the guard below is void.
            merged = nnx.merge(graphdef, params, rest, copy=True)
            step_key = jax.random.fold_in(key, state.step)
            loss, metrics = method.loss(merged, batch, step_key, state.step)
            return loss, (metrics, split(merged, method.trainable)[1])

        (loss, (metrics, rest)), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params, state.rest
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=loss)
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & (state.first_bad_step < 0)
        stepped = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            rest=rest,
            opt_state=opt_state,
            first_bad_step=state.first_bad_step,
        )
        first_bad = jnp.where(state.first_bad_step < 0, state.step, state.first_bad_step)
        frozen = dataclasses.replace(state, first_bad_step=first_bad)
        state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), stepped, frozen)
        return state, {"loss": loss, "grad_norm": grad_norm, **metrics}

    return TrainStep(train_step, placement, images)


def make_eval_step(
    model: nnx.Module,
    function: Callable[..., Any],
    placement: Placement,
    *,
    by_image: bool = False,
) -> Callable[..., Any]:
    """Compile `function(model, batch, key, step)` with the model in evaluation mode.

    Args:
      model: Gives the structure; its variables are not read.
      function: `(model, batch, key, step) -> pytree`, as a method's loss; running statistics are
        used, nothing is dropped, and what it assigns to the model is forgotten.
      placement: Where batch and state live.
      by_image: Whether the result has a row for each image. It then stays with the images, on each
        device its own, for the host to fetch: the devices need not wait for one another. Several
        processes each want all of it.

    Returns:
      `evaluate(state, batch, key)`; its result is replicated on all devices, or split as the batch.
    """
    graphdef = _graphdef(model, training=False)

    def evaluate(
        params: nnx.State, rest: nnx.State, batch: Batch, key: jax.Array, step: jax.Array
    ) -> Any:
        return function(nnx.merge(graphdef, params, rest, copy=True), batch, key, step)

    whole = placement.replicated
    compiled = jax.jit(
        lowering.made_for(placement.mesh)(evaluate),
        in_shardings=(whole, whole, placement.sharded, whole, whole),
        out_shardings=placement.sharded if by_image and whole.is_fully_addressable else whole,
        compiler_options=placement.compiler_options,
    )
    pace = Pace(placement)

    def paced(state: TrainState, batch: Batch, key: jax.Array) -> Any:
        result = compiled(state.params, state.rest, batch, key, state.step)
        pace.started(result)
        return result

    return paced


def _graphdef(model: nnx.Module, *, training: bool) -> nnx.GraphDef:
    """Return the model's structure with BatchNorm and dropout in the given mode."""
    return nnx.graphdef(
        nnx.view(
            model,
            use_running_average=not training,
            deterministic=not training,
            raise_if_not_found=False,  # a model need not have BatchNorm or dropout
        )
    )
