"""ArcFace and CosFace: softmax over cosines, with a margin against the true class."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses import _class_tiles
from jaxssl.losses._checks import (
    check_labelled,
    check_margin,
    check_positive,
    check_tile_size,
    holds,
)
from jaxssl.losses._meshes import on_any_mesh
from jaxssl.losses._rows import AxisName, count_rows, dot_products, tile_rows, unit_rows


def cosine_logits(
    embeddings: jax.Array, weights: jax.Array, *, scale: float | jax.Array = 64.0
) -> jax.Array:
    """Logits without a margin, scale·cos θ: what accuracy is to be computed from.

    Args:
        embeddings: [n, d], any float type and any length; computed in float32.
        weights: a row for each class, [k, d], likewise.
        scale: multiplies the cosines, in (0, inf); may be traced.

    Returns:
        Logits, float32 [n, k].

    Raises:
        ValueError: if shapes do not fit, or `scale` is not positive and finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import cosine_logits
        >>> print(cosine_logits(jnp.array([[3.0, 4.0]]), jnp.eye(2), scale=10.0))
        [[6. 8.]]
    """
    check_positive("scale", scale)
    return jnp.asarray(scale, jnp.float32) * _cosines(embeddings, weights)


def arcface_logits(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.5,
    scale: float | jax.Array = 64.0,
) -> jax.Array:
    r"""ArcFace logits: the angle to the true class's weight is widened by a margin.

        scale·cos(θ + margin)              true class, θ < π − margin
        scale·(cos θ − margin·sin margin)  true class, beyond: cos(θ + margin) would rise again
        scale·cos θ                        the others

    so the true logit falls all the way from θ = 0 to π. sin θ is sqrt(max(1 − cos²θ, 1e-7)), which
    has finite gradients at θ = 0 and π, where arccos has not. The gradient is the true one, by
    automatic differentiation; insightface passes it straight through the margin (factor scale).

    A scale of 64 is for thousands of classes: with few, the loss starts in the tens and training
    can stall; try 16. The least that lets a class reach probability p is (k − 1)/k·ln((k − 1)·p/
    (1 − p)) (CosFace, section 3.3): 6.1 for 10 classes and p = 0.99.

    Args:
        embeddings: [n, d], any float type and any length; computed in float32.
        weights: a row for each class, [k, d], likewise; train and save them with the model.
        labels: true class of each row, [n] integers in [0, k). Inside jit their values cannot be
            looked at: a row whose label lies outside then has no true class and is pushed away from
            all (−1 does not mean "ignore").
        margin: in radians (not degrees), in [0, π/2); may be traced.
        scale: multiplies the cosines, in (0, inf); may be traced.

    Returns:
        Logits, float32 [n, k]. For accuracy use `cosine_logits`.

    Raises:
        ValueError: if shapes do not fit, `labels` are not integers in [0, k), or `margin` or
            `scale` is out of range.

    Reference:
        Deng et al., "ArcFace", 2019 (https://arxiv.org/abs/1801.07698), equation 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import arcface_logits
        >>> z = jnp.array([[1.0, 0.0]])
        >>> print(arcface_logits(z, jnp.eye(2), jnp.array([1]), scale=100.0).round())  # −sin 0.5
        [[100. -48.]]
    """
    check_margin(margin, math.pi / 2)
    return _logits(embeddings, weights, labels, partial(_widened, margin=margin), scale)


@on_any_mesh
def arcface_loss(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.5,
    scale: float | jax.Array = 64.0,
    axis_name: AxisName = None,
    class_axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    """Mean softmax cross entropy of `arcface_logits`, in tiles where classes are many.

    **Classes over devices.** With `class_axis_name`, device i of that axis holds the weights of
    classes i·k/m to (i + 1)·k/m − 1, [k/m, d], and value and gradient are those of one device with
    all k. The batch may be the same on all of them (`axis_name` None), spread over another axis
    (a mesh of data x classes), or over the same: embeddings and labels are then gathered, [n, d]
    and [n], while weights and logits stay where they are. The gradient by the local weights, taken
    outside or with `check_vma` on, is as it is; taken inside with `check_vma` off it is to be
    divided by m, beside the pmean over the batch's other axes that `nt_xent` asks for.

    Args:
        embeddings: as in `arcface_logits`; with `axis_name`, this device's shard.
        weights: as in `arcface_logits`; with `axis_name`, the same on every device; with
            `class_axis_name`, this device's shard.
        labels: as in `arcface_logits`, sharded as the embeddings, in [0, k) of all classes.
        margin: as in `arcface_logits`.
        scale: as in `arcface_logits`.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        class_axis_name: mapped axis (or axes) over which the classes are spread, see above.
        tile_size: classes a tile, at least 1. None: all at once up to 2²² logits, above that as
            many as make 2²². With tiles memory is n x tile_size, and a pass over the tiles is made
            for the value and another for the gradient; reverse mode only.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch.

    Raises:
        ValueError: as `arcface_logits`; or if `tile_size` is below 1.

    Reference:
        Deng et al., "ArcFace", 2019 (https://arxiv.org/abs/1801.07698), equation 3.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import arcface_loss
        >>> loss = arcface_loss(jnp.eye(2), jnp.eye(2), jnp.array([0, 1]), scale=1.0)
        >>> print(f"{loss:.4f}")  # ln(1 + exp(−cos 0.5))
        0.3477
    """
    check_margin(margin, math.pi / 2)
    return _loss(
        embeddings,
        weights,
        labels,
        partial(_widened, margin=margin),
        scale,
        axis_name=axis_name,
        class_axis_name=class_axis_name,
        tile_size=tile_size,
    )


def cosface_logits(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.35,
    scale: float | jax.Array = 64.0,
) -> jax.Array:
    """CosFace logits: scale·(cos θ − margin) for the true class, scale·cos θ for the others.

    Args:
        embeddings: as in `arcface_logits`.
        weights: as in `arcface_logits`.
        labels: as in `arcface_logits`.
        margin: in cosine, in [0, 1); may be traced.
        scale: as in `arcface_logits`, which says what to do with few classes.

    Returns:
        Logits, float32 [n, k]. For accuracy use `cosine_logits`.

    Raises:
        ValueError: as `arcface_logits`.

    Reference:
        Wang et al., "CosFace", 2018 (https://arxiv.org/abs/1801.09414), equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import cosface_logits
        >>> z = jnp.array([[1.0, 0.0]])
        >>> print(cosface_logits(z, jnp.eye(2), jnp.array([0]), margin=0.25, scale=1.0))
        [[0.75 0.  ]]
    """
    check_margin(margin, 1.0)
    return _logits(embeddings, weights, labels, partial(_reduced, margin=margin), scale)


@on_any_mesh
def cosface_loss(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array = 0.35,
    scale: float | jax.Array = 64.0,
    axis_name: AxisName = None,
    class_axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    """Mean softmax cross entropy of `cosface_logits`.

    Args:
        embeddings: as in `arcface_loss`.
        weights: as in `arcface_loss`.
        labels: as in `arcface_loss`.
        margin: as in `cosface_logits`.
        scale: as in `cosface_logits`.
        axis_name: as in `arcface_loss`.
        class_axis_name: as in `arcface_loss`.
        tile_size: as in `arcface_loss`.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch.

    Raises:
        ValueError: as `arcface_loss`.

    Reference:
        Wang et al., "CosFace", 2018 (https://arxiv.org/abs/1801.09414), equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import cosface_loss
        >>> loss = cosface_loss(jnp.eye(2), jnp.eye(2), jnp.array([0, 1]), scale=1.0)
        >>> print(f"{loss:.4f}")  # ln(1 + exp(−0.65))
        0.4201
    """
    check_margin(margin, 1.0)
    return _loss(
        embeddings,
        weights,
        labels,
        partial(_reduced, margin=margin),
        scale,
        axis_name=axis_name,
        class_axis_name=class_axis_name,
        tile_size=tile_size,
    )


@on_any_mesh
def cosine_accuracy(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    *,
    axis_name: AxisName = None,
    class_axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    """Share of rows that are nearer, in angle, to their class's weight than to every other.

    Accuracy from `cosine_logits`, without a margin, for more classes than [n, k] logits fit: it is
    computed in the tiles, and over the devices, of the losses. A tie counts as wrong.

    Args:
        embeddings: as in `arcface_loss`.
        weights: as in `arcface_loss`.
        labels: as in `arcface_loss`.
        axis_name: as in `arcface_loss`.
        class_axis_name: as in `arcface_loss`.
        tile_size: as in `arcface_loss`; None: tiles of as many classes as make 2²² cosines.

    Returns:
        The accuracy over the global batch, a float32 scalar in [0, 1], without gradient.

    Raises:
        ValueError: if shapes do not fit, `labels` are not integers in [0, k), or `tile_size` is
            below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import cosine_accuracy
        >>> print(cosine_accuracy(jnp.eye(4), jnp.eye(4), jnp.array([0, 1, 2, 0])))
        0.75
    """
    check_tile_size(tile_size)
    _check_shapes(embeddings, weights)
    _check_labels(embeddings, weights, labels, class_axis_name)
    return _class_tiles.accuracy(embeddings, weights, labels, axis_name, class_axis_name, tile_size)


def _logits(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    true_cosine: Callable[[jax.Array], jax.Array],
    scale: float | jax.Array,
) -> jax.Array:
    """scale·cosine, `true_cosine(cosine)` in its place for the true class, [n, k]."""
    check_positive("scale", scale)
    cosine = _cosines(embeddings, weights)
    _check_labels(embeddings, weights, labels)
    logits = jnp.where(_target(labels, cosine), true_cosine(cosine), cosine)
    return jnp.asarray(scale, jnp.float32) * logits


def _loss(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    true_cosine: Callable[[jax.Array], jax.Array],
    scale: float | jax.Array,
    *,
    axis_name: AxisName,
    class_axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    """Mean cross entropy of `_logits`, made at once or in tiles of classes."""
    check_tile_size(tile_size)
    _check_shapes(embeddings, weights)
    k = weights.shape[0]
    if class_axis_name is None and tile_rows(k, embeddings.shape[0], tile_size) == k:
        # All at once: then nothing is computed twice.
        logits = _logits(embeddings, weights, labels, true_cosine, scale)
        return _cross_entropy(logits, labels, axis_name)
    check_positive("scale", scale)
    _check_labels(embeddings, weights, labels, class_axis_name)
    return _class_tiles.cross_entropy(
        embeddings,
        weights,
        labels,
        true_cosine=true_cosine,
        scale=scale,
        axis_name=axis_name,
        class_axis_name=class_axis_name,
        tile_size=tile_size,
    )


def _widened(cosine: jax.Array, margin: float | jax.Array) -> jax.Array:
    """ArcFace's cosine to the true class."""
    margin = jnp.asarray(margin, jnp.float32)
    sine = jnp.sqrt(jnp.maximum(1.0 - cosine**2, 1e-7))
    return jnp.where(
        cosine > -jnp.cos(margin),
        cosine * jnp.cos(margin) - sine * jnp.sin(margin),
        cosine - margin * jnp.sin(margin),
    )


def _reduced(cosine: jax.Array, margin: float | jax.Array) -> jax.Array:
    """CosFace's."""
    return cosine - jnp.asarray(margin, jnp.float32)


def _check_shapes(embeddings: jax.Array, weights: jax.Array) -> None:
    rows, classes = embeddings.shape, weights.shape
    if len(rows) != 2 or len(classes) != 2 or rows[1] != classes[1] or 0 in rows + classes:
        raise ValueError(
            f"embeddings must be [n, d] and weights [k, d], none empty, got {rows} and {classes}"
        )


def _cosines(embeddings: jax.Array, weights: jax.Array) -> jax.Array:
    _check_shapes(embeddings, weights)
    return dot_products(unit_rows(embeddings), unit_rows(weights))


def _check_labels(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    class_axis_name: AxisName = None,
) -> None:
    check_labelled(embeddings, labels)
    k = count_rows(weights, class_axis_name)
    if not holds(lambda labels: 0 <= int(labels.min()) <= int(labels.max()) < k, labels):
        raise ValueError(f"labels must lie in [0, {k}), got {labels.min()} to {labels.max()}")


def _target(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Where each row's true class stands among the logits, [n, k]."""
    return labels[:, None] == jnp.arange(logits.shape[1])[None, :]


def _cross_entropy(logits: jax.Array, labels: jax.Array, axis_name: AxisName) -> jax.Array:
    true_logits = jnp.sum(jnp.where(_target(labels, logits), logits, 0.0), axis=1)
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - true_logits)
    return loss if axis_name is None else lax.pmean(loss, axis_name)
