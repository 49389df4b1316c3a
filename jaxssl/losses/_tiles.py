"""Every row against every other, a tile at a time: no matrix of rows by rows is ever held.

The contrastive losses need, for each row x_i of a batch, lse_i = log Σ_{j≠i} exp(s_ij) and the sum
of s_ip over its positives p, with s_ij = x_i·x_j. Three things make tiles as exact as the matrix,
and faster:

- The sums are merged online: each carries its largest logit so far (Milakov and Gimelshein 2018,
  https://arxiv.org/abs/1805.02867).
- s is symmetric: a tile (i, j) serves the rows of i and, transposed, those of j. So does
  w_ij = g_i exp(s_ij − lse_i) + g_j exp(s_ij − lse_j), with g the gradient of lse, and the gradient
  of the rows is dx_i = Σ_j w_ij x_j: backward, a tile is computed once more and multiplied once a
  side.
- Over many devices each keeps its rows. Blocks of rows travel round a ring, half the way, with what
  was added up for them: every two blocks meet once, and no device holds more than two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._checks import check_tile_size
from jaxssl.losses._rows import AxisName, dot_products, filled

LOWEST = float(jnp.finfo(jnp.float32).min)

Rows = dict[str, Any]


class Sums(NamedTuple):
    """Of some rows, each [n] float32."""

    top: jax.Array  # the largest logit so far
    total: jax.Array  # Σ exp(logit − top)
    positive: jax.Array  # Σ of the positives' logits
    positives: jax.Array  # how many they are


def choose_tile(rows: int, axis_name: AxisName, tile_size: int | None) -> int | None:
    """The side of a tile for so many rows on each device; None: all columns at once."""
    check_tile_size(tile_size)
    everywhere = rows if axis_name is None else rows * lax.axis_size(axis_name)
    if tile_size is None:
        # What a CPU's cache holds; what fills another device (not measured there).
        tile_size, plain = (512, 1024) if jax.default_backend() == "cpu" else (4096, 4096)
        # Up to there the matrix is as fast, its program shorter, and one gathering of the columns
        # beats a ring of many small blocks.
        here = rows if axis_name is not None else -(-rows // _blocks(rows, None))
        if here * everywhere <= plain**2:
            return None
    return tile_size + tile_size % 2 if tile_size < everywhere else None


@partial(jax.jit, static_argnums=(2, 3, 4))
def tiled_sums(
    x: jax.Array, labels: jax.Array, tile: int, axis_name: AxisName, pairs: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log Σ_{j≠i} exp(x_i·x_j), Σ_p x_i·x_p over positives p, and their number, each float32 [n].

    Args:
      x: float32 [n, d]; with `axis_name`, this device's shard.
      labels: integers [n]; a row's positives are the other rows of its label.
      tile: side of a tile, even.
      axis_name: mapped axis (or axes) over which rows are spread.
      pairs: labels stand as 0, 0, 1, 1, 2, 2, ...: they are compared where they can be equal alone.
    """
    # Jitted, so that a call outside of jit compiles its loops once for each shape.
    return _sums(x, labels, tile, axis_name, pairs)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _sums(x: jax.Array, labels: jax.Array, tile: int, axis_name: AxisName, pairs: bool) -> Any:
    return _forward(x, labels, tile, axis_name, pairs)[0]


def _forward(x: jax.Array, labels: jax.Array, tile: int, axis_name: AxisName, pairs: bool) -> Any:
    def nothing(rows: Rows) -> Sums:
        zero = filled(0.0, rows["x"][:, 0])
        return Sums(filled(LOWEST, zero), zero, zero, zero)

    def add(sums: Sums, rows: Rows, i: jax.Array, j: jax.Array, side: int, own: bool) -> Sums:
        logits, positive = _logits(_get(rows, i, side), _get(rows, j, side), own, pairs)
        sums = _put(sums, i, _merge(_get(sums, i, side), _reduce(logits, positive)))
        if own:
            return sums
        transposed = _reduce(logits.T, None if positive is None else positive.T)
        return _put(sums, j, _merge(_get(sums, j, side), transposed))

    rows = {"x": x, "label": labels}
    sums = _over_all_tiles(rows, nothing, add, _merge, tile, axis_name)
    lse = sums.top + jnp.log(sums.total)
    return (lse, sums.positive, sums.positives), (x, labels, lse)


def _backward(
    tile: int, axis_name: AxisName, pairs: bool, residuals: Any, gradients: Any
) -> tuple[jax.Array, None]:
    def nothing(rows: Rows) -> jax.Array:
        return filled(0.0, rows["x"])

    def add(dx: jax.Array, rows: Rows, i: jax.Array, j: jax.Array, side: int, own: bool) -> Any:
        a, b = _get(rows, i, side), _get(rows, j, side)
        logits, positive = _logits(a, b, own, pairs)
        w = a["of_lse"][:, None] * jnp.exp(logits - a["lse"][:, None])
        w += b["of_lse"][None, :] * jnp.exp(logits - b["lse"][None, :])
        if positive is not None:
            w += jnp.where(positive, a["of_positive"][:, None] + b["of_positive"][None, :], 0.0)
        dx = _put(dx, i, _get(dx, i, side) + dot_products(w, b["x"].T))
        return dx if own else _put(dx, j, _get(dx, j, side) + dot_products(w.T, a["x"].T))

    x, labels, lse = residuals
    of_lse, of_positive, _ = gradients
    rows = {"x": x, "label": labels, "lse": lse, "of_lse": of_lse, "of_positive": of_positive}
    return _over_all_tiles(rows, nothing, add, jnp.add, tile, axis_name), None


_sums.defvjp(_forward, _backward)


def _blocks(rows: int, axis_name: AxisName) -> int:
    """Into how many blocks rows are cut that are all here, as far as the program can see.

    Plain jit does not say over which devices the rows are spread. As many blocks as there are
    devices, in a ring, are spread as the rows are.
    """
    devices = jax.device_count()
    one = (
        axis_name is not None
        or rows % (2 * devices)
        or jax.sharding.get_abstract_mesh().manual_axes
    )
    return 1 if one else devices


def _over_all_tiles(
    rows: Rows,
    nothing: Callable[[Rows], Any],
    add: Callable[..., Any],
    merge: Callable[[Any, Any], Any],
    tile: int,
    axis_name: AxisName,
) -> Any:
    """What all tiles add up to for each row.

    Args:
      rows: what tiles are made of, each [n, ...]: of a device, or all.
      nothing: rows -> the sums of as many before the first tile.
      add: (sums, rows, i, j, side, own) -> the sums with tile (i, j); own: i = j.
      merge: of two sums of the same rows.
      tile: side of a tile, at most.
      axis_name: over which rows are spread.
    """
    n = rows["x"].shape[0]
    blocks = _blocks(n, axis_name)
    n //= blocks
    side = min(tile, n)
    tiles = -(-n // side)

    def add_all(sums: Any, rows: Rows) -> Any:
        def of_row(i: jax.Array, sums: Any) -> Any:
            sums = add(sums, rows, i, i, side, True)
            return lax.fori_loop(
                i + 1, tiles, lambda j, sums: add(sums, rows, i, j, side, False), sums
            )

        return lax.fori_loop(0, tiles, of_row, sums)

    def meet(rows: Rows, mine: Any, guests: Rows, theirs: Any) -> tuple[Any, Any]:
        both, sums = jax.tree.map(lambda *v: jnp.concatenate(v), (rows, mine), (guests, theirs))

        def of_pair(k: jax.Array, sums: Any) -> Any:
            return add(sums, both, k // tiles, tiles + k % tiles, side, False)

        sums = lax.fori_loop(0, tiles * tiles, of_pair, sums)
        half = tiles * side
        return jax.tree.map(lambda v: v[:half], sums), jax.tree.map(lambda v: v[half:], sums)

    def all_around(rows: Rows, each: Callable[..., Any], size: int, send: Any) -> Any:
        rows = each(partial(_filled_up, missing=tiles * side - n))(rows)
        mine = _ring(rows, each(nothing)(rows), each(add_all), each(meet), merge, size, send)
        return each(lambda sums: jax.tree.map(lambda v: v[:n], sums))(mine)

    if blocks == 1:
        size = 1 if axis_name is None else lax.axis_size(axis_name)
        return all_around(rows, lambda of_block: of_block, size, partial(_send, axis_name, size))
    split = jax.tree.map(lambda v: v.reshape(blocks, n, *v.shape[1:]), rows)
    found = all_around(split, jax.vmap, blocks, _roll)
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), found)


def _ring(
    rows: Rows, nothing: Any, add_all: Any, meet: Any, merge: Any, size: int, send: Any
) -> Any:
    """Every block with itself and each other: what was added up for the blocks that are here."""
    mine = add_all(nothing, rows)
    if size == 1:
        return mine

    def step(_: jax.Array, state: Any) -> Any:
        guests, mine, theirs = state
        guests, theirs = send((guests, theirs), 1)
        return guests, *meet(rows, mine, guests, theirs)

    steps = (size - 1) // 2
    guests, mine, theirs = lax.fori_loop(0, steps, step, (rows, mine, nothing))
    mine = merge(mine, send(theirs, -steps))
    if size % 2 == 0:
        # Those who face each other meet twice: each keeps its own side.
        mine, _ = meet(rows, mine, send(guests, 1), nothing)
    return mine


def _send(axis_name: AxisName, devices: int, values: Any, steps: int) -> Any:
    route = [(i, (i - steps) % devices) for i in range(devices)]
    return jax.tree.map(lambda v: lax.ppermute(v, axis_name, route), values)


def _roll(values: Any, steps: int) -> Any:
    return jax.tree.map(lambda v: jnp.roll(v, -steps, axis=0), values)


def _filled_up(rows: Rows, missing: int) -> Rows:
    """The rows filled up to whole tiles; "real" marks those that are no filling, None: all."""
    if not missing:
        return rows | {"real": None}
    real = rows["label"] == rows["label"]
    return {
        name: jnp.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1))
        for name, v in (rows | {"real": real}).items()
    }


def _logits(a: Rows, b: Rows, own: bool, pairs: bool) -> tuple[jax.Array, jax.Array | None]:
    """Of tile rows `a` against `b`, -inf where nothing counts; and where a positive stands."""
    logits = dot_products(a["x"], b["x"])
    counts = None if a["real"] is None else a["real"][:, None] & b["real"][None, :]
    if own:
        other = ~jnp.eye(len(logits), dtype=bool)
        counts = other if counts is None else counts & other
    positive = None
    if own or not pairs:
        positive = a["label"][:, None] == b["label"][None, :]
        positive = positive if counts is None else positive & counts
    return logits if counts is None else jnp.where(counts, logits, -jnp.inf), positive


def _reduce(logits: jax.Array, positive: jax.Array | None) -> Sums:
    top = jnp.maximum(jnp.max(logits, axis=1), LOWEST)
    total = jnp.sum(jnp.exp(logits - top[:, None]), axis=1)
    if positive is None:
        return Sums(top, total, jnp.zeros_like(top), jnp.zeros_like(top))
    found = jnp.sum(jnp.where(positive, logits, 0.0), axis=1)
    return Sums(top, total, found, jnp.sum(positive, axis=1, dtype=jnp.float32))


def _merge(a: Sums, b: Sums) -> Sums:
    top = jnp.maximum(a.top, b.top)
    total = a.total * jnp.exp(a.top - top) + b.total * jnp.exp(b.top - top)
    return Sums(top, total, a.positive + b.positive, a.positives + b.positives)


def _get(values: Any, i: jax.Array, tile: int) -> Any:
    return jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, i * tile, tile), values)


def _put(values: Any, i: jax.Array, part: Any) -> Any:
    return jax.tree.map(
        lambda v, p: lax.dynamic_update_slice_in_dim(v, p, i * len(p), 0), values, part
    )
