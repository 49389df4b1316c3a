"""A model as a table: what `--describe` prints."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models.freezing import Frozen


def describe(model: nnx.Module, image_shape: tuple[int, int, int]) -> str:
    """List every layer with its output shape and its parameters, then the totals.

    Nothing is computed: the shapes come from `jax.eval_shape`. Parameters are counted as torch
    counts them: weights, biases, BatchNorm's scale and bias. Its running mean and variance are the
    batch statistics, counted apart.

    Args:
      model: a module called as `model(images)`, or its shapes (`nnx.eval_shape` of a constructor);
        parts of it that the call does not reach are listed last, without a shape.
      image_shape: (h, w, c) of one image.

    Returns:
      The table, one layer a line, in the order of the calls.

    Example:
      >>> from jaxssl.models import ConvNet
      >>> def build():
      ...     return ConvNet(widths=(4, 8), channels=1, rngs=nnx.Rngs(0))
      >>> print(describe(nnx.eval_shape(build), (8, 8, 1)))
      layer    type       output     parameters
      convs/0  Conv       [4, 4, 4]          36  trainable
      norms/0  BatchNorm  [4, 4, 4]           8  trainable
      convs/1  Conv       [2, 2, 8]         288  trainable
      norms/1  BatchNorm  [2, 2, 8]          16  trainable
      <BLANKLINE>
      total                    348
      trainable                348
      frozen                     0
      batch statistics          24
    """
    shapes = _output_shapes(model, image_shape)
    layers = {path: layer for path, layer in nnx.iter_modules(model) if _owns_parameters(layer)}
    order = [path for path in shapes if path in layers]
    order += [path for path in layers if path not in shapes]
    table = [("layer", "type", "output", "parameters", "")]
    table += [_row(path, layers[path], shapes.get(path)) for path in order]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    lines = [
        f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in table
    ]
    trainable, frozen = _count(model, nnx.Param), _count(model, Frozen)
    totals = {
        "total": trainable + frozen,
        "trainable": trainable,
        "frozen": frozen,
        "batch statistics": _count(model, nnx.BatchStat),
    }
    return "\n".join([*lines, "", *(f"{name:16}  {n:>10,}" for name, n in totals.items())])


def _count(model: nnx.Module, kind: type[nnx.Variable]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, kind)))


def _owns_parameters(layer: nnx.Module) -> bool:
    return any(isinstance(value, nnx.Param | Frozen) for value in vars(layer).values())


def _row(path: tuple, layer: nnx.Module, shape: tuple[int, ...] | None) -> tuple[str, ...]:
    trainable, frozen = _count(layer, nnx.Param), _count(layer, Frozen)
    return (
        "/".join(map(str, path)) or "-",
        type(layer).__name__,
        "" if shape is None else str(list(shape)),
        f"{trainable + frozen:,}",
        "frozen" if frozen else "trainable",
    )


def _output_shapes(
    model: nnx.Module, image_shape: tuple[int, int, int]
) -> dict[tuple, tuple[int, ...]]:
    """Find every module's output shape, without the batch, by path, in the order of the calls.

    `nnx.capture` would give the shapes too, but sorted by name and not for inherited `__call__`s.
    """
    graphdef, state = nnx.split(model)
    shapes: dict[tuple, tuple[int, ...]] = {}

    def forward(images: jax.Array, state: nnx.State) -> jax.Array:
        traced = nnx.merge(graphdef, state)
        for path, layer in list(nnx.iter_modules(traced)):
            _record(path, layer, shapes)
        return traced(images)

    jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), state)
    return shapes


def _record(path: tuple, layer: nnx.Module, shapes: dict[tuple, tuple[int, ...]]) -> None:
    """Give this one object (a traced copy) a class whose `__call__` notes the output's shape."""
    kind = type(layer)
    if not _owns_parameters(layer):
        return

    def call(self: nnx.Module, *args: jax.Array) -> jax.Array:
        output = kind.__call__(self, *args)
        shapes[path] = output.shape[1:]
        return output

    object.__setattr__(layer, "__class__", type(kind.__name__, (kind,), {"__call__": call}))
