"""Windows of maps, and how many images' worth of them to lay out at a time, on a CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# Of this process, which is what XLA makes its threads by.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def padded(x: jax.Array, padding: Sequence[Sequence[int]]) -> jax.Array:
    """Return [b, h, w, c] with zeros around height and width, or cut off where they are below 0."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])


def shifts(x: jax.Array, axis: int, window: int, stride: int) -> list[jax.Array]:
    """Return what the first place of every window sees along an axis, the second, and so on."""
    reach = x.shape[axis] - window + 1
    return [lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(window)]


def images_at_a_time(count: int, room: float) -> int:
    """Return the divisor of a number of images that is nearest to the number there is room for.

    Example:
      >>> images_at_a_time(64, room=20.0), images_at_a_time(97, room=20.0)
      (16, 97)
    """
    divisors = [n for n in range(1, count + 1) if count % n == 0] or [1]
    return min(divisors, key=lambda n: max(n / room, room / n))
