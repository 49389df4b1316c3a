"""Products of rows with many classes in tiles of classes: no [n, k] array, forward or backward."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._rows import dot_products, filled, unit_rows

# Stands for the log of a sum of nothing: finite, so that it can be subtracted from itself.
NOTHING = -1e30


class Classes(NamedTuple):
    """This device's classes."""

    centres: jax.Array  # [k, d], or [k, c, d]: c centres a class
    scale: jax.Array | None  # of each class [k], beside the rows' own
    there: jax.Array | None  # [k]; False: no class


class Sums(NamedTuple):
    """Of each row's products with the classes but its own, and with its own; [n] each."""

    log: jax.Array  # log Σ exp; NOTHING where there is no other
    total: jax.Array  # Σ
    true: jax.Array  # 0 if its own is not here


def products(rows: jax.Array, centres: jax.Array, scale: Any, precision: str) -> jax.Array:
    """Of rows with centres at unit length, the nearest of each class; [n, k]."""
    units = unit_rows(centres, precision)
    found = dot_products(rows, units.reshape(-1, units.shape[-1]), precision)
    if centres.ndim == 3:
        found = jnp.max(found.reshape(len(rows), *centres.shape[:2]), axis=2)
    return found if scale is None else found * scale[None, :]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def class_sums(how: tuple[int, str], rows: jax.Array, classes: Classes, labels: jax.Array) -> Sums:
    """`Sums` of rows, `tile` classes at a time.

    Args:
        how: classes a tile, in [1, k], and the precision.
        rows: [n, d], scaled as the logits are to be.
        classes: any length and float type.
        labels: which of the classes is a row's own, [n] int32; outside [0, k) none is.
    """
    return scan_classes(how, rows, classes, labels)[1]


def scan_classes(
    how: tuple[int, str], rows: jax.Array, classes: Classes, labels: jax.Array
) -> tuple[jax.Array, Sums]:
    """The greatest product with another class than the row's own, and `class_sums`."""
    tile, precision = how

    def step(i: jax.Array, carry: tuple) -> tuple:
        greatest, total, plain, true = carry
        part, own, others = _tile(i, tile, classes, labels)
        found = products(rows, part.centres, part.scale, precision)
        shown = jnp.where(others, found, -jnp.inf)
        new = jnp.maximum(greatest, jnp.max(shown, axis=1))
        total = total * jnp.exp(greatest - new) + jnp.sum(jnp.exp(shown - new[:, None]), axis=1)
        plain = plain + jnp.sum(jnp.where(others, found, 0.0), axis=1)
        return new, total, plain, true + jnp.sum(jnp.where(own, found, 0.0), axis=1)

    start = tuple(filled(v, rows[:, 0]) for v in (NOTHING, 0.0, 0.0, 0.0))
    greatest, total, plain, true = lax.fori_loop(0, _tiles(tile, classes), step, start)
    return greatest, Sums(greatest + jnp.log(jnp.maximum(total, 1e-37)), plain, true)


def _forward(how: tuple[int, str], rows: jax.Array, classes: Classes, labels: jax.Array) -> Any:
    sums = class_sums(how, rows, classes, labels)
    return sums, (rows, classes, labels, sums.log)


def _backward(how: tuple[int, str], kept: tuple, cotangents: Sums) -> Any:
    rows, classes, labels, log = kept
    tile, precision = how
    by_log, by_total, by_true = (cotangent[:, None] for cotangent in cotangents)

    def step(i: jax.Array, carry: tuple) -> tuple:
        by_rows, by_classes = carry
        part, own, others = _tile(i, tile, classes, labels)
        of = partial(products, precision=precision)
        found, pull = jax.vjp(of, rows, part.centres, part.scale)
        share = by_log * jnp.exp(jnp.where(others, found - log[:, None], -jnp.inf)) + by_total
        weights = jnp.where(others, share, jnp.where(own, by_true, 0.0))
        more, *new = pull(weights)
        first, start = _place(i, tile, classes)

        def put(old: Any, new: Any) -> Any:
            # What a last tile shares with the one before it was written there.
            before = lax.dynamic_slice_in_dim(old, start, tile)
            earlier = (start + jnp.arange(tile, dtype=first.dtype) < first).reshape(
                -1, *[1] * (new.ndim - 1)
            )
            new = jnp.where(earlier, before, new)
            return lax.dynamic_update_slice_in_dim(old, new, start, axis=0)

        return by_rows + more, jax.tree.map(put, by_classes, tuple(new))

    start = filled(0.0, rows), jax.tree.map(partial(filled, 0.0), classes[:2])
    by_rows, by_classes = lax.fori_loop(0, _tiles(tile, classes), step, start)
    return by_rows, Classes(by_classes[0], by_classes[1], None), None


class_sums.defvjp(_forward, _backward)


def _tiles(tile: int, classes: Classes) -> int:
    return -(-classes.centres.shape[0] // tile)


def _place(i: jax.Array, tile: int, classes: Classes) -> tuple[jax.Array, jax.Array]:
    """A tile's first class, and where it is read: the last tile starts early enough to be full."""
    first = i * tile
    return first, jnp.minimum(first, classes.centres.shape[0] - tile)


def _tile(
    i: jax.Array, tile: int, classes: Classes, labels: jax.Array
) -> tuple[Classes, jax.Array, jax.Array]:
    """A tile's classes, where it holds each row's own, and where another; earlier tiles' aside."""
    first, start = _place(i, tile, classes)
    part = jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, start, tile), classes)
    numbers = (start + jnp.arange(tile, dtype=first.dtype))[None, :]
    own = numbers == labels[:, None].astype(first.dtype)
    counts = numbers >= first
    if part.there is not None:
        counts = counts & part.there[None, :]
    return part, own & counts, ~own & counts
