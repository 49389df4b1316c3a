import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.models.layers import BatchNorm, conv, he_normal


def test_batchnorm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(40, 0.1, (64, 3)), jnp.bfloat16)
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.05)
    assert norm.mean.dtype == norm.var.dtype == jnp.float32


def test_convolutions_start_as_torchvisions():
    kernel = conv(5, 40, 3, dtype=jnp.float32, rngs=nnx.Rngs(0)).kernel[...]
    ours = he_normal(jax.random.key(3), (3, 3, 5, 40), jnp.float32)
    flax = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    np.testing.assert_allclose(ours, flax(jax.random.key(3), (3, 3, 5, 40)), rtol=1e-6)
    traced = jax.jit(he_normal, static_argnums=(1, 2))(jax.random.key(3), (3, 3, 5, 40), "float32")
    np.testing.assert_array_equal(ours, traced)
    assert abs(kernel.std() / (2 / (9 * 40)) ** 0.5 - 1) < 0.05
