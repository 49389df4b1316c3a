"""The small encoder for a CPU: four strided convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxssl.models.layers import BatchNorm, conv


class ConvNet(nnx.Module):
    """3x3 convolutions of stride 2, each with BatchNorm and ReLU, then the global mean.

    Args:
      widths: channels of each convolution; the last is the size of h.
      channels: of the images, 1 or 3.
      dtype: computes in it; parameters, statistics and h are float32.
      rngs: source of the parameters.

    Example:
      >>> encoder = ConvNet(widths=(8, 16), channels=1, rngs=nnx.Rngs(0))
      >>> encoder.features, encoder.min_size
      (16, 4)
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        channels: int,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        ins = (channels, *widths[:-1])
        self.convs = nnx.List(
            conv(i, o, 3, 2, dtype=dtype, rngs=rngs) for i, o in zip(ins, widths, strict=True)
        )
        for layer in self.convs[1:]:
            layer.conv_general_dilated = _convolve
        self.norms = nnx.List(BatchNorm(width, rngs=rngs) for width in widths)
        self.features = widths[-1]
        self.min_size = 2 ** len(widths)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images float32 [b, h, w, c] in [0, 1] -> representations h float32 [b, features]."""
        x = images
        for convolution, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(convolution(x)))
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
    **options,
) -> jax.Array:
    """`lax.conv_general_dilated`, on a CPU by another road.

    XLA's gradient of a strided convolution is slow there. Forward and backward of this network on
    512 grey images, two cores, all convolutions XLA's against this form for all but the first
    (jax 0.10.2): 0.79 s against 0.41 s at 48 px, 0.146 s against 0.040 s at 16 px.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_convolve_by_matmul, strides=strides, padding=padding),
        default=partial(
            lax.conv_general_dilated, window_strides=strides, padding=padding, **options
        ),
    )


def _convolve_by_matmul(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """The same sums: every window [k k c] as a row, times the kernel as a matrix."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    k_h, k_w, _, features = kernel.shape
    stops = [n - k + 1 for n, k in zip(x.shape[1:3], (k_h, k_w), strict=True)]
    windows = [
        x[:, i : i + stops[0] : strides[0], j : j + stops[1] : strides[1]]
        for i in range(k_h)
        for j in range(k_w)
    ]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, features)
