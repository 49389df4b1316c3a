"""oneDNN, which jaxlib carries for Linux on x86-64 and XLA leaves unused: convolution, product."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl import lowering
from jaxssl.models.windows import for_lax, padded

Padding = Sequence[Sequence[int]]


def takes(*arrays: jax.Array) -> bool:
    """Tell whether what is here takes such arrays, on this machine."""
    fit = all(array.dtype == jnp.float32 and array.size > 0 for array in arrays)
    return fit and lowering.has_onednn()


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int] = (1, 1),
    layout: str = "HWIO",
) -> jax.Array:
    """Convolve on a CPU by oneDNN, the library that PyTorch convolves with there.

    XLA has the call and no way to ask for it, so it is written as XLA would write it (target and
    settings as in openxla's `onednn_convolution.cc`). Its gradient is XLA's, for who differentiates
    twice: `models.convolution` and `models.depthwise` have gradients of their own.

    Args:
      x: float32 [b, h, w, c].
      kernel: float32 [k, k, c / g, o], for g groups of channels; with another layout in its order.
      strides: of height and width.
      padding: before and after, of height and width; cut off where below 0.
      dilation: of the kernel's height and width.
      layout: of the kernel, of which any is taken: oneDNN reads it as it lies, where XLA would take
        a millisecond to turn the kernel of a middling layer.

    Returns:
      float32 [b, h', w', o].
    """
    how = strides, padding, dilation, layout
    result = jax.eval_shape(functools.partial(_xla, how=how), x, kernel)
    # oneDNN's own padding only adds.
    x = padded(x, [[min(side, 0) for side in pads] for pads in padding])
    images = {"dims": 4, "data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}}
    weights = {
        "input_feature_dim": layout.index("I"),
        "output_feature_dim": layout.index("O"),
        "spatial_dims": [layout.index("H"), layout.index("W")],
    }
    settings = {
        "dims": 4,
        "input": images,
        "kernel": {"dims": 4, "filter": weights},
        "output": images,
        "window": {
            "pad_left": [max(pads[0], 0) for pads in padding],
            "pad_right": [max(pads[1], 0) for pads in padding],
            "strides": list(strides),
            "window_dilations": list(dilation),
        },
        "feature_groups": x.shape[3] // kernel.shape[layout.index("I")],
    }
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        result,
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_conv_config": settings}),
        vmap_method="sequential",
    )
    return call(x, kernel)


def by_filter(
    x: jax.Array,
    gradient: jax.Array,
    sides: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> jax.Array:
    """Compute a convolution's gradient by its kernel, itself a convolution by oneDNN.

    Σ over images n and places p of x[n, s p + a - before, c] gradient[n, p, o]: a convolution of
    the channels of x, images that have n channels, with the incoming gradient as a kernel of all
    its places, s apart.

    Args:
      x: float32 [b, h, w, c].
      gradient: float32 [b, h', w', o].
      sides: the kernel's height and width.
      strides: of height and width.
      padding: before and after x, of height and width.

    Returns:
      float32 [k, k, c, o].
    """
    reach = [
        (before, side - 1 + stride * (places - 1) + 1 - have - before)
        for (before, _), side, stride, places, have in zip(
            padding, sides, strides, gradient.shape[1:3], x.shape[1:3], strict=True
        )
    ]
    found = convolve(x.transpose(3, 1, 2, 0), gradient, (1, 1), reach, strides, "IHWO")
    return found.transpose(1, 2, 0, 3)


def _xla(
    x: jax.Array, kernel: jax.Array, how: tuple[Sequence[int], Padding, Sequence[int], str]
) -> Any:
    strides, padding, dilation, layout = how
    kernel = kernel.transpose([layout.index(axis) for axis in "HWIO"])
    x, padding = for_lax(x, kernel, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // kernel.shape[2],
    )


def _forward(x: jax.Array, kernel: jax.Array, *how: Any) -> Any:
    return convolve(x, kernel, *how), (x, kernel)


def _backward(*arguments: Any) -> Any:
    *how, inputs, gradient = arguments
    return jax.vjp(functools.partial(_xla, how=tuple(how)), *inputs)[1](gradient)


convolve.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(
    left: jax.Array, right: jax.Array, turn_left: bool = False, turn_right: bool = False
) -> jax.Array:
    """Multiply two matrices by oneDNN, one of them transposed as it lies, if it is to be.

    Args:
      left: float32 [n, m]; [m, n] to be turned.
      right: float32 [m, k]; [k, m] to be turned.
      turn_left: whether left is transposed.
      turn_right: whether right is.

    Returns:
      float32 [n, k].
    """
    turned = {"transpose_a": turn_left, "transpose_b": turn_right}
    call = jax.ffi.ffi_call(
        "__onednn$matmul",
        jax.eval_shape(
            functools.partial(_xlas_product, turned=(turn_left, turn_right)), left, right
        ),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_matmul_config": turned}),
        vmap_method="sequential",
    )
    return call(left, right)


def _xlas_product(left: jax.Array, right: jax.Array, turned: tuple[bool, bool]) -> jax.Array:
    return (left.T if turned[0] else left) @ (right.T if turned[1] else right)


def _forward_product(left: jax.Array, right: jax.Array, *turned: bool) -> Any:
    return product(left, right, *turned), (left, right)


def _backward_product(*arguments: Any) -> Any:
    *turned, inputs, gradient = arguments
    return jax.vjp(functools.partial(_xlas_product, turned=tuple(turned)), *inputs)[1](gradient)


product.defvjp(_forward_product, _backward_product)


def check() -> None:
    """Try both on small arrays.

    Raises:
      RuntimeError: they compute something else than XLA. Where jaxlib carries calls of these names
        that take other settings, the process ends.
    """
    x = jnp.arange(2 * 5 * 6 * 4, dtype=jnp.float32).reshape(2, 5, 6, 4)
    kernel = jnp.arange(3 * 2 * 2 * 6, dtype=jnp.float32).reshape(3, 2, 2, 6)
    found = []
    for axes in ((0, 1, 2, 3), (0, 1, 3, 2), (2, 0, 1, 3)):
        how = ((2, 1), ((1, 0), (0, 2)), (1, 2), "".join("HWIO"[axis] for axis in axes))
        weights = kernel.transpose(axes)
        forms = (lambda x, w, how=how: convolve(x, w, *how), functools.partial(_xla, how=how))
        found += [jax.jit(form)(x, weights) for form in forms]
    rows = x.reshape(-1, 4)
    for sides in ((True, False), (False, True)):
        other = rows[:, :3] if sides[0] else rows[:7]
        found += [product(rows, other, *sides), _xlas_product(rows, other, sides)]
    for ours, expected in zip(found[::2], found[1::2], strict=True):
        if not jnp.allclose(ours, expected, rtol=1e-5):
            raise RuntimeError(
                f"oneDNN of jaxlib {jax.lib.__version__} computes otherwise than XLA"
            )
