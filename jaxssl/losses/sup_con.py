"""SupCon, the supervised contrastive loss, over the global batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxssl.losses._checks import (
    Precision,
    Reduction,
    as_labels,
    as_mask,
    as_positive,
    as_real,
    as_weights,
    check_labelled,
    check_options,
    holds,
)
from jaxssl.losses._compiled import compiled
from jaxssl.losses._pairs import LOWEST, Form
from jaxssl.losses._ring import choose_tile
from jaxssl.losses._rows import (
    AxisName,
    count_rows,
    dtype_of,
    nan_unless_finite,
    only_where,
    reduce_rows,
    unit_rows,
)
from jaxssl.losses._tiles import log_sums
from jaxssl.losses.references import Queue, References, as_references, reference_rows, same_labels


def sup_con(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 0.1,
    positives: ArrayLike | None = None,
    false_negatives: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    references: References | Queue | ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""Supervised contrastive loss: every other row of the anchor's class is a positive.

    With the rows z at unit length, s_ij = z_i·z_j / temperature, and P(i) the other rows of the
    anchor's label:

        loss_i = −1/|P(i)| Σ_{p∈P(i)} [ s_ip − log Σ_{j≠i} exp(s_ij) ]

    averaged over the anchors that have a positive. This is L_out of the paper: the average over
    positives stands outside the logarithm. With two views of each image, each image its own label,
    it equals `nt_xent`. The authors' code multiplies by temperature / 0.07; the paper and this
    function do not.

    **Soft positives.** Where rows are alike to a degree q_ij ≥ 0, the average is weighted:
    loss_i = −Σ_p q_ip [s_ip − log Σ_{j≠i} exp(s_ij)] / Σ_p q_ip. With labels [n, c] of several
    classes a row (1 where a row is of a class, else 0), q is what two rows share of their classes,
    |both| / |either| (Jaccard). `positives` gives q itself.

    Args:
        embeddings: [n, d], any float type and any length; computed in float32. A zero row counts as
            orthogonal to all and gets no gradient. With `axis_name`, this device's shard.
        labels: class of each row, [n] integers of any value; or its classes, [n, c] of 0 and 1.
            With two views of each image, repeat the labels alongside.
        temperature: divides the cosines, in (0, inf); a scalar, may be traced.
        positives: in place of labels, how much each column is a positive of each row: [n, N] at
            least 0, or booleans, N the rows of all devices and behind them the references. A row's
            own column says nothing. No gradient; memory is that of the matrix, whatever tile_size.
        false_negatives: [n] integers: rows of the same number that are no positives are no
            negatives either. With labels [n] there are none.
        where: booleans [n]: rows where it is False are not there, whatever they hold; such as
            unlabelled rows, `labels != ignored`.
        weights: of each row in the mean, [n], at least 0.
        references: further columns that are no anchors: `References`, `Queue`, or [m, d]. Positives
            where their labels are the anchor's; without labels, negatives.
        reduction: "mean"; "sum"; or "none", [n] of this device, 0 for a row without a positive.
        precision: as in `nt_xent`.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        tile_size: as in `nt_xent`, which says what tiles save and what they cannot.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        has a positive. NaN if any row that is there is not finite.

    Raises:
        ValueError: if `embeddings` are not [n, d] or `labels` neither [n] integers nor [n, c] of 0
            and 1, if either is empty, if `temperature` is not positive and finite, if `tile_size`
            is below 1, or if another argument does not fit; as `nt_xent` says, integers beyond 32
            bits too.

    Reference:
        Khosla et al., "Supervised Contrastive Learning", 2020 (https://arxiv.org/abs/2004.11362),
        equation 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import sup_con
        >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> print(f"{sup_con(z, jnp.array([4, 4, 7]), temperature=1.0):.4f}")  # ln(e + 1) − 1
        0.3133
    """
    check_options(reduction, precision, tile_size)
    kinds = None
    if positives is not None and labels is not None:
        raise ValueError("labels or positives say who is alike, not both: pass one")
    if positives is None:
        if labels is None:
            raise ValueError("labels or positives say who is alike: pass one")
        labels = as_real("labels", labels)
        if labels.ndim == 2:
            embeddings, kinds, labels = as_real("embeddings", embeddings), labels, None
        else:
            embeddings, labels = check_labelled(embeddings, labels)
    embeddings = as_real("embeddings", embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"embeddings must be [n, d], not empty, got {embeddings.shape}")
    n = len(embeddings)
    if kinds is not None and (len(kinds) != n or 0 in kinds.shape):
        raise ValueError(f"labels must be [n, c] with n = {n}, got {kinds.shape}")
    where = as_mask("where", where, n)
    if kinds is not None:
        _check_kinds(kinds, where)
    references = as_references(references, embeddings.shape[1])
    if positives is not None:
        positives = as_real("positives", positives)
        columns = count_rows(embeddings, axis_name)
        columns += 0 if references is None else len(references.rows)
        if positives.shape != (n, columns):
            raise ValueError(f"positives must be [{n}, {columns}], got {positives.shape}")
        if not holds(lambda q: (q >= 0).all(), positives):
            raise ValueError(f"positives must be at least 0, got {positives.min()}")
    if false_negatives is not None:
        false_negatives = as_labels("false_negatives", false_negatives, n)
    return _sup_con(
        embeddings,
        {"label": labels, "kinds": kinds, "positives": positives, "apart": false_negatives},
        as_positive("temperature", temperature),
        where,
        as_weights("weights", weights, n),
        references,
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


def _check_kinds(kinds: Any, where: Any) -> None:
    """Raise unless labels [n, c] are 0 and 1 in rows that count; traced ones pass."""
    if kinds.shape[1] == 1 and kinds.dtype != jnp.bool_:
        raise ValueError(
            f"labels {kinds.shape} are a column: of class numbers pass labels[:, 0]; of a single "
            "class, booleans"
        )

    def both(kinds: Any) -> Any:
        known = (kinds == 0) | (kinds == 1)
        return (known if where is None else known | ~where.reshape(-1, 1)).all()

    if not isinstance(where, jax.core.Tracer) and not holds(both, kinds):
        raise ValueError("labels [n, c] must be 0 and 1, whether a row is of a class, got others")


@compiled
def _sup_con(
    embeddings: jax.Array,
    known: dict[str, jax.Array | None],
    temperature: Any,
    where: jax.Array | None,
    weights: jax.Array | None,
    references: References | None,
    *,
    reduction: str,
    precision: str,
    axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    embeddings = only_where(embeddings, where)
    x = unit_rows(embeddings, precision)
    about = {name: v for name, v in (known | {"real": where}).items() if v is not None}
    for name in ("kinds", "positives"):
        if name in about and about[name].dtype != bool:
            about[name] = jax.lax.stop_gradient(about[name].astype(dtype_of(precision)))
    if "kinds" in about:
        about["kinds"] = about["kinds"].astype(x.dtype)
    others = reference_rows(references, precision)
    if others is not None and (labels := others.pop("label", None)) is not None:
        for name in ("label", "apart"):
            if name in about:
                others[name] = same_labels(about[name], labels)
    tile = None if "positives" in about else choose_tile(x.shape[0], axis_name, tile_size)
    form = Form(tile, axis_name, precision)
    log, positive, count = log_sums(x, about, others, temperature, form)
    losses = log - positive / jnp.where(count > 0, count, 1.0)
    if tile is not None:
        losses = jnp.maximum(losses, 0.0)  # rounded apart, they can cross
    counts = (count > 0) & ~(log <= LOWEST)
    if where is not None:
        counts = counts & where
    loss = reduce_rows(losses, counts, weights, reduction, axis_name)
    seen = (embeddings,) if references is None else (embeddings, others["x"])
    return nan_unless_finite(loss, *seen, axis_name=axis_name)
