"""Triplet loss with mining inside the global batch."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl.losses._checks import check_labelled, check_margin
from jaxssl.losses._rows import AxisName, dot_products, gather_rows, mean_where, row_indices

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

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        has both a positive and a negative. It is `margin` where all rows coincide.

    Raises:
        ValueError: if `embeddings` are not [n, d] or `labels` not [n] integers, if either is empty,
            if `margin` is negative or not finite, or if a policy is unknown.

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
    )[0]


def triplet_loss_and_stats(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.5,
    positive: Positive = "easy",
    negative: Negative = "semi-hard",
    axis_name: AxisName = None,
) -> tuple[jax.Array, TripletStats]:
    """`triplet_loss` with what to log beside it, for `jax.value_and_grad(..., has_aux=True)`.

    Args:
        embeddings: as in `triplet_loss`.
        labels: as in `triplet_loss`.
        margin: as in `triplet_loss`.
        positive: as in `triplet_loss`.
        negative: as in `triplet_loss`.
        axis_name: as in `triplet_loss`.

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
    )
    rows = embeddings.astype(jnp.float32)
    columns = gather_rows(rows, axis_name)
    # From differences, not from the matrix that was mined: exact in value and gradient.
    d_ap = jnp.sum(jnp.square(rows - columns[triplets.positive]), axis=1)
    d_an = jnp.sum(jnp.square(rows - columns[triplets.negative]), axis=1)
    losses = jax.nn.relu(d_ap - d_an + jnp.asarray(margin, jnp.float32))

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
    hard_positive = _is_hard("positive", positive, "easy")
    hard_negative = _is_hard("negative", negative, "semi-hard")

    rows = embeddings.astype(jnp.float32)
    anchor = row_indices(rows.shape[0], axis_name)
    column_labels = gather_rows(labels, axis_name)
    own = anchor[:, None] == jnp.arange(column_labels.shape[0])[None, :]
    distances = _squared_distances(rows, own, axis_name)
    same = labels[:, None] == column_labels[None, :]
    positives, negatives = same & ~own, ~same

    chosen = _argmin(jnp.where(hard_positive, -distances, distances), positives)
    d_ap = jnp.take_along_axis(distances, chosen[:, None], axis=1)
    limit = d_ap + jnp.asarray(margin, jnp.float32)
    semi_hard = negatives & (d_ap < distances) & (distances < limit)
    # A hard negative, the nearest of those nearer than the positive or else the nearest of all, is
    # always the nearest of all.
    any_negative = hard_negative | ~jnp.any(semi_hard, axis=1, keepdims=True)
    return Triplets(
        anchor=anchor,
        positive=chosen,
        negative=_argmin(distances, jnp.where(any_negative, negatives, semi_hard)),
        mask=jnp.any(positives, axis=1) & jnp.any(negatives, axis=1),
    )


def _is_hard(name: str, policy: str | bool | jax.Array, other: str) -> bool | jax.Array:
    if not isinstance(policy, str):
        return jnp.asarray(policy, bool).reshape(())
    if policy not in (other, "hard"):
        raise ValueError(f"{name} must be '{other}', 'hard' or a boolean, got '{policy}'")
    return policy == "hard"


def _squared_distances(rows: jax.Array, own: jax.Array, axis_name: AxisName) -> jax.Array:
    """From each of the local `rows` to all rows; `own` marks each row's own column."""
    products = dot_products(rows, gather_rows(rows, axis_name))
    # The squared lengths come from the same product, so that equal rows cancel to exactly 0.
    squares = jnp.sum(jnp.where(own, products, 0.0), axis=1)
    columns = gather_rows(squares, axis_name)
    return jnp.maximum(squares[:, None] + columns[None, :] - 2.0 * products, 0.0)


def _argmin(values: jax.Array, among: jax.Array) -> jax.Array:
    return jnp.argmin(jnp.where(among, values, jnp.inf), axis=1)
