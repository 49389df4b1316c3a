"""SupCon, the supervised contrastive loss, over the global batch."""

import jax
import jax.numpy as jnp

from jaxssl.losses._checks import check_labelled, check_positive
from jaxssl.losses._meshes import on_any_mesh
from jaxssl.losses._rows import (
    AxisName,
    dot_products,
    gather_rows,
    mean_where,
    row_indices,
    unit_rows,
)
from jaxssl.losses._tiles import choose_tile, tiled_sums


@on_any_mesh
def sup_con(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
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

    Args:
        embeddings: [n, d], any float type and any length; computed in float32. A zero row counts as
            orthogonal to all and gets no gradient. With `axis_name`, this device's shard.
        labels: class of each row, [n] integers of any value. With two views of each image, repeat
            the labels alongside.
        temperature: divides the cosines, in (0, inf); may be traced.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        tile_size: as in `nt_xent`, which says what tiles save.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        has a positive.

    Raises:
        ValueError: if `embeddings` are not [n, d] or `labels` not [n] integers, if either is empty,
            if `temperature` is not positive and finite, or if `tile_size` is below 1.

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
    check_labelled(embeddings, labels)
    check_positive("temperature", temperature)
    rows = unit_rows(embeddings)
    tile = choose_tile(rows.shape[0], axis_name, tile_size)
    if tile is not None:
        x = rows / jnp.sqrt(jnp.asarray(temperature, jnp.float32))
        lse, positives, count = tiled_sums(x, labels, tile, axis_name, False)
        losses = jnp.maximum(lse - positives / jnp.maximum(count, 1.0), 0.0)  # they can cross
        return mean_where(losses, count > 0, axis_name)

    columns, column_labels = gather_rows(rows, axis_name), gather_rows(labels, axis_name)
    own = row_indices(rows.shape[0], axis_name)[:, None] == jnp.arange(columns.shape[0])[None, :]
    positive = (labels[:, None] == column_labels[None, :]) & ~own
    count = jnp.sum(positive, axis=1)

    logits = dot_products(rows, columns) / jnp.asarray(temperature, jnp.float32)
    logits = jnp.where(own, -jnp.inf, logits)
    mean_positive = jnp.sum(jnp.where(positive, logits, 0.0), axis=1) / jnp.maximum(count, 1)
    losses = jax.nn.logsumexp(logits, axis=1) - mean_positive
    return mean_where(losses, count > 0, axis_name)
