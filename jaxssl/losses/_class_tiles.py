"""Softmax over many classes in tiles of classes: no [n, k] array, forward or backward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._rows import AxisName, dot_products, filled, gather_rows, tile_rows, unit_rows

# Stands for the log of a sum of nothing: finite, so that it can be subtracted from itself.
_NOTHING = -1e30


def cross_entropy(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    *,
    true_cosine: Callable[[jax.Array], jax.Array],
    scale: float | jax.Array,
    axis_name: AxisName,
    class_axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    """Mean cross entropy of scale·cosine, `true_cosine(cosine)` in its place for the true class."""
    scale = jnp.asarray(scale, jnp.float32)
    # The margin touches one logit a row: it stays outside the tiles, and its gradient with it.
    arguments = _local(scale * unit_rows(embeddings), weights, labels, axis_name, class_axis_name)
    tile = tile_rows(weights.shape[0], arguments[0].shape[0], tile_size)
    log_sum, true = others_and_true(tile, *arguments)
    found = _is_class(arguments[2], weights)
    if class_axis_name is not None:
        greatest = lax.pmax(lax.stop_gradient(log_sum), class_axis_name)
        total = lax.psum(jnp.exp(log_sum - greatest), class_axis_name)
        log_sum = greatest + jnp.log(total)
        true = lax.psum(true, class_axis_name)
        found = _anywhere(found, class_axis_name)
    # log(exp(log_sum) + exp(true logit)) − true logit; a label that is no class has no logit.
    loss = jnp.where(found, jax.nn.softplus(log_sum - scale * true_cosine(true / scale)), log_sum)
    return _mean(loss, axis_name, class_axis_name)


def accuracy(
    embeddings: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    axis_name: AxisName,
    class_axis_name: AxisName,
    tile_size: int | None,
) -> jax.Array:
    """Share of rows whose own weight is nearer than every other."""
    arguments = _local(unit_rows(embeddings), weights, labels, axis_name, class_axis_name)
    tile = tile_rows(weights.shape[0], arguments[0].shape[0], tile_size)
    greatest, _, true = scan_classes(tile, *map(lax.stop_gradient, arguments))
    found = _is_class(arguments[2], weights)
    if class_axis_name is not None:
        greatest, true = lax.pmax(greatest, class_axis_name), lax.psum(true, class_axis_name)
        found = _anywhere(found, class_axis_name)
    return _mean((found & (true > greatest)).astype(jnp.float32), axis_name, class_axis_name)


def _is_class(labels: jax.Array, weights: jax.Array) -> jax.Array:
    return (labels >= 0) & (labels < weights.shape[0])


def _anywhere(found: jax.Array, axis_name: AxisName) -> jax.Array:
    return lax.psum(found.astype(jnp.int32), axis_name) > 0


def _axes(name: AxisName) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else name or ()


def _mean(values: jax.Array, axis_name: AxisName, class_axis_name: AxisName) -> jax.Array:
    """Over the global batch; devices along the classes' axes have the same rows and values."""
    axes = tuple(axis for axis in _axes(axis_name) if axis not in _axes(class_axis_name))
    return lax.pmean(jnp.mean(values), axes) if axes else jnp.mean(values)


def _local(
    rows: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    axis_name: AxisName,
    class_axis_name: AxisName,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The rows that meet this device's classes, its weights, and labels that count from its first.

    Inside shard_map rows and weights come back varying over the same axes: what either gathers in
    the backward pass is then summed over the devices by the transpose of that step.
    """
    shared = tuple(axis for axis in _axes(class_axis_name) if axis in _axes(axis_name))
    if shared:
        rows, labels = gather_rows(rows, shared), gather_rows(labels, shared)
    labels = labels.astype(jnp.int32)  # k may be more than labels of uint8 can count
    if class_axis_name is not None:
        labels = labels - weights.shape[0] * lax.axis_index(class_axis_name)
    of_rows, of_weights = (lax.stop_gradient(x[0, 0]) for x in (rows, weights))
    rows = jnp.where(False, of_weights.astype(rows.dtype), rows)
    weights = jnp.where(False, of_rows.astype(weights.dtype), weights)
    return rows, weights, labels


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def others_and_true(
    tile: int, rows: jax.Array, weights: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of each row's products with the `weights` at unit length, `tile` classes at a time.

    Args:
        tile: classes a tile, in [1, k].
        rows: [n, d] float32, scaled as the logits are to be.
        weights: [k, d], any length and float type.
        labels: which of the weights is a row's own, [n]; outside [0, k) none is.

    Returns:
        The log of the sum of exp of the products with all weights but the row's own, and the
        product with its own, 0 if it has none here; [n] each.
    """
    _, log_sum, true = scan_classes(tile, rows, weights, labels)
    return log_sum, true


def scan_classes(
    tile: int, rows: jax.Array, weights: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The greatest product with another weight than the row's own, and `others_and_true`."""

    def step(i: jax.Array, carry: tuple) -> tuple:
        greatest, total, true = carry
        first, start = _place(i, tile, weights)
        products = dot_products(rows, unit_rows(lax.dynamic_slice_in_dim(weights, start, tile)))
        own, others = _masks(first, start, tile, labels)
        others = jnp.where(others, products, -jnp.inf)
        new = jnp.maximum(greatest, jnp.max(others, axis=1))
        total = total * jnp.exp(greatest - new) + jnp.sum(jnp.exp(others - new[:, None]), axis=1)
        return new, total, true + jnp.sum(jnp.where(own, products, 0.0), axis=1)

    greatest, total, true = lax.fori_loop(
        0, _tiles(tile, weights), step, tuple(filled(v, rows[:, 0]) for v in (_NOTHING, 0.0, 0.0))
    )
    return greatest, greatest + jnp.log(jnp.maximum(total, 1e-37)), true


def _forward(tile: int, rows: jax.Array, weights: jax.Array, labels: jax.Array) -> Any:
    log_sum, true = others_and_true(tile, rows, weights, labels)
    return (log_sum, true), (rows, weights, labels, log_sum)


def _backward(tile: int, kept: tuple, cotangents: tuple) -> Any:
    rows, weights, labels, log_sum = kept
    by_log_sum, by_true = (cotangent[:, None] for cotangent in cotangents)

    def step(i: jax.Array, carry: tuple) -> tuple:
        by_rows, by_weights = carry
        first, start = _place(i, tile, weights)
        units, pull = jax.vjp(unit_rows, lax.dynamic_slice_in_dim(weights, start, tile))
        own, others = _masks(first, start, tile, labels)
        share = jnp.exp(dot_products(rows, units) - log_sum[:, None])
        by_products = jnp.where(others, by_log_sum * share, jnp.where(own, by_true, 0.0))
        by_rows = by_rows + dot_products(by_products, units.T)
        (new,) = pull(dot_products(by_products.T, rows.T))
        # What a last tile shares with the one before it was written there.
        old = lax.dynamic_slice_in_dim(by_weights, start, tile)
        new = jnp.where((start + jnp.arange(tile) < first)[:, None], old, new)
        return by_rows, lax.dynamic_update_slice_in_dim(by_weights, new, start, axis=0)

    start = filled(0.0, rows), filled(0.0, weights)
    by_rows, by_weights = lax.fori_loop(0, _tiles(tile, weights), step, start)
    return by_rows, by_weights, None


others_and_true.defvjp(_forward, _backward)


def _tiles(tile: int, weights: jax.Array) -> int:
    return -(-weights.shape[0] // tile)


def _place(i: jax.Array, tile: int, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A tile's first class, and where it is read: the last tile starts early enough to be full."""
    first = i * tile
    return first, jnp.minimum(first, weights.shape[0] - tile)


def _masks(
    first: jax.Array, start: jax.Array, tile: int, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where a tile holds each row's own class and where another, earlier tiles' classes aside."""
    classes = start + jnp.arange(tile)[None, :]
    own = classes == labels[:, None]
    return own & (classes >= first), ~own & (classes >= first)
