"""NT-Xent, the loss of SimCLR, and its decoupled form, over the global batch."""

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
    check_options,
)
from jaxssl.losses._compiled import compiled
from jaxssl.losses._pairs import LOWEST, Form
from jaxssl.losses._ring import choose_tile
from jaxssl.losses._rows import AxisName, only_where, reduce_rows, row_indices, unit_rows
from jaxssl.losses._tiles import log_sums
from jaxssl.losses.references import Queue, References, as_references, reference_rows, same_labels


def nt_xent(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    temperature: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    false_negatives: ArrayLike | None = None,
    references: References | Queue | ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""Normalised temperature-scaled cross entropy of two views of each image.

    With the n = 2b rows z of both views at unit length, s_ij = z_i·z_j / temperature, and p(i) the
    other view of row i's image:

        loss = (1/n) Σ_i [ log Σ_{j≠i} exp(s_ij) − s_{i,p(i)} ]

    Only a row's product with itself is left out; its positive stays in the denominator. At chance
    the loss is ln(n − 1). Some implementations return the sum of the two views' means: twice this.

    **Many devices.** Under plain `jax.jit` nothing is to be done: with the batch sharded over a
    mesh, of Auto or Explicit axes, value and gradient are those of one device.
    Inside `jax.shard_map` or `jax.pmap`, pass `axis_name`: rows of all devices then serve as
    negatives, and every device returns the global loss. Its gradient equals one device's

    - taken outside, `jax.grad` of the function made by `shard_map`: as it is;
    - taken inside, `jax.grad` of this value with respect to replicated parameters: after
      `jax.lax.pmean(grads, axis_name)`.

    Both hold in `pmap` (inside) and in `shard_map` with `check_vma` on or off. With it on, JAX sums
    the gradient over devices by itself and that pmean changes nothing; with it off, and in `pmap`,
    the gradient before pmean is one device's share times the number of devices, and so is the
    gradient with respect to the local `z_a` and `z_b`.

    **Memory.** Where a device's part of the matrix of s is larger than 1,024 x 1,024 (4,096 x 4,096
    where it is no CPU) it is made a tile at a time, forward and backward: exact, faster than the
    matrix, and n·d + tile² numbers. Of many devices each then keeps its rows and passes blocks of
    them round a ring, under plain `jit` too: neither s nor all of z is anywhere. The tiled form has
    no forward-mode and no second derivative, and an error says so.

    Args:
        z_a: projections of one view of each image, [b, d], any float type and any length; computed
            in float32. A zero row counts as orthogonal to all and gets no gradient. With
            `axis_name`, this device's shard.
        z_b: projections of the other view, [b, d]: row i is of the same image as row i of `z_a`.
        temperature: divides the cosines, in (0, inf); a scalar, may be traced.
        where: booleans [b]: images where it is False are not there, neither as anchors nor as
            negatives, whatever their rows hold; such as those that fill up a last batch.
        weights: of each image in the mean, [b], at least 0: Σ w·loss / Σ w.
        false_negatives: [b] integers: an image is no negative of those with the same number. Where
            classes are known, or copies of one image, this keeps them from being pushed apart. Of
            labelled `references` as well.
        references: further negatives, [m, d] or with more to say of them: `References`, `Queue`.
        reduction: "mean", "sum", or "none": the losses of the rows of `z_a` and of `z_b`, [2, b]
            (times their weights; 0 where they do not count), of this device.
        precision: of the products and sums, "highest" (float32), "high" (three passes of bfloat16
            on a TPU), "bfloat16" (factors rounded, sums in float32: an error of some 1e-3 of the
            cosines, divided by the temperature), or "float64", which needs jax_enable_x64.
        axis_name: mapped axis (or axes) over which the batch is spread.
        tile_size: rows and columns of a tile, at least 1 (odd: one more); as many as there are rows
            or more: the whole matrix at once. Default: chosen by the number of rows and the device.

    Returns:
        The loss, a float32 scalar ≥ 0: the mean over 2b rows (of all devices, with `axis_name`); 0,
        with zero gradients, where no row counts.

    Raises:
        ValueError: if `z_a` and `z_b` are not [b, d] alike and not empty, `temperature` is not
            positive and finite, `tile_size` is below 1, or another argument does not fit; in 64-bit
            integers, also if they are beyond the 32 bits that JAX keeps (inside `jit` it has
            dropped the others before this function sees them).

    Reference:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020
        (https://arxiv.org/abs/2002.05709), equation 1 and algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import nt_xent
        >>> z = jnp.eye(3)
        >>> print(f"{nt_xent(z, z, temperature=1.0):.4f}")  # ln(e + 4) − 1
        0.9048
    """
    check_options(reduction, precision, tile_size)
    return _two_views(
        *_checked(z_a, z_b, temperature, where, weights, false_negatives, references),
        form="nt_xent",
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


def dcl(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    false_negatives: ArrayLike | None = None,
    references: References | Queue | ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""Decoupled contrastive loss: `nt_xent` without the positive in the denominator.

        loss = (1/n) Σ_i [ log Σ_{j≠i,p(i)} exp(s_ij) − s_{i,p(i)} ]

    so that an easy positive does not shrink the gradient of the negatives, which matters in small
    batches. It can be below 0.

    Args:
        z_a: as in `nt_xent`.
        z_b: as in `nt_xent`.
        temperature: as in `nt_xent`.
        where: as in `nt_xent`.
        weights: as in `nt_xent`.
        false_negatives: as in `nt_xent`.
        references: as in `nt_xent`.
        reduction: as in `nt_xent`.
        precision: as in `nt_xent`.
        axis_name: as in `nt_xent`.
        tile_size: as in `nt_xent`.

    Returns:
        The loss, a float32 scalar over the rows that have a negative; 0, with zero gradients, where
        none has.

    Raises:
        ValueError: as `nt_xent`.

    Reference:
        Yeh et al., "Decoupled Contrastive Learning", 2022 (https://arxiv.org/abs/2110.06848),
        equation 6.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import dcl
        >>> print(f"{dcl(jnp.eye(3), jnp.eye(3), temperature=1.0):.4f}")  # ln 4 − 1
        0.3863
    """
    check_options(reduction, precision, tile_size)
    return _two_views(
        *_checked(z_a, z_b, temperature, where, weights, false_negatives, references),
        form="dcl",
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
        tile_size=tile_size,
    )


def _checked(
    z_a: Any,
    z_b: Any,
    temperature: Any,
    where: Any,
    weights: Any,
    false_negatives: Any,
    references: Any,
) -> tuple:
    z_a, z_b = as_views(z_a, z_b)
    b = len(z_a)
    references = as_references(references, z_a.shape[1])
    if false_negatives is not None:
        false_negatives = as_labels("false_negatives", false_negatives, b)
    return (
        z_a,
        z_b,
        as_positive("temperature", temperature),
        as_mask("where", where, b),
        as_weights("weights", weights, b),
        false_negatives,
        references,
    )


def as_views(
    z_a: Any, z_b: Any, names: tuple[str, str] = ("z_a", "z_b")
) -> tuple[jax.Array, jax.Array]:
    """Two arrays [b, d] alike; `names` are the loss's for them."""
    z_a, z_b = as_real(names[0], z_a), as_real(names[1], z_b)
    if z_a.ndim == z_b.ndim == 2 and z_a.shape != z_b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must both be [b, d] of one shape, "
            f"got {z_a.shape} and {z_b.shape}"
        )
    if z_a.ndim != 2 or z_a.shape != z_b.shape or 0 in z_a.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must both be [b, d] and not empty, "
            f"got {z_a.shape} and {z_b.shape}"
        )
    return z_a, z_b


@compiled
def _two_views(
    z_a: jax.Array,
    z_b: jax.Array,
    temperature: Any,
    where: jax.Array | None,
    weights: jax.Array | None,
    false_negatives: jax.Array | None,
    references: References | None,
    *,
    form: str,
    reduction: str,
    precision: str,
    axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    # Both views of an image stand side by side, rows 2i and 2i + 1: a batch that is sharded over
    # its images stays so, and rows of one image share a label.
    z = only_where(jnp.stack([z_a, z_b], axis=1), where)
    x = unit_rows(z, precision).reshape(-1, z_a.shape[1])
    about = {"label": row_indices(x.shape[0], axis_name) // 2}
    both = {"real": where, "apart": false_negatives}
    about |= {name: jnp.repeat(v, 2) for name, v in both.items() if v is not None}
    others = reference_rows(references, precision)
    labels = None if others is None else others.pop("label", None)
    if labels is not None and false_negatives is not None:
        others["apart"] = same_labels(false_negatives, labels)

    decoupled = form == "dcl"
    tile = choose_tile(x.shape[0], axis_name, tile_size)
    how = Form(tile, axis_name, precision, pairs=True, decoupled=decoupled)
    log, positive, _ = log_sums(x, about, others, temperature, how)
    losses = log - positive
    counts = about.get("real")
    if decoupled:
        some = ~(log <= LOWEST)  # a NaN counts
        counts = some if counts is None else counts & some
    elif tile is not None:
        losses = jnp.maximum(losses, 0.0)  # rounded apart, they can cross
    if weights is not None:
        weights = jnp.repeat(weights, 2)
    loss = reduce_rows(losses, counts, weights, reduction, axis_name)
    return loss.reshape(-1, 2).T if reduction == "none" else loss
