"""What a caller may pass, made into arrays; and what every loss refuses, with the value it got."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp

Precision = Literal["highest", "high", "bfloat16", "float64"]
Reduction = Literal["mean", "sum", "none"]


def as_array(name: str, value: Any) -> jax.Array:
    """`value` as an array: JAX's and NumPy's as they are; lists, flax's Params, torch's tensors.

    NumPy's stay NumPy's, of 64 bits as well, so that what is lost on the way to JAX can be refused;
    to a type checker they are JAX's, which is what they are used as.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        if hasattr(value, "__jax_array__"):
            return jnp.asarray(value)
        array = value.__array__() if hasattr(value, "__array__") else jnp.asarray(value)
        return cast(jax.Array, array)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error


def as_real(name: str, value: Any) -> jax.Array:
    """`as_array` of real numbers."""
    array = as_array(name, value)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise ValueError(f"{name} must be real numbers, got {array.dtype}")
    return array


def as_rows(name: str, value: Any, shape: str = "[n, d]") -> jax.Array:
    """`as_real` with two dimensions, neither empty; `shape` is how the loss names them."""
    array = as_real(name, value)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be {shape} and not empty, got {array.shape}")
    return array


def as_scalar(name: str, value: Any) -> Any:
    """A number, an array of one, or a flax Param of one; a Python number stays one."""
    if isinstance(value, int | float):
        return value
    array = as_real(name, value)
    if array.size != 1:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}")
    if array.ndim == 0 or isinstance(array, jax.core.Tracer):
        return array.reshape(()) if array.ndim else array
    with jax.ensure_compile_time_eval():  # it is to stay a value that can be looked at
        return array.reshape(())


def as_labels(name: str, value: Any, n: int) -> jax.Array:
    """Integers [n] that keep their values in the width that JAX has."""
    labels = as_array(name, value)
    if labels.shape != (n,):
        raise ValueError(f"{name} must be [n] with n = {n}, got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    kept = jnp.iinfo(jax.dtypes.canonicalize_dtype(labels.dtype))
    if labels.dtype.itemsize * 8 > kept.bits and n:
        low, high = int(labels.min()), int(labels.max())  # NumPy's: JAX has no such integers
        if low < int(kept.min) or high > int(kept.max):
            raise ValueError(
                f"{name} must fit {kept.bits} bits while jax_enable_x64 is off, got {low} to "
                f"{high}: pass numpy.unique({name}, return_inverse=True)[1]"
            )
    return labels


def as_mask(name: str, value: Any, n: int) -> Any:
    """None, or booleans [n]."""
    if value is None:
        return None
    mask = as_array(name, value)
    if mask.shape != (n,) or mask.dtype != jnp.bool_:
        raise ValueError(f"{name} must be booleans [{n}], got {mask.dtype} {mask.shape}")
    return mask


def as_weights(name: str, value: Any, n: int) -> Any:
    """None, or real numbers [n], none below 0."""
    if value is None:
        return None
    weights = as_real(name, value)
    if weights.shape != (n,):
        raise ValueError(f"{name} must be [{n}], got {weights.shape}")
    if not holds(lambda w: (w >= 0).all(), weights):
        raise ValueError(f"{name} must be at least 0, got {weights.min()}")
    return weights


def as_positive(name: str, value: Any) -> Any:
    """`as_scalar` in (0, inf); a traced value cannot be looked at and passes."""
    value = as_scalar(name, value)
    if not holds(lambda v: (v > 0) & (v < math.inf), value):
        raise ValueError(f"{name} must lie in (0, inf), got {value}")
    return value


def as_margin(value: Any, high: float = math.inf) -> Any:
    """`as_scalar` in [0, high); a traced value cannot be looked at and passes."""
    value = as_scalar("margin", value)
    if not holds(lambda v: (v >= 0) & (v < high), value):
        raise ValueError(f"margin must lie in [0, {high:.4g}), got {value}")
    return value


def as_fraction(name: str, value: Any) -> Any:
    """`as_scalar` in [0, 1]; a traced value cannot be looked at and passes."""
    value = as_scalar(name, value)
    if not holds(lambda v: (v >= 0) & (v <= 1), value):
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return value


def holds(what: Callable[[Any], Any], value: Any) -> bool:
    """Whether `what(value)`; True of a traced value, which cannot be looked at."""
    if isinstance(value, jax.core.Tracer):
        return True
    # Inside jit, a comparison with an array from outside would be traced.
    with jax.ensure_compile_time_eval():
        return bool(what(value))


def on_host(array: Any) -> Any:
    """An array that can be looked at, as NumPy's; as it is where other processes have parts of it.

    On a mesh of Explicit axes not every operation that looks would say how its result is spread.
    """
    if not isinstance(array, jax.Array):
        return array
    return jax.device_get(array) if array.is_fully_addressable else array


def check_options(
    reduction: str = "mean", precision: str = "highest", tile_size: int | None = None
) -> None:
    """Raise unless these are what all losses know under these names."""
    one_of("reduction", reduction, ("mean", "sum", "none"))
    one_of("precision", precision, ("highest", "high", "bfloat16", "float64"))
    if precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("precision 'float64' needs jax_enable_x64 to be on")
    whole = isinstance(tile_size, Integral) and not isinstance(tile_size, bool)
    if tile_size is not None and not (whole and tile_size >= 1):
        raise ValueError(f"tile_size must be None or an integer >= 1, got {tile_size!r}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the `known` words."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_labelled(embeddings: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Both as arrays: `embeddings` [n, d] and `labels` [n] integers, n and d at least 1."""
    embeddings, labels = as_real("embeddings", embeddings), as_array("labels", labels)
    if embeddings.ndim != 2 or 0 in embeddings.shape or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be [n, d] and labels [n], none empty, "
            f"got {embeddings.shape} and {labels.shape}"
        )
    return embeddings, as_labels("labels", labels, len(embeddings))
