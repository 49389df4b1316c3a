"""Which rows meet which, and what a tile or a matrix of their products says of each row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl.losses._ring import Rows
from jaxssl.losses._rows import AxisName

# Stands for the log of a sum of nothing: finite, so that it can be subtracted from itself.
LOWEST = float(jnp.finfo(jnp.float32).min)


class Form(NamedTuple):
    """What decides the program of a contrastive loss."""

    tile: int | None  # side of a tile, even; None: all columns at once
    axis_name: AxisName
    precision: str = "highest"
    pairs: bool = False  # labels are 0, 0, 1, 1, ...: positives stand in diagonal tiles only
    decoupled: bool = False  # positives are left out of the logarithm
    alone: bool = False  # rows of a batch are no negatives; references are

    @property
    def side(self) -> int:
        """The side of a tile, where there are tiles."""
        assert self.tile is not None
        return self.tile


class Sums(NamedTuple):
    """Of some rows, each [n]."""

    top: jax.Array  # the largest logit so far
    total: jax.Array  # Σ exp(logit − top)
    positive: jax.Array  # Σ of the positives' logits, weighted
    positives: jax.Array  # Σ of their weights: how many they are


def masks(a: Rows, b: Rows, own: jax.Array | bool | None, form: Form) -> tuple[Any, Any]:
    """Which columns `b` count for rows `a`, and which are positives: [n, m] each, or None.

    Args:
        a: of the rows, each [n, ...], whatever of these there is: "label", whose equals are
            positives; "kinds", vectors whose overlap says how much; "apart", whose equals are no
            negatives; "real", false where a row does not count.
        b: of the columns, likewise; or "weights", how much each is a positive of each row.
        own: where a row meets itself: an array, True for the diagonal, None for nowhere.
        form: the loss's.
    """
    counts: Any = None
    for side, rows in ((1, a), (0, b)):
        if "real" in rows:
            real = jnp.expand_dims(rows["real"], side)
            counts = real if counts is None else counts & real
    if own is not None:
        own = jnp.eye(len(a["x"]), len(b["x"]), dtype=bool) if own is True else own
        counts = ~own if counts is None else counts & ~own
    positive = _positives(a, b)
    if positive is not None and counts is not None:
        positive = jnp.where(counts, positive, jnp.zeros((), positive.dtype))
    if "apart" in a and "apart" in b:
        counts = _and(counts, _or(_unequal(a["apart"], b["apart"]), positive))
    if form.decoupled and positive is not None:
        counts = _and(counts, ~_is(positive))
    if form.alone:
        none = jnp.zeros((len(a["x"]), len(b["x"])), bool)
        counts = _and(counts, none if positive is None else _is(positive))
    return counts, positive


def _positives(a: Rows, b: Rows) -> jax.Array | None:
    if "weights" in b:
        return b["weights"]
    if "kinds" in a and "kinds" in b:
        both = jnp.matmul(
            a["kinds"], b["kinds"].T, precision="highest", preferred_element_type=a["x"].dtype
        )
        either = jnp.sum(a["kinds"], axis=1)[:, None] + jnp.sum(b["kinds"], axis=1)[None, :] - both
        return both / jnp.maximum(either, 1.0)
    if "label" in a and "label" in b:
        return a["label"][:, None] == b["label"][None, :]
    return None


def _unequal(a: jax.Array, b: jax.Array) -> jax.Array:
    return a[:, None] != b[None, :]


def _and(counts: jax.Array | None, also: jax.Array) -> jax.Array:
    return also if counts is None else counts & also


def _or(this: jax.Array, positive: jax.Array | None) -> jax.Array:
    return this if positive is None else this | _is(positive)


def _is(positive: jax.Array) -> jax.Array:
    return positive if positive.dtype == bool else positive > 0


def reduce(logits: jax.Array, counts: jax.Array | None, positive: jax.Array | None) -> Sums:
    """Over the columns of a tile."""
    zeros = jnp.zeros_like(logits[:, 0])
    shown = logits if counts is None else jnp.where(counts, logits, -jnp.inf)
    top = jnp.maximum(jnp.max(shown, axis=1), LOWEST)
    total = jnp.sum(jnp.exp(shown - top[:, None]), axis=1)
    if positive is None:
        return Sums(top, total, zeros, zeros)
    return Sums(top, total, *of_positives(logits, positive))


def of_positives(logits: jax.Array, positive: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Σ of the positives' logits, and of their weights; booleans weigh 1."""
    if positive.dtype == bool:
        found = jnp.sum(jnp.where(positive, logits, 0.0), axis=1)
        return found, jnp.sum(positive, axis=1, dtype=logits.dtype)
    return jnp.sum(positive * logits, axis=1), jnp.sum(positive, axis=1)


def merge(a: Sums, b: Sums) -> Sums:
    """Sums over the columns of both (Milakov and Gimelshein 2018, arXiv:1805.02867)."""
    top = jnp.maximum(a.top, b.top)
    total = a.total * jnp.exp(a.top - top) + b.total * jnp.exp(b.top - top)
    return Sums(top, total, a.positive + b.positive, a.positives + b.positives)


def log_sum(sums: Sums) -> jax.Array:
    """Sum to log Σ exp(logit) over the columns that count; LOWEST where none does."""
    some = sums.total > 0
    # A NaN is no number above 0, and is to stay one.
    some = some | jnp.isnan(sums.total)
    return jnp.where(some, sums.top + jnp.log(jnp.where(some, sums.total, 1.0)), LOWEST)


def nothing_yet(x: jax.Array) -> Sums:
    """The sums of rows `x` before the first tile."""
    zero = jnp.where(False, x[:, 0], jnp.zeros((), x.dtype))
    return Sums(jnp.where(False, zero, jnp.asarray(LOWEST, x.dtype)), zero, zero, zero)
