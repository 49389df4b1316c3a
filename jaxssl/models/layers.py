"""What every encoder here is made of: torch's padding, float32 BatchNorm, dropout to switch off.

Whether a network trains or evaluates is part of its graphdef (`model.train()`, `model.eval()`,
`nnx.view(model, use_running_average=True, deterministic=True)`), never an argument of a call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxssl.models.convolution import convolve
from jaxssl.models.depthwise import convolve_depthwise
from jaxssl.models.normalization import normalize_by_batch

# A block's name, and its modules: what an encoder's `blocks_list()` gives, from the images on.
Block = tuple[str, tuple[nnx.Module, ...]]
# Of ImageNet's RGB images in [0, 1]: what torchvision's weights expect to be taken off.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_images(images: jax.Array, channels: int) -> None:
    """Raise `ValueError` unless images are [b, h, w, channels]: flax takes a single image too."""
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(
            f"images must be [b, h, w, c] with c = {channels}, got {list(images.shape)}"
        )


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Compute (images - mean) / std, with a number each for every channel of [b, h, w, c]."""
    mean_of, std_of = (
        jnp.array(numbers, jnp.float32).reshape(1, 1, 1, -1) for numbers in (mean, std)
    )
    return (images - mean_of) / std_of


def unit_rows(x: jax.Array) -> jax.Array:
    """Scale rows [b, d] to length 1; a row of zeros stays, and its gradient is finite."""
    return x * lax.rsqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-12)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Draw normal numbers of variance 2 / fan-out (He et al. 2015): torchvision's for convolutions.

    As `nnx.initializers.he_normal`, but drawn as one flat array: XLA takes 3 to 8 times as long to
    compile the same draw in four dimensions, which made building a ResNet slow. Its length is
    rounded up to a power of two, which leaves the first numbers the same: a dozen lengths are
    compiled instead of one for every shape.
    """
    *window, _, features = shape
    deviation = math.sqrt(2 / (math.prod(window) * features))
    size = math.prod(shape)
    numbers = jax.random.normal(key, (1 << (size - 1).bit_length(),), dtype)
    if isinstance(numbers, jax.core.Tracer):
        return deviation * numbers[:size].reshape(shape)
    first = np.asarray(numbers)[:size].reshape(shape)
    return jnp.asarray(first * first.dtype.type(deviation))


def conv(
    in_features: int,
    out_features: int,
    kernel_size: int,
    stride: int = 1,
    *,
    same: bool = False,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Make a convolution without bias, padded by k // 2 on every side as torch does.

    With `same` as TensorFlow does, which pads (0, 1) at stride 2 and an even size: other features
    from the same weights.
    """
    layer = nnx.Conv(
        in_features,
        out_features,
        (kernel_size, kernel_size),
        stride,
        padding="SAME" if same else kernel_size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=he_normal,
        rngs=rngs,
    )
    layer.conv_general_dilated = convolve
    return layer


def depthwise_conv(
    features: int, kernel_size: int, stride: int = 1, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Conv:
    """Make a convolution of each channel by itself, without bias, padded as TensorFlow does."""

    def he_normal_by_channel(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return math.sqrt(features) * he_normal(key, shape, dtype)

    layer = nnx.Conv(
        features,
        features,
        (kernel_size, kernel_size),
        stride,
        padding="SAME",
        feature_group_count=features,
        use_bias=False,
        dtype=dtype,
        kernel_init=he_normal_by_channel,
        rngs=rngs,
    )
    layer.conv_general_dilated = convolve_depthwise
    return layer


def normalized_conv(conv: nnx.Conv, norm: BatchNorm, x: jax.Array) -> jax.Array:
    """Compute norm(conv(x)); where the statistics are kept, as one convolution.

    With m and v that no batch moves, norm(conv(x)) is the convolution with kernel s w and bias
    b + s (a - m), of s = scale / sqrt(v + ε) and conv's own bias a, if it has one: the same
    function of w, scale and b, and so the same gradients but for rounding. The factor meets the
    kernel and not the map, which is read and written once less.

    A layer that is listened to (`layer_output`, `describe`) has a class of its own, and is called.
    """
    if not (type(norm) is BatchNorm and norm.frozen and type(conv) is nnx.Conv):
        return norm(conv(x))
    assert norm.scale is not None  # BatchNorm here has both
    assert norm.bias is not None
    factor = norm.scale[...] * lax.rsqrt(norm.var[...] + norm.epsilon)
    joined = nnx.clone(conv)
    kernel = conv.kernel[...]
    # Not as [1, 1, 1, o]: of a 1x1 kernel JAX would sum the factor's gradient over one axis, beside
    # two of length 1, for which XLA's CPU compiler makes a sum that takes sixty times as long.
    joined.kernel = nnx.Param(kernel * lax.broadcast_in_dim(factor, kernel.shape, (3,)))
    shift = -norm.mean[...] if conv.bias is None else conv.bias[...] - norm.mean[...]
    joined.bias = nnx.Param(norm.bias[...] + shift * factor)
    joined.use_bias = True
    return joined(x)


class BatchNorm(nnx.BatchNorm):
    """BatchNorm over all axes but the last; statistics in float32, the result in the input's type.

    Under `jax.jit` on an array sharded over the batch the statistics are the global batch's.
    `momentum=0.9` is torch's 0.1.

    Args:
      features: channels.
      epsilon: added to the variance.
      scale_init: initializer of the scale (zeros makes a residual branch start as nothing).
      rngs: as every layer takes; unused.
    """

    def __init__(
        self,
        features: int,
        *,
        epsilon: float = 1e-5,
        scale_init: nnx.Initializer = nnx.initializers.ones,
        rngs: nnx.Rngs,
    ):
        super().__init__(features, momentum=0.9, epsilon=epsilon, scale_init=scale_init, rngs=rngs)
        self.frozen = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., features]; float32 parameters make bfloat16 maps float32 inside."""
        running = self.frozen or self.use_running_average
        if running or self.axis_name is not None:
            return super().__call__(x, use_running_average=running).astype(x.dtype)
        assert self.scale is not None  # BatchNorm here has both
        assert self.bias is not None
        y, mean, variance = normalize_by_batch(x, self.scale[...], self.bias[...], self.epsilon)
        kept = self.momentum
        self.mean[...] = kept * self.mean[...] + (1 - kept) * mean
        self.var[...] = kept * self.var[...] + (1 - kept) * variance
        return y


class Dropout(nnx.Dropout):
    """Dropout that `freeze` can switch off for good.

    Args:
      rate: probability of dropping, in [0, 1); what is kept is divided by 1 - rate.
      broadcast_dims: axes that share a choice. (1, 2, 3) of [b, h, w, c] drops whole images:
        stochastic depth (Huang et al. 2016), torchvision's "row" mode.
      rngs: its stream `dropout` makes the choices.
    """

    def __init__(self, rate: float, *, broadcast_dims: Sequence[int] = (), rngs: nnx.Rngs):
        super().__init__(rate, broadcast_dims=broadcast_dims, rngs=rngs)
        self.frozen = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """Drop from an array of any shape."""
        return super().__call__(x, deterministic=self.frozen or self.deterministic)
