"""Products of a linear layer that are fast on a CPU too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl import lowering
from jaxssl.models import onednn


@lowering.in_reverse_alone
def dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """Multiply as `lax.dot_general` does, on a CPU by oneDNN where it can.

    It is for `nnx.Linear`: rows [..., c] times a kernel [c, o]. All else is left to lax, and so is
    all on a GPU or TPU. Several CPU devices are as in `convolve`.

    There is no forward-mode derivative (`jax.jvp`, `jacfwd`, `hessian`): take `jacrev(grad(f))`.

    Args:
      x: [..., c].
      kernel: [c, o].
      dimensions: which are summed over and which are batches, as lax takes them.
      **options: the others of `lax.dot_general`; with any, it is left to lax.

    Returns:
      [..., o].
    """
    plain = kernel.ndim == 2 and dimensions == (((x.ndim - 1,), (0,)), ((), ()))
    plain = plain and all(option is None for option in options.values())

    def otherwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.dot_general(x, kernel, dimensions, **options)

    if not (plain and onednn.takes(x, kernel)):
        return otherwise(x, kernel)
    return lowering.device_by_device(_of_rows, otherwise, x, kernel)


def product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply rows [n, c], all of this device, with a kernel [c, o]; by oneDNN where it can."""
    return _product(rows, kernel) if onednn.takes(rows, kernel) else rows @ kernel


def outer_sum(left: jax.Array, right: jax.Array) -> jax.Array:
    """Sum the outer products of rows [n, a] and [n, b], in float32; by oneDNN where it can."""
    if onednn.takes(left, right):
        return onednn.product(left, right, True)
    return jnp.matmul(left.T, right, preferred_element_type=jnp.float32)


def _of_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    y = _product(x.reshape(-1, x.shape[-1]), kernel)
    return y.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(x, kernel, cpu=onednn.product, default=lambda a, b: a @ b)


def _forward(x: jax.Array, kernel: jax.Array) -> Any:
    return _product(x, kernel), (x, kernel)


def _backward(inputs: Any, gradient: jax.Array) -> Any:
    x, kernel = inputs
    return lax.platform_dependent(
        x,
        kernel,
        gradient,
        cpu=lambda x, kernel, gradient: (
            onednn.product(gradient, kernel, False, True),
            onednn.product(x, gradient, True),
        ),
        default=lambda x, kernel, gradient: (gradient @ kernel.T, x.T @ gradient),
    )


_product.defvjp(_forward, _backward)
