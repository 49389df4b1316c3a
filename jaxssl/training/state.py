"""What a training step reads and returns: one pytree, all of it in a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxssl.training.method import Method


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    The position in the data is not here: the stream is a function of `step`, and so is every
    random key, so that a restored state continues as if it had never stopped.

    Attributes:
      step: int32 scalar, the number of finished steps.
      params: what the gradient moves.
      rest: every other variable of the model: batch statistics, random counters, frozen weights.
      opt_state: optax's state for `params`.
      first_bad_step: int32 scalar, -1, or the step whose loss or gradient was not finite; from
        then on the step returns the state unchanged.
    """

    step: jax.Array
    params: nnx.State
    rest: nnx.State
    opt_state: optax.OptState
    first_bad_step: jax.Array


def create_state(method: Method) -> TrainState:
    """Make the state before the first step.

    Args:
      method: Its model's variables are copied; its optimizer sees the trainable ones only.

    Returns:
      A `TrainState` at step 0.

    Example:
      >>> from flax import nnx
      >>> import optax
      >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> method = Method("none", model, lambda *batch: (0.0, {}), optax.sgd(0.1))
      >>> state = create_state(method)
      >>> int(state.step), state.params["kernel"].shape
      (0, (3, 2))
    """
    # Copied, because a step donates its state: the model must outlive it.
    return _state(method.optimizer, *jax.tree.map(jnp.copy, split(method.model, method.trainable)))


def state_shapes(method: Method) -> TrainState:
    """Make the state's shapes and types alone: nothing is allocated.

    Args:
      method: Its model may be shapes alone too, from `nnx.eval_shape`.
    """
    shapes = split(method.model, method.trainable)
    return jax.eval_shape(partial(_state, method.optimizer), *shapes)


def model_state(model: nnx.Module) -> TrainState:
    """Make the state of a model that is only evaluated."""
    return _state(optax.identity(), *jax.tree.map(jnp.copy, split(model)))


def _state(
    optimizer: optax.GradientTransformation, params: nnx.State, rest: nnx.State
) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        opt_state=optimizer.init(params),
        first_bad_step=jnp.full((), -1, jnp.int32),
    )


def fingerprint(model: nnx.Module) -> str:
    """Name a model's variables, bit for bit: a sha256 in hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(model))):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return digest.hexdigest()


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Return whether a state is sound, a bool scalar on the devices.

    Weights and statistics must be finite. An optimizer may hold an infinity, such as the best loss
    before the first one, but no NaN.
    """

    def floating(tree: Any) -> list[jax.Array]:
        return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]

    sound = [jnp.isfinite(x).all() for x in floating((state.params, state.rest))]
    sound += [~jnp.isnan(x).any() for x in floating(state.opt_state)]
    return jnp.all(jnp.stack(sound))


def split(model: nnx.Module, trainable: Any = nnx.Param) -> tuple[nnx.State, nnx.State]:
    """Split the model's variables into plain arrays: (trainable, all others)."""
    # Raw arrays instead of nnx variables: 5 ms of host time a step instead of 18.
    params, rest = nnx.split_state(nnx.state(model), trainable, ...)
    return nnx.as_pure(params), nnx.as_pure(rest)
