"""Windows of maps, and how many images' worth of them to lay out at a time, on a CPU."""

from __future__ import annotations

import jax
from jax import lax


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
