"""The triplet loss over all triplets of the global batch, by counts and sums."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._checks import check_labelled, check_margin, check_tile_size
from jaxssl.losses._meshes import on_any_mesh
from jaxssl.losses._rows import (
    AxisName,
    dot_products,
    filled,
    gather_rows,
    row_indices,
    scan_rows,
    tile_rows,
)
from jaxssl.losses.triplet import squared_distances

_OWN = 0xFFFFFFFF  # an anchor's own column: beyond every distance, NaN among them


@on_any_mesh
def batch_all_triplet_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.5,
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""Triplet margin loss over every triplet of the batch, averaged over those above 0.

        loss = Σ max(d_ap − d_an + margin, 0) / #{d_ap − d_an + margin > 0},    d_xy = |x − y|²

    over all anchors a, positives p (another row of a's class) and negatives n (a row of another
    class): "batch all ≠ 0" of Hermans et al. The count carries no gradient. As in `triplet_loss`,
    distances are squared and the embeddings taken as given: normalise them before.

    No list of triplets is made. For one anchor, with its distances to negatives, d_an, and
    thresholds d_ap + margin in one sorted row, a triplet's loss is the sum of the gaps between the
    two; so the anchor's sum is that of gap x (negatives before) x (positives after), of
    non-negative terms, and its gradient is made of the same counts. That costs N² log N, whatever
    the sizes of the classes, and the gradient is found along with the value, in the same tiles.

    Args:
        embeddings: [n, d], any float type; computed in float32. With `axis_name`, this device's
            shard.
        labels: class of each row, [n] integers of any value.
        margin: in squared distance, in [0, inf); unit rows are at most 4 apart. May be traced.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        tile_size: how many anchors are looked at at a time, as in `mine_triplets`.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where there is
        no triplet above 0. It is `margin`, with zero gradients, where all rows coincide.

    Raises:
        ValueError: if `embeddings` are not [n, d] or `labels` not [n] integers, if either is empty,
            if `margin` is negative or not finite, or if `tile_size` is below 1.

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017
        (https://arxiv.org/abs/1703.07737), equation 6 and section 4.1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import batch_all_triplet_loss
        >>> z = jnp.array([[0.0], [0.5], [1.0]])
        >>> print(batch_all_triplet_loss(z, jnp.array([0, 0, 1]), margin=1.0))  # (0.25 + 1.0) / 2
        0.625
    """
    check_labelled(embeddings, labels)
    check_margin(margin, math.inf)
    check_tile_size(tile_size)
    rows = embeddings.astype(jnp.float32)
    columns, column_labels = gather_rows(rows, axis_name), gather_rows(labels, axis_name)
    tile = tile_rows(rows.shape[0], columns.shape[0], tile_size)
    anchors = labels, row_indices(rows.shape[0], axis_name)
    margin = jnp.asarray(margin, jnp.float32)
    total, count = _total_and_count(
        tile, rows, columns, (*anchors, column_labels, lax.stop_gradient(margin))
    )
    # Every triplet above 0 moves with the margin.
    count = lax.stop_gradient(count)
    total = total + (margin - lax.stop_gradient(margin)) * count
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total_and_count(
    tile: int, rows: jax.Array, columns: jax.Array, rest: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    """Sum of the losses of the rows' triplets, and how many are above 0."""
    return _total_count_and_gradients(tile, rows, columns, rest, gradients=False)[0]


def _forward(tile: int, *arguments: Any) -> Any:
    return _total_count_and_gradients(tile, *arguments, gradients=True)


def _backward(tile: int, gradients: Any, cotangents: tuple[jax.Array, jax.Array]) -> Any:
    # The loss is one number, so its gradient was found with it: [n, d] to keep instead of sorting
    # everything again.
    by_rows, by_columns = gradients
    return cotangents[0] * by_rows, cotangents[0] * by_columns, None


_total_and_count.defvjp(_forward, _backward)


def _total_count_and_gradients(
    tile: int,
    rows: jax.Array,
    columns: jax.Array,
    rest: tuple[jax.Array, ...],
    *,
    gradients: bool,
) -> Any:
    labels, index, column_labels, margin = rest
    # Distances and gradients do not depend on the origin. With one row there, rows that all
    # coincide have gradients of exactly 0.
    origin = columns[:1]
    columns = columns - origin
    finite = jnp.isfinite(columns).all()

    def anchors(carry: Any, rows: jax.Array, labels: jax.Array, index: jax.Array, real: jax.Array):
        own = index[:, None] == jnp.arange(columns.shape[0])[None, :]
        negative = labels[:, None] != column_labels[None, :]
        distances = squared_distances(rows, own, columns)
        keys = _keys(jnp.where(negative, distances, distances + margin), negative, own)
        # Sorting numbers alone takes a CPU an eighth of the time that sorting them with their
        # columns does, so a column looks its place up where its weight is wanted.
        ordered = jnp.sort(keys, axis=1)
        losses, counts, negatives = _sums(ordered)
        if not gradients:
            return carry, (losses, counts)
        weights = _weights(keys, ordered, negatives)
        weights = jnp.where(real[:, None], weights, 0.0)
        by_rows = -2.0 * dot_products(weights, columns.T)
        pull = jnp.sum(weights, axis=0)[:, None] * columns - dot_products(weights.T, rows.T)
        return carry + 2.0 * pull, (losses, counts, by_rows)

    start = filled(0.0, columns)
    real = jnp.ones(rows.shape[0], bool)
    by_columns, (losses, counts, *by_rows) = scan_rows(
        anchors, start, tile, rows - origin, labels, index, real
    )
    # Sorting would bury a NaN.
    total = jnp.where(finite, jnp.sum(losses), jnp.nan)
    return (total, jnp.sum(counts)), (*by_rows, by_columns)


def _keys(distances: jax.Array, negative: jax.Array, own: jax.Array) -> jax.Array:
    """Distance (≥ 0) and side of each column as one integer, in the order of the distances.

    Float bits of numbers ≥ 0 are in the order of the numbers and leave the sign's bit free. Of
    equals the positives come first: a loss of exactly 0 does not count. The own column is last.
    """
    bits = lax.bitcast_convert_type(distances, jnp.uint32)
    return jnp.where(own, jnp.uint32(_OWN), (bits << 1) | negative.astype(jnp.uint32))


def _sums(ordered: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of sorted keys: an anchor's sum of losses, its triplets above 0, negatives up to a place."""
    n = ordered.shape[1]
    place = jnp.arange(n)[None, :]
    own = place == n - 1
    negative = (ordered & 1 == 1) & ~own
    up_to = jnp.cumsum(negative, axis=1, dtype=jnp.int32)
    after = (n - 1 - up_to[:, -1:]) - (place + 1 - up_to)  # positives

    values = lax.bitcast_convert_type(ordered >> 1, jnp.float32)
    gaps = jnp.diff(values, axis=1, append=values[:, -1:])
    products = up_to.astype(jnp.float32) * after.astype(jnp.float32)
    # The own column stands for no distance, nor does the gap before it: no positives come after.
    losses = jnp.sum(jnp.where(after > 0, gaps * products, 0.0), axis=1)
    counts = jnp.sum(jnp.where(negative | own, 0.0, up_to.astype(jnp.float32)), axis=1)
    return losses, counts, up_to


def _weights(keys: jax.Array, ordered: jax.Array, up_to: jax.Array) -> jax.Array:
    """dloss/ddistance of each column: its triplets above 0, negative for a negative."""
    below = jax.vmap(jnp.searchsorted)(ordered, keys)  # keys below the column's own
    negatives = jnp.where(
        below > 0, jnp.take_along_axis(up_to, jnp.maximum(below - 1, 0), axis=1), 0
    )
    positives_above = (keys.shape[1] - 1 - up_to[:, -1:]) - (below - negatives)
    weights = jnp.where(keys & 1 == 1, -positives_above, negatives)
    return jnp.where(keys == jnp.uint32(_OWN), 0, weights).astype(jnp.float32)
