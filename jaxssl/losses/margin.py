"""ArcFace and CosFace: softmax over cosines, with a margin against the true class."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxssl.losses import _classes
from jaxssl.losses._checks import Precision, Reduction, as_positive
from jaxssl.losses._class_checks import Each, check_problem, check_shapes, options
from jaxssl.losses._class_tiles import products
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import AxisName, unit_rows


def cosine_logits(
    embeddings: ArrayLike,
    centres: ArrayLike,
    *,
    scale: ArrayLike = 64.0,
    precision: Precision = "highest",
) -> jax.Array:
    """Logits without a margin, scale·cos θ: what accuracy is to be computed from.

    Args:
        embeddings: [n, d], any float type and any length; computed in float32.
        centres: a row for each class, [k, d], likewise; or [k, c, d], c sub-centres a class of
            which the nearest counts.
        scale: multiplies the cosines, in (0, inf); may be traced.
        precision: as in `nt_xent`.

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
    embeddings, centres = check_shapes(embeddings, centres)
    return _cosine_logits(embeddings, centres, as_positive("scale", scale), precision=precision)


def arcface_logits(
    embeddings: ArrayLike,
    centres: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.5,
    scale: ArrayLike = 64.0,
    each: Each = None,
    precision: Precision = "highest",
) -> jax.Array:
    r"""ArcFace logits: the angle to the true class's centre is widened by a margin.

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
        centres: a row for each class, [k, d], likewise; train and save them with the model. Or
            [k, c, d], c sub-centres a class of which the nearest to a row counts.
        labels: true class of each row, [n] integers in [0, k). Inside jit their values cannot be
            looked at: a row whose label lies outside then has no true class and is pushed away from
            all (−1 does not mean "ignore": `where` of the losses does).
        margin: in radians (not degrees), in [0, π/2); may be traced.
        scale: multiplies the cosines, in (0, inf); may be traced.
        each: None: margin and scale are scalars. "row": an array of either has a number for each
            row, [n]. "class": for each class, [k]; the margin is then that of the row's own class,
            and the scale multiplies the class's logit. A scalar beside an array serves for all.
        precision: as in `nt_xent`.

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
    problem = check_problem("arcface", embeddings, centres, labels, margin, scale, each=each)
    return _classes.logits(problem, arc=True, each=each, precision=precision)


def arcface_loss(
    embeddings: ArrayLike,
    centres: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.5,
    scale: ArrayLike = 64.0,
    each: Each = None,
    label_smoothing: ArrayLike = 0.0,
    class_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
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
        centres: as in `arcface_logits`; with `axis_name`, the same on every device; with
            `class_axis_name`, this device's shard.
        labels: as in `arcface_logits`, sharded as the embeddings, in [0, k) of all classes.
        margin: as in `arcface_logits`.
        scale: as in `arcface_logits`.
        each: as in `arcface_logits`; what is of rows is sharded as they are, of classes as those.
        label_smoothing: ε in [0, 1]: the target is 1 − ε at the row's class and ε/k at all k, which
            the margin does not leave out. May be traced.
        class_where: booleans [k], sharded as the centres; classes where it is False do not exist,
            such as those that fill up k to a multiple of the devices.
        where: booleans [n]: rows where it is False are not there, whatever they and their labels
            hold; such as unlabelled rows, `labels != ignored`.
        weights: of each row in the mean, [n], at least 0.
        reduction: "mean"; "sum"; or "none", [n] of this device.
        precision: as in `nt_xent`.
        axis_name: mapped axis (or axes) over which the batch is spread; `nt_xent` says how to take
            the gradient then.
        class_axis_name: mapped axis (or axes) over which the classes are spread, see above.
        tile_size: classes a tile, at least 1. None: all at once up to 2²² logits, above that as
            many as make 2²². With tiles memory is n x tile_size, and a pass over the tiles is made
            for the value and another for the gradient; there is no forward-mode derivative then,
            and an error says so.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        counts.

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
    problem = check_problem(
        "arcface",
        embeddings,
        centres,
        labels,
        margin,
        scale,
        each=each,
        label_smoothing=label_smoothing,
        class_where=class_where,
        where=where,
        weights=weights,
        class_axis_name=class_axis_name,
    )
    how = options(reduction, precision, axis_name, class_axis_name, tile_size)
    return _classes.loss(problem, form="arcface", each=each, **how)


def cosface_logits(
    embeddings: ArrayLike,
    centres: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.35,
    scale: ArrayLike = 64.0,
    each: Each = None,
    precision: Precision = "highest",
) -> jax.Array:
    """CosFace logits: scale·(cos θ − margin) for the true class, scale·cos θ for the others.

    Args:
        embeddings: as in `arcface_logits`.
        centres: as in `arcface_logits`.
        labels: as in `arcface_logits`.
        margin: in cosine, in [0, 1); may be traced.
        scale: as in `arcface_logits`, which says what to do with few classes.
        each: as in `arcface_logits`.
        precision: as in `nt_xent`.

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
    problem = check_problem("cosface", embeddings, centres, labels, margin, scale, each=each)
    return _classes.logits(problem, arc=False, each=each, precision=precision)


def cosface_loss(
    embeddings: ArrayLike,
    centres: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.35,
    scale: ArrayLike = 64.0,
    each: Each = None,
    label_smoothing: ArrayLike = 0.0,
    class_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    precision: Precision = "highest",
    axis_name: AxisName = None,
    class_axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    """Return the mean softmax cross entropy of `cosface_logits`.

    Args:
        embeddings: as in `arcface_loss`.
        centres: as in `arcface_loss`.
        labels: as in `arcface_loss`.
        margin: as in `cosface_logits`.
        scale: as in `cosface_logits`.
        each: as in `arcface_loss`.
        label_smoothing: as in `arcface_loss`.
        class_where: as in `arcface_loss`.
        where: as in `arcface_loss`.
        weights: as in `arcface_loss`.
        reduction: as in `arcface_loss`.
        precision: as in `arcface_loss`.
        axis_name: as in `arcface_loss`.
        class_axis_name: as in `arcface_loss`.
        tile_size: as in `arcface_loss`.

    Returns:
        The loss, a float32 scalar ≥ 0 over the global batch; 0, with zero gradients, where no row
        counts.

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
    problem = check_problem(
        "cosface",
        embeddings,
        centres,
        labels,
        margin,
        scale,
        each=each,
        label_smoothing=label_smoothing,
        class_where=class_where,
        where=where,
        weights=weights,
        class_axis_name=class_axis_name,
    )
    how = options(reduction, precision, axis_name, class_axis_name, tile_size)
    return _classes.loss(problem, form="cosface", each=each, **how)


def cosine_accuracy(
    embeddings: ArrayLike,
    centres: ArrayLike,
    labels: ArrayLike,
    *,
    class_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    precision: Precision = "highest",
    axis_name: AxisName = None,
    class_axis_name: AxisName = None,
    tile_size: int | None = None,
) -> jax.Array:
    """Share of rows that are nearer, in angle, to their class's centre than to every other.

    Accuracy from `cosine_logits`, without a margin, for more classes than [n, k] logits fit: it is
    computed in the tiles, and over the devices, of the losses. A tie counts as wrong.

    Args:
        embeddings: as in `arcface_loss`.
        centres: as in `arcface_loss`.
        labels: as in `arcface_loss`.
        class_where: as in `arcface_loss`.
        where: as in `arcface_loss`.
        weights: as in `arcface_loss`.
        precision: as in `arcface_loss`.
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
    problem = check_problem(
        "cosface",
        embeddings,
        centres,
        labels,
        0.0,
        1.0,
        class_where=class_where,
        where=where,
        weights=weights,
        class_axis_name=class_axis_name,
    )
    how = options("mean", precision, axis_name, class_axis_name, tile_size)
    del how["reduction"]
    return _classes.accuracy(problem, **how)


@compiled
def _cosine_logits(
    embeddings: jax.Array, centres: jax.Array, scale: Any, *, precision: str
) -> jax.Array:
    rows = unit_rows(embeddings, precision)
    return jnp.asarray(scale, rows.dtype) * products(rows, centres, None, precision)
