"""The rows of a batch, as every loss sees them: unit length, global over devices, averaged."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

AxisName = str | tuple[str, ...] | None

# Where a matrix of rows x columns would have more entries, it is made in tiles.
_MATRIX_ENTRIES = 2**22

# Shorter rows count as zero: the gradient of x/|x| grows as 1/|x| and must fit in float32.
_SHORTEST = 1e-30


def unit_rows(x: jax.Array) -> jax.Array:
    """Rows of `x` [..., d] at unit length in float32; a zero row stays zero, with zero gradient."""
    x = x.astype(jnp.float32)
    # Dividing by the largest entry first keeps the squares from overflow and underflow. The result
    # does not depend on that divisor, so leaving it out of the gradient leaves the gradient exact.
    peak = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    zero = peak < _SHORTEST
    x = x / jnp.where(zero, 1.0, peak)
    length = jnp.sqrt(jnp.where(zero, 1.0, jnp.sum(x * x, axis=-1, keepdims=True)))
    return jnp.where(zero, 0.0, x / length)


def dot_products(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """`rows` [n, d] against `columns` [m, d], as float32 [n, m].

    In full precision: by default a TPU multiplies float32 in bfloat16 and a GPU may in TF32, an
    error of 1e-3 that a small temperature or a scale of 64 makes large.
    """
    return jnp.matmul(
        rows, columns.T, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def gather_rows(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The rows of all devices, in device order, with their gradient."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def count_rows(x: jax.Array, axis_name: AxisName) -> int:
    """How many rows all devices have together."""
    return x.shape[0] * (1 if axis_name is None else lax.axis_size(axis_name))


def row_indices(n: int, axis_name: AxisName) -> jax.Array:
    """Where the `n` local rows stand among those of all devices."""
    first = 0 if axis_name is None else n * lax.axis_index(axis_name)
    return first + jnp.arange(n)


def mean_where(values: jax.Array, counts: jax.Array, axis_name: AxisName) -> jax.Array:
    """Mean over all devices of the `values` that count; 0 where none does."""
    total = jnp.sum(jnp.where(counts, values, 0.0))
    count = jnp.sum(counts, dtype=jnp.float32)
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)


def filled(value: float, like: jax.Array) -> jax.Array:
    """`value` in the shape and type of `like`; inside shard_map it varies over the same axes."""
    return jnp.where(False, like, jnp.asarray(value, like.dtype))


def tile_rows(rows: int, columns: int, tile_size: int | None) -> int:
    """How many rows a tile has, against all columns: `tile_size`, or as many as suit."""
    if tile_size is None:
        if rows * columns <= _MATRIX_ENTRIES:
            return rows
        # What a CPU's cache holds; elsewhere a step of a loop costs microseconds whatever its size.
        entries = 2**19 if jax.default_backend() == "cpu" else _MATRIX_ENTRIES
        tile_size = max(8, entries // columns)
    return min(rows, tile_size)


def scan_rows(
    f: Callable[..., tuple[Any, Any]], carry: Any, tile_size: int, *rows: jax.Array
) -> tuple[Any, Any]:
    """`lax.scan` of `f(carry, *rows) -> (carry, outputs)` over tiles of the rows of some arrays.

    Every output has a row for each of the tile's; they come back as one array. The last tile may be
    filled up with rows of zeros: what `f` adds to the carry must not count them.
    """
    n = rows[0].shape[0]
    if tile_size >= n:
        return f(carry, *rows)
    tiles = -(-n // tile_size)

    def split(x: jax.Array) -> jax.Array:
        # A tile takes every so-manieth row: where rows are sharded over devices, each device has
        # its part of every tile.
        padded = jnp.pad(x, [(0, tiles * tile_size - n)] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(padded.reshape(tile_size, tiles, *x.shape[1:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])[:n]

    carry, outputs = lax.scan(lambda carry, tile: f(carry, *tile), carry, tuple(map(split, rows)))
    return carry, jax.tree.map(join, outputs)
