"""How the projections of two views lie: four numbers of their geometry, and the loss at chance."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxssl.lowering import on_any_mesh

# Rows of which all pairs are looked at: half a million of them, whatever the batch.
PAIRED = 1024


def chance_loss(rows: int) -> float:
    """Return NT-Xent of an embedding that tells nothing apart: ln(2N - 1) for N pairs.

    Example:
      >>> round(chance_loss(256), 4)
      6.2364
    """
    return math.log(2 * rows - 1) if rows > 1 else 0.0


# Compiled as a whole where it is called on its own; in a jitted step it is part of it.
@partial(jax.jit, inline=True)
@on_any_mesh
def pair_health(z_a: jax.Array, z_b: jax.Array) -> dict[str, jax.Array]:
    """Measure chance, alignment, uniformity, spread and effective rank of projections of two views.

    With rows l2-normalised, z the 2b rows of both views and S the singular values of z minus
    its mean, p = S² / ΣS²:

      chance         = ln(2b − 1)                                NT-Xent where nothing is told apart
      alignment      = mean ‖z_a − z_b‖²                         0 = views agree
      uniformity     = ln mean_{i≠j} exp(−2 ‖z_i − z_j‖²)        0 = one point, about −4 = uniform
      z_std          = mean over dimensions of std(z) · √d       1 = uniform, 0 = one point
      effective_rank = exp(−Σ p ln p)                            from 1 to d

    Of more than 1,024 rows uniformity is of 1,024 of them, evenly spaced, each of another image:
    all pairs of a large batch would take more memory than the loss does in tiles. On a CPU OpenBLAS
    computes the rank, and stays awake on a core after it unless told (docs/pages/devices.md).

    Args:
      z_a: projections of the first views, [b, d].
      z_b: projections of the second views, [b, d].

    Returns:
      The five as float32 scalars.

    Reference:
      Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment
      and Uniformity on the Hypersphere"; Roy and Vetterli 2007, "The effective rank".

    Example:
      >>> import jax.numpy as jnp
      >>> same = jnp.eye(4)
      >>> {name: round(float(v), 2) for name, v in pair_health(same, same).items()}
      {'alignment': 0.0, 'chance': 1.95, 'effective_rank': 3.0, 'uniformity': -1.84, 'z_std': 0.87}
    """
    if z_a.shape != z_b.shape or z_a.ndim != 2:
        raise ValueError(f"two [b, d] arrays of one shape expected, got {z_a.shape}, {z_b.shape}")
    z_a, z_b = (unit_rows(z.astype(jnp.float32)) for z in (z_a, z_b))
    z = jnp.concatenate([z_a, z_b])
    n, d = z.shape
    some = z
    if n > PAIRED:
        every = -(-n // PAIRED)
        some = jnp.concatenate([z_a[::every], z_b[every // 2 :: every]])
    pairs = len(some) * (len(some) - 1)
    squared = jnp.maximum(2 - 2 * jnp.matmul(some, some.T, precision="highest"), 0)
    off_diagonal = jnp.exp(-2 * squared).sum() - jnp.exp(-2 * jnp.diagonal(squared)).sum()
    centred = z - z.mean(0, keepdims=True)
    # Eigenvalues of the d x d covariance: cheaper than the singular values of z.
    spectrum = jnp.maximum(jnp.linalg.eigvalsh(centred.T @ centred), 0)
    # The floor is above float32's rounding of n equal unit rows: one point has rank 1.
    p = spectrum / jnp.maximum(spectrum.sum(), 1e-8 * n)
    return {
        "chance": jnp.asarray(chance_loss(len(z_a))),
        "alignment": ((z_a - z_b) ** 2).sum(1).mean(),
        "uniformity": jnp.log(jnp.maximum(off_diagonal / pairs, 1e-30)),
        "z_std": jnp.sqrt((centred**2).mean(0)).mean() * math.sqrt(d),
        "effective_rank": jnp.exp(-(p * jnp.log(jnp.maximum(p, 1e-30))).sum()),
    }


def unit_rows(z: jax.Array) -> jax.Array:
    """Divide every row by its length; a row shorter than 1e-6 stays near 0, with a finite gradient.

    Args:
      z: [b, d].

    Returns:
      z / max(‖z‖, 1e-6), of z's shape.

    Example:
      >>> rows = unit_rows(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
      >>> [[round(float(value), 3) for value in row] for row in rows]
      [[0.6, 0.8], [0.0, 0.0]]
    """
    return z / jnp.sqrt(jnp.maximum((z**2).sum(1, keepdims=True), 1e-12))
