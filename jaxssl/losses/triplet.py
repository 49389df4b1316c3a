"""Triplet loss with mining inside the global batch."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._checks import check_labelled, check_margin, check_tile_size
from jaxssl.losses._meshes import on_any_mesh
from jaxssl.losses._rows import (
    AxisName,
    dot_products,
    gather_rows,
    mean_where,
    row_indices,
    scan_rows,
    tile_rows,
)

Positive = Literal["easy", "hard"] | bool | jax.Array
Negative = Literal["semi-hard", "hard"] | bool | jax.Array


class Triplets(NamedTuple):
    """Mined triplets, one an anchor: indices into the (global) batch, all [n]."""

    anchor: jax.Array
    positive: jax.Array
    negative: jax.Array
    mask: jax.Array  # False: the anchor has no positive or no negative, and its indices say nothing


class TripletStats(NamedTuple):
    """What to log beside the loss: float32 scalars over the global batch."""

    anchors: jax.Array  # share of rows that have a triplet
    active: jax.Array  # share of those whose loss is above 0; 1 for long means collapse
    d_ap: jax.Array  # mean squared distance from anchor to positive
    d_an: jax.Array  # mean squared distance from anchor to negative


def triplet_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.5,
    positive: Positive = "easy",
    negative: Negative = "semi-hard",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""Triplet margin loss on squared Euclidean distances, one mined triplet an anchor.

        loss = mean over anchors of max(d_ap − d_an + margin, 0),    d_xy = |x − y|²

    over the anchors that have a positive (another row of their class) and a negative. The
    embeddings are taken as given: **normalise them before**, or the margin has no scale.
    `mine_triplets` says which positive and negative are taken. The choice carries no gradient; the
    distances of the chosen do. A curriculum switches policies inside one compiled function by
    passing (traced) booleans: `positive=epoch >= 25, negative=epoch >= 10`.

    Args:
        embeddings: [n, d], any float type; computed in float32. With `axis_name`, this device's
            shard.
        labels: class of each row, [n] integers of any value.
        margin: in squared distance, in [0, inf); unit rows are at most 4 apart. May be traced.
        positive: "easy", the nearest, or "hard", the farthest; or a boolean scalar, true for hard.
        negative: "semi-hard" or "hard"; or a boolean scalar, true for hard.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        tile_size: how many anchors are mined at a time; `mine_triplets` says more.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        has both a positive and a negative. It is `margin` where all rows coincide.

    Raises:
        ValueError: if `embeddings` are not [n, d] or `labels` not [n] integers, if either is empty,
            if `margin` is negative or not finite, if a policy is unknown, or if `tile_size` is
            below 1.

    Reference:
        Schroff et al., "FaceNet", 2015 (https://arxiv.org/abs/1503.03832), equation 3 and
        section 3.2; easy positives: Xuan et al., 2020 (https://arxiv.org/abs/1904.04370).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import triplet_loss
        >>> z = jnp.array([[0.0], [0.5], [1.0]])
        >>> print(triplet_loss(z, jnp.array([0, 0, 1]), margin=1.0))  # (0.25 + 1.0) / 2
        0.625
    """
    return triplet_loss_and_stats(
        embeddings,
        labels,
        margin=margin,
        positive=positive,
        negative=negative,
        axis_name=axis_name,
        tile_size=tile_size,
    )[0]


@on_any_mesh
def triplet_loss_and_stats(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.5,
    positive: Positive = "easy",
    negative: Negative = "semi-hard",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> tuple[jax.Array, TripletStats]:
    """`triplet_loss` with what to log beside it, for `jax.value_and_grad(..., has_aux=True)`.

    Args:
        embeddings: as in `triplet_loss`.
        labels: as in `triplet_loss`.
        margin: as in `triplet_loss`.
        positive: as in `triplet_loss`.
        negative: as in `triplet_loss`.
        axis_name: as in `triplet_loss`.
        tile_size: as in `triplet_loss`.

    Returns:
        The loss, and `TripletStats`; `stats._asdict()` is ready for a log.

    Raises:
        ValueError: as `triplet_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import triplet_loss_and_stats
        >>> z = jnp.array([[0.0], [0.5], [1.0], [1.5]])
        >>> loss, stats = triplet_loss_and_stats(z, jnp.array([0, 0, 1, 2]), margin=0.5)
        >>> print(loss, *stats)  # the two lone rows have no triplet
        0.25 0.5 0.5 0.25 0.625
    """
    triplets = mine_triplets(
        embeddings,
        labels,
        margin=margin,
        positive=positive,
        negative=negative,
        axis_name=axis_name,
        tile_size=tile_size,
    )
    rows = embeddings.astype(jnp.float32)
    columns = gather_rows(rows, axis_name)
    # From differences, not from the matrix that was mined: exact in value and gradient.
    d_ap = jnp.sum(jnp.square(rows - columns[triplets.positive]), axis=1)
    d_an = jnp.sum(jnp.square(rows - columns[triplets.negative]), axis=1)
    losses = jax.nn.relu(d_ap - d_an + jnp.asarray(margin, jnp.float32))
    # Mining may pass a NaN by.
    losses = jnp.where(jnp.isfinite(columns).all(), losses, jnp.nan)

    def mean(values: jax.Array) -> jax.Array:
        return mean_where(values, triplets.mask, axis_name)

    everyone = jnp.ones_like(triplets.mask)
    stats = TripletStats(
        anchors=mean_where(triplets.mask.astype(jnp.float32), everyone, axis_name),
        active=mean((losses > 0).astype(jnp.float32)),
        d_ap=mean(d_ap),
        d_an=mean(d_an),
    )
    return mean(losses), stats


def mine_triplets(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.5,
    positive: Positive = "easy",
    negative: Negative = "semi-hard",
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
        axis_name: as in `triplet_loss`. Anchors are then this device's rows; all indices count
            the rows of all devices.
        tile_size: at least 1: so many anchors are mined at a time, and memory is tile_size x N and
            N x d instead of N x N. None: all at once up to 2²² distances (n anchors of a device x N
            rows of all: 2,048 on one), above that as many as make 2²², at least 8. The triplets are
            the same, to the rounding of the product.

    Returns:
        `Triplets`: anchor, positive and negative indices and a mask, all [n].

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
    check_labelled(embeddings, labels)
    check_margin(margin, math.inf)
    check_tile_size(tile_size)
    hard_positive = _is_hard("positive", positive, "easy")
    hard_negative = _is_hard("negative", negative, "semi-hard")

    rows = lax.stop_gradient(embeddings.astype(jnp.float32))
    columns, column_labels = gather_rows(rows, axis_name), gather_rows(labels, axis_name)
    column = jnp.arange(columns.shape[0])[None, :]

    def mine(_: None, anchor: jax.Array, rows: jax.Array, labels: jax.Array) -> tuple:
        own = anchor[:, None] == column
        distances = squared_distances(rows, own, columns)
        same = labels[:, None] == column_labels[None, :]
        positives, negatives = same & ~own, ~same

        d_ap = _nearest(jnp.where(hard_positive, -distances, distances), positives)
        d_ap = jnp.where(hard_positive, -d_ap, d_ap)
        limit = d_ap + jnp.asarray(margin, jnp.float32)
        semi_hard = negatives & (d_ap < distances) & (distances < limit)
        # A hard negative, the nearest of those nearer than the positive or else the nearest of all,
        # is always the nearest of all.
        d_an, d_semi_hard = _nearest(distances, negatives), _nearest(distances, semi_hard)
        d_an = jnp.where(hard_negative | jnp.isinf(d_semi_hard), d_an, d_semi_hard)
        return None, (
            _first(positives & (distances == d_ap)),
            _first(negatives & (distances == d_an)),
            jnp.any(positives, axis=1) & jnp.any(negatives, axis=1),
        )

    anchor = row_indices(rows.shape[0], axis_name)
    tile = tile_rows(rows.shape[0], columns.shape[0], tile_size)
    _, (positives, negatives, mask) = scan_rows(mine, None, tile, anchor, rows, labels)
    return Triplets(anchor, positives, negatives, mask)


def _is_hard(name: str, policy: str | bool | jax.Array, other: str) -> bool | jax.Array:
    if not isinstance(policy, str):
        return jnp.asarray(policy, bool).reshape(())
    if policy not in (other, "hard"):
        raise ValueError(f"{name} must be '{other}', 'hard' or a boolean, got '{policy}'")
    return policy == "hard"


def squared_distances(rows: jax.Array, own: jax.Array, columns: jax.Array) -> jax.Array:
    """|x - y|² from each of `rows` to all `columns`, one product of matrices.

    `own` marks the column that each row stands in. Equal rows are at distance exactly 0, and the
    same distance worked out twice is the same to the bit: no step but the product depends on order,
    and no contraction to fused operations changes it.
    """
    products = dot_products(rows, columns)
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
    return jnp.min(jnp.where(chosen, jnp.arange(last + 1)[None, :], last), axis=1)
