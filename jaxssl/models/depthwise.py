"""Depthwise convolution that is fast on a CPU, its gradients too."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxssl import lowering
from jaxssl.models import onednn, phases, windows

Pair = tuple[int, int]
# Of the gradient, at a time: fewer have more loops to begin, more leave the cache.
ROWS = 4
# Of a gradient that oneDNN takes as a kernel: with more, to turn images into channels takes longer.
FEW_PLACES = 64


@lowering.in_reverse_alone
def convolve_depthwise(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: str | Sequence[Pair], **options: Any
) -> jax.Array:
    """Convolve each channel by itself: `lax.conv_general_dilated`, on a CPU in a form of its own.

    XLA's is slow there, forward and backward (`python scripts/benchmarks/encoders.py`). Here the
    result is a sum of shifted copies of the map, each times one entry of the kernel, and so are
    both gradients: loops that XLA vectorises over the channels. XLA's form is used on a GPU or TPU;
    several CPU devices are as in `convolve`.

    There is no forward-mode derivative (`jax.jvp`, `jacfwd`, `hessian`): take `jacrev(grad(f))`.

    Args:
      x: [b, h, w, c].
      kernel: [k, k, 1, c].
      strides: of height and width.
      padding: before and after, of height and width; or "SAME" or "VALID".
      options: the others of `lax.conv_general_dilated` as `nnx.Conv` gives them: those of a
        depthwise convolution without dilation. The precision is float32's.

    Returns:
      [b, h', w', c], in x's type, summed in float32.

    Raises:
      ValueError: for a convolution that is not depthwise, or dilated.

    Example:
      >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
      >>> convolve_depthwise(x, kernel, (2, 2), "SAME").tolist()[0][0]
      [[9.0, 9.0], [6.0, 6.0]]
    """
    channels = x.shape[-1]
    dilated = {(1, 1)} != {
        (1, 1),
        *(tuple(options.get(name) or (1, 1)) for name in ("lhs_dilation", "rhs_dilation")),
    }
    if kernel.shape[2:] != (1, channels) or dilated:
        raise ValueError(
            f"kernel {kernel.shape} on images {x.shape}: not [k, k, 1, c], or a dilated convolution"
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    how: Any = {"strides": tuple(strides), "padding": tuple(map(tuple, padding))}
    own, otherwise = (functools.partial(form, **how) for form in (_convolve, _xla))
    # The forms here are for a result that has places.
    if 0 in windows.convolved_shape(x, kernel, **how):
        return otherwise(x, kernel)
    return lowering.device_by_device(own, otherwise, x, kernel)


def _xla(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    x, padding = windows.for_lax(x, kernel, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    how = {"strides": strides, "padding": padding}
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(_on_cpu, **how), default=functools.partial(_xla, **how)
    )


def _forward(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> Any:
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides: Pair, padding: Any, inputs: Any, gradient: jax.Array) -> Any:
    def xla(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        return jax.vjp(lambda x, kernel: _xla(x, kernel, strides, padding), x, kernel)[1](gradient)

    def cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        return (
            _by_input(x, kernel, gradient, strides, padding),
            _by_filter(x, kernel, gradient, strides, padding),
        )

    return lax.platform_dependent(*inputs, gradient, cpu=cpu, default=xla)


_convolve.defvjp(_forward, _backward)


def _on_cpu(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    form = onednn.convolve if onednn.takes(x, kernel) else _sum_of_shifts
    return form(x, kernel, strides, padding)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    """Sum over i, j the map shifted by (i, j) times kernel[i, j], in float32."""
    padded = windows.padded(x, padding).astype(jnp.float32)
    h, w = (n - k + 1 for n, k in zip(padded.shape[1:3], kernel.shape[:2], strict=True))
    products = (
        padded[:, i : i + h : strides[0], j : j + w : strides[1]]
        * kernel[i, j].reshape(1, 1, 1, -1).astype(jnp.float32)
        for i, j in np.ndindex(kernel.shape[:2])
    )
    return functools.reduce(operator.add, products).astype(x.dtype)


def _by_input(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the gradient by the map: the incoming one convolved with the kernel turned.

    The small parts of a kernel with strides take oneDNN twice as long as sums of shifted maps.
    """
    by_onednn = strides == (1, 1) and onednn.takes(gradient, kernel)
    return phases.by_input(
        onednn.convolve if by_onednn else _sum_of_shifts,
        kernel,
        gradient,
        x.shape[1:],
        strides,
        padding,
        fused=not by_onednn,
    ).astype(x.dtype)


def _by_filter(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the kernel's gradient, [k, k, 1, c]: Σ over images and places of gradient * window.

    A few rows of the gradient at a time are added to sums for each place of them: all of it stays
    in the cache and the loops vectorise over the channels, unlike XLA's reduction of the whole.
    Each entry of the kernel has sums of its own: one array of all would be written by a loop that
    asks, number by number, which entry it is at, at half the speed.
    """
    if gradient.shape[1] * gradient.shape[2] <= FEW_PLACES and onednn.takes(x, gradient):
        return _by_filter_of_few_places(x, kernel, gradient, strides, padding)
    k_h, k_w = kernel.shape[:2]
    b, h, w, c = gradient.shape
    padded = windows.padded(x, padding)
    together = next(rows for rows in range(ROWS, 0, -1) if h % rows == 0)
    tall, wide = ((n - 1) * s + 1 for n, s in zip((together, w), strides, strict=True))

    entries = [(i, j) for i in range(k_h) for j in range(k_w)]

    def add(index: jax.Array, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        image, row = index // (h // together), index % (h // together) * together
        few = lax.dynamic_slice(gradient, (image, row, 0, 0), (1, together, w, c))[0]
        few = few.astype(jnp.float32)
        start = (image, row * strides[0], 0, 0)
        rows = lax.dynamic_slice(padded, start, (1, tall + k_h - 1, padded.shape[2], c))[0]
        return tuple(
            total
            + rows[i : i + tall : strides[0], j : j + wide : strides[1]].astype(jnp.float32) * few
            for total, (i, j) in zip(totals, entries, strict=True)
        )

    zeros = tuple(jnp.zeros((together, w, c), jnp.float32) for _ in entries)
    totals = lax.fori_loop(0, b * h // together, add, zeros)
    return (
        jnp.stack([total.sum((0, 1)) for total in totals])
        .reshape(kernel.shape)
        .astype(kernel.dtype)
    )


def _by_filter_of_few_places(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the same by oneDNN: every channel of every image convolved with its own gradient."""
    b, _, _, c = x.shape
    x = windows.padded(x, padding)
    seen = [
        (have - 1) * stride + side
        for have, stride, side in zip(gradient.shape[1:3], strides, kernel.shape[:2], strict=True)
    ]
    channels, kernels = (
        jnp.moveaxis(maps, 0, 2).reshape(*maps.shape[1:3], b * c)
        for maps in (x[:, : seen[0], : seen[1]], gradient)
    )
    alone = ((0, 0), (0, 0))
    found = onednn.convolve(channels[None], kernels[:, :, None], (1, 1), alone, strides)
    return found.reshape(*kernel.shape[:2], b, 1, c).sum(2)
