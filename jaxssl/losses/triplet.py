"""Triplet loss with mining inside the global batch."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from jaxssl import lowering
from jaxssl.losses._checks import (
    Precision,
    Reduction,
    as_weights,
    check_labelled,
    check_options,
)
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import (
    AxisName,
    dtype_of,
    mean_where,
    nan_unless_finite,
    only_where,
    reduce_rows,
    tile_rows,
)
from jaxssl.losses.mining import Negative, Positive, check_mining, mine_rows, triplet_columns
from jaxssl.losses.references import Queue, References


class TripletStats(NamedTuple):
    """What to log beside the loss: float32 scalars over the global batch."""

    anchors: jax.Array  # share of rows that have a triplet
    active: jax.Array  # share of those whose loss is above 0; 1 for long means collapse
    d_ap: jax.Array  # mean squared distance from anchor to positive
    d_an: jax.Array  # mean squared distance from anchor to negative
    easy: jax.Array  # how many triplets are easy,
    semi_hard: jax.Array  # semi-hard,
    hard: jax.Array  # and hard, as `Triplets.kind` says
    fallback: jax.Array  # in how many the nearest negative stands for one that there was not


def triplet_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.5,
    positive: Positive = "easy",
    negative: Negative = "semi-hard",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    references: References | Queue | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
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
        where: booleans [n]: rows where it is False are not there, whatever they hold; such as
            unlabelled rows, `labels != ignored`.
        weights: of each anchor in the mean, [n], at least 0.
        references: labelled rows, `References` or `Queue`, that serve as positives and negatives
            and are no anchors.
        reduction: "mean"; "sum"; or "none", [n] of this device, 0 for an anchor without a triplet.
        precision: of the distances that are mined, as in `nt_xent`; those of the chosen triplets
            are exact.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        tile_size: how many anchors are mined at a time; `mine_triplets` says more.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        has both a positive and a negative. It is `margin` where all rows coincide, and NaN if any
        row that is there is not finite, or so far from another (about 1e19) that the square of it
        is beyond float32.

    Raises:
        ValueError: if `embeddings` are not [n, d] or `labels` not [n] integers, if either is empty,
            if `margin` is negative or not finite, if a policy is unknown, if `tile_size` is
            below 1, or if another argument does not fit; as `nt_xent` says, labels beyond 32 bits
            too.

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
        where=where,
        weights=weights,
        references=references,
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )[0]


def triplet_loss_and_stats(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.5,
    positive: Positive = "easy",
    negative: Negative = "semi-hard",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    references: References | Queue | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
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
        where: as in `triplet_loss`.
        weights: as in `triplet_loss`.
        references: as in `triplet_loss`.
        reduction: as in `triplet_loss`.
        precision: as in `triplet_loss`.
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
        >>> print(loss, *stats[:4])  # the two lone rows have no triplet
        0.25 0.5 0.5 0.25 0.625
        >>> print(*stats[4:])  # d_an is 1 and 0.25, where 0.25 to 0.75 would be semi-hard
        1.0 0.0 1.0 2.0
    """
    check_options(reduction, precision, tile_size)
    n = len(check_labelled(embeddings, labels)[0])
    return _triplet_loss(
        *check_mining(embeddings, labels, margin, positive, negative, where, references),
        as_weights("weights", weights, n),
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


@compiled
def _triplet_loss(
    *arrays: Any, reduction: str, precision: str, axis_name: AxisName, tile_size: int | None
) -> tuple[jax.Array, TripletStats]:
    of_rows = partial(_of_rows, reduction=reduction, precision=precision, tile_size=tile_size)
    n = len(arrays[0])
    axis = lowering.axis_of(n) if axis_name is None and tile_rows(n, n, tile_size) < n else None
    if axis is None:
        return of_rows(*arrays, axis_name=axis_name)
    # Of tiles the compiler would share out columns too, and send each from device to device: here
    # every device mines its own rows, among those of all.
    row, whole = PartitionSpec(axis), PartitionSpec()
    spread = jax.shard_map(
        partial(of_rows, axis_name=axis),
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(row, row, whole, whole, whole, row, whole, row),
        out_specs=(row if reduction == "none" else whole, whole),
    )
    found: tuple[jax.Array, TripletStats] = spread(*arrays)
    return found


def _of_rows(
    embeddings: jax.Array,
    labels: jax.Array,
    margin: Any,
    hard_positive: Any,
    hard_negative: Any,
    where: jax.Array | None,
    references: References | None,
    weights: jax.Array | None,
    *,
    reduction: str,
    precision: str,
    axis_name: AxisName,
    tile_size: int | None,
) -> tuple[jax.Array, TripletStats]:
    rows = only_where(embeddings, where).astype(dtype_of(precision))
    met = triplet_columns(rows, labels, where, references, axis_name, precision)
    columns = met[0]
    policy = margin, hard_positive, hard_negative
    tile = tile_rows(rows.shape[0], columns.shape[0], tile_size)
    triplets = mine_rows(rows, labels, where, met, policy, tile, axis_name, precision)
    # From differences, not from the matrix that was mined: exact in value and gradient.
    d_ap = jnp.sum(jnp.square(rows - columns[triplets.positive]), axis=1)
    d_an = jnp.sum(jnp.square(rows - columns[triplets.negative]), axis=1)
    losses = jax.nn.relu(d_ap - d_an + jnp.asarray(margin, rows.dtype))
    loss = reduce_rows(losses, triplets.mask, weights, reduction, axis_name)
    # Mining may pass a NaN by.
    loss = nan_unless_finite(loss, rows, columns, axis_name=axis_name)

    def mean(values: jax.Array) -> jax.Array:
        return mean_where(values, triplets.mask, axis_name)

    def count(chosen: jax.Array) -> jax.Array:
        number = jnp.sum(chosen & triplets.mask, dtype=jnp.float32)
        return number if axis_name is None else lax.psum(number, axis_name)

    everyone = jnp.ones_like(triplets.mask) if where is None else where
    d_ap, d_an = lax.stop_gradient((d_ap, d_an))
    kinds = [count(triplets.kind == kind) for kind in range(3)]
    stats = TripletStats(
        mean_where(triplets.mask.astype(jnp.float32), everyone, axis_name),
        mean((lax.stop_gradient(losses) > 0).astype(jnp.float32)),
        mean(d_ap).astype(jnp.float32),
        mean(d_an).astype(jnp.float32),
        kinds[0],
        kinds[1],
        kinds[2],
        count(triplets.fallback),
    )
    return loss, stats
