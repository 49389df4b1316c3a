"""BatchNorm folded into the convolution before it: an encoder for inference alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.models.layers import BatchNorm


class Identity(nnx.Module):
    """In the place of a BatchNorm that was folded."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return x."""
        return x


def fold_batch_norm(encoder: Any) -> Any:
    """Make an encoder for inference whose BatchNorms are in the convolutions' weights.

    In evaluation a BatchNorm is a factor and a summand for each channel, s = scale / sqrt(var + ε)
    and bias - s · mean: the convolution before it with weights s · w and that as its bias gives the
    same numbers but for rounding, and the map is read and written once less.

    Folded are the pairs that this package's encoders have, known by their names in a module:
    `convs` and `norms`, `conv1` and `bn1`, `stem_conv` and `stem_norm`, a `Sequential` of both. A
    BatchNorm without such a partner stays.

    Args:
      encoder: any encoder of this package, with its weights; it is not changed.

    Returns:
      A copy in evaluation mode, with outputs equal to 1e-5. Training it is of no use.

    Example:
      >>> from jaxssl.models import ConvNet
      >>> folded = fold_batch_norm(ConvNet(widths=(4, 8), channels=1, rngs=nnx.Rngs(0)))
      >>> [type(norm).__name__ for norm in folded.norms]
      ['Identity', 'Identity']
    """
    folded = nnx.clone(encoder)
    for _, part in list(nnx.iter_modules(folded)):
        for conv, owner, name in list(_pairs(part)):
            norm = owner[name] if isinstance(name, int) else getattr(owner, name, None)
            if isinstance(norm, BatchNorm) and isinstance(conv, nnx.Conv):
                _fold(conv, norm)
                if isinstance(name, int):
                    owner[name] = Identity()
                else:
                    setattr(owner, name, Identity())
    folded.eval()
    return folded


def _pairs(part: nnx.Module) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (convolution, owner of its BatchNorm, the name or the place that it has there)."""
    if isinstance(part, nnx.Sequential):
        yield from ((layer, part.layers, i + 1) for i, layer in enumerate(part.layers[:-1]))
    if hasattr(part, "convs") and hasattr(part, "norms"):
        yield from ((layer, part.norms, i) for i, layer in enumerate(part.convs))
    for name, layer in list(vars(part).items()):
        pair = re.fullmatch(r"(.*)conv(\d*)", name)
        if pair:
            yield layer, part, f"{pair[1]}norm{pair[2]}"
            yield layer, part, f"{pair[1]}bn{pair[2]}"


def _fold(conv: Any, norm: Any) -> None:
    # In NumPy, because jax would compile each of these once for every shape.
    scale, shift, mean, var = (
        np.asarray(v[...]) for v in (norm.scale, norm.bias, norm.mean, norm.var)
    )
    factor = scale / np.sqrt(var + norm.epsilon)
    bias = 0.0 if conv.bias is None else np.asarray(conv.bias[...])
    kind = type(conv.kernel)
    conv.kernel = kind(jnp.asarray(np.asarray(conv.kernel[...]) * factor))
    conv.bias = kind(jnp.asarray(shift + factor * (bias - mean)))
    conv.use_bias = True
