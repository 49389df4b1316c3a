"""Depthwise convolution."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax


def convolve_depthwise(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """XLA's."""
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)
