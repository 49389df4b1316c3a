"""Max-pooling that is fast on a CPU too, and so is its gradient."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxssl import lowering
from jaxssl.models.convolution import Pair
from jaxssl.models.windows import images_at_a_time, shifts

# Of a window: height and width, strides, and padding.
How = tuple[Pair, Pair, Pair]
# Room for a few images' maps, in the cache of a core.
GROUP_BYTES = 2**20


@lowering.in_reverse_alone
def max_pool(x: jax.Array, window: Pair, strides: Pair, padding: Pair) -> jax.Array:
    """Return the largest number of every window, by channel, as `nnx.max_pool` does.

    y[n, i, j, c] = max over a < window[0], b < window[1] of
    x[n, i strides[0] + a - padding[0], j strides[1] + b - padding[1], c]

    The gradient goes to the largest; of equals to the first, by rows, as in PyTorch. XLA looks for
    the largest on a CPU number by number, and for where it is once more. There windows are compared
    as whole shifted maps, which of a window's numbers is largest is kept for the gradient, and
    every number of x takes from the windows that it is in. Several CPU devices are as in
    `convolve`.

    There is no forward-mode derivative (`jax.jvp`, `jacfwd`, `hessian`): take `jacrev(grad(f))`.

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
    how = window, strides, padding
    # The form here is for a result that has places.
    if 0 in jax.eval_shape(functools.partial(_xla, how=how), x).shape:
        return _xla(x, how)
    own, otherwise = (lambda x, some=some: _pool(x, how, some) for some in (True, False))
    return lowering.device_by_device(own, otherwise, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _pool(x: jax.Array, how: How, some: bool) -> jax.Array:
    """Pool; some images at a time where that is of use, or all at once, which XLA can split."""
    del some
    return lax.platform_dependent(
        x, cpu=lambda x: _largest(x, *how)[0], default=functools.partial(_xla, how=how)
    )


def _xla(x: jax.Array, how: How) -> jax.Array:
    window, strides, padding = how
    around = ((0, 0), *((n, n) for n in padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), around)


def _largest(
    x: jax.Array, window: Pair, strides: Pair, padding: Pair
) -> tuple[jax.Array, jax.Array]:
    """Return the largest of every window and which it is, counted by rows; of equals the first."""
    around = ((0, 0), *((n, n) for n in padding), (0, 0))
    x = jnp.pad(x, around, constant_values=-jnp.inf)
    largest, *others = (
        part
        for rows in shifts(x, 1, window[0], strides[0])
        for part in shifts(rows, 2, window[1], strides[1])
    )
    place = jnp.zeros(largest.shape, _integers(window))
    for i, other in enumerate(others, 1):
        larger = (other > largest) | jnp.isnan(other)
        place, largest = jnp.where(larger, i, place), jnp.where(larger, other, largest)
    return largest, place.astype(_integers(window))


def _integers(window: Pair) -> Any:
    return np.int8 if window[0] * window[1] < 128 else np.int32


def _forward(x: jax.Array, how: How, some: bool) -> Any:
    def cpu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not some:
            return _largest(x, *how)
        # In a loop: else XLA would look for the places anew for each that asks where they are.
        images = images_at_a_time(x.shape[0], GROUP_BYTES / max(1, x[:1].nbytes))

        def part(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            # Parts are counted here, as in `convolution._sum_over_images`.
            parts = x.reshape(-1, images, *x.shape[1:])
            return _largest(lax.dynamic_index_in_dim(parts, index, keepdims=False), *how)

        found = lax.map(part, jnp.arange(x.shape[0] // images))
        return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), found)

    def default(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = _xla(x, how)
        return y, jnp.zeros(y.shape, _integers(how[0]))

    y, place = lax.platform_dependent(x, cpu=cpu, default=default)
    return y, (x, place)


def _backward(how: How, some: bool, kept: Any, gradient: jax.Array) -> Any:
    del some

    def xla(x: jax.Array, place: jax.Array, gradient: jax.Array) -> Any:
        del place
        return jax.vjp(functools.partial(_xla, how=how), x)[1](gradient)

    def cpu(x: jax.Array, place: jax.Array, gradient: jax.Array) -> Any:
        return (_taken(place, gradient, x.shape, *how),)

    return lax.platform_dependent(*kept, gradient, cpu=cpu, default=xla)


_pool.defvjp(_forward, _backward)


def _taken(
    place: jax.Array,
    gradient: jax.Array,
    shape: tuple[int, ...],
    window: Pair,
    strides: Pair,
    padding: Pair,
) -> jax.Array:
    """Sum for every number of x, of this shape, the gradients of the windows that took it.

    Row s r + q of x, q < s, is row q + p - s m of window r + m, if that has so many.
    """
    (b, *sides, c), kinds = shape, place.dtype
    blocks = [-(-side // stride) for side, stride in zip(sides, strides, strict=True)]
    rows, columns = (list(_meetings(*one)) for one in zip(window, strides, padding, strict=True))
    # Windows that are asked for and are not there took nothing.
    around = [
        (-met[0][0], count + met[-1][0] - have, 0)
        for met, count, have in zip((rows, columns), blocks, place.shape[1:3], strict=True)
    ]
    around = [(0, 0, 0), *around, (0, 0, 0)]
    place = lax.pad(place, jnp.array(-1, kinds), around)
    gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), around)
    parts = []
    for i, (_, of_row) in enumerate(rows):
        for j, (_, of_column) in enumerate(columns):
            is_in = (of_row[:, None] >= 0) & (of_column >= 0)
            number = np.where(is_in, of_row[:, None] * window[1] + of_column, -2).astype(kinds)
            at, came = (
                v[:, i : i + blocks[0], None, j : j + blocks[1], None] for v in (place, gradient)
            )
            is_taken = at == number.reshape(1, 1, strides[0], 1, strides[1], 1)
            parts.append(jnp.where(is_taken, came, 0))
    tall, wide = (count * stride for count, stride in zip(blocks, strides, strict=True))
    out = functools.reduce(jnp.add, parts).reshape(b, tall, wide, c)
    return out[:, : sides[0], : sides[1]]


def _meetings(window: int, stride: int, padding: int) -> Iterator[tuple[int, np.ndarray]]:
    """Give m and which number of window r + m is s r + q for every q below the stride s, or -1.

    Example:
      >>> [(m, numbers.tolist()) for m, numbers in _meetings(3, 2, 1)]
      [(0, [1, 2]), (1, [-1, 0])]
    """
    first, last = -((window - 1 - padding) // stride), (stride - 1 + padding) // stride
    for m in range(first, last + 1):
        numbers = np.arange(stride) + padding - stride * m
        yield m, np.where((numbers >= 0) & (numbers < window), numbers, -1)
