"""NT-Xent, the loss of SimCLR, over the global batch."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._checks import check_positive
from jaxssl.losses._meshes import on_any_mesh
from jaxssl.losses._rows import (
    AxisName,
    dot_products,
    gather_rows,
    row_indices,
    unit_rows,
)
from jaxssl.losses._tiles import choose_tile, tiled_sums


@on_any_mesh
def nt_xent(
    z_a: jax.Array,
    z_b: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
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
    no forward-mode derivative.

    Args:
        z_a: projections of one view of each image, [b, d], any float type and any length; computed
            in float32. A zero row counts as orthogonal to all and gets no gradient. With
            `axis_name`, this device's shard.
        z_b: projections of the other view, [b, d]: row i is of the same image as row i of `z_a`.
        temperature: divides the cosines, in (0, inf); may be traced.
        axis_name: mapped axis (or axes) over which the batch is spread.
        tile_size: rows and columns of a tile, at least 1 (odd: one more); as many as there are rows
            or more: the whole matrix at once. Default: chosen by the number of rows and the device.

    Returns:
        The loss, a float32 scalar ≥ 0: the mean over 2b rows (of all devices, with `axis_name`).

    Raises:
        ValueError: if `z_a` and `z_b` are not [b, d] alike and not empty, `temperature` is not
            positive and finite, or `tile_size` is below 1.

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
    if z_a.ndim != 2 or z_a.shape != z_b.shape or 0 in z_a.shape:
        raise ValueError(
            f"z_a and z_b must both be [b, d] and not empty, got {z_a.shape} and {z_b.shape}"
        )
    check_positive("temperature", temperature)
    # Both views of an image stand side by side, rows 2i and 2i + 1: a batch that is sharded over
    # its images stays so, and row r's positive is r ^ 1.
    rows = unit_rows(jnp.stack([z_a, z_b], axis=1)).reshape(-1, z_a.shape[1])
    index = row_indices(rows.shape[0], axis_name)
    tile = choose_tile(rows.shape[0], axis_name, tile_size)
    if tile is None:
        columns = gather_rows(rows, axis_name)
        losses = _cross_entropy(rows, columns, index, temperature)
    else:
        x = rows / jnp.sqrt(jnp.asarray(temperature, jnp.float32))
        lse, positive, _ = tiled_sums(x, index // 2, tile, axis_name, True)
        losses = jnp.maximum(lse - positive, 0.0)  # rounded apart, they can cross
    loss = jnp.mean(losses)
    return loss if axis_name is None else lax.pmean(loss, axis_name)


def _cross_entropy(
    rows: jax.Array, columns: jax.Array, index: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    """Loss of each of some rows, which stand at `index` among the columns, against all columns."""
    logits = dot_products(rows, columns) / jnp.asarray(temperature, jnp.float32)
    column = jnp.arange(columns.shape[0])[None, :]
    logits = jnp.where(column == index[:, None], -jnp.inf, logits)
    # The positive is read from the same matrix, so that a lone pair has a loss of exactly 0.
    positive = jnp.sum(jnp.where(column == index[:, None] ^ 1, logits, 0.0), axis=1)
    return jax.nn.logsumexp(logits, axis=1) - positive
