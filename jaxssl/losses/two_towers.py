"""Losses of two towers, such as images and texts: CLIP's softmax and SigLIP's sigmoid."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxssl.losses._checks import (
    Precision,
    Reduction,
    as_labels,
    as_mask,
    as_positive,
    as_scalar,
    as_weights,
    check_options,
    one_of,
)
from jaxssl.losses._compiled import compiled
from jaxssl.losses._pairs import LOWEST, Form
from jaxssl.losses._ring import choose_tile
from jaxssl.losses._rows import (
    AxisName,
    dtype_of,
    only_where,
    reduce_rows,
    row_indices,
    unit_rows,
    varying_as,
)
from jaxssl.losses._tiles import joined, log_sums_of_references
from jaxssl.losses._towers import sigmoid_sums, softmax_sums
from jaxssl.losses.nt_xent import as_views
from jaxssl.losses.references import Queue, References, as_references, reference_rows, same_labels


def info_nce(
    a: ArrayLike,
    b: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 0.07,
    symmetric: bool = True,
    false_negatives: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    references: References | Queue | ArrayLike | None = None,
    negatives: Literal["all", "references"] = "all",
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""Contrast each row of one tower with all rows of the other, both ways: CLIP's loss.

    With rows at unit length and s_ij = a_i·b_j / temperature:

        loss = ½ (1/n) Σ_i [ log Σ_j exp(s_ij) − s_ii ] + ½ (1/n) Σ_j [ log Σ_i exp(s_ij) − s_jj ]

    A learnt temperature is an argument like any other: CLIP's `logit_scale` p is
    temperature=jnp.exp(-p). With `symmetric=False`, the first half alone, unhalved: InfoNCE of
    queries a and keys b, as in CPC and MoCo.

    Args:
        a: rows of one tower, [n, d], any float type and any length; computed in float32. A zero row
            counts as orthogonal to all and gets no gradient. With `axis_name`, this device's shard.
        b: rows of the other, [n, d]: row i goes with row i of `a`.
        labels: [n] integers where a row goes with several: all of the other tower with its number,
            averaged outside the logarithm as in `sup_con`. None: row i with row i.
        temperature: divides the cosines, in (0, inf); a scalar, may be traced.
        symmetric: whether rows of b are anchors too.
        false_negatives: [n] integers: rows of the same number that are no positives are no
            negatives either.
        where: booleans [n]: pairs where it is False are not there, whatever they hold.
        weights: of each pair in the mean, [n], at least 0.
        references: further rows beside b, for the anchors of a: `References`, `Queue`, or [m, d].
            Positives where their labels are the anchor's.
        negatives: "all", or "references": then other rows of b are no negatives, as in MoCo.
        reduction: "mean"; "sum"; or "none", the losses of the pairs, [n] of this device.
        precision: as in `nt_xent`.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        tile_size: as in `nt_xent`, which says what tiles save and what they cannot.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        counts.

    Raises:
        ValueError: if `a` and `b` are not [n, d] alike and not empty, `temperature` is not positive
            and finite, or another argument does not fit.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
        2021 (https://arxiv.org/abs/2103.00020), figure 3; van den Oord et al., 2018
        (https://arxiv.org/abs/1807.03748), equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import info_nce
        >>> print(f"{info_nce(jnp.eye(3), jnp.eye(3), temperature=1.0):.4f}")  # ln(e + 2) − 1
        0.5514
    """
    check_options(reduction, precision, tile_size)
    one_of("negatives", negatives, ("all", "references"))
    a, b = as_views(a, b, ("a", "b"))
    n = len(a)
    numbers = {"label": labels, "apart": false_negatives}
    for name, given in (("label", "labels"), ("apart", "false_negatives")):
        if numbers[name] is not None:
            numbers[name] = as_labels(given, numbers[name], n)
    return _info_nce(
        a,
        b,
        numbers,
        as_positive("temperature", temperature),
        as_mask("where", where, n),
        as_weights("weights", weights, n),
        as_references(references, a.shape[1]),
        symmetric=bool(symmetric),
        negatives=negatives,
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


@compiled
def _info_nce(
    a: jax.Array,
    b: jax.Array,
    numbers: dict[str, jax.Array | None],
    temperature: Any,
    where: jax.Array | None,
    weights: jax.Array | None,
    references: References | None,
    *,
    symmetric: bool,
    negatives: str,
    reduction: str,
    precision: str,
    axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    a, b = only_where(a, where), only_where(b, where)
    x = unit_rows(a, precision) / jnp.asarray(temperature, dtype_of(precision))
    y = unit_rows(b, precision)
    others = reference_rows(references, precision)
    about, pairs = _about(x, numbers, where, axis_name)
    if others is not None and (labels := others.pop("label", None)) is not None:
        for name in ("label", "apart"):
            if numbers[name] is not None:
                others[name] = same_labels(about[name], labels)
    tile = choose_tile(x.shape[0], axis_name, tile_size)
    form = Form(tile, axis_name, precision, pairs=pairs, alone=negatives == "references")
    of_a, of_b = softmax_sums(x, y, about, form, symmetric)
    if others is not None:
        of_a = joined(of_a, log_sums_of_references(x, others, about, form))

    def losses(log: jax.Array, positive: jax.Array, count: jax.Array) -> jax.Array:
        loss = log - positive / jnp.where(count > 0, count, 1.0)
        loss = loss if tile is None else jnp.maximum(loss, 0.0)  # rounded apart, they can cross
        return jnp.where(log <= LOWEST, 0.0, loss)

    loss = losses(*of_a)
    if of_b is not None:
        loss = 0.5 * (loss + losses(*of_b))
    return reduce_rows(loss, where, weights, reduction, axis_name)


def _about(
    x: jax.Array, numbers: dict[str, Any], where: jax.Array | None, axis_name: AxisName
) -> tuple[dict[str, jax.Array], bool]:
    """What is known of the pairs; and whether positives stand on the diagonal alone."""
    pairs = numbers["label"] is None
    known = {**numbers, "real": where}
    if pairs:
        known["label"] = row_indices(x.shape[0], axis_name)
    return {name: v for name, v in known.items() if v is not None}, pairs


def siglip(
    a: ArrayLike,
    b: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 0.1,
    bias: ArrayLike = -10.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""Say of each pair of two towers' rows, by a sigmoid, whether they go together.

        loss = −(1/n) Σ_i Σ_j log σ( z_ij (a_i·b_j / temperature + bias) )

    with rows at unit length and z_ij = 1 where i and j go together, else −1. No row is compared
    with another, so there is no log-sum; both parameters are learnt.

    Args:
        a: as in `info_nce`.
        b: as in `info_nce`.
        labels: [n] integers where a row goes with several: all with its number. None: row i with i.
        temperature: as in `info_nce`; the paper's t' starts at ln 10, temperature = exp(−t').
        bias: one number added to all logits; may be traced. The paper's starts at −10.
        where: as in `info_nce`.
        weights: of each row of `a` in the mean, [n], at least 0.
        reduction: "mean"; "sum"; or "none", the losses of the rows of `a`, [n] of this device.
        precision: as in `nt_xent`.
        axis_name: as in `info_nce`.
        tile_size: as in `info_nce`.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        counts.

    Raises:
        ValueError: as `info_nce`; or if `bias` is not a scalar.

    Reference:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023
        (https://arxiv.org/abs/2303.15343), section 3.2 and algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import siglip
        >>> loss = siglip(jnp.eye(2), jnp.eye(2), temperature=1.0, bias=0.0)
        >>> print(f"{loss:.4f}")  # ln(1 + 1/e) + ln 2
        1.0064
    """
    check_options(reduction, precision, tile_size)
    a, b = as_views(a, b, ("a", "b"))
    n = len(a)
    return _siglip(
        a,
        b,
        {"label": None if labels is None else as_labels("labels", labels, n)},
        as_positive("temperature", temperature),
        as_scalar("bias", bias),
        as_mask("where", where, n),
        as_weights("weights", weights, n),
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


@compiled
def _siglip(
    a: jax.Array,
    b: jax.Array,
    numbers: dict[str, jax.Array | None],
    temperature: Any,
    bias: Any,
    where: jax.Array | None,
    weights: jax.Array | None,
    *,
    reduction: str,
    precision: str,
    axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    a, b = only_where(a, where), only_where(b, where)
    x = unit_rows(a, precision) / jnp.asarray(temperature, dtype_of(precision))
    y = unit_rows(b, precision)
    about, pairs = _about(x, numbers, where, axis_name)
    tile = choose_tile(x.shape[0], axis_name, tile_size)
    form = Form(tile, axis_name, precision, pairs=pairs)
    added = varying_as(jnp.full(x.shape[0], jnp.asarray(bias, x.dtype)), x)
    losses = sigmoid_sums(x, y, added, about, form)
    return reduce_rows(losses, where, weights, reduction, axis_name)
