"""Windows of maps, and how many images' worth of them to lay out at a time, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def padded(x: jax.Array, padding: Sequence[Sequence[int]]) -> jax.Array:
    """Return [b, h, w, c] with zeros around height and width, or cut off where they are below 0."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])


def for_lax(
    x: jax.Array, kernel: jax.Array, padding: Sequence[Sequence[int]]
) -> tuple[jax.Array, Sequence[Sequence[int]]]:
    """Return the map and the padding that lax convolves rightly, with the gradient by the map.

    With a padding below 0 XLA reads on a CPU beyond the map (jaxlib 0.10.2 and 0.11.2: wrong
    numbers, up to 1e30), and with one beyond the kernel's reach the gradient has a padding below 0.
    There the map is padded beforehand.
    """
    reach = zip(padding, kernel.shape[:2], strict=True)
    if all(0 <= pad < side for pads, side in reach for pad in pads):
        return x, padding
    return padded(x, padding), ((0, 0), (0, 0))


def convolved_shape(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[Sequence[int]]
) -> tuple[int, int, int, int]:
    """Return the shape of the convolution of [b, h, w, c] with a kernel [k, k, ..., o].

    Example:
      >>> around = ((1, 1), (1, 1))
      >>> convolved_shape(jnp.ones((2, 8, 7, 3)), jnp.ones((3, 3, 3, 5)), (2, 2), around)
      (2, 4, 4, 5)
    """
    tall, wide = (
        max(0, (side + sum(pads) - reach) // stride + 1)
        for side, pads, reach, stride in zip(
            x.shape[1:3], padding, kernel.shape[:2], strides, strict=True
        )
    )
    return x.shape[0], tall, wide, kernel.shape[-1]


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
