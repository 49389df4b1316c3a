"""What the margin losses may be passed, and what they refuse."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax

from jaxssl.losses._checks import (
    as_array,
    as_fraction,
    as_labels,
    as_margin,
    as_mask,
    as_positive,
    as_real,
    as_weights,
    check_options,
    on_host,
    one_of,
)
from jaxssl.losses._rows import AxisName, count_rows

Each = Literal["row", "class"] | None

# The margins are below these: radians, cosine.
HIGHEST_MARGIN = {"arcface": math.pi / 2, "cosface": 1.0}


class Problem(NamedTuple):
    """Checked arguments of the margin losses, arrays all."""

    embeddings: Any
    centres: Any
    labels: Any
    margin: Any
    scale: Any
    label_smoothing: Any = 0.0
    class_where: Any = None
    where: Any = None
    weights: Any = None


def check_shapes(embeddings: Any, centres: Any) -> tuple[jax.Array, jax.Array]:
    """Both as arrays, [n, d] and [k, d] or [k, c, d]."""
    embeddings, centres = as_real("embeddings", embeddings), as_real("centres", centres)
    rows, classes = embeddings.shape, centres.shape
    fit = len(rows) == 2 and len(classes) in (2, 3) and rows[-1] == classes[-1]
    if not fit or 0 in rows + classes:
        raise ValueError(
            "embeddings must be [n, d] and centres [k, d] or [k, c, d], none empty, "
            f"got {rows} and {classes}"
        )
    return embeddings, centres


def check_problem(
    kind: str,
    embeddings: Any,
    centres: Any,
    labels: Any,
    margin: Any,
    scale: Any,
    *,
    each: Each = None,
    label_smoothing: Any = 0.0,
    class_where: Any = None,
    where: Any = None,
    weights: Any = None,
    class_axis_name: AxisName = None,
) -> Problem:
    """The arguments of a margin loss, of "arcface" or "cosface", checked."""
    embeddings, centres = check_shapes(embeddings, centres)
    n, k = len(embeddings), len(centres)
    labels = as_array("labels", labels)
    if labels.shape != (n,):
        raise ValueError(
            "embeddings must be [n, d] and labels [n], none empty, "
            f"got {embeddings.shape} and {labels.shape}"
        )
    where = as_mask("where", where, n)
    k_of_all = count_rows(centres, class_axis_name)
    labels = check_classes(as_labels("labels", labels, n), k_of_all, where)
    high = HIGHEST_MARGIN[kind]
    return Problem(
        embeddings,
        centres,
        labels,
        _each("margin", margin, each, n, k, lambda v: as_margin(v, high)),
        _each("scale", scale, each, n, k, partial(as_positive, "scale")),
        as_fraction("label_smoothing", label_smoothing),
        as_mask("class_where", class_where, k),
        where,
        as_weights("weights", weights, n),
    )


def _each(name: str, value: Any, each: Each, n: int, k: int, check: Callable[[Any], Any]) -> Any:
    """A scalar, or where `each` says of what, one number for every row or class."""
    if each is None or isinstance(value, int | float):
        try:
            return check(value)
        except ValueError as error:
            if "must be a scalar" not in str(error):
                raise
            raise ValueError(f"{error}; each='row' or each='class' says of what") from None
    one_of("each", each, ("row", "class"))
    values = as_real(name, value)
    if values.ndim == 0:
        return check(values)
    length = n if each == "row" else k
    if values.shape != (length,):
        raise ValueError(f"{name} of each {each} must be [{length}], got {values.shape}")
    if not isinstance(values, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            extremes = float(values.min()), float(values.max())
        for extreme in extremes:
            check(extreme)
    return values


def check_classes(labels: Any, k: int, where: Any) -> Any:
    """`labels`, which must lie in [0, k) where they can be looked at and their rows count."""
    if not isinstance(labels, jax.core.Tracer) and not isinstance(where, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            seen = on_host(labels)
            seen = seen if where is None else seen[on_host(as_array("where", where))]
            low, high = (int(seen.min()), int(seen.max())) if seen.size else (0, 0)
        if not 0 <= low <= high < k:
            raise ValueError(f"labels must lie in [0, {k}), got {low} to {high}")
    return labels


def options(
    reduction: str,
    precision: str,
    axis_name: AxisName,
    class_axis_name: AxisName,
    tile_size: int | None,
) -> dict[str, Any]:
    """Checked options of the losses."""
    check_options(reduction, precision, tile_size)
    return {
        "reduction": reduction,
        "precision": precision,
        "axis_name": axis_name,
        "class_axis_name": class_axis_name,
        "tile_size": tile_size,
    }
