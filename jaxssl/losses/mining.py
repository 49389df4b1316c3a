"""Triplets mined inside the global batch: for each anchor a positive and a negative."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxssl.losses._checks import Precision, as_margin, as_mask, check_labelled, check_options
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import (
    AxisName,
    dot_products,
    dtype_of,
    gather_rows,
    only_where,
    row_indices,
    scan_rows,
    tile_rows,
)
from jaxssl.losses.references import Queue, References, as_references, reference_rows, same_labels

Positive = Literal["easy", "hard"] | ArrayLike
Negative = Literal["semi-hard", "hard"] | ArrayLike

# What `Triplets.kind` counts from 0.
KINDS = ("easy", "semi-hard", "hard")


class Triplets(NamedTuple):
    """Mined triplets, one an anchor: indices into the (global) batch, all [n].

    Behind the batch's rows the indices count those of the references.
    """

    anchor: jax.Array
    positive: jax.Array
    negative: jax.Array
    mask: jax.Array  # False: the anchor has no positive or no negative, and its indices say nothing
    kind: jax.Array  # 0 easy: d_an ≥ d_ap + margin; 2 hard: d_an ≤ d_ap; 1 semi-hard: between
    fallback: jax.Array  # True: no negative was as the policy asks, the nearest was taken


def mine_triplets(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.5,
    positive: Positive = "easy",
    negative: Negative = "semi-hard",
    where: ArrayLike | None = None,
    references: References | Queue | None = None,
    precision: Precision = "highest",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> Triplets:
    """For every row as an anchor, the positive and the negative that the policies choose.

    - positive "easy": the nearest other row of the anchor's class; "hard": the farthest.
    - negative "semi-hard": the nearest of those with d_ap < d_an < d_ap + margin; "hard": the
      nearest of those with d_an < d_ap; where none qualifies, the nearest negative.

    Distances are squared Euclidean and comparisons strict; of equals, the first row is taken. They
    are computed as one matrix product: to about 1e-7 of the squared lengths, with equal rows at 0.

    Args:
        embeddings: as in `triplet_loss`.
        labels: as in `triplet_loss`.
        margin: bounds the semi-hard negatives; otherwise as in `triplet_loss`.
        positive: as in `triplet_loss`.
        negative: as in `triplet_loss`.
        where: as in `triplet_loss`.
        references: as in `triplet_loss`; their indices come after those of the batch.
        precision: as in `triplet_loss`.
        axis_name: as in `triplet_loss`. Anchors are then this device's rows; all indices count
            the rows of all devices.
        tile_size: at least 1: so many anchors are mined at a time, and memory is tile_size x N and
            N x d instead of N x N. None: all at once up to 2²² distances (n anchors of a device x N
            rows of all: 2,048 on one), above that as many as make 2²², at least 8. The triplets are
            the same, to the rounding of the product.

    Returns:
        `Triplets`: anchor, positive and negative indices, a mask, and of which kind each is (easy,
        semi-hard or hard: `KINDS`; whether it fell back), all [n]. How many fell in each is in
        `TripletStats`.

    Raises:
        ValueError: as `triplet_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import mine_triplets
        >>> z = jnp.array([[0.0], [0.5], [0.25], [0.75]])
        >>> triplets = mine_triplets(z, jnp.array([0, 0, 1, 2]), margin=0.5)
        >>> print(triplets.negative[0], triplets.mask)  # row 2 is nearer than the positive
        3 [ True  True False False]
    """
    check_options(precision=precision, tile_size=tile_size)
    return _mine_triplets(
        *check_mining(embeddings, labels, margin, positive, negative, where, references),
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


def check_mining(
    embeddings: Any,
    labels: Any,
    margin: Any,
    positive: Any,
    negative: Any,
    where: Any,
    references: Any,
) -> tuple:
    """What the losses and miners of triplets are all passed, checked."""
    embeddings, labels = check_labelled(embeddings, labels)
    return (
        embeddings,
        labels,
        as_margin(margin, math.inf),
        _is_hard("positive", positive, "easy"),
        _is_hard("negative", negative, "semi-hard"),
        as_mask("where", where, len(labels)),
        labelled_references(references, embeddings.shape[1]),
    )


def labelled_references(value: Any, d: int) -> References | None:
    """`as_references`, which must have labels."""
    references = as_references(value, d)
    if references is not None and references.labels is None:
        raise ValueError("references of triplets need labels: pass References(rows, labels)")
    return references


def _is_hard(name: str, policy: str | bool | jax.Array, other: str) -> bool | jax.Array:
    if not isinstance(policy, str):
        return jnp.asarray(policy, bool).reshape(())
    if policy not in (other, "hard"):
        raise ValueError(f"{name} must be '{other}', 'hard' or a boolean, got '{policy}'")
    return policy == "hard"


@compiled
def _mine_triplets(
    embeddings: jax.Array,
    labels: jax.Array,
    margin: Any,
    hard_positive: Any,
    hard_negative: Any,
    where: jax.Array | None,
    references: References | None,
    *,
    precision: str,
    axis_name: AxisName,
    tile_size: int | None,
) -> Triplets:
    rows = only_where(embeddings, where).astype(dtype_of(precision))
    columns = triplet_columns(rows, labels, where, references, axis_name, precision)
    policy = margin, hard_positive, hard_negative
    tile = tile_rows(rows.shape[0], columns[0].shape[0], tile_size)
    return mine_rows(rows, labels, where, columns, policy, tile, axis_name, precision)


def mine_rows(
    rows: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    columns: tuple[jax.Array, jax.Array, jax.Array | None],
    policy: tuple[Any, Any, Any],
    tile: int,
    axis_name: AxisName,
    precision: str,
) -> Triplets:
    """`mine_triplets` of rows against columns, their labels and which are there."""
    rows, points, column_labels = map(lax.stop_gradient, (rows, columns[0], columns[1]))
    real = columns[2]
    margin, hard_positive, hard_negative = policy
    anchor = row_indices(rows.shape[0], axis_name)
    column = jnp.arange(points.shape[0], dtype=anchor.dtype)[None, :]

    def mine(_: None, anchor: jax.Array, rows: jax.Array, labels: jax.Array) -> tuple:
        own = anchor[:, None] == column
        distances = squared_distances(rows, own, points, precision)
        same = labels[:, None] == column_labels[None, :]
        positives, negatives = same & ~own, ~same
        if real is not None:
            positives, negatives = positives & real[None, :], negatives & real[None, :]

        d_ap = _nearest(jnp.where(hard_positive, -distances, distances), positives)
        d_ap = jnp.where(hard_positive, -d_ap, d_ap)
        limit = d_ap + jnp.asarray(margin, rows.dtype)
        semi_hard = negatives & (d_ap < distances) & (distances < limit)
        # A hard negative, the nearest of those nearer than the positive or else the nearest of all,
        # is always the nearest of all.
        nearest, d_semi_hard = _nearest(distances, negatives), _nearest(distances, semi_hard)
        d_an = jnp.where(hard_negative | jnp.isinf(d_semi_hard), nearest, d_semi_hard)
        kind = jnp.where(d_an >= limit, 0, jnp.where(d_an <= d_ap, 2, 1)).astype(jnp.int32)
        fallback = jnp.where(hard_negative, d_an >= d_ap, jnp.isinf(d_semi_hard))
        return None, (
            _first(positives & (distances == d_ap)),
            _first(negatives & (distances == d_an)),
            jnp.any(positives, axis=1) & jnp.any(negatives, axis=1),
            kind[:, 0],
            fallback[:, 0],
        )

    _, (positive, negative, mask, kind, fallback) = scan_rows(
        mine, None, tile, anchor, rows, labels
    )
    if where is not None:
        mask = mask & where
    return Triplets(anchor, positive, negative, mask, kind, fallback & mask)


def triplet_columns(
    rows: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    references: References | None,
    axis_name: AxisName,
    precision: str,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """What anchors meet, rows of all devices and then references: rows, labels, which are there."""
    columns, column_labels = gather_rows(rows, axis_name), gather_rows(labels, axis_name)
    real = None if where is None else gather_rows(where, axis_name)
    if references is None:
        return columns, column_labels, real
    others = reference_rows(references, precision, unit=False)
    if real is not None or "real" in others:
        ours = jnp.ones(len(columns), bool) if real is None else real
        theirs = others.get("real", jnp.ones(len(others["x"]), bool))
        real = jnp.concatenate([ours, theirs])
    columns = jnp.concatenate([columns, others["x"]])
    return columns, jnp.concatenate([column_labels, same_labels(labels, others["label"])]), real


def squared_distances(
    rows: jax.Array, own: jax.Array, columns: jax.Array, precision: str = "highest"
) -> jax.Array:
    """|x - y|² from each of `rows` to all `columns`, one product of matrices.

    `own` marks the column that each row stands in. Equal rows are at distance exactly 0, and the
    same distance worked out twice is the same to the bit: no step but the product depends on order,
    and no contraction to fused operations changes it.
    """
    products = dot_products(rows, columns, precision)
    squares = jnp.sum(columns * columns, axis=1)[None, :]

    def of_own(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(own, values, 0.0), axis=1, keepdims=True)

    # x·x − x·y, both from the one product, and |y|² − |x|²: equal rows cancel in both.
    return jnp.maximum(2.0 * (of_own(products) - products) + (squares - of_own(squares)), 0.0)


def _nearest(distances: jax.Array, among: jax.Array) -> jax.Array:
    """The least distance [n, 1]; inf among none."""
    return jnp.min(jnp.where(among, distances, jnp.inf), axis=1, keepdims=True)


def _first(chosen: jax.Array) -> jax.Array:
    """The first column that is chosen [n]; some column where none is."""
    last = chosen.shape[1] - 1
    index = jnp.arange(last + 1, dtype=jnp.int32)[None, :]
    return jnp.min(jnp.where(chosen, index, jnp.int32(last)), axis=1)
