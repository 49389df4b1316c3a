"""Max-pooling whose gradient is fast on a CPU too."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.models.convolution import Pair
from jaxssl.models.windows import shifts


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: Pair, strides: Pair, padding: Pair) -> jax.Array:
    """Return the largest number of every window, by channel, as `nnx.max_pool` does.

    y[n, i, j, c] = max over a < window[0], b < window[1] of
    x[n, i strides[0] + a - padding[0], j strides[1] + b - padding[1], c]

    The gradient goes to the largest; of equals to the first, by rows, as in PyTorch. XLA looks for
    it on a CPU number by number, which was a ninth of a step of ResNet-18 at 128 px. There windows
    are compared along the width and then along the height, as whole shifted maps.

    Args:
      x: [b, h, w, c], floats.
      window: its height and width.
      strides: of height and width.
      padding: rows and columns of -inf around the map, on either side alike.

    Returns:
      [b, h', w', c] of h' = (h + 2 padding[0] - window[0]) // strides[0] + 1, and w' alike.

    Example:
      >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> max_pool(x, (3, 3), (2, 2), (1, 1))[0, ..., 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    around = ((0, 0), *((n, n) for n in padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), around)


def _forward(x: jax.Array, *how: Pair) -> Any:
    return max_pool(x, *how), x


def _backward(window: Pair, strides: Pair, padding: Pair, x: jax.Array, gradient: jax.Array) -> Any:
    def xla(x: jax.Array, gradient: jax.Array) -> Any:
        return jax.vjp(lambda x: max_pool.fun(x, window, strides, padding), x)[1](gradient)

    def cpu(x: jax.Array, gradient: jax.Array) -> Any:
        def along(x: jax.Array, axis: int) -> jax.Array:
            at = axis - 1
            return _pool_along(x, axis, window[at], strides[at], padding[at])

        return jax.vjp(lambda x: along(along(x, 2), 1), x)[1](gradient)

    return lax.platform_dependent(x, gradient, cpu=cpu, default=xla)


max_pool.defvjp(_forward, _backward)


def _pool_along(x: jax.Array, axis: int, window: int, stride: int, padding: int) -> jax.Array:
    """Return the largest of every window along one axis; the gradient goes to the first of them."""
    around = [(0, 0)] * x.ndim
    around[axis] = (padding, padding)
    x = jnp.pad(x, around, constant_values=-jnp.inf)
    largest, *others = shifts(x, axis, window, stride)
    for other in others:
        largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
    return largest
