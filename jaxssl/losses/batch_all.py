"""The triplet loss over all triplets of the global batch, by counts and sums."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxssl.losses._checks import (
    Precision,
    Reduction,
    as_margin,
    as_mask,
    as_weights,
    check_labelled,
    check_options,
)
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import (
    AxisName,
    dot_products,
    dtype_of,
    filled,
    nan_unless_finite,
    only_where,
    row_indices,
    scan_rows,
    tile_rows,
)
from jaxssl.losses.mining import labelled_references, squared_distances, triplet_columns
from jaxssl.losses.references import Queue, References


def batch_all_triplet_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    references: References | Queue | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
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
    the sizes of the classes, and the gradient is found along with the value, in the same tiles;
    only for `weights` and `reduction="none"` is it found after it, which sorts once more. There is
    no forward-mode derivative but in those two cases, and an error says so; second derivatives are
    those of the loss while its triplets stay above or below 0.

    Args:
        embeddings: [n, d], any float type; computed in float32. With `axis_name`, this device's
            shard.
        labels: class of each row, [n] integers of any value.
        margin: in squared distance, in [0, inf); unit rows are at most 4 apart. May be traced.
        where: as in `triplet_loss`.
        weights: of each anchor's triplets, [n], at least 0: Σ weight·loss / Σ weight over the
            triplets above 0.
        references: as in `triplet_loss`.
        reduction: "mean"; "sum" over all triplets; or "none": each anchor's mean over its own
            triplets above 0 (times its weight), [n] of this device.
        precision: of the distances, as in `nt_xent`.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        tile_size: how many anchors are looked at at a time, as in `mine_triplets`.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where there is
        no triplet above 0. It is `margin`, with zero gradients, where all rows coincide, and NaN if
        any row that is there is not finite.

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
    check_options(reduction, precision, tile_size)
    embeddings, labels = check_labelled(embeddings, labels)
    n, d = embeddings.shape
    return _batch_all_triplet_loss(
        embeddings,
        labels,
        as_margin(margin, math.inf),
        as_mask("where", where, n),
        as_weights("weights", weights, n),
        labelled_references(references, d),
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


@compiled
def _batch_all_triplet_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    margin: Any,
    where: jax.Array | None,
    weights: jax.Array | None,
    references: References | None,
    *,
    reduction: str,
    precision: str,
    axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    rows = only_where(embeddings, where).astype(dtype_of(precision))
    columns, column_labels, real = triplet_columns(
        rows, labels, where, references, axis_name, precision
    )
    tile = tile_rows(rows.shape[0], columns.shape[0], tile_size)
    index = row_indices(rows.shape[0], axis_name)
    there = jnp.ones(rows.shape[0], bool) if where is None else where
    margin = jnp.asarray(margin, rows.dtype)
    fixed = lax.stop_gradient(margin)
    # Distances and gradients do not depend on the origin. With one row there, rows that all
    # coincide have gradients of exactly 0.
    origin = lax.stop_gradient(columns[:1])
    about = (labels, index, there), (column_labels, real, fixed)
    how = tile, precision
    if weights is None and reduction != "none":
        total, count = _total_and_count(how, rows - origin, columns - origin, about)
    else:
        totals, counts = _of_anchors(how, rows - origin, columns - origin, about)
        # Every triplet above 0 moves with the margin.
        totals = totals + (margin - fixed) * counts
        weight = jnp.ones_like(totals) if weights is None else weights.astype(totals.dtype)
        if reduction == "none":
            losses = weight * totals / jnp.maximum(counts, 1.0)
            return nan_unless_finite(losses, rows, columns, axis_name=axis_name)
        # A weight that counts nothing stays out: it may stand beside a row that is not there.
        weight = jnp.where(counts > 0, weight, 0.0)
        total, count = jnp.sum(weight * totals), jnp.sum(weight * counts)
        margin = fixed
    count = count if weights is not None else lax.stop_gradient(count)
    total = total + (margin - fixed) * count
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    if reduction == "mean":
        total = jnp.where(count > 0, total / jnp.where(count > 0, count, 1.0), 0.0)
    # Sorting would bury a NaN.
    return nan_unless_finite(total, rows, columns, axis_name=axis_name)


def _of_anchors(
    how: tuple[int, str], rows: jax.Array, columns: jax.Array, about: Any
) -> tuple[jax.Array, jax.Array]:
    """Each anchor's sum of losses, and its triplets above 0; by autodiff, in every mode.

    The sum's value is that of gaps. Its gradient is that of Σ_j w_j |x − y_j|², w_j the triplets of
    column j, negative for a negative: over an anchor they add up to 0, so |x|² drops out.
    """
    tile, precision = how

    # The matrix of w is made again for the gradient: none is kept.
    @jax.checkpoint
    def anchors(carry: None, rows: jax.Array, *about_rows: jax.Array) -> Any:
        losses, counts, w = lax.stop_gradient(
            _matrix(rows, columns, about_rows, about[1], precision)
        )
        pulled = dot_products(w, columns.T, precision)
        moving = jnp.matmul(w, jnp.sum(columns * columns, axis=1), precision="highest")
        moving = moving - 2.0 * jnp.sum(rows * pulled, axis=1)
        return carry, (losses + (moving - lax.stop_gradient(moving)), counts)

    return scan_rows(anchors, None, tile, rows, *about[0])[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total_and_count(
    how: tuple[int, str], rows: jax.Array, columns: jax.Array, about: Any
) -> tuple[jax.Array, jax.Array]:
    """Sum of the losses of the rows' triplets, and how many are above 0."""

    def anchors(carry: None, rows: jax.Array, *about_rows: jax.Array) -> Any:
        return carry, _matrix(rows, columns, about_rows, about[1], how[1])[:2]

    _, (losses, counts) = scan_rows(anchors, None, how[0], rows, *about[0])
    return jnp.sum(losses), jnp.sum(counts)


def _forward(how: tuple[int, str], *arguments: Any) -> Any:
    total, count, by_rows, by_columns = _with_gradients(how, *arguments)
    return (total, count), (by_rows, by_columns)


def _backward(how: tuple[int, str], gradients: Any, cotangents: tuple[jax.Array, jax.Array]) -> Any:
    # The loss is one number, so its gradient was found with it: [n, d] to keep instead of sorting
    # everything again.
    by_rows, by_columns = gradients
    return cotangents[0] * by_rows, cotangents[0] * by_columns, None


_total_and_count.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_gradients(
    how: tuple[int, str], rows: jax.Array, columns: jax.Array, about: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`_total_and_count` and the total's gradients by rows and by columns, in one pass."""

    def anchors(carry: jax.Array, rows: jax.Array, *about_rows: jax.Array) -> Any:
        losses, counts, w = _matrix(rows, columns, about_rows, about[1], how[1])
        by_rows = -2.0 * dot_products(w, columns.T, how[1])
        pull = jnp.sum(w, axis=0)[:, None] * columns - dot_products(w.T, rows.T, how[1])
        return carry + 2.0 * pull, (losses, counts, by_rows)

    by_columns, (losses, counts, by_rows) = scan_rows(
        anchors, filled(0.0, columns), how[0], rows, *about[0]
    )
    return jnp.sum(losses), jnp.sum(counts), by_rows, by_columns


def _again(how: tuple[int, str], arguments: Any, cotangents: Any) -> Any:
    """The second derivative, and all beyond: those of `_of_anchors`, which autodiff knows."""
    rows, columns, about = arguments

    def everything(rows: jax.Array, columns: jax.Array) -> Any:
        def total(rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
            losses, counts = _of_anchors(how, rows, columns, about)
            return jnp.sum(losses), jnp.sum(counts)

        (value, count), by = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(rows, columns)
        return value, count, *by

    return *jax.vjp(everything, rows, columns)[1](cotangents), None


_with_gradients.defvjp(
    lambda how, *arguments: (_with_gradients(how, *arguments), arguments), _again
)


def _matrix(
    rows: jax.Array, columns: jax.Array, about_rows: Any, about_columns: Any, precision: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Some anchors' sums of losses [t], triplets above 0 [t], and those of each column [t, N]."""
    labels, index, there = about_rows
    column_labels, real, margin = about_columns
    out = index[:, None] == jnp.arange(columns.shape[0], dtype=index.dtype)[None, :]
    negative = labels[:, None] != column_labels[None, :]
    distances = squared_distances(rows, out, columns, precision)
    if real is not None:
        out = out | ~real[None, :]
    out = out | ~there[:, None]
    keys = _keys(jnp.where(negative, distances, distances + margin), negative, out)
    # Sorting numbers alone takes a CPU an eighth of the time that sorting them with their columns
    # does, so a column looks its place up where its weight is wanted.
    ordered = jnp.sort(keys, axis=1)
    number = jnp.sum(~out, axis=1, dtype=jnp.int32)[:, None]
    losses, counts, negatives = _sums(ordered, number, distances.dtype)
    return losses, counts, _weights(keys, ordered, negatives, number, distances.dtype)


def _keys(distances: jax.Array, negative: jax.Array, out: jax.Array) -> jax.Array:
    """Distance (≥ 0) and side of each column as one integer, in the order of the distances.

    Float bits of numbers ≥ 0 are in the order of the numbers and leave the sign's bit free. Of
    equals the positives come first: a loss of exactly 0 does not count. Columns that are not there,
    the anchor's own among them, are last.
    """
    kind = jnp.uint64 if distances.dtype == jnp.float64 else jnp.uint32
    bits = lax.bitcast_convert_type(distances, kind)
    last = jnp.asarray(jnp.iinfo(kind).max, kind)
    return jnp.where(out, last, (bits << kind(1)) | negative.astype(kind))


def _sums(
    ordered: jax.Array, number: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of sorted keys: an anchor's sum of losses, its triplets above 0, negatives up to a place."""
    one = jnp.ones((), ordered.dtype)
    place = jnp.arange(ordered.shape[1], dtype=jnp.int32)[None, :]
    there = place < number
    negative = ((ordered & one) == one) & there
    up_to = jnp.cumsum(negative, axis=1, dtype=jnp.int32)
    after = (number - up_to[:, -1:]) - (place + 1 - up_to)  # positives

    values = lax.bitcast_convert_type(jnp.where(there, ordered >> one, jnp.zeros_like(one)), dtype)
    gaps = jnp.diff(values, axis=1, append=values[:, -1:])
    products = up_to.astype(dtype) * after.astype(dtype)
    # What is not there stands for no distance, nor does the gap before: no positives come after.
    losses = jnp.sum(jnp.where(there & (after > 0), gaps * products, 0.0), axis=1)
    counts = jnp.sum(jnp.where(there & ~negative, up_to.astype(dtype), 0.0), axis=1)
    return losses, counts, up_to


def _weights(
    keys: jax.Array, ordered: jax.Array, up_to: jax.Array, number: jax.Array, dtype: Any
) -> jax.Array:
    """dloss/ddistance of each column: its triplets above 0, negative for a negative."""
    below = jax.vmap(jnp.searchsorted)(ordered, keys).astype(jnp.int32)  # keys below the column's
    negatives = jnp.where(
        below > 0, jnp.take_along_axis(up_to, jnp.maximum(below - 1, 0), axis=1), 0
    )
    positives_above = (number - up_to[:, -1:]) - (below - negatives)
    one = jnp.ones((), keys.dtype)
    weights = jnp.where((keys & one) == one, -positives_above, negatives)
    last = jnp.asarray(jnp.iinfo(keys.dtype).max, keys.dtype)
    return jnp.where(keys == last, 0, weights).astype(dtype)
