"""Every block of rows with every other, a tile at a time: no matrix of rows by rows is ever held.

Over many devices each keeps its rows. Blocks of rows travel round a ring, half the way, with what
was added up for them: every two blocks meet once, and no device holds more than two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl import lowering
from jaxssl.losses._rows import AxisName, varying_as

Rows = dict[str, Any]


def choose_tile(rows: int, axis_name: AxisName, tile_size: int | None) -> int | None:
    """The side of a tile for so many rows on each device; None: all columns at once."""
    everywhere = rows if axis_name is None else rows * lax.axis_size(axis_name)
    if tile_size is None:
        # What a CPU's cache holds; what fills another device (not measured there).
        tile_size, plain = (512, 1024) if lowering.platform() == "cpu" else (4096, 4096)
        # Up to there the matrix is as fast, its program shorter, and one gathering of the columns
        # beats a ring of many small blocks.
        here = rows if axis_name is not None else -(-rows // _blocks(rows, None))
        if here * everywhere <= plain**2:
            return None
    return tile_size + tile_size % 2 if tile_size < everywhere else None


def _blocks(rows: int, axis_name: AxisName) -> int:
    """Into how many blocks rows are cut that are all here, as far as the program can see.

    Plain jit does not say over which devices the rows are spread. As many blocks as there are
    devices, in a ring, are spread as the rows are.
    """
    devices = lowering.devices()
    one = (
        axis_name is not None
        or rows % (2 * devices)
        or jax.sharding.get_abstract_mesh().manual_axes
    )
    return 1 if one else devices


def over_all_tiles(
    rows: Rows,
    nothing: Callable[[Rows], Any],
    add: Callable[..., Any],
    merge: Callable[[Any, Any], Any],
    tile: int,
    axis_name: AxisName,
) -> Any:
    """What all tiles add up to for each row.

    Args:
        rows: what tiles are made of, each [n, ...]: of a device, or all. "x" is among them, and
            "real" where some are not to count.
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
        # With an even ring, opposite blocks would meet twice: each device keeps its own rows' half.
        mine, _ = meet(rows, mine, send(guests, 1), nothing)
    return mine


def _send(axis_name: AxisName, devices: int, values: Any, steps: int) -> Any:
    route = [(i, (i - steps) % devices) for i in range(devices)]
    return jax.tree.map(lambda v: lax.ppermute(v, axis_name, route), values)


def _roll(values: Any, steps: int) -> Any:
    return jax.tree.map(lambda v: jnp.roll(v, -steps, axis=0), values)


def _filled_up(rows: Rows, missing: int) -> Rows:
    """The rows filled up to whole tiles, which "real" then tells from the filling."""
    if not missing:
        return rows
    if "real" not in rows:
        rows = rows | {"real": varying_as(jnp.ones(rows["x"].shape[0], bool), rows["x"])}
    return {name: jnp.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for name, v in rows.items()}


def get(values: Any, i: jax.Array, tile: int) -> Any:
    """Tile `i` of arrays whose rows stand in tiles."""
    return jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, i * tile, tile), values)


def put(values: Any, i: jax.Array, part: Any) -> Any:
    """`values` with `part` in place of its tile `i`."""
    return jax.tree.map(
        lambda v, p: lax.dynamic_update_slice_in_dim(v, p, i * len(p), 0), values, part
    )
