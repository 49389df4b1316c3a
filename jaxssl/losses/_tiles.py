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

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._checks import check_tile_size
from jaxssl.losses._rows import AxisName, dot_products, filled

# Up to so many rows the matrix is as fast, and its program shorter.
PLAIN_ROWS = 1024
LOWEST = float(jnp.finfo(jnp.float32).min)
BLOCKS = "jaxssl.losses.blocks"

Rows = dict[str, Any]


class Sums(NamedTuple):
    """Of some rows, each [n] float32."""

    top: jax.Array  # the largest logit so far
    total: jax.Array  # Σ exp(logit − top)
    positive: jax.Array  # Σ of the positives' logits
    positives: jax.Array  # how many they are


def choose_tile(rows: int, tile_size: int | None) -> int | None:
    """The side of a tile for so many rows of all devices; None: the whole matrix at once."""
    check_tile_size(tile_size)
    if tile_size is None:
        if rows <= PLAIN_ROWS:
            return None
        # What a CPU's cache holds; what fills another device (not measured there).
        tile_size = 512 if jax.default_backend() == "cpu" else 4096
    return tile_size + tile_size % 2 if tile_size < rows else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
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
    return _forward(x, labels, tile, axis_name, pairs)[0]


def _forward(x: jax.Array, labels: jax.Array, tile: int, axis_name: AxisName, pairs: bool) -> Any:
    def local(rows: Rows, axis_name: AxisName) -> tuple[jax.Array, ...]:
        n, rows, side = _in_tiles(rows, tile)

        def add(sums: Sums, rows: Rows, i: jax.Array, j: jax.Array, own: bool) -> Sums:
            logits, positive = _logits(_get(rows, i, side), _get(rows, j, side), own, pairs)
            sums = _put(sums, i, _merge(_get(sums, i, side), _reduce(logits, positive)))
            if own:
                return sums
            transposed = _reduce(logits.T, None if positive is None else positive.T)
            return _put(sums, j, _merge(_get(sums, j, side), transposed))

        zero = filled(0.0, rows["x"][:, 0])
        nothing = Sums(filled(LOWEST, zero), zero, zero, zero)
        sums = _round(rows, nothing, add, _merge, side, axis_name)
        return tuple(v[:n] for v in (sums.top + jnp.log(sums.total), sums.positive, sums.positives))

    found = _in_blocks(local, {"x": x, "label": labels}, axis_name)
    return found, (x, labels, found[0])


def _backward(
    tile: int, axis_name: AxisName, pairs: bool, residuals: Any, gradients: Any
) -> tuple[jax.Array, None]:
    def local(rows: Rows, axis_name: AxisName) -> jax.Array:
        n, rows, side = _in_tiles(rows, tile)

        def add(dx: jax.Array, rows: Rows, i: jax.Array, j: jax.Array, own: bool) -> jax.Array:
            a, b = _get(rows, i, side), _get(rows, j, side)
            logits, positive = _logits(a, b, own, pairs)
            w = a["of_lse"][:, None] * jnp.exp(logits - a["lse"][:, None])
            w += b["of_lse"][None, :] * jnp.exp(logits - b["lse"][None, :])
            if positive is not None:
                w += jnp.where(positive, a["of_positive"][:, None] + b["of_positive"][None, :], 0.0)
            dx = _put(dx, i, _get(dx, i, side) + dot_products(w, b["x"].T))
            return dx if own else _put(dx, j, _get(dx, j, side) + dot_products(w.T, a["x"].T))

        return _round(rows, filled(0.0, rows["x"]), add, jnp.add, side, axis_name)[:n]

    x, labels, lse = residuals
    of_lse, of_positive, _ = gradients
    rows = {"x": x, "label": labels, "lse": lse, "of_lse": of_lse, "of_positive": of_positive}
    return _in_blocks(local, rows, axis_name), None


tiled_sums.defvjp(_forward, _backward)


def _in_blocks(local: Callable[[Rows, AxisName], Any], rows: Rows, axis_name: AxisName) -> Any:
    """`local` of the rows of a device.

    Plain jit does not say over which devices the rows are spread. As many blocks as there are
    devices, in a ring that vmap makes, are partitioned as the rows are, and on one device cost
    nothing.
    """
    blocks = jax.device_count()
    if axis_name is not None or blocks == 1 or rows["x"].shape[0] % (2 * blocks):
        return local(rows, axis_name)
    split = jax.tree.map(lambda v: v.reshape(blocks, -1, *v.shape[1:]), rows)
    found = jax.vmap(lambda rows: local(rows, BLOCKS), axis_name=BLOCKS)(split)
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), found)


def _round(
    rows: Rows, nothing: Any, add: Callable[..., Any], merge: Any, tile: int, axis_name: AxisName
) -> Any:
    """What all tiles add up to for the local rows.

    Args:
      rows: what tiles are made of, each [tiles · tile, ...].
      nothing: the sums of as many rows before the first tile.
      add: (sums, rows, i, j, own) -> the sums with tile (i, j); own: i = j.
      merge: of two sums of the same rows.
      tile: side of a tile.
      axis_name: of the ring.
    """
    tiles = rows["x"].shape[0] // tile

    def add_all(sums: Any, rows: Rows, pairs: list[tuple[int, int]]) -> Any:
        if not pairs:
            return sums
        i, j = jnp.array(pairs).T
        return lax.fori_loop(0, len(pairs), lambda k, s: add(s, rows, i[k], j[k], False), sums)

    mine = lax.fori_loop(0, tiles, lambda i, s: add(s, rows, i, i, True), nothing)
    mine = add_all(mine, rows, [(i, j) for i in range(tiles) for j in range(i + 1, tiles)])
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    if devices == 1:
        return mine
    across = [(i, tiles + j) for i in range(tiles) for j in range(tiles)]

    def send(values: Any, steps: int) -> Any:
        route = [(i, (i - steps) % devices) for i in range(devices)]
        return jax.tree.map(lambda v: lax.ppermute(v, axis_name, route), values)

    def meet(mine: Any, guests: Rows, theirs: Any) -> tuple[Any, Any]:
        both = jax.tree.map(lambda *v: jnp.concatenate(v), (rows, mine), (guests, theirs))
        sums = add_all(both[1], both[0], across)
        half = tiles * tile
        return jax.tree.map(lambda v: v[:half], sums), jax.tree.map(lambda v: v[half:], sums)

    def step(_: jax.Array, state: Any) -> Any:
        guests, mine, theirs = state
        guests, theirs = send((guests, theirs), 1)
        return guests, *meet(mine, guests, theirs)

    steps = (devices - 1) // 2
    guests, mine, theirs = lax.fori_loop(0, steps, step, (rows, mine, nothing))
    mine = merge(mine, send(theirs, -steps))
    if devices % 2 == 0:
        # Those who face each other meet twice: each keeps its own side.
        mine, _ = meet(mine, send(guests, 1), nothing)
    return mine


def _in_tiles(rows: Rows, tile: int) -> tuple[int, Rows, int]:
    """How many rows, the rows filled up to whole tiles, and the side of a tile.

    "real" marks the rows that are no filling; None: all.
    """
    n = rows["x"].shape[0]
    tile = min(tile, n)
    missing = -n % tile
    if not missing:
        return n, rows | {"real": None}, tile
    real = rows["label"] == rows["label"]
    rows = {
        name: jnp.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1))
        for name, v in (rows | {"real": real}).items()
    }
    return n, rows, tile


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
