"""AdaCos: the scale of a cosine softmax, found from the batch instead of chosen."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxssl.losses._checks import Precision
from jaxssl.losses._class_checks import check_problem, options
from jaxssl.losses._classes import true_and_mean
from jaxssl.losses._rows import AxisName, count_rows


def adacos_scale(
    embeddings: ArrayLike,
    centres: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    class_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    precision: Precision = "highest",
    axis_name: AxisName = None,
    class_axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    r"""The next scale of AdaCos, from the last one and a batch.

        next = log(B) / cos(min(π/4, θ)),    B = (1/n) Σ_i Σ_{j≠y_i} exp(scale·cos θ_ij)

    with θ the median angle of rows to their own class. As training brings θ down, so it does the
    scale. Hand it to `cosface_loss(..., margin=0.0, scale=next)` and keep it for the next step.

    Args:
        embeddings: as in `arcface_loss`.
        centres: as in `arcface_loss`.
        labels: as in `arcface_loss`.
        scale: the last scale, in (0, inf); None: the paper's first and fixed one, √2·ln(k − 1).
        class_where: as in `arcface_loss`.
        where: as in `arcface_loss`.
        precision: as in `arcface_loss`.
        axis_name: as in `arcface_loss`.
        class_axis_name: as in `arcface_loss`.
        tile_size: as in `arcface_loss`.

    Returns:
        The scale, a float32 scalar, the same on all devices, without gradient; the last one where
        no row counts.

    Raises:
        ValueError: as `arcface_loss`; or if there are fewer than 3 classes and `scale` is None.

    Reference:
        Zhang et al., "AdaCos", 2019 (https://arxiv.org/abs/1905.00292), equations 12 to 14.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import adacos_scale
        >>> z = jnp.eye(4)
        >>> print(f"{adacos_scale(z, z, jnp.arange(4)):.4f}")  # θ = 0, all others at 90°: ln 3
        1.0986
    """
    k = count_rows(jnp.asarray(centres), class_axis_name)
    if scale is None:
        if k < 3:
            raise ValueError(f"scale must be given where there are fewer than 3 classes, got {k}")
        scale = math.sqrt(2.0) * math.log(k - 1)
    problem = check_problem(
        "cosface",
        embeddings,
        centres,
        labels,
        0.0,
        scale,
        class_where=class_where,
        where=where,
        class_axis_name=class_axis_name,
    )
    how = options("mean", precision, axis_name, class_axis_name, tile_size)
    del how["reduction"]
    cosines, counts, average = true_and_mean(problem, **how)
    angle = jnp.arccos(jnp.clip(cosines, -1.0, 1.0))
    number = jnp.sum(counts, dtype=jnp.int32)
    # The mean of the two in the middle; rows that do not count come last.
    ordered = jnp.sort(jnp.where(counts, angle, jnp.inf))
    middle = jnp.stack([(number - 1) // 2, number // 2])
    median = jnp.mean(ordered[jnp.clip(middle, 0, len(ordered) - 1)])
    found = average / jnp.cos(jnp.minimum(median, math.pi / 4))
    return jnp.where(number > 0, found, jnp.asarray(scale, found.dtype))
