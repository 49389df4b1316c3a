"""What every loss refuses, with the value it got."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp


def holds(what: Callable[[Any], Any], value: Any) -> bool:
    """Whether `what(value)`; True of a traced value, which cannot be looked at."""
    if isinstance(value, jax.core.Tracer):
        return True
    # Inside jit, a comparison with an array from outside would be traced.
    with jax.ensure_compile_time_eval():
        return bool(what(value))


def check_positive(name: str, value: float | jax.Array) -> None:
    """Raise unless 0 < value < inf; a traced value cannot be looked at and passes."""
    if not holds(lambda v: (v > 0) & (v < math.inf), value):
        raise ValueError(f"{name} must lie in (0, inf), got {value}")


def check_margin(value: float | jax.Array, high: float) -> None:
    """Raise unless 0 <= value < high; a traced value cannot be looked at and passes."""
    if not holds(lambda v: (v >= 0) & (v < high), value):
        raise ValueError(f"margin must lie in [0, {high:.4g}), got {value}")


def check_labelled(embeddings: jax.Array, labels: jax.Array) -> None:
    """Raise unless `embeddings` are [n, d] and `labels` [n] integers, n and d at least 1."""
    if embeddings.ndim != 2 or 0 in embeddings.shape or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be [n, d] and labels [n], none empty, "
            f"got {embeddings.shape} and {labels.shape}"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")


def check_tile_size(tile_size: int | None) -> None:
    """Raise unless `tile_size` is None or a whole number above 0."""
    whole = isinstance(tile_size, Integral) and not isinstance(tile_size, bool)
    if tile_size is not None and not (whole and tile_size >= 1):
        raise ValueError(f"tile_size must be None or an integer >= 1, got {tile_size!r}")
