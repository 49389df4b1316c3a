"""The rows of a batch, as every loss sees them: unit length, global over devices, averaged."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl import lowering

AxisName = str | tuple[str, ...] | None

# Where a matrix of rows x columns would have more entries, it is made in tiles.
_MATRIX_ENTRIES = 2**22

# Shorter rows count as zero: the gradient of x/|x| grows as 1/|x| and must fit in float32.
_SHORTEST = 1e-30


def dtype_of(precision: str) -> Any:
    """The type to compute in."""
    return jnp.float64 if precision == "float64" else jnp.float32


def unit_rows(x: jax.Array, precision: str = "highest") -> jax.Array:
    """Rows of `x` [..., d] at unit length in float32; a zero row stays zero, with zero gradient."""
    x = x.astype(dtype_of(precision))
    # Dividing by the largest entry first keeps the squares from overflow and underflow. The result
    # does not depend on that divisor, so leaving it out of the gradient leaves the gradient exact.
    peak = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    zero = peak < _SHORTEST
    x = x / jnp.where(zero, 1.0, peak)
    length = jnp.sqrt(jnp.where(zero, 1.0, jnp.sum(x * x, axis=-1, keepdims=True)))
    return jnp.where(zero, 0.0, x / length)


def dot_products(rows: jax.Array, columns: jax.Array, precision: str = "highest") -> jax.Array:
    """`rows` [n, d] against `columns` [m, d], as [n, m] of their type.

    In full precision unless another is asked for: by default a TPU multiplies float32 in bfloat16
    and a GPU may in TF32, an error of 1e-3 that a small temperature or a scale of 64 makes large.
    """
    if precision == "bfloat16":
        # Rounded here, so that every device gives the same; the type stays, and sums are float32.
        rows, columns = (lax.reduce_precision(x, 8, 7) for x in (rows, columns))
    how = {"high": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}
    return jnp.matmul(
        rows,
        columns.T,
        precision=how.get(precision, lax.Precision.HIGHEST),
        preferred_element_type=rows.dtype,
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
    return first + jnp.arange(n, dtype=jnp.int32)


def mean_where(values: jax.Array, counts: jax.Array, axis_name: AxisName) -> jax.Array:
    """Mean over all devices of the `values` that count; 0 where none does."""
    return reduce_rows(values, counts, None, "mean", axis_name)


def reduce_rows(
    losses: jax.Array,
    counts: jax.Array | None,
    weights: jax.Array | None,
    reduction: str,
    axis_name: AxisName,
) -> jax.Array:
    """The rows' losses as one number of all devices, or as they are.

    Args:
        losses: of each row, [n].
        counts: which rows count, [n]; None: all.
        weights: of each row, [n]; None: all alike.
        reduction: "mean", Σ weight·loss / Σ weight over the rows that count, 0 where that is
            nothing; "sum", Σ weight·loss; or "none", weight·loss of each row.
        axis_name: over which the rows are spread.
    """
    if counts is None and weights is None and reduction == "mean":
        loss = jnp.mean(losses)
        return loss if axis_name is None else lax.pmean(loss, axis_name)
    if counts is not None:
        losses = jnp.where(counts, losses, 0.0)
    if weights is not None:
        weights = weights.astype(losses.dtype)
        if counts is not None:
            weights = jnp.where(counts, weights, 0.0)
        losses = losses * weights
    if reduction == "none":
        return losses
    total = jnp.sum(losses)
    if weights is None:
        number = jnp.sum(
            jnp.ones_like(losses, bool) if counts is None else counts, dtype=total.dtype
        )
    else:
        number = jnp.sum(weights)
    if axis_name is not None:
        total, number = lax.psum((total, number), axis_name)
    if reduction == "sum":
        return total
    return jnp.where(number > 0, total / jnp.where(number > 0, number, 1.0), 0.0)


def only_where(rows: jax.Array, where: jax.Array | None) -> jax.Array:
    """Zeros in place of rows that do not count: whatever they hold, NaN as well, goes nowhere."""
    if where is None:
        return rows
    return jnp.where(where.reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.zeros((), rows.dtype))


def nan_unless_finite(loss: jax.Array, *rows: jax.Array, axis_name: AxisName) -> jax.Array:
    """`loss`, or NaN if any number of the `rows` of any device is not finite.

    For losses in which a row may be left out of the mean, or passed by where others are chosen.
    """
    bad = sum(jnp.sum(~jnp.isfinite(x), dtype=jnp.int32) for x in rows)
    if axis_name is not None:
        bad = lax.psum(bad, axis_name)
    return jnp.where(bad > 0, jnp.nan, loss)


def varying_as(values: Any, x: jax.Array) -> Any:
    """The arrays `values`, varying over the devices that `x` varies over, inside shard_map."""
    like = lax.stop_gradient(x[(0,) * x.ndim])
    return jax.tree.map(lambda v: jnp.where(False, like.astype(v.dtype), v), values)


def filled(value: float, like: jax.Array) -> jax.Array:
    """`value` in the shape and type of `like`; inside shard_map it varies over the same axes."""
    return jnp.where(False, like, jnp.asarray(value, like.dtype))


def tile_rows(rows: int, columns: int, tile_size: int | None) -> int:
    """How many rows a tile has, against all columns: `tile_size`, or as many as suit."""
    if tile_size is None:
        if rows * columns <= _MATRIX_ENTRIES:
            return rows
        # What a CPU's cache holds; elsewhere a step of a loop costs microseconds whatever its size.
        entries = 2**19 if lowering.platform() == "cpu" else _MATRIX_ENTRIES
        tile_size = max(8, entries // columns)
    return min(rows, tile_size)


def scan_rows(
    f: Callable[..., tuple[Any, Any]], carry: Any, tile_size: int, *rows: Any
) -> tuple[Any, Any]:
    """`lax.scan` of `f(carry, *rows) -> (carry, outputs)` over tiles of the rows of some arrays.

    Every output has a row for each of the tile's; they come back as one array. The last tile may be
    filled up with rows of zeros: what `f` adds to the carry must not count them.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    if tile_size >= n:
        return f(carry, *rows)
    tiles = -(-n // tile_size)

    def split(x: jax.Array) -> jax.Array:
        # A tile takes every `tiles`-th row: where rows are sharded over devices, each device has
        # its part of every tile.
        padded = jnp.pad(x, [(0, tiles * tile_size - n)] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(padded.reshape(tile_size, tiles, *x.shape[1:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])[:n]

    carry, outputs = lax.scan(lambda carry, tile: f(carry, *tile), carry, jax.tree.map(split, rows))
    return carry, jax.tree.map(join, outputs)
