"""Losses of two views that need no negatives, by statistics of the batch: VICReg, Barlow Twins."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxssl.losses._checks import (
    Precision,
    as_mask,
    as_scalar,
    check_options,
    holds,
)
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import AxisName, dot_products, dtype_of, only_where
from jaxssl.losses.nt_xent import as_views


def vicreg(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    invariance: ArrayLike = 25.0,
    variance: ArrayLike = 25.0,
    covariance: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    precision: Precision = "highest",
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Pull two views together, and keep every feature spread and uncorrelated with the others.

        loss = invariance·mean (z_a − z_b)²                                 over images and features
             + variance·Σ_z mean_f max(0, 1 − sqrt(var z_f + 1e-4))             over z_a and z_b
             + covariance·Σ_z (1/d) Σ_{f≠g} cov(z_f, z_g)²

    with variances and covariances over the global batch, divided by n − 1. This is the paper's
    algorithm 1; its equation 5 does not divide the first term by d, and the authors' code halves
    the second. Rows are taken as they are: they are not normalised.

    Args:
        z_a: projections of one view of each image, [b, d], any float type; computed in float32.
            With `axis_name`, this device's shard.
        z_b: projections of the other view, [b, d].
        invariance: weight of the first term, at least 0; may be traced.
        variance: weight of the second.
        covariance: weight of the third.
        where: booleans [b]: images where it is False are not there, whatever they hold.
        precision: of the products, as in `nt_xent`.
        axis_name: mapped axis (or axes) over which the batch is spread: statistics are those of the
            global batch; `nt_xent` says how to take the gradient then.

    Returns:
        The loss, a float32 scalar ≥ 0. A single image has no variance and counts as spread over
        nothing; with no image the loss is 0.

    Raises:
        ValueError: if `z_a` and `z_b` are not [b, d] alike and not empty, or a weight is below 0.

    Reference:
        Bardes et al., "VICReg", 2022 (https://arxiv.org/abs/2105.04906), algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import vicreg
        >>> z = jnp.array([[2.0], [-2.0]])
        >>> print(vicreg(z, z + 1.0))  # alike but for 1, and spread more than enough
        25.0
    """
    check_options(precision=precision)
    z_a, z_b = as_views(z_a, z_b)
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    checked = [_at_least_0(name, value) for name, value in weights.items()]
    where = as_mask("where", where, len(z_a))
    return _vicreg(z_a, z_b, *checked, where, precision=precision, axis_name=axis_name)


def barlow_twins(
    z_a: ArrayLike,
    z_b: ArrayLike,
    *,
    off_diagonal: ArrayLike = 5e-3,
    where: ArrayLike | None = None,
    precision: Precision = "highest",
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Make the correlation of two views' features the identity.

        loss = Σ_f (1 − C_ff)² + off_diagonal·Σ_{f≠g} C_fg²

    with C_fg the correlation of feature f of z_a with feature g of z_b over the global batch. A
    feature that does not vary has correlation 0 with all, and gets no gradient.

    Args:
        z_a: as in `vicreg`.
        z_b: as in `vicreg`.
        off_diagonal: λ, at least 0; may be traced.
        where: as in `vicreg`.
        precision: as in `vicreg`.
        axis_name: as in `vicreg`.

    Returns:
        The loss, a float32 scalar ≥ 0; d where nothing varies, and 0 with no image.

    Raises:
        ValueError: if `z_a` and `z_b` are not [b, d] alike and not empty, or `off_diagonal` is
            below 0.

    Reference:
        Zbontar et al., "Barlow Twins", 2021 (https://arxiv.org/abs/2103.03230), equations 1 and 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import barlow_twins
        >>> z = jnp.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> print(barlow_twins(z, 3.0 * z + 1.0))
        0.0
    """
    check_options(precision=precision)
    z_a, z_b = as_views(z_a, z_b)
    checked = _at_least_0("off_diagonal", off_diagonal)
    where = as_mask("where", where, len(z_a))
    return _barlow_twins(z_a, z_b, checked, where, precision=precision, axis_name=axis_name)


def _at_least_0(name: str, value: Any) -> Any:
    value = as_scalar(name, value)
    if not holds(lambda v: v >= 0, value):
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value


@compiled
def _vicreg(
    z_a: jax.Array,
    z_b: jax.Array,
    invariance: Any,
    variance: Any,
    covariance: Any,
    where: jax.Array | None,
    *,
    precision: str,
    axis_name: AxisName,
) -> jax.Array:
    views = [only_where(z, where).astype(dtype_of(precision)) for z in (z_a, z_b)]
    d = z_a.shape[1]
    n = _number(views[0], where, axis_name)
    total = _over(jnp.sum(jnp.square(views[0] - views[1])), axis_name)
    loss = jnp.asarray(invariance, total.dtype) * total / (d * jnp.maximum(n, 1.0))
    for z in views:
        centred, _ = _centred(z, where, n, axis_name)
        matrix = _over(dot_products(centred.T, centred.T, precision), axis_name)
        matrix = matrix / jnp.maximum(n - 1.0, 1.0)
        diagonal = jnp.diagonal(matrix)
        spread = jnp.mean(jax.nn.relu(1.0 - jnp.sqrt(diagonal + 1e-4)))
        mixed = (jnp.sum(jnp.square(matrix)) - jnp.sum(jnp.square(diagonal))) / d
        loss += jnp.asarray(variance, total.dtype) * jnp.where(n > 0, spread, 0.0)
        loss += jnp.asarray(covariance, total.dtype) * mixed
    return loss


@compiled
def _barlow_twins(
    z_a: jax.Array,
    z_b: jax.Array,
    off_diagonal: Any,
    where: jax.Array | None,
    *,
    precision: str,
    axis_name: AxisName,
) -> jax.Array:
    views = [only_where(z, where).astype(dtype_of(precision)) for z in (z_a, z_b)]
    n = _number(views[0], where, axis_name)
    a, b = (_standard(z, where, n, axis_name) for z in views)
    matrix = _over(dot_products(a.T, b.T, precision), axis_name)
    own = jnp.eye(len(matrix), dtype=bool)
    factor = jnp.asarray(off_diagonal, matrix.dtype)
    losses = jnp.where(own, jnp.square(1.0 - matrix), factor * jnp.square(matrix))
    return jnp.where(n > 0, jnp.sum(losses), 0.0)


def _over(values: jax.Array, axis_name: AxisName) -> jax.Array:
    return values if axis_name is None else lax.psum(values, axis_name)


def _number(z: jax.Array, where: jax.Array | None, axis_name: AxisName) -> jax.Array:
    """How many rows count on all devices."""
    here = jnp.full((), len(z), z.dtype) if where is None else jnp.sum(where, dtype=z.dtype)
    return _over(jnp.where(False, lax.stop_gradient(z[0, 0]), here), axis_name)


def _centred(
    z: jax.Array, where: jax.Array | None, n: jax.Array, axis_name: AxisName
) -> tuple[jax.Array, jax.Array]:
    """Rows less their mean over the global batch, and that mean; rows that do not count stay 0."""
    mean = _over(jnp.sum(z, axis=0), axis_name) / jnp.maximum(n, 1.0)
    return only_where(z - mean[None, :], where), mean


def _standard(
    z: jax.Array, where: jax.Array | None, n: jax.Array, axis_name: AxisName
) -> jax.Array:
    """Features less their mean, at unit length over the global batch; those that rest are 0."""
    centred, mean = _centred(z, where, n, axis_name)
    squares = _over(jnp.sum(jnp.square(centred), axis=0), axis_name)
    # What rounding leaves of a feature that does not vary is no variance.
    still = squares <= n * jnp.square(mean) * jnp.finfo(z.dtype).eps ** 2 * n
    length = jnp.sqrt(jnp.where(still, 1.0, squares))
    return jnp.where(still[None, :], 0.0, centred / length[None, :])
