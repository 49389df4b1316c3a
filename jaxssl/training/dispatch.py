"""The step as the host calls it: one or several at a time, images at hand or resident."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxssl import lowering
from jaxssl.training.devices import Placement, Resident
from jaxssl.training.method import Batch, Metrics
from jaxssl.training.state import TrainState

Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]

# Programs that the host may start before several CPU devices have run the first. XLA lets 32 of a
# device wait, and holds the thread that would start another: one of the threads that run them.
# Where it holds too many the others wait for one another, for ever (jaxlib 0.10.2).
AHEAD = 8


class Pace:
    """Keeps the host at most `AHEAD` programs ahead of several CPU devices; of others, any number.

    Args:
      placement: where the programs run.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxssl.training.devices import data_placement
      >>> pace, double = Pace(data_placement(8)), jax.jit(lambda x: 2 * x)
      >>> for i in range(100):
      ...     pace.started(double(jnp.float32(i)))
    """

    def __init__(self, placement: Placement):
        self._bounded = placement.cpu_count > 1
        self._results: collections.deque[jax.Array] = collections.deque()

    def started(self, result: Any) -> None:
        """Note what a program gives, and wait for what that of `AHEAD` programs before gives.

        Args:
          result: a tree of arrays, none of them to be donated. The smallest is kept; without any
            the program is not counted.
        """
        arrays = jax.tree.leaves(result) if self._bounded else []
        if not arrays:
            return
        self._results.append(min(arrays, key=lambda array: array.size))
        if len(self._results) > AHEAD:
            self._results.popleft().block_until_ready()


class TrainStep:
    """A step compiled twice over: for one batch, and for several in one dispatch.

    A small network's step takes the device less time than the host needs to start it and to send
    its images. With `images` on the device the host sends positions alone, and the step gathers
    the pixels; with `several` the host dispatches once in k steps, and `lax.scan` runs the same
    function over them. Both programs are compiled at their first call and kept; the state is
    donated. The host is kept at most `AHEAD` dispatches before several CPU devices.

    What holds: k calls and one call of `several` do the same arithmetic on the same batches and
    keys (a key is a function of `state.step`, which the scan counts). They are two programs to the
    compiler, which may fuse and so round them differently: a run repeats bit for bit under the
    same plan, and between plans within rounding.

    Args:
      step: `(state, batch, key) -> (state, metrics)`, not compiled.
      placement: where batch and state live.
      images: from `Placement.reside`; then batches hold "index", positions in
        it, and the method finds the pixels of these under "image" as ever. None: batches bring
        their "image".

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxssl.training.devices import data_placement
      >>> count = lambda total, batch, key: (total + batch["x"].sum(), {"x": batch["x"].sum()})
      >>> placement, key = data_placement(8), jax.random.key(0)
      >>> train_step = TrainStep(count, placement)
      >>> total, metrics = train_step(jnp.array(0), {"x": jnp.ones(8, int)}, key)
      >>> batches = placement.put_stacked([{"x": jnp.full(8, i)} for i in (1, 2, 3)])
      >>> total, metrics = train_step.several(total, batches, key)
      >>> int(total), int(metrics["x"])
      (56, 24)
    """

    def __init__(self, step: Step, placement: Placement, images: Resident | None = None):
        def one(
            state: TrainState, batch: Batch, key: jax.Array, pixels: jax.Array | None
        ) -> tuple[TrainState, Metrics]:
            if images is not None and pixels is not None:
                batch = {**batch, "image": images.gather(pixels, batch["index"])}
            return step(state, batch, key)

        def several(
            state: TrainState, batches: Batch, key: jax.Array, pixels: jax.Array | None
        ) -> tuple[TrainState, Metrics]:
            state, metrics = jax.lax.scan(
                lambda state, batch: one(state, batch, key, pixels), state, batches
            )
            return state, jax.tree.map(lambda values: values[-1], metrics)

        def compiled(function: Callable, batches: NamedSharding) -> Any:
            whole = placement.replicated
            return jax.jit(
                lowering.made_for(placement.mesh)(function),
                donate_argnums=0,
                # Images are an argument: closed over, they would be a constant of the program.
                in_shardings=(whole, batches, whole, whole),
                out_shardings=whole,
                compiler_options=placement.compiler_options,
            )

        self._one = compiled(one, placement.sharded)
        self._several = compiled(several, placement.stacked)
        self._pixels = images.pixels if images else None
        self._pace = Pace(placement)

    def __call__(
        self, state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Make one step over a batch [b, ...]."""
        state, metrics = self._one(state, batch, key, self._pixels)
        self._pace.started(metrics)
        return state, metrics

    def lower(
        self, state: TrainState, batch: Batch, key: jax.Array, steps: int = 1
    ) -> jax.stages.Lowered:
        """Lower a step, or several in one dispatch, for the placement's devices, here or not.

        Args:
          state: `jax.ShapeDtypeStruct`s will do, here and below, and as `images` of the class.
          batch: [b, ...]; of several steps [k, b, ...].
          key: a PRNG key.
          steps: k.

        Returns:
          What `compile()` makes the program of.
        """
        program = self._one if steps == 1 else self._several
        return program.lower(state, batch, key, self._pixels)

    def several(
        self, state: TrainState, batches: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Make k steps over batches [k, b, ...] of `Placement.put_stacked`; metrics of the last."""
        state, metrics = self._several(state, batches, key, self._pixels)
        self._pace.started(metrics)
        return state, metrics
