from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from jaxssl import lowering


@pytest.fixture
def onednn():
    """Lets oneDNN be called; the tests' programs are kept on disk, where it is not."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        if not lowering.has_onednn():
            pytest.skip("jaxlib carries oneDNN for Linux on x86-64")
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


@pytest.fixture(params=["its own form", "oneDNN"])
def either_form(request):
    """Runs a test twice: as where there is no oneDNN, and with it."""
    if request.param == "oneDNN":
        request.getfixturevalue("onednn")


@pytest.fixture
def build() -> Callable[[Callable[[], nnx.Module]], nnx.Module]:
    """Makes a model with NumPy's numbers: the models' own initialisers compile once a shape."""

    def fill(make: Callable[[], nnx.Module], seed: int = 0) -> nnx.Module:
        random = np.random.default_rng(seed)

        def numbers(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.key(seed)
            if jax.dtypes.issubdtype(leaf.dtype, np.unsignedinteger):
                return jax.numpy.zeros(leaf.shape, leaf.dtype)
            if len(leaf.shape) == 1:  # BatchNorm's four, biases
                return jax.numpy.asarray(random.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
            scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
            return jax.numpy.asarray(random.normal(scale=scale, size=leaf.shape), leaf.dtype)

        graphdef, state = nnx.split(nnx.eval_shape(make))
        return nnx.merge(graphdef, jax.tree.map(numbers, state))

    return fill
