"""Losses against a teacher that moves with the student: BYOL's regression, DINO's cross entropy."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxssl.losses._checks import (
    Precision,
    Reduction,
    as_fraction,
    as_mask,
    as_positive,
    as_real,
    as_weights,
    check_options,
)
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import (
    AxisName,
    dtype_of,
    nan_unless_finite,
    only_where,
    reduce_rows,
    unit_rows,
)
from jaxssl.losses.nt_xent import as_views


def byol(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
) -> jax.Array:
    r"""BYOL's regression: a prediction from one view meets the teacher's projection of the other.

        loss = mean_i |p_i/|p_i| − t_i/|t_i||² = mean_i (2 − 2 cos(p_i, t_i))

    The paper's loss is the sum of this for both ways round. The targets get no gradient.

    Args:
        predictions: the student's, [n, d], any float type and any length; computed in float32. A
            zero row counts as orthogonal to its target and gets no gradient. With `axis_name`, this
            device's shard.
        targets: the teacher's, [n, d].
        where: booleans [n]: rows where it is False are not there, whatever they hold.
        weights: of each row in the mean, [n], at least 0.
        reduction: "mean"; "sum"; or "none", [n] of this device.
        precision: "float64" computes in it; nothing is multiplied that the others differ in.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.

    Returns:
        The loss, a float32 scalar in [0, 4] over the global batch; 0, with zero gradients, where no
        row counts.

    Raises:
        ValueError: if `predictions` and `targets` are not [n, d] alike and not empty.

    Reference:
        Grill et al., "Bootstrap Your Own Latent", 2020 (https://arxiv.org/abs/2006.07733),
        equation 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import byol
        >>> print(byol(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 1.0]])))
        2.0
    """
    check_options(reduction, precision)
    predictions, targets = as_views(predictions, targets, ("predictions", "targets"))
    n = len(predictions)
    return _byol(
        predictions,
        targets,
        as_mask("where", where, n),
        as_weights("weights", weights, n),
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
    )


@compiled
def _byol(
    predictions: jax.Array,
    targets: jax.Array,
    where: jax.Array | None,
    weights: jax.Array | None,
    *,
    reduction: str,
    precision: str,
    axis_name: AxisName,
) -> jax.Array:
    p = unit_rows(only_where(predictions, where), precision)
    t = lax.stop_gradient(unit_rows(only_where(targets, where), precision))
    losses = 2.0 - 2.0 * jnp.sum(p * t, axis=1)
    return reduce_rows(losses, where, weights, reduction, axis_name)


def dino(
    student: ArrayLike,
    teacher: ArrayLike,
    centre: ArrayLike,
    *,
    student_temperature: ArrayLike = 0.1,
    teacher_temperature: ArrayLike = 0.04,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
) -> jax.Array:
    r"""DINO's cross entropy between a teacher's views, centred and sharpened, and a student's.

        loss = mean over images, and pairs of different views t and s, of
               −Σ_k softmax((teacher_t − centre) / teacher_temperature)_k
                    · log softmax(student_s / student_temperature)_k

    The teacher and the centre get no gradient. `dino_centre` is the centre of the next step.

    Args:
        student: outputs of the head for each view of each image, [v, b, k], any float type;
            computed in float32. With `axis_name`, this device's shard along b.
        teacher: outputs for the first t of these views (the global crops), [t, b, k]. A view is not
            compared with itself.
        centre: subtracted from the teacher's outputs, [k].
        student_temperature: in (0, inf); may be traced.
        teacher_temperature: in (0, inf), the smaller the sharper; may be traced.
        where: booleans [b]: images where it is False are not there, whatever they hold.
        weights: of each image in the mean, [b], at least 0.
        reduction: "mean"; "sum" over images; or "none", [b] of this device.
        precision: "float64" computes in it; nothing is multiplied that the others differ in.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no image
        counts.

    Raises:
        ValueError: if shapes do not fit, if there is no pair of different views, or if a
            temperature is not positive and finite.

    Reference:
        Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021
        (https://arxiv.org/abs/2104.14294), equation 3 and algorithm 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import dino
        >>> views = jnp.zeros((2, 3, 4))  # nothing said of 4 kinds: ln 4
        >>> print(f"{dino(views, views, jnp.zeros(4)):.4f}")
        1.3863
    """
    check_options(reduction, precision)
    student, teacher = as_real("student", student), as_real("teacher", teacher)
    centre = as_real("centre", centre)
    fit = student.ndim == 3 and teacher.ndim == 3 and student.shape[1:] == teacher.shape[1:]
    if not fit or len(teacher) > len(student) or 0 in student.shape + teacher.shape:
        raise ValueError(
            "student must be [v, b, k] and teacher [t, b, k] with t ≤ v, none empty, "
            f"got {student.shape} and {teacher.shape}"
        )
    if len(student) < 2:
        raise ValueError("student must have 2 views or more, got 1")
    if centre.shape != student.shape[2:]:
        raise ValueError(f"centre must be [k], {student.shape[2:]}, got {centre.shape}")
    b = student.shape[1]
    return _dino(
        student,
        teacher,
        centre,
        as_positive("student_temperature", student_temperature),
        as_positive("teacher_temperature", teacher_temperature),
        as_mask("where", where, b),
        as_weights("weights", weights, b),
        reduction=reduction,
        precision=precision,
        axis_name=axis_name,
    )


@compiled
def _dino(
    student: jax.Array,
    teacher: jax.Array,
    centre: jax.Array,
    student_temperature: Any,
    teacher_temperature: Any,
    where: jax.Array | None,
    weights: jax.Array | None,
    *,
    reduction: str,
    precision: str,
    axis_name: AxisName,
) -> jax.Array:
    dtype = dtype_of(precision)
    student, teacher = (_only(x, where).astype(dtype) for x in (student, teacher))
    teacher = (teacher - centre.astype(dtype)[None, None, :]) / jnp.asarray(
        teacher_temperature, dtype
    )
    target = lax.stop_gradient(jax.nn.softmax(teacher, axis=-1))
    log_p = jax.nn.log_softmax(student / jnp.asarray(student_temperature, dtype), axis=-1)
    # Summed over all pairs, less those of a view with itself.
    every = jnp.sum(jnp.sum(target, axis=0) * jnp.sum(log_p, axis=0), axis=1)
    same = jnp.sum(target * log_p[: len(target)], axis=(0, 2))
    losses = (same - every) / (len(target) * (len(log_p) - 1))
    loss = reduce_rows(losses, where, weights, reduction, axis_name)
    return nan_unless_finite(loss, student, teacher, axis_name=axis_name)


def _only(x: jax.Array, where: jax.Array | None) -> jax.Array:
    return x if where is None else jnp.where(where[None, :, None], x, jnp.zeros((), x.dtype))


def dino_centre(
    centre: ArrayLike,
    teacher: ArrayLike,
    *,
    momentum: ArrayLike = 0.9,
    where: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    """The centre of the next step: centre·momentum + mean of the teacher's outputs·(1 − momentum).

    Args:
        centre: the last one, [k].
        teacher: as in `dino`, [t, b, k].
        momentum: in [0, 1]; may be traced.
        where: as in `dino`.
        axis_name: as in `dino`: the mean is over all devices.

    Returns:
        The centre, float32 [k], without gradient; the last one where no image counts.

    Raises:
        ValueError: if shapes do not fit, or `momentum` is out of range.

    Reference:
        Caron et al., 2021 (https://arxiv.org/abs/2104.14294), equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import dino_centre
        >>> print(dino_centre(jnp.zeros(2), jnp.ones((2, 3, 2)), momentum=0.5))
        [0.5 0.5]
    """
    centre, teacher = as_real("centre", centre), as_real("teacher", teacher)
    if teacher.ndim != 3 or 0 in teacher.shape or centre.shape != teacher.shape[2:]:
        raise ValueError(
            f"centre must be [k] and teacher [t, b, k], got {centre.shape} and {teacher.shape}"
        )
    where = as_mask("where", where, teacher.shape[1])
    momentum = as_fraction("momentum", momentum)
    return _dino_centre(centre, teacher, momentum, where, axis_name=axis_name)


@compiled
def _dino_centre(
    centre: jax.Array,
    teacher: jax.Array,
    momentum: Any,
    where: jax.Array | None,
    *,
    axis_name: AxisName,
) -> jax.Array:
    centre, teacher = (lax.stop_gradient(x).astype(jnp.float32) for x in (centre, teacher))
    rows = jnp.mean(_only(teacher, where), axis=0)
    counts = jnp.ones(len(rows), bool) if where is None else where
    total, number = jnp.sum(rows, axis=0), jnp.sum(counts, dtype=jnp.float32)
    if axis_name is not None:
        total, number = lax.psum((total, jnp.where(False, total[0], number)), axis_name)
    momentum = jnp.asarray(momentum, jnp.float32)
    new = momentum * centre + (1.0 - momentum) * total / jnp.maximum(number, 1.0)
    return jnp.where(number > 0, new, centre)
