"""Softmax over scaled cosines with a margin: whole or in tiles, on one device or many."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._class_checks import Each, Problem
from jaxssl.losses._class_tiles import NOTHING, Classes, class_sums, products, scan_classes
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import (
    AxisName,
    count_rows,
    dtype_of,
    gather_rows,
    only_where,
    reduce_rows,
    tile_rows,
    unit_rows,
)


def true_cosine(arc: bool, cosine: jax.Array, margin: jax.Array) -> jax.Array:
    """What stands in place of the cosine to a row's own class."""
    if not arc:
        return cosine - margin
    sine = jnp.sqrt(jnp.maximum(1.0 - cosine**2, 1e-7))
    return jnp.where(
        cosine > -jnp.cos(margin),
        cosine * jnp.cos(margin) - sine * jnp.sin(margin),
        cosine - margin * jnp.sin(margin),
    )


def class_numbers(labels: jax.Array, k: int) -> jax.Array:
    """As int32, −1 where a label is no class: of few bits or of 64, compared in enough of them."""
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)
    zero, most = (jnp.asarray(v, labels.dtype) for v in (0, k))
    valid = (labels >= zero) & (labels < most)
    return jnp.where(valid, jnp.where(valid, labels, zero).astype(jnp.int32), jnp.int32(-1))


@compiled
def logits(problem: Problem, *, arc: bool, each: Each, precision: str) -> jax.Array:
    """scale·cosine, with the margin where a row's own class stands, [n, k]."""
    embeddings, centres, labels, margin, scale, *_ = problem
    rows = unit_rows(embeddings, precision)
    cosine = products(rows, centres, None, precision)
    own = class_numbers(labels, len(centres))
    target = own[:, None] == jnp.arange(len(centres), dtype=jnp.int32)[None, :]
    margin = _of_rows(margin, each, own, None, rows.dtype)
    true = jnp.sum(jnp.where(target, cosine, 0.0), axis=1)
    cosine = jnp.where(target, true_cosine(arc, true, margin)[:, None], cosine)
    return _scales(scale, each, rows.dtype) * cosine


def _scales(scale: Any, each: Each, dtype: Any) -> jax.Array:
    """To be multiplied with [n, k]."""
    scale = jnp.asarray(scale, dtype)
    if scale.ndim == 0:
        return scale
    return scale[:, None] if each == "row" else scale[None, :]


def _of_rows(values: Any, each: Each, own: jax.Array, axes: AxisName, dtype: Any) -> jax.Array:
    """A margin or scale for each row, its class's where `each` is "class"; [n] or a scalar."""
    values = jnp.asarray(values, dtype)
    if values.ndim == 0 or each == "row":
        return values
    here = (own >= 0) & (own < len(values))
    found = jnp.where(here, values[jnp.clip(own, 0, len(values) - 1)], 0.0)
    return found if axes is None else lax.psum(found, axes)


class Places(NamedTuple):
    """Over which mapped axes the rows and the classes are spread."""

    rows: AxisName
    classes: AxisName

    def shared(self) -> tuple[str, ...]:
        """Axes over which both are: there rows are gathered."""
        return tuple(axis for axis in _axes(self.classes) if axis in _axes(self.rows))

    def of_mean(self) -> tuple[str, ...] | None:
        """Along the classes' axes devices have the same rows, and losses."""
        return tuple(a for a in _axes(self.rows) if a not in _axes(self.classes)) or None


def _axes(name: AxisName) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else tuple(name or ())


def spread(
    problem: Problem, each: Each, places: Places, precision: str
) -> tuple[Problem, jax.Array, Classes]:
    """The rows that meet this device's classes, unit and scaled, and these classes.

    Labels come back as numbers that count from this device's first class. Inside shard_map rows and
    centres come back varying over the same axes: what either gathers in the backward pass is then
    summed over the devices by the transpose of that step.
    """
    embeddings, centres, labels, margin, scale, _, class_where, where, weights = problem
    rows = unit_rows(only_where(embeddings, where), precision)
    labels = class_numbers(labels, count_rows(centres, places.classes))
    if axes := places.shared():
        rows, labels = gather_rows(rows, axes), gather_rows(labels, axes)
        where, weights = (v if v is None else _same_rows(v, axes) for v in (where, weights))
        if each == "row":
            margin, scale = (_same_rows(v, axes) if jnp.ndim(v) else v for v in (margin, scale))
    if places.classes is not None:
        first = len(centres) * lax.axis_index(places.classes)
        labels = labels - first.astype(labels.dtype)  # −1 stays below 0
    of_class = None
    if jnp.ndim(scale) and each == "class":
        of_class = scale.astype(rows.dtype)
    else:
        row_scale = jnp.asarray(scale, rows.dtype)
        rows = rows * (row_scale[:, None] if row_scale.ndim else row_scale)
    of_rows, of_centres = (lax.stop_gradient(x[(0,) * x.ndim]) for x in (rows, centres))
    rows = jnp.where(False, of_centres.astype(rows.dtype), rows)
    classes = jax.tree.map(
        lambda v: jnp.where(False, of_rows.astype(v.dtype), v),
        Classes(centres, of_class, class_where),
    )
    problem = problem._replace(
        labels=labels, margin=margin, scale=scale, where=where, weights=weights
    )
    return problem, rows, classes


def _same_rows(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """`gather_rows`, known to shard_map as the same on every device, as the loss is to be."""
    kind, n = x.dtype, len(x)
    x = x.astype(jnp.int32) if kind == jnp.bool_ else x
    every = jnp.zeros(n * lax.axis_size(axes), x.dtype)
    every = jnp.where(False, x[0], every)
    first = n * lax.axis_index(axes)
    return lax.psum(lax.dynamic_update_slice_in_dim(every, x, first, 0), axes).astype(kind)


@compiled
def loss(
    problem: Problem,
    *,
    form: str,
    each: Each,
    reduction: str,
    precision: str,
    axis_name: AxisName,
    class_axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    """Mean cross entropy of `logits`, made at once or in tiles of classes."""
    places = Places(axis_name, class_axis_name)
    k = problem.centres.shape[0]
    problem, rows, classes = spread(problem, each, places, precision)
    n, sub = len(rows), 1 if problem.centres.ndim == 2 else problem.centres.shape[1]
    tile = tile_rows(k, n * sub, tile_size)
    if tile == k and class_axis_name is None:
        log, total, true = _at_once(rows, classes, problem.labels, precision)
    else:
        log, total, true = class_sums((tile, precision), rows, classes, problem.labels)
    found = (problem.labels >= 0) & (problem.labels < k)
    number = jnp.asarray(k) if classes.there is None else jnp.sum(classes.there)
    number = number.astype(rows.dtype)
    if classes.there is not None:
        found = found & classes.there[jnp.clip(problem.labels, 0, k - 1)]
    margin = _of_rows(problem.margin, each, problem.labels, class_axis_name, rows.dtype)
    scale = _of_rows(problem.scale, each, problem.labels, class_axis_name, rows.dtype)
    if class_axis_name is not None:
        log = _log_sum_over(log, class_axis_name)
        total, true = lax.psum((total, true), class_axis_name)
        number = lax.psum(jnp.where(False, rows[0, 0], number), class_axis_name)
        found = lax.psum(found.astype(jnp.int32), class_axis_name) > 0
    # The margin touches one logit a row: it stays outside the tiles, and its gradient with it.
    # Scales of classes have none where a row has no class.
    safe = jnp.where(scale > 0, scale, 1.0)
    own = scale * true_cosine(form == "arcface", true / safe, margin)
    # log(exp(log) + exp(own)) − own, kept from being inf − inf; without a class there is no own.
    losses = jnp.where(found, jax.nn.softplus(log - own), log)
    smooth = jnp.asarray(problem.label_smoothing, rows.dtype)
    every = total + jnp.where(found, own, 0.0)
    # (1 − ε)(log Σ − own) + ε (log Σ − mean of all logits), log Σ = loss + own.
    base = jnp.where(found, own, 0.0)
    losses = losses + smooth * (base - every / jnp.maximum(number, 1.0))
    loss = reduce_rows(losses, problem.where, problem.weights, reduction, places.of_mean())
    if reduction == "none" and (axes := places.shared()):
        here = problem.labels.shape[0] // lax.axis_size(axes)
        loss = lax.dynamic_slice_in_dim(loss, here * lax.axis_index(axes), here)
    return loss


def _log_sum_over(log: jax.Array, axis_name: AxisName) -> jax.Array:
    greatest = lax.pmax(lax.stop_gradient(log), axis_name)
    return greatest + jnp.log(lax.psum(jnp.exp(log - greatest), axis_name))


def _at_once(
    rows: jax.Array, classes: Classes, labels: jax.Array, precision: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`class_sums` from the whole matrix, which has derivatives of every mode and order."""
    found = products(rows, classes.centres, classes.scale, precision)
    own = labels[:, None] == jnp.arange(found.shape[1], dtype=labels.dtype)[None, :]
    others = ~own if classes.there is None else ~own & classes.there[None, :]
    if classes.there is not None:
        own = own & classes.there[None, :]
    some = jnp.any(others, axis=1)
    shown = jnp.where(others, found, -jnp.inf)
    log = jax.nn.logsumexp(jnp.where(some[:, None], shown, 0.0), axis=1)
    return (
        jnp.where(some, log, NOTHING),
        jnp.sum(jnp.where(others, found, 0.0), axis=1),
        jnp.sum(jnp.where(own, found, 0.0), axis=1),
    )


@compiled
def accuracy(
    problem: Problem,
    *,
    precision: str,
    axis_name: AxisName,
    class_axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    """Share of rows whose own centre is nearer than every other."""
    places = Places(axis_name, class_axis_name)
    problem = jax.tree.map(lax.stop_gradient, problem)
    problem, rows, classes = spread(problem, None, places, precision)
    k = problem.centres.shape[0]
    tile = tile_rows(k, len(rows), tile_size)
    greatest, sums = scan_classes((tile, precision), rows, classes, problem.labels)
    true, labels = sums.true, problem.labels
    found = (labels >= 0) & (labels < k)
    if classes.there is not None:
        found = found & classes.there[jnp.clip(labels, 0, k - 1)]
    if class_axis_name is not None:
        greatest, true = lax.pmax(greatest, class_axis_name), lax.psum(true, class_axis_name)
        found = lax.psum(found.astype(jnp.int32), class_axis_name) > 0
    right = (found & (true > greatest)).astype(jnp.float32)
    return reduce_rows(right, problem.where, problem.weights, "mean", places.of_mean())


@compiled
def true_and_mean(
    problem: Problem,
    *,
    precision: str,
    axis_name: AxisName,
    class_axis_name: AxisName,
    tile_size: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What AdaCos asks: rows' cosines to their own class, which rows count, and log B_avg."""
    places = Places(axis_name, class_axis_name)
    problem = jax.tree.map(lax.stop_gradient, problem)
    scale = jnp.asarray(problem.scale, dtype_of(precision))
    problem, rows, classes = spread(problem, None, places, precision)
    tile = tile_rows(problem.centres.shape[0], len(rows), tile_size)
    log, _, true = scan_classes((tile, precision), rows, classes, problem.labels)[1]
    if class_axis_name is not None:
        log, true = _log_sum_over(log, class_axis_name), lax.psum(true, class_axis_name)
    counts = jnp.ones(len(rows), bool) if problem.where is None else problem.where
    true, log, counts = (gather_rows(v, places.of_mean()) for v in (true, log, counts))
    number = jnp.maximum(jnp.sum(counts, dtype=log.dtype), 1.0)
    average = jax.nn.logsumexp(jnp.where(counts, log, NOTHING)) - jnp.log(number)
    return true / scale, counts, average
